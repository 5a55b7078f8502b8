"""Backmapping of coarse-grained condensed-phase structures with a generative model."""

__version__ = "0.1.0"

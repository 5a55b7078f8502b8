"""Placing the atoms: order, colouring, first pass, Gibbs sweeps, candidates (II B, II D 3)."""

from deepbackmap.sampling.options import SamplingOptions
from deepbackmap.sampling.sampler import Sampler

__all__ = ["Sampler", "SamplingOptions"]

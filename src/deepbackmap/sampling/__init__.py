"""Placing the atoms: order, colouring, first pass, Gibbs sweeps, candidates (II B, II D 3)."""

from deepbackmap.sampling.options import SamplingOptions
from deepbackmap.sampling.sampler import Sampler
from deepbackmap.sampling.stereo import Handedness

__all__ = ["Handedness", "Sampler", "SamplingOptions"]

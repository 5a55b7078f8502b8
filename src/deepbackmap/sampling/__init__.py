"""Placing the atoms: order, colours, first pass, Gibbs sweeps, candidates (II B, II D 3), flows."""

from __future__ import annotations

import torch

from deepbackmap.mapping import SystemMapping
from deepbackmap.model import Model
from deepbackmap.sampling.flow import PointSampler
from deepbackmap.sampling.options import SamplingOptions
from deepbackmap.sampling.sampler import Sampler
from deepbackmap.sampling.stereo import Handedness


def open_sampler(
    model: Model,
    mapping: SystemMapping,
    options: SamplingOptions,
    device: torch.device | str = "cpu",
    handedness: Handedness | None = None,
) -> Sampler | PointSampler:
    """The sampler of a model's representation.

    Raises:
        InputError: the model does not know a type of the topology, or cannot do what is asked.
    """
    kind = PointSampler if model.spec.representation == "points" else Sampler
    return kind(model, mapping, options, device, handedness)


__all__ = ["Handedness", "PointSampler", "Sampler", "SamplingOptions", "open_sampler"]

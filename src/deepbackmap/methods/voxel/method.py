"""The voxel method as training and sampling know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import nn

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.base import Learner, Method, Model, Sampler
from deepbackmap.methods.options import SamplingOptions, TrainingOptions
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.fresh import fresh_generator
from deepbackmap.methods.voxel.options import (
    OPTIONS,
    VoxelModelOptions,
    VoxelSamplingOptions,
    VoxelTrainingOptions,
)
from deepbackmap.methods.voxel.sampler import VoxelSampler

if TYPE_CHECKING:
    from lightning_fabric import Fabric

AXIS_DEFAULTS = {"candidates": 8, "choice": "lowest", "block_relaxation": 0}
"""Sampling of a new model whose frame leaves the angle about z free: the paper's (II D 3)."""


class VoxelMethod:
    """Densities on a grid, atom by atom."""

    options = OPTIONS

    def completed(self, spec: ModelSpec, systems: Sequence[TrainingSystem]) -> ModelSpec:
        """Nothing is learned from the data before training; a free axis brings an ensemble."""
        assert isinstance(spec.options, VoxelModelOptions)
        free = spec.options.voxel.frame == "axis"
        return replace(spec, defaults=dict(AXIS_DEFAULTS)) if free else spec

    def generator(self, spec: ModelSpec) -> nn.Module:
        """A generator with fresh weights."""
        return fresh_generator(spec)

    def learner(self, fabric: Fabric, spec: ModelSpec, options: TrainingOptions) -> Learner:
        """A learner with a fresh generator."""
        assert isinstance(options, VoxelTrainingOptions)
        # Here, because it brings Lightning, which takes seconds, and nobody samples with it.
        found = import_module("deepbackmap.methods.voxel.learner")
        learner: Learner = found.VoxelLearner(fabric, spec, options)
        return learner

    def sampler(
        self,
        model: Model,
        mapping: SystemMapping,
        options: SamplingOptions,
        device: torch.device,
        handedness: Handedness | None,
    ) -> Sampler:
        """A sampler of a model on a system."""
        assert isinstance(options, VoxelSamplingOptions)
        return VoxelSampler(model, mapping, options, device, handedness)


METHOD: Method = VoxelMethod()

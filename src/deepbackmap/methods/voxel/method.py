"""The voxel method as training and sampling know it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from torch import nn

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.base import Learner, Method, Model, Sampler
from deepbackmap.methods.options import SamplingOptions, TrainingOptions
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.fresh import fresh_generator
from deepbackmap.methods.voxel.learner import VoxelLearner
from deepbackmap.methods.voxel.options import OPTIONS, VoxelSamplingOptions, VoxelTrainingOptions
from deepbackmap.methods.voxel.sampler import VoxelSampler


class VoxelMethod:
    """Densities on a grid, atom by atom."""

    options = OPTIONS

    def completed(self, spec: ModelSpec, systems: Sequence[TrainingSystem]) -> ModelSpec:
        """Nothing is learned from the data before training."""
        return spec

    def generator(self, spec: ModelSpec) -> nn.Module:
        """A generator with fresh weights."""
        return fresh_generator(spec)

    def learner(self, fabric: Fabric, spec: ModelSpec, options: TrainingOptions) -> Learner:
        """A learner with a fresh generator."""
        assert isinstance(options, VoxelTrainingOptions)
        return VoxelLearner(fabric, spec, options)

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

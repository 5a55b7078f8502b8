"""Networks of a voxel model with fresh weights."""

from __future__ import annotations

from torch import nn

from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.grid import condition_channels
from deepbackmap.methods.voxel.networks import build_critic, build_generator
from deepbackmap.methods.voxel.options import VoxelModelOptions


def _channels(spec: ModelSpec) -> int:
    assert isinstance(spec.options, VoxelModelOptions)
    return condition_channels(spec.options.voxel, len(spec.atom_types), len(spec.bead_types))


def fresh_generator(spec: ModelSpec) -> nn.Module:
    """A generator for what a specification says."""
    assert isinstance(spec.options, VoxelModelOptions)
    return build_generator(_channels(spec), len(spec.atom_types), spec.options.network)


def fresh_critic(spec: ModelSpec) -> nn.Module:
    """The critic beside it: it sees the candidate in the channel of its type as well."""
    assert isinstance(spec.options, VoxelModelOptions)
    return build_critic(_channels(spec) + len(spec.atom_types), spec.options.network)

"""Networks of a voxel model with fresh weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.grid import condition_channels, gaussian_basis
from deepbackmap.methods.voxel.networks import build_critic, build_generator
from deepbackmap.methods.voxel.options import VoxelModelOptions, VoxelOptions


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


def start_gaussian(generator: nn.Module, options: VoxelOptions) -> None:
    """Move the output's bias so that a density of equal voxels sums to what the Gaussian of an
    atom at the centre sums to: fresh networks say about a half everywhere, fifty times too much.
    """
    mean = float(gaussian_basis(torch.zeros(3), options).mean())
    leave = generator.leave
    assert isinstance(leave, nn.Conv3d) and leave.bias is not None
    with torch.no_grad():
        leave.bias.fill_(math.log(mean / (1.0 - mean)))

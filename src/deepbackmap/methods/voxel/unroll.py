"""The recurrent unrolling of a sequence: each atom conditional on those before it (II D)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepbackmap.methods.voxel.environment import Environment
from deepbackmap.methods.voxel.grid import VoxelCondition, collapse
from deepbackmap.methods.voxel.options import VoxelOptions


def place_sequence(
    generator: nn.Module,
    condition: VoxelCondition,
    env: Environment,
    noise: Float[Tensor, "B T Z"],
    atom_types: int,
    options: VoxelOptions,
) -> tuple[list[Float[Tensor, "B v3"]], Float[Tensor, "B T 3"]]:
    """Generate the atoms of a batch of sequences slot by slot.

    A generated density enters the condition of the atoms after it as it is, so that gradients
    run through the whole sequence.

    Returns:
        Densities by slot, and the positions they collapse to (Eq. 8) in local frames, nm.
    """
    kinds = nn.functional.one_hot(env.target_type, atom_types).to(torch.float32)
    densities: list[Tensor] = []
    for slot in range(env.targets.shape[1]):
        seen = condition.at(slot, densities)
        densities.append(generator(seen, noise[:, slot], kinds[:, slot]))
    return densities, collapse(torch.stack(densities, dim=1), options)

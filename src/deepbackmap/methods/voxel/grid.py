"""Gaussian densities of a local environment on a cubic grid, and back to coordinates (II C)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deepbackmap.blocks.plan import ROLES
from deepbackmap.methods.voxel.environment import Environment, role_features
from deepbackmap.methods.voxel.options import VoxelOptions


def condition_channels(options: VoxelOptions, atom_types: int, bead_types: int) -> int:
    """Channels of the condition: roles x atom types, bead types, and the extra one."""
    return len(ROLES) * atom_types + bead_types + int(options.same_molecule_beads)


def grid_axis(options: VoxelOptions, device: torch.device | None = None) -> Float[Tensor, "v"]:
    """Voxel centres along one axis, in nm."""
    n = options.voxels
    step = options.edge / n
    return (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2) * step


def gaussian_basis(
    points: Float[Tensor, "... 3"], options: VoxelOptions
) -> Float[Tensor, "... v3"]:
    """Density of one atom at each point, flattened over the grid (x slowest).

    The Gaussian is a product of three one-dimensional ones, so that only 3 v exponentials are
    needed for v^3 voxels.
    """
    axis = grid_axis(options, points.device)
    g = torch.exp(-(points[..., None] - axis).square() / (2 * options.width**2))  # ... 3 v
    x, y, z = g[..., 0, :], g[..., 1, :], g[..., 2, :]
    yz = (y[..., :, None] * z[..., None, :]).flatten(-2)
    return (x[..., :, None] * yz[..., None, :]).flatten(-2)


def collapse(density: Float[Tensor, "... v3"], options: VoxelOptions) -> Float[Tensor, "... 3"]:
    """Mean position of a density in nm (Eq. 8, divided by the total so that it is a mean)."""
    axis = grid_axis(options, density.device)
    n = options.voxels
    rho = density.unflatten(-1, (n, n, n))
    total = rho.sum((-3, -2, -1)) + 1e-12
    moments = [(rho.sum(dims) * axis).sum(-1) for dims in ((-2, -1), (-3, -1), (-3, -2))]
    return torch.stack(moments, dim=-1) / total[..., None]


def atom_features(env: Environment, atom_types: int) -> Float[Tensor, "B T C N"]:
    """Channel membership of every environment atom for every target."""
    t = env.targets.shape[1]
    same = env.atom_same[:, None].expand(-1, t, -1)
    valid = env.atom_valid[:, None].expand(-1, t, -1)
    roles = role_features(env.atom_bits, same, valid).permute(0, 1, 3, 2)  # B T R N
    kinds = torch.nn.functional.one_hot(env.atom_type, atom_types).to(roles.dtype)  # B N A
    return (roles[:, :, :, None] * kinds.transpose(1, 2)[:, None, None]).flatten(2, 3)


def block_features(env: Environment, atom_types: int) -> Float[Tensor, "B T C T"]:
    """Channel membership of the atoms of the block itself for every target (never of itself)."""
    b, t = env.targets.shape
    valid = env.target_valid[:, None].expand(b, t, t) & ~torch.eye(
        t, dtype=torch.bool, device=env.targets.device
    )
    roles = role_features(env.target_bits, torch.ones_like(valid), valid).permute(0, 1, 3, 2)
    kinds = torch.nn.functional.one_hot(env.target_type, atom_types).to(roles.dtype)
    return (roles[:, :, :, None] * kinds.transpose(1, 2)[:, None, None]).flatten(2, 3)


def bead_density(
    env: Environment, bead_types: int, options: VoxelOptions
) -> Float[Tensor, "B C v3"]:
    """Densities of the visible beads by type (and of the target's own molecule's)."""
    kinds = torch.nn.functional.one_hot(env.bead_type, bead_types).to(torch.float32)
    columns = [kinds * env.bead_valid[..., None]]
    if options.same_molecule_beads:
        columns.append((env.bead_valid & env.bead_same)[..., None].to(torch.float32))
    features = torch.cat(columns, dim=-1).transpose(1, 2)
    return features @ gaussian_basis(env.beads, options)


class VoxelCondition:
    """The condition of each target of a batch, slot by slot.

    The part that stays (environment atoms and beads) is computed once for all targets by one
    matrix product; the atoms of the block enter as densities, those already generated with the
    generator's own density (II C), those still to come with their old position, or not at all in
    a first pass.
    """

    def __init__(
        self, env: Environment, atom_types: int, bead_types: int, options: VoxelOptions
    ) -> None:
        b, t = env.targets.shape
        basis = gaussian_basis(env.atoms, options)  # B N V
        features = atom_features(env, atom_types)
        c = features.shape[2]
        fixed = (features.reshape(b, t * c, -1) @ basis).reshape(b, t, c, -1)
        beads = bead_density(env, bead_types, options)
        self._fixed = fixed
        self._beads = beads
        self._block_features = block_features(env, atom_types)  # B T C T
        visible = torch.zeros_like(env.own[..., 0]) if env.stage.first else env.target_valid
        self._own = gaussian_basis(env.own, options) * visible[..., None]  # B T V
        self._grid = (options.voxels,) * 3

    def at(self, slot: int, generated: list[Float[Tensor, "B v3"]]) -> Float[Tensor, "B C v v v"]:
        """Condition of target ``slot`` after the targets before it were generated."""
        done = [g[:, None] for g in generated]
        block = torch.cat([*done, self._own[:, slot:]], dim=1)  # the target itself has weight 0
        atoms = self._fixed[:, slot] + self._block_features[:, slot] @ block
        return torch.cat([atoms, self._beads], dim=1).unflatten(-1, self._grid)

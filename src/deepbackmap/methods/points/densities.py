"""Densities around an atom: numbers of neighbours by class and distance, and vectors to them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.methods.points.options import PointOptions
from deepbackmap.methods.points.pairs import AtomPairs

ATOMS_AT_ONCE = 512
"""Of which densities are summed together on a CPU."""

TABULATED = 4096
"""Distances at which radial functions are tabulated; a distance takes the nearest."""


def radial_table(options: PointOptions, device: torch.device) -> Float[Tensor, "d k"]:
    """Gaussians from 0.15 nm to the cut-off, smoothly zero there; the last row is zero."""
    distance = torch.linspace(0.0, options.cutoff, TABULATED, device=device)[:, None]
    centres = torch.linspace(0.15, options.cutoff, options.radial, device=device)
    spacing = (options.cutoff - 0.15) / max(options.radial - 1, 1)
    bumps = torch.exp(-0.5 * ((distance - centres) / (0.8 * spacing)).square())
    return bumps * (1.0 - (distance / options.cutoff).square()).clamp_min(0.0).sqrt()


def densities(
    positions: Float[Tensor, "na1 3"],
    own: Float[Tensor, "b s 3"],
    atoms: Int64[Tensor, "b s"],
    rotation: Float[Tensor, "b 3 3"],
    pairs: AtomPairs,
    table: Float[Tensor, "d k"],
    cutoff: float,
    atom_types: int,
) -> Float[Tensor, "b s f 4"]:
    """Densities around the atoms of some blocks, vectors in the blocks' frames.

    Args:
        positions: of all atoms relative to their beads, laboratory axes, with a last row.
        own: of the blocks' atoms, in the same way.
        atoms: of the blocks; the index behind the last atom: none, whose densities are zero.
        rotation: of the blocks' frames.
        pairs: who is near whom.
        table: ``radial_table``.
        cutoff: of the table, nm.
        atom_types: how many there are.
    """
    b, s = atoms.shape
    flat, mine = atoms.reshape(-1), own.reshape(-1, 3)
    count = pairs.count[flat]
    # Atoms of like many neighbours together: little padding, and pieces that stay in the cache.
    order = count.argsort(descending=True)
    order = order[: int((count > 0).sum())]
    classes = torch.eye(2 * atom_types, device=positions.device)
    width = 4 * 2 * atom_types
    summed = positions.new_zeros(b * s, table.shape[1], width)
    for rows in order.split(ATOMS_AT_ONCE if positions.device.type == "cpu" else len(flat) or 1):
        found = flat[rows]
        other, between, kind = pairs.of(found, int(count[rows[0]]))
        n, w = other.shape
        vector = positions.index_select(0, other.reshape(-1)).view(n, w, 3)
        vector = vector - mine[rows][:, None] + between
        squared = vector.square().sum(-1, keepdim=True)
        inverse = squared.clamp_min(1e-8).rsqrt()
        place = (squared * inverse).mul_((len(table) - 1) / cutoff).clamp_max_(len(table) - 1)
        radial = table.index_select(0, place.to(torch.int32).reshape(-1)).view(n, w, -1)
        four = torch.cat([torch.ones_like(inverse), vector * inverse], dim=-1)
        member = classes.index_select(0, kind.reshape(-1).to(torch.int32))
        weighted = (four[..., None] * member.view(n, w, 1, -1)).flatten(2)  # n w 4c
        summed[rows] = radial.transpose(1, 2) @ weighted
    summed = summed.view(b, s, -1, 4, 2 * atom_types)
    local = rotation[:, None, None] @ summed[..., 1:, :]
    return torch.cat([summed[..., 0, :, None], local.transpose(-1, -2)], dim=-1).flatten(2, 3)

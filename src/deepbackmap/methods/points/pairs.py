"""Which atoms of other blocks may come near an atom: fixed by the beads alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int32, Int64, UInt8
from torch import Tensor

from deepbackmap.blocks.index import BeadFrames, Blocks
from deepbackmap.methods.points.slots import PointTables


@dataclass(frozen=True)
class AtomPairs:
    """Neighbours of atoms by where their blocks' means are: fixed by the beads alone."""

    other: Int32[Tensor, "na1 w"]
    """Padded with the index behind the last atom, as the last row is."""
    between: Float[Tensor, "na1 w 3"]
    """From the bead of the one to the bead of the other, nm; far away where there is none."""
    kind: UInt8[Tensor, "na1 w"]
    """Class of the other: its type, shifted by the number of types in another molecule."""
    count: Int64[Tensor, "na1"]
    """Neighbours of each atom; they come before the padding."""

    def to(self, device: torch.device) -> AtomPairs:
        """The same pairs on another device."""
        return AtomPairs(*(getattr(self, n).to(device) for n in self.__dataclass_fields__))


MARGIN = 0.05
"""nm: pairs are listed this much beyond the cut-off, since atoms are not at their means."""

IMAGE = 0.01
"""nm: beads of a molecule that are found elsewhere than in it are of its image."""

FAR = 10.0
"""nm, of pairs that are only padding."""


def find_pairs(
    tables: PointTables,
    blocks: Blocks,
    frames: BeadFrames,
    mean: Float[Tensor, "na1 3"],
    cutoff: float,
    atom_types: int,
    chunk: int = 128,
) -> AtomPairs:
    """Pairs of atoms of different blocks nearer than ``cutoff`` nm at mean positions.

    Args:
        tables: the blocks' slots.
        blocks: of the same system.
        frames: of one frame.
        mean: mean positions relative to the atoms' beads, laboratory axes, with a last row.
        cutoff: with a margin for how far atoms are from their means.
        atom_types: how many there are.
        chunk: beads worked on together; bounds memory.
    """
    n, device = tables.n_atoms, mean.device
    atoms_of = blocks.owned[blocks.bead_kind]  # nb m, local
    atoms_of = torch.where(atoms_of >= 0, atoms_of + blocks.bead_first_atom[:, None], n)
    parts = [
        _pairs_of(part, atoms_of, tables, frames, mean, cutoff, atom_types)
        for part in torch.arange(tables.n_beads, device=device).split(chunk)
    ]
    width = max([p.other.shape[1] for _, p in parts], default=1)
    other = torch.full((n + 1, width), n, dtype=torch.int32, device=device)
    between = torch.full((n + 1, width, 3), FAR, device=device)
    kind = torch.zeros(n + 1, width, dtype=torch.uint8, device=device)
    count = torch.zeros(n + 1, dtype=torch.int64, device=device)
    for rows, found in parts:
        w = found.other.shape[1]
        other[rows, :w], between[rows, :w], kind[rows, :w] = found.other, found.between, found.kind
        count[rows] = found.count
    return AtomPairs(other, between, kind, count)


def _pairs_of(
    part: Int64[Tensor, "b"],
    atoms_of: Int64[Tensor, "nb m"],
    tables: PointTables,
    frames: BeadFrames,
    mean: Float[Tensor, "na1 3"],
    cutoff: float,
    atom_types: int,
) -> tuple[Int64[Tensor, "r"], AtomPairs]:
    """The pairs of the atoms of some beads, and which atoms these are."""
    n = tables.n_atoms
    near, step = frames.neighbours[0, part], frames.vectors[0, part]  # B K
    there = near >= 0
    there[:, 0] = False  # the block itself
    candidates = torch.where(there[..., None], atoms_of[near.clamp_min(0)], n)
    b, k, m = candidates.shape
    place = (step[:, :, None] + mean[candidates]).reshape(b, k * m, 3)
    candidates = candidates.reshape(b, k * m)
    mine = atoms_of[part]
    close = torch.cdist(mean[mine], place, compute_mode="donot_use_mm_for_euclid_dist") < cutoff
    close &= (mine < n)[..., None] & (candidates < n)[:, None]
    bead, slot, place_at = torch.nonzero(close, as_tuple=True)
    counts = close.sum(-1).reshape(-1)
    row = bead * m + slot
    width = max(int(counts.max()), 1)
    column = torch.arange(len(row), device=mean.device) - (counts.cumsum(0) - counts)[row]
    found = candidates[bead, place_at]
    other = torch.full((b * m, width), n, dtype=torch.int32, device=mean.device)
    between = torch.full((b * m, width, 3), FAR, device=mean.device)
    kind = torch.zeros(b * m, width, dtype=torch.uint8, device=mean.device)
    other[row, column] = found.to(torch.int32)
    near_at = torch.div(place_at, m, rounding_mode="floor")
    between[row, column] = step[bead, near_at]
    # the image of a chain that is longer than the box is another chain
    apart = frames.whole[0, near.clamp_min(0)] - frames.whole[0, part][:, None]
    image = (step - apart).abs().amax(-1) > IMAGE
    foreign = tables.atom_molecule[found] != tables.atom_molecule[mine[bead, slot]]
    foreign |= image[bead, near_at]
    kind[row, column] = (tables.atom_class[found] + atom_types * foreign).to(torch.uint8)
    valid = (mine < n).reshape(-1)
    pairs = AtomPairs(other[valid], between[valid], kind[valid], counts[valid])
    return mine.reshape(-1)[valid], pairs

"""Which atoms of other blocks may come near an atom: fixed by the beads alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int32, Int64, UInt8
from torch import Tensor

from deepbackmap.blocks.index import Blocks, NearBeads
from deepbackmap.geometry.parts import give_back
from deepbackmap.methods.points.slots import PointTables


@dataclass(frozen=True)
class AtomPairs:
    """Neighbours of atoms by where their blocks' means are: fixed by the beads alone.

    Neighbours stand one atom after another; a last entry is padding.
    """

    other: Int32[Tensor, "p1"]
    """Index of the neighbour; behind the last atom for padding."""
    step: Int32[Tensor, "p1"]
    """Row of ``steps``."""
    kind: UInt8[Tensor, "p1"]
    """Class of the other: its type, shifted by the number of types in another molecule."""
    steps: Float[Tensor, "u1 3"]
    """From the bead of the one to the bead of the other, nm; far away for padding."""
    start: Int64[Tensor, "na1"]
    """First entry of each atom; the last row is of none."""
    count: Int64[Tensor, "na1"]

    def to(self, device: torch.device) -> AtomPairs:
        """The same pairs on another device."""
        return AtomPairs(*(getattr(self, n).to(device) for n in self.__dataclass_fields__))

    def of(
        self, atoms: Int64[Tensor, "n"], width: int
    ) -> tuple[Int32[Tensor, "n w"], Float[Tensor, "n w 3"], UInt8[Tensor, "n w"]]:
        """Neighbours of some atoms in a table with padding: which, the vector between the beads
        (nm), and the class."""
        column = torch.arange(width, device=self.start.device)
        there = column < self.count[atoms][:, None]
        at = torch.where(there, self.start[atoms][:, None] + column, len(self.other) - 1)
        flat = at.reshape(-1)
        other, step, kind = (a.index_select(0, flat) for a in (self.other, self.step, self.kind))
        between = self.steps.index_select(0, step)
        return other.view(at.shape), between.view(*at.shape, 3), kind.view(at.shape)


MARGIN = 0.05
"""nm: pairs are listed this much beyond the cut-off, since atoms are not at their means."""

IMAGE = 0.01
"""nm: beads of a molecule that are found elsewhere than in it are of its image."""

FAR = 10.0
"""nm, of pairs that are only padding."""


def find_pairs(
    tables: PointTables,
    blocks: Blocks,
    near: Iterable[NearBeads],
    whole: Float[Tensor, "nb 3"],
    mean: Float[Tensor, "na1 3"],
    cutoff: float,
    atom_types: int,
    chunk: int = 128,
) -> AtomPairs:
    """Pairs of atoms of different blocks nearer than ``cutoff`` nm at mean positions.

    Args:
        tables: the blocks' slots.
        blocks: of the same system.
        near: who is near whom among the beads, part by part; let go when its atoms are done.
        whole: the beads, molecules whole, nm.
        mean: mean positions relative to the atoms' beads, laboratory axes, with a last row.
        cutoff: with a margin for how far atoms are from their means.
        atom_types: how many there are.
        chunk: beads worked on together; bounds memory.
    """
    n, device = tables.n_atoms, mean.device
    atoms_of = blocks.owned[blocks.bead_kind]  # nb m, local
    atoms_of = torch.where(atoms_of >= 0, atoms_of + blocks.bead_first_atom[:, None], n)
    parts = [
        _joined(
            [
                _pairs_of(rows, atoms_of, tables, whole, mean, cutoff, atom_types)
                for rows in _chunks(part, chunk, device)
            ]
        )
        for part in near
    ]
    large = len(parts) > 1
    atoms, found = _joined(parts, padding=n)
    start, count = torch.zeros(2, n + 1, dtype=torch.int64, device=device)
    start[atoms], count[atoms] = found.start, found.count
    if large:
        give_back()
    return replace(found, start=start, count=count)


def _joined(
    parts: list[tuple[Tensor, AtomPairs]], padding: int | None = None
) -> tuple[Int64[Tensor, "r"], AtomPairs]:
    """Pairs of some parts as those of one; the parts are used up, one array after the other, so
    that all pairs are never there twice.

    Many small pieces that live long, among large ones that do not, would leave memory full of
    holes: chunks are joined part by part.

    Args:
        parts: atoms with their pairs.
        padding: a last entry is added that stands for none, with this as the neighbour's index.
    """
    first = steps = 0
    for _, found in parts:
        found.start.add_(first)
        found.step.add_(steps)
        first, steps = first + len(found.other), steps + len(found.steps)
    atoms = torch.cat([a for a, _ in parts])
    pieces = {k: [getattr(f, k) for _, f in parts] for k in AtomPairs.__dataclass_fields__}
    parts.clear()
    if padding is not None:
        last = {"other": padding, "step": steps, "kind": 0, "steps": FAR}
        for name, value in last.items():
            some = pieces[name][0]
            pieces[name].append(some.new_full((1, *some.shape[1:]), value))
    return atoms, AtomPairs(**{name: torch.cat(pieces.pop(name)) for name in list(pieces)})


def _chunks(part: NearBeads, chunk: int, device: torch.device) -> Iterator[NearBeads]:
    for rows in zip(*(a.to(device).split(chunk) for a in vars(part).values()), strict=True):
        yield NearBeads(*rows)


def _distances(a: Float[Tensor, "b m 3"], b: Float[Tensor, "b k 3"]) -> Float[Tensor, "b m k"]:
    """All distances, nm. On a card ``cdist`` takes ten times as long for vectors of three."""
    if a.device.type == "cpu":
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    x, y, z = (a[:, :, None, c] - b[:, None, :, c] for c in range(3))
    return (x * x + y * y + z * z).sqrt()


def _pairs_of(
    part: NearBeads,
    atoms_of: Int64[Tensor, "nb m"],
    tables: PointTables,
    whole: Float[Tensor, "nb 3"],
    mean: Float[Tensor, "na1 3"],
    cutoff: float,
    atom_types: int,
) -> tuple[Int64[Tensor, "r"], AtomPairs]:
    """The pairs of the atoms of some beads, without padding, and which atoms these are."""
    n = tables.n_atoms
    near, step = part.neighbours, part.vectors  # B K
    there = near >= 0
    there[:, 0] = False  # the block itself
    candidates = torch.where(there[..., None], atoms_of[near.clamp_min(0)], n)
    b, k, m = candidates.shape
    place = (step[:, :, None] + mean[candidates]).reshape(b, k * m, 3)
    candidates = candidates.reshape(b, k * m)
    mine = atoms_of[part.beads]
    close = _distances(mean[mine], place) < cutoff
    close &= (mine < n)[..., None] & (candidates < n)[:, None]
    bead, slot, place_at = torch.nonzero(close, as_tuple=True)
    found = candidates[bead, place_at]
    at = torch.div(place_at, m, rounding_mode="floor")
    # the image of a chain that is longer than the box is another chain
    apart = whole[near.clamp_min(0)] - whole[part.beads][:, None]
    image = (step - apart).abs().amax(-1) > IMAGE
    foreign = tables.atom_molecule[found] != tables.atom_molecule[mine[bead, slot]]
    foreign |= image[bead, at]
    used = torch.zeros(b * k, dtype=torch.bool, device=mean.device)
    used[bead * k + at] = True
    row = used.cumsum(0) - 1
    valid = mine.reshape(-1) < n
    count = close.sum(-1).reshape(-1)[valid]
    pairs = AtomPairs(
        found.to(torch.int32), row[bead * k + at].to(torch.int32),
        (tables.atom_class[found] + atom_types * foreign).to(torch.uint8),
        step.reshape(-1, 3)[used], count.cumsum(0) - count, count,
    )  # fmt: skip
    return mine.reshape(-1)[valid], pairs

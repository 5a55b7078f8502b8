"""Pairs of atoms as tensors: neighbour lists with a skin, Lennard-Jones and Coulomb.

Atoms are wrapped into the cell, and those near its faces are repeated outside, so that a neighbour
is a number and no image has to be looked for in a step. Atoms are sorted into cells at least as
wide as pairs are listed; each atom's neighbours are a row of a matrix, full up with a point far
away. Rows hold each pair on both sides: a row's forces are summed where they are worked out.

As in the compiled loops (``mechanics.pairs``) positions are in double precision, their differences
and what follows in single.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from torch import Tensor

from deepbackmap.geometry.periodic import minimum_image
from deepbackmap.mechanics.card.fused import fused
from deepbackmap.mechanics.pairs import FAR_AWAY, TINY

CANDIDATES_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 27}
"""Distances looked at together when pairs are listed; bounds the memory."""
PAIRS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Pairs whose forces are worked out together."""
ROOM = 16
"""Columns of neighbours that tensors have beyond those that are needed, and which part of the
repeated atoms, so that the next lists fit."""
ROUNDED = 1e-4
"""nm: added to the reach of the search, which is in single precision."""
LEAST = float(TINY)
"""nm^2: as ``TINY``, in a form that PyTorch before 2.5 can trace."""


@dataclass(frozen=True, eq=False)
class PairTables:
    """What pairs of a system depend on."""

    types: Int32[Tensor, "n"]
    n_types: int
    charges: Float32[Tensor, "n"]
    """In units whose product is an energy times a length."""
    excluded: Int32[Tensor, "n e"]
    """Of each atom, itself first; -1 where there are fewer."""
    excluded_pairs: Int64[Tensor, "p 2"]
    """Each once; empty without charges, for nothing is left of such a pair then."""
    molecules: Int32[Tensor, "n"]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Lists of pairs."""

    offsets: Float64[Tensor, "n 3"]
    """What to take off positions to have atoms in the cell, nm."""
    sources: Int64[Tensor, "g"]
    """Atom that each repeated one is."""
    shifts: Float64[Tensor, "g 3"]
    """Where it is repeated, nm."""
    rows: Int32[Tensor, "n k"]
    """Neighbours of each atom: atoms, repeated ones, and at last the point far away."""
    kinds: Int32[Tensor, "n k"]
    """Row of the pair's parameters in a table of all pairs of types."""
    listed: Float64[Tensor, "n 3"]
    """Positions then, nm."""

    def points(self, x: Float64[Tensor, "n 3"]) -> Float64[Tensor, "q 3"]:
        """All points that neighbours are numbers of, nm."""
        wrapped = x - self.offsets
        far = torch.full((1, 3), FAR_AWAY, dtype=x.dtype, device=x.device)
        return torch.cat([wrapped, wrapped[self.sources] + self.shifts, far])

    def owners(self) -> Int64[Tensor, "q"]:
        """Atom that each point is; the point far away counts as the first."""
        own = torch.arange(len(self.rows), device=self.rows.device)
        return torch.cat([own, self.sources, own[:1]])


def fitted(new: Neighbours, old: Neighbours | None) -> Neighbours:
    """The same lists in the tensors of old ones, if these have room; else in tensors with some room
    for others. What was captured to read the old ones then reads these."""
    repeated, (n, width) = len(new.sources), new.rows.shape
    if old is None or repeated > len(old.sources) or width > old.rows.shape[1]:
        room = ROOM + repeated + repeated // ROOM
        old = Neighbours(
            torch.empty_like(new.offsets), new.sources.new_empty(room),
            new.shifts.new_empty(room, 3), new.rows.new_empty(n, width + ROOM),
            new.kinds.new_empty(n, width + ROOM), torch.empty_like(new.listed),
        )  # fmt: skip
    old.offsets.copy_(new.offsets)
    old.listed.copy_(new.listed)
    # repeated atoms that are not there are the first one, far away
    for there, found, filling in (
        (old.sources, new.sources, 0), (old.shifts, new.shifts, FAR_AWAY),
        (old.rows.T, new.rows.T, n + len(old.sources)), (old.kinds.T, new.kinds.T, 0),
    ):  # fmt: skip
        there[: len(found)] = found
        there[len(found) :] = filling
    return old


def list_neighbours(
    x: Float64[Tensor, "n 3"],
    boxes: Float64[np.ndarray, "f 3 3"],
    reach: float,
    tables: PairTables,
) -> Neighbours:
    """Lists pairs anew. Each box must be twice as high as ``reach`` in each direction.

    Args:
        x: positions, nm, finite; as many atoms in each box, box after box.
        boxes: lattice vectors of each as rows, nm. Atoms of different boxes do not meet.
        reach: pairs are listed up to there, nm.
        tables: of the system.
    """
    n, frames = len(x), len(boxes)

    def put(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=x.device)

    inverses = np.linalg.inv(boxes)
    grid = _Grid((reach + ROUNDED) * np.linalg.norm(inverses, axis=1), x.device)
    lattice = put(boxes)
    fractions = x.view(frames, -1, 3) @ put(inverses)
    whole = torch.floor(fractions)
    fractions = fractions - whole
    offsets = (whole @ lattice).view(-1, 3)
    which, sources = _repeated(fractions, put(grid.margin))
    own = torch.arange(n, device=x.device)
    frame = torch.cat([own, sources]) // max(1, n // frames)
    fractions = fractions.view(-1, 3)
    fractions = torch.cat([fractions, fractions[sources] + which])
    shifts = (which[:, :, None] * lattice[frame[n:]]).sum(1)
    points = x - offsets
    points = torch.cat([points, points[sources] + shifts]).float()
    owner = torch.cat([own, sources]).int()
    rows = _search(grid.cells(fractions, frame), grid, frame, points, owner, reach, tables)
    types = torch.cat([tables.types, tables.types[sources], tables.types[:1]])
    kinds = tables.types[:, None] * tables.n_types + types[rows]
    return Neighbours(offsets, sources, shifts, rows, kinds, x.clone())


def _repeated(
    fractions: Float64[Tensor, "f m 3"], margin: Float64[Tensor, "f 3"]
) -> tuple[Float64[Tensor, "g 3"], Int64[Tensor, "g"]]:
    """Lattice vectors by which atoms are repeated near their cells, and which atoms."""
    codes = [c for c in itertools.product((-1.0, 0.0, 1.0), repeat=3) if any(c)]
    vectors = torch.tensor(codes, dtype=fractions.dtype, device=fractions.device)
    low, high = fractions < margin[:, None], fractions >= 1.0 - margin[:, None]
    # towards +1 go those at the low face
    near = torch.stack([high, torch.ones_like(low), low]).flatten(1, 2)
    chosen = torch.tensor(codes, device=fractions.device).long() + 1
    ok = near[chosen[:, 0], :, 0] & near[chosen[:, 1], :, 1] & near[chosen[:, 2], :, 2]
    which, sources = ok.nonzero(as_tuple=True)
    return vectors[which], sources


class _Grid:
    """Cells at least as wide as pairs are listed; there is an empty one at each end.

    Each box has its own, one after the other.
    """

    def __init__(self, margin: Float64[np.ndarray, "f 3"], device: torch.device) -> None:
        """Cells for pairs that are listed up to ``margin``, in fractions of each box."""
        self.margin = margin
        counts = np.maximum(1, np.floor((1.0 + 2.0 * margin) / margin)).astype(np.int64)
        c = counts + 2
        strides = np.stack([c[:, 1] * c[:, 2], c[:, 2], np.ones_like(c[:, 0])], axis=1)
        ends = np.cumsum(c.prod(axis=1))
        around = np.array(list(itertools.product((-1, 0, 1), repeat=3)))
        self.n_cells = int(ends[-1])
        scale = counts / (1.0 + 2.0 * margin)
        self._columns = [
            torch.as_tensor(a, device=device)
            for a in (margin, scale, counts - 1, strides, ends - c.prod(axis=1))
        ]
        self.around = torch.as_tensor(strides @ around.T, device=device)
        """What to add to a cell for those around, (f, 27)."""

    def cells(
        self, fractions: Float64[Tensor, "q 3"], frame: Int64[Tensor, "q"]
    ) -> Int64[Tensor, "q"]:
        """Cell of each point."""
        margin, scale, most, strides, first = (c[frame] for c in self._columns)
        cell = torch.floor((fractions + margin) * scale).long().clamp(min=0).minimum(most) + 1
        return (cell * strides).sum(-1) + first


def _search(
    cell: Int64[Tensor, "q"],
    grid: _Grid,
    frame: Int64[Tensor, "q"],
    points: Float32[Tensor, "q 3"],
    owner: Int32[Tensor, "q"],
    reach: float,
    tables: PairTables,
) -> Int32[Tensor, "n k"]:
    """The matrix of neighbours."""
    n, device, nowhere = len(tables.types), points.device, len(points)
    points = torch.cat([points, torch.full_like(points[:1], FAR_AWAY)])
    order = torch.argsort(cell, stable=True)
    sizes = torch.bincount(cell, minlength=grid.n_cells)
    starts = torch.cumsum(sizes, 0) - sizes
    room = int(sizes.max())
    members = torch.full((grid.n_cells, room), nowhere, dtype=torch.int32, device=device)
    sorted_cells = cell[order]
    places = torch.arange(nowhere, device=device) - starts[sorted_cells]
    members[sorted_cells, places] = order.int()
    batch = max(1, CANDIDATES_AT_ONCE[device.type] // (27 * room))
    near_by, allowed = fused(_near, n, device), fused(_not_excluded, n, device)
    found, counts = [], []
    for lo in range(0, n, batch):
        hi = min(lo + batch, n)
        around = cell[lo:hi, None] + grid.around[frame[lo:hi]]
        near = near_by(points, points[lo:hi], members, around, (reach + ROUNDED) ** 2)
        row, column = near.nonzero(as_tuple=True)
        chosen = members[around[row, column // room], column % room]
        kept = allowed(tables.excluded[lo:hi], row, owner[chosen])
        row, chosen = row[kept], chosen[kept]
        found.append((row + lo, chosen))
        counts.append(torch.bincount(row, minlength=hi - lo))
    count = torch.cat(counts)
    rows = torch.full((n, max(1, int(count.max()))), nowhere, dtype=torch.int32, device=device)
    first = torch.cumsum(count, 0) - count
    begun = 0
    for row, chosen in found:
        at = torch.arange(begun, begun + len(row), device=device)
        rows[row, at - first[row]] = chosen
        begun += len(row)
    return rows


def _near(
    points: Float32[Tensor, "p 3"],
    own: Float32[Tensor, "b 3"],
    members: Int32[Tensor, "c m"],
    around: Int64[Tensor, "b 27"],
    square: float,
) -> Tensor:
    """Which of the points in cells around are near, (b, 27 m)."""
    candidates = members[around].flatten(1)
    apart = points[candidates] - own[:, None]
    return (apart * apart).sum(-1) < square


def _not_excluded(
    excluded: Int32[Tensor, "b e"], row: Int64[Tensor, "p"], owner: Int32[Tensor, "p"]
) -> Tensor:
    """Whether pairs count."""
    kept = torch.ones(len(row), dtype=torch.bool, device=row.device)
    for column in excluded.unbind(-1):
        kept &= column[row] != owner
    return kept


@dataclass(frozen=True, eq=False)
class Parameters:
    """Of forces between pairs, as ``engine.Mechanics._field`` has them."""

    table: Float32[Tensor, "rows k"]
    """By kind of pair: 12 c12, 6 c6, smallest distance squared, softness of the core."""
    soft: bool
    """Whether any core is soft."""
    cutoff: float
    field: float
    """Twice the constant of the reaction field, nm^-3."""
    scale: float
    """Of charges."""
    charged: bool


def _batches(lists: Neighbours) -> list[tuple[int, int]]:
    n, width = lists.rows.shape
    most = PAIRS_AT_ONCE[lists.rows.device.type]
    if fused(_pushed, n, lists.rows.device) is not _pushed:
        most *= 16  # nothing is written out on the way
    batch = max(1, most // width)
    return [(lo, min(lo + batch, n)) for lo in range(0, n, batch)]


def _apart(
    points: Float64[Tensor, "q 3"], own: Float64[Tensor, "b 3"], rows: Int32[Tensor, "b k"]
) -> list[Float32[Tensor, "b k"]]:
    """Components of the vectors from neighbours to atoms, in single precision."""
    flat = rows.reshape(-1)
    return [
        (own[:, c, None] - points[:, c].index_select(0, flat).view(rows.shape)).float()
        for c in range(3)
    ]


def pair_forces(
    x: Float64[Tensor, "n 3"],
    lists: Neighbours,
    tables: PairTables,
    how: Parameters,
    box: Float64[Tensor, "f 3 3"],
) -> Float64[Tensor, "n 3"]:
    """Forces of Lennard-Jones and Coulomb on all atoms, kJ/mol/nm."""
    points = lists.points(x)
    charges = tables.charges[lists.owners()] if how.charged else None
    columns = [c.contiguous() for c in how.table.unbind(-1)]
    pushed = fused(_pushed, len(x), x.device)
    found = [
        pushed(
            points, points[lo:hi], lists.rows[lo:hi], lists.kinds[lo:hi], columns,
            None if charges is None else (charges, how.scale * charges[lo:hi, None]),
            how.soft, how.cutoff**2, how.field,
        )
        for lo, hi in _batches(lists)
    ]  # fmt: skip
    forces = torch.cat(found)
    if charges is not None and len(tables.excluded_pairs):
        _add_excluded(forces, x, tables, how, box)
    return forces


def _pushed(
    points: Float64[Tensor, "q 3"],
    own: Float64[Tensor, "b 3"],
    rows: Int32[Tensor, "b k"],
    kinds: Int32[Tensor, "b k"],
    columns: list[Tensor],
    charges: tuple[Tensor, Tensor] | None,
    soft: bool,
    square_cutoff: float,
    field: float,
) -> Float64[Tensor, "b 3"]:
    """Forces on some atoms."""
    flat = kinds.reshape(-1)
    d = _apart(points, own, rows)
    c12, c6, least = (c.index_select(0, flat).view_as(rows) for c in columns[:3])
    r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    square = torch.maximum(r2, least)
    r4 = square * square
    r6 = r4 * square
    if soft:
        r6 = r6 + columns[3].index_select(0, flat).view_as(rows)
    inverse6 = 1.0 / r6
    slope = (c12 * inverse6 - c6) * inverse6 * (r4 * inverse6)
    if charges is not None:
        product = charges[1] * charges[0].index_select(0, rows.reshape(-1)).view_as(rows)
        slope = slope + product * (torch.rsqrt(square) / square - field)
    slope = torch.where(r2 < square_cutoff, slope, 0.0)
    return torch.stack([(slope * c).sum(-1) for c in d], dim=-1).double()


def _add_excluded(
    forces: Float64[Tensor, "n 3"],
    x: Float64[Tensor, "n 3"],
    tables: PairTables,
    how: Parameters,
    box: Float64[Tensor, "f 3 3"],
) -> None:
    """What the reaction field does to excluded pairs."""
    i, j = tables.excluded_pairs.unbind(-1)
    d = _image(x[i] - x[j], box)
    product = tables.charges[i].double() * tables.charges[j] * (how.scale * how.field)
    inside = (d * d).sum(-1) < how.cutoff**2
    push = -torch.where(inside, product, 0.0)[:, None] * d
    forces.index_add_(0, i, push)
    forces.index_add_(0, j, -push)


def pair_energies(
    x: Float64[Tensor, "n 3"],
    lists: Neighbours,
    tables: PairTables,
    table: Float32[Tensor, "rows 3"],
    cutoff: float,
    k_field: float,
    c_field: float,
    box: Float64[Tensor, "f 3 3"],
) -> Float64[Tensor, "n 4"]:
    """Half of the energy of every pair to each of its atoms, as ``mechanics.pairs.pair_energies``.

    Args:
        x: positions, nm.
        lists: pairs.
        tables: of the system.
        table: by kind of pair, c12, c6 and what is taken off each energy.
        cutoff: nm.
        k_field: constant of the reaction field, nm^-3.
        c_field: the other, nm^-1.
        box: lattice vectors of each box as rows, nm.

    Returns:
        Lennard-Jones and Coulomb with atoms of the same molecule, then both with others.
    """
    points, owners = lists.points(x), lists.owners()
    molecules, charges = tables.molecules[owners], tables.charges[owners]
    columns = [c.contiguous() for c in table.unbind(-1)]
    halves = fused(_halves, len(x), x.device)
    found = [
        halves(
            points, points[lo:hi], lists.rows[lo:hi], lists.kinds[lo:hi], columns,
            (charges, charges[lo:hi, None]), (molecules, molecules[lo:hi, None]), cutoff**2,
            k_field, c_field,
        )
        for lo, hi in _batches(lists)
    ]  # fmt: skip
    energies = torch.cat(found)
    own = tables.charges.double()
    energies[:, 1] -= 0.5 * c_field * own * own  # each charge with itself
    if len(tables.excluded_pairs):
        i, j = tables.excluded_pairs.unbind(-1)
        r2 = _image(x[i] - x[j], box).square().sum(-1)
        half = torch.where(r2 < cutoff**2, 0.5 * own[i] * own[j] * (k_field * r2 - c_field), 0.0)
        energies[:, 1].index_add_(0, torch.cat([i, j]), torch.cat([half, half]))
    return energies


def _halves(
    points: Float64[Tensor, "q 3"],
    own: Float64[Tensor, "b 3"],
    rows: Int32[Tensor, "b k"],
    kinds: Int32[Tensor, "b k"],
    columns: list[Tensor],
    charges: tuple[Tensor, Tensor],
    molecules: tuple[Tensor, Tensor],
    square_cutoff: float,
    k_field: float,
    c_field: float,
) -> Float64[Tensor, "b 4"]:
    """Energies of some atoms, half of each pair's."""
    flat, kind = rows.reshape(-1), kinds.reshape(-1)
    d = _apart(points, own, rows)
    r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    c12, c6, end = (c.index_select(0, kind).view_as(rows) for c in columns)
    inverse2 = 1.0 / r2.clamp(min=LEAST)
    inverse6 = inverse2 * inverse2 * inverse2
    inside = r2 < square_cutoff
    lj = torch.where(inside, (c12 * inverse6 - c6) * inverse6 - end, 0.0)
    product = charges[1] * charges[0].index_select(0, flat).view_as(rows)
    coulomb = product * (torch.sqrt(inverse2) + k_field * r2 - c_field)
    coulomb = torch.where(inside, coulomb, 0.0)
    same = molecules[1] == molecules[0].index_select(0, flat).view_as(rows)
    parts = [torch.where(same == inner, e, 0.0).sum(-1) for inner in (True, False)
             for e in (lj, coulomb)]  # fmt: skip
    return 0.5 * torch.stack(parts, dim=-1).double()


def _image(d: Float64[Tensor, "p 3"], boxes: Float64[Tensor, "f 3 3"]) -> Float64[Tensor, "p 3"]:
    """Shortest images of vectors, as many in each box, box after box."""
    return minimum_image(d.view(len(boxes), -1, 3), boxes[:, None]).reshape(-1, 3)

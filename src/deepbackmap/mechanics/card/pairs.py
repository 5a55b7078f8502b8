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
from deepbackmap.mechanics.pairs import FAR_AWAY, TINY

CANDIDATES_AT_ONCE = {"cpu": 1 << 21, "cuda": 1 << 26}
"""Distances looked at together when pairs are listed; bounds the memory."""
PAIRS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 25}
"""Pairs whose forces are worked out together."""
ROUNDED = 1e-4
"""nm: added to the reach of the search, which is in single precision."""


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


def list_neighbours(
    x: Float64[Tensor, "n 3"], box: Float64[np.ndarray, "3 3"], reach: float, tables: PairTables
) -> Neighbours:
    """Lists pairs anew. The box must be twice as high as ``reach`` in each direction.

    Args:
        x: positions, nm, finite.
        box: lattice vectors as rows, nm.
        reach: pairs are listed up to there, nm.
        tables: of the system.
    """
    device = x.device
    lattice = torch.as_tensor(box, dtype=x.dtype, device=device)
    inverse = np.linalg.inv(box)
    margin = (reach + ROUNDED) * np.linalg.norm(inverse, axis=0)
    fractions = x @ torch.as_tensor(inverse, dtype=x.dtype, device=device)
    whole = torch.floor(fractions)
    fractions = fractions - whole
    offsets = whole @ lattice
    which, sources = _repeated(fractions, margin)
    fractions = torch.cat([fractions, fractions[sources] + which])
    shifts = which @ lattice
    rows = _search(fractions, margin, (x - offsets), sources, shifts, reach, tables)
    types = torch.cat([tables.types, tables.types[sources], tables.types[:1]])
    kinds = tables.types[:, None] * tables.n_types + types[rows]
    return Neighbours(offsets, sources, shifts, rows, kinds, x.clone())


def _repeated(
    fractions: Float64[Tensor, "n 3"], margin: Float64[np.ndarray, "3"]
) -> tuple[Float64[Tensor, "g 3"], Int64[Tensor, "g"]]:
    """Lattice vectors by which atoms are repeated near the cell, and which atoms."""
    codes = [c for c in itertools.product((-1.0, 0.0, 1.0), repeat=3) if any(c)]
    vectors = torch.tensor(codes, dtype=fractions.dtype, device=fractions.device)
    edge = torch.as_tensor(margin, dtype=fractions.dtype, device=fractions.device)
    low, high = fractions < edge, fractions >= 1.0 - edge
    # towards +1 go those at the low face
    near = torch.stack([high, torch.ones_like(low), low])
    chosen = torch.tensor(codes, device=fractions.device).long() + 1
    ok = near[chosen[:, 0], :, 0] & near[chosen[:, 1], :, 1] & near[chosen[:, 2], :, 2]
    which, sources = ok.nonzero(as_tuple=True)
    return vectors[which], sources


def _cells(
    fractions: Float64[Tensor, "q 3"], margin: Float64[np.ndarray, "3"]
) -> tuple[Int64[Tensor, "q"], Int64[Tensor, "s"], int]:
    """Cell of each point, what to add for those around, and how many cells there are.

    Cells are at least as wide as pairs are listed; there is an empty one at each end.
    """
    counts = np.maximum(1, np.floor((1.0 + 2.0 * margin) / margin)).astype(np.int64)
    scale = torch.as_tensor(counts / (1.0 + 2.0 * margin), device=fractions.device)
    edge = torch.as_tensor(margin, device=fractions.device)
    most = torch.as_tensor(counts - 1, device=fractions.device)
    cell = torch.floor((fractions + edge) * scale).long().clamp(min=0).minimum(most) + 1
    c = counts + 2
    strides = torch.tensor([c[1] * c[2], c[2], 1], device=fractions.device)
    around = torch.tensor(list(itertools.product((-1, 0, 1), repeat=3)), device=fractions.device)
    return (cell * strides).sum(-1), (around * strides).sum(-1), int(c.prod())


def _search(
    fractions: Float64[Tensor, "q 3"],
    margin: Float64[np.ndarray, "3"],
    wrapped: Float64[Tensor, "n 3"],
    sources: Int64[Tensor, "g"],
    shifts: Float64[Tensor, "g 3"],
    reach: float,
    tables: PairTables,
) -> Int32[Tensor, "n k"]:
    """The matrix of neighbours."""
    n, device = len(wrapped), wrapped.device
    points = torch.cat([wrapped, wrapped[sources] + shifts]).float()
    nowhere = len(points)
    points = torch.cat([points, torch.full_like(points[:1], FAR_AWAY)])
    cell, around, n_cells = _cells(fractions, margin)
    order = torch.argsort(cell, stable=True)
    sizes = torch.bincount(cell, minlength=n_cells)
    starts = torch.cumsum(sizes, 0) - sizes
    room = int(sizes.max())
    members = torch.full((n_cells, room), nowhere, dtype=torch.int64, device=device)
    sorted_cells = cell[order]
    members[sorted_cells, torch.arange(nowhere, device=device) - starts[sorted_cells]] = order
    owner = torch.cat([torch.arange(n, device=device), sources]).int()
    batch = max(1, CANDIDATES_AT_ONCE[device.type] // (27 * room))
    found, counts = [], []
    for lo in range(0, n, batch):
        hi = min(lo + batch, n)
        candidates = members[cell[lo:hi, None] + around].reshape(hi - lo, -1)
        apart = points[candidates] - points[lo:hi, None]
        near = (apart * apart).sum(-1) < (reach + ROUNDED) ** 2
        row, column = near.nonzero(as_tuple=True)
        chosen = candidates[row, column]
        kept = _not_excluded(tables.excluded[lo:hi], row, owner[chosen])
        row, chosen = row[kept], chosen[kept]
        found.append((row + lo, chosen.int()))
        counts.append(torch.bincount(row, minlength=hi - lo))
    count = torch.cat(counts)
    width = -(-int(count.max()) // 16) * 16  # few different shapes
    rows = torch.full((n, max(width, 16)), nowhere, dtype=torch.int32, device=device)
    first = torch.cumsum(count, 0) - count
    begun = 0
    for row, chosen in found:
        at = torch.arange(begun, begun + len(row), device=device)
        rows[row, at - first[row]] = chosen
        begun += len(row)
    return rows


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
    batch = max(1, PAIRS_AT_ONCE[lists.rows.device.type] // width)
    return [(lo, min(lo + batch, n)) for lo in range(0, n, batch)]


def _apart(
    points: Float64[Tensor, "q 3"], rows: Int32[Tensor, "b k"], lo: int
) -> list[Float32[Tensor, "b k"]]:
    """Components of the vectors from neighbours to atoms, in single precision."""
    flat, hi = rows.reshape(-1), lo + len(rows)
    return [
        (points[lo:hi, c, None] - points[:, c].index_select(0, flat).view(rows.shape)).float()
        for c in range(3)
    ]


def pair_forces(
    x: Float64[Tensor, "n 3"],
    lists: Neighbours,
    tables: PairTables,
    how: Parameters,
    box: Float64[Tensor, "3 3"],
) -> Float64[Tensor, "n 3"]:
    """Forces of Lennard-Jones and Coulomb on all atoms, kJ/mol/nm."""
    points = lists.points(x)
    charges = tables.charges[lists.owners()] if how.charged else None
    columns = [c.contiguous() for c in how.table.unbind(-1)]
    found = []
    for lo, hi in _batches(lists):
        rows, kinds = lists.rows[lo:hi], lists.kinds[lo:hi].reshape(-1)
        d = _apart(points, rows, lo)
        c12, c6, least = (c.index_select(0, kinds).view_as(rows) for c in columns[:3])
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        square = torch.maximum(r2, least)
        r4 = square * square
        r6 = r4 * square
        if how.soft:
            r6 = r6 + columns[3].index_select(0, kinds).view_as(rows)
        inverse6 = 1.0 / r6
        slope = (c12 * inverse6 - c6) * inverse6 * (r4 * inverse6)
        if charges is not None:
            product = charges[lo:hi, None] * how.scale
            product = product * charges.index_select(0, rows.reshape(-1)).view_as(rows)
            slope = slope + product * (torch.rsqrt(square) / square - how.field)
        slope = torch.where(r2 < how.cutoff**2, slope, 0.0)
        found.append(torch.stack([(slope * c).sum(-1) for c in d], dim=-1).double())
    forces = torch.cat(found)
    if charges is not None and len(tables.excluded_pairs):
        _add_excluded(forces, x, tables, how, box)
    return forces


def _add_excluded(
    forces: Float64[Tensor, "n 3"],
    x: Float64[Tensor, "n 3"],
    tables: PairTables,
    how: Parameters,
    box: Float64[Tensor, "3 3"],
) -> None:
    """What the reaction field does to excluded pairs."""
    i, j = tables.excluded_pairs.unbind(-1)
    d = minimum_image(x[i] - x[j], box)
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
    box: Float64[Tensor, "3 3"],
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
        box: lattice vectors as rows, nm.

    Returns:
        Lennard-Jones and Coulomb with atoms of the same molecule, then both with others.
    """
    points, owners = lists.points(x), lists.owners()
    molecules, charges = tables.molecules[owners], tables.charges[owners]
    columns = [c.contiguous() for c in table.unbind(-1)]
    found = []
    for lo, hi in _batches(lists):
        rows, kinds = lists.rows[lo:hi], lists.kinds[lo:hi].reshape(-1)
        flat = rows.reshape(-1)
        d = _apart(points, rows, lo)
        r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
        c12, c6, end = (c.index_select(0, kinds).view_as(rows) for c in columns)
        inverse2 = 1.0 / r2.clamp(min=float(TINY))
        inverse6 = inverse2 * inverse2 * inverse2
        inside = r2 < cutoff**2
        lj = torch.where(inside, (c12 * inverse6 - c6) * inverse6 - end, 0.0)
        product = charges[lo:hi, None] * charges.index_select(0, flat).view_as(rows)
        coulomb = product * (torch.sqrt(inverse2) + k_field * r2 - c_field)
        coulomb = torch.where(inside, coulomb, 0.0)
        same = molecules[lo:hi, None] == molecules.index_select(0, flat).view_as(rows)
        parts = [torch.where(same == own, e, 0.0).sum(-1) for own in (True, False)
                 for e in (lj, coulomb)]  # fmt: skip
        found.append(0.5 * torch.stack(parts, dim=-1).double())
    energies = torch.cat(found)
    own = tables.charges.double()
    energies[:, 1] -= 0.5 * c_field * own * own  # each charge with itself
    if len(tables.excluded_pairs):
        i, j = tables.excluded_pairs.unbind(-1)
        r2 = minimum_image(x[i] - x[j], box).square().sum(-1)
        half = torch.where(r2 < cutoff**2, 0.5 * own[i] * own[j] * (k_field * r2 - c_field), 0.0)
        energies[:, 1].index_add_(0, torch.cat([i, j]), torch.cat([half, half]))
    return energies

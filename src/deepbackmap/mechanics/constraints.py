"""Which lengths and beads are held in a molecule type, and the order in which they are solved.

Bonds and beads of a molecule are solved together: ``A l = c`` with ``A = J M^-1 J^T``. ``A`` is
sparse, since constraints meet only where they share atoms. Its factor is worked out symbolically
once for each molecule type: constraints in an order that fills in little (minimum degree; George,
Liu, SIAM Rev. 31, 1, 1989), which needs no chain: rings, branches and networks are ordered alike.
What is left for each step is a fixed list of multiplications, the same for all copies.

A large network fills in however it is ordered. Where the factor would take more than ``DENSE``
multiplications a row, or ``MOST`` in all, columns that have grown beyond ``ROOM`` pass nothing on:
the factor is then incomplete, and serves an iteration (``solver``; Meijerink, van der Vorst, Math.
Comput. 31, 148, 1977).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from deepbackmap.mapping import MoleculeMapping
from deepbackmap.mechanics.lanes import compiled
from deepbackmap.system import MoleculeType
from deepbackmap.system.kinds import HELD

if TYPE_CHECKING:
    import scipy.sparse

DENSE, MOST = 1000, 30_000_000
"""Multiplications up to which a factor is worked out in full, a row and in all. Chains take 10 to
20 a row, a melt of 36 chains of 162 atoms with 600 links 80; an iteration costs as much as some
hundreds a row."""
ROOM = 24
"""Entries below the diagonal of a column of an incomplete factor up to which it is eliminated with
all that this fills in."""
WEAK = 1e-3
"""Of the smallest diagonal element: pivots of an incomplete factor below that are not used."""
NEGLIGIBLE = 1e-12
"""Relative size of an entry that is rounding: a bond inside a bead that is weighted by mass does
not move it."""


@dataclass(frozen=True)
class Constraints:
    """Constraints of one molecule type, with the symbolic factor of their matrix.

    Rows are numbered bonds first, then x, y and z of each held bead; *places* are rows in the order
    of elimination, *slots* entries of the factor, column by column with the diagonal first.
    """

    atoms: Int64[np.ndarray, "m 2"]
    """Bonded atoms."""
    lengths: Float64[np.ndarray, "m"]
    """nm."""
    beads: Int64[np.ndarray, "h"]
    """Beads that are held, of those of the molecule."""
    places: Int64[np.ndarray, "r"]
    """Of each row."""
    starts: Int64[np.ndarray, "r1"]
    """First slot of each column of the factor."""
    rows: Int32[np.ndarray, "s"]
    """Place of each slot's row."""
    targets: Int32[np.ndarray, "o"]
    """Slots that change when a column is eliminated: for each entry below its diagonal, with each
    entry from there on. One behind the last slot stands for what an incomplete factor leaves out.
    """
    pairs: Int64[np.ndarray, "p 3"]
    """Two bonds that share an atom, and their slot."""
    pair_factors: Float64[np.ndarray, "p"]
    crossings: Int64[np.ndarray, "c 4"]
    """A bond that moves a held bead, and the slots of the bead's x, y and z."""
    crossing_factors: Float64[np.ndarray, "c"]
    fixed: Int64[np.ndarray, "f"]
    """Slots whose entries do not depend on positions: between beads, and diagonals of bonds."""
    fixed_values: Float64[np.ndarray, "f"]
    diagonals: Int64[np.ndarray, "h3"]
    """Slots of the diagonal of beads: x, y and z of each."""
    diagonal_values: Float64[np.ndarray, "h3"]
    incomplete: bool
    """Whether the factor leaves something out."""
    pivots: Float64[np.ndarray, "2"]
    """The smallest one that an incomplete factor uses, and what takes the place of smaller ones."""


def rigid_bonds(
    molecule: MoleculeType, *, bonds: bool
) -> tuple[Int64[np.ndarray, "m 2"], Float64[np.ndarray, "m"]]:
    """Pairs of atoms at fixed distances, and these in nm.

    Args:
        molecule: the molecule type.
        bonds: whether bonds are held as well, else only what the topology constrains.
    """
    kinds = HELD if bonds else ("constraint",)
    listed = [molecule.terms[kind] for kind in kinds if kind in molecule.terms]
    if not listed:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    atoms = np.sort(np.concatenate([terms.atoms for terms in listed]), axis=1)
    lengths = np.concatenate([terms.parameters[:, 0] for terms in listed])
    # np.unique keeps the first of equals: a constraint counts before a bond
    atoms, first = np.unique(atoms, axis=0, return_index=True)
    return atoms, lengths[first]


def constraints_of(
    molecule: MoleculeType,
    mapping: MoleculeMapping,
    masses: Float64[np.ndarray, "n"],
    held: Bool[np.ndarray, "b"],
    *,
    bonds: bool,
    ridge: float,
) -> Constraints:
    """The constraints of one molecule type.

    Args:
        molecule: the molecule type.
        mapping: its beads.
        masses: of its atoms as they are moved, u.
        held: beads that are held.
        bonds: whether bonds are held at their lengths.
        ridge: added to the diagonal, relative to it.
    """
    atoms, lengths = rigid_bonds(molecule, bonds=bonds)
    beads = np.flatnonzero(held)
    items = items_of(atoms, mapping, masses, beads)
    m, h = len(atoms), len(beads)
    diagonal = items.diagonal() * (1.0 + ridge)
    i, j, value = below(items)
    bead_rows = m + np.arange(3 * h).reshape(-1, 3)
    pair, cross, between = i < m, (i >= m) & (j < m), j >= m
    ends = np.concatenate(
        [
            np.stack([i[pair], j[pair]]),
            np.stack([bead_rows[i[cross] - m].ravel(), np.repeat(j[cross], 3)]),
            np.stack([bead_rows[i[between] - m].ravel(), bead_rows[j[between] - m].ravel()]),
        ],
        axis=1,
    )
    n = m + 3 * h
    places = np.empty(n, dtype=np.int64)
    places[_order(n, *ends)] = np.arange(n)
    ends = places[ends]
    high, low = ends.max(axis=0), ends.min(axis=0)
    complete = _fill_in(n, high, low, None)
    found = complete or _fill_in(n, high, low, ROOM)
    assert found is not None  # with a bound it always is
    starts, rows = found
    slots = _slots(starts, rows, ends)
    p, c = int(pair.sum()), int(cross.sum())
    own = starts[:-1]
    return Constraints(
        atoms=atoms,
        lengths=lengths,
        beads=beads,
        places=places,
        starts=starts,
        rows=rows,
        targets=_targets(starts, rows),
        pairs=np.stack([i[pair], j[pair], slots[:p]], axis=1),
        pair_factors=value[pair],
        crossings=np.concatenate([j[cross, None], slots[p : p + 3 * c].reshape(-1, 3)], axis=1),
        crossing_factors=value[cross],
        fixed=np.concatenate([slots[p + 3 * c :], own[places[:m]]]),
        fixed_values=np.concatenate([np.repeat(value[between], 3), diagonal[:m]]),
        diagonals=own[places[m:]],
        diagonal_values=np.repeat(diagonal[m:], 3),
        incomplete=complete is None,
        pivots=np.array([WEAK * diagonal.min(), diagonal.mean()]) if n else np.zeros(2),
    )


def items_of(
    atoms: Int64[np.ndarray, "m 2"],
    mapping: MoleculeMapping,
    masses: Float64[np.ndarray, "n"],
    beads: Int64[np.ndarray, "h"],
) -> scipy.sparse.csr_array:
    """The matrix of bonds and beads but for the directions of bonds.

    What a constraint does to an atom is a number (a sign or a weight) along its direction.
    """
    import scipy.sparse  # here, and below: once a molecule type

    m, n = len(atoms), len(masses)
    number = np.full(mapping.n_beads, -1)
    number[beads] = np.arange(len(beads))
    kept = number[mapping.weight_beads] >= 0
    bonds, weights = np.repeat(np.arange(m), 2), m + number[mapping.weight_beads[kept]]
    slopes = scipy.sparse.coo_array(
        (
            np.concatenate([np.tile([1.0, -1.0], m), mapping.weights[kept]]),
            (
                np.concatenate([bonds, weights]),
                np.concatenate([atoms.ravel(), mapping.weight_atoms[kept]]),
            ),
        ),
        shape=(m + len(beads), n),
    ).tocsr()
    return scipy.sparse.csr_array(slopes @ scipy.sparse.diags_array(1.0 / masses) @ slopes.T)


def below(
    items: scipy.sparse.sparray,
) -> tuple[Int64[np.ndarray, "e"], Int64[np.ndarray, "e"], Float64[np.ndarray, "e"]]:
    """Row, column and value of what is below the diagonal."""
    import scipy.sparse

    found = scipy.sparse.tril(items, -1, format="coo")
    size = np.sqrt(items.diagonal())
    i, j = found.row.astype(np.int64), found.col.astype(np.int64)
    counts = np.abs(found.data) > NEGLIGIBLE * size[i] * size[j]
    return i[counts], j[counts], found.data[counts]


def _order(n: int, i: Int64[np.ndarray, "e"], j: Int64[np.ndarray, "e"]) -> Int64[np.ndarray, "n"]:
    """Rows in the order of elimination (multiple minimum degree, SuperLU's), from pairs of them
    that meet."""
    import scipy.sparse
    from scipy.sparse.linalg import splu

    if n < 3:
        return np.arange(n, dtype=np.int64)
    counts = np.bincount(i, minlength=n) + np.bincount(j, minlength=n) + 1.0
    ones = -np.ones(len(i))
    below = scipy.sparse.coo_array((ones, (i, j)), shape=(n, n))
    matrix = (below + below.T + scipy.sparse.diags_array(counts)).tocsc()
    factor = splu(
        matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return np.argsort(factor.perm_c).astype(np.int64)


def _fill_in(
    n: int,
    high: Int64[np.ndarray, "e"],
    low: Int64[np.ndarray, "e"],
    room: int | None,
) -> tuple[Int64[np.ndarray, "n1"], Int32[np.ndarray, "s"]] | None:
    """Starts of the columns of the factor, and the rows in them, from entries of the matrix.

    Args:
        n: rows.
        high: row of each entry below the diagonal.
        low: its column.
        room: columns with more entries than that pass nothing on; None: all do.

    Returns:
        None where all columns pass everything on and more than ``DENSE`` multiplications a row,
        or ``MOST`` in all, come of it.
    """
    columns: list[set[int]] = [set() for _ in range(n)]
    for row, column in zip(high.tolist(), low.tolist(), strict=True):
        columns[column].add(row)
    left = min(DENSE * n, MOST)
    for k in range(n):
        size = len(columns[k])
        if not size:
            continue
        if room is None:
            left -= size * (size + 1) // 2
            if left < 0:
                return None
        elif size > room:
            continue
        parent = min(columns[k])
        columns[parent].update(columns[k])
        columns[parent].discard(parent)
    starts = np.zeros(n + 1, dtype=np.int64)
    starts[1:] = np.cumsum([1 + len(c) for c in columns])
    rows = [np.array([k, *sorted(c)], dtype=np.int32) for k, c in enumerate(columns)]
    return starts, np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)


def _slots(
    starts: Int64[np.ndarray, "n1"], rows: Int32[np.ndarray, "s"], ends: Int64[np.ndarray, "2 e"]
) -> Int64[np.ndarray, "e"]:
    """Where the entries of two places each stand in the factor."""
    n = len(starts) - 1
    keys = np.repeat(np.arange(n), np.diff(starts)) * n + rows
    return np.searchsorted(keys, ends.min(axis=0) * n + ends.max(axis=0)).astype(np.int64)


@compiled
def _targets(starts, rows):
    """``Constraints.targets``."""
    total = 0
    for k in range(len(starts) - 1):
        below = starts[k + 1] - starts[k] - 1
        total += below * (below + 1) // 2
    found = np.empty(total, dtype=np.int32)
    n = 0
    for k in range(len(starts) - 1):
        for a in range(starts[k] + 1, starts[k + 1]):
            at, stop = starts[rows[a]], starts[rows[a] + 1]
            for b in range(a, starts[k + 1]):
                while at < stop and rows[at] < rows[b]:
                    at += 1
                here = at < stop and rows[at] == rows[b]
                found[n] = at if here else len(rows)
                n += 1
    return found

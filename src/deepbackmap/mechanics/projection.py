"""Bond lengths and beads made exact together: one joint projection of whole molecules.

A generator places atoms near where they belong. Here each molecule makes the smallest
mass-weighted move after which its bonds have their lengths and its beads are where they are
given: Newton's method with all constraints solved together, ``A l = c`` with ``A = J M^-1 J^T``,
``x -= M^-1 J^T l``. All copies of a molecule type are solved at once. Ordered along the molecule,
constraints meet only others close by, so that ``A`` is block tridiagonal and a molecule costs
time in proportion to its length.

Beads of a coarse-grained simulation may lie where no molecule with these bonds can put them. The
diagonal of the beads' rows is therefore enlarged in proportion to how far off the molecule is
(Levenberg-Marquardt; Yamashita, Fukushima, Computing Suppl. 15, 239, 2001), and further where it
makes no progress. Beads in reach are approached as fast as by Newton's method, since the damping
vanishes with the deviation; of beads out of reach the squared deviations come near the least that
the bonds allow. Bonds are exact in either case: what is left of their deviations in the end is
taken out with beads that only resist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.sparse.csgraph import breadth_first_order, connected_components
from torch import Tensor

from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType
from deepbackmap.system.kinds import HELD

TOLERANCE = 1e-6
"""nm: largest deviation of a bond's length or of a coordinate of a bead."""
ITERATIONS = 20
"""At most, of bonds with beads."""
BOND_ITERATIONS = 50
"""At most, of bonds alone, for molecules that have not settled with their beads."""
HELD_ITERATIONS = 10
"""At most, along directions that are kept."""
LARGEST_MOVE = 0.05
"""nm: no atom moves farther in one iteration, so that a start that is far off stays together."""
REACH = 0.1
"""nm: the diagonal of the beads' rows is enlarged by the largest deviation over this, at most
doubled; about how far atoms move before the direction of a bond says little."""
PROGRESS = 0.95
"""A molecule whose largest deviation does not fall below this part of what it was is stalled: it
has settled if its bonds are exact, and is damped twice as much if they are not."""
RIDGE = 1e-10
"""Added to the diagonal, relative to it: redundant constraints would make the matrix singular."""
CHUNK_BYTES = 64 * 2**20
"""Memory for the matrices of the copies that are solved together."""
COINCIDENT = 1e-12
"""nm: atoms that are closer than this have no direction between them."""
CHEAP_BLOCK, LARGE_BLOCK = 20, 64
"""Size of a block whose arithmetic takes about as long as calling for it, and the largest block
worth trying where smaller ones would do."""


@dataclass(frozen=True)
class Projected:
    """Positions on the constraints, and the molecules that could not be brought there."""

    positions: Float64[Tensor, "n 3"]
    """nm, molecules whole as they came in."""
    strained: Int64[Tensor, "s"]
    """Molecules of the system with a bead off its given place: about as near as their bonds let
    them come, unless they started many times ``LARGEST_MOVE`` away."""
    broken: Int64[Tensor, "k"]
    """Molecules with a bond off its length: lengths that contradict each other, or a start
    too far off."""


@dataclass(frozen=True)
class _Sums:
    """A sparse matrix as padded rows: deterministic on every device, unlike scattered sums."""

    columns: Int64[Tensor, "r k"]
    weights: Float64[Tensor, "r 1 k"]

    @classmethod
    def of(cls, matrix: scipy.sparse.sparray, device: torch.device) -> _Sums:
        """From a sparse matrix, (r, s)."""
        rows = scipy.sparse.csr_array(matrix)
        counts = np.diff(rows.indptr)
        slot = np.arange(rows.nnz) - np.repeat(rows.indptr[:-1], counts)
        shape = (rows.shape[0], int(counts.max(initial=0)))
        columns, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        row = np.repeat(np.arange(shape[0]), counts)
        columns[row, slot], weights[row, slot] = rows.indices, rows.data
        return cls(_put(columns, device), _put(weights[:, None], device))

    def __call__(self, vectors: Float64[Tensor, "c s 3"]) -> Float64[Tensor, "c r 3"]:
        """Product with each copy's vectors."""
        if not self.columns.numel():
            return vectors.new_zeros(len(vectors), len(self.columns), 3)
        taken = vectors.index_select(1, self.columns.flatten())
        return torch.matmul(self.weights, taken.unflatten(1, self.columns.shape)).squeeze(2)


@dataclass(frozen=True)
class _Off:
    """How far copies are from their constraints, and along which directions the bonds point."""

    units: Float64[Tensor, "c m 3"]
    bonds: Float64[Tensor, "c m"]
    """nm."""
    beads: Float64[Tensor, "c b 3"]
    """nm."""

    @property
    def worst_bond(self) -> Float64[Tensor, "c"]:
        """Largest deviation of a bond, nm."""
        return _largest(self.bonds)

    @property
    def worst_bead(self) -> Float64[Tensor, "c"]:
        """Largest deviation of a coordinate of a bead, nm."""
        return _largest(self.beads.flatten(1))

    @property
    def worst(self) -> Float64[Tensor, "c"]:
        """Largest deviation of either, nm."""
        return torch.maximum(self.worst_bond, self.worst_bead)

    def take(self, keep: Bool[Tensor, "c"]) -> _Off:
        """Some of the copies."""
        return _Off(self.units[keep], self.bonds[keep], self.beads[keep])


@dataclass(frozen=True)
class _Pattern:
    """Where the rows of one molecule type stand in its matrix, and what is in it.

    The matrix is kept as a row of blocks for each step along the molecule: the block on the
    diagonal (its lower half), the one to the right, and a unit matrix (which the factorisation
    turns into an inverse).
    """

    size: int
    """Of a block."""
    places: Int64[Tensor, "r"]
    """Place of each row: bonds, then x, y and z of each bead."""
    gather: Int64[Tensor, "p"]
    """Row of each place; the places that fill up the last block have the row after the last."""
    fixed: Float64[Tensor, "e"]
    """What does not depend on the positions."""
    slots: Int64[Tensor, "f"]
    """Entries to be filled in: pairs of bonds, beads with bonds, diagonal of the beads."""
    pairs: Int64[Tensor, "2 k"]
    """Bonds that share an atom."""
    pair_factors: Float64[Tensor, "k"]
    crossings: Int64[Tensor, "q"]
    """Bonds that move a bead, once for each bead."""
    crossing_factors: Float64[Tensor, "q 1"]
    bead_diagonal: Float64[Tensor, "d"]

    def matrix(
        self, units: Float64[Tensor, "c m 3"], softness: Float64[Tensor, "c"]
    ) -> Float64[Tensor, "c k s s3"]:
        """The matrix of each copy from the directions of its bonds.

        Args:
            units: along the bonds.
            softness: by how much to enlarge the diagonal of the beads, relative to its mean.
        """
        i, j = self.pairs
        pairs = (units.index_select(1, i) * units.index_select(1, j)).sum(-1) * self.pair_factors
        crossings = units.index_select(1, self.crossings) * self.crossing_factors
        # the same for all beads, so that what is made small is the plain sum of their squares
        diagonal = self.bead_diagonal + softness[:, None] * self.bead_diagonal.mean()
        filled = torch.cat([pairs, crossings.flatten(1), diagonal], dim=1)
        matrix = self.fixed.repeat(len(units), 1).index_copy_(1, self.slots, filled)
        return matrix.view(len(units), -1, self.size, 3 * self.size)


@dataclass(frozen=True)
class _Rows:
    """The constraints of one molecule type."""

    bond_atoms: Int64[Tensor, "2 m"]
    lengths: Float64[Tensor, "m"]
    """nm."""
    to_beads: _Sums
    """Atoms to beads."""
    bonds_to_atoms: _Sums
    """Signs over masses."""
    beads_to_atoms: _Sums
    """Weights over masses."""
    pattern: _Pattern

    @property
    def copies_in_chunk(self) -> int:
        """How many copies are solved together."""
        # the matrix, its factors and copies made on the way
        return max(1, CHUNK_BYTES // (3 * 8 * self.pattern.fixed.numel()))

    def arms(
        self, x: Float64[Tensor, "c n 3"]
    ) -> tuple[Float64[Tensor, "c m 3"], Float64[Tensor, "c m"]]:
        """Unit vectors along the bonds, and their lengths in nm."""
        vectors = self.along(x)
        distances = vectors.norm(dim=-1)
        units = vectors / distances.clamp_min(COINCIDENT)[..., None]
        # atoms at one point have to part, in whichever direction
        units[..., 0] += (distances < COINCIDENT).to(units.dtype)
        return units, distances

    def along(self, vectors: Float64[Tensor, "c n 3"]) -> Float64[Tensor, "c m 3"]:
        """The first atom's vector less the second's, for each bond."""
        i, j = self.bond_atoms
        return vectors.index_select(1, i) - vectors.index_select(1, j)

    def off(self, x: Float64[Tensor, "c n 3"], goal: Float64[Tensor, "c b 3"]) -> _Off:
        """Deviations of positions (nm) from the lengths and from given beads (nm)."""
        units, distances = self.arms(x)
        return _Off(units, distances - self.lengths, self.to_beads(x) - goal)

    def directions(
        self, units: Float64[Tensor, "c m 3"], softness: Float64[Tensor, "c"]
    ) -> _Directions:
        """Factorises the matrix."""
        return _Directions(self, units, _factorised(self.pattern.matrix(units, softness)))


def _factorised(matrix: Float64[Tensor, "c k s s3"]) -> tuple[Float64[Tensor, "c s s2"], ...]:
    """Cholesky factors of a block tridiagonal matrix.

    Args:
        matrix: as ``_Pattern`` has it.

    Returns:
        For each step along the molecule the block of the factor below the diagonal, transposed,
        and the inverse of the block on the diagonal, side by side.
    """
    size = matrix.shape[2]
    factors: list[Tensor] = []
    for k in range(matrix.shape[1]):
        block = matrix[:, k, :, :size]
        if k:
            before = factors[-1][..., :size]
            block = torch.baddbmm(block, before.mT, before, alpha=-1.0)
        root = torch.linalg.cholesky_ex(block)[0]
        factors.append(torch.linalg.solve_triangular(root, matrix[:, k, :, size:], upper=False))
    return tuple(factors)


@dataclass(frozen=True)
class _Directions:
    """Where the constraints let atoms be moved, with the factorised matrix."""

    rows: _Rows
    units: Float64[Tensor, "c m 3"]
    factors: tuple[Float64[Tensor, "c s s2"], ...]

    def take(self, keep: Tensor) -> _Directions:
        """Some of the copies."""
        return _Directions(self.rows, self.units[keep], tuple(f[keep] for f in self.factors))

    def moves(
        self, bonds: Float64[Tensor, "c m"], beads: Float64[Tensor, "c b 3"]
    ) -> Float64[Tensor, "c n 3"]:
        """The smallest mass-weighted moves that change bonds and beads by so much.

        Args:
            bonds: changes of the lengths.
            beads: changes of the beads, in the same unit.
        """
        pattern, m = self.rows.pattern, bonds.shape[1]
        zero = bonds.new_zeros(len(bonds), 1)
        right = torch.cat([bonds, beads.flatten(1), zero], dim=1).index_select(1, pattern.gather)
        found = self._solve(right).index_select(1, pattern.places)
        by_bonds = self.rows.bonds_to_atoms(found[:, :m, None] * self.units)
        return by_bonds + self.rows.beads_to_atoms(found[:, m:].reshape(beads.shape))

    def _solve(self, right: Float64[Tensor, "c p"]) -> Float64[Tensor, "c p"]:
        """Forward along the molecule, and back."""
        size = self.rows.pattern.size
        known = list(right.unflatten(1, (-1, size, 1)).unbind(1))
        for k, factor in enumerate(self.factors):
            if k:
                before = self.factors[k - 1][..., :size]
                known[k] = torch.baddbmm(known[k], before.mT, known[k - 1], alpha=-1.0)
            known[k] = torch.bmm(factor[..., size:], known[k])
        # each block is complete once the one behind it is
        for k in reversed(range(len(known))):
            factor = self.factors[k]
            if k + 1 < len(known):
                known[k] = torch.baddbmm(known[k], factor[..., :size], known[k + 1], alpha=-1.0)
            known[k] = torch.bmm(factor[..., size:].mT, known[k])
        return torch.cat(known, dim=1).squeeze(2)


def _projected(
    rows: _Rows,
    x: Float64[Tensor, "c n 3"],
    goal: Float64[Tensor, "c b 3"],
    at: Float64[Tensor, "c n 3"] | None,
    tolerance: float,
) -> Float64[Tensor, "c n 3"]:
    """Copies brought onto their bonds and, as near as these allow, onto their beads."""
    left = torch.arange(len(x), device=x.device)
    if at is not None:
        there = rows.off(at, goal)
        # from where beads are out of reach there is no small move onto them
        strained = there.worst_bead > tolerance
        goal = torch.where(strained[:, None, None], there.beads + goal, goal)
        held = rows.directions(there.units, x.new_zeros(len(x)))
        x, left = _approach(rows, x, goal, left, HELD_ITERATIONS, tolerance, held=held)
    x, left = _approach(rows, x, goal, left, ITERATIONS, tolerance)
    return _approach(rows, x, goal, left, BOND_ITERATIONS, tolerance, bonds_alone=True)[0]


def _approach(
    rows: _Rows,
    x: Float64[Tensor, "c n 3"],
    goal: Float64[Tensor, "c b 3"],
    left: Int64[Tensor, "l"],
    iterations: int,
    tolerance: float,
    *,
    held: _Directions | None = None,
    bonds_alone: bool = False,
) -> tuple[Float64[Tensor, "c n 3"], Int64[Tensor, "k"]]:
    """Moves copies until they have settled; each leaves when it has, alone.

    Args:
        rows: the constraints.
        x: nm.
        goal: the beads, nm.
        left: the copies to be moved.
        iterations: at most.
        tolerance: largest deviation of those that have settled, nm.
        held: directions of all of these copies to be kept, instead of those of where they are;
            copies that do not settle along these stay where they were.
        bonds_alone: the beads only resist; where they are given does not matter.

    Returns:
        Positions in nm, and the copies that have not settled.
    """
    x, here, goal = x.clone(), x[left], goal[left]
    damping = x.new_ones(len(left))
    last = x.new_full((len(left),), torch.inf)
    for _ in range(iterations):
        off = rows.off(here, goal)
        if bonds_alone:
            off = _Off(off.units, off.bonds, torch.zeros_like(off.beads))
        stalled = off.worst > PROGRESS * last
        last, damping = off.worst, torch.where(stalled, 2.0 * damping, damping)
        # written so that what is not a number counts as off
        going = ~((off.worst_bond <= tolerance) & ((off.worst_bead <= tolerance) | stalled))
        if not bool(going.all()):
            x[left[~going]] = here[~going]
            left, here, goal, off = left[going], here[going], goal[going], off.take(going)
            last, damping = last[going], damping[going]
            held = None if held is None else held.take(going)
        if not len(left):
            break
        softness = damping * (last / REACH).clamp(1.0 if bonds_alone else 0.0, 1.0)
        moves = (held or rows.directions(off.units, softness)).moves(off.bonds, off.beads)
        farthest = _largest(moves.norm(dim=-1))
        here = here - moves * (LARGEST_MOVE / farthest).clamp_max(1.0)[:, None, None]
    if held is None:
        x[left] = here
    return x, left


@dataclass(frozen=True)
class _Kind:
    """All molecules of one type."""

    rows: _Rows
    molecules: Int64[Tensor, "c"]
    atoms: Int64[Tensor, "c n"]
    """Of the system."""
    beads: Int64[Tensor, "c b"]
    """Of the system."""


class Projector:
    """Brings molecules onto their bond lengths and their beads."""

    def __init__(
        self, mapping: SystemMapping, device: torch.device, *, bonds: bool, lightest: float = 0.0
    ) -> None:
        """Tables of every molecule type.

        Args:
            mapping: topology and beads.
            device: where positions will be.
            bonds: hold all bonds at their lengths; else only what the topology constrains.
            lightest: lighter atoms are moved as if they weighed that much, u.
        """
        topology = mapping.topology
        index = topology.molecule_type_index()
        first_atom, first_bead = topology.molecule_offsets()[:-1], mapping.bead_offsets()[:-1]
        self._n_molecules = topology.n_molecules
        self.masses = torch.as_tensor(topology.masses(), device=device).clamp_min(lightest)
        """Of all atoms as they are moved, u."""
        kinds = []
        for t in sorted(set(index.tolist())):
            molecule, beads = topology.molecule_types[t], mapping.molecules[t]
            held, lengths = _bonds_of(molecule, bonds=bonds)
            if not len(held) and not beads.n_beads:
                continue
            which = np.flatnonzero(index == t)
            kinds.append(
                _Kind(
                    _rows_of(held, lengths, beads, np.maximum(molecule.masses, lightest), device),
                    _put(which, device),
                    _put(first_atom[which, None] + np.arange(molecule.n_atoms), device),
                    _put(first_bead[which, None] + np.arange(beads.n_beads), device),
                )
            )
        self._kinds = tuple(kinds)

    def project(
        self,
        positions: Float64[Tensor, "n 3"],
        beads: Float64[Tensor, "nb 3"],
        *,
        at: Float64[Tensor, "n 3"] | None = None,
        tolerance: float | None = None,
    ) -> Projected:
        """Moves atoms, light ones more than heavy ones, onto the constraints.

        Each molecule is on its own: what comes out does not depend on the others.

        Args:
            positions: nm, molecules whole.
            beads: nm, in the images of their molecules.
            at: positions (nm) on the constraints, from which ``positions`` have been reached by
                small moves. Atoms are then moved along the directions of the constraints there
                (SHAKE), and one factorisation serves all iterations; molecules for which that
                is not enough are moved as without it. A molecule whose beads are off there keeps
                its beads where it has them there: it stays strained, without wandering.
            tolerance: largest deviation of a bond's length or of a coordinate of a bead that is
                left where it is, nm; ``TOLERANCE`` by default.

        Returns:
            Positions in nm, and the molecules that could not be brought there.
        """
        tolerance = TOLERANCE if tolerance is None else tolerance
        out = positions.clone()
        strained = torch.zeros(self._n_molecules, dtype=torch.bool, device=out.device)
        broken = torch.zeros_like(strained)
        for kind, part in self._chunks():
            atoms, goal = kind.atoms[part], beads[kind.beads[part]]
            held = None if at is None else at[atoms]
            x = _projected(kind.rows, positions[atoms], goal, held, tolerance)
            off = kind.rows.off(x, goal)
            out[atoms.flatten()] = x.flatten(0, 1)
            # written so that what is not a number counts as off
            strained[kind.molecules[part]] = ~(off.worst_bead <= tolerance)
            broken[kind.molecules[part]] = ~(off.worst_bond <= tolerance)
        return Projected(out, strained.nonzero().squeeze(1), broken.nonzero().squeeze(1))

    def tangent(
        self, positions: Float64[Tensor, "n 3"], vectors: Float64[Tensor, "n 3"]
    ) -> Float64[Tensor, "n 3"]:
        """Takes out of velocities or moves what would change a length or move a bead.

        Args:
            positions: nm, molecules whole and projected.
            vectors: of any unit, one an atom.

        Returns:
            What is left, in the same unit.
        """
        out = vectors.clone()
        for kind, part in self._chunks():
            atoms, rows = kind.atoms[part], kind.rows
            v, units = vectors[atoms], rows.arms(positions[atoms])[0]
            directions = rows.directions(units, v.new_zeros(len(v)))
            moves = directions.moves((rows.along(v) * units).sum(-1), rows.to_beads(v))
            out[atoms.flatten()] = (v - moves).flatten(0, 1)
        return out

    def _chunks(self) -> Iterator[tuple[_Kind, slice]]:
        """Runs of copies that are solved together."""
        for kind in self._kinds:
            step = kind.rows.copies_in_chunk
            for start in range(0, len(kind.molecules), step):
                yield kind, slice(start, start + step)


def _largest(values: Float64[Tensor, "c k"]) -> Float64[Tensor, "c"]:
    """Largest magnitude in each row, 0 in an empty one."""
    return values.abs().amax(1) if values.shape[1] else values.new_zeros(len(values))


def _put(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _bonds_of(
    molecule: MoleculeType, *, bonds: bool
) -> tuple[Int64[np.ndarray, "m 2"], Float64[np.ndarray, "m"]]:
    """Pairs of atoms at fixed distances, and these in nm."""
    kinds = HELD if bonds else ("constraint",)
    listed = [molecule.terms[kind] for kind in kinds if kind in molecule.terms]
    if not listed:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    atoms = np.sort(np.concatenate([terms.atoms for terms in listed]), axis=1)
    lengths = np.concatenate([terms.parameters[:, 0] for terms in listed])
    # np.unique keeps the first of equals: a constraint counts before a bond
    atoms, first = np.unique(atoms, axis=0, return_index=True)
    return atoms, lengths[first]


def _rows_of(
    atoms: Int64[np.ndarray, "m 2"],
    lengths: Float64[np.ndarray, "m"],
    mapping: MoleculeMapping,
    masses: Float64[np.ndarray, "n"],
    device: torch.device,
) -> _Rows:
    """The tables of one molecule type.

    Bonds and beads are *items*: a bond is one row of the matrix, a bead three. What an item does
    to an atom is a number (a sign or a weight) along its direction, so that the matrix is that of
    the items times the products of directions, which alone depend on the positions.
    """
    m, n, b = len(atoms), len(masses), mapping.n_beads
    signs = _sparse(np.tile([1.0, -1.0], m), np.repeat(np.arange(m), 2), atoms.ravel(), (m, n))
    weights = _sparse(mapping.weights, mapping.weight_beads, mapping.weight_atoms, (b, n))
    slopes = scipy.sparse.vstack([signs, weights], format="csr")
    weighted = slopes @ scipy.sparse.diags_array(1.0 / masses)
    return _Rows(
        bond_atoms=_put(atoms.T, device),
        lengths=_put(lengths, device),
        to_beads=_Sums.of(weights, device),
        bonds_to_atoms=_Sums.of(weighted[:m].T, device),
        beads_to_atoms=_Sums.of(weighted[m:].T, device),
        pattern=_pattern_of(weighted @ slopes.T, m, device),
    )


def _pattern_of(items: scipy.sparse.sparray, m: int, device: torch.device) -> _Pattern:
    """Lays out a matrix.

    Args:
        items: the matrix of items, of which the first ``m`` are bonds.
        m: number of bonds.
        device: for the tables.
    """
    diagonal = items.diagonal()
    i, j, value = _below(items)
    order = _along(scipy.sparse.coo_array((value, (i, j)), shape=items.shape))
    widths = np.where(np.arange(len(diagonal)) < m, 1, 3)
    first = np.empty_like(order)
    first[order] = np.cumsum(widths[order]) - widths[order]
    axes = np.arange(3)
    places = np.concatenate([first[:m], (first[m:, None] + axes).ravel()])
    pair, cross, beads = i < m, (i >= m) & (j < m), j >= m
    # the places of each kind of entry, above and below the diagonal alike
    at_pairs = first[i[pair]], first[j[pair]]
    at_cross = (first[i[cross], None] + axes).ravel(), np.repeat(first[j[cross]], 3)
    at_beads = (first[i[beads], None] + axes).ravel(), (first[j[beads], None] + axes).ravel()
    ends = np.concatenate([at_pairs, at_cross, at_beads], axis=1)
    size = _block_size(ends.min(axis=0), ends.max(axis=0), len(places))
    fixed = _unfilled(len(places), size)
    fixed[_slots(at_beads, size)] = np.repeat(value[beads], 3)
    fixed[_slots((first[:m], first[:m]), size)] = diagonal[:m] * (1.0 + RIDGE)
    gather = np.full(-(-len(places) // size) * size, len(places))
    gather[places] = np.arange(len(places))
    filled = [_slots(at, size) for at in (at_pairs, at_cross, (places[m:], places[m:]))]
    return _Pattern(
        size=size,
        places=_put(places, device),
        gather=_put(gather, device),
        fixed=_put(fixed, device),
        slots=_put(np.concatenate(filled), device),
        pairs=_put(np.stack([i[pair], j[pair]]), device),
        pair_factors=_put(value[pair], device),
        crossings=_put(j[cross], device),
        crossing_factors=_put(value[cross, None], device),
        bead_diagonal=_put(np.repeat(diagonal[m:], 3) * (1.0 + RIDGE), device),
    )


def _sparse(
    values: Float64[np.ndarray, "e"],
    rows: Int64[np.ndarray, "e"],
    columns: Int64[np.ndarray, "e"],
    shape: tuple[int, int],
) -> scipy.sparse.csr_array:
    return scipy.sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()


def _below(
    items: scipy.sparse.sparray,
) -> tuple[Int64[np.ndarray, "e"], Int64[np.ndarray, "e"], Float64[np.ndarray, "e"]]:
    """Row, column and value of what is below the diagonal."""
    found = scipy.sparse.tril(items, -1, format="coo")
    size = np.sqrt(items.diagonal())
    i, j = found.row.astype(np.int64), found.col.astype(np.int64)
    # A bond inside a bead weighted by mass does not move it: both atoms' shares cancel.
    counts = np.abs(found.data) > 1e-12 * size[i] * size[j]
    return i[counts], j[counts], found.data[counts]


def _along(graph: scipy.sparse.sparray) -> Int64[np.ndarray, "i"]:
    """Items from one end of the molecule to the other, fragment by fragment (Cuthill-McKee).

    scipy's own ``reverse_cuthill_mckee`` starts at an item of few neighbours, which may be
    the middle of a chain, and then runs along both arms at once with blocks of twice the size.
    """
    _, fragment = connected_components(graph, directed=False)
    _, some = np.unique(fragment, return_index=True)
    order = [np.zeros(0, dtype=np.int64)]
    for item in some:
        for _ in range(2):  # the item farthest from any item is an end; twice for rings' sake
            item = breadth_first_order(graph, item, False, return_predecessors=False)[-1]
        order.append(breadth_first_order(graph, item, False, return_predecessors=False))
    return np.concatenate(order).astype(np.int64)


def _block_size(low: Int64[np.ndarray, "e"], high: Int64[np.ndarray, "e"], n: int) -> int:
    """The size of blocks that is quickest, of those that make a matrix block tridiagonal.

    Args:
        low: smaller place of each entry off the diagonal.
        high: larger place.
        n: number of places.
    """
    widest = int((high - low).max(initial=1))
    sizes = np.arange(1, max(widest, min(n, LARGE_BLOCK)) + 1)
    works = [k for k in sizes.tolist() if (high // k - low // k).max(initial=0) <= 1]
    return min(works, key=lambda k: -(-n // k) * (k**3 + CHEAP_BLOCK**3))


def _slots(
    at: tuple[Int64[np.ndarray, "e"], Int64[np.ndarray, "e"]], size: int
) -> Int64[np.ndarray, "e"]:
    """Where the entries of two places each stand in a ``_Pattern``."""
    low, high = np.minimum(*at), np.maximum(*at)
    same = low // size == high // size
    row = np.where(same, high, low)
    return row * 3 * size + np.where(same, low % size, size + high % size)


def _unfilled(n: int, size: int) -> Float64[np.ndarray, "e"]:
    """A matrix for n rows in which only the unit matrices and unused places are there."""
    blocks = np.zeros((-(-n // size) * size, 3 * size))
    row = np.arange(len(blocks))
    blocks[row, 2 * size + row % size] = 1.0
    blocks[row[n:], row[n:] % size] = 1.0
    return blocks.ravel()

"""Bonds and beads of molecules made exact together, as tensors: all molecules at once.

What is solved is what the compiled solver solves (``mechanics.solver``): ``A l = c`` with
``A = J M^-1 J^T``, ``x -= M^-1 J^T l``. The way is another, for a card has no use for a long chain
of short steps: conjugate gradients (Hestenes, Stiefel, J. Res. Natl. Bur. Stand. 49, 409, 1952),
preconditioned by dense inverses of blocks of ``A``. A molecule with at most ``BLOCK`` constraints
is one block; larger ones are cut along an order that keeps neighbours together (reverse
Cuthill-McKee), so that nothing needs a chain. Inverses may be some steps old: what is solved stays
exact, it only takes an iteration more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from deepbackmap.geometry.periodic import minimum_image
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.mechanics.constraints import below, items_of, rigid_bonds
from deepbackmap.mechanics.solver import (
    BOND_ITERATIONS,
    COINCIDENT,
    GRADIENTS,
    ITERATIONS,
    LARGEST_MOVE,
    PROGRESS,
    REACH,
    RESIDUAL,
    RIDGE,
)
from deepbackmap.system import MoleculeType

BLOCK = 256
"""Rows of a block, at most."""
ROUND = 8
"""Sizes of blocks are rounded up to multiples of that: few different batches."""
AT_ONCE = 10
"""Iterations between two looks at whether conjugate gradients are done, where looks are allowed."""


@dataclass(frozen=True, eq=False)
class Held:
    """Constraints of a system.

    Rows are numbered bonds first, then x, y and z of each held bead.
    """

    bonds: Int64[Tensor, "m 2"]
    """Bonded atoms."""
    lengths: Float64[Tensor, "m"]
    """nm."""
    beads: Int64[Tensor, "h"]
    """Held beads, of those of the system."""
    share_atoms: Int64[Tensor, "s"]
    """Atoms of held beads."""
    share_beads: Int64[Tensor, "s"]
    """Which of the held beads each belongs to."""
    share_firsts: Int64[Tensor, "s"]
    """The first atom of that bead."""
    shares: Float64[Tensor, "s"]
    """Weights."""
    first_atoms: Int64[Tensor, "h"]
    inverses: Float64[Tensor, "n"]
    """Of the masses, 1/u."""
    atom_molecules: Int64[Tensor, "n"]
    molecules: Int64[Tensor, "r"]
    """Of each row."""
    n_molecules: int
    pairs: Int64[Tensor, "p 2"]
    """Bonds that share an atom."""
    pair_factors: Float64[Tensor, "p"]
    crossings: Int64[Tensor, "c"]
    """Bonds that move a held bead."""
    crossing_factors: Float64[Tensor, "c"]
    between: Float64[Tensor, "b"]
    """Entries between beads."""
    high: Int64[Tensor, "e"]
    """One row of each entry beside the diagonal: pairs, crossings with x, y, z, between beads."""
    low: Int64[Tensor, "e"]
    """The other."""
    diagonal: Float64[Tensor, "r"]
    means: Float64[Tensor, "h"]
    """Mean diagonal of the held beads of a molecule."""
    places: Int64[Tensor, "r"]
    """Of each row in the vectors of all blocks, which are as long as the blocks' batches are."""
    padded: int
    """How long these are."""
    batches: tuple[tuple[int, int, int, int], ...]
    """Blocks of one size: where they begin in vectors and in matrices, how many, how large."""
    targets: Int64[Tensor, "k"]
    """Where entries stand in the blocks, both triangles."""
    entries: Int64[Tensor, "k"]
    """Which."""
    diagonals: Int64[Tensor, "r"]
    """Where the diagonal stands."""
    blank: Float64[Tensor, "q"]
    """Blocks without entries: 1 on the diagonal of rows that do not exist."""
    whole: bool
    """Whether each molecule is one block."""

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self.molecules)


# --- tables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    """Constraints of one molecule type, and its copies."""

    copies: Int64[np.ndarray, "k"]
    atoms: Int64[np.ndarray, "m 2"]
    lengths: Float64[np.ndarray, "m"]
    beads: Int64[np.ndarray, "h"]
    i: Int64[np.ndarray, "e"]
    j: Int64[np.ndarray, "e"]
    value: Float64[np.ndarray, "e"]
    diagonal: Float64[np.ndarray, "i"]
    block: Int64[np.ndarray, "i"]
    """Of each bond and bead."""
    local: Int64[np.ndarray, "i"]
    """First row in it."""
    sizes: Int64[np.ndarray, "b"]
    mapping: MoleculeMapping


def held_of(
    mapping: SystemMapping,
    exact: Sequence[Bool[np.ndarray, "_"]],
    *,
    rigid: bool,
    lightest: float,
    device: torch.device,
) -> Held:
    """The constraints of a system.

    Args:
        mapping: topology and beads.
        exact: beads of each type that some copy holds exactly.
        rigid: whether bonds are held at their lengths.
        lightest: lighter atoms count as that heavy, u.
        device: to work on.
    """
    topology = mapping.topology
    index = topology.molecule_type_index()
    kinds = [
        _kind(np.flatnonzero(index == t), molecule, beads, exact[t], rigid, lightest)
        for t, (molecule, beads) in enumerate(
            zip(topology.molecule_types, mapping.molecules, strict=True)
        )
    ]
    slots = _Slots(kinds)
    found = _Columns()
    n_bonds = sum(len(k.copies) * len(k.atoms) for k in kinds)
    bond = bead = 0
    for k in kinds:
        _add_kind(found, k, mapping, slots.places(k), (n_bonds, bond, bead))
        bond, bead = bond + len(k.copies) * len(k.atoms), bead + len(k.copies) * len(k.beads)
    masses = np.maximum(topology.masses(), lightest)
    sizes = np.diff(topology.molecule_offsets())
    return _finished(found, slots, masses, np.repeat(np.arange(len(sizes)), sizes), device)


def _kind(
    copies: Int64[np.ndarray, "k"],
    molecule: MoleculeType,
    mapping: MoleculeMapping,
    exact: Bool[np.ndarray, "b"],
    rigid: bool,
    lightest: float,
) -> _Kind:
    atoms, lengths = rigid_bonds(molecule, bonds=rigid)
    beads = np.flatnonzero(exact)
    items = items_of(atoms, mapping, np.maximum(molecule.masses, lightest), beads)
    i, j, value = below(items)
    widths = np.where(np.arange(items.shape[0]) < len(atoms), 1, 3)
    block, local, sizes = _cut(widths, i, j)
    diagonal = items.diagonal() * (1.0 + RIDGE)
    return _Kind(copies, atoms, lengths, beads, i, j, value, diagonal, block, local, sizes, mapping)


def _cut(
    widths: Int64[np.ndarray, "i"], i: Int64[np.ndarray, "e"], j: Int64[np.ndarray, "e"]
) -> tuple[Int64[np.ndarray, "i"], Int64[np.ndarray, "i"], Int64[np.ndarray, "b"]]:
    """Block of each bond and bead, its first row there, and rows of each block."""
    n = len(widths)
    order = np.arange(n)
    if widths.sum() > BLOCK:
        ones = np.ones(len(i))
        graph = scipy.sparse.coo_array((ones, (i, j)), shape=(n, n)).tocsr()
        order = reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True)
    ends = np.cumsum(widths[order])
    pieces = -(-int(widths.sum()) // BLOCK)
    room = max(1, int(widths.sum()) // max(1, pieces))
    block, local = np.zeros((2, n), dtype=np.int64)
    block[order] = np.minimum((ends - 1) // room, max(0, pieces - 1))
    sizes = np.bincount(block, widths, max(1, pieces) if n else 0).astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    local[order] = ends - widths[order]
    return block, local - starts[block], sizes


class _Slots:
    """Where the blocks of all copies stand."""

    def __init__(self, kinds: Sequence[_Kind]) -> None:
        self._first: dict[tuple[int, int], int] = {}
        counts: dict[int, int] = {}
        for k in kinds:
            for b, size in enumerate(k.sizes.tolist()):
                padded = _padded(size)
                self._first[id(k), b] = counts.get(padded, 0)
                counts[padded] = counts.get(padded, 0) + len(k.copies)
        self.batches, vector, matrix = [], 0, 0
        for size, count in sorted(counts.items()):
            if count:
                self.batches.append((vector, matrix, count, size))
                vector, matrix = vector + count * size, matrix + count * size * size
        self.padded, self.entries = vector, matrix
        self._starts = {size: (v, m) for v, m, _, size in self.batches}

    def places(self, k: _Kind) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """First place in vectors and in matrices of the block of each bond and bead of all copies,
        (copies, items), and the size of that block, (items,)."""
        sizes = np.array([_padded(s) for s in k.sizes.tolist()], dtype=np.int64)
        first = np.array([self._first[id(k), b] for b in range(len(sizes))], dtype=np.int64)
        starts = np.array([self._starts.get(s, (0, 0)) for s in sizes.tolist()]).reshape(-1, 2)
        slot = first[k.block] + np.arange(len(k.copies))[:, None]
        size = sizes[k.block]
        return starts[k.block, 0] + slot * size, starts[k.block, 1] + slot * size**2, size


def _padded(size: int) -> int:
    return max(1, -(-size // ROUND) * ROUND if size > ROUND else size)


class _Columns:
    """Arrays by name, of one type after the other."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, **arrays: np.ndarray) -> None:
        """More of each."""
        for name, array in arrays.items():
            self._parts.setdefault(name, []).append(np.asarray(array))

    def get(self, name: str, *tail: int, dtype: type = np.int64) -> np.ndarray:
        """All of it."""
        parts = self._parts.get(name, [])
        shaped: list[np.ndarray] = [p.reshape(-1, *tail).astype(dtype) for p in parts]
        return np.concatenate([np.zeros((0, *tail), dtype=dtype), *shaped])

    def tensor(self, name: str, device: torch.device, *tail: int, dtype: type = np.int64) -> Tensor:
        """The same on a device."""
        return torch.as_tensor(self.get(name, *tail, dtype=dtype), device=device)


def _add_kind(
    found: _Columns,
    k: _Kind,
    mapping: SystemMapping,
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    first: tuple[int, int, int],
) -> None:
    """Adds the rows of all copies of a type."""
    count, m, h = len(k.copies), len(k.atoms), len(k.beads)
    if not count:
        return
    n_bonds, bond, bead = first
    copy = np.arange(count)[:, None]
    atoms = mapping.topology.molecule_offsets()[k.copies][:, None]
    beads = mapping.bead_offsets()[k.copies][:, None]
    # row of each item of each copy; of beads that of x
    rows = np.concatenate(
        [bond + copy * m + np.arange(m), n_bonds + 3 * (bead + copy * h + np.arange(h))], axis=1
    )
    axes = np.arange(3)
    vectors, matrices, size = places
    at = vectors + k.local
    found.add(
        bonds=atoms[..., None] + k.atoms, lengths=np.tile(k.lengths, count),
        beads=beads + k.beads, bond_molecules=np.repeat(k.copies, m),
        bead_molecules=np.repeat(k.copies, 3 * h),
        bond_diagonal=np.tile(k.diagonal[:m], count),
        bead_diagonal=np.tile(np.repeat(k.diagonal[m:], 3), count),
        means=np.full(count * h, k.diagonal[m:].mean() if h else 0.0),
        bond_places=at[:, :m], bead_places=at[:, m:, None] + axes,
        bond_diagonals=(matrices + k.local * (size + 1))[:, :m],
        bead_diagonals=(matrices + k.local * (size + 1))[:, m:, None] + axes * (size[m:, None] + 1),
    )  # fmt: skip
    _add_shares(found, k, atoms, bead + copy * h)
    _add_entries(found, k, rows, matrices, size)


def _add_shares(found: _Columns, k: _Kind, atoms: np.ndarray, bead: np.ndarray) -> None:
    """Atoms and weights of the held beads."""
    number = np.full(k.mapping.n_beads, -1)
    number[k.beads] = np.arange(len(k.beads))
    own = number[k.mapping.weight_beads]
    kept = np.flatnonzero(own >= 0)
    kept = kept[np.argsort(own[kept], kind="stable")]
    own = own[kept]
    firsts = np.searchsorted(own, np.arange(len(k.beads)))
    share_atoms = k.mapping.weight_atoms[kept]
    found.add(
        share_atoms=atoms + share_atoms, share_beads=bead + own,
        share_firsts=atoms + share_atoms[firsts][own], first_atoms=atoms + share_atoms[firsts],
        shares=np.tile(k.mapping.weights[kept], len(k.copies)),
    )  # fmt: skip


def _add_entries(
    found: _Columns, k: _Kind, rows: np.ndarray, matrices: np.ndarray, size: np.ndarray
) -> None:
    """Entries beside the diagonal."""
    m, count = len(k.atoms), len(k.copies)
    axes = np.arange(3)
    for name, chosen, across in (
        ("pair", k.i < m, (0, 0)),
        ("cross", (k.i >= m) & (k.j < m), (1, 0)),
        ("between", k.j >= m, (1, 1)),
    ):
        i, j, value = k.i[chosen], k.j[chosen], k.value[chosen]
        turns = axes if any(across) else axes[:1]
        more = [turns * a for a in across]
        start = matrices[:, i]
        li, lj = (k.local[e][:, None] + a for e, a in zip((i, j), more, strict=True))
        inside = np.broadcast_to((k.block[i] == k.block[j])[:, None], li.shape)
        one, other = li * size[i][:, None] + lj, lj * size[i][:, None] + li
        found.add(
            **{
                f"{name}_high": rows[:, i, None] + more[0],
                f"{name}_low": rows[:, j, None] + more[1],
                f"{name}_factors": np.tile(value, count),
                f"{name}_first": np.where(inside, start[..., None] + one, -1),
                f"{name}_second": np.where(inside, start[..., None] + other, -1),
            }
        )


def _finished(
    found: _Columns,
    slots: _Slots,
    masses: Float64[np.ndarray, "n"],
    atom_molecules: Int64[np.ndarray, "n"],
    device: torch.device,
) -> Held:
    names = ("pair", "cross", "between")

    def joined(*parts: str, dtype: type = np.int64) -> np.ndarray:
        return np.concatenate([found.get(name, dtype=dtype) for name in parts])

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=device)

    targets = np.concatenate([joined(*(f"{n}_{w}" for n in names)) for w in ("first", "second")])
    entries = np.tile(np.arange(len(targets) // 2), 2)[targets >= 0]
    diagonals = joined("bond_diagonals", "bead_diagonals")
    blank = np.zeros(slots.entries)
    for _, start, count, size in slots.batches:
        blank[start + np.arange(count)[:, None] * size**2 + np.arange(size) * (size + 1)] = 1.0
    molecules = joined("bond_molecules", "bead_molecules")
    real, column = found.get, found.tensor
    places = joined("bond_places", "bead_places")
    return Held(
        bonds=column("bonds", device, 2), lengths=column("lengths", device, dtype=np.float64),
        beads=column("beads", device), share_atoms=column("share_atoms", device),
        share_beads=column("share_beads", device), share_firsts=column("share_firsts", device),
        shares=column("shares", device, dtype=np.float64),
        first_atoms=column("first_atoms", device), inverses=tensor(1.0 / masses),
        atom_molecules=tensor(atom_molecules), molecules=tensor(molecules),
        n_molecules=int(atom_molecules.max(initial=-1)) + 1,
        pairs=tensor(np.stack([real("pair_high"), real("pair_low")], axis=1)),
        pair_factors=column("pair_factors", device, dtype=np.float64),
        crossings=tensor(real("cross_low", 3)[:, 0]),
        crossing_factors=column("cross_factors", device, dtype=np.float64),
        between=tensor(np.repeat(real("between_factors", dtype=np.float64), 3)),
        high=tensor(joined(*(f"{n}_high" for n in names))),
        low=tensor(joined(*(f"{n}_low" for n in names))),
        diagonal=tensor(joined("bond_diagonal", "bead_diagonal", dtype=np.float64)),
        means=column("means", device, dtype=np.float64), places=tensor(places),
        padded=slots.padded, batches=tuple(slots.batches), targets=tensor(targets[targets >= 0]),
        entries=tensor(entries), diagonals=tensor(diagonals), blank=tensor(blank),
        whole=_one_block_each(slots, places, molecules),
    )  # fmt: skip


def _one_block_each(slots: _Slots, places: np.ndarray, molecules: np.ndarray) -> bool:
    """Whether no molecule has rows in two blocks."""
    block = np.zeros(len(places), dtype=np.int64)
    first = 0
    for vector, _, count, size in slots.batches:
        inside = (places >= vector) & (places < vector + count * size)
        block[inside] = first + (places[inside] - vector) // size
        first += count
    return len(np.unique(np.stack([block, molecules]), axis=1).T) == len(np.unique(molecules))


# --- equations ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Matrix:
    """``A`` at some positions."""

    values: Float64[Tensor, "e"]
    """Of the entries beside the diagonal."""
    diagonal: Float64[Tensor, "r"]
    active: Float64[Tensor, "r"]
    """1 for rows that count, 0 for beads that a copy does not hold."""


Inverses = tuple[Float64[Tensor, "_ _ _"], ...]
"""Of the blocks, batch by batch."""


def units(
    held: Held, x: Float64[Tensor, "n 3"], cell: Float64[Tensor, "3 3"] | None
) -> Float64[Tensor, "m 3"]:
    """Unit vectors along the bonds, from the second atom to the first."""
    d = minimum_image(x[held.bonds[:, 0]] - x[held.bonds[:, 1]], cell)
    length = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    # atoms at one point have to part, in whichever direction
    anywhere = torch.zeros_like(d)
    anywhere[:, 0] = 1.0
    return torch.where(length < COINCIDENT, anywhere, d / length.clamp(min=COINCIDENT))


def matrix(
    held: Held,
    u: Float64[Tensor, "m 3"],
    active: Float64[Tensor, "r"],
    added: Float64[Tensor, "r"] | None = None,
) -> Matrix:
    """``A`` for units along the bonds.

    Args:
        held: constraints.
        u: ``units``.
        active: as ``Matrix.active``.
        added: to the diagonal.
    """
    pair = held.pair_factors * (u[held.pairs[:, 0]] * u[held.pairs[:, 1]]).sum(-1)
    cross = (held.crossing_factors[:, None] * u[held.crossings]).reshape(-1)
    values = torch.cat([pair, cross, held.between])
    diagonal = held.diagonal if added is None else held.diagonal + added
    values = values * (active[held.high] * active[held.low])
    return Matrix(values, torch.where(active > 0.0, diagonal, 1.0), active)


def _blocks(held: Held, a: Matrix) -> list[Float64[Tensor, "_ _ _"]]:
    """The blocks of ``A``, batch by batch."""
    blocks = held.blank.clone()
    blocks[held.targets] = a.values[held.entries]
    blocks[held.diagonals] = a.diagonal
    return [
        blocks[start : start + count * size * size].view(count, size, size)
        for _, start, count, size in held.batches
    ]


def invert(held: Held, a: Matrix) -> Inverses:
    """Inverses of the blocks of ``A``."""
    factors = (torch.linalg.cholesky_ex(batch)[0] for batch in _blocks(held, a))
    return tuple(torch.cholesky_inverse(factor) for factor in factors)


def improved(held: Held, a: Matrix, inverses: Inverses) -> Inverses:
    """Inverses of the blocks of ``A`` from those of a short time ago: squares what they are off,
    ``1 - A X`` (Schulz, Z. angew. Math. Mech. 13, 57, 1933). Products of matrices are what a card
    does best; factors take it many times as long."""
    return tuple(
        torch.baddbmm(inverse, inverse, batch @ inverse, beta=2.0, alpha=-1.0)
        for batch, inverse in zip(_blocks(held, a), inverses, strict=True)
    )


def precondition(held: Held, inverses: Inverses, y: Float64[Tensor, "r"]) -> Float64[Tensor, "r"]:
    """What the inverses of the blocks make of a vector."""
    vector = torch.zeros(held.padded, dtype=y.dtype, device=y.device)
    vector[held.places] = y
    found = [
        torch.bmm(inverse, vector[first : first + count * size].view(count, size, 1)).reshape(-1)
        for (first, _, count, size), inverse in zip(held.batches, inverses, strict=True)
    ]
    return torch.cat(found)[held.places]


def multiply(held: Held, a: Matrix, y: Float64[Tensor, "r"]) -> Float64[Tensor, "r"]:
    """``A`` times a vector."""
    found = a.diagonal * y
    found.index_add_(0, held.high, a.values * y[held.low])
    found.index_add_(0, held.low, a.values * y[held.high])
    return found


def _by_molecule(held: Held, values: Float64[Tensor, "r"]) -> Float64[Tensor, "c"]:
    found = torch.zeros(held.n_molecules, dtype=values.dtype, device=values.device)
    return found.index_add_(0, held.molecules, values)


def solve(
    held: Held,
    a: Matrix,
    inverses: Inverses,
    right: Float64[Tensor, "r"],
    iterations: int,
    residual: float = 0.0,
) -> Float64[Tensor, "r"]:
    """Solutions by conjugate gradients, each molecule's on its own.

    Args:
        held: constraints.
        a: the matrix.
        inverses: of blocks of it, or of what it was a short time ago.
        right: right sides.
        iterations: how many, or at most.
        residual: end, if that much of the largest right side is left; looking costs a wait for the
            card. 0: never look.
    """
    y, r = torch.zeros_like(right), right
    p = z = precondition(held, inverses, r)
    rho = _by_molecule(held, r * z)
    for k in range(iterations):
        q = multiply(held, a, p)
        curvature = _by_molecule(held, p * q)
        # molecules that are done have neither
        size = torch.where(curvature > 0.0, rho / curvature.clamp(min=1e-300), 0.0)[held.molecules]
        y = y + size * p
        if k + 1 == iterations:
            break
        r = r - size * q
        look = residual > 0.0 and k % AT_ONCE == AT_ONCE - 1
        if look and bool(r.abs().max() <= residual * right.abs().max()):
            break
        z = precondition(held, inverses, r)
        old, rho = rho, _by_molecule(held, r * z)
        ratio = torch.where(old > 0.0, rho / old.clamp(min=1e-300), 0.0)
        p = z + ratio[held.molecules] * p
    return y


def beads_at(
    held: Held, x: Float64[Tensor, "n 3"], cell: Float64[Tensor, "3 3"] | None
) -> Float64[Tensor, "h 3"]:
    """Where the forward map puts held beads; their weights add up to one."""
    at, found = x[held.share_atoms], torch.zeros_like(x[held.first_atoms])
    if cell is not None:
        at = minimum_image(at - x[held.share_firsts], cell)
        found = x[held.first_atoms]
    return found.index_add(0, held.share_beads, held.shares[:, None] * at)


def deviations(
    held: Held,
    x: Float64[Tensor, "n 3"],
    goals: Float64[Tensor, "h 3"],
    active: Float64[Tensor, "r"],
    cell: Float64[Tensor, "3 3"] | None,
) -> Float64[Tensor, "r"]:
    """How far bonds and beads are off, nm."""
    d = minimum_image(x[held.bonds[:, 0]] - x[held.bonds[:, 1]], cell)
    bonds = torch.linalg.vector_norm(d, dim=-1) - held.lengths
    beads = minimum_image(beads_at(held, x, cell) - goals, cell)
    return torch.cat([bonds, beads.reshape(-1)]) * active


def move(held: Held, u: Float64[Tensor, "m 3"], y: Float64[Tensor, "r"]) -> Float64[Tensor, "n 3"]:
    """The smallest mass-weighted move that changes bonds and beads by a solution."""
    found = torch.zeros((len(held.inverses), 3), dtype=y.dtype, device=y.device)
    m = len(held.bonds)
    along = y[:m, None] * u
    beads = y[m:].view(-1, 3)[held.share_beads] * held.shares[:, None]
    index = torch.cat([held.bonds[:, 0], held.bonds[:, 1], held.share_atoms])
    found.index_add_(0, index, torch.cat([along, -along, beads]))
    return found * held.inverses[:, None]


def changes(
    held: Held, u: Float64[Tensor, "m 3"], v: Float64[Tensor, "n 3"], active: Float64[Tensor, "r"]
) -> Float64[Tensor, "r"]:
    """How fast vectors of the atoms change lengths and beads."""
    bonds = ((v[held.bonds[:, 0]] - v[held.bonds[:, 1]]) * u).sum(-1)
    return torch.cat([bonds, beads_at(held, v, None).reshape(-1)]) * active


def largest(
    held: Held, values: Float64[Tensor, "r"], rows: slice = slice(None)
) -> Float64[Tensor, "c"]:
    """Largest size of each molecule; what is not a number stays one."""
    found = torch.zeros(held.n_molecules, dtype=values.dtype, device=values.device)
    return found.scatter_reduce_(0, held.molecules[rows], values[rows].abs(), "amax")


# --- ways onto the constraints --------------------------------------------------------------------


def shake(
    held: Held,
    a: Matrix,
    inverses: Inverses,
    u: Float64[Tensor, "m 3"],
    x: Float64[Tensor, "n 3"],
    goals: Float64[Tensor, "h 3"],
    cell: Float64[Tensor, "3 3"] | None,
    rounds: int,
    iterations: int,
) -> tuple[Float64[Tensor, "n 3"], Float64[Tensor, "r"]]:
    """Moves atoms along the directions of constraints where they come from (SHAKE).

    Args:
        held: constraints.
        a: matrix where atoms come from.
        inverses: of that, or older.
        u: units along the bonds there.
        x: positions, nm.
        goals: where beads are to be, nm.
        cell: as for ``units``.
        rounds: of all of it.
        iterations: of conjugate gradients in each.

    Returns:
        Positions, and how far bonds and beads are off then.
    """
    for _ in range(rounds):
        off = deviations(held, x, goals, a.active, cell)
        x = x - move(held, u, solve(held, a, inverses, off, iterations) * a.active)
    return x, deviations(held, x, goals, a.active, cell)


def strained_goals(
    held: Held,
    x: Float64[Tensor, "n 3"],
    goals: Float64[Tensor, "h 3"],
    active: Float64[Tensor, "r"],
    cell: Float64[Tensor, "3 3"] | None,
    tolerance: float,
) -> Float64[Tensor, "h 3"]:
    """Where beads are to be, or are, in molecules whose beads are out of reach: from there there
    is no small move onto them."""
    at = beads_at(held, x, cell)
    beads = slice(len(held.bonds), None)
    off = minimum_image(at - goals, cell).reshape(-1) * active[beads]
    worst = torch.zeros(held.n_molecules, dtype=x.dtype, device=x.device)
    worst.scatter_reduce_(0, held.molecules[beads], off.abs(), "amax")
    strained = (worst > tolerance)[held.molecules[beads].view(-1, 3)[:, 0]]
    return torch.where(strained[:, None], at, goals)


def project(
    held: Held,
    x: Float64[Tensor, "n 3"],
    goals: Float64[Tensor, "h 3"],
    active: Float64[Tensor, "r"],
    cell: Float64[Tensor, "3 3"] | None,
    tolerance: float,
) -> tuple[Float64[Tensor, "n 3"], Float64[Tensor, "c"], Float64[Tensor, "c"]]:
    """Brings molecules onto their bonds and, as near as these allow, onto their beads.

    As ``mechanics.solver.project`` from wherever atoms are. It waits for the card now and then.

    Returns:
        Positions, and the largest deviation of a bond and of a bead's coordinate by molecule.
    """
    going = torch.ones(held.n_molecules, dtype=torch.bool, device=x.device)
    m = len(held.bonds)
    if held.n_rows:
        for alone in (False, True):
            x, going = _approach(held, x, goals, active, cell, tolerance, going, alone)
            if not bool(going.any()):
                break
    off = deviations(held, x, goals, active, cell)
    return x, largest(held, off, slice(m)), largest(held, off, slice(m, None))


def _approach(
    held: Held,
    x: Float64[Tensor, "n 3"],
    goals: Float64[Tensor, "h 3"],
    active: Float64[Tensor, "r"],
    cell: Float64[Tensor, "3 3"] | None,
    tolerance: float,
    going: Bool[Tensor, "c"],
    alone: bool,
) -> tuple[Float64[Tensor, "n 3"], Bool[Tensor, "c"]]:
    """``mechanics.solver.approach`` with directions of where molecules are."""
    m = len(held.bonds)
    damping = torch.ones(held.n_molecules, dtype=x.dtype, device=x.device)
    last = torch.full_like(damping, torch.inf)
    means = torch.cat([torch.zeros_like(held.lengths), held.means.repeat_interleave(3)])
    for _ in range(BOND_ITERATIONS if alone else ITERATIONS):
        off = deviations(held, x, goals, active, cell)
        if alone:
            off[m:] = 0.0
        bond, bead = largest(held, off, slice(m)), largest(held, off, slice(m, None))
        worst = torch.maximum(bond, bead)
        stalled = worst > PROGRESS * last
        damping, last = torch.where(stalled, 2.0 * damping, damping), worst
        going = going & ~((bond <= tolerance) & ((bead <= tolerance) | stalled))
        if not bool(going.any()):
            break
        part = (worst / REACH).clamp(1.0 if alone else 0.0, 1.0)
        u = units(held, x, cell)
        a = matrix(held, u, active, (damping * part)[held.molecules] * means)
        y = solve(held, a, invert(held, a), off, 1 if held.whole else GRADIENTS, RESIDUAL)
        moved = move(held, u, y * active)
        x = x - _bounded(held, moved) * going[held.atom_molecules][:, None] * moved
    return x, going


def _bounded(held: Held, moved: Float64[Tensor, "n 3"]) -> Float64[Tensor, "n 1"]:
    """By how much the move of each atom's molecule is to be scaled."""
    farthest = torch.full((held.n_molecules,), LARGEST_MOVE, dtype=moved.dtype, device=moved.device)
    farthest.scatter_reduce_(
        0, held.atom_molecules, torch.linalg.vector_norm(moved, dim=-1), "amax"
    )
    return (LARGEST_MOVE / farthest)[held.atom_molecules][:, None]

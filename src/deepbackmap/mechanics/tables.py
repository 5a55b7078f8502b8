"""Tables of a system for the compiled loops: what every molecule type is made of, and who is where.

The state (positions, velocities, forces) is kept in *groups* of ``LANES`` copies of one molecule
type: x of the first atom of each copy, y, z, x of the second atom of each, and so on. Where there
are fewer copies than a group has room for, the last one stands in for those that are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from deepbackmap.forcefield.system import TermTable, molecule_tables
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.mechanics import columns
from deepbackmap.mechanics.bonded import KERNELS, PARTS, with_grids
from deepbackmap.mechanics.constraints import Constraints, constraints_of
from deepbackmap.mechanics.lanes import LANES
from deepbackmap.mechanics.solver import RIDGE
from deepbackmap.system import MoleculeType
from deepbackmap.system.kinds import SPRINGS


class Tables(NamedTuple):
    """Molecule types, in a few long arrays: what compiled functions take costs by the number."""

    first: Any
    """(t, columns): see ``columns``."""
    integers: Any
    reals: Any


class Groups(NamedTuple):
    """Groups of copies, and where they begin."""

    types: Any
    bases: Any
    """First place in the state."""
    beads: Any
    """First place in arrays of beads."""
    copies: Any
    """How many are real."""
    molecules: Any
    """(g, LANES): of the system."""


@dataclass(frozen=True)
class Places:
    """Where atoms and beads of the system are in the state."""

    groups: Groups
    atoms: Int64[np.ndarray, "n"]
    """Place of x of each atom; y and z follow after ``LANES`` each."""
    beads: Int64[np.ndarray, "nb"]
    """The same of each bead."""
    from_atoms: Int64[np.ndarray, "s"]
    """Atom of each place that holds an x, stand-ins included: (places / 3)."""
    from_beads: Int64[np.ndarray, "r"]

    def spread(self, vectors: Float[np.ndarray, "n 3"]) -> Float64[np.ndarray, "p"]:
        """Vectors of atoms as the state has them, stand-ins included."""
        return _spread(vectors, self.from_atoms)

    def spread_beads(self, vectors: Float[np.ndarray, "nb 3"]) -> Float64[np.ndarray, "p"]:
        """The same of beads."""
        return _spread(vectors, self.from_beads)

    def gather(self, state: Float64[np.ndarray, "p"]) -> Float64[np.ndarray, "n 3"]:
        """Vectors of atoms in the order of the topology."""
        return state[self.atoms[:, None] + LANES * np.arange(3)]


def _spread(vectors: np.ndarray, source: np.ndarray) -> Float64[np.ndarray, "p"]:
    found = vectors[source.reshape(-1, LANES)].transpose(0, 2, 1)
    return np.ascontiguousarray(found, dtype=np.float64).reshape(-1)


def places_of(mapping: SystemMapping) -> Places:
    """Groups of the copies of each type, types in their order, copies in theirs."""
    topology = mapping.topology
    index = topology.molecule_type_index()
    atom_offsets, bead_offsets = topology.molecule_offsets(), mapping.bead_offsets()
    types, molecules, copies = [], [], []
    for t in range(len(topology.molecule_types)):
        which = np.flatnonzero(index == t)
        if not len(which):
            continue
        groups = -(-len(which) // LANES)
        filled = np.concatenate([which, np.repeat(which[-1:], groups * LANES - len(which))])
        molecules.append(filled.reshape(-1, LANES))
        types.append(np.full(groups, t, dtype=np.int64))
        real = np.full(groups, LANES, dtype=np.int64)
        real[-1] = len(which) - (groups - 1) * LANES
        copies.append(real)
    kinds = np.concatenate(types) if types else np.zeros(0, dtype=np.int64)
    members = np.concatenate(molecules) if molecules else np.zeros((0, LANES), dtype=np.int64)
    real = np.concatenate(copies) if copies else np.zeros(0, dtype=np.int64)
    n_atoms = np.array([m.n_atoms for m in topology.molecule_types], dtype=np.int64)
    n_beads = np.array([m.n_beads for m in mapping.molecules], dtype=np.int64)
    bases, atoms, from_atoms = _lay_out(kinds, members, real, n_atoms, atom_offsets)
    bead_bases, beads, from_beads = _lay_out(kinds, members, real, n_beads, bead_offsets)
    groups_ = Groups(kinds, bases, bead_bases, real, members)
    return Places(groups_, atoms, beads, from_atoms, from_beads)


def _lay_out(
    kinds: Int64[np.ndarray, "g"],
    members: Int64[np.ndarray, "g w"],
    real: Int64[np.ndarray, "g"],
    sizes: Int64[np.ndarray, "t"],
    offsets: Int64[np.ndarray, "m1"],
) -> tuple[Int64[np.ndarray, "g"], Int64[np.ndarray, "n"], Int64[np.ndarray, "s"]]:
    """First place of each group, place of each particle, and particle of each place."""
    own = sizes[kinds]
    bases = np.cumsum(own) - own
    source = np.empty(int(own.sum()) * LANES, dtype=np.int64)
    where = np.empty(int(offsets[-1]), dtype=np.int64)
    for t in np.unique(kinds):
        groups = np.flatnonzero(kinds == t)
        number = np.arange(sizes[t])
        particles = offsets[members[groups]][:, None, :] + number[None, :, None]
        slots = (bases[groups, None] + number)[..., None] * LANES + np.arange(LANES)
        source[slots] = particles
        kept = np.broadcast_to(np.arange(LANES) < real[groups, None, None], slots.shape)
        x = slots // LANES * (3 * LANES) + slots % LANES
        where[particles[kept]] = x[kept]
    return bases * 3 * LANES, where, source


class _Packed:
    """Arrays of one molecule type, added to those of all."""

    def __init__(self) -> None:
        self.integers: list[np.ndarray] = []
        self.reals: list[np.ndarray] = []
        self._sizes = [0, 0]

    def integer(self, array: Any) -> int:
        """Where integers come to be."""
        return self._add(0, self.integers, np.asarray(array, dtype=np.int64))

    def real(self, array: Any) -> int:
        """Where numbers come to be."""
        return self._add(1, self.reals, np.asarray(array, dtype=np.float64))

    def _add(self, which: int, parts: list[np.ndarray], array: np.ndarray) -> int:
        parts.append(array.ravel())
        self._sizes[which] += array.size
        return self._sizes[which] - array.size


def tables_of(
    mapping: SystemMapping,
    held: Sequence[Bool[np.ndarray, "_"]],
    names: Sequence[str],
    *,
    rigid: bool,
    lightest: float,
) -> tuple[Tables, list[list[TermTable]]]:
    """Tables of all molecule types, and the terms of each that no kernel can take.

    Args:
        mapping: topology and beads.
        held: beads of each type that some copy holds exactly.
        names: of the energies, in their order.
        rigid: whether bonds are held at their lengths.
        lightest: lighter atoms count as that heavy, u.
    """
    types, packed = mapping.topology.molecule_types, _Packed()
    first = np.zeros((len(types), columns.ROOM + 1), dtype=np.int64)
    left = []
    for t, (molecule, beads) in enumerate(zip(types, mapping.molecules, strict=True)):
        masses = np.maximum(molecule.masses, lightest)
        rows, without = _term_rows(packed, molecule, names, rigid=rigid)
        left.append(without)
        found = {
            "N_ATOMS": len(masses), "MASSES": packed.real(masses),
            "INVERSES": packed.real(1.0 / masses),
            "N_TERMS": len(rows), "TERMS": packed.integer(rows),
            **_constraint_columns(
                packed,
                constraints_of(molecule, beads, masses, held[t], bonds=rigid, ridge=RIDGE),
                masses,
            ),
            **_share_columns(packed, beads, masses),
        }  # fmt: skip
        found |= _layout(found)
        for name, value in found.items():
            first[t, vars(columns)[name]] = value
    together = (np.concatenate([np.zeros(0, d), *parts]).astype(d) for d, parts in (
        (np.int64, packed.integers), (np.float64, packed.reals)
    ))  # fmt: skip
    return Tables(first, *together), left


def _layout(found: Mapping[str, int]) -> dict[str, int]:
    """Where the arrays of a group begin in its working memory, and the size of that."""
    n, held, places = 3 * found["N_ATOMS"], found["N_HELD"], found["N_PLACES"]
    more = found["INCOMPLETE"] * (3 * places + held)
    sizes = {
        "UNITS": 3 * found["N_BONDS"], "FACTOR": found["N_SLOTS"] + 1,  # for what is left out
        "SIDES": places, "AIM": n, "MOVE": n, "START": n, "GOAL": 3 * held + more, "ROOM": 0,
    }  # fmt: skip
    ends = LANES * np.cumsum([0, *sizes.values()])
    return {name: int(end) for name, end in zip(sizes, ends, strict=False)}


def _term_rows(
    packed: _Packed, molecule: MoleculeType, names: Sequence[str], *, rigid: bool
) -> tuple[list[list[int]], list[TermTable]]:
    """Tables of bonded terms, and those that no kernel can take."""
    rows, left = [], []
    for table in (part for whole in molecule_tables(molecule) for part in _parts(whole)):
        held = rigid and table.kind in SPRINGS
        kernel = KERNELS.get(table.kind)
        values = None if kernel is None else kernel.prepare(table.parameters.double().numpy())
        if kernel is None or values is None:
            left += [] if held else [table]  # at its length a bond has neither force nor energy
            continue
        atoms = 3 * LANES * table.index.numpy()
        reals = with_grids(values, None if table.grids is None else table.grids.numpy())
        rows.append(
            [kernel.number, packed.integer(atoms), len(atoms), packed.real(reals),
             values.shape[1], names.index(table.term), int(held), kernel.loop]
        )  # fmt: skip
    return rows, left


def _parts(table: TermTable) -> list[TermTable]:
    """A table, or those whose sum it is."""
    return [
        TermTable(table.term, kind, table.index[:, atoms], table.parameters[:, chosen])
        for kind, atoms, chosen in PARTS.get(table.kind, ())
    ] or [table]


def _constraint_columns(
    packed: _Packed, c: Constraints, masses: Float64[np.ndarray, "n"]
) -> dict[str, int]:
    """What the solver needs."""
    return {
        "N_BONDS": len(c.atoms), "BONDS": packed.integer(3 * LANES * c.atoms),
        "LENGTHS": packed.real(c.lengths), "BOND_INVERSES": packed.real(1.0 / masses[c.atoms]),
        "N_HELD": len(c.beads), "HELD": packed.integer(c.beads),
        "MEAN": packed.real([c.diagonal_values.mean() if len(c.beads) else 1.0]),
        "N_PLACES": len(c.places), "PLACES": packed.integer(c.places),
        "STARTS": packed.integer(c.starts), "N_SLOTS": len(c.rows),
        "ROWS": packed.integer(c.rows), "TARGETS": packed.integer(c.targets),
        "N_PAIRS": len(c.pairs), "PAIRS": packed.integer(c.pairs),
        "PAIR_FACTORS": packed.real(c.pair_factors),
        "N_CROSSINGS": len(c.crossings), "CROSSINGS": packed.integer(c.crossings),
        "CROSSING_FACTORS": packed.real(c.crossing_factors),
        "N_FIXED": len(c.fixed), "FIXED": packed.integer(c.fixed),
        "FIXED_VALUES": packed.real(c.fixed_values),
        "DIAGONALS": packed.integer(c.diagonals),
        "DIAGONAL_VALUES": packed.real(c.diagonal_values),
        "INCOMPLETE": int(c.incomplete), "PIVOTS": packed.real(c.pivots),
    }  # fmt: skip


def _share_columns(
    packed: _Packed, mapping: MoleculeMapping, masses: Float64[np.ndarray, "n"]
) -> dict[str, int]:
    """The forward map, bead by bead."""
    order = np.argsort(mapping.weight_beads, kind="stable")
    atoms = mapping.weight_atoms[order]
    counts = np.bincount(mapping.weight_beads, minlength=mapping.n_beads)
    return {
        "N_BEADS": mapping.n_beads,
        "SHARES": packed.integer(np.concatenate([[0], np.cumsum(counts)])),
        "SHARE_ATOMS": packed.integer(3 * LANES * atoms),
        "WEIGHTS": packed.real(mapping.weights[order]),
        "SHARE_INVERSES": packed.real(1.0 / masses[atoms]),
    }

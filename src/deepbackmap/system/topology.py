"""Topology: molecule types, how many of each, and the non-bonded parameters by atom type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.system.kinds import CHEMICAL, KINDS
from deepbackmap.system.pair_forms import PairForms

LISTED = 20
"""Of many problems so many are written out."""


@dataclass(frozen=True)
class BondedTerms:
    """All terms of one kind in one molecule."""

    atoms: Int64[np.ndarray, "n k"]
    """0-based atom indices inside the molecule."""
    parameters: Float64[np.ndarray, "n p"]
    """Columns as in ``kinds.KINDS``."""
    grids: Float64[np.ndarray, "t d *points"] | None = None
    """Tables of kinds that have them: for a curve (t, 2, points) energies / kJ mol-1 and their
    slopes at even spacing; for a surface (t, 4, n, n) energies, both slopes and the mixed second
    derivative by angles in rad, from -pi on, periodic."""


@dataclass(frozen=True)
class Unsupported:
    """Terms whose energy is not known, so that what needs energies must refuse them."""

    what: str
    """The terms, the reason and what to do about it, for a message."""
    where: str
    """``file:line`` of the first."""
    count: int
    """How many lines."""

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more such lines)" if self.count > 1 else ""
        return f"{self.where}: {self.what}{more}"


@dataclass(frozen=True)
class MoleculeType:
    """One kind of molecule, atom by atom, with everything that is counted inside it."""

    name: str
    atom_names: tuple[str, ...]
    atom_types: tuple[str, ...]
    residue_names: tuple[str, ...]
    """One a atom."""
    residue_numbers: Int64[np.ndarray, "n"]
    """As the topology numbers them, one a atom."""
    charges: Float64[np.ndarray, "n"]
    """In e."""
    masses: Float64[np.ndarray, "n"]
    """In u."""
    terms: Mapping[str, BondedTerms]
    """By kind (``kinds.KINDS``); kinds that do not occur are absent."""
    nrexcl: int
    exclusions: Int64[np.ndarray, "m 2"]
    """Every excluded pair i < j (nrexcl bonds and explicit ones), sorted, unique."""
    pairs: BondedTerms
    """Explicit 1-4 interactions: atoms (i, j); columns sigma / nm, epsilon / kJ mol-1 and
    the charge factor (fudgeQQ). Pairs with charges of their own are terms."""
    sites: Mapping[str, BondedTerms] = field(default_factory=dict)
    """Virtual sites by kind (``kinds.SITES``); the first atom of a row is the site."""
    unsupported: tuple[Unsupported, ...] = ()
    """Terms whose energies are not known."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the molecule."""
        return len(self.atom_names)

    @property
    def bonds(self) -> Int64[np.ndarray, "n 2"]:
        """The chemical bonds, whatever their energy, and constraints; i < j, sorted, unique."""
        found = [self.terms[k].atoms for k in CHEMICAL if k in self.terms]
        if not found:
            return np.zeros((0, 2), dtype=np.int64)
        return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)

    @property
    def heavy(self) -> np.ndarray:
        """Which atoms are heavy (mass above 3 u, so that deuterium counts as hydrogen), (n,)."""
        return self.masses > 3.0

    @property
    def virtual(self) -> Bool[np.ndarray, "n"]:
        """Which atoms are virtual sites: without mass, placed where other atoms say."""
        found = np.zeros(self.n_atoms, dtype=bool)
        for listed in self.sites.values():
            found[listed.atoms[:, 0]] = True
        return found


@dataclass(frozen=True)
class Origin:
    """A LAMMPS data file that lists the atoms of a system, so that one like it can be written."""

    path: str
    length: float
    """Of its unit in nm."""
    columns: int
    """Of its rows of atoms, in front of the coordinates."""
    flags: bool
    """Whether image flags stand behind them."""
    inputs: tuple[str, ...] = ()
    """Input scripts that were read with it."""


@dataclass(frozen=True)
class Topology:
    """The whole system as runs of molecule types, in the order of the coordinates."""

    title: str
    molecule_types: tuple[MoleculeType, ...]
    blocks: tuple[tuple[int, int], ...]
    """(index into ``molecule_types``, how many) in file order; an index may recur."""
    type_names: tuple[str, ...]
    """Atom types, in the order of the rows of ``c6`` and ``c12``."""
    c6: Float64[np.ndarray, "t t"]
    """LJ attraction by pair of types, kJ/mol nm^6 (combination rule already applied)."""
    c12: Float64[np.ndarray, "t t"]
    """LJ repulsion by pair of types, kJ/mol nm^12."""
    pair_forms: PairForms | None = None
    """Energies by pair of types where some are not Lennard-Jones; ``c6`` and ``c12`` then only say
    how large atoms are."""
    source: str = field(default="topology", compare=False)
    """File it came from, for messages."""
    intermolecular: Mapping[str, BondedTerms] = field(default_factory=dict)
    """Terms between molecules by kind, with atoms of the system."""
    unsupported: tuple[Unsupported, ...] = ()
    """What belongs to no one molecule and whose energy is not known."""
    notices: tuple[str, ...] = ()
    """What is allowed but looks like a mistake, each with its place, for whoever is told."""

    origin: Origin | None = field(default=None, compare=False)
    """The data file it is, if it is one of LAMMPS."""

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return sum(count for _, count in self.blocks)

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return sum(self.molecule_types[t].n_atoms * count for t, count in self.blocks)

    def molecule_type_index(self) -> Int64[np.ndarray, "m"]:
        """Index into ``molecule_types`` for every molecule."""
        if not self.blocks:
            return np.zeros(0, dtype=np.int64)
        return np.concatenate([np.full(c, t, dtype=np.int64) for t, c in self.blocks])

    def molecule_offsets(self) -> Int64[np.ndarray, "m1"]:
        """First atom of every molecule, and the number of atoms at the end."""
        sizes = np.array([m.n_atoms for m in self.molecule_types], dtype=np.int64)
        return np.concatenate([[0], np.cumsum(sizes[self.molecule_type_index()])]).astype(np.int64)

    def expand_terms(self, kind: str, *, between: bool = True) -> BondedTerms:
        """All terms of one kind with global atom indices, in molecule order, then those between.

        Memory grows with the system; for a million atoms work molecule type by type instead.

        Args:
            kind: of ``kinds.KINDS``.
            between: whether terms between molecules count. No bond of these is ever held at its
                length, nor are exclusions counted over it, as in GROMACS.
        """
        parts = [
            (m.terms[kind], first, m.n_atoms, count)
            for m, first, count in self.runs()
            if kind in m.terms
        ]
        if between and kind in self.intermolecular:
            parts.append((self.intermolecular[kind], 0, 0, 1))
        return _expand(parts, KINDS[kind].n_atoms, len(KINDS[kind].columns))

    def runs(self) -> list[tuple[MoleculeType, int, int]]:
        """Molecule type, first atom and number of molecules of every block."""
        found, first = [], 0
        for index, count in self.blocks:
            molecule = self.molecule_types[index]
            found.append((molecule, first, count))
            first += molecule.n_atoms * count
        return found

    def atom_type_index(self) -> Int64[np.ndarray, "n"]:
        """Row of ``c6`` and ``c12`` for every atom of the system."""
        row = {name: i for i, name in enumerate(self.type_names)}
        per = [
            np.array([row[t] for t in m.atom_types], dtype=np.int64) for m in self.molecule_types
        ]
        runs = [np.tile(per[t], c) for t, c in self.blocks]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)

    def charges(self) -> Float64[np.ndarray, "n"]:
        """Charge of every atom of the system in e."""
        runs = [np.tile(self.molecule_types[t].charges, c) for t, c in self.blocks]
        return np.concatenate(runs) if runs else np.zeros(0)

    def virtual(self) -> Bool[np.ndarray, "n"]:
        """Which atoms of the system are virtual sites."""
        runs = [np.tile(self.molecule_types[t].virtual, c) for t, c in self.blocks]
        return np.concatenate(runs) if runs else np.zeros(0, dtype=bool)

    def masses(self) -> Float64[np.ndarray, "n"]:
        """Mass of every atom of the system in u."""
        runs = [np.tile(self.molecule_types[t].masses, c) for t, c in self.blocks]
        return np.concatenate(runs) if runs else np.zeros(0)


def _expand(
    parts: list[tuple[BondedTerms, int, int, int]], width: int, columns: int
) -> BondedTerms:
    """Terms repeated over runs of (terms, first atom, atoms a copy, copies); tables put together.

    Rows of a table are named by the column of ``kinds.KINDS`` that says so.
    """
    atoms = [np.zeros((0, width), dtype=np.int64)]
    parameters = [np.zeros((0, columns))]
    grids: list[np.ndarray] = []
    for terms, first, size, count in parts:
        shift = first + size * np.arange(count, dtype=np.int64)
        atoms.append((terms.atoms[None] + shift[:, None, None]).reshape(-1, width))
        rows = terms.parameters
        if terms.grids is not None:
            known = next((k for k, g in enumerate(grids) if g is terms.grids), None)
            if known is None:
                known = len(grids)
                grids.append(terms.grids)
            rows = rows.copy()
            rows[:, 0 if columns == 1 else 1] += sum(len(g) for g in grids[:known])
        parameters.append(np.tile(rows, (count, 1)))
    tables = np.concatenate(grids) if grids else None
    return BondedTerms(np.concatenate(atoms), np.concatenate(parameters), tables)


def require_energies(topology: Topology) -> None:
    """Refuses a topology with terms whose energies are not known.

    Raises:
        InputError: naming all of them: which term, in which molecule, where and how many; with
            the notices.
    """
    found = [str(u) for u in topology.unsupported]
    used = dict.fromkeys(index for index, count in topology.blocks if count)
    for molecule in (topology.molecule_types[index] for index in used):
        found += [f"{u} in molecule {molecule.name}" for u in molecule.unsupported]
    if not found:
        return
    found += [f"{notice} (a notice)" for notice in topology.notices]
    if len(found) == 1:
        raise InputError(f"{found[0]}; what is asked for needs its energy")
    raise InputError(
        listed_problems(
            f"{topology.source}: expected energies of all terms, for what is asked for needs them, "
            f"found {len(found) - len(topology.notices)} kinds of term without",
            found,
        )
    )


def require_lennard_jones(topology: Topology, what: str) -> None:
    """Refuses a topology with pairs that are not Lennard-Jones.

    Args:
        topology: with energies.
        what: what does not have them, for the message.

    Raises:
        InputError: there are such pairs.
    """
    if topology.pair_forms is not None:
        raise InputError(
            f"{topology.source}: expected pairs of atoms that are Lennard-Jones for {what}, found "
            f"others (Buckingham, 9-6 or shifted): their energies are those of the engine openmm"
        )


def listed_problems(head: str, found: list[str]) -> str:
    """One message of many problems: a sentence, then a line for each of the first."""
    lines = [f"{head}:", *(f"  {problem}" for problem in found[:LISTED])]
    if len(found) > LISTED:
        lines.append(f"  and {len(found) - LISTED} more")
    return "\n".join(lines)

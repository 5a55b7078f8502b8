"""Topology: molecule types, how many of each, and the non-bonded parameters by atom type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

TERM_COLUMNS: dict[str, tuple[int, tuple[str, ...]]] = {
    # kind: (atoms in a term, names and units of the parameter columns)
    "bond": (2, ("length / nm", "k / kJ mol-1 nm-2")),
    "constraint": (2, ("length / nm",)),
    "angle": (3, ("theta0 / rad", "k / kJ mol-1 rad-2")),
    "angle_g96": (3, ("theta0 / rad", "k / kJ mol-1")),
    "proper": (4, ("phase / rad", "k / kJ mol-1", "multiplicity")),
    "ryckaert_bellemans": (4, ("c0", "c1", "c2", "c3", "c4", "c5")),
    "improper": (4, ("xi0 / rad", "k / kJ mol-1 rad-2")),
}
"""Kinds of bonded term. Energies: bond k/2 (r-r0)^2; angle k/2 (theta-theta0)^2; angle_g96
k/2 (cos theta - cos theta0)^2; proper k (1 + cos(n phi - phase)) with phi = 180 degrees for
trans; ryckaert_bellemans sum_n c_n cos(phi - 180 degrees)^n; improper k/2 (xi-xi0)^2.
GROMACS' periodic improper (type 4) is a ``proper``."""


@dataclass(frozen=True)
class BondedTerms:
    """All terms of one kind in one molecule."""

    atoms: Int64[np.ndarray, "n k"]
    """0-based atom indices inside the molecule."""
    parameters: Float64[np.ndarray, "n p"]
    """Columns as in ``TERM_COLUMNS``."""


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
    """By kind (``TERM_COLUMNS``); kinds that do not occur are absent."""
    nrexcl: int
    exclusions: Int64[np.ndarray, "m 2"]
    """Every excluded pair i < j (nrexcl bonds and explicit ones), sorted, unique."""
    pairs: BondedTerms
    """Explicit 1-4 interactions: atoms (i, j); columns sigma / nm, epsilon / kJ mol-1 and
    the charge factor (fudgeQQ)."""

    @property
    def n_atoms(self) -> int:
        """Number of atoms of the molecule."""
        return len(self.atom_names)

    @property
    def bonds(self) -> Int64[np.ndarray, "n 2"]:
        """The chemical bonds: ``bond`` and ``constraint`` terms, i < j, sorted, unique."""
        found = [self.terms[k].atoms for k in ("bond", "constraint") if k in self.terms]
        if not found:
            return np.zeros((0, 2), dtype=np.int64)
        return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)

    @property
    def heavy(self) -> np.ndarray:
        """Which atoms are heavy (mass above 3 u, so that deuterium counts as hydrogen), (n,)."""
        return self.masses > 3.0


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
    source: str = field(default="topology", compare=False)
    """File it came from, for messages."""

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

    def expand_terms(self, kind: str) -> BondedTerms:
        """All terms of one kind with global atom indices, in molecule order.

        Memory grows with the system; for a million atoms work molecule type by type instead.
        """
        width, columns = TERM_COLUMNS[kind]
        atoms: list[np.ndarray] = []
        parameters: list[np.ndarray] = []
        offset = 0
        for index, count in self.blocks:
            molecule = self.molecule_types[index]
            if kind in molecule.terms:
                t = molecule.terms[kind]
                shift = offset + molecule.n_atoms * np.arange(count, dtype=np.int64)
                atoms.append((t.atoms[None] + shift[:, None, None]).reshape(-1, width))
                parameters.append(np.tile(t.parameters, (count, 1)))
            offset += molecule.n_atoms * count
        if not atoms:
            return BondedTerms(
                np.zeros((0, width), dtype=np.int64), np.zeros((0, len(columns)), dtype=np.float64)
            )
        return BondedTerms(np.concatenate(atoms), np.concatenate(parameters))

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

    def masses(self) -> Float64[np.ndarray, "n"]:
        """Mass of every atom of the system in u."""
        runs = [np.tile(self.molecule_types[t].masses, c) for t, c in self.blocks]
        return np.concatenate(runs) if runs else np.zeros(0)

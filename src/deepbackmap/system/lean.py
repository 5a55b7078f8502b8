"""Systems without their virtual sites: for what places and moves atoms only.

A virtual site has no mass and no place of its own. What puts atoms back works on the atoms, and the
sites are constructed afterwards. Their charges stay in the system: each is shared by the atoms that
its site is constructed from as its place is, which keeps charge and dipole of sites that lie in
the line or plane of these atoms (a force on such a site acts on them in just that way).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.system.kinds import HELD
from deepbackmap.system.sites import place_sites
from deepbackmap.system.structure import Structure
from deepbackmap.system.topology import BondedTerms, MoleculeType, Topology

Shares = list[tuple[int, float]]
"""Atoms with their parts of a site."""


@dataclass(frozen=True)
class Lean:
    """A system, and the same without its virtual sites."""

    full: Topology
    topology: Topology
    """Without sites; the same object where there are none."""
    real: Bool[np.ndarray, " n"]
    """Which atoms of the system are no sites."""

    @property
    def sites(self) -> int:
        """How many there are in the system."""
        return len(self.real) - int(self.real.sum())

    def notes(self) -> tuple[str, ...]:
        """What is done about the sites, as a sentence; none where there are none."""
        if not self.sites:
            return ()
        return (
            f"{self.sites} virtual sites are constructed from the atoms; meanwhile these carry "
            "their charges",
        )

    def strip(self, structure: Structure) -> Structure:
        """A structure of the full system without its sites."""
        if not self.sites:
            return structure
        return replace(structure, positions=structure.positions[self.real])

    def fill(self, structure: Structure) -> Structure:
        """A structure without sites with them in their places."""
        return replace(structure, positions=self.filled(structure.positions, structure.box))

    def filled(
        self, positions: Float64[np.ndarray, "r 3"], box: Float64[np.ndarray, "3 3"]
    ) -> Float64[np.ndarray, "n 3"]:
        """Positions of the full system, nm, from those of the atoms."""
        if not self.sites:
            return positions
        found = np.zeros((len(self.real), 3))
        found[self.real] = positions
        return place_sites(found, box, self.full)


def without_sites(topology: Topology) -> Lean:
    """A system without its virtual sites.

    Terms that act on a site are left out, and so is the Lennard-Jones of sites.

    Args:
        topology: of the full system.
    """
    real = ~topology.virtual()
    if real.all():
        return Lean(topology, topology, real)
    types = tuple(_lean_molecule(m) if m.sites else m for m in topology.molecule_types)
    between = {
        kind: found
        for kind, terms in topology.intermolecular.items()
        if len((found := _renumbered(terms, _new_numbers(real))).atoms)
    }
    return Lean(topology, replace(topology, molecule_types=types, intermolecular=between), real)


def site_shares(molecule: MoleculeType) -> dict[int, Shares]:
    """For every virtual site of a molecule the atoms that make it, with weights that add to one.

    Places that are no weighted mean are replaced by the nearest that is one: a distance along a
    line is one of the line's lengths in the topology, and what lies across a plane stays in it.

    Args:
        molecule: the molecule type.
    """
    lengths = _lengths(molecule)
    direct: dict[int, Shares] = {}
    for kind, listed in molecule.sites.items():
        for atoms, numbers in zip(listed.atoms.tolist(), listed.parameters.tolist(), strict=True):
            direct.setdefault(atoms[0], []).extend(_shares(kind, atoms[1:], numbers, lengths))
    return {site: _spread(shares, direct) for site, shares in direct.items()}


def _shares(
    kind: str, atoms: list[int], numbers: list[float], lengths: Mapping[tuple[int, int], float]
) -> Shares:
    """Those of one row, which may be sites themselves."""
    if kind == "site_mean":
        return [(atoms[0], numbers[0])]
    a, b = 0.0, 0.0
    if kind in ("site2", "site3", "site3_out"):
        a, b = numbers[0], numbers[1] if len(numbers) > 1 else 0.0
    elif kind == "site2_distance":
        a = numbers[0] / lengths[_key(*atoms)] if _key(*atoms) in lengths else 0.0
    elif kind == "site3_distance":
        i, j, k = atoms
        known = [lengths.get(_key(*pair)) for pair in ((i, j), (i, k), (j, k))]
        if all(known):
            ij, ik, jk = (float(d or 0.0) for d in known)
            part = numbers[0]
            # |(1 - a) ij + a ik| by the law of cosines
            square = (1 - part) * ij**2 + part * ik**2 - part * (1 - part) * jk**2
            scale = numbers[1] / np.sqrt(square) if square > 0 else 0.0
            a, b = scale * (1 - part), scale * part
    rest = [(atom, share) for atom, share in zip(atoms[1:3], (a, b), strict=False) if share]
    return [(atoms[0], 1.0 - a - b), *rest]


def _spread(shares: Shares, direct: Mapping[int, Shares], depth: int = 0) -> Shares:
    """Shares of sites handed on to the atoms that make these."""
    found: dict[int, float] = {}
    for atom, share in shares:
        parts = [(atom, 1.0)]
        if atom in direct and depth < len(direct):
            parts = _spread(direct[atom], direct, depth + 1)
        for other, part in parts:
            found[other] = found.get(other, 0.0) + share * part
    return list(found.items())


def _key(i: int, j: int) -> tuple[int, int]:
    return (min(i, j), max(i, j))


def _lengths(molecule: MoleculeType) -> dict[tuple[int, int], float]:
    """Lengths of rest by pair of atoms, nm: of bonds, constraints, and across harmonic angles."""
    found: dict[tuple[int, int], float] = {}
    for kind in HELD:
        for pair, length in _rows(molecule, kind):
            found[_key(*pair)] = length
    for (i, j, k), theta in _rows(molecule, "angle"):
        sides = found.get(_key(i, j)), found.get(_key(j, k))
        if sides[0] and sides[1] and _key(i, k) not in found:
            square = sides[0] ** 2 + sides[1] ** 2 - 2 * sides[0] * sides[1] * np.cos(theta)
            found[_key(i, k)] = float(np.sqrt(max(square, 0.0)))
    return found


def _rows(molecule: MoleculeType, kind: str) -> Iterator[tuple[list[int], float]]:
    """Atoms and first column of the terms of a kind."""
    if kind in molecule.terms:
        terms = molecule.terms[kind]
        yield from zip(terms.atoms.tolist(), terms.parameters[:, 0].tolist(), strict=True)


def _new_numbers(real: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Index of every atom among those that stay; -1 for the others."""
    return np.where(real, np.cumsum(real) - 1, -1).astype(np.int64)


def _renumbered(terms: BondedTerms, numbers: Int64[np.ndarray, " n"]) -> BondedTerms:
    """The terms whose atoms all stay."""
    atoms = numbers[terms.atoms]
    stay = (atoms >= 0).all(axis=1)
    return replace(terms, atoms=atoms[stay], parameters=terms.parameters[stay])


def _lean_molecule(molecule: MoleculeType) -> MoleculeType:
    real = ~molecule.virtual
    numbers = _new_numbers(real)
    charges = molecule.charges.copy()
    for site, shares in site_shares(molecule).items():
        for atom, share in shares:
            charges[atom] += share * molecule.charges[site]
    kept = np.flatnonzero(real).tolist()
    terms = {kind: _renumbered(t, numbers) for kind, t in molecule.terms.items()}
    exclusions = numbers[molecule.exclusions]
    return replace(
        molecule,
        atom_names=tuple(molecule.atom_names[k] for k in kept),
        atom_types=tuple(molecule.atom_types[k] for k in kept),
        residue_names=tuple(molecule.residue_names[k] for k in kept),
        residue_numbers=molecule.residue_numbers[real],
        charges=charges[real],
        masses=molecule.masses[real],
        terms={kind: t for kind, t in terms.items() if len(t.atoms)},
        exclusions=exclusions[(exclusions >= 0).all(axis=1)],
        pairs=_renumbered(molecule.pairs, numbers),
        sites={},
    )

"""The energy of one molecule without neighbours, as arrays that compiled loops read."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.quantities import BOLTZMANN, COULOMB
from deepbackmap.system import MoleculeType, Topology

LOCAL = 4
"""Bonds: atoms of a molecule that are farther apart only repel each other. In a liquid neighbours
take the place of the rest of the molecule; alone, a chain would curl up on itself."""
LIGHTEST = 3.0
"""u: lighter atoms move as if they weighed that much. Where atoms are in equilibrium does not
depend on it."""
FLAT, STIFF = 2.5, 12.0
"""Barriers of torsions between so many times the thermal energy are lowered to the first; higher
ones (double bonds, aromatic rings) are kept, and with them cis and trans."""
WITH_LENGTH = ("constraint", "bond", "bond_g96", "morse", "bond_cubic")
"""Kinds of bond whose first column is a length, at which it is held."""
HARMONIC = ("angle", "urey_bradley")
"""Kinds of angle that are taken as k/2 (theta - theta0)^2 by their first two columns."""
COSINE = ("angle_g96", "angle_restricted")
"""Kinds of angle that are taken as k/2 (cos theta - cos theta0)^2 by their first two columns.
What else a topology may hold is left out here: the dynamics of the whole box has all terms."""


@dataclass(frozen=True)
class VacuumTables:
    """One molecule, or a piece of one."""

    masses: Float64[np.ndarray, "n"]
    """As the atoms move, u."""
    bonds: Int64[np.ndarray, "b 2"]
    lengths: Float64[np.ndarray, "b"]
    """nm."""
    angles: Int64[np.ndarray, "a 3"]
    angle_parameters: Float64[np.ndarray, "a 3"]
    """theta0 / rad, k, and 1 where the energy is in the cosine (GROMOS-96), else 0."""
    propers: Int64[np.ndarray, "p 4"]
    proper_parameters: Float64[np.ndarray, "p 4"]
    """phase / rad, k / kJ mol-1, multiplicity, and the part of k that is left in the dynamics."""
    polynomials: Int64[np.ndarray, "q 4"]
    polynomial_parameters: Float64[np.ndarray, "q 7"]
    """Ryckaert-Bellemans c0 to c5 / kJ mol-1, and the part that is left in the dynamics."""
    impropers: Int64[np.ndarray, "i 4"]
    improper_parameters: Float64[np.ndarray, "i 2"]
    """xi0 / rad, k / kJ mol-1 rad-2."""
    pairs: Int64[np.ndarray, "k 2"]
    pair_parameters: Float64[np.ndarray, "k 4"]
    """c6, c12, charge factor in kJ mol-1 nm, and the square of the distance beyond which the pair
    does not push (far pairs only repel)."""
    centres: Int64[np.ndarray, "c 5"]
    """Stereocentres whose hand is asked for, each with its four branches."""
    signs: Float64[np.ndarray, "c"]
    """Wanted sign of (b - a) x (c - a) . (d - a) of the branches."""


def vacuum_tables(
    molecule: MoleculeType,
    topology: Topology,
    temperature: float,
    centres: Int64[np.ndarray, "c 5"] | None = None,
    signs: Float64[np.ndarray, "c"] | None = None,
) -> VacuumTables:
    """Tables of a molecule.

    Args:
        molecule: one of the topology's, or a piece of one.
        topology: its Lennard-Jones parameters by pair of types.
        temperature: K; torsions are made flat relative to it.
        centres: stereocentres with their branches, atoms of the molecule.
        signs: the hand of each.
    """
    bonds, lengths = _bonds(molecule)
    pairs, parameters = _pairs(molecule, topology)
    propers, proper_parameters = _columns(molecule, ("proper",), 4, 3)
    polynomials, polynomial_parameters = _columns(molecule, ("ryckaert_bellemans",), 4, 6)
    left = _torsions_left(
        molecule, propers, proper_parameters, polynomials, polynomial_parameters, temperature
    )
    impropers, improper_parameters = _columns(molecule, ("improper",), 4, 2)
    return VacuumTables(
        masses=np.maximum(molecule.masses, LIGHTEST),
        bonds=bonds,
        lengths=lengths,
        **_angles(molecule),
        propers=propers,
        proper_parameters=np.column_stack([proper_parameters, left[0]]),
        polynomials=polynomials,
        polynomial_parameters=np.column_stack([polynomial_parameters, left[1]]),
        impropers=impropers,
        improper_parameters=improper_parameters,
        pairs=pairs,
        pair_parameters=parameters,
        centres=np.zeros((0, 5), dtype=np.int64) if centres is None else centres,
        signs=np.zeros(0) if signs is None else signs.astype(np.float64),
    )


def bond_distances(molecule: MoleculeType, most: int) -> list[dict[int, int]]:
    """Bonds from every atom to those at most ``most`` bonds away, itself included."""
    neighbours: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for i, j in molecule.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    found = []
    for start in range(molecule.n_atoms):
        far = {start: 0}
        queue = deque([start])
        while queue:
            atom = queue.popleft()
            if far[atom] < most:
                for other in neighbours[atom]:
                    if other not in far:
                        far[other] = far[atom] + 1
                        queue.append(other)
        found.append(far)
    return found


def _bonds(molecule: MoleculeType) -> tuple[np.ndarray, np.ndarray]:
    """Bonds and constraints with their lengths, each pair once."""
    atoms, parameters = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
    for kind in WITH_LENGTH:
        if kind in molecule.terms:
            atoms.append(np.sort(molecule.terms[kind].atoms, axis=1))
            parameters.append(molecule.terms[kind].parameters[:, 0])
    pairs, first = np.unique(np.concatenate(atoms), axis=0, return_index=True)
    return pairs, np.concatenate(parameters)[first]


def _columns(
    molecule: MoleculeType, kinds: tuple[str, ...], width: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms and parameters of some kinds of term."""
    atoms, parameters = [np.zeros((0, width), dtype=np.int64)], [np.zeros((0, columns))]
    for kind in kinds:
        if kind in molecule.terms:
            atoms.append(molecule.terms[kind].atoms)
            parameters.append(molecule.terms[kind].parameters[:, :columns])
    return np.concatenate(atoms), np.concatenate(parameters)


def _angles(molecule: MoleculeType) -> dict[str, np.ndarray]:
    """Angles of both forms, with a column that tells them apart."""
    plain, a = _columns(molecule, HARMONIC, 3, 2)
    cosine, b = _columns(molecule, COSINE, 3, 2)
    form = np.concatenate([np.zeros(len(plain)), np.ones(len(cosine))])
    return {
        "angles": np.concatenate([plain, cosine]),
        "angle_parameters": np.column_stack([np.concatenate([a, b]), form]),
    }


def _torsions_left(
    molecule: MoleculeType,
    propers: np.ndarray,
    proper_parameters: np.ndarray,
    polynomials: np.ndarray,
    polynomial_parameters: np.ndarray,
    temperature: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The part of every torsion that is left in the dynamics, from the barrier about its bond."""
    heights: dict[tuple[int, int], float] = {}

    def bond_of(term: np.ndarray) -> tuple[int, int]:
        return (int(min(term[1], term[2])), int(max(term[1], term[2])))

    for term, (_, k, _) in zip(propers, proper_parameters, strict=True):
        heights[bond_of(term)] = heights.get(bond_of(term), 0.0) + 2.0 * abs(float(k))
    grid = np.cos(np.linspace(0.0, math.pi, 61))[:, None] ** np.arange(6)
    for term, c in zip(polynomials, polynomial_parameters, strict=True):
        heights[bond_of(term)] = heights.get(bond_of(term), 0.0) + float(np.ptp(grid @ c))
    thermal = BOLTZMANN * temperature

    def left(term: np.ndarray) -> float:
        height = heights[bond_of(term)] / thermal
        return FLAT / height if FLAT < height < STIFF else 1.0

    return (
        np.array([left(t) for t in propers], dtype=np.float64),
        np.array([left(t) for t in polynomials], dtype=np.float64),
    )


def _pairs(molecule: MoleculeType, topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """Pairs inside the molecule: those that are not excluded, and the listed 1-4 ones."""
    row = {name: i for i, name in enumerate(topology.type_names)}
    types = np.array([row[t] for t in molecule.atom_types], dtype=np.int64)
    i, j = np.triu_indices(molecule.n_atoms, 1)
    excluded = np.zeros((molecule.n_atoms, molecule.n_atoms), dtype=bool)
    excluded[tuple(molecule.exclusions.T)] = True
    keep = ~excluded[i, j]
    i, j = i[keep], j[keep]
    near = bond_distances(molecule, LOCAL)
    far = np.array([b not in near[a] for a, b in zip(i.tolist(), j.tolist(), strict=True)], bool)
    c6, c12 = topology.c6[types[i], types[j]], topology.c12[types[i], types[j]]
    charge = np.where(far, 0.0, COULOMB * molecule.charges[i] * molecule.charges[j])
    reach = np.full(len(i), np.inf)
    bottom = far & (c6 > 0.0)
    reach[bottom] = (2.0 * c12[bottom] / c6[bottom]) ** (1.0 / 3.0)
    listed, columns = _listed(molecule)
    return (
        np.concatenate([np.column_stack([i, j]), listed]).astype(np.int64),
        np.concatenate([np.column_stack([c6, c12, charge, reach]), columns]),
    )


def _listed(molecule: MoleculeType) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that the topology lists, most of them 1-4, with their parameters."""
    a, b = molecule.pairs.atoms.reshape(-1, 2).T
    sigma, epsilon, factor = molecule.pairs.parameters.reshape(-1, 3).T
    c6 = 4.0 * epsilon * sigma**6
    charge = COULOMB * factor * molecule.charges[a] * molecule.charges[b]
    powers, p = _columns(molecule, ("lj14_powers",), 2, 2)
    charges, q = _columns(molecule, ("coulomb14",), 2, 1)
    none = np.zeros((len(charges), 2))
    columns = np.concatenate(
        [
            np.column_stack([c6, c6 * sigma**6, charge]),
            np.column_stack([p, np.zeros(len(powers))]),
            np.column_stack([none, COULOMB * q]),
        ]
    )
    atoms = np.concatenate([molecule.pairs.atoms.reshape(-1, 2), powers, charges])
    return atoms, np.column_stack([columns, np.full(len(atoms), np.inf)])

"""The energy of one molecule without neighbours, as arrays that compiled loops read."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.forcefield.system import TermTable, molecule_tables
from deepbackmap.methods.physics.curves import Curves, angle_curves, torsion_curves
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
WITHOUT_LENGTH = ("fene", "bond_table")
"""Kinds of bond that are held where their energy is lowest."""
_DISTANCES = np.arange(0.05, 1.5, 0.0005)
"""nm, where that is looked for."""


@dataclass(frozen=True)
class VacuumTables:
    """One molecule, or a piece of one."""

    masses: Float64[np.ndarray, "n"]
    """As the atoms move, u."""
    bonds: Int64[np.ndarray, "b 2"]
    lengths: Float64[np.ndarray, "b"]
    """nm."""
    angles: Int64[np.ndarray, "a 3"]
    angle_which: Int64[np.ndarray, "a"]
    """The curve of each."""
    angle_curves: Float64[np.ndarray, "u points 2"]
    """As ``curves.Curves``."""
    torsions: Int64[np.ndarray, "t 4"]
    torsion_which: Int64[np.ndarray, "t"]
    torsion_left: Float64[np.ndarray, "t"]
    """The part of each that is left in the dynamics."""
    torsion_curves: Float64[np.ndarray, "w points 2"]
    pairs: Int64[np.ndarray, "k 2"]
    pair_parameters: Float64[np.ndarray, "k 4"]
    """c6, c12, charge factor in kJ mol-1 nm, and the square of the distance beyond which the pair
    does not push (far pairs only repel)."""
    centres: Int64[np.ndarray, "c 5"]
    """Stereocentres whose hand is asked for, each with its four branches."""
    signs: Float64[np.ndarray, "c"]
    """Wanted sign of (b - a) x (c - a) . (d - a) of the branches."""
    doubles: Int64[np.ndarray, "s 4"]
    """Double bonds whose side is asked for: branch, the two atoms, branch."""
    cis: Bool[np.ndarray, "s"]
    """Where they shall be cis."""
    behind: Bool[np.ndarray, "s n"]
    """Atoms on the second one's side of each."""


def vacuum_tables(
    molecule: MoleculeType,
    topology: Topology,
    temperature: float,
    centres: Int64[np.ndarray, "c 5"] | None = None,
    signs: Float64[np.ndarray, "c"] | None = None,
    sides: WantedSides | None = None,
) -> VacuumTables:
    """Tables of a molecule.

    Args:
        molecule: one of the topology's, or a piece of one.
        topology: its Lennard-Jones parameters by pair of types.
        temperature: K; torsions are made flat relative to it.
        centres: stereocentres with their branches, atoms of the molecule.
        signs: the hand of each.
        sides: of double bonds, atoms of the molecule. Those of rings are left alone.
    """
    bonds, lengths = _bonds(molecule, topology)
    by_pair = {(i, j): r for (i, j), r in zip(bonds.tolist(), lengths.tolist(), strict=True)}
    pairs, parameters = _pairs(molecule, topology)
    tables = molecule_tables(molecule)
    angles = angle_curves(tables, by_pair)
    torsions, proper = torsion_curves(tables, by_pair, angles)
    doubles, cis, behind = _sides(molecule, sides or WantedSides.nothing())
    return VacuumTables(
        masses=np.maximum(molecule.masses, LIGHTEST),
        bonds=bonds,
        lengths=lengths,
        angles=angles.atoms,
        angle_which=angles.which,
        angle_curves=angles.curves,
        torsions=torsions.atoms,
        torsion_which=torsions.which,
        torsion_left=_torsions_left(torsions, proper, BOLTZMANN * temperature),
        torsion_curves=torsions.curves,
        pairs=pairs,
        pair_parameters=parameters,
        centres=np.zeros((0, 5), dtype=np.int64) if centres is None else centres,
        signs=np.zeros(0) if signs is None else signs.astype(np.float64),
        doubles=doubles,
        cis=cis,
        behind=behind,
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


def _bonds(molecule: MoleculeType, topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """Bonds and constraints with their lengths, each pair once."""
    atoms, parameters = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
    for kind in WITH_LENGTH:
        if kind in molecule.terms:
            atoms.append(np.sort(molecule.terms[kind].atoms, axis=1))
            parameters.append(molecule.terms[kind].parameters[:, 0])
    for table in molecule_tables(molecule):
        if table.kind in WITHOUT_LENGTH:
            atoms.append(np.sort(table.index.numpy(), axis=1))
            parameters.append(_rests(table, molecule, topology))
    pairs, first = np.unique(np.concatenate(atoms), axis=0, return_index=True)
    return pairs, np.concatenate(parameters)[first]


def _rests(
    table: TermTable, molecule: MoleculeType, topology: Topology
) -> Float64[np.ndarray, "m"]:
    """Where the energy of two bonded atoms is lowest, Lennard-Jones between them included, nm."""
    excluded = {tuple(pair) for pair in molecule.exclusions.tolist()}
    row = {name: i for i, name in enumerate(topology.type_names)}
    found = np.zeros(len(table.index))
    for n, (a, b) in enumerate(table.index.tolist()):
        at = torch.zeros(len(_DISTANCES), 2, 3, dtype=torch.float64)
        at[:, 1, 0] = torch.from_numpy(_DISTANCES)
        parameters = table.parameters[n : n + 1]
        one = TermTable(table.term, table.kind, torch.tensor([[0, 1]]), parameters, table.grids)
        energy = one.energies(at, None)[:, 0].numpy()
        if (min(a, b), max(a, b)) not in excluded:
            i, j = (row[molecule.atom_types[k]] for k in (a, b))
            energy = (
                energy + topology.c12[i, j] / _DISTANCES**12 - topology.c6[i, j] / _DISTANCES**6
            )
        found[n] = _DISTANCES[energy.argmin()]
    return found


def _sides(
    molecule: MoleculeType, sides: WantedSides
) -> tuple[Int64[np.ndarray, "s 4"], Bool[np.ndarray, "s"], Bool[np.ndarray, "s n"]]:
    """Double bonds with a side that is asked for, where they are cis, and what is behind them."""
    neighbours: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for i, j in molecule.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    kept, behind = [], []
    for n, (_, j, k, _) in enumerate(sides.atoms.tolist()):
        seen, queue = {k}, [k]
        for atom in queue:
            queue += (new := [b for b in neighbours[atom] if b not in seen and (atom, b) != (k, j)])
            seen.update(new)
        if sides.side[n] and j not in seen:
            kept.append(n)
            behind.append(np.isin(np.arange(molecule.n_atoms), list(seen)))
    rows = np.array(behind, dtype=bool).reshape(len(kept), molecule.n_atoms)
    return sides.atoms[kept], sides.side[kept] > 0, rows


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


def _torsions_left(
    torsions: Curves, proper: Float64[np.ndarray, "t"], thermal: float
) -> Float64[np.ndarray, "t"]:
    """The part of every torsion that is left in the dynamics, from the barrier about its bond."""
    middle = np.sort(torsions.atoms[:, 1:3], axis=1)
    _, bond = np.unique(middle, axis=0, return_inverse=True)
    barriers = np.ptp(torsions.curves[:, :, 0], axis=1)[torsions.which] * proper
    height = np.bincount(bond.reshape(-1), barriers)[bond.reshape(-1)] / thermal
    lowered = (height > FLAT) & (height < STIFF) & (proper > 0.0)
    return np.where(lowered, FLAT / np.where(lowered, height, 1.0), 1.0)


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

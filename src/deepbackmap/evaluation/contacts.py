"""Pairs that are not bonded: radial distribution function and atoms that are too close."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int64
from vesin import NeighborList

from deepbackmap.evaluation.stereo import bonded_neighbours
from deepbackmap.forcefield.nonbonded import Exclusions, LennardJonesTable, neighbour_pairs
from deepbackmap.geometry.cell import cell_volume, minimum_image
from deepbackmap.system import MoleculeType, Structure, Topology


def pairs_within_bonds(molecule: MoleculeType, bonds: int) -> Int64[np.ndarray, "m 2"]:
    """Pairs of atoms i < j of a molecule that at most so many bonds lie between, sorted."""
    neighbours = bonded_neighbours(molecule)
    found = []
    for atom in range(molecule.n_atoms):
        reached, shell = {atom}, {atom}
        for _ in range(bonds):
            shell = {b for a in shell for b in neighbours[a]} - reached
            reached |= shell
        found += [(atom, b) for b in sorted(reached) if b > atom]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def exclude_within_bonds(topology: Topology, bonds: int) -> Exclusions:
    """The exclusions of a topology and all pairs within so many bonds."""
    types = tuple(
        replace(m, exclusions=np.concatenate([m.exclusions, pairs_within_bonds(m, bonds)]))
        for m in topology.molecule_types
    )
    return Exclusions(replace(topology, molecule_types=types))


def radial_distribution(
    structure: Structure,
    atoms: Int64[np.ndarray, " a"],
    excluded: Exclusions,
    *,
    width: float = 0.01,
    bins: int = 150,
) -> Float64[np.ndarray, " bins"]:
    """g(r) of some atoms around one another, over all periodic images.

    Excluded pairs are left out and not made up for, so g falls short of 1 where they would be.

    Args:
        structure: a frame; molecules need not be whole.
        atoms: which atoms.
        excluded: pairs to leave out (their shortest image only).
        width: of a bin, nm.
        bins: number of bins from 0; the last edge may exceed half the cell, since all images
            are counted.
    """
    if not len(atoms):
        return np.zeros(bins)
    box = np.ascontiguousarray(structure.box)
    # not geometry.cell.neighbour_pairs: counting needs each pair once and no order, and the
    # sorting would take most of the time
    finder = NeighborList(cutoff=width * bins, full_list=False)
    pairs, distances = finder.compute(structure.positions[atoms], box, True, "Pd")
    kept = ~_shortest_and_excluded(structure, atoms[pairs], distances, excluded)
    index = (distances[kept] / width).astype(np.int64)
    counts = 2.0 * np.bincount(np.minimum(index, bins - 1), minlength=bins)
    edges = width * np.arange(bins + 1)
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    density = len(atoms) / cell_volume(box)
    return counts / (len(atoms) * density * shells)


def _shortest_and_excluded(
    structure: Structure,
    pairs: Int64[np.ndarray, "m 2"],
    distances: Float64[np.ndarray, " m"],
    excluded: Exclusions,
) -> Bool[np.ndarray, " m"]:
    """Which pairs are excluded, and the shortest of their images."""
    out = excluded.contains(pairs)
    i, j = pairs[out].T
    vectors = minimum_image(structure.positions[j] - structure.positions[i], structure.box)
    out[out] = distances[out] < np.linalg.norm(vectors, axis=1) + 1e-6
    return out


def relative_distances(
    structure: Structure, topology: Topology, excluded: Exclusions, *, below: float = 1.0
) -> Float64[np.ndarray, " p"]:
    """Distances of the close pairs that are not excluded, in units of their sigma.

    Args:
        structure: a frame; molecules need not be whole.
        topology: whose Lennard-Jones parameters give sigma; pairs without one are left out.
        excluded: pairs to leave out.
        below: the largest distance of interest, in sigma.
    """
    sigma = LennardJonesTable.from_topology(topology).sigma.numpy()
    if not sigma.any():
        return np.zeros(0)
    types = topology.atom_type_index()
    found = [np.zeros(0)]
    for pairs in neighbour_pairs(structure.positions, structure.box, below * float(sigma.max())):
        scale = sigma[types[pairs[:, 0]], types[pairs[:, 1]]]
        vectors = structure.positions[pairs[:, 1]] - structure.positions[pairs[:, 0]]
        distances = np.linalg.norm(minimum_image(vectors, structure.box), axis=1)
        close = np.flatnonzero(distances < below * scale)
        close = close[~excluded.contains(pairs[close])]
        found.append(distances[close] / scale[close])
    return np.concatenate(found)

"""Pairs that are not bonded: radial distribution functions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.forcefield.nonbonded import Exclusions, neighbour_distances
from deepbackmap.geometry.cell import cell_volume, minimum_image
from deepbackmap.system import MoleculeType, Structure, Topology

RDF_WIDTH, RDF_BINS = 0.01, 150
"""Of the bins of g(r), nm, and their number."""


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


def radial_distributions(
    structure: Structure,
    atoms: Int64[np.ndarray, " a"],
    groups: Int64[np.ndarray, " a"],
    excluded: Exclusions,
    *,
    width: float = RDF_WIDTH,
    bins: int = RDF_BINS,
) -> Float64[np.ndarray, "pairs bins"]:
    """g(r) of some atoms around one another, over all periodic images.

    Excluded pairs are left out and not made up for, so g falls short of 1 where they would be.

    Args:
        structure: a frame; molecules need not be whole.
        atoms: which atoms.
        groups: group of each of them, numbered from 0.
        excluded: pairs to leave out (their shortest image only).
        width: of a bin, nm.
        bins: number of bins from 0; the last edge may exceed half the cell, since all images
            are counted.

    Returns:
        All atoms first; then, if there are several groups, every pair of groups in the order of
        ``group_pairs``.
    """
    sizes = np.bincount(groups)
    pairs = group_pairs(len(sizes))
    code = np.zeros((len(sizes), len(sizes)), dtype=np.int64)
    for k, (a, b) in enumerate(pairs):
        code[a, b] = code[b, a] = k
    counts = np.zeros(len(pairs) * bins, dtype=np.int64)
    if len(atoms):
        points = structure.positions[atoms]
        for found, apart in neighbour_distances(points, structure.box, width * bins):
            kept = ~_shortest_and_excluded(structure, atoms[found], apart, excluded)
            i, j = found[kept].T
            place = np.minimum((apart[kept] / width).astype(np.int64), bins - 1)
            place += bins * code[groups[i], groups[j]]
            counts += np.bincount(place, minlength=len(counts))
    by_pair = counts.reshape(-1, bins)
    shells = 4.0 / 3.0 * np.pi * np.diff((width * np.arange(bins + 1)) ** 3)
    ideal = shells / cell_volume(structure.box)
    n = max(1, len(atoms))
    curves = [2.0 * by_pair.sum(axis=0) / (n * n * ideal)]
    if len(pairs) > 1:
        curves += [
            (2.0 if a == b else 1.0) * counted / (sizes[a] * sizes[b] * ideal)
            for (a, b), counted in zip(pairs, by_pair, strict=True)
        ]
    return np.array(curves)


def group_pairs(groups: int) -> list[tuple[int, int]]:
    """Unordered pairs of so many groups, each with itself too."""
    return [(a, b) for a in range(groups) for b in range(a, groups)]


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

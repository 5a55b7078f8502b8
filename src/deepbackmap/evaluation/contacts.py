"""Pairs that are not bonded: radial distribution functions and atoms that are too close."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.molecules import PairBatch
from deepbackmap.forcefield.nonbonded import Exclusions, neighbour_distances
from deepbackmap.geometry.cell import cell_volume, minimum_image
from deepbackmap.system import MoleculeType, Structure, Topology

CLOSE = 0.6
"""In sigma: a pair nearer than that is a clash."""
OVERLAP = 0.02
"""nm: a pair nearer than that overlaps, whatever its atoms are."""
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


class Contacts:
    """The close pairs of a frame that are not excluded, gathered batch by batch."""

    def __init__(self, field: ForceField) -> None:
        self._field = field
        self._sigma = field.lennard_jones.sigma.numpy()
        self._rows = field.type_rows.numpy()
        self.reach = max(float(self._sigma.max(initial=0.0)), OVERLAP)
        """Pairs beyond are of no interest, nm."""
        self.closest = math.inf
        """Smallest distance in units of the pair's sigma; infinite where no pair is nearer than
        its sigma. Pairs without a sigma are left out."""
        self.closest_pair = (-1, -1)
        """Atoms of it; -1 where there is none."""
        self.nearest = math.inf
        """Smallest distance in nm; infinite where all are beyond the largest sigma."""
        self.nearest_pair = (-1, -1)
        self.overlaps = 0
        """Pairs nearer than ``OVERLAP``."""
        self._clashing: list[Int64[np.ndarray, "m 2"]] = [np.zeros((0, 2), dtype=np.int64)]

    def add(self, batch: PairBatch) -> None:
        """Looks at the pairs of a batch."""
        near = np.flatnonzero(batch.distances < self.reach)
        near = near[~batch.excluded[near]]
        if not len(near):
            return
        pairs, apart = batch.pairs[near], batch.distances[near]
        k = int(apart.argmin())
        if apart[k] < self.nearest:
            self.nearest, self.nearest_pair = float(apart[k]), _both(pairs[k])
        self.overlaps += int(np.count_nonzero(apart < OVERLAP))
        relative = self._in_sigma(pairs, apart)
        k = int(relative.argmin())
        if relative[k] < min(1.0, self.closest):
            self.closest, self.closest_pair = float(relative[k]), _both(pairs[k])
        self._clashing.append(pairs[relative < CLOSE])

    @property
    def clashes(self) -> Int64[np.ndarray, "c 2"]:
        """Pairs nearer than ``CLOSE``."""
        return np.concatenate(self._clashing)

    def _in_sigma(
        self, pairs: Int64[np.ndarray, "m 2"], apart: Float64[np.ndarray, " m"]
    ) -> Float64[np.ndarray, " m"]:
        scale = self._sigma[self._rows[pairs[:, 0]], self._rows[pairs[:, 1]]]
        return np.divide(apart, scale, out=np.full(len(pairs), math.inf), where=scale > 0.0)


def _both(pair: Int64[np.ndarray, "2"]) -> tuple[int, int]:
    return int(pair[0]), int(pair[1])

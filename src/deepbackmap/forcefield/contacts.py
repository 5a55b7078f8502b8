"""The closest contact of a frame, and atoms that lie in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.forcefield.nonbonded import (
    Exclusions,
    LennardJonesTable,
    neighbour_distances,
    neighbour_pairs,
)
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.system import Structure, Topology

COINCIDENT = 5e-4
"""nm: two atoms nearer than that have no direction in which to part (files round to 0.001 nm)."""

LEAST_REACH = 0.1
"""nm: no pair is searched for within less."""


@dataclass(frozen=True)
class Contact:
    """Two atoms."""

    first: int
    second: int
    distance: float
    """nm."""
    relative: float
    """In sigma; NaN for a pair that has none."""


@dataclass(frozen=True)
class NearPairs:
    """Pairs of atoms that are not excluded and nearer than some part of their sigma."""

    pairs: Int64[np.ndarray, "m 2"]
    """Nearest first, in sigma."""
    distances: Float64[np.ndarray, " m"]
    """nm."""
    relative: Float64[np.ndarray, " m"]
    """In sigma."""


class Contacts:
    """Finds atoms of one system that are too near each other."""

    def __init__(self, topology: Topology, excluded: Exclusions | None = None) -> None:
        """Prepares the tables.

        Args:
            topology: of the system.
            excluded: its pairs that are left out, where they are at hand.
        """
        self._sigma = LennardJonesTable.from_topology(topology).sigma.numpy()
        self._types = topology.atom_type_index().astype(np.int32)
        self._excluded = Exclusions(topology) if excluded is None else excluded

    def coincident(self, structure: Structure) -> Contact | None:
        """Two atoms in one place, bonded or not; None where there are none."""
        found = self._nearest(structure, COINCIDENT, np.ones_like(self._sigma), excluded=True)
        if found is None or found.distance >= COINCIDENT:
            return None
        return replace(found, relative=math.nan)

    def closest(self, structure: Structure) -> Contact | None:
        """The pair that is not excluded and closest in sigma; None where none is within one."""
        reach = float(self._sigma.max(initial=0.0))
        if not reach:
            return None
        found = self._nearest(structure, reach, self._sigma, excluded=False)
        return None if found is None or found.relative >= 1.0 else found

    def near(self, structure: Structure, below: float = 1.0) -> NearPairs:
        """All pairs that are not excluded and nearer than a part of their sigma.

        Args:
            structure: molecules need not be whole.
            below: that part.
        """
        reach = below * float(self._sigma.max(initial=0.0))
        found, apart, relative = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)], [np.zeros(0)]
        for pairs, distances in (
            neighbour_distances(structure.positions, structure.box, reach) if reach else ()
        ):
            i, j = self._types[pairs].T
            limit = below * self._sigma[i, j]
            rows = np.flatnonzero(distances < limit)
            rows = rows[~self._excluded.contains(pairs[rows])]
            found.append(pairs[rows])
            apart.append(distances[rows])
            relative.append(below * distances[rows] / limit[rows])
        order = np.argsort(np.concatenate(relative), kind="stable")
        return NearPairs(*(np.concatenate(parts)[order] for parts in (found, apart, relative)))

    def within(
        self, structure: Structure, distance: float
    ) -> tuple[Int64[np.ndarray, "m 2"], Float64[np.ndarray, " m"]]:
        """Pairs that are not excluded and nearer than a distance in nm, with or without a sigma.

        Returns:
            The pairs, nearest first, and how far apart they are in nm.
        """
        found, apart = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0)]
        # cells for the search that are much smaller than atoms would only cost time
        reach = max(distance, LEAST_REACH)
        for pairs, distances in neighbour_distances(structure.positions, structure.box, reach):
            rows = np.flatnonzero(distances < distance)
            rows = rows[~self._excluded.contains(pairs[rows])]
            found.append(pairs[rows])
            apart.append(distances[rows])
        order = np.argsort(np.concatenate(apart), kind="stable")
        return np.concatenate(found)[order], np.concatenate(apart)[order]

    def _nearest(
        self,
        structure: Structure,
        reach: float,
        scale: Float64[np.ndarray, "t t"],
        *,
        excluded: bool,
    ) -> Contact | None:
        """The pair of smallest scaled distance; whether excluded pairs are looked at as well."""
        best: Contact | None = None
        for pairs in neighbour_pairs(structure.positions, structure.box, reach):
            i, j = pairs.T
            vectors = minimum_image(structure.positions[j] - structure.positions[i], structure.box)
            distances = np.linalg.norm(vectors, axis=1)
            unit = scale[self._types[i], self._types[j]]
            near = np.full(len(pairs), math.inf)
            np.divide(distances, unit, out=near, where=unit > 0.0)
            least = math.inf if best is None else best.relative
            nearer = np.flatnonzero(near < least)
            if not excluded:  # looked up for the few that matter
                nearer = nearer[~self._excluded.contains(pairs[nearer])]
            if len(nearer):
                k = int(nearer[near[nearer].argmin()])
                best = Contact(int(i[k]), int(j[k]), float(distances[k]), float(near[k]))
        return best

"""Groups of four branches that lie almost in a plane, and where their end atoms belong then.

Harmonic angles about an atom with four branches have a second minimum, far above the first: the
branches lie almost in a plane, half way between one order of them and its mirror image. Springs of
beads that no atoms can have push a few groups there, and the barrier around it keeps them. What
hangs on the atom by one bond alone then goes to corners of the tetrahedron that fits the other
branches best, if that is lower in the energy of the angles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.chemistry.warmth import angle_energies
from deepbackmap.forcefield.system import ForceField
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.system import MoleculeType, Topology

FLAT = 0.85
"""Smallest singular value of the four directions up to which they lie almost in a plane: 1.15 for a
tetrahedron, below 0.9 for one group of 10 000 of polystyrene at 568 K, 0.6 to 0.8 when folded."""
CORNERS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3.0)
LIGHT = 0.01
"""Weight of an end atom in the fit, where the others weigh 1: it decides between equal fits."""


@dataclass(frozen=True)
class FoldedGroups:
    """The groups of a system that can be mended."""

    rows: Int64[np.ndarray, "k 5"]
    """An atom with four branches, and these; two or more of them are end atoms."""
    ends: Int64[np.ndarray, " k"]
    """How many: the last of the branches."""

    @classmethod
    def from_topology(cls, topology: Topology) -> FoldedGroups:
        """Finds them by the bonds of each molecule type."""
        per_type = [_of_molecule(molecule) for molecule in topology.molecule_types]
        index, offsets = topology.molecule_type_index(), topology.molecule_offsets()[:-1]
        found = [np.zeros((0, 6), dtype=np.int64)]
        for t, rows in enumerate(per_type):
            first = np.append(np.ones(5, dtype=np.int64), 0) * offsets[index == t][:, None, None]
            found.append((rows + first).reshape(-1, 6))
        table = np.concatenate(found)
        return cls(table[:, :5], table[:, 5])

    def flatness(
        self, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"]
    ) -> Float64[np.ndarray, " k"]:
        """Smallest singular value of the four directions of each group."""
        directions, _ = self._arms(positions, box)
        found: np.ndarray = np.linalg.svd(directions, compute_uv=False)[:, 2]
        return found

    def mend(
        self,
        field: ForceField,
        positions: Float64[np.ndarray, "n 3"],
        box: Float64[np.ndarray, "3 3"],
    ) -> Float64[np.ndarray, "n 3"]:
        """The positions with end atoms of folded groups where they belong; lengths of bonds stay.

        Args:
            field: of the system.
            positions: nm, molecules whole.
            box: lattice vectors as rows, nm.
        """
        folded = np.flatnonzero(self.flatness(positions, box) < FLAT)
        if not len(folded):
            return positions
        before, mended = angle_energies(field, positions, box), positions.copy()
        directions, lengths = self._arms(positions, box)
        for k in folded.tolist():
            centre, last = self.rows[k, 0], slice(4 - self.ends[k], 4)
            corners = fitted_corners(directions[k], int(self.ends[k]))
            mended[self.rows[k, 1:][last]] = positions[centre] + (lengths[k] * corners)[last]
        lower = angle_energies(field, mended, box) < before
        for k in folded.tolist():
            if not lower[self.rows[k, 0]]:
                mended[self.rows[k, 1:]] = positions[self.rows[k, 1:]]
        return mended

    def _arms(
        self, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"]
    ) -> tuple[Float64[np.ndarray, "k 4 3"], Float64[np.ndarray, "k 4 1"]]:
        """Directions and lengths of the branches."""
        apart = positions[self.rows[:, 1:]] - positions[self.rows[:, :1]]
        arms = minimum_image(apart.reshape(-1, 3), box).reshape(-1, 4, 3)
        lengths = np.linalg.norm(arms, axis=2, keepdims=True)
        return arms / np.maximum(lengths, 1e-12), lengths


def fitted_corners(directions: Float64[np.ndarray, "4 3"], ends: int) -> Float64[np.ndarray, "4 3"]:
    """Corners of the tetrahedron, in one order of them or the other, that fit best.

    Args:
        directions: unit vectors to the branches, end atoms last.
        ends: how many end atoms there are.

    Source: Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    weights = np.where(np.arange(4) < 4 - ends, 1.0, LIGHT)[:, None]
    found = []
    for corners in (CORNERS, CORNERS[[0, 1, 3, 2]]):
        u, _, v = np.linalg.svd((weights * corners).T @ directions)
        turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))]) @ v
        found.append(corners @ turn)
    return max(found, key=lambda fit: float((weights * fit * directions).sum()))


def _of_molecule(molecule: MoleculeType) -> Int64[np.ndarray, "k 6"]:
    """Rows of a molecule and how many of the branches are end atoms."""
    near, rows = bonded_neighbours(molecule), []
    for atom, branches in enumerate(near):
        ends = [b for b in branches if len(near[b]) == 1]
        if len(branches) == 4 and len(ends) > 1:
            rows.append([atom, *(b for b in branches if b not in ends), *ends, len(ends)])
    return np.array(rows, dtype=np.int64).reshape(-1, 6)

"""Bonds at fixed length: positions and velocities brought onto them, the same for every engine.

Engines keep constraints from step to step; what they are given may be off by more than their own
solvers can take. Here all constraints are solved together (Newton's method on sparse matrices),
so that rings and chains of any length converge in a few iterations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float64, Int64

from deepbackmap.dynamics.containers import EngineError
from deepbackmap.dynamics.naming import Atoms
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Topology
from deepbackmap.system.kinds import HELD

TOLERANCE = 1e-8
"""nm: largest deviation of a projected bond."""
ITERATIONS = 50
LARGEST_MOVE = 0.05
"""nm: no atom moves further in one iteration, so that a start that is far off stays together."""
RIDGE = 1e-10
"""Added to the diagonal, relative to it: redundant constraints would make the matrix singular."""


@dataclass(frozen=True)
class Constraints:
    """Pairs of atoms at fixed distances."""

    topology: Topology
    atoms: Int64[np.ndarray, "m 2"]
    """Atoms of the system, i < j, unique."""
    lengths: Float64[np.ndarray, " m"]
    """nm."""
    masses: Float64[np.ndarray, " n"]
    """Of all atoms, u."""
    box: Float64[np.ndarray, "3 3"] | None = None
    """Lattice vectors as rows, nm, where distances are those of nearest images."""

    @classmethod
    def of(
        cls,
        topology: Topology,
        *,
        bonds: bool,
        box: Float64[np.ndarray, "3 3"] | None = None,
    ) -> Constraints:
        """The constraints of a topology and, if asked for, all of its bonds at their lengths.

        Args:
            topology: terms between its molecules are no constraints.
            bonds: whether bonds count.
            box: nm, where molecules may be bonded to their own images.
        """
        kinds = HELD if bonds else ("constraint",)
        listed = [topology.expand_terms(kind, between=False) for kind in kinds]
        atoms = np.sort(np.concatenate([terms.atoms for terms in listed]), axis=1)
        lengths = np.concatenate([terms.parameters[:, 0] for terms in listed])
        # np.unique keeps the first of equals: a constraint counts before a bond
        atoms, first = np.unique(atoms, axis=0, return_index=True)
        return cls(topology, atoms, lengths[first], topology.masses(), box)

    def deviations(self, positions: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, " m"]:
        """Distance of each pair less its fixed length in nm; molecules whole."""
        return self._arms(positions)[1] - self.lengths

    def project(self, positions: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """Moves atoms, light ones more than heavy ones, until every length is met.

        Args:
            positions: nm, molecules whole.

        Returns:
            Positions in nm.

        Raises:
            EngineError: two bonded atoms are on top of each other, or the lengths cannot be met.
        """
        if not len(self.atoms):
            return positions
        for _ in range(ITERATIONS):
            units, distances = self._arms(positions)
            off = distances - self.lengths
            if not np.abs(off).max() > TOLERANCE:
                return positions
            moves = self._solve(units, off)
            longest = float(np.linalg.norm(moves, axis=1).max())
            positions = positions - moves * min(1.0, LARGEST_MOVE / longest)
        self._check(positions)
        return positions

    def project_velocities(
        self, positions: Float64[np.ndarray, "n 3"], velocities: Float64[np.ndarray, "n 3"]
    ) -> Float64[np.ndarray, "n 3"]:
        """Takes out what would change a fixed length.

        Args:
            positions: nm, molecules whole and projected.
            velocities: nm/ps.

        Returns:
            Velocities in nm/ps.
        """
        if not len(self.atoms):
            return velocities
        units, _ = self._arms(positions)
        i, j = self.atoms.T
        along = ((velocities[i] - velocities[j]) * units).sum(axis=1)
        return velocities - self._solve(units, along)

    def _arms(
        self, positions: Float64[np.ndarray, "n 3"]
    ) -> tuple[Float64[np.ndarray, "m 3"], Float64[np.ndarray, " m"]]:
        """Unit vectors from j to i, and the distances in nm."""
        i, j = self.atoms.T
        vectors = positions[i] - positions[j]
        if self.box is not None:
            vectors = minimum_image(vectors, self.box)
        distances = np.linalg.norm(vectors, axis=1)
        if len(distances) and not distances.min() > 0.0:
            k = int(distances.argmin())
            raise EngineError(
                f"expected bonded atoms apart from each other, found "
                f"{Atoms(self.topology).describe(*self.atoms[k].tolist())} at one point"
            )
        return vectors / distances[:, None], distances

    def _solve(
        self, units: Float64[np.ndarray, "m 3"], off: Float64[np.ndarray, " m"]
    ) -> Float64[np.ndarray, "n 3"]:
        """The smallest mass-weighted moves along the bonds that change each pair by ``off``."""
        m, n = len(self.atoms), len(self.masses)
        rows = np.repeat(np.arange(m), 6)
        columns = (3 * self.atoms[:, :, None] + np.arange(3)).reshape(-1)
        values = np.concatenate([units, -units], axis=1).reshape(-1)
        slopes = scipy.sparse.csr_matrix((values, (rows, columns)), shape=(m, 3 * n))
        weighted = slopes.multiply(np.repeat(1.0 / self.masses, 3)[None]).tocsr()
        matrix = (slopes @ weighted.T).tocsc()
        matrix = matrix + scipy.sparse.diags(RIDGE * matrix.diagonal(), format="csc")
        factors = scipy.sparse.linalg.splu(
            matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}
        )
        return (weighted.T @ factors.solve(off)).reshape(n, 3)

    def _check(self, positions: Float64[np.ndarray, "n 3"]) -> None:
        _, distances = self._arms(positions)
        off = np.abs(distances - self.lengths)
        if not off.max() <= TOLERANCE:
            k = int(np.nan_to_num(off, nan=np.inf).argmax())
            raise EngineError(
                f"expected {Atoms(self.topology).describe(*self.atoms[k].tolist())} to come to "
                f"their fixed distance of {self.lengths[k]:.4f} nm, found {distances[k]:.4f} nm "
                f"after {ITERATIONS} iterations"
            )


def thermal_velocities(
    masses: Float64[np.ndarray, " n"], temperature: float, seed: int
) -> Float64[np.ndarray, "n 3"]:
    """Velocities of the Maxwell-Boltzmann distribution in nm/ps, without constraints.

    Args:
        masses: in u; what has none (a virtual site) gets no velocity.
        temperature: in K.
        seed: the same seed gives the same velocities, whichever engine uses them.
    """
    drawn = np.random.default_rng(seed).normal(size=(len(masses), 3))
    heavy = masses > 0.0
    width = np.sqrt(
        np.divide(BOLTZMANN * temperature, masses, where=heavy, out=np.zeros_like(masses))
    )
    return drawn * width[:, None]

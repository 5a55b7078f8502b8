"""One frame: positions in a periodic box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Structure:
    """Positions of particles (atoms or beads) in a triclinic box."""

    positions: Float64[np.ndarray, "n 3"]
    """In nm."""
    box: Float64[np.ndarray, "3 3"]
    """Lattice vectors as rows, lower triangular, in nm."""
    time: float = 0.0
    """In ps."""

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self.positions)

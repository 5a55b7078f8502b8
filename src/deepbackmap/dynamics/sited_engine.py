"""An engine that knows no virtual sites, on a system that has some."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from deepbackmap.dynamics.containers import Dynamics, Engine, Hold, Minimisation, Segment
from deepbackmap.system import Structure
from deepbackmap.system.lean import Lean


class SitedEngine:
    """``Engine`` that moves atoms only, and constructs the sites afterwards."""

    def __init__(self, engine: Engine, lean: Lean) -> None:
        """Prepares nothing.

        Args:
            engine: of the system without its sites.
            lean: the system.
        """
        self._engine, self._lean = engine, lean
        self.name = engine.name

    def minimise(
        self, structure: Structure, options: Minimisation, hold: Hold | None = None
    ) -> Segment:
        """As the engine does it."""
        return self._filled(self._engine.minimise(self._lean.strip(structure), options, hold))

    def run(
        self,
        structure: Structure,
        options: Dynamics,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        hold: Hold | None = None,
    ) -> Segment:
        """As the engine does it; sites have no velocities."""
        start = None if velocities is None else velocities[self._lean.real]
        return self._filled(self._engine.run(self._lean.strip(structure), options, start, hold))

    def _filled(self, segment: Segment) -> Segment:
        """With the sites in their places."""
        velocities = None
        if segment.velocities is not None:
            velocities = np.zeros((len(self._lean.real), 3))
            velocities[self._lean.real] = segment.velocities
        return replace(
            segment,
            structure=self._lean.fill(segment.structure),
            velocities=velocities,
            frames=tuple(self._lean.fill(frame) for frame in segment.frames),
        )

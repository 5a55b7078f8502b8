"""Options of training data."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class DataOptions:
    """Where the training frames are."""

    topology: str = ""
    mapping: str = ""
    """A packaged mapping's name or a file."""
    structure: str = ""
    """A structure file that fits the trajectory (names and atom count)."""
    trajectory: str = ""
    train: str = "0:12"
    """Frames to train on."""
    validate: str = "12:13"
    """Frames to validate on; empty: none."""
    beads: str = ""
    """The CG trajectory of the same frames; empty: atoms are mapped."""
    temperature: float = 0.0
    """At which the frames were sampled, K."""
    dynamics: str = ""
    """Temperatures in K, with commas, at which the force field's own dynamics goes on from each
    training frame; what it passes through is trained on as well. Empty: none."""
    picoseconds: float = 10.0
    """Of that dynamics at each temperature, constant volume, bonds held."""
    every: float = 1.0
    """ps between two of its frames."""
    engine: str = "auto"
    """Of that dynamics, as ``dynamics.engines.open_engine`` knows them."""

    def temperatures(self) -> tuple[float, ...]:
        """Those of ``dynamics``."""
        try:
            found = tuple(float(t) for t in self.dynamics.split(",") if t.strip())
        except ValueError:
            found = (math.nan,)
        if not all(0 < t < 1e5 for t in found):
            raise ValueError(
                f"dynamics: expected temperatures in K with commas, got '{self.dynamics}'"
            )
        return found

    def __post_init__(self) -> None:
        self.temperatures()
        if not 0 <= self.temperature < 1e5:
            raise ValueError(f"temperature: expected kelvins below 1e5, got {self.temperature}")
        for name in ("picoseconds", "every"):
            if not 0 < getattr(self, name) < 1e9:
                raise ValueError(f"{name}: expected a positive time, got {getattr(self, name)}")

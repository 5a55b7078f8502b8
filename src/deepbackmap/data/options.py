"""Options of training data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class SystemOptions:
    """Where the training frames of one system are."""

    topology: str = ""
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


@dataclass(frozen=True)
class NoiseOptions:
    """Beads that are off their atoms, as those of coarse-grained simulations are."""

    copies: int = 0
    """Noisy copies of every training frame, each with a width of its own; 0: none."""
    narrowest: float = 0.004
    widest: float = 0.06
    """nm: widths are drawn log-uniformly between them."""

    def __post_init__(self) -> None:
        if not 0 <= self.copies <= 1000:
            raise ValueError(f"copies: expected a whole number from 0 to 1000, got {self.copies}")
        if not 1e-4 <= self.narrowest <= self.widest <= 1.0:
            raise ValueError(
                "narrowest, widest: expected two widths from 0.0001 to 1 nm, the narrower one "
                f"first, got {self.narrowest} and {self.widest}"
            )


@dataclass(frozen=True)
class DataOptions(SystemOptions):
    """Where the training frames are, and what is made of them."""

    mapping: str = ""
    """A packaged mapping's name or a file."""
    systems: tuple[SystemOptions, ...] = ()
    """Several systems to train on together; each takes what it does not say from this section.
    Empty: the section is the one system."""
    picoseconds: float = 10.0
    """Of dynamics at each temperature, constant volume, bonds held."""
    every: float = 1.0
    """ps between two of its frames."""
    engine: str = "auto"
    """Of that dynamics, as ``dynamics.engines.open_engine`` knows them."""
    bead_noise: NoiseOptions = field(default_factory=NoiseOptions)

    @property
    def each(self) -> tuple[SystemOptions, ...]:
        """The systems."""
        return self.systems or (self,)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("picoseconds", "every"):
            if not 0 < getattr(self, name) < 1e9:
                raise ValueError(f"{name}: expected a positive time, got {getattr(self, name)}")


OF_A_SYSTEM = tuple(f.name for f in fields(SystemOptions))
"""Keys that an entry of ``systems`` may have."""

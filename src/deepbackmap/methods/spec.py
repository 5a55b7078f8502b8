"""What a model is, apart from its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepbackmap.methods.options import ModelOptions, check_ranges, ranged


@dataclass(frozen=True)
class ModelSpec:
    """What all methods say of their models, the method's name, and its own options."""

    method: str
    options: ModelOptions
    """Of the method."""
    atom_types: tuple[str, ...]
    bead_types: tuple[str, ...]
    mapping: str
    """The mapping file it was trained with, verbatim."""
    temperature: float = ranged(300.0, 1e-3, 1e5)
    """Of the training frames, K."""
    reach: float = ranged(0.3, 0.0, 10.0)
    """No owned atom was farther from its bead in training, nm."""
    temperatures: tuple[float, ...] = ()
    """Of all training frames, K, where these are not all at ``temperature``."""
    rigid: bool = False
    """Whether all bonds of the training frames have the topology's lengths: then the structures
    made have them too."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Data, seed, iterations, versions, scores: whatever a reader wants to know."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling options that suit this model."""
    handedness: Mapping[str, Any] = field(default_factory=dict)
    """Signs of the stereocentres of the training frames, as a pattern by type and place."""
    bead_hands: Mapping[str, Any] = field(default_factory=dict)
    """How beads tell the hands of stereocentres (``chemistry.bead_hands.BeadStatistics``)."""
    bead_distances: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Distances of bonded beads in training by their types, as "A-B": shortest and longest, nm."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for t in self.temperatures:
            if not 1e-3 <= t <= 1e5:
                raise ValueError(f"temperatures: expected kelvins from 0.001 to 1e5, got {t}")
        for kind, signs in self.handedness.items():
            if (
                not isinstance(signs, list | tuple)
                or [s in (-1, 0, 1) for s in signs] != [True] * 2
            ):
                raise ValueError(f"handedness of {kind}: expected two signs, got {signs!r}")

    @property
    def known_temperatures(self) -> tuple[float, float]:
        """Lowest and highest of the training frames, K."""
        known = self.temperatures or (self.temperature,)
        return min(known), max(known)

    @property
    def bead_cutoff(self) -> float:
        """Beads within this distance may see each other's atoms, nm."""
        return self.options.bead_cutoff(self.reach)

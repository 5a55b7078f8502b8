"""Options of sampling."""

from __future__ import annotations

from dataclasses import dataclass

CHOICES = ("lowest", "boltzmann", "reweight")

POINT_DEFAULTS = {"steps": 4, "sweeps": 0, "relaxation": 20, "cold_start": 0.85}
"""What a new point model is sampled with (docs/design-notes.md)."""


@dataclass(frozen=True)
class SamplingOptions:
    """How atoms are placed."""

    sweeps: int = 2
    """Gibbs sweeps after the first pass; each places the heavy, then the light atoms anew."""
    candidates: int = 1
    """Ensemble drawn for each sequence: orientations about the free axis (II D 3), where the
    model leaves it free, and independent noise."""
    choice: str = "lowest"
    """``lowest``: the candidate of lowest energy (the paper's). ``boltzmann``: one drawn with
    weight exp(-U/kT) at ``temperature``. ``reweight``: with weight exp(-U (1/kT - 1/kT0)), T0
    being the temperature of training: the exact correction of a model that is exact at T0."""
    steps: int = 4
    """Steps along the flow of a point model; voxel models place atom by atom."""
    relaxation: int = 0
    """Voxel models: steps of thermal relaxation of each block at the end of each sweep (without
    sweeps: of the first pass), ``sampling.relaxation``. Point models: steps of constrained dynamics
    of the whole box, ``sampling.thermal``. 0: none."""
    cold_start: float = 1.0
    """Point models: the bath of these steps begins at this part of the target temperature, so that
    it takes away what a network left too hot; 1: at the target (``sampling.thermal``)."""
    temperature: float | None = None
    """Target temperature in K; None: that of training."""
    seed: int = 0
    batch: int = 512
    """Most sequences (beads times candidates) in one call of the network. Bounds memory; does
    not change the result."""

    def __post_init__(self) -> None:
        if self.sweeps < 0:
            raise ValueError(f"sweeps: expected 0 or more, got {self.sweeps}")
        if self.relaxation < 0:
            raise ValueError(f"relaxation: expected 0 or more, got {self.relaxation}")
        if not 0 < self.cold_start <= 1:
            raise ValueError(f"cold_start: expected above 0 and at most 1, got {self.cold_start}")
        if self.steps < 1:
            raise ValueError(f"steps: expected 1 or more, got {self.steps}")
        if self.candidates < 1:
            raise ValueError(f"candidates: expected at least 1, got {self.candidates}")
        if self.choice not in CHOICES:
            raise ValueError(f"choice: expected one of {', '.join(CHOICES)}, got '{self.choice}'")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")
        if self.batch < 1:
            raise ValueError(f"batch: expected at least 1, got {self.batch}")

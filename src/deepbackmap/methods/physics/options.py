"""Options of the physics method: no model, conformations of one molecule drawn onto beads."""

from __future__ import annotations

from dataclasses import dataclass

from deepbackmap.methods.options import (
    MethodOptions,
    ModelOptions,
    SettlingOptions,
    TrainingOptions,
    ranged,
)


@dataclass(frozen=True)
class PhysicsModelOptions(ModelOptions):
    """There is nothing to say of a model where there is none."""

    def bead_cutoff(self, reach: float) -> float:
        """No bead sees another one's atoms before they are drawn."""
        return 0.0

    def least_height(self) -> float:
        """Nothing is trained."""
        return 0.0

    def words(self) -> str:
        """A line for the list of models."""
        return "no model: conformations of one molecule in vacuo, drawn onto beads"


@dataclass(frozen=True)
class PhysicsSamplingOptions(SettlingOptions):
    """How atoms are placed without a model."""

    sweeps: int = ranged(2, 0, 100_000)
    """Times that every window chooses, after it has been placed once without company."""
    candidates: int = ranged(24, 1, 100_000)
    """Conformations that each window chooses from."""
    conformations: int = ranged(28_800, 1, 10_000_000)
    """Kept of each kind of window that is a whole molecule."""
    pieces: int = ranged(4_800, 1, 10_000_000)
    """Kept of each kind of window that is a piece of a molecule."""


OPTIONS = MethodOptions(
    name="physics",
    model=PhysicsModelOptions,
    training=TrainingOptions,
    sampling=PhysicsSamplingOptions,
    shares_frames=False,
)

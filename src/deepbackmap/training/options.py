"""Options of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ramp:
    """A weight that goes linearly from ``first`` to ``last`` between two iterations."""

    first: float = 0.0
    last: float = 0.0
    start: int = 0
    end: int = 0

    def at(self, iteration: int) -> float:
        """The weight at an iteration (constant before ``start`` and from ``end`` on)."""
        if iteration >= self.end:
            return self.last
        if iteration <= self.start:
            return self.first
        return self.first + (self.last - self.first) * (iteration - self.start) / (
            self.end - self.start
        )


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained. The defaults are the paper's (II D 2, Eqs. 9 to 15)."""

    iterations: int = 38_660
    """Generator updates."""
    batch: int = 36
    """Sequences in a batch."""
    critic_steps: int = 5
    """Critic updates for each generator update."""
    learning_rate: float = 5e-5
    """Of the generator (Adam)."""
    critic_learning_rate: float = 1e-4
    beta1: float = 0.0
    beta2: float = 0.9
    decay: bool = False
    """Lower both rates to a hundredth along a half cosine."""
    warmup: int = 0
    """Iterations over which the rates rise from zero."""
    weight_decay: float = 0.0
    """Of the point generator (AdamW)."""
    frames: int = 6
    """Frames that a batch of the point generator is drawn from."""
    settled: float = 0.0
    """Part of the point generator's samples whose surroundings are finished, as in a Gibbs sweep;
    in the others they are on the path like the block itself, as where a whole box is placed."""
    target: str = "flow"
    """Of the point generator. ``flow``: the expected end of a path from noise to data. ``draw``: a
    draw in one step, by the energy score of two draws; ``critic``: the same against a critic (both
    for comparison; sample with steps 1)."""
    penalty: float = 0.1
    """Weight of the gradient penalty (Eq. 10)."""
    drift: float = 0.0
    """Weight of the critic's squared output on real samples (0.001 in the authors' code)."""
    adversarial: Ramp = field(default_factory=lambda: Ramp(1.0, 1.0))
    """Weight of the critic in the generator's loss; no critic is trained while it is 0."""
    prior: Ramp = field(default_factory=lambda: Ramp(0.0, 0.01, 6_000, 10_000))
    """Weight lambda_Phi of the physical prior (Eq. 15)."""
    score: Ramp = field(default_factory=Ramp)
    """Weight of the energy score (not in the paper): a proper scoring rule on the positions and
    internal coordinates of two independent draws. See docs/training.md."""
    density: Ramp = field(default_factory=Ramp)
    """Weight of the squared difference of generated and true densities, summed over the grid (not
    in the paper): makes generated densities Gaussians early on."""
    augment: bool = True
    """Turn every environment by a random angle about z."""
    jitter: float = 0.0
    """Standard deviation, nm, of noise on the environment of every second sample, for what the
    sampler meets: neighbours that a model placed."""
    canonical: bool = False
    """Relabel the two sides of symmetric groups (phenyl rings) the same way in all frames."""
    average: float = 0.0
    """Decay of the moving average of the generator's weights that is saved; 0: none."""
    clip: float = 0.0
    """Largest norm of the generator's gradient; 0: no limit."""
    seed: int = 0
    precision: str = "32-true"
    """As Lightning Fabric names it: ``32-true``, ``bf16-mixed``, ``16-mixed``."""
    compile: bool = False
    """Compile both networks with torch.compile."""
    log_every: int = 50
    checkpoint_every: int = 500
    validate_every: int = 500
    """Iterations between logs, checkpoints and validations."""

    def __post_init__(self) -> None:
        counts = ("iterations", "batch", "critic_steps", "log_every", "checkpoint_every")
        for name in (*counts, "validate_every", "frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.target not in ("flow", "draw", "critic"):
            raise ValueError(f"target: expected flow, draw or critic, got '{self.target}'")


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
    training frame; what it passes through is trained on as well (point models). Empty: none."""
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
        if not all(t > 0 for t in found):
            raise ValueError(
                f"dynamics: expected temperatures in K with commas, got '{self.dynamics}'"
            )
        return found

    def __post_init__(self) -> None:
        self.temperatures()
        for name in ("picoseconds", "every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive time, got {getattr(self, name)}")

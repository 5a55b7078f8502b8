"""What the options of every method have in common: of its models, of training, of sampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepbackmap.errors import InputError
from deepbackmap.methods.compose import compose

Metrics = dict[str, float]

MOST = 10**9
"""Of anything that is counted."""


def ranged(default: float | int, low: float | int, high: float | int) -> Any:
    """A field of a number from ``low`` to ``high``, which ``check_ranges`` looks at.

    Args:
        default: whole, like both bounds, where the number must be.
        low: least.
        high: largest.
    """
    return field(default=default, metadata={"range": (low, high)})


def check_ranges(options: object) -> None:
    """Raises ValueError for a number outside the range of its field, or of another type."""
    for f in dataclasses.fields(options):  # type: ignore[arg-type]
        if "range" not in f.metadata:
            continue
        (low, high), value = f.metadata["range"], getattr(options, f.name)
        whole = isinstance(low, int) and isinstance(high, int)
        kind = int if whole else (int, float)
        # a comparison that NaN fails
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
            what = "a whole number" if whole else "a number"
            low, high = (str(x) if whole else f"{x:g}" for x in (low, high))
            raise ValueError(f"{f.name}: expected {what} from {low} to {high}, got {value}")


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Raises ValueError for a word that is none of those known."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got '{value}'")


class ModelOptions:
    """What a model of a method is: frozen dataclasses, one section of a configuration each."""

    def bead_cutoff(self, reach: float) -> float:
        """Beads within this distance may see each other's atoms, nm.

        Args:
            reach: largest distance of an atom from its bead, nm.
        """
        raise NotImplementedError

    def least_height(self) -> float:
        """Least height of a box that such a model is trained on, nm."""
        raise NotImplementedError

    def words(self) -> str:
        """A line for the list of models."""
        raise NotImplementedError

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> ModelOptions:
        """From what ``dataclasses.asdict`` made of it.

        Raises:
            InputError: an unknown key, or a value that cannot be.
        """
        return compose(cls, values, where)


@dataclass(frozen=True)
class Ramp:
    """A weight that goes linearly from ``first`` to ``last`` between two iterations."""

    first: float = ranged(0.0, 0.0, 1e6)
    last: float = ranged(0.0, 0.0, 1e6)
    start: int = ranged(0, 0, MOST)
    end: int = ranged(0, 0, MOST)

    def __post_init__(self) -> None:
        check_ranges(self)

    @classmethod
    def from_number(cls, value: float) -> Ramp:
        """A weight that stays: ``training.score=0`` switches a part of the loss off."""
        return cls(value, value)

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
    """How a model is trained, whatever the method."""

    iterations: int = ranged(38_660, 1, MOST)
    """Generator updates."""
    batch: int = ranged(36, 1, 1_000_000)
    """Sequences, or blocks of each type, in a batch."""
    learning_rate: float = ranged(5e-5, 0.0, 10.0)
    """Of the generator."""
    beta1: float = ranged(0.0, 0.0, 0.999999)
    beta2: float = ranged(0.9, 0.0, 0.999999)
    decay: bool = False
    """Lower the rates to a hundredth along a half cosine."""
    warmup: int = ranged(0, 0, MOST)
    """Iterations over which the rates rise from zero."""
    jitter: float = ranged(0.0, 0.0, 1.0)
    """Standard deviation, nm, of noise on the surroundings, for what the sampler meets: neighbours
    that a model placed."""
    average: float = ranged(0.0, 0.0, 0.999999)
    """Decay of the moving average of the generator's weights that is saved; 0: none."""
    clip: float = ranged(0.0, 0.0, 1e9)
    """Largest norm of the generator's gradient; 0: no limit."""
    seed: int = ranged(0, 0, 2**62)
    precision: str = "32-true"
    """As Lightning Fabric names it: ``32-true``, ``bf16-mixed``, ``16-mixed``; or ``auto``:
    ``bf16-mixed`` where the hardware has it, else ``32-true``."""
    init_from: str = ""
    """A model, by name or file, whose weights a new run begins with; empty: fresh weights."""
    log_every: int = ranged(50, 1, MOST)
    checkpoint_every: int = ranged(500, 1, MOST)
    validate_every: int = ranged(500, 1, MOST)
    """Iterations between logs, checkpoints and validations."""
    checkpoint_minutes: float = ranged(0.0, 0.0, 1e6)
    """A checkpoint also when this many minutes have gone by since the last one; 0: by iterations
    alone."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class SamplingOptions:
    """How atoms are placed, whatever the method. Each method adds its own."""

    sweeps: int = ranged(0, 0, 100_000)
    """Gibbs sweeps after the first placement."""
    temperature: float | None = None
    """Target temperature in K; None: that of training."""
    seed: int = ranged(0, -(2**63), 2**64 - 1)
    batch: int = ranged(512, 1, 100_000_000)
    """Most sequences or blocks in one call of the network. Bounds memory; does not change the
    result."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.temperature is not None and not 0 < self.temperature < 1e5:
            raise ValueError(
                f"temperature: expected a positive number below 100000 K, got {self.temperature}"
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of all options."""
        return tuple(f.name for f in dataclasses.fields(cls))

    @classmethod
    def chosen(cls, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> SamplingOptions:
        """Options as given, else a model's own, else the method's.

        Args:
            given: of this run, by name.
            defaults: of the model.

        Raises:
            ValueError: options that cannot be, or do not go together.
        """
        return cls(**{**defaults, **given})


def correlation_time(noise: str) -> float:
    """How long random numbers go on, ps: none for ``frame``, for ever for ``shared``.

    Args:
        noise: ``frame``, ``shared`` or ``ou:TAU``.

    Raises:
        ValueError: it is none of them.
    """
    if noise in ("frame", "shared"):
        return 0.0 if noise == "frame" else math.inf
    kind, _, rest = noise.partition(":") if isinstance(noise, str) else ("", "", "")
    try:
        tau = float(rest) if kind == "ou" else 0.0
    except ValueError:
        tau = 0.0
    if not 0.0 < tau < math.inf:
        raise ValueError(f"noise: expected frame, shared, or ou:TAU with TAU in ps, got '{noise}'")
    return tau


@dataclass(frozen=True)
class SettlingOptions(SamplingOptions):
    """How placed atoms become a draw at the temperature."""

    relaxation: int | None = None
    """Steps of constrained dynamics of the whole box at the end; None: until no energy drifts;
    0: none, and bonds and beads are made exact by one projection."""
    bead_tolerance: float | None = None
    """nm: how far, as the standard deviation of a coordinate, a bead may be from where it was
    given; 0: beads are met exactly; None: from the beads themselves (``mechanics.settle``)."""
    cold_start: float = ranged(1.0, 1e-6, 1.0)
    """The bath of a given number of steps begins at this part of the target temperature, so that
    it takes away what a placement left too hot; 1: at the target."""
    noise: str = "frame"
    """How the random numbers of frames go together (``geometry.frame_noise``): ``frame``: each has
    its own; ``shared``: all have the same; ``ou:TAU``: correlated over TAU ps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        correlation_time(self.noise)
        steps, width = self.relaxation, self.bead_tolerance
        if steps is not None and not (
            isinstance(steps, int) and not isinstance(steps, bool) and 0 <= steps <= 10_000_000
        ):
            raise ValueError(f"relaxation: expected a whole number from 0 to 10000000, got {steps}")
        if width is not None and not (width == 0 or 0.0005 <= width <= 1.0):
            raise ValueError(
                "bead_tolerance: expected 0 (beads met exactly) or a width from 0.0005 to 1 nm, "
                f"got {width}"
            )

    @classmethod
    def chosen(cls, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> SettlingOptions:
        """As ``SamplingOptions.chosen``; what would do nothing is refused."""
        merged = {**defaults, **given}
        if "relaxation" in given and "cold_start" not in given:
            merged.pop("cold_start", None)  # it suits the model's own number of steps
        found = cls(**merged)
        if "cold_start" in given and not found.relaxation:
            raise ValueError("cold_start: expected a relaxation of 1 or more steps with it")
        if given.get("bead_tolerance") and found.relaxation == 0:
            raise ValueError("bead_tolerance: expected a relaxation of 1 or more steps with it")
        return found


@dataclass(frozen=True)
class MethodOptions:
    """The option classes of a method."""

    name: str
    model: type[ModelOptions]
    training: type[TrainingOptions]
    sampling: type[SamplingOptions]
    temperatures: bool = False
    """Whether training can use frames of several temperatures, as dynamics makes them."""
    shares_frames: bool = True
    """Whether frames are shared out among processes without being asked: not where the last bits
    depend on the number of threads, nor where a process takes long to begin."""

    def sampling_options(
        self, given: Mapping[str, Any], defaults: Mapping[str, Any], source: str
    ) -> SamplingOptions:
        """Options of a run; one that the method does not have, or that would do nothing, is
        refused.

        Args:
            given: by name; None: not given.
            defaults: of the model.
            source: the model's name, for messages.

        Raises:
            InputError: a foreign option, or options that do not go together.
        """
        asked = {name: value for name, value in given.items() if value is not None}
        known = self.sampling.names()
        if foreign := [name for name in asked if name not in known]:
            raise InputError(
                f"{foreign[0]}: expected an option of the method {self.name} ({', '.join(known)}), "
                f"which model {source} is of; {foreign[0]} would do nothing"
            )
        if strange := [name for name in defaults if name not in known]:
            raise InputError(
                f"{source}: expected defaults among the options of the method {self.name} "
                f"({', '.join(known)}), found {strange[0]}"
            )
        try:
            return self.sampling.chosen(asked, defaults)
        except (TypeError, ValueError) as error:
            raise InputError(f"{error} (options of this run and defaults of {source})") from error

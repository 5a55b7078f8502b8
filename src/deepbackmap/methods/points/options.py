"""Options of the point method: all atoms of a block at once, as a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepbackmap.errors import InputError
from deepbackmap.methods.compose import compose, learned
from deepbackmap.methods.options import (
    MethodOptions,
    ModelOptions,
    SettlingOptions,
    TrainingOptions,
    check_choice,
    check_ranges,
    ranged,
)

TARGETS = ("flow", "draw", "critic")
NEW_MODEL = {"steps": 4, "sweeps": 0}
"""What a new model is sampled with (docs/design-notes.md)."""


@dataclass(frozen=True)
class PointOptions:
    """What a block sees."""

    cutoff: float = ranged(0.45, 0.201, 3.0)
    """Atoms within this distance of an atom enter its densities, nm."""
    radial: int = ranged(10, 1, 256)
    """Radial functions of the densities."""
    chain: int = ranged(4, 1, 64)
    """Beads of the molecule that are seen before and after the bead, in the order S."""
    depth: int = ranged(3, 1, 16)
    """Atoms of other beads within this many bonds of the block are seen one by one."""
    mirror: bool = True
    """Look at beads beside a left-handed stereocentre in a mirror."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def width(self, atom_types: int) -> int:
        """Densities of an atom: radial functions x classes of neighbour."""
        return self.radial * 2 * atom_types


@dataclass(frozen=True)
class PointNetworkOptions:
    """Widths and depth."""

    width: int = ranged(128, 1, 8192)
    blocks: int = ranged(2, 1, 64)
    """Residual blocks of each of the two stages."""
    channels: int = ranged(8, 1, 512)
    """Learned functions of the distance by which an atom sees its neighbours."""
    times: int = ranged(8, 1, 256)
    """Frequencies of the time."""
    dropout: float = ranged(0.0, 0.0, 0.999)
    uncertain: bool = False
    """Told how far beads are off those of their atoms, which it then places where these are."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Vocabulary:
    """The slots that a model knows, by bead type; what it met in training and nothing else."""

    own: dict[str, tuple[str, ...]]
    """Atoms of a block: place in its heavy sequence, place among the hydrogens there, type."""
    context: dict[str, tuple[str, ...]]
    """Atoms around it: distance of their bead in the order S, then as in ``own``."""
    variants: dict[str, tuple[str, ...]]
    """Kinds of block that have statistics of their own: which slots and which frame they have."""

    @classmethod
    def from_values(cls, values: object, where: str) -> Vocabulary:
        """From what ``dataclasses.asdict`` made of it.

        Raises:
            InputError: anything but lists of names by bead type.
        """
        names = ("own", "context", "variants")
        if not isinstance(values, Mapping) or set(values) != set(names):
            raise InputError(f"{where}: vocabulary: expected {', '.join(names)}, found otherwise")
        parts = {part: _names(values[part], f"{where}: vocabulary.{part}") for part in names}
        if len({frozenset(found) for found in parts.values()}) != 1:
            raise InputError(f"{where}: vocabulary: expected the same bead types in every part")
        return cls(**parts)


def _names(values: object, where: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(values, Mapping) or not all(
        isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names)
        for names in values.values()
    ):
        raise InputError(f"{where}: expected lists of names by bead type, found otherwise")
    return {str(t): tuple(names) for t, names in values.items()}


@dataclass(frozen=True)
class PointModelOptions(ModelOptions):
    """What a point model is."""

    points: PointOptions = field(default_factory=PointOptions)
    network: PointNetworkOptions = field(default_factory=PointNetworkOptions)
    vocabulary: Vocabulary | None = field(default=None, metadata=learned())
    """Slots, from the training frames."""

    def bead_cutoff(self, reach: float) -> float:
        """Beads within this distance may see each other's atoms, nm."""
        return self.points.cutoff + 2 * reach

    def least_height(self) -> float:
        """Least height of a box that such a model is trained on, nm."""
        return 2 * self.points.cutoff

    def words(self) -> str:
        """A line for the list of models."""
        points, network = self.points, self.network
        return (
            f"points within {points.cutoff:g} nm, {points.chain} beads before and after, "
            f"flow of width {network.width}"
        )

    @classmethod
    def from_values(cls, values: Mapping[str, Any], where: str) -> PointModelOptions:
        """From what ``dataclasses.asdict`` made of it."""
        rest = {k: v for k, v in values.items() if k != "vocabulary"}
        found = compose(cls, rest, where)
        known = values.get("vocabulary")
        if known is None:
            return found
        return cls(found.points, found.network, Vocabulary.from_values(known, where))

    def slots(self) -> Vocabulary:
        """The vocabulary of a model that has one.

        Raises:
            ValueError: it has none.
        """
        if self.vocabulary is None:
            raise ValueError("vocabulary: expected the slots of a point model, got none")
        return self.vocabulary


@dataclass(frozen=True)
class PointTrainingOptions(TrainingOptions):
    """How a point model is trained."""

    weight_decay: float = ranged(0.0, 0.0, 10.0)
    """Of the optimiser (AdamW)."""
    frames: int = ranged(6, 1, 100_000)
    """Frames that a batch is drawn from."""
    settled: float = ranged(0.0, 0.0, 1.0)
    """Part of the samples whose surroundings are finished, as in a Gibbs sweep; in the others they
    are on the path like the block itself, as where a whole box is placed."""
    target: str = "flow"
    """``flow``: the expected end of a path from noise to data. ``draw``: a draw in one step, by the
    energy score of two draws; ``critic``: the same against a critic (both for comparison; sample
    with steps 1)."""
    critic_steps: int = ranged(5, 1, 1000)
    """Of target ``critic``: critic updates for each generator update."""
    critic_learning_rate: float = ranged(1e-4, 0.0, 10.0)
    penalty: float = ranged(0.1, 0.0, 1e6)
    """Of target ``critic``: weight of the gradient penalty (Eq. 10)."""
    drift: float = ranged(0.0, 0.0, 1e6)
    """Of target ``critic``: weight of the critic's squared output on real samples."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("target", self.target, TARGETS)


@dataclass(frozen=True)
class PointSamplingOptions(SettlingOptions):
    """How a point model places atoms."""

    steps: int = ranged(4, 1, 100_000)
    """Along the flow."""


OPTIONS = MethodOptions(
    name="points",
    model=PointModelOptions,
    training=PointTrainingOptions,
    sampling=PointSamplingOptions,
    temperatures=True,
)

"""The figures of one frame as one value that adds up.

``backmap``, ``finish``, ``baseline``, ``md`` and ``evaluate`` all look at their structures through
``Judge``. What it finds of a frame is a ``Figures``; those of many frames are their sum, in
whatever order and wherever they were made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from deepbackmap.quantities import BOLTZMANN

NAMED = 10
"""Most defects of a kind that are named; all are counted."""
CLOSE = 0.6
"""Sigma: a pair that is nearer is a clash."""
BINS_PER_DECADE = 50
"""Of the histograms of energies and temperatures of blocks: 4.7 % each."""

Names = tuple[str, ...]


def bin_of(value: float) -> int:
    """The bin of a positive value; what is not positive has one far below all others."""
    if not value > 0.0:
        return -100 * BINS_PER_DECADE
    return math.floor(BINS_PER_DECADE * math.log10(min(value, 1e100)))


def _first(a: Names, b: Names) -> Names:
    return (a + b)[:NAMED]


def _added(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted({*a, *b})}


@dataclass(frozen=True)
class Hands:
    """Stereocentres, each of which is looked at in two ways (``chemistry.stereo``)."""

    known: int = 0
    """Those of which it is known what is right."""
    unknown: int = 0
    assumed: int = 0
    """Known ones of which only most molecules of a type say so in the frame itself."""
    by_side: int = 0
    """Known ones that are wrong by the side on which the heavy branches turn."""
    by_order: int = 0
    """Known ones that are wrong by the order of all four branches."""
    wrong: int = 0
    """By either."""
    named: Names = ()
    """The first of those."""

    def __add__(self, other: Hands) -> Hands:
        return Hands(
            self.known + other.known, self.unknown + other.unknown, self.assumed + other.assumed,
            self.by_side + other.by_side, self.by_order + other.by_order, self.wrong + other.wrong,
            _first(self.named, other.named),
        )  # fmt: skip


@dataclass(frozen=True)
class DoubleBonds:
    """Double bonds outside rings whose ends can be cis or trans."""

    known: int = 0
    """Those of which it is known what is right."""
    unknown: int = 0
    assumed: int = 0
    """Known ones of which only most molecules of a type say so in the frame itself."""
    wrong: int = 0
    named: Names = ()
    """The first wrong ones."""

    def __add__(self, other: DoubleBonds) -> DoubleBonds:
        return DoubleBonds(
            self.known + other.known, self.unknown + other.unknown, self.assumed + other.assumed,
            self.wrong + other.wrong, _first(self.named, other.named),
        )  # fmt: skip


@dataclass(frozen=True)
class Contacts:
    """Pairs of atoms that are not excluded."""

    closest: float = math.inf
    """Smallest distance in sigma; infinite where no pair is nearer than its sigma."""
    distance: float = math.inf
    """Of that pair, nm."""
    pair: Names = ()
    """The two atoms of it with their molecules; empty where there is none."""
    frame: int | None = None
    """Number of its frame in the file."""
    clashes: int = 0
    """Pairs nearer than ``CLOSE``."""
    named: Names = ()
    """The first of them."""

    def __add__(self, other: Contacts) -> Contacts:
        nearest = other if other.closest < self.closest else self
        return Contacts(
            nearest.closest, nearest.distance, nearest.pair, nearest.frame,
            self.clashes + other.clashes, _first(self.named, other.named),
        )  # fmt: skip


@dataclass(frozen=True)
class Rings:
    """Bonds that pass through rings."""

    pierced: int = 0
    named: Names = ()
    """The first of them."""

    def __add__(self, other: Rings) -> Rings:
        return Rings(self.pierced + other.pierced, _first(self.named, other.named))


@dataclass(frozen=True)
class Deviation:
    """How far some lengths or places are from where they should be."""

    count: int = 0
    squares: float = 0.0
    """Sum, nm^2."""
    largest: float = 0.0
    """nm."""
    where: str = ""
    """What is that far off."""

    @property
    def rms(self) -> float:
        """Root mean square, nm; 0 where nothing was measured."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def __add__(self, other: Deviation) -> Deviation:
        far = other if other.largest > self.largest else self
        return Deviation(
            self.count + other.count, self.squares + other.squares, far.largest,
            far.where or other.where,
        )  # fmt: skip


@dataclass(frozen=True)
class Block:
    """One block of atoms in one frame."""

    temperature: float
    """At which it would be at the edge of what equipartition allows, K."""
    energy: float
    """Of its angles, kJ/mol."""
    name: str


@dataclass(frozen=True)
class Blocks:
    """Angle energies by block of atoms: those of the angles whose middle atom the block owns.

    A block is what one bead owns, or a heavy atom where there are no beads.
    """

    count: int = 0
    energy: float = 0.0
    """Sum, kJ/mol."""
    degrees: float = 0.0
    """Sum of their degrees of freedom (``chemistry.warmth``)."""
    strain: float = 0.0
    """Sum of what they have at rest, kJ/mol."""
    energies: Mapping[int, int] = field(default_factory=dict)
    """Histogram of their energies in kJ/mol, by ``bin_of``."""
    temperatures: Mapping[int, int] = field(default_factory=dict)
    """Histogram of the temperatures at which each would be at the edge of what equipartition
    allows, by ``bin_of``."""
    hottest: tuple[Block, ...] = ()
    """The first of them, hottest first."""

    @property
    def mean(self) -> float:
        """Angle energy of a block, kJ/mol."""
        return self.energy / self.count if self.count else 0.0

    @property
    def temperature(self) -> float:
        """At which angles have that energy on average, K; 0 where there are none."""
        if not self.degrees:
            return 0.0
        return 2.0 * (self.energy - self.strain) / (BOLTZMANN * self.degrees)

    def percentile(self, percent: float) -> float:
        """Energy below which that share of the blocks is, kJ/mol, to the width of a bin."""
        left = percent / 100.0 * self.count
        for place, count in sorted(self.energies.items()):
            left -= count
            if left <= 0.0:
                return float(10.0 ** ((place + 0.5) / BINS_PER_DECADE))
        return 0.0

    def hotter_than(self, temperature: float) -> int:
        """Blocks beyond what equipartition allows at a temperature, to the width of a bin."""
        edge = bin_of(temperature)
        return sum(count for place, count in self.temperatures.items() if place > edge)

    def __add__(self, other: Blocks) -> Blocks:
        hottest = sorted(self.hottest + other.hottest, key=lambda b: -b.temperature)
        return Blocks(
            self.count + other.count, self.energy + other.energy, self.degrees + other.degrees,
            self.strain + other.strain, _added(self.energies, other.energies),
            _added(self.temperatures, other.temperatures), tuple(hottest[:NAMED]),
        )  # fmt: skip


@dataclass(frozen=True)
class Figures:
    """What some frames show; ``Figures()`` is what no frame shows."""

    frames: int = 0
    atoms: int = 0
    """Of all frames."""
    contacts: Contacts = field(default_factory=Contacts)
    hands: Hands = field(default_factory=Hands)
    double_bonds: DoubleBonds = field(default_factory=DoubleBonds)
    rings: Rings = field(default_factory=Rings)
    bonds: Deviation = field(default_factory=Deviation)
    """From their lengths in the topology."""
    beads: Deviation = field(default_factory=Deviation)
    """Of the re-mapped beads from those that were given; nothing where none were."""
    energies: Mapping[str, float] = field(default_factory=dict)
    """By term (``forcefield.system.TERMS``), kJ/mol, summed over frames."""
    blocks: Blocks = field(default_factory=Blocks)

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.frames + other.frames, self.atoms + other.atoms, self.contacts + other.contacts,
            self.hands + other.hands, self.double_bonds + other.double_bonds,
            self.rings + other.rings, self.bonds + other.bonds, self.beads + other.beads,
            _added(self.energies, other.energies), self.blocks + other.blocks,
        )  # fmt: skip

    def __radd__(self, other: int) -> Figures:
        """So that ``sum`` works, which begins with 0."""
        return self

    @classmethod
    def total(cls, parts: Iterable[Figures]) -> Figures:
        """The sum of some figures; of none it is empty."""
        return sum(parts, cls())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a file; a figure that is not finite becomes None."""
        values = asdict(self)
        for name in ("closest", "distance"):
            if not math.isfinite(values["contacts"][name]):
                values["contacts"][name] = None
        for name in ("bonds", "beads"):
            values[name]["rms"] = getattr(self, name).rms
        values["blocks"] |= {
            "mean": self.blocks.mean,
            "p99": self.blocks.percentile(99.0),
            "temperature": self.blocks.temperature,
        }
        for name in ("energies", "temperatures"):
            found = values["blocks"][name]
            values["blocks"][name] = {str(place): count for place, count in found.items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Figures:
        """The value that ``to_dict`` was asked of."""
        contacts = {k: math.inf if v is None else v for k, v in values["contacts"].items()}
        contacts["frame"] = values["contacts"]["frame"]
        blocks = dict(values["blocks"])
        for name in ("energies", "temperatures"):
            blocks[name] = {int(place): count for place, count in blocks[name].items()}
        blocks["hottest"] = tuple(_of(Block, b) for b in blocks["hottest"])
        return cls(
            frames=values["frames"],
            atoms=values["atoms"],
            contacts=_of(Contacts, contacts),
            hands=_of(Hands, values["hands"]),
            double_bonds=_of(DoubleBonds, values["double_bonds"]),
            rings=_of(Rings, values["rings"]),
            bonds=_of(Deviation, values["bonds"]),
            beads=_of(Deviation, values["beads"]),
            energies=dict(values["energies"]),
            blocks=_of(Blocks, blocks),
        )


def _of(kind: type, values: Mapping[str, Any]) -> Any:
    """A value from its fields; derived figures are left out, lists are names."""
    known = {f.name for f in fields(kind)}
    return kind(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    )

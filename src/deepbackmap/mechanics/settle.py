"""From placed atoms to a draw at a temperature: how beads are held, and how many steps that takes.

Beads that were mapped from atoms can be met exactly, and then they are. Beads of a coarse-grained
simulation often cannot: no molecule with these bonds and angles has its beads there, and holding
them all the same puts the strain into angles, contacts and stereocentres. A bead is therefore taken
as an observation, of Gaussian error, of where the atoms have theirs. How large that error is
follows from the beads themselves, in two steps:

* *Exact?* Some steps are run with beads held exactly. Where the angles then hold as much energy as
  the temperature allows (``chemistry.warmth``), beads fit and stay exact. A start that is far too
  hot is not held so: strain turns stereocentres over.
* *How far off?* Beads are held by springs, and the width of each bead type is what makes the beads
  most likely: the fixed point of ``width^2 = <distance^2> / 3``, the mean over draws at that width
  (expectation maximisation: Dempster, Laird, Rubin, J. R. Stat. Soc. B 39, 1, 1977). It is
  approached in longer strides than one mean at a time would make. Where the widths come out small
  and the start was too hot to tell, beads are held exactly once more, from there.
* *Anew?* Beads that no atoms can have misled whoever placed the atoms. One who can be told how far
  beads are off places them for usual widths before these are looked for, and once more where they
  turn out to be narrower; where they are wider, steps have led atoms nearer to where they belong by
  then. For those who cannot be told there are the beads of the atoms by then, which are
  near those that were given and can be had: where somebody can place atoms on them, that is where
  steps go on.

Then steps follow until no energy drifts any more, or as many as were asked for.

Springs of beads strain a few blocks, which then swing to angle energies that no block has in
equilibrium. Where the number of steps is not given, those are slowed down in the last ones: a draw
that leaves out what the temperature does not allow. Before that, groups that springs have folded,
which no dynamics unfolds, are mended (``chemistry.folded``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from deepbackmap.chemistry.folded import FoldedGroups
from deepbackmap.chemistry.warmth import AngleFreedom, angle_energies
from deepbackmap.forcefield.system import ForceField
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.mechanics.engine import Langevin, Mechanics, Observation
from deepbackmap.mechanics.gather import Gathering
from deepbackmap.mechanics.parts import PartedMechanics, crew_in_use
from deepbackmap.quantities import BOLTZMANN

Seen = TypeVar("Seen")

LOOK = 20
"""Steps between two looks at whether beads fit exactly."""
LOOKS = 6
"""At most."""
FITS = 1.12
"""Times the angle energy that a temperature allows, up to which beads fit (melts of polystyrene
have 1.02 to 1.07; beads that are 0.005 nm off, 1.24)."""
DEVIATIONS = 3.0
"""Standard deviations of the angle energy of so few degrees of freedom that are added to that."""
FALLS = 0.85
"""Times the excess of the look before: one that is higher than that is not on its way down."""
HOT = 1.6
"""Times the angle energy that a temperature allows, from which on a start is too hot to be held to
beads exactly."""
SMALL = 0.012
"""nm: beads whose widths come out smaller may be exact all the same."""
FIRST_WIDTH = 0.02
"""nm: of all beads that do not fit, at first."""
LIKE_THE_FIRST = 1.6
"""Factor by which widths may differ from the first one to count as about that. Atoms that were
placed for it are placed anew where widths are narrower by more."""
LEARN = 24
"""Steps between two estimates of the widths, of which the second half counts."""
ESTIMATES = 4
STRIDE = 1.4
"""Exponent of the change that one estimate asks for: between one, the plain iteration, which is
slow where beads are soft, and two, which does not come to rest where they are stiff."""
ALIKE = 0.12
"""Relative change of the widths that counts as none."""
LARGEST_STRIDE = 2.0
"""No estimate changes a width by a larger factor."""
WIDER = 1.08
"""Times the last estimate: atoms are still on their way from where they were put onto the beads, so
that widths come out low (0.0203 and 0.0159 nm for A and B beads with noise of 0.02 nm)."""
NARROWEST, WIDEST = 0.002, 0.06
"""nm: widths stay within; an estimate says little beyond."""
EVERY = 4
"""Steps between two observations."""
WINDOW = 60
"""Steps over which energies are averaged to see whether they drift."""
FEWEST, MOST = 180, 240
"""Steps that follow the choice of widths, where their number is not given."""
ENOUGH = 120
"""Steps at most where atoms were placed for beads of about such widths, a multiple of three."""
CALMING, BETWEEN = 24, 3
"""Steps in which hot blocks are slowed down, where beads are soft; after so many each time."""
SLOWED = 0.5
"""Times their velocities."""
FAR_OUT = 3.5
"""Standard deviations above the angle energy that the temperature allows, from which on a block is
hot: four in a thousand of ten degrees of freedom."""
ROUGH = 0.03
"""nm: where beads are wider than that, there is more to settle: twice ``MOST`` steps at most."""
LOOSE, GENTLE = 14.0, 5.0
"""1/ps: friction at most where atoms that were placed for usual widths go on from there, beads
being about as wide, and where these are wider. Neighbours have to find each other again, and with
25/ps contacts come down half as fast as with 5/ps, which lets beads go farther in as many steps."""
WARMING = 0.6
"""Part of a given number of steps in which a bath that begins cold warms up."""
DRIFT = 2.5
"""Standard errors of the change between two windows that count as none."""
NEGLIGIBLE = 0.06
"""Standard deviations over molecules that a mean may change by between two windows: without that,
the more molecules a box has, the smaller is what is waited for."""
WATCHED = {
    "angles": ("angle",),
    "dihedrals": ("proper", "improper"),
    "contacts": ("lj14", "lj intra", "lj inter", "coulomb14", "coulomb intra", "coulomb inter"),
}
"""Energies that are watched for a drift: sums, since of many single ones some drift by chance."""


Anew = Callable[[Float64[np.ndarray, "n 3"], Mapping[str, float]], Float64[np.ndarray, "n 3"]]
"""Places atoms anew: from where they are, nm, and the width of each bead type, nm."""


@dataclass(frozen=True)
class SettleOptions:
    """How a box takes on a temperature."""

    temperature: float
    """K."""
    steps: int | None = None
    """Steps after the choice of widths; None: as many as it takes."""
    bead_tolerance: float | Mapping[str, float] | None = None
    """Width of all beads, or of each bead type, nm; 0: exact, and so is what is narrower than
    ``Mechanics.firm``; None: from the beads."""
    cold_start: float = 1.0
    """Part of the temperature at which the bath begins; it rises linearly for ``WARMING`` of the
    steps where their number is given."""
    timestep: float = 0.002
    """ps."""
    friction: float = 25.0
    """1/ps."""


@dataclass(frozen=True)
class Settled:
    """What came of it."""

    positions: Float64[np.ndarray, "n 3"]
    """nm, molecules whole."""
    evaluations: int
    """Of the forces."""
    widths: Mapping[str, float] = field(default_factory=dict)
    """Of each bead type, nm; 0: exact."""
    drifting: tuple[str, ...] = ()
    """Energies that still changed in the end."""
    strained: Int64[np.ndarray, "s"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Molecules with beads that are held exactly where their bonds do not let them be."""


def open_mechanics(
    mapping: SystemMapping,
    *,
    rigid: bool = True,
    threads: int | None = None,
    device: torch.device | str = "cpu",
    gathering: Gathering | None = None,
) -> Mechanics:
    """The engine for a device: compiled loops on processors, those of a crew if one is in use
    (``parts``), tensors on a card.

    Args:
        mapping: topology and beads.
        rigid: hold all bonds at their lengths.
        threads: of processors.
        device: to work on.
        gathering: of threads with a frame each, which a card works on together; None: there are
            none.
    """
    if torch.device(device).type == "cpu":
        if (crew := crew_in_use()) is not None:
            return PartedMechanics(mapping, crew, rigid=rigid, threads=threads)
        return Mechanics(mapping, rigid=rigid, threads=threads)
    from deepbackmap.mechanics.card.frames import CardFrames

    return CardFrames(mapping, gathering=gathering or Gathering(), rigid=rigid, device=device)


class Settler:
    """Settles frames of one system."""

    def __init__(
        self,
        mapping: SystemMapping,
        *,
        rigid: bool = True,
        threads: int | None = None,
        device: torch.device | str = "cpu",
        gathering: Gathering | None = None,
    ) -> None:
        """Tables of the system.

        Args:
            mapping: of the system.
            rigid: whether all bonds are held at their lengths.
            threads: how many; results do not depend on it.
            device: that steps are taken on.
            gathering: as for ``open_mechanics``.
        """
        self.mapping = mapping
        self.mechanics = open_mechanics(
            mapping, rigid=rigid, threads=threads, device=device, gathering=gathering
        )
        self._freedom = AngleFreedom.from_topology(mapping.topology)
        self._degrees = float(self._freedom.degrees.sum())
        self._strain = float(self._freedom.strain.sum())
        self.bead_types = bead_types(mapping)

    def settle(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "3 3"],
        names: Int64[np.ndarray, "n"],
        options: SettleOptions,
        anew: Anew | None = None,
        placed_for: float | None = None,
    ) -> Settled:
        """Atoms at a temperature, beads where they were given or as near as they fit.

        Args:
            positions: nm, molecules whole, near where they belong.
            beads: nm, in the images of their molecules.
            box: lattice vectors as rows, nm.
            names: keys of the random numbers of each atom.
            options: temperature, and what is not to be found out.
            anew: places atoms anew, where beads turn out not to fit.
            placed_for: width (nm) of the beads that ``positions`` were placed for, by somebody who
                can be told one, as ``anew`` then is; None: ``anew`` places atoms on the beads of
                others.
        """
        run = _Run(self, positions, beads, box, names, options)
        given, told = options.bead_tolerance, bool(placed_for)
        if isinstance(given, Mapping):
            run.hold(given)
        elif given is not None:
            run.hold(dict.fromkeys(self.bead_types, given))
        elif run.hot():
            if placed_for == 0.0 and anew is not None:
                run.begin_at(anew(run.positions, dict.fromkeys(self.bead_types, FIRST_WIDTH)))
                told = True
            run.learn(told)
            run.fit_again()
        elif not run.fits():
            run.learn(told)
        if given is None and anew is not None and run.soft and (run.narrow or not told):
            run.begin_at(anew(run.positions, run.widths))
        if options.steps is None:
            sooner = told and run.usual
            if run.soft and told and not run.narrow:
                run.ease(LOOSE if sooner else GENTLE)
            run.until_settled(ENOUGH, ENOUGH // 3) if sooner else run.until_settled(MOST, WINDOW)
            if run.soft:
                run.unfold()
                run.calm()
        else:
            run.some(options.steps)
        return run.result()

    def warmth(self, energies: Mapping[str, Float64[np.ndarray, "m"]], temperature: float) -> float:
        """Angle energy in units of what a temperature allows; 1 where there are no angles."""
        allowed = 0.5 * BOLTZMANN * temperature * self._degrees
        return (float(energies["angle"].sum()) - self._strain) / allowed if allowed else 1.0

    @cached_property
    def _field(self) -> ForceField:
        return ForceField.from_topology(self.mapping.topology)

    @cached_property
    def _folded(self) -> FoldedGroups:
        return FoldedGroups.from_topology(self.mapping.topology)

    def mended(
        self, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"]
    ) -> Float64[np.ndarray, "n 3"]:
        """The positions with folded groups mended.

        Args:
            positions: nm, molecules whole.
            box: lattice vectors as rows, nm.
        """
        return self._folded.mend(self._field, positions, box)

    def hot_atoms(
        self,
        positions: Float64[np.ndarray, "n 3"],
        box: Float64[np.ndarray, "3 3"],
        temperature: float,
    ) -> Bool[np.ndarray, " n"]:
        """Atoms whose bead's atoms have more angle energy than a temperature allows.

        Args:
            positions: nm, molecules whole.
            box: lattice vectors as rows, nm.
            temperature: K.
        """
        owner = self.mapping.atom_owners()
        above = angle_energies(self._field, positions, box) - self._freedom.strain
        degrees = np.bincount(owner, self._freedom.degrees)
        allowed = 0.5 * BOLTZMANN * temperature * (degrees + FAR_OUT * np.sqrt(2.0 * degrees))
        hot: np.ndarray = (np.bincount(owner, above) > allowed)[owner]
        return hot

    @property
    def fits_below(self) -> float:
        """The warmth up to which beads fit."""
        spread = math.sqrt(2.0 / self._degrees) if self._degrees else 0.0
        return FITS + DEVIATIONS * spread


def bead_types(mapping: SystemMapping) -> dict[str, Int64[np.ndarray, "k"]]:
    """The beads of a system by type."""
    index = mapping.topology.molecule_type_index()
    names = [name for t in index for name in mapping.molecules[t].bead_types]
    types = np.array(names, dtype=object)
    return {t: np.flatnonzero(types == t) for t in sorted(set(names))}


class _Run:
    """One frame on its way."""

    def __init__(
        self,
        settler: Settler,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "3 3"],
        names: Int64[np.ndarray, "n"],
        options: SettleOptions,
    ) -> None:
        self._of, self._beads, self._box, self._names = settler, beads, box, names
        self._options = options
        self._positions = positions
        self._velocities: Float64[np.ndarray, "n 3"] | None = None
        self._firm = settler.mechanics.firm(options.temperature, options.timestep)
        self._friction = options.friction
        self._widths = dict.fromkeys(settler.bead_types, 0.0)
        self._done = 0
        self._drifting: tuple[str, ...] = ()

    def hold(self, widths: Mapping[str, float]) -> None:
        """Changes the widths of the bead types (nm); velocities are drawn anew if beads let go."""
        if any((w == 0.0) != (self._widths[t] == 0.0) for t, w in widths.items()):
            self._velocities = None
        self._widths = dict(widths)

    @property
    def positions(self) -> Float64[np.ndarray, "n 3"]:
        """Where atoms are, nm."""
        return self._positions

    @property
    def widths(self) -> Mapping[str, float]:
        """Of the bead types, nm."""
        return self._widths

    @property
    def soft(self) -> bool:
        """Whether some beads are not held exactly."""
        return any(self._widths.values())

    @property
    def usual(self) -> bool:
        """Whether all widths are about the one that atoms are placed for at first."""
        return all(
            1.0 / LIKE_THE_FIRST < w / FIRST_WIDTH < LIKE_THE_FIRST for w in self._widths.values()
        )

    @property
    def narrow(self) -> bool:
        """Whether some width is far below the one that atoms are placed for at first."""
        return any(w <= FIRST_WIDTH / LIKE_THE_FIRST for w in self._widths.values())

    def begin_at(self, positions: Float64[np.ndarray, "n 3"]) -> None:
        """Goes on from other positions (nm), with velocities drawn anew."""
        self._positions, self._velocities = positions, None

    def ease(self, friction: float) -> None:
        """No more friction (1/ps) than that from here on."""
        self._friction = min(self._friction, friction)

    def hot(self) -> bool:
        """Whether the start, on its bonds and beads, is too hot to be held there."""
        mechanics, temperature = self._of.mechanics, self._options.temperature
        start = mechanics.project(self._positions, self._beads, box=self._box)
        energies = mechanics.energies(start.positions, self._beads, self._box)
        return self._of.warmth(energies, temperature) > HOT

    def fit_again(self) -> None:
        """Holds beads exactly if their widths are small and it turns out that they fit."""
        if max(self._widths.values(), default=0.0) >= SMALL:
            return
        widths, positions, velocities = self._widths, self._positions, self._velocities
        self.hold(dict.fromkeys(widths, 0.0))
        if not self.fits():
            self._widths, self._positions, self._velocities = widths, positions, velocities

    def fits(self) -> bool:
        """Whether angles come down to the temperature with beads held exactly."""
        limit, last = self._of.fits_below, math.inf
        for _ in range(LOOKS):
            energies = self._advance(LOOK, lambda seen: seen.energies)[-1]
            warmth = self._of.warmth(energies, self._options.temperature)
            if warmth <= limit:
                return True
            if not warmth - 1.0 < FALLS * (last - 1.0):
                return False
            last = warmth
        return False

    def learn(self, told: bool = False) -> None:
        """Widths that make the beads most likely.

        Args:
            told: whether atoms were placed for beads of about such widths: they are then where
                they belong, and an estimate that changes little is the last.
        """
        self.hold(dict.fromkeys(self._widths, FIRST_WIDTH))
        for _ in range(ESTIMATES):
            before = self._widths
            found = self._advance(LEARN, self._squares)
            square = np.mean(found[len(found) // 2 :], axis=0)
            self.hold(
                {
                    t: next_width(self._widths[t], float(square[where].mean()))
                    for t, where in self._of.bead_types.items()
                }
            )
            if told and all(abs(w / before[t] - 1.0) < ALIKE for t, w in self._widths.items()):
                break
        self.hold({t: min(WIDER * w, WIDEST) for t, w in self._widths.items()})

    def some(self, steps: int) -> None:
        """So many steps."""
        options = self._options
        warm = np.minimum(1.0, np.arange(steps + 1) / max(1.0, WARMING * steps))
        part = options.cold_start + (1.0 - options.cold_start) * warm
        self._advance(steps, part=part)

    def until_settled(self, most: int, window: int) -> None:
        """Steps until no energy drifts over so many, or ``most``, twice that where beads are
        wide."""
        most *= 2 if max(self._widths.values(), default=0.0) > ROUGH else 1
        before = self._means(window)
        for done in range(2 * window, most + 1, window):
            after = self._means(window)
            self._drifting = tuple(k for k in after if drifts(before[k], after[k]))
            if done >= FEWEST and not self._drifting:
                return
            before = after

    def unfold(self) -> None:
        """Mends folded groups; what is moved starts from rest."""
        mended = self._of.mended(self._positions, self._box)
        moved = (mended != self._positions).any(axis=1)
        if self._velocities is not None and moved.any():
            self._velocities = np.where(moved[:, None], 0.0, self._velocities)
        self._positions = mended

    def calm(self) -> None:
        """Some more steps, in which blocks that are hotter than the temperature allows are slowed
        down until they are not."""
        for _ in range(CALMING // BETWEEN):
            hot = self._of.hot_atoms(self._positions, self._box, self._options.temperature)
            if self._velocities is not None:
                self._velocities = np.where(hot[:, None], SLOWED, 1.0) * self._velocities
            self._advance(BETWEEN)

    def result(self) -> Settled:
        """Where it ended, bonds and beads exact to the last digit."""
        mechanics = self._of.mechanics
        held = self._per_bead()
        last = mechanics.project(self._positions, self._beads, held, box=self._box)
        widths = {t: float(held[where].max()) for t, where in self._of.bead_types.items()}
        return Settled(
            positions=last.positions, evaluations=self._done, widths=widths,
            drifting=self._drifting, strained=last.strained,
        )  # fmt: skip

    def _advance(
        self,
        steps: int,
        look: Callable[[Observation], Seen] | None = None,
        part: Float64[np.ndarray, "k"] | None = None,
    ) -> list[Seen]:
        """Steps, and what is made of each observation: nothing else of it is kept."""
        options, found = self._options, list[Seen]()

        def observe(seen: Observation) -> bool:
            assert look is not None
            found.append(look(seen))
            return False

        temperature = options.temperature if part is None else options.temperature * part
        made = self._of.mechanics.run(
            self._positions, self._beads, self._box,
            Langevin(
                steps=steps, temperature=temperature, timestep=options.timestep,
                friction=self._friction, first_step=self._done,
            ),
            self._names, self._per_bead(), velocities=self._velocities,
            every=EVERY if look is not None else 0, observe=observe,
        )  # fmt: skip
        self._positions, self._velocities = made.positions, made.velocities
        self._done += steps
        return found

    def _per_bead(self) -> Float64[np.ndarray, "nb"]:
        widths = np.zeros(len(self._beads))
        for t, where in self._of.bead_types.items():
            widths[where] = self._widths[t]
        return np.where(widths < self._firm, 0.0, widths)  # as steps hold them

    def _squares(self, seen: Observation) -> Float64[np.ndarray, "nb"]:
        mapped = map_positions(self._of.mapping, seen.positions, self._box)
        off = minimum_image(mapped - self._beads, self._box)
        return np.einsum("ij,ij->i", off, off) / 3.0

    def _means(self, window: int) -> dict[str, Float64[np.ndarray, "m"]]:
        """Watched energies of each molecule, over a window of steps."""

        def watched(seen: Observation) -> list[Float64[np.ndarray, "m"]]:
            return [np.sum([seen.energies[k] for k in parts], axis=0) for parts in WATCHED.values()]

        means = np.mean(self._advance(window, watched), axis=0)
        return dict(zip(WATCHED, means, strict=True))


def next_width(width: float, square: float) -> float:
    """The width after an estimate.

    Args:
        width: that was used, nm.
        square: mean squared distance of a coordinate from its bead found with it, nm^2.
    """
    ratio = (square / width**2) ** (0.5 * STRIDE)
    ratio = min(max(ratio, 1.0 / LARGEST_STRIDE), LARGEST_STRIDE)
    return min(max(width * ratio, NARROWEST), WIDEST)


def drifts(before: Float64[np.ndarray, "m"], after: Float64[np.ndarray, "m"]) -> bool:
    """Whether the mean change of some molecules is neither chance nor negligible.

    Args:
        before: mean energy of each molecule over a window, kJ/mol.
        after: over the next one.
    """
    if len(before) < 2:
        return False
    change = after - before
    error = float(change.std(ddof=1)) / math.sqrt(len(change))
    return abs(float(change.mean())) > max(DRIFT * error, NEGLIGIBLE * float(after.std(ddof=1)))

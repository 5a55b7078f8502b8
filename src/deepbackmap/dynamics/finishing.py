"""From placed atoms to an equilibrated structure: a little minimisation, then constrained dynamics.

Minimisation with stiff bonds takes out what would throw atoms about; dynamics with all bonds at
their lengths then gives every degree of freedom its thermal energy. Soft bonds would stretch in
both and let the Lennard-Jones energy fall far below that of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64

from deepbackmap.dynamics.containers import (
    Dynamics,
    Engine,
    EngineError,
    Hold,
    Minimisation,
    Segment,
)
from deepbackmap.dynamics.settled import Settled, reached, settle_all
from deepbackmap.forcefield.contacts import Contact, Contacts
from deepbackmap.system import Structure

PARTED = 0.6
"""Sigma: minimisation goes on, round by round, while a pair is nearer than that or dynamics fails
from the start."""
ROUNDS = 6
"""Most rounds of minimisation, each twice as long as the one before."""
SAMPLES = 100
"""Energies recorded in the run that is asked for, at most twice as many."""
SETTLING_INTERVAL = 10
"""Steps between energies where a run goes on until they settle."""
NOT_ENERGIES = ("kinetic", "volume", "temperature")
"""Series of an engine that are not tested for having settled."""


@dataclass(frozen=True)
class FinishOptions:
    """How a structure is finished."""

    temperature: float
    """K."""
    steps: int = 100
    """Of dynamics."""
    minimise: int = 10
    """Steps of a first round of minimisation; 0: none. It only has to part what is too close: every
    further step cools the structure, and dynamics needs longer to warm it up."""
    bond_constant: float = 1_000_000.0
    """Stiffness of the bonds while minimising, kJ mol-1 nm-2: they come to their lengths first."""
    timestep: float = 0.001
    """ps."""
    friction: float = 20.0
    """1/ps. Minimised structures are cold, and it is the thermostat that warms them: at 10/ps a
    hundred steps are not enough."""
    until_settled: bool = False
    """Go on until every term of the energy has settled."""
    max_steps: int = 20_000
    """Of dynamics, where they go on."""

    def __post_init__(self) -> None:
        for name in ("temperature", "bond_constant", "timestep", "friction"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        for name, least in (("steps", 1), ("minimise", 0), ("max_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: expected at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Finished:
    """A structure that was finished, and what that took."""

    structure: Structure
    """Molecules whole."""
    minimisation: int
    """Force evaluations of it."""
    dynamics: int
    """Force evaluations of it; a run that failed and was begun again counts in full."""
    steps: int
    """Of dynamics."""
    every: int
    """Steps between two recorded energies."""
    energies: Mapping[str, Float64[np.ndarray, " k"]]
    """Of the dynamics, as ``Segment.energies``, all segments in a row."""
    settled: Mapping[str, Settled]
    """By term of the energy that the system has."""

    @property
    def force_evaluations(self) -> int:
        """Of the whole system."""
        return self.minimisation + self.dynamics

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Terms that have not settled."""
        return tuple(name for name, found in self.settled.items() if not found.settled)


class CannotFinish(Exception):
    """A structure cannot be finished: one sentence, and the two atoms to blame if there are any.

    The caller names the frame and the atoms.
    """

    def __init__(
        self, sentence: str, contact: Contact | None = None, *, at_start: bool = False
    ) -> None:
        super().__init__(sentence)
        self.contact = contact
        self.at_start = at_start
        """Whether dynamics failed from the start, so that more minimisation may help."""


def finish_structure(
    engine: Engine,
    contacts: Contacts,
    structure: Structure,
    options: FinishOptions,
    *,
    seed: int,
    hold: Hold | None = None,
    progress: Callable[[int], None] = lambda steps: None,
) -> Finished:
    """Minimises a structure with stiff bonds and runs constrained Langevin dynamics.

    Args:
        engine: of the system.
        contacts: of the system.
        structure: molecules need not be whole.
        options: how.
        seed: of velocities and thermostat; the only source of chance.
        hold: where beads are held, if they are.
        progress: called with the number of steps of dynamics after each piece.

    Raises:
        CannotFinish: two atoms are in one place, all rounds of minimisation do not part all atoms
            or make a structure that can be run, or the engine cannot go on.
    """
    together = contacts.coincident(structure)
    if together is not None:
        raise CannotFinish("expected atoms in places of their own, found two in one", together)
    wasted = 0
    failure: CannotFinish | None = None
    for start, minimisation in _rounds(engine, contacts, structure, options, hold):
        try:
            series = _run(engine, contacts, start, options, seed, hold, progress)
        except CannotFinish as error:
            if not error.at_start:
                raise
            failure, wasted = error, wasted + options.steps + 1
            continue
        return Finished(
            structure=series.segments[-1].structure,
            minimisation=minimisation,
            dynamics=wasted + sum(s.force_evaluations for s in series.segments),
            steps=series.steps,
            every=series.every,
            energies=series.energies(),
            settled=series.settled(),
        )
    assert failure is not None  # without one there was a round that ended well, or none did
    raise failure


def _rounds(
    engine: Engine,
    contacts: Contacts,
    structure: Structure,
    options: FinishOptions,
    hold: Hold | None,
) -> Iterator[tuple[Structure, int]]:
    """Structures with no pair too close, minimised more and more, and their force evaluations.

    The first is wanted; what comes after it is for starts that cannot be run all the same.
    """
    if not options.minimise:
        yield structure, 0
        return
    evaluations = 0
    for k in range(ROUNDS):
        steps = options.minimise * 2**k
        try:
            found = engine.minimise(structure, Minimisation(steps, options.bond_constant), hold)
        except EngineError as error:
            raise CannotFinish(str(error)) from error
        structure = found.structure
        evaluations += found.force_evaluations
        closest = contacts.closest(structure)
        if closest is None or closest.relative >= PARTED:
            yield structure, evaluations
    if closest is not None and closest.relative < PARTED:
        raise CannotFinish(
            f"expected {evaluations} force evaluations of minimisation to part all atoms to "
            f"{PARTED:g} sigma, found some closer",
            closest,
        )


@dataclass
class _Series:
    """Pieces of one run."""

    every: int
    """Steps between two recorded energies."""
    temperature: float
    """That the atoms are to have, K."""
    steps: int = 0
    segments: list[Segment] = field(default_factory=list)

    def energies(self) -> dict[str, Float64[np.ndarray, " k"]]:
        """Of all pieces in a row; each begins with the sample that the one before it ended with."""
        return {
            name: np.concatenate(
                [s.energies[name][0 if k == 0 else 1 :] for k, s in enumerate(self.segments)]
            )
            for name in self.segments[0].energies
        }

    def settled(self) -> dict[str, Settled]:
        """By term; bonds that are held have no energy but that of rounding.

        Nothing has settled before the atoms have the temperature that they are to have: stiff
        terms swing so much on the way there that they alone can look as if they had.
        """
        energies = self.energies()
        left_out = (*NOT_ENERGIES, "bond")
        found = settle_all({k: v for k, v in energies.items() if k not in left_out})
        if "temperature" in energies and not reached(energies["temperature"], self.temperature):
            found = {
                name: replace(term, state="drifting") if term.settled else term
                for name, term in found.items()
            }
        return found


def _run(
    engine: Engine,
    contacts: Contacts,
    start: Structure,
    options: FinishOptions,
    seed: int,
    hold: Hold | None,
    progress: Callable[[int], None],
) -> _Series:
    """Dynamics in one piece, or in growing pieces until the energies have settled."""
    series = _Series(every=interval(options), temperature=options.temperature)
    structure, velocities = start, None
    steps = options.steps
    while steps:
        run = Dynamics(
            steps=steps,
            temperature=options.temperature,
            timestep=options.timestep,
            friction=options.friction,
            # A seed for each piece: the same random forces twice would be no random forces.
            seed=seed_from(seed, len(series.segments)),
            every=series.every,
        )
        try:
            found = engine.run(structure, run, velocities, hold)
        except EngineError as error:
            raise CannotFinish(str(error), at_start=not series.segments) from error
        _check_energies(found, contacts)
        series.segments.append(found)
        series.steps += steps
        progress(steps)
        structure, velocities = found.structure, found.velocities
        steps = _more(series, options)
    return series


def _more(series: _Series, options: FinishOptions) -> int:
    """Steps of the next piece; 0: there is none."""
    if not options.until_settled or all(s.settled for s in series.settled().values()):
        return 0
    # Half as many again as before, so that the test is made some ten times and not hundreds.
    wanted = max(series.every, series.steps // 2)
    return max(0, min(wanted, options.max_steps - series.steps)) // series.every * series.every


def interval(options: FinishOptions) -> int:
    """Steps between two recorded energies, of which every piece of a run holds a whole number."""
    if options.until_settled:
        return math.gcd(options.steps, SETTLING_INTERVAL)
    most = max(1, options.steps // SAMPLES)
    return next(d for d in range(most, 0, -1) if options.steps % d == 0)


def seed_from(*numbers: int) -> int:
    """A seed between 1 and 2^31 - 2, which any engine takes, from whole numbers from 0."""
    state = np.random.SeedSequence(numbers).generate_state(1)
    return 1 + int(state[0]) % (2**31 - 2)


def _check_energies(segment: Segment, contacts: Contacts) -> None:
    for name, values in segment.energies.items():
        bad = values[~np.isfinite(values)]
        if len(bad):
            contact = contacts.closest(segment.structure)
            raise CannotFinish(f"expected finite energies, found {name} {bad[0]}", contact)

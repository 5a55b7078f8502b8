"""Steps of one box taken by several workers together, each with a part of it: the same bits.

The box is cut into slabs along its longest height. A part has the molecules whose centres lie in a
slab, and copies of all that reach into the columns of clusters (``pairs``) that theirs may see.
Each worker takes the steps of its own molecules; after every step it is told where its copies are
now. Columns are those of the whole box, so that clusters, lists and the order of every sum are too,
and lists are made anew by all when an atom anywhere has moved far enough. When copies may no longer
reach far enough the box is cut anew, at a step at which lists are made anyway.

Who the workers are and how they talk is not known here (``Crew``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics import pairs
from deepbackmap.mechanics.engine import (
    Langevin,
    LostError,
    Mechanics,
    Observation,
    Trajectory,
)
from deepbackmap.mechanics.lanes import LANES
from deepbackmap.mechanics.solver import TOLERANCE
from deepbackmap.quantities import BOLTZMANN

MARGIN = 0.6
"""nm: copies reach that much farther than they must, so that steps can be taken before the box is
cut anew."""


@runtime_checkable
class Link(Protocol):
    """What a worker has of the others."""

    def exchange(
        self, flag: bool, sent: Mapping[int, Float64[np.ndarray, "k 3"]]
    ) -> tuple[bool, dict[int, Float64[np.ndarray, "k 3"]]]:
        """Gives arrays to other parts and takes theirs, when all have come to it.

        Args:
            flag: of this part.
            sent: by number of the part; others are sent nothing.

        Returns:
            Whether the flag of any part is set, and what came from each.
        """
        ...


@runtime_checkable
class Crew(Protocol):
    """Workers that do things together."""

    parts: int
    """How many."""
    engines: int
    """How many engines count on them."""

    def __call__(self, work: Callable[[Any, Link], Any], items: Sequence[Any]) -> list[Any]:
        """Does ``work(item, link)`` for all items at once, each by another worker."""
        ...


_CREW: ContextVar[Crew | None] = ContextVar("crew", default=None)


@contextmanager
def steps_taken_by(crew: Crew | None) -> Iterator[None]:
    """Engines that are opened meanwhile have their steps taken by a crew; None: by this process."""
    token = _CREW.set(crew)
    try:
        yield
    finally:
        _CREW.reset(token)


def crew_in_use() -> Crew | None:
    """The crew of engines that are opened now."""
    return _CREW.get()


@dataclass(frozen=True)
class Part:
    """Molecules of one worker, its own and copies of others, and what is told to whom."""

    mapping: SystemMapping
    """Of these molecules, in the order of the system."""
    molecules: Int64[np.ndarray, "m"]
    """Of the system."""
    own: Bool[np.ndarray, "m"]
    atoms: Int64[np.ndarray, "n"]
    """Of the system."""
    beads: Int64[np.ndarray, "b"]
    """Of the system."""
    own_atoms: Int64[np.ndarray, "k"]
    """Of the part."""
    sent: Mapping[int, Int64[np.ndarray, "s"]]
    """By number of another part: own atoms (of the part) of which it has copies."""
    received: Mapping[int, Int64[np.ndarray, "r"]]
    """By number of another part: atoms (of the part) that are its own there, in its order."""


@dataclass(frozen=True)
class Stretch:
    """What a worker is given: steps until the end, or until the box has to be cut anew."""

    part: Part
    settings: Mapping[str, Any]
    """Of the engine."""
    atoms_in_box: int
    positions: Float64[np.ndarray, "n 3"]
    velocities: Float64[np.ndarray, "n 3"] | None
    beads: Float64[np.ndarray, "b 3"]
    widths: Float64[np.ndarray, "b"]
    names: Int64[np.ndarray, "n"]
    box: Float64[np.ndarray, "3 3"]
    options: Langevin | None
    """None: no steps, energies as they are."""
    temperature: float = 0.0
    """K, where there are no steps: at which widths are meant."""
    shifted: bool = False
    start: int = 0
    every: int = 0
    pending: bool = False
    """Whether the step at which it starts is still to be observed."""
    placed: bool = False
    """Whether observations come with positions."""


@dataclass(frozen=True)
class Seen:
    """An observation of a part's own molecules."""

    step: int
    energies: Mapping[str, Float64[np.ndarray, "m"]]
    positions: Float64[np.ndarray, "p 3"]
    """nm; no rows where they are not wanted."""


@dataclass(frozen=True)
class Stretched:
    """What came of it, of a part's own molecules and atoms."""

    step: int
    pending: bool
    positions: Float64[np.ndarray, "k 3"]
    velocities: Float64[np.ndarray, "k 3"]
    seen: Sequence[Seen]
    strained: Int64[np.ndarray, "s"]
    """Molecules of the system."""
    broken: Int64[np.ndarray, "s"]
    lists: int


class PartedMechanics(Mechanics):
    """``Mechanics`` whose steps and energies a crew works out; the bits are the same.

    All else (projection, which is one molecule at a time) is done here.
    """

    def __init__(self, mapping: SystemMapping, crew: Crew, **settings: Any) -> None:
        """Tables of a system.

        Args:
            mapping: topology and beads.
            crew: that takes the steps.
            **settings: as for ``Mechanics``.

        Raises:
            InputError: there are terms between molecules, or fewer molecules than parts.
        """
        if mapping.topology.intermolecular:
            raise InputError(
                f"parts: expected {mapping.topology.source} without [ intermolecular_interactions "
                "], which may join any two parts, found some; do without parts"
            )
        if mapping.topology.n_molecules < crew.parts:
            raise InputError(
                f"parts: expected at least as many molecules as the {crew.parts} parts, found "
                f"{mapping.topology.n_molecules}"
            )
        super().__init__(mapping, **settings)
        self._crew, self._settings = crew, {k: v for k, v in settings.items() if k != "threads"}
        crew.engines += 1

    def run(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "3 3"],
        options: Langevin,
        names: Int64[np.ndarray, "n"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        every: int = 0,
        observe: Callable[[Observation], bool] | None = None,
    ) -> Trajectory:
        """As ``Mechanics.run``, but that ``observe`` is called when all steps are taken, and cannot
        end them, and that kinetic energies are not told."""
        firm = self.firm(float(options.temperatures().max()), options.timestep)
        held = np.where(firm > widths, 0.0, widths)
        soft = bool(((held > 0.0) & np.isfinite(held)).any())
        x, v, step, pending, lists = positions, velocities, 0, False, 0
        seen: list[Observation] = []
        strained = broken = np.zeros(0, dtype=np.int64)
        while True:
            cut = parts_of(self.mapping, x, box, self._crew.parts, self.reach)
            given = [
                self._stretch(part, x, v, beads, held, names, box, options=options, start=step,
                              every=every, pending=pending, placed=soft)
                for part in cut
            ]  # fmt: skip
            done: list[Stretched] = self._crew(take, given)
            x, v = (_joined(cut, [getattr(d, k) for d in done], x.shape) for k in _STATE)
            seen += _observed(cut, done, x.shape, self.mapping.topology.n_molecules)
            lists += done[0].lists
            if step == 0:
                strained, broken = (np.sort(np.concatenate([getattr(d, k) for d in done]))
                                    for k in ("strained", "broken"))  # fmt: skip
            step, pending = done[0].step, done[0].pending
            if step == options.steps and not pending:
                break
        if observe is not None:
            for found in seen:
                observe(found)
            seen = []
        return Trajectory(x, v, np.zeros(0), tuple(seen), strained, broken, lists)

    def energies(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "3 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        temperature: float = 300.0,
        shifted: bool = False,
    ) -> dict[str, Float64[np.ndarray, "m"]]:
        """As ``Mechanics.energies``."""
        cut = parts_of(self.mapping, positions, box, self._crew.parts, self.reach)
        names = np.zeros(len(positions), dtype=np.int64)
        held = np.broadcast_to(np.asarray(widths, dtype=np.float64), (len(beads),))
        given = [
            self._stretch(part, positions, None, beads, held, names, box,
                          options=None, temperature=temperature, shifted=shifted)
            for part in cut
        ]  # fmt: skip
        done = self._crew(take, given)
        (found,) = _observed(cut, done, positions.shape, self.mapping.topology.n_molecules)
        return found.energies

    def _stretch(
        self,
        part: Part,
        x: Float64[np.ndarray, "n 3"],
        v: Float64[np.ndarray, "n 3"] | None,
        beads: Float64[np.ndarray, "nb 3"],
        widths: Float64[np.ndarray, "nb"],
        names: Int64[np.ndarray, "n"],
        box: Float64[np.ndarray, "3 3"],
        **more: Any,
    ) -> Stretch:
        return Stretch(
            part, self._settings, len(x), x[part.atoms], None if v is None else v[part.atoms],
            beads[part.beads], widths[part.beads], names[part.atoms],
            np.asarray(box, dtype=np.float64), **more,
        )  # fmt: skip


_STATE = ("positions", "velocities")


def _joined(
    cut: Sequence[Part], arrays: Sequence[Float64[np.ndarray, "k 3"]], shape: tuple[int, ...]
) -> Float64[np.ndarray, "n 3"]:
    """Vectors of all atoms, from those of each part's own."""
    found = np.empty(shape)
    for part, own in zip(cut, arrays, strict=True):
        found[part.atoms[part.own_atoms]] = own
    return found


def _observed(
    cut: Sequence[Part], done: Sequence[Stretched], shape: tuple[int, ...], molecules: int
) -> list[Observation]:
    """Observations of the whole box."""
    found = []
    for of_parts in zip(*(d.seen for d in done), strict=True):
        energies = {k: np.empty(molecules) for k in of_parts[0].energies}
        for part, own in zip(cut, of_parts, strict=True):
            for k, values in own.energies.items():
                energies[k][part.molecules[part.own]] = values
        arrays = [own.positions for own in of_parts]

        def look(arrays: Sequence[np.ndarray] = arrays) -> Float64[np.ndarray, "n 3"]:
            return _joined(cut, arrays, shape)

        found.append(Observation(of_parts[0].step, energies, look))
    return found


# --- who has what ---------------------------------------------------------------------------------


def parts_of(
    mapping: SystemMapping,
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    count: int,
    reach: float,
) -> list[Part]:
    """Cuts a box.

    Args:
        mapping: of the system.
        positions: nm, molecules whole.
        box: lattice vectors as rows, nm.
        count: how many parts.
        reach: of the lists of pairs, nm.
    """
    inverse = np.linalg.inv(box)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    axis = int(np.argsort(-heights, kind="stable")[0])  # as the engine does for its columns
    height = positions @ inverse[:, axis]
    offsets, bead_offsets = mapping.topology.molecule_offsets(), mapping.bead_offsets()
    centre = np.add.reduceat(height, offsets[:-1]) / np.diff(offsets)
    owner = _slabs(centre % 1.0, np.diff(offsets), count)
    # as wide as a column or wider, whatever its shape: eight atoms make a cube's worth of it
    column = (8.0 * abs(float(np.linalg.det(box))) / len(positions)) ** (1.0 / 3.0)
    beyond = (reach + 3.0 * column + MARGIN) / float(heights[axis])
    seen = [
        _near(height, centre, offsets, np.flatnonzero(owner == p), beyond) for p in range(count)
    ]
    return [_part(mapping, owner, seen, p, offsets, bead_offsets) for p in range(count)]


def _slabs(
    centre: Float64[np.ndarray, "m"], atoms: Int64[np.ndarray, "m"], count: int
) -> Int64[np.ndarray, "m"]:
    """The slab of each molecule, with as many atoms in each."""
    order = np.argsort(centre, kind="stable")
    before = np.cumsum(atoms[order]) - atoms[order]
    owner = np.empty(len(centre), dtype=np.int64)
    owner[order] = before * count // max(1, int(atoms.sum()))
    return owner


def _near(
    height: Float64[np.ndarray, "n"],
    centre: Float64[np.ndarray, "m"],
    offsets: Int64[np.ndarray, "m1"],
    own: Int64[np.ndarray, "k"],
    beyond: float,
) -> Bool[np.ndarray, "m"]:
    """Molecules with an atom no farther than that beyond some of a slab's, all in fractions."""
    if not len(own):
        return np.zeros(len(centre), dtype=bool)
    atoms = _within(offsets, own)
    at = height[atoms] - np.repeat(np.floor(centre[own]), np.diff(offsets)[own])
    low, high = float(at.min()) - beyond, float(at.max()) + beyond
    inside = (height - low) % 1.0 <= high - low
    return np.logical_or.reduceat(inside, offsets[:-1])


def _within(offsets: Int64[np.ndarray, "m1"], which: Int64[np.ndarray, "k"]) -> np.ndarray:
    """What belongs to some molecules, one after the other."""
    sizes = np.diff(offsets)[which]
    ends = np.cumsum(sizes)
    return np.repeat(offsets[which] - ends + sizes, sizes) + np.arange(int(sizes.sum()))


def _part(
    mapping: SystemMapping,
    owner: Int64[np.ndarray, "m"],
    seen: Sequence[Bool[np.ndarray, "m"]],
    number: int,
    offsets: Int64[np.ndarray, "m1"],
    bead_offsets: Int64[np.ndarray, "m1"],
) -> Part:
    molecules = np.flatnonzero(seen[number] | (owner == number))
    index = mapping.topology.molecule_type_index()[molecules]
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    runs = zip(index[starts].tolist(), np.diff(starts, append=len(index)).tolist(), strict=True)
    topology = replace(mapping.topology, blocks=tuple(runs))
    local = topology.molecule_offsets()
    of = owner[molecules]

    def those(which: Bool[np.ndarray, "m"]) -> Int64[np.ndarray, "k"]:
        return _within(local, np.flatnonzero(which))

    others = [q for q in range(len(seen)) if q != number]
    sent = {q: those((of == number) & seen[q][molecules]) for q in others}
    received = {q: those(of == q) for q in others}
    return Part(
        mapping=replace(mapping, topology=topology),
        molecules=molecules,
        own=of == number,
        atoms=_within(offsets, molecules),
        beads=_within(bead_offsets, molecules),
        own_atoms=those(of == number),
        sent={q: a for q, a in sent.items() if len(a)},
        received={q: a for q, a in received.items() if len(a)},
    )


# --- what a worker does ---------------------------------------------------------------------------


def take(given: Stretch, link: Link) -> Stretched:
    """Takes the steps of a part, with all others."""
    return _PartMechanics(given.part, given.atoms_in_box, given.settings).stretch(given, link)


class _PartMechanics(Mechanics):
    """The engine of a part."""

    def __init__(self, part: Part, atoms_in_box: int, settings: Mapping[str, Any]) -> None:
        super().__init__(part.mapping, **settings)
        self.atoms_in_box = atoms_in_box
        self._part = part
        self._own = self._places.atoms[part.own_atoms][:, None] + LANES * np.arange(3)

    def stretch(self, given: Stretch, link: Link) -> Stretched:
        """Steps, energies, or both."""
        work = self._work(given.positions, given.beads, given.widths, given.names, given.box)
        strained = broken = np.zeros(0, dtype=np.int64)
        if given.options is None:
            self._list(work)
            energies = self._energies(work, BOLTZMANN * given.temperature, shifted=given.shifted)
            return self._done(work, 0, False, [Seen(0, self._mine(energies), np.zeros((0, 3)))],
                              strained, broken)  # fmt: skip
        warmth = BOLTZMANN * given.options.temperatures()
        if given.start == 0 and not given.pending:
            start = self._project(work, TOLERANCE)
            strained, broken = (self._numbers(k) for k in (start.strained, start.broken))
            self._set_velocities(work, given.velocities, given.options, float(warmth[0]))
        else:
            assert given.velocities is not None
            work.state.v[:] = self._places.spread(given.velocities)
        step, pending, seen = self._together(work, given, warmth, link)
        return self._done(work, step, pending, seen, strained, broken)

    def _together(
        self, work: Any, given: Stretch, warmth: Float64[np.ndarray, "k"], link: Link
    ) -> tuple[int, bool, list[Seen]]:
        """``Mechanics._steps`` one by one: all parts list pairs when the whole box would."""
        options = given.options
        assert options is not None
        step, due, pending = given.start, True, given.pending
        kinetic = np.zeros(options.steps + 1)
        begin = work.state.x[self._own]
        seen: list[Seen] = []
        while step < options.steps or pending:
            if due:
                spent = self._farthest(work, begin) > (0.5 * MARGIN - self.skin) ** 2
                if link.exchange(spent, {})[0]:
                    break
                self._list(work)
                due = False
            if pending:
                energies = self._mine(self._energies(work, float(warmth[step])))
                there = work.state.x[self._own] if given.placed else np.zeros((0, 3))
                seen.append(Seen(step, energies, there))
                pending = False
                continue
            if self._slow(work):
                work.state = work.state._replace(extra=self._extra(work))
            self._advance(work, options, warmth, step, step + 1, kinetic)
            step += 1
            due = self._swap(work, link)
            pending = bool(given.every) and (step % given.every == 0 or step == options.steps)
        if not np.isfinite(work.state.x[self._own]).all():
            raise LostError(self._lost(work))
        return step, pending, seen

    def _swap(self, work: Any, link: Link) -> bool:
        """Tells and hears of copies; whether an atom of the box has moved farther than lists
        allow."""
        x, atoms = work.state.x, self._places.atoms
        columns = LANES * np.arange(3)
        far = self._farthest(work, work.state.listed[self._own]) > (0.5 * self.skin) ** 2
        sent = {q: x[atoms[a][:, None] + columns] for q, a in self._part.sent.items()}
        far, come = link.exchange(bool(far), sent)
        for q, a in self._part.received.items():
            x[atoms[a][:, None] + columns] = come[q]
        lists = work.lists
        pairs.place(x, work.state.offsets, lists.places, lists.points, LANES)
        return far

    def _farthest(self, work: Any, before: Float64[np.ndarray, "k 3"]) -> float:
        """Largest squared move of an own atom, nm^2; summed as compiled steps sum it."""
        moved = (work.state.x[self._own] - before) ** 2
        return float((moved[:, 0] + moved[:, 1] + moved[:, 2]).max(initial=0.0))

    def _mine(
        self, energies: Mapping[str, Float64[np.ndarray, "m"]]
    ) -> dict[str, Float64[np.ndarray, "k"]]:
        return {k: values[self._part.own] for k, values in energies.items()}

    def _numbers(self, molecules: Int64[np.ndarray, "k"]) -> Int64[np.ndarray, "s"]:
        """Of those that are own, in the system."""
        return self._part.molecules[molecules[self._part.own[molecules]]]

    def _done(
        self,
        work: Any,
        step: int,
        pending: bool,
        seen: Sequence[Seen],
        strained: Int64[np.ndarray, "s"],
        broken: Int64[np.ndarray, "s"],
    ) -> Stretched:
        own = self._own
        return Stretched(
            step, pending, work.state.x[own], work.state.v[own], seen, strained, broken, work.count
        )

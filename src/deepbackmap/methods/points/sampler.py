"""Sampling with the point generator: whole boxes along the flow, coloured Gibbs sweeps, then a few
steps of constrained dynamics.

All blocks of a box go along their paths together, each seeing the others where they are expected
to end; a Gibbs sweep then places blocks anew, colour by colour, in surroundings that are finished.
Bonds and beads are made exact by one projection, and what is stiff takes on the temperature asked
for in the steps that follow.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.blocks.handedness import Handedness, split_by_hands
from deepbackmap.blocks.index import (
    Blocks,
    NearBeads,
    build_bead_frames,
    build_blocks,
    joined_frames,
    near_beads,
    whole_beads,
)
from deepbackmap.blocks.order import colours
from deepbackmap.blocks.plan import build_plan
from deepbackmap.errors import InputError
from deepbackmap.geometry.counter_random import hash_counters, uniform
from deepbackmap.geometry.frame_noise import Turn, turn_of
from deepbackmap.geometry.parts import PART, give_back
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics.gather import Gathering, copies_of, frames_at_once
from deepbackmap.mechanics.settle import Settled
from deepbackmap.methods.base import Model, Progress
from deepbackmap.methods.options import correlation_time
from deepbackmap.methods.points.generator import (
    USUAL_WIDTH,
    PointGenerator,
    Scene,
    make_scene,
    put,
    select,
)
from deepbackmap.methods.points.options import PointModelOptions, PointSamplingOptions
from deepbackmap.methods.points.pairs import MARGIN, find_pairs
from deepbackmap.methods.points.slots import (
    PointTables,
    TypeTable,
    bead_signs,
    build_point_tables,
    mirrored_frames,
    name_kinds,
)
from deepbackmap.methods.settling import ANEW, BeadDistances, LastSteps
from deepbackmap.system import Structure

_COLOUR, _NOISE = range(16, 18)
"""Streams of random numbers."""
UNLIKE = 0.02
"""Share of the bonds of beads whose lengths the training did not have, from which on beads are
taken to be off. Beads that fit have a thousandth."""
LAST_NOISE = 0.05
"""Noise of the last step but one: smaller than what blocks deviate from where they are expected."""


def path_angles(steps: int) -> list[float]:
    """Places on the path from noise (0) to data (pi/2), the last noise being ``LAST_NOISE``."""
    if steps == 1:
        return [0.0, 0.5 * math.pi]
    last = math.acos(LAST_NOISE)
    return [last * k / (steps - 1) for k in range(steps)] + [0.5 * math.pi]


def triples(steps: int) -> list[tuple[float, float, float]]:
    """For each step the place on the path before it, at it and after it; 0 before the first."""
    angles = path_angles(steps)
    return list(zip([0.0, *angles], angles, angles[1:], strict=False))


ROWS_OF_A_CARD = 16
"""Times ``batch`` blocks in one call of the network on a card."""
BEADS_AT_ONCE = {"cpu": 128, "cuda": 4096}
"""Whose pairs of atoms are looked for together."""


@dataclass(frozen=True)
class _System:
    """Tables of one frame, or of several as if they were one."""

    blocks: Blocks
    tables: PointTables
    copies: int


@dataclass(frozen=True)
class _Beads:
    """One frame that is to be drawn."""

    beads: Structure
    turn: Turn
    """Its random numbers."""
    near: Iterable[NearBeads]
    report: Progress


@dataclass(frozen=True)
class _Frame:
    """One frame on the way, or several."""

    system: _System
    scene: Scene
    neighbours: Int64[Tensor, "nb k"]
    turns: list[Turn]
    """The random numbers of each."""
    width: float
    """How far beads are off those that atoms can have, nm."""


class PointSampler:
    """Puts the atoms of one topology back, frame by frame, with a point model."""

    def __init__(
        self,
        model: Model,
        mapping: SystemMapping,
        options: PointSamplingOptions,
        device: torch.device | str = "cpu",
        handedness: Handedness | None = None,
    ) -> None:
        """Prepare the tables.

        Args:
            model: of this method.
            mapping: of the system.
            options: of the run.
            device: to work on.
            handedness: of the stereocentres; says which blocks are looked at in a mirror.

        Raises:
            InputError: a type or a kind of block that the model never saw.
        """
        spec = model.spec
        assert isinstance(spec.options, PointModelOptions)
        assert isinstance(model.generator, PointGenerator)
        self.points, vocabulary = spec.options.points, spec.options.slots()
        self.spec, self.mapping, self.options = spec, mapping, options
        self.device = torch.device(device)
        self._rows = options.batch * (1 if self.device.type == "cpu" else ROWS_OF_A_CARD)
        # What follows is made once a molecule type and depends on hands.
        split = split_by_hands(mapping, handedness)
        self._split, self._handedness = split, handedness
        self._masses = mapping.topology.masses()
        plan = build_plan(split, spec.atom_types, spec.bead_types)
        names = name_kinds(split, plan, self.points, bead_signs(split, handedness))

        def system(copies: int) -> _System:
            several = copies_of(split, copies)
            blocks = build_blocks(plan, several, self.device)
            tables = build_point_tables(several, blocks, names, vocabulary, self.points)
            return _System(blocks, tables, copies)

        self._systems = functools.cache(system)
        alone = self._systems(1)
        self.blocks, self.tables = alone.blocks, alone.tables
        self.generator = model.generator.to(self.device).eval()
        self.temperature = options.temperature or spec.temperature
        self.heat = math.sqrt(self.temperature / spec.temperature)
        # What the network is told stays inside what it was trained at.
        known = spec.temperatures or (spec.temperature,)
        told = min(max(self.temperature, min(known)), max(known))
        self.told_heat = math.sqrt(told / spec.temperature)
        self.gathering = Gathering()
        self.last_steps = LastSteps(
            mapping, options, self.temperature, rigid=spec.rigid, device=self.device,
            gathering=self.gathering,
        )  # fmt: skip
        self._distances = BeadDistances(mapping, spec.bead_distances)
        self._own = threading.local()

    @property
    def settled(self) -> Settled | None:
        """What the last steps of the frame that this thread sampled last came to."""
        return getattr(self._own, "settled", None)

    @property
    def at_once(self) -> int:
        """How many frames are worth being sampled at once, by a thread each."""
        if self.device.type == "cpu" or self.options.sweeps:
            return 1
        if self.mapping.topology.intermolecular:  # terms between molecules of one box
            return 1
        memory = torch.cuda.get_device_properties(self.device).total_memory
        return frames_at_once(self.tables.n_atoms, memory)

    @property
    def placements(self) -> int:
        """Blocks placed for a frame, for progress bars."""
        return len(self.blocks.bead_kind) * (self.options.steps + self.options.sweeps)

    @torch.no_grad()
    def sample(
        self, beads: Structure, *, frame: int = 0, progress: Progress | None = None
    ) -> Structure:
        """Atoms for one frame of beads; molecules are whole.

        Args:
            beads: positions of the beads in the order of the mapping.
            frame: its number, which names the random numbers together with the seed.
            progress: called with the number of blocks placed since the last call.

        Raises:
            InputError: wrong number of beads, or a box too small for the last steps' cut-off.
        """
        if beads.n != len(self.blocks.bead_kind):
            raise InputError(
                f"frame {frame}: expected {len(self.blocks.bead_kind)} beads, found {beads.n}"
            )
        self.last_steps.check_box(beads, frame)
        report = progress or (lambda n: None)
        with self.gathering.working():
            settled = self.last_steps.until_right(
                lambda near, attempt, width: self._drawn(
                    near, frame + attempt * ANEW, width, report
                ),
                self._any_wrong, beads, frame, placed_for=self._width_of(beads),
            )  # fmt: skip
        self._own.settled = settled
        return Structure(positions=settled.positions, box=beads.box, time=beads.time)

    def _width_of(self, beads: Structure) -> float | None:
        """Width (nm) to place atoms for at first: none, or the usual one for beads farther apart
        than the training's exact ones; None for a network that is not told any."""
        if not self.generator.uncertain:
            return None
        return USUAL_WIDTH if self._distances.outside(beads) > UNLIKE else 0.0

    def _any_wrong(self, positions: np.ndarray) -> bool:
        """Whether a stereocentre has the other hand."""
        return self._handedness is not None and self._handedness.any_wrong(positions, self._masses)

    def _drawn(self, beads: Structure, frame: int, width: float, report: Progress) -> np.ndarray:
        """Positions (n, 3) as the network draws them, nm, on beads that are off by a width. Who is
        near whom is the most of what a large box holds, and is gone when they are returned."""
        turn = turn_of(frame, beads.time, correlation_time(self.options.noise))
        near = near_beads(beads.positions, beads.box, self.spec.bead_cutoff)
        if self.at_once == 1:
            return self._drawn_together([_Beads(beads, turn, near, report)], width)[0]
        found: np.ndarray = self.gathering.ask(
            ("drawn", width), lambda frames: self._drawn_together(frames, width),
            _Beads(beads, turn, list(near), report),
        )  # fmt: skip
        return found

    def _drawn_together(self, frames: list[_Beads], width: float) -> list[np.ndarray]:
        """The positions of some frames."""
        at = self._look(frames, width)

        def report(placed: int) -> None:
            for f in frames:
                f.report(placed // len(frames))

        states = self._flow(at, report)
        for sweep in range(1, 1 + self.options.sweeps):
            states = self._sweep(at, states, sweep, frames[0].report)
        tables = at.system.tables
        relative = self.generator.spread(states, tables, at.scene.rotation)[:-1].double()
        del at, states
        whole = np.concatenate(
            [whole_beads(f.beads.positions, f.beads.box, self.mapping) for f in frames]
        )
        if len(whole) > PART:
            give_back()
        there = torch.as_tensor(whole, device=self.device)[tables.atom_owner[:-1]]
        return np.split((there + relative).cpu().numpy(), len(frames))

    def _look(self, frames: list[_Beads], width: float) -> _Frame:
        """Frames of the blocks, and which atoms may meet."""
        spec, system = self.spec, self._systems(len(frames))
        tables = system.tables
        reach = spec.bead_cutoff if self.options.sweeps else None  # colours need them all
        beads = joined_frames(
            [
                build_bead_frames(
                    f.beads.positions, f.beads.box, self.blocks, self._split, cutoff=reach,
                    plane=True,
                )
                for f in frames
            ]
        )  # fmt: skip
        beads = mirrored_frames(beads, tables.hand)
        near = (
            part.moved(k * self.tables.n_beads) for k, f in enumerate(frames) for part in f.near
        )
        pairs = find_pairs(
            tables, system.blocks, near, beads.whole[0],
            self.generator.means(tables, beads.rotation[0]), self.points.cutoff + MARGIN,
            len(spec.atom_types), BEADS_AT_ONCE[self.device.type],
        )  # fmt: skip
        scene = make_scene(beads, pairs)
        return _Frame(system, scene, beads.neighbours[0], [f.turn for f in frames], width)

    def _noise(
        self, bead_type: str, table: TypeTable, at: _Frame, sweep: int
    ) -> Float[Tensor, "b d"]:
        flow = self.generator.flow(bead_type)
        normal = []
        for k, turn in enumerate(at.turns):
            beads = table.beads if len(at.turns) == 1 else self._beads_of(table, k)
            name = hash_counters(self.options.seed, turn.number, sweep, _NOISE, beads)
            normal.append(turn.normal(name, flow.mean.shape[1]))
        noise = flow.noise(self.heat, at.width) * torch.cat(normal)
        return noise * (flow.unscale[table.variant] > 0)

    def _beads_of(self, table: TypeTable, frame: int) -> Int64[Tensor, "b"]:
        """Of one of some frames, by their numbers in it; rows are in the order of the beads."""
        n = self.tables.n_beads
        first, last = torch.searchsorted(
            table.beads, table.beads.new_tensor([frame * n, (frame + 1) * n])
        ).tolist()
        return table.beads[first:last] - frame * n

    def _ends(
        self, at: _Frame, bead_type: str, table: TypeTable, noisy: Tensor, angle: float,
        positions: Tensor, own: Tensor, settled: bool,
    ) -> Float[Tensor, "b d"]:  # fmt: skip
        """Expected ends of the paths of some blocks, a batch at a time."""
        flow = self.generator.flow(bead_type)
        found = []
        for rows in torch.arange(len(noisy), device=self.device).split(self._rows):
            part = select(table, rows)
            fixed, seen = self.generator.observe(
                bead_type, positions, own[rows], part, at.system.tables, at.scene, self.told_heat,
                settled, at.width,
            )  # fmt: skip
            full, heat, width = (
                fixed.new_full((len(rows),), x) for x in (angle, self.heat, at.width)
            )
            found.append(flow.network(noisy[rows], full, heat, fixed, seen, width)[0])
        real = flow.unscale[table.variant] > 0
        return torch.cat(found) * real

    def _flow(self, at: _Frame, report: Progress) -> dict[str, Tensor]:
        """All blocks along their paths together."""
        tables = at.system.tables
        states = {t: self._noise(t, table, at, 0) for t, table in tables.types.items()}
        before: dict[str, Tensor] = {}
        for angles in triples(self.options.steps):
            angle, rotation = angles[1], at.scene.rotation
            seen = self.generator.spread(states, tables, rotation, shrink=math.sin(angle))
            ends = {
                t: self._ends(at, t, table, states[t], angle, seen, seen[table.own], False)
                for t, table in tables.types.items()
            }
            states = {t: _move(u, ends[t], before.get(t), angles) for t, u in states.items()}
            before = ends
            report(tables.n_beads)
        return states

    def _sweep(
        self, at: _Frame, states: dict[str, Tensor], sweep: int, report: Progress
    ) -> dict[str, Tensor]:
        """Every block placed anew, those of one colour at a time."""
        tables, generator = self.tables, self.generator
        index = torch.arange(tables.n_beads, device=self.device)
        name = hash_counters(self.options.seed, at.turns[0].number, sweep, _COLOUR, index)
        colour = colours(at.neighbours, uniform(name, 1).squeeze(-1))
        positions = generator.spread(states, tables, at.scene.rotation)
        states = {t: u.clone() for t, u in states.items()}
        for shade in range(int(colour.max()) + 1):
            for bead_type, table in tables.types.items():
                rows = torch.nonzero(colour[table.beads] == shade).squeeze(1)
                if len(rows):
                    part = select(table, rows)
                    new = self._renew(at, bead_type, part, positions, sweep)
                    states[bead_type][rows] = new
                    local = generator.flow(bead_type).local(new, part.variant)
                    put(positions, part, local, at.scene.rotation, tables.n_atoms)
                    report(len(rows))
        return states

    def _renew(
        self, at: _Frame, bead_type: str, table: TypeTable, positions: Tensor, sweep: int
    ) -> Float[Tensor, "b d"]:
        """Blocks that do not see each other from noise to data in finished surroundings."""
        flow, turn = self.generator.flow(bead_type), at.scene.rotation[table.beads]
        state, before = self._noise(bead_type, table, at, sweep), None
        for angles in triples(self.options.steps):
            own = flow.local(math.sin(angles[1]) * state, table.variant) @ turn
            ends = self._ends(at, bead_type, table, state, angles[1], positions, own, True)
            state, before = _move(state, ends, before, angles), ends
        return state


def _move(
    state: Float[Tensor, "b d"], end: Float[Tensor, "b d"], before: Float[Tensor, "b d"] | None,
    angles: tuple[float, ...],
) -> Float[Tensor, "b d"]:  # fmt: skip
    """Along the path through a state and its expected end, which itself is on the move.

    Second order by the expected end of the step before (DPM-Solver++ 2M; Lu et al., arXiv
    2211.01095, with log tan of the angle for half the logarithm of the signal to noise ratio).

    Args:
        state: whitened.
        end: expected from there.
        before: end that was expected a step earlier; None on the first.
        angles: of the step before, of the state, and to go to.
    """
    last, angle, following = angles
    if before is not None and last > 0.0 and following < 0.5 * math.pi:
        ahead = math.log(math.tan(following) / math.tan(angle))
        behind = math.log(math.tan(angle) / math.tan(last))
        end = end + (0.5 * ahead / behind) * (end - before)
    start = (state - math.sin(angle) * end) / math.cos(angle)
    return math.sin(following) * end + math.cos(following) * start

"""Sampling with the point generator: whole boxes along the flow, coloured Gibbs sweeps, then a few
steps of constrained dynamics.

All blocks of a box go along their paths together, each seeing the others where they are expected
to end; a Gibbs sweep then places blocks anew, colour by colour, in surroundings that are finished.
Bonds and beads are made exact by one projection, and what is stiff takes on the temperature asked
for in the steps that follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.blocks.handedness import Handedness, split_by_hands
from deepbackmap.blocks.index import build_bead_frames, build_blocks, near_beads, whole_beads
from deepbackmap.blocks.order import colours
from deepbackmap.blocks.plan import build_plan
from deepbackmap.errors import InputError
from deepbackmap.geometry.counter_random import hash_counters, uniform
from deepbackmap.geometry.frame_noise import Turn, turn_of
from deepbackmap.geometry.parts import PART, give_back
from deepbackmap.mapping import SystemMapping
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


@dataclass(frozen=True)
class _Frame:
    """One frame on the way."""

    scene: Scene
    neighbours: Int64[Tensor, "nb k"]
    turn: Turn
    """Its random numbers."""
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
        # What follows is made once a molecule type and depends on hands.
        split = split_by_hands(mapping, handedness)
        self._split, self._handedness = split, handedness
        plan = build_plan(split, spec.atom_types, spec.bead_types)
        self.blocks = build_blocks(plan, split, self.device)
        names = name_kinds(split, plan, self.points, bead_signs(split, handedness))
        self.tables = build_point_tables(split, self.blocks, names, vocabulary, self.points)
        self.generator = model.generator.to(self.device).eval()
        self.temperature = options.temperature or spec.temperature
        self.heat = math.sqrt(self.temperature / spec.temperature)
        # What the network is told stays inside what it was trained at.
        known = spec.temperatures or (spec.temperature,)
        told = min(max(self.temperature, min(known)), max(known))
        self.told_heat = math.sqrt(told / spec.temperature)
        self.last_steps = LastSteps(
            mapping, options, self.temperature, rigid=spec.rigid, device=self.device
        )
        self._distances = BeadDistances(mapping, spec.bead_distances)
        self.settled: Settled | None = None

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
        self.settled = self.last_steps.until_right(
            lambda near, attempt, width: self._drawn(near, frame + attempt * ANEW, width, report),
            self._any_wrong, beads, frame, placed_for=self._width_of(beads),
        )  # fmt: skip
        return Structure(positions=self.settled.positions, box=beads.box, time=beads.time)

    def _width_of(self, beads: Structure) -> float | None:
        """Width (nm) to place atoms for at first: none, or the usual one for beads farther apart
        than the training's exact ones; None for a network that is not told any."""
        if not self.generator.uncertain:
            return None
        return USUAL_WIDTH if self._distances.outside(beads) > UNLIKE else 0.0

    def _any_wrong(self, positions: np.ndarray) -> bool:
        """Whether a stereocentre has the other hand."""
        return self._handedness is not None and self._handedness.any_wrong(positions)

    def _drawn(self, beads: Structure, frame: int, width: float, report: Progress) -> np.ndarray:
        """Positions (n, 3) as the network draws them, nm, on beads that are off by a width. Who is
        near whom is the most of what a large box holds, and is gone when they are returned."""
        whole = torch.as_tensor(
            whole_beads(beads.positions, beads.box, self.mapping), device=self.device
        )
        at = self._look(beads, frame, width)
        states = self._flow(at, report)
        for sweep in range(1, 1 + self.options.sweeps):
            states = self._sweep(at, states, sweep, report)
        relative = self.generator.spread(states, self.tables, at.scene.rotation)[:-1]
        del at, states
        if len(whole) > PART:
            give_back()
        return (whole[self.tables.atom_owner[:-1]] + relative.double()).cpu().numpy()

    def _look(self, beads: Structure, frame: int, width: float) -> _Frame:
        """Frames of the blocks, and which atoms may meet."""
        spec, tables = self.spec, self.tables
        reach = spec.bead_cutoff
        frames = mirrored_frames(
            build_bead_frames(
                beads.positions, beads.box, self.blocks, self._split,
                cutoff=reach if self.options.sweeps else None, plane=True,  # colours need them all
            ),
            tables.hand,
        )  # fmt: skip
        pairs = find_pairs(
            tables, self.blocks, near_beads(beads.positions, beads.box, reach), frames.whole[0],
            self.generator.means(tables, frames.rotation[0]), self.points.cutoff + MARGIN,
            len(spec.atom_types),
        )  # fmt: skip
        turn = turn_of(frame, beads.time, correlation_time(self.options.noise))
        return _Frame(make_scene(frames, pairs), frames.neighbours[0], turn, width)

    def _noise(
        self, bead_type: str, table: TypeTable, at: _Frame, sweep: int
    ) -> Float[Tensor, "b d"]:
        flow = self.generator.flow(bead_type)
        name = hash_counters(self.options.seed, at.turn.number, sweep, _NOISE, table.beads)
        noise = flow.noise(self.heat, at.width) * at.turn.normal(name, flow.mean.shape[1])
        return noise * (flow.unscale[table.variant] > 0)

    def _ends(
        self, at: _Frame, bead_type: str, table: TypeTable, noisy: Tensor, angle: float,
        positions: Tensor, own: Tensor, settled: bool,
    ) -> Float[Tensor, "b d"]:  # fmt: skip
        """Expected ends of the paths of some blocks, a batch at a time."""
        flow = self.generator.flow(bead_type)
        found = []
        for rows in torch.arange(len(noisy), device=self.device).split(self.options.batch):
            part = select(table, rows)
            fixed, seen = self.generator.observe(
                bead_type, positions, own[rows], part, self.tables, at.scene, self.told_heat,
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
        tables = self.tables
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
        name = hash_counters(self.options.seed, at.turn.number, sweep, _COLOUR, index)
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

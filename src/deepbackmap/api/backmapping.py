"""What backmapping does to one frame: sampled, finished, judged, drawn anew where it must be."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, replace

import numpy as np
import torch

from deepbackmap.api import judgement
from deepbackmap.api.finisher import FinishedFrame, Finisher, finish_options
from deepbackmap.api.held import Held
from deepbackmap.blocks.handedness import Handedness
from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.chemistry.tacticity import KnownHands
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.plausible import Bonds
from deepbackmap.evaluation.usable import Finding, verdict, worst
from deepbackmap.geometry.frame_noise import draw_number
from deepbackmap.geometry.parts import give_back
from deepbackmap.jobs.task import Job, Report, Work
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics.gather import Gathering
from deepbackmap.methods.base import Model, SharedSampler, open_sampler
from deepbackmap.methods.options import SamplingOptions
from deepbackmap.system import Structure
from deepbackmap.system.lean import Lean

ATTEMPTS = 3
"""Times that a frame is drawn, until it can be used."""
LARGE = 100_000
"""Atoms of a box from which on memory is given back to the system between two stages."""


@dataclass(frozen=True)
class FinishPlan:
    """How sampled structures are finished."""

    steps: int
    """Of dynamics."""
    engine: str


@dataclass(frozen=True)
class BackmappedFrame:
    """A frame of beads with its atoms."""

    structure: Structure
    figures: Figures
    held: Held
    """Of all attempts: their force evaluations add up."""
    attempts: int
    doubts: tuple[Finding, ...]
    """What speaks against the beads."""
    finished: FinishedFrame | None
    """What finishing did, without the structure; None: there was none."""


@dataclass(frozen=True)
class BackmapTask:
    """What is done to every frame of beads: contents only, no names of files to be read."""

    lean: Lean
    """The atoms, with their virtual sites and without."""
    system: SystemMapping
    """Of those without."""
    model: Model
    options: SamplingOptions
    device: str
    handedness: Handedness | None
    """Wanted, for the sampler."""
    hands: KnownHands
    """The same for the judge."""
    sides: WantedSides
    """Of double bonds, for the judge."""
    source: str
    """The file of the beads, for messages."""
    way_out: str = ""
    """What to do about a topology that the model does not know."""
    keep_defects: bool = False
    finish: FinishPlan | None = None

    @property
    def temperature(self) -> float:
        """Target, K."""
        return self.options.temperature or self.model.spec.temperature

    def open(self) -> Work:
        """Samples one frame after another; the content of a job is its beads.

        Raises:
            InputError: the model does not know a type of the topology.
        """
        return _Backmapping(self)


class _Backmapping:
    """A task at work."""

    def __init__(self, task: BackmapTask) -> None:
        self._task = task
        device = torch.device(task.device)
        # A copy, whose weights lie where memory is aligned, as they do where a worker received
        # them; as they lie in a file they do not, and kernels then round otherwise.
        model = replace(task.model, generator=copy.deepcopy(task.model.generator))
        try:
            self._sampler = open_sampler(model, task.system, task.options, device, task.handedness)
        except InputError as error:  # a type that the model never saw
            raise InputError(f"{task.lean.full.source}: {error}{task.way_out}") from error
        self._judge = Judge(task.lean.topology, task.system, hands=task.hands, sides=task.sides)
        self._bonds = Bonds.of(task.system)
        self._finisher: Finisher | None = None
        self._alone = threading.RLock()
        if task.finish is not None:
            number = np.flatnonzero(task.lean.real)  # of each atom among atoms and sites
            self._finisher = Finisher(
                task.lean.full, finish_options(task.temperature, steps=task.finish.steps),
                engine=task.finish.engine, seed=task.options.seed, keep_defects=task.keep_defects,
                hands=replace(task.hands, centres=number[task.hands.centres]),
                sides=replace(task.sides, atoms=number[task.sides.atoms]),
            )  # fmt: skip

    @property
    def at_once(self) -> int:
        """How many frames are done at once."""
        return self._sampler.at_once if isinstance(self._sampler, SharedSampler) else 1

    @property
    def table(self) -> Gathering:
        """Where they wait for each other while they are sampled; the rest is done one by one."""
        return self._sampler.gathering if isinstance(self._sampler, SharedSampler) else Gathering()

    def __call__(self, job: Job, report: Report) -> BackmappedFrame:
        """Atoms for one frame.

        Raises:
            InputError: the beads cannot be used, or nothing usable comes of them.
        """
        task, beads = self._task, job.content
        place = f"{task.source} frame {job.number}"
        with self._alone:
            doubts = judgement.of_input(
                task.system, beads, self._bonds, task.model.spec, task.temperature
            )
        judgement.refuse(place, doubts, keep_defects=task.keep_defects)
        per_bead = max(1, self._sampler.placements // max(1, task.system.n_beads))
        found = self._usable(beads, job.number, _by_bead(report, per_bead))
        judgement.refuse(
            place, verdict(found.figures, task.temperature), keep_defects=task.keep_defects
        )
        return replace(found, doubts=tuple(f for f in doubts if f.severity != "fine"))

    def _usable(self, beads: Structure, number: int, report: Report) -> BackmappedFrame:
        """The first attempt that can be used, else the last."""
        lean = self._task.lean
        evaluations, before = 0, (0, 0)
        for attempt in range(ATTEMPTS):
            made = self._sample(beads, number, attempt, report)
            settled = self._sampler.settled
            evaluations += 0 if settled is None else settled.evaluations
            if made.n > LARGE:
                give_back()
            with self._alone:
                done = None
                if self._finisher is not None:
                    done = self._finisher.finish(lean.fill(made), number, self._task.source)
                    assert done.structure is not None
                    made = lean.strip(done.structure)
                    before = before[0] + done.minimisation, before[1] + done.dynamics
                    done = replace(done, structure=None, minimisation=before[0], dynamics=before[1])
                figures = self._judge.frame(made, beads, number)
            if worst(verdict(figures, self._task.temperature)) != "unusable":
                break
        held = Held() if settled is None else Held.of(replace(settled, evaluations=evaluations))
        return BackmappedFrame(lean.fill(made), figures, held, attempt + 1, (), done)

    def _sample(self, beads: Structure, number: int, attempt: int, report: Report) -> Structure:
        """The atoms as the sampler makes them."""
        source = self._task.source
        try:
            draw = draw_number(number, attempt)
            made = self._sampler.sample(beads, frame=draw, progress=report)
        except InputError as error:
            raise InputError(f"{source} {error}") from error
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"{source} frame {number}: expected the batch to fit the device's memory, found "
                f"it full with batch {self._task.options.batch}; give a smaller one"
            ) from error
        bad = np.flatnonzero(~np.isfinite(made.positions).all(axis=1))
        if len(bad):
            raise InputError(
                f"{source} frame {number}: expected finite coordinates from the model, found "
                f"{made.positions[bad[0]].tolist()} for atom {bad[0] + 1}; is the model trained?"
            )
        return made


def _by_bead(report: Report, per_bead: int) -> Report:
    """Counts beads for a bar: one is done when all of its placements are."""
    placed = [0]

    def count(placements: int) -> None:
        before = placed[0] // per_bead
        placed[0] += placements
        report(placed[0] // per_bead - before)

    return count

"""What finishing does to one frame, and what it says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from deepbackmap.api import judgement
from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.chemistry.tacticity import KnownHands
from deepbackmap.dynamics.containers import Hold
from deepbackmap.dynamics.finishing import (
    CannotFinish,
    Finished,
    FinishOptions,
    finish_structure,
    seed_from,
)
from deepbackmap.dynamics.settled import Settled
from deepbackmap.errors import InputError, Stopped
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge, Look
from deepbackmap.evaluation.usable import verdict
from deepbackmap.io.trajectory import atom_table
from deepbackmap.jobs.task import Job, Report, Work, no_report
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import BondTree, bond_trees, make_whole

HOLD_CONSTANT = 100_000.0
"""kJ mol-1 nm-2: at 568 K a bead then stays within about 0.01 nm of where it is held."""
BONDS_OFF = 0.002
"""nm: a constrained bond that is farther from its length means that the engine failed."""


@dataclass(frozen=True)
class FinishedFrame:
    """A frame that was finished."""

    structure: Structure | None
    """None: it was let go."""
    before: Figures
    after: Figures
    new: tuple[str, ...]
    """Defects that finishing made."""
    minimisation: int
    dynamics: int
    """Force evaluations of both."""
    steps: int
    """Of dynamics."""
    settled: Mapping[str, Settled]
    """What each term of the energy shows."""
    engine: str
    """As it names itself."""


def finish_options(temperature: float | None, **values: Any) -> FinishOptions:
    """Options of finishing as a user gave them.

    Raises:
        InputError: one cannot be, or there is no temperature.
    """
    if temperature is None:
        raise InputError("temperature: expected one in K, since none can be guessed, found none")
    try:
        return FinishOptions(temperature=temperature, **values)
    except ValueError as error:
        raise InputError(str(error).replace(", got ", ", found ")) from error


class Finisher:
    """Finishes frames of one system one by one."""

    def __init__(
        self,
        topology: Topology,
        options: FinishOptions,
        *,
        engine: str = "auto",
        threads: int | None = None,
        seed: int = 0,
        hold: SystemMapping | None = None,
        hold_constant: float = HOLD_CONSTANT,
        reference: Structure | None = None,
        hands: KnownHands | None = None,
        sides: WantedSides | None = None,
        strict: bool = False,
        keep_defects: bool = False,
    ) -> None:
        """Prepares the engine.

        Args:
            topology: of the system.
            options: how.
            engine: which.
            threads: of it.
            seed: of all random numbers, at least 0.
            hold: maps the beads that are held.
            hold_constant: kJ mol-1 nm-2.
            reference: a structure whose stereocentres are right.
            hands, sides: of stereocentres and double bonds, as they should be.
            strict: whether what is suspicious is an error as well.
            keep_defects: whether structures that cannot be used are wanted.

        Raises:
            InputError: the topology cannot be run, or there is no such engine here.
        """
        if seed < 0:
            raise InputError(f"seed: expected a whole number from 0, found {seed}")
        if not (math.isfinite(hold_constant) and hold_constant > 0.0):
            raise InputError(f"hold_constant: expected a number above 0, found {hold_constant}")
        if not (topology.c12 > 0.0).any():
            raise InputError(
                f"{topology.source}: expected Lennard-Jones parameters, found none above 0, so "
                "that nothing would keep atoms apart"
            )
        self._topology, self._options, self._seed = topology, options, seed
        self._hold, self._constant = hold, hold_constant
        self._strict, self._keep, self._threads = strict, keep_defects, threads
        self._trees: tuple[BondTree, ...] = bond_trees(topology)
        self._judge = Judge(topology, hold, reference=reference, hands=hands, sides=sides)
        # Here, so that verbs that run no engine need not wait for OpenMM.
        from deepbackmap.dynamics.engines import open_engine

        self._engine = open_engine(
            topology, atom_table(topology), name=engine, threads=threads, mapping=hold
        )

    def finish(
        self,
        frame: Structure,
        number: int,
        source: str,
        beads: Structure | None = None,
        progress: Report = no_report,
    ) -> FinishedFrame:
        """Finishes one frame.

        Args:
            frame: molecules need not be whole.
            number: of the frame in its file.
            source: the file, for messages.
            beads: where beads are held; None: where the frame has them.
            progress: told how many steps of dynamics were done since the last call.

        Raises:
            InputError: it cannot be finished, or what came out has a defect that is not to be.
        """
        where = f"{source} frame {number}"
        whole = replace(
            frame,
            positions=make_whole(
                frame.positions,
                frame.box,
                self._topology,
                trees=self._trees,
                source=where,
                endless=True,
            ),
        )
        hold = self._hold_of(whole, beads)
        before = self._judge.look(whole)
        try:
            done = finish_structure(
                self._engine, self._judge.contacts, whole, self._options,
                seed=seed_from(self._seed, number), hold=hold,
                progress=progress,
            )  # fmt: skip
        except CannotFinish as error:
            raise InputError(f"{where}: {self._sentence(error)}") from error
        found = self._judge_frame(whole, before, done, hold, number, where)
        return replace(found, structure=replace(done.structure, time=frame.time))

    def _hold_of(self, whole: Structure, beads: Structure | None) -> Hold | None:
        if self._hold is None:
            return None
        at = (
            map_positions(self._hold, whole.positions, whole.box)
            if beads is None
            else beads.positions
        )
        return Hold(at, self._constant)

    def _judge_frame(
        self,
        start: Structure,
        before: Look,
        done: Finished,
        hold: Hold | None,
        number: int,
        where: str,
    ) -> FinishedFrame:
        """The figures of a frame, or a refusal of it."""
        after = self._judge.look(done.structure, before)
        held = None if hold is None else Structure(hold.beads, done.structure.box)
        first = self._judge.figures(before, start, held, number)
        last = self._judge.figures(after, done.structure, held, number)
        if last.bonds.largest > BONDS_OFF:
            raise InputError(
                f"{where}: expected bonds at their lengths after dynamics, found one "
                f"{last.bonds.largest:.4f} nm off ({self._engine.name})"
            )
        new = self._judge.new_defects(after, before)
        if new and not self._keep:
            raise Stopped(
                f"{where}: expected no defect from finishing, found {len(new)} new, the first "
                f"{new[0]}; keep-defects writes the structure all the same"
            )
        judgement.refuse(
            where, verdict(last, self._options.temperature),
            keep_defects=self._keep, strict=self._strict,
        )  # fmt: skip
        return FinishedFrame(
            done.structure, first, last, tuple(f"{text}, frame {number}" for text in new),
            done.minimisation, done.dynamics, done.steps, done.settled, self._engine.name,
        )  # fmt: skip

    def _sentence(self, error: CannotFinish) -> str:
        if error.contact is None:
            return str(error)
        return f"{error}; closest are {self._judge.name_contact(error.contact)}"


@dataclass(frozen=True)
class FinishTask:
    """What finishing does to every frame."""

    topology: Topology
    options: FinishOptions
    source: str
    """The file, for messages."""
    engine: str = "auto"
    threads: int | None = None
    seed: int = 0
    hold: SystemMapping | None = None
    hold_constant: float = HOLD_CONSTANT
    reference: Structure | None = None
    strict: bool = False
    keep_defects: bool = False

    def open(self) -> Work:
        """A finisher; the content of a job is its frame, and the beads that are held or None."""
        finisher = Finisher(
            self.topology, self.options, engine=self.engine, threads=self.threads, seed=self.seed,
            hold=self.hold, hold_constant=self.hold_constant, reference=self.reference,
            strict=self.strict, keep_defects=self.keep_defects,
        )  # fmt: skip

        def work(job: Job, report: Report) -> FinishedFrame:
            frame, beads = job.content
            return finisher.finish(frame, job.number, self.source, beads, report)

        return work

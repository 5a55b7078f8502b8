"""Placed atoms to an equilibrated structure: a whole trajectory, frame by frame, checked."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepbackmap.api import judgement
from deepbackmap.api.bar import FrameBar
from deepbackmap.api.files import open_atoms, open_beads, spare_inputs
from deepbackmap.api.finisher import HOLD_CONSTANT, FinishedFrame, FinishTask, finish_options
from deepbackmap.api.record import content_hash
from deepbackmap.api.run import FrameRun
from deepbackmap.dynamics.finishing import FinishOptions
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import NAMED, Deviation, Figures
from deepbackmap.evaluation.usable import Finding, ordered, verdict
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, atom_table, open_writer, read_frames
from deepbackmap.jobs.task import Job
from deepbackmap.mapping import SystemMapping, load_mapping
from deepbackmap.mapping.match import check_atoms
from deepbackmap.system import Structure, Topology


@dataclass(frozen=True)
class SettledTerm:
    """One term of the energy in all frames."""

    frames: int
    """In how many frames it has settled."""
    state: str
    """``settled``, ``drifting`` or ``too short``: what most frames are."""
    mean: float
    """Over the part of every frame's series that is kept, kJ/mol."""


@dataclass(frozen=True)
class FinishSummary:
    """What was done and what came of it."""

    frames: int
    atoms: int
    """In each frame."""
    seconds: float
    """From the first frame read to the last one written."""
    engine: str
    """What ran, as it names itself."""
    temperature: float
    """K."""
    minimisation: int
    """Force evaluations of minimisation, of all frames."""
    dynamics: int
    """Force evaluations of dynamics, of all frames."""
    steps: tuple[int, ...]
    """Of dynamics, in every frame."""
    before: Figures
    after: Figures
    new: tuple[str, ...]
    """Stereocentres and double bonds that turned over and rings that were pierced while finishing;
    none unless such structures are to be kept."""
    findings: tuple[Finding, ...]
    """What speaks against using what was written."""
    settled: Mapping[str, SettledTerm]
    """By term of the energy."""
    threads: int | None
    """Of the engine, as they were asked for; None: all cores."""
    held: Deviation
    """Of the beads from where they were held; nothing where they were not."""
    seed: int

    @property
    def evaluations_per_frame(self) -> float:
        """Force evaluations of the whole system that one frame took."""
        return (self.minimisation + self.dynamics) / self.frames

    @property
    def repeats(self) -> str:
        """How far the same command makes the same structures again, and why no farther."""
        if self.engine.startswith("internal"):
            return "to the bit, with any threads and workers"
        if not self.engine.startswith("openmm"):
            return f"to the bit with as many threads of {self.engine}"
        if self.engine == "openmm-cpu" and self.threads == 1:
            return "to the bit with one thread"
        return (
            f"NOT to the bit: {self.engine} adds forces up in an order that depends on its threads "
            "and on the frame before (2e-8 nm after 20 steps, 2e-6 nm after 500, more after more); "
            "threads 1 on a CPU, or engine internal, repeat to the bit"
        )

    def to_text(self) -> str:
        """Some lines for a person."""
        rows = [
            ("written", f"{self.frames} frames of {self.atoms} atoms in {self.seconds:.1f} s"),
            ("engine", f"{self.engine}, {self.temperature:g} K, seed {self.seed}"),
            (
                "force evaluations",
                f"{self.evaluations_per_frame:.0f} a frame ({self.minimisation / self.frames:.0f} "
                f"of minimisation, {self.dynamics / self.frames:.0f} of dynamics)",
            ),
            ("closest contact", f"{_contact(self.before)} before, {_contact(self.after)} after"),
            ("bonds off by", f"{self.before.bonds.largest:.4f} nm before, "
                f"{self.after.bonds.largest:.4f} nm after"),
            ("angles", f"as at {self.before.blocks.temperature:.0f} K before, "
                f"{self.after.blocks.temperature:.0f} K after"),
            ("stereocentres", self._stereo()),
            ("bonds through rings", f"{self.before.rings.pierced} before, "
                f"{self.after.rings.pierced} after"),
            ("settled", self._settled()),
        ]  # fmt: skip
        if self.held.count:
            rows.append(("beads held", f"rms {self.held.rms:.4f} nm, largest "
                f"{self.held.largest:.4f} nm"))  # fmt: skip
        rows.append(("the same again", self.repeats))
        lines = [f"{name:<20} {text}" for name, text in rows]
        lines += [f"  WARNING, new: {name}" for name in self.new]
        lines += judgement.to_lines(self.findings)
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program; a figure that is not finite becomes None."""
        values = asdict(self)
        values |= {"before": self.before.to_dict(), "after": self.after.to_dict()}
        values["held"]["rms"] = self.held.rms
        return values | {
            "evaluations_per_frame": self.evaluations_per_frame, "repeats": self.repeats
        }  # fmt: skip

    def _stereo(self) -> str:
        before, after = self.before.hands, self.after.hands
        if not after.known:
            unknown = f"{after.unknown}, of which nothing says what is right"
            return unknown if after.unknown else "none"
        text = f"{before.wrong} of {after.known} wrong before, {after.wrong} after"
        text += " (right is what most molecules have)" if after.assumed else ""
        return text + (f", {after.unknown} not known" if after.unknown else "")

    def _settled(self) -> str:
        if not self.settled:
            return "nothing to tell by"
        return ", ".join(
            f"{name} {term.state}"
            + ("" if term.frames in (0, self.frames) else f" ({term.frames} of {self.frames})")
            for name, term in self.settled.items()
        )


def finish(
    structure: str | Path,
    trajectory: str | Path | None = None,
    *,
    topology: str | Path,
    output: str | Path,
    temperature: float | None,
    steps: int = FinishOptions.steps,
    minimise: int = FinishOptions.minimise,
    friction: float = FinishOptions.friction,
    frames: str | None = None,
    until_settled: bool = False,
    max_steps: int | None = None,
    hold_beads: bool = False,
    mapping: str | Path | None = None,
    beads: str | Path | None = None,
    hold_constant: float | None = None,
    reference: str | Path | None = None,
    engine: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    strict: bool = False,
    keep_defects: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> FinishSummary:
    """Finishes a placed structure or trajectory: minimisation, then dynamics at a temperature.

    Frames are read, finished, checked and written one at a time. The random numbers depend on the
    seed and on a frame's number in its file, so that a frame comes out the same whichever others
    are asked for. ``OUTPUT.json`` beside the output records options, versions and the summary.

    Args:
        structure: atoms with names, in the topology's order.
        trajectory: frames of it; None takes the frames of the structure file.
        topology: GROMACS topology.
        output: structure or trajectory to write.
        temperature: of the dynamics, K; there is no default.
        steps: of dynamics, 1 fs each.
        minimise: steps of minimisation before; more rounds follow, each twice as long, while atoms
            are too close.
        friction: of the dynamics, 1/ps.
        frames: which frames, "A:B:C"; all by default.
        until_settled: whether to go on until every term of the energy has settled.
        max_steps: most steps then; ``FinishOptions.max_steps`` by default.
        hold_beads: whether to hold the beads where they are.
        mapping: mapping file or packaged name, with ``hold_beads``.
        beads: where the beads are held, frame by frame; where the atoms have them by default.
        hold_constant: of that, kJ mol-1 nm-2; ``HOLD_CONSTANT`` by default.
        reference: structure whose stereocentres are right, of the system or, where all molecules
            are of one type, of one of them; without it, what most molecules of a type have counts
            as right.
        engine: as ``dynamics.engines.open_engine`` knows them.
        threads: of the engine; its own choice by default.
        seed: of all random numbers.
        strict: whether to refuse what is suspicious as well.
        keep_defects: whether to write structures that cannot be used.
        workers: processes that share the frames; the result does not depend on it.
        scheduler: of a Dask cluster that shares them instead (docs/scale.md).
        resume: whether to go on from what an interrupted run has left.
        force: whether to replace existing outputs.
        progress: whether to show a bar on standard error.

    Returns:
        The summary.

    Raises:
        InputError: an input is wrong or does not fit the others, or a structure cannot be finished;
            then no output is left.
    """
    spare_inputs(output, structure, trajectory, topology, mapping, beads, reference)
    if strict and keep_defects:
        raise InputError("strict: expected to refuse or to keep defects, found keep-defects too")
    if max_steps is not None and not until_settled:
        raise InputError("max-steps: expected until-settled with it, found it alone")
    most = FinishOptions.max_steps if max_steps is None else max_steps
    options = finish_options(temperature, steps=steps, minimise=minimise, friction=friction,
        until_settled=until_settled, max_steps=most)  # fmt: skip
    atoms = read_topology(topology)
    system = _held(hold_beads, mapping, beads, hold_constant, atoms)
    hold_constant = HOLD_CONSTANT if hold_constant is None else hold_constant
    given = {"structure": structure, "trajectory": trajectory, "topology": topology,
             "mapping": mapping, "beads": beads, "reference": reference}  # fmt: skip
    used = asdict(options) | {"hold_beads": hold_beads, "hold_constant": hold_constant,
        "strict": strict, "keep_defects": keep_defects, "frames": frames}  # fmt: skip
    run = FrameRun(
        "finish", given, output, used, seed, {"engine": engine, "atoms": content_hash(atoms)},
        workers, scheduler, resume, force=force, progress=progress,
    )  # fmt: skip
    alone = atoms.n_molecules == 1
    with read_frames(structure, trajectory, frames=frames, lone=alone) as source:
        check_atoms(atoms, source.table, str(structure))
        writer = open_writer(
            output, atom_table(atoms), force=force, topology=atoms,
            without_cell=source.without_cell, frames=len(source),
        )  # fmt: skip
        task = FinishTask(
            atoms, options, str(source.path), engine=engine, threads=threads, seed=seed,
            hold=system, hold_constant=hold_constant, reference=_reference(reference, atoms),
            strict=strict, keep_defects=keep_defects,
        )  # fmt: skip
        noted = judgement.of_topology(atoms)
        totals = FinishTotals(atoms.n_atoms, options, threads=threads, seed=seed, noted=noted)
        bar = FrameBar(len(source), options.steps, "step", progress)
        with _beads_of(beads, system, source) as held:
            return run.write(task, _jobs(source, held), totals, writer, bar, threads=threads)


def _jobs(source: FrameSource, held: FrameSource | None) -> Iterator[Job]:
    """Every frame, with the beads that are held."""
    for index, number in enumerate(source.frames.tolist()):
        yield Job(index, number, (source[index], None if held is None else held[number]))


class FinishTotals:
    """What many frames come to, one after another; their structures are let go."""

    def __init__(
        self,
        atoms: int,
        options: FinishOptions,
        *,
        threads: int | None = None,
        seed: int = 0,
        noted: Sequence[Finding] = (),
    ) -> None:
        """Begins with no frame.

        Args:
            atoms: in each frame.
            options: how they are finished.
            threads: of the engine.
            seed: of all random numbers.
            noted: what speaks against the inputs.
        """
        self._noted = tuple(noted)
        self._atoms, self._options, self._threads, self._seed = atoms, options, threads, seed
        self._before, self._after = Figures(), Figures()
        self._new: tuple[str, ...] = ()
        self._minimisation, self._dynamics, self._engine = 0, 0, ""
        self._steps: list[int] = []
        self._settled: list[Mapping[str, Any]] = []
        self._started = time.perf_counter()

    def add(self, job: Job, done: FinishedFrame) -> Structure:
        """One more frame."""
        assert done.structure is not None
        self.count(done)
        return done.structure

    def count(self, done: FinishedFrame) -> None:
        """The same without a structure."""
        self._before, self._after = self._before + done.before, self._after + done.after
        self._new = (self._new + done.new)[:NAMED]
        self._minimisation += done.minimisation
        self._dynamics += done.dynamics
        self._steps.append(done.steps)
        self._settled.append(done.settled)
        self._engine = done.engine

    def summary(self) -> FinishSummary:
        """The figures of all frames so far."""
        return FinishSummary(
            frames=len(self._steps),
            atoms=self._atoms,
            seconds=time.perf_counter() - self._started,
            engine=self._engine,
            temperature=self._options.temperature,
            minimisation=self._minimisation,
            dynamics=self._dynamics,
            steps=tuple(self._steps),
            before=self._before,
            after=self._after,
            new=self._new,
            findings=ordered((*self._noted, *verdict(self._after, self._options.temperature))),
            settled=_settled(self._settled),
            threads=self._threads,
            held=self._after.beads,
            seed=self._seed,
        )


def _held(
    hold_beads: bool,
    mapping: str | Path | None,
    beads: str | Path | None,
    constant: float | None,
    topology: Topology,
) -> SystemMapping | None:
    """The mapping of the beads that are held, if they are."""
    if not hold_beads:
        for name, given in (("beads", beads), ("mapping", mapping), ("hold-constant", constant)):
            if given is not None:
                raise InputError(f"{name}: expected hold-beads with it, found it alone")
        return None
    if mapping is None:
        raise InputError(
            "hold-beads: expected a mapping, which says what the beads are, found none"
        )
    return load_mapping(mapping).resolve(topology)


@contextmanager
def _beads_of(
    path: str | Path | None, system: SystemMapping | None, source: FrameSource
) -> Iterator[FrameSource | None]:
    """Frames of beads that the frames of a source are held at, number by number."""
    if path is None or system is None:
        yield None
        return
    with open_beads(path, system) as beads:
        most = int(source.frames.max())
        if most >= len(beads):
            raise InputError(
                f"{path}: expected beads for each frame of {source.path} that is finished (up to "
                f"number {most}), found {len(beads)} frames"
            )
        yield beads


def _reference(path: str | Path | None, topology: Topology) -> Structure | None:
    """The structure that shows what is right: of the system or, where all molecules are of one
    type, of one of them."""
    if path is None:
        return None
    kinds = {t for t, n in topology.blocks if n}
    single = replace(topology, blocks=((min(kinds), 1),)) if len(kinds) == 1 else topology
    with read_frames(path, lone=True) as source:
        alone = source.table.n == single.n_atoms
    with open_atoms(path, None, single if alone else topology) as source:
        frame = source[0]
    return replace(frame, positions=np.tile(frame.positions, (topology.n_atoms // frame.n, 1)))


def _settled(frames: Sequence[Mapping[str, Any]]) -> dict[str, SettledTerm]:
    """What the series of all frames say, by term."""
    found = {}
    for name in dict.fromkeys(name for frame in frames for name in frame):
        terms = [frame[name] for frame in frames if name in frame]
        states = [t.state for t in terms]
        found[name] = SettledTerm(
            frames=sum(t.settled for t in terms),
            state=max(sorted(set(states)), key=states.count),
            mean=float(np.mean([t.mean for t in terms])),
        )
    return found


def _contact(figures: Figures) -> str:
    if not math.isfinite(figures.contacts.closest):
        return "no pair nearer than its sigma"
    return f"{figures.contacts.closest:.3f} sigma"

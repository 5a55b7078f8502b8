"""Placed atoms to an equilibrated structure: a whole trajectory, frame by frame, checked."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from tqdm import tqdm

from deepbackmap.api import judgement
from deepbackmap.api.compiling import said_when_compiling
from deepbackmap.api.files import beside, open_atoms, open_beads, spare_inputs
from deepbackmap.api.record import make_record
from deepbackmap.dynamics.containers import Hold
from deepbackmap.dynamics.finishing import (
    CannotFinish,
    Finished,
    FinishOptions,
    finish_structure,
    seed_from,
)
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import NAMED, Deviation, Figures
from deepbackmap.evaluation.judge import Judge, Look
from deepbackmap.evaluation.usable import Finding, verdict
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import (
    FrameSource,
    atom_table,
    open_writer,
    read_frames,
)
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mapping.match import check_atoms
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import BondTree, bond_trees, make_whole

HOLD_CONSTANT = 100_000.0
"""kJ mol-1 nm-2: at 568 K a bead then stays within about 0.01 nm of where it is held."""
BONDS_OFF = 0.002
"""nm: a constrained bond that is farther from its length means that the engine failed."""


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
        lines = [f"{name:<20} {text}" for name, text in rows]
        lines += [f"  WARNING, new: {name}" for name in self.new]
        lines += judgement.to_lines(self.findings)
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program; a figure that is not finite becomes None."""
        values = asdict(self)
        values |= {"before": self.before.to_dict(), "after": self.after.to_dict()}
        values["held"]["rms"] = self.held.rms
        return values | {"evaluations_per_frame": self.evaluations_per_frame}

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
        reference: structure whose stereocentres are right; without it, what most molecules of a
            type have counts as right.
        engine: as ``dynamics.engines.open_engine`` knows them.
        threads: of the engine; its own choice by default.
        seed: of all random numbers.
        strict: whether to refuse what is suspicious as well.
        keep_defects: whether to write structures that cannot be used.
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
    record = Path(f"{output}.json")
    system = _held(hold_beads, mapping, beads, hold_constant, atoms)
    hold_constant = HOLD_CONSTANT if hold_constant is None else hold_constant
    with read_frames(structure, trajectory, frames=frames) as source:
        check_atoms(atoms, source.table, str(structure))
        writer = open_writer(output, atom_table(atoms), force=force, topology=atoms)
        if record.exists() and not force:
            raise InputError(f"{record}: expected no file of that name, found one (force replaces)")
        finisher = Finisher(
            atoms, options, engine=engine, threads=threads, seed=seed, hold=system,
            hold_constant=hold_constant, reference=_reference(reference, atoms), strict=strict,
            keep_defects=keep_defects,
        )  # fmt: skip
        with (
            _beads_of(beads, system, source) as held,
            beside(record) as part,
            writer,
            _Bar(len(source), options, progress) as bar,
            said_when_compiling(progress),
        ):
            for number, frame in zip(source.frames.tolist(), source, strict=True):
                where = None if held is None else held[number]
                writer.write(finisher.finish(frame, number, str(source.path), where, bar))
                bar.next_frame()
            summary = finisher.summary()
            given = {"structure": structure, "trajectory": trajectory, "topology": topology,
                     "mapping": mapping, "beads": beads, "reference": reference}  # fmt: skip
            # Inside, so that a record that cannot be written leaves no output either.
            used = asdict(options) | {"hold_beads": hold_beads, "hold_constant": hold_constant,
                "strict": strict, "keep_defects": keep_defects, "frames": frames}  # fmt: skip
            text = make_record(
                "finish", inputs=given, output=output, options=used, seed=seed, threads=threads,
                engine=summary.engine, summary=summary.to_dict(),
            )  # fmt: skip
            part.write_text(text, encoding="utf-8")
    return summary


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
    """Finishes frames of one system one by one and keeps the figures only."""

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
        self._judge = Judge(topology, hold, reference=reference)
        # Here, so that verbs that run no engine need not wait for OpenMM.
        from deepbackmap.dynamics.engines import open_engine

        self._engine = open_engine(
            topology, atom_table(topology), name=engine, threads=threads, mapping=hold
        )
        self._before, self._after, self._held = Figures(), Figures(), Deviation()
        self._new: list[str] = []
        self._done: list[Finished] = []
        self._started = time.perf_counter()

    def finish(
        self,
        frame: Structure,
        number: int,
        source: str,
        beads: Structure | None = None,
        progress: _Bar | None = None,
    ) -> Structure:
        """Finishes one frame.

        Args:
            frame: molecules need not be whole.
            number: of the frame in its file.
            source: the file, for messages.
            beads: where beads are held; None: where the frame has them.
            progress: a bar.

        Raises:
            InputError: it cannot be finished, or what came out has a defect that is not to be.
        """
        where = f"{source} frame {number}"
        whole = replace(
            frame,
            positions=make_whole(
                frame.positions, frame.box, self._topology, trees=self._trees, source=where
            ),
        )
        hold = self._hold_of(whole, beads)
        before = self._judge.look(whole)
        try:
            done = finish_structure(
                self._engine, self._judge.contacts, whole, self._options,
                seed=seed_from(self._seed, number), hold=hold,
                progress=(lambda steps: None) if progress is None else progress.count,
            )  # fmt: skip
        except CannotFinish as error:
            raise InputError(f"{where}: {self._sentence(error)}") from error
        self._judge_frame(whole, before, done, hold, number, where)
        return replace(done.structure, time=frame.time)

    def summary(self) -> FinishSummary:
        """The figures of all frames so far."""
        return FinishSummary(
            frames=len(self._done),
            atoms=self._topology.n_atoms,
            seconds=time.perf_counter() - self._started,
            engine=self._engine.name,
            temperature=self._options.temperature,
            minimisation=sum(d.minimisation for d in self._done),
            dynamics=sum(d.dynamics for d in self._done),
            steps=tuple(d.steps for d in self._done),
            before=self._before,
            after=self._after,
            new=tuple(self._new[:NAMED]),
            findings=verdict(self._after, self._options.temperature),
            settled=_settled([d.settled for d in self._done]),
            threads=self._threads,
            held=self._held,
            seed=self._seed,
        )

    def _hold_of(self, whole: Structure, beads: Structure | None) -> Hold | None:
        if self._hold is None:
            return None
        at = map_positions(self._hold, whole.positions) if beads is None else beads.positions
        return Hold(at, self._constant)

    def _judge_frame(
        self,
        start: Structure,
        before: Look,
        done: Finished,
        hold: Hold | None,
        number: int,
        where: str,
    ) -> None:
        """Keeps the figures of a frame, or refuses it."""
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
            raise InputError(
                f"{where}: expected no defect from finishing, found {len(new)} new, the first "
                f"{new[0]}; keep-defects writes the structure all the same"
            )
        judgement.refuse(
            where, verdict(last, self._options.temperature),
            keep_defects=self._keep, strict=self._strict,
        )  # fmt: skip
        self._new += [f"{text}, frame {number}" for text in new]
        self._before, self._after = self._before + first, self._after + last
        self._held = self._held + last.beads
        # The series are long, and only what they say is reported.
        self._done.append(replace(done, energies={}))

    def _sentence(self, error: CannotFinish) -> str:
        if error.contact is None:
            return str(error)
        return f"{error}; closest are {self._judge.name_contact(error.contact)}"


class _Bar:
    """One bar over all frames that counts steps of dynamics."""

    def __init__(self, frames: int, options: FinishOptions, show: bool) -> None:
        self._frames, self._frame, self._steps = frames, 0, options.steps
        self._bar = tqdm(total=frames * options.steps, unit="step", disable=not show)
        self._label()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def _label(self) -> None:
        self._bar.set_description(f"frame {min(self._frame + 1, self._frames)}/{self._frames}")

    def count(self, steps: int) -> None:
        """So many steps are done; a run that goes on until settled takes more than planned."""
        self._bar.total = max(self._bar.total or 0, self._bar.n + steps)
        self._bar.update(steps)

    def next_frame(self) -> None:
        """A frame is complete."""
        self._frame += 1
        self._label()


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
    if path is None:
        return None
    with open_atoms(path, None, topology) as source:
        return source[0]


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

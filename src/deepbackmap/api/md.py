"""The paper's test by molecular dynamics: does the energy start where equilibrium is?

Several starts of one system run with the same force field, thermostat, barostat and start
velocities, at once at their temperature. A structure that is right has the reference's potential
energy from the first picosecond on; one that is not takes time to get there.
"""

from __future__ import annotations

import csv
import math
import re
import time as clock
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

from deepbackmap.api import judgement
from deepbackmap.api.files import (
    check_folder,
    check_names_used,
    new_folder,
    open_atoms,
    spare_inputs,
)
from deepbackmap.api.record import content_hash, identity, make_record
from deepbackmap.dynamics.constraints import thermal_velocities
from deepbackmap.dynamics.containers import (
    Dynamics,
    Engine,
    EngineError,
    Interactions,
    Minimisation,
    Segment,
)
from deepbackmap.dynamics.finishing import FinishOptions, seed_from
from deepbackmap.dynamics.gromacs_files import write_gromacs_inputs
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.usable import Finding, verdict
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.system import TERMS
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer
from deepbackmap.jobs.journal import open_journal
from deepbackmap.jobs.loop import in_order
from deepbackmap.jobs.pool import Here
from deepbackmap.jobs.task import Job, Report, Work
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import make_whole

RECORD = "md.json"
"""A file that every folder of a run holds."""
COUNTED = tuple(term for term in TERMS if term != "bond")
"""Terms of the potential energy that are compared: bonds are held, so that theirs is rounding."""
INSIDE = 2.0
"""Standard deviations of the reference about its mean: the band."""
WINDOW = 1.0
"""ps: energies are averaged over that long before they are held against the band, since single
ones of a run in equilibrium leave it one time in twenty."""
ONE_BAR = 1.01325
"""bar."""
OPENMM_FRICTION = 1.0
"""1/ps, where the engine has no v-rescale."""
EVERY = 10
"""Steps between recorded energies."""


@dataclass(frozen=True)
class Band:
    """Potential energy of the reference, bonds left out."""

    mean: float
    """kJ/mol."""
    sd: float
    """Of single frames, kJ/mol."""
    frames: int

    @property
    def low(self) -> float:
        """Lower edge, kJ/mol."""
        return self.mean - INSIDE * self.sd

    @property
    def high(self) -> float:
        """Upper edge, kJ/mol."""
        return self.mean + INSIDE * self.sd


@dataclass(frozen=True)
class Run:
    """What one start did."""

    name: str
    source: str
    """File it came from."""
    frame: int
    """Number in that file."""
    first: float
    """Potential energy of the start itself, kJ/mol."""
    windows: tuple[float, ...]
    """Mean potential energy of every whole picosecond, kJ/mol."""
    inside_from: float | None
    """Time in ps from which every picosecond's mean is inside the band; 0: all of them are; None
    where the last is not, or there is no reference."""
    share_inside: float | None
    """Share of single energies inside the band; None without a reference."""
    minimisation: int
    """Force evaluations before the run."""
    temperature: float
    """Mean over the second half, K."""
    volume: float
    """Mean over the second half, nm^3."""
    start: Figures
    """Of the start as it was run."""
    last: Figures
    """Of the last frame."""
    new: tuple[str, ...]
    """Stereocentres and double bonds that turned over, and rings that were pierced."""
    findings: tuple[Finding, ...]
    """What speaks against using the last frame."""


@dataclass(frozen=True)
class MdSummary:
    """What was run and what came of it."""

    folder: str
    engine: str
    temperature: float
    """K."""
    pressure: float | None
    """bar; None: constant volume."""
    thermostat: str
    time: float
    """ps."""
    seed: int
    seconds: float
    band: Band | None
    runs: tuple[Run, ...]
    failed: Mapping[str, str]
    """Starts that could not be run, and why."""

    def to_text(self) -> str:
        """Some lines for a person."""
        volume = "constant volume" if self.pressure is None else f"{self.pressure:g} bar"
        lines = [
            f"{self.time:g} ps of each start at {self.temperature:g} K, {volume}, "
            f"{self.thermostat}, {self.engine}, {self.seconds:.0f} s"
        ]
        if self.band is not None:
            lines.append(
                f"reference: {self.band.mean:.0f} kJ/mol, band {self.band.low:.0f} to "
                f"{self.band.high:.0f} ({self.band.frames} frames, {INSIDE:g} sd)"
            )
        wide = max(len(name) for name in (*(run.name for run in self.runs), *self.failed))
        for run in self.runs:
            lines.append(f"{run.name:<{wide}}  {self._of(run)}")
            lines += [f"  WARNING, new: {name}" for name in run.new]
            lines += judgement.to_lines(run.findings)
        lines += [f"{name:<{wide}}  could not be run: {why}" for name, why in self.failed.items()]
        return "\n".join([*lines, f"files in {self.folder}"]) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program."""
        values = asdict(self)
        if self.band is not None:
            values["band"] |= {"low": self.band.low, "high": self.band.high}
        for row, run in zip(values["runs"], self.runs, strict=True):
            row |= {"start": run.start.to_dict(), "last": run.last.to_dict()}
        return values

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against using the last frames, with the name of the start."""
        return tuple(
            replace(finding, sentence=f"last frame of {run.name}: {finding.sentence}")
            for run in self.runs
            for finding in run.findings
        )

    def _of(self, run: Run) -> str:
        text = f"start {run.first:.0f}, first ps {run.windows[0]:.0f}, last {run.windows[-1]:.0f}"
        if self.band is None or run.share_inside is None:
            return f"{text} kJ/mol"
        away = (run.windows[0] - self.band.mean) / self.band.sd
        if run.inside_from is None:
            verdict = "not in the band at the end"
        elif run.inside_from == 0.0:
            verdict = "in the band from the first picosecond on"
        else:
            verdict = f"in the band from {run.inside_from:g} ps on"
        return f"{text} kJ/mol ({away:+.1f} sd at first): {verdict}"


def md(
    starts: Mapping[str, str | Path],
    *,
    topology: str | Path,
    temperature: float | None,
    output: str | Path,
    reference: str | Path | None = None,
    structure: str | Path | None = None,
    reference_frames: str | None = None,
    frame: int = 0,
    time: float = 10.0,
    pressure: float | None = ONE_BAR,
    minimise: int = 0,
    engine: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> MdSummary:
    """Runs molecular dynamics from several starts and compares their energies with a reference's.

    All bonds are held at their lengths, in the runs as in the reference, and the energy of bonds
    is left out; so is the dispersion correction. Atoms of the same number get the same velocity
    in every start.

    Args:
        starts: file of each start by name; a structure, or with ``structure`` a trajectory.
        topology: GROMACS topology of all of them.
        temperature: K.
        output: folder to write: ``energy.csv``, ``energy.png``, ``md.json``, and a folder
            for each start with its last frame and what GROMACS needs to run it.
        reference: frames in equilibrium, for the band; none is drawn without.
        structure: names of the atoms of files that have none.
        reference_frames: which of them, "A:B:C"; all by default.
        frame: which frame of each start's file, from 0.
        time: of each run, ps.
        pressure: bar; None: constant volume.
        minimise: force evaluations with stiff bonds before each run; none by default.
        engine: as ``dynamics.engines.open_engine`` knows them.
        threads: of the engine; its own choice by default.
        seed: of velocities and thermostat.
        resume: whether starts that an interrupted run has finished are not run again.
        force: whether to replace the folder.
        progress: whether to show a bar on standard error.

    Returns:
        The summary.

    Raises:
        InputError: an input is wrong, or no start can be run; then no folder is left.
    """
    spare_inputs(output, *starts.values(), topology, reference, structure)
    _check(starts, temperature, time, pressure, minimise, seed)
    if reference_frames is not None and reference is None:
        raise InputError("reference-frames: expected a reference with it, found none")
    check_names_used(structure, *starts.values(), reference)
    assert temperature is not None
    atoms = read_topology(topology)
    if not (atoms.c12 > 0.0).any():
        raise InputError(f"{topology}: expected Lennard-Jones parameters, found none above 0")
    check_folder(Path(output), force, RECORD)
    began = clock.perf_counter()
    frames = {name: _start(Path(path), structure, frame, atoms) for name, path in starts.items()}
    # Here, so that verbs that run no engine need not wait for OpenMM.
    from deepbackmap.dynamics.engines import open_engine

    runner = open_engine(atoms, atom_table(atoms), name=engine, threads=threads)
    if reference is not None and runner.name == "internal" and atoms.virtual().any():
        raise InputError(
            f"{topology}: expected an engine with virtual sites where energies are held against a "
            f"reference's, found {runner.name}, whose atoms carry their charges: use gromacs or "
            "openmm"
        )
    options = _dynamics(runner, temperature, time, pressure, seed)
    judge = Judge(atoms)
    velocities = start_velocities(atoms, temperature, seed)
    given = {"starts": starts, "topology": topology, "reference": reference,
             "structure": structure}  # fmt: skip
    used = asdict(options) | {"interactions": asdict(Interactions()), "frame": frame,
        "minimise": minimise, "reference_frames": reference_frames}  # fmt: skip
    run = identity("md", given, used | {"seed": seed, "engine": runner.name})
    run |= {"atoms": content_hash(atoms), "order": list(starts)}
    task = MdTask(runner, judge, options, velocities, minimise)
    with (
        open_journal(output, run, resume=resume, frames=len(frames)) as journal,
        new_folder(Path(output), force, RECORD) as part,
    ):
        band = None
        if reference is not None:
            band = reference_band(atoms, structure, reference, reference_frames, progress=progress)
        jobs = (Job(k, k, start) for k, start in enumerate(frames.values()))
        done = in_order(Here(task), jobs, journal)
        bar = tqdm(done, total=len(frames), unit="start", disable=not progress)
        ended = dict(zip(frames, (result for _, result in bar), strict=True))
        found = {name: result for name, result in ended.items() if isinstance(result, Done)}
        failed = {name: result for name, result in ended.items() if isinstance(result, str)}
        if not found:
            raise InputError("; ".join(f"start {name}: {why}" for name, why in failed.items()))
        runs = tuple(
            _held_against(name, str(starts[name]), frame, done, options, band, judge)
            for name, done in found.items()
        )
        summary = MdSummary(
            folder=str(output), engine=runner.name, temperature=temperature, pressure=pressure,
            thermostat=_thermostat(options), time=time, seed=seed,
            seconds=clock.perf_counter() - began, band=band, runs=runs, failed=failed,
        )  # fmt: skip
        segments = {name: done.segment for name, done in found.items()}
        _write(part, summary, segments, options)
        _write_starts(part, atoms, found, options, velocities)
        text = make_record(
            "md", inputs=given, output=output, options=used, seed=seed, threads=threads,
            engine=runner.name, summary=summary.to_dict(),
        )  # fmt: skip
        (part / RECORD).write_text(text, encoding="utf-8")
    return summary


def start_velocities(
    topology: Topology, temperature: float, seed: int
) -> Float64[np.ndarray, "n 3"]:
    """Velocities of a temperature, the same for the same seed, without motion of the whole.

    Args:
        topology: of the system.
        temperature: K.
        seed: of the random numbers.

    Returns:
        nm/ps; before constraints are applied.
    """
    masses = topology.masses()
    drawn = thermal_velocities(masses, temperature, seed)
    return drawn - masses @ drawn / masses.sum()


def potential(energies: Mapping[str, Any]) -> Any:
    """Sum of the terms that are compared, kJ/mol."""
    return sum(energies[term] for term in COUNTED if term in energies)


def reference_band(
    topology: Topology,
    structure: str | Path | None,
    reference: str | Path,
    frames: str | None = None,
    *,
    progress: bool = False,
) -> Band:
    """Mean and spread of the reference's potential energy, with the engines' own settings.

    Raises:
        InputError: the reference does not fit the topology, or has a single frame.
    """
    settings = Interactions()
    forcefield = ForceField.from_topology(
        topology, cutoff=settings.cutoff, reaction_field_epsilon=settings.reaction_field_epsilon
    )
    with open_atoms(reference, structure, topology, frames) as source:
        if len(source) < 2:
            raise InputError(
                f"{reference}: expected at least 2 frames to tell a spread from, found 1"
            )
        bar = tqdm(source, total=len(source), unit="frame", disable=not progress)
        values = np.array([potential(forcefield.energies_by_term(frame)) for frame in bar])
    return Band(float(values.mean()), float(values.std(ddof=1)), len(values))


def _check(
    starts: Mapping[str, str | Path],
    temperature: float | None,
    time: float,
    pressure: float | None,
    minimise: int,
    seed: int,
) -> None:
    if temperature is None:
        raise InputError("temperature: expected one in K, since none can be guessed, found none")
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise InputError(f"temperature: expected a number above 0 K, found {temperature}")
    if not (math.isfinite(time) and time >= WINDOW):
        raise InputError(f"time: expected at least {WINDOW:g} ps, found {time}")
    if pressure is not None and not math.isfinite(pressure):
        raise InputError(f"pressure: expected a number in bar or none, found {pressure}")
    if minimise < 0 or seed < 0:
        name, value = ("minimise", minimise) if minimise < 0 else ("seed", seed)
        raise InputError(f"{name}: expected a whole number from 0, found {value}")
    if not starts:
        raise InputError("start: expected at least one NAME=FILE, found none")
    for name in starts:
        if not re.fullmatch(r"[\w.+ -]*\w[\w.+ -]*", name):
            raise InputError(
                f"start: expected a name of letters, digits, spaces and . + - _, found '{name}'"
            )


def _start(path: Path, structure: str | Path | None, frame: int, topology: Topology) -> Structure:
    """One start, whole."""
    with open_atoms(path, structure, topology, str(frame)) as source:
        found = source[0]
    where = f"{path} frame {frame}"
    return replace(
        found,
        positions=make_whole(found.positions, found.box, topology, source=where, endless=True),
        time=0.0,
    )


def _dynamics(
    engine: Engine, temperature: float, time: float, pressure: float | None, seed: int
) -> Dynamics:
    """The run: the paper's thermostat where the engine has it."""
    vrescale = engine.name.startswith("gromacs")
    return Dynamics(
        steps=round(time / (Dynamics.timestep * EVERY)) * EVERY,
        temperature=temperature,
        friction=OPENMM_FRICTION,
        thermostat="v-rescale" if vrescale else "langevin",
        pressure=pressure,
        seed=seed_from(seed),
        every=EVERY,
    )


def _thermostat(options: Dynamics) -> str:
    if options.thermostat == "langevin":
        return f"Langevin of {options.friction:g}/ps"
    return "v-rescale of 0.2 ps"


class _CannotRun(Exception):
    """A start cannot be run; one sentence. It is a finding about that start, so that the others
    go on."""


@dataclass(frozen=True)
class Done:
    """A run, and the structure that it began with."""

    start: Structure
    minimisation: int
    """Force evaluations before it."""
    segment: Segment


@dataclass(frozen=True)
class MdTask:
    """What is done to every start, in this process."""

    runner: Engine
    judge: Judge
    options: Dynamics
    velocities: Float64[np.ndarray, "n 3"]
    minimise: int
    """Force evaluations before the run."""

    def open(self) -> Work:
        """Runs one start after another; the result is a sentence where one cannot be run."""

        def work(job: Job, report: Report) -> Done | str:
            try:
                return _run(
                    self.runner, self.judge, job.content, self.options, self.velocities,
                    self.minimise,
                )  # fmt: skip
            except _CannotRun as error:
                return str(error)

        return work


def _run(
    engine: Engine,
    judge: Judge,
    start: Structure,
    options: Dynamics,
    velocities: Float64[np.ndarray, "n 3"],
    minimise: int,
) -> Done:
    """Runs one start."""
    together = judge.contacts.coincident(start)
    if together is not None:
        raise _CannotRun(
            f"expected atoms in places of their own, found {judge.name_contact(together)}"
        )
    evaluations = 0
    try:
        if minimise:
            stiff = Minimisation(minimise, FinishOptions.bond_constant)
            lowered = engine.minimise(start, stiff)
            start, evaluations = lowered.structure, lowered.force_evaluations
        segment = engine.run(start, options, velocities)
    except EngineError as error:
        raise _CannotRun(str(error)) from error
    if not np.isfinite(potential(segment.energies)).all():
        raise _CannotRun("expected finite energies, found some that are not")
    return Done(start, evaluations, segment)


def windows(values: Float64[np.ndarray, " k"], length: int) -> Float64[np.ndarray, " w"]:
    """Means of whole pieces of a series; the start itself is in none of them."""
    whole = (len(values) - 1) // length
    return values[1 : 1 + whole * length].reshape(whole, length).mean(axis=1)


def _held_against(
    name: str,
    source: str,
    frame: int,
    done: Done,
    options: Dynamics,
    band: Band | None,
    judge: Judge,
) -> Run:
    """Holds a run against the band, and its last frame against its first."""
    energies = done.segment.energies
    values = potential(energies)
    means = windows(values, round(WINDOW / (options.timestep * options.every)))
    inside_from = share = None
    if band is not None:
        inside_from = first_inside(means, band)
        share = float(np.mean((values[1:] >= band.low) & (values[1:] <= band.high)))
    half = len(values) // 2
    first = judge.look(done.start)
    last = judge.look(done.segment.structure, first)
    ended = judge.figures(last, done.segment.structure, number=frame)
    return Run(
        name=name,
        source=source,
        frame=frame,
        first=float(values[0]),
        windows=tuple(means.tolist()),
        inside_from=inside_from,
        share_inside=share,
        minimisation=done.minimisation,
        temperature=float(np.mean(energies["temperature"][half:])),
        volume=float(np.mean(energies["volume"][half:])),
        start=judge.figures(first, done.start, number=frame),
        last=ended,
        new=tuple(judge.new_defects(last, first)),
        findings=verdict(ended, options.temperature),
    )


def first_inside(means: Float64[np.ndarray, " w"], band: Band) -> float | None:
    """Time in ps from which every window is inside the band; None if the last is outside."""
    outside = np.flatnonzero((means < band.low) | (means > band.high))
    if not len(outside):
        return 0.0
    last = int(outside[-1])
    return None if last + 1 == len(means) else WINDOW * (last + 1)


def _write(
    folder: Path, summary: MdSummary, segments: Mapping[str, Segment], options: Dynamics
) -> None:
    """The table and the picture of the energies."""
    with (folder / "energy.csv").open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        columns = [*COUNTED, "kinetic", "temperature", "volume"]
        table.writerow(["start", "time / ps", "potential / kJ mol-1", *columns])
        for name, segment in segments.items():
            energies = segment.energies
            total = potential(energies)
            for k, step in enumerate(segment.step.tolist()):
                row = [energies[c][k] if c in energies else 0.0 for c in columns]
                numbers = [f"{v:.6g}" if abs(v) < 1e5 else f"{v:.1f}" for v in (total[k], *row)]
                table.writerow([name, f"{step * options.timestep:.4g}", *numbers])
    _plot(folder / "energy.png", summary, segments, options)


def _plot(
    path: Path, summary: MdSummary, segments: Mapping[str, Segment], options: Dynamics
) -> None:
    """Potential energy against time, single values thin and means of a picosecond thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if summary.band is not None:
        low, high = summary.band.low / 1000.0, summary.band.high / 1000.0
        axes.axhspan(low, high, color="0.88", label=f"reference ± {INSIDE:g} sd")
        axes.axhline(summary.band.mean / 1000.0, color="0.6", linewidth=1.0)
    for k, (run, segment) in enumerate(zip(summary.runs, segments.values(), strict=True)):
        color = f"C{k % 10}"
        times = segment.step * options.timestep
        axes.plot(times, potential(segment.energies) / 1000.0, color=color, alpha=0.35, lw=0.6)
        middles = WINDOW * (0.5 + np.arange(len(run.windows)))
        axes.plot(middles, np.array(run.windows) / 1000.0, "o-", color=color, ms=3, label=run.name)
    axes.set_xlabel("time / ps")
    axes.set_ylabel("potential energy without bonds / MJ mol$^{-1}$")
    axes.set_title(f"{summary.temperature:g} K, no heat-up, same start velocities", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=160)


def _write_starts(
    folder: Path,
    topology: Topology,
    found: Mapping[str, Done],
    options: Dynamics,
    velocities: Float64[np.ndarray, "n 3"],
) -> None:
    """What GROMACS needs for each start, and where each run ended."""
    table = atom_table(topology)
    for name, done in found.items():
        place = folder / folder_name(name)
        write_gromacs_inputs(place, topology, table, done.start, options, velocities=velocities)
        with open_writer(place / "last.gro", table) as writer:
            writer.write(done.segment.structure)


def folder_name(start: str) -> str:
    """Of the files of a start."""
    return start.replace(" ", "-")

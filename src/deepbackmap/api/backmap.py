"""Beads to atoms: a whole trajectory, frame by frame, checked and summed up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from deepbackmap.api import judgement
from deepbackmap.api.backmapping import BackmappedFrame, BackmapTask, FinishPlan
from deepbackmap.api.bar import FrameBar
from deepbackmap.api.devices import choose_device
from deepbackmap.api.files import spare_inputs, spare_inputs_beside
from deepbackmap.api.finish import FinishSummary, FinishTotals
from deepbackmap.api.finisher import finish_options
from deepbackmap.api.fits import refuse_unknown_types, resolve_for, way_out
from deepbackmap.api.hands import FoundHands, find_hands
from deepbackmap.api.held import Held, moved_beads
from deepbackmap.api.models import find_model, model_hash
from deepbackmap.api.record import content_hash
from deepbackmap.api.run import FrameRun, frame_jobs
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.usable import FINE, Finding, ordered, verdict
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, atom_table, open_writer, read_frames
from deepbackmap.jobs.pool import worth_sharing
from deepbackmap.jobs.task import Job
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, mapping_words
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.mapping.match import check_beads
from deepbackmap.mapping.selection import refuse_absent
from deepbackmap.methods import find_options
from deepbackmap.methods.base import Model
from deepbackmap.methods.options import SamplingOptions, SettlingOptions, correlation_time
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.model.file import load_model
from deepbackmap.system import Structure
from deepbackmap.system.lean import Lean, without_sites
from deepbackmap.system.topology import require_energies

NO_MODEL = "none"
"""Name of the route that needs no model: topology, mapping, beads and physics."""


@dataclass(frozen=True)
class Summary:
    """What was done and how good it is."""

    frames: int
    atoms: int
    """In each frame."""
    seconds: float
    """From the first frame read to the last one written."""
    atoms_per_second: float
    figures: Figures
    seed: int
    model: str
    model_sha256: str
    method: str
    """Of the model."""
    options: Mapping[str, Any]
    """Of sampling, of the model's method: those that were in force."""
    temperature: float
    """Target temperature, K."""
    accepted: tuple[str, ...] = ()
    """What was accepted of the input though the names are not the mapping's, as sentences."""
    workers: int = 1
    """Processes that shared the frames."""
    drawn_anew: int = 0
    """Frames that could not be used as they were drawn first."""
    hands: str = "not known"
    """Where the hands of the stereocentres are known from."""
    hands_sure: Mapping[int, float] = field(default_factory=dict)
    """By number of the molecule, from 1, where they were read from beads: how sure that is."""
    held: Held = field(default_factory=Held)
    """How beads were held, and what the last steps came to."""
    input_findings: tuple[Finding, ...] = ()
    """What the beads that were given look like; empty where nothing speaks against them."""
    finish: FinishSummary | None = None
    """What was done to the structures after sampling; None: nothing. All other figures are of
    what was written."""

    @property
    def engine(self) -> str | None:
        """That finished the structures; None: nothing did."""
        return None if self.finish is None else self.finish.engine

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What speaks against using what was written, and against the beads that were given."""
        unknown = judgement.of_unknown(self.figures)
        made = [f for f in verdict(self.figures, self.temperature) if f.severity != "fine"]
        return ordered((*self.input_findings, *unknown, *made)) or FINE

    def to_text(self) -> str:
        """Some lines for a person."""
        rows = [
            (
                "written",
                f"{self.frames} frames of {self.atoms} atoms in {self.seconds:.1f} s"
                + f" by {self.workers} processes" * (self.workers > 1),
            ),
            ("speed", f"{self.atoms_per_second:.0f} atoms/s"),
            *judgement.figure_rows(self.figures, f"those {self.hands}"),
            *self.held.to_rows(),
            (
                "model",
                self.model + (f", sha256 {self.model_sha256[:16]}" * bool(self.model_sha256)),
            ),
            (
                "sampling",
                ", ".join(
                    [f"method {self.method}", f"seed {self.seed}"]
                    + [f"{name} {value}" for name, value in self.options.items()]
                    + [f"{self.temperature:g} K"]
                ),
            ),
        ]
        if self.drawn_anew:
            rows.append(("drawn anew", f"{self.drawn_anew} frames, until they could be used"))
        lines = [f"{name:<20} {text}" for name, text in rows]
        lines += judgement.to_lines(self.findings)
        lines += [f"{'accepted':<20} {note}" for note in self.accepted]
        if self.finish is not None:
            lines += ["", "finish", *(f"  {x}" for x in self.finish.to_text().splitlines()[1:])]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program; a figure that is not finite becomes None."""
        values = asdict(self) | {"figures": self.figures.to_dict()}
        values["findings"] = [asdict(finding) for finding in self.findings]
        values["held"] = self.held.to_dict()
        del values["input_findings"]
        if self.finish is not None:
            values["finish"] = self.finish.to_dict()
        return values


def backmap(
    beads: str | Path,
    trajectory: str | Path | None = None,
    *,
    topology: str | Path,
    output: str | Path,
    model: str | Path = "default",
    mapping: str | Path | Sequence[str | Path] | None = None,
    frames: str | None = None,
    seed: int = 0,
    temperature: float | None = None,
    sweeps: int | None = None,
    candidates: int | None = None,
    choice: str | None = None,
    relaxation: int | None = None,
    bead_tolerance: float | None = None,
    like: str | Path | None = None,
    labels: str | Path | None = None,
    moved: str | Path | None = None,
    noise: str | None = None,
    block_relaxation: int | None = None,
    cold_start: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    finish_steps: int | None = None,
    keep_defects: bool = False,
    engine: str = "auto",
    by_order: bool = False,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
    workers: int | None = None,
    scheduler: str | None = None,
    parts: int | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Summary:
    """Puts the atoms back into a coarse-grained structure or trajectory.

    Frames are read, sampled, checked and written one at a time, so that memory does not grow with
    their number. The random numbers depend on the seed and on a frame's number in its file, so
    that a frame comes out the same whichever others are asked for. ``OUTPUT.json`` beside the
    output records seeds, model, options, versions and the summary.

    Args:
        beads: structure with the names of the beads, in the topology's order.
        trajectory: frames of it; None takes the frames of the structure file.
        topology: of the atoms, in any format that ``io.topology`` reads.
        output: structure or trajectory of the atoms to write.
        model: file, or the name of a packaged model; ``none``: conformations of single molecules,
            by the force field alone, for any topology (needs ``mapping`` and ``temperature``).
        mapping: mapping files or packaged name, where it is not the model's own.
        frames: which frames, "A:B:C"; all by default.
        seed: of all random numbers.
        temperature: target in K; the training's by default. Where it is given, the relaxation is
            at that temperature; of a voxel model without relaxation one of an ensemble is drawn by
            weight.
        sweeps: Gibbs sweeps after the first pass.
        candidates: of voxel models: ensemble drawn for each sequence of atoms.
        choice: of voxel models: ``lowest``, ``boltzmann`` or ``reweight``, how one is chosen.
        relaxation: steps of dynamics of the whole box at the end; 0: none; None: the model's own
            number, or as many as are needed.
        bead_tolerance: standard deviation of a coordinate of a bead about where it was given, nm;
            0: exactly there; None: found out from the beads.
        like: a structure, of the system or of one of its molecules, whose stereocentres have the
            hands that are wanted; without a model also of centres that only beads make, as of the
            two methyl groups of an isopropyl group that belong to different beads.
        labels: text file with one label a bead whose last letter says the hand (docs/hands.md).
        moved: .pdb of the beads to write, with how far (in Angstrom) each was moved in the column
            of temperature factors, by which viewers colour.
        noise: how the random numbers of frames go together: ``frame``, each its own; ``shared``,
            all the same, so that structures move as little as beads do; ``ou:TAU``, correlated
            over TAU ps.
        block_relaxation: of voxel models: steps of thermal relaxation of each block after each
            sweep; 0: none.
        cold_start: of point models: part of the temperature at which the relaxation begins.
        steps: of point models: along the flow.
        batch: most sequences in one call of the network; bounds memory, changes nothing else.
        options: more options of the model's method, by name.
        device: ``auto``, ``cpu`` or ``cuda``.
        finish_steps: of dynamics with which every frame is finished as ``api.finish`` does, at the
            target temperature, after a little minimisation; None: none.
        keep_defects: whether to write structures in which finishing made a defect.
        engine: of that, as ``dynamics.engines.open_engine`` knows them.
        by_order: whether the beads are in the mapping's order whatever they are called.
        drop: residues of molecules that the beads leave out; so does the output.
        keep: residues of molecules whose beads are their atoms.
        workers: processes that share the frames; the result does not depend on it. None: as many
            as there are threads (``OMP_NUM_THREADS``, else cores), where there are frames enough.
        scheduler: of a Dask cluster that shares them instead: address, file, or the kind of a
            batch system, which is asked for ``workers`` jobs (docs/scale.md).
        parts: for boxes too large for one: frames are worked on one after the other here, and the
            last steps of each are cut into so many parts, which as many workers of ``scheduler``
            take together; the result does not depend on it.
        resume: whether to go on from what an interrupted run has left.
        force: whether to replace existing outputs.
        progress: whether to show a bar on standard error.

    Returns:
        The summary.

    Raises:
        InputError: an input is wrong or does not fit the others, or an option is not one of the
            model's method; then no output is left.
    """
    read = (beads, trajectory, topology, model, mapping, like, labels)
    spare_inputs(output, *read)
    if moved is not None:
        spare_inputs_beside(moved, output, *read)
    asked = {
        "sweeps": sweeps, "candidates": candidates, "choice": choice, "relaxation": relaxation,
        "block_relaxation": block_relaxation, "cold_start": cold_start, "steps": steps,
        "batch": batch, "temperature": temperature, "seed": seed,
        "bead_tolerance": bead_tolerance, "noise": noise, **(options or {}),
    }  # fmt: skip
    inputs = {
        "beads": beads, "trajectory": trajectory, "topology": topology,
        "mapping": mapping_words(mapping), "like": like, "labels": labels,
    }  # fmt: skip
    where = choose_device(device)
    finish = None if finish_steps is None else FinishPlan(finish_steps, engine)
    system = _System.of(topology, model, mapping, drop, keep, temperature, asked)
    run = FrameRun(
        "backmap", inputs, output, asdict(system.options) | {"frames": frames},
        system.options.seed,
        {"finish": finish, "device": where.type, "atoms": content_hash(system.lean.full),
         "model": system.sha256},
        1 if workers is None else workers, scheduler, resume, force=force, progress=progress,
        parts=parts,
    )  # fmt: skip
    alone = system.lean.full.n_molecules == 1
    with read_frames(beads, trajectory, frames=frames, lone=alone) as source:
        match = check_beads(system.beads, source.table, str(beads), by_order=by_order)
        writer = open_writer(
            output, atom_table(system.lean.full), force=force, topology=system.lean.full,
            without_cell=source.without_cell, frames=len(source),
        )  # fmt: skip
        _check_times(source, system.options)
        hands = find_hands(
            system.beads, system.file, system.model.spec, like=like, labels=labels,
            beads=source[0] if len(source) else None, of_beads=system.path is None,
        )  # fmt: skip
        if system.path is not None:
            refuse_unknown_types(system.model.spec, system.beads, system.path)
        task = BackmapTask(
            system.lean, system.beads, system.model, system.options, where.type,
            hands.handedness, hands.known, hands.sides, str(source.path), system.way_out,
            keep_defects, finish,
        )  # fmt: skip
        judge = None if moved is None else Judge(system.lean.topology, system.beads)
        jobs = frame_jobs(source)
        bar = FrameBar(len(source), max(1, system.beads.n_beads), "bead", progress)
        with moved_beads(moved, judge, system.beads, force) as show_moved:
            accepted = (*system.left_out, *match.notes)
            totals = _Totals(system, task, len(source), accepted, hands, show_moved)
            if workers is None:
                run = replace(run, workers=_workers(run, task, len(source)))
            totals.workers = run.workers
            return run.write(
                task, jobs, totals, writer, bar, device=where.type, threads=torch.get_num_threads()
            )


def _workers(run: FrameRun, task: BackmapTask, frames: int) -> int:
    """How many processes share the frames where nobody says it."""
    asked = run.scheduler is not None or run.parts is not None
    # a card takes frames together, and engines of others have threads of their own
    if asked or task.device != "cpu" or task.finish is not None:
        return 1
    if not find_options(task.model.spec.method).shares_frames:
        return 1
    return worth_sharing(frames, task.lean.topology.n_atoms)


@dataclass(frozen=True)
class _System:
    """What atoms are put back into which beads, and by what."""

    lean: Lean
    """The atoms, with their virtual sites and without."""
    beads: SystemMapping
    file: MappingFile
    model: Model
    path: Path | None
    """Of the model; None: there is none."""
    options: SamplingOptions
    left_out: tuple[str, ...]
    """Molecules that the beads leave out, and virtual sites, as sentences."""

    @classmethod
    def of(
        cls,
        topology: str | Path,
        model: str | Path,
        mapping: str | Path | Sequence[str | Path] | None,
        drop: Sequence[str],
        keep: Sequence[str],
        temperature: float | None,
        asked: Mapping[str, Any],
    ) -> _System:
        """Reads model, mapping and topology; for the arguments see ``backmap``."""
        path = None if str(model) == NO_MODEL else find_model(model)
        trained = None if path is None else load_model(path)
        file = _mapping(mapping, trained, path).with_selection(drop, keep)
        everything = read_topology(topology)
        refuse_absent(everything, drop=drop, keep=keep)
        atoms, left_out = file.without_dropped(everything)
        _refuse_kept(file.kept(atoms), path)
        lean = without_sites(atoms)
        beads = lean_mapping(resolve_for(file, atoms, path, own=mapping is None), lean)
        loaded = _without_model(lean, beads, file, temperature) if trained is None else trained
        chosen = sampling_options(loaded.spec, NO_MODEL if path is None else path.stem, asked)
        notes = (*left_out, *lean.notes())
        return cls(lean, beads, file, loaded, path, chosen, notes)

    @property
    def name(self) -> str:
        """Of the model."""
        return NO_MODEL if self.path is None else self.path.stem

    @property
    def way_out(self) -> str:
        """What to do about a topology that the model does not know."""
        return "" if self.path is None else f"; {way_out(self.path)}"

    @property
    def sha256(self) -> str:
        """Of the model's file; empty where there is none."""
        return "" if self.path is None else model_hash(self.path)


MISFIT = 0.03
"""nm rms: beads that were moved farther may be those of chains of other hands."""


class _Totals:
    """What many frames come to, one after another; their structures are let go."""

    def __init__(
        self,
        system: _System,
        task: BackmapTask,
        frames: int,
        accepted: tuple[str, ...],
        hands: FoundHands,
        show_moved: Callable[[Structure, Structure, int], None],
    ) -> None:
        self._system, self._task, self._frames = system, task, frames
        self._accepted, self._hands, self._show_moved = accepted, hands, show_moved
        self._figures, self._held, self._anew = Figures(), Held(), 0
        self.workers = 1
        self._noted = (*judgement.of_topology(system.lean.full), *hands.findings)
        self._doubts: dict[str, Finding] = {}
        self._finish: FinishTotals | None = None
        if task.finish is not None:
            how = finish_options(task.temperature, steps=task.finish.steps)
            self._finish = FinishTotals(system.lean.full.n_atoms, how, seed=system.options.seed)
        self._started = time.perf_counter()

    def add(self, job: Job, done: BackmappedFrame) -> Structure:
        """One more frame."""
        self._show_moved(self._system.lean.strip(done.structure), job.content, job.number)
        self._figures = self._figures + done.figures
        self._held = self._held + done.held
        self._anew += done.attempts > 1
        self._doubts |= {f.sentence: f for f in done.doubts}
        if self._finish is not None and done.finished is not None:
            self._finish.count(done.finished)
        return done.structure

    def summary(self) -> Summary:
        """Of all frames."""
        seconds, system = time.perf_counter() - self._started, self._system
        return Summary(
            frames=self._frames,
            atoms=system.lean.full.n_atoms,
            seconds=seconds,
            atoms_per_second=self._frames * system.lean.full.n_atoms / seconds,
            figures=self._figures,
            seed=system.options.seed,
            model=system.name,
            model_sha256=system.sha256,
            method=system.model.spec.method,
            options=in_force(system.options),
            temperature=self._task.temperature,
            accepted=self._accepted,
            workers=self.workers,
            drawn_anew=self._anew,
            hands=self._hands.words(system.beads.topology),
            hands_sure=self._hands.sure_by_molecule(system.beads.topology),
            held=self._held,
            input_findings=(*self._noted, *self._doubts.values(), *self._assumed()),
            finish=None if self._finish is None else self._finish.summary(),
        )

    def _assumed(self) -> tuple[Finding, ...]:
        """Hands that nothing told, of atoms that do not fit their beads."""
        share = self._hands.hands.share()
        rms = self._figures.beads.rms
        if 2 * share.get("assumed", 0) <= sum(share.values()) or rms <= MISFIT:
            return ()
        sentence = (
            f"expected atoms that fit their beads, found these moved by {rms:.3f} nm rms, with "
            "hands that nothing tells and that were assumed to be those of the training: do the "
            "chains have others? --like, --labels or a stereo section of the mapping tell them"
        )
        return (Finding("suspicious", sentence),)


def _check_times(source: FrameSource, options: SamplingOptions) -> None:
    """Random numbers that are correlated in time need times."""
    if not isinstance(options, SettlingOptions) or len(source) < 2:
        return
    if not 0.0 < correlation_time(options.noise) < math.inf:
        return
    first, last = source[0].time, source[len(source) - 1].time
    if first == last:
        raise InputError(
            f"{source.path}: expected frames at different times for noise {options.noise}, found "
            f"{first:g} ps in the first and in the last"
        )


def sampling_options(spec: ModelSpec, source: str, given: Mapping[str, Any]) -> SamplingOptions:
    """Options as given, else the model's own, else the method's.

    Args:
        spec: of the model.
        source: its name, for messages.
        given: by name; None: not given.

    Raises:
        InputError: an option that the method does not have, or options that do not go together.
    """
    return find_options(spec.method).sampling_options(given, spec.defaults, source)


def in_force(options: SamplingOptions) -> dict[str, Any]:
    """Options that say how atoms are placed; seed and temperature stand for themselves."""
    return {k: v for k, v in asdict(options).items() if k not in ("seed", "temperature", "batch")}


def _refuse_kept(kept: Sequence[str], model: Path | None) -> None:
    """A model has learned nothing of atoms that are there already."""
    if kept:
        raise InputError(
            f"{model or NO_MODEL}: expected every molecule to be placed, found {', '.join(kept)} "
            "kept as atoms, which the others would not see; drop them and put them back "
            "afterwards, or take 'baseline --method backward', which passes them through"
        )


def _mapping(
    given: str | Path | Sequence[str | Path] | None, model: Model | None, path: Path | None
) -> MappingFile:
    if given is not None:
        return load_mapping(given)
    if model is None:
        raise InputError(
            f"model {NO_MODEL}: expected a mapping (--mapping), found none; without a model "
            "nothing else says which atoms a bead stands for"
        )
    return MappingFile.from_text(model.spec.mapping, f"mapping of {path}")


def _without_model(
    lean: Lean, system: SystemMapping, file: MappingFile, temperature: float | None
) -> Model:
    """What stands for a model where there is none."""
    if temperature is None:
        raise InputError(
            f"model {NO_MODEL}: expected a temperature (--temperature), found none; without a "
            "model nothing else says how hot the atoms should be"
        )
    if not 0 < temperature < 1e5:
        raise InputError(
            f"temperature: expected a positive number below 100000 K, found {temperature}"
        )
    require_energies(lean.full)
    from deepbackmap.methods.physics.method import no_model

    return no_model(lean.topology, system, file.to_text(), temperature)

"""Beads to atoms without a model: the paper's baseline and rigid templates, then minimisation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from deepbackmap.api import judgement
from deepbackmap.api.bar import FrameBar
from deepbackmap.api.files import spare_inputs
from deepbackmap.api.record import content_hash
from deepbackmap.api.run import FrameRun, frame_jobs
from deepbackmap.baselines.beads import bead_topology, whole_beads
from deepbackmap.baselines.modifiers import (
    Modifiers,
    apply_modifiers,
    read_modifiers,
    resolve_modifiers,
)
from deepbackmap.baselines.placement import TemplateOptions, TemplatePlacer
from deepbackmap.baselines.projection import check_kick, kick, project
from deepbackmap.baselines.templates import (
    TemplateSet,
    learn_templates,
    read_templates,
    write_templates,
)
from deepbackmap.chemistry import tacticity
from deepbackmap.chemistry.tacticity import KnownHands
from deepbackmap.dynamics.containers import Engine, EngineError, Minimisation
from deepbackmap.errors import InputError
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.plausible import Bonds, look_at_beads
from deepbackmap.evaluation.usable import Finding, ordered, verdict
from deepbackmap.io.tables import ParticleTable
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.jobs.task import Job, Report, Work
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, mapping_words
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.mapping.match import check_atoms, check_beads
from deepbackmap.mapping.selection import refuse_absent
from deepbackmap.system import Structure, Topology
from deepbackmap.system.lean import Lean, without_sites
from deepbackmap.system.whole import bond_trees, make_whole

METHODS = ("backward", "template")
STIFF = 500_000.0
"""kJ mol-1 nm-2: with bonds that stiff a minimised melt keeps its lengths and so its energy."""
MINIMISATIONS: dict[str, tuple[Minimisation, ...]] = {
    "backward": (
        Minimisation(steps=200, nonbonded=False),
        Minimisation(steps=5000),
    ),
    "template": (Minimisation(steps=300, bond_constant=STIFF),),
}
"""By method: one after the other."""

Place = Callable[[Structure, int, str], Structure]
"""Atoms for a frame of beads, its number, and what to call it in errors."""


@runtime_checkable
class Placement(Protocol):
    """A way to put atoms where beads are: data that can be sent."""

    @property
    def system(self) -> SystemMapping:
        """Whose beads they are."""
        ...

    @property
    def words(self) -> str:
        """What it works with, for summaries."""
        ...

    def hands(self) -> KnownHands:
        """Of the stereocentres, for the judge."""
        ...

    def open(self) -> Place:
        """Prepares the work once, for many frames."""
        ...


@dataclass(frozen=True)
class Backward:
    """Projection, displacement, modifiers (Wassenaar et al. 2014)."""

    system: SystemMapping
    modifiers: Modifiers | None
    kick: float
    """Random displacement, nm."""
    seed: int
    words: str

    def hands(self) -> KnownHands:
        """None is known."""
        return KnownHands.by_pattern(self.system, {})

    def open(self) -> Place:
        """Prepares the beads' own topology."""
        table = bead_topology(self.system)

        def place(frame: Structure, number: int, source: str) -> Structure:
            # modifiers move atoms along lines between others, which have to be beside each other
            whole = whole_beads(
                self.system, frame, table=table, source=source, endless=self.modifiers is None
            )
            made = Structure(project(self.system, whole, frame.box), frame.box, frame.time)
            if self.kick:
                made = kick(made, self.kick, seed=self.seed, frame=number)
            if self.modifiers is None:
                return made
            return apply_modifiers(self.modifiers, self.system, made)

        return place


@dataclass(frozen=True)
class FromTemplates:
    """Rigid fragments of simulated structures."""

    system: SystemMapping
    templates: TemplateSet
    options: TemplateOptions

    @property
    def words(self) -> str:
        """The file they are from."""
        return f"templates {Path(self.templates.source).name}"

    def hands(self) -> KnownHands:
        """Those of the structures that they were learned from."""
        return KnownHands.by_pattern(self.system, self.templates.handedness)

    def open(self) -> Place:
        """Finds the fragments of every bead."""
        placer = TemplatePlacer(self.system, self.templates, self.options)

        def place(frame: Structure, number: int, source: str) -> Structure:
            return placer.place(frame, frame=number, source=source)

        return place


@dataclass(frozen=True)
class PlacedFrame:
    """A frame of beads with its atoms."""

    structure: Structure
    figures: Figures
    evaluations: int
    """Of forces, by the minimisation."""
    engine: str | None
    """That minimised, as it names itself."""
    doubts: tuple[Finding, ...]
    """What speaks against the beads."""


@dataclass(frozen=True)
class BaselineTask:
    """What is done to every frame of beads."""

    placement: Placement
    source: str
    """The file of the beads, for messages."""
    engine: str | None
    """None: atoms stay where they were placed."""
    minimisations: tuple[Minimisation, ...]
    """One after the other."""
    keep_defects: bool = False

    def open(self) -> Work:
        """Places one frame after another; the content of a job is its beads.

        Raises:
            InputError: the beads cannot be used, or nothing usable comes of them.
        """
        system = self.placement.system
        place, bonds = self.placement.open(), Bonds.of(system)
        runner = None if self.engine is None else _engine(system.topology, self.engine)
        judge = Judge(system.topology, system, hands=self.placement.hands())

        def work(job: Job, report: Report) -> PlacedFrame:
            where, beads = f"{self.source} frame {job.number}", job.content
            doubts = look_at_beads(system, beads, bonds=bonds)
            judgement.refuse(where, doubts, keep_defects=self.keep_defects)
            made, evaluations = place(beads, job.number, where), 0
            if runner is not None:
                made, evaluations = _minimise(runner, self.minimisations, made, where)
            figures = judge.frame(made, beads, job.number)
            judgement.refuse(where, verdict(figures), keep_defects=self.keep_defects)
            name = None if runner is None else runner.name
            bad = tuple(f for f in doubts if f.severity != "fine")
            return PlacedFrame(made, figures, evaluations, name, bad)

        return work


@dataclass(frozen=True)
class BaselineSummary:
    """What was done and how good it is."""

    frames: int
    atoms: int
    """In each frame."""
    seconds: float
    """From the first frame read to the last one written."""
    atoms_per_second: float
    figures: Figures
    findings: tuple[Finding, ...]
    """What speaks against using what was written, and against the beads that were given."""
    method: str
    seed: int
    engine: str | None
    """None: not minimised."""
    force_evaluations: int
    """Of a frame, on average."""
    source: str
    """Modifiers or templates."""
    accepted: tuple[str, ...] = ()
    """What was accepted of the input though the names are not the mapping's, as sentences."""

    def to_text(self) -> str:
        """Some lines for a person."""
        engine = "none" if self.engine is None else (
            f"{self.force_evaluations} force evaluations a frame, {self.engine}"
        )  # fmt: skip
        rows = [
            ("written", f"{self.frames} frames of {self.atoms} atoms in {self.seconds:.1f} s"),
            ("speed", f"{self.atoms_per_second:.0f} atoms/s"),
            *judgement.figure_rows(self.figures, "the templates"),
            ("method", f"{self.method}, {self.source}, seed {self.seed}"),
            ("minimisation", engine),
        ]
        lines = [f"{name:<20} {text}" for name, text in rows]
        lines += judgement.to_lines(self.findings)
        lines += [f"{'accepted':<20} {note}" for note in self.accepted]
        return "\n".join(lines) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The same for a program; a figure that is not finite becomes None."""
        return asdict(self) | {"figures": self.figures.to_dict()}


class _Totals:
    """What many frames come to; their structures are let go."""

    def __init__(self, lean: Lean, **known: Any) -> None:
        """Begins with no frame.

        Args:
            lean: constructs the virtual sites of structures.
            **known: what the summary says that no frame decides.
        """
        self._lean, self._known, self._started = lean, known, time.perf_counter()
        self._figures, self._frames, self._evaluations = Figures(), 0, 0
        self._engine: str | None = None
        self._doubts: dict[str, Finding] = {}

    def add(self, job: Job, done: PlacedFrame) -> Structure:
        """One more frame."""
        self._figures = self._figures + done.figures
        self._frames, self._evaluations = self._frames + 1, self._evaluations + done.evaluations
        self._engine = done.engine
        self._doubts |= {f.sentence: f for f in done.doubts}
        return self._lean.fill(done.structure)

    def summary(self) -> BaselineSummary:
        """Of all frames so far."""
        seconds = time.perf_counter() - self._started
        return BaselineSummary(
            frames=self._frames,
            seconds=seconds,
            atoms_per_second=self._frames * self._known["atoms"] / seconds,
            figures=self._figures,
            findings=ordered((*self._doubts.values(), *verdict(self._figures))),
            engine=self._engine,
            force_evaluations=round(self._evaluations / self._frames),
            **self._known,
        )


def baseline(
    beads: str | Path,
    trajectory: str | Path | None = None,
    *,
    topology: str | Path,
    mapping: str | Path | Sequence[str | Path],
    output: str | Path,
    method: str,
    modifiers: str | Path | None = None,
    kick_size: float = 0.0,
    templates: str | Path | None = None,
    templates_from: str | Path | None = None,
    structure: str | Path | None = None,
    temperature: float | None = None,
    frames: str | None = None,
    engine: str = "auto",
    minimise: bool = True,
    seed: int = 0,
    keep_defects: bool = False,
    by_order: bool = False,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
    workers: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> BaselineSummary:
    """Puts atoms on beads by a classical method.

    ``backward`` projects every atom on its beads (Wassenaar et al. 2014), displaces and modifies,
    and minimises 200 steps without and 5 000 with non-bonded interactions, bonds as soft as the
    topology has them. ``template`` sets rigid fragments of simulated structures onto the beads and
    minimises 300 steps with stiff bonds. ``OUTPUT.json`` records what was done.

    Args:
        beads: structure with the names of the beads, in the topology's order.
        trajectory: frames of it; None takes the frames of the structure file.
        topology: of the atoms, in any format that ``io.topology`` reads.
        mapping: mapping file or packaged name, or several of them.
        output: structure or trajectory of the atoms to write.
        method: ``backward`` or ``template``.
        modifiers: file of geometric modifiers (``backward``).
        kick_size: random displacement after the projection, nm (``backward``).
        templates: file of templates; the packaged ones of a packaged mapping by default.
        templates_from: atoms to learn templates from instead, of the same topology; None with
            ``structure`` takes the frames of that.
        structure: names of those atoms.
        temperature: K, at which templates are drawn by weight; None takes those of lowest energy.
        frames: which frames, "A:B:C"; all by default.
        engine: which minimises (``dynamics.engines``).
        minimise: False leaves the atoms where they were placed.
        seed: of all random numbers.
        keep_defects: whether to write structures that cannot be used.
        by_order: whether the beads are in the mapping's order whatever they are called.
        drop: residues of molecules that the beads leave out; so does the output.
        keep: residues of molecules whose beads are their atoms.
        workers: processes that share the frames; the result does not depend on it.
        scheduler: of a Dask cluster that shares them instead (docs/scale.md).
        resume: whether to go on from what an interrupted run has left.
        force: whether to replace existing outputs.
        progress: whether to show a bar on standard error.

    Returns:
        The summary.

    Raises:
        InputError: an input is wrong or does not fit the others; then no output is left.
    """
    spare_inputs(output, beads, trajectory, topology, mapping, modifiers, templates,
                 templates_from, structure)  # fmt: skip
    _check_options(method, modifiers, kick_size, templates, templates_from, structure, temperature)
    if engine != "auto" and not minimise:
        raise InputError(f"engine: expected minimise with it, found {engine} and no minimisation")
    file = load_mapping(mapping, drop=drop, keep=keep)
    everything = read_topology(topology)
    refuse_absent(everything, drop=drop, keep=keep)
    atoms, left_out = file.without_dropped(everything)
    kept = file.kept(atoms)
    lean, full = _without_sites(atoms, kept), file.resolve(atoms)
    system = lean_mapping(full, lean)
    placement: Placement
    if method == "backward":
        placement = _backward(system, file, modifiers, kick_size, seed)
    else:
        found = find_templates(file, full, templates, templates_from, structure, kept=kept)
        placement = FromTemplates(
            system, found, TemplateOptions(temperature=temperature, seed=seed)
        )
    inputs = {"beads": beads, "trajectory": trajectory, "topology": topology,
              "mapping": mapping_words(mapping), "modifiers": modifiers, "templates": templates,
              "templates_from": templates_from, "structure": structure}  # fmt: skip
    used = {"method": method, "kick": kick_size, "temperature": temperature, "engine": engine,
            "minimise": minimise, "frames": frames, "keep_defects": keep_defects}  # fmt: skip
    run = FrameRun(
        "baseline", inputs, output, used, seed, {"placement": content_hash(placement)},
        workers, scheduler, resume, force=force, progress=progress,
    )  # fmt: skip
    alone = atoms.n_molecules == 1
    with read_frames(beads, trajectory, frames=frames, lone=alone) as source:
        match = check_beads(system, source.table, str(beads), by_order=by_order)
        writer = open_writer(
            output, atom_table(atoms), force=force, topology=atoms,
            without_cell=source.without_cell, frames=len(source),
        )  # fmt: skip
        steps = MINIMISATIONS[method] if minimise else ()
        task = BaselineTask(
            placement, str(source.path), engine if minimise else None, steps, keep_defects
        )
        jobs = frame_jobs(source)
        totals = _Totals(
            lean, atoms=atoms.n_atoms, method=method, seed=seed, source=placement.words,
            accepted=(*left_out, *lean.notes(), *match.notes),
        )  # fmt: skip
        bar = FrameBar(len(source), 1, "frame", progress)
        return run.write(task, jobs, totals, writer, bar, minimisation=[asdict(m) for m in steps])


def learn(
    structure: str | Path,
    trajectory: str | Path | None,
    *,
    topology: str | Path,
    mapping: str | Path,
    output: str | Path,
    temperature: float | None = None,
    most: int = 400,
    force: bool = False,
) -> TemplateSet:
    """Learns templates from atomistic structures and keeps them in a file.

    Args:
        structure: atoms with names, in the topology's order.
        trajectory: frames of them; None takes those of the structure file.
        topology: of the atoms, in any format that ``io.topology`` reads.
        mapping: mapping file or packaged name.
        output: .npz file to write.
        temperature: of the simulation, K, if known.
        most: fragments of each kind of bead that are kept.
        force: whether to replace the file.

    Raises:
        InputError: an input is wrong.
    """
    spare_inputs(output, structure, trajectory, topology, mapping)
    system = load_mapping(mapping).resolve(read_topology(topology))
    found = _learn(system, structure, trajectory, temperature, most)
    write_templates(found, output, force=force)
    return found


def find_templates(
    file: MappingFile,
    system: SystemMapping,
    templates: str | Path | None = None,
    templates_from: str | Path | None = None,
    structure: str | Path | None = None,
    *,
    kept: Sequence[str] = (),
) -> TemplateSet:
    """The templates of a run: of a file, learned, or packaged with the mapping of that name.

    Raises:
        InputError: there are none, or they cannot be read or learned.
    """
    if templates is not None:
        return read_templates(templates)
    if structure is not None:
        return _learn(system, structure, templates_from, None, 400, kept)
    packaged = packaged_templates()
    name = file.source.split(";")[0]  # what is dropped or kept stands behind it
    if name not in packaged:
        raise InputError(
            f"templates: expected a file or structures to learn them from for mapping "
            f"{file.source}, found packaged ones only for {', '.join(packaged)}"
        )
    return read_templates(packaged[name])


def packaged_templates() -> dict[str, Path]:
    """Files of the packaged templates by the name of their mapping."""
    folder = Path(str(resources.files("deepbackmap"))) / "packaged" / "templates"
    return {path.stem: path for path in sorted(folder.glob("*.npz"))}


def _without_sites(topology: Topology, kept: Sequence[str]) -> Lean:
    """The system without virtual sites; with all of them where only kept molecules have any."""
    sited = {m.name for m, _, count in topology.runs() if count and m.sites}
    if sited <= set(kept):
        return Lean(topology, topology, np.ones(topology.n_atoms, dtype=bool))
    return without_sites(topology)


def _check_options(
    method: str,
    modifiers: object,
    kick_size: float,
    templates: object,
    templates_from: object,
    structure: object,
    temperature: float | None,
) -> None:
    """Refuses options that contradict each other."""
    if method not in METHODS:
        raise InputError(f"method: expected one of {', '.join(METHODS)}, found '{method}'")
    check_kick(kick_size)
    if method == "backward" and not all(
        x is None for x in (templates, templates_from, structure, temperature)
    ):
        raise InputError(
            "method: expected template with templates or a temperature, found backward"
        )
    if method == "template" and (modifiers is not None or kick_size):
        raise InputError("method: expected backward with modifiers or a kick, found template")
    if templates is not None and structure is not None:
        raise InputError("templates: expected a file or structures to learn them from, found both")
    if templates_from is not None and structure is None:
        raise InputError(f"{templates_from}: expected its names in a structure as well, found none")
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0.0):
        raise InputError(f"temperature: expected a number of K above 0, found {temperature:g}")


def _backward(
    system: SystemMapping,
    file: MappingFile,
    modifiers: str | Path | None,
    kick_size: float,
    seed: int,
) -> Backward:
    """The projection, with its modifiers read."""
    if modifiers is None:
        return Backward(system, None, kick_size, seed, "no modifiers")
    found = resolve_modifiers(read_modifiers(modifiers), str(modifiers), system, file)
    return Backward(system, found, kick_size, seed, f"modifiers {modifiers}")


def _engine(topology: Topology, name: str) -> Engine:
    """The engine that minimises; imported here, so that a placement alone need not wait for it."""
    from deepbackmap.dynamics.engines import open_engine

    return open_engine(topology, name=name)


def _minimise(
    engine: Engine, minimisations: Sequence[Minimisation], structure: Structure, where: str
) -> tuple[Structure, int]:
    """Minimisations one after the other, and their force evaluations."""
    evaluations = 0
    for options in minimisations:
        try:
            segment = engine.minimise(structure, options)
        except EngineError as error:
            raise InputError(f"{where}: {error}") from error
        structure = segment.structure
        evaluations += segment.force_evaluations
    return structure, evaluations


def _learn(
    system: SystemMapping,
    structure: str | Path,
    trajectory: str | Path | None,
    temperature: float | None,
    most: int,
    kept: Sequence[str] = (),
) -> TemplateSet:
    """Templates of some frames, with the handedness of their stereocentres."""
    with read_frames(structure, trajectory, lone=True) as source:
        full = _part_of(system, source.table)
        check_atoms(full.topology, source.table, str(structure))
        lean = _without_sites(full.topology, kept)
        system = lean_mapping(full, lean)
        topology, centres = system.topology, tacticity.find_centres(system)
        trees, signs = bond_trees(topology), []
        whole = []
        for number, frame in zip(source.frames.tolist(), source, strict=True):
            where = f"{source.path} frame {number}"
            positions = make_whole(
                lean.strip(frame).positions, frame.box, topology, trees=trees, source=where
            )
            whole.append(Structure(positions, frame.box, frame.time))
            signs.append(tacticity.signs(whole[-1], centres))
        provenance: dict[str, Any] = {"frames": len(whole), "source": Path(source.path).name}
    if temperature is not None:
        provenance["temperature"] = temperature
    return learn_templates(
        system,
        whole,
        most=most,
        source=str(structure if trajectory is None else trajectory),
        provenance=provenance,
        handedness=tacticity.learn_pattern(centres, np.stack(signs)),
    )


def _part_of(system: SystemMapping, table: ParticleTable) -> SystemMapping:
    """The system of a file that holds one molecule of every kind, or of only one kind.

    Templates are of a kind of molecule, so that a single one is enough to learn from; any other
    number of atoms is compared with the whole system.
    """
    topology = system.topology
    used = list(dict.fromkeys(t for t, count in topology.blocks if count))
    for kinds in (used, *([t] for t in used)):
        names = tuple(n for t in kinds for n in topology.molecule_types[t].atom_names)
        if table.n != topology.n_atoms and table.named and table.names == names:
            return replace(system, topology=replace(topology, blocks=tuple((t, 1) for t in kinds)))
    return system

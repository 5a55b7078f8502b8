"""Beads to atoms without a model: the paper's baseline and rigid templates, then minimisation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from deepbackmap.api import judgement
from deepbackmap.api.files import beside, spare_inputs
from deepbackmap.api.record import make_record
from deepbackmap.baselines.beads import bead_topology, whole_beads
from deepbackmap.baselines.modifiers import apply_modifiers, read_modifiers, resolve_modifiers
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
from deepbackmap.evaluation.usable import Finding, verdict
from deepbackmap.io.tables import ParticleTable
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, mapping_words
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.mapping.match import check_atoms, check_beads
from deepbackmap.mapping.order import bead_order
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
    """What speaks against using what was written."""
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
        by_order: whether the beads are in the mapping's order whatever they are called; then, and
            where they are called by type, distances of bonded beads are checked.
        drop: residues of molecules that the beads leave out; so does the output.
        keep: residues of molecules whose beads are their atoms.
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
    record = Path(f"{output}.json")
    file = load_mapping(mapping, drop=drop, keep=keep)
    everything = read_topology(topology)
    refuse_absent(everything, drop=drop, keep=keep)
    atoms, left_out = file.without_dropped(everything)
    kept = file.kept(atoms)
    lean, full = _without_sites(atoms, kept), file.resolve(atoms)
    system = lean_mapping(full, lean)
    alone = atoms.n_molecules == 1
    with read_frames(beads, trajectory, frames=frames, lone=alone) as source:
        match = check_beads(system, source.table, str(beads), by_order=by_order)
        order = None if match.certain else bead_order(system)
        writer = open_writer(
            output, atom_table(atoms), force=force, topology=atoms,
            without_cell=source.without_cell,
        )  # fmt: skip
        if record.exists() and not force:
            raise InputError(f"{record}: expected no file of that name, found one (force replaces)")
        if method == "backward":
            place, name = _backward(system, file, modifiers, kick_size, seed)
            handedness: Any = {}
        else:
            found = find_templates(file, full, templates, templates_from, structure, kept=kept)
            options = TemplateOptions(temperature=temperature, seed=seed)
            placer = TemplatePlacer(system, found, options)
            place, name = _template(placer), f"templates {Path(found.source).name}"
            handedness = found.handedness
        runner = _engine(lean.topology, engine) if minimise else None
        judge = Judge(lean.topology, system, hands=KnownHands.by_pattern(system, handedness))
        figures = Figures()
        started, evaluations = time.perf_counter(), 0
        with (
            beside(record) as part,
            writer,
            tqdm(total=len(source), unit="frame", disable=not progress) as bar,
        ):
            for number, frame in zip(source.frames.tolist(), source, strict=True):
                where = f"{source.path} frame {number}"
                if order is not None:
                    order.check(frame, where)
                made = place(frame, number, where)
                if runner is not None:
                    made, count = _minimise(runner, method, made, where)
                    evaluations += count
                found_here = judge.frame(made, frame, number)
                judgement.refuse(where, verdict(found_here), keep_defects=keep_defects)
                figures = figures + found_here
                writer.write(lean.fill(made))
                bar.update()
            seconds = time.perf_counter() - started
            summary = BaselineSummary(
                frames=len(source),
                atoms=atoms.n_atoms,
                seconds=seconds,
                atoms_per_second=len(source) * atoms.n_atoms / seconds,
                figures=figures,
                findings=verdict(figures),
                method=method,
                seed=seed,
                engine=None if runner is None else runner.name,
                force_evaluations=round(evaluations / len(source)),
                source=name,
                accepted=(*left_out, *lean.notes(), *match.notes),
            )
            inputs = {"beads": beads, "trajectory": trajectory, "topology": topology,
                      "mapping": mapping_words(mapping), "modifiers": modifiers,
                      "templates": templates, "templates_from": templates_from,
                      "structure": structure}  # fmt: skip
            used = {"method": method, "kick": kick_size, "temperature": temperature,
                    "engine": engine, "minimise": minimise, "frames": frames,
                    "keep_defects": keep_defects}  # fmt: skip
            steps = [asdict(m) for m in MINIMISATIONS[method]] if minimise else []
            # Inside, so that a record that cannot be written leaves no output either.
            text = make_record(
                "baseline", inputs=inputs, output=output, options=used, seed=seed,
                engine=summary.engine, minimisation=steps, summary=summary.to_dict(),
            )  # fmt: skip
            part.write_text(text, encoding="utf-8")
    return summary


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
) -> tuple[Place, str]:
    """The projection as a function of a frame, and what it is called."""
    table = bead_topology(system)
    found = None
    if modifiers is not None:
        found = resolve_modifiers(read_modifiers(modifiers), str(modifiers), system, file)

    def place(frame: Structure, number: int, source: str) -> Structure:
        whole = whole_beads(system, frame, table=table, source=source)
        made = Structure(project(system, whole), frame.box, frame.time)
        if kick_size:
            made = kick(made, kick_size, seed=seed, frame=number)
        return made if found is None else apply_modifiers(found, system, made)

    return place, "no modifiers" if modifiers is None else f"modifiers {modifiers}"


def _template(placer: TemplatePlacer) -> Place:
    """The placement of templates as a function of a frame."""

    def place(frame: Structure, number: int, source: str) -> Structure:
        return placer.place(frame, frame=number, source=source)

    return place


def _engine(topology: Topology, name: str) -> Engine:
    """The engine that minimises; imported here, so that a placement alone need not wait for it."""
    from deepbackmap.dynamics.engines import open_engine

    return open_engine(topology, name=name)


def _minimise(
    engine: Engine, method: str, structure: Structure, where: str
) -> tuple[Structure, int]:
    """The method's minimisations one after the other, and their force evaluations."""
    evaluations = 0
    for options in MINIMISATIONS[method]:
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

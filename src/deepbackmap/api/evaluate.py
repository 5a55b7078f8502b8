"""Several methods against one reference: figures, a verdict, and a page to read them on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import count, pairwise, repeat
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from tqdm import tqdm

import deepbackmap
from deepbackmap.api.files import (
    check_folder,
    check_names_used,
    new_folder,
    open_atoms,
    open_beads,
    spare_inputs,
)
from deepbackmap.api.record import content_hash, identity, make_record
from deepbackmap.errors import InputError
from deepbackmap.evaluation import (
    Evaluation,
    Measurements,
    Plan,
    Sample,
    evaluate_samples,
    worst_molecules,
)
from deepbackmap.evaluation.export import metrics_csv, metrics_json
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.observables import measure_frame, one_thread, together
from deepbackmap.evaluation.result import MoleculeView
from deepbackmap.geometry.cell import cell_volume, shortest_lengths
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource
from deepbackmap.jobs.journal import NoJournal, open_journal
from deepbackmap.jobs.loop import in_order, open_pool
from deepbackmap.jobs.pool import Pool
from deepbackmap.jobs.task import Job, Report, Work
from deepbackmap.jobs.threads import Threads
from deepbackmap.mapping import SystemMapping, load_mapping
from deepbackmap.similarity.centres import find_centres
from deepbackmap.similarity.options import STRUCTURES, MapOptions
from deepbackmap.system import Structure, Topology

METRICS = "metrics.json"
"""The file that marks a folder as an evaluation's."""
REFERENCE = "reference"
"""Name that no method may have."""
VOLUME, DEVIATIONS = 0.05, 5.0
"""How far from the reference's mean a box's volume may be: that share of it or, if that is
more, that many standard deviations of the reference's own volumes."""
LENGTHS = 0.25
"""By how much of themselves the shortest lattice vectors may be shorter than the shortest, or
longer than the longest, of the reference."""
MAP_FRAMES = 50
"""Most frames of a sample that the structure map draws from, evenly spaced; bounds memory."""
MAP_PAIRED = 8
"""Fewest frame numbers that all samples have for the structure map to use only those."""
WORKERS = 8
"""Most threads by default; each holds the pairs of one frame."""


def evaluate(
    reference: str | Path,
    generated: Mapping[str, str | Path],
    *,
    structure: str | Path | None,
    topology: str | Path,
    output: str | Path,
    beads: str | Path | None = None,
    mapping: str | Path | None = None,
    frames: str | None = None,
    reference_frames: str | None = None,
    bead_frames: str | None = None,
    temperature: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    scheduler: str | None = None,
    resume: bool = False,
    structure_map: bool = True,
    map_centres: str | None = None,
    map_unit: str = "molecule",
    force: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Compares generated structures with reference structures of the same system.

    The output is a folder with ``metrics.json`` (everything, docs/evaluation.md), ``metrics.csv``
    (the figures), ``report.html`` (a page), ``record.json`` (inputs with their hashes, options,
    versions) and, with a structure map, ``chemiscope.json.gz``. It appears when all of them are
    there.

    Args:
        reference: frames that are right.
        generated: frames to judge, by the name of the method.
        structure: names of the atoms of files that have none (such as .xtc).
        topology: GROMACS topology of all of them.
        output: folder to write.
        beads: the coarse-grained input of the generated frames.
        mapping: what maps atoms onto those beads: a file or the name of a packaged one.
        frames: which generated frames, "A:B:C"; all by default.
        reference_frames: which reference frames; all by default.
        bead_frames: which bead frames, one for each generated frame; by default those with the
            numbers of the generated frames.
        temperature: of the reference in K; says how warm the generated structures are.
        seed: of halves, bootstrap and structure map.
        workers: threads; the result does not depend on it. By default the number of cores.
        scheduler: of a Dask cluster that shares the frames instead (docs/scale.md).
        resume: whether to go on from what an interrupted run has left.
        structure_map: whether to compare local environments as well.
        map_centres: atoms that the map's environments are around, in MDAnalysis's selection
            language; by default backbone atoms that carry a side group.
        map_unit: what one point of the map is: ``molecule`` or ``frame``.
        force: whether to replace the folder of an earlier evaluation.
        progress: whether to show a bar on standard error.

    Returns:
        What was found.

    Raises:
        InputError: an input is wrong or does not fit the others; then no folder is left.
    """
    output = Path(output)
    spare_inputs(output, *generated.values(), reference, topology, structure, beads, mapping)
    check_names_used(structure, reference, *generated.values())
    if not structure_map and (map_centres is not None or map_unit != "molecule"):
        raise InputError("map-centres, map-unit: expected a structure map with them, found none")
    _check_options(generated, beads, mapping, bead_frames, temperature, seed, workers)
    check_folder(output, force, METRICS)
    atoms = read_topology(topology)
    _check_lennard_jones(atoms)
    options = _map_options(atoms, map_centres, map_unit, seed) if structure_map else None
    with ExitStack() as stack:
        source = stack.enter_context(open_atoms(reference, structure, atoms, reference_frames))
        methods = {
            name: stack.enter_context(open_atoms(path, structure, atoms, frames))
            for name, path in generated.items()
        }
        given: dict[str, Any] = {}
        system = None
        if beads is not None and mapping is not None:
            system = load_mapping(mapping).resolve(atoms)
            opened = stack.enter_context(open_beads(beads, system, bead_frames))
            given = {name: _bead_frames(opened, s, bead_frames) for name, s in methods.items()}
        _check_boxes(source, methods)
        plan = Plan.from_topology(atoms)
        task = MeasureTask(plan, source[0], system)
        chosen = {
            "frames": frames, "reference_frames": reference_frames, "bead_frames": bead_frames,
            "temperature": temperature, "structure_map": structure_map,
            "map_centres": map_centres, "map_unit": map_unit,
        }  # fmt: skip
        inputs = {
            "reference": reference, "generated": dict(generated), "structure": structure,
            "topology": topology, "beads": beads, "mapping": mapping,
        }  # fmt: skip
        run = identity("evaluate", inputs, chosen)
        run |= {"atoms": content_hash(atoms), "order": list(generated)}
        samples = [
            _Frames(REFERENCE, source),
            *(_Frames(n, s, given.get(n)) for n, s in methods.items()),
        ]
        total = sum(len(sample.source) for sample in samples)
        threads = workers or _cores()
        journal = stack.enter_context(open_journal(output, run, resume=resume, frames=total))
        pool = Threads(task, threads) if scheduler is None else open_pool(task, threads, scheduler)
        measured = _measured(pool, samples, journal, progress)
        evaluation = _evaluate(plan, samples, measured, temperature, seed)
        found = _map(atoms, source, methods, options) if options else _Map(None, "")
        if found.note:
            evaluation = _with_note(evaluation, found.note)
        record = make_record(
            "evaluate", inputs=inputs, output=output, options=chosen, seed=seed,
            threads=threads, summary=_summary(evaluation),
        )  # fmt: skip
        _write(output, force, evaluation, found, record)
    return evaluation


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    """Scores and findings of the methods; everything else is in ``metrics.json``."""
    return {
        method.name: {
            "frames": method.n_frames,
            "score": method.score.value if math.isfinite(method.score.value) else None,
            "findings": [asdict(finding) for finding in method.findings],
        }
        for method in evaluation.methods
    }


@dataclass(frozen=True)
class _Map:
    """The structure map, or why there is none."""

    content: Any
    """A ``StructureMap`` or None."""
    note: str
    export: Any = None
    """Writes it for chemiscope to a path."""


def _check_options(
    generated: Mapping[str, str | Path],
    beads: str | Path | None,
    mapping: str | Path | None,
    bead_frames: str | None,
    temperature: float | None,
    seed: int,
    workers: int | None,
) -> None:
    """Refuses what makes no sense before anything is read."""
    if not generated:
        raise InputError("generated: expected at least one NAME=FILE, found none")
    for name in generated:
        if not name.strip() or not name.isprintable() or name == REFERENCE:
            raise InputError(
                f"generated: expected a printable name other than '{REFERENCE}', found '{name}'"
            )
    if (beads is None) != (mapping is None):
        there, lacking = ("beads", "mapping") if mapping is None else ("mapping", "beads")
        raise InputError(f"{lacking}: expected together with {there}, found none")
    if bead_frames is not None and beads is None:
        raise InputError("bead_frames: expected together with beads, found none")
    if temperature is not None and not 0.0 < temperature < math.inf:
        raise InputError(f"temperature: expected more than 0 K, found {temperature:g}")
    if seed < 0:
        raise InputError(f"seed: expected a whole number from 0, found {seed}")
    if workers is not None and workers < 1:
        raise InputError(f"workers: expected at least 1, found {workers}")


def _check_lennard_jones(topology: Topology) -> None:
    if not (topology.c6.any() or topology.c12.any()):
        raise InputError(
            f"{topology.source}: expected Lennard-Jones parameters of some pair of atom types, "
            f"found none but zeros, so that neither energies nor contacts can be judged"
        )


def _cores() -> int:
    """Cores that this process may use, within reason."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(found or 1, WORKERS)


class _Chosen:
    """Some frames of a file, by their numbers."""

    def __init__(self, source: FrameSource, numbers: Sequence[int]) -> None:
        self._source, self._numbers = source, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Structure]:
        for number in self._numbers:
            yield self._source[number]


def _bead_frames(beads: FrameSource, source: FrameSource, chosen: str | None) -> Any:
    """One frame of beads for each generated frame."""
    if chosen is not None:
        if len(beads) != len(source):
            raise InputError(
                f"{beads.path}: expected a frame for each of the {len(source)} frames of "
                f"{source.path}, found {len(beads)}"
            )
        return beads
    last = int(source.frames.max())
    if last >= len(beads):
        raise InputError(
            f"{beads.path}: expected beads for every frame of {source.path} up to number {last}, "
            f"found {len(beads)} frames"
        )
    return _Chosen(beads, source.frames.tolist())


def _check_boxes(reference: FrameSource, methods: Mapping[str, FrameSource]) -> None:
    """Refuses frames whose boxes are not like the reference's.

    Density decides about energies and g(r), and the shape about which images meet; see
    ``VOLUME`` and ``LENGTHS``.
    """
    volumes, lengths = _cells(reference)
    mean = float(volumes.mean())
    room = max(VOLUME * mean, DEVIATIONS * float(volumes.std()))
    low, high = lengths.min(axis=0) * (1.0 - LENGTHS), lengths.max(axis=0) * (1.0 + LENGTHS)
    for source in methods.values():
        for number, volume, length in zip(source.frames.tolist(), *_cells(source), strict=True):
            where = f"{source.path} frame {number}: expected a box like the reference's"
            if abs(volume - mean) > room:
                raise InputError(
                    f"{where}, of {mean - room:.4g} to {mean + room:.4g} nm^3, found "
                    f"{volume:.4g} nm^3"
                )
            if (length < low).any() or (length > high).any():
                k = int(np.flatnonzero((length < low) | (length > high))[0])
                raise InputError(
                    f"{where}, with its {('shortest', 'second', 'third')[k]} lattice vector of "
                    f"{low[k]:.3g} to {high[k]:.3g} nm, found {length[k]:.3g} nm"
                )


def _cells(source: FrameSource) -> tuple[Float64[np.ndarray, " f"], Float64[np.ndarray, "f 3"]]:
    """Volumes in nm^3 and lengths of the shortest lattice vectors in nm of all frames."""
    boxes = [frame.box for frame in source]
    return (
        np.array([cell_volume(box) for box in boxes]),
        np.array([shortest_lengths(box) for box in boxes]),
    )


@dataclass(frozen=True)
class _Frames:
    """A sample that is to be measured."""

    name: str
    source: FrameSource
    beads: Any = None
    """A frame of beads for each of its frames, or None."""


@dataclass(frozen=True)
class MeasureTask:
    """What is measured of every frame."""

    plan: Plan
    first: Structure
    """A structure whose stereocentres are right."""
    system: SystemMapping | None
    """Of the beads, where there are some."""

    def open(self) -> Work:
        """Measures one frame after another; the content of a job is the frame, its beads or None,
        and the file, for messages."""
        judges = {
            with_beads: Judge(self.plan.topology, system, reference=self.first, plan=self.plan)
            for with_beads, system in ((False, None), (True, self.system))
        }

        def work(job: Job, report: Report) -> Measurements:
            frame, beads, source = job.content
            judge = judges[beads is not None]
            return measure_frame(judge, self.plan, frame, beads, job.number, source)

        return work


def _measured(
    pool: Pool, samples: Sequence[_Frames], journal: NoJournal, progress: bool
) -> list[Measurements]:
    """Measurements of every sample."""
    total = sum(len(sample.source) for sample in samples)
    with one_thread(), pool, tqdm(total=total, unit="frame", disable=not progress) as bar:
        parts = []
        for _, part in in_order(pool, _jobs(samples), journal):
            parts.append(part)
            bar.update()
    ends = np.cumsum([0, *(len(sample.source) for sample in samples)]).tolist()
    return [together(parts[a:b]) for a, b in pairwise(ends)]


def _jobs(samples: Sequence[_Frames]) -> Iterator[Job]:
    """Every frame of every sample."""
    index = count()
    for sample in samples:
        beads = repeat(None) if sample.beads is None else sample.beads
        numbers, path = sample.source.frames.tolist(), str(sample.source.path)
        for number, frame, given in zip(numbers, sample.source, beads, strict=False):
            yield Job(next(index), number, (frame, given, path))


def _evaluate(
    plan: Plan,
    samples: Sequence[_Frames],
    measured: Sequence[Measurements],
    temperature: float | None,
    seed: int,
) -> Evaluation:
    """Compares all samples with the first one."""
    right = measured[0]
    found = []
    for sample, measurements in zip(samples, measured, strict=True):
        frames = sample.source
        worst: tuple[MoleculeView, ...] = ()
        if sample is not samples[0]:
            worst = worst_molecules(
                plan, sample.name, right, measurements, frames.__getitem__, frames.frames
            )
        numbers = frames.frames.tolist()
        found.append(Sample(sample.name, str(frames.path), measurements, numbers, worst))
    return evaluate_samples(plan, found[0], found[1:], temperature=temperature, seed=seed)


def _map_options(topology: Topology, centres: str | None, unit: str, seed: int) -> MapOptions:
    """Options of the structure map; a selection that finds nothing is refused at once."""
    if unit not in STRUCTURES:
        raise InputError(f"map_unit: expected one of {', '.join(STRUCTURES)}, found '{unit}'")
    if centres is not None:
        find_centres(topology, centres)
    return MapOptions(selection=centres, unit=unit, seed=seed)


def _map(
    topology: Topology,
    source: FrameSource,
    methods: Mapping[str, FrameSource],
    options: MapOptions,
) -> _Map:
    """The structure map of some frames of all samples, or a note why there is none."""
    # Here, because it brings dscribe, which takes seconds to import.
    from deepbackmap.similarity.chemiscope import export_chemiscope
    from deepbackmap.similarity.structure_map import map_structures

    samples = _map_frames(source, methods)
    try:
        found = map_structures(topology, samples, options)
    except InputError as error:
        return _Map(None, f"There is no structure map: {error}.")

    def export(path: Path) -> None:
        export_chemiscope(path, found, topology, samples)

    return _Map(found, "", export)


def _map_frames(
    source: FrameSource, methods: Mapping[str, FrameSource]
) -> dict[str, list[tuple[int, Structure]]]:
    """The frames of every sample that the map draws from, with their numbers.

    Frames of one number share their beads, so that the test of overlap is sharper where all
    samples have the same numbers: they are taken where there are ``MAP_PAIRED`` of them.
    """
    sources = {REFERENCE: source, **methods}
    common = set.intersection(*(set(s.frames.tolist()) for s in sources.values()))
    return {
        name: _spread(s, common if len(common) >= MAP_PAIRED else set(s.frames.tolist()))
        for name, s in sources.items()
    }


def _spread(source: FrameSource, numbers: set[int]) -> list[tuple[int, Structure]]:
    """At most ``MAP_FRAMES`` of the frames with those numbers, evenly spaced."""
    places = [k for k, number in enumerate(source.frames.tolist()) if number in numbers]
    count = min(len(places), MAP_FRAMES)
    chosen = np.unique(np.linspace(0, len(places) - 1, count).round().astype(int)).tolist()
    return [(int(source.frames[places[k]]), source[places[k]]) for k in chosen]


def _with_note(evaluation: Evaluation, note: str) -> Evaluation:
    return replace(evaluation, notes=(*evaluation.notes, note))


def _write(output: Path, force: bool, evaluation: Evaluation, found: _Map, record: str) -> None:
    """Fills the folder."""
    from deepbackmap.report import render_report

    program = f"deepbackmap {deepbackmap.__version__}"
    contents = {
        METRICS: metrics_json(evaluation, found.content, program),
        "metrics.csv": metrics_csv(evaluation),
        "record.json": record,
        "report.html": render_report(evaluation, found.content),
    }
    with new_folder(output, force, METRICS) as folder:
        for name, text in contents.items():
            (folder / name).write_text(text, encoding="utf-8")
        if found.export is not None:
            found.export(folder / "chemiscope.json.gz")


def to_text(evaluation: Evaluation) -> str:
    """Verdict and the scored figures for a person."""
    names = [m.name for m in evaluation.methods]
    lines = [
        f"{evaluation.n_atoms} atoms in {evaluation.n_molecules} molecules, "
        f"{evaluation.n_reference} reference frames"
    ]
    for method in evaluation.methods:
        frames = f"{method.n_frames} frame{'s' if method.n_frames != 1 else ''}"
        lines += ["", f"{method.name} ({frames})"]
        lines += [f"  {s.level:<4}  {s.text}" for s in method.verdict]
    head = ["", *names, "floor"]
    rows = [["score", *(_number(m.score.value) for m in evaluation.methods)]]
    rows[0].append(_number(evaluation.score_floor))
    for figure in evaluation.figures:
        if figure.scored:
            values = [_number(figure.methods[n].value) for n in names]
            rows.append([figure.name, *values, _number(figure.floor)])
    lines += ["", *_columns([head, *rows])]
    lines += [f"note: {note}" for note in evaluation.notes]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _columns(rows: list[list[str]]) -> list[str]:
    """Aligned columns: words to the left, numbers to the right."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{w}}" if k == 0 else f"{cell:>{w}}"
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]

"""Several methods against one reference: figures, a verdict, and a page to read them on."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
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
from deepbackmap.api.record import make_record
from deepbackmap.errors import InputError
from deepbackmap.evaluation import (
    Beads,
    Evaluation,
    Plan,
    Sample,
    evaluate_samples,
    measure,
    worst_molecules,
)
from deepbackmap.evaluation.export import metrics_csv, metrics_json
from deepbackmap.evaluation.judge import Judge
from deepbackmap.geometry.cell import cell_volume, shortest_lengths
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource
from deepbackmap.mapping import load_mapping
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
        given: dict[str, Beads] = {}
        if beads is not None and mapping is not None:
            system = load_mapping(mapping).resolve(atoms)
            opened = stack.enter_context(open_beads(beads, system, bead_frames))
            given = {
                name: Beads(_bead_frames(opened, s, bead_frames), system)
                for name, s in methods.items()
            }
        _check_boxes(source, methods)
        evaluation = _evaluate(
            atoms, source, methods, given, temperature, seed, workers or _cores(), progress
        )
        found = _map(atoms, source, methods, options) if options else _Map(None, "")
        if found.note:
            evaluation = _with_note(evaluation, found.note)
        inputs = {
            "reference": reference, "generated": dict(generated), "structure": structure,
            "topology": topology, "beads": beads, "mapping": mapping,
        }  # fmt: skip
        chosen = {
            "frames": frames, "reference_frames": reference_frames, "bead_frames": bead_frames,
            "temperature": temperature, "structure_map": structure_map,
            "map_centres": map_centres, "map_unit": map_unit,
        }  # fmt: skip
        record = make_record(
            "evaluate", inputs=inputs, output=output, options=chosen, seed=seed,
            threads=workers or _cores(), summary=_summary(evaluation),
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


def _evaluate(
    topology: Topology,
    source: FrameSource,
    methods: Mapping[str, FrameSource],
    beads: Mapping[str, Beads],
    temperature: float | None,
    seed: int,
    workers: int,
    progress: bool,
) -> Evaluation:
    """Measures all samples, and compares them."""
    plan = Plan.from_topology(topology)
    first = source[0]
    total = len(source) + sum(len(s) for s in methods.values())
    with tqdm(total=total, unit="frame", disable=not progress) as bar:

        def measured(frames: FrameSource, given: Beads | None) -> Any:
            system = None if given is None else given.mapping
            return measure(
                plan, frames, source=str(frames.path), numbers=frames.frames.tolist(),
                beads=given, judge=Judge(topology, system, reference=first, plan=plan),
                workers=workers, done=bar.update,
            )  # fmt: skip

        right = Sample(REFERENCE, str(source.path), measured(source, None), source.frames.tolist())
        samples = []
        for name, frames in methods.items():
            found = measured(frames, beads.get(name))
            numbers = frames.frames.tolist()
            worst = worst_molecules(
                plan, name, right.measured, found, frames.__getitem__, frames.frames
            )
            samples.append(Sample(name, str(frames.path), found, numbers, worst))
    return evaluate_samples(plan, right, samples, temperature=temperature, seed=seed)


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

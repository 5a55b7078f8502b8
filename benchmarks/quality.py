"""Prints how good generated polystyrene is, beside the paper's own structures and the floor.

    python benchmarks/quality.py --frames 12
    python benchmarks/quality.py --temperatures 568,313 --ours ours_568K.xtc ours_313K.xtc
    python benchmarks/quality.py --smoke

The reference data (folder ``sps`` inside the folder that --data or DEEPBACKMAP_DATA names, else
``../shared/data`` beside the repository) are the published structures. Every column compares the
first frames of its own file with all reference frames of that temperature; the floor compares as
many reference frames, evenly spaced, with the other reference frames. Without --ours the
structures are made here, from the first beads of the test file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepbackmap.api.backmap import sampling_options
from deepbackmap.api.hands import handedness_of
from deepbackmap.api.models import find_model
from deepbackmap.errors import InputError
from deepbackmap.evaluation import Beads, Measurements, Plan, QualityTable, measure, tabulate
from deepbackmap.evaluation.table import MoleculeEnergy, format_value, molecule_energies
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, map_positions
from deepbackmap.methods.base import Sampler, open_sampler
from deepbackmap.model.file import load_model
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import make_whole

PUBLISHED_MAPPING = "ps-two-bead"
PUBLISHED = {"paper": "paper_deepbackmap", "paper's baseline": "paper_baseline"}
SMOKE_REFERENCE = 2
"""Reference frames of a smoke run."""


@dataclass(frozen=True)
class Task:
    """What is compared with what."""

    folder: Path
    """Holds topol.top, aa.gro, cg.gro and the trajectories."""
    plan: Plan
    mapping: SystemMapping
    frames: int
    """Generated frames of every column."""
    reference: str | None
    """Which reference frames, as a slice; all by default."""
    mapped: str | None = None
    """Another mapping than the published beads': these are then made from the test atoms."""

    def read(self, path: Path, frames: str | None) -> FrameSource:
        """Frames of a file with atoms or, if its name says so, beads."""
        names = "cg.gro" if path.name.endswith("_cg.xtc") else "aa.gro"
        return read_frames(self.folder / names, path, frames=frames)

    def wanted(self) -> str:
        """The generated frames as a slice."""
        return f"0:{self.frames}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 2 means that an input is wrong."""
    options = parse(arguments)
    try:
        run(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=12, help="generated frames (default 12)")
    parser.add_argument(
        "--temperatures", default="568,453,313", help="in K, with commas (default 568,453,313)"
    )
    parser.add_argument(
        "--ours", nargs="+", type=Path, help="generated atoms, one file for each temperature"
    )
    parser.add_argument("--model", default="default", help="model that makes them without --ours")
    parser.add_argument(
        "--mapping", default=PUBLISHED_MAPPING, help="of the beads; others are made from the atoms"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the model's random numbers")
    parser.add_argument("--data", type=Path, help="folder that holds sps")
    parser.add_argument("--output", type=Path, default=Path("quality.json"), help="JSON to write")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help=f"one frame, the first temperature and {SMOKE_REFERENCE} reference frames only",
    )
    options = parser.parse_args(arguments)
    options.temperatures = [int(t) for t in options.temperatures.split(",")]
    if options.smoke:
        options.frames, options.temperatures = 1, options.temperatures[:1]
    if options.frames < 1:
        parser.error(f"--frames: expected at least 1, got {options.frames}")
    if options.ours and len(options.ours) != len(options.temperatures):
        parser.error(f"--ours: expected one file for each of {options.temperatures}")
    return options


def run(options: argparse.Namespace) -> None:
    """Compares, prints and writes."""
    folder = data_folder(options.data)
    topology = read_topology(folder / "topol.top")
    task = Task(
        folder=folder,
        plan=Plan.from_topology(topology),
        mapping=load_mapping(options.mapping).resolve(topology),
        frames=options.frames,
        mapped=None if options.mapping == PUBLISHED_MAPPING else options.mapping,
        reference=f"0:{SMOKE_REFERENCE}" if options.smoke else None,
    )
    results: dict[str, dict[str, object]] = {}
    for place, temperature in enumerate(options.temperatures):
        ours = options.ours[place] if options.ours else None
        columns, seconds, highest = one_temperature(
            task, temperature, ours, options.model, options.seed
        )
        print(to_markdown(f"{temperature} K", columns))
        print(f"{verdict(columns)}\n\n{highest}\n\n{ratios(columns)}\n")
        if seconds is not None:
            print(f"ours: {seconds / task.frames:.1f} s a frame\n")
        results[str(temperature)] = {
            "seconds_a_frame": None if seconds is None else seconds / task.frames,
            **{name: json.loads(table.to_json()) for name, table in columns.items()},
        }
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def data_folder(given: Path | None) -> Path:
    """The folder of the reference data."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = (given or Path(os.environ.get("DEEPBACKMAP_DATA", beside))) / "sps"
    if not (folder / "topol.top").is_file():
        raise InputError(f"{folder}: expected the reference data (see --help), found no topol.top")
    return folder


def open_sampler_of(name: str, topology: Topology, given: Mapping[str, Any]) -> Sampler:
    """The sampler of a packaged or other model, with the model's own mapping.

    Args:
        name: packaged name or file.
        topology: of the system.
        given: options; others are the model's own.
    """
    path = find_model(name)
    model = load_model(path)
    mapping = MappingFile.from_text(model.spec.mapping).resolve(topology)
    options = sampling_options(model.spec, path.stem, given)
    hands = handedness_of(mapping, model.spec.handedness)
    return open_sampler(model, mapping, options, "cpu", hands)


def read_beads(
    folder: Path, temperature: int, mapping: SystemMapping, frames: str
) -> list[Structure]:
    """Beads of test frames: the published ones, or the test atoms mapped to others."""
    published = load_mapping(PUBLISHED_MAPPING).resolve(mapping.topology)
    prefix = f"test_{temperature}K"
    kind = "cg" if mapping.n_beads == published.n_beads else "aa"
    with read_frames(
        folder / f"{kind}.gro", folder / f"{prefix}_{kind}.xtc", frames=frames
    ) as source:
        found = list(source)
    if kind == "cg":
        return found
    return [
        Structure(map_positions(mapping, make_whole(a.positions, a.box, mapping.topology)), a.box)
        for a in found
    ]


def one_temperature(
    task: Task, temperature: int, ours: Path | None, model: str, seed: int
) -> tuple[dict[str, QualityTable], float | None, str]:
    """The columns of one temperature, how long ours took in seconds if it was made here, and how
    high its highest molecule is."""
    prefix = f"test_{temperature}K"
    with task.read(task.folder / f"{prefix}_aa.xtc", task.reference) as source:
        reference = measure(task.plan, source, source=str(source.path))
    held, rest = split(reference.n_frames, task.frames)
    floor = tabulate(task.plan, reference.select(rest), reference.select(held))
    columns = {f"floor ({len(held)} of {reference.n_frames} against the others)": floor}
    files = {name: task.folder / f"{prefix}_{stem}.xtc" for name, stem in PUBLISHED.items()}
    seconds = None
    with tempfile.TemporaryDirectory() as scratch:
        names, trajectory = bead_files(task, temperature, Path(scratch))
        if ours is None:
            ours = Path(scratch) / f"ours_{temperature}K.xtc"
            seconds = generate(task, temperature, ours, model, seed)
        for name, path in {**files, "ours": ours}.items():
            with (
                task.read(path, task.wanted()) as source,
                read_frames(names, trajectory, frames=task.wanted()) as beads,
            ):
                if len(source) != len(beads):
                    raise InputError(f"{path}: expected {len(beads)} frames, found {len(source)}")
                given = Beads(beads, task.mapping)
                generated = measure(task.plan, source, source=str(path), beads=given)
            columns[name] = tabulate(task.plan, reference, generated)
        energy = next(molecule_energies(task.plan, reference))
        highest = (
            f"Highest {energy.name} of ours above the reference's highest: "
            f"{above(energy, reference, generated):.2f} reference sd"
        )
    return columns, seconds, highest


def bead_files(task: Task, temperature: int, scratch: Path) -> tuple[Path, Path]:
    """Structure and trajectory of the beads of the test frames."""
    prefix = f"test_{temperature}K"
    if task.mapped is None:
        return task.folder / "cg.gro", task.folder / f"{prefix}_cg.xtc"
    from deepbackmap.api import map_trajectory

    found = scratch / "cg.gro", scratch / f"{prefix}_cg.xtc"
    for path, frames in zip(found, ("0:1", task.wanted()), strict=True):
        if path.exists():
            continue
        map_trajectory(
            task.folder / "aa.gro", task.folder / f"{prefix}_aa.xtc", task.folder / "topol.top",
            task.mapped, path, frames=frames, progress=False,
        )  # fmt: skip
    return found


def generate(task: Task, temperature: int, output: Path, model: str, seed: int) -> float:
    """Puts atoms back onto the test beads; returns the seconds that took, start to end."""
    # imported here: comparing files that are there needs no model
    from deepbackmap.api import backmap

    start = time.perf_counter()
    backmap(
        *bead_files(task, temperature, output.parent),
        topology=task.folder / "topol.top",
        output=output,
        model=model,
        frames=task.wanted(),
        seed=seed,
        temperature=float(temperature),
    )
    return time.perf_counter() - start


def above(energy: MoleculeEnergy, reference: Measurements, generated: Measurements) -> float:
    """How far a molecule's highest energy is above the reference's highest, in reference sd."""
    first, second = energy.values(reference), energy.values(generated)
    return float((second.max() - first.max()) / first.std())


def verdict(columns: dict[str, QualityTable]) -> str:
    """Which rows of the score are not three times better than the paper's, nor within three times
    the floor."""
    floor = next(iter(columns.values()))
    values = {name: {r.name: r.value for r in table} for name, table in columns.items()}
    short = [
        f"{row.name} ({format_value(values['ours'][row.name])} against "
        f"{format_value(values['paper'][row.name])})"
        for row in floor
        if (row.scored or row.name.startswith("g(r)"))
        and values["ours"][row.name] > values["paper"][row.name] / 3.0
        and values["ours"][row.name] > 3.0 * row.value
    ]
    return "Rows neither 3 times better than the paper's nor within 3 times the floor: " + (
        ", ".join(short) or "none"
    )


RATIOS = {"angle": "angle energy, ratio", "torsion": "proper energy, ratio"}
"""Rows that are shown beside each other; torsions are the proper dihedrals."""


def ratios(columns: dict[str, QualityTable]) -> str:
    """Energies over the reference's, a temperature at a glance: 1 is right."""
    found = []
    for name, table in columns.items():
        values = {row.name: row.value for row in table}
        parts = [f"{word} {values[row]:.3f}" for word, row in RATIOS.items() if row in values]
        found.append(f"{name}: {', '.join(parts)}")
    return "Energies over the reference's: " + "; ".join(found)


def split(total: int, held: int) -> tuple[list[int], list[int]]:
    """Some frames, evenly spaced and at most half of all, and the others."""
    count = max(1, min(held, total // 2))
    chosen = np.unique(np.linspace(0, total - 1, count).round().astype(int)).tolist()
    return chosen, [k for k in range(total) if k not in set(chosen)]


def to_markdown(title: str, columns: dict[str, QualityTable]) -> str:
    """The tables side by side; a row that a column does not have stays empty."""
    names = {row.name: row.unit for table in columns.values() for row in table}
    found = {
        column: {"score": table.score, **{row.name: row.value for row in table}}
        for column, table in columns.items()
    }
    lines = [[title, *columns], ["---"] * (1 + len(columns))]
    for name, unit in {"score": "", **names}.items():
        values = [format_value(c[name]) if name in c else "" for c in found.values()]
        lines.append([f"{name} ({unit})" if unit else name, *values])
    counts = ", ".join(
        f"{column} {table.n_generated} against {table.n_reference}"
        for column, table in columns.items()
    )
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{body}\n\nFrames: {counts}.\n"


if __name__ == "__main__":
    sys.exit(main())

"""What a critic is worth: models before and after it, raw, at several temperatures and ensembles.

    python benchmarks/adversarial.py before=A.safetensors after=C.safetensors -o DIR
    python benchmarks/adversarial.py before=A.safetensors after=C.safetensors -o DIR \\
        --candidates 32 --frames 1 --seeds 0 --temperatures 568 --minutes 20
    python benchmarks/adversarial.py before=A.safetensors after=C.safetensors -o DIR --table

Every structure (model, temperature, candidates, seed, frame) is a file in DIR, so that the same
command goes on where it was stopped, and several commands add to one table. The order is frame by
frame: whenever it is stopped, all models have the same frames. The first line says how much there
is to do; after each structure comes what is left. ``--minutes`` begins nothing that would end
later.

Raw: no relaxation, the lowest energy of the candidates. The score of a seed is that of all its
frames together; the table gives mean and standard deviation over seeds, beside the reference's own
frames (against its others) and the paper's structures of the same frames.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quality import data_folder, read_beads

from deepbackmap.api.hands import handedness_of
from deepbackmap.api.models import find_model, model_hash
from deepbackmap.evaluation import Beads, Measurements, Plan, QualityTable, measure, tabulate
from deepbackmap.io.atomic import new_file
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile
from deepbackmap.methods.base import Sampler, open_sampler
from deepbackmap.methods.voxel.options import VoxelSamplingOptions
from deepbackmap.model.file import load_model
from deepbackmap.system import Structure

SPREAD = 12
"""Frames are taken as if there were so many of them, evenly over the test file."""
ROWS = {
    "score": "score",
    "LJ": "LJ per chain",
    "LJ median (sd)": "LJ per chain, shift of the median",
    "E angle": "angle energy, ratio",
    "E improper": "improper energy, ratio",
    "inverted": "inverted stereocentres",
    "< 0.6 sigma": "pairs closer than 0.6 sigma",
}
"""Columns of the table, by the names of ``evaluation.tabulate``."""


@dataclass(frozen=True)
class Unit:
    """One structure to make."""

    model: str
    temperature: int
    candidates: int
    seed: int
    place: int
    """Of the frame among those that are taken, from 0."""

    def path(self, folder: Path) -> Path:
        """Where it is kept."""
        cell = f"{self.model}/{self.temperature}K-c{self.candidates}-s{self.seed}"
        return folder / cell / f"{self.place}.npz"


@dataclass(frozen=True)
class Cell:
    """What is compared: one row of the table before seeds are put together."""

    model: str
    temperature: int
    candidates: int


def units(
    models: Sequence[str],
    temperatures: Sequence[int],
    candidates: Sequence[int],
    seeds: Sequence[int],
    frames: int,
) -> Iterator[Unit]:
    """All structures, in an order that keeps the models even."""
    for place, seed, many, temperature, model in itertools.product(
        range(frames), seeds, candidates, temperatures, models
    ):
        yield Unit(model, temperature, many, seed, place)


def frame_number(place: int, total: int) -> int:
    """Which frame of a file the ``place``-th is."""
    return place * max(1, total // SPREAD)


class Task:
    """Reference data and models, read once."""

    def __init__(self, models: Mapping[str, Path], sweeps: int, device: str = "cpu") -> None:
        self.folder, self.sweeps, self.device = data_folder(None), sweeps, device
        self.topology = read_topology(self.folder / "topol.top")
        self.plan = Plan.from_topology(self.topology)
        self.models = {name: load_model(path) for name, path in models.items()}
        text = next(iter(self.models.values())).spec.mapping
        self.mapping = MappingFile.from_text(text).resolve(self.topology)
        self._samplers: dict[tuple[str, int, int], Sampler] = {}
        self._beads: dict[int, list[Structure]] = {}
        self._references: dict[int, Measurements] = {}

    def beads(self, temperature: int) -> list[Structure]:
        """Beads of all test frames."""
        if temperature not in self._beads:
            self._beads[temperature] = read_beads(self.folder, temperature, self.mapping, ":")
        return self._beads[temperature]

    def reference(self, temperature: int) -> Measurements:
        """The reference's frames, measured."""
        if temperature not in self._references:
            with self.atoms(temperature, "aa", ":") as source:
                self._references[temperature] = measure(self.plan, list(source))
        return self._references[temperature]

    def atoms(self, temperature: int, kind: str, frames: str):  # type: ignore[no-untyped-def]
        """Published atoms."""
        path = self.folder / f"test_{temperature}K_{kind}.xtc"
        return read_frames(self.folder / "aa.gro", path, frames=frames)

    def make(self, unit: Unit) -> Structure:
        """Places one structure, raw."""
        key = (unit.model, unit.candidates, unit.seed)
        if key not in self._samplers:
            model = self.models[unit.model]
            options = VoxelSamplingOptions(
                sweeps=self.sweeps, candidates=unit.candidates, choice="lowest", seed=unit.seed
            )
            hands = handedness_of(self.mapping, model.spec.handedness)
            self._samplers[key] = open_sampler(model, self.mapping, options, self.device, hands)
        beads = self.beads(unit.temperature)
        number = frame_number(unit.place, len(beads))
        return self._samplers[key].sample(beads[number], frame=number)

    def judged(self, temperature: int, places: Sequence[int], found: list[Structure]) -> Figures:
        """The figures of some frames together."""
        beads = self.beads(temperature)
        given = [beads[frame_number(p, len(beads))] for p in places]
        generated = measure(self.plan, found, beads=Beads(given, self.mapping))
        return figures(tabulate(self.plan, self.reference(temperature), generated))

    def published(self, temperature: int, places: Sequence[int]) -> tuple[Figures, Figures]:
        """The reference's own frames against its others, and the paper's structures."""
        total = len(self.beads(temperature))
        chosen = [frame_number(p, total) for p in places]
        rest = [k for k in range(total) if k not in chosen]
        reference = self.reference(temperature)
        own = tabulate(self.plan, reference.select(rest), reference.select(chosen))
        with self.atoms(temperature, "paper_deepbackmap", ":") as source:
            paper = self.judged(temperature, places, [source[k] for k in chosen])
        return figures(own), paper


Figures = Mapping[str, float]
"""Values of the table's columns."""


def figures(table: QualityTable) -> Figures:
    """The columns of the table that are there."""
    values = {row.name: row.value for row in table} | {"score": table.score}
    return {short: values[name] for short, name in ROWS.items() if name in values}


def run(task: Task, wanted: Sequence[Unit], folder: Path, minutes: float) -> None:
    """Makes what is not there yet, while there is time."""
    left = [u for u in wanted if not u.path(folder).exists()]
    print(f"{len(wanted)} structures, {len(wanted) - len(left)} there already", flush=True)
    began, cost = time.perf_counter(), 0.0
    for done, unit in enumerate(left):
        passed = time.perf_counter() - began
        if passed + cost * unit.candidates > 60.0 * minutes:
            print(f"stopped before its time is over: {len(left) - done} are left", flush=True)
            return
        start = time.perf_counter()
        made = task.make(unit)
        seconds = time.perf_counter() - start
        path = unit.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path) as part, part.open("wb") as handle:
            positions = made.positions.astype(np.float32)
            np.savez_compressed(handle, positions=positions, box=made.box, seconds=seconds)
        # Nearly all of the time is the network's, once for each candidate.
        cost = max(cost, seconds / unit.candidates)
        rest = sum(u.candidates for u in left[done + 1 :]) * cost / 60.0
        print(f"{path.relative_to(folder)}: {seconds:.0f} s; {rest:.0f} min are left", flush=True)


def read(folder: Path, cell: Cell) -> dict[int, dict[int, Structure]]:
    """Structures of a cell that are there, by seed and place."""
    found: dict[int, dict[int, Structure]] = {}
    pattern = f"{cell.temperature}K-c{cell.candidates}-s*"
    for seed_folder in sorted((folder / cell.model).glob(pattern)):
        for path in sorted(seed_folder.glob("*.npz"), key=lambda p: int(p.stem)):
            with np.load(path) as kept:
                structure = Structure(kept["positions"].astype(np.float64), kept["box"], 0.0)
            seed = int(seed_folder.name.rsplit("-s", 1)[1])
            found.setdefault(seed, {})[int(path.stem)] = structure
    return found


def common(cells: Sequence[Mapping[int, Mapping[int, Structure]]]) -> tuple[list[int], list[int]]:
    """The seeds that all models have, and the frames that all of these have."""
    seeds = sorted(set.intersection(*(set(c) for c in cells)))
    places = [set(c[s]) for c in cells for s in seeds]
    return seeds, sorted(set.intersection(*places)) if places else []


def table(task: Task, folder: Path, models: Sequence[str]) -> list[list[str]]:
    """Rows of what is there, model beside model on the same seeds and frames."""
    names = {p.name.rsplit("-s", 1)[0] for m in models for p in (folder / m).glob("*K-c*-s*")}
    cases = [tuple(int(v.rstrip("K")) for v in n.split("-c")) for n in names]
    rows: list[list[str]] = []
    for temperature, many in sorted(cases, key=lambda c: (-c[0], c[1])):
        found = {m: read(folder, Cell(m, temperature, many)) for m in models}
        seeds, places = common(list(found.values()))
        if not places:
            continue
        head = [f"{temperature}", f"{many}", f"{len(places)}"]
        by_model = {
            m: [
                task.judged(temperature, places, [found[m][s][p] for p in places]) for s in seeds
            ]
            for m in models
        }  # fmt: skip
        rows += [[*head, m, f"{len(seeds)}", *cells(v)] for m, v in by_model.items()]
        if len(models) == 2 and len(seeds) > 1:
            rows.append(
                [*head, "difference / noise", f"{len(seeds)}", *contrast(*by_model.values())]
            )
        own, paper = task.published(temperature, places)
        rows.append([*head, "reference's own", "", *cells([own])])
        rows.append([*head, "the paper's", "", *cells([paper])])
    return rows


def cells(seeds: Sequence[Figures]) -> list[str]:
    """Mean and standard deviation over seeds of every column."""
    out = []
    for name in ROWS:
        values = [f[name] for f in seeds if name in f]
        if not values:
            out.append("")
        elif len(values) == 1:
            out.append(f"{values[0]:.4g}")
        else:
            out.append(f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g}")
    return out


def contrast(before: Sequence[Figures], after: Sequence[Figures]) -> list[str]:
    """Second minus first, in standard deviations of that difference's noise between seeds."""
    out = []
    for name in ROWS:
        a, b = ([f[name] for f in side if name in f] for side in (before, after))
        noise = (
            (statistics.variance(a) + statistics.variance(b)) ** 0.5
            if min(len(a), len(b)) > 1
            else 0.0
        )
        out.append(f"{(statistics.mean(b) - statistics.mean(a)) / noise:+.1f}" if noise else "")
    return out


def check_models(folder: Path, models: Mapping[str, Path], sweeps: int) -> None:
    """Structures of a name are of one model and number of sweeps: others are refused."""
    for name, path in models.items():
        made = f"{model_hash(path)} {sweeps} sweeps"
        known = folder / name / "made_by.txt"
        known.parent.mkdir(parents=True, exist_ok=True)
        if known.exists() and known.read_text() != made:
            raise SystemExit(f"{folder / name}: expected structures of {made}, found others")
        known.write_text(made)


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between."""
    return [int(v) for v in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL", help="the first is before")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of structures")
    parser.add_argument("--temperatures", type=numbers, default=[568, 453, 313])
    parser.add_argument("--candidates", type=numbers, default=[1, 8, 32])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--frames", type=int, default=SPREAD)
    parser.add_argument("--sweeps", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--table", action="store_true", help="print only what is there")
    options = parser.parse_args(arguments)
    models = {k: find_model(v) for k, v in (m.split("=", 1) for m in options.models)}
    check_models(options.output, models, options.sweeps)
    task = Task(models, options.sweeps, options.device)
    if not options.table:
        asked = units(
            list(models), options.temperatures, options.candidates, options.seeds, options.frames
        )
        run(task, list(asked), options.output, options.minutes)
    print("| " + " | ".join(["T / K", "candidates", "frames", "model", "seeds", *ROWS]) + " |")
    print("|" + "---|" * (5 + len(ROWS)))
    for row in table(task, options.output, list(models)):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()

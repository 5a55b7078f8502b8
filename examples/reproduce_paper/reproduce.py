"""The figures of the paper's evaluation (Figs. 5, 6, S3 to S5 and S7) with their tables.

    python examples/reproduce_paper/reproduce.py -o reproduced
    python examples/reproduce_paper/reproduce.py -o trial --frames 2 --adversarial-frames 1 \\
        --candidates 1 --reference-frames 0:6 --time 2

From the published structures, from those of our default model, and from those of our model trained
against a critic, raw. The folder gets fig5 (panels a to j, 568 and 313 K side by side), figS3-S5
(the same at 453 K), fig6 (one map for both temperatures of Fig. 5), figS7 and sentences (what the
paper says, and our figures), each as a picture or text and as a table; in a folder for each
temperature lies what they were drawn from. A step whose result is there and was made from the same
inputs with the same options is not done again, so that an interrupted run goes on where it stopped.

The data (folder ``sps`` inside the folder that --data or DEEPBACKMAP_DATA names, else
``../shared/data`` beside the repository) come with ``deepbackmap data fetch``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import panels
import sentences
from panels import ADVERSARIAL, BASELINE, OURS, PAPER, REFERENCE

import deepbackmap
from deepbackmap.api import backmap, evaluate, md
from deepbackmap.api.backmap import sampling_options
from deepbackmap.api.hands import handedness_of
from deepbackmap.api.models import find_model
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.molecules import NonbondedSums, pair_batches
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import MappingFile
from deepbackmap.methods.base import open_sampler
from deepbackmap.model.file import load_model
from deepbackmap.similarity.options import MapOptions
from deepbackmap.similarity.structure_map import map_structures
from deepbackmap.system import Structure

MAIN = (568, 313)
"""K: the temperatures of Fig. 5; those of others stand in the supplement."""
MAP_FRAMES, MAP_CHAINS = 12, 60
"""Of each sample at each temperature, on the one map of Fig. 6."""
MINIMISE = 500
"""Steps, with stiff bonds, of a start of Fig. S7 that cannot be run as it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing; 2 means that an input is wrong, 130 that it was interrupted."""
    options = parse(arguments)
    try:
        folder = data_folder(options.data)
        found = {t: gather(folder, t, options) for t in options.temperatures}
        draw(found, options)
        runs = dynamics(folder, found, options)
        metrics = {t: made.metrics() for t, made in found.items()}
        table = [*sentences.rows(metrics), *sentences.md_rows(options.md_temperature, runs)]
        sentences.write(options.output, table)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print((options.output / "sentences.md").read_text(encoding="utf-8"))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("-o", "--output", type=Path, default=Path("reproduced"), help="folder")
    add("--temperatures", type=int, nargs="+", default=[568, 313, 453], help="K")
    add("--frames", type=int, help="generated frames; all by default")
    add("--reference-frames", help="which of the reference, A:B:C; all by default")
    add("--model", default="default", help="model that makes our structures")
    add("--adversarial", default="ps-two-bead-adversarial", help="voxel model; none leaves it out")
    add("--adversarial-frames", type=int, default=6, help="of each temperature (default 6)")
    add("--candidates", type=int, help="of its ensemble; the model's own by default")
    add("--seed", type=int, default=0, help="of everything")
    add("--time", type=float, default=100.0, help="of Fig. S7, ps (default 100)")
    add("--md-temperature", type=int, default=313, help="of Fig. S7, K (default 313)")
    add("--data", type=Path, help="folder that holds sps")
    options = parser.parse_args(arguments)
    if options.md_temperature not in options.temperatures:
        options.md_temperature = options.temperatures[-1]
    return options


def data_folder(given: Path | None) -> Path:
    """The folder of the reference data."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = (given or Path(os.environ.get("DEEPBACKMAP_DATA", beside))) / "sps"
    if not (folder / "topol.top").is_file():
        raise InputError(f"{folder}: expected the reference data (see --help), found no topol.top")
    return folder


@dataclass(frozen=True)
class Step:
    """One result that is made once."""

    result: Path
    """File or folder."""
    options: Mapping[str, Any]
    inputs: tuple[Path, ...]

    def run(self, make: Callable[[], object]) -> Path:
        """Makes the result, if it is not there as these inputs and options make it."""
        record, key = self.result.with_name(f"{self.result.name}.key"), self._key()
        name = f"{self.result.parent.name}/{self.result.name}"
        if self.result.exists() and record.is_file() and record.read_text() == key:
            print(f"{name}: there already")
            return self.result
        print(f"{name}: making", flush=True)
        record.unlink(missing_ok=True)
        make()
        record.write_text(key)
        return self.result

    def _key(self) -> str:
        """A digest of options, program and inputs (a step's result stands for its own key)."""
        content = {"options": dict(self.options), "program": deepbackmap.__version__}
        for path in self.inputs:
            made = path.with_name(f"{path.name}.key")
            content[path.name] = (
                made.read_text() if made.is_file() else [path.stat().st_size, _digest(path)]
            )
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@dataclass(frozen=True)
class Made:
    """What there is of one temperature."""

    reference: Path
    methods: Mapping[str, Path]
    """Trajectories by name."""
    evaluation: Path
    energies: Path

    def metrics(self) -> dict[str, Any]:
        """All figures."""
        text = (self.evaluation / "metrics.json").read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text)
        return content

    def shown(self) -> panels.Shown:
        """What the panels are drawn from."""
        with np.load(self.energies) as kept:
            return panels.Shown(self.metrics(), dict(kept))


def gather(folder: Path, temperature: int, options: argparse.Namespace) -> Made:
    """Our structures at one temperature, and all figures."""
    output = options.output / f"{temperature}K"
    output.mkdir(parents=True, exist_ok=True)
    reference = folder / f"test_{temperature}K_aa.xtc"
    if not reference.is_file():
        raise InputError(f"{reference}: expected the reference at {temperature} K, found none")
    methods = {
        PAPER: folder / f"test_{temperature}K_paper_deepbackmap.xtc",
        BASELINE: folder / f"test_{temperature}K_paper_baseline.xtc",
        OURS: ours(folder, output, temperature, options),
    }
    if options.adversarial != "none":
        methods[ADVERSARIAL] = raw(folder, output, temperature, options)
    given = {"reference_frames": options.reference_frames, "frames": chosen(options.frames)}
    evaluation = Step(
        output / "evaluation", {**given, "seed": options.seed, "methods": list(methods)},
        (reference, *methods.values(), folder / "topol.top"),
    ).run(
        lambda: evaluate(
            reference, methods, structure=folder / "aa.gro", topology=folder / "topol.top",
            output=output / "evaluation", beads=folder / f"test_{temperature}K_cg.xtc",
            mapping="ps-two-bead", temperature=float(temperature), seed=options.seed,
            progress=sys.stderr.isatty(), force=True, **given,
        )
    )  # fmt: skip
    energies = Step(output / "lj.npz", given, (reference, *methods.values())).run(
        lambda: chain_energies(folder, reference, methods, options, output / "lj.npz")
    )
    made = Made(reference, methods, evaluation, energies)
    write_table(output / "table.csv", made.metrics())
    return made


def chosen(count: int | None) -> str | None:
    """So many frames from the first on; None: all."""
    return None if count is None else f"0:{count}"


def ours(folder: Path, output: Path, temperature: int, options: argparse.Namespace) -> Path:
    """The default model's structures."""
    beads, top = folder / f"test_{temperature}K_cg.xtc", folder / "topol.top"
    asked: dict[str, Any] = {"frames": chosen(options.frames), "seed": options.seed}
    return Step(
        output / "ours.xtc", {**asked, "model": options.model, "T": temperature}, (beads, top)
    ).run(
        lambda: backmap(
            folder / "cg.gro", beads, topology=top, output=output / "ours.xtc",
            model=options.model, temperature=float(temperature),
            progress=sys.stderr.isatty(), force=True, **asked,
        )
    )  # fmt: skip


def raw(folder: Path, output: Path, temperature: int, options: argparse.Namespace) -> Path:
    """The voxel model's structures as it draws them: nothing relaxed, refused or drawn anew."""
    beads, path = folder / f"test_{temperature}K_cg.xtc", find_model(options.adversarial)
    count = min(n for n in (options.adversarial_frames, options.frames) if n is not None)
    asked = {"candidates": options.candidates, "seed": options.seed}

    def make() -> None:
        model, topology = load_model(path), read_topology(folder / "topol.top")
        mapping = MappingFile.from_text(model.spec.mapping).resolve(topology)
        sampling = sampling_options(model.spec, path.stem, {**asked, "block_relaxation": 0})
        hands = handedness_of(mapping, model.spec.handedness)
        sampler = open_sampler(model, mapping, sampling, "cpu", hands)
        with (
            read_frames(folder / "cg.gro", beads, frames=chosen(count)) as source,
            open_writer(output / "adversarial.xtc", atom_table(topology), force=True) as writer,
        ):
            for number, frame in zip(source.frames.tolist(), source, strict=True):
                writer.write(sampler.sample(frame, frame=number))

    inputs = (beads, path, folder / "topol.top")
    return Step(output / "adversarial.xtc", {**asked, "frames": count}, inputs).run(make)


def chain_energies(
    folder: Path,
    reference: Path,
    methods: Mapping[str, Path],
    options: argparse.Namespace,
    output: Path,
) -> None:
    """Lennard-Jones energy of every chain of every sample, kJ/mol, as ``evaluate`` defines it."""
    field = ForceField.from_topology(read_topology(folder / "topol.top"))

    def of(frame: Structure) -> np.ndarray:
        sums = NonbondedSums(field)
        for batch in pair_batches(field, frame):
            sums.add(batch)
        found = sums.result()
        return found["lj intra"] + found["lj inter"]

    kept = {}
    for name, path in {REFERENCE: reference, **methods}.items():
        frames = options.reference_frames if name == REFERENCE else chosen(options.frames)
        with read_frames(folder / "aa.gro", path, frames=frames) as source:
            kept[name] = np.array([of(frame) for frame in source])
    np.savez(output, **kept)


def draw(found: Mapping[int, Made], options: argparse.Namespace) -> None:
    """The sheets of Figs. 5 and S3 to S5, and the map of Fig. 6."""
    for stem, wanted in (
        ("fig5", [t for t in found if t in MAIN]),
        ("figS3-S5", [t for t in found if t not in MAIN]),
    ):
        if wanted:
            panels.sheet(options.output, stem, {t: found[t].shown() for t in wanted})
    path = options.output / "fig6.json"
    wanted = [t for t in found if t in MAIN] or list(found)
    samples = {
        (name, t): trajectory
        for t in wanted
        for name, trajectory in {REFERENCE: found[t].reference, **found[t].methods}.items()
    }
    folder = data_folder(options.data)
    names = [list(key) for key in samples]
    asked = {"samples": names, "seed": options.seed, "frames": options.frames}
    Step(path, asked, tuple(samples.values())).run(
        lambda: path.write_text(json.dumps(one_map(folder, samples, options)), encoding="utf-8")
    )
    panels.structure_map(options.output, json.loads(path.read_text(encoding="utf-8")))


def one_map(
    folder: Path, samples: Mapping[tuple[str, int], Path], options: argparse.Namespace
) -> dict[str, Any]:
    """All samples at all temperatures on one map."""

    def spread(path: Path) -> Iterator[tuple[int, Structure]]:
        with read_frames(folder / "aa.gro", path, frames=chosen(options.frames)) as source:
            count = min(len(source), MAP_FRAMES)
            for k in np.unique(np.linspace(0, len(source) - 1, count).round().astype(int)):
                yield int(k), source[int(k)]

    # the map wants the first sample to be called so, and names that differ
    names = [f"{name} {t}" for name, t in samples]
    names[0] = REFERENCE
    drawn = {n: list(spread(p)) for n, p in zip(names, samples.values(), strict=True)}
    made = map_structures(
        read_topology(folder / "topol.top"), drawn,
        MapOptions(structures=MAP_CHAINS, seed=options.seed),
    )  # fmt: skip
    return {
        "samples": [name for name, _ in samples],
        "temperatures": [t for _, t in samples],
        "sample": made.sample.tolist(),
        "frame": made.frame.tolist(),
        "molecule": made.molecule.tolist(),
        "points": made.points.tolist(),
    }


def dynamics(
    folder: Path, found: Mapping[int, Made], options: argparse.Namespace
) -> dict[str, Path]:
    """The runs of Fig. S7, one folder a start so that each is made once, and the figure."""
    temperature = options.md_temperature
    made, output = found[temperature], options.output / f"{temperature}K"
    runs: dict[str, Path] = {}
    failed: list[str] = []
    for name, path in {REFERENCE: made.reference, **made.methods}.items():
        target = output / f"md-{name.replace(' ', '-')}"

        def make(name: str = name, path: Path = path, target: Path = target) -> None:
            start(folder, name, path, made.reference, target, options)

        asked = {"time": options.time, "seed": options.seed}
        try:
            runs[name] = Step(target, asked, (path, made.reference)).run(make)
        except InputError as error:
            print(f"figS7: {name}: could not be run: {error}", flush=True)
            failed.append(name)
    panels.molecular_dynamics(options.output, temperature, runs, failed)
    return runs


def start(
    folder: Path,
    name: str,
    path: Path,
    reference: Path,
    target: Path,
    options: argparse.Namespace,
) -> None:
    """One run of Fig. S7; a start that cannot be run as it is is minimised before, which md.json
    counts and the figure says."""
    for steps in (0, MINIMISE):
        try:
            md(
                {name: path}, topology=folder / "topol.top", structure=folder / "aa.gro",
                temperature=float(options.md_temperature), output=target, reference=reference,
                reference_frames=options.reference_frames, time=options.time, seed=options.seed,
                minimise=steps, progress=sys.stderr.isatty(), force=True,
            )  # fmt: skip
            return
        except InputError as error:
            print(f"figS7: {name}: after {steps} steps of minimisation: {error}", flush=True)
            if steps:
                raise


def write_table(path: Path, metrics: Mapping[str, Any]) -> None:
    """The table of all figures: floor, then every method."""
    names = [m["name"] for m in metrics["methods"]]
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["figure", "unit", "floor", *names])
        scores = [m["score"]["value"] for m in metrics["methods"]]
        table.writerow(["score", "", metrics["score_floor"], *scores])
        for row in metrics["figures"]:
            values = [row["methods"][n]["value"] if n in row["methods"] else None for n in names]
            table.writerow([row["name"], row["unit"], row["floor"], *values])


if __name__ == "__main__":
    sys.exit(main())

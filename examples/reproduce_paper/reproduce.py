"""The figures of the paper's evaluation (Figs. 5, 6 and S7) with their tables.

    python examples/reproduce_paper/reproduce.py -o reproduced
    python examples/reproduce_paper/reproduce.py -o reproduced --temperatures 568 --frames 12

From the published structures and from ours, at every temperature asked for. For each of them the
folder gets fig5.png, fig5.csv, table.csv, fig6.png, fig6.csv, figS7.png, figS7.csv, and beside
them what they were drawn from: our structures, the evaluation with its report.html, and the runs of
molecular dynamics. A step whose result is there and was made from the same inputs with the same
options is not done again, so that an interrupted run goes on where it stopped.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import deepbackmap
from deepbackmap.api import backmap, evaluate, finish, md
from deepbackmap.errors import InputError

PAPER, BASELINE, OURS, FINISHED = "paper", "paper baseline", "ours", "ours finished"
COLOURS = {PAPER: "#0072B2", BASELINE: "#E69F00", OURS: "#009E73", FINISHED: "#CC79A7"}
"""Of Okabe and Ito, told apart by everybody."""
MARKERS = {PAPER: "s", BASELINE: "^", OURS: "o", FINISHED: "D"}
PANELS = (
    ("angle C-C-C", "backbone angle C-C-C / degrees"),
    ("dihedral C-C-C-C", "backbone dihedral C-C-C-C / degrees"),
    ("impropers", "improper dihedrals / degrees"),
    ("LJ per chain", "Lennard-Jones energy of a chain / kJ mol$^{-1}$"),
)
"""Distributions of Fig. 5 by their names in metrics.json, and what their axes say."""
RDF = "g(r), mean absolute error"
"""Of all carbons: Fig. 5 i and j."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing; 2 means that an input is wrong, 130 that it was interrupted."""
    options = parse(arguments)
    try:
        folder = data_folder(options.data)
        for temperature in options.temperatures:
            one_temperature(folder, temperature, options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("reproduced"), help="folder")
    parser.add_argument(
        "--temperatures", type=int, nargs="+", default=[568, 313], help="K (default 568 313)"
    )
    parser.add_argument("--frames", type=int, help="generated frames; all by default")
    parser.add_argument("--reference-frames", help="which of the reference, A:B:C; all by default")
    parser.add_argument("--model", default="default", help="model that makes our structures")
    parser.add_argument("--seed", type=int, default=0, help="of everything")
    parser.add_argument("--steps", type=int, default=100, help="of finishing (default 100)")
    parser.add_argument("--time", type=float, default=50.0, help="of Fig. S7, ps (default 50)")
    parser.add_argument("--data", type=Path, help="folder that holds sps")
    return parser.parse_args(arguments)


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


def one_temperature(folder: Path, temperature: int, options: argparse.Namespace) -> None:
    """Everything of one temperature."""
    output = options.output / f"{temperature}K"
    output.mkdir(parents=True, exist_ok=True)
    top, names = folder / "topol.top", folder / "aa.gro"
    prefix = f"test_{temperature}K"
    reference, beads = folder / f"{prefix}_aa.xtc", folder / f"{prefix}_cg.xtc"
    if not reference.is_file():
        raise InputError(f"{reference}: expected the reference at {temperature} K, found none")
    frames = None if options.frames is None else f"0:{options.frames}"
    common: dict[str, Any] = {"frames": frames, "seed": options.seed}
    shown = {"progress": sys.stderr.isatty(), "force": True}
    ours = Step(
        output / "ours.xtc", {**common, "model": options.model, "T": temperature}, (beads, top)
    ).run(
        lambda: backmap(
            folder / "cg.gro", beads, topology=top, output=output / "ours.xtc",
            model=options.model, temperature=float(temperature), **common, **shown,
        )
    )  # fmt: skip
    finished = Step(
        output / "ours_finished.xtc", {"steps": options.steps, "seed": options.seed}, (ours, top)
    ).run(
        lambda: finish(
            names, ours, topology=top, output=output / "ours_finished.xtc",
            temperature=float(temperature), steps=options.steps, seed=options.seed, **shown,
        )
    )  # fmt: skip
    methods = {
        PAPER: folder / f"{prefix}_paper_deepbackmap.xtc",
        BASELINE: folder / f"{prefix}_paper_baseline.xtc",
        OURS: ours,
        FINISHED: finished,
    }
    evaluation = Step(
        output / "evaluation",
        {**common, "reference_frames": options.reference_frames, "methods": list(methods)},
        (reference, beads, *methods.values(), top),
    ).run(
        lambda: evaluate(
            reference, methods, structure=names, topology=top, output=output / "evaluation",
            beads=beads, mapping="ps-two-bead", temperature=float(temperature),
            reference_frames=options.reference_frames, **common, **shown,
        )
    )  # fmt: skip
    metrics = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))
    write_table(output / "table.csv", metrics)
    figure_5(output, temperature, metrics)
    figure_6(output, temperature, metrics)
    runs = Step(
        output / "md", {"time": options.time, "seed": options.seed, "starts": list(methods)},
        (reference, *methods.values(), top),
    ).run(
        lambda: md(
            {"molecular dynamics": reference, **methods}, topology=top, structure=names,
            temperature=float(temperature), output=output / "md", reference=reference,
            time=options.time, seed=options.seed, **shown,
        )
    )  # fmt: skip
    figure_s7(output, temperature, runs)


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


def figure_5(output: Path, temperature: int, metrics: Mapping[str, Any]) -> None:
    """Distributions, Lennard-Jones energies of chains, and g(r)."""
    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    rows: list[list[object]] = []
    by_name = {d["name"]: d for d in metrics["distributions"]}
    for place, (name, label) in zip(axes, PANELS, strict=False):
        found = by_name[name]
        edges = np.array(found["edges"])
        middles = 0.5 * (edges[1:] + edges[:-1])
        lines = {"reference": found["reference"], **found["methods"]}
        _draw(place, middles, lines, found["band"])
        # where there is something to see; the bins reach much farther than that
        seen = np.flatnonzero(np.max([np.array(v) for v in lines.values()], axis=0) > 0)
        place.set_xlim(edges[seen[0]], edges[seen[-1] + 1])
        place.set_xlabel(label)
        place.set_yticks([])
        rows += _points(name, middles, lines)
    curve = next(c for c in metrics["curves"] if c["name"] == RDF)
    lines = {"reference": curve["reference"], **curve["methods"]}
    _draw(axes[4], np.array(curve["r"]), lines, curve["band"])
    axes[4].set_xlabel("r / nm")
    axes[4].set_ylabel("g(r) of carbons")
    rows += _points(RDF, np.array(curve["r"]), lines)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[5].axis("off")
    axes[5].legend(handles, labels, loc="center", frameon=False)
    figure.suptitle(f"Fig. 5 at {temperature} K")
    figure.savefig(output / "fig5.png", dpi=160)
    _write_csv(output / "fig5.csv", ["quantity", "sample", "x", "y"], rows)


def _points(name: str, x: np.ndarray, lines: Mapping[str, Sequence[float]]) -> list[list[object]]:
    """Rows of fig5.csv."""
    return [[name, line, a, b] for line, y in lines.items() for a, b in zip(x, y, strict=True)]


def _draw(
    axes: Axes, x: np.ndarray, lines: Mapping[str, Sequence[float]], band: Sequence[Any]
) -> None:
    low, high = (np.array([np.nan if v is None else v for v in edge]) for edge in band)
    axes.fill_between(x, low, high, color="0.85", label="halves of the reference")
    for name, y in lines.items():
        style: dict[str, Any] = {"color": COLOURS.get(name, "black")}
        style["linewidth"] = 1.6 if name == "reference" else 1.1
        axes.plot(x, y, label=name, **style)


def figure_6(output: Path, temperature: int, metrics: Mapping[str, Any]) -> None:
    """The structure map."""
    found = metrics["structure_map"]
    if found is None:
        print(f"{output.name}/fig6: no structure map: {'; '.join(metrics['notes'])}")
        return
    points, sample = np.array(found["points"]), np.array(found["sample"])
    figure = Figure(figsize=(7.0, 6.2), layout="constrained")
    axes = figure.add_subplot()
    for k, name in enumerate(found["samples"]):
        overlap = found["overlap"].get(name)
        label = name if overlap is None else (
            f"{name}: MMD² {overlap['mmd2']:.1e}, p = {overlap['p_value']:.3f}"
        )  # fmt: skip
        axes.scatter(
            *points[sample == k].T, s=14, label=label, alpha=0.7, linewidths=0,
            color=COLOURS.get(name, "black"), marker=MARKERS.get(name, "o"),
        )  # fmt: skip
    axes.set_xlabel("sketch-map 1")
    axes.set_ylabel("sketch-map 2")
    axes.set_title(f"Fig. 6 at {temperature} K: one point a chain", fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    figure.savefig(output / "fig6.png", dpi=160)
    names, frames, molecules = found["samples"], found["frame"], found["molecule"]
    rows = [
        [names[s], f, m, x, y]
        for s, f, m, (x, y) in zip(sample, frames, molecules, points, strict=True)
    ]
    _write_csv(output / "fig6.csv", ["sample", "frame", "molecule", "x", "y"], rows)


def figure_s7(output: Path, temperature: int, runs: Path) -> None:
    """Potential energy against time, picosecond by picosecond."""
    summary = json.loads((runs / "md.json").read_text(encoding="utf-8"))
    (output / "figS7.csv").write_bytes((runs / "energy.csv").read_bytes())
    (output / "figS7.png").write_bytes((runs / "energy.png").read_bytes())
    for run in summary["summary"]["runs"]:
        inside = run["inside_from"]
        where = "not at the end" if inside is None else f"from {inside} ps on"
        print(f"{output.name}/figS7: {run['name']}: in the band {where}")
    for name, why in summary["summary"]["failed"].items():
        print(f"{output.name}/figS7: {name}: could not be run: {why}")


def _write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(head)
        table.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())

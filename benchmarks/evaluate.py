"""Times `deepbackmap evaluate` on the published structures, or checks every published figure.

    python benchmarks/evaluate.py
    python benchmarks/evaluate.py --anchors FIGURES.md
    python benchmarks/evaluate.py --smoke

The reference data (folder ``sps`` inside the folder that --data or DEEPBACKMAP_DATA names, else
``../shared/data`` beside the repository) are the published structures. Timed are all frames of one
temperature against as many of one method; processor seconds are printed beside the clock's, since
other programs may share the cores. --anchors compares with a table of the figures that the paper's
structures are known to have (columns: row, then floor, paper and baseline at 568 K and at 313 K)
and prints every figure that agrees or not within 2 % or 0.001.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from quality import data_folder

from deepbackmap.api import evaluate
from deepbackmap.errors import InputError
from deepbackmap.evaluation import Evaluation

PUBLISHED = {"paper": "paper_deepbackmap", "baseline": "paper_baseline"}
RELATIVE, ABSOLUTE = 0.02, 0.001
"""Either is good enough, and so is half of the last decimal that is printed."""


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
    parser.add_argument("--data", type=Path, help="folder that holds sps")
    parser.add_argument("--temperature", type=int, default=568, help="in K, of the timed run")
    parser.add_argument("--workers", type=int, help="threads (default: all cores)")
    parser.add_argument("--no-map", action="store_true", help="leave out the structure map")
    parser.add_argument("--anchors", type=Path, help="Markdown table of known figures")
    parser.add_argument("--smoke", action="store_true", help="two frames, no structure map")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Times one evaluation, or compares both temperatures with the table."""
    folder = data_folder(options.data)
    frames = "0:2" if options.smoke else None
    if options.anchors is None:
        with_map = not (options.no_map or options.smoke)
        wall, cpu = time.perf_counter(), time.process_time()
        found = one(folder, options.temperature, ["paper"], frames, options.workers, with_map)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        count = found.n_reference + found.methods[0].n_frames
        how = "with" if with_map else "without"
        print(
            f"{count} frames of {found.n_atoms} atoms {how} structure map: "
            f"{wall:.1f} s, processor {cpu:.1f} s ({os.cpu_count()} cores, load "
            f"{os.getloadavg()[0]:.1f})"
        )
        return
    known = read_table(options.anchors)
    print("| row | K | | published | here | |\n|---|---|---|---|---|---|")
    for place, temperature in enumerate((568, 313)):
        found = one(folder, temperature, list(PUBLISHED), frames, options.workers, False)
        for name, cells in known.items():
            shown = cells[3 * place : 3 * place + 3]
            for column, cell in zip(("floor", *PUBLISHED), shown, strict=True):
                value = figure(found, name, column)
                if value is not None:
                    good = "" if column == "floor" else "ok" if agrees(value, cell) else "DIFFERS"
                    print(f"| {name} | {temperature} | {column} | {cell} | {value:.4f} | {good} |")


def one(
    folder: Path,
    temperature: int,
    methods: list[str],
    frames: str | None,
    workers: int | None,
    with_map: bool,
) -> Evaluation:
    """Evaluates published structures with their beads."""
    prefix = f"test_{temperature}K"
    with tempfile.TemporaryDirectory() as scratch:
        return evaluate(
            folder / f"{prefix}_aa.xtc",
            {name: folder / f"{prefix}_{PUBLISHED[name]}.xtc" for name in methods},
            structure=folder / "aa.gro",
            topology=folder / "topol.top",
            output=Path(scratch) / "out",
            beads=folder / f"{prefix}_cg.xtc",
            mapping="ps-two-bead",
            frames=frames,
            reference_frames=frames,
            temperature=float(temperature),
            workers=workers,
            structure_map=with_map,
            progress=False,
        )


def read_table(path: Path) -> dict[str, list[str]]:
    """Rows of six figures from a Markdown table, by name."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = [c.strip().replace("*", "") for c in line.strip().strip("|").split("|")]
        if len(cells) == 7 and re.match(r"[-+]?\d", cells[1]):
            rows[cells[0]] = cells[1:]
    if not rows:
        raise InputError(f"{path}: expected a table of seven columns, found none")
    return rows


def figure(found: Evaluation, name: str, column: str) -> float | None:
    """A figure of ours by the name that the table has for it; None where we have none."""
    if name == "score":
        return found.score_floor if column == "floor" else _method(found, column)
    patterns = (
        (r"^(angle|improper) energy, ratio.*$", r"\1 energy, ratio"),
        (r"^angle ([\w-]+).*$", r"angle \1"),
        (r"^dihedral ([\w-]+).*$", r"dihedral \1"),
        (r"^impropers.*$", "impropers"),
        (r"^LJ per chain( \(Fig.*)?$", "LJ per chain"),
        (r"^(.*shift of the (mean|median)).*$", r"\1"),
        (r"^g\(r\).*$", "g(r), mean absolute error"),
        (r"^smallest distance.*$", "smallest distance of a non-bonded pair"),
        (r"^bonds through.*$", "bonds through rings"),
        (r"^re-mapped beads.*$", "re-mapped beads, rms distance"),
    )
    ours = next((re.sub(p, r, name) for p, r in patterns if re.match(p, name)), name)
    for f in found.figures:
        if f.name == ours:
            if column != "floor":
                return f.methods[column].value
            return f.reference if f.floor != f.floor else f.floor
    return None


def _method(found: Evaluation, name: str) -> float:
    return next(m.score.value for m in found.methods if m.name == name)


def agrees(value: float, cell: str) -> bool:
    """Within 2 %, 0.001 or the last printed digit."""
    match = re.match(r"[-+]?\d+(?:\.(\d+))?", cell)
    if match is None:
        return False
    known = float(match[0])
    last = 0.51 * 10.0 ** -len(match[1]) if match[1] else 0.0
    return abs(value - known) <= max(RELATIVE * abs(known), ABSOLUTE, last)


if __name__ == "__main__":
    sys.exit(main())

"""Golden runs: every verb on small inputs, kept in a folder and compared with it later.

    python tools/golden.py record BEFORE              # at the old commit
    python tools/golden.py compare BEFORE AFTER       # at the new one; exit code 1 if they differ
    python tools/golden.py record BEFORE --smoke      # one frame of one model, no training

Runs call the command line in a process of its own, so that nothing of how the package is laid out
is known here; coordinates are read by MDAnalysis and weights by safetensors. Compared are the
coordinates of every structure (nm), the weights that training made, and every number of every JSON
file, except those that say how long something took or which file it was. The packaged melt is
always used; the reference data (DEEPBACKMAP_DATA, else ../shared/data) where they are.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import MDAnalysis
import numpy as np
from safetensors.numpy import load_file

TOLERANCE = 1e-6
"""nm of coordinates; of weights and of figures relative to their size where that is above one."""
ANGSTROM = 0.1
COORDINATES = (".trr", ".gro")
OF_THE_RUN = ("seconds", "atoms_per_second", "sha256", "version", "time", "provenance", "cores")
"""Keys that hold one of these words differ from run to run."""
VOXEL_TRAINING = ("tiny",)
POINT_TRAINING = (
    "points", 'data.dynamics=""', "points.radial=5", "network.width=16",
    "network.channels=2", "training.iterations=4", "training.batch=16",
    "training.log_every=1", "training.validate_every=2", "training.frames=2",
)  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Atoms and beads of one system."""

    name: str
    topology: Path
    atoms: tuple[Path, Path]
    """Structure and trajectory."""
    beads: tuple[Path, Path]


def systems() -> Iterator[Inputs]:
    """The packaged melt, and a frame of the reference data where these are."""
    melt = Path(str(resources.files("deepbackmap"))) / "packaged" / "melt"
    yield Inputs(
        "melt", melt / "topol.top", (melt / "aa.gro", melt / "aa.xtc"),
        (melt / "cg.gro", melt / "cg.xtc"),
    )  # fmt: skip
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    sps = Path(os.environ.get("DEEPBACKMAP_DATA", beside)) / "sps"
    if (sps / "topol.top").is_file():
        yield Inputs(
            "sps", sps / "topol.top", (sps / "aa.gro", sps / "test_568K_aa.xtc"),
            (sps / "cg.gro", sps / "test_568K_cg.xtc"),
        )  # fmt: skip


def model_names() -> list[str]:
    """The packaged models."""
    folder = Path(str(resources.files("deepbackmap"))) / "packaged" / "models"
    return sorted(p.stem for p in folder.glob("*.safetensors"))


def run(folder: Path, name: str, *arguments: object) -> None:
    """One command; what it says is kept beside what it made."""
    done = subprocess.run(
        [sys.executable, "-c", "from deepbackmap.cli.main import run; run()",
         *map(str, arguments)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENMM_CPU_THREADS": "1"},
    )  # fmt: skip
    (folder / f"{name}.said").write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")
    print(f"{name}: {done.returncode}", file=sys.stderr)


def record(folder: Path, *, smoke: bool) -> None:
    """Runs everything into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, system in enumerate(systems()):
        if smoke and number:
            return
        _one_system(folder, system, smoke)
    if not smoke:
        _others(folder)


def _one_system(folder: Path, system: Inputs, smoke: bool) -> None:
    """All verbs but training."""
    name, top = system.name, ("-p", system.topology)
    run(folder, f"{name}-map", "map", *system.atoms, *top, "--mapping", "ps-two-bead",
        "--frames", "0:2", "-o", folder / f"{name}-map.trr")  # fmt: skip
    one_bead, names = folder / f"{name}-one.trr", folder / f"{name}-one.gro"
    models = model_names()[-1:] if smoke else model_names()
    if any("one-bead" in model for model in models):
        _one_bead(folder, system, one_bead, names)
    for model in models:
        beads = (names, one_bead) if "one-bead" in model else system.beads
        run(folder, f"{name}-{model}", "backmap", *beads, *top, "--model", model, "--frames", "0:1",
            "--seed", 3, "-q", "-o", folder / f"{name}-{model}.trr")  # fmt: skip
    made = folder / f"{name}-ps-two-bead-points.trr"
    if smoke:
        return
    if name == "melt":
        _variants(folder, system)
    run(folder, f"{name}-finish", "finish", system.atoms[0], made, *top, "--temperature", 568,
        "--steps", 10, "--engine", "openmm-cpu", "--threads", 1, "-q",
        "-o", folder / f"{name}-finish.trr")  # fmt: skip
    for method in ("backward", "template"):
        run(folder, f"{name}-{method}", "baseline", *system.beads, *top, "--mapping", "ps-two-bead",
            "--method", method, *(_modifiers() if method == "backward" else ()), "--no-minimise",
            "--frames", "0:1", "-q", "-o", folder / f"{name}-{method}.trr")  # fmt: skip
    run(folder, f"{name}-evaluate", "evaluate", "--reference", system.atoms[1], "--generated",
        f"ours={made}", "-s", system.atoms[0], *top, "--reference-frames", "0:3",
        "--temperature", 568, "--workers", 1, "--no-map", "-q",
        "-o", folder / f"{name}-evaluate")  # fmt: skip


def _one_bead(folder: Path, system: Inputs, beads: Path, names: Path) -> None:
    """Beads for the models of one bead a monomer."""
    name, top = system.name, ("-p", system.topology)
    run(folder, f"{name}-map-one", "map", *system.atoms, *top, "--mapping", "ps-one-bead",
        "--frames", "0:1", "-o", beads)  # fmt: skip
    run(folder, f"{name}-map-one-gro", "map", *system.atoms, *top, "--mapping", "ps-one-bead",
        "--frames", "0:1", "-o", names)  # fmt: skip


def _modifiers() -> tuple[str, str]:
    presets = Path(str(resources.files("deepbackmap"))) / "presets"
    return "--modifiers", str(presets / "modifiers" / "polystyrene.modifiers")


def _variants(folder: Path, system: Inputs) -> None:
    """Options of both methods."""
    for tag, model, options in (
        ("cold", "ps-two-bead-points", ("--sweeps", 1, "--steps", 2, "--temperature", 400)),
        ("exact", "ps-two-bead-points", ("--relaxation", 0,)),
        ("chosen", "ps-two-bead-568K", ("--candidates", 3, "--choice", "boltzmann", "--sweeps", 1)),
    ):  # fmt: skip
        run(folder, f"melt-{tag}", "backmap", *system.beads, "-p", system.topology, "--model",
            model, "--frames", "1:2", "-q", *options, "-o", folder / f"melt-{tag}.trr")  # fmt: skip


def _others(folder: Path) -> None:
    """Training of both kinds, and a model that training made put to use; md, models, demo."""
    melt = next(systems())
    data = (
        f"data.topology={melt.topology}", "data.mapping=ps-two-bead",
        f"data.structure={melt.atoms[0]}", f"data.trajectory={melt.atoms[1]}",
        "data.train='0:2'", "data.validate='2:3'", "data.temperature=568",
    )  # fmt: skip
    for name, options in (("voxel", VOXEL_TRAINING), ("points", POINT_TRAINING)):
        run(folder, f"train-{name}", "train", *options, *data, "--device", "cpu", "-q",
            "--run", folder / f"train-{name}")  # fmt: skip
        run(folder, f"trained-{name}", "backmap", *melt.beads, "-p", melt.topology, "--model",
            folder / f"train-{name}" / "model.safetensors", "--frames", "0:1", "-q",
            "-o", folder / f"trained-{name}.trr")  # fmt: skip
    run(folder, "md", "md", "--start", f"atoms={melt.atoms[0]}", "-p", melt.topology,
        "--temperature", 568, "--time", 1, "--pressure", "none", "--engine", "openmm-cpu",
        "--threads", 1, "-q", "-o", folder / "md")  # fmt: skip
    run(folder, "models", "models")
    run(folder, "demo", "demo", "-q", "-o", folder / "demo")


def positions(path: Path) -> np.ndarray:
    """All frames of a file, nm."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if path.suffix == ".gro":
            return MDAnalysis.Universe(str(path)).atoms.positions[None] * ANGSTROM
        reader = MDAnalysis.coordinates.TRR.TRRReader(str(path))
        return np.stack([frame.positions.copy() for frame in reader]) * ANGSTROM


def numbers(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a JSON value with the path to it."""
    if any(word in where.rpartition("/")[2] for word in OF_THE_RUN):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{where}/{key}")
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from numbers(inner, f"{where}/{k}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield where, float(value)


def figures(path: Path) -> dict[str, float]:
    """The numbers of a .json or .jsonl file."""
    text = path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else None
    return dict(numbers(rows if rows is not None else json.loads(text)))


def difference(before: Path, after: Path) -> float:
    """The largest difference between two files of one kind; infinite where they do not match."""
    if before.suffix in COORDINATES:
        one, two = positions(before), positions(after)
        return float(np.abs(one - two).max()) if one.shape == two.shape else math.inf
    if before.suffix == ".safetensors":
        weights, others = load_file(before), load_file(after)
        if weights.keys() != others.keys():
            return math.inf
        return max(float(np.abs(w - others[k]).max()) for k, w in weights.items() if w.size)
    old, new = figures(before), figures(after)
    shared = old.keys() & new.keys()
    if missing := sorted(old.keys() - new.keys()):
        print(f"{after}: lacks {len(missing)} figures, the first is {missing[0]}")
    off = [abs(old[k] - new[k]) / max(1.0, abs(old[k])) for k in shared if old[k] != new[k]]
    return max((math.inf if math.isnan(x) else x for x in off), default=0.0)


def compare(before: Path, after: Path) -> bool:
    """Prints the largest difference of each file; whether all are within the tolerance."""
    kinds = (*COORDINATES, ".safetensors", ".json", ".jsonl")
    same, largest = True, 0.0
    for path in sorted(p for p in before.rglob("*") if p.suffix in kinds):
        other = after / path.relative_to(before)
        off = difference(path, other) if other.is_file() else math.inf
        if path.suffix in COORDINATES:
            largest = max(largest, off)
        same &= off <= TOLERANCE
        print(f"{off:12.3e}  {path.relative_to(before)}{'' if off <= TOLERANCE else '  DIFFERS'}")
    for path in sorted(before.rglob("*.said")):
        codes = [(f / path.relative_to(before)).read_text().split("\n")[0] for f in (before, after)]
        if codes[0] != codes[1]:
            same = False
            print(f"{path.stem}: exit code {codes[0]} before, {codes[1]} after")
    print(f"largest difference of a coordinate: {largest:.3e} nm")
    return same


def main() -> int:
    """Records, and compares if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("record", "compare"))
    parser.add_argument("folder", type=Path, help="recorded, or to record")
    parser.add_argument("after", type=Path, nargs="?", help="folder of the runs to compare")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if options.what == "record":
        record(options.folder, smoke=options.smoke)
        return 0
    if options.after is None:
        parser.error("compare: expected a second folder")
    if not options.after.exists():
        record(options.after, smoke=options.smoke)
    return 0 if compare(options.folder, options.after) else 1


if __name__ == "__main__":
    sys.exit(main())

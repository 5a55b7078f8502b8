"""A folder with a small melt, its beads and a model with random weights, and commands run on it."""

import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

import small_polystyrene
from deepbackmap.cli.main import app
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.methods.base import Model
from deepbackmap.model.file import save_model
from deepbackmap.system import Structure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from melt import build

BOX = np.array([[2.5, 0.0, 0.0], [0.6, 2.4, 0.0], [-0.5, 0.7, 2.4]])
FRAMES = 3
ALTERNATING = {"A:0": [1, -1]}
"""Handedness of the chains that the builder makes (``test_cli_runs`` learns it from them)."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Outcome:
    """Runs ``deepbackmap`` in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


def refused(*arguments: object) -> str:
    """The one line that a command refuses with."""
    outcome = command(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("deepbackmap: ")
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err.removeprefix("deepbackmap: ").strip()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


@cache
def chains(monomers: int, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return build.place_chains(build.build_chains(monomers, count, rng), 2.4, rng).reshape(-1, 3)


def write_system(
    folder: Path, monomers: int = 3, count: int = 3, *, wander: float = 0.002, box: np.ndarray = BOX
) -> None:
    """Topology, atoms and beads (.gro and .xtc) of a few chains."""
    build.write_topology(folder / "topol.top", monomers, count)
    topology = read_topology(folder / "topol.top")
    mapping = load_mapping("ps-two-bead").resolve(topology)
    start = chains(monomers, count)
    rng = np.random.default_rng(7)
    frames = [
        Structure(start + wander * rng.normal(size=start.shape), box, time=10.0 * k)
        for k in range(FRAMES)
    ]
    beads = [replace(f, positions=map_positions(mapping, f.positions)) for f in frames]
    for name, table, found in (
        ("aa", atom_table(topology), frames),
        ("cg", bead_table(mapping), beads),
    ):
        with open_writer(folder / f"{name}.gro", table) as writer:
            writer.write(found[0])
        with open_writer(folder / f"{name}.xtc", table) as writer:
            for frame in found:
                writer.write(frame)


def write_model(path: Path, **changes: object) -> Path:
    """A model with random weights; fields of its specification by keyword."""
    model = small_polystyrene.random_model(frame="plane")
    spec = replace(model.spec, handedness=ALTERNATING, **changes)
    save_model(Model(spec, model.generator), path)
    return path

"""Damaged topologies are read or refused in words, and nothing else, in bounded time."""

import random
import time
import warnings
from pathlib import Path

import pytest

from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from test_io_lammps import COEFFICIENTS, data_text, script
from test_io_lammps_styles import TABLES, table

HERE = Path(__file__).parent / "data"
WORDS = (
    [], ["?"], ["-1"], ["1e999"], ["["], ["1e30"], ["nan"], ["0"], ["9" * 20], ['"'],
    ["#include"], ["$x"], ["*"], ["1*3"], ["é\x00"],
)  # fmt: skip


READ = {"t.table": "styles.data"}
"""What is read where it is not the damaged file."""


def sources():
    yield "kinds.top", (HERE / "kinds" / "kinds.top").read_text()
    yield "a.data", data_text(labels=True)
    styles = {
        "bond": ("hybrid fene table spline 50", {1: "fene 30 3 0.8 1.5", 2: "table t.table ONE"}),
        "angle": ("cosine/periodic", {1: "75 1 3", 2: "60 -1 4"}),
        "dihedral": ("charmm", {1: "1.2 3 50 0.5", 2: "0.8 2 -60 1.0"}),
        "improper": ("harmonic", {1: "12 35.0"}),
    }
    yield "styles.data", data_text({**COEFFICIENTS, **styles})
    commands = [f"pair_coeff {k} {k} {row}" for k, row in COEFFICIENTS["pair"][1].items()]
    head = "variable cut index 10.0\nvariable k equal 3\n" + script(mix="sixthpower")
    yield "in.melt", "\n".join([head, "read_data a.data", *commands, "include b.lmp"] * 4)
    yield "t.table", table("bond", *_bond_table())
    yield "mixed.top", (HERE / "mixed" / "mixed.top").read_text()


def _bond_table():
    x, energy = TABLES["bond"]
    return x[::20], energy(x[::20])


@pytest.mark.parametrize(("name", "text"), sources(), ids=[n for n, _ in sources()])
def test_damage(tmp_path, name, text):
    (tmp_path / "water.itp").write_text((HERE / "mixed" / "water.itp").read_text())
    (tmp_path / "a.data").write_text(data_text())
    (tmp_path / "b.lmp").write_text("mass 1 12.0\n")
    whole = dict(sources())
    (tmp_path / "t.table").write_text(whole["t.table"])
    (tmp_path / "styles.data").write_text(whole["styles.data"])
    tables = sorted((HERE / "kinds").glob("table_*.xvg"))
    lines = text.split("\n")
    rng = random.Random(11)
    candidates = [k for k, line in enumerate(lines) if line.split() and len(line) < 300]
    refused = 0
    for _ in range(150):
        damaged = list(lines)
        for _ in range(rng.choice([1, 1, 2, 4])):
            k = rng.choice(candidates)
            words = damaged[k].split() or ["x"]
            at = rng.randrange(len(words))
            words[at : at + 1] = rng.choice([*WORDS, [words[at]] * 2])
            damaged[k] = " ".join(words) + rng.choice(["", "", "", "\\"])
        if rng.random() < 0.1:
            damaged = damaged[: rng.randrange(len(damaged))]
        path = tmp_path / name
        path.write_text("\n".join(damaged))
        begun = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read_topology(tmp_path / READ.get(name, name), tables=tables)
        except InputError as problem:
            refused += 1
            assert "expected" in str(problem) or "cannot read" in str(problem)
        assert time.monotonic() - begun < 20.0
    assert 40 < refused < 150

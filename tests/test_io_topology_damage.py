"""Damaged topologies are read or refused in words, and nothing else, in bounded time."""

import random
import time
import warnings
from pathlib import Path

import pytest

from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from test_io_lammps import data_text

HERE = Path(__file__).parent / "data"
WORDS = (
    [], ["?"], ["-1"], ["1e999"], ["["], ["1e30"], ["nan"], ["0"], ["9" * 20], ['"'],
    ["#include"], ["$x"], ["*"], ["1*3"], ["é\x00"],
)  # fmt: skip


def sources():
    yield "kinds.top", (HERE / "kinds" / "kinds.top").read_text()
    yield "a.data", data_text(labels=True)
    yield "mixed.top", (HERE / "mixed" / "mixed.top").read_text()


@pytest.mark.parametrize(("name", "text"), sources(), ids=[n for n, _ in sources()])
def test_damage(tmp_path, name, text):
    (tmp_path / "water.itp").write_text((HERE / "mixed" / "water.itp").read_text())
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
                read_topology(path, tables=tables)
        except InputError as problem:
            refused += 1
            assert "expected" in str(problem) or "cannot read" in str(problem)
        assert time.monotonic() - begun < 20.0
    assert 60 < refused < 150

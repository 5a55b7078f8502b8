"""The verb ``backmap``: the same answer however it is asked for, and what its summary says."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import deepbackmap
import small_polystyrene
from cli_systems import FRAMES, write_model, write_system
from deepbackmap.api.backmap import backmap, sampling_options
from deepbackmap.api.models import find_model, model_hash, models
from deepbackmap.api.record import file_hash
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.jobs import pool
from deepbackmap.mapping import load_mapping
from deepbackmap.mapping.match import bead_table
from deepbackmap.methods.voxel.options import ENSEMBLE
from deepbackmap.system import Structure
from melt import build


@pytest.fixture(scope="module")
def melt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    write_model(folder / "model.safetensors")
    return folder


def run(melt, output, *, trajectory=True, **options):
    return backmap(
        melt / "cg.gro",
        melt / "cg.xtc" if trajectory else None,
        topology=melt / "topol.top",
        output=output,
        progress=False,
        device="cpu",
        keep_defects=True,  # the weights are random
        **{"sweeps": 1, "model": melt / "model.safetensors", **options},
    )


def positions(melt, path):
    with read_frames(melt / "aa.gro", path) as source:
        return np.stack([frame.positions for frame in source])


def test_same_seed_same_bytes_whatever_the_batches(melt, tmp_path):
    one = {"frames": "1", "candidates": 2}
    first = run(melt, tmp_path / "a.trr", seed=5, **one)
    run(melt, tmp_path / "b.trr", seed=5, **one)
    assert (tmp_path / "a.trr").read_bytes() == (tmp_path / "b.trr").read_bytes()
    run(melt, tmp_path / "c.trr", seed=5, batch=4, **one)
    a, c = (positions(melt, tmp_path / f"{name}.trr") for name in "ac")
    # sums of single precision in another order, which the steps of relaxation make larger
    assert np.abs(a - c).max() < 5e-5
    run(melt, tmp_path / "d.trr", seed=6, **one)
    assert np.abs(a - positions(melt, tmp_path / "d.trr")).max() > 0.01
    assert (first.frames, first.atoms, first.seed) == (1, 150, 5)


def test_a_frame_does_not_depend_on_the_others(melt, tmp_path):
    assert run(melt, tmp_path / "all.trr", sweeps=0).frames == FRAMES
    run(melt, tmp_path / "back.trr", sweeps=0, frames="2:0:-1")
    every, back = positions(melt, tmp_path / "all.trr"), positions(melt, tmp_path / "back.trr")
    assert np.array_equal(every[:0:-1], back)
    with (
        read_frames(melt / "cg.gro", melt / "cg.xtc") as beads,
        read_frames(melt / "aa.gro", tmp_path / "all.trr") as atoms,
    ):
        for given, made in zip(beads, atoms, strict=True):
            assert made.time == given.time
            assert np.abs(made.box - given.box).max() < 1e-6


def test_names_and_order_are_the_topologys(melt, tmp_path):
    summary = run(melt, tmp_path / "aa.gro", trajectory=False)
    table = atom_table(read_topology(melt / "topol.top"))
    with read_frames(tmp_path / "aa.gro") as found:
        assert found.table.names == table.names
        assert found.table.resnames == table.resnames
        assert np.array_equal(found.table.resids, table.resids)
    assert summary.frames == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["aa.gro", "aa.gro.json"]


def test_the_record_says_how_it_was_made(melt, tmp_path):
    summary = run(melt, tmp_path / "aa.xtc", frames=":1", seed=3, candidates=2)
    record = json.loads((tmp_path / "aa.xtc.json").read_text())
    assert record["options"]["seed"] == 3
    assert record["options"]["candidates"] == 2
    assert record["summary"]["model_sha256"] == model_hash(melt / "model.safetensors")
    assert record["summary"]["atoms"] == 150
    assert record["summary"]["figures"]["beads"]["largest"] == summary.figures.beads.largest
    assert record["options"]["frames"] == ":1"
    # the installed package may leave out for which card it was built
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert record["input"]["beads"]["sha256"] == file_hash(melt / "cg.gro")
    assert (record["seed"], record["device"], record["engine"]) == (3, "cpu", None)
    assert summary.figures.hands.known == 6
    text = summary.to_text()
    assert f"{summary.figures.hands.wrong} of 6 inverted against those assumed" in text
    assert "seed 3, sweeps 1, candidates 2, choice lowest, block_relaxation 0, 500 K" in text


def test_the_models_defaults_are_used(melt, tmp_path):
    model = write_model(tmp_path / "m.safetensors", defaults={"sweeps": 0, "candidates": 3})
    run(melt, tmp_path / "aa.gro", trajectory=False, sweeps=None, model=model)
    found = json.loads((tmp_path / "aa.gro.json").read_text())["options"]
    assert (found["sweeps"], found["candidates"], found["choice"]) == (0, 3, "lowest")
    write_model(model, defaults={"sweeps": "many"})
    with pytest.raises(InputError, match=r"defaults of m\)"):
        run(melt, tmp_path / "x.gro", trajectory=False, sweeps=None, model=model)


@pytest.mark.parametrize(
    ("defaults", "given", "expected"),
    [
        ({}, {}, (2, 1, "lowest", None)),
        ({"sweeps": 1}, {}, (1, 1, "lowest", None)),
        ({"sweeps": 1}, {"sweeps": 0}, (0, 1, "lowest", None)),
        ({"candidates": 3}, {"candidates": 1}, (2, 1, "lowest", None)),
        ({}, {"temperature": 400.0}, (2, ENSEMBLE, "reweight", 400.0)),
        ({"candidates": 64}, {"temperature": 400.0}, (2, 64, "reweight", 400.0)),
        ({}, {"temperature": 4.0, "choice": "boltzmann", "candidates": 2},
         (2, 2, "boltzmann", 4.0)),
        ({"block_relaxation": 9}, {"temperature": 400.0}, (2, 1, "lowest", 400.0)),
    ],
)  # fmt: skip
def test_options_given_come_before_the_models(defaults, given, expected):
    spec = replace(small_polystyrene.specification(), defaults=defaults)
    names = ("sweeps", "candidates", "choice", "block_relaxation", "temperature")
    found = sampling_options(spec, "m", {**dict.fromkeys(names), **given})
    assert (found.sweeps, found.candidates, found.choice, found.temperature) == expected


@pytest.mark.parametrize(("monomers", "count"), [(2, 2), (7, 1)])
def test_chains_of_other_lengths(monomers, count, melt, tmp_path):
    """The model is that of the 3-mers."""
    write_system(tmp_path, monomers, count)
    summary = backmap(
        tmp_path / "cg.gro",
        topology=tmp_path / "topol.top",
        model=melt / "model.safetensors",
        output=tmp_path / "out.gro",
        sweeps=1,
        keep_defects=True,
        progress=False,
        device="cpu",
    )
    assert summary.atoms == count * (16 * monomers + 2)
    assert summary.figures.hands.known == count * (monomers - 1)


@pytest.mark.parametrize("monomers", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_long_chains(monomers, melt, tmp_path):
    """On a coil of beads: a walk for the backbone, a ring bead beside each of its steps."""
    build.write_topology(tmp_path / "topol.top", monomers, 1)
    mapping = load_mapping("ps-two-bead").resolve(read_topology(tmp_path / "topol.top"))
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(2 * monomers, 3))
    steps *= np.tile([0.25, 0.35], monomers)[:, None] / np.linalg.norm(steps, axis=1, keepdims=True)
    walk = np.cumsum(steps[::2], axis=0)
    beads = np.stack([walk, walk + steps[1::2]], axis=1).reshape(-1, 3)
    with open_writer(tmp_path / "cg.gro", bead_table(mapping)) as writer:
        writer.write(Structure(beads, 6.0 * np.eye(3)))
    summary = backmap(
        tmp_path / "cg.gro",
        topology=tmp_path / "topol.top",
        model=melt / "model.safetensors",
        output=tmp_path / "out.gro",
        sweeps=0,
        keep_defects=True,
        progress=False,
        device="cpu",
    )
    assert summary.atoms == 16 * monomers + 2
    assert summary.figures.hands.known == monomers - 1


def test_packaged_models_are_found_by_name(melt, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("deepbackmap.api.models"), "_folder", lambda: tmp_path)
    with pytest.raises(InputError, match="there are none"):
        find_model("default")
    write_model(tmp_path / "ps.safetensors", defaults={"sweeps": 1})
    (tmp_path / "default.txt").write_text("ps\n")
    assert find_model("default") == find_model("ps") == tmp_path / "ps.safetensors"
    (entry,) = models()
    assert (entry.name, entry.default) == ("ps", True)
    assert entry.size == (tmp_path / "ps.safetensors").stat().st_size
    text = entry.to_text()
    assert text.startswith("ps (default), ")
    assert "sweeps 1" in text
    assert "500 K" in text
    assert "taught by" not in text
    (tmp_path / "about.yaml").write_text("ps: {taught by: a critic}\nother: {taught by: chance}\n")
    assert "  taught by  a critic\n" in models()[0].to_text()


def test_every_packaged_model_says_what_taught_it_and_what_follows():
    found = models()
    assert found
    for entry in found:
        assert set(entry.about) == {"taught by", "afterwards"}, entry.name
        assert f"{entry.spec.temperature:g} K" in entry.about["taught by"]
        relaxed = entry.spec.defaults.get("block_relaxation", 1) != 0
        assert ("force evaluations" in entry.about["afterwards"]) == relaxed, entry.name


def test_frames_of_the_default_model_are_shared_out_unasked(tmp_path, monkeypatch):
    """The same bytes; a voxel model's frames are not, whose last bits depend on threads."""
    monkeypatch.setattr(pool, "cores", lambda: 2)
    monkeypatch.setattr(pool, "WORTH", 0)
    monkeypatch.setattr(pool, "FRAMES_EACH", 1)
    melt = Path(deepbackmap.__file__).parent / "packaged" / "melt"
    made = []
    for name, workers in (("one.xtc", 1), ("some.xtc", None)):
        made.append(
            backmap(
                melt / "cg.gro", melt / "cg.xtc", topology=melt / "topol.top",
                output=tmp_path / name, frames="0:3", relaxation=10, workers=workers,
                keep_defects=True, progress=False,
            )
        )  # fmt: skip
    assert [s.workers for s in made] == [1, 2]
    assert "by 2 processes" in made[1].to_text()
    assert (tmp_path / "one.xtc").read_bytes() == (tmp_path / "some.xtc").read_bytes()
    write_system(tmp_path)
    write_model(tmp_path / "model.safetensors")
    voxel = backmap(
        tmp_path / "cg.gro", tmp_path / "cg.xtc", topology=tmp_path / "topol.top", sweeps=0,
        model=tmp_path / "model.safetensors", output=tmp_path / "voxel.gro", keep_defects=True,
        progress=False,
    )  # fmt: skip
    assert voxel.workers == 1

"""The tool that packages models: what is added to a header leaves the weights alone."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import deepbackmap
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.model.header import read_spec

PACKAGED = Path(deepbackmap.__file__).parent / "packaged"
MODEL = PACKAGED / "models" / "ps-two-bead-568K.safetensors"
MELT = PACKAGED / "melt"


@pytest.fixture
def tool(tmp_path, monkeypatch):
    path = Path(__file__).resolve().parents[1] / "tools" / "package_model.py"
    spec = importlib.util.spec_from_file_location("package_model", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MODELS", tmp_path)
    return module


def call(tool, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["package_model.py", *map(str, arguments)])
    tool.main()


def test_distances_of_beads_are_added_and_no_weight_changes(tool, monkeypatch, tmp_path):
    atoms = (MELT / "topol.top", MELT / "aa.gro", MELT / "aa.xtc", ":3")
    call(tool, monkeypatch, MODEL, "copy", "--distances", *atoms)
    before, after = read_spec(MODEL), read_spec(tmp_path / "copy.safetensors")
    assert after == replace(before, bead_distances=after.bead_distances)
    weights, kept = load_file(MODEL), load_file(tmp_path / "copy.safetensors")
    assert weights.keys() == kept.keys()
    for name, values in weights.items():
        assert kept[name].dtype == values.dtype
        np.testing.assert_array_equal(kept[name], values)


def test_they_are_those_of_the_beads(tool):
    """Neighbours in the published beads, measured here: 99.9 % within."""
    mapping = load_mapping("ps-two-bead")
    found = tool.distances(mapping, *map(str, (MELT / "topol.top", MELT / "aa.gro",
                                               MELT / "aa.xtc")), ":3")  # fmt: skip
    assert set(found) == {"A-A", "A-B"}
    assert mapping.resolve(read_topology(MELT / "topol.top")).n_beads == 240
    with read_frames(MELT / "cg.gro", MELT / "cg.xtc", frames=":3") as source:
        beads = np.array([f.positions.reshape(12, 10, 2, 3) for f in source])
        box = source[0].box
    way = beads[:, :, :, 1] - beads[:, :, :, 0]
    way -= np.diag(box) * np.round(way / np.diag(box))
    apart = np.linalg.norm(way, axis=-1)
    low, high = found["A-B"]
    assert apart.min() - 0.002 <= low < np.median(apart) < high
    assert np.mean((apart >= low - 0.002) & (apart <= high + 0.002)) > 0.99


def test_without_them_a_model_is_copied_as_it_is(tool, monkeypatch, tmp_path):
    call(tool, monkeypatch, MODEL, "copy")
    assert read_spec(tmp_path / "copy.safetensors") == read_spec(MODEL)
    assert not (tmp_path / "default.txt").exists()


def test_hands_of_another_model_are_kept_and_nothing_else(tool, monkeypatch, tmp_path):
    """As for a model that learned from chains of several tacticities."""
    call(tool, monkeypatch, MODEL, "bare")
    bare = tmp_path / "bare.safetensors"
    other = PACKAGED / "models" / "ps-two-bead-points.safetensors"
    assert read_spec(other).bead_hands
    call(tool, monkeypatch, bare, "kept", "--hands-of", other)
    after, model = read_spec(tmp_path / "kept.safetensors"), read_spec(other)
    assert after == replace(
        read_spec(bare), bead_hands=model.bead_hands, handedness=model.handedness
    )

"""Frames of a point model at once, as a card takes them: what each comes to by itself."""

import json
from importlib import resources

import numpy as np
import pytest
import torch

from deepbackmap.api.backmap import backmap, sampling_options
from deepbackmap.api.models import find_model
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile
from deepbackmap.mechanics import settle
from deepbackmap.mechanics.card.frames import CardFrames
from deepbackmap.methods.base import open_sampler
from deepbackmap.methods.points.sampler import PointSampler
from deepbackmap.model.file import load_model

MELT = resources.files("deepbackmap") / "packaged" / "melt"
CLOSE = 1e-5
"""nm: sums of single precision in another order."""


@pytest.fixture
def by_tensors(monkeypatch):
    """The last steps by the tensors of a card; sizes of what was drawn together."""
    drawn = []

    def engine(mapping, *, rigid=True, threads=None, device="cpu", gathering=None):
        return CardFrames(mapping, gathering=gathering, rigid=rigid, device="cpu")

    old = PointSampler._drawn_together

    def counted(self, frames, width):
        drawn.append(len(frames))
        return old(self, frames, width)

    monkeypatch.setattr(settle, "open_mechanics", engine)
    monkeypatch.setattr(PointSampler, "_drawn_together", counted)
    return drawn


def at_once(monkeypatch, number):
    monkeypatch.setattr(PointSampler, "at_once", property(lambda self: number))


def run(output, **options):
    summary = backmap(
        str(MELT / "cg.gro"), str(MELT / "cg.xtc"), topology=str(MELT / "topol.top"),
        output=output, frames="0:3", progress=False, device="cpu", keep_defects=True, **options,
    )  # fmt: skip
    with read_frames(str(MELT / "aa.gro"), output) as source:
        return summary, np.stack([frame.positions for frame in source])


@pytest.mark.parametrize("noise", ["frame", "shared", "ou:50"])
def test_placements_are_the_same(noise, by_tensors, monkeypatch, tmp_path):
    how = {"noise": noise, "relaxation": 0}
    at_once(monkeypatch, 1)
    _, alone = run(tmp_path / "a.trr", **how)
    made = len(by_tensors)  # some are drawn anew: a hand came out wrong
    assert set(by_tensors) == {1}
    at_once(monkeypatch, 4)
    _, together = run(tmp_path / "b.trr", **how)
    assert by_tensors[made] == 3
    assert sum(by_tensors[made:]) == made
    assert np.abs(together - alone).max() < CLOSE
    assert np.abs(alone[0] - alone[1]).max() > 0.05


def test_settled_frames_and_what_is_said_of_them_are_the_same(by_tensors, monkeypatch, tmp_path):
    how = {"relaxation": 4, "seed": 3}
    at_once(monkeypatch, 1)
    one, alone = run(tmp_path / "a.trr", **how)
    at_once(monkeypatch, 2)
    other, together = run(tmp_path / "b.trr", **how)
    assert by_tensors == [1, 1, 1, 2, 1]
    # an atom in a close contact pulls roundings apart
    assert np.median(np.abs(together - alone)) < 1e-7
    assert np.abs(together - alone).max() < 10 * CLOSE
    first, second = one.to_dict(), other.to_dict()
    assert first["held"] == second["held"]
    assert first["held"]["force_evaluations_per_frame"] > 4
    records = [json.loads((tmp_path / f"{n}.trr.json").read_text()) for n in "ab"]
    assert records[0]["options"] == records[1]["options"]


def test_processors_take_frames_one_by_one():
    """Compiled loops use all cores for one."""
    sampler = PointSampler.__new__(PointSampler)
    sampler.device = torch.device("cpu")
    assert sampler.at_once == 1


def test_tables_of_a_system_are_made_once():
    model = load_model(find_model("default"))
    topology = read_topology(str(MELT / "topol.top"))
    mapping = MappingFile.from_text(model.spec.mapping).resolve(topology)
    sampler = open_sampler(model, mapping, sampling_options(model.spec, "default", {}), "cpu")
    assert isinstance(sampler, PointSampler)
    assert sampler._systems(1).tables is sampler.tables
    assert sampler._systems(1).blocks is sampler.blocks

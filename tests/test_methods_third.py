"""A third method: one folder and one line of registration, and every verb that needs one works."""

import json
import sys
import textwrap

import numpy as np
import pytest

from cli_systems import command, refused, write_system
from deepbackmap.api.backmap import backmap
from deepbackmap.api.train import train
from deepbackmap.io.trajectory import read_frames
from deepbackmap.methods import METHODS
from deepbackmap.model.file import load_model
from deepbackmap.model.header import read_spec

OPTIONS = '''
"""Options of a method that places every atom where atoms of its type are on average."""

from dataclasses import dataclass, field

from deepbackmap.methods.options import (
    MethodOptions, ModelOptions, SamplingOptions, TrainingOptions, check_ranges, ranged,
)


@dataclass(frozen=True)
class CloudOptions:
    size: float = ranged(1.0, 0.0, 10.0)

    def __post_init__(self):
        check_ranges(self)


@dataclass(frozen=True)
class CloudModelOptions(ModelOptions):
    cloud: CloudOptions = field(default_factory=CloudOptions)

    def bead_cutoff(self, reach):
        return reach

    def least_height(self):
        return 0.0

    def words(self):
        return f"a cloud of size {self.cloud.size:g}"


@dataclass(frozen=True)
class CloudTrainingOptions(TrainingOptions):
    pull: float = ranged(0.5, 0.0, 1.0)


@dataclass(frozen=True)
class CloudSamplingOptions(SamplingOptions):
    spread: float = ranged(1.0, 0.0, 10.0)


OPTIONS = MethodOptions("cloud", CloudModelOptions, CloudTrainingOptions, CloudSamplingOptions)
'''

METHOD = """
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from deepbackmap.blocks.index import relative_positions, whole_beads
from deepbackmap.system import Structure
from cloud.options import OPTIONS


class Cloud(nn.Module):
    def __init__(self, types):
        super().__init__()
        self.width = nn.Parameter(torch.zeros(types))


class Learner:
    def __init__(self, fabric, spec, options):
        self.fabric, self.spec, self.options, self.iteration = fabric, spec, options, 0
        self.result = Cloud(len(spec.atom_types))

    def begin(self, generator):
        self.result.load_state_dict(generator.state_dict())

    def use(self, training, held_out):
        types, found = self.spec.atom_types, torch.zeros(len(self.spec.atom_types))
        for s in training:
            names = [
                t for k, n in s.mapping.topology.blocks for _ in range(n)
                for t in s.mapping.topology.molecule_types[k].atom_types
            ]
            far = [np.linalg.norm(relative_positions(x, s.mapping, b), axis=1)
                   for x, b in zip(s.structures, s.beads)]
            for k, t in enumerate(types):
                found[k] = float(np.mean([f[np.array(names) == t] for f in far]))
        self.wanted = found

    def step(self):
        self.iteration += 1
        with torch.no_grad():
            self.result.width.lerp_(self.wanted, self.options.pull)
        return {"off": (self.result.width - self.wanted).abs().max()}

    def validate(self):
        return {"validation_main": float((self.result.width - self.wanted).abs().max())}

    def state(self):
        return {"iteration": self.iteration, "weights": self.result.state_dict()}

    def restore(self, state):
        self.iteration = state["iteration"]
        self.result.load_state_dict(state["weights"])

    def running(self):
        return nullcontext()


class Sampler:
    def __init__(self, model, mapping, options):
        self.model, self.mapping, self.options = model, mapping, options
        self.placements = len(mapping.atom_owners())
        self.settled = None

    def sample(self, beads, *, frame=0, progress=None):
        random = np.random.default_rng((self.options.seed, frame))
        whole = whole_beads(beads.positions, beads.box, self.mapping)
        owner = self.mapping.atom_owners()
        size = self.options.spread * float(self.model.generator.width.mean())
        made = whole[owner] + size * random.normal(size=(len(owner), 3)) / 3**0.5
        if progress:
            progress(self.placements)
        return Structure(positions=made, box=beads.box, time=beads.time)


class CloudMethod:
    options = OPTIONS

    def completed(self, spec, systems):
        return replace(spec, defaults={"spread": 0.5})

    def generator(self, spec):
        return Cloud(len(spec.atom_types))

    def learner(self, fabric, spec, options):
        return Learner(fabric, spec, options)

    def sampler(self, model, mapping, options, device, handedness):
        return Sampler(model, mapping, options)


METHOD = CloudMethod()
"""

CONFIG = """
method: cloud
data: {topology: topol.top, mapping: ps-two-bead, structure: aa.gro, trajectory: aa.xtc,
  train: "0:2", validate: "2:3", temperature: 500}
cloud: {size: 2.0}
training: {iterations: 2, pull: 0.75, log_every: 1, checkpoint_every: 1, validate_every: 2}
"""


@pytest.fixture
def third(tmp_path, monkeypatch):
    """The folder of the method on the path, and the one line."""
    folder = tmp_path / "methods" / "cloud"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "options.py").write_text(textwrap.dedent(OPTIONS))
    (folder / "method.py").write_text(textwrap.dedent(METHOD))
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setitem(METHODS, "cloud", "cloud")
    yield "cloud"
    for name in [n for n in sys.modules if n.split(".")[0] == "cloud"]:
        del sys.modules[name]


@pytest.fixture
def melt(tmp_path):
    folder = tmp_path / "melt"
    folder.mkdir()
    write_system(folder)
    (folder / "train.yaml").write_text(CONFIG)
    return folder


def test_a_third_method_trains_is_saved_is_loaded_and_backmaps(third, melt, tmp_path):
    run = tmp_path / "run"
    assert not train(melt / "train.yaml", run_folder=run, progress=False, stop_after=0.0)
    assert train(melt / "train.yaml", run_folder=run, progress=False)  # goes on
    log = [json.loads(s) for s in (run / "metrics.jsonl").read_text().splitlines()]
    assert [s["iteration"] for s in log if "off" in s] == [1, 2]
    assert log[-1]["validation_main"] == pytest.approx(log[-2]["off"])
    model = load_model(run / "model.safetensors")
    assert (model.spec.method, model.spec.options.cloud.size) == ("cloud", 2.0)
    assert model.spec.options.words() == "a cloud of size 2"
    assert read_spec(run / "model.safetensors") == model.spec
    # two steps of three quarters each: the widths are 15/16 of the atoms' mean distances
    assert 0.05 < float(model.generator.width.min()) < float(model.generator.width.max()) < 0.3
    output = tmp_path / "aa.gro"
    summary = backmap(
        melt / "cg.gro", topology=melt / "topol.top", model=run / "model.safetensors",
        output=output, options={"spread": 0.25}, progress=False, device="cpu", keep_defects=True,
    )  # fmt: skip
    assert (summary.method, dict(summary.options)) == ("cloud", {"sweeps": 0, "spread": 0.25})
    record = json.loads((tmp_path / "aa.gro.json").read_text())
    assert record["options"] == {
        "sweeps": 0, "temperature": None, "seed": 0, "batch": 512, "spread": 0.25, "frames": None
    }  # fmt: skip
    with read_frames(output) as made, read_frames(melt / "aa.gro") as true:
        off = np.linalg.norm(made[0].positions - true[0].positions, axis=1)
    assert 0.0 < np.median(off) < 1.0


def test_its_options_are_its_own(third, melt, tmp_path):
    assert train(melt / "train.yaml", run_folder=tmp_path / "run", progress=False)
    arguments = (
        "backmap", melt / "cg.gro", "-p", melt / "topol.top", "-o", tmp_path / "x.gro",
        "--model", tmp_path / "run" / "model.safetensors",
    )  # fmt: skip
    assert refused(*arguments, "--choice", "lowest").startswith(
        "choice: expected an option of the method cloud (sweeps, temperature, seed, batch, spread)"
    )
    assert "spread: expected a number from 0 to 10" in refused(*arguments, "--option", "spread=-1")
    assert "noise: expected an option of the method cloud" in refused(
        *arguments, "--option", "noise=3"
    )
    assert not (tmp_path / "x.gro").exists()
    assert command(*arguments, "--option", "spread=2", "--keep-defects").code == 0
    said = refused("train", melt / "train.yaml", "--run", tmp_path / "other", "training.augment=1")
    assert "unknown key 'training.augment', expected one of the method cloud: " in said


def test_nothing_but_the_line_was_needed(third, monkeypatch):
    """Without it the method is not there."""
    monkeypatch.delitem(METHODS, "cloud")
    said = refused("train", "tiny", "method=cloud", "--run", "nowhere")
    assert "method: expected one of voxel, points, physics, found 'cloud'" in said

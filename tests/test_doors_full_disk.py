"""A disk that takes no more: one sentence, exit code 2, and what was there before stays whole.

The limit on the size of a file that the system sets for a process stands in for the disk: writes
beyond it fail in whatever language they are made, as they do on a full disk.
"""

import json
import resource
from contextlib import contextmanager
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from cli_systems import command, refused, write_system
from deepbackmap.baselines.templates import Fragments, TemplateSet, write_templates
from deepbackmap.data.dynamics import _keep
from deepbackmap.dynamics.gromacs_files import _write
from deepbackmap.errors import InputError
from deepbackmap.io.atomic import disk_refuses, make_folder, new_file, writing
from deepbackmap.io.trajectory import ParticleTable, open_writer, read_frames, read_positions
from deepbackmap.methods.base import Learner
from deepbackmap.model.file import load_model, save_model
from deepbackmap.system import Structure
from deepbackmap.training.checkpoints import save_checkpoint
from deepbackmap.training.log import Log, last_metrics
from small_polystyrene import random_model
from test_cli_runs import CONFIG

N = 400
TABLE = ParticleTable(
    ("X",) * N, ("Y",) * N, np.ones(N, dtype=np.int64), types=("X",) * N, masses=np.ones(N),
    charges=np.zeros(N), molecules=np.ones(N, dtype=np.int64),
)  # fmt: skip


@contextmanager
def disk_of(size):
    """No file grows beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def frames(count):
    rng = np.random.default_rng(0)
    return [Structure(rng.uniform(0, 5, (N, 3)), 5.0 * np.eye(3), float(k)) for k in range(count)]


@pytest.mark.parametrize("ending", ["gro", "pdb", "xtc", "trr", "dcd", "data", "lammpstrj", "gsd"])
@pytest.mark.parametrize("size", [100, 5000])
def test_structures_and_trajectories(ending, size, tmp_path):
    if ending == "gsd":
        pytest.importorskip("gsd")
    path = tmp_path / f"out.{ending}"
    found = frames(1 if ending in ("gro", "data") else 4)

    def write(force):
        with open_writer(path, TABLE, force=force) as writer:
            for frame in found:
                writer.write(frame)

    with disk_of(size), pytest.raises(InputError, match=rf"out\.{ending}.*") as caught:
        write(force=False)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []
    write(force=False)
    before = path.read_bytes()
    with disk_of(size), pytest.raises(InputError):
        write(force=True)
    assert path.read_bytes() == before
    assert names(tmp_path) == [path.name]
    with read_positions(path, TABLE) as source:
        assert len(source) == len(found)


def learner(fill):
    return Mock(spec=Learner, state=lambda: {"x": torch.full((5000,), fill)})


def templates(fill):
    rng = np.random.default_rng(fill)
    places = rng.uniform(-1, 1, (500, 4, 3))
    kind = Fragments("A", "12 1 1 1", 0, (), (), np.zeros((500, 0, 3)), places)
    return TemplateSet((kind,))


def model(fill):
    found = random_model()
    for values in found.generator.parameters():
        values.data.fill_(float(fill))
    return found


WRITERS = {
    "m.safetensors": lambda path, fill: save_model(model(fill), path),
    "checkpoint.pt": lambda path, fill: save_checkpoint(learner(fill), path),
    "t.npz": lambda path, fill: write_templates(templates(fill), path, force=True),
    "dynamics.npz": lambda path, fill: _keep(
        path, [np.random.default_rng(fill).uniform(size=(900, 3))], [300.0], "origin"
    ),
    "x.top": lambda path, fill: _write(path.parent, {path.name: f"{fill}" * 9000}, True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_learned_and_made(name, tmp_path):
    path, write = tmp_path / name, WRITERS[name]
    with disk_of(3000), pytest.raises(InputError, match=f"{name}: expected a place to write to"):
        write(path, 1)
    assert names(tmp_path) == []
    write(path, 1)
    before = path.read_bytes()
    write(path, 1)
    assert path.read_bytes() == before  # the same thing is the same bytes
    with disk_of(3000), pytest.raises(InputError):
        write(path, 2)
    assert path.read_bytes() == before
    assert names(tmp_path) == [name]


def test_files_of_one_call_appear_together(tmp_path):
    with disk_of(3000), pytest.raises(InputError):
        _write(tmp_path, {"a.top": "small", "b.gro": "x" * 9000}, False)
    assert names(tmp_path) == []
    _write(tmp_path, {"a.top": "small", "b.gro": "x" * 9000}, False)
    assert names(tmp_path) == ["a.top", "b.gro"]


@pytest.fixture(scope="module")
def melt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    (folder / "train.yaml").write_text(CONFIG)
    # what is compiled at the first read is kept on the disk that is to be full
    with read_frames(folder / "aa.gro", folder / "aa.xtc") as frames:
        assert len(list(frames))
    return folder


@pytest.mark.parametrize("size", [50, 700, 20_000, 100_000])
def test_training(size, melt, tmp_path):
    """Configuration, log, TensorBoard and checkpoint meet the end of the disk in their turn."""
    run = tmp_path / "run"
    words = ("train", melt / "train.yaml", "--run", run, "--device", "cpu", "-q")
    with disk_of(size):
        said = refused(*words)
    assert "expected" in said
    assert not [name for name in names(run) if name.startswith(".")]
    again = command(*words)
    assert again.code == 0, again.err
    assert load_model(run / "model.safetensors").spec.provenance["iteration"] == 4
    lines = [json.loads(s)["iteration"] for s in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(lines)
    assert lines[-1] == 4


def test_two_identical_runs_make_identical_models(melt, tmp_path):
    for name in ("one", "other"):
        done = command("train", melt / "train.yaml", "--run", tmp_path / name, "-q",
                       "--device", "cpu")  # fmt: skip
        assert done.code == 0
    one, other = (tmp_path / name / "model.safetensors" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_verbs(melt, tmp_path):
    for ending in ("gro", "xtc", "trr", "dcd"):
        words = ("map", melt / "aa.gro", melt / "aa.xtc", "-p", melt / "topol.top",
                 "--mapping", "ps-two-bead", "-o", tmp_path / f"out.{ending}")  # fmt: skip
        with disk_of(200):
            assert f"out.{ending}" in refused(*words)
        assert names(tmp_path) == []


def test_logs_of_runs_that_were_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "loss": 2.0}\n{"iteration": 2, "loss": 1.0}\n{"iterat')
    assert last_metrics(path) == {"loss": 1.0}
    log = Log(tmp_path, 1)
    log.write(2, {"loss": 0.5})
    log.close()
    lines = [json.loads(s) for s in path.read_text().splitlines()]
    assert lines == [{"iteration": 1, "loss": 2.0}, {"iteration": 2, "loss": 0.5}]
    path.write_text('{"iteration": 1}\nnonsense\n{"iteration": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: expected metrics .* 'nonsense'"):
        last_metrics(path)
    with pytest.raises(InputError, match="line 2"):
        Log(tmp_path, 1)


def test_other_errors_stay_what_they_are(tmp_path):
    assert not disk_refuses(FileNotFoundError(2, "No such file or directory"))
    assert not disk_refuses(ValueError("no space in this name"))
    assert not disk_refuses(InputError("x: No space left on device"))
    assert disk_refuses(RuntimeError("I/O error: No space left on device (os error 28)"))

    def fail():
        with new_file(tmp_path / "a"), writing(tmp_path / "b"):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        fail()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: expected a folder that can be written to"):
        make_folder(tmp_path / "file")

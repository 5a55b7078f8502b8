"""Every file that is written goes aside first: it is whole or not there, and nothing is left."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

import small_polystyrene
from deepbackmap.baselines.templates import TemplateSet, read_templates, write_templates
from deepbackmap.data.dynamics import _keep
from deepbackmap.errors import InputError
from deepbackmap.methods.base import Learner
from deepbackmap.model.file import load_model, save_model
from deepbackmap.training.checkpoints import save_checkpoint
from deepbackmap.training.log import Log, last_metrics


def learner():
    """What a checkpoint asks of a learner."""
    found = MagicMock(spec=Learner)
    found.state.return_value = {"iteration": 3, "w": torch.arange(4.0)}
    return found


def model(path):
    save_model(small_polystyrene.point_model(), path)
    return load_model(path).spec == small_polystyrene.point_model().spec


def checkpoint(path):
    save_checkpoint(learner(), path)
    return torch.load(path, weights_only=True)["iteration"] == 3


def templates(path):
    write_templates(TemplateSet(()), path, force=True)
    return read_templates(path).fragments == ()


def dynamics(path):
    _keep(path, [np.zeros((5, 3), dtype=np.float32)], [300.0], "here")
    with np.load(path) as found:
        return str(found["origin"]) == "here"


WRITERS = {
    "model.safetensors": model, "checkpoint.pt": checkpoint, "templates.npz": templates,
    "dynamics-0.npz": dynamics,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_written_and_nothing_beside_it(name, tmp_path):
    assert WRITERS[name](tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_dead_process_left_is_cleared(name, tmp_path):
    stem, suffix = Path(name).stem, Path(name).suffix
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    part = tmp_path / f".{stem}.{gone.pid}.part{suffix}"
    part.write_bytes(b"half")
    other = tmp_path / f".other.{gone.pid}.part{suffix}"
    other.write_bytes(b"of another output")
    assert WRITERS[name](tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {name, other.name}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_there_is_replaced_in_one_step(name, tmp_path):
    (tmp_path / name).write_bytes(b"earlier")
    with (tmp_path / name).open("rb") as earlier:
        assert WRITERS[name](tmp_path / name)
        assert earlier.read() == b"earlier"  # who reads it goes on reading the old one


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_that_is_missing_is_one_sentence(name, tmp_path):
    with pytest.raises(InputError, match="expected a place to write to"):
        WRITERS[name](tmp_path / "no" / name)


@pytest.mark.parametrize("name", ["checkpoint.pt", "model.safetensors"])
def test_an_error_on_the_way_leaves_the_one_before(name, tmp_path, monkeypatch):
    assert WRITERS[name](tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ZeroDivisionError):
        WRITERS[name](tmp_path / name)
    assert (tmp_path / name).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


HALF = '{"iteration": 1, "loss": 2.0}\n{"iteration": 2, "loss": 1.5}\n{"iteration": 3, "lo'


def test_half_a_line_of_a_log_is_no_line(tmp_path):
    """A process that was killed while it wrote to its log."""
    path = tmp_path / "metrics.jsonl"
    path.write_text(HALF)
    assert last_metrics(path) == {"loss": 1.5}
    log = Log(tmp_path, 2)
    log.write(3, {"loss": 1.0})
    log.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    assert last_metrics(path) == {"loss": 1.0}
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_log_that_is_missing_has_logged_nothing(tmp_path):
    assert last_metrics(tmp_path / "metrics.jsonl") == {}

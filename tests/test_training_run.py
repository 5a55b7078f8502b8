"""A run of training, whatever is learned: when it logs, saves, validates, stops and goes on."""

import json
import os
import signal
from contextlib import contextmanager

import pytest
import torch
from lightning_fabric import Fabric

from deepbackmap.errors import InputError
from deepbackmap.methods.options import TrainingOptions
from deepbackmap.training.checkpoints import restore_checkpoint, save_checkpoint
from deepbackmap.training.log import Log, last_metrics
from deepbackmap.training.run import run


class Counter:
    """Learns to count: its weight is the sum of the numbers of its iterations."""

    def __init__(self, held_out=True, on_step=None, **options):
        given = {"iterations": 10, "log_every": 2, "checkpoint_every": 4, "validate_every": 5}
        self.options = TrainingOptions(**(given | options))
        self.fabric = Fabric(accelerator="cpu", devices=1)
        self.iteration, self.weight = 0, torch.zeros(())
        self._held_out, self._on_step = held_out, on_step or (lambda i: None)
        self.entered = self.left = 0

    @property
    def result(self):
        return torch.nn.Identity()

    def begin(self, generator):
        """Nothing to begin with."""

    def use(self, training, held_out):
        """No frames."""

    def step(self):
        self.iteration += 1
        self.weight = self.weight + self.iteration
        self._on_step(self.iteration)
        return {"loss": 1.0 / self.weight}

    def validate(self):
        return {"validation_main": float(self.weight)} if self._held_out else {}

    def state(self):
        return {"iteration": self.iteration, "weight": self.weight}

    def restore(self, state):
        self.iteration, self.weight = state["iteration"], state["weight"]

    @contextmanager
    def running(self):
        self.entered += 1
        try:
            yield
        finally:
            self.left += 1


def go(folder, learner, **options):
    """Runs; returns whether the end was reached, and the iterations at which it was saved."""
    folder.mkdir(exist_ok=True)
    saved = []

    def keep(at, metrics):
        saved.append((at.iteration, dict(metrics)))

    done = run(learner, folder, on_checkpoint=keep, progress=False, **options)
    assert learner.entered == learner.left
    return done, saved


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_logs_saves_and_validates_when_it_is_due(tmp_path):
    done, saved = go(tmp_path / "a", Counter())
    assert done
    assert [i for i, _ in saved] == [4, 8, 10]
    found = lines(tmp_path / "a")
    assert [v["iteration"] for v in found if "loss" in v] == [2, 4, 6, 8, 10]
    assert [v["iteration"] for v in found if "validation_main" in v] == [5, 10]
    assert found[0]["loss"] == pytest.approx(1 / 3)
    assert all(v["seconds_per_iteration"] >= 0 for v in found if "loss" in v)
    # what a checkpoint is told is the latest of everything
    assert saved[1][1]["loss"] == pytest.approx(1 / 36)
    assert saved[1][1]["validation_main"] == 15.0
    assert last_metrics(tmp_path / "a" / "metrics.jsonl")["validation_main"] == 55.0
    _, without = go(tmp_path / "b", Counter(held_out=False))
    assert not any("validation_main" in v for v in lines(tmp_path / "b"))
    assert [i for i, _ in without] == [4, 8, 10]


@pytest.mark.parametrize("parts", [1, 3, 10])
def test_a_run_in_parts_is_the_run_in_one(parts, tmp_path):
    """Stopped after each iteration, or now and then: the same weight, every line once."""
    whole = Counter()
    go(tmp_path / "whole", whole)
    folder = tmp_path / "parts"
    for part in range(20):
        learner = Counter()
        if part:
            restore_checkpoint(learner, folder / "checkpoint.pt")
        late = 0.0 if (part + 1) % parts else None
        done, saved = go(folder, learner, stop_after=late)
        assert saved[-1][0] == learner.iteration
        if done:
            break
    assert learner.weight == whole.weight
    strip = [{k: v for k, v in row.items() if k != "seconds_per_iteration"}
             for row in lines(tmp_path / "whole")]  # fmt: skip
    again = [{k: v for k, v in row.items() if k != "seconds_per_iteration"}
             for row in lines(folder)]  # fmt: skip
    assert again == strip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_iteration_end_and_saves_it_and_a_second_one_does_not_wait(
    number, tmp_path
):
    before = signal.getsignal(number)
    learner = Counter(on_step=lambda i: os.kill(os.getpid(), number) if i == 3 else None)
    done, saved = go(tmp_path / "a", learner)
    assert not done
    assert [i for i, _ in saved] == [3]
    assert signal.getsignal(number) is before

    def twice(i):
        if i == 3:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "b", Counter(on_step=twice))
    assert signal.getsignal(number) is before
    assert not (tmp_path / "b" / "checkpoint.pt").exists()


def test_checkpoints_come_by_the_clock_too(tmp_path, monkeypatch):
    now = iter(range(0, 100_000, 30))  # half a minute a look
    monkeypatch.setattr("deepbackmap.training.run.time.perf_counter", lambda: float(next(now)))
    learner = Counter(checkpoint_every=1000, checkpoint_minutes=1.0)
    _, saved = go(tmp_path / "a", learner)
    iterations = [i for i, _ in saved]
    assert iterations[-1] == 10
    assert 2 < len(iterations) < 10


def test_a_step_that_fails_leaves_the_last_checkpoint_and_the_log_closed(tmp_path):
    def fail(i):
        if i == 7:
            raise ArithmeticError("not a number")

    with pytest.raises(ArithmeticError):
        go(tmp_path / "a", Counter(on_step=fail))
    kept = Counter()
    restore_checkpoint(kept, tmp_path / "a" / "checkpoint.pt")
    assert (kept.iteration, float(kept.weight)) == (4, 10.0)
    # it goes on from there, and what was logged behind it is logged once
    done, _ = go(tmp_path / "a", kept)
    assert done
    assert [v["iteration"] for v in lines(tmp_path / "a") if "loss" in v] == [2, 4, 6, 8, 10]


def test_checkpoints_of_others_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    learner = Counter()
    go(tmp_path, learner)
    data = path.read_bytes()
    for cut in (0, 10, len(data) // 2):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"checkpoint\.pt: expected a readable checkpoint"):
            restore_checkpoint(Counter(), path)
    with pytest.raises(InputError, match="expected a readable checkpoint"):
        restore_checkpoint(Counter(), tmp_path / "none.pt")
    learner.state = lambda: {"steps": 3}
    save_checkpoint(learner, path)
    with pytest.raises(InputError, match="a checkpoint of the run's networks, found: 'iteration'"):
        restore_checkpoint(Counter(), path)


def test_a_log_drops_what_will_be_repeated_and_says_which_line_is_damaged(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Log(tmp_path, 0)
    for i in range(1, 6):
        log.write(i, {"loss": 1.0 / i})
    log.close()
    Log(tmp_path, 3).close()
    assert [v["iteration"] for v in lines(tmp_path)] == [1, 2, 3]
    whole = path.read_text()
    path.write_text(whole + '{"iteration": 4, "lo')  # a process that was killed
    assert last_metrics(path) == {"loss": pytest.approx(1 / 3)}
    Log(tmp_path, 9).close()
    assert path.read_text() == whole
    for damage in ("no json", '{"loss": 1.0}', '{"iteration": 2, "loss": "many"}', "[1, 2]"):
        path.write_text(f"{damage}\n{whole}")
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 1: expected metrics of an"):
            last_metrics(path)
        with pytest.raises(InputError, match="remove that line and the run goes on"):
            Log(tmp_path, 9)

"""The benchmark of the critic's phase: what is made, what is not made twice, and what it says."""

import sys
from pathlib import Path

import numpy as np
import pytest

from deepbackmap.system import Structure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import adversarial

BOX = 3.0 * np.eye(3)


class Task:
    """Places an atom where the unit says, and counts."""

    def __init__(self, fail_at=None):
        self.made, self.fail_at = [], fail_at

    def make(self, unit):
        if len(self.made) == self.fail_at:
            raise KeyboardInterrupt
        self.made.append(unit)
        return Structure(np.full((1, 3), 0.1 * unit.seed + 0.01 * unit.place), BOX, 0.0)


def some(frames=2, seeds=(0, 1)):
    return list(adversarial.units(["before", "after"], [568], [1, 8], seeds, frames))


def test_models_stay_even_and_frames_come_one_by_one():
    asked = some()
    assert len(asked) == len(set(asked)) == 2 * 2 * 2 * 2
    assert [u.model for u in asked] == ["before", "after"] * 8
    assert [u.place for u in asked] == sorted(u.place for u in asked)


@pytest.mark.parametrize(("total", "expected"), [(36, 33), (39, 33), (19, 11), (3, 11)])
def test_twelve_frames_are_spread_over_the_file(total, expected):
    assert adversarial.frame_number(0, total) == 0
    assert adversarial.frame_number(11, total) == expected


def test_an_interrupted_run_makes_only_what_is_missing(tmp_path):
    asked, first, second = some(), Task(fail_at=5), Task()
    with pytest.raises(KeyboardInterrupt):
        adversarial.run(first, asked, tmp_path, np.inf)
    adversarial.run(second, asked, tmp_path, np.inf)
    assert first.made + second.made == asked
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".npz"]
    found = adversarial.read(tmp_path, adversarial.Cell("after", 568, 8))
    assert {s: sorted(v) for s, v in found.items()} == {0: [0, 1], 1: [0, 1]}
    assert found[1][1].positions == pytest.approx(0.11, abs=1e-6)
    assert np.array_equal(found[1][1].box, BOX)


def test_nothing_is_begun_when_the_time_is_over(tmp_path, capsys):
    task = Task()
    adversarial.run(task, some(), tmp_path, -1.0)
    assert task.made == []
    assert "16 are left" in capsys.readouterr().out


def test_only_seeds_and_frames_that_all_models_have_are_compared():
    one = Structure(np.zeros((1, 3)), BOX, 0.0)
    before = {0: {0: one, 1: one}, 1: {0: one, 1: one}, 2: {0: one}}
    after = {0: {0: one, 1: one}, 1: {0: one}}
    assert adversarial.common([before, after]) == ([0, 1], [0])
    assert adversarial.common([before, {}]) == ([], [])


def test_the_difference_in_units_of_its_noise():
    """Means 0.2 and 0.1, standard deviations 0.03 and 0.04: the difference is two times 0.05."""
    before = [{"score": v} for v in (0.17, 0.2, 0.23)]
    after = [{"score": v} for v in (0.06, 0.1, 0.14)]
    row = dict(zip(adversarial.ROWS, adversarial.contrast(before, after), strict=True))
    assert row["score"] == "-2.0"
    assert row["LJ"] == ""
    shown = dict(zip(adversarial.ROWS, adversarial.cells(before), strict=True))
    assert shown["score"] == "0.2 ± 0.03"
    assert adversarial.contrast(before[:1], after[:1])[0] == ""


def test_another_model_under_the_same_name_is_refused(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_text("a")
    second.write_text("b")
    adversarial.check_models(tmp_path, {"before": first}, 1)
    adversarial.check_models(tmp_path, {"before": first}, 1)
    for path, sweeps in ((second, 1), (first, 2)):
        with pytest.raises(SystemExit, match="expected structures of"):
            adversarial.check_models(tmp_path, {"before": path}, sweeps)

"""The tool that reads a critic's log by the sequences it was shown."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import training_log  # noqa: E402


def line(iteration, length, light, **values):
    bucket = {"sequence_length": length, "sequence_light": light, "sequence_first_pass": 0.0}
    return {"iteration": iteration, **{f"critic_{k}": v for k, v in bucket.items()}, **values}


LINES = [
    {"iteration": 1, "score_position": 0.5},  # no critic yet
    line(2, 6.0, 0.0, critic=-1.0, critic_slope=0.5, critic_gradient=2.0),
    line(3, 2.0, 0.0, critic=-8.0, critic_slope=0.9, critic_gradient=1.0),
    line(4, 6.0, 0.0, critic=-3.0, critic_gradient=4.0),  # an update without a penalty
    line(5, 3.0, 1.0, critic=2.0, critic_gradient=1.0),
]


def test_means_are_of_one_bucket_and_of_what_was_logged(tmp_path, capsys, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in LINES))
    found = training_log.rows(training_log.read_lines(tmp_path / "metrics.jsonl"))
    assert found == [
        ["heavy sweep", "2", "1", "8.0000", "0.9000", "1.0000"],
        ["heavy sweep", "6", "2", "2.0000", "0.5000", "3.0000"],
        ["light sweep", "3", "1", "-2.0000", "-", "1.0000"],
    ]
    monkeypatch.setattr(
        sys, "argv", ["training_log.py", str(tmp_path), "--last", "3", "--parts", "1"]
    )
    training_log.main()
    printed = capsys.readouterr().out
    assert "iterations 3 to 5" in printed
    assert "0.5000" not in printed  # of iteration 2

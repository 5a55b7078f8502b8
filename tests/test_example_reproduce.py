"""The example that makes the paper's figures: what is cached, and what it draws."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "examples" / "reproduce_paper" / "reproduce.py"


@pytest.fixture(scope="module")
def reproduce():
    spec = importlib.util.spec_from_file_location("reproduce", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["reproduce"] = module
    spec.loader.exec_module(module)
    return module


def test_a_step_is_made_once_and_again_when_something_changed(reproduce, tmp_path, capsys):
    source, result, made = tmp_path / "in", tmp_path / "out", []

    def make():
        made.append(1)
        result.write_text(f"{len(made)}")

    source.write_text("a")
    for options in ({"seed": 0}, {"seed": 0}, {"seed": 1}):
        reproduce.Step(result, options, (source,)).run(make)
    assert result.read_text() == "2"
    source.write_text("b")
    reproduce.Step(result, {"seed": 1}, (source,)).run(make)
    result.unlink()
    reproduce.Step(result, {"seed": 1}, (source,)).run(make)
    assert result.read_text() == "4"
    assert capsys.readouterr().out.count("there already") == 1


def test_a_step_that_fails_is_made_again(reproduce, tmp_path):
    result = tmp_path / "out"

    def fail():
        result.write_text("half")
        raise KeyboardInterrupt

    step = reproduce.Step(result, {}, ())
    with pytest.raises(KeyboardInterrupt):
        step.run(fail)
    step.run(lambda: result.write_text("whole"))
    assert result.read_text() == "whole"


def test_a_step_follows_the_steps_before_it(reproduce, tmp_path):
    first, second, made = tmp_path / "first", tmp_path / "second", []

    def both(seed):
        reproduce.Step(first, {"seed": seed}, ()).run(lambda: first.write_text("same"))
        reproduce.Step(second, {}, (first,)).run(lambda: (made.append(1), second.write_text("x")))

    both(0), both(0), both(1)
    assert len(made) == 2


def test_missing_data_are_one_line(reproduce, tmp_path, capsys):
    assert reproduce.main(["--data", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "expected the reference data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def distribution(name):
    return {"name": name, "edges": [0.0, 1.0, 2.0], "reference": [0.4, 0.6],
            "band": [[0.3, 0.5], [0.5, 0.7]], "methods": {"ours": [0.5, 0.5]}}  # fmt: skip


def test_the_figures_and_their_tables(reproduce, tmp_path):
    metrics = {
        "methods": [{"name": "ours", "score": {"value": 0.1, "error": 0.01}}],
        "score_floor": 0.01,
        "figures": [{"name": "a", "unit": "", "floor": 0.2,
                     "methods": {"ours": {"value": 0.3, "error": 0.0}}}],
        "distributions": [distribution(name) for name, _ in reproduce.PANELS],
        "curves": [{"name": reproduce.RDF, "r": [0.1, 0.2], "reference": [0.0, 1.0],
                    "band": [[0.0, 0.9], [0.1, 1.1]], "methods": {"ours": [0.0, 1.2]}}],
        "structure_map": {"samples": ["reference", "ours"], "sample": [0, 1], "frame": [0, 0],
                          "molecule": [1, 1], "points": [[0.0, 0.0], [1.0, 1.0]],
                          "overlap": {"ours": {"mmd2": 0.1, "p_value": 0.5}}},
        "notes": [],
    }  # fmt: skip
    metrics = json.loads(json.dumps(metrics))
    reproduce.write_table(tmp_path / "table.csv", metrics)
    reproduce.figure_5(tmp_path, 568, metrics)
    reproduce.figure_6(tmp_path, 568, metrics)
    with (tmp_path / "table.csv").open() as handle:
        rows = list(csv.reader(handle))
    assert rows == [["figure", "unit", "floor", "ours"], ["score", "", "0.01", "0.1"],
                    ["a", "", "0.2", "0.3"]]  # fmt: skip
    with (tmp_path / "fig5.csv").open() as handle:
        assert len(list(csv.reader(handle))) == 1 + 5 * 2 * 2
    with (tmp_path / "fig6.csv").open() as handle:
        assert list(csv.reader(handle))[2] == ["ours", "0", "1", "1.0", "1.0"]
    for name in ("fig5.png", "fig6.png"):
        assert (tmp_path / name).stat().st_size > 10_000

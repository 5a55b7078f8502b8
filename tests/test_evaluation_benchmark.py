"""The benchmark's command line, in its smoke mode."""

import importlib.util
import inspect
import json
import sys
from pathlib import Path

import pytest

from evaluation_systems import reference_folder


def benchmark(name):
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    sys.path.insert(0, str(path.parent))  # as for a script that is run: they import each other
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quality():
    return benchmark("quality")


def test_smoke_run(quality, tmp_path, capsys):
    """The paper's own file in the place of ours gives the paper's column."""
    folder = reference_folder()
    output = tmp_path / "quality.json"
    paper = folder / "test_568K_paper_deepbackmap.xtc"
    options = ["--smoke", "--data", str(folder.parent), "--ours", str(paper)]
    assert quality.main([*options, "--temperatures", "568", "--output", str(output)]) == 0
    found = json.loads(output.read_text())["568"]
    assert found["ours"] == found["paper"]
    assert found["paper"]["generated_frames"] == 1
    assert found["paper"]["reference_frames"] == quality.SMOKE_REFERENCE
    scores = [c["score"] for c in found.values() if isinstance(c, dict)]
    assert scores[0] < scores[1] < scores[2]  # floor, paper, baseline
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| 568 K | floor (1 of 2 against the others) | paper |")
    assert all(line.count("|") == 6 for line in lines if line.startswith("|"))
    (line,) = (line for line in lines if line.startswith("Energies over the reference's: "))
    parts = {p.split(": ")[0]: p.split(": ")[1] for p in line.split(": ", 1)[1].split("; ")}
    (floor,) = (v for k, v in parts.items() if k.startswith("floor"))
    assert {w.split()[0] for w in floor.split(", ")} == {"angle", "torsion"}
    # one frame: its few torsions scatter more than its angles
    assert all(abs(float(w.split()[1]) - 1.0) < 0.2 for w in floor.split(", "))
    assert parts["ours"] == parts["paper"] != floor


def test_missing_data_is_one_sentence(quality, tmp_path, capsys):
    output = tmp_path / "quality.json"
    assert quality.main(["--data", str(tmp_path), "--output", str(output)]) == 2
    assert "expected the reference data" in capsys.readouterr().err
    assert not output.exists()


def test_every_frame_is_held_or_not(quality):
    for total in range(2, 40):
        for wanted in (1, 3, 12, 36):
            held, rest = quality.split(total, wanted)
            assert len(held) == max(1, min(wanted, total // 2))
            assert sorted(held + rest) == list(range(total))


def test_ours_is_made_from_the_first_beads(quality, tmp_path, monkeypatch):
    import deepbackmap.api

    signature = inspect.signature(deepbackmap.api.backmap)
    called = []
    monkeypatch.setattr(
        deepbackmap.api, "backmap", lambda *a, **k: called.append(signature.bind(*a, **k).arguments)
    )
    task = quality.Task(tmp_path, None, None, 12, None)
    assert quality.generate(task, 313, tmp_path / "ours.xtc", "mine", 7) >= 0.0
    assert called == [
        {
            "beads": tmp_path / "cg.gro",
            "trajectory": tmp_path / "test_313K_cg.xtc",
            "topology": tmp_path / "topol.top",
            "output": tmp_path / "ours.xtc",
            "model": "mine",
            "frames": "0:12",
            "seed": 7,
            "temperature": 313.0,
        }
    ]


@pytest.mark.parametrize(
    ("value", "cell", "good"),
    [(0.0422, "0.042", True), (0.0436, "0.042", False), (0.2999, "0.30", True),
     (-8.14, "-8.1", True), (48.8, "50 %", False), (0.79, "0.8 %", True), (0.17, "0", False),
     (0.0, "nothing", False)],
)  # fmt: skip
def test_figures_agree_within_what_is_printed(value, cell, good):
    assert benchmark("evaluate").agrees(value, cell) is good


def test_evaluating_two_frames_is_timed(monkeypatch, capsys):
    monkeypatch.setattr("deepbackmap.evaluation.comparison.SPLITS", 3)
    monkeypatch.setattr("deepbackmap.evaluation.comparison.RESAMPLES", 3)
    data = str(reference_folder().parent)
    assert benchmark("evaluate").main(["--smoke", "--data", data]) == 0
    assert capsys.readouterr().out.startswith("4 frames of 5832 atoms without structure map: ")

"""``demo`` and ``models`` on a small melt and a model with random weights in place of ours."""

import json
import shutil
from importlib import import_module

import pytest

from cli_systems import command, contents, write_model, write_system


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """Stands in for the folder of packaged data."""
    folder = tmp_path / "packaged"
    (folder / "melt").mkdir(parents=True)
    (folder / "models").mkdir()
    write_system(folder / "melt")
    write_model(folder / "models" / "tiny.safetensors", defaults={"sweeps": 0})
    (folder / "models" / "default.txt").write_text("tiny\n")
    # Not by dotted names: functions of the same names hide the modules.
    demo, models = (import_module(f"deepbackmap.api.{name}") for name in ("demo", "models"))
    monkeypatch.setattr(demo, "melt_folder", lambda: folder / "melt")
    monkeypatch.setattr(models, "_folder", lambda: folder / "models")
    # what random weights make is refused, and that is not what is looked at here
    judgement = import_module("deepbackmap.api.judgement")
    monkeypatch.setattr(judgement, "refuse", lambda *given, **options: None)
    return folder


def test_demo(packaged, tmp_path):
    out = tmp_path / "out"
    done = command("demo", "-o", out)
    assert done.code == 0, done.err
    for words in ("2 frames of 150 atoms", "score", "LJ per chain", "re-mapped beads, rms",
                  "2 frames against 1 others"):  # fmt: skip
        assert words in done.out
    if shutil.which("gmx"):
        assert "gmx grompp: accepts aa.gro and topol.top" in done.out
        assert (out / "check.tpr").stat().st_size > 0
    else:
        assert "gmx grompp: not installed here" in done.out
    names = {p.name for p in out.iterdir()}
    assert names >= {"topol.top", "PS.itp", "cg.gro", "cg.xtc", "aa.xtc", "aa.gro",
                     "aa.xtc.json", "comparison.txt", "check.mdp", "reference.xtc",
                     "simulated.xtc", "mapping.yaml"}  # fmt: skip
    assert (out / "comparison.txt").read_text() == done.out.rstrip("\n") + "\n"
    assert "<html" in (out / "evaluation" / "report.html").read_text()
    kept = contents(out)
    again = command("demo", "-o", out)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "out: expected an empty folder, found files" in again.err
    assert contents(out) == kept


def test_the_text_and_the_report_are_of_one_evaluation(packaged, tmp_path, monkeypatch):
    demo = import_module("deepbackmap.api.demo")
    found = []

    def counted(*given, **options):
        found.append(evaluate(*given, **options))
        return found[-1]

    evaluate = demo.evaluate
    monkeypatch.setattr(demo, "evaluate", counted)
    made = demo.demo(tmp_path / "out", progress=False)
    assert found == [made.evaluation]
    written = json.loads((tmp_path / "out" / "evaluation" / "metrics.json").read_text())
    scores = {m["name"]: m["score"]["value"] for m in written["methods"]}
    assert set(scores) == {"backmapped", "simulated"}
    assert scores["simulated"] < scores["backmapped"]  # random weights against the truth itself
    lines = made.to_text().splitlines()
    row = next(line.split() for line in lines if line.startswith("score "))
    assert [float(x) for x in row[1:]] == pytest.approx(
        [scores["backmapped"], scores["simulated"]], abs=1e-4
    )
    beads = next(line.split() for line in lines if line.startswith("re-mapped beads, rms d"))
    assert float(beads[5]) < 0.003  # the simulation's own beads, to the digits of the files


def test_a_demo_that_was_interrupted_can_be_run_again(packaged, tmp_path, monkeypatch):
    demo = import_module("deepbackmap.api.demo")
    out = tmp_path / "out"

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "evaluate", interrupted)
        assert command("demo", "-o", out).code == 130
    assert not out.exists()
    # one that was killed has left a part of its files and its mark
    out.mkdir()
    for name in ("topol.top", "aa.xtc", ".cg.gro.1.part.gro", ".unfinished"):
        (out / name).write_text("half")
    (out / "evaluation").mkdir()
    (out / "evaluation" / "metrics.json").write_text("half")
    done = command("demo", "-o", out, "-q")
    assert (done.code, done.out) == (0, ""), done.err
    assert not list(out.rglob(".*"))
    assert "half" not in (out / "topol.top").read_text()


def test_models(packaged):
    done = command("models")
    assert done.code == 0
    assert done.out.startswith("tiny (default), ")
    assert "sweeps 0" in done.out
    (packaged / "models" / "tiny.safetensors").write_bytes(b"spoilt")
    done = command("models")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "tiny.safetensors: not a readable" in done.err
    (packaged / "models" / "tiny.safetensors").unlink()
    assert "expected packaged models, found none" in command("models").err

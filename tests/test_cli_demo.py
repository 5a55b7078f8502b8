"""``demo`` and ``models`` on a small melt and a model with random weights in place of ours."""

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
                     "aa.xtc.json", "comparison.txt", "check.mdp", "reference.xtc"}  # fmt: skip
    assert "<html" in (out / "evaluation" / "report.html").read_text()
    kept = contents(out)
    again = command("demo", "-o", out)
    assert (again.code, again.err.count("\n")) == (2, 1)
    assert "out: expected an empty folder, found files" in again.err
    assert contents(out) == kept


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

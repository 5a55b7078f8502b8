"""Verbs that are interrupted, and go on: the same bytes, and no frame done twice."""

import json
from importlib import import_module

import pytest

from cli_systems import command, refused, write_model, write_system
from deepbackmap.api.backmapping import _Backmapping
from deepbackmap.api.finisher import Finisher
from deepbackmap.baselines.placement import TemplatePlacer
from deepbackmap.jobs.journal import journal_of
from finish_systems import write_chains

BACKMAP = "backmap cg.gro cg.xtc -p topol.top --model model.safetensors --sweeps 0 --keep-defects"
FINISH = "finish aa.gro aa.trr -p topol.top --temperature 300 --steps 10 --engine internal \
--threads 1 --keep-defects"
EVALUATE = "evaluate --reference aa.xtc --generated a=aa.xtc --generated b=aa.xtc -s aa.gro \
-p topol.top --no-map --workers 1"
MD = "md --start one=aa.gro --start two=aa.gro -p topol.top --temperature 300 --time 1 \
--engine internal --threads 1 --pressure none --minimise 40"
BASELINE = "baseline cg.gro cg.xtc -p topol.top --mapping ps-two-bead --method template \
--no-minimise --temperature 400 --keep-defects"
CASES = {
    "baseline": (BASELINE, "out.trr", TemplatePlacer, "place", 3, ["--seed", 1]),
    "backmap": (BACKMAP, "out.trr", _Backmapping, "__call__", 3, ["--seed", 1]),
    "finish": (FINISH, "out.trr", Finisher, "finish", 2, ["--friction", 3]),
    "evaluate": (EVALUATE, "out", import_module("deepbackmap.api.evaluate"), "measure_frame", 9,
                 ["--frames", ":2"]),
    "md": (MD, "out", import_module("deepbackmap.api.md"), "_run", 2, ["--seed", 1]),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("deepbackmap.evaluation.comparison.SPLITS", 6)
    monkeypatch.setattr("deepbackmap.evaluation.comparison.RESAMPLES", 6)
    return tmp_path


def watched(monkeypatch, where, name, allowed):
    """Counts the frames that are done; after some, the user interrupts."""
    real, done = getattr(where, name), []

    def counting(*given, **named):
        if len(done) == allowed[0]:
            raise KeyboardInterrupt
        done.append(1)
        return real(*given, **named)

    monkeypatch.setattr(where, name, counting)
    return done


def results(path):
    """What a run made, without times and names of its own."""
    if path.is_file():
        return path.read_bytes()
    found = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    kept = {k: v for k, v in found.items() if k.endswith((".csv", ".gro", "metrics.json"))}
    assert kept
    return kept


@pytest.mark.parametrize("verb", CASES)
def test_an_interrupted_run_goes_on(verb, folder, monkeypatch):
    line, output, where, name, frames, other = CASES[verb]
    write_chains(folder) if verb in ("finish", "md") else write_system(folder)
    write_model(folder / "model.safetensors")
    words, journal = line.split(), journal_of(folder / output)
    whole = f"whole{(folder / output).suffix}"
    assert command(*words, "-o", whole).code == 0
    allowed = [1]
    done = watched(monkeypatch, where, name, allowed)
    outcome = command(*words, "-o", output)
    assert outcome.code == 130
    assert f"interrupted: 1 of {frames} frames are kept" in outcome.err
    assert journal.exists() and not (folder / output).exists()

    said = refused(*words, "-o", output, "--resume", *other)
    assert "expected the options and inputs of the run that is resumed, found other" in said
    assert other[0].removeprefix("--") in said
    assert journal.exists()

    allowed[0] = 99
    assert command(*words, "-o", output, "--resume").code == 0
    assert len(done) == frames
    assert results(folder / output) == results(folder / whole)
    assert not journal.exists()
    # without it all is made anew
    done.clear()
    allowed[0] = 1
    assert command(*words, "-o", output, "--force").code == 130
    done.clear()
    allowed[0] = 99
    assert command(*words, "-o", output, "--force").code == 0
    assert len(done) == frames
    assert not journal.exists()


@pytest.mark.parametrize("line", [BACKMAP, BASELINE], ids=["backmap", "baseline"])
def test_workers_make_the_bytes_of_one_process(line, folder):
    write_system(folder)
    write_model(folder / "model.safetensors")
    for name, more in (("one.trr", []), ("two.trr", ["--workers", 2])):
        assert command(*line.split(), "-o", name, *more).code == 0
    assert (folder / "one.trr").read_bytes() == (folder / "two.trr").read_bytes()
    one, two = (
        json.loads((folder / f"{n}.trr.json").read_text())["summary"] for n in ("one", "two")
    )
    assert one["figures"] == two["figures"]
    assert one["frames"] == two["frames"] == 3
    assert "workers: expected at least 1" in refused(*line.split(), "-o", "x.trr", "--workers", 0)


def test_evaluations_of_all_attempts_count(folder, monkeypatch):
    """A frame that is drawn anew costs what all its draws cost."""
    write_system(folder)
    module = import_module("deepbackmap.api.backmapping")
    words = "backmap cg.gro -p topol.top --model none --mapping ps-two-bead".split()  # noqa: SIM905
    words += ["--temperature", "300", "--relaxation", "4", "--bead-tolerance", "0.02"]
    words += ["--keep-defects", "--option", "pieces=64", "--option", "conformations=64"]
    monkeypatch.setattr(module, "verdict", lambda *_: ())
    assert command(*words, "-o", "a.gro").code == 0
    once = json.loads((folder / "a.gro.json").read_text())["summary"]
    monkeypatch.setattr(module, "worst", lambda _: "unusable")
    assert command(*words, "-o", "b.gro").code == 0
    summary = json.loads((folder / "b.gro.json").read_text())["summary"]
    assert (once["drawn_anew"], summary["drawn_anew"]) == (0, 1)
    each = once["held"]["force_evaluations_per_frame"]
    assert each > 0
    assert summary["held"]["force_evaluations_per_frame"] == module.ATTEMPTS * each

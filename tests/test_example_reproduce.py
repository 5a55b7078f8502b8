"""The example that makes the paper's figures: what is cached, and what it draws."""

import csv
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from deepbackmap.io.trajectory import open_writer, read_frames

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "reproduce_paper"))

import panels
import reproduce
import sentences

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"


def test_a_step_is_made_once_and_again_when_something_changed(tmp_path, capsys):
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


def test_a_step_that_fails_is_made_again(tmp_path):
    result = tmp_path / "out"

    def fail():
        result.write_text("half")
        raise KeyboardInterrupt

    step = reproduce.Step(result, {}, ())
    with pytest.raises(KeyboardInterrupt):
        step.run(fail)
    step.run(lambda: result.write_text("whole"))
    assert result.read_text() == "whole"


def test_a_step_follows_the_steps_before_it(tmp_path):
    first, second, made = tmp_path / "first", tmp_path / "second", []

    def both(seed):
        reproduce.Step(first, {"seed": seed}, ()).run(lambda: first.write_text("same"))
        reproduce.Step(second, {}, (first,)).run(lambda: (made.append(1), second.write_text("x")))

    both(0), both(0), both(1)
    assert len(made) == 2


def test_missing_data_are_one_line(tmp_path, capsys):
    assert reproduce.main(["--data", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "expected the reference data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def distribution(name, y=(0.4, 0.6)):
    return {"name": name, "edges": [0.0, 1.0, 2.0], "reference": list(y),
            "band": [[0.3, 0.5], [0.5, 0.7]], "methods": {"ours": [0.5, 0.5]}}  # fmt: skip


def metrics():
    """As ``metrics.json`` has them, of two bins and one method."""
    names = [panels.ANGLE, panels.DIHEDRAL, panels.IMPROPERS, *panels.OF_CARBONS]
    found = {
        "methods": [{"name": "ours", "score": {"value": 0.1, "error": 0.01}}],
        "score_floor": 0.01,
        "figures": [{"name": "dihedral C-C-C-C", "unit": "", "floor": 0.2,
                     "methods": {"ours": {"value": 0.3, "error": 0.0}}}],
        "distributions": [distribution(name) for name in names],
        "curves": [{"name": panels.RDF, "r": [0.1, 0.2], "reference": [0.0, 1.0],
                    "band": [[0.0, 0.9], [0.1, 1.1]], "methods": {"ours": [0.0, 1.2]}}],
        "structure_map": {"overlap": {"ours": {"mmd2": 0.1, "p_value": 0.5}}},
        "notes": [],
    }  # fmt: skip
    return json.loads(json.dumps(found))


def read_csv(path):
    with path.open(encoding="utf-8") as handle:
        return list(csv.reader(handle))


def test_a_sheet_has_a_panel_for_every_quantity_at_every_temperature(tmp_path):
    energies = {"reference": np.array([[-400.0, -410.0]]), "ours": np.array([[-390.0]])}
    shown = panels.Shown(metrics(), energies)
    panels.sheet(tmp_path, "fig5", {568: shown, 313: shown})
    rows = read_csv(tmp_path / "fig5.csv")[1:]
    assert {(r[0], r[1]) for r in rows} == {
        (t, letter) for t, letters in (("568", "acegi"), ("313", "bdfhj")) for letter in letters
    }
    assert {r[2] for r in rows if r[1] == "e"} == {panels.CARBONS, panels.IMPROPERS}
    assert {r[3] for r in rows} == {"reference", "ours"}
    assert (tmp_path / "fig5.png").stat().st_size > 10_000


def test_impropers_of_carbons_are_weighted_by_their_numbers():
    """A ring has six of its own carbons and one with the chain's: (6 a + b)/7."""
    found = metrics()
    ring, mixed = panels.OF_CARBONS
    found["distributions"] = [distribution(ring, (1.0, 0.0)), distribution(mixed, (0.3, 0.7))]
    mean = panels.carbon_impropers(found)
    assert mean["reference"] == pytest.approx([(6 * 1.0 + 0.3) / 7, 0.7 / 7])
    assert mean["methods"]["ours"] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("far", [-300.0, 5.0e6, -9.0e3])
def test_no_chain_is_left_out_of_the_energies(far):
    """Shares add up to one however far off a chain is, and the farthest is inside the axis."""
    rng = np.random.default_rng(0)
    reference = rng.normal(-400.0, 40.0, (4, 36))
    ours = reference.copy()
    ours[0, 0] = far
    figure = panels.Figure()
    axes = figure.add_subplot()
    curves = panels._energies(axes, {"reference": reference, "ours": ours})
    for curve in curves:
        assert curve.y.sum() == pytest.approx(1.0)
    nearest = np.abs(curves[1].x - far).argmin()
    assert curves[1].y[nearest] >= 1 / ours.size
    bends = axes.get_xscale() == "function"
    assert bends == (far > 0 or far < -5e3)


def test_the_bent_scale_goes_back_and_is_straight_near_its_middle():
    bend, straighten = panels.bent(-400.0, 320.0)
    x = np.array([-1e4, -500.0, -400.0, -300.0, 1e6])
    assert straighten(bend(x)) == pytest.approx(x)
    assert bend(x)[2] == 0.0
    assert bend(x)[3] == pytest.approx(100.0 / 320.0, rel=0.02)


def test_the_table_of_figures(tmp_path):
    reproduce.write_table(tmp_path / "table.csv", metrics())
    assert read_csv(tmp_path / "table.csv") == [
        ["figure", "unit", "floor", "ours"], ["score", "", "0.01", "0.1"],
        ["dihedral C-C-C-C", "", "0.2", "0.3"],
    ]  # fmt: skip


def test_one_map_tells_temperatures_apart(tmp_path):
    found = {"samples": ["reference", "ours", "reference"], "temperatures": [568, 568, 313],
             "sample": [0, 1, 2], "frame": [0, 0, 4], "molecule": [1, 1, 2],
             "points": [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]}  # fmt: skip
    panels.structure_map(tmp_path, found)
    assert read_csv(tmp_path / "fig6.csv")[3] == ["313", "reference", "4", "2", "2.0", "2.0"]
    assert (tmp_path / "fig6.png").stat().st_size > 10_000


def write_run(folder, name, windows, inside):
    folder.mkdir()
    (folder / "energy.csv").write_text(f"start,time,potential\n{name},0,90\n{name},1,110\n")
    summary = {"runs": [{"windows": windows, "inside_from": inside, "minimisation": 7}],
               "band": {"mean": 100.0, "sd": 5.0, "low": 90.0, "high": 110.0}}  # fmt: skip
    (folder / "md.json").write_text(json.dumps({"summary": summary}))
    return folder


def test_sentences_have_our_figures_beside_the_floor(tmp_path):
    runs = {"reference": write_run(tmp_path / "a", "reference", [101.0, 99.0], 0.0),
            "ours": write_run(tmp_path / "b", "ours", [150.0, 140.0], None)}  # fmt: skip
    rows = [*sentences.rows({568: metrics()}), *sentences.md_rows(568, runs)]
    by_title = {r[3]: dict(zip(sentences.HEAD[4:], r[4:], strict=True)) for r in rows}
    floor = sentences.HEAD[4]
    assert by_title["score: mean of eleven divergences"] == {
        floor: 0.01, "paper": None, "paper baseline": None, "ours": 0.1, "ours adversarial": None,
    }  # fmt: skip
    first = by_title["first picosecond's energy, from the reference's mean / sd"]
    assert (first[floor], first["ours"]) == (0.2, 10.0)
    until = by_title["in the reference's band from / ps"]
    assert (until[floor], until["ours"]) == (0.0, "never")
    title = "force evaluations of a minimisation without which it could not be run"
    assert (by_title[title]["ours"], by_title[title]["paper"]) == (7, None)
    assert by_title["MMD²; between halves of the reference"]["ours"] == 0.1
    sentences.write(tmp_path, rows)
    assert len(read_csv(tmp_path / "sentences.csv")) == 1 + len(rows)
    lines = (tmp_path / "sentences.md").read_text().splitlines()
    assert {line.count("|") for line in lines} == {len(sentences.HEAD) + 1}
    panels.molecular_dynamics(tmp_path, 568, runs, ["paper baseline"])
    assert read_csv(tmp_path / "figS7.csv")[1:3] == [
        ["reference", "0.0", "90.0"], ["reference", "1.0", "110.0"],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The packaged melt in the place of the data, noise on it in that of published structures."""
    folder = tmp_path_factory.mktemp("data") / "sps"
    folder.mkdir()
    for name in ("topol.top", "PS.itp", "aa.gro", "cg.gro"):
        shutil.copyfile(MELT / name, folder / name)
    rng = np.random.default_rng(0)
    for temperature in (568, 453):
        for kind, noise in (("aa", 0.0), ("paper_deepbackmap", 0.003), ("paper_baseline", 0.006)):
            with (
                read_frames(MELT / "aa.gro", MELT / "aa.xtc") as source,
                open_writer(folder / f"test_{temperature}K_{kind}.xtc", source.table) as writer,
            ):
                for frame in source:
                    moved = frame.positions + noise * rng.normal(size=frame.positions.shape)
                    writer.write(replace(frame, positions=moved))
        shutil.copyfile(MELT / "cg.xtc", folder / f"test_{temperature}K_cg.xtc")
    return folder.parent


def test_the_small_form_from_beginning_to_end(published, tmp_path, capsys):
    """One command makes every figure; a second one makes nothing anew."""
    call = ["--data", str(published), "-o", str(tmp_path), "--temperatures", "568", "453",
            "--frames", "2", "--adversarial-frames", "1", "--candidates", "1", "--time", "1",
            "--md-temperature", "453", "--adversarial", "ps-two-bead-568K"]  # fmt: skip
    assert reproduce.main(call) == 0
    for stem in ("fig5", "figS3-S5", "fig6", "figS7"):
        assert (tmp_path / f"{stem}.png").stat().st_size > 10_000
        assert len(read_csv(tmp_path / f"{stem}.csv")) > 50
    panels_of = {
        stem: {r[1] for r in read_csv(tmp_path / f"{stem}.csv")[1:]}
        for stem in ("fig5", "figS3-S5")
    }
    assert panels_of == {"fig5": set("abcde"), "figS3-S5": set("abcde")}
    samples = {r[3] for r in read_csv(tmp_path / "fig5.csv")[1:]}
    assert samples == {"reference", "paper", "paper baseline", "ours", "ours adversarial"}
    rows = {r[3]: r for r in read_csv(tmp_path / "sentences.csv") if r[2] == "453"}
    assert float(rows["score: mean of eleven divergences"][7]) < 0.2
    began = {r[0] for r in read_csv(tmp_path / "figS7.csv")[1:]}
    assert began == samples
    capsys.readouterr()
    assert reproduce.main(call) == 0
    assert not re.search(r": making", capsys.readouterr().out)

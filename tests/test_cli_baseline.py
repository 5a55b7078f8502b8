"""``deepbackmap baseline`` from the command line, with an engine that only counts."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

import deepbackmap.api.baseline  # noqa: F401 (the module: the package's name is the function)
from cli_systems import command, contents, refused, write_system
from deepbackmap.baselines.templates import read_templates, write_templates
from deepbackmap.dynamics.containers import EngineError, Segment
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.mapping import load_mapping

api_baseline = sys.modules["deepbackmap.api.baseline"]


class CountingEngine:
    """Moves every atom a little at every step, and knows what it was asked for."""

    name = "counting"

    def __init__(self):
        self.asked = []

    def minimise(self, structure, options, hold=None):
        self.asked.append(options)
        moved = replace(structure, positions=structure.positions + 1e-6 * options.steps)
        none = np.zeros(0, dtype=np.int64)
        return Segment(moved, None, none, {}, (), options.steps)

    def run(self, structure, options, velocities=None, hold=None):
        raise AssertionError("a baseline runs no dynamics")


class FailingEngine(CountingEngine):
    def minimise(self, structure, options, hold=None):
        raise EngineError("expected finite forces, found NaN on atom 7 of molecule 2")


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    return folder


@pytest.fixture
def melt(template, tmp_path, monkeypatch):
    """A copy to spoil; commands run inside it, so that messages hold bare names."""
    folder = tmp_path / "melt"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def engine(monkeypatch):
    made = CountingEngine()
    monkeypatch.setattr(api_baseline, "_engine", lambda topology, name: made)
    return made


GOOD = ("baseline", "cg.gro", "cg.xtc", "-p", "topol.top", "--mapping", "ps-two-bead")


def frames(path):
    with read_frames("aa.gro", path) as source:
        return list(source)


def test_templates_of_the_package(melt, engine):
    """Three frames, minimised once each with stiff bonds; the record says so."""
    outcome = command(*GOOD, "--method", "template", "-o", "out.xtc")
    assert outcome.code == 0, outcome.err
    assert "3 frames of 150 atoms" in outcome.out
    assert "0 of 18 inverted" in outcome.out
    made = frames("out.xtc")
    assert [f.time for f in made] == [0.0, 10.0, 20.0]
    assert [(o.steps, o.nonbonded) for o in engine.asked] == [(300, True)] * 3
    assert all(o.bond_constant >= 1e5 for o in engine.asked)
    record = json.loads((melt / "out.xtc.json").read_text())
    assert record["summary"]["force_evaluations"] == 300
    assert record["summary"]["engine"] == "counting"
    assert record["summary"]["figures"]["hands"]["wrong"] == 0
    assert record["summary"]["figures"]["beads"]["rms"] < 0.02
    assert record["options"]["method"] == "template"
    assert sorted(contents(melt)) == sorted(
        ["aa.gro", "aa.xtc", "cg.gro", "cg.xtc", "topol.top", "PS.itp", "out.xtc", "out.xtc.json"]
    )


def test_the_papers_baseline(melt, engine):
    """200 steps without and 5 000 with non-bonded interactions, bonds as the topology has them."""
    outcome = command(*GOOD, "--method", "backward", "--modifiers", "polystyrene", "-o", "out.gro",
                      "--frames", "1", "--kick", "0.01", "--keep-defects")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert outcome.err.startswith("deepbackmap: WARNING, unusable: expected atoms at least")
    assert [(o.steps, o.nonbonded, o.bond_constant) for o in engine.asked] == [
        (200, False, None), (5000, True, None)
    ]  # fmt: skip
    assert "5200 force evaluations a frame" in outcome.out
    assert len(frames("out.gro")) == 1


def test_templates_learned_from_atoms(melt):
    """Beads of the very frames that they are learned from give their atoms."""
    outcome = command(*GOOD, "--method", "template", "--templates-from", "aa.xtc", "--structure",
                      "aa.gro", "--no-minimise", "-o", "out.xtc", "-q",
                      "--keep-defects")  # fmt: skip
    assert (outcome.code, outcome.out) == (0, "")
    record = json.loads((melt / "out.xtc.json").read_text())
    assert record["summary"]["engine"] is None
    assert record["minimisation"] == []
    assert record["summary"]["figures"]["beads"]["rms"] < 0.005
    for made, true in zip(frames("out.xtc"), frames("aa.xtc"), strict=True):
        assert np.median(np.linalg.norm(made.positions - true.positions, axis=1)) < 0.02


def test_one_bead_a_monomer(melt):
    outcome = command("map", "aa.gro", "-p", "topol.top", "--mapping", "ps-one-bead", "-o", "b.gro")
    assert outcome.code == 0, outcome.err
    outcome = command("baseline", "b.gro", "-p", "topol.top", "--mapping", "ps-one-bead",
                      "--method", "template", "--no-minimise", "--temperature", "568",
                      "-o", "out.gro")  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "0 of 6 inverted" in outcome.out


def test_the_same_frame_comes_out_alone(melt):
    for name, which in (("all.xtc", "0:3"), ("one.xtc", "2:3")):
        outcome = command(*GOOD, "--method", "template", "--no-minimise", "--temperature", "500",
                          "--frames", which, "-o", name)  # fmt: skip
        assert outcome.code == 0, outcome.err
    np.testing.assert_array_equal(frames("all.xtc")[2].positions, frames("one.xtc")[0].positions)


def bad_modifiers(melt):
    (melt / "m.txt").write_text("[ residue ]\nPS*\n[ out ]\nC1 CB CX\n")


def without_box(melt):
    lines = (melt / "cg.gro").read_text().splitlines()
    lines[-1] = "   0.00000   0.00000   0.00000"
    (melt / "cg.gro").write_text("\n".join(lines) + "\n")


def other_templates(melt):
    packaged = read_templates(api_baseline.packaged_templates()["ps-two-bead"])
    rings = tuple(f for f in packaged.fragments if f.bead_type == "B")
    write_templates(replace(packaged, fragments=rings), melt / "rings.npz")


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, ["--method", "martini"], "method: expected one of backward, template, found 'ma"),
        (None, ["--method", "backward", "--kick", "-0.1"], "kick: expected a displacement in nm"),
        (bad_modifiers, ["--method", "backward", "--modifiers", "m.txt"],
         "m.txt line 4: expected atoms of residue PS*"),
        (None, ["--method", "backward", "--modifiers", "none"], "none: expected a modifiers file"),
        (None, ["--method", "backward", "--templates", "x.npz"], "method: expected template with"),
        (None, ["--method", "template", "--kick", "0.1"], "method: expected backward with mod"),
        (None, ["--method", "template", "--templates", "x.npz"], "x.npz: expected a templates fi"),
        (None, ["--method", "template", "--templates-from", "aa.xtc"],
         "aa.xtc: expected its names in a structure as well"),
        (None, ["--method", "template", "--temperature", "-5"], "temperature: expected a number"),
        (other_templates, ["--method", "template", "--templates", "rings.npz"],
         "rings.npz: expected templates for bead B1 of molecule PS1 of type A"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(melt, spoil, options, message):
    if spoil is not None:
        spoil(melt)
    before = contents(melt)
    assert message in refused(*GOOD, *options, "--no-minimise", "-o", "out.xtc")
    assert contents(melt) == before


def test_no_box_is_refused(melt):
    without_box(melt)
    said = refused(*GOOD[:2], *GOOD[3:], "--method", "template", "--no-minimise", "-o", "out.gro")
    assert "cg.gro frame 0: expected a periodic box, found none" in said


def test_beads_of_another_mapping_are_refused(melt):
    said = refused(*GOOD[:6], "ps-one-bead", "--method", "template", "-o", "out.xtc")
    assert "cg.gro: expected bead M1 at position 1 of molecule 1 (PS1), found B1" in said


def test_a_mapping_without_templates_is_refused(melt):
    (melt / "own.yaml").write_text(load_mapping("ps-two-bead").to_text())
    said = refused(*GOOD[:6], "own.yaml", "--method", "template", "-o", "out.xtc")
    assert "templates: expected a file or structures to learn them from for mapping own" in said


def test_an_engine_that_fails_leaves_nothing(melt, monkeypatch):
    monkeypatch.setattr(api_baseline, "_engine", lambda topology, name: FailingEngine())
    before = contents(melt)
    said = refused(*GOOD, "--method", "template", "-o", "out.xtc")
    assert said == "cg.xtc frame 0: expected finite forces, found NaN on atom 7 of molecule 2"
    assert contents(melt) == before


def test_outputs_are_kept_unless_forced(melt):
    run = (*GOOD, "--method", "template", "--no-minimise", "-o", "out.xtc")
    assert command(*run).code == 0
    assert "out.xtc: expected no file of that name" in refused(*run)
    assert command(*run, "--force").code == 0


def test_broken_beads_are_refused(melt):
    """Beads of one molecule farther apart than half the cell."""
    with read_frames("cg.gro") as source:
        frame, table = source[0], source.table
    frame.positions[1] += 0.5 * frame.box.sum(axis=0)
    with open_writer("far.gro", table) as writer:
        writer.write(frame)
    said = refused("baseline", "far.gro", *GOOD[3:], "--method", "backward", "--no-minimise",
                   "-o", "out.gro")  # fmt: skip
    assert "far.gro frame 0: expected bonded beads" in said
    assert "where it should be?" in said

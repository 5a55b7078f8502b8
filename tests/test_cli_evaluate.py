"""``deepbackmap evaluate``: what it writes, and what it refuses."""

import csv
import json
import re
import shutil
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from cli_systems import BOX, command, contents, refused, write_system
from deepbackmap.evaluation.export import metrics_schema
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.system import Structure

FILES = {"metrics.json", "metrics.csv", "report.html", "record.json"}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Statistics have tests of their own; here each resample costs time that checks take."""
    monkeypatch.setattr("deepbackmap.evaluation.comparison.SPLITS", 6)
    monkeypatch.setattr("deepbackmap.evaluation.comparison.RESAMPLES", 6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A melt of three chains (its noise makes the reference's frames differ)."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_system(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def frames_of(folder, name="aa.xtc"):
    with read_frames(folder / "aa.gro", folder / name) as source:
        return list(source)


def write(folder, name, frames, table=None):
    table = table or atom_table(read_topology(folder / "topol.top"))
    with open_writer(folder / name, table) as writer:
        for frame in frames:
            writer.write(frame)
    return folder / name


def arguments(folder, *generated, reference="aa.xtc"):
    named = [f"{name}={folder / file}" for name, file in generated]
    options = [x for entry in named for x in ("--generated", entry)]
    return ("evaluate", "--reference", folder / reference, *options, "-s", folder / "aa.gro",
            "-p", folder / "topol.top", "-o", folder / "out", "--no-map")  # fmt: skip


def noisy(folder, scale=0.01, seed=1):
    rng = np.random.default_rng(seed)
    return [
        replace(f, positions=f.positions + scale * rng.normal(size=f.positions.shape))
        for f in frames_of(folder)
    ]


def test_a_folder_with_everything(folder):
    write(folder, "bad.xtc", noisy(folder))
    beads = ("--beads", folder / "cg.xtc", "--mapping", "ps-two-bead")
    call = arguments(folder, ("same", "aa.xtc"), ("bad", "bad.xtc"))
    outcome = command(*call, *beads, "--temperature", 300)
    assert outcome.code == 0, outcome
    assert {p.name for p in (folder / "out").iterdir()} == FILES
    content = json.loads((folder / "out" / "metrics.json").read_text())
    jsonschema.validate(content, metrics_schema())
    assert [m["name"] for m in content["methods"]] == ["same", "bad"]
    assert content["methods"][0]["score"]["value"] == 0.0
    assert content["methods"][1]["score"]["value"] > content["score_floor"] > 0.0
    figures = {f["name"]: f for f in content["figures"]}
    back = figures["re-mapped beads, rms distance"]["methods"]
    assert back["same"]["value"] < 0.001 < back["bad"]["value"] < 0.01
    assert content["temperature"] == 300.0
    with (folder / "out" / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert rows[0]["figure"] == "score"
    assert {row["method"] for row in rows} == {"same", "bad"}
    page = (folder / "out" / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "same" in outcome.out and "bad" in outcome.out
    assert re.search(r"^score +0\.0000 +0\.\d{4} +0\.\d{4}$", outcome.out, re.MULTILINE)
    # the same again, and only with force
    before = contents(folder / "out")
    assert "expected no such folder" in refused(*call)
    assert contents(folder / "out") == before
    assert command(*call, *beads, "--temperature", 300, "--force", "--workers", 2).code == 0
    assert contents(folder / "out")["metrics.json"] == before["metrics.json"]


def test_frames_are_chosen_and_keep_their_numbers(folder):
    write(folder, "bad.xtc", noisy(folder))
    call = arguments(folder, ("bad", "bad.xtc"))
    chosen = ("--frames", "1:3", "--reference-frames", "0:2")
    beads = ("--beads", folder / "cg.xtc", "--mapping", "ps-two-bead")
    assert command(*call, *chosen, *beads).code == 0
    content = json.loads((folder / "out" / "metrics.json").read_text())
    assert (content["methods"][0]["n_frames"], content["n_reference"]) == (2, 2)
    assert {v["frame"] for v in content["methods"][0]["worst"]} <= {1, 2}
    own = next(f for f in content["figures"] if f["name"] == "re-mapped beads, rms distance")
    # the wrong beads are further away than the right ones
    assert command(*call, *chosen, *beads, "--bead-frames", "2::-1", "--force").code == 2
    assert command(*call, *chosen, *beads, "--bead-frames", "1::-1", "--force").code == 0
    content = json.loads((folder / "out" / "metrics.json").read_text())
    other = next(f for f in content["figures"] if f["name"] == "re-mapped beads, rms distance")
    assert own["methods"]["bad"]["value"] != other["methods"]["bad"]["value"]


def test_one_reference_frame_is_evaluated_without_a_floor(folder):
    outcome = command(*arguments(folder, ("x", "aa.xtc")), "--reference-frames", "0")
    assert outcome.code == 0, outcome
    assert "there is no noise floor" in outcome.out
    content = json.loads((folder / "out" / "metrics.json").read_text())
    jsonschema.validate(content, metrics_schema())
    assert content["score_floor"] is None
    assert all(f["floor"] is None for f in content["figures"])


def no_trace(folder):
    """Neither the output nor anything beside it."""
    assert not [p for p in folder.iterdir() if "out" in p.name]


def test_another_number_of_atoms(folder):
    frames = [replace(f, positions=f.positions[:-3]) for f in frames_of(folder)]
    table = atom_table(read_topology(folder / "topol.top"))
    short = replace(
        table, names=table.names[:-3], resnames=table.resnames[:-3], resids=table.resids[:-3],
        types=(), masses=None, charges=None, molecules=None,
    )  # fmt: skip
    write(folder, "short.xtc", frames, short)
    said = refused(*arguments(folder, ("x", "short.xtc")))
    assert f"short.xtc: expected {table.n} particles as in" in said
    assert f"found {table.n - 3}" in said
    write(folder, "short.gro", frames[:1], short)
    said = refused(*arguments(folder, ("x", "short.gro")))
    assert "the end of the file" in said
    assert "of molecule 3" in said
    no_trace(folder)


def test_another_order_of_atoms(folder):
    """Names tell where there are names; where there are none, bonds do."""
    order = np.arange(atom_table(read_topology(folder / "topol.top")).n)
    order[[0, 5]] = order[[5, 0]]
    table = atom_table(read_topology(folder / "topol.top"))
    names = tuple(table.names[k] for k in order)
    swapped = [replace(f, positions=f.positions[order]) for f in frames_of(folder)]
    write(folder, "swapped.gro", swapped[:1], replace(table, names=names))
    said = refused(*arguments(folder, ("x", "swapped.gro")))
    assert re.search(r"swapped.gro: expected atom \w+ at position 1 of molecule 1", said)
    backwards = [replace(f, positions=f.positions[::-1]) for f in frames_of(folder)]
    write(folder, "backwards.xtc", backwards)
    said = refused(*arguments(folder, ("x", "backwards.xtc")))
    assert re.search(r"backwards.xtc, frame 0: expected bonds near their lengths", said)
    assert "in the order of the topology?" in said
    no_trace(folder)


@pytest.mark.parametrize(
    ("box", "complaint"),
    [
        (BOX * 1.05, r"frame 1: expected a box like the reference's, of [\d.]+ to [\d.]+ nm\^3"),
        (
            np.diag([2.01, 2.01, np.linalg.det(BOX) / 2.01**2]),
            r"frame 1: .* with its third lattice vector of [\d.]+ to [\d.]+ nm, found 3\.",
        ),
    ],
)
def test_another_box(folder, box, complaint):
    frames = frames_of(folder)
    frames[1] = Structure(frames[1].positions, box)
    write(folder, "box.xtc", frames)
    assert re.search(complaint, refused(*arguments(folder, ("x", "box.xtc"))))
    no_trace(folder)


def test_the_same_lattice_in_other_vectors_is_the_same_box(folder):
    """The reference's box may flip between descriptions of one lattice."""
    other = BOX.copy()
    other[2] += BOX[0]
    write(folder, "other.xtc", [replace(f, box=other) for f in frames_of(folder)])
    assert command(*arguments(folder, ("x", "other.xtc"))).code == 0
    content = json.loads((folder / "out" / "metrics.json").read_text())
    assert content["methods"][0]["score"]["value"] == pytest.approx(0.0, abs=1e-4)


def test_overlapping_atoms_are_a_verdict_and_coincident_ones_refused(folder):
    frames = frames_of(folder)
    size = frames[0].n // 3

    def moved(apart):
        positions = frames[2].positions.copy()
        positions[size] = positions[0] + [apart, 0.0, 0.0]
        return [*frames[:2], replace(frames[2], positions=positions)]

    write(folder, "over.xtc", moved(0.01))
    outcome = command(*arguments(folder, ("x", "over.xtc")))
    assert outcome.code == 0, outcome
    line = next(text for text in outcome.out.splitlines() if "Atoms overlap" in text)
    assert "bad" in line and "in frame 2" in line
    assert "of molecule 1" in line and "of molecule 2" in line
    shutil.rmtree(folder / "out")
    write(folder, "coincident.xtc", moved(0.0))
    said = refused(*arguments(folder, ("x", "coincident.xtc")))
    assert re.search(r"coincident.xtc, frame 2: expected atoms that are apart, .* found \w+", said)
    no_trace(folder)


def test_a_topology_without_lennard_jones(folder):
    text = (folder / "topol.top").read_text()
    included = [folder / name for name in re.findall(r'#include "(.+?)"', text)]
    for path in (folder / "topol.top", *included):
        lines, section = [], ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[ ]")
            elif section == "atomtypes" and line.split() and not line.startswith(";"):
                words = line.split()
                line = " ".join([*words[:-2], "0.0", "0.0"])
            elif section == "nonbond_params" and not line.startswith(";"):
                continue
            lines.append(line)
        path.write_text("\n".join(lines) + "\n")
    said = refused(*arguments(folder, ("x", "aa.xtc")))
    assert "topol.top: expected Lennard-Jones parameters" in said
    no_trace(folder)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--generated", "y"], "generated: expected NAME=FILE, found 'y'"),
        (["--generated", "=y.xtc"], "generated: expected NAME=FILE, found '=y.xtc'"),
        (["--generated", "x=y.xtc"], "generated: expected each name once, found 'x' again"),
        (["--generated", "reference=y.xtc"], "name other than 'reference'"),
        (["--generated", "y=none.xtc"], "none.xtc: expected a file, found none"),
        (["--temperature", "0"], "temperature: expected more than 0 K, found 0"),
        (["--seed", "-1"], "seed: expected a whole number from 0"),
        (["--workers", "0"], "workers: expected at least 1"),
        (["--beads", "cg.xtc"], "mapping: expected together with beads"),
        (["--mapping", "ps-two-bead"], "beads: expected together with mapping"),
        (["--bead-frames", "0:1"], "bead_frames: expected together with beads"),
        (["--frames", "7:9"], "expected frames 7:9 to choose some of its 3 frames"),
    ],
)
def test_options_that_make_no_sense(folder, options, complaint):
    assert complaint in refused(*arguments(folder, ("x", "aa.xtc")), *options)
    no_trace(folder)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--map-centres", "name QQ"], "expected the selection 'name QQ' to choose heavy atoms"),
        (["--map-unit", "chain"], "map_unit: expected one of molecule, frame, found 'chain'"),
    ],
)
def test_a_map_of_nothing(folder, options, complaint):
    call = [x for x in arguments(folder, ("x", "aa.xtc")) if x != "--no-map"]
    assert complaint in refused(*call, *options)
    no_trace(folder)


def test_a_map_around_chosen_centres(folder):
    write(folder, "many.xtc", frames_of(folder) * 2)
    call = arguments(folder, ("x", "many.xtc"), reference="many.xtc")
    chosen = ("--map-centres", "type C_AR", "--map-unit", "frame")
    assert command(*[x for x in call if x != "--no-map"], *chosen).code == 0
    found = json.loads((folder / "out" / "metrics.json").read_text())["structure_map"]
    assert found["settings"]["a structure"] == "frame"
    assert found["settings"]["centres"] == "selection type C_AR"
    assert found["overlap"]["x"]["mmd2"] == pytest.approx(0.0, abs=1e-6)


def test_names_are_needed(folder):
    call = list(arguments(folder, ("x", "aa.xtc")))
    k = call.index("-s")
    del call[k : k + 2]
    assert "aa.xtc: expected a structure with the names of its atoms" in refused(*call)


def test_too_few_beads(folder):
    with read_frames(folder / "cg.gro", folder / "cg.xtc") as source:
        table, frames = source.table, list(source)
    write(folder, "few.xtc", frames[:2], table)
    said = refused(
        *arguments(folder, ("x", "aa.xtc")),
        "--beads", folder / "few.xtc", "--mapping", "ps-two-bead",
    )  # fmt: skip
    assert "few.xtc: expected beads for every frame of" in said
    assert "up to number 2, found 2 frames" in said
    no_trace(folder)


def test_force_replaces_an_evaluation_only(folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.tex").write_text("years")
    call = arguments(folder, ("x", "aa.xtc"))
    assert "expected no such folder" in refused(*call)
    assert "expected a folder with metrics.json to replace" in refused(*call, "--force")
    assert (folder / "out" / "thesis.tex").read_text() == "years"
    (folder / "out" / "thesis.tex").unlink()
    assert command(*call).code == 0  # an empty folder is no loss


def test_a_failure_at_the_end_leaves_nothing(folder, monkeypatch):
    def fails(*_):
        raise RuntimeError("a bug")

    call = arguments(folder, ("x", "aa.xtc"))
    assert command(*call).code == 0
    before = contents(folder / "out")
    monkeypatch.setattr("deepbackmap.report.render_report", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        command(*call, "--force")
    assert contents(folder / "out") == before
    # what was measured is kept, as of any run that stops
    left = {p.name for p in folder.iterdir() if "out" in p.name}
    assert left == {"out", ".out.journal"}


def test_what_frames_show_by_themselves_is_said_everywhere(folder):
    """One hand turned over and some noise: figures, finding, verdict, page, record, one line."""
    frames = noisy(folder, 0.02)
    turned = replace(frames[0], positions=frames[0].positions * [1.0, 1.0, -1.0],
                     box=frames[0].box * [[1, 1, -1], [1, 1, -1], [-1, -1, 1]])  # fmt: skip
    write(folder, "bad.xtc", [turned, *frames[1:]])
    call = arguments(folder, ("same", "aa.xtc"), ("bad", "bad.xtc"))
    outcome = command(*call, "--temperature", 300, "-q")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.startswith("deepbackmap: WARNING, unusable: ")
    assert outcome.err.count("\n") == 1
    content = json.loads((folder / "out" / "metrics.json").read_text())
    jsonschema.validate(content, metrics_schema())
    same, bad = content["methods"]
    table = {f["name"]: f["methods"] for f in content["figures"]}
    for method in (same, bad):
        found, frames = method["figures"], method["n_frames"]
        assert found["frames"] == frames
        inverted = table["inverted stereocentres"][method["name"]]["value"]
        assert 100 * found["hands"]["by_order"] / found["hands"]["known"] == pytest.approx(inverted)
        clashes = table["pairs closer than 0.6 sigma"][method["name"]]["value"]
        assert found["contacts"]["clashes"] / frames == pytest.approx(clashes)
    assert same["figures"]["hands"]["wrong"] == 0
    assert bad["figures"]["hands"]["wrong"] >= same["figures"]["hands"]["known"] / 3
    hands = [f for f in bad["findings"] if "stereocentre" in f["sentence"]]
    assert [f["severity"] for f in hands] == ["unusable"]
    assert any(hands[0]["sentence"] in s["text"] for s in bad["verdict"])
    assert "Not usable: expected every stereocentre" in (folder / "out/report.html").read_text()
    record = json.loads((folder / "out" / "record.json").read_text())
    assert record["input"]["generated"]["bad"]["sha256"]
    assert record["summary"]["bad"]["findings"] == bad["findings"]
    assert record["options"]["temperature"] == 300


def test_frames_that_are_fine_are_not_spoken_of(folder):
    outcome = command(*arguments(folder, ("same", "aa.xtc")), "-q")
    content = json.loads((folder / "out" / "metrics.json").read_text())
    grave = [f for f in content["methods"][0]["findings"] if f["severity"] != "fine"]
    assert bool(outcome.err) == bool(grave), outcome.err

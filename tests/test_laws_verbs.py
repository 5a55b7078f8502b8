"""What every verb promises, and how its answer follows its input."""

import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import interruptions
from cli_systems import command, contents
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole
from fuzz_doors import ALL, BARE, FRAMES, MAPPINGS
from fuzz_files import beads_off, write_whole
from laws import permutation

WRITERS = {v: c for v, c in interruptions.COMMANDS.items() if v != "train"}
"""Verbs with an output that is made at once."""
INPUTS = {
    "map": ("aa.gro", "aa.xtc", "topol.top", "map.yaml"),
    "backmap": ("cg.gro", "cg.xtc", "topol.top", "points.safetensors"),
    "baseline": ("cg.gro", "cg.xtc", "topol.top", "map.yaml"),
    "finish": ("aa.gro", "aa.xtc", "topol.top"),
    "evaluate": ("good.xtc", "aa.xtc", "aa.gro", "topol.top"),
    "md": ("relaxed.gro", "topol.top"),
    "infer": ("aa.gro", "cg.gro", "topol.top"),
    "draft": ("topol.top",),
    "train": ("aa.gro", "aa.xtc", "topol.top"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs") / "whole"
    write_whole(folder)
    return folder


@pytest.fixture
def place(whole, tmp_path):
    """A copy of all inputs, and the current folder."""
    shutil.copytree(whole, tmp_path / "x")
    before = Path.cwd()
    os.chdir(tmp_path / "x")
    yield tmp_path / "x"
    os.chdir(before)


def words_of(verb):
    return interruptions.words_of(verb)


def outputs(verb):
    """The output of a verb and its record, if it makes one."""
    words = interruptions.COMMANDS[verb].split()
    return Path(words[words.index("-o" if "-o" in words else "--run") + 1])


@pytest.mark.parametrize(("verb", "name"), [(v, n) for v, names in INPUTS.items() for n in names])
def test_a_missing_input_is_one_line_that_names_it(verb, name, place):
    (place / name).unlink()
    before = contents(place)
    done = command(*words_of(verb))
    assert done.code == 2
    assert done.err.startswith("deepbackmap: ")
    assert done.err.count("\n") == 1
    assert name in done.err
    assert contents(place) == before


@pytest.mark.parametrize(("verb", "name"), [(v, n) for v, names in INPUTS.items() for n in names])
def test_an_empty_input_is_one_line_and_leaves_nothing(verb, name, place):
    (place / name).write_bytes(b"")
    before = contents(place)
    done = command(*words_of(verb))
    assert done.code == 2, done
    assert done.err.startswith("deepbackmap: ")
    assert contents(place) == before


@pytest.mark.parametrize("verb", WRITERS)
def test_what_is_there_is_not_written_over_unless_forced(verb, place):
    output = outputs(verb)
    if output.suffix:
        output.write_text("mine")
    else:
        output.mkdir()
        (output / "x").write_text("mine")
    before = contents(place)
    done = command(*words_of(verb))
    assert done.code == 2
    assert str(output) in done.err
    assert "force" in done.err
    assert contents(place) == before


@pytest.mark.parametrize("verb", [v for v, c in WRITERS.items() if "out.xtc" in c])
def test_an_output_that_is_an_input_is_refused_even_if_forced(verb, place):
    before = contents(place)
    words = words_of(verb)
    for name in (n for n in INPUTS[verb] if n in words):
        mine = [*words[:-1], "--force", "-q"] if words[-1] == "-q" else [*words, "--force"]
        mine[mine.index("-o") + 1] = name
        done = command(*mine)
        assert done.code == 2, name
        assert "none of the inputs" in done.err
    assert contents(place) == before


QUICK = ("map", "baseline", "backmap", "infer", "draft")


@pytest.mark.parametrize("verb", QUICK)
def test_the_same_command_gives_the_same_bytes(verb, place):
    first = {}
    for _ in range(2):
        for path in (outputs(verb), Path(f"{outputs(verb)}.json")):
            path.unlink(missing_ok=True)
        done = command(*words_of(verb))
        assert done.code == 0, done
        found = outputs(verb).read_bytes()
        assert first.setdefault(verb, found) == found


@pytest.mark.parametrize("verb", ["map", "backmap", "baseline", "finish"])
def test_a_record_holds_the_hashes_of_its_inputs_and_the_seed(verb, place):
    done = command(*words_of(verb))
    assert done.code == 0, done
    record = json.loads(Path(f"{outputs(verb)}.json").read_text())
    text = json.dumps(record)
    for name in INPUTS[verb]:
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() in text, name
    assert record["seed"] == (None if verb == "map" else 0)
    assert record["summary"]["frames"] == len(frames_of(outputs(verb), verb))
    assert record["versions"]["numpy"] == np.__version__
    assert record["options"]


def frames_of(path, verb):
    with read_frames("cg.gro" if verb == "map" else "aa.gro", path) as source:
        return list(source)


@pytest.mark.parametrize("verb", ["map", "backmap", "baseline", "finish"])
def test_a_record_that_is_there_is_not_written_over_either(verb, place):
    Path(f"{outputs(verb)}.json").write_text("mine")
    before = contents(place)
    done = command(*words_of(verb))
    assert done.code == 2
    assert f"{outputs(verb)}.json: expected no file of that name" in done.err
    assert contents(place) == before


@pytest.mark.parametrize("kind", ALL)
def test_atoms_of_every_format_have_the_same_beads(kind, place):
    files = ["aa.gro"] if f".{kind}" in BARE else []
    done = command("map", *files, f"aa.{kind}", "-p", "topol.top", "--mapping", "map.yaml",
                   "-o", "out.gro", "-q")  # fmt: skip
    assert done.code == 0, done
    frames = FRAMES.get(kind.rpartition(".")[2], 2)
    assert beads_off(place / "out.gro", place, frames, atoms=False) == []
    with read_frames(place / "out.gro") as source:
        assert len(source) == frames


@pytest.mark.parametrize("output", ["gro", "pdb", "xtc", "trr", "dcd", "data", "lammpstrj", "gsd"])
def test_beads_may_be_written_in_every_format(output, place):
    done = command("map", "aa.gro", "-p", "topol.top", "--mapping", "map.yaml",
                   "-o", f"out.{output}", "-q")  # fmt: skip
    assert done.code == 0, done
    bare = f".{output}" in BARE
    with (
        read_frames(*(["cg.gro"] if bare else []), f"out.{output}") as source,
        read_frames("cg.gro") as right,
    ):
        assert len(source) == 1
        moved = minimum_image(source[0].positions - right[0].positions, right[0].box)
        np.testing.assert_allclose(moved, 0.0, atol=2e-3)
        np.testing.assert_allclose(source[0].box, right[0].box, atol=2e-3)


@pytest.mark.parametrize("mapping", [m for m in MAPPINGS if m != "map.cgs"])
def test_every_kind_of_mapping_cuts_the_chains_alike(mapping, place):
    """The packaged mapping, and its owners written down for other programs."""
    topology = read_topology("topol.top")
    right = load_mapping("map.yaml").resolve(topology).molecules[0]
    found = load_mapping(mapping).resolve(topology).molecules[0]
    names = [found.bead_names[k] for k in found.owner]
    assert names == [right.bead_names[k] for k in right.owner]
    again = load_mapping(mapping)
    assert type(again).from_text(again.to_text(), again.source) == again
    totals = np.zeros(found.n_beads)
    np.add.at(totals, found.weight_beads, found.weights)
    np.testing.assert_allclose(totals, 1.0)


@pytest.mark.parametrize(("frames", "rows"), [("1:3", [1, 2]), ("0:3:2", [0, 2]), ("2:3", [2]),
                                              (":1", [0]), ("1:", [1, 2])])  # fmt: skip
def test_chosen_frames_are_those_of_the_whole_run(frames, rows, place):
    words = ["map", "aa.gro", "aa.xtc", "-p", "topol.top", "--mapping", "map.yaml", "-q"]
    assert command(*words, "-o", "all.xtc").code == 0
    assert command(*words, "--frames", frames, "-o", "some.xtc").code == 0
    with read_frames("cg.gro", "all.xtc") as every, read_frames("cg.gro", "some.xtc") as some:
        assert len(some) == len(rows)
        for k, row in enumerate(rows):
            np.testing.assert_array_equal(some[k].positions, every[row].positions)
            assert some[k].time == every[row].time


def rewritten(place, family, change):
    """The first frame of atoms or beads, changed, in place of its .gro file."""
    system = load_mapping("ps-two-bead").resolve(read_topology(place / "topol.top"))
    table = atom_table(system.topology) if family == "aa" else bead_table(system)
    with read_frames(place / f"{family}.gro") as source:
        frame = source[0]
    with open_writer(place / f"{family}.trr", table, force=True) as writer:
        writer.write(change(frame))
    return f"{family}.gro", f"{family}.trr"


def shift_images(frame, molecules=3, seed=0):
    """Every particle into an image of its own."""
    steps = np.random.default_rng(seed).integers(-2, 3, frame.positions.shape)
    return Structure(frame.positions + steps @ frame.box, frame.box)


def shift_all(frame):
    return Structure(frame.positions + np.array([0.4, -1.3, 0.2]), frame.box)


@pytest.mark.parametrize(("change", "step"), [(shift_images, [0, 0, 0]),
                                              (shift_all, [0.4, -1.3, 0.2])])  # fmt: skip
@pytest.mark.parametrize("verb", ["map", "baseline", "backmap"])
def test_answers_move_with_their_input(verb, change, step, place):
    """Any image may be given; a shift of all particles is a shift of the answer."""
    family = "aa" if verb == "map" else "cg"
    tail = words_of(verb)[3:]
    found = {}
    for name, moving in (("as it is", lambda f: f), ("moved", change)):
        files = rewritten(place, family, moving)
        tail[tail.index("-o") + 1] = f"{name.replace(' ', '')}.trr"
        done = command(verb, *files, *tail)
        assert done.code == 0, done
        names = "cg.gro" if family == "aa" else "aa.gro"
        with read_frames(names, tail[tail.index("-o") + 1]) as source:
            found[name] = source[0]
    right = found["as it is"]
    away = minimum_image(found["moved"].positions - right.positions - step, right.box)
    if verb == "map" or change is shift_images:
        np.testing.assert_allclose(away, 0.0, atol=2e-3)
    else:  # random draws may depend on where a chain stands; its beads may not
        assert beads_of(away_from(found["moved"], step), right, place) < 2e-3


def away_from(frame, step):
    return Structure(frame.positions - step, frame.box)


def beads_of(found, right, place):
    """How far the beads of two frames of atoms lie apart at most, nm."""
    from deepbackmap.mapping import map_positions
    from deepbackmap.system.whole import make_whole

    system = load_mapping("ps-two-bead").resolve(read_topology(place / "topol.top"))
    beads = [
        map_positions(system, make_whole(f.positions, f.box, system.topology))
        for f in (found, right)
    ]
    return float(np.linalg.norm(minimum_image(beads[0] - beads[1], right.box), axis=1).max())


@pytest.mark.parametrize("seed", range(2))
def test_beads_of_exchanged_molecules_are_exchanged(seed, place):
    order = permutation(3, seed)

    def exchange(frame):
        parts = frame.positions.reshape(3, -1, 3)
        return Structure(parts[order].reshape(-1, 3), frame.box)

    files = rewritten(place, "aa", exchange)
    done = command("map", *files, "-p", "topol.top", "--mapping", "map.yaml", "-o", "o.trr", "-q")
    assert done.code == 0, done
    with read_frames("cg.gro", "o.trr") as source, read_frames("cg.gro") as right:
        expected = right[0].positions.reshape(3, -1, 3)[order].reshape(-1, 3)
        moved = minimum_image(source[0].positions - expected, right[0].box)
        np.testing.assert_allclose(moved, 0.0, atol=2e-3)


@pytest.mark.parametrize("verb", ["backmap", "baseline"])
def test_beads_of_the_answer_are_those_that_were_given(verb, place):
    done = command(*words_of(verb))
    assert done.code == 0, done
    system = load_mapping("map.yaml").resolve(read_topology("topol.top"))
    with read_frames("aa.gro", "out.xtc") as made, read_frames("cg.gro", "cg.xtc") as given:
        assert len(made) == len(given) == 3
        for one, other in zip(made, given, strict=True):
            whole = make_whole(one.positions, one.box, system.topology)
            moved = minimum_image(map_positions(system, whole) - other.positions, other.box)
            limit = 4e-3 if verb == "backmap" else 0.2  # projection does not hold beads
            assert np.linalg.norm(moved, axis=1).max() < limit


def test_a_compressed_file_is_the_file(place):
    words = ["-p", "topol.top", "--mapping", "map.yaml", "-q"]
    (place / "z.xtc.gz").write_bytes(gzip.compress((place / "aa.xtc").read_bytes()))
    assert command("map", "aa.gro", "aa.xtc", *words, "-o", "a.xtc").code == 0
    assert command("map", "aa.gro.gz", "z.xtc.gz", *words, "-o", "b.xtc").code == 0
    assert (place / "a.xtc").read_bytes() == (place / "b.xtc").read_bytes()


def test_a_mapping_that_was_inferred_gives_the_beads_it_was_inferred_from(place):
    assert command(*words_of("infer")).code == 0
    done = command("map", "aa.gro", "-p", "topol.top", "--mapping", "out.yaml", "-o", "again.gro",
                   "-q")  # fmt: skip
    assert done.code == 0, done
    with read_frames("again.gro") as again, read_frames("cg.gro") as right:
        moved = minimum_image(again[0].positions - right[0].positions, right[0].box)
        np.testing.assert_allclose(moved, 0.0, atol=2e-3)


@pytest.mark.parametrize("size", [3, 4, 6])
def test_a_drafted_mapping_owns_every_atom_once(size, place):
    done = command("mapping", "draft", "-p", "topol.top", "--by", "graph", "--size", size,
                   "-o", "out.yaml")  # fmt: skip
    assert done.code == 0, done
    molecule = load_mapping("out.yaml").resolve(read_topology("topol.top")).molecules[0]
    assert set(molecule.owner.tolist()) == set(range(molecule.n_beads))
    assert len(molecule.owner) == 50


def test_evaluating_a_reference_against_itself_finds_nothing(place):
    done = command("evaluate", "--reference", "good.xtc", "--generated", "same=aa.xtc", "-s",
                   "aa.gro", "-p", "topol.top", "--no-map", "--workers", "1", "-o", "out",
                   "-q")  # fmt: skip
    assert done.code == 0, done
    found = json.loads((place / "out" / "metrics.json").read_text())
    text = json.dumps(found)
    assert '"same"' in text
    scored = [f for f in found["figures"] if f.get("scored")]
    assert len(scored) > 3
    for figure in scored:
        value = figure["methods"]["same"]
        value = value.get("value", value) if isinstance(value, dict) else value
        assert value == pytest.approx(figure["target"] or 0.0, abs=1e-9), figure["name"]


def figures_of(place, generated, output, *names):
    """Values of all figures of an evaluation of one file."""
    done = command("evaluate", "--reference", "good.xtc", "--generated", f"it={generated}", "-s",
                   "good.gro", "-p", "topol.top", "--no-map", "--workers", "1", "-o", output, "-q",
                   *names)  # fmt: skip
    assert done.code == 0, done
    found = json.loads((place / output / "metrics.json").read_text())
    return {f["name"]: f["methods"]["it"] for f in found["figures"]}


def numbers(values, path=""):
    if isinstance(values, dict):
        inner = [numbers(v, f"{path}/{k}") for k, v in values.items() if k != "error"]
        return {way: number for part in inner for way, number in part.items()}
    return {path: values} if isinstance(values, (int, float)) else {}


@pytest.mark.parametrize("way", ["images", "order", "format"])
def test_an_evaluation_does_not_know_how_its_frames_are_written(way, place):
    """Images of atoms, the order of the frames, and the format of the file."""
    topology = read_topology("topol.top")
    with read_frames("aa.gro", "aa.xtc") as source:
        frames = list(source)
    wandering = [  # frames that differ from the reference
        Structure(f.positions + 0.01 * np.random.default_rng(k).normal(size=f.positions.shape),
                  f.box, f.time) for k, f in enumerate(frames)
    ]  # fmt: skip
    other = wandering
    if way == "images":
        other = [shift_images(f, seed=k) for k, f in enumerate(wandering)]
    if way == "order":
        other = wandering[::-1]
    kind = "dcd" if way == "format" else "trr"
    for name, listed in (("one.trr", wandering), (f"two.{kind}", other)):
        with open_writer(name, atom_table(topology)) as writer:
            for frame in listed:
                writer.write(frame)
    right = numbers(figures_of(place, "one.trr", "first"))
    found = numbers(figures_of(place, f"two.{kind}", "second"))
    assert len(right) > 20
    assert found.keys() == right.keys()
    off = {k for k in right if found[k] != pytest.approx(right[k], rel=0.02, abs=2e-3, nan_ok=True)}
    assert len(off) <= 0.05 * len(right), {k: (right[k], found[k]) for k in off}


def test_methods_are_judged_one_by_one(place):
    """A method's figures do not depend on which others are judged beside it."""
    alone = numbers(figures_of(place, "aa.xtc", "alone"))
    done = command("evaluate", "--reference", "good.xtc", "--generated", "other=aa.gro",
                   "--generated", "it=aa.xtc", "-s", "good.gro", "-p", "topol.top", "--no-map",
                   "--workers", "1", "-o", "both", "-q")  # fmt: skip
    assert done.code == 0, done
    found = json.loads((place / "both" / "metrics.json").read_text())
    beside = numbers({f["name"]: f["methods"]["it"] for f in found["figures"]})
    assert beside.keys() == alone.keys()
    for name, value in alone.items():
        assert beside[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name


def test_finishing_does_not_know_the_image_of_an_atom(place):
    for output, change in (("a.trr", lambda f: f), ("b.trr", shift_images)):
        files = rewritten(place, "aa", change)
        done = command("finish", *files, "-p", "topol.top", "--temperature", "300", "--steps", "1",
                       "--minimise", "5", "--keep-defects", "--engine", "openmm-cpu", "--threads",
                       "1", "-o", output, "-q")  # fmt: skip
        assert done.code == 0, done
    with read_frames("aa.gro", "a.trr") as one, read_frames("aa.gro", "b.trr") as other:
        moved = minimum_image(other[0].positions - one[0].positions, one[0].box)
        np.testing.assert_allclose(moved, 0.0, atol=5e-3)

"""Every wrong input is refused in one line that says where, and leaves everything as it was."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_systems import BOX, command, contents, refused, write_model, write_system
from deepbackmap.io.trajectory import open_writer, read_frames


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    write_model(folder / "model.safetensors")
    return folder


@pytest.fixture
def melt(template, tmp_path, monkeypatch):
    """A copy to spoil; commands run inside it, so that messages hold bare names."""
    folder = tmp_path / "melt"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def refused_backmap(*more, beads=("cg.gro", "cg.xtc"), output="out.xtc", topology="topol.top"):
    """The refusal of a backmap command that differs from a good one in what is given."""
    return refused("backmap", *beads, "-p", topology, "--model", "model.safetensors",
                   "-o", output, "--sweeps", 0, *more)  # fmt: skip


@pytest.fixture
def unchanged(melt):
    """After the refusal the folder holds what it held before."""
    kept = {}

    def note():
        kept.update(contents(melt))

    yield note
    assert kept, "the test has not called unchanged()"
    assert contents(melt) == kept


def edit(path, *changes):
    """Replaces lines of a file: (number from 0, function of the line to lines)."""
    lines = path.read_text().splitlines()
    for number, change in sorted(changes, reverse=True, key=lambda c: c[0]):
        lines[number : number + 1] = change(lines[number])
    path.write_text("\n".join(lines) + "\n")


def count_line(path, shift):
    lines = path.read_text().splitlines()
    lines[1] = str(int(lines[1]) + shift)
    path.write_text("\n".join(lines) + "\n")


def test_beads_of_no_molecule(melt, unchanged):
    unchanged()
    said = refused_backmap(beads=("aa.gro",))
    assert said.startswith("aa.gro: expected bead B1 at position 1 of molecule 1 (PS1), found H1,")
    assert "which is no bead of this molecule" in said


def test_missing_bead(melt, unchanged):
    edit(melt / "cg.gro", (2 + 8, lambda line: []))
    count_line(melt / "cg.gro", -1)
    unchanged()
    said = refused_backmap(beads=("cg.gro",))
    assert "cg.gro: expected bead B2 at position 9 of molecule 2 (PS1)" in said
    assert "so that B2 is missing" in said
    assert "(18 beads expected, 17 in the file)" in said


def test_doubled_bead(melt, unchanged):
    edit(melt / "cg.gro", (2 + 8, lambda line: [line, line]))
    count_line(melt / "cg.gro", 1)
    unchanged()
    said = refused_backmap(beads=("cg.gro",))
    assert "cg.gro: expected bead S2 at position 10 of molecule 2 (PS1), found B2 a second" in said


def test_types_the_model_never_saw(melt, unchanged):
    write_model(melt / "no-rings.safetensors", atom_types=("C", "C_AR", "H", "X"))
    write_model(melt / "no-sides.safetensors", bead_types=("A", "X"))
    unchanged()
    said = refused_backmap("--model", "no-rings.safetensors")
    assert "topol.top: molecule 'PS1': atom type H_AR is unknown to the model" in said
    assert "trained on C, C_AR, H, X" in said
    said = refused_backmap("--model", "no-sides.safetensors")
    assert "topol.top: molecule 'PS1': bead type B is unknown to the model" in said
    assert "no-sides.safetensors: train one of your own" in said
    assert "--model none" in said


def test_topology_of_another_system(melt, unchanged):
    text = (melt / "topol.top").read_text()
    assert "PS1 3" in text
    (melt / "four.top").write_text(text.replace("PS1 3", "PS1 4"))
    (melt / "two.top").write_text(text.replace("PS1 3", "PS1 2"))
    (melt / "none.top").write_text(text.replace("PS1 3", "PS2 3"))
    unchanged()
    said = refused_backmap(topology="four.top")
    assert "cg.gro: expected bead B1 at position 19 of molecule 4" in said
    assert "found the end of the file (24 beads expected, 18 in the file)" in said
    said = refused_backmap(topology="two.top")
    assert "after molecule 2, the last one of two.top, found bead B1 at position 13" in said
    said = refused("map", "aa.gro", "-p", "four.top", "--mapping", "ps-two-bead", "-o", "x.gro")
    assert "aa.gro: expected atom H1 at position 151 of molecule 4" in said
    said = refused_backmap(topology="none.top")
    assert "none.top" in said
    assert "PS2" in said
    assert "nowhere.top" in refused_backmap(topology="nowhere.top")


def test_truncated_and_empty_trajectories(melt, unchanged):
    whole = (melt / "cg.xtc").read_bytes()
    (melt / "cut.xtc").write_bytes(whole[:-20])
    (melt / "empty.xtc").write_bytes(b"")
    (melt / "empty.gro").write_bytes(b"")
    (melt / "cut.gro").write_text("".join((melt / "cg.gro").read_text().splitlines(True)[:9]))
    unchanged()
    assert "cut.xtc frame 2: expected a whole frame" in refused_backmap(beads=("cg.gro", "cut.xtc"))
    said = refused_backmap(beads=("cg.gro", "empty.xtc"))
    assert said == "empty.xtc: expected at least one frame, found an empty file"
    assert "empty.gro: expected at least one frame" in refused_backmap(beads=("empty.gro",))
    assert "cut.gro" in refused_backmap(beads=("cut.gro",))
    assert "none.xtc: expected a file, found none" in refused_backmap(beads=("cg.gro", "none.xtc"))
    assert "expected 18 particles as in cg.gro, found 150" in refused_backmap(
        beads=("cg.gro", "aa.xtc")
    )


def rewritten(melt, name, change):
    """The bead trajectory with its last frame changed."""
    with read_frames(melt / "cg.gro", melt / "cg.xtc") as source:
        frames, table = list(source), source.table
    with open_writer(melt / name, table) as writer:
        for frame in [*frames[:-1], change(frames[-1])]:
            writer.write(frame)


def test_box_below_twice_the_cutoff(melt, unchanged):
    rewritten(melt, "small.trr", lambda f: replace(f, box=f.box * [[1], [1], [0.55]]))
    unchanged()
    # Met after two good frames: the output that was begun is gone as well.
    said = refused_backmap("--keep-defects", beads=("cg.gro", "small.trr"))
    assert "small.trr frame 2: expected a box at least 1.400 nm high in every direction" in said
    assert "found 1.3" in said


def test_no_box_and_coordinates_that_are_no_numbers(melt, unchanged):
    shutil.copy("cg.gro", "nobox.gro")
    edit(melt / "nobox.gro", (20, lambda line: ["0.0 0.0 0.0"]))
    shutil.copy("cg.gro", "nan.gro")
    edit(melt / "nan.gro", (4, lambda line: [line[:20] + "     nan" + line[28:]]))
    unchanged()
    assert "nobox.gro frame 0: expected a periodic box, found none" in refused_backmap(
        beads=("nobox.gro",)
    )
    said = refused_backmap(beads=("nan.gro",))
    assert "nan.gro" in said
    assert "nan" in said.removeprefix("nan.gro")


def test_mapping_without_owner(melt, unchanged):
    from deepbackmap.mapping import load_mapping

    text = load_mapping("ps-two-bead").to_text()
    spoilt = text.replace("atoms: [C1, C2, H2, C3,", "atoms: [C1, C2, C3,")
    assert spoilt != text
    (melt / "mine.yaml").write_text(spoilt)
    (melt / "broken.yaml").write_text("residues: [")
    unchanged()
    said = refused_backmap("--mapping", "mine.yaml")
    assert said.startswith("mine.yaml")
    assert "expected one bead to own every atom, found none for atom H8" in said
    said = refused("map", "aa.gro", "-p", "topol.top", "--mapping", "mine.yaml", "-o", "x.gro")
    assert said.startswith("mine.yaml")
    assert refused_backmap("--mapping", "broken.yaml").startswith("broken.yaml")
    assert refused_backmap("--mapping", "ps-none").startswith("ps-none: expected a mapping file")


def refused_train(*more, config="train.yaml"):
    return refused("train", config, "--run", "run", *more)


CONFIG = """preset: tiny
data:
  topology: topol.top
  mapping: ps-two-bead
  structure: aa.gro
  trajectory: aa.xtc
  train: "0:2"
  validate: "2:3"
  temperature: 500
"""


def test_wrong_configurations(melt, unchanged):
    (melt / "train.yaml").write_text(CONFIG)
    (melt / "typo.yaml").write_text(CONFIG + "training: {iteration: 3}\n")
    (melt / "broken.yaml").write_text("data: {\n")
    (melt / "file").write_text("")
    unchanged()
    said = refused_train(config="typo.yaml")
    assert (
        "typo.yaml: unknown key 'training.iteration', expected one of the method voxel: iterations"
        in said
    )
    assert "broken.yaml" in refused_train(config="broken.yaml")
    assert "none.yaml: no such file, nor a preset" in refused_train(config="none.yaml")
    assert "unknown key 'training.speed'" in refused_train("training.speed=3")
    assert "'training.batch' expected int, found 'many'" in refused_train("training.batch=many")
    assert "option 'batch': expected key=value" in refused_train("batch")
    assert "data.temperature" in refused_train("data.temperature=-5")
    assert "data.topology: expected a file" in refused_train(config="tiny")
    assert "device: expected one of auto, cpu, cuda" in refused_train("--device", "tpu")
    assert "devices: expected at least 1, found 0" in refused_train("--devices", 0)
    assert "training.precision 12-bit" in refused_train("training.precision=12-bit")
    assert "file: expected a folder" in refused("train", "train.yaml", "--run", "file")
    said = refused_train("voxel.radius=1.3")
    assert "aa.xtc frame 0: expected a box at least 2.600 nm high" in said
    said = refused_train("data.structure=cg.gro", "data.trajectory=cg.xtc")
    assert "cg.gro: expected atom H1 at position 1 of molecule 1 (PS1), found B1" in said
    said = refused_train("data.train=0:50")
    assert "aa.xtc: expected frames to validate on that are not trained on, found frame 2" in said
    said = refused_train("data.beads=cg.gro", 'data.validate=""')
    assert "cg.gro: expected 2 frames as of the atoms (frames 0:2), found 1" in said


def test_corrupt_models(melt, unchanged):
    whole = (melt / "model.safetensors").read_bytes()
    (melt / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (melt / "noise.safetensors").write_bytes(np.random.default_rng(0).bytes(5000))
    (melt / "empty.safetensors").write_bytes(b"")
    weights = load_file(melt / "model.safetensors")
    save_file(weights, melt / "foreign.safetensors")
    metadata = {"format": "deepbackmap-model-1", "spec": '{"voxel": 3}'}
    save_file(weights, melt / "spec.safetensors", metadata=metadata)
    shapes = whole.replace(rb"\\\"channels\\\": 4", rb"\\\"channels\\\": 6")
    assert shapes != whole
    (melt / "shapes.safetensors").write_bytes(shapes)
    unchanged()
    for name, what in [
        ("cut", "not a readable safetensors model file"),
        ("noise", "not a readable safetensors model file"),
        ("empty", "not a readable safetensors model file"),
        ("foreign", "expected a model of format deepbackmap-model-2, found None"),
        ("spec", "the model's specification is damaged"),
        ("shapes", "the model is damaged: expected checksum"),
    ]:
        said = refused_backmap("--model", f"{name}.safetensors")
        assert said.startswith(f"{name}.safetensors: "), said
        assert what in said
    assert "none.safetensors: expected a model file, found none" in refused_backmap(
        "--model", "none.safetensors"
    )
    assert "model 'nothing': expected a file ending in .safetensors or one" in refused_backmap(
        "--model", "nothing"
    )


def test_a_model_that_gives_no_numbers(melt, unchanged):
    from deepbackmap.model.file import load_model, save_model

    model = load_model("model.safetensors")
    with torch.no_grad():
        for name, value in (("nan", float("nan")), ("huge", 3e38)):
            next(iter(model.generator.parameters())).fill_(value)
            save_model(model, f"{name}.safetensors")
    unchanged()
    said = refused_backmap("--model", "nan.safetensors")
    assert said.startswith("nan.safetensors: expected finite weights")
    said = refused_backmap("--model", "huge.safetensors")
    assert "cg.xtc frame 0: expected finite coordinates from the model" in said


def test_outputs_that_cannot_be_written(melt, unchanged):
    (melt / "there.xtc").write_bytes(b"an earlier result")
    (melt / "recorded.xtc.json").write_text("{}")
    (melt / "folder.xtc").mkdir()
    unchanged()
    said = refused_backmap(output="there.xtc")
    assert said.startswith("there.xtc: expected no file of that name")
    assert refused_backmap(output="recorded.xtc").startswith("recorded.xtc.json: expected no file")
    assert "nowhere/out.xtc: expected a folder" in refused_backmap(output="nowhere/out.xtc")
    assert "out.abc: expected an output ending in" in refused_backmap(output="out.abc")
    assert "folder.xtc: expected a file to write, found a folder" in refused_backmap(
        output="folder.xtc"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_read_only_folder(melt):
    closed = melt / "closed"
    closed.mkdir(mode=0o555)
    assert "found closed read-only" in refused_backmap(output="closed/out.xtc")
    assert list(closed.iterdir()) == []


def test_wrong_options(melt, unchanged):
    unchanged()
    assert refused_backmap("--sweeps", -1).startswith(
        "sweeps: expected a whole number from 0 to 100000, got -1"
    )
    assert refused_backmap("--candidates", 0).startswith("candidates: expected a whole number")
    assert refused_backmap("--batch", 0).startswith("batch: expected a whole number from 1 to")
    assert "choice: expected one of lowest, boltzmann, reweight" in refused_backmap(
        "--choice", "best"
    )
    assert "temperature: expected a positive number" in refused_backmap("--temperature", -300)
    assert "found choice lowest among 4" in refused_backmap(
        "--temperature", 300, "--choice", "lowest", "--candidates", 4
    )
    assert "found choice reweight among 1" in refused_backmap(
        "--temperature", 300, "--candidates", 1
    )
    assert "device: expected one of auto, cpu, cuda, found 'tpu'" in refused_backmap(
        "--device", "tpu"
    )
    assert "frames: expected A:B:C as whole numbers, found 'all'" in refused_backmap(
        "--frames", "all"
    )
    assert "cg.xtc: expected frames 7: to choose some of its 3" in refused_backmap("--frames", "7:")


def test_wrong_hands_are_a_matter_of_their_file_not_of_the_model(melt, unchanged):
    (melt / "few.txt").write_text("1 A1u\n")
    unchanged()
    said = refused_backmap("--labels", "few.txt")
    assert said.startswith("few.txt: expected a label for each bead") and "model" not in said
    said = refused_backmap("--labels", "none.txt")
    assert said == "none.txt: expected labels as text, found No such file or directory"
    said = refused_backmap("--like", "cg.gro")
    assert said.startswith("cg.gro: expected the atoms of the system") and "model" not in said


def test_moved_beads_spare_what_is_there(melt, unchanged):
    shutil.copy(melt / "cg.gro", melt / "moved.pdb")
    unchanged()
    assert "moved.pdb: expected no file of that name" in refused_backmap("--moved", "moved.pdb")
    said = refused_backmap("--moved", "moved.pdb", "--labels", "moved.pdb", "--force")
    assert "moved.pdb: expected an output that is none of the inputs" in said
    said = refused_backmap("--moved", "out.pdb", output="out.pdb")
    assert said == "out.pdb: expected another file than the output, found the same"


def test_options_of_finishing_without_it(melt, unchanged):
    unchanged()
    said = refused_backmap("--finish-steps", 5)
    assert said == "finish-steps: expected --finish with it, found it alone"
    said = refused_backmap("--engine", "internal")
    assert said == "engine: expected --finish with it, found it alone"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(melt, unchanged):
    unchanged()
    assert "expected a CUDA device" in refused_backmap("--device", "cuda")


def test_force_replaces_only_when_all_went_well(melt):
    arguments = ("backmap", "cg.gro", "-p", "topol.top", "--model", "model.safetensors",
                 "--sweeps", 0, "-o", "out.gro", "--force", "--keep-defects")  # fmt: skip
    (melt / "out.gro").write_text("an earlier result")
    (melt / "out.gro.json").write_text("{}")
    kept = contents(melt)
    rewritten(melt, "small.trr", lambda f: replace(f, box=0.5 * BOX))
    spoilt = [*arguments[:2], "small.trr", *arguments[2:]]
    assert "small.trr frame 2" in refused(*spoilt)
    (melt / "small.trr").unlink()
    assert contents(melt) == kept
    assert command(*arguments).code == 0
    assert (melt / "out.gro").read_text().count("\n") == 153
    assert sorted(set(contents(melt)) - set(kept)) == []

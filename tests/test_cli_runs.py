"""Commands from beginning to end: help, map, train and its resume, interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import deepbackmap
from checkpoints import equal
from cli_systems import ALTERNATING, command, contents, write_model, write_system
from deepbackmap.api.train import train
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.trajectory import read_frames
from deepbackmap.methods import find_options
from deepbackmap.model.header import read_spec

CONFIG = """preset: tiny
data:
  topology: topol.top
  mapping: ps-two-bead
  structure: aa.gro
  trajectory: aa.xtc
  train: "0:2"
  validate: "2:3"
  temperature: 500
training:
  average: 0.9
  validate_every: 4
"""
POINTS = (
    CONFIG.partition("training:")[0]
    .replace("tiny", "points")
    .replace("data:", 'data:\n  dynamics: ""')
    + """points: {radial: 5}
network: {width: 16, channels: 2}
training: {iterations: 4, batch: 16, log_every: 1, validate_every: 2, frames: 2}
"""
)
VERBS = ("map", "train", "backmap", "demo", "models", "data")
PROGRAM = [sys.executable, "-c", "from deepbackmap.cli.main import run; run()"]


@pytest.fixture(scope="module")
def melt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    write_model(folder / "model.safetensors")
    (folder / "train.yaml").write_text(CONFIG)
    return folder


def start(arguments, folder):
    """A command in a process of its own."""
    source = str(Path(deepbackmap.__file__).parents[1])
    path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt(process, begun):
    """Sends Ctrl-C once the command has begun to work; returns exit code and stderr."""
    until = time.monotonic() + 300
    while not begun():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "the command does not begin"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def test_help_and_version():
    assert command("--version").out == f"deepbackmap {deepbackmap.__version__}\n"
    for verb in VERBS:
        assert verb in command("--help").out
        assert "Usage:" in command(verb, "--help").out
    wrong = command("backmap", "--no-such-option")
    assert wrong.code == 2
    assert "--no-such-option" in wrong.err


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys; from deepbackmap.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'MDAnalysis', 'numpy', 'lightning_fabric'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(deepbackmap.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)


def test_map(melt, tmp_path, monkeypatch):
    monkeypatch.chdir(melt)
    out = tmp_path / "beads.xtc"
    arguments = ("map", "aa.gro", "aa.xtc", "-p", "topol.top", "--mapping", "ps-two-bead")
    done = command(*arguments, "-o", out, "--frames", "1:")
    assert (done.code, done.out, done.err) == (0, f"{out}: 2 frames of beads\n", "")
    with read_frames("cg.gro", out) as found, read_frames("cg.gro", "cg.xtc") as known:
        # Both are rounded to 0.001 nm, the atoms as well.
        off = minimum_image(found[1].positions - known[2].positions, known[2].box)
        assert np.abs(off).max() < 0.0025


def test_backmap_prints_its_summary(melt, tmp_path, monkeypatch):
    monkeypatch.chdir(melt)
    arguments = ("backmap", "cg.gro", "cg.xtc", "-p", "topol.top", "--model",
                 "model.safetensors", "--sweeps", 0, "--seed", 4, "--frames", "0:3:2")  # fmt: skip
    refused = command(*arguments, "-o", tmp_path / "refused.xtc", "--quiet")
    assert (refused.code, refused.err.count("\n")) == (2, 1)  # the weights are random
    assert not list(tmp_path.glob("*refused*"))
    arguments = (*arguments, "--keep-defects")
    done = command(*arguments, "-o", tmp_path / "aa.xtc")
    assert done.code == 0
    assert "WARNING, unusable" in done.err
    for words in ("2 frames of 150 atoms", "atoms/s", "closest contact", "of 12 inverted",
                  "bonds through rings", "re-mapped beads", "sha256", "seed 4"):  # fmt: skip
        assert words in done.out
    quiet = command(*arguments, "-o", tmp_path / "quiet.xtc", "--quiet")
    assert (quiet.code, quiet.out, quiet.err.count("\n")) == (0, "", 1)
    assert (tmp_path / "aa.xtc").read_bytes() == (tmp_path / "quiet.xtc").read_bytes()


def run_training(melt, folder, *overrides, **options):
    return train(
        melt / "train.yaml", overrides, run_folder=folder, progress=False, device="cpu", **options
    )


def state(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def metrics(folder):
    lines = [json.loads(s) for s in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in s.items() if k != "seconds_per_iteration"} for s in lines]


def test_a_resumed_run_is_the_uninterrupted_one(melt, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_training(melt, whole)
    assert not run_training(melt, parts, stop_after=0.0)
    assert state(parts)["iteration"] == 1
    assert run_training(melt, parts)
    assert state(parts)["iteration"] == 4
    assert equal(state(whole), state(parts))
    assert metrics(whole) == metrics(parts)
    # nothing is left to be trained, and other options would only change what is recorded
    kept = contents(whole)
    for other in ("training.batch=3", "training.iterations=2", "training.seed=5"):
        with pytest.raises(InputError, match="above the 4 that are done"):
            run_training(melt, whole, other)
    assert contents(whole) == kept
    weights = [load_file(folder / "model.safetensors") for folder in (whole, parts)]
    assert equal(*weights)
    # What it wrote is a model that knows the handedness of its training data, and works.
    spec = read_spec(whole / "model.safetensors")
    assert spec.handedness == ALTERNATING
    assert set(spec.bead_distances) == {"A-A", "A-B"}
    assert all(0.2 < low <= high < 0.6 for low, high in spec.bead_distances.values())
    assert (spec.provenance["iteration"], spec.temperature) == (4, 500.0)
    assert spec.provenance["precision"] == "32-true"
    trained = ("--model", whole / "model.safetensors", "--sweeps", 0)
    made = command(
        "backmap",
        melt / "cg.gro",
        "-p",
        melt / "topol.top",
        *trained,
        "-o",
        tmp_path / "aa.gro",
        "--keep-defects",
    )
    assert made.code == 0, made.err
    # A finished run writes its model anew and nothing else.
    (whole / "model.safetensors").unlink()
    assert command("train", melt / "train.yaml", "--run", whole, "-q").code == 0
    assert equal(load_file(whole / "model.safetensors"), weights[0])
    assert metrics(whole) == metrics(parts)
    # Neither another network nor a damaged checkpoint is gone on with.
    kept = contents(whole)
    refused = command("train", melt / "train.yaml", "--run", whole, "network.channels=5")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "expected a run with the same 'network' section" in refused.err
    assert contents(whole) == kept
    (parts / "checkpoint.pt").write_bytes(kept["checkpoint.pt"][:1000])
    refused = command("train", melt / "train.yaml", "--run", parts)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "checkpoint.pt: expected a readable checkpoint" in refused.err


@pytest.mark.parametrize("method", ["voxel", "points"])
def test_two_trainings_write_the_same_bytes(method, melt, tmp_path):
    """Processes of their own, another folder, another hash of strings: one model file."""
    (melt / "points.yaml").write_text(POINTS)
    config = {"voxel": "train.yaml", "points": "points.yaml"}[method]
    folders = [tmp_path / "one", tmp_path / "another"]
    runs = [start(["train", config, "--device", "cpu", "-q", "--run", f], melt) for f in folders]
    for process in runs:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    first, second = ((f / "model.safetensors").read_bytes() for f in folders)
    assert first == second
    spec = read_spec(folders[0] / "model.safetensors")
    assert (spec.method, spec.provenance["iteration"]) == (method, 4)


def test_a_run_begins_with_the_weights_of_a_model(melt, tmp_path):
    """With all rates zero the model it ends with is the one it began with."""
    still = ("training.learning_rate=0", "training.critic_learning_rate=0")
    assert run_training(melt, tmp_path / "old", "training.seed=3", "training.iterations=1")
    old = tmp_path / "old" / "model.safetensors"
    start = f"training.init_from={old}"
    assert run_training(melt, tmp_path / "new", start, "training.iterations=1", *still)
    weights = [load_file(p) for p in (old, tmp_path / "new" / "model.safetensors")]
    # the moving average of weights that stay where they are is where they are
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        torch.testing.assert_close(weights[1][name], values, atol=1e-6, rtol=1e-5)
    fresh = tmp_path / "fresh"
    assert run_training(melt, fresh, "training.iterations=1", *still)
    assert not equal(weights[0], load_file(fresh / "model.safetensors"))
    # a run that is under way goes on from its own checkpoint
    assert run_training(melt, tmp_path / "new", "training.iterations=2", *still)
    assert state(tmp_path / "new")["iteration"] == 2
    for wrong, words in (
        (["network.channels=5", start], "a model with the options of the configuration, found in"),
        (["network.channels=5", start], "network.channels: 4 instead of 5"),
        (["training.init_from=ps-two-bead-points"], "others (points instead of voxel)"),
        (["training.init_from=none.safetensors"], "none.safetensors: "),
    ):
        given = ("train", melt / "train.yaml", "--run", tmp_path / "no", *wrong)
        refused = command(*given)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert words in refused.err
        assert not (tmp_path / "no").exists()


def test_a_free_axis_brings_the_papers_ensemble(melt, tmp_path):
    """Lowest of several orientations, no relaxation; a fixed plane brings none."""
    for frame, expected in (
        ("axis", {"candidates": 8, "choice": "lowest", "block_relaxation": 0}),
        ("plane", {}),
    ):
        folder = tmp_path / frame
        assert run_training(melt, folder, f"voxel.frame={frame}", "training.iterations=1")
        spec = read_spec(folder / "model.safetensors")
        assert spec.defaults == expected
        method = find_options("voxel")
        assert method.sampling_options({}, spec.defaults, "m") == method.sampling(**expected)
    axis = read_spec(tmp_path / "axis" / "model.safetensors").defaults
    drawn = method.sampling_options({"choice": "boltzmann"}, axis, "m")
    assert (drawn.choice, drawn.candidates) == ("boltzmann", 8)
    colder = method.sampling_options({"temperature": 313.0}, axis, "m")
    assert (colder.choice, colder.candidates) == ("reweight", 16)


def test_ctrl_c_in_training_keeps_a_checkpoint(melt, tmp_path):
    folder = tmp_path / "run"
    log = folder / "metrics.jsonl"
    never_ending = ("training.iterations=1000000", 'data.validate=""')
    process = start(["train", "train.yaml", *never_ending, "--run", folder], melt)
    code, err = interrupt(process, lambda: log.exists() and log.read_text().count("\n") > 2)
    assert code == 130, err
    assert err.splitlines()[-1].startswith("deepbackmap: interrupted: ")
    assert err.count("\n") == 1, err
    reached = state(folder)["iteration"]
    assert reached >= 1
    assert not [p.name for p in folder.rglob("*.tmp")]
    assert read_spec(folder / "model.safetensors").provenance["iteration"] == reached
    assert run_training(melt, folder, f"training.iterations={reached + 1}", 'data.validate=""')
    assert state(folder)["iteration"] == reached + 1


def test_ctrl_c_in_backmapping_leaves_nothing(melt, tmp_path):
    (tmp_path / "aa.xtc").write_bytes(b"an earlier result")
    process = start(
        ["backmap", "cg.gro", "cg.xtc", "-p", "topol.top", "--model", "model.safetensors",
         "-o", tmp_path / "aa.xtc", "--sweeps", 1000, "--force"],
        melt,
    )  # fmt: skip
    code, err = interrupt(process, lambda: len(list(tmp_path.iterdir())) > 1)
    assert (code, err) == (130, "deepbackmap: interrupted\n")
    assert contents(tmp_path) == {"aa.xtc": b"an earlier result"}


def test_map_keeps_defects_on_request(tmp_path):
    """An atom 1 nm away is refused, or mapped with a line on standard error, with -q too."""
    top, mapping, rows = tmp_path / "a.top", tmp_path / "a.yaml", []
    top.write_text(
        "[ defaults ]\n1 2 no 1 1\n[ atomtypes ]\nC 6 12.0 0.0 A 0.3 0.3\n[ moleculetype ]\nE 1\n"
        "[ atoms ]\n1 C 1 E C1 1 0 12\n2 C 1 E C2 2 0 12\n[ bonds ]\n1 2 1 0.15 1000\n"
        "[ system ]\nx\n[ molecules ]\nE 2\n"
    )
    mapping.write_text("residues:\n  E:\n    beads:\n      - {name: A, type: A, atoms: [C1, C2]}\n")
    places = [(0.5, 0.5, 0.5), (0.65, 0.5, 0.5), (1.5, 0.5, 0.5), (1.65, 1.5, 0.5)]
    for k, (x, y, z) in enumerate(places):
        rows.append(f"{k // 2 + 1:5d}E    {f'C{k % 2 + 1}':>5s}{k + 1:5d}{x:8.3f}{y:8.3f}{z:8.3f}")
    (tmp_path / "a.gro").write_text("x\n4\n" + "\n".join(rows) + "\n3.0 3.0 3.0\n")
    given = ("map", tmp_path / "a.gro", "-p", top, "--mapping", mapping, "-o", tmp_path / "cg.gro")
    refused = command(*given)
    assert refused.code == 2 and "keep-defects maps it" in refused.err
    assert not (tmp_path / "cg.gro").exists()
    for quiet in ((), ("-q",)):
        done = command(*given, "--keep-defects", "--force", *quiet)
        assert done.code == 0 and done.err.startswith("WARNING: ") and "frame 0" in done.err
    with read_frames(tmp_path / "cg.gro") as source:
        assert source[0].positions[0] == pytest.approx([0.575, 0.5, 0.5], abs=1e-3)

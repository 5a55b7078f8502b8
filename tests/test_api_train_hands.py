"""Whether a training lets its model read hands from beads: only where that is right."""

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from deepbackmap.chemistry import bead_hands
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping, map_positions

train = importlib.import_module("deepbackmap.api.train")  # the module, not the function
PACKAGED = Path(deepbackmap.__file__).parent / "packaged" / "melt"
ALTERNATING = {"A:0": [1, -1]}


@cache
def system(first, last):
    """Some frames of the packaged melt as a training has them."""
    mapping = load_mapping("ps-two-bead").resolve(read_topology(PACKAGED / "topol.top"))
    with read_frames(PACKAGED / "aa.gro", PACKAGED / "aa.xtc") as source:
        frames = tuple(source)[first:last]
    beads = tuple(map_positions(mapping, f.positions) for f in frames)
    return TrainingSystem(mapping, frames, beads, (568.0,) * len(frames))


def turned(found, share):
    """The same frames where beads of so many of the chains are their mirror images, atoms not."""
    chains = round(12 * share)

    def some(beads):
        x = beads.reshape(12, -1, 3).copy()
        x[:chains] *= [-1, 1, 1]
        return x.reshape(-1, 3)

    return replace(found, beads=tuple(some(b) for b in found.beads))


def test_what_is_right_on_held_out_frames_is_kept():
    kept, said = train._bead_hands([system(0, 3)], [system(3, 5)], ALTERNATING)
    assert bead_hands.BeadStatistics.from_json(kept).tables
    assert said == "0.00% of the centres of held-out frames wrong"


def test_without_held_out_frames_those_of_the_training_are_read():
    kept, said = train._bead_hands([system(0, 3)], [], ALTERNATING)
    assert kept
    assert said.endswith("training frames wrong")


def test_beads_that_show_the_wrong_hand_are_not_read():
    """One chain in twelve: 8.3 % of the centres."""
    test = turned(system(3, 5), 1 / 12)
    kept, said = train._bead_hands([system(0, 3)], [test], ALTERNATING)
    assert kept == {}
    assert said.startswith(f"{1 / 12:.2%} of the centres of held-out frames wrong (at most 0.1%)")
    assert said.endswith("hands are not read from beads")


def test_beads_that_say_nothing_are_not_read():
    """Every bead somewhere else than its atoms: learned from noise, wrong on other noise."""
    rng = np.random.default_rng(3)

    def anywhere(found):
        beads = tuple(rng.permutation(b) for b in found.beads)
        return replace(found, beads=beads)

    found, _ = train._bead_hands([anywhere(system(0, 3))], [anywhere(system(3, 5))], {})
    learned = [anywhere(system(0, 3))]
    statistics = bead_hands.learn([train._example(s) for s in learned])
    test = [train._example(turned(system(3, 5), 0.5))]
    wrong = bead_hands.wrongly_read(statistics, test, [np.array([1, -1] * 54)[:108]])
    assert wrong > train.READ_WRONGLY
    assert isinstance(found, dict)


@pytest.mark.parametrize("pattern", [{}, {"A:0": [1, 0]}])
def test_without_a_pattern_only_what_is_sure_counts(pattern, monkeypatch):
    """Nothing else would say these hands."""
    asked = []

    def counted(statistics, examples, patterns, sure):
        asked.append(sure)
        return 0.0

    monkeypatch.setattr(bead_hands, "wrongly_read", counted)
    kept, said = train._bead_hands([system(0, 3)], [], pattern)
    assert asked == [train.UNSURE]
    assert kept
    assert "said to be 95% sure" in said

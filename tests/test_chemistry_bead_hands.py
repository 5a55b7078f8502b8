"""Hands read from beads: exact sums, mirror images, and chains whose hands are known."""

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
import small_polystyrene
from deepbackmap.chemistry import bead_hands, tacticity
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.system import Structure
from evaluation_systems import reference_folder
from melt import build
from melt.tacticity import chain_hands

PACKAGED = Path(deepbackmap.__file__).parent / "packaged" / "melt"
ALTERNATING = {"A:0": [1, -1]}


def mirrored(frame):
    return replace(frame, positions=-frame.positions)


@cache
def packaged(mapping_name="ps-two-bead"):
    """Mapping, centres, frames of beads and signs of the packaged melt."""
    mapping = load_mapping(mapping_name).resolve(read_topology(PACKAGED / "topol.top"))
    centres = tacticity.find_centres(mapping)
    with read_frames(PACKAGED / "aa.gro", PACKAGED / "aa.xtc") as source:
        atoms = list(source)
    beads = [replace(f, positions=map_positions(mapping, f.positions)) for f in atoms]
    return mapping, centres, beads, [tacticity.signs(f, centres) for f in atoms]


def pattern_of(centres, mapping_name="ps-two-bead"):
    return tacticity.expected_signs(
        centres, ALTERNATING if mapping_name == "ps-two-bead" else {"M:0": [1, -1]}
    )


@pytest.mark.parametrize("name", ["ps-two-bead", "ps-one-bead"])
def test_chains_of_either_hand_are_told_apart(name):
    mapping, centres, beads, signs = packaged(name)
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, beads[:4], signs[:4])])
    pattern = pattern_of(centres, name)
    for frame, right in ((beads[4], signs[4]), (mirrored(beads[4]), -signs[4])):
        found = bead_hands.from_beads(statistics, mapping, centres, [frame], [pattern])
        wrong = (found.sign != right).reshape(12, 9).any(axis=1)
        assert wrong.sum() <= (0 if name == "ps-two-bead" else 2)
        assert found.sure.reshape(12, 9)[wrong].max(initial=0.5) < 0.95
        assert found.share() == {"beads": 108}


def test_a_mirror_image_is_read_exactly_as_well():
    mapping, centres, beads, signs = packaged()
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, beads[:3], signs[:3])])
    mirror = [mirrored(f) for f in beads[:3]]
    again = bead_hands.learn(
        [bead_hands.Example(mapping, centres, mirror, [-s for s in signs[:3]])]
    )
    pattern = pattern_of(centres)
    one = bead_hands.from_beads(statistics, mapping, centres, beads[4:], [pattern])
    for table, other in zip(statistics.tables.values(), again.tables.values(), strict=True):
        np.testing.assert_allclose(table.racemo, other.racemo, rtol=1e-6, atol=1e-8)
    two = bead_hands.from_beads(again, mapping, centres, [mirrored(beads[4])], [-pattern])
    np.testing.assert_array_equal(one.sign, -two.sign)
    np.testing.assert_allclose(one.sure, two.sure, atol=1e-9)


def test_more_frames_make_it_surer():
    mapping, centres, beads, signs = packaged()
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, beads[:2], signs[:2])])
    pattern = pattern_of(centres)
    one, three = (
        bead_hands.from_beads(statistics, mapping, centres, beads[2 : 2 + k], [pattern])
        for k in (1, 3)
    )
    assert three.sure.mean() > one.sure.mean()


def test_centres_read_wrongly_are_counted():
    mapping, centres, beads, signs = packaged()
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, beads[:3], signs[:3])])
    pattern = pattern_of(centres)
    right = bead_hands.Example(mapping, centres, beads[3:], signs[3:])
    assert bead_hands.wrongly_read(statistics, [right], [pattern]) == 0.0
    # a chain of the other hand than its beads show counts with all its nine centres
    turned = np.array(signs[3])
    turned[:9] *= -1
    turned[9] = 0  # not known: not counted
    other = bead_hands.Example(mapping, centres, beads[3:4], [turned])
    assert bead_hands.wrongly_read(statistics, [other], [pattern]) == pytest.approx(9 / 107)
    assert bead_hands.wrongly_read(statistics, [other], [pattern], sure=1.1) == 0.0
    assert bead_hands.wrongly_read(bead_hands.BeadStatistics(), [other], [pattern]) == 0.0


def test_without_statistics_or_candidates_nothing_is_said():
    mapping, centres, beads, signs = packaged()
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, beads[:2], signs[:2])])
    for said in (
        bead_hands.from_beads(bead_hands.BeadStatistics(), mapping, centres, beads[:1]),
        bead_hands.from_beads(statistics, mapping, centres, beads[:1]),  # racemo alone is known
    ):
        assert said.share() == {"unknown": 108}
        assert (said.sure == 0.5).all()


def test_too_few_dyads_are_not_learned_from():
    mapping, centres, beads, signs = packaged()
    few = np.zeros_like(signs[0])
    few[:9] = signs[0][:9]
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, beads[:1], [few])])
    assert all(t == bead_hands.DyadTable() for t in statistics.tables.values())


def test_statistics_survive_a_model_file():
    mapping, centres, beads, signs = packaged()
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, beads[:2], signs[:2])])
    text = json.dumps(statistics.to_json())
    assert bead_hands.BeadStatistics.from_json(json.loads(text)) == statistics
    assert len(text) < 1000


def test_sum_over_the_hands_of_a_chain_is_that_of_all_of_them_one_by_one():
    evidence = np.random.default_rng(2).normal(0.0, 2.0, (3, 5, 4))
    total, plus = bead_hands._marginals(evidence)
    weights, chances = np.zeros(3), np.zeros((3, 6))
    for state in product((0, 1), repeat=6):
        pairs = [2 * a + b for a, b in pairwise(state)]
        weight = np.exp(evidence[:, np.arange(5), pairs].sum(axis=1)) / 2**6
        weights += weight
        chances += weight[:, None] * (np.array(state) == 0)
    np.testing.assert_allclose(total, np.log(weights))
    np.testing.assert_allclose(plus, chances / weights[:, None])


def test_a_chain_that_is_open_goes_with_the_others_of_its_type():
    evidence = np.zeros((3, 20))
    evidence[0, :19] = 8.0
    chance = bead_hands._shares(evidence)
    np.testing.assert_allclose(chance.sum(axis=0), 1.0)
    assert chance[0, 19] > 0.9
    assert chance[1, 19] == pytest.approx(chance[2, 19])
    evidence[1, 19] = 12.0  # but not against what its own beads say
    assert bead_hands._shares(evidence)[1, 19] > 0.99
    np.testing.assert_allclose(bead_hands._shares(np.zeros((3, 4))), 1.0 / 3.0)


def test_one_dyad_that_looks_like_nothing_cannot_decide_over_a_chain():
    table = bead_hands.DyadTable(racemo=(1000.0,), meso=(1000.0,), which=(-3.0, 0.0))
    found = bead_hands._of_dyads(table, np.array([[1.0], [-1.0]]), np.zeros((2, 1)))
    assert found.min() == pytest.approx(np.log(bead_hands.OUTLIERS), abs=1e-6)
    assert found.max() < np.log(4.0)
    np.testing.assert_allclose(found[0], found[1, ::-1])  # its mirror image


def test_regression_finds_the_odds_that_the_signs_were_drawn_with():
    rng = np.random.default_rng(3)
    w = np.array([1.5, -0.7, 0.0])
    x = rng.normal(size=(40000, 3))
    sign = np.where(rng.random(40000) < 1.0 / (1.0 + np.exp(-x @ w)), 1, -1)
    np.testing.assert_allclose(bead_hands._regression(x, sign), w, atol=0.06)


@cache
def grown(seed, chains=40, monomers=8):
    """Beads of single chains of random conformation and hands, far from one another."""
    rng = np.random.default_rng(seed)
    wanted = chain_hands("atactic", monomers, chains, rng)
    x = build.build_chains(monomers, chains, rng, wanted)
    x += 10.0 * np.arange(chains)[:, None, None]
    mapping = small_polystyrene.mapping(monomers, chains)
    frame = Structure(x.reshape(-1, 3), 10.0 * (chains + 1) * np.eye(3))
    centres = tacticity.find_centres(mapping)
    beads = replace(frame, positions=map_positions(mapping, frame.positions))
    return mapping, centres, beads, tacticity.signs(frame, centres)


def test_chains_without_a_pattern_are_read_better_than_by_chance_and_know_how_well():
    mapping, centres, beads, right = grown(1)
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, [beads], [right])])
    assert all(t.meso and t.racemo and t.which for t in statistics.tables.values())
    mapping, centres, beads, right = grown(2)
    found = bead_hands.from_beads(statistics, mapping, centres, [beads])
    correct = found.sign == right
    assert correct.mean() > 0.6
    assert found.sure.mean() == pytest.approx(correct.mean(), abs=0.15)
    sure = found.sure > np.median(found.sure)
    assert correct[sure].mean() > correct[~sure].mean()
    other = bead_hands.from_beads(statistics, mapping, centres, [mirrored(beads)])
    np.testing.assert_array_equal(other.sign, -found.sign)


def published(name, frames):
    folder = reference_folder()
    mapping = load_mapping("ps-two-bead").resolve(read_topology(folder / "topol.top"))
    with read_frames(folder / f"{name[-2:]}.gro", folder / f"{name}.xtc", frames=frames) as source:
        return mapping, list(source)


@pytest.mark.parametrize("temperature", [568, 313])
def test_published_test_frames_of_either_hand_are_all_read_right(temperature):
    mapping, atoms = published("train_568K_aa", ":12")
    _, train = published("train_568K_cg", ":12")
    centres = tacticity.find_centres(mapping)
    signs = [tacticity.signs(f, centres) for f in atoms]
    statistics = bead_hands.learn([bead_hands.Example(mapping, centres, train, signs)])
    pattern = pattern_of(centres)
    for frame in published(f"test_{temperature}K_cg", "::6")[1]:
        for f, right in ((frame, pattern), (mirrored(frame), -pattern)):
            found = bead_hands.from_beads(statistics, mapping, centres, [f], [pattern])
            np.testing.assert_array_equal(found.sign, right)
            assert found.sure.min() > 0.99


def test_beads_of_a_coarse_grained_simulation_are_of_one_hand():
    folder = reference_folder().parent / "sps_cg"
    mapping, atoms = published("train_568K_aa", ":4")
    _, train = published("train_568K_cg", ":4")
    centres = tacticity.find_centres(mapping)
    statistics = bead_hands.learn(
        [bead_hands.Example(mapping, centres, train, [tacticity.signs(f, centres) for f in atoms])]
    )
    mapping = small_polystyrene.mapping(96, 24)
    centres = tacticity.find_centres(mapping)
    with read_frames(folder / "cg.gro", folder / "cg.xtc") as source:
        for frame in source:
            found = bead_hands.from_beads(
                statistics, mapping, centres, [frame], [pattern_of(centres)]
            )
            np.testing.assert_array_equal(found.sign, pattern_of(centres))

"""The discrepancy of two clouds and the test of it."""

import numpy as np
import pytest

from deepbackmap.similarity.overlap import Cloud, halves, overlap

SEEDS = 80


def cloud(frames, each, first=0, number=0):
    n = frames * each
    return Cloud(
        first + np.arange(n),
        number + np.repeat(np.arange(frames), each),
        1 + np.tile(np.arange(each), frames),
    )


def kernel(points):
    squares = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    return np.exp(-0.5 * squares)


def compare(points, one, other, seed=0, permutations=200):
    return overlap(kernel(points), one, other, permutations=permutations, seed=seed)


def test_the_discrepancy_by_hand():
    k = np.ones((6, 6))
    k[0, 1], k[0, 2], k[1, 2] = 0.7, 0.8, 0.9
    k[3, 4], k[3, 5], k[4, 5] = 0.4, 0.5, 0.6
    k[:3, 3:] = [[0.1, 0.2, 0.2], [0.3, 0.1, 0.3], [0.4, 0.4, 0.1]]
    k = np.triu(k) + np.triu(k, 1).T
    one, other = cloud(1, 3), cloud(1, 3, first=3, number=1)
    found = overlap(k, one, other, permutations=10, seed=0)
    assert found.mmd2 == pytest.approx(0.8 + 0.5 - 2 * 2.1 / 9)
    # partners (molecule 1 with 1, 2 with 2, 3 with 3) are not compared with each other
    found = overlap(k, one, cloud(1, 3, first=3), permutations=10, seed=0)
    assert found.mmd2 == pytest.approx(0.8 + 0.5 - 2 * 0.3)


def test_with_frames_as_units_only_different_frames_are_compared():
    k = np.random.default_rng(0).random((16, 16))
    k = k + k.T
    one, other = cloud(4, 2), cloud(4, 2, first=8, number=100)
    found = overlap(k, one, other, permutations=10, seed=0)
    frame = np.repeat(np.arange(8), 2)
    within = [k[np.ix_(s, s)][frame[s][:, None] != frame[s][None]].mean()
              for s in (np.arange(8), np.arange(8, 16))]  # fmt: skip
    assert found.permuted == "frames"
    assert found.mmd2 == pytest.approx(sum(within) - 2 * k[:8, 8:].mean())


@pytest.mark.parametrize(
    ("frames", "each", "paired", "permuted"),
    [
        (10, 3, True, "frames in pairs"),
        (10, 3, False, "frames"),
        (5, 3, True, "frames"),
        (1, 20, True, "structures in pairs"),
        (1, 20, False, "structures"),
        (3, 2, False, "structures"),
    ],
)
def test_p_values_are_uniform_where_the_distributions_are_the_same(frames, each, paired, permuted):
    values, found = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        n = frames * each
        points = rng.normal(size=(2 * n, 2))
        # what a frame's structures share, and what partners share through their beads
        points += np.repeat(rng.normal(size=(2 * frames, 2)), each, axis=0) * (frames >= 4)
        if paired:
            points += np.tile(rng.normal(size=(n, 2)), (2, 1))
        result = compare(
            points, cloud(frames, each), cloud(frames, each, n, 0 if paired else 1000), seed, 99
        )
        assert result.permuted == permuted
        values.append(result.p_value)
        found.append(result.mmd2)
    exact = not paired or "pairs" in permuted
    for level in (0.05, 0.2, 0.5):
        share = np.mean(np.array(values) <= level)
        margin = 3.5 * np.sqrt(level * (1 - level) / SEEDS)
        assert share <= level + margin
        # labels that are shuffled regardless of partners make the test cautious, never rash
        assert not exact or share >= level - margin
    # unbiased: zero within four standard errors
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


@pytest.mark.parametrize("each", [1, 4])
def test_a_shifted_cloud_is_told_apart(each):
    rng = np.random.default_rng(1)
    points = rng.normal(size=(2 * 24 * each, 2))
    points[24 * each :, 0] += 1.5
    found = compare(points, cloud(24, each), cloud(24, each, 24 * each, 1000))
    assert found.p_value == pytest.approx(1 / 201)
    assert found.mmd2 > 5 * found.chance > 0


def test_pairs_make_the_test_sharper():
    rng = np.random.default_rng(2)
    n = 30
    points = np.tile(rng.normal(size=(n, 2)), (2, 1)) + 0.1 * rng.normal(size=(2 * n, 2))
    points[n:, 0] += 0.3
    alone = compare(points, cloud(n, 1), cloud(n, 1, n, 1000))
    paired = compare(points, cloud(n, 1), cloud(n, 1, n))
    assert alone.p_value > 0.2
    assert paired.p_value < 0.02
    assert paired.chance < 0.3 * alone.chance


def test_the_same_seed_gives_the_same_answer():
    points = np.random.default_rng(3).normal(size=(40, 2))
    one, other = cloud(5, 4), cloud(5, 4, 20, 50)
    assert compare(points, one, other, seed=7) == compare(points, one, other, seed=7)
    assert compare(points, one, other, seed=7) != compare(points, one, other, seed=8)


@pytest.mark.parametrize(("frames", "by_frame"), [(8, True), (7, False), (1, False)])
def test_halves_are_disjoint_and_complete(frames, by_frame):
    whole = cloud(frames, 6, first=3)
    a, b = halves(whole)
    assert sorted([*a.rows, *b.rows]) == whole.rows.tolist()
    assert abs(len(a.rows) - len(b.rows)) <= 1
    assert (a.frame.max() < b.frame.min()) == by_frame


@pytest.mark.parametrize(("frames", "number", "tried"), [(8, 0, 128), (4, 100, 70), (30, 0, 201)])
def test_few_permutations_are_all_tried(frames, number, tried):
    points = np.random.default_rng(4).normal(size=(2 * frames, 2))
    points[frames:] += 20.0
    found = compare(points, cloud(frames, 1), cloud(frames, 1, frames, number))
    assert found.permutations == tried
    # with the labels of two samples exchanged altogether, it is the same comparison
    assert found.p_value == pytest.approx((2 if tried == 70 else 1) / tried)

"""Kernels, distances, maps and figures: laws that hold for any sample, and SciPy's numbers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, pdist, squareform
from scipy.spatial.transform import Rotation

from deepbackmap.evaluation import metrics
from deepbackmap.similarity import overlap, rematch, sketchmap, soap
from deepbackmap.similarity.centres import backbones, side_group_atoms
from deepbackmap.similarity.options import MapOptions
from evaluation_systems import molecule, structure, topology
from laws import (
    graph_of,
    mirrored,
    moved,
    permutation,
    places,
    random_tree,
    renumbered,
    sheared,
    turned,
)

SEEDS = range(4)


def features(seed, rows=12, width=7):
    found = np.abs(np.random.default_rng(seed).normal(size=(rows, width)))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


GROUPS = np.repeat(np.arange(4), 3).astype(np.int64)


@pytest.mark.parametrize("zeta", [1, 2, 4])
@pytest.mark.parametrize("alpha", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_is_one_of_kernels(seed, alpha, zeta):
    kernel = rematch.rematch_kernel(features(seed), GROUPS, alpha=alpha, zeta=zeta)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-9)
    np.testing.assert_allclose(np.diag(kernel), 1.0)
    assert (kernel > 0).all()
    assert (kernel < 1 + 1e-9).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_knows_neither_the_order_of_structures_nor_of_their_atoms(seed):
    rows = features(seed)
    right = rematch.rematch_kernel(rows, GROUPS, alpha=0.3)
    inside = np.concatenate([3 * k + permutation(3, seed + k) for k in range(4)])
    np.testing.assert_allclose(
        rematch.rematch_kernel(rows[inside], GROUPS, alpha=0.3), right, atol=1e-8
    )
    order = permutation(4, seed)
    shuffled = rows.reshape(4, 3, -1)[order].reshape(12, -1)
    found = rematch.rematch_kernel(shuffled, GROUPS, alpha=0.3)
    np.testing.assert_allclose(found, right[np.ix_(order, order)], atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
def test_turning_all_features_changes_no_kernel(seed):
    rows = features(seed)
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(7, 7)))[0]
    right = rematch.rematch_kernel(rows, GROUPS, alpha=0.5)
    np.testing.assert_allclose(rematch.rematch_kernel(rows @ turn, GROUPS, alpha=0.5), right,
                               atol=1e-9)  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_a_high_temperature_averages_and_a_low_one_matches_the_best(seed):
    similarity = np.random.default_rng(seed).uniform(0.2, 1.0, (1, 4, 4))
    hot = rematch.match(similarity, 1e3)[0]
    assert hot == pytest.approx(similarity.mean(), rel=1e-2)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-similarity[0])
    best = similarity[0][rows, columns].mean()
    cold = rematch.match(similarity, 0.02)[0]
    assert hot - 1e-6 <= cold <= best + 1e-6
    assert cold == pytest.approx(best, abs=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_distances_of_a_linear_kernel_are_euclidean(seed):
    rows = np.random.default_rng(seed).normal(size=(9, 4))
    found = sketchmap.kernel_distances(rows @ rows.T)
    np.testing.assert_allclose(found, squareform(pdist(rows)), atol=1e-7)
    np.testing.assert_allclose(np.diag(found), 0.0, atol=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_scaling_a_plane_down_to_a_plane_loses_nothing(seed):
    flat = np.random.default_rng(seed).normal(size=(10, 2))
    there = flat @ np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 2)))[0].T + 3.0
    distances = squareform(pdist(there))
    found = sketchmap.classical_mds(distances)
    np.testing.assert_allclose(squareform(pdist(found)), distances, atol=1e-6)
    assert Rotation.align_vectors(
        np.c_[found - found.mean(0), np.zeros(10)], np.c_[flat - flat.mean(0), np.zeros(10)]
    )[1] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("transform", [sketchmap.Identity(), sketchmap.Switching(0.7, 2.0, 3.0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_of_the_stress_is_its_slope(seed, transform):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(6, 2))
    target = transform(squareform(pdist(rng.normal(size=(6, 3)))))
    weights = rng.uniform(0.5, 2.0, 6)
    value, gradient = sketchmap.stress(points, target, transform, weights)
    assert value >= 0
    for k in range(6):
        for axis in range(2):
            step = np.zeros_like(points)
            step[k, axis] = 1e-6
            up = sketchmap.stress(points + step, target, transform, weights)[0]
            down = sketchmap.stress(points - step, target, transform, weights)[0]
            assert gradient[k, axis] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_stress_does_not_know_where_the_map_lies(seed):
    rng = np.random.default_rng(seed)
    points, low = rng.normal(size=(7, 2)), sketchmap.Switching(1.0, 2.0, 2.0)
    target = low(squareform(pdist(rng.normal(size=(7, 3)))))
    right, slope = sketchmap.stress(points, target, low)
    angle = rng.uniform(0, 6)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    value, gradient = sketchmap.stress(points @ turn + 2.0, target, low)
    assert value == pytest.approx(right)
    np.testing.assert_allclose(gradient, slope @ turn, atol=1e-9)
    np.testing.assert_allclose(slope.sum(axis=0), 0.0, atol=1e-9)
    exact = sketchmap.stress(points, low(squareform(pdist(points))), low)
    assert exact[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_switching_function_rises_from_nothing_to_one(seed):
    rng = np.random.default_rng(seed)
    low = sketchmap.Switching(float(rng.uniform(0.3, 2)), *map(float, rng.uniform(1, 6, 2)))
    r = np.linspace(0.0, 60.0, 4000)
    values = low(r)
    assert values[0] == pytest.approx(0.0, abs=1e-12)
    assert (np.diff(values) >= -1e-12).all()
    assert values[-1] == pytest.approx(1.0, abs=0.2)
    assert low(np.array([low.sigma]))[0] == pytest.approx(0.5)
    middle = r[50:2000:100]
    numeric = (low(middle + 1e-6) - low(middle - 1e-6)) / 2e-6
    np.testing.assert_allclose(low.slope(middle), numeric, rtol=1e-4, atol=1e-8)


def mmd2(kernel, one, other):
    """The unbiased estimate of Gretton and others (2012), by sums."""
    a, b = kernel[np.ix_(one, one)], kernel[np.ix_(other, other)]
    n, m = len(one), len(other)
    within = (a.sum() - np.trace(a)) / (n * (n - 1)) + (b.sum() - np.trace(b)) / (m * (m - 1))
    return within - 2 * kernel[np.ix_(one, other)].mean()


def cloud(rows):
    rows = np.asarray(rows, dtype=np.int64)
    return overlap.Cloud(rows, rows.copy(), np.zeros_like(rows))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_distance_of_two_clouds_is_symmetric_and_sees_a_shift(seed):
    rng = np.random.default_rng(seed)
    near, far = rng.normal(size=(20, 3)), rng.normal(size=(20, 3)) + 6.0
    also = rng.normal(size=(20, 3))
    rows = np.concatenate([near, far, also])
    kernel = np.exp(-0.5 * cdist(rows, rows) ** 2)
    parts = [cloud(np.arange(20 * k, 20 * k + 20)) for k in range(3)]

    def compared(a, b):
        return overlap.overlap(kernel, parts[a], parts[b], permutations=50, seed=seed)

    for a, b in ((0, 1), (1, 2), (0, 2)):
        expected = mmd2(kernel, parts[a].rows, parts[b].rows)
        assert compared(a, b).mmd2 == pytest.approx(expected)
    assert compared(0, 1).mmd2 == pytest.approx(compared(1, 0).mmd2)
    assert compared(0, 1).mmd2 > 10 * abs(compared(0, 2).mmd2)
    assert compared(0, 1).p_value < 0.05 < compared(0, 2).p_value
    for found in (compared(0, 1), compared(0, 2)):
        assert 0.0 < found.p_value <= 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_halves_are_disjoint_and_whole(seed):
    frames = np.repeat(np.arange(8), 3).astype(np.int64)
    one, other = overlap.halves(overlap.Cloud(np.arange(24), frames, np.tile(np.arange(3), 8)))
    assert not set(one.rows.tolist()) & set(other.rows.tolist())
    assert len(one.rows) + len(other.rows) in (23, 24)
    assert abs(len(one.rows) - len(other.rows)) <= 3


OPTIONS = MapOptions(cutoff=0.45, n_max=3, l_max=3, width=0.05)


@pytest.mark.parametrize("seed", SEEDS)
def test_environments_do_not_know_image_cell_mirror_or_numbering(seed):
    types = ["C", "F", "C", "H"] * 6
    top = topology(molecule(types, []))
    frame = structure(places(24, seed))
    centres = np.array([0, 1, 6])
    right = soap.environments(top, OPTIONS).features([frame], [centres])
    for other in (moved(frame, seed), sheared(frame), mirrored(frame), turned(frame, seed)):
        found = soap.environments(top, OPTIONS).features([other], [centres])
        np.testing.assert_allclose(found, right, atol=1e-7)
    order = permutation(24, seed)
    top = topology(renumbered(molecule(types, []), order))
    shuffled = structure(frame.positions[order])
    place = np.argsort(order)[centres]
    found = soap.environments(top, OPTIONS).features([shuffled], [place])
    np.testing.assert_allclose(found, right, atol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_backbones_are_longest_paths(seed):
    import networkx as nx

    kind = molecule(*random_tree(9, seed))
    graph = graph_of(kind)
    heavy = graph.subgraph([a for a in graph if kind.masses[a] > 3])
    longest = max(max(nx.eccentricity(heavy).values()), 0) + 1
    (path,) = backbones(kind)
    assert len(path) == longest
    assert all(graph.has_edge(a, b) for a, b in pairwise(path))
    for atom in side_group_atoms(kind).tolist():
        assert atom in path
        assert [b for b in heavy.neighbors(atom) if b not in path]


COUNTS = [np.random.default_rng(k).integers(0, 50, 12) + (k % 2) for k in range(8)]


@pytest.mark.parametrize("k", range(6))
def test_the_root_of_the_divergence_is_a_distance(k):
    a, b, c = COUNTS[k : k + 3]
    ab, bc, ac = (np.sqrt(metrics.jensen_shannon(x, y)) for x, y in ((a, b), (b, c), (a, c)))
    assert ac <= ab + bc + 1e-9
    assert metrics.jensen_shannon(a, a) == 0.0
    order = permutation(12, k)
    assert metrics.jensen_shannon(a[order], b[order]) == pytest.approx(ab**2)
    assert metrics.jensen_shannon(3 * a, 7 * b) == pytest.approx(ab**2)


@pytest.mark.parametrize("k", range(6))
def test_coarser_bins_diverge_less(k):
    a, b = COUNTS[k], COUNTS[k + 1]
    fine = metrics.jensen_shannon(a, b)
    for step in (2, 3, 4, 6):
        coarse = [x.reshape(-1, step).sum(axis=1) for x in (a, b)]
        assert metrics.jensen_shannon(*coarse) <= fine + 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_shifts_are_in_standard_deviations_whatever_the_unit(seed):
    rng = np.random.default_rng(seed)
    reference, generated = rng.normal(3.0, 2.0, 400), rng.normal(4.0, 2.0, 300)
    for scale, offset in ((1.0, 0.0), (4.184, 7.0), (1e-3, -2.0)):
        a, b = scale * reference + offset, scale * generated + offset
        assert metrics.shift_of_mean(a, b) == pytest.approx(
            (generated.mean() - reference.mean()) / reference.std()
        )
        assert metrics.shift_of_median(a, b) == pytest.approx(
            metrics.shift_of_median(reference, generated)
        )
        assert metrics.jensen_shannon_by_spread(a, b) == pytest.approx(
            metrics.jensen_shannon_by_spread(reference, generated), abs=0.02
        )
    assert metrics.shift_of_mean(reference, reference) == 0.0
    assert metrics.shift_of_mean(reference, -generated) < 0


@pytest.mark.parametrize("seed", SEEDS)
def test_the_geometric_mean_is_scipys(seed):
    values = np.random.default_rng(seed).uniform(0.1, 9.0, 20)
    assert metrics.geometric_mean(values.tolist()) == pytest.approx(stats.gmean(values))
    assert metrics.geometric_mean((5 * values).tolist()) == pytest.approx(5 * stats.gmean(values))
    assert metrics.geometric_mean([*values.tolist(), 0.0]) == 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_samples_of_one_law_diverge_less_the_larger_they_are(seed):
    rng = np.random.default_rng(seed)
    small, large = ([
        metrics.jensen_shannon_by_spread(rng.normal(size=n), rng.normal(size=n)) for _ in range(8)
    ] for n in (100, 10_000))  # fmt: skip
    assert np.mean(large) < 0.2 * np.mean(small)


def test_options_that_cannot_be_are_refused():
    for name, value in (("cutoff", -1.0), ("n_max", 0), ("alpha", 0.0), ("structures", 0)):
        with pytest.raises(ValueError, match=name):
            replace(OPTIONS, **{name: value})

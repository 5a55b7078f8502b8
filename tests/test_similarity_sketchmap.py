"""Sketch-map against the published formulas and the laws that follow from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform

from deepbackmap.similarity.sketchmap import (
    Identity,
    Switching,
    classical_mds,
    kernel_distances,
    project,
    stress,
)
from evaluation_systems import rotation

POSITIVE = st.floats(0.2, 5.0)


def distances(points):
    return squareform(pdist(points))


def clusters(seed=0, each=12, spread=0.3, groups=5):
    """Clouds in ten dimensions, at right angles to each other."""
    rng = np.random.default_rng(seed)
    return np.concatenate([3.0 * np.eye(10)[k] + spread * rng.normal(size=(each, 10))
                           for k in range(groups)])  # fmt: skip


@settings(deadline=None)
@given(POSITIVE, st.floats(1.0, 8.0), POSITIVE)
def test_the_switching_function_is_a_sigmoid_with_its_half_at_sigma(sigma, a, b):
    f = Switching(sigma, a, b)
    values = f(np.array([0.0, sigma, 1e6 * sigma]))
    np.testing.assert_allclose(values[:2], [0.0, 0.5], atol=1e-12)
    assert values[2] > 0.9
    rising = f(np.linspace(0.0, 3 * sigma, 50))
    assert (np.diff(rising) >= 0).all()


def test_the_switching_function_by_hand():
    # a = b = 2: 1 - 1/(1 + x^2). a = 4, b = 2: 1 - (1 + 3 x^4)^(-1/2)
    x = np.array([0.5, 1.0, 2.0])
    np.testing.assert_allclose(Switching(2.0, 2.0, 2.0)(2.0 * x), [0.2, 0.5, 0.8])
    np.testing.assert_allclose(Switching(2.0, 4.0, 2.0)(2.0 * x), 1 - 1 / np.sqrt(1 + 3 * x**4))


@settings(deadline=None)
@given(POSITIVE, st.floats(1.0, 6.0), POSITIVE, st.floats(0.1, 4.0))
def test_the_slope_is_the_derivative(sigma, a, b, x):
    f, step = Switching(sigma, a, b), 1e-6
    before, after = f(np.array([x - step, x + step]))
    numeric = (after - before) / (2 * step)
    assert f.slope(np.array([x]))[0] == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def test_the_stress_by_hand():
    # d = 1, 2, 1 (a line); f = d^2/(1 + d^2) = 1/2, 4/5, 1/2; targets 1/2, 1, 0
    points = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    target = squareform(np.array([0.5, 1.0, 0.0]))  # pairs 01, 02, 12
    low = Switching(1.0, 2.0, 2.0)
    value, _ = stress(points, target, low)
    assert value == pytest.approx((0.0**2 + 0.2**2 + 0.5**2) / 3)
    # with weights 1, 2, 3 the pairs weigh 2, 3 and 6
    value, _ = stress(points, target, low, np.array([1.0, 2.0, 3.0]))
    assert value == pytest.approx((3 * 0.2**2 + 6 * 0.5**2) / 11)


@pytest.mark.parametrize("low", [Identity(), Switching(0.8, 2.0, 2.0), Switching(1.3, 1.0, 3.0)])
def test_the_gradient_is_the_derivative_of_the_stress(low):
    rng = np.random.default_rng(0)
    target, weights = squareform(rng.random(21)), rng.random(7)

    def part(k):
        return lambda x: (lambda out: out[k])(stress(x.reshape(7, 2), target, low, weights))

    error = check_grad(part(0), lambda x: part(1)(x).ravel(), rng.normal(size=14))
    assert error < 1e-6


def test_points_on_one_place_have_a_finite_gradient():
    _, gradient = stress(np.zeros((3, 2)), np.ones((3, 3)), Switching(1.0, 1.0, 2.0))
    assert np.isfinite(gradient).all()


def test_the_stress_knows_no_direction_and_no_order():
    rng = np.random.default_rng(1)
    points, high = rng.normal(size=(9, 2)), squareform(rng.random(36))
    low = Switching(1.0, 2.0, 3.0)
    value, gradient = stress(points, high, low)
    turn = rotation(4)[:2, :2]
    turn, _ = np.linalg.qr(turn)
    turned, turned_gradient = stress(points @ turn + 5.0, high, low)
    assert turned == pytest.approx(value)
    np.testing.assert_allclose(turned_gradient, gradient @ turn, atol=1e-12)
    order = rng.permutation(9)
    assert stress(points[order], high[np.ix_(order, order)], low)[0] == pytest.approx(value)


def test_classical_scaling_recovers_a_plane():
    points = (
        np.random.default_rng(2).normal(size=(20, 2))
        @ np.linalg.qr(np.random.default_rng(3).normal(size=(5, 2)))[0].T
    )
    np.testing.assert_allclose(
        distances(classical_mds(distances(points))), distances(points), atol=1e-7
    )


@pytest.mark.parametrize("transform", [Identity(), Switching(1.5, 2.0, 2.0)])
def test_a_plane_is_recovered_where_both_functions_are_the_same(transform):
    given_ = distances(np.random.default_rng(4).normal(size=(25, 2)))
    found, left = project(given_, transform, transform)
    assert left < 1e-9
    np.testing.assert_allclose(distances(found), given_, atol=1e-3)


def test_a_map_of_clusters_is_better_than_scaling_and_keeps_them_apart():
    points = clusters()
    d = distances(points)
    sigma = float(np.median(d))
    high, low = Switching(sigma, 4.0, 4.0), Switching(sigma, 2.0, 2.0)
    found, reached = project(d, high, low)
    start, _ = stress(classical_mds(d), high(d), low)
    assert reached < 0.5 * start
    assert reached == pytest.approx(stress(found, high(d), low)[0])
    groups = found.reshape(5, 12, 2)
    centres = groups.mean(axis=1)
    widest = np.linalg.norm(groups - centres[:, None], axis=2).max()
    assert pdist(centres).min() > 2 * widest


@pytest.mark.parametrize(("seed", "helps"), [(0, True), (3, True), (1, False)])
def test_searches_leave_local_minima_and_never_make_a_map_worse(seed, helps):
    d = distances(clusters(seed, each=8, groups=8))
    high, low = Switching(3.0, 6.0, 6.0), Switching(3.0, 2.0, 3.0)
    alone, *searched = (project(d, high, low, searches=k)[1] for k in (0, 1, 3))
    assert alone >= searched[0] >= searched[1]
    assert (searched[1] < 0.8 * alone) == helps


def test_the_order_of_the_points_does_not_matter():
    d = distances(clusters(seed=1, each=6))
    order = np.random.default_rng(6).permutation(len(d))
    high, low = Switching(4.0, 4.0, 4.0), Switching(4.0, 2.0, 2.0)
    one, first = project(d, high, low, searches=0)
    other, second = project(d[np.ix_(order, order)], high, low, searches=0)
    assert second == pytest.approx(first, rel=1e-3)
    assert procrustes(one[order], other)[2] < 1e-3


def test_distances_are_those_of_the_kernels_own_space():
    features = np.random.default_rng(7).normal(size=(6, 4))
    np.testing.assert_allclose(
        kernel_distances(features @ features.T), distances(features), atol=1e-7
    )

"""Series whose answer is known: stationary ones have settled, decaying ones have not."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from deepbackmap.dynamics.settled import reached, settle, settle_all, statistical_inefficiency

SEEDS = range(40)


def autoregressive(rng, n, memory):
    """Stationary AR(1) of variance 1 with the given correlation of neighbours."""
    noise = rng.normal(size=n) * math.sqrt(1.0 - memory**2)
    noise[0] = rng.normal()
    return lfilter([1.0], [1.0, -memory], noise)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.97])
def test_statistical_inefficiency_of_an_autoregressive_series(memory):
    exact = (1.0 + memory) / (1.0 - memory)
    found = [
        statistical_inefficiency(autoregressive(np.random.default_rng(s), 20000, memory))
        for s in range(8)
    ]
    assert np.mean(found) == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize(("memory", "n"), [(0.0, 300), (0.9, 3000), (0.97, 10000)])
def test_a_stationary_series_has_settled(memory, n):
    found = [settle(autoregressive(np.random.default_rng(s), n, memory)) for s in SEEDS]
    assert sum(f.settled for f in found) >= 0.9 * len(SEEDS)
    pulls = [f.mean / f.error for f in found if f.settled]
    assert np.std(pulls) < 1.6
    assert abs(np.mean(pulls)) < 0.6


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_decay_has_settled_when_it_is_over_and_not_before(sign):
    tau, memory = 400, 0.5
    time = np.arange(20 * tau)
    early, late, starts = 0, 0, []
    for seed in SEEDS:
        noise = autoregressive(np.random.default_rng(seed), len(time), memory)
        series = sign * 10.0 * np.exp(-time / tau) + noise
        early += settle(series[: 2 * tau]).settled
        after = settle(series)
        late += after.settled
        starts.append(after.start)
    assert early == 0
    assert late >= 0.9 * len(SEEDS)
    assert np.median(starts) > 2 * tau  # 10 exp(-2) is still more than the noise


@pytest.mark.parametrize("slope", [4.0, 10.0, -10.0])
def test_a_steady_drift_has_not_settled(slope):
    found = [
        settle(
            autoregressive(np.random.default_rng(s), 2000, 0.5) + slope * np.linspace(0, 1, 2000)
        )
        for s in SEEDS
    ]
    assert sum(f.settled for f in found) <= 0.05 * len(SEEDS)


def test_a_series_too_short_for_its_memory_has_not_settled():
    found = [settle(autoregressive(np.random.default_rng(s), 100, 0.97)) for s in SEEDS]
    assert sum(f.settled for f in found) <= 0.05 * len(SEEDS)
    assert settle(np.zeros(3)).state == "too short"


def test_a_series_has_reached_its_target_or_not():
    rng = np.random.default_rng(0)
    noise = [autoregressive(rng, 400, 0.8) for _ in SEEDS]
    assert sum(reached(500.0 + 40.0 * x, 500.0) for x in noise) >= 0.9 * len(SEEDS)
    assert not any(reached(430.0 + 40.0 * x, 500.0) for x in noise)
    warming = 500.0 - 200.0 * np.exp(-np.arange(400) / 200.0)
    assert not any(reached(warming + 10.0 * x, 500.0) for x in noise)
    assert reached(np.full(10, 505.0), 500.0)
    assert not reached(np.full(10, 515.0), 500.0)


def test_a_constant_is_settled_and_what_is_not_a_number_is_refused():
    assert settle(np.full(50, 3.0)).settled
    assert settle(np.full(50, 3.0)).mean == 3.0
    with pytest.raises(ValueError, match="finite"):
        settle(np.array([1.0, math.nan]))
    with pytest.raises(ValueError, match="finite"):
        settle(np.zeros(0))


def test_terms_that_a_system_lacks_are_left_out():
    noise = np.random.default_rng(0).normal(size=200)
    assert set(settle_all({"lj": noise, "coulomb14": np.zeros(200)})) == {"lj"}

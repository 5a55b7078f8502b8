"""Divergences and other figures: laws, hand values, and SciPy's numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from deepbackmap.evaluation.metrics import (
    geometric_mean,
    histogram,
    jensen_shannon,
    jensen_shannon_by_spread,
    mean_absolute_error,
    shift_of_mean,
    shift_of_median,
)

COUNTS = st.lists(st.integers(0, 1000), min_size=6, max_size=6).filter(any).map(np.array)


def test_equal_histograms_do_not_diverge():
    counts = np.array([3, 0, 5, 1])
    assert jensen_shannon(counts, 7 * counts) == 0.0


def test_disjoint_histograms_diverge_by_one_bit():
    assert jensen_shannon(np.array([1, 2, 0]), np.array([0, 0, 5])) == pytest.approx(1.0)


def test_divergence_by_hand():
    by_hand = 0.5 * np.log2(4 / 3) + 0.25 * np.log2(2 / 3) + 0.25 * np.log2(2)
    assert jensen_shannon(np.array([1, 0]), np.array([1, 1])) == pytest.approx(by_hand)


@settings(deadline=None)  # the machine may be busy
@given(COUNTS, COUNTS)
def test_divergence_is_symmetric_bounded_and_scipys(p, q):
    found = jensen_shannon(p, q)
    assert 0.0 <= found <= 1.0 + 1e-12
    assert found == pytest.approx(jensen_shannon(q, p), abs=1e-12)
    assert found == pytest.approx(np.nan_to_num(jensenshannon(p, q, 2)) ** 2, abs=1e-7)


def test_an_empty_histogram_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        jensen_shannon(np.array([0, 0]), np.array([1, 1]))


def test_values_outside_go_into_the_end_bins():
    values = np.array([-1e300, 79.0, 80.0, 80.49, 115.0, 149.99, 150.0, 1e300])
    counts = histogram(values, 80.0, 150.0, 140)
    assert counts.sum() == len(values)
    assert (counts[0], counts[70], counts[139]) == (4, 1, 3)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.integers(-2000, 2000), min_size=1))
def test_histogram_is_numpys_after_clipping(tenths):
    values = np.array(tenths) / 10 + 0.05  # never on an edge
    expected, _ = np.histogram(np.clip(values, -179.9, 179.9), bins=90, range=(-180, 180))
    assert np.array_equal(histogram(values, -180.0, 180.0, 90), expected)


def test_geometric_mean():
    assert geometric_mean([0.01, 0.1, 1.0]) == pytest.approx(0.1)
    assert geometric_mean([0.0, 0.5]) == 0.0
    with pytest.raises(ValueError, match="at least one"):
        geometric_mean([])


def test_shifts_count_standard_deviations_of_the_reference():
    reference = np.array([-1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 4.0, -4.0])
    deviation = np.sqrt(36 / 8)
    assert shift_of_mean(reference, reference + 3.0) == pytest.approx(3.0 / deviation)
    skewed = np.array([2.0, 2.0, 1000.0])
    assert shift_of_median(reference, skewed) == pytest.approx(2.0 / deviation)


def test_spread_sets_the_bins():
    rng = np.random.default_rng(1)
    reference = rng.normal(5.0, 2.0, 20000)
    assert jensen_shannon_by_spread(reference, reference) == 0.0
    # scale and origin do not matter, only standard deviations do
    shifted = reference + 1.0
    found = jensen_shannon_by_spread(reference, shifted)
    scaled = jensen_shannon_by_spread(100.0 * reference - 7.0, 100.0 * shifted - 7.0)
    assert found == pytest.approx(scaled, rel=1e-2)
    assert jensen_shannon_by_spread(reference, reference + 40.0) == pytest.approx(1.0, abs=1e-6)


def test_a_reference_without_spread_is_refused():
    with pytest.raises(ValueError, match="values that differ"):
        jensen_shannon_by_spread(np.ones(4), np.ones(4))


def test_mean_absolute_error():
    assert mean_absolute_error(np.array([0.0, 1.0]), np.array([0.5, 0.0])) == 0.75

"""Small pure functions that turn samples of a quantity into one figure."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Float64, Int64, Num

BELOW, ABOVE, SPREAD_BINS = 8.0, 12.0, 60
"""Standard deviations below and above the reference's mean, and bins between them."""


def histogram(
    values: Num[np.ndarray, "*n"], low: float, high: float, bins: int
) -> Int64[np.ndarray, " bins"]:
    """Counts values in equal bins; values outside go into the end bins.

    Args:
        values: samples, in the unit of ``low`` and ``high``; all finite.
        low: lower edge of the first bin.
        high: upper edge of the last bin.
        bins: number of bins.
    """
    place = np.floor((values.ravel() - low) * (bins / (high - low)))
    # clipped as floats: a huge energy would overflow an integer
    index = np.clip(place, 0, bins - 1).astype(np.int64)
    return np.bincount(index, minlength=bins).astype(np.int64)


def jensen_shannon(first: Num[np.ndarray, " n"], second: Num[np.ndarray, " n"]) -> float:
    """Jensen-Shannon divergence of two histograms in bits: 0 if equal, 1 if disjoint.

    Args:
        first: counts or weights, not all zero; normalised here.
        second: the same bins of the other sample.

    Raises:
        ValueError: a histogram is empty.

    Source: Lin, IEEE Trans. Inf. Theory 37, 145 (1991).
    """
    if not (first.sum() > 0 and second.sum() > 0):
        raise ValueError("histogram: expected at least one sample, got none")
    p, q = first / first.sum(), second / second.sum()
    middle = 0.5 * (p + q)
    return max(0.0, 0.5 * (_relative_entropy(p, middle) + _relative_entropy(q, middle)))


def _relative_entropy(p: Float64[np.ndarray, " n"], q: Float64[np.ndarray, " n"]) -> float:
    """Kullback-Leibler divergence in bits; an empty bin of p adds nothing."""
    filled = p > 0
    return float(np.sum(p[filled] * np.log2(p[filled] / q[filled])))


def geometric_mean(values: Iterable[float]) -> float:
    """Geometric mean of values that are not negative; 0 if one of them is 0.

    Raises:
        ValueError: there are no values.
    """
    numbers = list(values)
    if not numbers:
        raise ValueError("values: expected at least one, got none")
    if min(numbers) <= 0.0:
        return 0.0
    return math.exp(math.fsum(math.log(v) for v in numbers) / len(numbers))


def jensen_shannon_by_spread(
    reference: Float[np.ndarray, "*n"], generated: Float[np.ndarray, "*m"]
) -> float:
    """Divergence of two samples in bins that span the reference's spread (``spread_bins``).

    Args:
        reference: samples whose mean and standard deviation set the bins.
        generated: samples compared with them, same unit.

    Raises:
        ValueError: the reference has no spread.
    """
    bins = spread_bins(reference)
    return jensen_shannon(histogram(reference, *bins), histogram(generated, *bins))


def spread_bins(reference: Float[np.ndarray, "*n"]) -> tuple[float, float, int]:
    """Lower edge, upper edge and number of bins from ``BELOW`` to ``ABOVE`` standard deviations
    of the mean.

    Raises:
        ValueError: the reference has no spread.
    """
    mean, deviation = _spread(reference)
    return mean - BELOW * deviation, mean + ABOVE * deviation, SPREAD_BINS


def shift_of_mean(reference: Float[np.ndarray, " n"], generated: Float[np.ndarray, " m"]) -> float:
    """Difference of the means in standard deviations of the reference (``ValueError`` if 0)."""
    mean, deviation = _spread(reference)
    return (float(np.mean(generated)) - mean) / deviation


def shift_of_median(
    reference: Float[np.ndarray, " n"], generated: Float[np.ndarray, " m"]
) -> float:
    """Difference of the medians in standard deviations of the reference (``ValueError`` if 0)."""
    _, deviation = _spread(reference)
    return float(np.median(generated) - np.median(reference)) / deviation


def _spread(values: Float[np.ndarray, "*n"]) -> tuple[float, float]:
    """Mean and standard deviation of samples that are not all the same."""
    deviation = float(np.std(values))
    if not deviation > 0.0:
        raise ValueError(f"reference: expected values that differ, got {values.size} equal ones")
    return float(np.mean(values)), deviation


def mean_absolute_error(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"]) -> float:
    """Mean absolute difference of two curves at the same points."""
    return float(np.mean(np.abs(first - second)))

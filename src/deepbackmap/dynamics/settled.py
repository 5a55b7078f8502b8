"""When a series of energies has settled: a test on the series, not a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

State = Literal["settled", "drifting", "too short"]

MOST_DISCARDED = 0.5
"""Share of a series that may be thrown away as its approach to equilibrium: what is left must be
at least as long as what went before it, or the approach has not been seen to end."""
FEWEST_INDEPENDENT = 20.0
"""Independent samples below which nothing is said of a trend."""
LARGEST_DRIFT = 3.0
"""In standard errors: the slope of the last half. Of all that is kept it would be too much: a decay
ends with a tail that is too small to be worth cutting off, yet is seen in a long series."""
NEAR = 0.02
"""Relative distance of a mean from its target that counts as none."""
STARTS = 50
"""Places that are tried as the end of the approach."""


@dataclass(frozen=True)
class Settled:
    """What one series shows."""

    state: State
    start: int
    """First sample of the part that is kept."""
    inefficiency: float
    """Samples that tell as much as one independent sample, at least 1."""
    independent: float
    """Independent samples in the part that is kept."""
    mean: float
    """Of the part that is kept."""
    error: float
    """Standard error of that mean."""
    drift: float
    """Slope of the straight line through the last half of the series, in its standard errors."""

    @property
    def settled(self) -> bool:
        """Whether the series has reached its equilibrium."""
        return self.state == "settled"


def settle(series: Float64[np.ndarray, " n"]) -> Settled:
    """Tells whether a series has come to fluctuate about a constant.

    The approach to equilibrium is cut off where that leaves most independent samples. The series
    has settled if at most half of it was cut, at least twenty independent samples are left, and
    the straight line through its last half is flat within three standard errors. A slow drift
    makes samples depend on each other for long, so that few are left: a series that is too
    short for its own memory does not pass.

    Args:
        series: samples at equal distances in time.

    Raises:
        ValueError: there is no sample, or one is not finite.

    Source: Chodera, J. Chem. Theory Comput. 12, 1799 (2016), for the cut.
    """
    if not len(series) or not np.isfinite(series).all():
        raise ValueError(f"series: expected finite samples, got {series}")
    start, inefficiency = equilibration(series)
    kept = series[start:]
    independent = len(kept) / inefficiency
    error = float(kept.std()) / math.sqrt(independent)
    drift = _drift(series[max(start, len(series) // 2) :])
    if start > MOST_DISCARDED * len(series):
        state: State = "drifting"
    elif independent < FEWEST_INDEPENDENT:
        state = "too short"
    else:
        state = "drifting" if abs(drift) > LARGEST_DRIFT else "settled"
    return Settled(state, start, inefficiency, independent, float(kept.mean()), error, drift)


def settle_all(series: Mapping[str, Float64[np.ndarray, " n"]]) -> dict[str, Settled]:
    """``settle`` for every series that changes at all; a term that a topology lacks stays at 0."""
    return {name: settle(values) for name, values in series.items() if np.ptp(values) > 0.0}


def reached(series: Float64[np.ndarray, " n"], target: float) -> bool:
    """Whether the last half of a series lies where its mean is known to end up.

    Args:
        series: at least one sample.
        target: within three standard errors of the mean, or ``NEAR`` of itself, since no
            integrator is exact.
    """
    half = series[len(series) // 2 :]
    error = float(half.std()) * math.sqrt(statistical_inefficiency(half) / len(half))
    return abs(float(half.mean()) - target) <= max(LARGEST_DRIFT * error, NEAR * abs(target))


def equilibration(series: Float64[np.ndarray, " n"]) -> tuple[int, float]:
    """The start that leaves most independent samples, and the statistical inefficiency from there.

    Args:
        series: at least one sample.
    """
    n = len(series)
    starts = np.unique(np.linspace(0, n - max(1, n // 20), STARTS).astype(np.int64))
    found = [(int(s), statistical_inefficiency(series[s:])) for s in starts]
    return max(found, key=lambda f: (n - f[0]) / f[1])


def statistical_inefficiency(series: Float64[np.ndarray, " n"]) -> float:
    """Samples that tell as much as one independent sample.

    1 + 2 sum_t (1 - t/n) C(t), where C is the normalised autocorrelation, up to its first zero.

    Args:
        series: at least one sample; a constant one counts as independent samples.

    Source: Chodera et al., J. Chem. Theory Comput. 3, 26 (2007).
    """
    n = len(series)
    centred = series - series.mean()
    variance = float(np.mean(centred**2))
    if variance <= np.finfo(float).tiny:
        return 1.0
    # padded with zeros, so that the end of the series does not correlate with its beginning, to a
    # power of two, since a length with large prime factors takes many times as long
    length = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(centred, length)
    sums = np.fft.irfft(spectrum * np.conj(spectrum), length)[:n]
    weighted = sums / (n * variance)  # (1 - t/n) C(t), since the sum has n - t terms
    below = np.flatnonzero(weighted[1:] <= 0.0)
    last = int(below[0]) + 1 if len(below) else n
    return max(1.0, 1.0 + 2.0 * float(weighted[1:last].sum()))


def _drift(kept: Float64[np.ndarray, " k"]) -> float:
    """Slope of the straight line through some samples, in its standard errors.

    Spread and memory are those of what the line leaves, so that a drift does not hide behind the
    spread and the memory that it makes itself.
    """
    time = np.arange(len(kept)) - 0.5 * (len(kept) - 1)
    scale = float((time**2).sum())
    if scale == 0.0:
        return 0.0
    slope = float(time @ kept) / scale
    rest = kept - kept.mean() - slope * time
    variance = float(np.mean(rest**2)) * statistical_inefficiency(rest)
    if variance <= np.finfo(float).tiny:
        # nothing but the line: rounding, or all there is
        flat = abs(slope) * len(kept) <= np.finfo(float).eps * float(np.abs(kept).max())
        return 0.0 if flat else math.copysign(math.inf, slope)
    return slope * math.sqrt(scale / variance)

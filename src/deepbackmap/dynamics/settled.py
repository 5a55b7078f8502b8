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
"""In standard errors: between the halves of what is kept."""
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
    """Mean of the second half of that part less the mean of the first, in standard errors."""

    @property
    def settled(self) -> bool:
        """Whether the series has reached its equilibrium."""
        return self.state == "settled"


def settle(series: Float64[np.ndarray, " n"]) -> Settled:
    """Tells whether a series has come to fluctuate about a constant.

    The approach to equilibrium is cut off where that leaves most independent samples. The series
    has settled if at most half of it was cut, at least twenty independent samples are left, and
    the means of their two halves agree within three standard errors. A slow drift makes samples
    depend on each other for long, so that few are left: a series that is too short for
    its own memory never passes.

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
    drift = _drift(kept, inefficiency)
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


def _drift(kept: Float64[np.ndarray, " k"], inefficiency: float) -> float:
    """Difference of the means of the two halves, second less first, in its standard errors."""
    half = len(kept) // 2
    variance = float(kept.var())
    if half == 0 or variance <= np.finfo(float).tiny:
        return 0.0
    error = math.sqrt(2.0 * variance * inefficiency / half)
    return float(kept[-half:].mean() - kept[:half].mean()) / error

"""Normal numbers as a pure function of integers, from a table.

The hash is that of ``geometry.counter_random``. Three pieces of 14 bits of one hash choose three
of 16 384 quantiles of the normal distribution (as GROMACS does for its Langevin integrator): what
dynamics needs of its noise is mean and variance, and these are exact. A table and integers give
the same bits everywhere.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float64

from deepbackmap.mechanics.lanes import inner

BITS = 14
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_CHUNK, _MASK = np.uint64(BITS), np.uint64((1 << BITS) - 1)


def quantiles() -> Float64[np.ndarray, "q"]:
    """The middle quantiles of 2^14 equal parts, scaled to a variance of one."""
    count = 1 << BITS
    middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = torch.special.ndtri(middles).numpy()
    # to 40 bits, beyond what libraries differ by
    return np.round(found / np.sqrt((found**2).mean()) * 2.0**40) / 2.0**40


@inner
def _mix(x):
    x = (x ^ (x >> _S30)) * _MIX1
    x = (x ^ (x >> _S27)) * _MIX2
    return x ^ (x >> _S31)


@inner
def hashed(name, step):
    """``hash_counters(name, step)``."""
    state = _mix(np.uint64(name) + _GOLDEN)
    return _mix((state ^ np.uint64(step)) + _GOLDEN)


@inner
def piece(bits, c):
    """Which quantile the c-th piece of a hash chooses."""
    return np.int64((bits >> (np.uint64(c) * _CHUNK)) & _MASK)

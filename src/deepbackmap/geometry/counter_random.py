"""Random numbers as a pure function of integers.

Every draw of the sampler is named by (seed, frame, sweep, bead, slot, candidate), so the answer
does not depend on how beads are cut into batches, frames into workers, or on the device.
The hash is SplitMix64 (Steele, Lea, Flood 2014, doi 10.1145/2660193.2660195), whose finaliser
passes BigCrush for counters; 64-bit integers wrap around in torch as in C.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """A 64-bit pattern as the signed integer torch wants."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift (torch's is arithmetic)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX1)
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX2)
    return x ^ _shift_right(x, 31)


def hash_counters(*counters: Tensor | int) -> Tensor:
    """One 64-bit hash for each broadcast tuple of integer counters."""
    device = next((c.device for c in counters if isinstance(c, Tensor)), torch.device("cpu"))
    state = torch.zeros((), dtype=torch.int64, device=device)
    for counter in counters:
        value = (
            counter.to(torch.int64)
            if isinstance(counter, Tensor)
            else torch.tensor(_signed(counter), dtype=torch.int64, device=device)
        )
        state = _mix((state ^ value) + _signed(_GOLDEN))
    return state


def uniform(key: Tensor, n: int) -> Tensor:
    """``n`` numbers in the open interval (0, 1) for each key, shape (..., n), float32."""
    steps = torch.arange(1, n + 1, dtype=torch.int64, device=key.device) * _signed(_GOLDEN)
    bits = _shift_right(_mix(key.unsqueeze(-1) + steps), 40)  # 24 bits
    # The largest would round up to one in single precision.
    return ((bits.to(torch.float32) + 0.5) / float(1 << 24)).clamp_max(1.0 - 2.0**-24)


def normal(key: Tensor, n: int) -> Tensor:
    """``n`` standard normal numbers for each key, shape (..., n), float32 (Box-Muller)."""
    half = (n + 1) // 2
    u = uniform(key, 2 * half)
    radius = torch.sqrt(-2.0 * torch.log(u[..., :half]))
    phase = 2.0 * math.pi * u[..., half:]
    return torch.cat([radius * torch.cos(phase), radius * torch.sin(phase)], dim=-1)[..., :n]

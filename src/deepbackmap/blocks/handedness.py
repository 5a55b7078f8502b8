"""The hand that each stereocentre of a system should have."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True)
class Handedness:
    """The hand that each stereocentre should have."""

    atoms: Int64[Tensor, "c 5"]
    """The centre and its four branches, atoms of the system."""
    sign: Int64[Tensor, "c"]
    """Wanted sign of (b - a) x (c - a) . (d - a) of the branches a, b, c, d; 0: any."""

"""What a structure map shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64


@dataclass(frozen=True)
class Overlap:
    """Maximum mean discrepancy of two clouds in the kernel's own space."""

    mmd2: float
    """Unbiased squared discrepancy; may be slightly negative."""
    p_value: float
    """Fraction of permutations of the labels with at least this discrepancy, the given one
    counted among them."""
    permutations: int
    """How many were tried, the given one included."""
    chance: float = float("nan")
    """What one permutation in twenty exceeds: a discrepancy below it may well be chance."""
    permuted: str = ""
    """What keeps together or is exchanged: ``frames``, ``frames in pairs`` (of one number, since
    they share their beads), ``structures`` or ``structures in pairs``."""


@dataclass(frozen=True)
class StructureMap:
    """Structures of several samples in two dimensions, and how far the samples overlap."""

    samples: tuple[str, ...]
    """``reference`` first, then the methods."""
    sample: Int64[np.ndarray, " n"]
    """Index into ``samples`` for every point."""
    frame: Int64[np.ndarray, " n"]
    """Number in its file, from 0."""
    molecule: Int64[np.ndarray, " n"]
    """From 1; 0 where a point stands for a whole frame."""
    points: Float64[np.ndarray, "n 2"]
    """The sketch-map projection, dimensionless."""
    stress: float
    """Of the projection, per pair."""
    overlap: Mapping[str, Overlap]
    """Every method, and ``reference (halves)``, against the reference."""
    settings: Mapping[str, str | float | int]
    """Of SOAP, REMatch and sketch-map, as they were used."""

"""How far two clouds of structures overlap: maximum mean discrepancy and a permutation test.

Molecules of one frame are not independent of each other (they share a box and touch), so where
there are at least ``LEAST_FRAMES`` frames in both samples, a frame with all its structures is one
unit of the test, otherwise each structure is one. Backmapped frames share their beads with the
reference's frame of the same number; so units of the same name in both samples are partners: they
are not compared with each other, and if both samples have the same names, labels are exchanged
between partners only, which is as valid for independent samples and sharper for such pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.similarity.containers import Overlap

LEAST_FRAMES = 4
"""In both samples, for frames to be the units."""
LEAST_PARTNERS = 8
"""For labels to be exchanged between partners only: 2^7 = 128 different outcomes."""
ROUNDING = 1e-12
"""Discrepancies that are this close count as equal."""


@dataclass(frozen=True)
class Cloud:
    """One sample's structures: rows of the kernel, and where they come from."""

    rows: Int64[np.ndarray, " n"]
    frame: Int64[np.ndarray, " n"]
    molecule: Int64[np.ndarray, " n"]


def overlap(
    kernel: Float64[np.ndarray, "n n"],
    one: Cloud,
    other: Cloud,
    *,
    permutations: int,
    seed: int,
) -> Overlap:
    """Compares two samples in the kernel's own space.

    The squared discrepancy is the mean kernel between different units within the one sample, plus
    that within the other, minus twice that between them (Gretton et al., JMLR 13, 723, 2012, Eq. 3,
    where each unit is one structure); partners are left out. Its expectation is 0 if both samples
    come from one distribution.

    Args:
        kernel: between structures.
        one: at least three structures.
        other: at least three structures; rows that ``one`` does not have.
        permutations: of the labels, besides the given one; where there are no more than that,
            all of them are tried, each once.
        seed: of the permutations.

    Returns:
        The discrepancy and its p-value.
    """
    by_frame = min(len(np.unique(one.frame)), len(np.unique(other.frame))) >= LEAST_FRAMES
    names_one, unit_one = _units(one, by_frame)
    names_other, unit_other = _units(other, by_frame)
    rows = np.concatenate([one.rows, other.rows])
    unit = np.concatenate([unit_one, len(names_one) + unit_other])
    names = np.concatenate([names_one, names_other])
    sums, counts = _between_units(kernel[np.ix_(rows, rows)], unit, names)
    label = np.arange(len(names)) < len(names_one)
    partners = len(names_one) >= LEAST_PARTNERS and np.array_equal(names_one, names_other)
    draw = _exchanges if partners else _shuffles
    draws = np.concatenate([label[None], draw(label, permutations, np.random.default_rng(seed))])
    chance = _discrepancy(sums, counts, draws)
    found = float(chance[0])
    return Overlap(
        mmd2=found,
        p_value=float((chance >= found - ROUNDING).mean()),
        permutations=len(draws),
        chance=float(np.quantile(chance, 0.95)),
        permuted=f"{'frames' if by_frame else 'structures'}{' in pairs' if partners else ''}",
    )


def halves(cloud: Cloud) -> tuple[Cloud, Cloud]:
    """Two disjoint halves of a sample, to see what chance does.

    With enough frames these are the first and the second half of them, in the order of their
    numbers, so that a trajectory that drifts or is too short shows; otherwise every other
    structure.
    """
    frames = np.unique(cloud.frame)
    if len(frames) >= 2 * LEAST_FRAMES:
        first = cloud.frame < frames[len(frames) // 2]
    else:
        first = np.arange(len(cloud.rows)) % 2 == 0
    return _part(cloud, first), _part(cloud, ~first)


def _part(cloud: Cloud, chosen: Bool[np.ndarray, " n"]) -> Cloud:
    return Cloud(cloud.rows[chosen], cloud.frame[chosen], cloud.molecule[chosen])


def _units(
    cloud: Cloud, by_frame: bool
) -> tuple[Int64[np.ndarray, "u 2"], Int64[np.ndarray, " n"]]:
    """Names (frame, molecule) of the units, ascending, and the unit of every structure."""
    molecule = np.zeros_like(cloud.molecule) if by_frame else cloud.molecule
    names, unit = np.unique(np.stack([cloud.frame, molecule], axis=1), axis=0, return_inverse=True)
    return names, unit.ravel()


def _between_units(
    kernel: Float64[np.ndarray, "n n"],
    unit: Int64[np.ndarray, " n"],
    names: Int64[np.ndarray, "u 2"],
) -> tuple[Float64[np.ndarray, "u u"], Float64[np.ndarray, "u u"]]:
    """Sums of the kernel and numbers of pairs between units; 0 within one and between partners."""
    member = np.zeros((len(names), len(unit)))
    member[unit, np.arange(len(unit))] = 1.0
    size = member.sum(axis=1)
    apart = (names[:, None] != names[None]).any(axis=2)
    return member @ kernel @ member.T * apart, np.outer(size, size) * apart


def _discrepancy(
    sums: Float64[np.ndarray, "u u"],
    counts: Float64[np.ndarray, "u u"],
    labels: Bool[np.ndarray, "p u"],
) -> Float64[np.ndarray, " p"]:
    """The squared discrepancy for many ways to label the units at once."""
    x, y = labels.astype(np.float64), (~labels).astype(np.float64)

    def mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return ((a @ sums) * b).sum(axis=1) / ((a @ counts) * b).sum(axis=1)

    return mean(x, x) + mean(y, y) - 2.0 * mean(x, y)


def _shuffles(
    label: Bool[np.ndarray, " u"], count: int, rng: np.random.Generator
) -> Bool[np.ndarray, "p u"]:
    """The labels in other orders: all there are, or as many as asked for at random."""
    units, chosen = len(label), int(label.sum())
    if comb(units, chosen) - 1 > count:
        return rng.permuted(np.tile(label, (count, 1)), axis=1)
    every = np.zeros((comb(units, chosen), units), dtype=bool)
    for row, mine in zip(every, combinations(range(units), chosen), strict=True):
        row[list(mine)] = True
    return every[(every != label).any(axis=1)]


def _exchanges(
    label: Bool[np.ndarray, " u"], count: int, rng: np.random.Generator
) -> Bool[np.ndarray, "p u"]:
    """The labels exchanged between partners (k and k + half), each with probability 1/2, or in
    all ways there are; the first keeps its own, since exchanging all changes nothing."""
    pairs = len(label) // 2
    if 2 ** (pairs - 1) - 1 > count:
        first = rng.integers(0, 2, (count, pairs)).astype(bool)
    else:
        first = (np.arange(2 ** (pairs - 1))[:, None] >> np.arange(pairs) & 1).astype(bool)[1:]
    return np.concatenate([~first, first], axis=1)

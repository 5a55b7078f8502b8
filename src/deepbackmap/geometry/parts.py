"""Neighbours of the particles of a box part by part: memory is bounded by a part with its halo.

A box is cut into cells along its lattice vectors. What is within reach of a cell's own particles
lies in cells nearby, or in images of them: particles that are copied there as the halo. Vectors are
worked out from the positions as they were given, so that a pair is the same, to the bits, however
the box was cut.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from vesin import NeighborList

from deepbackmap.geometry.cell import (
    WIDER,
    NeighbourPairs,
    cell_heights,
    cell_volume,
    neighbour_pairs,
    sorted_pairs,
)

PART = 8000
"""Particles of a part, about: its halo is as large again where the reach is 1.3 nm."""


def give_back() -> None:
    """Returns what was freed to the system.

    The C library keeps it between what is still in use: after the parts of a large box that is
    several times as much as the box itself. Where it is not glibc, nothing is done.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class _Cells(NamedTuple):
    """Particles sorted into cells."""

    counts: tuple[int, int, int]
    """Along each lattice vector."""
    fractions: Float64[np.ndarray, "n 3"]
    wraps: Int64[np.ndarray, "n 3"]
    """Lattice vectors taken off to have each in the box."""
    members: list[Int64[np.ndarray, "_"]]


class _Halo(NamedTuple):
    """A cell and what is within reach of it."""

    particles: Int64[np.ndarray, "h"]
    """One that is near in several images occurs for each."""
    shifts: Int64[np.ndarray, "h 3"]
    """Lattice vectors to be added to bring each there."""
    home: Bool[np.ndarray, "h"]
    """Whether it is the cell's own."""
    periodic: tuple[bool, ...]
    """Axes along which there is one cell only, so that the search itself goes round."""


def neighbours_by_parts(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    cutoff: float,
    most: int | None = None,
) -> Iterator[tuple[Int64[np.ndarray, "m"], NeighbourPairs]]:
    """What ``neighbour_pairs`` gives, for some particles at a time.

    Args:
        positions: nm; need not be wrapped.
        box: lattice vectors as rows, nm.
        cutoff: nm.
        most: particles of a part, about; None: ``PART``.

    Yields:
        Particles of a part, in ascending order, and all pairs whose first one is among them.

    Raises:
        ValueError: as for ``neighbour_pairs``.
    """
    most = PART if most is None else most
    if len(positions) <= most or not np.isfinite(positions).all():
        yield np.arange(len(positions)), neighbour_pairs(positions, box, cutoff)
        return
    cells, margins = _cells(positions, box, most), WIDER * cutoff / cell_heights(box)
    for number, place in enumerate(product(*(range(c) for c in cells.counts))):
        own = cells.members[number]
        if len(own):
            yield own, _of_part(positions, box, cutoff, _around(cells, place, margins))
            give_back()


def _cells(
    positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"], most: int
) -> _Cells:
    """Cells that are about as long in each direction."""
    heights = cell_heights(box)
    edge = (cell_volume(box) * most / len(positions)) ** (1.0 / 3.0)
    a, b, c = (math.ceil(h / edge) for h in heights.tolist())
    fractions = positions @ np.linalg.inv(box)
    wraps = np.floor(fractions)
    fractions -= wraps
    place = np.minimum((fractions * (a, b, c)).astype(np.int64), np.array([a, b, c]) - 1)
    number = (place[:, 0] * b + place[:, 1]) * c + place[:, 2]
    order = np.argsort(number, kind="stable")
    ends = np.searchsorted(number[order], np.arange(1, a * b * c))
    return _Cells((a, b, c), fractions, wraps.astype(np.int64), np.split(order, ends))


def _around(cells: _Cells, place: tuple[int, ...], margins: Float64[np.ndarray, "3"]) -> _Halo:
    """What is within reach of a cell."""
    counts = np.array(cells.counts)
    low, high = np.array(place) / counts - margins, (np.array(place) + 1) / counts + margins
    cut = counts > 1
    reach = np.where(cut, np.ceil(margins * counts), 0).astype(int)
    near, shifts, home = [], [], []
    for step in product(*(range(-r, r + 1) for r in reach.tolist())):
        image, there = np.divmod(np.array(place) + step, counts)
        found = cells.members[(there[0] * counts[1] + there[1]) * counts[2] + there[2]]
        at = cells.fractions[found] + image
        found = found[((at >= low) & (at <= high) | ~cut).all(axis=1)]
        near.append(found)
        shifts.append(image - cells.wraps[found])
        home.append(np.full(len(found), not any(step)))
    whole = tuple((~cut).tolist())
    return _Halo(np.concatenate(near), np.concatenate(shifts), np.concatenate(home), whole)


def _of_part(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    cutoff: float,
    halo: _Halo,
) -> NeighbourPairs:
    """Pairs of the particles of a part."""
    points = positions[halo.particles] + halo.shifts @ box
    search = NeighborList(cutoff=float(cutoff) * WIDER, full_list=True)
    i, j, images = search.compute(points, box, np.array(halo.periodic), "ijS")
    mine = np.flatnonzero(halo.home[i])
    i, j, images = (found[mine].astype(np.int64) for found in (i, j, images))
    shifts = images + halo.shifts[j] - halo.shifts[i]
    return sorted_pairs(positions, box, cutoff, halo.particles[i], halo.particles[j], shifts)

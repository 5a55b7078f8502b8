"""Shortest images of vectors inside molecules that are bonded to their own periodic images.

Where a network, a sheet or an endless chain closes across the box, no arrangement of its atoms has
all bonded ones beside each other. Differences inside such a molecule are then taken to their
shortest image (``cell`` holds nine numbers, the lattice vectors as rows, lower triangular); in all
others they are what positions say (``cell`` is empty), which costs nothing.
"""

from __future__ import annotations

from deepbackmap.mechanics.columns import SHARE_ATOMS, SHARES, WEIGHTS
from deepbackmap.mechanics.lanes import LANES, double4, inner, load, nearest


@inner
def shortest(d0, d1, d2, cell):
    """The image of a vector, which is shorter than half the smallest diagonal of the cell."""
    if len(cell):
        n = nearest(d2 * (1.0 / cell[8]))
        d0, d1, d2 = d0 - n * cell[6], d1 - n * cell[7], d2 - n * cell[8]
        n = nearest(d1 * (1.0 / cell[4]))
        d0, d1 = d0 - n * cell[3], d1 - n * cell[4]
        n = nearest(d0 * (1.0 / cell[0]))
        d0 = d0 - n * cell[0]
    return d0, d1, d2


@inner
def difference(x, i, j, cell):
    """From the second to the first of two atoms."""
    return shortest(
        load(x, i) - load(x, j),
        load(x, i + LANES) - load(x, j + LANES),
        load(x, i + 2 * LANES) - load(x, j + 2 * LANES),
        cell,
    )


@inner
def bead_of(T, t, bead, x, base):
    """The weighted mean of the vectors of a bead's atoms."""
    shares, atoms, weights = T.first[t, SHARES], T.first[t, SHARE_ATOMS], T.first[t, WEIGHTS]
    b0, b1, b2 = double4(0.0), double4(0.0), double4(0.0)
    for k in range(T.integers[shares + bead], T.integers[shares + bead + 1]):
        share, i = T.reals[weights + k], base + T.integers[atoms + k]
        b0 = b0 + share * load(x, i)
        b1 = b1 + share * load(x, i + LANES)
        b2 = b2 + share * load(x, i + 2 * LANES)
    return b0, b1, b2


@inner
def _bead_across(T, t, bead, x, base, cell):
    """The same of positions, each in the image nearest to the bead's first atom."""
    shares, atoms, weights = T.first[t, SHARES], T.first[t, SHARE_ATOMS], T.first[t, WEIGHTS]
    first, stop = T.integers[shares + bead], T.integers[shares + bead + 1]
    b0, b1, b2 = double4(0.0), double4(0.0), double4(0.0)
    if stop > first:
        j = base + T.integers[atoms + first]
        b0, b1, b2 = load(x, j), load(x, j + LANES), load(x, j + 2 * LANES)
        for k in range(first + 1, stop):
            share, i = T.reals[weights + k], base + T.integers[atoms + k]
            d0, d1, d2 = difference(x, i, j, cell)
            b0, b1, b2 = b0 + share * d0, b1 + share * d1, b2 + share * d2
    return b0, b1, b2


@inner
def bead_at(T, t, bead, x, base, cell):
    """Where the forward map puts a bead; its weights add up to one."""
    if len(cell):
        return _bead_across(T, t, bead, x, base, cell)
    return bead_of(T, t, bead, x, base)


@inner
def bead_off(T, t, bead, x, base, goals, goal, cell):
    """From where a bead is given to where the forward map puts it."""
    found = bead_at(T, t, bead, x, base, cell)
    return shortest(
        found[0] - load(goals, goal),
        found[1] - load(goals, goal + LANES),
        found[2] - load(goals, goal + 2 * LANES),
        cell,
    )

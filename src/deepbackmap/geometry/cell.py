"""Periodic cells of any shape: volume, heights, wrapping, minimum image, neighbour pairs.

A box is a (3, 3) array of lattice vectors as rows, in nm. Nothing here assumes that the cell
is rectangular, reduced or in GROMACS' lower triangular form.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from vesin import NeighborList

_TIE = 1e-9
"""How much more than half a lattice vector a vector must reach before it is folded back, as a
fraction of that lattice vector; without it two images of equal length would swap for ever."""


WIDER = 1.0 + 1e-9
"""Times a cut-off: how far pairs are looked for, so that rounding loses none that is within it."""


class NeighbourPairs(NamedTuple):
    """A full neighbour list: every pair appears as (i, j) and as (j, i), sorted by i, then j."""

    i: Int64[np.ndarray, "n"]
    j: Int64[np.ndarray, "n"]
    shifts: Int64[np.ndarray, "n 3"]
    """The image of j, in lattice vectors: vector = x[j] + shift @ box - x[i]."""
    vectors: Float64[np.ndarray, "n 3"]
    """From i to the image of j, in nm."""
    distances: Float64[np.ndarray, "n"]
    """In nm."""


def validate_box(box: Float64[np.ndarray, "3 3"]) -> None:
    """Refuses a box that has no volume.

    Args:
        box: lattice vectors as rows, nm.

    Raises:
        ValueError: a vector is not finite, or the three do not span space.
    """
    if not np.isfinite(box).all():
        raise ValueError(f"box: expected finite lattice vectors, got {box.tolist()}")
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large fails the comparison
        lengths = np.linalg.norm(box, axis=1)
        # A relative measure of flatness, since an absolute volume means nothing without a scale.
        spanned = abs(np.linalg.det(box)) >= 1e-6 * lengths.prod()
    if (lengths == 0.0).any() or not spanned:
        raise ValueError(f"box: expected three independent lattice vectors, got {box.tolist()}")


def cell_volume(box: Float64[np.ndarray, "3 3"]) -> float:
    """Volume of the cell in nm^3."""
    return abs(float(np.linalg.det(box)))


def cell_heights(box: Float64[np.ndarray, "*f 3 3"]) -> Float64[np.ndarray, "*f 3"]:
    """Distances between opposite faces of the cell, or of several, in nm.

    Half the smallest height is the radius below which rounding fractional coordinates gives
    the nearest image.
    """
    return 1.0 / np.linalg.norm(np.linalg.inv(box), axis=-2)


def shortest_lengths(box: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3"]:
    """Lengths of the three shortest independent lattice vectors in nm, ascending.

    They belong to the lattice, not to the vectors that happen to describe it, and change
    continuously with it; all three are among its Voronoi-relevant vectors.
    """
    _, _, faces = _lattice(np.ascontiguousarray(box).tobytes())
    lengths = np.linalg.norm(faces, axis=1)
    chosen: list[int] = []
    for k in np.argsort(lengths, kind="stable").tolist():
        # relative, as in validate_box
        unit = faces[[*chosen, k]] / lengths[[*chosen, k], None]
        if np.linalg.svd(unit, compute_uv=False)[-1] > 1e-6:
            chosen.append(k)
        if len(chosen) == 3:
            break
    return lengths[chosen]


def wrap(
    positions: Float64[np.ndarray, "*n 3"], box: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "*n 3"]:
    """Moves positions by lattice vectors into the cell, fractional coordinates in [0, 1).

    Args:
        positions: nm.
        box: lattice vectors as rows, nm.

    Returns:
        Positions in nm.
    """
    return positions - np.floor(positions @ np.linalg.inv(box)) @ box


def minimum_image(
    vectors: Float64[np.ndarray, "*n 3"], box: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, "*n 3"]:
    """The shortest periodic image of every vector, exact in any cell and at any distance.

    Rounding fractional coordinates comes first and settles vectors shorter than half the
    shortest lattice vector. The others are folded into the Voronoi cell of the lattice: a
    vector is the shortest of its images if and only if its projection on each of the seven
    pairs of Voronoi-relevant lattice vectors is at most half that vector's length.

    Args:
        vectors: differences of positions, nm.
        box: lattice vectors as rows, nm.

    Returns:
        Vectors in nm, equal to the given ones up to lattice vectors.

    Raises:
        ValueError: the box has no volume (``validate_box``).
    """
    basis, inverse, faces = _lattice(np.ascontiguousarray(box).tobytes())
    flat = vectors.reshape(-1, 3)
    flat = flat - np.rint(flat @ inverse) @ basis
    squares = (faces**2).sum(axis=1)
    todo = np.flatnonzero((flat**2).sum(axis=1) > 0.25 * squares.min())
    while len(todo):
        part = flat[todo]
        moved = np.zeros(len(todo), dtype=bool)
        for face, square in zip(faces, squares, strict=True):
            along = part @ face / square
            fold = np.where(np.abs(along) > 0.5 + _TIE, np.rint(along), 0.0)
            moved |= fold != 0.0
            part -= fold[:, None] * face
        flat[todo] = part
        todo = todo[moved]
    return flat.reshape(vectors.shape)


def neighbour_pairs(
    positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"], cutoff: float
) -> NeighbourPairs:
    """All pairs of particles and periodic images closer than a cut-off.

    The cut-off may exceed half the cell, and even the cell: then a pair occurs once for each
    image within reach, and a particle may neighbour its own images. Positions need not be
    wrapped.

    Args:
        positions: nm.
        box: lattice vectors as rows, nm.
        cutoff: nm.

    Returns:
        The full list, sorted by i, then j, then shift, so that it does not depend on how the
        search was done.

    Raises:
        ValueError: the box has no volume, the cut-off is not positive, or a position is not finite.
    """
    validate_box(box)
    if not cutoff > 0.0:
        raise ValueError(f"cutoff: expected a positive distance, got {cutoff}")
    if not np.isfinite(positions).all():
        raise ValueError("positions: expected finite numbers, got NaN or infinity")
    if len(positions) == 0:
        nothing = np.zeros(0, dtype=np.int64)
        empty = np.zeros((0, 3))
        return NeighbourPairs(nothing, nothing, empty.astype(np.int64), empty, np.zeros(0))
    search = NeighborList(cutoff=float(cutoff) * WIDER, full_list=True)
    found = search.compute(points=positions, box=box, periodic=True, quantities="ijS")
    return sorted_pairs(positions, box, cutoff, *(part.astype(np.int64) for part in found))


def sorted_pairs(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    cutoff: float,
    i: Int64[np.ndarray, "p"],
    j: Int64[np.ndarray, "p"],
    shifts: Int64[np.ndarray, "p 3"],
) -> NeighbourPairs:
    """Pairs nearer than a cut-off in their order, with their vectors: the same bits however they
    were found."""
    order = _pair_order(i, j, shifts, len(positions))
    i, j, shifts = i[order], j[order], shifts[order]
    # written out: a matrix product may round by the number of its rows
    images = shifts[:, :1] * box[0] + shifts[:, 1:2] * box[1] + shifts[:, 2:] * box[2]
    vectors = positions[j] - positions[i] + images
    distances = np.sqrt(np.einsum("nk,nk->n", vectors, vectors))
    if not (within := distances < cutoff).all():
        i, j, shifts, vectors, distances = (a[within] for a in (i, j, shifts, vectors, distances))
    return NeighbourPairs(i, j, shifts, vectors, distances)


def _pair_order(
    i: Int64[np.ndarray, "n"],
    j: Int64[np.ndarray, "n"],
    shifts: Int64[np.ndarray, "n 3"],
    n_positions: int,
) -> Int64[np.ndarray, "n"]:
    """Sorts by i, j and shift: by one number that holds all five, where it fits.

    A tenth of the time that sorting by five keys takes.
    """
    if not len(i):
        return np.zeros(0, dtype=np.int64)
    low = shifts.min(axis=0)
    spans = [int(s) for s in shifts.max(axis=0) - low + 1]
    if n_positions**2 * spans[0] * spans[1] * spans[2] >= 2**63:
        return np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], j, i))
    key = i * n_positions + j
    for axis in range(3):
        key = key * spans[axis] + shifts[:, axis] - low[axis]
    return np.argsort(key)


@lru_cache(maxsize=64)
def _lattice(
    box_bytes: bytes,
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3 3"], Float64[np.ndarray, "7 3"]]:
    """A reduced basis, its inverse, and one of each pair of Voronoi-relevant vectors.

    In three dimensions the Voronoi-relevant vectors are among the sums of subsets of an obtuse
    superbase (Conway and Sloane, Proc. R. Soc. A 436, 55, 1992, section 3).
    """
    box = np.frombuffer(box_bytes, dtype=np.float64).reshape(3, 3)
    validate_box(box)
    base = _obtuse_superbase(box)
    faces = np.concatenate([base, base[0] + base[1:]])
    return base[1:], np.linalg.inv(base[1:]), faces


def _obtuse_superbase(box: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4 3"]:
    """Four lattice vectors that add to zero, three of them a basis, no two at an acute angle.

    Selling's reduction: while two of them make an acute angle, one is turned round and added
    to the two others; the sum of the squared lengths falls at every step, so it ends.
    """
    base = np.concatenate([-box.sum(axis=0, keepdims=True), box])
    scale = (box**2).sum() * 1e-12
    while True:
        products = base @ base.T
        np.fill_diagonal(products, 0.0)
        i, j = divmod(int(products.argmax()), 4)
        if products[i, j] <= scale:
            return base
        turned = base[i].copy()
        others = [k for k in range(4) if k not in (i, j)]
        base[others] += turned
        base[i] = -turned

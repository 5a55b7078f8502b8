"""Rings of the bond graph, and bonds that pass through them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64, Int64
from vesin import NeighborList

from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.geometry.cell import cell_heights, minimum_image
from deepbackmap.system import MoleculeType, Structure

LARGEST_RING = 10
"""Atoms; larger rings are loops that something may well thread."""
PART = 1 << 16
"""Rings and bonds that are compared at a time, about."""


def find_rings(molecule: MoleculeType, largest: int = LARGEST_RING) -> list[tuple[int, ...]]:
    """The shortest ring through each bond, if there is one.

    Returns:
        Rings as atoms in cyclic order, each once, sorted.
    """
    neighbours = bonded_neighbours(molecule)
    rings = {}
    for a, b in molecule.bonds.tolist():
        ring = _shortest_detour(neighbours, a, b, largest)
        if ring:
            rings[frozenset(ring)] = ring
    return sorted(rings.values())


def _shortest_detour(
    neighbours: list[list[int]], start: int, end: int, largest: int
) -> tuple[int, ...]:
    """Shortest path between two bonded atoms that does not use their bond; empty if none."""
    came_from = {start: start}
    queue = deque([(start, 1)])
    while queue:
        atom, length = queue.popleft()
        if length >= largest:
            return ()
        for other in neighbours[atom]:
            if other in came_from or (atom, other) == (start, end):
                continue
            came_from[other] = atom
            if other == end:
                return _trace(came_from, start, end)
            queue.append((other, length + 1))
    return ()


def _trace(came_from: dict[int, int], start: int, end: int) -> tuple[int, ...]:
    """The path that a breadth-first search found, from the start."""
    path = [end]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return tuple(reversed(path))


def out_of_plane(
    structure: Structure, rings: Int64[np.ndarray, "r s"]
) -> Float64[np.ndarray, " r"]:
    """Root mean square distance of every ring's atoms from their mean plane, nm.

    Args:
        structure: a frame; molecules need not be whole.
        rings: atoms of rings of one size, in cyclic order.
    """
    if not len(rings):
        return np.zeros(0)
    corners = structure.positions[rings]
    spokes = minimum_image(corners - corners[:, :1], structure.box)
    spokes = spokes - spokes.mean(axis=1, keepdims=True)
    # the plane of least squares leaves the smallest eigenvalue of the scatter matrix
    scatter = np.einsum("rsi,rsj->rij", spokes, spokes)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(scatter)[:, 0], 0.0) / rings.shape[1])


def pierced_rings(
    structure: Structure, rings: Int64[np.ndarray, "r s"], bonds: Int64[np.ndarray, "b 2"]
) -> Int64[np.ndarray, "p 2"]:
    """Finds the bonds that cross a ring's polygon, in any periodic image.

    The polygon is the fan of triangles from the ring's centroid to its edges. Bonds that share
    an atom with the ring do not count.

    Args:
        structure: a frame; molecules need not be whole.
        rings: atoms of rings of one size, in cyclic order.
        bonds: pairs of atoms.

    Returns:
        (row of ``rings``, row of ``bonds``) for every crossing bond, sorted.
    """
    if not (len(rings) and len(bonds)):
        return np.zeros((0, 2), dtype=np.int64)
    positions, box = structure.positions, structure.box
    corners = positions[rings]
    spokes = minimum_image(corners - corners[:, :1], box)
    centroids = corners[:, 0] + spokes.mean(axis=1)
    spokes = spokes - spokes.mean(axis=1, keepdims=True)
    half = 0.5 * minimum_image(positions[bonds[:, 1]] - positions[bonds[:, 0]], box)
    middles = positions[bonds[:, 0]] + half
    reach = float(np.linalg.norm(spokes, axis=2).max() + np.linalg.norm(half, axis=1).max())
    found = [np.zeros((0, 2), dtype=np.int64)]
    for ring, bond, apart in _near_pairs(centroids, middles, box, reach):
        foreign = ~(rings[ring][:, :, None] == bonds[bond][:, None, :]).any(axis=(1, 2))
        ring, bond, apart = ring[foreign], bond[foreign], apart[foreign]
        hit = np.zeros(len(ring), dtype=bool)
        for k in range(rings.shape[1]):
            edge = spokes[ring, k], spokes[ring, (k + 1) % rings.shape[1]]
            hit |= _crosses_triangle(apart - half[bond], 2.0 * half[bond], *edge)
        found.append(np.column_stack([ring[hit], bond[hit]]))
    return np.unique(np.concatenate(found), axis=0)


def _near_pairs(
    first: Float64[np.ndarray, "n 3"],
    second: Float64[np.ndarray, "m 3"],
    box: Float64[np.ndarray, "3 3"],
    cutoff: float,
) -> Iterator[tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"], Float64[np.ndarray, "p 3"]]]:
    """What ``_pairs_between`` finds, layer by layer along the last lattice vector, so that memory
    is bounded by a layer and what is within the cut-off of it."""
    height = float(cell_heights(box)[2])
    layers = min(math.ceil((len(first) + len(second)) / PART), int(height / cutoff))
    if layers < 4:  # with fewer, what is near a layer is nearly all there is
        yield _pairs_between(first, second, box, cutoff)
        return
    up = np.linalg.inv(box)[:, 2]
    low, at = (points @ up % 1.0 for points in (first, second))
    margin = 1.001 * cutoff / height
    for k in range(layers):
        own = np.flatnonzero((low >= k / layers) & (low < (k + 1) / layers))
        near = np.flatnonzero((at - k / layers + margin) % 1.0 <= 1.0 / layers + 2.0 * margin)
        i, j, apart = _pairs_between(first[own], second[near], box, cutoff)
        yield own[i], near[j], apart


def _pairs_between(
    first: Float64[np.ndarray, "n 3"],
    second: Float64[np.ndarray, "m 3"],
    box: Float64[np.ndarray, "3 3"],
    cutoff: float,
) -> tuple[Int64[np.ndarray, " p"], Int64[np.ndarray, " p"], Float64[np.ndarray, "p 3"]]:
    """Pairs (i of first, j of second) within a cut-off, and the vectors from i to j, nm."""
    finder = NeighborList(cutoff=cutoff, full_list=True)
    points = np.concatenate([first, second])
    i, j, vectors = finder.compute(points, np.ascontiguousarray(box), True, "ijD")
    mixed = (i < len(first)) & (j >= len(first))
    return i[mixed].astype(np.int64), j[mixed].astype(np.int64) - len(first), vectors[mixed]


def _crosses_triangle(
    start: Float64[np.ndarray, "p 3"],
    along: Float64[np.ndarray, "p 3"],
    u: Float64[np.ndarray, "p 3"],
    v: Float64[np.ndarray, "p 3"],
) -> Bool[np.ndarray, " p"]:
    """Whether segments from ``start`` by ``along`` cross the triangles (0, u, v).

    Source: Möller and Trumbore, J. Graphics Tools 2, 21 (1997).
    """
    across = np.cross(along, v, axis=1)
    determinant = np.einsum("ij,ij->i", u, across)
    parallel = determinant == 0.0
    inverse = 1.0 / np.where(parallel, 1.0, determinant)
    turned = np.cross(start, u, axis=1)
    first = np.einsum("ij,ij->i", start, across) * inverse
    second = np.einsum("ij,ij->i", along, turned) * inverse
    share = np.einsum("ij,ij->i", v, turned) * inverse
    inside = (first >= 0.0) & (second >= 0.0) & (first + second <= 1.0)
    return ~parallel & inside & (share >= 0.0) & (share <= 1.0)

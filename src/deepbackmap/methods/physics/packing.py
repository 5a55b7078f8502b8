"""Which of its candidates every molecule takes, in the company of the others.

Gibbs sampling at the temperature: molecule by molecule, one candidate is drawn with the weight of
its own times Boltzmann's factor of what it feels of all others, which stand still meanwhile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.quantities import COULOMB
from deepbackmap.system import Topology

LEAST = 8.0
"""Candidates whose weight is smaller than the best one's by exp of that are not looked at."""
REACH = 0.5
"""nm: atoms farther apart do not count in the choice."""
SOFT2 = 0.75**2
"""Below this part of sigma (squared) the repulsion grows no further: what is that close has to be
parted by the dynamics that follow in any case, and must stay comparable."""


@dataclass(frozen=True)
class PairTable:
    """What two atoms without bonds feel, by their classes."""

    classes: Int64[np.ndarray, " n"]
    """Of every atom of the system."""
    parameters: Float64[np.ndarray, "c c 4"]
    """c6, c12, charge factor in kJ mol-1 nm, and the square of the distance below which the
    repulsion grows no further."""


def pair_table(topology: Topology) -> PairTable:
    """Classes of atoms by type and charge, and the parameters of their pairs."""
    charges = topology.charges()
    rows = np.column_stack([topology.atom_type_index().astype(np.float64), charges])
    found, where = np.unique(rows, axis=0, return_inverse=True)
    kinds, charge = found[:, 0].astype(np.int64), found[:, 1]
    c6, c12 = topology.c6[np.ix_(kinds, kinds)], topology.c12[np.ix_(kinds, kinds)]
    ratio = np.divide(c12, c6, out=np.zeros_like(c6), where=c6 > 0.0)
    floor = np.maximum(SOFT2 * np.cbrt(ratio), 0.05**2)
    product = COULOMB * charge[:, None] * charge[None]
    return PairTable(
        where.reshape(-1).astype(np.int64), np.stack([c6, c12, product, floor], axis=-1)
    )


@dataclass(frozen=True)
class Choice:
    """Molecules and what they may take."""

    first_atom: Int64[np.ndarray, " m"]
    """First atom of every molecule in the system; its atoms follow."""
    atoms: Float64[np.ndarray, "m k n 3"]
    """Candidates, nm."""
    scores: Float64[np.ndarray, "m k"]
    """Logarithms of their own weights."""


def pack(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    table: PairTable,
    choice: Choice,
    uniform: Float64[np.ndarray, "s m k"],
    beta: float,
) -> Int64[np.ndarray, " m"]:
    """Sweeps over the molecules; positions are changed in place.

    Args:
        positions: of all atoms, nm, the molecules of the choice somewhere among their candidates.
        box: lattice vectors as rows, nm.
        table: of the system.
        choice: what the molecules may take.
        uniform: numbers between 0 and 1, for each sweep, molecule and candidate.
        beta: 1/RT, mol/kJ.

    Returns:
        The candidate that every molecule has taken.
    """
    gumbel = -np.log(-np.log(uniform))
    taken = np.zeros(len(choice.first_atom), dtype=np.int64)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    cells = np.maximum(1, np.floor(heights / REACH)).astype(np.int64)
    _sweeps(
        positions, np.ascontiguousarray(box), np.linalg.inv(box), cells,
        _capacity(positions @ np.linalg.inv(box), cells), table.classes, table.parameters,
        choice.first_atom, choice.atoms, choice.scores, gumbel, beta, taken,
    )  # fmt: skip
    return taken


def _capacity(fraction: np.ndarray, cells: np.ndarray) -> int:
    """Room for atoms in a cell: more than any has, since molecules move among their candidates."""
    index = np.floor((fraction - np.floor(fraction)) * cells).astype(np.int64) % cells
    flat = (index[:, 0] * cells[1] + index[:, 1]) * cells[2] + index[:, 2]
    return 3 * int(np.bincount(flat).max(initial=1)) + 32


@numba.njit(cache=True, error_model="numpy")
def _place(p: Any, box: Any, inverse: Any, cells: Any, at: Any, wrapped: Any) -> int:
    """The cell of a point; its three indices and the point inside the box are written."""
    flat = 0
    wrapped[:] = 0.0
    for d in range(3):
        u = p[0] * inverse[0, d] + p[1] * inverse[1, d] + p[2] * inverse[2, d]
        u -= math.floor(u)
        at[d] = min(int(u * cells[d]), cells[d] - 1)
        flat = flat * cells[d] + at[d]
        for e in range(3):
            wrapped[e] += u * box[d, e]
    return flat


@numba.njit(cache=True, error_model="numpy")
def _sweeps(
    x: Any, box: Any, inverse: Any, cells: Any, capacity: int, classes: Any, parameters: Any,
    first: Any, atoms: Any, scores: Any, gumbel: Any, beta: float, taken: Any,
) -> None:  # fmt: skip
    """Gauss-Seidel over molecules, with atoms kept in cells as they move."""
    n_cells = cells[0] * cells[1] * cells[2]
    count = np.zeros(n_cells, dtype=np.int64)
    held = np.zeros((n_cells, capacity), dtype=np.int64)
    points = np.zeros((n_cells, capacity, 3))
    where = np.full(len(x), -1, dtype=np.int64)
    at, wrapped = np.zeros(3, dtype=np.int64), np.zeros(3)
    for a in range(len(x)):
        cell = _place(x[a], box, inverse, cells, at, wrapped)
        _insert(a, cell, wrapped, where, count, held, points)
    m, k, n, _ = atoms.shape
    energy = np.zeros(k)
    for sweep in range(gumbel.shape[0]):
        for q in range(m):
            low = first[q]
            for a in range(n):
                _remove(low + a, where, count, held, points)
            energy[:] = 0.0
            for c in range(k):
                if scores[q, c] < -LEAST:
                    continue
                for a in range(n):
                    _place(atoms[q, c, a], box, inverse, cells, at, wrapped)
                    energy[c] += _around(
                        wrapped, parameters[classes[low + a]], at, box, cells, count, held, points,
                        classes,
                    )  # fmt: skip
            best, top = 0, -np.inf
            for c in range(k):
                value = scores[q, c] - beta * energy[c] + gumbel[sweep, q, c]
                if value > top and scores[q, c] >= -LEAST:
                    best, top = c, value
            taken[q] = best
            for a in range(n):
                for d in range(3):
                    x[low + a, d] = atoms[q, best, a, d]
                cell = _place(x[low + a], box, inverse, cells, at, wrapped)
                _insert(low + a, cell, wrapped, where, count, held, points)


@numba.njit(cache=True, error_model="numpy")
def _insert(
    atom: int, cell: int, point: Any, where: Any, count: Any, held: Any, points: Any
) -> None:
    """Puts an atom into a cell; where there is no more room it does not count."""
    place = count[cell]
    if place >= held.shape[1]:
        return
    held[cell, place], where[atom] = atom, cell
    for d in range(3):
        points[cell, place, d] = point[d]
    count[cell] += 1


@numba.njit(cache=True, error_model="numpy")
def _remove(atom: int, where: Any, count: Any, held: Any, points: Any) -> None:
    """Takes an atom out of its cell; the last of the cell takes its place."""
    cell = where[atom]
    if cell < 0:
        return
    last = count[cell] - 1
    for place in range(last + 1):
        if held[cell, place] == atom:
            held[cell, place] = held[cell, last]
            for d in range(3):
                points[cell, place, d] = points[cell, last, d]
            break
    count[cell], where[atom] = last, -1


@numba.njit(cache=True, error_model="numpy", fastmath=True)
def _around(
    p: Any, parameters: Any, at: Any, box: Any, cells: Any, count: Any, held: Any, points: Any,
    classes: Any,
) -> float:  # fmt: skip
    """Energy of a point with all atoms near it, in every image."""
    total = 0.0
    for i in range(at[0] - 1, at[0] + 2):
        ci = i % cells[0]
        si = (i - ci) // cells[0]
        for j in range(at[1] - 1, at[1] + 2):
            cj = j % cells[1]
            sj = (j - cj) // cells[1]
            for k in range(at[2] - 1, at[2] + 2):
                ck = k % cells[2]
                sk = (k - ck) // cells[2]
                qx = p[0] - si * box[0, 0] - sj * box[1, 0] - sk * box[2, 0]
                qy = p[1] - sj * box[1, 1] - sk * box[2, 1]
                qz = p[2] - sk * box[2, 2]
                cell = (ci * cells[1] + cj) * cells[2] + ck
                for place in range(count[cell]):
                    dx = points[cell, place, 0] - qx
                    dy = points[cell, place, 1] - qy
                    dz = points[cell, place, 2] - qz
                    r2 = dx * dx + dy * dy + dz * dz
                    if r2 > REACH * REACH:
                        continue
                    t = parameters[classes[held[cell, place]]]
                    s2 = max(r2, t[3])
                    i2 = 1.0 / s2
                    i6 = i2 * i2 * i2
                    total += (t[1] * i6 - t[0]) * i6
                    if t[2] != 0.0:
                        total += t[2] * (math.sqrt(i2) + 0.5 * s2 / REACH**3 - 1.5 / REACH)
    return total

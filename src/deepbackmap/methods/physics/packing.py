"""Which of its candidates every window takes, in the company of all other atoms.

Gibbs sampling at the temperature: window by window, one candidate is drawn with the weight of
its own times Boltzmann's factor of what it feels of all others, which stand still meanwhile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.methods.physics.compiled import compiled, inner
from deepbackmap.quantities import COULOMB
from deepbackmap.system import Topology

LEAST = 8.0
"""Candidates whose weight is smaller than the best one's by exp of that are not looked at."""
ROOM, DENSE = 2.0, 200.0
"""Atoms that a cell has room for: so many times the mean, and at least so many a nm^3 (twice a
liquid's), and ``SPARE`` more."""
SPARE = 32
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


class Crowd:
    """All atoms of a frame that are placed, in cells, while windows are drawn among them."""

    def __init__(
        self, n: int, box: Float64[np.ndarray, "3 3"], table: PairTable, density: float
    ) -> None:
        """An empty box.

        Args:
            n: atoms of the system.
            box: lattice vectors as rows, lower triangular, nm.
            table: of the system.
            density: atoms per nm^3; says how much room cells have.
        """
        self.positions = np.zeros((n, 3))
        self._table, self._box = table, np.ascontiguousarray(box)
        self._inverse = np.linalg.inv(box)
        heights = 1.0 / np.linalg.norm(self._inverse, axis=0)
        self._cells = np.maximum(1, np.floor(heights / REACH)).astype(np.int64)
        volume = abs(float(np.linalg.det(box))) / float(self._cells.prod())
        capacity = int(max(ROOM * density, DENSE) * volume) + SPARE
        number = int(self._cells.prod())
        self._count = np.zeros(number, dtype=np.int64)
        self._held = np.zeros((number, capacity), dtype=np.int64)
        self._points = np.zeros((number, capacity, 3))
        self._where = np.full(n, -1, dtype=np.int64)

    def choose(
        self,
        hidden: Int64[np.ndarray, "m a"],
        own: Int64[np.ndarray, "m o"],
        candidates: Float64[np.ndarray, "m k o 3"],
        scores: Float64[np.ndarray, "m k"],
        uniform: Float64[np.ndarray, "m k"],
        beta: float,
    ) -> Int64[np.ndarray, " m"]:
        """Each window in turn takes one of its candidates.

        Args:
            hidden: atoms of each window, which the candidates already account for.
            own: those that are placed.
            candidates: nm.
            scores: logarithms of the candidates' own weights.
            uniform: random numbers between 0 and 1.
            beta: 1/RT, mol/kJ; 0: company does not count.

        Returns:
            The candidate that each has taken.
        """
        taken = np.zeros(len(own), dtype=np.int64)
        _choose(
            self.positions, self._box, self._inverse, self._cells, self._where, self._count,
            self._held, self._points, self._table.classes, self._table.parameters, hidden, own,
            candidates, scores - np.log(-np.log(uniform)), scores, beta, taken,
        )  # fmt: skip
        return taken


@compiled
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


@compiled
def _choose(
    x: Any, box: Any, inverse: Any, cells: Any, where: Any, count: Any, held: Any, points: Any,
    classes: Any, parameters: Any, hidden: Any, own: Any, atoms: Any, noisy: Any, scores: Any,
    beta: float, taken: Any,
) -> None:  # fmt: skip
    """Window by window; atoms are kept in cells as they move."""
    at, wrapped = np.zeros(3, dtype=np.int64), np.zeros(3)
    away = np.zeros(hidden.shape[1], dtype=np.bool_)
    m, k, n, _ = atoms.shape
    for q in range(m):
        for a in range(hidden.shape[1]):
            away[a] = where[hidden[q, a]] >= 0
            _remove(hidden[q, a], where, count, held, points)
        best, top = 0, -np.inf
        for c in range(k):
            if scores[q, c] < -LEAST:
                continue
            energy = 0.0
            if beta > 0.0:
                for a in range(n):
                    _place(atoms[q, c, a], box, inverse, cells, at, wrapped)
                    energy += _around(
                        wrapped, parameters[classes[own[q, a]]], at, box, cells, count, held,
                        points, classes,
                    )  # fmt: skip
            value = noisy[q, c] - beta * energy
            if value > top:
                best, top = c, value
        taken[q] = best
        for a in range(n):
            for d in range(3):
                x[own[q, a], d] = atoms[q, best, a, d]
        for a in range(hidden.shape[1]):
            mine = False
            for b in range(n):
                mine = mine or own[q, b] == hidden[q, a]
            if mine or away[a]:
                cell = _place(x[hidden[q, a]], box, inverse, cells, at, wrapped)
                _insert(hidden[q, a], cell, wrapped, where, count, held, points)


@compiled
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


@compiled
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


@inner
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

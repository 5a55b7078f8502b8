"""Energies of the neighbour pairs of a whole box in one compiled pass.

Cells are walked instead of listing pairs first: a frame of 5 832 atoms has 1.2 million of them
within 1.0 nm, and writing them down takes several times as long as adding them up.
"""

from __future__ import annotations

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float64, Int32, Int64

from deepbackmap.forcefield.nonbonded import MINIMUM_DISTANCE
from deepbackmap.forcefield.system import ForceField
from deepbackmap.geometry.cell import cell_heights
from deepbackmap.quantities import COULOMB
from deepbackmap.system import Structure, Topology

FINE = 2
"""Cells are the cut-off by that in size, at least."""


class PairEnergies:
    """Lennard-Jones and Coulomb energies of the frames of one system."""

    def __init__(self, field: ForceField) -> None:
        """Prepares the tables.

        Args:
            field: of the system.
        """
        self._field = field
        self._excluded = _excluded(field.topology)
        self._kinds = field.type_rows.numpy().astype(np.int32)
        self._charges = field.charges.numpy()

    def __call__(self, structure: Structure) -> dict[str, float]:
        """Energies of a frame in kJ/mol, as ``ForceField.energies_by_term`` has them.

        Args:
            structure: atoms in the order of the topology; molecules need not be whole.

        Returns:
            Under "lj" and "coulomb"; nothing where the cell is not lower triangular or too small
            for the cut-off, or where pairs are not Lennard-Jones.
        """
        field, box = self._field, structure.box
        if field.topology.pair_forms is not None:
            return {}
        if np.triu(box, 1).any() or not box.diagonal().min() >= 2.0 * field.cutoff:
            return {}
        positions = np.ascontiguousarray(structure.positions)
        shape = np.maximum(1, cell_heights(box) * FINE // field.cutoff).astype(np.int64)
        lj, coulomb = _summed(
            positions, np.ascontiguousarray(box), shape, self._kinds, field.topology.c6,
            field.topology.c12, self._charges, field.exclusions.molecule, *self._excluded,
            field.cutoff, field.reaction_field.k, field.reaction_field.c,
        )  # fmt: skip
        own = 0.5 * field.reaction_field.c * float(self._charges @ self._charges)
        return {"lj": lj, "coulomb": COULOMB * (coulomb - own)}


def _excluded(topology: Topology) -> tuple[Int64[np.ndarray, "_"], ...]:
    """The atoms of higher number that each atom of a molecule type excludes.

    Returns:
        First atom and first row of each molecule; first partner of each row, and behind the last;
        the partners, as atoms of their molecule.
    """
    types = topology.molecule_types
    counts, partners = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for molecule in types:
        rows = molecule.exclusions[np.lexsort(molecule.exclusions.T[::-1])]
        counts.append(np.bincount(rows[:, 0], minlength=molecule.n_atoms))
        partners.append(rows[:, 1])
    rows_of = np.cumsum([0, *(m.n_atoms for m in types)])[topology.molecule_type_index()]
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    found = (topology.molecule_offsets(), rows_of, starts, np.concatenate(partners))
    return tuple(a.astype(np.int64) for a in found)


@numba.njit(cache=True)
@no_type_check
def _sorted_by_cell(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    shape: Int64[np.ndarray, "3"],
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " c1"]]:
    """Atoms cell by cell, and the first of every cell."""
    n, cells = len(positions), shape[0] * shape[1] * shape[2]
    cell = np.empty(n, np.int64)
    first = np.zeros(cells + 1, np.int64)
    for k in range(n):
        x, y, z = positions[k]
        place = 0
        c = z / box[2, 2]
        b = (y - c * box[2, 1]) / box[1, 1]
        a = (x - c * box[2, 0] - b * box[1, 0]) / box[0, 0]
        for axis, share in ((0, a), (1, b), (2, c)):
            inside = share - np.floor(share)
            place = place * shape[axis] + min(int(inside * shape[axis]), shape[axis] - 1)
        cell[k] = place
        first[place + 1] += 1
    first = np.cumsum(first)
    filled = first[:-1].copy()
    order = np.empty(n, np.int64)
    for k in range(n):
        order[filled[cell[k]]] = k
        filled[cell[k]] += 1
    return order, first


@numba.njit(cache=True)
@no_type_check
def _neighbours(shape: Int64[np.ndarray, "3"], axis: int, place: int) -> Int64[np.ndarray, " k"]:
    """Places along an axis that atoms of a place can meet, each once."""
    if shape[axis] < 2 * FINE + 1:
        return np.arange(shape[axis])
    return (np.arange(-FINE, FINE + 1) + place + shape[axis]) % shape[axis]


@numba.njit(cache=True)
@no_type_check
def _among(partners: Int64[np.ndarray, " m"], first: int, last: int, high: int) -> bool:
    """Whether an atom is in a list."""
    for k in range(first, last):  # noqa: SIM110  # a loop is what numba compiles
        if partners[k] == high:
            return True
    return False


@numba.njit(cache=True)
@no_type_check
def _summed(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    shape: Int64[np.ndarray, "3"],
    kinds: np.ndarray,
    c6: Float64[np.ndarray, "t t"],
    c12: Float64[np.ndarray, "t t"],
    charges: Float64[np.ndarray, " n"],
    molecule: Int32[np.ndarray, " n"],
    offsets: Int64[np.ndarray, " m1"],
    rows: Int64[np.ndarray, " m"],
    starts: Int64[np.ndarray, " r1"],
    partners: Int64[np.ndarray, " p"],
    cutoff: float,
    field_k: float,
    field_c: float,
) -> tuple[float, float]:
    """Lennard-Jones energy in kJ/mol, and Coulomb energy in e^2/nm."""
    order, first = _sorted_by_cell(positions, box, shape)
    x, y, z = positions[order, 0], positions[order, 1], positions[order, 2]
    (xx, yx, zx), (yy, zy), zz = box[:, 0], box[1:, 1], box[2, 2]
    x_turns, y_turns, z_turns = 1.0 / xx, 1.0 / yy, 1.0 / zz
    reach = cutoff * cutoff
    lj, coulomb = 0.0, 0.0
    for here in range(len(first) - 1):
        if first[here] == first[here + 1]:
            continue
        pa, rest = here // (shape[1] * shape[2]), here % (shape[1] * shape[2])
        for na in _neighbours(shape, 0, pa):
            for nb in _neighbours(shape, 1, rest // shape[2]):
                for nc in _neighbours(shape, 2, rest % shape[2]):
                    there = (na * shape[1] + nb) * shape[2] + nc
                    if there < here:
                        continue
                    for s in range(first[here], first[here + 1]):
                        begin = s + 1 if there == here else first[there]
                        for t in range(begin, first[there + 1]):
                            dz = z[t] - z[s]
                            turns = np.rint(dz * z_turns)
                            dz -= turns * zz
                            dy = y[t] - y[s] - turns * zy
                            dx = x[t] - x[s] - turns * zx
                            turns = np.rint(dy * y_turns)
                            dy -= turns * yy
                            dx -= turns * yx
                            dx -= np.rint(dx * x_turns) * xx
                            square = dx * dx + dy * dy + dz * dz
                            if square >= reach:
                                continue
                            i, j = order[s], order[t]
                            product = charges[i] * charges[j]
                            coulomb += product * (field_k * square - field_c)
                            own, out = molecule[i], False
                            if own == molecule[j]:
                                row = rows[own] + min(i, j) - offsets[own]
                                out = _among(
                                    partners, starts[row], starts[row + 1],
                                    max(i, j) - offsets[own],
                                )  # fmt: skip
                            if not out:
                                square = max(square, MINIMUM_DISTANCE * MINIMUM_DISTANCE)
                                inverse6 = 1.0 / (square * square * square)
                                a, b = kinds[i], kinds[j]
                                lj += (c12[a, b] * inverse6 - c6[a, b]) * inverse6
                                coulomb += product / np.sqrt(square)
    return lj, coulomb

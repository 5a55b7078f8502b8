"""Terms of three and four atoms as curves of their angle, whatever their kind.

Bonds are at their lengths in vacuo. So a term of three atoms depends on one angle alone, and one of
four, but for what angles at its ends do, on one dihedral. Both are tabulated from the functions of
``forcefield.terms``, so that no kind is forgotten and none is written down twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from deepbackmap.forcefield.system import TermTable
from deepbackmap.methods.physics.kernels import ANGLES

POINTS = 181
"""Of a curve."""
REACH, BEND = 0.15, math.radians(110.0)
"""nm and rad, of bonds and angles that a topology does not have; kinds that stand across atoms
which are not bonded do not depend on them."""
ACROSS = ("out_of_plane", "umbrella", "angle_angle", "bond_bond_13")
"""Kinds of four atoms that are no functions of their dihedral; they are left to the dynamics of the
whole box, as are correction maps and springs between atoms that are farther than an angle apart."""
SPRINGS_ACROSS = ("harmonic", "bond_restraint", "bond_table_nc")
"""Kinds of two atoms that are not bonded; across an angle they are one more term of it, as those of
Urey and Bradley are in systems of OpenMM."""

Lengths = Mapping[tuple[int, int], float]
"""nm, by the two atoms of a bond, the lower first."""


class Curves(NamedTuple):
    """Terms, and the curve of each."""

    atoms: Int64[np.ndarray, "n k"]
    which: Int64[np.ndarray, "n"]
    curves: Float64[np.ndarray, "c points 2"]
    """Energy / kJ mol-1 and slope / kJ mol-1 rad-1 at even spacing: of angles between
    ``kernels.ANGLES``, of dihedrals from -pi to pi."""


def angle_curves(tables: Iterable[TermTable], lengths: Lengths) -> Curves:
    """All terms of three atoms.

    Args:
        tables: of a molecule.
        lengths: of its bonds.
    """

    def shape(atoms: list[int]) -> tuple[float, ...]:
        i, j, k = atoms
        return _length(lengths, i, j), _length(lengths, j, k)

    def place(angle: Tensor, first: float, second: float) -> Tensor:
        arm = torch.stack([angle.cos(), angle.sin(), 0.0 * angle], dim=-1)
        start = torch.tensor([first, 0.0, 0.0]).to(arm).expand_as(arm)
        return torch.stack([start, torch.zeros_like(arm), second * arm], dim=-2)

    wanted = []
    for table in tables:
        if table.index.shape[1] == 3:
            wanted.append((table, table.index.numpy()))
        elif table.kind in SPRINGS_ACROSS:
            wanted.append(_across_angles(table, lengths))
    return _tabulated(wanted, 3, shape, place, torch.linspace(*ANGLES, POINTS, dtype=torch.float64))


def _across_angles(
    table: TermTable, lengths: Lengths
) -> tuple[TermTable, Int64[np.ndarray, "_ 3"]]:
    """Springs between atoms that are both bonded to a third, and the angles that they so act on."""
    near: dict[int, set[int]] = {}
    for i, j in lengths:
        near.setdefault(i, set()).add(j)
        near.setdefault(j, set()).add(i)
    rows, atoms = [], []
    for n, (i, k) in enumerate(table.index.tolist()):
        between = near.get(i, set()) & near.get(k, set())
        if between and k not in near[i]:
            rows.append(n)
            atoms.append([i, min(between), k])
    kept = torch.tensor(rows, dtype=torch.int64)
    found = TermTable(
        table.term, table.kind, table.index[kept], table.parameters[kept], table.grids
    )
    return found, np.array(atoms, dtype=np.int64).reshape(-1, 3)


def torsion_curves(
    tables: Iterable[TermTable], lengths: Lengths, angles: Curves
) -> tuple[Curves, Float64[np.ndarray, "n"]]:
    """All terms of four atoms that are functions of their dihedral.

    Args:
        tables: of a molecule.
        lengths: of its bonds.
        angles: its angles, which are taken at rest.

    Returns:
        The terms, and 1 for those that are torsions, 0 for impropers.
    """
    total: dict[tuple[int, ...], np.ndarray] = {}
    for atoms, which in zip(angles.atoms.tolist(), angles.which.tolist(), strict=True):
        for key in (tuple(atoms), tuple(atoms[::-1])):
            total[key] = total.get(key, 0.0) + angles.curves[which, :, 0]
    rest = {key: _lowest(energy) for key, energy in total.items()}

    def shape(atoms: list[int]) -> tuple[float, ...]:
        i, j, k, m = atoms
        ends = rest.get((i, j, k), BEND), rest.get((j, k, m), BEND)
        return *(_length(lengths, a, b) for a, b in ((i, j), (j, k), (k, m))), *ends

    def place(angle: Tensor, ij: float, jk: float, km: float, one: float, two: float) -> Tensor:
        bond = torch.tensor([jk, 0.0, 0.0]).to(angle)
        first = torch.tensor([ij * math.cos(one), ij * math.sin(one), 0.0]).to(angle)
        out = km * math.sin(two)
        arm = [0.0 * angle - km * math.cos(two), out * angle.cos(), out * angle.sin()]
        last = bond + torch.stack(arm, dim=-1)
        kept = (a.expand_as(last) for a in (first, 0.0 * bond, bond))
        return torch.stack([*kept, last], dim=-2)

    wanted = [
        (t, t.index.numpy()) for t in tables if t.index.shape[1] == 4 and t.kind not in ACROSS
    ]
    turn = torch.linspace(-math.pi, math.pi, POINTS, dtype=torch.float64)
    proper = [np.full(len(index), float(t.term == "proper")) for t, index in wanted]
    return _tabulated(wanted, 4, shape, place, turn), np.concatenate([np.zeros(0), *proper])


def _lowest(energy: Float64[np.ndarray, "points"]) -> float:
    """The angle of lowest energy, rad, by a parabola about the lowest point."""
    k = min(max(int(energy.argmin()), 1), len(energy) - 2)
    before, at, after = energy[k - 1 : k + 2]
    bend = before - 2.0 * at + after
    off = 0.5 * (before - after) / bend if bend > 0.0 else 0.0
    return float(np.interp(k + off, np.arange(len(energy)), np.linspace(*ANGLES, len(energy))))


def _length(lengths: Lengths, a: int, b: int) -> float:
    return lengths.get((min(a, b), max(a, b)), REACH)


def _tabulated(
    tables: list[tuple[TermTable, Int64[np.ndarray, "_ _"]]],
    width: int,
    shape: Callable[[list[int]], tuple[float, ...]],
    place: Callable[..., Tensor],
    grid: Tensor,
) -> Curves:
    """Curves of terms, with the atoms that they act on; one for all that have the same parameters
    and the same shape."""
    atoms, which = [np.zeros((0, width), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    curves = [np.zeros((0, len(grid), 2))]
    for table, index in tables:
        if not len(index):
            continue
        shapes = np.array([shape(row) for row in index.tolist()])
        rows = np.column_stack([table.parameters.double().numpy(), np.round(shapes, 6)])
        found, inverse = np.unique(rows, axis=0, return_inverse=True)
        which.append(inverse.reshape(-1) + sum(len(c) for c in curves))
        atoms.append(index)
        columns = table.parameters.shape[1]
        # a spring across an angle acts on its ends
        one = torch.tensor([[0, 2] if table.index.shape[1] == 2 else range(width)])
        for row in found:
            parameters = torch.tensor(row[None, :columns])
            term = TermTable(table.term, table.kind, one, parameters, table.grids)
            curves.append(_curve(term, place, row[columns:].tolist(), grid)[None])
    return Curves(np.concatenate(atoms), np.concatenate(which), np.concatenate(curves))


def _curve(
    term: TermTable, place: Callable[..., Tensor], shape: list[float], grid: Tensor
) -> Float64[np.ndarray, "points 2"]:
    """Energies and slopes of one term."""
    with torch.enable_grad():
        at = grid.clone().requires_grad_(True)
        energies = term.energies(place(at, *shape), None)[..., 0]
        (slopes,) = torch.autograd.grad(energies.sum(), at)
    return np.stack([energies.detach().numpy(), slopes.numpy()], axis=-1)

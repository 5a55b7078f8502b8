"""How much angle energy a temperature allows, from the topology alone.

A harmonic degree of freedom carries kT/2 on average. The angles about an atom are not independent:
four arms of fixed length have five degrees of freedom for six angles, three arms in a plane have
two for three, and a flat ring takes three more from its atoms. Counted so, the angle energy of any
block of atoms is, in the harmonic limit, kT/2 times a chi-square variable of that many degrees,
above the strain of equilibrium angles that do not fit together. Neither model nor reference is
needed. A melt of polystyrene has 1.04, 1.02 and 1.07 times that at 568, 453 and 313 K.

Source: equipartition; the counting is that of valence coordinates, Decius, J. Chem. Phys. 17, 1315
(1949).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.chemistry.rings import find_rings
from deepbackmap.forcefield.system import ForceField
from deepbackmap.system import MoleculeType, Topology

ANGLE_KINDS = ("angle", "angle_g96")
LINEAR = math.radians(175.0)
"""From here on an angle can be bent in two directions."""
INDEPENDENT = 0.1
"""Share of the stiffest direction's stiffness (its square root) below which a direction is left
to other terms: the angles of flat surroundings resist leaving the plane in second order only."""
STARTS = 12
"""Arrangements of the arms from which the least strained one is looked for."""
TRIES, AT_REST = 300, 1e-13
"""Most steps of that search, and the part by which a cost no longer falls at its end."""


@dataclass(frozen=True)
class AngleFreedom:
    """What the angles about every atom of a system can hold."""

    degrees: Float64[np.ndarray, " n"]
    """Independent degrees of freedom of the angles about each atom."""
    strain: Float64[np.ndarray, " n"]
    """Angle energy that they have at rest, kJ/mol."""

    @classmethod
    def from_topology(cls, topology: Topology) -> AngleFreedom:
        """Counts them molecule type by molecule type."""
        per_type = [_of_molecule(m) for m in topology.molecule_types]
        found = [np.tile(per_type[t], (1, count)) for t, count in topology.blocks]
        degrees, strain = np.concatenate([np.zeros((2, 0)), *found], axis=1)
        return cls(degrees, strain)


def angle_energies(
    field: ForceField, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"]
) -> Float64[np.ndarray, " n"]:
    """Energy of the angles about every atom, kJ/mol.

    Args:
        field: of the system.
        positions: nm, molecules whole.
        box: lattice vectors as rows, nm.
    """
    x, cell = torch.tensor(positions), torch.tensor(box)
    found, offsets = np.zeros(len(positions)), field.topology.molecule_offsets()
    pieces = [(offsets[:1], field.between, x[None])]
    for run, tables, molecules in field.molecules(x):
        pieces.append((offsets[run : run + len(molecules)], tables, molecules))
    for first, tables, molecules in pieces:
        for table in (t for t in tables if t.kind in ANGLE_KINDS):
            centres = table.index[:, 1].numpy() + first[:, None]
            np.add.at(found, centres, table.energies(molecules, cell).numpy())
    return found


def _of_molecule(molecule: MoleculeType) -> Float64[np.ndarray, "2 n"]:
    """Degrees and strain of every atom."""
    found = np.zeros((2, molecule.n_atoms))
    about: dict[int, list[tuple[int, int, float, float]]] = {}
    for kind in ANGLE_KINDS:
        if kind not in molecule.terms:
            continue
        listed = molecule.terms[kind]
        for (a, b, c), (theta0, k) in zip(
            listed.atoms.tolist(), listed.parameters[:, :2].tolist(), strict=True
        ):
            # k/2 (cos - cos0)^2 is k sin^2/2 (theta - theta0)^2 near its minimum
            about.setdefault(b, []).append(
                (a, c, theta0, k * math.sin(theta0) ** 2 if kind == "angle_g96" else k)
            )
    for atom, angles in about.items():
        arms = sorted({x for a, c, _, _ in angles for x in (a, c)})
        rows = tuple(
            sorted(
                (arms.index(a), arms.index(c), round(t, 4), round(k, 1)) for a, c, t, k in angles
            )
        )
        found[:, atom] = _about_a_centre(len(arms), rows)
    _close_rings(molecule, found[0])
    return found


def _close_rings(molecule: MoleculeType, degrees: Float64[np.ndarray, " n"]) -> None:
    """Takes from the atoms of a ring what its closure takes, in place.

    A flat ring of s atoms and s fixed bonds has s - 3 degrees of freedom for its s angles, one
    that may pucker 2 s - 6.
    """
    for ring in find_rings(molecule):
        members = list(ring)
        flat = bool((degrees[members] < 2.5).all())
        closed = 3 if flat else max(0, 6 - len(members))
        degrees[members] -= closed / len(members)
    np.maximum(degrees, 0.0, out=degrees)


@lru_cache(maxsize=1024)
def _about_a_centre(
    arms: int, angles: tuple[tuple[int, int, float, float], ...]
) -> tuple[float, float]:
    """Degrees of freedom of the angles between some arms, and their energy at rest, kJ/mol.

    Args:
        arms: of fixed length, free to turn.
        angles: two arms, equilibrium in rad and stiffness in kJ mol-1 rad-2 of each.
    """
    angles = tuple(a for a in angles if a[3] > 0.0)
    if not angles:
        return 0.0, 0.0
    if arms == 2:
        return (2.0 if angles[0][2] > LINEAR else 1.0), 0.0
    first, second = (np.array([a[k] for a in angles], dtype=np.int64) for k in (0, 1))
    theta0, root = np.array([a[2] for a in angles]), np.sqrt([a[3] for a in angles])
    cost, slopes = _at_rest(_starts(arms), first, second, theta0, root)
    best = int(np.argmin(cost))
    stiffness = np.linalg.svd(slopes[best], compute_uv=False)
    rank = int(np.count_nonzero(stiffness > INDEPENDENT * stiffness[0]))
    return float(rank), float(cost[best])


def _starts(arms: int) -> Float64[np.ndarray, "s a 3"]:
    """Directions that are spread out, the same ones each time."""
    drawn = np.random.default_rng(0).normal(size=(STARTS, arms, 3))
    return drawn / np.linalg.norm(drawn, axis=2, keepdims=True)


def _at_rest(
    arms: Float64[np.ndarray, "s a 3"],
    first: Int64[np.ndarray, " m"],
    second: Int64[np.ndarray, " m"],
    theta0: Float64[np.ndarray, " m"],
    root: Float64[np.ndarray, " m"],
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, "s m c"]]:
    """The least angle energy that each start leads to, and how its angles change with the arms.

    Levenberg-Marquardt (Marquardt, J. SIAM 11, 431, 1963) from all starts at once, arms put back
    to a length of one after each step. Written here since scipy's, one start after another and
    with differences for slopes, took as long as a frame.

    Args:
        arms: unit vectors of each start.
        first: arm of each angle.
        second: the other one.
        theta0: equilibrium, rad.
        root: of the stiffness.

    Returns:
        Energies (kJ/mol), and slopes of ``root * theta``.
    """
    damping = np.full(len(arms), 1e-3)
    off, slopes = _strained(arms, first, second, theta0, root)
    cost = 0.5 * (off**2).sum(axis=1)
    for _ in range(TRIES):
        normal = slopes.transpose(0, 2, 1) @ slopes
        scale = damping * np.trace(normal, axis1=1, axis2=2) / normal.shape[1]
        normal = normal + (scale + 1e-300)[:, None, None] * np.eye(normal.shape[1])
        push = (slopes.transpose(0, 2, 1) @ off[..., None])[..., 0]
        moved = arms - np.linalg.solve(normal, push[..., None])[..., 0].reshape(arms.shape)
        moved /= np.linalg.norm(moved, axis=2, keepdims=True)
        new_off, new_slopes = _strained(moved, first, second, theta0, root)
        new = 0.5 * (new_off**2).sum(axis=1)
        better = new < cost
        rest = cost - new <= AT_REST * (1.0 + cost)
        arms, off, slopes = (
            np.where(better.reshape(-1, *[1] * (a.ndim - 1)), b, a)
            for a, b in ((arms, moved), (off, new_off), (slopes, new_slopes))
        )
        cost = np.where(better, new, cost)
        damping = np.clip(np.where(better, 0.2 * damping, 10.0 * damping), 1e-12, 1e12)
        if (rest & (better | (damping > 1e3))).all():
            break
    return cost, slopes


def _strained(
    arms: Float64[np.ndarray, "s a 3"],
    first: Int64[np.ndarray, " m"],
    second: Int64[np.ndarray, " m"],
    theta0: Float64[np.ndarray, " m"],
    root: Float64[np.ndarray, " m"],
) -> tuple[Float64[np.ndarray, "s m"], Float64[np.ndarray, "s m c"]]:
    """How far angles between unit vectors are from equilibrium, and their slopes, both times
    ``root``."""
    a, b = arms[:, first], arms[:, second]
    cos = np.einsum("smc,smc->sm", a, b)[..., None]
    across_a, across_b = b - cos * a, a - cos * b
    sin = np.linalg.norm(across_a, axis=2, keepdims=True)
    theta = np.arctan2(sin, cos)[..., 0]
    slopes = np.zeros((*theta.shape, *arms.shape[1:]))
    rows, safe = np.arange(len(first)), np.maximum(sin, 1e-12)
    slopes[:, rows, first] -= across_a / safe
    slopes[:, rows, second] -= across_b / safe
    slopes *= root[:, None, None]
    return root * (theta - theta0), slopes.reshape(*theta.shape, -1)

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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import least_squares

from deepbackmap.chemistry.rings import find_rings
from deepbackmap.system import MoleculeType, Topology

ANGLE_KINDS = ("angle", "angle_g96")
LINEAR = math.radians(175.0)
"""From here on an angle can be bent in two directions."""
INDEPENDENT = 0.1
"""Share of the stiffest direction's stiffness (its square root) below which a direction is left
to other terms: the angles of flat surroundings resist leaving the plane in second order only."""
STARTS = 4
"""Arrangements of the arms from which the least strained one is looked for."""


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

    def strained(flat: Float64[np.ndarray, " c"]) -> Float64[np.ndarray, " a"]:
        directions = flat.reshape(arms, 3)
        return root * (_angles_between(directions, first, second) - theta0)

    found = [least_squares(strained, start.ravel()) for start in _starts(arms)]
    best = min(found, key=lambda f: float(f.cost))
    stiffness = np.linalg.svd(best.jac / _lengths(best.x, arms), compute_uv=False)
    rank = int(np.count_nonzero(stiffness > INDEPENDENT * stiffness[0]))
    return float(rank), float(best.cost)


def _starts(arms: int) -> Sequence[Float64[np.ndarray, "a 3"]]:
    """Directions that are spread out, the same ones each time."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(STARTS, arms, 3))
    return list(drawn / np.linalg.norm(drawn, axis=2, keepdims=True))


def _lengths(flat: Float64[np.ndarray, " c"], arms: int) -> Float64[np.ndarray, " c"]:
    """Inverse lengths of the arms that the search ended with, one a coordinate."""
    return np.repeat(1.0 / np.linalg.norm(flat.reshape(arms, 3), axis=1), 3)


def _angles_between(
    directions: Float64[np.ndarray, "a 3"],
    first: Int64[np.ndarray, " m"],
    second: Int64[np.ndarray, " m"],
) -> Float64[np.ndarray, " m"]:
    a, b = directions[first], directions[second]
    return np.arctan2(np.linalg.norm(np.cross(a, b, axis=1), axis=1), np.einsum("ij,ij->i", a, b))

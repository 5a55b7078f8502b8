"""Bonded and 1-4 energies: one short pure function for each physical term.

Every function takes positions (..., n, 3) in nm, the atoms of each term (m, k), the parameters
of each term (m, p) in the columns of ``system.topology.TERM_COLUMNS``, and the box (lattice
vectors as rows, lower triangular, nm) or None, and returns the energies (..., m) in kJ/mol.
``index`` and ``parameters`` may carry leading dimensions of their own that broadcast against
those of the positions, for batches of blocks that have different terms.

Values and gradients are finite everywhere. Where an angle or a dihedral is undefined (atoms on
top of each other, or in a line) it counts as 0 and has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.forcefield import nonbonded
from deepbackmap.geometry.periodic import minimum_image

ANGLE_UNDEFINED = 1e-6
"""nm^2: product of the lengths of two arms below which their angle is rounding noise."""
DIHEDRAL_UNDEFINED = 1e-8
"""nm^4: product of the areas of two planes below which their dihedral is rounding noise."""

Box = Float[Tensor, "3 3"] | None


def norm(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Length of each vector, with gradient 0 (instead of none) at length 0."""
    square = (vectors * vectors).sum(dim=-1)
    zero = square == 0
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, square)))


def take(
    positions: Float[Tensor, "*batch n 3"], index: Int64[Tensor, "*terms"]
) -> Float[Tensor, "*found 3"]:
    """Positions of the indexed atoms; leading dimensions of ``index`` broadcast (see module)."""
    if index.ndim == 1:
        return positions[..., index, :]
    return torch.take_along_dim(positions, index[..., None], dim=-2)


def arms(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms k"],
    box: Box,
    ends: tuple[tuple[int, int], ...],
) -> list[Tensor]:
    """Short images of the vectors from atom ``a`` to atom ``b`` of each term, for (a, b) in ends.

    Returns:
        One tensor (..., m, 3) in nm for each entry of ``ends``.
    """
    used = sorted({a for pair in ends for a in pair})
    at = {a: take(positions, index[..., a]) for a in used}
    return [minimum_image(at[b] - at[a], box) for a, b in ends]


def distances(
    positions: Float[Tensor, "*batch n 3"], index: Int64[Tensor, "*terms 2"], box: Box = None
) -> Float[Tensor, "*found"]:
    """Distance of the two atoms of each term in nm."""
    return norm(arms(positions, index, box, ((0, 1),))[0])


def angles(
    positions: Float[Tensor, "*batch n 3"], index: Int64[Tensor, "*terms 3"], box: Box = None
) -> Float[Tensor, "*found"]:
    """Angle at the middle atom of each term in rad, 0 to pi."""
    a, b = arms(positions, index, box, ((1, 0), (1, 2)))
    sine = norm(torch.linalg.cross(a, b, dim=-1))
    return _arctangent(sine, (a * b).sum(dim=-1), ANGLE_UNDEFINED)


def dihedrals(
    positions: Float[Tensor, "*batch n 3"], index: Int64[Tensor, "*terms 4"], box: Box = None
) -> Float[Tensor, "*found"]:
    """Dihedral of the four atoms of each term in rad, -pi to pi, trans = pi (IUPAC)."""
    a, b, c = arms(positions, index, box, ((0, 1), (1, 2), (2, 3)))
    first = torch.linalg.cross(a, b, dim=-1)
    second = torch.linalg.cross(b, c, dim=-1)
    sine = norm(b) * (a * second).sum(dim=-1)
    return _arctangent(sine, (first * second).sum(dim=-1), DIHEDRAL_UNDEFINED)


def _arctangent(y: Tensor, x: Tensor, smallest: float) -> Tensor:
    """atan2(y, x), and 0 without gradient where the point (x, y) is nearer than ``smallest``."""
    undefined = x * x + y * y < smallest**2
    return torch.atan2(torch.where(undefined, 0.0, y), torch.where(undefined, 1.0, x))


def bond(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Harmonic bond, k/2 (r - r0)^2."""
    length, k = parameters.unbind(-1)
    return 0.5 * k * (distances(positions, index, box) - length) ** 2


def angle(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Harmonic angle, k/2 (theta - theta0)^2."""
    theta0, k = parameters.unbind(-1)
    return 0.5 * k * (angles(positions, index, box) - theta0) ** 2


def angle_g96(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Angle of GROMOS-96, k/2 (cos theta - cos theta0)^2."""
    theta0, k = parameters.unbind(-1)
    cosine = torch.cos(angles(positions, index, box))
    return 0.5 * k * (cosine - torch.cos(theta0)) ** 2


def proper(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 3"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Periodic dihedral, k (1 + cos(n phi - phase))."""
    phase, k, multiplicity = parameters.unbind(-1)
    return k * (1.0 + torch.cos(multiplicity * dihedrals(positions, index, box) - phase))


def ryckaert_bellemans(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 6"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Ryckaert-Bellemans dihedral, sum over n of c_n cos(phi - 180 degrees)^n."""
    cosine = -torch.cos(dihedrals(positions, index, box))
    coefficients = parameters.unbind(-1)
    energy = coefficients[-1] + torch.zeros_like(cosine)
    for c in reversed(coefficients[:-1]):
        energy = energy * cosine + c
    return energy


def improper(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Harmonic improper, k/2 (xi - xi0)^2 with the difference taken into -pi to pi."""
    xi0, k = parameters.unbind(-1)
    difference = dihedrals(positions, index, box) - xi0
    turns = torch.round(difference.detach() / (2.0 * math.pi))
    return 0.5 * k * (difference - 2.0 * math.pi * turns) ** 2


def lj14(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Lennard-Jones of listed pairs, 4 eps ((sigma/r)^12 - (sigma/r)^6), no cut-off.

    Columns of ``parameters``: sigma / nm, epsilon / kJ mol-1.
    """
    sigma, epsilon = parameters.unbind(-1)
    c6 = 4.0 * epsilon * sigma**6
    return nonbonded.lennard_jones(distances(positions, index, box), c6, c6 * sigma**6)


def coulomb14(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 1"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Plain Coulomb of listed pairs, f q q / r, no cut-off and no reaction field.

    Column of ``parameters``: charge factor times the product of the charges / e^2.
    """
    return nonbonded.coulomb(distances(positions, index, box), parameters[..., 0])


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "bond": bond,
    "angle": angle,
    "angle_g96": angle_g96,
    "proper": proper,
    "ryckaert_bellemans": ryckaert_bellemans,
    "improper": improper,
    "lj14": lj14,
    "coulomb14": coulomb14,
}
"""The energies of this module by kind of term."""

COUNTED_AS = {
    "bond": "bond",
    "angle": "angle",
    "angle_g96": "angle",
    "proper": "proper",
    "ryckaert_bellemans": "proper",
    "improper": "improper",
}
"""Kind of bonded term in a topology → name that its energy is reported under. Constraints have
no energy."""

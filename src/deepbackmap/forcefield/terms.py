"""Bonded and 1-4 energies: one short pure function for each physical term.

Every function takes positions (..., n, 3) in nm, the atoms of each term (m, k), the parameters
of each term (m, p) in the columns of ``system.kinds.KINDS``, and the box (lattice vectors as
rows, lower triangular, nm) or None, and returns the energies (..., m) in kJ/mol. Kinds with tables
take these as well (``BondedTerms.grids``).
``index`` and ``parameters`` may carry leading dimensions of their own that broadcast against
those of the positions, for batches of blocks that have different terms.

Values and gradients are finite everywhere. Where an angle or a dihedral is undefined (atoms on
top of each other, or in a line) it counts as 0 and has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.forcefield import nonbonded
from deepbackmap.geometry.periodic import minimum_image

ANGLE_UNDEFINED = 1e-6
"""nm^2: product of the lengths of two arms below which their angle is rounding noise."""
DIHEDRAL_UNDEFINED = 1e-8
"""nm^4: product of the areas of two planes below which their dihedral is rounding noise."""
FENE_LAST = 0.9999
"""Of (r/longest)^2, up to which the logarithm of a bond of finite extension is followed."""
LEAST_SINE = 1e-3
"""Of restricted angles and dihedrals, below which their energies grow no further."""

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
    return _polynomial(parameters.unbind(-1), cosine)


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


def lj14_powers(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Lennard-Jones of listed pairs, c12/r^12 - c6/r^6, no cut-off."""
    c6, c12 = parameters.unbind(-1)
    return nonbonded.lennard_jones(distances(positions, index, box), c6, c12)


# --- other bonds


def bond_g96(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Bond of GROMOS-96, k/4 (r^2 - r0^2)^2."""
    length, k = parameters.unbind(-1)
    (arm,) = arms(positions, index, box, ((0, 1),))
    return 0.25 * k * ((arm * arm).sum(dim=-1) - length**2) ** 2


def morse(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 3"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Morse bond, depth (1 - exp(-beta (r - r0)))^2."""
    length, depth, beta = parameters.unbind(-1)
    return depth * (1.0 - torch.exp(beta * (length - distances(positions, index, box)))) ** 2


def bond_cubic(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 3"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Cubic bond, k (r - r0)^2 (1 + cubic (r - r0))."""
    length, k, cubic = parameters.unbind(-1)
    stretch = distances(positions, index, box) - length
    return k * stretch**2 * (1.0 + cubic * stretch)


def fene(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Bond of finite extension, -k/2 longest^2 ln(1 - (r/longest)^2).

    Past ``FENE_LAST`` of (r/longest)^2 it goes on as a straight line in r^2, where the logarithm
    ends and engines stop.
    """
    longest, k = parameters.unbind(-1)
    (arm,) = arms(positions, index, box, ((0, 1),))
    ratio = (arm * arm).sum(dim=-1) / longest**2
    inside = ratio.clamp(max=FENE_LAST)
    beyond = (ratio - inside) / (1.0 - FENE_LAST)
    return 0.5 * k * longest**2 * (beyond - torch.log1p(-inside))


def bond_restraint(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 4"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Flat between low and up1, harmonic on both sides, a straight line beyond up2."""
    low, up1, up2, k = parameters.unbind(-1)
    r = distances(positions, index, box)
    below = torch.clamp(low - r, min=0.0)
    above = torch.clamp(r - up1, min=0.0)
    width = up2 - up1
    line = 0.5 * width * (2.0 * above - width)
    return 0.5 * k * below**2 + k * torch.where(above > width, line, 0.5 * above**2)


# --- other angles


def bond_bond(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 3"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Coupling of two bonds, k (rij - r1) (rjk - r2)."""
    return _of_two_bonds(arms(positions, index, box, ((1, 0), (1, 2))), parameters)


def _of_two_bonds(
    both: Sequence[Tensor], parameters: Float[Tensor, "*columns 3"]
) -> Float[Tensor, "*found"]:
    first, second, k = parameters.unbind(-1)
    a, b = both
    return k * (norm(a) - first) * (norm(b) - second)


def bond_angle(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 4"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Coupling of bonds and angle, k (rik - r3) (rij - r1 + rjk - r2)."""
    first, second, across, k = parameters.unbind(-1)
    a, b, c = arms(positions, index, box, ((1, 0), (1, 2), (0, 2)))
    return k * (norm(c) - across) * (norm(a) - first + norm(b) - second)


def urey_bradley(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 4"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Harmonic angle and spring between its ends, k/2 (theta - theta0)^2 + k'/2 (rik - r0)^2."""
    theta0, k, length, spring = parameters.unbind(-1)
    (across,) = arms(positions, index, box, ((0, 2),))
    bend = angles(positions, index, box) - theta0
    return 0.5 * k * bend**2 + 0.5 * spring * (norm(across) - length) ** 2


def angle_quartic(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 6"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Quartic angle, sum over n of c_n (theta - theta0)^n."""
    theta0, *coefficients = parameters.unbind(-1)
    bend = angles(positions, index, box) - theta0
    return _polynomial(coefficients, bend)


def angle_linear(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Linear angle, k/2 |a (ri - rj) + (1 - a) (rk - rj)|^2."""
    a, k = parameters.unbind(-1)
    first, second = arms(positions, index, box, ((1, 0), (1, 2)))
    off = a[..., None] * first + (1.0 - a)[..., None] * second
    return 0.5 * k * (off * off).sum(dim=-1)


def angle_restricted(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Restricted bending, k/2 (cos theta - cos theta0)^2 / sin^2 theta.

    Source: Bulacu et al., J. Chem. Theory Comput. 9, 3282 (2013).
    """
    theta0, k = parameters.unbind(-1)
    return _restricted(angles(positions, index, box), theta0, k)


def bond_bend(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 5"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Coupling of bonds with their angle, (k1 (rij - r1) + k2 (rjk - r2)) (theta - theta0).

    Source: Sun, J. Phys. Chem. B 102, 7338 (1998), as all couplings below.
    """
    theta0, first, second, k1, k2 = parameters.unbind(-1)
    a, b = arms(positions, index, box, ((1, 0), (1, 2)))
    bend = angles(positions, index, box) - theta0
    return (k1 * (norm(a) - first) + k2 * (norm(b) - second)) * bend


# --- other dihedrals


def dihedral_restricted(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Restricted torsion, k/2 (cos phi - cos phi0)^2 / sin^2 phi.

    Source: Bulacu et al., J. Chem. Theory Comput. 9, 3282 (2013).
    """
    phi0, k = parameters.unbind(-1)
    return _restricted(dihedrals(positions, index, box), phi0, k)


def bending_torsion(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 6"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Combined bending and torsion, k sin^3 theta sin^3 theta' (sum over n of a_n cos^n phi).

    Source: Bulacu et al., J. Chem. Theory Comput. 9, 3282 (2013).
    """
    first = torch.sin(angles(positions, index[..., :3], box))
    second = torch.sin(angles(positions, index[..., 1:], box))
    cosine = torch.cos(dihedrals(positions, index, box))
    k, *coefficients = parameters.unbind(-1)
    return k * (first * second) ** 3 * _polynomial(coefficients, cosine)


def bond_torsion(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 12"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Coupling of three bonds with the torsion, sum over b of (rb - r0b) sum of kbn cos n phi."""
    phi = dihedrals(positions, index, box)
    columns = parameters.unbind(-1)
    energy = torch.zeros_like(phi)
    for b, arm in enumerate(arms(positions, index, box, ((0, 1), (1, 2), (2, 3)))):
        energy = energy + (norm(arm) - columns[b]) * _waves(columns[3 + 3 * b : 6 + 3 * b], phi)
    return energy


def angle_torsion(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 9"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Coupling of two angles with the torsion between them, and of all three."""
    phi = dihedrals(positions, index, box)
    first, second, *k, both = parameters.unbind(-1)
    a = angles(positions, index[..., :3], box) - first
    b = angles(positions, index[..., 1:], box) - second
    return a * _waves(k[:3], phi) + b * _waves(k[3:], phi) + both * a * b * torch.cos(phi)


def bond_bond_13(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 3"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Coupling of the outer two of three bonds, k (rij - r1) (rkl - r3)."""
    return _of_two_bonds(arms(positions, index, box, ((0, 1), (2, 3))), parameters)


def _waves(coefficients: Sequence[Tensor], phi: Tensor) -> Tensor:
    """Sum over n from 1 of k_n cos n phi."""
    energy = torch.zeros_like(phi)
    for n, k in enumerate(coefficients, 1):
        energy = energy + k * torch.cos(n * phi)
    return energy


# --- other impropers


def angle_angle(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 6"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Couplings of the three angles at one atom."""
    *rest, first, second, third = parameters.unbind(-1)
    a, b, c = (
        angles(positions, index[..., list(atoms)], box) - theta
        for atoms, theta in zip(((0, 1, 2), (0, 1, 3), (2, 1, 3)), rest, strict=True)
    )
    return first * a * c + second * a * b + third * b * c


def out_of_plane(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Mean of three angles out of plane, k/2 (chi - chi0)^2.

    Source: Wilson, Decius and Cross, Molecular Vibrations (1955), chapter 4.
    """
    chi0, k = parameters.unbind(-1)
    a, b, c = arms(positions, index, box, ((1, 0), (1, 2), (1, 3)))
    chi = _out_of_plane(a, b, c) + _out_of_plane(b, c, a) + _out_of_plane(c, a, b)
    return 0.5 * k * (chi / 3.0 - chi0) ** 2


def umbrella(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 2"],
    box: Box = None,
) -> Float[Tensor, "*found"]:
    """Umbrella of DREIDING, k/2 (cos omega - cos omega0)^2 / sin^2 omega0, or k (1 - cos omega).

    Source: Mayo, Olafson and Goddard, J. Phys. Chem. 94, 8897 (1990), equations 27 to 29.
    """
    omega0, k = parameters.unbind(-1)
    a, b, c = arms(positions, index, box, ((0, 1), (0, 2), (0, 3)))
    leans = (c * (a * norm(b)[..., None] + b * norm(a)[..., None])).sum(dim=-1) > 0.0
    cosine = torch.cos(_out_of_plane(c, a, b))
    cosine = torch.where(leans, -cosine, cosine)
    flat = omega0 == 0.0
    square = torch.where(flat, 1.0, torch.sin(omega0) ** 2)
    bent = 0.5 * k * (cosine - torch.cos(omega0)) ** 2 / square
    return torch.where(flat, k * (1.0 - cosine), bent)


def _out_of_plane(arm: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Angle of a vector with the plane of two others, -pi/2 to pi/2."""
    normal = torch.linalg.cross(first, second, dim=-1)
    along = norm(torch.linalg.cross(arm, normal, dim=-1))
    return _arctangent((arm * normal).sum(dim=-1), along, DIHEDRAL_UNDEFINED)


def _polynomial(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """Sum over n of c_n x^n."""
    energy = coefficients[-1] + torch.zeros_like(x)
    for c in reversed(coefficients[:-1]):
        energy = energy * x + c
    return energy


def _restricted(angle: Tensor, rest: Tensor, k: Tensor) -> Tensor:
    """k/2 (cos x - cos x0)^2 / sin^2 x, which ends at ``LEAST_SINE``^2 instead of growing on."""
    square = torch.sin(angle) ** 2
    return 0.5 * k * (torch.cos(angle) - torch.cos(rest)) ** 2 / square.clamp(min=LEAST_SINE**2)


# --- tables


def bond_table(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 2"],
    parameters: Float[Tensor, "*columns 5"],
    box: Box = None,
    *,
    grids: Float[Tensor, "t 2 points"],
) -> Float[Tensor, "*found"]:
    """Tabulated bond, k f(r)."""
    return _curve(distances(positions, index, box), parameters, grids)


def angle_table(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 3"],
    parameters: Float[Tensor, "*columns 5"],
    box: Box = None,
    *,
    grids: Float[Tensor, "t 2 points"],
) -> Float[Tensor, "*found"]:
    """Tabulated angle, k f(theta)."""
    return _curve(angles(positions, index, box), parameters, grids)


def dihedral_table(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 4"],
    parameters: Float[Tensor, "*columns 5"],
    box: Box = None,
    *,
    grids: Float[Tensor, "t 2 points"],
) -> Float[Tensor, "*found"]:
    """Tabulated dihedral, k f(phi)."""
    return _curve(dihedrals(positions, index, box), parameters, grids)


def _curve(x: Tensor, parameters: Tensor, grids: Tensor) -> Tensor:
    """k times the cubic through values and slopes of a table, a straight line beyond its ends."""
    k, row, start, spacing, points = parameters.unbind(-1)
    place = (x - start) / spacing
    inside = torch.minimum(place.clamp(min=0.0), points - 1.0)
    left = torch.minimum(torch.floor(inside.detach()), points - 2.0)
    t = inside - left
    row, left = row.long().expand(left.shape), left.long()
    (y0, y1), (d0, d1) = ((grids[row, c, left], grids[row, c, left + 1]) for c in (0, 1))
    h = _hermite(t)
    value = h[0] * y0 + h[1] * y1 + spacing * (h[2] * d0 + h[3] * d1)
    beyond = (place - inside) * spacing
    return k * (value + beyond * torch.where(beyond < 0.0, d0, d1))


def _hermite(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of both values and both slopes of a cubic between 0 and 1."""
    far = t * t * (3.0 - 2.0 * t)
    return 1.0 - far, far, t * (1.0 - t) ** 2, t * t * (t - 1.0)


def cmap(
    positions: Float[Tensor, "*batch n 3"],
    index: Int64[Tensor, "*terms 5"],
    parameters: Float[Tensor, "*columns 1"],
    box: Box = None,
    *,
    grids: Float[Tensor, "t 4 points points"],
) -> Float[Tensor, "*found"]:
    """Correction map of two dihedrals that follow each other, bicubic between its points.

    Source: Mackerell et al., J. Comput. Chem. 25, 1400 (2004).
    """
    n = grids.shape[-1]
    step = 2.0 * math.pi / n
    weights, cells = [], []
    for dihedral in (index[..., :4], index[..., 1:]):
        place = (dihedrals(positions, dihedral, box) + math.pi) / step
        left = torch.floor(place.detach())
        weights.append(_hermite(place - left))
        cells.append((left.long() % n, (left.long() + 1) % n))
    row = parameters[..., 0].long()
    energy = torch.zeros_like(weights[0][0])
    # derivative c of the grid: bit 1 along the first angle, bit 2 along the second
    for c in range(4):
        along = (c % 2, c // 2)
        for i in (0, 1):
            for j in (0, 1):
                weight = weights[0][2 * along[0] + i] * weights[1][2 * along[1] + j]
                corner = grids[row, c, cells[0][i], cells[1][j]]
                energy = energy + weight * corner * step ** sum(along)
    return energy


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "bond": bond,
    "bond_g96": bond_g96,
    "morse": morse,
    "bond_cubic": bond_cubic,
    "harmonic": bond,
    "fene": fene,
    "bond_table": bond_table,
    "bond_table_nc": bond_table,
    "bond_restraint": bond_restraint,
    "angle": angle,
    "angle_g96": angle_g96,
    "bond_bond": bond_bond,
    "bond_angle": bond_angle,
    "urey_bradley": urey_bradley,
    "angle_quartic": angle_quartic,
    "angle_table": angle_table,
    "angle_linear": angle_linear,
    "angle_restricted": angle_restricted,
    "bond_bend": bond_bend,
    "proper": proper,
    "ryckaert_bellemans": ryckaert_bellemans,
    "improper": improper,
    "dihedral_table": dihedral_table,
    "dihedral_restricted": dihedral_restricted,
    "bending_torsion": bending_torsion,
    "bond_torsion": bond_torsion,
    "angle_torsion": angle_torsion,
    "bond_bond_13": bond_bond_13,
    "angle_angle": angle_angle,
    "out_of_plane": out_of_plane,
    "umbrella": umbrella,
    "cmap": cmap,
    "lj14": lj14,
    "lj14_powers": lj14_powers,
    "coulomb14": coulomb14,
}
"""The energy of every kind of ``system.kinds.KINDS`` that has one."""

"""Forces and energies of bonded terms as tensors: all terms of one kind in the system at once.

The same internal coordinates, parameters and ends as the compiled loops (``mechanics.bonded``),
whose ``KERNELS`` say which kinds there are. Forces are added with ``index_add_``, in no fixed order
on a card: two runs of the same numbers differ there by rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from deepbackmap.forcefield.terms import (
    ANGLE_UNDEFINED,
    DIHEDRAL_UNDEFINED,
    FENE_LAST,
    LEAST_SINE,
)
from deepbackmap.geometry.periodic import minimum_image
from deepbackmap.mechanics.bonded import (
    ANGLE,
    CHARGES,
    CLOSEST,
    COSINE,
    CUBIC,
    DISTANCE,
    FENE,
    G96,
    LENNARD_JONES,
    MORSE,
    PERIODIC,
    POLYNOMIAL,
    QUARTIC,
    RESTRICTED,
    TINY,
)

Columns = tuple[Tensor, ...]
Found = tuple[Tensor, Tensor]
"""Energies and slopes."""


@dataclass(frozen=True, eq=False)
class Listed:
    """All terms of one function in the system."""

    term: str
    """Name that the energy is counted under."""
    size: int
    """Atoms of a term: which loop of ``mechanics.bonded``."""
    number: int
    """Of the function, as that loop knows it."""
    atoms: Int64[Tensor, "m k"]
    """Of the system."""
    parameters: Float64[Tensor, "m q"]
    """As ``bonded.Kernel.prepare`` makes them."""
    molecules: Int64[Tensor, "m"]
    rigid: bool
    """Whether the terms are bonds that are held at their lengths, whose forces do not count."""


def evaluate(
    listed: Listed, x: Float64[Tensor, "n 3"], cell: Float64[Tensor, "3 3"] | None
) -> tuple[Float64[Tensor, "m"], Float64[Tensor, "m k 3"]]:
    """Energies of terms (kJ/mol) and forces on their atoms (kJ/mol/nm).

    Args:
        listed: the terms.
        x: positions, nm.
        cell: lattice vectors, where molecules are bonded to their own images, nm.
    """
    at = x[listed.atoms]
    columns = listed.parameters.unbind(-1)
    if listed.size == DISTANCE:
        return _distances(listed.number, at, columns, cell)
    if listed.size == ANGLE:
        return _angles(listed.number, at, columns, cell)
    return _dihedrals(listed.number, at, columns, cell)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=-1, keepdim=True)


def _distances(number: int, at: Tensor, p: Columns, cell: Tensor | None) -> Found:
    d = minimum_image(at[:, 1] - at[:, 0], cell)
    r = torch.linalg.vector_norm(d, dim=-1)
    value, slope = _of_distance(number, r, p)
    along = (slope / torch.where(r > 0.0, r, 1.0))[:, None] * d
    return value, torch.stack([along, -along], dim=1)


def _angles(number: int, at: Tensor, p: Columns, cell: Tensor | None) -> Found:
    u, v = minimum_image(at[:, 0::2] - at[:, 1:2], cell).unbind(dim=1)
    uu, vv, uv = _dot(u, u), _dot(v, v), _dot(u, v)
    s = torch.linalg.vector_norm(torch.linalg.cross(u, v, dim=-1), dim=-1, keepdim=True)
    product = torch.sqrt(uu * vv)
    undefined = product < ANGLE_UNDEFINED
    safe = torch.where(undefined, 1.0, product)
    theta = torch.where(undefined, 0.0, torch.atan2(s, uv))
    cosine = torch.where(undefined, 1.0, uv / safe)
    sine = torch.where(undefined, 0.0, s / safe)
    value, slope = _of_angle(number, theta[:, 0], cosine[:, 0], sine[:, 0], p)
    slope = torch.where(undefined, 0.0, slope[:, None])
    # the angle's gradient at an end is across its arm, in the plane, one over its length
    first = (uv * u - uu * v) * (slope / (uu * s + TINY))
    second = (uv * v - vv * u) * (slope / (vv * s + TINY))
    return value, torch.stack([-first, first + second, -second], dim=1)


def _dihedrals(number: int, at: Tensor, p: Columns, cell: Tensor | None) -> Found:
    u, v, w = minimum_image(at[:, 1:] - at[:, :-1], cell).unbind(dim=1)
    first, second = torch.linalg.cross(u, v, dim=-1), torch.linalg.cross(v, w, dim=-1)
    vv = _dot(v, v)
    axis = torch.sqrt(vv)
    y, c = axis * _dot(u, second), _dot(first, second)
    ff, ss = _dot(first, first), _dot(second, second)
    product = torch.sqrt(ff * ss)
    undefined = product < DIHEDRAL_UNDEFINED
    safe = torch.where(undefined, 1.0, product)
    phi = torch.where(undefined, 0.0, torch.atan2(y, c))
    cosine = torch.where(undefined, 1.0, c / safe)
    sine = torch.where(undefined, 0.0, y / safe)
    value, slope = _of_dihedral(number, phi[:, 0], cosine[:, 0], sine[:, 0], p)
    along = torch.where(undefined, 0.0, slope[:, None]) * axis
    start, end = -along / (ff + TINY) * first, along / (ss + TINY) * second
    between = _dot(u, v) / (vv + TINY) * start - _dot(w, v) / (vv + TINY) * end
    return value, torch.stack([-start, start + between, end - between, -end], dim=1)


def _harmonic(q: Tensor, p: Columns) -> Found:
    d = q - p[0]
    return 0.5 * p[1] * d * d, p[1] * d


def _of_distance(number: int, r: Tensor, p: Columns) -> Found:
    if number in (LENNARD_JONES, CHARGES):
        return _of_contact(number, r, p)
    if number == G96:
        d = r * r - p[0] * p[0]
        return 0.25 * p[1] * d * d, p[1] * r * d
    if number == MORSE:
        part = torch.exp(-p[2] * (r - p[0]))
        return p[1] * (1.0 - part) ** 2, 2.0 * p[1] * p[2] * part * (1.0 - part)
    if number == CUBIC:
        d = r - p[0]
        return p[1] * d * d * (1.0 + p[2] * d), p[1] * d * (2.0 + 3.0 * p[2] * d)
    if number == FENE:
        square = p[0] * p[0]
        ratio = r * r / square
        inside = ratio.clamp(max=FENE_LAST)
        beyond = (ratio - inside) / (1.0 - FENE_LAST)
        value = 0.5 * p[1] * square * (beyond - torch.log1p(-inside))
        return value, p[1] * r / (1.0 - inside)
    return _harmonic(r, p)


def _of_contact(number: int, r: Tensor, p: Columns) -> Found:
    safe = r.clamp(min=CLOSEST)
    if number == CHARGES:
        value = p[0] / safe
        slope = -value / safe
    else:
        inverse6 = safe**-6
        c6, c12 = p[0] * inverse6, p[1] * inverse6 * inverse6
        value, slope = c12 - c6, (6.0 * c6 - 12.0 * c12) / safe
    return value, torch.where(r > CLOSEST, slope, 0.0)


def _polynomial(coefficients: Columns, x: Tensor) -> Found:
    """Value and derivative of a sum of powers, lowest first."""
    value, slope = coefficients[-1] + torch.zeros_like(x), torch.zeros_like(x)
    for c in reversed(coefficients[:-1]):
        slope = slope * x + value
        value = value * x + c
    return value, slope


def _of_angle(number: int, theta: Tensor, cosine: Tensor, sine: Tensor, p: Columns) -> Found:
    if number == COSINE:
        value, slope = _harmonic(cosine, p)
        return value, -slope * sine
    if number == QUARTIC:
        return _polynomial(p[1:], theta - p[0])
    if number == RESTRICTED:
        return _restricted(cosine, sine, p)
    return _harmonic(theta, p)


def _restricted(cosine: Tensor, sine: Tensor, p: Columns) -> Found:
    d, square = cosine - p[0], sine * sine
    flat = square < LEAST_SINE * LEAST_SINE
    inverse = 1.0 / square.clamp(min=LEAST_SINE * LEAST_SINE)
    more = torch.where(flat, 0.0, p[1] * d * d * cosine * sine * inverse * inverse)
    return 0.5 * p[1] * d * d * inverse, -p[1] * sine * inverse * d - more


def _of_dihedral(number: int, phi: Tensor, cosine: Tensor, sine: Tensor, p: Columns) -> Found:
    if number == PERIODIC:
        c, s = torch.cos(p[3] * phi), torch.sin(p[3] * phi)
        value = p[2] * (1.0 + c * p[0] + s * p[1])
        return value, p[3] * p[2] * (c * p[1] - s * p[0])
    if number == POLYNOMIAL:
        value, slope = _polynomial(p, -cosine)
        return value, slope * sine
    if number == RESTRICTED:
        return _restricted(cosine, sine, p)
    d = phi - p[0]
    d = d - 2.0 * math.pi * torch.round(d * (0.5 / math.pi))
    return 0.5 * p[1] * d * d, p[1] * d

"""Forces and energies of bonded terms, compiled: a short function for each kind of term.

Terms of one kind are worked through one after the other, each for ``LANES`` copies of a molecule
type at once. A kind is one function from an internal coordinate and the term's parameters to its
energy and slope; ``KERNELS`` says which, and how the columns of ``system.kinds.KINDS``
become the parameters that it takes. Loops over distances, angles and dihedrals choose among these
functions, so that the geometry is compiled once for all kinds; maps of two dihedrals have one of
their own. ``PARTS`` takes kinds apart that are sums of others. Kinds that are nowhere here go
through ``forcefield.terms`` and automatic differentiation: slow, but right.

Tables of kinds that have them (``BondedTerms.grids``) follow the parameters of all terms: the
number of points, then the tables one after the other. Each term says how far on from its own
parameters that is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from deepbackmap.forcefield.terms import (
    ANGLE_UNDEFINED,
    DIHEDRAL_UNDEFINED,
    FENE_LAST,
    LEAST_SINE,
)
from deepbackmap.mechanics.images import difference
from deepbackmap.mechanics.lanes import (
    LANES,
    double4,
    exponential,
    gather,
    inner,
    load,
    logarithm,
    magnitude,
    nearest,
    root,
    select,
    store,
    whole,
)
from deepbackmap.quantities import COULOMB

TINY = 1e-30
"""Keeps quotients finite whose numerators vanish."""
CLOSEST = 1e-3
"""nm: listed pairs that are closer count as that far apart."""
_ARCTANGENT = (
    0.02185606363927944, -0.04405576779245092, 0.057076702330575324, -0.066437779007811282,
    0.076903386036563201, -0.09090798181882051, 0.11111107123739664, -0.14285714199019647,
    0.19999999998965792, -0.33333333333327592, 1.0,
)  # fmt: skip
"""atan(a)/a in powers of a^2, highest first, for a up to tan(pi/8): interpolated at Chebyshev
points, good to 3e-16."""
_EIGHTH = math.tan(math.pi / 8)


@inner
def arctangent(y, x):
    """Angle of the point (x, y), -pi to pi, as ``math.atan2``."""
    ax, ay = magnitude(x), magnitude(y)
    steep = ay > ax
    low, high = select(steep, ax, ay), select(steep, ay, ax)
    beyond = low > high * _EIGHTH
    top = select(beyond, low - high, low)
    a = top / (select(beyond, low + high, high) + TINY)
    square = a * a
    p = square * _ARCTANGENT[0] + _ARCTANGENT[1]
    for k in range(2, 11):
        p = p * square + _ARCTANGENT[k]
    angle = a * p + select(beyond, square * 0.0 + math.pi / 4, square * 0.0)
    angle = select(steep, 0.5 * math.pi - angle, angle)
    angle = select(x < 0.0, math.pi - angle, angle)
    return select(y < 0.0, angle * -1.0, angle)


@inner
def dot(a, b):
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inner
def cross(a, b):
    """Vector product."""
    return (
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    )


@inner
def push(f, i, g, scale):
    """Adds a multiple of a vector to the force on an atom."""
    store(f, i, load(f, i) + scale * g[0])
    store(f, i + LANES, load(f, i + LANES) + scale * g[1])
    store(f, i + 2 * LANES, load(f, i + 2 * LANES) + scale * g[2])


# Energies and slopes of single terms; parameters from index ``p`` on.


@inner
def _harmonic(r, parameters, p):
    d = r - parameters[p]
    return 0.5 * parameters[p + 1] * d * d, parameters[p + 1] * d


@inner
def _lennard_jones(r, parameters, p):
    safe = select(r > CLOSEST, r, CLOSEST)
    inverse2 = 1.0 / (safe * safe)
    inverse6 = inverse2 * inverse2 * inverse2
    c6, c12 = parameters[p] * inverse6, parameters[p + 1] * inverse6 * inverse6
    return c12 - c6, select(r > CLOSEST, (6.0 * c6 - 12.0 * c12) / safe, 0.0)


@inner
def _coulomb(r, parameters, p):
    safe = select(r > CLOSEST, r, CLOSEST)
    value = parameters[p] / safe
    return value, select(r > CLOSEST, value / safe * -1.0, 0.0)


@inner
def _bond_g96(r, parameters, p):
    d = r * r - parameters[p] * parameters[p]
    return 0.25 * parameters[p + 1] * d * d, parameters[p + 1] * r * d


@inner
def _morse(r, parameters, p):
    part = exponential((r - parameters[p]) * (parameters[p + 2] * -1.0))
    d = 1.0 - part
    depth = parameters[p + 1]
    return depth * d * d, 2.0 * depth * parameters[p + 2] * part * d


@inner
def _bond_cubic(r, parameters, p):
    d = r - parameters[p]
    k, cubic = parameters[p + 1], parameters[p + 2]
    return k * d * d * (1.0 + cubic * d), k * d * (2.0 + 3.0 * cubic * d)


@inner
def _fene(r, parameters, p):
    # ends as in ``forcefield.terms.fene``: straight in r^2
    square, k = parameters[p] * parameters[p], parameters[p + 1]
    ratio = r * r * (1.0 / square)
    inside = select(ratio > FENE_LAST, FENE_LAST, ratio)
    beyond = (ratio - inside) * (1.0 / (1.0 - FENE_LAST))
    value = (0.5 * k * square) * (beyond - logarithm(1.0 - inside))
    return value, k * r / (1.0 - inside)


@inner
def _harmonic_angle(theta, cosine, sine, parameters, p):
    d = theta - parameters[p]
    return 0.5 * parameters[p + 1] * d * d, parameters[p + 1] * d


@inner
def _cosine_angle(theta, cosine, sine, parameters, p):
    d = cosine - parameters[p]
    return 0.5 * parameters[p + 1] * d * d, parameters[p + 1] * d * sine * -1.0


@inner
def _quartic_angle(theta, cosine, sine, parameters, p):
    d = theta - parameters[p]
    value, slope = d * 0.0 + parameters[p + 5], d * 0.0
    for k in range(4, 0, -1):
        slope = slope * d + value
        value = value * d + parameters[p + k]
    return value, slope


@inner
def _restricted(angle, cosine, sine, parameters, p):
    # an angle or a dihedral; ends as in ``forcefield.terms``, at a least sine
    d, square = cosine - parameters[p], sine * sine
    flat = square < LEAST_SINE * LEAST_SINE
    inverse = 1.0 / select(flat, LEAST_SINE * LEAST_SINE, square)
    k = parameters[p + 1]
    value = 0.5 * k * d * d * inverse
    slope = (k * sine * inverse * -1.0) * d
    return value, slope - select(flat, 0.0, k * d * d * cosine * sine * inverse * inverse)


@inner
def _periodic(phi, cosine, sine, parameters, p):
    # cosine and sine of n phi by adding phi n times
    c, s = cosine * 0.0 + 1.0, sine * 0.0
    for _ in range(int(parameters[p + 3])):
        c, s = c * cosine - s * sine, s * cosine + c * sine
    k = parameters[p + 2]
    value = k + k * (c * parameters[p] + s * parameters[p + 1])
    return value, parameters[p + 3] * k * (c * parameters[p + 1] - s * parameters[p])


@inner
def _ryckaert_bellemans(phi, cosine, sine, parameters, p):
    z = cosine * -1.0
    value, slope = z * 0.0 + parameters[p + 5], z * 0.0
    for k in range(4, -1, -1):
        slope = slope * z + value
        value = value * z + parameters[p + k]
    return value, slope * sine


@inner
def _harmonic_dihedral(phi, cosine, sine, parameters, p):
    d = phi - parameters[p]
    d = d - 2.0 * math.pi * nearest(d * (0.5 / math.pi))
    return 0.5 * parameters[p + 1] * d * d, parameters[p + 1] * d


@inner
def _hermite(t):
    """Weights of both values and both slopes of a cubic between 0 and 1."""
    far, left = t * t * (3.0 - 2.0 * t), 1.0 - t
    return 1.0 - far, far, t * left * left, t * t * (t - 1.0)


@inner
def _hermite_slopes(t):
    """Their derivatives."""
    far = 6.0 * t * (1.0 - t)
    return far * -1.0, far, (1.0 - t) * (1.0 - 3.0 * t), t * (3.0 * t - 2.0)


@inner
def _curve(q, parameters, p):
    # a distance, angle or dihedral; straight beyond the ends as in ``forcefield.terms``
    k, spacing, last = parameters[p], parameters[p + 3], parameters[p + 4] - 1.0
    grids = p + int(parameters[p + 5])
    points = int(parameters[grids])
    first = grids + 1 + int(parameters[p + 1]) * 2 * points
    place = (q - parameters[p + 2]) * (1.0 / spacing)
    inside = select(place > 0.0, place, 0.0)  # what is not a number is no place in memory
    inside = select(inside < last, inside, last)
    left = whole(inside)
    left = select(left < last, left, last - 1.0)
    t, at = inside - left, left + float(first)
    y0, y1 = gather(parameters, at), gather(parameters, at + 1.0)
    d0, d1 = gather(parameters, at + float(points)), gather(parameters, at + float(points + 1))
    h, g = _hermite(t), _hermite_slopes(t)
    beyond = place - inside
    end = select(beyond < 0.0, d0, d1)
    value = h[0] * y0 + h[1] * y1 + spacing * (h[2] * d0 + h[3] * d1 + beyond * end)
    slope = (g[1] * (1.0 / spacing)) * (y1 - y0) + g[2] * d0 + g[3] * d1
    return k * value, k * slope


Columns = Float64[np.ndarray, "m p"]
Prepared = Float64[np.ndarray, "m q"]


def _as_they_are(columns: Columns) -> Prepared:
    return columns


def _cosines(columns: Columns) -> Prepared:
    return np.stack([np.cos(columns[:, 0]), columns[:, 1]], axis=1)


def _phases(columns: Columns) -> Prepared | None:
    phase, k, n = columns.T
    # energies of fractions are left to the other route
    if not np.array_equal(n, np.round(n)) or (np.abs(n) > 50).any():
        return None
    # a negative multiplicity is a positive one with the phase turned round
    phase = np.where(n < 0, -phase, phase)
    return np.stack([np.cos(phase), np.sin(phase), k, np.abs(n)], axis=1)


def _powers(columns: Columns) -> Prepared:
    sigma, epsilon = columns.T
    c6 = 4.0 * epsilon * sigma**6
    return np.stack([c6, c6 * sigma**6], axis=1)


def _charges(columns: Columns) -> Prepared:
    return COULOMB * columns


def _tabulated(columns: Columns) -> Prepared:
    # behind its parameters each term has those of the terms that follow, then come the tables
    count, width = columns.shape
    ahead = (width + 1) * np.arange(count, 0, -1.0)
    return np.concatenate([columns, ahead[:, None]], axis=1)


def with_grids(
    values: Prepared, grids: Float64[np.ndarray, "..."] | None
) -> Float64[np.ndarray, "r"]:
    """The parameters of all terms of one kind, with their tables behind them.

    Args:
        values: as ``Kernel.prepare`` makes them.
        grids: as ``BondedTerms.grids``.
    """
    behind = [] if grids is None else [np.array([grids.shape[-1]]), grids.ravel()]
    return np.concatenate([values.ravel(), *behind]).astype(np.float64)


@dataclass(frozen=True)
class Kernel:
    """How terms of one kind are worked out."""

    loop: int
    """Atoms of a term, which say what it is a function of: which loop."""
    number: int
    """Of the function, as its loop knows it."""
    prepare: Callable[[Columns], Prepared | None]
    """From the columns of the topology to what the kernel takes; None if it cannot take them."""


DISTANCE, ANGLE, DIHEDRAL, MAP = 2, 3, 4, 5
"""Which loop: by the atoms of a term."""
HARMONIC, RESTRICTED, CURVE = 0, 1, 2
LENNARD_JONES, CHARGES, G96, MORSE, CUBIC, FENE = range(3, 9)
COSINE, QUARTIC = 3, 4
PERIODIC, POLYNOMIAL = 3, 4
"""Which function: numbers are those of one loop."""

KERNELS = {
    "bond": Kernel(DISTANCE, HARMONIC, _as_they_are),
    "harmonic": Kernel(DISTANCE, HARMONIC, _as_they_are),
    "bond_g96": Kernel(DISTANCE, G96, _as_they_are),
    "morse": Kernel(DISTANCE, MORSE, _as_they_are),
    "bond_cubic": Kernel(DISTANCE, CUBIC, _as_they_are),
    "fene": Kernel(DISTANCE, FENE, _as_they_are),
    "bond_table": Kernel(DISTANCE, CURVE, _tabulated),
    "bond_table_nc": Kernel(DISTANCE, CURVE, _tabulated),
    "lj14": Kernel(DISTANCE, LENNARD_JONES, _powers),
    "lj14_powers": Kernel(DISTANCE, LENNARD_JONES, _as_they_are),
    "coulomb14": Kernel(DISTANCE, CHARGES, _charges),
    "angle": Kernel(ANGLE, HARMONIC, _as_they_are),
    "angle_g96": Kernel(ANGLE, COSINE, _cosines),
    "angle_quartic": Kernel(ANGLE, QUARTIC, _as_they_are),
    "angle_table": Kernel(ANGLE, CURVE, _tabulated),
    "angle_restricted": Kernel(ANGLE, RESTRICTED, _cosines),
    "proper": Kernel(DIHEDRAL, PERIODIC, _phases),
    "ryckaert_bellemans": Kernel(DIHEDRAL, POLYNOMIAL, _as_they_are),
    "improper": Kernel(DIHEDRAL, HARMONIC, _as_they_are),
    "dihedral_table": Kernel(DIHEDRAL, CURVE, _tabulated),
    "dihedral_restricted": Kernel(DIHEDRAL, RESTRICTED, _cosines),
    "cmap": Kernel(MAP, HARMONIC, _tabulated),
}
"""By kind of term, as in ``forcefield.terms.FUNCTIONS``."""
PARTS = {"urey_bradley": (("angle", (0, 1, 2), (0, 1)), ("harmonic", (0, 2), (2, 3)))}
"""Kinds that are sums of others: of which, with which of their atoms and columns."""


@inner
def _of_distance(number, r, parameters, p):
    if number == LENNARD_JONES:
        return _lennard_jones(r, parameters, p)
    if number == CHARGES:
        return _coulomb(r, parameters, p)
    if number == G96:
        return _bond_g96(r, parameters, p)
    if number == MORSE:
        return _morse(r, parameters, p)
    if number == CUBIC:
        return _bond_cubic(r, parameters, p)
    if number == FENE:
        return _fene(r, parameters, p)
    if number == CURVE:
        return _curve(r, parameters, p)
    return _harmonic(r, parameters, p)


@inner
def _of_angle(number, theta, cosine, sine, parameters, p):
    if number == COSINE:
        return _cosine_angle(theta, cosine, sine, parameters, p)
    if number == QUARTIC:
        return _quartic_angle(theta, cosine, sine, parameters, p)
    if number == RESTRICTED:
        return _restricted(theta, cosine, sine, parameters, p)
    if number == CURVE:
        return _curve(theta, parameters, p)
    return _harmonic_angle(theta, cosine, sine, parameters, p)


@inner
def _of_dihedral(number, phi, cosine, sine, parameters, p):
    if number == PERIODIC:
        return _periodic(phi, cosine, sine, parameters, p)
    if number == POLYNOMIAL:
        return _ryckaert_bellemans(phi, cosine, sine, parameters, p)
    if number == RESTRICTED:
        return _restricted(phi, cosine, sine, parameters, p)
    if number == CURVE:
        return _curve(phi, parameters, p)
    return _harmonic_dihedral(phi, cosine, sine, parameters, p)


# Every loop takes the number of the kind, the state ``x`` and forces ``f`` in lanes, where the
# molecules begin in them, the atoms of all terms (from ``a`` on) as places relative to that, how
# many terms there are, their parameters (from ``p`` on, ``width`` each), where to add energies (if
# ``want``), and the cell of molecules that are bonded to their own images (``images``).


@inner
def add_distances(number, x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell):
    """Terms of the distance of two atoms."""
    for k in range(count):
        i, j = base + atoms[a + 2 * k], base + atoms[a + 2 * k + 1]
        d = difference(x, j, i, cell)
        r = root(dot(d, d))
        value, slope = _of_distance(number, r, parameters, p + width * k)
        scale = slope / select(r > 0.0, r, 1.0)
        push(f, i, d, scale)
        push(f, j, d, scale * -1.0)
        if want:
            store(e, at, load(e, at) + value)


@inner
def add_angles(number, x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell):
    """Terms of the angle at the middle one of three atoms."""
    for k in range(count):
        i, j = base + atoms[a + 3 * k], base + atoms[a + 3 * k + 1]
        m = base + atoms[a + 3 * k + 2]
        u, v = difference(x, i, j, cell), difference(x, m, j, cell)
        uu, vv, uv = dot(u, u), dot(v, v), dot(u, v)
        c = cross(u, v)
        s = root(dot(c, c))
        product = root(uu * vv)
        undefined = product < ANGLE_UNDEFINED
        safe = select(undefined, 1.0, product)
        theta = select(undefined, 0.0, arctangent(s, uv))
        cosine, sine = select(undefined, 1.0, uv / safe), select(undefined, 0.0, s / safe)
        value, slope = _of_angle(number, theta, cosine, sine, parameters, p + width * k)
        slope = select(undefined, 0.0, slope)
        # the angle's gradient at an end is across its arm, in the plane, one over its length
        first, second = slope / (uu * s + TINY), slope / (vv * s + TINY)
        gi = (
            (uv * u[0] - uu * v[0]) * first,
            (uv * u[1] - uu * v[1]) * first,
            (uv * u[2] - uu * v[2]) * first,
        )
        gm = (
            (uv * v[0] - vv * u[0]) * second,
            (uv * v[1] - vv * u[1]) * second,
            (uv * v[2] - vv * u[2]) * second,
        )
        push(f, i, gi, -1.0)
        push(f, m, gm, -1.0)
        push(f, j, (gi[0] + gm[0], gi[1] + gm[1], gi[2] + gm[2]), 1.0)
        if want:
            store(e, at, load(e, at) + value)


@inner
def _dihedral(x, i, j, m, n, cell):
    """The dihedral of four atoms, its cosine and sine, where it is undefined, and what
    ``_push_dihedral`` takes."""
    u, v = difference(x, j, i, cell), difference(x, m, j, cell)
    w = difference(x, n, m, cell)
    first, second = cross(u, v), cross(v, w)
    vv = dot(v, v)
    axis = root(vv)
    y, c = axis * dot(u, second), dot(first, second)
    ff, ss = dot(first, first), dot(second, second)
    product = root(ff * ss)
    undefined = product < DIHEDRAL_UNDEFINED
    safe = select(undefined, 1.0, product)
    phi = select(undefined, 0.0, arctangent(y, c))
    cosine, sine = select(undefined, 1.0, c / safe), select(undefined, 0.0, y / safe)
    ends = axis / (ff + TINY), axis / (ss + TINY), dot(u, v) / (vv + TINY), dot(w, v) / (vv + TINY)
    return phi, cosine, sine, undefined, first, second, ends


@inner
def _push_dihedral(f, i, j, m, n, slope, undefined, first, second, ends):
    """Adds the forces of a dihedral with some slope."""
    slope = select(undefined, 0.0, slope)
    gi, gn = slope * ends[0] * -1.0, slope * ends[1]
    start = (gi * first[0], gi * first[1], gi * first[2])
    end = (gn * second[0], gn * second[1], gn * second[2])
    uv, wv = ends[2], ends[3]
    between = (
        uv * start[0] - wv * end[0],
        uv * start[1] - wv * end[1],
        uv * start[2] - wv * end[2],
    )
    push(f, i, start, -1.0)
    push(f, n, end, -1.0)
    push(f, j, (start[0] + between[0], start[1] + between[1], start[2] + between[2]), 1.0)
    push(f, m, (end[0] - between[0], end[1] - between[1], end[2] - between[2]), 1.0)


@inner
def add_dihedrals(number, x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell):
    """Terms of the dihedral of four atoms."""
    for k in range(count):
        i, j = base + atoms[a + 4 * k], base + atoms[a + 4 * k + 1]
        m, n = base + atoms[a + 4 * k + 2], base + atoms[a + 4 * k + 3]
        phi, cosine, sine, undefined, first, second, ends = _dihedral(x, i, j, m, n, cell)
        value, slope = _of_dihedral(number, phi, cosine, sine, parameters, p + width * k)
        _push_dihedral(f, i, j, m, n, slope, undefined, first, second, ends)
        if want:
            store(e, at, load(e, at) + value)


@inner
def _cell_of_map(phi, points):
    """Where an angle is in a map: the point before it, the one after, and how far between."""
    place = (phi + math.pi) * (points * (0.5 / math.pi))
    place = select(place > 0.0, place, 0.0)  # what is not a number is no place in memory
    left = whole(place)
    t = place - left
    left = select(left < points, left, left - points)
    right = left + 1.0
    return left, select(right < points, right, right - points), t


@inner
def _map(phi, psi, parameters, p):
    """Energy of a map and its slopes along both angles, as ``forcefield.terms.cmap``."""
    grids = p + int(parameters[p + 1])
    points = parameters[grids]
    size, step = points * points, 2.0 * math.pi / points
    a, b = _cell_of_map(phi, points), _cell_of_map(psi, points)
    h, k = _hermite(a[2]), _hermite(b[2])
    g, s = _hermite_slopes(a[2]), _hermite_slopes(b[2])
    first = float(grids + 1) + parameters[p] * 4.0 * size
    value, along, across = double4(0.0), double4(0.0), double4(0.0)
    # derivative c of the grid: bit 1 along the first angle, bit 2 along the second
    for c in range(4):
        scale = 1.0
        for _ in range(c % 2 + c // 2):
            scale *= step
        for i in range(2):
            for j in range(2):
                m, n = 2 * (c % 2) + i, 2 * (c // 2) + j
                place = (a[0] if i == 0 else a[1]) * points + (b[0] if j == 0 else b[1])
                corner = scale * gather(parameters, place + (first + c * size))
                value = value + h[m] * k[n] * corner
                along = along + g[m] * k[n] * corner
                across = across + h[m] * s[n] * corner
    return value, along * (1.0 / step), across * (1.0 / step)


@inner
def add_maps(x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell):
    """Terms of two dihedrals that follow each other, of five atoms."""
    for k in range(count):
        i, j = base + atoms[a + 5 * k], base + atoms[a + 5 * k + 1]
        m, n = base + atoms[a + 5 * k + 2], base + atoms[a + 5 * k + 3]
        o = base + atoms[a + 5 * k + 4]
        phi, _c, _s, undefined, first, second, ends = _dihedral(x, i, j, m, n, cell)
        psi, _c, _s, undefined2, first2, second2, ends2 = _dihedral(x, j, m, n, o, cell)
        value, along, across = _map(phi, psi, parameters, p + width * k)
        _push_dihedral(f, i, j, m, n, along, undefined, first, second, ends)
        _push_dihedral(f, j, m, n, o, across, undefined2, first2, second2, ends2)
        if want:
            store(e, at, load(e, at) + value)


@inner
def add_terms(size, number, x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell):
    """Adds the forces of all terms of one kind, and their energies if wanted.

    Args:
        size: atoms of a term, as ``Kernel.loop``.
        number: of the kind; the others are those of the loops.
    """
    if size == DISTANCE:
        add_distances(number, x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell)
    elif size == ANGLE:
        add_angles(number, x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell)
    elif size == DIHEDRAL:
        add_dihedrals(number, x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell)
    else:
        add_maps(x, f, base, atoms, a, count, parameters, p, width, e, at, want, cell)

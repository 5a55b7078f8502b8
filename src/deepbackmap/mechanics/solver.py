"""Bonds and beads of molecules made exact together, compiled: ``LANES`` copies at once.

Each molecule makes the smallest mass-weighted move after which its bonds have their lengths and its
held beads are where they are given: Newton's method with all constraints solved together,
``A l = c`` with ``A = J M^-1 J^T``, ``x -= M^-1 J^T l``.

Beads of a coarse-grained simulation may lie where no molecule with these bonds can put them. The
diagonal of the beads' rows is therefore enlarged in proportion to how far off the molecule is
(Levenberg-Marquardt; Yamashita, Fukushima, Computing Suppl. 15, 239, 2001), and further where it
makes no progress. Beads in reach are approached as fast as by Newton's method, since the damping
vanishes with the deviation; of beads out of reach the squared deviations come near the least that
the bonds allow. Bonds are exact in either case: what is left of their deviations in the end is
taken out with beads that only resist.

Where the factor of a large network is incomplete (``constraints``), equations are solved by
conjugate gradients with that factor as preconditioner, multiplying by ``J`` and its transpose.

Functions work on one group of copies: ``T`` are the tables of all types (``tables.Tables``), ``t``
the type, ``w`` the working memory of the group, and capitals places in it (``layout``).
"""

from __future__ import annotations

import numpy as np

from deepbackmap.mechanics.columns import (
    AIM,
    BOND_INVERSES,
    BONDS,
    CROSSING_FACTORS,
    CROSSINGS,
    DIAGONAL_VALUES,
    DIAGONALS,
    FACTOR,
    FIXED,
    FIXED_VALUES,
    GOAL,
    HELD,
    INCOMPLETE,
    LENGTHS,
    MEAN,
    MOVE,
    N_ATOMS,
    N_BONDS,
    N_CROSSINGS,
    N_FIXED,
    N_HELD,
    N_PAIRS,
    N_PLACES,
    N_SLOTS,
    PAIR_FACTORS,
    PAIRS,
    PIVOTS,
    PLACES,
    ROOM,
    ROWS,
    SHARE_ATOMS,
    SHARE_INVERSES,
    SHARES,
    SIDES,
    START,
    STARTS,
    TARGETS,
    UNITS,
    WEIGHTS,
)
from deepbackmap.mechanics.images import bead_at, bead_of, bead_off, difference
from deepbackmap.mechanics.lanes import (
    LANES,
    both,
    double4,
    either,
    inner,
    load,
    magnitude,
    root,
    select,
    some,
    store,
    without,
)

TOLERANCE = 1e-6
"""nm: largest deviation of a bond's length or of a coordinate of a bead."""
ITERATIONS = 20
"""At most, of bonds with beads."""
BOND_ITERATIONS = 50
"""At most, of bonds alone, for molecules that have not settled with their beads."""
HELD_ITERATIONS = 10
"""At most, along directions that are kept."""
LARGEST_MOVE = 0.05
"""nm: no atom moves farther in one iteration, so that a start that is far off stays together."""
REACH = 0.1
"""nm: the diagonal of the beads' rows is enlarged by the largest deviation over this, at most
doubled; about how far atoms move before the direction of a bond says little."""
PROGRESS = 0.95
"""A molecule whose largest deviation does not fall below this part of what it was is stalled: it
has settled if its bonds are exact, and is damped twice as much if they are not."""
RIDGE = 1e-10
"""Added to the diagonal, relative to it: redundant constraints would make the matrix singular."""
GRADIENTS = 300
"""Iterations of conjugate gradients, at most."""
RESIDUAL, SHARP = 1e-3, 1e-9
"""Of the largest element of the right side: what conjugate gradients leave. Newton's and SHAKE's
iterations look at deviations themselves, so that the first is enough for them; velocities have only
one try."""
COINCIDENT = 1e-12
"""nm: atoms that are closer than this have no direction between them."""
RELEASED = 1e12
"""By how much the diagonal of a bead is enlarged in a copy that does not hold it."""


@inner
def layout(T, t):
    """Places of a group's arrays in its working memory, and the size of that (``tables``).

    Units along the bonds, the factor, right side and solution, aim, move, start, and where held
    beads are to be; at the end, for conjugate gradients, three vectors and what is added to the
    diagonals of beads.
    """
    return (
        T.first[t, UNITS], T.first[t, FACTOR], T.first[t, SIDES], T.first[t, AIM],
        T.first[t, MOVE], T.first[t, START], T.first[t, GOAL], T.first[t, ROOM],
    )  # fmt: skip


@inner
def add_to_bead(T, t, bead, x, base, d0, d1, d2, by_mass):
    """Adds a vector to the atoms of a bead by their weights, or by these over masses."""
    shares, atoms, weights = T.first[t, SHARES], T.first[t, SHARE_ATOMS], T.first[t, WEIGHTS]
    inverses = T.first[t, SHARE_INVERSES]
    for k in range(T.integers[shares + bead], T.integers[shares + bead + 1]):
        share, i = T.reals[weights + k], base + T.integers[atoms + k]
        if by_mass:
            share *= T.reals[inverses + k]
        store(x, i, load(x, i) + share * d0)
        store(x, i + LANES, load(x, i + LANES) + share * d1)
        store(x, i + 2 * LANES, load(x, i + 2 * LANES) + share * d2)


@inner
def set_units(T, t, x, base, w, U, cell):
    """Unit vectors along the bonds."""
    bonds = T.first[t, BONDS]
    for k in range(T.first[t, N_BONDS]):
        i, j = base + T.integers[bonds + 2 * k], base + T.integers[bonds + 2 * k + 1]
        d0, d1, d2 = difference(x, i, j, cell)
        length = root(d0 * d0 + d1 * d1 + d2 * d2)
        lost = length < COINCIDENT
        inverse = 1.0 / select(lost, COINCIDENT, length)
        at = U + 3 * LANES * k
        # atoms at one point have to part, in whichever direction
        store(w, at, d0 * inverse + select(lost, double4(1.0), 0.0))
        store(w, at + LANES, d1 * inverse)
        store(w, at + 2 * LANES, d2 * inverse)


@inner
def set_goal(T, t, beads, base, w, G):
    """Where held beads are to be."""
    held = T.first[t, HELD]
    for k in range(T.first[t, N_HELD]):
        bead = base + 3 * LANES * T.integers[held + k]
        for c in range(3):
            store(w, G + (3 * k + c) * LANES, load(beads, bead + c * LANES))


@inner
def deviations(T, t, w, X, G, Y, active, released, bonds_alone, cell):
    """Fills in the right side; returns the largest deviations of bonds and of beads.

    Args:
        X: place of positions.
        G: place of goals.
        Y: place of the right side.
        active: 1 for beads that a copy holds, 0 for others.
        released: where these begin.
        bonds_alone: whether beads count as where they should be.
        cell: as for ``images.shortest``.
    """
    bond, bead = double4(0.0), double4(0.0)
    bonds, lengths, places = T.first[t, BONDS], T.first[t, LENGTHS], T.first[t, PLACES]
    for k in range(T.first[t, N_BONDS]):
        i, j = X + T.integers[bonds + 2 * k], X + T.integers[bonds + 2 * k + 1]
        d0, d1, d2 = difference(w, i, j, cell)
        off = root(d0 * d0 + d1 * d1 + d2 * d2) - T.reals[lengths + k]
        store(w, Y + LANES * T.integers[places + k], off)
        size = magnitude(off)
        # written so that what is not a number counts as off
        bond = select(size <= bond, bond, size)
    places += T.first[t, N_BONDS]
    held = T.first[t, HELD]
    for k in range(T.first[t, N_HELD]):
        b = T.integers[held + k]
        counts = load(active, released + LANES * b)
        found = bead_off(T, t, b, w, X, w, G + 3 * k * LANES, cell)
        for c in range(3):
            at = found[0] if c == 0 else (found[1] if c == 1 else found[2])
            off = at * counts
            if bonds_alone:
                off = double4(0.0)
            store(w, Y + LANES * T.integers[places + 3 * k + c], off)
            size = magnitude(off)
            bead = select(size <= bead, bead, size)
    return bond, bead


@inner
def _added(T, t):
    """Place of what is added to the diagonals of beads, for conjugate gradients."""
    return layout(T, t)[7] - LANES * T.first[t, N_HELD]


@inner
def fill(T, t, w, U, L, softness, active, released):
    """The matrix, in the slots of its factor."""
    for k in range(T.first[t, N_SLOTS]):
        store(w, L + LANES * k, double4(0.0))
    slots, values = T.first[t, FIXED], T.first[t, FIXED_VALUES]
    for k in range(T.first[t, N_FIXED]):
        store(w, L + LANES * T.integers[slots + k], double4(T.reals[values + k]))
    pairs, values = T.first[t, PAIRS], T.first[t, PAIR_FACTORS]
    for k in range(T.first[t, N_PAIRS]):
        i = U + 3 * LANES * T.integers[pairs + 3 * k]
        j = U + 3 * LANES * T.integers[pairs + 3 * k + 1]
        product = (
            load(w, i) * load(w, j)
            + load(w, i + LANES) * load(w, j + LANES)
            + load(w, i + 2 * LANES) * load(w, j + 2 * LANES)
        )
        store(w, L + LANES * T.integers[pairs + 3 * k + 2], product * T.reals[values + k])
    crossings, values = T.first[t, CROSSINGS], T.first[t, CROSSING_FACTORS]
    for k in range(T.first[t, N_CROSSINGS]):
        i, factor = U + 3 * LANES * T.integers[crossings + 4 * k], T.reals[values + k]
        for c in range(3):
            at = L + LANES * T.integers[crossings + 4 * k + 1 + c]
            store(w, at, load(w, i + c * LANES) * factor)
    # the same for all beads, so that what is made small is the plain sum of their squares
    mean, held = T.reals[T.first[t, MEAN]], T.first[t, HELD]
    slots, values = T.first[t, DIAGONALS], T.first[t, DIAGONAL_VALUES]
    for k in range(T.first[t, N_HELD]):
        counts = load(active, released + LANES * T.integers[held + k])
        more = softness * mean + select(counts > 0.0, double4(0.0), mean * RELEASED)
        if T.first[t, INCOMPLETE]:
            store(w, _added(T, t) + LANES * k, more)
        for c in range(3 * k, 3 * k + 3):
            store(w, L + LANES * T.integers[slots + c], T.reals[values + c] + more)


@inner
def factorise(T, t, w, L):
    """Columns of the factor, and the inverse of the diagonal, in place of the matrix."""
    starts, target = T.first[t, STARTS], T.first[t, TARGETS]
    for k in range(T.first[t, N_PLACES]):
        first, stop = T.integers[starts + k], T.integers[starts + k + 1]
        pivot = load(w, L + LANES * first)
        if T.first[t, INCOMPLETE]:
            least = T.first[t, PIVOTS]
            pivot = select(pivot > T.reals[least], pivot, T.reals[least + 1])
        inverse = 1.0 / pivot
        store(w, L + LANES * first, inverse)
        for a in range(first + 1, stop):
            scaled = load(w, L + LANES * a) * inverse
            for b in range(a, stop):
                at = L + LANES * T.integers[target]
                store(w, at, load(w, at) - scaled * load(w, L + LANES * b))
                target += 1
            store(w, L + LANES * a, scaled)


@inner
def substitute(T, t, w, L, Y):
    """What the factor makes of a right side, in its place: the solution, if it is complete."""
    starts, rows, n = T.first[t, STARTS], T.first[t, ROWS], T.first[t, N_PLACES]
    for k in range(n):
        first, stop = T.integers[starts + k], T.integers[starts + k + 1]
        y = load(w, Y + LANES * k)
        for a in range(first + 1, stop):
            at = Y + LANES * T.integers[rows + a]
            store(w, at, load(w, at) - load(w, L + LANES * a) * y)
        store(w, Y + LANES * k, y * load(w, L + LANES * first))
    for k in range(n - 1, -1, -1):
        first, stop = T.integers[starts + k], T.integers[starts + k + 1]
        y = load(w, Y + LANES * k)
        for a in range(first + 1, stop):
            y = y - load(w, L + LANES * a) * load(w, Y + LANES * T.integers[rows + a])
        store(w, Y + LANES * k, y)


@inner
def set_move(T, t, w, U, Y, M):
    """The smallest mass-weighted move that changes bonds and beads by the solution."""
    for k in range(3 * T.first[t, N_ATOMS]):
        store(w, M + LANES * k, double4(0.0))
    bonds, inverses, places = T.first[t, BONDS], T.first[t, BOND_INVERSES], T.first[t, PLACES]
    for k in range(T.first[t, N_BONDS]):
        i, j = M + T.integers[bonds + 2 * k], M + T.integers[bonds + 2 * k + 1]
        y = load(w, Y + LANES * T.integers[places + k])
        yi, yj = y * T.reals[inverses + 2 * k], y * T.reals[inverses + 2 * k + 1]
        for c in range(3):
            u = load(w, U + (3 * k + c) * LANES)
            store(w, i + c * LANES, load(w, i + c * LANES) + yi * u)
            store(w, j + c * LANES, load(w, j + c * LANES) - yj * u)
    places += T.first[t, N_BONDS]
    held = T.first[t, HELD]
    for k in range(T.first[t, N_HELD]):
        y0 = load(w, Y + LANES * T.integers[places + 3 * k])
        y1 = load(w, Y + LANES * T.integers[places + 3 * k + 1])
        y2 = load(w, Y + LANES * T.integers[places + 3 * k + 2])
        add_to_bead(T, t, T.integers[held + k], w, M, y0, y1, y2, True)


@inner
def _multiply(T, t, w, U, M, P, Q, added):
    """The matrix times a vector, by way of the move that this stands for."""
    set_move(T, t, w, U, P, M)
    set_changes(T, t, w, M, w, U, Q)
    places = T.first[t, PLACES] + T.first[t, N_BONDS]
    for k in range(T.first[t, N_HELD]):
        more = load(w, added + LANES * k)
        for c in range(3):
            at = LANES * T.integers[places + 3 * k + c]
            store(w, Q + at, load(w, Q + at) + more * load(w, P + at))


@inner
def set_changes(T, t, x, base, w, U, Y):
    """How fast vectors of the atoms change lengths and beads."""
    bonds, places, first = T.first[t, BONDS], T.first[t, PLACES], T.first[t, HELD]
    n = T.first[t, N_BONDS]
    for k in range(n):
        i, j = base + T.integers[bonds + 2 * k], base + T.integers[bonds + 2 * k + 1]
        along = double4(0.0)
        for c in range(3):
            d = load(x, i + c * LANES) - load(x, j + c * LANES)
            along = along + d * load(w, U + (3 * k + c) * LANES)
        store(w, Y + LANES * T.integers[places + k], along)
    for k in range(T.first[t, N_HELD]):
        found = bead_of(T, t, T.integers[first + k], x, base)
        at = places + n + 3 * k
        store(w, Y + LANES * T.integers[at], found[0])
        store(w, Y + LANES * T.integers[at + 1], found[1])
        store(w, Y + LANES * T.integers[at + 2], found[2])


@inner
def _product(w, A, B, count):
    """Scalar product of two vectors."""
    found = double4(0.0)
    for k in range(count):
        found = found + load(w, A + LANES * k) * load(w, B + LANES * k)
    return found


@inner
def _largest(w, A, count):
    """Largest element of a vector."""
    found = double4(0.0)
    for k in range(count):
        size = magnitude(load(w, A + LANES * k))
        found = select(size > found, size, found)
    return found


@inner
def _iterate(T, t, w, places, residual):
    """The solution by conjugate gradients, in place of the right side."""
    U, L, Y, _X, M, _S, G, _ = places
    n = T.first[t, N_PLACES]
    R = G + 3 * LANES * T.first[t, N_HELD]
    P, Q = R + LANES * n, R + 2 * LANES * n
    added = _added(T, t)
    for k in range(n):
        b = load(w, Y + LANES * k)
        store(w, R + LANES * k, b)
        store(w, Q + LANES * k, b)
        store(w, P + LANES * k, double4(0.0))
        store(w, Y + LANES * k, double4(0.0))
    limit = _largest(w, R, n) * residual
    rho = double4(1.0)
    for step in range(GRADIENTS):
        substitute(T, t, w, L, Q)
        old, rho = rho, _product(w, R, Q, n)
        ratio = rho / select(old > 0.0, old, 1.0)
        if step == 0:
            ratio = double4(0.0)
        for k in range(n):
            at = LANES * k
            store(w, P + at, load(w, Q + at) + ratio * load(w, P + at))
        _multiply(T, t, w, U, M, P, Q, added)
        curvature = _product(w, P, Q, n)
        # copies that are done have neither
        size = rho / select(curvature > 0.0, curvature, 1.0)
        size = select(curvature > 0.0, size, 0.0)
        for k in range(n):
            at = LANES * k
            store(w, Y + at, load(w, Y + at) + size * load(w, P + at))
            rest = load(w, R + at) - size * load(w, Q + at)
            store(w, R + at, rest)
            store(w, Q + at, rest)
        if not some(_largest(w, R, n) > limit):
            break


@inner
def solve(T, t, w, places, residual):
    """The solution, in place of the right side."""
    if T.first[t, INCOMPLETE]:
        _iterate(T, t, w, places, residual)
    else:
        substitute(T, t, w, places[1], places[2])


@inner
def add_move(T, t, w, X, M, going):
    """Takes the move of copies that are going, bounded."""
    n = T.first[t, N_ATOMS]
    farthest = double4(LARGEST_MOVE * LARGEST_MOVE)
    for k in range(n):
        at = M + 3 * LANES * k
        m0, m1, m2 = load(w, at), load(w, at + LANES), load(w, at + 2 * LANES)
        square = m0 * m0 + m1 * m1 + m2 * m2
        farthest = select(square > farthest, square, farthest)
    scale = LARGEST_MOVE / root(farthest)
    for k in range(3 * n):
        moved = load(w, X + LANES * k) - scale * load(w, M + LANES * k)
        store(w, X + LANES * k, select(going, moved, load(w, X + LANES * k)))


@inner
def approach(
    T, t, w, places, going, iterations, tolerance, active, released, held, bonds_alone, cell
):  # fmt: skip
    """Moves copies until they have settled; each stops when it has, alone.

    Args:
        places: ``layout`` of the group.
        going: the copies to be moved.
        iterations: at most.
        tolerance: largest deviation of those that have settled, nm.
        active: as for ``deviations``, with ``released``.
        held: whether directions and factor are to be kept, instead of those of where copies are.
        bonds_alone: the beads only resist; where they are given does not matter.
        cell: as for ``images.shortest``.

    Returns:
        The copies that have not settled.
    """
    U, L, Y, X, M, _S, G, _ = places
    damping, last = double4(1.0), double4(np.inf)
    for _ in range(iterations):
        bond, bead = deviations(T, t, w, X, G, Y, active, released, bonds_alone, cell)
        # what is not a number stays one
        worst = select(bond > bead, bond, select(bead > bond, bead, bond + 0.0 * bead))
        stalled = worst > PROGRESS * last
        damping, last = select(stalled, 2.0 * damping, damping), worst
        settled = both(bond <= tolerance, either(bead <= tolerance, stalled))
        going = without(going, settled)
        if not some(going):
            return going
        if not held:
            low = 1.0 if bonds_alone else 0.0
            part = worst * (1.0 / REACH)
            part = select(part > 1.0, 1.0, select(part < low, low, part))
            set_units(T, t, w, X, w, U, cell)
            fill(T, t, w, U, L, damping * part, active, released)
            factorise(T, t, w, L)
        solve(T, t, w, places, RESIDUAL)
        set_move(T, t, w, U, Y, M)
        add_move(T, t, w, X, M, going)
    return going


@inner
def copy_back(T, t, w, source, target, which):
    """Copies positions of some of the copies."""
    for k in range(3 * T.first[t, N_ATOMS]):
        old, new = load(w, target + LANES * k), load(w, source + LANES * k)
        store(w, target + LANES * k, select(which, new, old))


@inner
def project(T, t, w, places, copies, tolerance, active, released, cell, small):
    """Brings copies onto their bonds and, as near as these allow, onto their beads.

    Args:
        small: whether ``start_from`` has been called where copies have come from by small moves:
            they are then moved along the directions there (SHAKE), and those for which that is
            not enough start again without.
    """
    _U, _L, _Y, X, _M, S, _G, _ = places
    going = copies
    if small:
        copy_back(T, t, w, X, S, copies)
    # one call for all, whose arguments are no constants: each would be compiled for anew
    for stage in range(0 if small else 1, 3):
        held, alone = stage == 0, stage == 2
        iterations = HELD_ITERATIONS if held else (BOND_ITERATIONS if alone else ITERATIONS)
        going = approach(
            T, t, w, places, going, iterations, tolerance, active, released, held, alone, cell
        )
        if alone or not some(going):
            break
        if held:
            copy_back(T, t, w, S, X, going)


@inner
def start_from(T, t, x, base, w, places, tolerance, active, released, cell):
    """Directions and factor where positions are on the constraints.

    From where beads are out of reach there is no small move onto them: those copies keep their
    beads where they have them.
    """
    U, L, _Y, _X, _M, _S, G, _ = places
    set_units(T, t, x, base, w, U, cell)
    count, first = T.first[t, N_HELD], T.first[t, HELD]
    worst = double4(0.0)
    for k in range(count):
        b = T.integers[first + k]
        found = bead_off(T, t, b, x, base, w, G + 3 * k * LANES, cell)
        held = load(active, released + LANES * b)
        for c in range(3):
            at = found[0] if c == 0 else (found[1] if c == 1 else found[2])
            size = magnitude(at * held)
            worst = select(size <= worst, worst, size)
    strained = worst > tolerance
    if some(strained):
        for k in range(count):
            found = bead_at(T, t, T.integers[first + k], x, base, cell)
            for c in range(3):
                at = found[0] if c == 0 else (found[1] if c == 1 else found[2])
                old = load(w, G + (3 * k + c) * LANES)
                store(w, G + (3 * k + c) * LANES, select(strained, at, old))
    fill(T, t, w, U, L, double4(0.0), active, released)
    factorise(T, t, w, L)


@inner
def tangent(T, t, x, v, base, w, places, active, released):
    """Takes out of velocities what would change a length or move a held bead.

    Directions and factor must be those of ``start_from`` at ``x``.
    """
    U, _L, Y, _X, M, _S, _G, _ = places
    set_changes(T, t, v, base, w, U, Y)
    first, beads = T.first[t, PLACES] + T.first[t, N_BONDS], T.first[t, HELD]
    for k in range(3 * T.first[t, N_HELD]):
        at = Y + LANES * T.integers[first + k]
        counts = load(active, released + LANES * T.integers[beads + k // 3])
        store(w, at, load(w, at) * counts)
    solve(T, t, w, places, SHARP)
    set_move(T, t, w, U, Y, M)
    for k in range(3 * T.first[t, N_ATOMS]):
        at = base + LANES * k
        store(v, at, load(v, at) - load(w, M + LANES * k))

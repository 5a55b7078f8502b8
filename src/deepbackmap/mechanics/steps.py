"""Steps of constrained Langevin dynamics, compiled: molecules of a group at once, groups in turn.

Kick, half a drift, friction and noise, half a drift, projection: the order whose positions are
nearest to the right distribution at a given step (Zhang et al., J. Phys. Chem. A 123, 6056, 2019;
as OpenMM's ``LangevinMiddleIntegrator``). Pairs that are far may push every few steps (Tuckerman
et al., J. Chem. Phys. 97, 1990, 1992).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import get_thread_id, prange

from deepbackmap.mechanics.bonded import add_terms
from deepbackmap.mechanics.columns import (
    INVERSES,
    MASSES,
    N_ATOMS,
    N_BEADS,
    N_PLACES,
    N_TERMS,
    TERM_WIDTH,
    TERMS,
)
from deepbackmap.mechanics.images import bead_off
from deepbackmap.mechanics.lanes import (
    LANES,
    compiled,
    double4,
    inner,
    load,
    part,
    root,
    select,
    some,
    store,
    threaded,
    threaded_part,
)
from deepbackmap.mechanics.noise import hashed, piece
from deepbackmap.mechanics.pairs import pair_forces
from deepbackmap.mechanics.solver import (
    add_to_bead,
    deviations,
    layout,
    project,
    set_goal,
    start_from,
    tangent,
)


class State(NamedTuple):
    """What changes, in the order of the groups."""

    x: Any
    """nm, molecules whole."""
    v: Any
    """nm/ps."""
    f: Any
    """kJ/mol/nm; zero between steps."""
    names: Any
    """Keys of the random numbers of each atom: (places / 3)."""
    beads: Any
    """Where beads are given, nm."""
    active: Any
    """1 for each bead that is held exactly, 0 for others: (places / 3)."""
    softness: Any
    """One over the squared width of each bead that is held softly, else 0, nm^-2."""
    offsets: Any
    """What to take off to have atoms in the cell, nm."""
    listed: Any
    """Positions when pairs were listed, nm."""
    extra: Any
    """Forces of terms without a kernel, kJ/mol/nm; empty if there are none."""
    cell: Any
    """Lattice vectors as rows, nine numbers, nm."""
    across: Any
    """1 for each type of which a molecule is bonded to its own image, else 0."""
    room: Any
    """Working memory of each thread, for the largest group: to ask for it anew in each step costs a
    large molecule as much as its constraints."""


class Lists(NamedTuple):
    """Clusters and lists of pairs, as for ``pairs.pair_forces``."""

    atoms: Any
    places: Any
    points: Any
    types: Any
    shifts: Any
    plain: Any
    masked: Any
    masks: Any
    starts: Any
    counts: Any
    slots: Any
    """Place in the clusters of each atom of the state, stand-ins -1: (places / 3)."""


class Field(NamedTuple):
    """Parameters of pairs, as for ``pairs.pair_forces``."""

    table: Any
    bits: Any
    n_types: int
    cutoff: float
    field: float
    scale: float
    """Of charges."""
    charged: bool
    far_every: int


@inner
def bead_forces(T, t, x, f, goals, softness, base, beads, warmth, cell):
    """Adds the forces of beads that are held softly."""
    for b in range(T.first[t, N_BEADS]):
        soft = load(softness, beads // 3 + LANES * b) * warmth
        if not some(soft > 0.0):
            continue
        off = bead_off(T, t, b, x, base, goals, beads + 3 * LANES * b, cell)
        soft = soft * -1.0
        add_to_bead(T, t, b, f, base, off[0] * soft, off[1] * soft, off[2] * soft, False)


@inner
def bonded_forces(T, t, x, f, base, energies, at, want, cell):
    """Adds the forces of all bonded terms, and their energies if wanted."""
    for k in range(T.first[t, N_TERMS]):
        r = T.first[t, TERMS] + TERM_WIDTH * k
        if T.integers[r + 6] and not want:
            continue
        add_terms(
            T.integers[r + 7], T.integers[r], x, f, base, T.integers, T.integers[r + 1],
            T.integers[r + 2], T.reals, T.integers[r + 3], T.integers[r + 4],
            energies, at + LANES * T.integers[r + 5], want, cell,
        )  # fmt: skip


@inner
def _draw(names, table, at, step, copies, random):
    """Three normal numbers for each copy of an atom; stand-ins have those of the last."""
    for k in range(copies):
        bits = hashed(names[at // 3 + k], step)
        for c in range(3):
            random[c * LANES + k] = table[piece(bits, c)]
    for k in range(copies, LANES):
        for c in range(3):
            random[c * LANES + k] = random[c * LANES + copies - 1]


@inner
def _stand_in(T, t, f, base, copies):
    """Gives stand-ins the forces of the last copy, so that they stay where it is."""
    for k in range(3 * T.first[t, N_ATOMS]):
        i = base + LANES * k
        for c in range(copies, LANES):
            f[i + c] = f[i + copies - 1]


@inner
def _kick_and_drift(
    T, t, S, base, copies, w, random, X, keep, table, step, warmth, timestep, largest
):  # fmt: skip
    """Force, half a drift, friction and noise, half a drift; forces are used up."""
    spread = np.sqrt((1.0 - keep * keep) * warmth)
    most = double4(largest * largest)
    for a in range(T.first[t, N_ATOMS]):
        inverse = T.reals[T.first[t, INVERSES] + a]
        at = base + 3 * LANES * a
        scale = timestep * inverse
        k0, k1 = load(S.f, at) * scale, load(S.f, at + LANES) * scale
        k2 = load(S.f, at + 2 * LANES) * scale
        square = (k0 * k0 + k1 * k1 + k2 * k2) * (timestep * timestep)
        part = select(square > most, root(most / select(square > most, square, 1.0)), 1.0)
        if spread > 0.0:
            _draw(S.names, table, at, step, copies, random)
        size = spread * np.sqrt(inverse)
        for c in range(3):
            i = at + c * LANES
            kick = k0 if c == 0 else (k1 if c == 1 else k2)
            v = load(S.v, i) + part * kick
            aim = load(S.x, i) + (0.5 * timestep) * v
            v = keep * v + size * load(random, c * LANES)
            store(S.v, i, v)
            store(w, X + i - base, aim + (0.5 * timestep) * v)
            store(S.f, i, double4(0.0))


@inner
def _finish(T, t, S, base, w, X, S0, per_step, slots, points, constrained, out):
    """Takes on the projected positions; returns the largest move since pairs were listed."""
    farthest, kinetic = double4(0.0), double4(0.0)
    for a in range(T.first[t, N_ATOMS]):
        at = base + 3 * LANES * a
        square, speed = double4(0.0), double4(0.0)
        for c in range(3):
            i = at + c * LANES
            new, v = load(w, X + i - base), load(S.v, i)
            if constrained:
                v = v + (new - load(w, S0 + i - base)) * per_step
                store(S.v, i, v)
            store(S.x, i, new)
            d = new - load(S.listed, i)
            square, speed = square + d * d, speed + v * v
            for k in range(LANES):
                slot = slots[at // 3 + k]
                if slot >= 0:
                    points[4 * slot + c] = S.x[i + k] - S.offsets[i + k]
        # what is not a number counts as far
        farthest = select(square <= farthest, farthest, square)
        kinetic = kinetic + 0.5 * T.reals[T.first[t, MASSES] + a] * speed
    store(out, 0, farthest)
    store(out, LANES, kinetic)


@part
def _molecule_step(
    g,
    T,
    G,
    S,
    slots,
    points,
    table,
    keep,
    step,
    warmth,
    timestep,
    largest,
    tolerance,
    moved,
    kinetic,
):
    """One group of ``molecule_steps``."""
    t, base, beads = G.types[g], G.bases[g], G.beads[g]
    places = layout(T, t)
    _U, _L, _Y, X, _M, S0, goal, _ = places
    cell = S.cell[: 9 * S.across[t]]
    w = S.room[get_thread_id()]
    out = np.zeros(2 * LANES)
    nowhere, want = np.int64(0), len(out) == 0  # not constants, which would be compiled for anew
    if G.copies[g] < LANES:
        _stand_in(T, t, S.f, base, G.copies[g])
    bonded_forces(T, t, S.x, S.f, base, out, nowhere, want, cell)
    bead_forces(T, t, S.x, S.f, S.beads, S.softness, base, beads, warmth, cell)
    if len(S.extra):
        for k in range(3 * T.first[t, N_ATOMS]):
            i = base + LANES * k
            store(S.f, i, load(S.f, i) + load(S.extra, i))
    _kick_and_drift(
        T, t, S, base, G.copies[g], w, np.zeros(3 * LANES), X, keep, table, step, warmth, timestep,
        largest,
    )  # fmt: skip
    constrained = T.first[t, N_PLACES] > 0
    if constrained:
        set_goal(T, t, S.beads, beads, w, goal)
        start_from(T, t, S.x, base, w, places, tolerance, S.active, beads // 3, cell)
        everyone = double4(0.0) < 1.0
        project(T, t, w, places, everyone, tolerance, S.active, beads // 3, cell, constrained)
    _finish(T, t, S, base, w, X, S0, 1.0 / timestep, slots, points, constrained, out)
    worst, energy = 0.0, 0.0
    for k in range(G.copies[g]):
        if not out[k] <= worst:
            worst = out[k] if out[k] >= 0.0 else np.inf
        energy += out[LANES + k]
    moved[g], kinetic[g] = worst, energy


@threaded_part
def molecule_steps(
    T, G, S, slots, points, table, keep, step, warmth, timestep, largest, tolerance, moved, kinetic
):  # fmt: skip
    """One step of all molecules, whose forces by pairs are in ``S.f``.

    Args:
        T: tables of the molecule types.
        G: groups.
        S: state.
        slots: as ``Lists.slots``.
        points: as ``Lists.points``.
        table: quantiles of the noise.
        keep: part of the velocity that friction leaves.
        step: its number, for the noise.
        warmth: kT, kJ/mol.
        timestep: ps.
        largest: farthest that a force may move an atom, nm.
        tolerance: of the constraints, nm.
        moved: to be filled in, one a group: largest squared move since pairs were listed.
        kinetic: to be filled in, one a group: kinetic energy after the step.
    """
    for g in prange(len(G.types)):
        _molecule_step(
            np.int64(g),
            T,
            G,
            S,
            slots,
            points,
            table,
            keep,
            step,
            warmth,
            timestep,
            largest,
            tolerance,
            moved,
            kinetic,
        )


@compiled
def forces_of_pairs(P, F, S, far, factor):
    """Adds the forces of one part of the lists."""
    pair_forces(
        P.places, P.points, P.types, P.shifts, P.plain, P.masked, P.masks, P.starts, P.counts,
        F.bits, F.table, F.n_types, F.cutoff, F.field, F.scale, F.charged, far, factor, S.f, LANES,
    )  # fmt: skip


@compiled
def advance(
    T, G, S, P, F, table, keep, start, stop, last, first, warmth, timestep, largest, tolerances,
    slack, moved, kinetic,
):  # fmt: skip
    """Steps until some end is reached or pairs have to be listed anew.

    Args:
        start: number of the step before the first.
        stop: number of the last step.
        last: number of the step that is projected sharply.
        first: added to the number of a step where it names the noise.
        warmth: kT of each step, kJ/mol.
        tolerances: of the constraints, on the way and in the last step, nm.
        slack: pairs are listed anew when an atom has moved farther than that, nm.
        kinetic: to be filled in, one a step: kinetic energy of the velocities before it.

    Returns:
        Number of the last step taken.
    """
    parts = np.zeros(len(G.types))
    step = start
    while step < stop:
        # one call for both parts: each constant argument would be compiled for anew
        for far in range(2 if F.far_every > 1 and step % F.far_every == 0 else 1):
            forces_of_pairs(P, F, S, far > 0, float(F.far_every) if far > 0 else 1.0)
        step += 1
        tolerance = tolerances[1] if step == last else tolerances[0]
        molecule_steps(
            T, G, S, P.slots, P.points, table, keep, first + step, warmth[step], timestep, largest,
            tolerance, moved, parts,
        )  # fmt: skip
        energy, worst = 0.0, 0.0
        for g in range(len(parts)):
            energy += parts[g]
            worst = max(worst, moved[g])
        kinetic[step] = energy
        if worst > slack * slack:
            break
    return step


@part
def _project_group(g, T, G, S, tolerance, at, bonds_off, beads_off):
    """One group of ``project_all``."""
    t, base, beads = G.types[g], G.bases[g], G.beads[g]
    places = layout(T, t)
    _U, _L, Y, X, _M, _S0, goal, size = places
    cell = S.cell[: 9 * S.across[t]]
    w = np.empty(size)
    n = 3 * LANES * T.first[t, N_ATOMS]
    for k in range(n):
        w[X + k] = S.x[base + k]
    set_goal(T, t, S.beads, beads, w, goal)
    everyone = double4(0.0) < 1.0
    small = len(at) > 0
    if small:
        start_from(T, t, at, base, w, places, tolerance, S.active, beads // 3, cell)
    project(T, t, w, places, everyone, tolerance, S.active, beads // 3, cell, small)
    if small:  # it may have changed what strained copies are to reach
        set_goal(T, t, S.beads, beads, w, goal)
    bond, bead = deviations(T, t, w, X, goal, Y, S.active, beads // 3, False, cell)
    store(bonds_off, g * LANES, bond)
    store(beads_off, g * LANES, bead)
    for k in range(n):
        S.x[base + k] = w[X + k]


@threaded
def project_all(T, G, S, tolerance, at, bonds_off, beads_off):
    """Brings all molecules onto their constraints, from wherever they are.

    Args:
        tolerance: nm.
        at: positions on the constraints, along whose directions molecules are moved if that is
            enough; empty if there are none.
        bonds_off: to be filled in: largest deviation of a bond of each molecule, nm, (g * LANES).
        beads_off: the same of a coordinate of a held bead.
    """
    for g in prange(len(G.types)):
        _project_group(np.int64(g), T, G, S, tolerance, at, bonds_off, beads_off)


@part
def _tangent_group(g, T, G, S, tolerance):
    """One group of ``tangent_all``."""
    t, base, beads = G.types[g], G.bases[g], G.beads[g]
    if T.first[t, N_PLACES] == 0:
        return
    places = layout(T, t)
    cell = S.cell[: 9 * S.across[t]]
    w = np.empty(places[7])
    set_goal(T, t, S.beads, beads, w, places[6])
    start_from(T, t, S.x, base, w, places, tolerance, S.active, beads // 3, cell)
    tangent(T, t, S.x, S.v, base, w, places, S.active, beads // 3)


@compiled
def tangent_all(T, G, S, tolerance):
    """Takes out of all velocities what would change a length or move a held bead."""
    for g in range(len(G.types)):
        _tangent_group(g, T, G, S, tolerance)


@part
def _thermal_group(g, T, G, S, table, step, warmth):
    """One group of ``thermal_velocities``."""
    t, base = G.types[g], G.bases[g]
    random = np.zeros(3 * LANES)
    for a in range(T.first[t, N_ATOMS]):
        at = base + 3 * LANES * a
        _draw(S.names, table, at, step, G.copies[g], random)
        size = np.sqrt(warmth * T.reals[T.first[t, INVERSES] + a])
        for c in range(3):
            store(S.v, at + c * LANES, size * load(random, c * LANES))


@compiled
def thermal_velocities(T, G, S, table, step, warmth):
    """Draws velocities of all atoms."""
    for g in range(len(G.types)):
        _thermal_group(g, T, G, S, table, step, warmth)


@part
def _bonded_group(g, T, G, S, warmth, energies, count, want):
    """One group of ``bonded_all``."""
    t, base, beads = G.types[g], G.bases[g], G.beads[g]
    at, cell = g * count * LANES, S.cell[: 9 * S.across[t]]
    bonded_forces(T, t, S.x, S.f, base, energies, at, want, cell)
    bead_forces(T, t, S.x, S.f, S.beads, S.softness, base, beads, warmth, cell)
    for b in range(T.first[t, N_BEADS]):
        off = bead_off(T, t, b, S.x, base, S.beads, beads + 3 * LANES * b, cell)
        square = off[0] * off[0] + off[1] * off[1] + off[2] * off[2]
        soft = load(S.softness, beads // 3 + LANES * b) * (0.5 * warmth)
        i = at + LANES * (count - 1)
        store(energies, i, load(energies, i) + soft * square)


@threaded
def bonded_all(T, G, S, warmth, energies, count, want):
    """Adds forces of bonded terms and soft beads to ``S.f``; energies by term of each molecule.

    Args:
        energies: to be added to: (g * count * LANES).
        count: of kinds of energy; the last is that of soft beads.
        want: energies, those of rigid bonds as well; else only forces.
    """
    for g in prange(len(G.types)):
        _bonded_group(np.int64(g), T, G, S, warmth, energies, count, want)

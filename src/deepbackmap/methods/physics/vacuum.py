"""Dynamics of one molecule alone: conformations from nothing but its topology.

Many copies run side by side, each from a start of its own: atoms are set out along the bonds in
random directions and pulled into shape by the bonded terms, with hands as asked for and what is
behind double bonds turned to the side asked for. Then Langevin dynamics with all bonds at their
lengths. Torsions whose barriers are low enough to be crossed in
nature but not in picoseconds are lowered while the copies run; each conformation that is kept has
the logarithm of the weight that puts this right, -(U - U_lowered) / RT.

Every copy draws its random numbers from a stream that its number and the seed name, so that the
result does not depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from jaxtyping import Float64

from deepbackmap.methods.physics import kernels
from deepbackmap.methods.physics.compiled import threaded
from deepbackmap.methods.physics.tables import VacuumTables
from deepbackmap.quantities import BOLTZMANN

SHAKE_TOLERANCE = 1e-5
"""nm."""
SHAKE_SWEEPS = 500
"""At most, a step."""
LARGEST_MOVE = 0.003
"""nm: no force moves an atom farther in one step."""
SPRING = 5e4
"""kJ mol-1 nm-2: bonds, while a start is pulled into shape."""
HAND = 3e6
"""kJ mol-1 nm-6: pulls the volume that four branches span to that of the wanted hand."""
TETRAHEDRON = 0.005
"""nm^3: volume (six times that of the tetrahedron) that the branches of a centre span at least."""
DESCENT_STEPS = 3000
"""With which a start is pulled into shape, the last half with pairs."""
DESCENT_RATE = 2e-6
"""nm^2 mol/kJ: how far a force moves an atom."""
DESCENT_MOVE = 0.01
"""nm: at most, in a step of that."""
BAD = 3.0
"""Copies whose energy is above the median by so many times the thermal energy of all of their
atoms have not come into shape (a ring in a knot) and are left out."""


@dataclass(frozen=True)
class VacuumOptions:
    """How long and how hot."""

    temperature: float
    """K."""
    copies: int = 64
    settle: int = 3000
    """Steps before the first conformation is kept."""
    steps: int = 9000
    """Steps after that."""
    every: int = 20
    """Steps between conformations that are kept."""
    timestep: float = 0.002
    """ps."""
    friction: float = 5.0
    """1/ps."""
    seed: int = 0


@dataclass(frozen=True)
class Conformations:
    """What a molecule looks like alone."""

    positions: Float64[np.ndarray, "f n 3"]
    """nm."""
    log_weights: Float64[np.ndarray, "f"]
    """By which each counts at the temperature; the largest is 0."""


def conformations(tables: VacuumTables, options: VacuumOptions) -> Conformations:
    """Runs copies of a molecule.

    Args:
        tables: of the molecule.
        options: how long and how hot.

    Returns:
        Conformations with their bonds at their lengths, and the hands and sides asked for.

    Raises:
        ValueError: no copy came into shape.
    """
    t = tables
    frames = max(1, options.steps // options.every)
    kept = np.zeros((options.copies, frames, len(t.masses), 3))
    energies = np.zeros((options.copies, frames))
    lacking = np.zeros((options.copies, frames))
    good = np.zeros(options.copies, dtype=np.bool_)
    thermal = BOLTZMANN * options.temperature
    _run(
        starts(t, options), t.masses, t.bonds, t.lengths,
        t.angles, t.angle_which, t.angle_curves,
        t.torsions, t.torsion_which, t.torsion_left, t.torsion_curves, t.pairs, t.pair_parameters,
        t.centres, TETRAHEDRON * t.signs, t.doubles, t.cis, t.behind,
        np.uint64(options.seed), thermal, options.timestep,
        math.exp(-options.friction * options.timestep), options.settle, options.every,
        kept, energies, lacking, good,
    )  # fmt: skip
    good &= np.isfinite(energies).all(axis=1) & np.isfinite(kept).all(axis=(1, 2, 3))
    if not good.any():
        raise ValueError("copies: expected at least one to come into shape, found none")
    mean = energies[good].mean(axis=1)
    good[good] = mean <= np.median(mean) + BAD * thermal * math.sqrt(3.0 * len(t.masses))
    log_weights = -lacking[good].ravel() / thermal
    return Conformations(
        kept[good].reshape(-1, len(t.masses), 3), log_weights - log_weights.max(initial=-np.inf)
    )


def starts(tables: VacuumTables, options: VacuumOptions) -> Float64[np.ndarray, "c n 3"]:
    """Every atom a bond's length from the one it is reached from, in a random direction."""
    n = len(tables.masses)
    rng = np.random.default_rng([options.seed, 77])
    x = np.zeros((options.copies, n, 3))
    neighbours: list[list[tuple[int, float]]] = [[] for _ in range(n)]
    for (i, j), length in zip(tables.bonds.tolist(), tables.lengths.tolist(), strict=True):
        neighbours[i].append((j, length))
        neighbours[j].append((i, length))
    seen = np.zeros(n, dtype=bool)
    for root in range(n):
        if seen[root]:
            continue
        seen[root] = True
        x[:, root] = 0.3 * rng.standard_normal((options.copies, 3))
        queue, came = [root], np.full(n, -1)
        while queue:
            atom = queue.pop(0)
            for other, length in neighbours[atom]:
                if not seen[other]:
                    seen[other], came[other] = True, atom
                    step = rng.standard_normal((options.copies, 3))
                    if came[atom] >= 0:  # away from where it came from
                        back = x[:, atom] - x[:, came[atom]]
                        step += (
                            1.5
                            * back
                            / np.maximum(np.linalg.norm(back, axis=1, keepdims=True), 1e-9)
                        )
                    step /= np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
                    x[:, other] = x[:, atom] + length * step
                    queue.append(other)
    return x


@threaded
def _run(
    x0: Any, masses: Any, bonds: Any, lengths: Any, angles: Any, bent: Any, bends: Any,
    torsions: Any, turned: Any, left: Any, turns: Any, pairs: Any, lp: Any, centres: Any,
    wanted: Any, doubles: Any, cis: Any, behind: Any, seed: Any, thermal: float, dt: float,
    keep: float, settle: int, every: int, kept: Any, energies: Any, lacking: Any, good: Any,
) -> None:  # fmt: skip
    copies, n = x0.shape[0], x0.shape[1]
    frames = kept.shape[1]
    fresh = math.sqrt(1.0 - keep * keep)
    for copy in numba.prange(copies):
        x = x0[copy].copy()
        f = np.zeros((n, 3))
        for step in range(DESCENT_STEPS):
            if step * 3 == DESCENT_STEPS:
                kernels.set_sides(x, doubles, cis, behind)
            f[:, :] = 0.0
            kernels.add_bonds(x, bonds, lengths, SPRING, f)
            kernels.add_angles(x, angles, bent, bends, f)
            kernels.add_hands(x, centres, wanted, HAND, f)
            if step * 3 > DESCENT_STEPS:
                kernels.add_torsions(x, torsions, turned, left, turns, f)
            if step * 2 > DESCENT_STEPS:
                kernels.add_pairs(x, pairs, lp, f)
            for a in range(n):
                size = DESCENT_RATE * math.sqrt(f[a, 0] ** 2 + f[a, 1] ** 2 + f[a, 2] ** 2)
                rate = DESCENT_RATE * min(1.0, DESCENT_MOVE / max(size, 1e-12))
                for d in range(3):
                    x[a, d] += rate * f[a, d]
        good[copy] = kernels.shake(
            x, x.copy(), bonds, lengths, masses, SHAKE_TOLERANCE, 20 * SHAKE_SWEEPS
        )
        if not good[copy]:
            continue
        state = np.zeros(1, dtype=np.uint64)
        state[0] = seed * np.uint64(0xD1342543DE82EF95) + np.uint64(copy + 1) * np.uint64(
            0xBF58476D1CE4E5B9
        )
        v, at = np.zeros((n, 3)), np.zeros((n, 3))
        for step in range(1, settle + every * frames + 1):
            f[:, :] = 0.0
            e = kernels.add_angles(x, angles, bent, bends, f)
            e4, lack = kernels.add_torsions(x, torsions, turned, left, turns, f)
            e += e4 + kernels.add_pairs(x, pairs, lp, f)
            e += kernels.add_hands(x, centres, wanted, HAND, f)
            if step > settle and (step - settle) % every == 1:
                row = (step - settle) // every
                kept[copy, row] = x
                energies[copy, row], lacking[copy, row] = e, lack
            for a in range(n):
                size = dt * dt / masses[a] * math.sqrt(f[a, 0] ** 2 + f[a, 1] ** 2 + f[a, 2] ** 2)
                kick = dt / masses[a] * min(1.0, LARGEST_MOVE / max(size, 1e-12))
                # uniform numbers of the right variance do (Duenweg, Paul, IJMPC 2, 817, 1991)
                noise = fresh * math.sqrt(12.0 * thermal / masses[a])
                for d in range(3):
                    at[a, d] = x[a, d]
                    v[a, d] += kick * f[a, d]
                    x[a, d] += 0.5 * dt * v[a, d]
                    v[a, d] = keep * v[a, d] + noise * kernels.next_state(state)
                    x[a, d] += 0.5 * dt * v[a, d]
                    f[a, d] = x[a, d]
            if not kernels.shake(x, at, bonds, lengths, masses, SHAKE_TOLERANCE, SHAKE_SWEEPS):
                good[copy] = False
                break
            for a in range(n):
                for d in range(3):
                    v[a, d] += (x[a, d] - f[a, d]) / dt

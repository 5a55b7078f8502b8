"""Compiled loops over the terms of one molecule: energies, forces, bonds at their lengths."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepbackmap.methods.physics.compiled import compiled

SOFT2 = 0.7**2
"""Below this part of sigma (squared) the repulsion grows no further."""
CHARGE_CUTOFF2 = 1.0
"""nm^2: charges beyond do not feel each other."""
CLOSEST2 = 0.05**2
"""nm^2: pairs without a sigma push no harder below that."""
COINCIDENT = 1e-12
ANGLES = (0.01, math.pi - 0.01)
"""rad: between these curves of angles have their points; where atoms lie on a line, slopes of
energies have no meaning."""


@compiled
def next_state(state: np.ndarray) -> Any:
    """SplitMix64: a number in (-0.5, 0.5) from a stream of one 64-bit state."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float(z >> np.uint64(11)) * (1.0 / 9007199254740992.0) - 0.5


@compiled
def add_bonds(x: Any, bonds: Any, lengths: Any, spring: float, f: Any) -> float:
    """Harmonic bonds of one stiffness."""
    energy = 0.0
    for t in range(len(bonds)):
        i, j = bonds[t, 0], bonds[t, 1]
        dx, dy, dz = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
        r = math.sqrt(dx * dx + dy * dy + dz * dz) + COINCIDENT
        off = r - lengths[t]
        energy += 0.5 * spring * off * off
        g = spring * off / r
        f[i, 0] += g * dx
        f[i, 1] += g * dy
        f[i, 2] += g * dz
        f[j, 0] -= g * dx
        f[j, 1] -= g * dy
        f[j, 2] -= g * dz
    return energy


@compiled
def curve(curves: Any, which: int, at: float, start: float, spacing: float) -> tuple[float, float]:
    """Energy and slope of a curve at a place, cubic between its points and beyond its ends."""
    points = curves.shape[1]
    u = (at - start) / spacing
    i = min(max(int(u), 0), points - 2)
    t = u - i
    a, b = curves[which, i, 0], curves[which, i + 1, 0]
    da, db = spacing * curves[which, i, 1], spacing * curves[which, i + 1, 1]
    c, d = 3.0 * (b - a) - 2.0 * da - db, 2.0 * (a - b) + da + db
    return a + t * (da + t * (c + t * d)), (da + t * (2.0 * c + t * 3.0 * d)) / spacing


@compiled
def add_angles(x: Any, atoms: Any, which: Any, curves: Any, f: Any) -> float:
    """Curves of angles, from ``ANGLES[0]`` to ``ANGLES[1]``."""
    energy = 0.0
    spacing = (ANGLES[1] - ANGLES[0]) / (curves.shape[1] - 1)
    for t in range(len(atoms)):
        i, j, k = atoms[t, 0], atoms[t, 1], atoms[t, 2]
        ax, ay, az = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
        bx, by, bz = x[k, 0] - x[j, 0], x[k, 1] - x[j, 1], x[k, 2] - x[j, 2]
        a2 = ax * ax + ay * ay + az * az + COINCIDENT
        b2 = bx * bx + by * by + bz * bz + COINCIDENT
        ab = 1.0 / math.sqrt(a2 * b2)
        c = (ax * bx + ay * by + az * bz) * ab
        c = min(1.0, max(-1.0, c))
        e, slope = curve(curves, which[t], math.acos(c), ANGLES[0], spacing)
        energy += e
        slope /= -max(1e-4, math.sqrt(1.0 - c * c))
        # dc/da = b/(|a||b|) - c a/a^2
        p, q, s = slope * ab, slope * c / a2, slope * c / b2
        fix, fiy, fiz = p * bx - q * ax, p * by - q * ay, p * bz - q * az
        fkx, fky, fkz = p * ax - s * bx, p * ay - s * by, p * az - s * bz
        f[i, 0] -= fix
        f[i, 1] -= fiy
        f[i, 2] -= fiz
        f[k, 0] -= fkx
        f[k, 1] -= fky
        f[k, 2] -= fkz
        f[j, 0] += fix + fkx
        f[j, 1] += fiy + fky
        f[j, 2] += fiz + fkz
    return energy


@compiled
def dihedral(x: Any, i: int, j: int, k: int, m: int, g: Any) -> float:
    """The angle (IUPAC, trans = pi), and its gradients at the four atoms in ``g`` (4, 3).

    Source: Blondel, Karplus, J. Comput. Chem. 17, 1132 (1996).
    """
    fx, fy, fz = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
    gx, gy, gz = x[j, 0] - x[k, 0], x[j, 1] - x[k, 1], x[j, 2] - x[k, 2]
    hx, hy, hz = x[m, 0] - x[k, 0], x[m, 1] - x[k, 1], x[m, 2] - x[k, 2]
    ax, ay, az = fy * gz - fz * gy, fz * gx - fx * gz, fx * gy - fy * gx
    bx, by, bz = hy * gz - hz * gy, hz * gx - hx * gz, hx * gy - hy * gx
    a2 = ax * ax + ay * ay + az * az
    b2 = bx * bx + by * by + bz * bz
    g2 = gx * gx + gy * gy + gz * gz
    if a2 < 1e-14 or b2 < 1e-14 or g2 < 1e-14:
        g[:, :] = 0.0
        return 0.0
    length = math.sqrt(g2)
    cross = (by * az - bz * ay) * gx + (bz * ax - bx * az) * gy + (bx * ay - by * ax) * gz
    phi = math.atan2(cross / length, ax * bx + ay * by + az * bz)
    p, q = -length / a2, length / b2
    s = (fx * gx + fy * gy + fz * gz) / (a2 * length)
    t = (hx * gx + hy * gy + hz * gz) / (b2 * length)
    for d in range(3):
        a = ax if d == 0 else ay if d == 1 else az
        b = bx if d == 0 else by if d == 1 else bz
        g[0, d] = p * a
        g[3, d] = q * b
        g[1, d] = -p * a + s * a - t * b
        g[2, d] = -q * b - s * a + t * b
    return phi


@compiled
def push(f: Any, atoms: Any, t: int, slope: float, g: Any) -> None:
    """Adds -slope times the gradients of term ``t``."""
    for a in range(4):
        n = atoms[t, a]
        f[n, 0] -= slope * g[a, 0]
        f[n, 1] -= slope * g[a, 1]
        f[n, 2] -= slope * g[a, 2]


@compiled
def add_torsions(
    x: Any, atoms: Any, which: Any, left: Any, curves: Any, f: Any
) -> tuple[float, float]:
    """Curves of dihedrals over a whole turn from -pi on, of which a part is left.

    Returns:
        Energy as it pushes, and the energy that lowered torsions lack.
    """
    g = np.zeros((4, 3))
    energy, lacking = 0.0, 0.0
    spacing = 2.0 * math.pi / (curves.shape[1] - 1)
    for t in range(len(atoms)):
        phi = dihedral(x, atoms[t, 0], atoms[t, 1], atoms[t, 2], atoms[t, 3], g)
        e, slope = curve(curves, which[t], phi, -math.pi, spacing)
        energy += left[t] * e
        lacking += (1.0 - left[t]) * e
        push(f, atoms, t, left[t] * slope, g)
    return energy, lacking


@compiled
def set_sides(x: Any, bonds: Any, cis: Any, behind: Any) -> None:
    """Turns all that is behind double bonds until their branches are cis or trans, in place.

    Args:
        x: nm, (n, 3).
        bonds: branch, the two atoms, branch (k, 4).
        cis: where they shall be cis, (k,).
        behind: atoms of the second one's side, (k, n).
    """
    g = np.zeros((4, 3))
    for t in range(len(bonds)):
        j, k = bonds[t, 1], bonds[t, 2]
        turn = (0.0 if cis[t] else math.pi) - dihedral(x, bonds[t, 0], j, k, bonds[t, 3], g)
        c, s = math.cos(turn), math.sin(turn)
        ux, uy, uz = x[k, 0] - x[j, 0], x[k, 1] - x[j, 1], x[k, 2] - x[j, 2]
        r = math.sqrt(ux * ux + uy * uy + uz * uz) + COINCIDENT
        ux, uy, uz = ux / r, uy / r, uz / r
        for a in range(len(x)):
            if behind[t, a]:
                dx, dy, dz = x[a, 0] - x[k, 0], x[a, 1] - x[k, 1], x[a, 2] - x[k, 2]
                along = (1.0 - c) * (ux * dx + uy * dy + uz * dz)
                x[a, 0] = x[k, 0] + c * dx + s * (uy * dz - uz * dy) + along * ux
                x[a, 1] = x[k, 1] + c * dy + s * (uz * dx - ux * dz) + along * uy
                x[a, 2] = x[k, 2] + c * dz + s * (ux * dy - uy * dx) + along * uz


@compiled
def add_pairs(x: Any, pairs: Any, parameters: Any, f: Any) -> float:
    """Lennard-Jones and charges with repulsion that is bounded; far pairs only repel."""
    energy = 0.0
    for t in range(len(pairs)):
        i, j = pairs[t, 0], pairs[t, 1]
        dx, dy, dz = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
        r2 = dx * dx + dy * dy + dz * dz
        c6, c12, charge, reach = (
            parameters[t, 0],
            parameters[t, 1],
            parameters[t, 2],
            parameters[t, 3],
        )
        if r2 > reach:
            continue
        floor = CLOSEST2
        if c6 > 0.0:
            floor = max(floor, SOFT2 * (c12 / c6) ** (1.0 / 3.0))
        s2 = max(r2, floor)
        i2 = 1.0 / s2
        i6 = i2 * i2 * i2
        energy += (c12 * i6 - c6) * i6
        slope = (12.0 * c12 * i6 - 6.0 * c6) * i6 * i2
        if charge != 0.0 and r2 < CHARGE_CUTOFF2:
            i1 = math.sqrt(i2)
            # reaction field of a conductor, zero at the cut-off
            k = 0.5 / CHARGE_CUTOFF2**1.5
            energy += charge * (i1 + k * s2 - 1.5 / math.sqrt(CHARGE_CUTOFF2))
            slope += charge * (i1 * i2 - 2.0 * k)
        if math.isfinite(reach):
            energy += 0.25 * c6 * c6 / c12
        f[i, 0] -= slope * dx
        f[i, 1] -= slope * dy
        f[i, 2] -= slope * dz
        f[j, 0] += slope * dx
        f[j, 1] += slope * dy
        f[j, 2] += slope * dz
    return energy


@compiled
def add_hands(x: Any, centres: Any, wanted: Any, stiffness: float, f: Any) -> float:
    """Pulls centres of the wrong hand through: 1/2 K (V - V0)^2 where V falls short of V0."""
    energy = 0.0
    for t in range(len(centres)):
        a, b, c, d = centres[t, 1], centres[t, 2], centres[t, 3], centres[t, 4]
        ux, uy, uz = x[b, 0] - x[a, 0], x[b, 1] - x[a, 1], x[b, 2] - x[a, 2]
        vx, vy, vz = x[c, 0] - x[a, 0], x[c, 1] - x[a, 1], x[c, 2] - x[a, 2]
        wx, wy, wz = x[d, 0] - x[a, 0], x[d, 1] - x[a, 1], x[d, 2] - x[a, 2]
        px, py, pz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        off = px * wx + py * wy + pz * wz - wanted[t]
        if off * wanted[t] >= 0.0:
            continue
        energy += 0.5 * stiffness * off * off
        s = stiffness * off
        qx, qy, qz = vy * wz - vz * wy, vz * wx - vx * wz, vx * wy - vy * wx
        rx, ry, rz = wy * uz - wz * uy, wz * ux - wx * uz, wx * uy - wy * ux
        for axis in range(3):
            gb = qx if axis == 0 else qy if axis == 1 else qz
            gc = rx if axis == 0 else ry if axis == 1 else rz
            gd = px if axis == 0 else py if axis == 1 else pz
            f[b, axis] -= s * gb
            f[c, axis] -= s * gc
            f[d, axis] -= s * gd
            f[a, axis] += s * (gb + gc + gd)
    return energy


@compiled
def shake(
    x: Any, at: Any, bonds: Any, lengths: Any, masses: Any, tolerance: float, most: int
) -> bool:
    """Moves atoms along the bonds of ``at`` until all have their lengths; in place.

    Source: Ryckaert, Ciccotti, Berendsen, J. Comput. Phys. 23, 327 (1977).
    """
    for _ in range(most):
        done = True
        for t in range(len(bonds)):
            i, j = bonds[t, 0], bonds[t, 1]
            dx, dy, dz = x[j, 0] - x[i, 0], x[j, 1] - x[i, 1], x[j, 2] - x[i, 2]
            length = lengths[t]
            off = dx * dx + dy * dy + dz * dz - length * length
            if abs(off) <= 2.0 * tolerance * length:
                continue
            done = False
            ex, ey, ez = at[j, 0] - at[i, 0], at[j, 1] - at[i, 1], at[j, 2] - at[i, 2]
            along = ex * dx + ey * dy + ez * dz
            if along < 0.2 * length * length:
                ex, ey, ez = dx, dy, dz
                along = dx * ex + dy * ey + dz * ez + COINCIDENT
            g = off / (2.0 * along * (1.0 / masses[i] + 1.0 / masses[j]))
            gi, gj = g / masses[i], g / masses[j]
            x[i, 0] += gi * ex
            x[i, 1] += gi * ey
            x[i, 2] += gi * ez
            x[j, 0] -= gj * ex
            x[j, 1] -= gj * ey
            x[j, 2] -= gj * ez
        if done:
            return True
    return False

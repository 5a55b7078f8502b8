"""Weights of a bead from the vectors to the atoms around it.

A bead is a weighted mean of atoms, so its vectors to them, y, add up to nothing: the weights w are
those for which the mean of ``|sum w y|^2 = w G w`` is smallest, where G holds the means of the
products of the vectors. Rigid groups such as rings leave many such w. What people write is simpler:
connected atoms, some of them at the ends by half, weighted by mass or alike. All such weights are
tried; only where none fits are free ones taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.optimize import nnls

from deepbackmap.errors import InputError

REACH = 0.8
"""nm: atoms farther from a bead than this (rms) have no part in it."""
MOST_HEAVY = 14
"""Heavy atoms near a bead that are tried, the nearest ones."""
MOST_SETS = 20_000
FITS = 0.003
"""nm: rms below which simple weights are taken; files of 0.001 nm leave 0.0005 nm."""
FAILS = 0.02
"""nm: rms above which no weights fit, and the two files do not belong together."""


@dataclass(frozen=True)
class Form:
    """What a bead is made of in one place of a chain; atoms by label, prefix and name."""

    shares: dict[str, float]
    mass_weighted: bool
    rms: float
    """nm, of the bead that these weights give from the file's."""


@dataclass
class Sums:
    """Products of the vectors from the beads of a kind to the atoms around them."""

    labels: tuple[str, ...]
    masses: Float64[np.ndarray, " l"]
    bonds: tuple[tuple[int, int], ...]
    extra: frozenset[str]
    """Labels of atoms that not every monomer has."""
    products: Float64[np.ndarray, "l l"]
    count: int = 0


class _Units(NamedTuple):
    """Heavy atoms near a bead with their hydrogens."""

    heavy: list[int]
    light: dict[int, list[int]]
    bonds: dict[int, set[int]]


def fit(s: Sums, bead: str, source: str) -> Form:
    """The simplest weights that fit, or else the best free ones.

    Args:
        s: the products, summed over all beads and frames.
        bead: what to call the bead, for errors.
        source: the file of the beads, for errors.

    Returns:
        Shares by label and how far the bead that they give is from the file's.

    Raises:
        InputError: there were no frames, or nothing comes within ``FAILS``.
    """
    if not s.count:
        raise InputError(f"{source}: expected frames of atoms and beads, found none")
    s = replace(s, products=s.products / s.count)
    units = _units(s)
    found = _simple(s, units)
    if found is None or found.rms > FITS:
        free = _free(s)
        found = free if found is None or free.rms < found.rms / 3 else found
    if found.rms > FAILS:
        raise InputError(
            f"{source}: expected beads that are means of atoms near them, found {bead} "
            f"{found.rms:.3f} nm (rms) from the best one; are these the same frames, and the "
            f"beads in the order of the molecules?"
        )
    return found


def _units(s: Sums) -> _Units:
    distance = np.sqrt(np.diag(s.products))
    is_heavy = s.masses > 3.0
    if not is_heavy.any():
        is_heavy = np.ones(len(s.masses), dtype=bool)
    heavy = [int(k) for k in np.argsort(distance) if is_heavy[k] and distance[k] < REACH]
    heavy = heavy[:MOST_HEAVY]
    light: dict[int, list[int]] = {k: [] for k in heavy}
    bonds: dict[int, set[int]] = {k: set() for k in heavy}
    for i, j in s.bonds:
        if i in bonds and j in bonds:
            bonds[i].add(j)
            bonds[j].add(i)
        elif i in light and not is_heavy[j]:
            light[i].append(j)
        elif j in light and not is_heavy[i]:
            light[j].append(i)
    return _Units(heavy, light, bonds)


def _connected_sets(units: _Units) -> list[tuple[int, ...]]:
    """Sets of heavy atoms that hang together, small ones first."""
    found: dict[frozenset[int], None] = {frozenset((k,)): None for k in units.heavy}
    layer = list(found)
    while layer and len(found) < MOST_SETS:
        grown: dict[frozenset[int], None] = {}
        for group in layer:
            for other in set().union(*(units.bonds[k] for k in group)) - group:
                grown[group | {other}] = None
        layer = [g for g in grown if g not in found]
        found.update(dict.fromkeys(layer))
    return [tuple(sorted(g)) for g in found]


def _simple(s: Sums, units: _Units) -> Form | None:
    """The best of all weights of the kinds that people write."""
    tried: list[tuple[Float64[np.ndarray, " l"], dict[str, float], bool, tuple[int, int, int]]] = []
    for group in _connected_sets(units):
        ends = [k for k in group if len(units.bonds[k] & set(group)) == 1]
        halves = [c for n in range(min(len(ends), 4) + 1) for c in combinations(ends, n)]
        for half in halves if len(group) > 1 else [()]:
            if len(half) == len(group):
                continue
            tried += _families(s, units, group, half)
    if not tried:
        return None
    w = np.array([t[0] for t in tried])
    rms = np.sqrt(np.maximum(np.einsum("ha,ab,hb->h", w, s.products, w, optimize=True), 0.0))
    # As good as the best within what the rounding of the files decides: then the simplest.
    good = np.flatnonzero(rms <= 1.15 * rms.min() + 2e-5)
    best = min(good, key=lambda k: (tried[k][3], rms[k]))
    return Form(tried[best][1], tried[best][2], float(rms[best]))


def _families(
    s: Sums, units: _Units, group: tuple[int, ...], half: tuple[int, ...]
) -> list[tuple[Float64[np.ndarray, " l"], dict[str, float], bool, tuple[int, int, int]]]:
    """By mass or alike; with all hydrogens, those that every monomer has, or none."""
    found = []
    chosen: list[list[int]] = []
    for hydrogens in ("all", "usual", "none"):
        atoms = list(group)
        for k in group if hydrogens != "none" else ():
            atoms += [h for h in units.light[k] if hydrogens == "all" or s.labels[h] not in s.extra]
        if sorted(atoms) not in chosen:
            chosen.append(sorted(atoms))
    of = {h: k for k, those in units.light.items() for h in those}
    for rank, atoms in enumerate(chosen):
        for by_mass in (True, False):
            w = np.zeros(len(s.labels))
            shares = {}
            for a in atoms:
                share = 0.5 if of.get(a, a) in half else 1.0
                shares[s.labels[a]] = share
                w[a] = share * (s.masses[a] if by_mass else 1.0)
            if w.sum() > 0:
                order = (len(half), rank + (not by_mass), len(group))
                found.append((w / w.sum(), shares, by_mass, order))
    return found


def _free(s: Sums) -> Form:
    """Weights of no kind: the least squares above zero that add to one."""
    distance = np.sqrt(np.diag(s.products))
    near = np.flatnonzero(distance < REACH)
    if not len(near):
        nearest = int(distance.argmin())
        return Form({s.labels[nearest]: 1.0}, False, float(distance[nearest]))
    products = s.products[np.ix_(near, near)]
    values, vectors = np.linalg.eigh(products)
    rows = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    stiff = 1e3  # adds the condition that weights add to one
    w, _ = nnls(np.vstack([rows, np.full(len(near), stiff)]), np.r_[np.zeros(len(near)), stiff])
    w = np.where(w < 0.005, 0.0, w)
    w = w / w.sum()
    rms = float(np.sqrt(max(w @ products @ w, 0.0)))
    halves = _halves(s.masses[near], w)
    if halves is not None:
        by_mass = halves * s.masses[near] / (halves @ s.masses[near])
        simple = float(np.sqrt(max(by_mass @ products @ by_mass, 0.0)))
        if simple <= 1.15 * rms + 2e-5:
            parts = {s.labels[a]: float(c) for a, c in zip(near, halves, strict=True) if c}
            return Form(parts, True, simple)
    return Form({s.labels[a]: round(float(x), 4) for a, x in zip(near, w, strict=True) if x > 0},
                False, rms)  # fmt: skip


def _halves(
    masses: Float64[np.ndarray, " n"], w: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"] | None:
    """Weights for a mass as 0, 1/2 and 1 of the heavy atoms' largest; None without masses."""
    if not (masses > 0).all():
        return None
    ratio = w / masses
    largest = ratio[masses > 3.0].max(initial=0.0)
    return None if largest == 0.0 else np.minimum(np.rint(2 * ratio / largest) / 2, 1.0)

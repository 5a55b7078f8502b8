"""Build a melt of polystyrene: its topology and a dilute start structure.

The force field is the all-atom polystyrene of Mueller-Plathe (Macromolecules 1996, 29,
4782): Lennard-Jones with arithmetic sigma and geometric epsilon, charges on the ring atoms
only, harmonic angles, a threefold backbone torsion and harmonic impropers that keep rings
flat. All numbers are in nm, kJ/mol, u and e, angles in degrees.

Numbering inside a chain is 1-based as in GROMACS. Monomer ``m`` (from 0) has the base
``b = 16 m`` and holds

    b+1 H, b+2 C, b+3 H      the CH2 group
    b+4 H, b+5 C             the CH group
    b+6                      ring carbon that bears the chain (ipso)
    b+7, b+9, ... b+15       ring carbons, in ring order
    b+8, b+10, ... b+16      the hydrogen of the ring carbon before it

and a chain of ``n`` monomers ends with two more hydrogens: 16n+1 on the first CH2 carbon
(which so becomes CH3) and 16n+2 on the last CH carbon (which so becomes CH2).

Chains of any tacticity share this topology: which hand a stereocentre has is in the coordinates
alone, and ``melt.tacticity`` keeps the hands of every chain in a file beside them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from melt.tacticity import Signs, chain_hands, reference_hands, write_hands

Array = NDArray[np.float64]
"""Positions or vectors, nm; the last axis is x, y, z."""

MOLECULE = "PS1"
ATOMS_PER_MONOMER = 16
NREXCL = 2
LENGTHS = {
    ("C", "C"): 0.153,
    ("C", "H"): 0.110,
    ("C_AR", "C_AR"): 0.139,
    ("C_AR", "H_AR"): 0.108,
    ("C", "C_AR"): 0.151,
}
"""Equilibrium bond lengths, nm, by sorted pair of atom types."""
BOND_CONSTANT = 10000.0
"""kJ/mol/nm^2. Only used where the bonds are not constrained."""
ANGLES = {
    ("H", "C", "H"): (109.45, 306.4),
    ("C", "C", "H"): (109.45, 366.9),
    ("C", "C", "C"): (109.45, 482.3),
    ("C_AR", "C", "H"): (109.45, 366.9),
    ("C", "C", "C_AR"): (109.45, 482.3),
    ("C", "C_AR", "C_AR"): (120.0, 376.6),
    ("C_AR", "C_AR", "C_AR"): (120.0, 376.6),
    ("C_AR", "C_AR", "H_AR"): (120.0, 418.8),
}
"""Equilibrium angle, degrees, and constant, kJ/mol/rad^2, by atom types."""
ATOM_TYPES = {
    "C": (12.011, 0.0, 0.3207, 0.3519),
    "C_AR": (12.011, -0.115, 0.3550, 0.2940),
    "H": (1.008, 0.0, 0.2318, 0.3180),
    "H_AR": (1.008, 0.115, 0.2420, 0.1260),
}
"""Mass (u), charge (e), sigma (nm), epsilon (kJ/mol). The ipso carbon's charge is 0."""
TORSION_CONSTANT = 6.0
"""kJ/mol, of k [1 + cos(3 phi)]: trans and both gauche are equally deep."""
IMPROPER_CONSTANT = 167.4
"""kJ/mol/rad^2, of k/2 xi^2."""

PROCHIRAL_SIGN = -1
"""Sign of ``(previous CH x next CH) . H(b+1)`` seen from every CH2 carbon but the first."""
START_SIGN = -1
"""Sign of ``(H1 x H3) . H(16n+1)`` seen from the carbon of the CH3 group."""
END_SIGN = 1
"""Sign of ``(previous CH2 x ipso) . H(b+4)`` seen from the carbon of the last CH2 group."""

BOX_MARGIN = 0.30
"""Least distance between atoms of two chains as placed, nm."""
FIRST_BLOCK = 10
"""Monomers that are drawn at once, and drawn anew until they do not run into each other."""
STEP = 2
"""Monomers by which a longer chain grows from there; each step is tested before the next."""
PATIENCE = 60
"""Failed draws of one step after which the step before it is given up as well."""


@dataclass(frozen=True)
class ChainTopology:
    """The bonded structure of one chain; indices are 0-based.

    Attributes:
        types: atom type of each atom.
        names: atom name of each atom (element and 1-based number).
        charges: charge of each atom, e.
        charge_groups: GROMACS charge group of each atom, 1-based.
        bonds: pairs.
        angles: triples, the centre in the middle.
        propers: quadruples with a threefold torsion.
        impropers: quadruples held flat.
        exclusions: ring pairs more than two bonds apart.
    """

    types: tuple[str, ...]
    names: tuple[str, ...]
    charges: tuple[float, ...]
    charge_groups: tuple[int, ...]
    bonds: tuple[tuple[int, int], ...]
    angles: tuple[tuple[int, int, int], ...]
    propers: tuple[tuple[int, int, int, int], ...]
    impropers: tuple[tuple[int, int, int, int], ...]
    exclusions: tuple[tuple[int, int], ...]

    @property
    def masses(self) -> Array:
        """Mass of each atom, u."""
        return np.array([ATOM_TYPES[t][0] for t in self.types])


def backbone(n_monomers: int) -> list[int]:
    """Indices of the backbone carbons, CH2 and CH in turn."""
    return [ATOMS_PER_MONOMER * m + k for m in range(n_monomers) for k in (1, 4)]


def ring(monomer: int) -> list[int]:
    """Indices of a monomer's six ring carbons, ipso first, in ring order."""
    base = ATOMS_PER_MONOMER * monomer
    return [base + k for k in (5, 6, 8, 10, 12, 14)]


def _bonds(n_monomers: int) -> list[tuple[int, int]]:
    bonds = []
    for m in range(n_monomers):
        b = ATOMS_PER_MONOMER * m
        bonds += [(b, b + 1), (b + 1, b + 2), (b + 1, b + 4), (b + 3, b + 4), (b + 4, b + 5)]
        if m + 1 < n_monomers:
            bonds.append((b + 4, b + 17))
        carbons = ring(m)
        for i, carbon in enumerate(carbons):
            if i > 0:
                bonds.append((carbon, carbon + 1))
            bonds.append((carbon, carbons[(i + 1) % 6]))
    last = ATOMS_PER_MONOMER * n_monomers
    return [*bonds, (1, last), (last - 12, last + 1)]


def _ring_terms(monomer: int) -> Iterator[tuple[int, int, int, int]]:
    carbons = ring(monomer)
    for i in range(6):
        yield tuple(carbons[(i + k) % 6] for k in range(4))  # type: ignore[misc]
    for i, carbon in enumerate(carbons):
        out = carbon - 1 if i == 0 else carbon + 1
        yield carbon, carbons[(i + 1) % 6], carbons[i - 1], out


def _neighbours(bonds: list[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for i, j in bonds:
        found[i].append(j)
        found[j].append(i)
    return found


def chain_topology(n_monomers: int) -> ChainTopology:
    """Write down one chain.

    Args:
        n_monomers: monomers in the chain, at least 2.

    Raises:
        ValueError: for fewer than 2 monomers.
    """
    if n_monomers < 2:
        raise ValueError(f"n_monomers: expected at least 2, got {n_monomers}")
    unit = ["H", "C", "H", "H", "C", "C_AR", *["C_AR", "H_AR"] * 5]
    types = tuple(unit * n_monomers + ["H", "H"])
    n_atoms = len(types)
    ipso = {ring(m)[0] for m in range(n_monomers)}
    groups = []
    for m in range(n_monomers):
        groups += [8 * m + g for g in (1, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8)]
    groups += [8 * n_monomers + 1, 8 * n_monomers + 2]
    bonds = _bonds(n_monomers)
    near = _neighbours(bonds)
    spine = backbone(n_monomers)
    propers = [tuple(spine[i : i + 4]) for i in range(len(spine) - 3)]
    propers += [(0, *spine[:3]), (*spine[-3:], spine[-1] - 1)]
    exclusions = []
    for m in range(n_monomers):
        group = range(ring(m)[0], ring(m)[0] + 11)
        for i, j in combinations(group, 2):
            if j not in near[i] and not set(near[i]) & set(near[j]):
                exclusions.append((i, j))
    return ChainTopology(
        types=types,
        names=tuple(f"{t[0]}{i + 1}" for i, t in enumerate(types)),
        charges=tuple(0.0 if i in ipso else ATOM_TYPES[t][1] for i, t in enumerate(types)),
        charge_groups=tuple(groups),
        bonds=tuple(bonds),
        angles=tuple(
            (i, j, k) for j in range(n_atoms) for i, k in combinations(sorted(near[j]), 2)
        ),
        propers=tuple(propers),  # type: ignore[arg-type]
        impropers=tuple(q for m in range(n_monomers) for q in _ring_terms(m)),
        exclusions=tuple(exclusions),
    )


def _section(title: str, columns: str, rows: list[str]) -> str:
    return "\n".join([f"[ {title} ]", f"; {columns}", *rows, ""])


def _forcefield_text() -> str:
    atoms = [
        f"{name:<6}{mass:9.4f}{charge:9.4f}  A{sigma:9.4f}{epsilon:9.4f}"
        for name, (mass, charge, sigma, epsilon) in ATOM_TYPES.items()
    ]
    bonds = [f"{i:<6}{j:<6}1{r:9.4f}{BOND_CONSTANT:11.1f}" for (i, j), r in LENGTHS.items()]
    angles = [
        f"{i:<6}{j:<6}{k:<6}1{theta:9.2f}{constant:9.2f}"
        for (i, j, k), (theta, constant) in ANGLES.items()
    ]
    return "\n".join(
        [
            "; Polystyrene, all atoms: F. Mueller-Plathe, Macromolecules 1996, 29, 4782.",
            "; Written by tools/melt/build.py.",
            "",
            _section("defaults", "nbfunc comb-rule gen-pairs fudgeLJ fudgeQQ", ["1 2 no 1.0 1.0"]),
            _section("atomtypes", "name mass charge ptype sigma epsilon", atoms),
            _section("bondtypes", "i j func b0 kb", bonds),
            _section("angletypes", "i j k func th0 cth", angles),
        ]
    )


def _molecule_text(chain: ChainTopology, kind: str) -> str:
    def rows(terms: tuple[tuple[int, ...], ...], tail: str) -> list[str]:
        return ["".join(f"{i + 1:6d}" for i in term) + tail for term in terms]

    atoms = [
        f"{i + 1:6d} {t:<5} 1 {MOLECULE} {name:<5}{group:5d}{charge:8.3f}{mass:9.4f}"
        for i, (t, name, group, charge, mass) in enumerate(
            zip(
                chain.types,
                chain.names,
                chain.charge_groups,
                chain.charges,
                chain.masses,
                strict=True,
            )
        )
    ]
    proper = f"  1   0.0 {TORSION_CONSTANT:7.2f} 3"
    improper = f"  2   0.0 {IMPROPER_CONSTANT:7.2f}"
    return "\n".join(
        [
            f"; One chain of {kind} polystyrene. Written by tools/melt/build.py.",
            _section("moleculetype", "name nrexcl", [f"{MOLECULE} {NREXCL}"]),
            _section("atoms", "nr type resnr residue atom cgnr charge mass", atoms),
            _section("bonds", "i j func", rows(chain.bonds, "  1")),
            _section("angles", "i j k func", rows(chain.angles, "  1")),
            _section(
                "dihedrals",
                "i j k l func phase constant (multiplicity)",
                rows(chain.propers, proper) + rows(chain.impropers, improper),
            ),
            _section("exclusions", "ring pairs", rows(chain.exclusions, "")),
        ]
    )


def write_topology(path: Path, n_monomers: int, n_chains: int, kind: str = "syndiotactic") -> None:
    """Write a GROMACS topology: ``path`` and, beside it, ``PS.itp``.

    Args:
        path: the .top file to write.
        n_monomers: monomers in a chain, at least 2.
        n_chains: chains in the system.
        kind: tacticity, for the titles.

    Raises:
        ValueError: for fewer than 2 monomers or less than one chain.
    """
    if n_chains < 1:
        raise ValueError(f"n_chains: expected at least 1, got {n_chains}")
    path = Path(path)
    itp = path.with_name("PS.itp")
    itp.write_text(_molecule_text(chain_topology(n_monomers), kind))
    path.write_text(
        "\n".join(
            [
                _forcefield_text(),
                f'#include "{itp.name}"',
                "",
                _section("system", "name", [f"{kind.capitalize()} polystyrene, {n_monomers}-mers"]),
                _section("molecules", "name number", [f"{MOLECULE} {n_chains}"]),
            ]
        )
    )


def _unit(v: Array) -> Array:
    unit: Array = v / np.linalg.norm(v, axis=-1, keepdims=True)
    return unit


def _next_atom(a: Array, b: Array, c: Array, length: float, angle: float, torsion: float) -> Array:
    """The point bonded to c, at ``angle`` from b and ``torsion`` from a (radians)."""
    bc = _unit(c - b)
    normal = _unit(np.cross(b - a, bc))
    side = np.cross(normal, bc)
    across = np.cos(torsion) * side + np.sin(torsion) * normal
    step: Array = length * (np.sin(angle) * across - np.cos(angle) * bc)
    return c + step


def _two_more(centre: Array, first: Array, second: Array) -> tuple[Array, Array]:
    """Unit vectors of an sp3 atom's other two bonds.

    The first returned one makes ``(first x second) . v`` positive, the second negative.
    """
    u, v = _unit(first - centre), _unit(second - centre)
    out = -_unit(u + v)
    normal = _unit(np.cross(u, v))
    half = np.radians(ANGLES["H", "C", "H"][0] / 2)
    return np.cos(half) * out + np.sin(half) * normal, np.cos(half) * out - np.sin(half) * normal


def _grow_backbone(
    n_carbons: int, p_trans: float, rng: np.random.Generator, start: Array | None = None
) -> Array:
    """Draw a backbone, or draw the rest of one that starts with ``start``."""
    bond = LENGTHS["C", "C"]
    theta = np.radians(ANGLES["C", "C", "C"][0])
    points = [np.zeros(3), np.array([bond, 0.0, 0.0])]
    turn = np.pi - theta
    points.append(points[1] + bond * np.array([np.cos(turn), np.sin(turn), 0.0]))
    if start is not None:
        points = list(start)
    while len(points) < n_carbons:
        state = rng.choice([180.0, 65.0, -65.0], p=[p_trans, (1 - p_trans) / 2, (1 - p_trans) / 2])
        torsion = np.radians(state + rng.normal(0.0, 8.0))
        points.append(_next_atom(points[-3], points[-2], points[-1], bond, theta, torsion))
    return np.array(points)


def _place_ring(centre: Array, direction: Array, angle: float) -> Array:
    """A flat ring whose ipso carbon lies along ``direction``; C, then C and H in turn (11, 3)."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    x = _unit(np.cross(direction, helper))
    y = np.cross(direction, x)
    across = np.cos(angle) * x + np.sin(angle) * y
    radius = LENGTHS["C_AR", "C_AR"]
    middle = centre + (LENGTHS["C", "C_AR"] + radius) * direction
    places = []
    for k in range(6):
        phi = np.pi * k / 3
        spoke = -np.cos(phi) * direction + np.sin(phi) * across
        places.append(middle + radius * spoke)
        if k > 0:
            places.append(middle + (radius + LENGTHS["C_AR", "H_AR"]) * spoke)
    return np.array(places)


def _dress(spine: Array, hands: Signs, rng: np.random.Generator) -> Array:
    """Add rings and hydrogens to a backbone, each stereocentre with the hand asked for."""
    n_monomers = len(spine) // 2
    x = np.full((ATOMS_PER_MONOMER * n_monomers + 2, 3), np.nan)
    index = backbone(n_monomers)
    x[index] = spine
    ch = LENGTHS["C", "H"]
    directions = np.zeros((n_monomers, 3))
    for m in range(n_monomers):
        b = ATOMS_PER_MONOMER * m
        if m > 0:
            plus, minus = _two_more(x[b + 1], x[b - 12], x[b + 4])
            x[b], x[b + 2] = (
                x[b + 1] + ch * v for v in ((plus, minus) if PROCHIRAL_SIGN > 0 else (minus, plus))
            )
        if m + 1 < n_monomers:
            plus, minus = _two_more(x[b + 4], x[b + 1], x[b + 17])
            directions[m], hydrogen = (plus, minus) if hands[m] > 0 else (minus, plus)
            x[b + 3] = x[b + 4] + ch * hydrogen
    _cap_start(x)
    _cap_end(x, n_monomers, directions)
    for m in range(n_monomers):
        _best_ring(x, m, directions[m], rng)
    return x


def _cap_start(x: Array) -> None:
    """The CH3 group: staggered against the second carbon, labels as in the reference."""
    angle = np.radians(ANGLES["C", "C", "H"][0])
    for label, torsion in zip((0, 2, -2), (180.0, 60.0, -60.0), strict=True):
        x[label] = _next_atom(x[17], x[4], x[1], LENGTHS["C", "H"], angle, np.radians(torsion))
    a, b, c = (x[i] - x[1] for i in (0, 2, -2))
    if np.sign(np.dot(np.cross(a, b), c)) != START_SIGN:
        x[[2, -2]] = x[[-2, 2]]


def _cap_end(x: Array, n_monomers: int, directions: Array) -> None:
    """The last CH2(ring) group: the ring trans to the chain."""
    b = ATOMS_PER_MONOMER * (n_monomers - 1)
    angle = np.radians(ANGLES["C", "C", "C_AR"][0])
    ipso = _next_atom(x[b - 12], x[b + 1], x[b + 4], LENGTHS["C", "C_AR"], angle, np.pi)
    directions[-1] = _unit(ipso - x[b + 4])
    plus, minus = _two_more(x[b + 4], x[b + 1], ipso)
    first, second = (plus, minus) if END_SIGN > 0 else (minus, plus)
    x[b + 3] = x[b + 4] + LENGTHS["C", "H"] * first
    x[-1] = x[b + 4] + LENGTHS["C", "H"] * second


def _best_ring(x: Array, monomer: int, direction: Array, rng: np.random.Generator) -> None:
    """Turn a ring about its bond to where it is farthest from all placed atoms."""
    first = ring(monomer)[0]
    others = np.ones(len(x), dtype=bool)
    others[first - 2 : first] = False
    others &= ~np.isnan(x[:, 0])
    best, best_gap = None, -1.0
    for angle in rng.uniform(0, np.pi) + np.pi * np.arange(12) / 12:
        places = _place_ring(x[first - 1], direction, angle)
        gap = np.linalg.norm(places[1:, None] - x[None, others], axis=-1).min()
        if gap > best_gap:
            best, best_gap = places, float(gap)
    x[first : first + 11] = best


def _closest(x: Array, topology: ChainTopology, separation: int = 3) -> float:
    """Smallest distance between atoms more than ``separation`` bonds apart, nm."""
    n = len(x)
    linked = np.eye(n, dtype=bool)
    step = np.eye(n, dtype=bool)
    for i, j in topology.bonds:
        step[i, j] = step[j, i] = True
    for _ in range(separation):
        linked = linked.astype(np.float32) @ step.astype(np.float32) > 0  # fast, unlike bool @ bool
    for m in range(n // ATOMS_PER_MONOMER):
        r = ring(m)[0]
        linked[r : r + 11, r : r + 11] = True
    gaps = np.linalg.norm(x[:, None] - x[None], axis=-1)
    gaps[linked] = np.inf
    return float(gaps.min())


def _self_avoiding(
    spine: Array, hands: Signs, min_gap: float, rng: np.random.Generator
) -> Array | None:
    """The atoms of the chain with this backbone, or None if it runs into itself."""
    far = np.linalg.norm(spine[:, None] - spine[None], axis=-1)
    if (far[np.triu_indices(len(spine), 4)] < 0.36).any():
        return None
    n_monomers = len(spine) // 2
    x = _dress(spine, hands, rng)
    apart = _closest(x, chain_topology(n_monomers)) >= min_gap
    return x if apart and not pierced_rings(x[None], n_monomers, None) else None


def build_chain(
    n_monomers: int,
    rng: np.random.Generator,
    p_trans: float = 0.7,
    min_gap: float = 0.16,
    max_tries: int = 5000,
    hands: Signs | None = None,
) -> Array:
    """Build one chain with random backbone conformers.

    Up to ``FIRST_BLOCK`` monomers are drawn as a whole. Of longer chains hardly any draw avoids
    itself, so they grow by ``STEP`` monomers at a time, and back by as many at a dead end.

    Args:
        n_monomers: monomers in the chain, at least 2.
        rng: random generator.
        p_trans: probability of trans before the self-avoidance test.
        min_gap: smallest distance allowed between atoms more than three bonds apart, nm.
        max_tries: conformers to try, those of a part of the chain included.
        hands: sign of each stereocentre, shape (n - 1,); without, the reference's.

    Returns:
        Positions, nm, shape (16 n + 2, 3).

    Raises:
        RuntimeError: if every conformer ran into itself.
    """
    hands = reference_hands(n_monomers) if hands is None else hands
    grown: list[Array] = []
    misses = 0
    for _ in range(max_tries):
        start = grown[-1] if grown else None
        size = min(FIRST_BLOCK if start is None else len(start) // 2 + STEP, n_monomers)
        spine = _grow_backbone(2 * size, p_trans, rng, start)
        x = _self_avoiding(spine, hands, min_gap, rng)
        if x is None:
            misses += 1
            if grown and misses >= PATIENCE:
                grown.pop()
                misses = 0
        elif size < n_monomers:
            grown.append(spine)
            misses = 0
        else:
            centred: Array = x - x.mean(axis=0)
            return centred
    raise RuntimeError(f"no self-avoiding conformer of {n_monomers} monomers in {max_tries} tries")


def build_chains(
    n_monomers: int, n_chains: int, rng: np.random.Generator, hands: Signs | None = None
) -> Array:
    """Build chains one by one, each at the origin.

    Args:
        n_monomers: monomers in a chain, at least 2.
        n_chains: chains to build.
        rng: random generator.
        hands: signs of each chain's stereocentres, shape (chains, n - 1); without, the
            reference's for all.

    Returns:
        Positions, nm, shape (chains, 16 n + 2, 3).
    """
    each = [None] * n_chains if hands is None else list(hands)
    return np.array([build_chain(n_monomers, rng, hands=signs) for signs in each])


def _random_rotation(rng: np.random.Generator) -> Array:
    w, x, y, z = _unit(rng.normal(size=4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def place_chains(
    chains: Array, edge: float, rng: np.random.Generator, max_tries: int = 20000
) -> Array:
    """Put chains at random places and orientations into a periodic cubic box.

    Atoms of two chains stay ``BOX_MARGIN`` apart, so that no chain can start out threaded through
    another's ring: a bond through a ring has an atom within 0.22 nm of a ring carbon (the ring's
    radius and half a bond).

    Args:
        chains: positions of each chain, nm, shape (chains, atoms, 3).
        edge: edge of the box, nm.
        rng: random generator.
        max_tries: placements to try for each chain.

    Returns:
        Positions, nm, same shape, chains whole.

    Raises:
        RuntimeError: if the box is too full.
    """
    placed: list[Array] = []
    for chain in chains:
        for _ in range(max_tries):
            trial = chain @ _random_rotation(rng).T + rng.uniform(0, edge, 3)
            if all(_gap(trial, other, edge) > BOX_MARGIN for other in placed):
                placed.append(trial)
                break
        else:
            raise RuntimeError(f"box of {edge} nm too full after {len(placed)} chains")
    return np.array(placed)


def _gap(a: Array, b: Array, edge: float) -> float:
    delta = a[:, None] - b[None]
    delta -= edge * np.round(delta / edge)
    return float(np.sqrt((delta**2).sum(axis=-1).min()))


def pierced_rings(
    chains: Array, n_monomers: int, box: Array | None
) -> list[tuple[int, int, int, tuple[int, int]]]:
    """Find bonds that pass through a phenyl ring.

    Args:
        chains: positions, nm, shape (chains, atoms, 3), each chain whole.
        n_monomers: monomers in a chain.
        box: periodic edges (3,) or box vectors in rows (3, 3), nm; None for no box.

    Returns:
        For each piercing: chain and monomer of the ring, chain of the bond, the bond.
    """
    bonds = np.array(chain_topology(n_monomers).bonds)
    rings = chains[:, [ring(m) for m in range(n_monomers)]].reshape(-1, 6, 3)
    start = chains[:, bonds[:, 0]].reshape(-1, 3)
    step = chains[:, bonds[:, 1]].reshape(-1, 3) - start
    if box is not None:
        vectors = np.diag(box) if box.ndim == 1 else box
        inverse = np.linalg.inv(vectors)
    found = []
    for r, points in enumerate(rings):
        middle = points.mean(axis=0)
        local = start - middle
        if box is not None:
            local = local - np.round((local + step / 2) @ inverse) @ vectors
        close = np.flatnonzero(np.linalg.norm(local + step / 2, axis=1) < 0.25)
        hit = np.zeros(len(close), dtype=bool)
        for k in range(6):
            a, b = points[k] - middle, points[(k + 1) % 6] - middle
            hit |= _crosses(local[close], step[close], a, b)
        for n in close[hit]:
            chain, bond = divmod(int(n), len(bonds))
            i, j = bonds[bond]
            owner, monomer = divmod(r, n_monomers)
            own = {*range(ring(monomer)[0] - 1, ring(monomer)[0] + 11)}
            if chain != owner or not {int(i), int(j)} <= own:
                found.append((owner, monomer, chain, (int(i), int(j))))
    return found


def _crosses(start: Array, step: Array, a: Array, b: Array) -> NDArray[np.bool_]:
    """Whether each segment crosses the triangle of the origin, a and b."""
    normal = np.cross(a, b)
    along = step @ normal
    safe = np.where(np.abs(along) < 1e-12, np.inf, along)
    t = -(start @ normal) / safe
    point = start + t[:, None] * step
    area = normal @ normal
    u = np.cross(point, b) @ normal / area
    v = np.cross(a, point) @ normal / area
    inside = (u >= 0) & (v >= 0) & (u + v <= 1)
    return inside & (t >= 0) & (t <= 1) & np.isfinite(safe)


def expected_signs(n_monomers: int, hands: Signs | None = None) -> NDArray[np.int64]:
    """The signs that ``chain_signs`` returns for a chain as it was built.

    Args:
        n_monomers: monomers in the chain.
        hands: sign of each stereocentre, shape (n - 1,); without, the reference's.
    """
    centres = reference_hands(n_monomers) if hands is None else hands
    labels = [PROCHIRAL_SIGN] * (n_monomers - 1)
    return np.array([*centres, *labels, START_SIGN, END_SIGN])


def count_wrong_signs(chains: Array, hands: Signs) -> int:
    """Number of signs (stereocentres and hydrogen labels) that are not as built.

    Args:
        chains: positions of whole chains, nm, shape (chains, atoms, 3).
        hands: signs of each chain's stereocentres, shape (chains, n - 1).
    """
    n_monomers = chains.shape[1] // ATOMS_PER_MONOMER
    return sum(
        int((chain_signs(x) != expected_signs(n_monomers, signs)).sum())
        for x, signs in zip(chains, hands, strict=True)
    )


def chain_signs(x: Array) -> NDArray[np.int64]:
    """Handedness of one whole chain, shape (atoms, 3).

    Returns:
        The signs of the n-1 stereocentres, of the n-1 CH2 labels, of the CH3 labels and of the
        last CH2's labels (see the constants at the head of this file).
    """
    n_monomers = len(x) // ATOMS_PER_MONOMER
    signs = []
    for m in range(n_monomers - 1):
        b = ATOMS_PER_MONOMER * m
        signs.append(_triple(x, b + 4, b + 1, b + 17, b + 5))
    for m in range(1, n_monomers):
        b = ATOMS_PER_MONOMER * m
        signs.append(_triple(x, b + 1, b - 12, b + 4, b))
    b = ATOMS_PER_MONOMER * (n_monomers - 1)
    signs.append(_triple(x, 1, 0, 2, len(x) - 2))
    signs.append(_triple(x, b + 4, b + 1, b + 5, b + 3))
    return np.array(signs, dtype=np.int64)


def _triple(x: Array, centre: int, i: int, j: int, k: int) -> int:
    a, b, c = (x[n] - x[centre] for n in (i, j, k))
    return int(np.sign(np.dot(np.cross(a, b), c)))


def write_gro(path: Path, chains: Array, edges: Array, title: str) -> None:
    """Write chains (chains, atoms, 3), nm, and a rectangular box's edges (3,) as a .gro file."""
    names = chain_topology(chains.shape[1] // ATOMS_PER_MONOMER).names
    write_gro_names(path, chains, names, edges, title)


def write_gro_names(
    path: Path, chains: Array, names: tuple[str, ...], edges: Array, title: str
) -> None:
    """Write a .gro file, one residue for each chain, the same names in each."""
    lines = [title, f"{chains.shape[0] * chains.shape[1]:5d}"]
    serial = 0
    for c, chain in enumerate(chains):
        for name, (x, y, z) in zip(names, chain, strict=True):
            serial += 1
            number = serial % 100000
            lines.append(f"{c + 1:5d}{MOLECULE:<5}{name:>5}{number:5d}{x:8.3f}{y:8.3f}{z:8.3f}")
    lines.append(" ".join(f"{edge:9.5f}" for edge in edges))
    Path(path).write_text("\n".join(lines) + "\n")


def main() -> None:
    """Write topol.top, PS.itp, start.gro and tacticity.txt into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--monomers", type=int, default=10)
    parser.add_argument("--chains", type=int, default=12)
    parser.add_argument("--edge", type=float, default=6.5, help="box edge, nm")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--tacticity", default="syndiotactic", help="see melt.tacticity")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    hands = chain_hands(options.tacticity, options.monomers, options.chains, rng)
    kind = options.tacticity if options.tacticity.isalpha() else "mixed"
    options.folder.mkdir(parents=True, exist_ok=True)
    write_topology(options.folder / "topol.top", options.monomers, options.chains, kind)
    chains = build_chains(options.monomers, options.chains, rng, hands)
    placed = place_chains(chains, options.edge, rng)
    edges = np.full(3, options.edge)
    wrong = count_wrong_signs(placed, hands)
    pierced = pierced_rings(placed, options.monomers, edges)
    if wrong or pierced:
        raise SystemExit(f"bad start structure: {wrong} wrong signs, pierced rings {pierced}")
    write_hands(options.folder, hands)
    title = f"{kind} polystyrene, start, seed {options.seed}"
    write_gro(options.folder / "start.gro", placed, edges, title)
    print(f"{options.chains} chains of {options.monomers}, seed {options.seed}: no defect")


if __name__ == "__main__":
    main()

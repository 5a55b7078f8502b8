"""What a rigid fragment must fit: the kind of a bead, told by its atoms and its surroundings.

Nothing here depends on coordinates or on the length of the chain: the same inner bead of a 10-mer
and of a 200-mer is one kind of site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepbackmap.mapping import MoleculeMapping
from deepbackmap.system import MoleculeType

ENOUGH = 6
"""Surrounding beads are collected one bond further until there are this many."""
FARTHEST = 4
"""Bonds between beads after which no more are collected."""


@dataclass(frozen=True)
class Site:
    """One bead of a molecule type as templates know it."""

    bead_type: str
    pattern: str
    """Elements of the owned atoms by index, and the bonds among them."""
    parity: int
    """0 or 1: place among the beads of its type in the order S, which tells the hands of a
    syndiotactic chain apart."""
    labels: tuple[str, ...]
    """Paths to the surrounding beads, nearest first: types of the beads on the way, each with + or
    - for later or earlier in the order S."""
    distances: tuple[int, ...]
    """Bonds to each of them."""
    beads: tuple[int, ...]
    """Their indices in the molecule."""
    atoms: tuple[int, ...]
    """Owned atoms of the molecule, ascending."""


def find_sites(molecule: MoleculeType, mapping: MoleculeMapping) -> tuple[Site, ...]:
    """The site of every bead of a molecule type."""
    n = mapping.n_beads
    rank = np.empty(n, dtype=np.int64)
    rank[mapping.order] = np.arange(n)
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for i, j in mapping.bead_bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    seen: dict[str, int] = {}
    place = [0] * n
    for bead in mapping.order.tolist():
        kind = mapping.bead_types[bead]
        place[bead] = seen.get(kind, 0)
        seen[kind] = place[bead] + 1
    owned: list[list[int]] = [[] for _ in range(n)]
    for atom, bead in enumerate(mapping.owner.tolist()):
        if bead >= 0:
            owned[bead].append(atom)
    inside = _bonds_inside(molecule, mapping)
    return tuple(
        Site(
            mapping.bead_types[b],
            _pattern(molecule, owned[b], inside[b]),
            place[b] % 2,
            *_surroundings(b, neighbours, rank.tolist(), mapping.bead_types),
            tuple(owned[b]),
        )
        for b in range(n)
    )


def _bonds_inside(molecule: MoleculeType, mapping: MoleculeMapping) -> list[list[tuple[int, int]]]:
    """Bonds between atoms of one owner, by bead."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(mapping.n_beads)]
    for a, b in molecule.bonds.tolist():
        if mapping.owner[a] == mapping.owner[b] >= 0:
            found[mapping.owner[a]].append((a, b))
    return found


def _pattern(molecule: MoleculeType, atoms: list[int], bonds: list[tuple[int, int]]) -> str:
    place = {atom: k for k, atom in enumerate(atoms)}
    masses = " ".join(str(round(float(molecule.masses[a]))) for a in atoms)
    return masses + ": " + " ".join(f"{place[a]}-{place[b]}" for a, b in bonds)


def _surroundings(
    bead: int, neighbours: list[list[int]], rank: list[int], types: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Labels, distances and indices of the beads around one."""
    label, frontier = {bead: ""}, [bead]
    found: list[tuple[str, int, int]] = []
    for distance in range(1, FARTHEST + 1):
        if len(found) >= ENOUGH or not frontier:
            break
        ahead: list[int] = []
        for origin in frontier:
            fresh = sorted((b for b in neighbours[origin] if b not in label), key=rank.__getitem__)
            times: dict[str, int] = {}
            for b in fresh:
                step = types[b] + ("+" if rank[b] > rank[origin] else "-")
                times[step] = times.get(step, 0) + 1
                more = str(times[step]) if times[step] > 1 else ""
                label[b] = f"{label[origin]}{step}{more}"
                ahead.append(b)
        found += sorted((label[b], distance, b) for b in ahead)
        frontier = ahead
    labels, distances, beads = zip(*found, strict=True) if found else ((), (), ())
    return tuple(labels), tuple(distances), tuple(beads)

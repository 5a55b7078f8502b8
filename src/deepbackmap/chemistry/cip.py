"""R and S, Z and E: the priorities of Cahn, Ingold and Prelog, as far as the bond graph tells them.

Branches are compared by atomic number, sphere by sphere of the hierarchical digraph; rings and
double bonds add duplicate atoms (rule 1a). Topologies hold no bond orders, so that a double bond is
told by missing neighbours: a carbon with three neighbours, an oxygen with one. Isotopes, and
branches that differ only in their own stereochemistry, are not told apart.

Source: Prelog and Helmchen, Angew. Chem. Int. Ed. 21, 567 (1982); IUPAC Recommendations 2013,
P-92.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ase.data import atomic_numbers

from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.system import MoleculeType
from deepbackmap.system.elements import element_symbols

VALENCE = {"C": 4, "N": 3, "O": 2, "S": 2, "Si": 4}
"""Neighbours that an atom without multiple bonds has; of other elements none is expected."""
WIDEST = 8
"""Substituents that are compared; shorter sets are filled up with phantom atoms of number 0."""


@dataclass(frozen=True)
class _Node:
    """An atom of the digraph, reached on one way from the centre."""

    atom: int
    """-1: a duplicate, which leads no further."""
    number: int
    """Atomic number."""
    above: _Node | None

    def passed(self, atom: int) -> bool:
        """Whether the way here leads through an atom."""
        node: _Node | None = self
        while node is not None:
            if node.atom == atom:
                return True
            node = node.above
        return False


class Priorities:
    """Compares branches of one molecule type."""

    def __init__(self, molecule: MoleculeType) -> None:
        """Prepare the graph.

        Args:
            molecule: whose bonds and masses are read.
        """
        symbols = element_symbols(molecule.masses)
        self._numbers = [int(atomic_numbers.get(s, 0)) for s in symbols]
        self._neighbours = bonded_neighbours(molecule)
        self._duplicates = self._multiple_bonds(symbols)

    def order(self, centre: int, branches: Sequence[int]) -> list[int] | None:
        """Branches from the highest priority to the lowest.

        Args:
            centre: atom of the molecule.
            branches: some of its bonded atoms.

        Returns:
            The branches, or None if two of them are not told apart.
        """
        top = _Node(centre, self._numbers[centre], None)
        spheres = {b: [(0, _Node(b, self._numbers[b], top))] for b in branches}
        ranks = _ranked({b: (self._numbers[b],) for b in branches})
        while len(set(ranks.values())) < len(branches):
            tied = [b for b in branches if list(ranks.values()).count(ranks[b]) > 1]
            if not any(spheres[b] for b in tied):
                return None
            keys: dict[int, tuple[Any, ...]] = {b: (-ranks[b],) for b in branches}
            for b in tied:
                key, spheres[b] = self._next_sphere(spheres[b])
                keys[b] += (key,)
            ranks = _ranked(keys)
        return sorted(branches, key=lambda b: ranks[b])

    def _next_sphere(
        self, sphere: list[tuple[int, _Node]]
    ) -> tuple[list[tuple[int, ...]], list[tuple[int, _Node]]]:
        """What the atoms of a sphere bear, in order of rank, and the ranked sphere of those."""
        rows = []
        for rank, node in sphere:
            below = self._substituents(node)
            numbers = sorted((n.number for n in below), reverse=True)
            rows.append((rank, tuple(numbers + [0] * (WIDEST - len(numbers))), below))
        rows.sort(key=lambda row: (-row[0], row[1]), reverse=True)
        classes = [
            ((rank, tuple(-z for z in key), -n.number), n)
            for rank, key, below in rows
            for n in below
        ]
        places = {c: k for k, c in enumerate(sorted({c for c, _ in classes}))}
        return [key for _, key, _ in rows], [(places[c], n) for c, n in classes]

    def _substituents(self, node: _Node) -> list[_Node]:
        if node.atom < 0:
            return []
        found = []
        came = node.above.atom if node.above is not None else -1
        for b in self._neighbours[node.atom]:
            if b != came:
                atom = -1 if node.passed(b) else b  # a ring closes: its atom again, as an end
                found.append(_Node(atom, self._numbers[b], node))
        return found + [_Node(-1, self._numbers[b], node) for b in self._duplicates[node.atom]]

    def _multiple_bonds(self, symbols: Sequence[str]) -> list[list[int]]:
        """For every atom the partner of its multiple bond, once for each bond beyond the first."""
        missing = [
            max(VALENCE.get(s, 0) - len(n), 0) if s in VALENCE else 0
            for s, n in zip(symbols, self._neighbours, strict=True)
        ]
        found: list[list[int]] = [[] for _ in symbols]
        for atom, count in enumerate(missing):
            partners = [b for b in self._neighbours[atom] if missing[b]]
            partners.sort(key=lambda b: (-self._numbers[b], len(self._neighbours[b]), b))
            if partners:
                found[atom] = [partners[0]] * count
        return found


def _ranked(keys: dict[int, tuple[Any, ...]]) -> dict[int, int]:
    """Place of every branch, 0 for the highest key; equal keys share a place."""
    distinct = sorted({repr(k): k for k in keys.values()}.values(), reverse=True)
    return {b: distinct.index(k) for b, k in keys.items()}


def sign_of_order(order: Sequence[int], row: Sequence[int]) -> int:
    """Sign that ``stereo.handedness`` gives an R centre whose branches stand in another order.

    Seen from the side away from the lowest branch, R runs clockwise from the first branch to the
    third, and the triple product of these, with the lowest ahead of them, is negative.

    Args:
        order: branches from the highest priority to the lowest.
        row: the same branches in the order whose sign is asked for.
    """
    reference = [order[3], order[0], order[1], order[2]]
    permutation = [reference.index(b) for b in row]
    swaps = sum(permutation[i] > permutation[j] for i in range(4) for j in range(i + 1, 4))
    return -1 if swaps % 2 == 0 else 1

"""Double bonds, and on which side of each its ends lie (cis or trans).

A topology has no bond orders. What it has is a torsion that cannot be crossed: a bond between two
atoms with flat surroundings counts as double where the terms of the force field around it make a
barrier that dynamics does not climb (``BARRIER``). The bonds of amides are found likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.chemistry import rings, stereo
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.system import MoleculeType, Structure

BARRIER = 40.0
"""kJ/mol: a bond that turns over a lower one is single. Those of biaryls and dienes are below 30,
that of a GROMOS amide is 67, and of a double bond between carbons above 100."""
ANGLES = np.radians(np.arange(0.0, 360.0, 5.0))
"""Of the rotation about a bond at which its energy is looked at, rad."""
FLAT = 3
"""Most neighbours of an atom that can have a double bond."""

Torsions = Mapping[tuple[int, int], Float64[np.ndarray, " a"]]
"""By the two middle atoms, the lower first: energy at ``ANGLES`` of the torsion of their
``_reference`` neighbours, kJ/mol."""


@dataclass(frozen=True)
class WantedSides:
    """Double bonds of a system and the sides that their substituents shall be on."""

    atoms: Int64[np.ndarray, "k 4"]
    """Substituent, the two atoms of the bond, substituent; atoms of the system."""
    side: Int64[np.ndarray, " k"]
    """1 cis, -1 trans; 0: not known."""

    @classmethod
    def nothing(cls) -> WantedSides:
        """Of no bond."""
        return cls(np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.int64))

    def before(self, other: WantedSides) -> WantedSides:
        """These, and those of other bonds that another source tells."""
        mine = {frozenset(row[1:3]) for row in self.atoms.tolist()}
        more = [k for k, row in enumerate(other.atoms.tolist()) if frozenset(row[1:3]) not in mine]
        return WantedSides(
            np.concatenate([self.atoms, other.atoms[more]]),
            np.concatenate([self.side, other.side[more]]),
        )

    def among(self, bonds: Int64[np.ndarray, "d 4"]) -> WantedSides:
        """The same sides told by the substituents that other rows name, and bonds not among them.

        The two branches of a flat end lie on opposite sides: each substituent that is the other
        one of its end turns cis into trans.

        Args:
            bonds: rows as ``double_bonds`` gives them; 0 where nothing is wanted of one.
        """
        place = {frozenset(row[1:3]): n for n, row in enumerate(bonds.tolist())}
        side, rest = np.zeros(len(bonds), dtype=np.int64), []
        for k, (a, b, c, d) in enumerate(self.atoms.tolist()):
            n = place.get(frozenset((b, c)))
            if n is None:
                rest.append(k)
                continue
            others = len({a, d} - {int(bonds[n, 0]), int(bonds[n, 3])})
            side[n] = self.side[k] * (-1) ** others
        return WantedSides(
            np.concatenate([bonds, self.atoms[rest]]), np.concatenate([side, self.side[rest]])
        )


def double_bonds(
    molecule: MoleculeType, ranks: Int64[np.ndarray, " n"] | None = None
) -> Int64[np.ndarray, "k 4"]:
    """Double bonds outside rings whose two ends both have branches that differ.

    Args:
        molecule: whose bonds and torsions are looked at.
        ranks: its ``stereo.canonical_ranks``, if they are at hand.

    Returns:
        For each the branch of highest rank of one end, the two ends, and that of the other end.
    """
    ranks = stereo.canonical_ranks(molecule) if ranks is None else ranks
    neighbours = stereo.bonded_neighbours(molecule)
    in_ring = _ring_bonds(molecule)
    found = []
    for (a, b), energy in sorted(_torsions(molecule, neighbours).items()):
        if (a, b) in in_ring or _barrier(energy) < BARRIER:
            continue
        first, second = _highest(neighbours, ranks, a, b), _highest(neighbours, ranks, b, a)
        if first is not None and second is not None:
            found.append([first, a, b, second])
    return np.array(found, dtype=np.int64).reshape(-1, 4)


def sides(structure: Structure, bonds: Int64[np.ndarray, "k 4"]) -> Int64[np.ndarray, " k"]:
    """On which side the two branches lie.

    Args:
        structure: a frame; molecules need not be whole.
        bonds: as ``double_bonds`` gives them, with the atoms of the system.

    Returns:
        1 where they are cis, -1 where they are trans, 0 where the bond is twisted to the square.
    """
    at, box = structure.positions[bonds], structure.box
    axis = minimum_image(at[:, 2] - at[:, 1], box)
    arms = [minimum_image(at[:, end] - at[:, near], box) for end, near in ((0, 1), (3, 2))]
    across = [np.cross(axis, arm, axis=1) for arm in arms]
    return np.sign(np.einsum("ij,ij->i", *across)).astype(np.int64)


def _highest(
    neighbours: list[list[int]], ranks: Int64[np.ndarray, " n"], end: int, other: int
) -> int | None:
    """The branch of highest rank of an end; None where its branches are alike or there are none."""
    branches = sorted((b for b in neighbours[end] if b != other), key=lambda b: int(ranks[b]))
    if not branches or (len(branches) > 1 and ranks[branches[-1]] == ranks[branches[-2]]):
        return None
    return branches[-1]


def _ring_bonds(molecule: MoleculeType) -> set[tuple[int, int]]:
    """Bonds of rings, which hold their ends where they are."""
    around = [zip(r, r[1:] + r[:1], strict=True) for r in rings.find_rings(molecule)]
    return {(min(pair), max(pair)) for ring in around for pair in ring}


def _barrier(energy: Float64[np.ndarray, " a"]) -> float:
    """The lower of the two ways over from the lowest energy to half a turn away, kJ/mol."""
    turned = np.roll(energy, -int(energy.argmin()))
    half = len(turned) // 2
    return float(min(turned[: half + 1].max(), turned[half:].max()) - turned[0])


def _torsions(molecule: MoleculeType, neighbours: list[list[int]]) -> Torsions:
    """Energy of turning about every bond between two atoms with flat surroundings."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for kind, atoms, parameters in _terms(molecule):
        i, j, k, m = atoms
        along = i in neighbours[j] and k in neighbours[j] and m in neighbours[k]
        if not along or max(len(neighbours[j]), len(neighbours[k])) > FLAT:
            continue
        # of the two branches of a flat atom the second lies half a turn from the first
        turns = (i != _reference(neighbours, j, k)) + (m != _reference(neighbours, k, j))
        key = (min(j, k), max(j, k))
        energy = _energy(kind, ANGLES + np.pi * turns, parameters)
        found[key] = found.get(key, np.zeros(len(ANGLES))) + energy
    return found


def _reference(neighbours: list[list[int]], end: int, other: int) -> int:
    return min(b for b in neighbours[end] if b != other)


def _terms(molecule: MoleculeType) -> Iterator[tuple[str, list[int], list[float]]]:
    for kind in ("proper", "ryckaert_bellemans", "improper"):
        if kind in molecule.terms:
            listed = molecule.terms[kind]
            for atoms, row in zip(listed.atoms.tolist(), listed.parameters.tolist(), strict=True):
                yield kind, atoms, row


def _energy(
    kind: str, angles: Float64[np.ndarray, " a"], row: list[float]
) -> Float64[np.ndarray, " a"]:
    """Energy of a torsion in kJ/mol, as ``system.kinds.KINDS`` defines it."""
    if kind == "proper":
        phase, k, multiplicity = row
        return k * (1.0 + np.cos(multiplicity * angles - phase))
    if kind == "ryckaert_bellemans":
        return np.polynomial.polynomial.polyval(-np.cos(angles), row)
    xi0, k = row
    away = (angles - xi0 + np.pi) % (2.0 * np.pi) - np.pi
    return 0.5 * k * away**2

"""Handedness of stereocentres and labels of paired hydrogens, from the bond graph alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64, Num

from deepbackmap.geometry.cell import minimum_image
from deepbackmap.system import MoleculeType, Structure


def bonded_neighbours(molecule: MoleculeType) -> list[list[int]]:
    """The bonded atoms of every atom of a molecule, ascending."""
    neighbours: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for a, b in molecule.bonds.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    return [sorted(found) for found in neighbours]


def canonical_ranks(molecule: MoleculeType) -> Int64[np.ndarray, " n"]:
    """Ranks every atom by its place in the bond graph; equivalent atoms share a rank.

    Atoms are told apart by mass first, so that lighter atoms rank lower, and then by the ranks
    of their neighbours, again and again until nothing new is told apart. The handedness of
    other centres is not used.

    Source: Morgan, J. Chem. Doc. 5, 107 (1965).
    """
    neighbours = bonded_neighbours(molecule)
    width = max((len(found) for found in neighbours), default=0)
    padded = np.full((molecule.n_atoms, width), -1, dtype=np.int64)
    for atom, found in enumerate(neighbours):
        padded[atom, : len(found)] = found
    ranks = _ranked(np.round(molecule.masses, 1))
    while True:
        around = np.sort(np.where(padded >= 0, ranks[padded], -1), axis=1) + 1
        refined = ranks
        for column in around.T:
            # two ranks in one number: much faster than finding the unique rows of a table
            refined = _ranked(refined * (molecule.n_atoms + 1) + column)
        if refined.max(initial=-1) == ranks.max(initial=-1):
            return refined
        ranks = refined


def _ranked(values: Num[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Place of every value among the distinct values in ascending order."""
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)


def stereocentres(
    molecule: MoleculeType, ranks: Int64[np.ndarray, " n"] | None = None
) -> Int64[np.ndarray, "k 5"]:
    """Atoms with four different branches.

    Args:
        molecule: whose bonds are walked.
        ranks: its ``canonical_ranks``, if they are at hand.

    Returns:
        For each centre the centre itself and its four branches in ascending rank.
    """
    ranks = canonical_ranks(molecule) if ranks is None else ranks
    centres = []
    for atom, found in enumerate(bonded_neighbours(molecule)):
        if len(found) == 4 and len({int(ranks[b]) for b in found}) == 4:
            centres.append([atom, *sorted(found, key=lambda b: ranks[b])])
    return np.array(centres, dtype=np.int64).reshape(-1, 5)


def prochiral_pairs(
    molecule: MoleculeType, ranks: Int64[np.ndarray, " n"] | None = None
) -> Int64[np.ndarray, "k 5"]:
    """Atoms that carry two equal end atoms (as CH2 does) and two branches that differ.

    Which of the two end atoms is which is a label that a topology gives; molecular dynamics
    never swaps it.

    Args:
        molecule: whose bonds are walked.
        ranks: its ``canonical_ranks``, if they are at hand.

    Returns:
        For each the atom, the two different branches in ascending rank, and the two equal
        end atoms in ascending index.
    """
    ranks = canonical_ranks(molecule) if ranks is None else ranks
    neighbours = bonded_neighbours(molecule)
    pairs = []
    for atom, found in enumerate(neighbours):
        ordered = sorted(found, key=lambda b: (ranks[b], b))
        twins = [
            (a, b) for a, b in pairwise(ordered) if ranks[a] == ranks[b] and len(neighbours[a]) == 1
        ]
        if len(found) == 4 and len(twins) == 1:
            rest = [b for b in ordered if b not in twins[0]]
            if ranks[rest[0]] != ranks[rest[1]]:
                pairs.append([atom, *rest, *twins[0]])
    return np.array(pairs, dtype=np.int64).reshape(-1, 5)


def handedness(structure: Structure, centres: Int64[np.ndarray, "k 5"]) -> Int64[np.ndarray, " k"]:
    """Sense in which three branches follow one another, seen from the fourth, the lightest.

    Args:
        structure: a frame; molecules need not be whole.
        centres: as ``stereocentres`` gives them, with the atoms of the system.

    Returns:
        1 or -1; 0 where the four branches lie in a plane.
    """
    light, a, b, c = (_arms(structure, centres[:, 0], centres[:, k]) for k in (1, 2, 3, 4))
    return _sign_of_triple_product(a - light, b - light, c - light)


def restore(
    positions: Float64[np.ndarray, "n 3"],
    centres: Int64[np.ndarray, "c 5"],
    signs: Int64[np.ndarray, " c"],
    light: Bool[np.ndarray, " n"],
    box: Float64[np.ndarray, "3 3"] | None = None,
) -> None:
    """Turns centres of the wrong hand that have one light branch inside out, in place.

    The centre and its hydrogen are reflected in the plane of the other three branches: bonds to
    these and angles between them stay. Centres without such a branch are left alone.

    Args:
        positions: nm, molecules whole.
        centres: each with its four branches.
        signs: wanted, of (b - a) x (c - a) . (d - a) of the branches.
        light: which atoms are hydrogens.
        box: as for ``volumes``.
    """
    wrong = volumes(positions, centres, box) * signs < 0
    for centre, *branches in centres[wrong].tolist():
        moved = [centre, *(a for a in branches if light[a])]
        if len(moved) != 2:
            continue
        heavy, p = [a for a in branches if not light[a]], positions[centre]
        arms = _near(positions[[*heavy, *moved]] - p, box)
        normal = np.cross(arms[1] - arms[0], arms[2] - arms[0])
        normal /= max(float(np.linalg.norm(normal)), 1e-9)
        for atom, arm in zip(moved, arms[len(heavy) :], strict=True):
            positions[atom] -= 2.0 * ((arm - arms[0]) @ normal) * normal


def _near(
    vectors: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"] | None
) -> Float64[np.ndarray, "n 3"]:
    return vectors if box is None else minimum_image(vectors, box)


def volumes(
    positions: Float64[np.ndarray, "n 3"],
    centres: Int64[np.ndarray, "c 5"],
    box: Float64[np.ndarray, "3 3"] | None = None,
) -> Float64[np.ndarray, " c"]:
    """(b - a) x (c - a) . (d - a) of the branches of each centre, nm^3.

    Args:
        positions: nm, molecules whole.
        centres: each with its four branches.
        box: lattice vectors as rows, nm, where molecules may be bonded to their own images.
    """
    a, *others = (positions[centres[:, k]] for k in (1, 2, 3, 4))
    b, c, d = (_near(other - a, box) for other in others)
    found: np.ndarray = np.einsum("ci,ci->c", np.cross(b, c), d)
    return found


def seen_from_the_centre(
    centres: Int64[np.ndarray, "k 5"], masses: Float64[np.ndarray, " n"]
) -> Int64[np.ndarray, "k 5"]:
    """The centres with the lightest branch of each replaced by the centre itself.

    ``handedness`` of these rows is the second test of a centre: on which side of it its three
    heavy branches turn, wherever its hydrogen is. A centre inside the tetrahedron of its branches
    has the same sign by both; one that was pushed through the plane of its heavy branches has not,
    and minimisation then turns it over or not by chance.

    Args:
        centres: as ``stereocentres`` or ``tacticity.find_centres`` gives them, with the atoms of
            the system; the sign of either order of branches is kept.
        masses: of the atoms of the system, u. Of branches that are equally light the first counts.
    """
    seen = centres.copy()
    rows = np.arange(len(centres))
    seen[rows, 1 + masses[centres[:, 1:]].argmin(axis=1)] = centres[:, 0]
    return seen


def prochiral_labels(
    structure: Structure, pairs: Int64[np.ndarray, "k 5"]
) -> Int64[np.ndarray, " k"]:
    """Which of the two equal end atoms lies on which side of the plane of the other branches.

    Args:
        structure: a frame; molecules need not be whole.
        pairs: as ``prochiral_pairs`` gives them, with the atoms of the system.

    Returns:
        1 or -1; 0 where both lie in the plane.
    """
    a, b = (_arms(structure, pairs[:, 0], pairs[:, k]) for k in (1, 2))
    return _sign_of_triple_product(a, b, _arms(structure, pairs[:, 4], pairs[:, 3]))


def _arms(
    structure: Structure, start: Int64[np.ndarray, " k"], end: Int64[np.ndarray, " k"]
) -> Float64[np.ndarray, "k 3"]:
    """Shortest images of the vectors between atoms, nm."""
    return minimum_image(structure.positions[end] - structure.positions[start], structure.box)


def _sign_of_triple_product(
    a: Float64[np.ndarray, "k 3"], b: Float64[np.ndarray, "k 3"], c: Float64[np.ndarray, "k 3"]
) -> Int64[np.ndarray, " k"]:
    """Sign of (a x b) . c."""
    return np.sign(np.einsum("ij,ij->i", np.cross(a, b, axis=1), c)).astype(np.int64)

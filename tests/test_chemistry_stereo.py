"""Stereocentres and paired hydrogens on molecules made by hand."""

import numpy as np
import pytest

from deepbackmap.chemistry.stereo import (
    canonical_ranks,
    handedness,
    prochiral_labels,
    prochiral_pairs,
    seen_from_the_centre,
    stereocentres,
)
from deepbackmap.io.topology import read_topology
from evaluation_systems import molecule, reference_folder, rotation, scattered, structure

TETRAHEDRON = 0.06 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
STAR = [(0, 1), (0, 2), (0, 3), (0, 4)]


def tetrahedral(types):
    return molecule(("C", *types), STAR), np.concatenate([np.zeros((1, 3)), TETRAHEDRON])


def test_four_different_atoms_make_a_centre():
    found, _ = tetrahedral(("Br", "H", "Cl", "F"))
    assert stereocentres(found).tolist() == [[0, 2, 4, 3, 1]]
    assert len(prochiral_pairs(found)) == 0


def test_an_inverted_centre_is_found():
    found, positions = tetrahedral(("H", "F", "Cl", "Br"))
    centres = stereocentres(found)
    sign = handedness(structure(positions), centres)
    assert sign.tolist() in ([1], [-1])
    assert handedness(structure(positions * [1, 1, -1]), centres).tolist() == (-sign).tolist()
    swapped = positions[[0, 1, 2, 4, 3]]
    assert handedness(structure(swapped), centres).tolist() == (-sign).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_turning_moving_and_wrapping_invert_nothing(seed):
    found, positions = tetrahedral(("H", "F", "Cl", "Br"))
    centres = stereocentres(found)
    turned = positions @ rotation(seed) + [0.3, -2.0, 7.0]
    expected = handedness(structure(positions), centres)
    assert handedness(scattered(turned, seed=seed), centres).tolist() == expected.tolist()


def test_a_flat_centre_has_no_sign():
    found, positions = tetrahedral(("H", "F", "Cl", "Br"))
    assert handedness(structure(positions * [1, 1, 0]), stereocentres(found)).tolist() == [0]


def test_two_hydrogens_make_no_centre_but_have_labels():
    found, positions = tetrahedral(("H", "Br", "H", "F"))
    assert len(stereocentres(found)) == 0
    pairs = prochiral_pairs(found)
    assert pairs.tolist() == [[0, 4, 2, 1, 3]]
    sign = prochiral_labels(structure(positions), pairs)
    assert abs(sign[0]) == 1
    swapped = positions[[0, 3, 2, 1, 4]]
    assert prochiral_labels(structure(swapped), pairs).tolist() == (-sign).tolist()


@pytest.mark.parametrize("types", [("H", "H", "H", "F"), ("H", "H", "F", "F")])
def test_what_cannot_be_told_apart_has_no_labels(types):
    found, _ = tetrahedral(types)
    assert len(stereocentres(found)) == 0
    assert len(prochiral_pairs(found)) == 0


def test_branches_are_compared_to_their_ends():
    """C(H)(F) between two chains that differ only in their fourth atom."""
    types = ["C", "H", "F", "C", "C", "C", "C", "C", "C", "F", "Cl"]
    chains = [(0, 3), (3, 4), (4, 5), (0, 6), (6, 7), (7, 8), (5, 9)]
    different = molecule(types, [(0, 1), (0, 2), *chains, (8, 10)])
    assert stereocentres(different)[:, 0].tolist() == [0]
    same = molecule([*types[:10], "F"], [(0, 1), (0, 2), *chains, (8, 10)])
    assert len(stereocentres(same)) == 0


def test_ranks_do_not_depend_on_the_order_of_atoms():
    types = ["C", "H", "F", "C", "H", "H", "Cl", "C", "H", "H", "H"]
    bonds = [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5), (3, 6), (0, 7), (7, 8), (7, 9), (7, 10)]
    ranks = canonical_ranks(molecule(types, bonds))
    assert ranks[8] == ranks[9] == ranks[10] != ranks[4] == ranks[5]
    order = np.random.default_rng(3).permutation(len(types))
    place = np.argsort(order)
    shuffled = molecule([types[a] for a in order], [(place[a], place[b]) for a, b in bonds])
    assert np.array_equal(canonical_ranks(shuffled), ranks[order])


def test_polystyrene_has_nine_centres_and_ten_pairs():
    """The last CH2 is no centre; the CH3 has no labels (spec 1.1)."""
    found = read_topology(reference_folder() / "topol.top").molecule_types[0]
    centres = stereocentres(found)[:, 0] + 1
    assert centres.tolist() == [5 + 16 * m for m in range(9)]
    pairs = prochiral_pairs(found)
    assert (pairs[:, 0] + 1).tolist() == [2 + 16 * m for m in range(1, 10)] + [149]
    assert (pairs[:-1, 3:] + 1).tolist() == [[1 + 16 * m, 3 + 16 * m] for m in range(1, 10)]


def pushed(positions, height):
    """The centre moved along the bond to its light branch (atom 1), away from it."""
    moved = positions.copy()
    moved[0] -= height * positions[1] / np.linalg.norm(positions[1])
    return moved


@pytest.mark.parametrize("height", [0.0, 0.02])
def test_both_tests_of_a_healthy_centre_agree(height):
    found, positions = tetrahedral(("H", "F", "Cl", "Br"))
    centres = stereocentres(found)
    seen = seen_from_the_centre(centres, found.masses)
    for image in (positions, positions * [1, 1, -1]):
        frame = structure(pushed(image, height))
        assert handedness(frame, seen).tolist() == handedness(frame, centres).tolist() != [0]


def test_a_centre_pushed_through_its_heavy_branches_is_wrong_by_side_alone():
    found, positions = tetrahedral(("H", "F", "Cl", "Br"))
    centres = stereocentres(found)
    seen = seen_from_the_centre(centres, found.masses)
    right = structure(positions)
    through = structure(pushed(positions, 0.05))
    assert handedness(through, centres).tolist() == handedness(right, centres).tolist()
    assert handedness(through, seen).tolist() == (-handedness(right, seen)).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_branches_does_not_matter_to_their_agreement(seed):
    found, positions = tetrahedral(("H", "F", "Cl", "Br"))
    centres = stereocentres(found)
    shuffled = centres[:, [0, *(1 + np.random.default_rng(seed).permutation(4))]]
    frame = structure(positions)
    seen = seen_from_the_centre(shuffled, found.masses)
    assert handedness(frame, seen).tolist() == handedness(frame, shuffled).tolist()

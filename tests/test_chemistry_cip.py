"""Priorities of Cahn, Ingold and Prelog: what textbooks say of small molecules."""

from itertools import permutations

import numpy as np
import pytest

from deepbackmap.chemistry import stereo
from deepbackmap.chemistry.cip import Priorities, sign_of_order
from deepbackmap.system import Structure
from evaluation_systems import molecule

BOX = 10.0 * np.eye(3)
CORNERS = np.array([[0, 0, 0.1], [0.09, 0, -0.03], [-0.05, 0.08, -0.03], [-0.05, -0.08, -0.03]])
"""From above, the side that the first one is on, the others run counterclockwise."""


def centre_with(*groups):
    """A carbon that bears groups, each a list of (element, place in the group it is bonded to)."""
    types, bonds, heads = ["C"], [], []
    for group in groups:
        start = len(types)
        heads.append(start)
        for element, parents in group:
            parents = parents if isinstance(parents, tuple) else (parents,)
            for parent in parents:
                bonds.append((0 if parent is None else start + parent, len(types)))
            types.append(element)
    return molecule(types, bonds), heads


METHYL = [("C", None), ("H", 0), ("H", 0), ("H", 0)]
ETHYL = [("C", None), ("C", 0), ("H", 0), ("H", 0), ("H", 1), ("H", 1), ("H", 1)]
HYDROXYL = [("O", None), ("H", 0)]
AMINO = [("N", None), ("H", 0), ("H", 0)]
CARBOXYL = [("C", None), ("O", 0), ("O", 0), ("H", 2)]
ALDEHYDE = [("C", None), ("O", 0), ("H", 0)]
HYDROXYMETHYL = [("C", None), ("O", 0), ("H", 0), ("H", 0), ("H", 1)]
ISOPROPYL = [("C", None), ("C", 0), ("C", 0), ("H", 0), *[("H", 1)] * 3, *[("H", 2)] * 3]
CYCLOPROPYL = [("C", None), ("C", 0), ("C", (0, 1)), ("H", 0), *[("H", 1)] * 2, *[("H", 2)] * 2]
VINYL = [("C", None), ("C", 0), ("H", 0), ("H", 1), ("H", 1)]
TERTBUTYL = [("C", None), *[("C", 0)] * 3, *[("H", 1)] * 3, *[("H", 2)] * 3, *[("H", 3)] * 3]
PHENYL = [
    *[("C", None), ("C", 0), ("C", 1), ("C", 2), ("C", 3), ("C", (4, 0))],
    *[("H", k) for k in range(1, 6)],
]
HYDROGEN = [("H", None)]


@pytest.mark.parametrize(
    "groups",
    [
        ([("Br", None)], [("Cl", None)], [("F", None)], HYDROGEN),
        (AMINO, CARBOXYL, METHYL, HYDROGEN),  # alanine
        (HYDROXYL, ALDEHYDE, HYDROXYMETHYL, HYDROGEN),  # glyceraldehyde
        (HYDROXYL, PHENYL, METHYL, HYDROGEN),  # 1-phenylethanol
        (HYDROXYL, ETHYL, METHYL, HYDROGEN),  # 2-butanol
        (HYDROXYL, VINYL, ISOPROPYL, HYDROGEN),
        (TERTBUTYL, CYCLOPROPYL, ISOPROPYL, ETHYL),
        (PHENYL, TERTBUTYL, VINYL, METHYL),
        (CARBOXYL, HYDROXYMETHYL, PHENYL, ISOPROPYL),
    ],
)
def test_branches_rank_as_textbooks_say_in_whatever_order_they_are_listed(groups):
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        found, heads = centre_with(*(groups[k] for k in order))
        ranked = Priorities(found).order(0, heads)
        assert [order[heads.index(b)] for b in ranked] == [0, 1, 2, 3]


def test_branches_that_are_alike_are_not_ranked():
    found, heads = centre_with(HYDROXYL, ETHYL, ETHYL, HYDROGEN)
    assert Priorities(found).order(0, heads) is None
    assert Priorities(found).order(0, heads[:2]) == heads[:2]


def test_chains_that_differ_at_their_far_end_are_ranked():
    long = [("C", None), *[("C", k) for k in range(30)], ("Cl", 30)]
    short = [("C", None), *[("C", k) for k in range(30)], ("F", 30)]
    found, heads = centre_with(short, HYDROXYL, long, HYDROGEN)
    assert Priorities(found).order(0, heads) == [heads[k] for k in (1, 2, 0, 3)]


def placed(groups, at):
    """The centre at the origin and the first atom of every group at a corner of a tetrahedron."""
    found, heads = centre_with(*groups)
    x = np.zeros((found.n_atoms, 3))
    x[heads] = CORNERS[list(at)]
    return found, heads, Structure(x, BOX)


def handed(found, heads, structure):
    """Whether the sign of a structure is that of R (1) or of S (-1), for one order of branches."""
    order = Priorities(found).order(0, heads)
    rows = np.array([[0, *heads]])
    return int(stereo.handedness(structure, rows)[0]) * sign_of_order(order, heads)


def test_l_alanine_is_s_and_its_mirror_image_is_r():
    # Seen from the hydrogen, CO, R and N of an L amino acid run clockwise (the "CORN" rule).
    groups = (HYDROGEN, AMINO, METHYL, CARBOXYL)
    found, heads, structure = placed(groups, (0, 1, 2, 3))  # CO, R, N: 3, 2, 1, clockwise
    assert handed(found, heads, structure) == -1
    assert handed(found, heads, Structure(-structure.positions, BOX)) == 1


def test_sign_of_r_is_one_for_all_even_orders_and_the_other_for_odd_ones():
    groups = ([("Br", None)], [("Cl", None)], [("F", None)], HYDROGEN)
    # From opposite the hydrogen Br, Cl, F run clockwise: R. CORNERS counts from the H side.
    found, heads, structure = placed(groups, (1, 2, 3, 0))
    assert handed(found, heads, structure) == 1
    for row in permutations(heads):
        sign = stereo.handedness(structure, np.array([[0, *row]]))[0]
        assert sign == sign_of_order(heads, row)

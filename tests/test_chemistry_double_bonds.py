"""Double bonds on molecules made by hand."""

import numpy as np
import pytest
import torch

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.chemistry.double_bonds import WantedSides, double_bonds, sides
from deepbackmap.chemistry.hands import sides_from_reference
from deepbackmap.system import BondedTerms
from evaluation_systems import molecule, rotation, scattered, structure, topology

BUTENE = [(0, 1), (1, 2), (2, 3), (1, 4), (2, 5)]
"""F-C(H)=C(H)-F without what hangs on the ends."""
TYPES = ("F", "C", "C", "F", "H", "H")
FLAT = np.array(
    [[-0.07, 0.12, 0], [0, 0, 0], [0.13, 0, 0], [0.2, 0.12, 0], [-0.06, -0.1, 0], [0.2, -0.1, 0]]
)


def torsions(k, atoms=((0, 1, 2, 3), (0, 1, 2, 5), (4, 1, 2, 3), (4, 1, 2, 5)), multiplicity=2):
    rows = np.array(atoms, dtype=np.int64)
    return {"proper": BondedTerms(rows, np.tile([np.pi, k, multiplicity], (len(rows), 1)))}


def turned(angle):
    """One end turned about the double bond by an angle in degrees."""
    positions = FLAT.copy()
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    positions[[3, 5]] = positions[[3, 5]] @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    return positions


def test_four_torsions_that_add_up_make_a_double_bond():
    assert double_bonds(molecule(TYPES, BUTENE, terms=torsions(20.0))).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("k", "many"), [(33.5, 1), (4.0, 0)])
def test_a_single_term_is_enough_if_its_barrier_is_high(k, many):
    """33.5 kJ/mol is a GROMOS amide."""
    found = double_bonds(molecule(TYPES, BUTENE, terms=torsions(k, atoms=[(0, 1, 2, 3)])))
    assert len(found) == many


def test_an_improper_along_the_bond_holds_it_as_well():
    rows = np.array([[0, 1, 2, 3]])
    held = {"improper": BondedTerms(rows, np.array([[0.0, 167.0]]))}
    assert len(double_bonds(molecule(TYPES, BUTENE, terms=held))) == 1


@pytest.mark.parametrize(
    ("types", "bonds"),
    [
        (("F", "C", "C", "F", "F", "H"), BUTENE),  # two equal branches: neither cis nor trans
        (("F", "C", "C", "F", "H", "H", "H"), [*BUTENE, (1, 6)]),  # four neighbours: not flat
        (("C", "C", "C", "C", "H", "H"), [*BUTENE, (0, 3)]),  # a ring holds them
    ],
)
def test_what_is_none(types, bonds):
    assert len(double_bonds(molecule(types, bonds, terms=torsions(60.0)))) == 0


@pytest.mark.parametrize(("angle", "sign"), [(0, 1), (50, 1), (-80, 1), (100, -1), (180, -1)])
def test_cis_and_trans_anywhere_in_the_cell(angle, sign):
    bonds = double_bonds(molecule(TYPES, BUTENE, terms=torsions(60.0)))
    positions = turned(angle) @ rotation(3) + [0.4, -1.0, 5.0]
    assert sides(scattered(positions, seed=2), bonds).tolist() == [sign]
    mirrored = structure(positions * [1, 1, -1])
    assert sides(mirrored, bonds).tolist() == [sign], "a mirror leaves cis what it is"


# --- wanted sides ---------------------------------------------------------------------------------


def wanted(*rows):
    """Sides by rows of four atoms and 1 or -1."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 5)
    return WantedSides(table[:, :4], table[:, 4])


@pytest.mark.parametrize(
    ("told", "side"),
    [
        ((0, 1, 2, 3, 1), 1),
        ((3, 2, 1, 0, 1), 1),  # read from the other end
        ((4, 1, 2, 3, 1), -1),  # the other branch of one end is on the other side
        ((0, 1, 2, 5, -1), 1),
        ((4, 1, 2, 5, 1), 1),
    ],
)
def test_a_side_is_told_by_any_branches(told, side):
    bonds = double_bonds(molecule(TYPES, BUTENE, terms=torsions(60.0)))
    found = wanted(told).among(bonds)
    assert found.atoms.tolist() == bonds.tolist()
    assert found.side.tolist() == [side]
    # the law behind it: where the told side is right, the side of the rows is
    for angle in (0, 180):
        frame = structure(turned(angle))
        told_right = sides(frame, np.array([told[:4]]))[0] == told[4]
        assert (sides(frame, bonds)[0] == found.side[0]) == told_right


def test_bonds_that_no_force_holds_are_looked_at_where_they_are_wanted():
    bonds = np.array([[0, 1, 2, 3]])
    found = wanted((6, 7, 8, 9, -1)).among(bonds)
    assert found.atoms.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert found.side.tolist() == [0, -1]
    assert WantedSides.nothing().among(bonds).side.tolist() == [0]


def test_the_first_source_is_believed():
    found = wanted((0, 1, 2, 3, 1)).before(wanted((5, 2, 1, 4, 1), (6, 7, 8, 9, -1)))
    assert found.atoms.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert found.side.tolist() == [1, -1]


@pytest.mark.parametrize("whole", [True, False])
def test_sides_of_a_reference(whole):
    """The system, or one molecule for all of its type."""
    kind = molecule(TYPES, BUTENE, terms=torsions(60.0))
    system = topology(kind, counts=[3])
    shapes = [turned(0), turned(180), turned(0)] if whole else [turned(180)]
    like = np.concatenate([x + np.array([0, 0, k]) for k, x in enumerate(shapes)])
    found = sides_from_reference(system, structure(like))
    assert found.atoms.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9], [12, 13, 14, 15]]
    assert found.side.tolist() == ([1, -1, 1] if whole else [-1, -1, -1])


def test_samplers_place_anew_what_is_cis_for_trans():
    none = torch.zeros((0, 5), dtype=torch.int64)
    hands = Handedness(none, none[:, 0], wanted((0, 1, 2, 3, 1)))
    assert not hands.any_wrong(turned(20) + 7.0, np.ones(len(turned(20))))
    assert hands.any_wrong(turned(160) + 7.0, np.ones(len(turned(160))))
    assert not Handedness(none, none[:, 0]).any_wrong(turned(160), np.ones(len(turned(160))))

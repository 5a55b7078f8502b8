"""Double bonds on molecules made by hand."""

import numpy as np
import pytest

from deepbackmap.chemistry.double_bonds import double_bonds, sides
from deepbackmap.system import BondedTerms
from evaluation_systems import molecule, rotation, scattered, structure

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

"""Centres from the topology alone: backbones, side groups, selections."""

import dataclasses

import numpy as np
import pytest

from deepbackmap.errors import InputError
from deepbackmap.similarity.centres import (
    ALL_HEAVY,
    SIDE_GROUPS,
    backbones,
    find_centres,
    side_group_atoms,
)
from deepbackmap.system import MoleculeType
from evaluation_systems import molecule, topology

RING = 6


def chain_with(side, monomers):
    """A main chain of CH2-CH(side) monomers with a CH3 in front, heavy atoms only.

    ``side`` are bonds among the side group's atoms, the first of which is bonded to CH.
    """
    size = 1 + max((a for bond in side for a in bond), default=0)
    bonds, carriers, last, n = [], [], None, 0
    for _ in range(monomers):
        bonds += [(n, n + 1), *([(last, n)] if last is not None else [])]
        bonds += [(n + 1, n + 2), *((n + 2 + a, n + 2 + b) for a, b in side)]
        carriers.append(n + 1)
        last, n = n + 1, n + 2 + size
    return molecule(["C"] * n, bonds), carriers


PHENYL = [(k, (k + 1) % RING) for k in range(RING)]


@pytest.mark.parametrize(
    "side",
    [[], [(0, 1)], PHENYL, [*PHENYL, (3, 6)], [*PHENYL, (2, 6), (6, 7), (7, 8), (8, 3)]],
    ids=["methyl", "ethyl", "phenyl", "tolyl", "two fused rings"],
)
def test_every_backbone_atom_that_carries_a_side_group(side):
    chain, carriers = chain_with(side, 8)
    found = set(side_group_atoms(chain).tolist())
    # At an end a side group may be as long as what is left of the chain: either is the backbone.
    assert set(carriers[1:-1]) <= found <= set(carriers)


def test_polystyrene_has_one_centre_a_phenyl_ring_ends_included():
    chain, carriers = chain_with(PHENYL, 10)
    assert side_group_atoms(chain).tolist() == carriers


def test_hydrogens_are_no_side_groups():
    ethane = molecule(["C", "C", *"HHHHHH"], [(0, 1), *((k // 3, k + 2) for k in range(6))])
    assert side_group_atoms(ethane).tolist() == []


def test_rings_in_the_main_chain_belong_to_the_backbone():
    # five rings in a row, each bonded by its atoms 0 and 2 and carrying a chain of three at 1
    bonds = []
    for k in range(5):
        first = 8 * k
        bonds += [(first + a, first + (a + 1) % 5) for a in range(5)]
        bonds += [(first + 1, first + 5), (first + 5, first + 6), (first + 6, first + 7)]
        bonds += [(first - 8 + 2, first)] if k else []
    thiophene = molecule(["C"] * 40, bonds)
    found = side_group_atoms(thiophene).tolist()
    assert [8 * k + 1 for k in range(1, 4)] == [a for a in found if 8 <= a < 32]


def test_a_ring_polymer_has_a_backbone():
    n = 12
    big = [(k, (k + 1) % n) for k in range(n)]
    rings = [(n + 6 * k + a, n + 6 * k + b) for k in range(n // 2) for a, b in PHENYL]
    joints = [(2 * k, n + 6 * k) for k in range(n // 2)]
    cyclic = molecule(["C"] * (n + 6 * n // 2), big + rings + joints)
    assert side_group_atoms(cyclic).tolist() == list(range(0, n, 2))


def test_a_lone_ring_is_its_own_backbone():
    assert backbones(molecule(["C"] * 6, PHENYL)) == [list(range(6))]


def test_fragments_count_one_by_one():
    one, carriers = chain_with([], 4)
    two = molecule(
        ["C"] * (2 * one.n_atoms), [*one.bonds.tolist(), *(one.bonds + one.n_atoms).tolist()]
    )
    expected = carriers + [c + one.n_atoms for c in carriers]
    assert set(side_group_atoms(two).tolist()) <= set(expected)
    assert len(backbones(two)) == 2


def test_the_order_of_the_atoms_does_not_matter():
    chain, _ = chain_with(PHENYL, 6)
    place = np.random.default_rng(0).permutation(chain.n_atoms)
    shuffled = molecule(["C"] * chain.n_atoms, place[chain.bonds])
    assert sorted(place[side_group_atoms(chain)]) == side_group_atoms(shuffled).tolist()


def test_solvent_without_side_groups_is_left_out():
    chain, carriers = chain_with([(0, 1)], 4)
    water = molecule(["F", "H", "H"], [(0, 1), (0, 2)])
    found = find_centres(topology(chain, water, counts=[2, 50]))
    assert found.rule == SIDE_GROUPS
    assert found.atoms[1].tolist() == []
    assert set(found.atoms[0].tolist()) <= set(carriers)


def test_without_side_groups_all_heavy_atoms_are_centres_and_it_is_said():
    butane = molecule([*"CCCC", *"HH"], [(0, 1), (1, 2), (2, 3), (0, 4), (3, 5)])
    found = find_centres(topology(butane))
    assert found.rule == ALL_HEAVY
    assert found.atoms[0].tolist() == [0, 1, 2, 3]


def named(chain: MoleculeType, **fields) -> MoleculeType:
    return dataclasses.replace(chain, **fields)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [("name C2 C5", [1, 4]), ("type F", [3]), ("bonded type F", [2]), ("all", [0, 1, 2, 3, 4])],
)
def test_a_selection_chooses_heavy_atoms(selection, expected):
    some = molecule([*"CCCFC", "H"], [(0, 1), (1, 2), (2, 3), (2, 4), (4, 5)])
    found = find_centres(topology(some), selection)
    assert found.atoms[0].tolist() == expected
    assert selection in found.rule


@pytest.mark.parametrize("selection", ["name XX", "type H", "nonsense 3", "around 3 name C1"])
def test_a_selection_that_cannot_be_used_is_refused_by_name(selection):
    some = molecule([*"CC", "H"], [(0, 1), (1, 2)])
    with pytest.raises(InputError, match=f"topology: expected .*{selection}"):
        find_centres(topology(some), selection)


def test_a_topology_without_heavy_atoms_is_refused():
    with pytest.raises(InputError, match="expected heavy atoms"):
        find_centres(topology(molecule(["H", "H"], [(0, 1)])))

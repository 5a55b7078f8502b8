"""Block plans: sequences of polystyrene, roles against the topology, several molecule types."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from deepbackmap.blocks.index import build_blocks
from deepbackmap.blocks.plan import ANGLE, BOND, EXCLUDED, TORSION, build_plan, heavy_sequence
from deepbackmap.errors import InputError
from deepbackmap.mapping import load_mapping
from deepbackmap.methods.voxel.environment import role_bits
from deepbackmap.system import Topology
from small_polystyrene import ATOMS, BEAD_TYPES, BEADS, MONOMERS, TYPES, blocks, mapping


def listed(row):
    return row[row >= 0].tolist()


@pytest.fixture(scope="module")
def plan():
    return blocks().plan


def test_heavy_sequences_of_polystyrene(plan):
    # CH2 carbon, CH carbon; ring from the carbon that bears the chain, around the ring
    for m in range(MONOMERS):
        backbone, ring = listed(plan.heavy[2 * m]), listed(plan.heavy[2 * m + 1])
        assert [a + 1 - 16 * m for a in backbone] == [2, 5]
        assert [a + 1 - 16 * m for a in ring] == [6, 7, 9, 11, 13, 15]


def test_light_sequences_and_owners(plan):
    one_based = [[a + 1 for a in listed(row)] for row in plan.light]
    assert one_based == [
        [1, 3, 4, 49],  # with the third hydrogen of the CH3 end
        [8, 10, 12, 14, 16],
        [17, 19, 20],
        [24, 26, 28, 30, 32],
        [33, 35, 36, 50],
        [40, 42, 44, 46, 48],
    ]
    placed = [listed(h) + listed(li) for h, li in zip(plan.heavy, plan.light, strict=True)]
    assert [sorted(p) for p in placed] == [listed(o) for o in plan.owned]
    assert sorted(itertools.chain(*placed)) == list(range(ATOMS))
    for bead, atoms in enumerate(placed):
        assert set(plan.atom_owner[atoms].tolist()) == {bead}


def test_types_ranks_and_axes(plan):
    types = mapping().topology.molecule_types[0].atom_types
    assert [TYPES[k] for k in plan.atom_type] == list(types)
    assert [BEAD_TYPES[k] for k in plan.bead_type] == ["A", "B"] * MONOMERS
    assert plan.rank.tolist() == list(range(BEADS))
    # A: from the A bead before it (the first: to the one after it); B: from its own A bead
    assert plan.axis[:, :2].tolist() == [[0, 2], [0, 1], [0, 2], [2, 3], [2, 4], [4, 5]]
    for bead, (start, end, third) in enumerate(plan.axis.tolist()):
        assert third >= 0
        assert third not in (bead, start, end)


def brute_force_roles(molecule):
    """Sets of unordered pairs by role, straight from the terms."""
    found = {BOND: set(), ANGLE: set(), TORSION: set(), EXCLUDED: set()}
    of_kind = {"bond": BOND, "angle": ANGLE, "proper": TORSION, "improper": TORSION}
    for kind, terms in molecule.terms.items():
        for atoms in terms.atoms.tolist():
            found[of_kind[kind]] |= {frozenset(p) for p in itertools.combinations(atoms, 2)}
    found[EXCLUDED] = {frozenset(p) for p in molecule.exclusions.tolist()}
    return found


def all_bits(table):
    """Role bits of all ordered pairs of the first molecule."""
    i, j = torch.meshgrid(torch.arange(ATOMS), torch.arange(ATOMS), indexing="ij")
    return role_bits(table, i, j).numpy()


def test_roles_are_those_of_the_topology():
    molecule = mapping().topology.molecule_types[0]
    assert set(molecule.terms) == {"bond", "angle", "proper", "improper"}
    bits = all_bits(blocks())
    for bit, pairs in brute_force_roles(molecule).items():
        rows = np.argwhere(bits & bit)
        assert {frozenset(p) for p in rows.tolist()} == pairs
        assert len(rows) == 2 * len(pairs)  # both ways, and no atom with itself


def test_counts_of_roles_by_hand():
    """A monomer in the middle: bonds of its CH carbon, angles over it, no pair in its ring."""
    bits = all_bits(blocks())
    carbon = 16 + 4
    assert np.flatnonzero(bits[carbon] & BOND).tolist() == [17, 19, 21, 33]
    ring = [21, 22, 24, 26, 28, 30]
    hydrogens = [23, 25, 27, 29, 31]
    inside = ring + hydrogens
    assert all(bits[i, j] & EXCLUDED for i, j in itertools.permutations(inside, 2))
    # the ring's torsion role: every pair of ring carbons, from the six torsions around it
    assert all(bits[i, j] & TORSION for i, j in itertools.permutations(ring, 2))


def mixed():
    """Two kinds of chain, one of them in two runs."""
    long, short = mapping(3, 1).topology, mapping(2, 1).topology
    renamed = dataclasses.replace(short.molecule_types[0], name="PS2")
    return Topology(
        title="mixed",
        molecule_types=(long.molecule_types[0], renamed),
        blocks=((0, 1), (1, 2), (0, 1)),
        type_names=long.type_names,
        c6=long.c6,
        c12=long.c12,
    )


def test_several_molecule_types_keep_their_own_tables():
    system = load_mapping("ps-two-bead").resolve(mixed())
    plan = build_plan(system, TYPES, BEAD_TYPES)
    table = build_blocks(plan, system, torch.device("cpu"))
    alone = build_plan(mapping(2, 1), TYPES, BEAD_TYPES)
    assert plan.atom_kinds.tolist() == [0, 50, 84]
    assert plan.bead_kinds.tolist() == [0, 6, 10]
    assert [listed(r) for r in plan.heavy[6:]] == [listed(r) for r in alone.heavy]
    assert [listed(r) for r in plan.light[6:]] == [listed(r) for r in alone.light]
    assert np.array_equal(plan.axis[6:], alone.axis)
    i, j = torch.meshgrid(torch.arange(34), torch.arange(34), indexing="ij")
    expected = role_bits(blocks(2, 1), i, j)
    assert torch.equal(role_bits(table, i + 50, j), expected)
    # copies: the second run of the long chain counts on behind the short ones
    assert table.bead_molecule.tolist() == [0] * 6 + [1] * 4 + [2] * 4 + [3] * 6
    assert table.bead_first_atom[-6:].tolist() == [50 + 34 + 34] * 6
    assert table.atom_owner[-50:].tolist() == (plan.atom_owner[:50] + 14).tolist()


def test_other_type_names_are_refused():
    with pytest.raises(InputError, match=r"molecule 'PS1': atom type H_AR is unknown to the model"):
        build_plan(mapping(), ("C", "C_AR", "H"), BEAD_TYPES)
    with pytest.raises(InputError, match=r"molecule 'PS1': bead type B is unknown to the model"):
        build_plan(mapping(), TYPES, ("A",))


def sequence(bonds, n, *, owner=None, rank=(0,), bead=0):
    neighbours = [[] for _ in range(n)]
    for i, j in bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    owner = np.zeros(n, dtype=int) if owner is None else np.array(owner)
    return heavy_sequence(bead, owner, np.array(rank), np.ones(n, dtype=bool), neighbours)


def test_sequences_without_an_earlier_bead_start_at_an_end():
    # a chain 2-0-1-3: both ends have one neighbour, the lower index is taken
    assert sequence([(0, 2), (0, 1), (1, 3)], 4) == [2, 0, 1, 3]


def test_sequences_start_where_an_earlier_bead_is_attached():
    chain = [(0, 1), (1, 2), (2, 3)]
    assert sequence(chain, 4, owner=[1, 1, 1, 0], rank=[0, 1], bead=1) == [2, 1, 0]
    # the same with the neighbour later in the order: an end again
    assert sequence(chain, 4, owner=[1, 1, 1, 0], rank=[1, 0], bead=1) == [0, 1, 2]


def test_fragments_of_a_bead_follow_each_other():
    assert sequence([(0, 1), (2, 3)], 4) == [0, 1, 2, 3]

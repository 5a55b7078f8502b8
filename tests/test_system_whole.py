"""Molecules made whole: nothing moves but by lattice vectors, and every bond is short."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image, wrap
from deepbackmap.system import BondedTerms, MoleculeType, Topology
from deepbackmap.system.whole import bond_tree, bond_trees, make_whole

BOX = np.array([[3.0, 0, 0], [-1.4, 2.7, 0], [0.3, 1.1, 2.5]])


def molecule(name, n, bonds):
    empty = BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3)))
    array = np.array(bonds, dtype=np.int64).reshape(-1, 2)
    terms = {"bond": BondedTerms(array, np.ones((len(bonds), 2)))} if bonds else {}
    return MoleculeType(
        name=name,
        atom_names=tuple(f"C{i + 1}" for i in range(n)),
        atom_types=("C",) * n,
        residue_names=("R",) * n,
        residue_numbers=np.ones(n, dtype=np.int64),
        charges=np.zeros(n),
        masses=np.full(n, 12.0),
        terms=terms,
        nrexcl=2,
        exclusions=np.zeros((0, 2), dtype=np.int64),
        pairs=empty,
    )


def topology(*runs):
    return Topology(
        title="test",
        molecule_types=tuple(m for m, _ in runs),
        blocks=tuple((k, count) for k, (_, count) in enumerate(runs)),
        type_names=("C",),
        c6=np.zeros((1, 1)),
        c12=np.zeros((1, 1)),
        source="test.top",
    )


def random_walks(copies, n, parents, rng, step=0.15):
    """Molecules whose atoms sit one step from an earlier atom; longer than the box."""
    x = np.zeros((copies, n, 3))
    x[:, 0] = rng.uniform(0, 3, (copies, 3))
    for a in range(1, n):
        direction = rng.normal(size=(copies, 3)) + np.array([0.7, 0.4, 0.2])
        x[:, a] = x[:, parents[a]] + step * direction / np.linalg.norm(direction, axis=1)[:, None]
    return x.reshape(-1, 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 4))
def test_wrapped_molecules_come_back(seed, n, copies):
    rng = np.random.default_rng(seed)
    parents = [0] + [int(rng.integers(max(0, a - 3), a)) for a in range(1, n)]
    labels = rng.permutation(n)  # a bond may point to a higher index
    chain = molecule("M", n, [(labels[a], labels[parents[a]]) for a in range(1, n)])
    system = topology((chain, copies), (molecule("ION", 1, []), 5))
    truth = random_walks(copies, n, parents, rng).reshape(copies, n, 3)
    truth[:, labels] = truth.copy()
    ions = rng.uniform(0, 3, (5, 3))
    positions = np.concatenate([wrap(truth.reshape(-1, 3), BOX), ions])
    whole = make_whole(positions, BOX, system)
    moved = (whole - positions) @ np.linalg.inv(BOX)
    assert np.abs(moved - np.rint(moved)).max() < 1e-9
    assert np.array_equal(whole[-5:], ions)
    copy = whole[:-5].reshape(copies, n, 3)
    assert np.array_equal(copy[:, 0], positions[:-5].reshape(copies, n, 3)[:, 0])
    assert np.abs((copy - copy[:, :1]) - (truth - truth[:, :1])).max() < 1e-9


def test_fragments_stay_apart_and_rings_close():
    ring = molecule("RING", 8, [(0, 1), (1, 2), (2, 3), (3, 0), (5, 6), (6, 7)])
    tree = bond_tree(ring)
    assert tree.parent.tolist() == [0, 0, 1, 0, 4, 5, 5, 6]
    assert len(tree.closures) == 1
    rng = np.random.default_rng(0)
    flat = np.array([[0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0], [0, 0.1, 0]])
    rest = rng.uniform(0, 2, (1, 3)) + 0.1 * np.arange(4)[:, None]
    truth = np.concatenate([flat + 2.45, rest])
    system = topology((ring, 1))
    whole = make_whole(wrap(truth, BOX), BOX, system, trees=bond_trees(system))
    for i, j in ring.bonds:
        assert np.allclose(whole[j] - whole[i], truth[j] - truth[i])


def test_molecule_bonded_to_its_own_image_is_refused():
    ring = molecule("NET", 6, [(k, (k + 1) % 6) for k in range(6)])
    along = np.arange(6)[:, None] / 6 * BOX[0]
    system = topology((ring, 1))
    with pytest.raises(InputError, match=r"frame\.gro: expected molecule 1 \(NET\) to close"):
        make_whole(along, BOX, system, source="frame.gro")


def test_bonds_longer_than_half_the_cell_are_refused():
    system = topology((molecule("ION", 1, []), 1), (molecule("M", 3, [(0, 1), (1, 2)]), 2))
    rng = np.random.default_rng(1)
    positions = np.concatenate([np.zeros((1, 3)), random_walks(2, 3, [0, 0, 1], rng)])
    make_whole(positions, BOX, system)
    positions[5] += [1.3, 0, 0]
    match = (
        r"a\.gro: expected bonds shorter than half the cell \(1\.\d+ nm\), found 1\.\d+ nm between "
    )
    with pytest.raises(InputError, match=match + r"atoms C1 and C2 of molecule 3 \(M\)"):
        make_whole(positions, BOX, system, source="a.gro")


def test_broken_molecules_stay_together_where_they_are_judged():
    """Not strict: the long bond goes to its nearest image, and the others are what they were."""
    system = topology((molecule("M", 3, [(0, 1), (1, 2)]), 2))
    rng = np.random.default_rng(1)
    positions = random_walks(2, 3, [0, 0, 1], rng).reshape(-1, 3)
    positions[4] += [1.3, 0, 0]
    positions[5] += [1.3, 0, 0]
    whole = make_whole(wrap(positions, BOX), BOX, system, strict=False)
    for a, b in ((0, 1), (1, 2), (3, 4), (4, 5)):
        nearest = minimum_image(positions[b] - positions[a], BOX)
        assert np.allclose(whole[b] - whole[a], nearest)


def test_wrong_number_of_atoms_is_refused():
    system = topology((molecule("M", 3, [(0, 1), (1, 2)]), 2))
    with pytest.raises(InputError, match=r"a\.gro: expected 6 atoms as in test\.top, found 5"):
        make_whole(np.zeros((5, 3)), BOX, system, source="a.gro")


def test_bonds_of_reference_like_chain_are_minimum_images():
    n = 400
    chain = molecule("LONG", n, [(a, a - 1) for a in range(1, n)])
    rng = np.random.default_rng(5)
    truth = random_walks(3, n, [max(0, a - 1) for a in range(n)], rng)
    whole = make_whole(wrap(truth, BOX), BOX, topology((chain, 3))).reshape(3, n, 3)
    bonds = np.diff(whole, axis=1)
    assert np.allclose(bonds, minimum_image(bonds, BOX))
    assert np.allclose(np.linalg.norm(bonds, axis=2), 0.15)

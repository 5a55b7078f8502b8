"""Radial distribution functions and close pairs: laws and hand values."""

from functools import partial

import numpy as np
import pytest

from deepbackmap.evaluation import Plan, measure
from deepbackmap.evaluation.contacts import (
    exclude_within_bonds,
    group_pairs,
    pairs_within_bonds,
    radial_distributions,
)
from deepbackmap.forcefield.contacts import Contacts
from deepbackmap.forcefield.nonbonded import neighbour_distances
from evaluation_systems import SKEWED, molecule, scattered, structure, topology

BUTANE = molecule(["C"] * 4, [(0, 1), (1, 2), (2, 3)])


def radial_distribution(frame, chosen, excluded):
    """g(r) of some atoms as one group."""
    (g,) = radial_distributions(frame, chosen, np.zeros(len(chosen), dtype=np.int64), excluded)
    return g


def atoms(n):
    """A system of single atoms."""
    return topology(molecule(["C"], []), counts=[n])


def test_pairs_within_bonds():
    assert pairs_within_bonds(BUTANE, 1).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert pairs_within_bonds(BUTANE, 2).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    assert len(pairs_within_bonds(BUTANE, 3)) == 6
    ring = molecule(["C"] * 6, [(k, (k + 1) % 6) for k in range(6)])
    assert len(pairs_within_bonds(ring, 3)) == 15


def test_an_ideal_gas_has_no_structure():
    n = 1500
    points = np.random.default_rng(0).uniform(size=(n, 3)) @ SKEWED
    g = radial_distribution(structure(points), np.arange(n), exclude_within_bonds(atoms(n), 3))
    assert g[50:].mean() == pytest.approx(1.0, abs=0.01)
    assert g[50:100].mean() == pytest.approx(g[100:].mean(), abs=0.01)


def test_a_lattice_has_its_coordination_numbers():
    grid = 0.405 * np.stack(np.meshgrid(*[np.arange(5)] * 3), axis=-1).reshape(-1, 3)
    frame = structure(grid, 5 * 0.405 * np.eye(3))
    n = len(grid)
    g = radial_distribution(frame, np.arange(n), exclude_within_bonds(atoms(n), 3))
    shells = 4 / 3 * np.pi * np.diff((0.01 * np.arange(151)) ** 3)
    neighbours = g * shells / 0.405**3
    # beyond half the cell (1.01 nm) too, where a pair has several images
    counted = {round(0.405 * np.sqrt(q), 4): c for q, c in
               ((1, 6), (2, 12), (3, 8), (4, 6), (5, 24), (6, 24), (8, 12))}  # fmt: skip
    for distance, count in counted.items():
        assert neighbours[int(distance / 0.01)] == pytest.approx(count), distance
    assert neighbours[:40].sum() == 0.0


def test_a_larger_cell_has_the_same_distribution():
    system = topology(BUTANE, counts=[20])
    rng = np.random.default_rng(2)
    chains = rng.uniform(size=(20, 1, 3)) @ SKEWED + 0.12 * np.arange(4)[:, None] * [1, 0.3, 0]
    points = chains.reshape(-1, 3)
    g = radial_distribution(scattered(points), np.arange(80), exclude_within_bonds(system, 3))
    doubled = topology(BUTANE, counts=[40])
    box = SKEWED * [[2.0], [1.0], [1.0]]
    larger = scattered(np.concatenate([points, points + SKEWED[0]]), box)
    twice = radial_distribution(larger, np.arange(160), exclude_within_bonds(doubled, 3))
    assert twice == pytest.approx(g)


def test_bonded_pairs_are_left_out():
    system = topology(BUTANE)
    points = 0.151 * np.arange(4)[:, None] * [1.0, 0.0, 0.0]
    near = exclude_within_bonds(system, 2)
    g = radial_distribution(structure(points), np.arange(4), near)
    assert np.flatnonzero(g).tolist() == [45]
    g = radial_distribution(structure(points), np.arange(4), exclude_within_bonds(system, 3))
    assert not g.any()


def test_an_image_of_an_excluded_pair_is_another_pair():
    system = topology(molecule(["C", "C"], [(0, 1)]))
    frame = structure([[0.0, 0.0, 0.0], [0.15, 0.0, 0.0]], np.diag([1.201, 4.0, 4.0]))
    g = radial_distribution(frame, np.arange(2), exclude_within_bonds(system, 1))
    # 1.051 nm the other way round, and each atom with its own image at 1.201
    assert np.flatnonzero(g).tolist() == [105, 120, 135]


def test_groups_of_atoms_have_their_own_distributions():
    """Counts of pairs of groups add up to those of all; a group alone is what it is alone."""
    rng = np.random.default_rng(5)
    n, frame = 240, structure(rng.uniform(size=(240, 3)) @ SKEWED)
    groups, near = rng.integers(0, 3, n), exclude_within_bonds(atoms(n), 3)
    curves = radial_distributions(frame, np.arange(n), groups, near)
    sizes = np.bincount(groups)
    assert len(curves) == 1 + 6
    total = sum(
        (1 if a == b else 2) * sizes[a] * sizes[b] * g
        for (a, b), g in zip(group_pairs(3), curves[1:], strict=True)
    )
    assert total == pytest.approx(n * n * curves[0])
    for k, place in ((0, 1), (1, 4), (2, 6)):
        alone = np.flatnonzero(groups == k)
        assert curves[place] == pytest.approx(radial_distribution(frame, alone, near))


def test_large_boxes_are_counted_in_slabs(monkeypatch):
    box = np.array([[2.6, 0.0, 0.0], [0.4, 2.5, 0.0], [-0.3, 0.5, 9.0]])
    n, rng = 300, np.random.default_rng(6)
    frame, near = (
        structure(rng.uniform(size=(300, 3)) @ box, box),
        exclude_within_bonds(atoms(n), 3),
    )
    whole = radial_distribution(frame, np.arange(n), near)
    in_slabs = partial(neighbour_distances, atoms_at_once=40)
    assert len(list(in_slabs(frame.positions, box, 1.5))) > 3
    monkeypatch.setattr("deepbackmap.evaluation.contacts.neighbour_distances", in_slabs)
    assert radial_distribution(frame, np.arange(n), near) == pytest.approx(whole)


def test_close_pairs_are_in_units_of_sigma():
    system = atoms(3)
    frame = scattered(np.array([[0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [1.2, 0.0, 0.0]]))
    found = Contacts(system).near(frame)
    assert found.relative.tolist() == pytest.approx([0.5])
    assert found.distances.tolist() == pytest.approx([0.15])
    assert np.sort(found.pairs).tolist() == [[0, 1]]
    assert len(Contacts(system).within(frame, 0.14)[0]) == 0
    assert np.sort(Contacts(system).within(frame, 0.16)[0]).tolist() == [[0, 1]]


def test_excluded_pairs_are_not_close():
    bonded = molecule(["C", "C"], [(0, 1)], exclusions=[(0, 1)])
    system = topology(bonded, counts=[2])
    points = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.21, 0.0], [0.1, 0.21, 0.0]])
    found = Contacts(system).near(scattered(points))
    assert found.relative[0] == pytest.approx(0.7)
    frame = scattered(points * [1.0, 0.8, 1.0])
    nearer = Contacts(system).near(frame)
    assert nearer.relative[0] == pytest.approx(0.56)
    close = nearer.pairs[nearer.relative < 0.6]
    assert sorted(np.sort(close).tolist()) == [[0, 2], [1, 3]]
    pairs, apart = Contacts(system).within(frame, 0.17)
    assert sorted(np.sort(pairs).tolist()) == [[0, 2], [1, 3]]
    assert apart == pytest.approx([0.168, 0.168])


def test_overlaps_are_counted_without_lennard_jones():
    """Without a sigma no pair clashes, but one atom cannot be where another is."""
    system = topology(molecule(["C"], []), counts=[3], epsilon=0.0)
    frame = structure([[0.0, 0.0, 0.0], [0.015, 0.0, 0.0], [0.3, 0.0, 0.0]])
    found = measure(Plan.from_topology(system), [frame])
    assert (found.closest[0], found.overlaps[0], found.clashes[0]) == (np.inf, 1, 0)
    assert found.nearest[0] == pytest.approx(0.015)

"""Positions and velocities brought onto fixed bonds; boxes and names as engines want them."""

import dataclasses

import numpy as np
import pytest

from bonded_molecules import molecule
from deepbackmap.dynamics.boxes import check_box, reduced
from deepbackmap.dynamics.constraints import Constraints, thermal_velocities
from deepbackmap.dynamics.containers import EngineError
from deepbackmap.dynamics.naming import Atoms
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure, Topology


def system(*blocks):
    """A topology of (molecule type, count)."""
    kinds = tuple(m for m, _ in blocks)
    counts = tuple((k, count) for k, (_, count) in enumerate(blocks))
    return Topology("test", kinds, counts, ("A",), np.ones((1, 1)), np.ones((1, 1)))


def ring(n=6, length=0.14):
    """A ring with a light atom on every corner: each bond shares atoms with three others."""
    heavy = [(k, (k + 1) % n, length) for k in range(n)]
    light = [(k, n + k, 0.108) for k in range(n)]
    return molecule("ring", [12.0] * n + [1.0] * n, heavy + light)


def ring_positions(n=6, length=0.14):
    angle = 2 * np.pi * np.arange(n) / n
    out = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], axis=1)
    radius = length / (2 * np.sin(np.pi / n))
    return np.concatenate([radius * out, (radius + 0.108) * out])


def test_two_atoms_meet_in_proportion_to_their_masses():
    topology = system((molecule("pair", [1.0, 3.0], [(0, 1, 0.1)]), 1))
    fixed = Constraints.of(topology, bonds=True)
    found = fixed.project(np.array([[0.0, 0.0, 0.0], [0.14, 0.0, 0.0]]))
    np.testing.assert_allclose(found, [[0.03, 0, 0], [0.13, 0, 0]], atol=1e-8)


@pytest.mark.parametrize("noise", [0.002, 0.03])
def test_rings_come_to_their_lengths_and_keep_their_centre_and_spin(noise):
    rng = np.random.default_rng(2)
    topology = system((ring(), 20))
    fixed = Constraints.of(topology, bonds=True)
    start = np.concatenate([ring_positions() + 3.0 * k for k in range(20)])
    start += noise * rng.normal(size=start.shape)
    found = fixed.project(start)
    assert np.abs(fixed.deviations(found)).max() < 1e-8
    assert np.abs(fixed.deviations(start)).max() > noise
    masses = fixed.masses[:, None]
    moved = (masses * (found - start)).reshape(20, 12, 3).sum(axis=1)
    np.testing.assert_allclose(moved, 0.0, atol=1e-10)


def test_velocities_keep_lengths_and_lose_nothing_else():
    rng = np.random.default_rng(3)
    topology = system((ring(), 3))
    fixed = Constraints.of(topology, bonds=True)
    place = np.concatenate([ring_positions() + k for k in range(3)])
    velocities = rng.normal(size=place.shape)
    found = fixed.project_velocities(place, velocities)
    i, j = fixed.atoms.T
    along = ((found[i] - found[j]) * (place[i] - place[j])).sum(axis=1)
    np.testing.assert_allclose(along, 0.0, atol=1e-10)
    np.testing.assert_allclose(fixed.project_velocities(place, found), found, atol=1e-10)
    # what is taken away is orthogonal to what is kept, in the metric of the masses
    masses = fixed.masses[:, None]
    assert (masses * found * (velocities - found)).sum() == pytest.approx(0.0, abs=1e-6)


def test_a_constraint_counts_before_a_bond_and_bonds_only_if_asked_for():
    kind = molecule("both", [1.0] * 3, [(0, 1, 0.1), (2, 1, 0.2)], [(1, 0, 0.15)])
    topology = system((kind, 2))
    fixed = Constraints.of(topology, bonds=True)
    assert fixed.atoms.tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]
    assert fixed.lengths.tolist() == [0.15, 0.2, 0.15, 0.2]
    assert Constraints.of(topology, bonds=False).atoms.tolist() == [[0, 1], [3, 4]]


def test_lengths_that_cannot_be_met_are_named():
    impossible = [(0, 1, 0.1), (1, 2, 0.1), (0, 2, 0.5)]
    kind = molecule("triangle", [1.0] * 3, impossible)
    fixed = Constraints.of(system((ring(), 1), (kind, 1)), bonds=True)
    place = np.concatenate([ring_positions(), [[0, 0, 0], [0.1, 0, 0], [0.1, 0.1, 0]]])
    with pytest.raises(EngineError, match=r"atoms A\d and A\d of molecule 2 \(triangle\)"):
        fixed.project(place)
    with pytest.raises(EngineError, match=r"atoms A1 and A2 of molecule 2 .* at one point"):
        fixed.project(np.concatenate([ring_positions(), np.zeros((3, 3))]))


def test_thermal_velocities_have_the_temperature_and_follow_the_seed():
    masses = np.repeat([1.0, 12.0], 20_000)
    found = thermal_velocities(masses, 300.0, 7)
    for mass in (1.0, 12.0):
        spread = found[masses == mass].std()
        assert spread == pytest.approx(np.sqrt(BOLTZMANN * 300.0 / mass), rel=0.01)
    np.testing.assert_array_equal(found, thermal_velocities(masses, 300.0, 7))
    assert not np.array_equal(found, thermal_velocities(masses, 300.0, 8))


def test_reduced_boxes_are_the_same_lattice():
    rng = np.random.default_rng(4)
    for _ in range(50):
        box = np.tril(rng.uniform(-6.0, 6.0, (3, 3)))
        np.fill_diagonal(box, rng.uniform(1.0, 3.0, 3))
        found = reduced(box)
        np.testing.assert_allclose(found.diagonal(), box.diagonal())
        change = found @ np.linalg.inv(box)
        np.testing.assert_allclose(change, np.rint(change), atol=1e-9)
        a, b, c = found
        assert abs(b[0]) <= a[0] / 2 + 1e-9
        assert abs(c[0]) <= a[0] / 2 + 1e-9
        assert abs(c[1]) <= b[1] / 2 + 1e-9
    check_box(np.eye(3) * 2.0, 1.0)
    with pytest.raises(EngineError, match=r"at least 2 nm .* found 1.9 nm"):
        check_box(np.diag([3.0, 1.9, 3.0]), 1.0)


def test_contacts_are_named_and_excluded_ones_are_not():
    kind = molecule("pair", [12.0] * 2, [(0, 1, 0.1)])
    kind = dataclasses.replace(kind, exclusions=np.array([[0, 1]]))
    atoms = Atoms(system((kind, 3)))
    place = np.array([[0, 0, 0], [0.05, 0, 0], [1, 1, 1], [1.1, 1, 1], [2, 2, 2], [1.95, 2, 2]])
    box = np.eye(3) * 4.0
    assert atoms.closest_contact(Structure(place, box)) == ""
    place[5] = [1.1, 1.0, 1.07 - 4.0]
    assert atoms.closest_contact(Structure(place, box)) == (
        "atom A2 of molecule 2 (pair) and atom A2 of molecule 3 (pair) are 0.0700 nm apart"
    )
    assert atoms.describe(2, 3) == "atoms A1 and A2 of molecule 2 (pair)"
    assert atoms.describe(5) == "atom A2 of molecule 3 (pair)"

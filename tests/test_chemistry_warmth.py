"""Angle energy that a temperature allows: counts known from textbooks, and dynamics by hand."""

import math

import numpy as np
import pytest

from deepbackmap.chemistry.warmth import AngleFreedom, angle_energies
from deepbackmap.forcefield.system import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import BondedTerms
from evaluation_systems import molecule, reference_folder, topology


def system(types, bonds, theta0, kind="angle", k=300.0):
    """Every angle of a bond graph, all with the same parameters."""
    around = {a: sorted({x for b in bonds if a in b for x in b} - {a}) for a in range(len(types))}
    rows = [
        (i, centre, j) for centre, found in around.items() for i in found for j in found if i < j
    ]
    listed = BondedTerms(
        np.array(rows, dtype=np.int64).reshape(-1, 3), np.tile([theta0, k], (len(rows), 1))
    )
    return topology(molecule(types, bonds, terms={kind: listed}))


def star(arms, theta0, **more):
    return system(("C", *("H",) * arms), [(0, k + 1) for k in range(arms)], theta0, **more)


TETRAHEDRAL, FLAT = math.acos(-1.0 / 3.0), 2.0 * math.pi / 3.0


@pytest.mark.parametrize("kind", ["angle", "angle_g96"])
@pytest.mark.parametrize(
    ("arms", "theta0", "degrees"),
    [
        (2, 1.9, 1),  # water
        (3, FLAT, 2),  # three angles that add up to a full turn
        (3, 1.87, 3),  # ammonia
        (4, TETRAHEDRAL, 5),  # methane: six angles, one of them follows from the others
    ],
)
def test_independent_angles_about_a_centre(arms, theta0, degrees, kind):
    found = AngleFreedom.from_topology(star(arms, theta0, kind=kind))
    assert found.degrees.tolist() == [degrees, *[0.0] * arms]
    assert found.strain[0] == pytest.approx(0.0, abs=0.02)


def test_an_octahedron_has_all_that_six_arms_have():
    """Twelve ways to turn six arms, less the three of the whole: right angles and straight ones."""
    axes = np.concatenate([np.eye(3), -np.eye(3)])
    pairs = [(i, j) for i in range(6) for j in range(i)]
    listed = BondedTerms(
        np.array([(1 + i, 0, 1 + j) for i, j in pairs]),
        np.array([(math.acos(axes[i] @ axes[j]), 300.0) for i, j in pairs]),
    )
    types, bonds = ("C", *("H",) * 6), [(0, k + 1) for k in range(6)]
    found = AngleFreedom.from_topology(topology(molecule(types, bonds, terms={"angle": listed})))
    assert found.degrees[0] == 9.0
    assert found.strain[0] == pytest.approx(0.0, abs=1e-5)


def test_a_linear_molecule_bends_two_ways():
    assert AngleFreedom.from_topology(star(2, math.pi)).degrees[0] == 2.0


def test_angles_that_do_not_fit_together_are_strained():
    """Three angles of 125 degrees about a flat centre: each is 5 degrees off at rest."""
    off = math.radians(5.0)
    found = AngleFreedom.from_topology(star(3, FLAT + off, k=400.0))
    assert found.degrees[0] == 2.0
    assert found.strain[0] == pytest.approx(3 * 0.5 * 400.0 * off**2, rel=0.02)


def ring(size, extra, theta0):
    """A ring with so many hydrogens on each of its atoms."""
    bonds = [tuple(sorted((k, (k + 1) % size))) for k in range(size)]
    bonds += [(k, size + extra * k + e) for k in range(size) for e in range(extra)]
    return system(("C",) * size + ("H",) * (size * extra), bonds, theta0)


@pytest.mark.parametrize(
    ("size", "extra", "theta0", "degrees"),
    [
        (6, 1, FLAT, 9),  # benzene: 3 of the ring and 6 of its hydrogens, in the plane
        (6, 2, TETRAHEDRAL, 30),  # cyclohexane: closure takes torsions, not angles
        (5, 2, TETRAHEDRAL, 24),
    ],
)
def test_rings_take_what_closes_them(size, extra, theta0, degrees):
    assert AngleFreedom.from_topology(ring(size, extra, theta0)).degrees.sum() == pytest.approx(
        degrees
    )


def test_rigid_water_has_no_angle_left():
    rigid = system(("C", "H", "H"), [(0, 1), (0, 2), (1, 2)], 1.9)
    assert AngleFreedom.from_topology(rigid).degrees.sum() == 0.0


def test_copies_have_the_same(monkeypatch):
    one = star(4, TETRAHEDRAL)
    many = topology(*one.molecule_types, counts=[3])
    assert AngleFreedom.from_topology(many).degrees.tolist() == [5.0, 0, 0, 0, 0] * 3


@pytest.mark.parametrize(("arms", "theta0"), [(3, FLAT), (3, 1.87), (4, TETRAHEDRAL)])
def test_arms_that_turn_at_a_temperature_have_that_energy(arms, theta0):
    """Monte Carlo of unit arms with these angles: the mean energy is kT/2 a degree of freedom.

    Stiff, so that the harmonic limit is near; a stiff improper keeps three arms in their plane
    where the angles resist leaving it in second order only.
    """
    stiff, heat = 2000.0, BOLTZMANN * 300.0
    found = AngleFreedom.from_topology(star(arms, theta0, k=stiff))
    rng = np.random.default_rng(0)
    walkers = 400
    if arms == 3:
        turns = np.arange(3) * FLAT
        first = np.column_stack([np.cos(turns), np.sin(turns), np.zeros(3)])
    else:
        first = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5
    if arms == 3 and theta0 < FLAT - 0.1:
        height = math.sqrt((1.0 + 2.0 * math.cos(theta0)) / 3.0)
        first = first * math.sqrt(1.0 - height**2) + [0.0, 0.0, height]
    at = np.tile(first, (walkers, 1, 1))
    flat = arms == 3 and not theta0 < FLAT - 0.1

    def energy(v):
        i, j = np.triu_indices(arms, 1)
        theta = np.arccos(np.clip((v[:, i] * v[:, j]).sum(-1), -1, 1))
        angles = 0.5 * stiff * ((theta - theta0) ** 2).sum(1)
        out = np.linalg.det(v) if flat else np.zeros(len(v))
        return angles, angles + 1e5 * out**2

    angles, total = energy(at)
    means = []
    for step in range(4000):
        arm = rng.integers(arms)
        tried = at.copy()
        tried[:, arm] += rng.normal(0.0, 0.03, (walkers, 3))
        tried[:, arm] /= np.linalg.norm(tried[:, arm], axis=1, keepdims=True)
        new_angles, new_total = energy(tried)
        taken = rng.random(walkers) < np.exp(np.minimum(0.0, (total - new_total) / heat))
        at[taken], angles[taken], total[taken] = tried[taken], new_angles[taken], new_total[taken]
        if step > 1000:
            means.append(angles.mean())
    assert np.mean(means) == pytest.approx(0.5 * heat * found.degrees[0], rel=0.05)


def test_polystyrene_has_nineteen_a_monomer():
    """CH2 five, CH five, and the ring nine in its plane; the last monomer ends with CH2."""
    found = AngleFreedom.from_topology(read_topology(reference_folder() / "topol.top"))
    assert found.degrees[16:144].sum() == pytest.approx(8 * 19.0)
    assert found.strain.max() < 0.01


def test_angle_energies_are_those_of_the_force_field_each_at_its_centre():
    bent = system(["H", "O", "H"], [(0, 1), (1, 2)], math.radians(120.0))
    field = ForceField.from_topology(bent)
    positions = np.array([[0.1, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
    found = angle_energies(field, positions, 5.0 * np.eye(3))
    assert found == pytest.approx([0.0, 0.5 * 300.0 * math.radians(30.0) ** 2, 0.0])

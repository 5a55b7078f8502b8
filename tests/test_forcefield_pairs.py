"""One pass over the pairs of a box gives the energies that listing them gives."""

from dataclasses import replace

import numpy as np
import pytest

from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.pairs import PairEnergies
from evaluation_systems import molecule, structure, topology

BOXES = {
    "small": np.array([[2.1, 0.0, 0.0], [0.9, 2.2, 0.0], [-0.8, 1.0, 2.05]]),
    "flat": np.array([[6.0, 0.0, 0.0], [2.9, 2.1, 0.0], [-2.5, 0.9, 4.0]]),
    "large": np.diag([7.0, 6.0, 5.5]),
}


def system(seed, many):
    """Molecules of four atoms with charges and exclusions, of two kinds that alternate."""
    rng = np.random.default_rng(seed)
    bonds = [(0, 1), (1, 2), (2, 3)]
    kinds = [
        replace(molecule(types, bonds, exclusions=pairs), charges=rng.normal(0.0, 0.3, 4))
        for types, pairs in (
            (("C", "H", "C", "F"), [(0, 1), (0, 2), (1, 3)]),
            (("F", "F", "H", "C"), [(2, 3)]),
        )
    ]
    return topology(*kinds, counts=[many, many])


def frame(found, box, seed):
    rng = np.random.default_rng(seed)
    spread = rng.uniform(-1.0, 2.0, (found.n_molecules, 1, 3)) @ box
    inside = rng.normal(0.0, 0.15, (found.n_molecules, 4, 3))
    return structure((spread + inside).reshape(-1, 3), box)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(("many", "epsilon"), [(3, 2.5), (60, None)])
def test_pairs_of_any_cell_are_counted_once(box, many, epsilon):
    found = system(1, many)
    field = ForceField.from_topology(found, reaction_field_epsilon=epsilon)
    atoms = frame(found, BOXES[box], 5)
    expected = field.energies_by_term(atoms)
    energies = PairEnergies(field)(atoms)
    for name in ("lj", "coulomb"):
        assert energies[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9)


def test_a_lattice_vector_changes_nothing():
    found = system(2, 20)
    atoms, box = frame(found, BOXES["flat"], 6), BOXES["flat"]
    energy = PairEnergies(ForceField.from_topology(found))
    shifts = np.random.default_rng(0).integers(-3, 4, (atoms.n, 3)) @ box
    moved = replace(atoms, positions=atoms.positions + shifts)
    assert energy(moved)["lj"] == pytest.approx(energy(atoms)["lj"], rel=1e-6)


def test_a_cell_that_is_too_small_has_no_such_energies():
    found = system(3, 2)
    energy = PairEnergies(ForceField.from_topology(found))
    assert energy(frame(found, np.diag([1.9, 3.0, 3.0]), 1)) == {}
    assert energy(frame(found, np.zeros((3, 3)), 1)) == {}

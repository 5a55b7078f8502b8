"""What is looked at in a topology, and the small geometry behind it."""

import math

import numpy as np
import pytest

from deepbackmap.chemistry.rings import out_of_plane
from deepbackmap.evaluation.plan import ANGLE_BINS, DIHEDRAL_BINS, WIDE_ANGLE_BINS, Plan, atom_name
from deepbackmap.geometry.cell import shortest_lengths
from deepbackmap.system import BondedTerms
from deepbackmap.system.elements import element_symbols
from evaluation_systems import SKEWED, molecule, reference_folder, rotation, scattered, topology


def terms(atoms, *parameters):
    rows = np.array(atoms, dtype=np.int64)
    return BondedTerms(rows, np.tile(np.array(parameters, dtype=np.float64), (len(rows), 1)))


def observables(system):
    return {o.name: o for o in Plan.from_topology(system).observables}


def test_every_type_of_term_has_a_distribution():
    """A chain C-C-C-F with hydrogens at its first carbon, and two kinds of improper."""
    chain = molecule(
        ["C", "C", "C", "F", "H", "H"],
        [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5)],
        terms={
            "angle": terms([(0, 1, 2), (2, 1, 0), (1, 2, 3)], 1.9, 400.0),
            "proper": terms([(0, 1, 2, 3), (4, 0, 1, 2), (0, 2, 4, 5)], 0.0, 1.0, 3.0),
            "improper": terms([(0, 1, 4, 5), (1, 2, 3, 0)], 0.6, 100.0),
        },
    )
    found = observables(topology(chain, counts=[3]))
    assert set(found) == {
        "bond C-C", "bond C-F", "bond C-H", "angle C-C-C", "angle C-C-F",
        "dihedral C-C-C-F", "dihedral C-C-C-H", "periodic improper C-C-H-H",
        "impropers", "improper C-C-H-H", "improper C-C-F-C",
    }  # fmt: skip
    scored = {name for name, o in found.items() if o.scored}
    assert scored == {"angle C-C-C", "angle C-C-F", "dihedral C-C-C-F", "impropers"}
    sizes = {name: o.rows.stop - o.rows.start for name, o in found.items() if o.rows.stop}
    assert sizes["angle C-C-C"] == 3  # a term and its reverse are one angle
    assert sizes["bond C-C"] == 6
    assert found["dihedral C-C-C-H"].bins == DIHEDRAL_BINS


@pytest.mark.parametrize(("degrees", "expected"), [(109.5, ANGLE_BINS), (180.0, WIDE_ANGLE_BINS)])
def test_angles_have_room_around_their_equilibrium(degrees, expected):
    bent = molecule(
        ["C", "C", "C"], [(0, 1), (1, 2)],
        terms={"angle": terms([(0, 1, 2)], math.radians(degrees), 400.0)},
    )  # fmt: skip
    assert observables(topology(bent))["angle C-C-C"].bins == expected


def test_groups_of_the_radial_distribution():
    few = Plan.from_topology(topology(molecule(["C", "F", "H"], [(0, 1), (0, 2)])))
    assert few.rdf_names == ("g(r), mean absolute error", "g(r) C - C", "g(r) C - F", "g(r) F - F")
    one = Plan.from_topology(topology(molecule(["C", "H"], [(0, 1)])))
    assert one.rdf_names == ("g(r), mean absolute error",)


def test_atoms_have_names():
    system = topology(molecule(["C", "H"], [(0, 1)]), counts=[3])
    assert atom_name(system, 5) == "H2 (atom 6) of molecule 3 (MOL)"


HEXAGON = np.array([[math.cos(a), math.sin(a), 0.0] for a in np.arange(6) * math.pi / 3])


def test_rings_out_of_their_plane():
    """A flat hexagon is flat; in a chair every atom is as far from the plane as it was raised."""
    chair = 0.14 * HEXAGON + 0.025 * np.array([0.0, 0.0, 1.0]) * (-1.0) ** np.arange(6)[:, None]
    points = np.concatenate([0.14 * HEXAGON, chair]) @ rotation(4) + 1.0
    found = out_of_plane(scattered(points, SKEWED), np.arange(12).reshape(2, 6))
    assert found == pytest.approx([0.0, 0.025], abs=1e-7)
    assert len(out_of_plane(scattered(points, SKEWED), np.zeros((0, 6), dtype=np.int64))) == 0


def test_rings_are_told_apart_by_their_types():
    cycle = [(k, (k + 1) % 5) for k in range(5)]
    mixed = molecule(["C", "C", "F", "C", "C"], cycle)
    plain = molecule(["C"] * 5, cycle)
    kinds = Plan.from_topology(topology(mixed, plain, counts=[2, 3])).ring_kinds
    assert {name: int(rings.sum()) for name, rings in kinds.items()} == {
        "ring 5 C": 3,
        "ring C-C-C-C-F": 2,
    }


def test_shortest_lengths_belong_to_the_lattice():
    rng = np.random.default_rng(1)
    for _ in range(20):
        box = rng.normal(size=(3, 3))
        expected = shortest_lengths(box)
        assert (np.diff(expected) >= 0.0).all()
        shear = np.eye(3) + np.triu(rng.integers(-2, 3, (3, 3)), 1)
        assert shortest_lengths(shear @ box) == pytest.approx(expected)
        assert shortest_lengths((shear.T @ box) @ rotation(2)) == pytest.approx(expected)
    assert shortest_lengths(np.diag([3.0, 1.0, 2.0])) == pytest.approx([1.0, 2.0, 3.0])
    planar = np.array([[1.0, 0.0, 0.0], [-0.5, math.sqrt(0.75), 0.0], [0.0, 0.0, 4.0]])
    assert shortest_lengths(planar) == pytest.approx([1.0, 1.0, 4.0])  # not three of the plane


def test_elements_from_masses():
    masses = np.array([1.008, 2.014, 12.011, 14.027, 14.007, 15.999, 18.998, 28.085, 35.45, 0.0])
    assert element_symbols(masses) == ("H", "H", "C", "C", "N", "O", "F", "Si", "Cl", "X")


def test_the_published_topology():
    from deepbackmap.io.topology import read_topology

    plan = Plan.from_topology(read_topology(reference_folder() / "topol.top"))
    assert sum(o.scored for o in plan.observables) == 10  # and LJ per chain
    assert {o.name for o in plan.observables if o.kind == "length"} == {
        "bond C-C", "bond C-C_AR", "bond C-H", "bond C_AR-C_AR", "bond C_AR-H_AR",
    }  # fmt: skip
    assert {name: int(r.sum()) for name, r in plan.ring_kinds.items()} == {"ring 6 C_AR": 360}
    assert len(plan.heavy) == 2880

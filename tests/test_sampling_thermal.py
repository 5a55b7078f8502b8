"""Steps of dynamics: on the constraints, at the temperature, bounded where atoms overlap."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.mapping import MoleculeMapping, SystemMapping, map_positions
from deepbackmap.mechanics.forces import BoxForces
from deepbackmap.mechanics.projection import Projector
from deepbackmap.mechanics.thermal import LARGEST_MOVE, ThermalOptions, thermalise
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import BondedTerms, MoleculeType, Topology
from small_polystyrene import ATOMS, SKEWED, atoms, mapping

CPU = torch.device("cpu")


def run(system, positions, box, *, seed=0, goal=None, lightest=0.0, **options):
    """Positions after some steps from the nearest ones on the constraints; and these, and beads."""
    projector = Projector(system, CPU, bonds=True, lightest=lightest)
    beads = torch.tensor(map_positions(system, positions) if goal is None else goal)
    start = projector.project(torch.tensor(positions), beads).positions
    topology = system.topology
    end = thermalise(
        start, beads, box, BoxForces(topology, CPU, rigid=True), projector,
        hash_counters(seed, torch.arange(len(start))),
        ThermalOptions(**options),
    )  # fmt: skip
    return end.numpy(), start.numpy(), beads.numpy()


def assert_on_constraints(system, x, beads):
    assert np.isfinite(x).all()
    assert np.abs(Constraints.of(system.topology, bonds=True).deviations(x)).max() < 1e-5
    assert np.abs(map_positions(system, x) - beads).max() < 1e-5


# --- constraints ----------------------------------------------------------------------------------


def test_bonds_and_beads_stay():
    end, start, beads = run(
        mapping(), atoms().positions, SKEWED, temperature=500.0, steps=10, timestep=0.001
    )
    assert_on_constraints(mapping(), start, beads)
    assert_on_constraints(mapping(), end, beads)
    moved = np.linalg.norm(end - start, axis=1)
    assert np.median(moved) > 1e-3
    assert moved.max() < 0.15


def test_names_say_which_numbers_are_drawn():
    options = {"temperature": 500.0, "steps": 2}
    one, again, other = (
        run(mapping(), atoms().positions, SKEWED, seed=s, **options)[0] for s in (0, 0, 1)
    )
    assert np.array_equal(one, again)
    assert (np.abs(one - other).max(1) > 1e-4).mean() > 0.9


def test_no_steps_change_nothing():
    end, start, _ = run(mapping(), atoms().positions, SKEWED, temperature=500.0, steps=0)
    assert np.array_equal(end, start)


# --- temperature ----------------------------------------------------------------------------------

ANGLE, STIFFNESS, BOND, APART = math.radians(110.0), 1000.0, 0.15, 1.6
COUNT = 512


def benders(count=COUNT):
    """Molecules of three atoms with rigid bonds and one harmonic angle, out of each other's
    reach; their beads are their centres of mass, so that all they do is turn and bend."""
    empty = np.zeros((0, 2), dtype=np.int64)
    bonds = BondedTerms(np.array([[0, 1], [1, 2]]), np.array([[BOND, 1e5]] * 2))
    angle = BondedTerms(np.array([[0, 1, 2]]), np.array([[ANGLE, STIFFNESS]]))
    masses = np.array([12.0, 14.0, 16.0])
    kind = MoleculeType(
        name="bender", atom_names=("A1", "A2", "A3"), atom_types=("A",) * 3,
        residue_names=("RES",) * 3, residue_numbers=np.ones(3, dtype=np.int64),
        charges=np.zeros(3), masses=masses, terms={"bond": bonds, "angle": angle}, nrexcl=2,
        exclusions=np.array([[0, 1], [0, 2], [1, 2]]),
        pairs=BondedTerms(empty, np.zeros((0, 3))),
    )  # fmt: skip
    bead = MoleculeMapping(
        bead_names=("B1",), bead_types=("B",), bead_residue_names=("RES",),
        bead_residue_numbers=np.ones(1, dtype=np.int64), weight_atoms=np.arange(3),
        weight_beads=np.zeros(3, dtype=np.int64), weights=masses / masses.sum(),
        owner=np.zeros(3, dtype=np.int64), bead_bonds=empty,
        align=np.full((1, 2), -1, dtype=np.int64), order=np.arange(1),
    )  # fmt: skip
    lj = np.full((1, 1), 1e-3), np.full((1, 1), 1e-6)
    topology = Topology("benders", (kind,), ((0, count),), ("A",), *lj)
    arms = np.array([[0, 0, 0], [BOND, 0, 0], [0, 0, 0]], dtype=float)
    arms[2] = arms[1] - BOND * np.array([math.cos(ANGLE), math.sin(ANGLE), 0])
    side = math.ceil(count ** (1 / 3))
    grid = np.stack(np.unravel_index(np.arange(count), (side,) * 3), 1) * APART
    x = (grid[:, None] + arms[None]).reshape(-1, 3)
    return SystemMapping(topology, (bead,)), x, np.eye(3) * side * APART


def bending(x):
    """Energies of the angles of benders, kJ/mol."""
    a, b, c = x.reshape(-1, 3, 3).transpose(1, 0, 2)
    cosine = ((a - b) * (c - b)).sum(1) / BOND**2
    return 0.5 * STIFFNESS * (np.arccos(cosine) - ANGLE) ** 2


@pytest.mark.parametrize(
    ("temperature", "lightest", "cold_start"),
    [(250.0, 0.0, 1.0), (600.0, 0.0, 1.0), (600.0, 15.0, 1.0), (600.0, 0.0, 0.1)],
)
def test_a_harmonic_angle_takes_on_the_temperature(temperature, lightest, cold_start):
    """Half of kT, whatever atoms weigh; the metric of the rigid bonds changes that by less than a
    percent here."""
    system, x, box = benders()
    end, _, beads = run(
        system, x, box, temperature=temperature, steps=120, lightest=lightest,
        cold_start=cold_start,
    )  # fmt: skip
    assert_on_constraints(system, end, beads)
    energy = bending(end)
    # the statistical error is sqrt(2 / COUNT), 6.3 %
    assert energy.mean() == pytest.approx(0.5 * BOLTZMANN * temperature, rel=0.2)


def hot(x, turn=0.5):
    """Benders with angles too wide by so much, rad: 0.5 is an energy of 125 kJ/mol."""
    bent, wide = x.reshape(-1, 3, 3).copy(), ANGLE + turn
    bent[:, 2] = bent[:, 1] - BOND * np.array([math.cos(wide), math.sin(wide), 0])
    return bent.reshape(-1, 3)


def test_what_is_cold_is_warmed_and_what_is_hot_is_cooled():
    system, x, box = benders(216)
    end, start, _ = run(system, hot(x), box, temperature=300.0, steps=120)
    for found, low, high in ((start, 100, 150), (end, 0.6, 2.2)):
        assert low < bending(found).mean() < high


def test_a_bath_that_begins_cold_is_colder_on_the_way():
    """From rest in the minimum: how warm angles have become when the bath has half warmed up."""
    system, x, box = benders()
    options = {"temperature": 600.0, "steps": 12}
    plain, cold = (
        bending(run(system, x, box, cold_start=c, **options)[0]).mean() for c in (1.0, 0.1)
    )
    assert 0.1 * plain < cold < 0.8 * plain


# --- bad contacts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1e-3, 0.05])
def test_overlapping_atoms_move_apart_and_do_not_fly(gap):
    frame = atoms()
    x = frame.positions.copy()
    x[ATOMS : 2 * ATOMS] += x[13] - x[ATOMS + 13] + np.array([gap, 0.0, 0.0])
    steps = 15
    end, start, beads = run(mapping(), x, SKEWED, temperature=300.0, steps=steps)
    assert_on_constraints(mapping(), end, beads)
    before, after = (np.linalg.norm(p[13] - p[ATOMS + 13]) for p in (start, end))
    assert after > before
    # A kick is bounded, and friction lets it add up to so much in all these steps.
    assert np.linalg.norm(end - start, axis=1).max() < LARGEST_MOVE * steps * (steps + 1) / 2
    assert np.linalg.norm(end - start, axis=1).max() < 0.3


def test_forces_out_of_all_proportion_move_atoms_by_no_more_than_is_allowed(monkeypatch):
    """One step from rest, at no temperature to speak of, with forces that know no bound."""
    monkeypatch.setattr(BoxForces, "__call__", lambda self, x, pairs: 1e12 * torch.ones_like(x))
    system, x, box = benders(8)
    free = dataclasses.replace(
        system.molecules[0], weight_atoms=np.zeros(0, dtype=np.int64),
        weight_beads=np.zeros(0, dtype=np.int64), weights=np.zeros(0), bead_names=(),
        bead_types=(), bead_residue_names=(), bead_residue_numbers=np.zeros(0, dtype=np.int64),
        align=np.zeros((0, 2), dtype=np.int64), order=np.zeros(0, dtype=np.int64),
    )  # fmt: skip
    end, start, _ = run(
        SystemMapping(system.topology, (free,)), x, box, goal=np.zeros((0, 3)),
        temperature=1e-6, steps=1,
    )  # fmt: skip
    moved = np.linalg.norm(end - start, axis=1)
    assert moved.max() < 1.001 * LARGEST_MOVE
    assert moved.min() > 0.9 * LARGEST_MOVE

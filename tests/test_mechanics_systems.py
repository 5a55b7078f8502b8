"""Steps of systems of every make: constraints hold, whatever a molecule has or lacks."""

import dataclasses
import itertools

import numpy as np
import pytest

from deepbackmap.mapping import map_positions
from deepbackmap.mechanics.engine import FIRM, Langevin, Mechanics
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import BondedTerms
from test_mechanics_constraints import beads_at, beads_off, bonds_off, mixed, molecule, system
from test_mechanics_engine import benders

BOX = np.eye(3) * 6.0
TOLERANCE = 1e-6


def network(side=4, apart=0.16):
    """One molecule in one copy: a cubic lattice with cross-links in all three directions, of
    which a bead holds every pair of layers."""
    grid = np.array(list(itertools.product(range(side), repeat=3)))
    number = {tuple(p): k for k, p in enumerate(grid.tolist())}
    rng = np.random.default_rng(3)
    # a link in three is missing, so that it can move, but none along z, so that it is one
    bonds = [
        (number[tuple(p)], number[tuple(q)], apart)
        for p in grid.tolist()
        for axis in range(3)
        if tuple(q := [p[c] + (c == axis) for c in range(3)]) in number
        and (axis == 2 or rng.random() < 0.5)
    ]
    kind = molecule("net", [12.0] * len(grid), bonds)
    shares = [{k: 1.0 for k, p in enumerate(grid.tolist()) if p[0] // 2 == b} for b in range(2)]
    mapping = system([(0, 1)], (kind, beads_at(len(grid), *shares)))
    x = apart * grid.astype(float) + 1.0
    return mapping, x


def ring_of_chains(chains=6, each=8, length=0.15):
    """One ring made of chains that are joined end to end, and a side chain at each joint."""
    n = chains * each
    bonds = [(k, (k + 1) % n, length) for k in range(n)]
    bonds += [(k * each, n + k, length) for k in range(chains)]
    kind = molecule("wheel", [14.0] * (n + chains), bonds)
    shares = [dict.fromkeys(range(k * each, (k + 1) * each), 1.0) for k in range(chains)]
    mapping = system([(0, 3)], (kind, beads_at(n + chains, *shares)))
    radius = length / (2 * np.sin(np.pi / n))
    angle = 2 * np.pi * np.arange(n) / n
    rim = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    wheel = np.concatenate([radius * rim, (radius + length) * rim[::each]])
    return mapping, np.concatenate([wheel + np.array([2.0, 2.0, 1.5 * k]) for k in range(3)])


def bare():
    """Molecules without bonds, molecules without beads, and lone ions of both kinds."""
    loose = molecule("loose", [12.0, 12.0, 1.0])
    rod = molecule("rod", [12.0, 12.0], [(0, 1, 0.15)])
    ion = molecule("ion", [23.0])
    mapping = system(
        [(0, 2), (1, 3), (2, 2), (3, 1)],
        (loose, beads_at(3, {0: 1.0, 1: 1.0})),
        (rod, beads_at(2)),
        (ion, beads_at(1, {0: 1.0})),
        (ion, beads_at(1)),
    )
    places = 1.3 * np.array(list(itertools.product(range(3), repeat=3)), dtype=float)
    sizes = [3, 3, 2, 2, 2, 1, 1, 1]
    shape = np.array([[0, 0, 0], [0.15, 0, 0], [0, 0.3, 0]])
    return mapping, np.concatenate([shape[:n] + p for n, p in zip(sizes, places, strict=False)])


SYSTEMS = {
    "rings, ions, water and dimers": lambda: mixed()[:2],
    "without bonds, without beads, lone ions": bare,
    "a network": network,
    "rings of chains": ring_of_chains,
}


@pytest.mark.parametrize("width", [0.0, 0.02, np.inf])
@pytest.mark.parametrize("name", SYSTEMS)
def test_bonds_and_beads_hold_for_some_steps(name, width):
    mapping, x = SYSTEMS[name]()
    beads = map_positions(mapping, x)
    run = Mechanics(mapping).run(
        x, beads, BOX, Langevin(40, 400.0), np.arange(len(x)), width, every=20
    )
    assert np.isfinite(run.positions).all()
    assert bonds_off(mapping, run.positions).max() < TOLERANCE
    off = beads_off(mapping, run.positions, beads)
    if width == 0.0:
        assert off.max() < TOLERANCE
    else:
        assert 1e-4 < off.max() < 1.0
    # what is free to move has moved
    assert np.linalg.norm(run.positions - x, axis=1).max() > 0.005
    assert set(run.observed[-1].energies) >= {"lj inter", "bead"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_threads_change_no_bit_of_any_of_them(name):
    mapping, x = SYSTEMS[name]()
    beads = map_positions(mapping, x)
    made = [
        Mechanics(mapping, threads=n).run(
            x, beads, BOX, Langevin(10, 400.0), np.arange(len(x)), 0.01
        ).positions
        for n in (1, 2)
    ]  # fmt: skip
    assert np.array_equal(*made)


def test_two_kinds_of_molecule_in_any_order_are_the_same_molecules():
    """A system of rods and ions, blocks swapped: each molecule gets the same steps."""
    rod, ion = molecule("rod", [12.0, 14.0], [(0, 1, 0.15)]), molecule("ion", [23.0])
    kinds = (rod, beads_at(2, {0: 1.0})), (ion, beads_at(1, {0: 1.0}))
    rods = np.array([[0, 0, 0], [0.15, 0, 0], [2.0, 0, 0], [2.15, 0, 0]])
    ions = np.array([[0, 2.0, 0], [2.0, 2.0, 2.0]])
    one, other = system([(0, 2), (1, 2)], *kinds), system([(1, 2), (0, 2)], *kinds)
    found = []
    for mapping, x, names in (
        (one, np.concatenate([rods, ions]), np.arange(6)),
        (other, np.concatenate([ions, rods]), np.array([4, 5, 0, 1, 2, 3])),
    ):
        beads = map_positions(mapping, x)
        run = Mechanics(mapping).run(x, beads, BOX, Langevin(20, 300.0), names, 0.02)
        found.append(run.positions[np.argsort(names)])
    # the order says which atom of a cluster others are seen from, in single precision
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-8)


BONDS = {"bond": [0.15, 1e5], "bond_g96": [0.15, 5e6], "morse": [0.15, 300.0, 20.0],
         "bond_cubic": [0.15, 1e5, 20.0]}  # fmt: skip
"""Of the same length: kinds that a topology may give its bonds."""


@pytest.mark.parametrize("kind", BONDS)
def test_bonds_of_every_kind_are_rigid_or_springs_as_asked(kind):
    one = molecule("rod", [12.0, 14.0, 16.0])
    bonds = BondedTerms(np.array([[0, 1], [1, 2]]), np.array([BONDS[kind]] * 2))
    rod = dataclasses.replace(
        one, terms={kind: bonds}, exclusions=np.array([[0, 1], [0, 2], [1, 2]])
    )
    mapping = system([(0, 5)], (rod, beads_at(3)))
    shape = np.array([[0, 0, 0], [0.15, 0, 0], [0.3, 0.02, 0]])
    x = np.concatenate([shape + np.array([0, 0, 1.1 * k]) for k in range(5)])
    beads, names = np.zeros((0, 3)), np.arange(15)

    def lengths(rigid):
        run = Mechanics(mapping, rigid=rigid).run(x, beads, BOX, Langevin(30, 300.0, 0.001), names)
        p = run.positions.reshape(-1, 3, 3)
        return np.linalg.norm(np.diff(p, axis=1), axis=2)

    np.testing.assert_allclose(lengths(True), 0.15, atol=TOLERANCE)
    assert 1e-4 < np.abs(lengths(False) - 0.15).max() < 0.05


# --- beads that are held more narrowly than steps can follow --------------------------------------


def test_the_narrowest_width_is_that_of_a_step_of_a_free_bead():
    mapping, *_ = benders(5)
    mass = mapping.topology.molecule_types[0].masses.sum()  # the bead is the centre of mass
    expected = FIRM * 0.002 * np.sqrt(BOLTZMANN * 300.0 / mass)
    found = Mechanics(mapping, lightest=0.0).firm(300.0, 0.002)
    np.testing.assert_allclose(found, expected)
    assert found.shape == (5,)


@pytest.mark.parametrize(("times", "exact"), [(0.99, True), (0.01, True), (1.01, False)])
def test_narrower_ones_are_held_exactly_and_wider_ones_have_their_width(times, exact):
    mapping, x, beads, box = benders(216)
    engine = Mechanics(mapping)
    width = times * engine.firm(400.0, 0.002)
    run = engine.run(x, beads, box, Langevin(400, 400.0), np.arange(len(x)), width, every=50)
    off = np.array([map_positions(mapping, seen.positions) - beads for seen in run.observed[2:]])
    if exact:
        assert np.abs(off).max() < TOLERANCE
    else:
        # a step of that length shifts the energy of a swing by (omega dt)^2 / 8, a thirtieth
        assert np.sqrt((off**2).mean()) == pytest.approx(width[0], rel=0.08)


# --- boxes ----------------------------------------------------------------------------------------


def test_a_box_is_at_least_twice_as_high_as_forces_reach():
    mapping, x = bare()
    engine, beads = Mechanics(mapping), map_positions(mapping, bare()[1])
    low = BOX.copy()
    low[2, 2] = 2 * engine.reach - 0.01
    with pytest.raises(ValueError, match=r"heights of at least 1.56 nm, .* got 1.55 nm"):
        engine.run(x, beads, low, Langevin(1, 300.0), np.arange(len(x)))
    with pytest.raises(ValueError, match="heights of at least"):
        engine.energies(x, beads, low)
    low[2, 2] = 2 * engine.reach + 0.01
    assert np.isfinite(engine.forces(x, beads, low)).all()

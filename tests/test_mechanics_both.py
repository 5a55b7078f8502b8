"""Laws that the compiled engine and the one in tensors both have to keep, each by itself."""

import dataclasses
import functools
import math

import numpy as np
import pytest

import small_polystyrene as ps
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.mechanics.card import pairs
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.engine import BARE, SOFT, Langevin, Mechanics
from deepbackmap.quantities import BOLTZMANN, COULOMB
from deepbackmap.system import BondedTerms, Topology
from laws import doubled, mirrored, sheared
from laws import twice as repeated
from test_mechanics_constraints import beads_at, bonds_off, molecule, system
from test_mechanics_engine import MASSES, benders, bending, relaxed
from test_mechanics_others import CUTOFF, bare_mapping, by_openmm, only, polystyrene

NONE = np.zeros((0, 3))
WIDE = np.eye(3) * 12.0

ENGINES = {
    "loops": lambda mapping, **options: Mechanics(mapping, threads=1, **options),
    "tensors": lambda mapping, **options: CardMechanics(mapping, device="cpu", **options),
}


@pytest.fixture(params=ENGINES)
def engine(request):
    """Makes an engine of a system."""
    return ENGINES[request.param]


# --- pairs by hand --------------------------------------------------------------------------------

SIGMA, EPSILON = 0.33, 0.6
C6, C12 = 4 * EPSILON * SIGMA**6, 4 * EPSILON * SIGMA**12


def ions(charges, *, lj=True, masses=None, blocks=None):
    """Single atoms of one kind each, without beads."""
    kinds = [
        dataclasses.replace(molecule(f"ion{k}", [m]), charges=np.array([q]))
        for k, (q, m) in enumerate(zip(charges, masses or [20.0] * len(charges), strict=True))
    ]
    one = np.ones((1, 1)) * lj
    topology = Topology(
        "ions", tuple(kinds), blocks or tuple((k, 1) for k in range(len(kinds))), ("A",),
        C6 * one, C12 * one,
    )  # fmt: skip
    return SystemMapping(topology, tuple(beads_at(1) for _ in kinds))


def pair(made, r, box=WIDE, **how):
    """Force on the second of two ions along the line between them, and their energy."""
    x = np.array([[1.0, 1.0, 1.0], [1.0 + r, 1.0, 1.0]])
    forces = made.forces(x, NONE, box, **how)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-6 * np.abs(forces).max())
    energies = made.energies(x, NONE, box)
    return forces[1, 0], {name: value.sum() for name, value in energies.items()}


@pytest.mark.parametrize("r", [0.3, 0.36, 0.5, 0.69])
def test_two_atoms_have_lennard_jones_force_and_energy(engine, r):
    force, energies = pair(engine(ions([0.0, 0.0]), cutoff=0.7), r)
    parts = 12 * C12 / r**13, 6 * C6 / r**7
    assert force == pytest.approx(parts[0] - parts[1], abs=2e-6 * sum(parts))
    assert energies["lj inter"] == pytest.approx(C12 / r**12 - C6 / r**6, rel=2e-6)
    assert energies["lj intra"] == energies["coulomb inter"] == 0.0


@pytest.mark.parametrize("epsilon", [None, 1.0, 4.0, math.inf])
def test_two_charges_have_the_energy_of_a_reaction_field(engine, epsilon):
    """Tironi et al., J. Chem. Phys. 102, 5451 (1995): q q' (1/r + k r^2 - c), each charge with
    itself -c q^2 / 2; nothing is left at the cut-off."""
    r, cutoff, charges = 0.45, 0.9, (0.4, -0.7)
    made = engine(ions(charges, lj=False), cutoff=cutoff, epsilon=epsilon)
    force, energies = pair(made, r)
    ratio = {None: None, math.inf: 0.5}.get(epsilon, epsilon and (epsilon - 1) / (2 * epsilon + 1))
    k = 0.0 if ratio is None else ratio / cutoff**3
    c = 0.0 if ratio is None else 1 / cutoff + k * cutoff**2
    product = COULOMB * charges[0] * charges[1]
    assert force == pytest.approx(product * (1 / r**2 - 2 * k * r), rel=2e-6)
    assert energies["coulomb inter"] == pytest.approx(product * (1 / r + k * r**2 - c), rel=2e-6)
    alone = -0.5 * COULOMB * c * sum(q * q for q in charges)
    assert energies["coulomb intra"] == pytest.approx(alone, rel=2e-6, abs=1e-9)
    beyond, energies = pair(made, cutoff + 0.001)
    assert beyond == energies["coulomb inter"] == 0.0


@pytest.mark.parametrize("softness", [0.2, 0.7])
def test_soft_cores_have_the_force_of_their_formula(engine, softness):
    """Beutler et al.: r^6 in Lennard-Jones is enlarged by softness sigma^6 / 2, and all is scaled;
    the force is the slope of that, by differences."""

    def energy(r):
        s = r**6 + 0.5 * softness * SIGMA**6
        return (1 - softness) * (C12 / s**2 - C6 / s)

    made = engine(ions([0.0, 0.0]), cutoff=0.7)
    for r in (0.3, 0.36, 0.5):
        slope = (energy(r + 1e-5) - energy(r - 1e-5)) / 2e-5
        assert pair(made, r, softness=softness)[0] == pytest.approx(-slope, rel=1e-4)


def test_repulsion_grows_no_further_below_a_part_of_sigma(engine):
    """What is nearer is pushed with the force per distance of that part: less, and finite."""
    made, edge = engine(ions([0.0, 0.0]), cutoff=0.7), SOFT * SIGMA
    at_edge = pair(made, edge * 1.000001)[0]
    assert at_edge == pytest.approx(12 * C12 / edge**13 - 6 * C6 / edge**7, rel=1e-4)
    for part in (0.5, 0.1, 0.01):
        assert pair(made, part * edge)[0] == pytest.approx(part * at_edge, rel=1e-4)
    bare = engine(ions([1.0, -1.0], lj=False), cutoff=0.7, epsilon=None)
    at_edge = pair(bare, BARE * 1.000001)[0]
    assert at_edge == pytest.approx(-COULOMB / BARE**2, rel=1e-4)
    assert pair(bare, 0.5 * BARE)[0] == pytest.approx(0.5 * at_edge, rel=1e-4)


def test_atoms_see_each_other_through_every_face_edge_and_corner(engine):
    """Two atoms at one distance, split by each of the 26 neighbours of a skewed cell."""
    box = 1.5 * ps.SKEWED
    made = engine(ions([0.3, -0.2]), cutoff=0.7)
    d = np.array([0.2, -0.25, 0.15])
    expected = made.forces(np.stack([np.full(3, 1.2), np.full(3, 1.2) + d]), NONE, box)
    for shift in np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), -1).reshape(-1, 3):
        x = np.stack([np.full(3, 1.2), np.full(3, 1.2) + d + shift @ box])
        found = made.forces(x, NONE, box)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# --- whole boxes ----------------------------------------------------------------------------------


def pushed(made, x, box, width=0.0, beads=None):
    centres = beads if beads is not None else map_positions(made.mapping, x)
    return made.forces(x, centres, box, width)


def total(made, x, beads, box, width):
    found = made.energies(x, beads, box, width, shifted=True)
    return sum(values.sum() for values in found.values())


@pytest.mark.parametrize("width", [0.0, 0.02])
def test_forces_are_minus_the_slope_of_the_energy(engine, width):
    """Along directions in which all atoms move, and along each axis for a few of them."""
    mapping, x, beads, box = relaxed()
    made = engine(mapping, rigid=False, cutoff=0.9)
    forces = made.forces(x, beads, box, width)
    rng = np.random.default_rng(0)
    directions = [rng.normal(size=x.shape) for _ in range(3)]
    for atom in (0, 17, 60):
        one = np.zeros_like(x)
        one[atom] = [0.6, -0.48, 0.64]
        directions.append(one)
    for direction in directions:
        h = 2e-4 / np.linalg.norm(direction) * np.sqrt((direction != 0).sum() / 3)
        up, down = (total(made, x + s * h * direction, beads, box, width) for s in (1, -1))
        slope = (up - down) / (2 * h)
        expected = -(forces * direction).sum()
        size = np.linalg.norm(forces[np.abs(direction).sum(1) > 0]) * np.linalg.norm(direction)
        assert slope == pytest.approx(expected, abs=2e-3 * size)


def test_forces_know_neither_origin_nor_images(engine):
    mapping, x, beads, box = relaxed()
    made = engine(mapping, rigid=False)
    expected = made.forces(x, beads, box, 0.05)
    size = 1e-5 * np.abs(expected).max()
    shift = np.array([3.3, -7.1, 0.4])
    moved = made.forces(x + shift, beads + shift, box, 0.05)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=size)
    lattice = np.array([[1, 0, -2], [0, 3, 1], [-1, -1, 0]]) @ box
    far = x + np.repeat(lattice, ps.ATOMS, axis=0)
    carried = beads + np.repeat(lattice, ps.BEADS, axis=0)
    np.testing.assert_allclose(
        made.forces(far, carried, box, 0.05), expected, rtol=0, atol=2 * size
    )


def test_one_crystal_has_many_cells(engine):
    """Other lattice vectors, a mirror, two cells beside each other: the same forces."""
    mapping, x, beads, box = relaxed()
    made = engine(mapping, rigid=False, cutoff=0.6)
    expected = made.forces(x, beads, box)
    size = 1e-5 * np.abs(expected).max()
    frame = dataclasses.replace(ps.atoms(), positions=x, box=box)
    skew = sheared(frame).box  # not of lower triangular form, and need not be
    tilted = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]]) @ box
    for other in (skew, tilted):
        if (1 / np.linalg.norm(np.linalg.inv(other), axis=0)).min() < 2 * made.reach:
            continue
        np.testing.assert_allclose(made.forces(x, beads, other), expected, rtol=0, atol=size)
    flipped = mirrored(frame)
    found = pushed(made, flipped.positions, flipped.box)
    np.testing.assert_allclose(found, expected * [1, 1, -1], rtol=0, atol=size)
    two = doubled(frame, 0)
    twofold = engine(
        SystemMapping(repeated(mapping.topology), mapping.molecules), rigid=False, cutoff=0.6
    )
    found = pushed(twofold, two.positions, two.box)
    np.testing.assert_allclose(found, np.tile(expected, (2, 1)), rtol=0, atol=size)


def test_molecules_have_no_order(engine):
    mapping, x, beads, box = relaxed()
    made = engine(mapping, rigid=False)
    order = np.array([2, 0, 1])
    atoms = (order[:, None] * ps.ATOMS + np.arange(ps.ATOMS)).ravel()
    places = (order[:, None] * ps.BEADS + np.arange(ps.BEADS)).ravel()
    one, other = made.forces(x, beads, box, 0.02), made.forces(x[atoms], beads[places], box, 0.02)
    np.testing.assert_allclose(other, one[atoms], rtol=0, atol=1e-5 * np.abs(one).max())
    one, other = made.energies(x, beads, box), made.energies(x[atoms], beads[places], box)
    for name, values in one.items():
        size = 1e-5 * max(1.0, np.abs(values).max())
        np.testing.assert_allclose(other[name], values[order], rtol=0, atol=size, err_msg=name)


def test_inner_forces_neither_push_nor_turn(engine):
    """Of chains that see no images: the sum of forces and of torques is zero."""
    mapping, x, beads, _ = relaxed()
    made = engine(mapping, rigid=False)
    forces = made.forces(x, beads, 8.0 * np.eye(3))
    size = np.abs(forces).sum()
    assert np.abs(forces.sum(axis=0)).max() < 1e-6 * size
    assert np.abs(np.cross(x, forces).sum(axis=0)).max() < 1e-6 * size
    turn = ps.rotation(3)
    turned = made.forces(x @ turn, beads @ turn, 8.0 * np.eye(3))
    np.testing.assert_allclose(turned, forces @ turn, rtol=0, atol=1e-5 * np.abs(forces).max())


@pytest.mark.parametrize("term", ["proper", "lj", "coulomb"])
def test_tensors_have_openmms_forces_too(term):
    """As ``test_mechanics_others`` has it for the compiled loops."""
    topology, x, box = polystyrene()
    part = only(topology, term)
    energy, forces = by_openmm(part, x, box)
    made = CardMechanics(bare_mapping(part), device="cpu", rigid=False, cutoff=CUTOFF, epsilon=2.5)
    found = made.forces(x, NONE, box)
    np.testing.assert_allclose(found, forces, rtol=0, atol=1e-5 * np.abs(forces).max())
    assert sum(e.sum() for e in made.energies(x, NONE, box).values()) == pytest.approx(
        energy, rel=1e-5
    )


# --- steps ----------------------------------------------------------------------------------------


def gas(count=1500, mass=20.0, edge=20.0):
    """Atoms that do not see each other."""
    mapping = ions([0.0], lj=False, masses=[mass], blocks=((0, count),))
    x = np.random.default_rng(1).uniform(0.0, edge, (count, 3))
    return mapping, x, np.eye(3) * edge


def test_velocities_forget_as_friction_says(engine):
    """<v(0) v(t)> = kT/m exp(-friction t), and each velocity has kT/m on its own."""
    mapping, x, box = gas()
    made, names = engine(mapping), np.arange(len(x))
    how = Langevin(1, 300.0, friction=40.0, timestep=0.002)
    thermal = BOLTZMANN * 300.0 / 20.0
    run = made.run(x, NONE, box, how, names)
    start, v = run.velocities, [run.velocities]
    at = run.positions
    for k in range(1, 16):
        run = made.run(
            at, NONE, box, dataclasses.replace(how, first_step=k), names, velocities=v[-1]
        )
        at = run.positions
        v.append(run.velocities)
    for k in (0, 5, 15):
        kept = (start * v[k]).mean() / thermal
        # of 4500 products, each with a spread of about one
        assert kept == pytest.approx(math.exp(-40.0 * 0.002 * k), abs=0.07)
        assert (v[k] ** 2).mean() == pytest.approx(thermal, rel=0.1)
        assert np.abs(v[k].mean(axis=0)).max() < 4 * math.sqrt(thermal / 1500)


def test_free_atoms_diffuse_as_einstein_says(engine):
    """<r^2> = 6 D t (1 - (1 - exp(-g t)) / (g t)) with D = kT / (m g): Ornstein and Uhlenbeck."""
    mapping, x, box = gas()
    friction, steps, dt = 25.0, 100, 0.004
    how = Langevin(steps, 450.0, timestep=dt, friction=friction)
    run = engine(mapping).run(x, NONE, box, how, np.arange(len(x)))
    t = steps * dt
    diffusion = BOLTZMANN * 450.0 / (20.0 * friction)
    expected = 6 * diffusion * t * (1 - (1 - math.exp(-friction * t)) / (friction * t))
    moved = run.positions - x
    assert (moved**2).sum(axis=1).mean() == pytest.approx(expected, rel=0.08)
    # each coordinate is normal: its fourth moment is three times the square of its second
    assert (moved**4).mean() / (moved**2).mean() ** 2 == pytest.approx(3.0, abs=0.35)
    # directions do not know of each other
    assert abs((moved[:, 0] * moved[:, 1]).mean()) < 0.1 * (moved**2).mean()


def test_without_bath_and_forces_atoms_go_straight_on(engine):
    mapping, x, box = gas(count=50)
    v = np.random.default_rng(2).normal(size=x.shape)
    how = Langevin(30, 300.0, timestep=0.001, friction=0.0)
    run = engine(mapping).run(x, NONE, box, how, np.arange(len(x)), velocities=v)
    np.testing.assert_allclose(run.positions, x + 0.03 * v, rtol=0, atol=1e-12)
    np.testing.assert_allclose(run.velocities, v, rtol=0, atol=1e-12)
    np.testing.assert_allclose(run.kinetic[1:], 0.5 * 20.0 * (v**2).sum(), rtol=1e-12)


def rods(count, length=0.12, spring=2.0e5, masses=(12.0, 16.0)):
    """Two atoms on a bond, far from each other."""
    kind = molecule("rod", masses)
    terms = {"bond": BondedTerms(np.array([[0, 1]]), np.array([[length, spring]]))}
    kind = dataclasses.replace(kind, terms=terms, exclusions=np.array([[0, 1]]))
    zero = np.zeros((1, 1))
    topology = Topology("rods", (kind,), ((0, count),), ("A",), zero, zero)
    side = math.ceil(count ** (1 / 3))
    grid = 2.0 * np.stack(np.unravel_index(np.arange(count), (side,) * 3), 1)
    x = (grid[:, None] + np.array([[0, 0, 0], [length, 0, 0]])).reshape(-1, 3)
    mapping = SystemMapping(topology, (beads_at(2),))
    return mapping, x, np.eye(3) * 2.0 * side


def test_springs_have_the_spread_of_their_temperature(engine):
    """<(r - r0)^2> = kT/k, and 3/2 kT of kinetic energy for each atom."""
    mapping, x, box = rods(700)
    made = engine(mapping, rigid=False, lightest=0.0)
    how = Langevin(400, 600.0, timestep=0.0005, friction=50.0)
    run = made.run(x, NONE, box, how, np.arange(len(x)), every=100)
    lengths = [
        np.linalg.norm(np.diff(o.positions.reshape(-1, 2, 3), axis=1)[:, 0], axis=1)
        for o in run.observed[1:]
    ]
    spread = (np.array(lengths) - 0.12) ** 2
    assert spread.mean() == pytest.approx(BOLTZMANN * 600.0 / 2.0e5, rel=0.1)
    listed = np.mean([o.energies["bond"].mean() for o in run.observed[1:]])
    assert listed == pytest.approx(0.5 * BOLTZMANN * 600.0, rel=0.1)
    kinetic = run.kinetic[200:].mean() / len(x)
    assert kinetic == pytest.approx(1.5 * BOLTZMANN * 600.0, rel=0.05)


def test_rigid_rods_have_five_degrees_of_freedom(engine):
    mapping, x, box = rods(300)
    made = engine(mapping, lightest=0.0)
    run = made.run(x, NONE, box, Langevin(150, 500.0), np.arange(len(x)))
    assert bonds_off(mapping, run.positions).max() < 1e-6
    kinetic = run.kinetic[50:].mean() / 300
    assert kinetic == pytest.approx(2.5 * BOLTZMANN * 500.0, rel=0.06)
    # none of it along a bond, but for what turning a chord into an arc takes in a step
    d = np.diff(run.positions.reshape(-1, 2, 3), axis=1)[:, 0] / 0.12
    relative = np.diff(run.velocities.reshape(-1, 2, 3), axis=1)[:, 0]
    along = (relative * d).sum(axis=1)
    assert (along**2).mean() < 0.03 * (relative**2).sum(axis=1).mean()


def hinges(count, masses=(60.0, 3.0, 60.0), length=0.1):
    """Three atoms on two rigid bonds without an angle: cosines of their angles are even."""
    bonds = [(0, 1, length), (1, 2, length)]
    kind = dataclasses.replace(
        molecule("hinge", masses, bonds), exclusions=np.array([[0, 1], [0, 2], [1, 2]])
    )
    zero = np.zeros((1, 1))
    topology = Topology("hinges", (kind,), ((0, count),), ("A",), zero, zero)
    side = math.ceil(count ** (1 / 3))
    grid = 2.0 * np.stack(np.unravel_index(np.arange(count), (side,) * 3), 1)
    cosine = np.linspace(-0.98, 0.98, count)
    arms = np.zeros((count, 3, 3))
    arms[:, 0, 0] = length
    arms[:, 2, 0], arms[:, 2, 1] = length * cosine, length * np.sqrt(1 - cosine**2)
    x = (grid[:, None] + arms).reshape(-1, 3)
    return SystemMapping(topology, (beads_at(3),)), x, np.eye(3) * 2.0 * side


def test_rigid_bonds_bend_as_the_metric_of_their_constraints_says():
    """Freely jointed and rigid: p(c) of the cosine goes with the root of
    (1/m1 + 1/m2) (1/m2 + 1/m3) - (c/m2)^2, which is even only where the middle is heavy (Fixman,
    PNAS 71, 3050, 1974). Springs would have it even."""
    mapping, x, box = hinges(900)
    made = Mechanics(mapping, lightest=0.0)
    how = Langevin(900, 2000.0, timestep=0.002, friction=4.0)
    run = made.run(x, NONE, box, how, np.arange(len(x)), every=100)
    a, b, c = np.array([o.positions for o in run.observed[3:]]).reshape(-1, 3, 3).transpose(1, 0, 2)
    cosine = ((a - b) * (c - b)).sum(axis=1) / 0.1**2
    grid = np.linspace(-1.0, 1.0, 2001)
    weight = np.sqrt((1 / 60 + 1 / 3) ** 2 - (grid / 3) ** 2)
    expected = (grid**2 * weight).sum() / weight.sum()
    assert expected < 0.28  # and of springs a third
    assert (cosine**2).mean() == pytest.approx(expected, abs=0.02)


@functools.cache
def swinging(name):
    """Benders on soft beads, after some steps."""
    mapping, x, beads, box = benders(216)
    made = ENGINES[name](mapping, lightest=0.0)
    how = Langevin(300, 400.0)
    return made.run(x, beads, box, how, np.arange(len(x)), 0.02, every=100), mapping, beads


@pytest.mark.parametrize("name", ENGINES)
def test_soft_beads_are_normal_around_their_places(name):
    """Each direction has the width, and the energy of the spring is 3/2 kT."""
    run, mapping, beads = swinging(name)
    off = np.array([map_positions(mapping, o.positions) - beads for o in run.observed[1:]])
    assert off.std() == pytest.approx(0.02, rel=0.07)
    for axis in range(3):
        assert off[..., axis].std() == pytest.approx(0.02, rel=0.12)
    assert np.abs(off.mean(axis=(0, 1))).max() < 5 * 0.02 / math.sqrt(2 * 216)
    counted = np.mean([o.energies["bead"].mean() for o in run.observed[1:]])
    assert counted == pytest.approx(1.5 * BOLTZMANN * 400.0, rel=0.12)
    assert counted == pytest.approx(
        0.5 * BOLTZMANN * 400.0 * (off**2).sum(axis=-1).mean() / 0.02**2, rel=1e-6
    )


@pytest.mark.parametrize("name", ENGINES)
def test_angles_of_benders_have_the_distribution_of_boltzmann(name):
    """Not only its mean: a half of kT on average, and one that is exponential in tails."""
    run, *_ = swinging(name)
    energies = np.array([bending(o.positions) for o in run.observed[1:]]).ravel()
    reduced = energies / (BOLTZMANN * 400.0)
    assert reduced.mean() == pytest.approx(0.5, rel=0.15)
    # chi squared of one degree: P(E > kT/2) = 31.7 %, P(E > 2 kT) = 4.6 %
    assert (reduced > 0.5).mean() == pytest.approx(0.317, abs=0.06)
    assert (reduced > 2.0).mean() == pytest.approx(0.046, abs=0.03)


def test_heavier_than_they_are_atoms_are_slower_and_as_warm(engine):
    mapping, x, beads, box = benders(125)
    light, heavy = (engine(mapping, lightest=m) for m in (0.0, 100.0))
    runs = [m.run(x, beads, box, Langevin(80, 300.0), np.arange(len(x))) for m in (light, heavy)]
    for run, masses in zip(runs, (MASSES, np.full(3, 100.0)), strict=True):
        v = run.velocities.reshape(-1, 3, 3)
        kinetic = 0.5 * (masses[:, None] * v**2).sum()
        assert run.kinetic[-1] == pytest.approx(kinetic, rel=1e-9)
        assert kinetic / 125 == pytest.approx(4 * 0.5 * BOLTZMANN * 300.0, rel=0.2)
    speeds = [np.sqrt((run.velocities**2).mean()) for run in runs]
    assert speeds[1] == pytest.approx(speeds[0] * math.sqrt(MASSES.mean() / 100.0), rel=0.2)


# --- runs in parts --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.0, 0.02])
def test_a_run_in_two_parts_is_that_in_one(engine, width):
    mapping, x, beads, box = relaxed()
    made, names = engine(mapping), np.arange(len(x))
    whole = made.run(x, beads, box, Langevin(20, 400.0), names, width)
    first = made.run(x, beads, box, Langevin(8, 400.0), names, width)
    second = made.run(
        first.positions, beads, box, Langevin(12, 400.0, first_step=8), names, width,
        velocities=first.velocities,
    )  # fmt: skip
    np.testing.assert_allclose(second.positions, whole.positions, rtol=0, atol=2e-6)
    np.testing.assert_allclose(whole.kinetic[1:9], first.kinetic[1:], rtol=1e-5)
    np.testing.assert_allclose(whole.kinetic[9:], second.kinetic[1:], rtol=1e-3)
    same = made.run(
        first.positions, beads, box, Langevin(12, 400.0), names, width,
        velocities=first.velocities,
    )  # fmt: skip
    assert np.abs(same.positions - whole.positions).max() > 1e-3  # other noise


def test_a_schedule_in_two_parts_is_cut_between_its_steps(engine):
    mapping, x, beads, box = relaxed()
    made, names = engine(mapping), np.arange(len(x))
    warmth = np.linspace(700.0, 200.0, 17)
    whole = made.run(x, beads, box, Langevin(16, warmth), names)
    first = made.run(x, beads, box, Langevin(6, warmth[:7]), names)
    second = made.run(
        first.positions, beads, box, Langevin(10, warmth[6:], first_step=6), names,
        velocities=first.velocities,
    )  # fmt: skip
    np.testing.assert_allclose(second.positions, whole.positions, rtol=0, atol=2e-6)


def test_looking_changes_nothing_and_may_end_a_run(engine):
    mapping, x, beads, box = relaxed()
    made, names = engine(mapping), np.arange(len(x))
    blind = made.run(x, beads, box, Langevin(24, 400.0), names)
    seen = made.run(x, beads, box, Langevin(24, 400.0), names, every=7)
    assert [o.step for o in seen.observed] == [7, 14, 21, 24]
    np.testing.assert_allclose(seen.positions, blind.positions, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(seen.observed[-1].positions, seen.positions)
    steps = []

    def stop(observation):
        steps.append(observation.step)
        return len(steps) == 2

    short = made.run(x, beads, box, Langevin(24, 400.0), names, every=7, observe=stop)
    assert steps == [7, 14]
    assert short.observed == ()
    np.testing.assert_allclose(short.positions, seen.observed[1].positions, rtol=0, atol=1e-6)


def test_energies_on_the_way_are_those_of_the_positions_there(engine):
    mapping, x, beads, box = relaxed()
    made = engine(mapping)
    run = made.run(x, beads, box, Langevin(10, 400.0), np.arange(len(x)), 0.02, every=5)
    for observation in run.observed:
        again = made.energies(observation.positions, beads, box, 0.02, temperature=400.0)
        for name, values in again.items():
            size = 1e-5 * max(1.0, np.abs(values).max())
            np.testing.assert_allclose(observation.energies[name], values, rtol=0, atol=size)


def test_no_step_moves_an_atom_farther_than_was_said(engine):
    """However two atoms overlap: the force of one step adds at most so much to a move."""
    mapping = ions([0.0, 0.0])
    x = np.array([[1.0, 1.0, 1.0], [1.02, 1.0, 1.0]])
    for largest in (1e-5, 3e-5, 1.0):
        how = Langevin(1, 300.0, friction=0.0, largest_move=largest)
        made, v = engine(mapping), np.zeros((2, 3))
        run = made.run(x, NONE, WIDE, how, np.arange(2), velocities=v)
        moved = np.linalg.norm(run.positions - x, axis=1)
        free = np.abs(made.forces(x, NONE, WIDE)).max() / 20.0 * how.timestep**2
        np.testing.assert_allclose(moved, min(largest, free), rtol=1e-5)
        assert run.positions[1, 0] - run.positions[0, 0] > 0.02
    assert free > 3e-5


# --- systems of every make ------------------------------------------------------------------------


def test_how_many_pairs_are_worked_on_at_once_changes_no_force(monkeypatch):
    """Batches bound memory: cut into pieces of a few, the lists and sums are the same."""
    mapping, x, beads, box = relaxed()
    whole = CardMechanics(mapping, device="cpu", rigid=False)
    expected, energies = whole.forces(x, beads, box), whole.energies(x, beads, box)
    for name in ("PAIRS_AT_ONCE", "CANDIDATES_AT_ONCE"):
        monkeypatch.setitem(getattr(pairs, name), "cpu", 3000)
    cut = CardMechanics(mapping, device="cpu", rigid=False)
    found = cut.forces(x, beads, box)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    for name, values in cut.energies(x, beads, box).items():
        np.testing.assert_allclose(values, energies[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_beads_of_one_box_may_be_exact_soft_and_free(engine):
    mapping, x, beads, box = benders(24)
    widths = np.repeat([0.0, 0.01, math.inf], 8)
    run = engine(mapping).run(x, beads, box, Langevin(120, 300.0), np.arange(len(x)), widths)
    off = np.linalg.norm(map_positions(mapping, run.positions) - beads, axis=1)
    assert off[:8].max() < 1e-6
    assert 1e-3 < off[8:16].max() < 0.06
    assert off[16:].mean() > 2 * off[8:16].mean()
    assert bonds_off(mapping, run.positions).max() < 1e-6


def test_molecules_of_two_kinds_take_the_same_steps_in_any_order_of_blocks(engine):
    rod, ion = molecule("rod", [12.0, 14.0], [(0, 1, 0.15)]), molecule("ion", [23.0])
    kinds = (rod, beads_at(2, {0: 1.0})), (ion, beads_at(1, {0: 1.0}))
    one, other = system([(0, 2), (1, 2)], *kinds), system([(1, 2), (0, 2)], *kinds)
    x = np.array([[0, 0, 0], [0.15, 0, 0], [0.5, 0, 0], [0.65, 0, 0], [0, 0.6, 0], [0.5, 0.6, 0]])
    order = np.array([4, 5, 0, 1, 2, 3])
    found = []
    for mapping, names in ((one, np.arange(6)), (other, order)):
        start = x[names]
        beads = map_positions(mapping, start)
        run = engine(mapping).run(start, beads, 6.0 * np.eye(3), Langevin(15, 300.0), names, 0.02)
        found.append(run.positions[np.argsort(names)])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-6)


def test_a_schedule_of_temperatures_is_followed_and_firm_beads_are_exact(engine):
    mapping, x, beads, box = benders(125)
    made = engine(mapping)
    firm = made.firm(1000.0, 0.002)
    schedule = np.where(np.arange(161) < 80, 1000.0, 100.0)
    run = made.run(x, beads, box, Langevin(160, schedule), np.arange(len(x)), 0.9 * firm)
    for part, expected in ((slice(40, 80), 1000.0), (slice(135, 161), 100.0)):
        degrees = 0.5 * BOLTZMANN * 125 * 4  # six of three atoms on two bonds, less the bead's
        assert run.kinetic[part].mean() / degrees == pytest.approx(expected, rel=0.15)
    assert np.abs(map_positions(mapping, run.positions) - beads).max() < 1e-6


LENGTH = 0.15
KINDS = {"bond": [LENGTH, 1e5], "bond_g96": [LENGTH, 5e6], "morse": [LENGTH, 300.0, 20.0],
         "bond_cubic": [LENGTH, 1e5, 20.0]}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_bonds_of_every_kind_are_rigid_in_tensors_or_springs_as_asked(kind):
    bonds = BondedTerms(np.array([[0, 1], [1, 2]]), np.array([KINDS[kind]] * 2))
    rod = dataclasses.replace(
        molecule("rod", [12.0, 14.0, 16.0]), terms={kind: bonds},
        exclusions=np.array([[0, 1], [0, 2], [1, 2]]),
    )  # fmt: skip
    mapping = system([(0, 3)], (rod, beads_at(3)))
    shape = np.array([[0, 0, 0], [LENGTH, 0, 0], [2 * LENGTH, 0.02, 0]])
    x = np.concatenate([shape + np.array([0, 0, 1.1 * k]) for k in range(3)])
    for rigid in (True, False):
        made = CardMechanics(mapping, device="cpu", rigid=rigid)
        run = made.run(x, NONE, WIDE, Langevin(20, 300.0, 0.001), np.arange(9))
        off = np.abs(np.linalg.norm(np.diff(run.positions.reshape(-1, 3, 3), axis=1), axis=2)
                     - LENGTH).max()  # fmt: skip
        assert (off < 1e-6) if rigid else (1e-4 < off < 0.05)


def water(count=27, apart=0.5):
    """Rigid triangles with charges on a lattice, held nowhere."""
    kind = molecule("water", [16.0, 1.0, 1.0], (), [(0, 1, 0.1), (0, 2, 0.1), (1, 2, 0.1633)])
    kind = dataclasses.replace(
        kind, charges=np.array([-0.82, 0.41, 0.41]), atom_types=("O", "H", "H"),
        exclusions=np.array([[0, 1], [0, 2], [1, 2]]),
    )  # fmt: skip
    on = np.diag([0.0, 1.0])
    sigma, epsilon = 0.3166, 0.65
    topology = Topology(
        "water", (kind,), ((0, count),), ("H", "O"), 4 * epsilon * sigma**6 * on,
        4 * epsilon * sigma**12 * on,
    )  # fmt: skip
    side = round(count ** (1 / 3))
    grid = apart * np.stack(np.unravel_index(np.arange(count), (side,) * 3), 1)
    shape = np.array([[0, 0, 0], [0.0577, 0.08165, 0], [0.0577, -0.08165, 0]])
    turns = [ps.rotation(k) for k in range(count)]
    x = np.concatenate([shape @ t + g for t, g in zip(turns, grid, strict=True)])
    return SystemMapping(topology, (beads_at(3),)), x, np.eye(3) * side * apart


def test_rigid_water_turns_and_moves_at_its_temperature(engine):
    """Three degrees of freedom of motion and three of rotation, 3 kT in all, and triangles stay."""
    mapping, x, box = water()
    made = engine(mapping, cutoff=0.65, skin=0.05, lightest=0.0)
    run = made.run(x, NONE, box, Langevin(160, 300.0), np.arange(len(x)))
    a, b, c = run.positions.reshape(-1, 3, 3).transpose(1, 0, 2)
    for one, other, length in ((a, b, 0.1), (a, c, 0.1), (b, c, 0.1633)):
        np.testing.assert_allclose(np.linalg.norm(one - other, axis=1), length, atol=1e-6)
    kinetic = run.kinetic[80:].mean() / 27
    assert kinetic == pytest.approx(3.0 * BOLTZMANN * 300.0, rel=0.12)
    v = run.velocities.reshape(-1, 3, 3)
    masses = np.array([16.0, 1.0, 1.0])[:, None]
    along = np.einsum("mi,mi->m", v[:, 1] - v[:, 2], b - c)
    assert np.sqrt((along**2).mean()) < 0.2 * np.sqrt((v[:, 1] ** 2).sum(axis=1).mean()) * 0.1633
    moving = 0.5 * ((masses * v).sum(axis=1) ** 2).sum(axis=1) / 18.0
    assert moving.mean() == pytest.approx(1.5 * BOLTZMANN * 300.0, rel=0.6)


def test_water_has_openmms_forces_in_both(engine):
    """Charges, Lennard-Jones on one atom of three, exclusions, and a periodic box."""
    mapping, x, _ = water(count=64)
    box = np.eye(3) * 2.0
    energy, forces = by_openmm(mapping.topology, x, box)
    made = engine(mapping, rigid=False, cutoff=CUTOFF, epsilon=2.5, skin=0.05)
    found = made.forces(x, NONE, box)
    np.testing.assert_allclose(found, forces, rtol=0, atol=1e-5 * np.abs(forces).max())
    total_energy = sum(e.sum() for e in made.energies(x, NONE, box).values())
    assert total_energy == pytest.approx(energy, abs=1e-5 * np.abs(forces).max())


# --- projections ----------------------------------------------------------------------------------


def products(masses, one, other):
    return float((masses[:, None] * one * other).sum())


@pytest.mark.parametrize("width", [0.0, math.inf])
def test_tangents_are_an_orthogonal_projection_in_the_metric_of_masses(engine, width):
    """Linear, the same when taken twice, and symmetric: so the nearest motion that keeps bonds and
    held beads, of which no motion along a constraint is left."""
    mapping, x, _, _ = relaxed()
    made = engine(mapping, lightest=0.0)
    masses, rng = mapping.topology.masses(), np.random.default_rng(1)
    u, v = rng.normal(size=(2, *x.shape))
    pu, pv, both = (made.tangent(x, w, width) for w in (u, v, 2 * u - v))
    np.testing.assert_allclose(both, 2 * pu - pv, atol=1e-6)
    np.testing.assert_allclose(made.tangent(x, pv, width), pv, atol=1e-6)
    size = products(masses, u, u)
    assert products(masses, u, pv) == pytest.approx(products(masses, pu, v), abs=1e-7 * size)
    assert products(masses, pv, v - pv) == pytest.approx(0.0, abs=1e-7 * size)
    bonds = mapping.topology.expand_terms("bond").atoms
    d, w = (p[bonds[:, 0]] - p[bonds[:, 1]] for p in (x, pv))
    assert np.abs((d * w).sum(axis=1)).max() < 1e-6
    moved = np.abs(map_positions(mapping, pv)).max()
    assert (moved < 1e-6) if width == 0.0 else (moved > 0.01)
    # a constraint takes that many dimensions, of which a random vector loses its share
    held = len(bonds) + (3 * mapping.n_beads if width == 0.0 else 0)
    assert products(masses, pv, pv) / products(masses, v, v) < 1.0 - 0.5 * held / x.size


def test_bonds_are_met_without_pushing_or_turning_the_molecule(engine):
    """The forces of constraints are inner ones: the centre of mass of every chain stays."""
    mapping, x, beads, _ = relaxed()
    made = engine(mapping, lightest=0.0)
    rough = x + np.random.default_rng(2).normal(0.0, 0.005, x.shape)
    found = made.project(rough, beads, math.inf).positions
    masses = mapping.topology.masses().reshape(ps.CHAINS, -1, 1)
    shift = (masses * (found - rough).reshape(ps.CHAINS, -1, 3)).sum(axis=1)
    assert np.abs(shift).max() < 1e-6
    assert bonds_off(mapping, found).max() < 1e-6
    again = made.project(found, beads, math.inf).positions
    np.testing.assert_allclose(again, found, atol=2e-6)


@pytest.mark.parametrize("width", [0.0, math.inf])
def test_projections_move_and_turn_with_the_molecules_and_know_no_order(engine, width):
    mapping, x, _, _ = relaxed()
    made, beads = engine(mapping), map_positions(mapping, x)  # which its bonds can have
    rough = x + np.random.default_rng(3).normal(0.0, 0.004, x.shape)
    here = made.project(rough, beads, width).positions
    turn, shift = ps.rotation(4), np.array([0.3, -2.0, 1.0])
    there = made.project(rough @ turn + shift, beads @ turn + shift, width).positions
    np.testing.assert_allclose(there, here @ turn + shift, atol=1e-5)
    order = np.array([1, 2, 0])
    atoms = (order[:, None] * ps.ATOMS + np.arange(ps.ATOMS)).ravel()
    places = (order[:, None] * ps.BEADS + np.arange(ps.BEADS)).ravel()
    other = made.project(rough[atoms], beads[places], width).positions
    np.testing.assert_allclose(other, here[atoms], atol=1e-6)
    mirror = np.array([1.0, -1.0, 1.0])
    glass = made.project(rough * mirror, beads * mirror, width).positions
    np.testing.assert_allclose(glass, here * mirror, atol=1e-5)

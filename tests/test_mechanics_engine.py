"""Dynamics in the process: forces and energies of others, the temperature, the same bits."""

import dataclasses
import functools
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import small_polystyrene as ps
from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.forcefield import ForceField, energies_per_molecule, terms
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MoleculeMapping, SystemMapping, map_positions
from deepbackmap.mechanics import bonded, noise, pairs
from deepbackmap.mechanics.engine import LARGEST_MOVE, Langevin, LostError, Mechanics
from deepbackmap.mechanics.lanes import LANES, WIDTH, compiled
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology

# --- bonded terms ---------------------------------------------------------------------------------

EXAMPLES = {
    "bond": (2, [0.15, 1e4]),
    "harmonic": (2, [0.15, 1e4]),
    "bond_g96": (2, [0.15, 1e6]),
    "morse": (2, [0.15, 200.0, 3.0]),
    "bond_cubic": (2, [0.15, 1e4, 2.0]),
    "fene": (2, [1.2, 1e3]),
    "angle": (3, [1.9, 400.0]),
    "angle_g96": (3, [1.9, 400.0]),
    "angle_quartic": (3, [1.9, 1.0, 2.0, 300.0, -40.0, 20.0]),
    "angle_restricted": (3, [1.9, 40.0]),
    "proper": (4, [0.3, 5.0, 3.0]),
    "ryckaert_bellemans": (4, [1.0, 2.0, 3.0, -4.0, 5.0, 6.0]),
    "improper": (4, [0.2, 300.0]),
    "dihedral_restricted": (4, [0.2, 30.0]),
    "lj14": (2, [0.3, 0.4]),
    "lj14_powers": (2, [0.002, 3e-6]),
    "coulomb14": (2, [0.2]),
}


@compiled
def _add(size, number, x, f, atoms, count, values, width, e, cell):
    bonded.add_terms(size, number, x, f, 0, atoms, 0, count, values, 0, width, e, 0, True, cell)


def by_kernel(kind, x, atoms, parameters, cell=(), grids=None):
    """Energies (lanes,) and forces (lanes, n, 3) of some terms."""
    state = np.ascontiguousarray(x.transpose(1, 2, 0)).ravel()
    values = bonded.KERNELS[kind].prepare(parameters)
    f, e = np.zeros_like(state), np.zeros(LANES)
    places = (3 * LANES * atoms).ravel()
    kernel = bonded.KERNELS[kind]
    lattice = np.asarray(cell, dtype=float).ravel()
    _add(
        kernel.loop, kernel.number, state, f, places, len(atoms),
        bonded.with_grids(values, grids), values.shape[1], e, lattice,
    )  # fmt: skip
    return e, f.reshape(x.shape[1], 3, LANES).transpose(2, 0, 1)


def by_autograd(kind, x, atoms, parameters, **grids):
    at = torch.tensor(x, requires_grad=True)
    function = functools.partial(terms.FUNCTIONS[kind], **grids)
    energy = function(at, torch.tensor(atoms), torch.tensor(parameters)).sum(-1)
    energy.sum().backward()
    return energy.detach().numpy(), -at.grad.numpy()


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("seed", range(4))
def test_kernels_are_the_gradients_of_the_terms(kind, seed):
    count, row = EXAMPLES[kind]
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 0.2, (LANES, 7, 3))
    atoms = np.array([rng.permutation(7)[:count] for _ in range(5)])
    parameters = np.array([row] * 5) * rng.uniform(0.8, 1.2, (5, 1))
    if kind == "proper":
        parameters[:, 2] = [1, 2, 3, 4, -2]
    energies, forces = by_kernel(kind, x, atoms, parameters)
    expected = by_autograd(kind, x, atoms, parameters)
    np.testing.assert_allclose(energies, expected[0], rtol=1e-11)
    np.testing.assert_allclose(forces, expected[1], rtol=1e-9, atol=1e-9 * np.abs(forces).max())


@pytest.mark.parametrize("kind", ["bond", "angle", "proper"])
def test_kernels_take_the_shortest_images_where_there_is_a_cell(kind):
    """Atoms moved by lattice vectors of a skewed cell change neither energies nor forces."""
    count, row = EXAMPLES[kind]
    rng = np.random.default_rng(1)
    cell = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.6, 0.5, 1.8]])
    x = rng.normal(0.0, 0.15, (LANES, 6, 3))
    atoms = np.array([rng.permutation(6)[:count] for _ in range(4)])
    parameters = np.array([row] * 4)
    moved = x + rng.integers(-1, 2, x.shape) @ cell
    here, there = (by_kernel(kind, p, atoms, parameters, cell) for p in (x, moved))
    open_ = by_kernel(kind, x, atoms, parameters)
    for found in (here, there):
        np.testing.assert_allclose(found[0], open_[0], rtol=1e-9)
        np.testing.assert_allclose(found[1], open_[1], rtol=0, atol=1e-9 * np.abs(open_[1]).max())
    assert np.abs(by_kernel(kind, moved, atoms, parameters)[0] - open_[0]).min() > 1e-3


@pytest.mark.parametrize("kind", EXAMPLES)
def test_degenerate_geometry_has_finite_forces(kind):
    count, row = EXAMPLES[kind]
    x = np.zeros((LANES, 4, 3))
    x[1, :, 0] = 0.1 * np.arange(4)
    x[2, 2:] = 0.1
    x[3, :, 1] = [0.0, 0.1, 0.0, 0.1]
    energies, forces = by_kernel(kind, x, np.arange(count)[None], np.array([row]))
    assert np.isfinite(energies).all()
    assert np.isfinite(forces).all()


CURVES = {
    "bond_table": (2, 0.1, 0.03),
    "bond_table_nc": (2, 0.2, 0.02),
    "angle_table": (3, 0.4, 0.17),
    "dihedral_table": (4, -math.pi, 2 * math.pi / 13),
}
"""Atoms, start and spacing: distances and angles beyond both ends occur."""


def tabulated(kind, rng):
    """Five terms of seven atoms with parameters, and three tables."""
    rows = rng.integers(0, 3, (5, 1)).astype(float)
    if kind == "cmap":
        count, parameters, grids = 5, rows, rng.normal(0.0, 1.0, (3, 4, 8, 8))
    else:
        count, start, spacing = CURVES[kind]
        k = rng.uniform(0.5, 1.5, (5, 1))
        same = np.tile([start, spacing, 14.0], (5, 1))
        parameters, grids = np.hstack([k, rows, same]), rng.normal(0.0, 1.0, (3, 2, 14))
    return np.array([rng.permutation(7)[:count] for _ in range(5)]), parameters, grids


@pytest.mark.parametrize("kind", [*CURVES, "cmap"])
@pytest.mark.parametrize("seed", range(4))
def test_kernels_of_tables_are_the_gradients_of_the_terms_and_their_own(kind, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 0.2, (LANES, 7, 3))
    atoms, parameters, grids = tabulated(kind, rng)
    energies, forces = by_kernel(kind, x, atoms, parameters, grids=grids)
    expected = by_autograd(kind, x, atoms, parameters, grids=torch.tensor(grids))
    np.testing.assert_allclose(energies, expected[0], rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(forces, expected[1], rtol=0, atol=1e-9 * np.abs(forces).max())
    way, step = rng.normal(0.0, 1.0, x.shape), 1e-7
    up, down = (
        by_kernel(kind, x + s * step * way, atoms, parameters, grids=grids)[0] for s in (1, -1)
    )
    work = (forces * way).sum(axis=(1, 2))
    np.testing.assert_allclose((down - up) / (2 * step), work, atol=1e-5 * np.abs(forces).max())


@pytest.mark.parametrize("kind", [*CURVES, "cmap"])
def test_tables_have_finite_forces_at_degenerate_geometry_and_none_where_nothing_is(kind):
    atoms, parameters, grids = tabulated(kind, np.random.default_rng(0))
    x = np.zeros((LANES, 7, 3))
    x[1, :, 0] = 0.1 * np.arange(7)
    x[2, :, 0] = 0.1 * (np.arange(7) % 2)
    energies, forces = by_kernel(kind, x, atoms, parameters, grids=grids)
    assert np.isfinite(energies).all() and np.isfinite(forces).all()
    x[3] = np.nan  # must not be taken for a place in memory
    energies, forces = by_kernel(kind, x, atoms, parameters, grids=grids)
    assert np.isfinite(forces[:3]).all()


def test_curves_pass_through_their_points():
    """Two atoms at the distances of the points; halfway it is the cubic's mean."""
    values = np.array([[[3.0, -1.0, 2.0, 5.0], [0.5, 1.5, -2.0, 4.0]]])
    row = np.array([[2.0, 0.0, 0.1, 0.2, 4.0]])

    def at(*distances):
        x = np.zeros((LANES, 2, 3))
        x[:, 1, 2] = distances
        return by_kernel("bond_table", x, np.array([[0, 1]]), row, grids=values)

    energies, forces = at(0.1, 0.3, 0.5, 0.7)
    np.testing.assert_allclose(energies, 2.0 * values[0, 0], atol=1e-12)
    np.testing.assert_allclose(forces[:, 0, 2], 2.0 * values[0, 1], atol=1e-12)
    energies, forces = at(0.05, 0.8, 0.2, 0.6)
    halfway = 0.5 * (3.0 - 1.0) + 0.2 * (0.5 - 1.5) / 8, 0.5 * (2.0 + 5.0) + 0.2 * (-2.0 - 4.0) / 8
    np.testing.assert_allclose(energies, 2.0 * np.array([2.975, 5.4, *halfway]), atol=1e-12)
    np.testing.assert_allclose(forces[:2, 0, 2], [1.0, 8.0], atol=1e-12)


def test_a_fraction_of_a_multiplicity_is_left_to_automatic_differentiation():
    assert bonded.KERNELS["proper"].prepare(np.array([[0.0, 1.0, 1.5]])) is None


@compiled
def _arctangents(y, x, found):
    for k in range(0, len(y), LANES):
        bonded.store(found, k, bonded.arctangent(bonded.load(y, k), bonded.load(x, k)))


def test_the_arctangent_is_that_of_the_library():
    angle = np.linspace(-math.pi, math.pi, 4000)
    y, x = 0.3 * np.sin(angle), 0.3 * np.cos(angle)
    found = np.empty_like(y)
    _arctangents(y, x, found)
    np.testing.assert_allclose(found, np.arctan2(y, x), rtol=0, atol=1e-15 * 8)


# --- noise ----------------------------------------------------------------------------------------


@compiled
def _hashes(names, step, found, pieces):
    for k in range(len(names)):
        bits = noise.hashed(names[k], step)
        found[k] = np.int64(bits)
        for c in range(3):
            pieces[k, c] = noise.piece(bits, c)


def test_noise_is_named_as_elsewhere_and_is_normal():
    names = hash_counters(5, torch.arange(20000)).numpy()
    found, pieces = np.empty(len(names), dtype=np.int64), np.empty((len(names), 3), dtype=np.int64)
    _hashes(names, 17, found, pieces)
    assert np.array_equal(found, hash_counters(torch.tensor(names), 17).numpy())
    table = noise.quantiles()
    assert table.mean() == pytest.approx(0.0, abs=1e-12)
    assert (table**2).mean() == pytest.approx(1.0, abs=1e-11)
    assert (table**4).mean() == pytest.approx(3.0, rel=2e-3)
    drawn = table[pieces]
    # five standard errors
    assert np.abs(drawn.mean(axis=0)).max() < 5 / math.sqrt(len(names))
    assert np.abs(np.cov(drawn.T) - np.eye(3)).max() < 5 * math.sqrt(2 / len(names))


# --- whole boxes ----------------------------------------------------------------------------------


@functools.cache
def melt():
    """The reference box, or a skewed one of short chains where that is not at hand."""
    folder = Path(os.environ.get("DEEPBACKMAP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    return folder / "sps"


def short_chains(box=ps.SKEWED):
    """Three chains of three monomers that meet each other's images."""
    frame = ps.atoms(box=box)
    mapping = ps.mapping()
    return mapping, frame.positions, map_positions(mapping, frame.positions), frame.box


@functools.cache
def relaxed():
    """The same without the contacts at which forces are bounded."""
    mapping, x, beads, box = short_chains()
    warm = Langevin(150, 300.0, timestep=0.001)
    x = Mechanics(mapping).run(x, beads, box, warm, np.arange(len(x)), 0.02).positions
    return mapping, x, beads, box


def autograd_forces(field, x, box):
    at = torch.tensor(x, requires_grad=True)
    sum(field.energies(at, torch.tensor(box)).values()).backward()
    return -at.grad.numpy()


@pytest.mark.parametrize("cutoff", [0.6, 0.9])
@pytest.mark.parametrize("epsilon", [2.5, math.inf, None])
def test_forces_are_those_of_the_force_field(cutoff, epsilon):
    mapping, x, beads, box = relaxed()
    field = ForceField.from_topology(
        mapping.topology, cutoff=cutoff, reaction_field_epsilon=epsilon
    )
    for far_every in (1, 3):
        engine = Mechanics(
            mapping, rigid=False, cutoff=cutoff, epsilon=epsilon, far_every=far_every
        )
        found, expected = engine.forces(x, beads, box), autograd_forces(field, x, box)
        assert np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()) < 1e-5
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_energies_by_term_and_molecule_are_those_of_the_force_field():
    mapping, x, beads, box = relaxed()
    field = ForceField.from_topology(mapping.topology, cutoff=0.9, reaction_field_epsilon=2.5)
    expected = energies_per_molecule(field, Structure(x, box))
    found = Mechanics(mapping, cutoff=0.9, epsilon=2.5).energies(x, beads, box)
    for name, energies in expected.items():
        np.testing.assert_allclose(
            found[name], energies, rtol=5e-5, atol=5e-5 * np.abs(energies).max(), err_msg=name
        )
    assert not found["bead"].any()


def test_the_reference_box_has_the_energies_of_gromacs_force_field():
    if not melt().exists():
        pytest.skip(f"{melt()} is absent")
    topology = read_topology(melt() / "topol.top")
    frame = read_frames(melt() / "aa.gro")[0]
    beadless = SystemMapping(topology, tuple(free(m.n_atoms) for m in topology.molecule_types))
    field = ForceField.from_topology(topology, cutoff=1.0, reaction_field_epsilon=2.5)
    engine = Mechanics(beadless, cutoff=1.0, epsilon=2.5)
    found = engine.energies(frame.positions, np.zeros((0, 3)), frame.box)
    expected = field.energies_by_term(frame)
    for name in ("lj", "coulomb"):
        both = found[f"{name} intra"].sum() + found[f"{name} inter"].sum()
        assert both == pytest.approx(expected[name], rel=1e-5)


def test_terms_without_a_kernel_are_differentiated(monkeypatch):
    mapping, x, beads, box = short_chains()
    with_kernels = Mechanics(mapping, rigid=False)
    left = {k: v for k, v in bonded.KERNELS.items() if k not in ("angle", "improper")}
    monkeypatch.setattr("deepbackmap.mechanics.tables.KERNELS", left)
    without = Mechanics(mapping, rigid=False)
    np.testing.assert_allclose(
        without.forces(x, beads, box), with_kernels.forces(x, beads, box), rtol=0, atol=1e-6
    )
    one, other = (e.energies(x, beads, box) for e in (with_kernels, without))
    np.testing.assert_allclose(other["angle"], one["angle"], rtol=1e-12)
    options, names = Langevin(5, 300.0), np.arange(len(x))
    one, other = (e.run(x, beads, box, options, names) for e in (with_kernels, without))
    np.testing.assert_allclose(other.positions, one.positions, rtol=0, atol=1e-7)


@pytest.mark.parametrize("times", [(1, 1, 1), (3, 2, 2), (1, 1, 6)])
@pytest.mark.parametrize("far_every", [1, 3])
def test_a_box_repeated_has_the_same_forces_and_energies(times, far_every):
    """Whatever its longest direction is, and where there was too little room for lists at first."""
    mapping, x, _beads, box = relaxed()
    shifts = np.array(list(np.ndindex(*times)))
    topology = mapping.topology
    many = dataclasses.replace(
        mapping,
        topology=dataclasses.replace(topology, blocks=topology.blocks * len(shifts)),
    )
    y = (x + (shifts @ box)[:, None]).reshape(-1, 3)
    large = np.array(times)[:, None] * box
    small_engine, engine = (Mechanics(m, far_every=far_every) for m in (mapping, many))
    engine._capacity, engine._candidates = [8, 2], 4
    beads = [map_positions(m, p) for m, p in ((mapping, x), (many, y))]
    expected = small_engine.forces(x, beads[0], box)
    found = engine.forces(y, beads[1], large).reshape(-1, *expected.shape)
    np.testing.assert_allclose(
        found, np.broadcast_to(expected, found.shape), rtol=0, atol=2e-6 * np.abs(expected).max()
    )
    assert engine._candidates > 4 and engine._capacity[0] > 8  # the lists were made again
    once, often = small_engine.energies(x, beads[0], box), engine.energies(y, beads[1], large)
    for name, energies in once.items():
        each = often[name].reshape(len(shifts), -1)
        np.testing.assert_allclose(
            each, np.broadcast_to(energies, each.shape), rtol=0,
            atol=1e-5 * max(1.0, np.abs(energies).max()), err_msg=name,
        )  # fmt: skip


def test_lists_have_each_pair_within_reach_once_one_behind_the_other_in_the_same_memory():
    mapping, x, beads, box = relaxed()
    engine = Mechanics(mapping)
    work = engine._work(x, beads, 0.0, box=box)
    engine._list(work)
    first = work.lists
    lists = engine._list(work)
    assert first is not None
    for name in ("plain", "masked", "masks"):
        assert np.shares_memory(getattr(lists, name), getattr(first, name))
    points = lists.points.reshape(-1, 4)[:, :3]
    shifts = np.asarray(lists.shifts)
    for cluster in range(len(lists.counts)):
        own = np.arange(cluster * WIDTH, (cluster + 1) * WIDTH)
        own = own[lists.atoms[own] >= 0]
        rows = [
            array[start : start + count]
            for array, start, count in zip(
                (lists.plain, lists.masked),
                lists.starts[cluster],
                lists.counts[cluster].reshape(2, 2).sum(axis=1),
                strict=True,
            )
        ]
        entries = np.concatenate(rows)
        listed = set(entries.tolist())
        assert len(listed) == len(entries)
        everywhere = points[None] + shifts[:, None]  # image, place
        apart = np.linalg.norm(everywhere[:, :, None] - points[own], axis=-1).min(axis=-1)
        images, places = np.nonzero((apart < engine.reach - 1e-5) & (lists.atoms >= 0))
        assert set((places * 32 + images).tolist()) <= listed
        images, places = np.nonzero((apart < engine.reach + 1e-5) & (lists.atoms >= 0))
        assert listed <= set((places * 32 + images).tolist())


@pytest.mark.parametrize("seed", range(20))
def test_clusters_of_a_column_are_found_by_their_heights(seed):
    rng = np.random.default_rng(seed)
    heights = np.sort(rng.uniform(0.0, 1.0, 8 * rng.integers(0, 12))).reshape(-1, 8)
    low, high = np.sort(rng.uniform(-0.5, 1.5, 2))
    lowest = np.concatenate([[-1.0] * 3, heights[:, :1].ravel(), [-1.0]])
    start, stop = pairs._between.py_func(lowest, 3, 3 + len(heights), low, high)
    within = (heights[:, 0] <= high) & (heights[:, -1] >= low)
    chosen = np.zeros(len(heights), dtype=bool)
    chosen[start - 3 : stop - 3] = True
    assert not (within & ~chosen).any()
    assert (chosen & ~within).sum() <= 1  # its last atom may be below


def on_constraints(mapping, x, beads):
    bonds = np.abs(Constraints.of(mapping.topology, bonds=True).deviations(x)).max()
    return max(bonds, np.abs(map_positions(mapping, x) - beads).max())


def test_bonds_and_beads_stay_and_threads_and_parts_change_no_bit():
    mapping, x, beads, box = short_chains()
    names = hash_counters(3, torch.arange(len(x))).numpy()
    runs = [
        Mechanics(mapping, threads=n).run(x, beads, box, Langevin(30, 500.0), names) for n in (1, 2)
    ]
    assert np.array_equal(runs[0].positions, runs[1].positions)
    assert np.array_equal(runs[0].velocities, runs[1].velocities)
    assert on_constraints(mapping, runs[0].positions, beads) < 1e-6
    assert np.median(np.linalg.norm(runs[0].positions - x, axis=1)) > 1e-3
    other = Mechanics(mapping).run(x, beads, box, Langevin(30, 500.0), names + 1)
    assert (np.abs(other.positions - runs[0].positions).max(axis=1) > 1e-4).mean() > 0.9


def test_a_molecule_does_not_depend_on_those_it_is_worked_on_with():
    """Chains far apart, in any number: alone, one has the same bits as among others."""
    box = np.eye(3) * 40.0
    mapping, x, _, _ = short_chains(box)
    n = ps.ATOMS
    x = x + np.repeat(10.0 * np.arange(3), n)[:, None]
    beads, names = map_positions(mapping, x), np.arange(len(x))
    together = Mechanics(mapping).run(x, beads, box, Langevin(10, 400.0), names)
    single = ps.mapping(chains=1)
    b = ps.BEADS
    alone = Mechanics(single).run(
        x[n : 2 * n], beads[b : 2 * b], box, Langevin(10, 400.0), names[n : 2 * n]
    )
    np.testing.assert_allclose(alone.positions, together.positions[n : 2 * n], rtol=0, atol=1e-7)


def test_no_steps_change_nothing_and_what_is_lost_is_said():
    mapping, x, beads, box = short_chains()
    engine, names = Mechanics(mapping), np.arange(len(x))
    start = engine.project(x, beads).positions
    assert np.array_equal(engine.run(start, beads, box, Langevin(0, 300.0), names).positions, start)
    lost = start.copy()
    lost[60] = np.nan
    with pytest.raises(LostError, match="molecule 2"):
        engine.run(lost, beads, box, Langevin(2, 300.0), names)
    with pytest.raises(ValueError, match="heights of at least"):
        engine.run(start, beads, 0.1 * box, Langevin(2, 300.0), names)
    with pytest.raises(ValueError, match="temperature: expected 3"):
        engine.run(start, beads, box, Langevin(2, np.array([1.0, 2.0])), names)


# --- temperature and beads ------------------------------------------------------------------------

ANGLE, STIFFNESS, BOND, APART, COUNT = math.radians(110.0), 1000.0, 0.15, 1.6, 512
MASSES = np.array([12.0, 14.0, 16.0])


def free(n):
    """A molecule of n atoms without beads."""
    return centre(n, ())


def centre(n, weights):
    """A molecule whose one bead has these weights; none if there are none."""
    empty, b = np.zeros((0, 2), dtype=np.int64), int(len(weights) > 0)
    return MoleculeMapping(
        bead_names=("B1",) * b, bead_types=("B",) * b, bead_residue_names=("RES",) * b,
        bead_residue_numbers=np.ones(b, dtype=np.int64), weight_atoms=np.arange(len(weights)),
        weight_beads=np.zeros(len(weights), dtype=np.int64),
        weights=np.array(weights, dtype=float), owner=np.zeros(n, dtype=np.int64),
        bead_bonds=empty, align=np.full((b, 2), -1, dtype=np.int64), order=np.arange(b),
    )  # fmt: skip


def benders(count=COUNT):
    """Molecules of three atoms with rigid bonds and one harmonic angle, out of each other's
    reach; their beads are their centres of mass, so that all they do is turn and bend."""
    empty = np.zeros((0, 2), dtype=np.int64)
    bonds = BondedTerms(np.array([[0, 1], [1, 2]]), np.array([[BOND, 1e5]] * 2))
    angle = BondedTerms(np.array([[0, 1, 2]]), np.array([[ANGLE, STIFFNESS]]))
    kind = MoleculeType(
        name="bender", atom_names=("A1", "A2", "A3"), atom_types=("A",) * 3,
        residue_names=("RES",) * 3, residue_numbers=np.ones(3, dtype=np.int64),
        charges=np.zeros(3), masses=MASSES, terms={"bond": bonds, "angle": angle}, nrexcl=2,
        exclusions=np.array([[0, 1], [0, 2], [1, 2]]),
        pairs=BondedTerms(empty, np.zeros((0, 3))),
    )  # fmt: skip
    lj = np.full((1, 1), 1e-3), np.full((1, 1), 1e-6)
    topology = Topology("benders", (kind,), ((0, count),), ("A",), *lj)
    arms = np.array([[0, 0, 0], [BOND, 0, 0], [0, 0, 0]], dtype=float)
    arms[2] = arms[1] - BOND * np.array([math.cos(ANGLE), math.sin(ANGLE), 0])
    side = math.ceil(count ** (1 / 3))
    grid = np.stack(np.unravel_index(np.arange(count), (side,) * 3), 1) * APART
    x = (grid[:, None] + arms[None]).reshape(-1, 3)
    mapping = SystemMapping(topology, (centre(3, MASSES / MASSES.sum()),))
    return mapping, x, map_positions(mapping, x), np.eye(3) * side * APART


def bending(x):
    """Energies of the angles of benders, kJ/mol."""
    a, b, c = x.reshape(-1, 3, 3).transpose(1, 0, 2)
    cosine = ((a - b) * (c - b)).sum(1) / BOND**2
    return 0.5 * STIFFNESS * (np.arccos(cosine) - ANGLE) ** 2


@pytest.mark.parametrize(("temperature", "lightest"), [(250.0, 0.0), (600.0, 0.0), (600.0, 15.0)])
@pytest.mark.parametrize("width", [0.0, 0.02])
def test_a_harmonic_angle_takes_on_the_temperature_and_a_bead_its_width(
    temperature, lightest, width
):
    """Half of kT, whatever atoms weigh, and the width that was asked for in each direction."""
    mapping, x, beads, box = benders()
    engine = Mechanics(mapping, lightest=lightest)
    energies, offsets = [], []
    trajectory = engine.run(
        x, beads, box, Langevin(600, temperature), np.arange(len(x)), width,
        every=100,
    )  # fmt: skip
    for seen in trajectory.observed[1:]:
        energies.append(bending(seen.positions).mean())
        offsets.append(map_positions(mapping, seen.positions) - beads)
    # the statistical error of each is sqrt(2 / COUNT), 6.3 %
    assert np.mean(energies) == pytest.approx(0.5 * BOLTZMANN * temperature, rel=0.1)
    spread = np.sqrt((np.array(offsets) ** 2).mean())
    assert spread == pytest.approx(width, rel=0.06, abs=1e-6)
    kinetic = trajectory.kinetic[-300:].mean() / (COUNT * (7 if width else 4))
    assert kinetic == pytest.approx(0.5 * BOLTZMANN * temperature, rel=0.05)


def test_beads_may_be_exact_soft_and_free_in_one_box():
    mapping, x, beads, box = benders(30)
    widths = np.repeat([0.0, 0.01, math.inf], 10)
    goal = beads.copy()
    end = Mechanics(mapping).run(
        x, goal, box, Langevin(400, 300.0), np.arange(len(x)), widths
    ).positions  # fmt: skip
    off = np.linalg.norm(map_positions(mapping, end) - beads, axis=1)
    assert off[:10].max() < 1e-6
    assert 1e-3 < off[10:20].max() < 0.05
    assert off[20:].mean() > off[10:20].mean()
    assert np.abs(Constraints.of(mapping.topology, bonds=True).deviations(end)).max() < 1e-6


def test_a_schedule_of_temperatures_is_followed():
    mapping, x, beads, box = benders()
    schedule = np.where(np.arange(401) < 200, 1000.0, 100.0)
    run = Mechanics(mapping).run(x, beads, box, Langevin(400, schedule), np.arange(len(x)))
    degrees = 0.5 * BOLTZMANN * COUNT * 4
    for part, expected in ((slice(100, 200), 1000.0), (slice(300, 401), 100.0)):
        assert run.kinetic[part].mean() / degrees == pytest.approx(expected, rel=0.05)


def energies_without_friction(engine, system, warm_up, rounds):
    """Total and bending energies of ``benders``, every 50 steps after some with friction."""
    mapping, x, beads, box = system
    names = np.arange(len(x))
    warm = engine.run(x, beads, box, Langevin(warm_up, 500.0, timestep=0.001), names)
    x, v = warm.positions, warm.velocities
    masses = mapping.topology.masses()[:, None]
    total, swing = [], []
    for _ in range(rounds):
        run = engine.run(
            x, beads, box, Langevin(50, 1.0, timestep=0.001, friction=0.0, largest_move=1.0),
            names, velocities=v,
        )  # fmt: skip
        kinetic = 0.5 * (0.5 * (masses * v**2).sum() + run.kinetic[1])
        total.append(kinetic + bending(x).sum())
        swing.append(bending(x).sum())
        x, v = run.positions, run.velocities
    return total, swing


def test_without_friction_energy_is_conserved():
    """1 fs, rigid bonds and held beads: energies of the same size change hands, none is lost."""
    system = benders(64)
    engine = Mechanics(system[0], lightest=0.0)
    total, swing = energies_without_friction(engine, system, 300, 10)
    assert np.ptp(total) < 0.01 * total[0]
    assert np.ptp(swing) > 5 * np.ptp(total)


# --- bad contacts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1e-3, 0.05])
@pytest.mark.parametrize("softness", [0.0, 0.5])
def test_overlapping_atoms_move_apart_and_do_not_fly(gap, softness):
    mapping, x, _, box = short_chains()
    n = ps.ATOMS
    x = x.copy()
    x[n : 2 * n] += x[13] - x[n + 13] + np.array([gap, 0.0, 0.0])
    beads, engine = map_positions(mapping, x), Mechanics(mapping)
    start = engine.project(x, beads).positions
    steps = 15
    end = engine.run(
        start, beads, box, Langevin(steps, 300.0, softness=softness), np.arange(len(x))
    ).positions
    assert on_constraints(mapping, end, beads) < 1e-6
    before, after = (np.linalg.norm(p[13] - p[n + 13]) for p in (start, end))
    assert after > before or softness > 0.0  # a soft core hardly pushes where it is flat
    # A kick is bounded, and friction lets it add up to so much in all these steps.
    assert np.linalg.norm(end - start, axis=1).max() < LARGEST_MOVE * steps * (steps + 1) / 2


def test_soft_cores_are_softer_and_vanish_in_the_end():
    mapping, x, beads, box = short_chains()
    nothing = dataclasses.replace(
        mapping.topology, c6=0 * mapping.topology.c6, c12=0 * mapping.topology.c12,
        molecule_types=tuple(
            dataclasses.replace(m, charges=0 * m.charges) for m in mapping.topology.molecule_types
        ),
    )  # fmt: skip
    bare = Mechanics(SystemMapping(nothing, mapping.molecules)).forces(x, beads, box)
    sizes = [
        np.abs(Mechanics(mapping).forces(x, beads, box, softness=s) - bare).max()
        for s in (0.0, 0.3, 0.6, 1.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    assert sizes[3] == 0.0

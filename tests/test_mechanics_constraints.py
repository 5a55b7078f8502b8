"""Bonds and beads made exact together: the constraints are met by the smallest move, alone."""

import dataclasses
import itertools
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
import small_polystyrene as ps
from bonded_molecules import molecule
from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MoleculeMapping, SystemMapping, load_mapping, map_positions
from deepbackmap.mechanics.engine import Mechanics
from deepbackmap.mechanics.solver import TOLERANCE
from deepbackmap.system import Topology
from deepbackmap.system.whole import make_whole

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"


@cache
def melt(chains: int = 12):
    """The packaged melt of ten-mers: mapping, atoms in whole chains, their beads."""
    topology = read_topology(MELT / "topol.top")
    frame = read_frames(MELT / "aa.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    whole = whole[: len(whole) * chains // topology.n_molecules]
    topology = dataclasses.replace(topology, blocks=((0, chains),))
    mapping = load_mapping("ps-two-bead").resolve(topology)
    return mapping, whole, map_positions(mapping, whole)


def engine(mapping, *, rigid=True):
    return Mechanics(mapping, rigid=rigid, lightest=0.0)


def rattled(x, size, seed=0):
    return x + size * np.random.default_rng(seed).normal(size=x.shape)


def bonds_off(mapping, x, *, bonds=True):
    """By molecule: largest deviation of a bond from its length, found another way."""
    fixed = Constraints.of(mapping.topology, bonds=bonds)
    off = np.zeros(mapping.topology.n_molecules)
    molecule = np.searchsorted(mapping.topology.molecule_offsets(), fixed.atoms[:, 0], "right") - 1
    np.maximum.at(off, molecule, np.abs(fixed.deviations(x)))
    return off


def beads_off(mapping, x, beads):
    """By molecule: largest deviation of a bead's coordinate, found another way."""
    off = np.abs(map_positions(mapping, x) - beads).max(axis=1)
    first = mapping.bead_offsets()
    return np.array([off[a:b].max(initial=0.0) for a, b in itertools.pairwise(first)])


def check_on_constraints(mapping, found, beads, *, bonds=True):
    assert bonds_off(mapping, found.positions, bonds=bonds).max() <= TOLERANCE
    assert beads_off(mapping, found.positions, beads).max() <= TOLERANCE
    assert not len(found.strained)
    assert not len(found.broken)


def beads_at(n, *beads):
    """A mapping of n atoms onto beads {atom: share}, by which only weights matter."""
    rows = [
        (atom, k, share / sum(b.values())) for k, b in enumerate(beads) for atom, share in b.items()
    ]
    atoms, numbers, weights = (np.array(c) for c in zip(*rows, strict=True)) if rows else [()] * 3
    b = len(beads)
    return MoleculeMapping(
        bead_names=tuple(f"B{k + 1}" for k in range(b)),
        bead_types=("B",) * b,
        bead_residue_names=("RES",) * b,
        bead_residue_numbers=np.ones(b, dtype=np.int64),
        weight_atoms=np.array(atoms, dtype=np.int64),
        weight_beads=np.array(numbers, dtype=np.int64),
        weights=np.array(weights, dtype=np.float64),
        owner=np.zeros(n, dtype=np.int64),
        bead_bonds=np.zeros((0, 2), dtype=np.int64),
        align=np.full((b, 2), -1, dtype=np.int64),
        order=np.arange(b),
    )


def system(blocks, *kinds):
    """Molecules (type, beads) in runs (which, how many)."""
    one = np.ones((1, 1))
    topology = Topology("test", tuple(m for m, _ in kinds), tuple(blocks), ("A",), one, one)
    return SystemMapping(topology, tuple(b for _, b in kinds))


def mixed():
    """Runs of rings, ions, rigid waters and dimers; bonds exact, and where everything is."""
    angle = np.pi / 3 * np.arange(6)
    corners = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    bonds = [(k, (k + 1) % 6, 0.14) for k in range(6)] + [(k, k + 6, 0.108) for k in range(6)]
    ring = molecule("ring", [12.0] * 6 + [1.0] * 6, bonds)
    halves = {k: ring.masses[k] for k in (0, 1, 2, 6, 7, 8)}, dict.fromkeys((2, 3, 4, 5), 1.0)
    ion = molecule("ion", [23.0])
    water = molecule("water", [16.0, 1.0, 1.0], (), [(0, 1, 0.1), (0, 2, 0.1), (1, 2, 0.16)])
    dimer = molecule("dimer", [12.0, 14.0], [(0, 1, 0.2)], [(1, 0, 0.15)])
    mapping = system(
        [(0, 2), (1, 1), (2, 3), (3, 2), (1, 2), (0, 1)],
        (ring, beads_at(12, *halves)),
        (ion, beads_at(1, {0: 1.0})),
        (water, beads_at(3, {0: 16.0, 1: 1.0, 2: 1.0})),
        (dimer, beads_at(2, {0: 1.0, 1: 3.0})),
    )
    shapes = (
        np.concatenate([0.14 * corners, 0.248 * corners]),
        np.zeros((1, 3)),
        np.array([[0, 0, 0], [0.06, 0.08, 0], [0.06, -0.08, 0]]),
        np.array([[0, 0, 0], [0.15, 0, 0]]),
    )
    index = mapping.topology.molecule_type_index()
    x = np.concatenate([shapes[t] @ ps.rotation(k).T + k for k, t in enumerate(index)])
    return mapping, x, map_positions(mapping, x)


def straight(monomers):
    """An extended chain of polystyrene with exact bonds, and its beads."""
    mapping = ps.mapping(monomers, 1)
    side = np.array([0.0, 0.8, 0.6])
    across = np.array([0.0, -0.6, 0.8])
    up = np.array([0.0, 0.0, 1.0])
    step = np.array([0.0, np.sqrt(0.153**2 - 0.125**2), 0.0])
    ca, cb = np.zeros(3), np.array([0.125, 0.0, 0.0]) + step
    angle = np.pi / 3 * np.arange(6)[:, None]
    turn = -np.cos(angle) * side + np.sin(angle) * across
    centre = cb + (0.151 + 0.139) * side
    ring = np.stack([centre + 0.139 * turn, centre + 0.247 * turn], axis=1).reshape(-1, 3)
    group = np.array([ca + 0.11 * up, ca, ca - 0.11 * up, cb - 0.11 * up, cb, *ring[:1], *ring[2:]])
    shifts = 0.25 * np.arange(monomers)[:, None] * np.array([1.0, 0.0, 0.0])
    chain = (group[None] + shifts[:, None]).reshape(-1, 3)
    ends = ca - [0.11, 0, 0], cb + shifts[-1] + [0.11, 0, 0]
    x = np.concatenate([chain, ends])
    return mapping, x, map_positions(mapping, x)


SYSTEMS = pytest.mark.parametrize("given", [melt, mixed], ids=["melt", "mixed"])


@SYSTEMS
@pytest.mark.parametrize("noise", [0.001, 0.01, 0.03])
def test_bonds_and_beads_are_exact_afterwards(given, noise):
    mapping, x, beads = given()
    start = rattled(x, noise)
    found = engine(mapping).project(start, beads)
    check_on_constraints(mapping, found, beads)
    assert bonds_off(mapping, start).max() > noise
    assert np.linalg.norm(found.positions - start, axis=1).max() < 12 * noise


@SYSTEMS
def test_what_is_on_the_constraints_stays(given):
    mapping, x, beads = given()
    mechanics = engine(mapping)
    on = mechanics.project(x, beads).positions
    assert np.array_equal(mechanics.project(on, beads).positions, on)
    assert np.array_equal(mechanics.project(on, beads, at=on).positions, on)


def test_turned_molecules_are_projected_alike():
    mapping, x, beads = melt(2)
    turn = np.array(ps.rotation(3))
    mechanics, start = engine(mapping), rattled(x, 0.01)
    here = mechanics.project(start, beads).positions
    there = mechanics.project(start @ turn, beads @ turn).positions
    np.testing.assert_allclose(there, here @ turn, rtol=0, atol=1e-5)


@SYSTEMS
def test_tangent_vectors_change_no_bond_and_no_bead_and_lose_nothing_else(given):
    mapping, x, beads = given()
    mechanics = engine(mapping)
    x = mechanics.project(x, beads).positions
    vectors = rattled(np.zeros_like(x), 1.0)
    kept = mechanics.tangent(x, vectors)
    i, j = Constraints.of(mapping.topology, bonds=True).atoms.T
    arms = x[i] - x[j]
    assert np.abs(((kept[i] - kept[j]) * arms).sum(1)).max() < 1e-7
    assert np.abs(map_positions(mapping, kept)).max() < 1e-7
    np.testing.assert_allclose(mechanics.tangent(x, kept), kept, rtol=0, atol=1e-6)
    # what is taken out is orthogonal to what is kept, in the metric of the masses
    masses = np.array(mapping.topology.masses())[:, None]
    assert abs(float((masses * kept * (vectors - kept)).sum())) < 1e-5
    assert float((masses * kept**2).sum()) <= float((masses * vectors**2).sum())
    if given is melt:
        assert float((kept**2).sum()) > 0.05 * float((vectors**2).sum())


@SYSTEMS
def test_the_move_is_the_smallest(given):
    """It has no part along the constraints: any other move onto them is longer."""
    mapping, x, beads = given()
    mechanics = engine(mapping)
    on = mechanics.project(x, beads).positions
    start = rattled(on, 1e-5)
    move = mechanics.project(start, beads).positions - start
    assert np.abs(mechanics.tangent(on, move)).max() < 0.02 * np.abs(move).max()
    # along directions that are kept, it has none however long it is
    start = rattled(on, 0.003)
    move = mechanics.project(start, beads, at=on).positions - start
    assert np.abs(mechanics.tangent(on, move)).max() < 1e-6 * np.abs(move).max()


def test_without_beads_it_is_the_projection_of_the_engines():
    mapping, x, _ = melt(3)
    nothing = beads_at(mapping.topology.molecule_types[0].n_atoms)
    mapping = SystemMapping(mapping.topology, (nothing,))
    start = rattled(x, 0.01)
    found = engine(mapping).project(start, np.zeros((0, 3)))
    expected = Constraints.of(mapping.topology, bonds=True).project(start)
    np.testing.assert_allclose(found.positions, expected, rtol=0, atol=3e-6)


def test_only_constraints_are_held_if_bonds_are_not():
    mapping, x, beads = mixed()
    assert bonds_off(mapping, x, bonds=False).max() < TOLERANCE
    start = rattled(x, 0.01)
    found = engine(mapping, rigid=False).project(start, beads)
    check_on_constraints(mapping, found, beads, bonds=False)
    assert bonds_off(mapping, found.positions).max() > 0.005
    # the melt has no constraints: its beads alone are moved, and each at once with its atoms
    mapping, x, beads = melt(2)
    found = engine(mapping, rigid=False).project(rattled(x, 0.01), beads)
    check_on_constraints(mapping, found, beads, bonds=False)


def test_a_molecule_does_not_depend_on_the_others():
    mapping, x, beads = melt(3)
    start, n, b = rattled(x, 0.01), len(x) // 3, len(beads) // 3
    far = beads.copy()
    far[:b] = far[:b].mean(0) + 1.5 * (far[:b] - far[:b].mean(0))
    far[b] = np.nan
    together = engine(mapping).project(start, far)
    single, _, _ = melt(1)
    alone = engine(single).project(start[2 * n :], beads[2 * b :])
    np.testing.assert_allclose(together.positions[2 * n :], alone.positions, rtol=0, atol=1e-11)
    assert together.strained.tolist() == [0, 1]
    assert together.broken.tolist() == [1]


@pytest.mark.parametrize(("far", "left"), [(1.2, 0.2), (1.4, 0.7), (2.0, 1.0)])
def test_beads_out_of_reach_are_approached_with_exact_bonds(far, left):
    mapping, x, beads = melt(4)
    b = len(beads) // 4
    for k in (1, 3):
        own = beads[k * b : (k + 1) * b]
        beads = beads.copy()
        beads[k * b : (k + 1) * b] = own.mean(0) + far * (own - own.mean(0))
    mechanics = engine(mapping)
    start = rattled(x, 0.005)
    found = mechanics.project(start, beads)
    assert found.strained.tolist() == [1, 3]
    assert not len(found.broken)
    assert bonds_off(mapping, found.positions).max() <= TOLERANCE
    off, before = (beads_off(mapping, at, beads) for at in (found.positions, start))
    assert (off[[0, 2]] <= TOLERANCE).all()
    assert (off[[1, 3]] < left * before[[1, 3]]).all()
    # dynamics from there goes on with these molecules where they are
    moved = found.positions + 0.003 * mechanics.tangent(found.positions, rattled(0 * x, 1.0))
    again = mechanics.project(moved, beads, at=found.positions)
    assert again.strained.tolist() == [1, 3]
    assert bonds_off(mapping, again.positions).max() <= TOLERANCE
    kept = beads_off(mapping, again.positions, np.array(map_positions(mapping, found.positions)))
    assert kept.max() <= 2 * TOLERANCE


def test_an_unreachable_bead_is_left_at_the_least_distance():
    """Two atoms on beads 0.05 nm farther apart than their bond share that between them."""
    dimer = molecule("dimer", [1.0, 9.0], [(0, 1, 0.15)]), beads_at(2, {0: 1.0}, {1: 1.0})
    mapping = system([(0, 1)], dimer)
    x = np.array([[0.0, 0.01, 0.0], [0.15, 0.0, 0.02]])
    beads = np.array([[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    found = engine(mapping).project(x, beads)
    expected = np.array([[0.025, 0.0, 0.0], [0.175, 0.0, 0.0]])
    np.testing.assert_allclose(found.positions, expected, rtol=0, atol=2e-3)
    assert bonds_off(mapping, found.positions).max() <= TOLERANCE


def test_moves_too_large_for_kept_directions_are_made_all_the_same():
    mapping, x, beads = melt(3)
    mechanics = engine(mapping)
    on = mechanics.project(x, beads).positions
    found = mechanics.project(rattled(on, 0.03), beads, at=on)
    check_on_constraints(mapping, found, beads)


def test_atoms_at_one_point_part():
    mapping, x, beads = melt(1)
    start = x.copy()
    start[5:8] = start[4]
    found = engine(mapping).project(start, beads)
    assert np.isfinite(found.positions).all()
    check_on_constraints(mapping, found, beads)
    kept = engine(mapping).tangent(start, rattled(0 * x, 1.0))
    assert np.isfinite(kept).all()


def test_redundant_constraints_are_harmless_and_contradictions_are_named():
    same = beads_at(3, {0: 1.0, 1: 1.0}, {0: 2.0, 1: 2.0}, {2: 1.0})
    possible = molecule("a", [1.0, 2.0, 3.0], [(0, 1, 0.1), (1, 2, 0.1), (0, 2, 0.2)])
    impossible = molecule("b", [1.0, 2.0, 3.0], [(0, 1, 0.1), (1, 2, 0.1), (0, 2, 0.5)])
    mapping = system([(0, 2), (1, 1), (0, 1)], (possible, same), (impossible, same))
    line = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0]])
    x = np.concatenate([line + k for k in range(4)])
    beads = np.array(map_positions(mapping, x))
    beads[4, 2] += 0.02  # the second molecule's twins disagree
    found = engine(mapping).project(rattled(np.array(x), 0.002), beads)
    assert np.isfinite(found.positions).all()
    assert found.broken.tolist() == [2]
    assert {1} <= set(found.strained.tolist()) <= {1, 2}


@pytest.mark.parametrize("monomers", [3, 30, 100])
def test_chains_of_any_length(monomers):
    mapping, x, beads = straight(monomers)
    assert bonds_off(mapping, x).max() < TOLERANCE
    found = engine(mapping).project(rattled(x, 0.01), beads)
    check_on_constraints(mapping, found, beads)


@pytest.mark.slow  # what is timed must not share the machine with other tests
def test_an_atom_of_a_long_chain_costs_what_one_of_a_short_chain_does():
    cost = []
    for monomers, copies in ((10, 80), (100, 8)):
        mapping, x, _ = straight(monomers)
        topology = dataclasses.replace(mapping.topology, blocks=((0, copies),))
        mechanics = Projector(SystemMapping(topology, mapping.molecules), CPU, bonds=True)
        many = np.tile(x, (copies, 1))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            mechanics.tangent(many, many)
            times.append(time.perf_counter() - start)
        cost.append(min(times) / len(many))
    assert cost[1] < 3 * cost[0]

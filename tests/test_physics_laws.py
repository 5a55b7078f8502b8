"""Atoms without a model, piece by piece: company by brute force, turns, weights and windows."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.methods.physics.library import (
    BEAD_WIDTH,
    BLURS,
    Candidates,
    Library,
    candidates,
    make_library,
    mirrored,
)
from deepbackmap.methods.physics.options import PhysicsSamplingOptions
from deepbackmap.methods.physics.packing import REACH, Crowd, pair_table
from deepbackmap.methods.physics.sampler import PhysicsSampler
from deepbackmap.methods.physics.tables import vacuum_tables
from deepbackmap.methods.physics.vacuum import (
    Conformations,
    VacuumOptions,
    conformations,
    starts,
)
from deepbackmap.methods.physics.windows import Window, find_windows, kind_of
from deepbackmap.quantities import BOLTZMANN, COULOMB
from deepbackmap.system import Structure
from physics_systems import CHIRAL, ION, chain, system, topology

CELL = np.array([[2.4, 0.0, 0.0], [0.8, 2.2, 0.0], [-0.7, 0.9, 2.3]])
NO_JOINT = np.zeros((1, 0, 3)), np.zeros(0, dtype=bool)
TWO = ION + ION.replace("ION", "NEG").replace("1.0 35.0", "-1.0 35.0").replace(" X ", " Y ")
"""Two kinds of ion with charges and sizes of their own."""


# --- company --------------------------------------------------------------------------------------


def ions(folder: Path, count: int) -> SystemMapping:
    """A salt."""
    text = f"{TWO}"
    found = topology(folder, text, {"ION": count, "NEG": count})
    empty = system(folder, ION, {"ION": 1}).molecules[0]
    return SystemMapping(found, (empty, empty))


def energy(mapping: SystemMapping, x: np.ndarray, atom: int, at: np.ndarray) -> float:
    """What an atom at a point feels of all others within reach, sum by sum."""
    top = mapping.topology
    types, charges = top.atom_type_index(), top.charges()
    d = np.linalg.norm(minimum_image(np.delete(x, atom, axis=0) - at, CELL), axis=1)
    kinds, q = np.delete(types, atom), np.delete(charges, atom)
    c6, c12 = top.c6[types[atom], kinds], top.c12[types[atom], kinds]
    sigma = (c12 / c6) ** (1 / 6)
    r = np.maximum(d, 0.75 * sigma)
    total = c12 / r**12 - c6 / r**6
    total += COULOMB * charges[atom] * q * (1 / r + r**2 / (2 * REACH**3) - 1.5 / REACH)
    return float(total[d < REACH].sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_place_of_least_energy_is_that_of_a_sum_over_all_atoms(
    tmp_path: Path, seed: int
) -> None:
    """With equal random numbers the least energy wins: in a salt, in a skewed cell, whatever images
    its atoms are given in."""
    mapping, n = ions(tmp_path, 30), 60
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3)) @ CELL + rng.integers(-2, 3, (n, 3)) @ CELL
    crowd = Crowd(n, CELL, pair_table(mapping.topology), n / np.linalg.det(CELL))
    every = np.arange(n)[:, None]
    crowd.choose(
        every, every, x[:, None, None], np.zeros((n, 1)), np.full((n, 1), 0.5), 0.0
    )  # fmt: skip
    np.testing.assert_array_equal(crowd.positions, x)
    for atom in (0, 17, 45):
        places = rng.random((40, 3)) @ CELL
        felt = np.array([energy(mapping, x, atom, p) for p in places])
        own = np.array([[atom]])
        taken = crowd.choose(
            own, own, places[None, :, None], np.zeros((1, 40)), np.full((1, 40), 0.5), 1.0
        )  # fmt: skip
        assert taken[0] == felt.argmin()
        x[atom] = places[taken[0]]  # those that come after see it there
        np.testing.assert_array_equal(crowd.positions, x)


def test_scores_and_energies_are_weighed_by_the_temperature(tmp_path: Path) -> None:
    """A candidate of a better score is left for one of lower energy as soon as it is cold."""
    mapping = ions(tmp_path, 1)
    crowd = Crowd(2, CELL, pair_table(mapping.topology), 0.2)
    first = np.array([[0]])
    crowd.choose(
        first, first, np.full((1, 1, 1, 3), 1.0), np.zeros((1, 1)), np.full((1, 1), 0.5), 0.0
    )  # fmt: skip
    places = np.array([[1.0, 1.0, 1.45], [1.0, 1.0, 1.33]])
    x = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    near, far = (energy(mapping, x, 1, p) for p in places[::-1])
    assert near < far
    beta = 3.0 / (far - near)  # at which the energies make up for a difference of 3
    second = np.array([[1]])
    for factor, wanted in ((0.9, 0), (1.1, 1)):
        taken = crowd.choose(
            second, second, places[None, :, None], np.array([[0.0, -3.0]]),
            np.full((1, 2), 0.5), factor * beta,
        )  # fmt: skip
        assert taken[0] == wanted


def test_candidates_of_no_weight_are_not_taken_whatever_they_gain(tmp_path: Path) -> None:
    mapping = ions(tmp_path, 1)
    crowd = Crowd(2, CELL, pair_table(mapping.topology), 0.2)
    first, second = np.array([[0]]), np.array([[1]])
    crowd.choose(
        first, first, np.full((1, 1, 1, 3), 1.0), np.zeros((1, 1)), np.full((1, 1), 0.5), 0.0
    )  # fmt: skip
    places = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 1.33]])
    for score, wanted in ((-7.0, 1), (-9.0, 0)):
        taken = crowd.choose(
            second, second, places[None, :, None], np.array([[0.0, score]]),
            np.full((1, 2), 0.5), 1.0,
        )  # fmt: skip
        assert taken[0] == wanted


# --- conformations on their beads -----------------------------------------------------------------


def library(folder: Path, *, carbons: int = 8, each: int = 2, count: int = 60) -> tuple[
    SystemMapping, Window, Library
]:  # fmt: skip
    """Random walks as conformations."""
    found = system(folder, chain(carbons), {"CHN": 1}, carbons=carbons, each=each)
    window = find_windows(found.topology.molecule_types[0], found.molecules[0])[0]
    x = np.cumsum(0.1 * np.random.default_rng(3).standard_normal((count, carbons, 3)), axis=1)
    return found, window, make_library(Conformations(x, np.zeros(count)), window, mirror=False)


def drawn(made: Library, beads: np.ndarray, wanted: int = 4, seed: int = 0) -> Candidates:
    uniform = np.random.default_rng(seed).random((1, 3 * wanted))
    return candidates(made, beads[None], *NO_JOINT, uniform, wanted)


def test_candidates_move_and_turn_with_their_beads(tmp_path: Path) -> None:
    mapping, _, made = library(tmp_path)
    goal = np.cumsum(0.12 * np.random.default_rng(5).standard_normal((8, 3)), axis=0)
    beads = map_positions(mapping, goal)
    here = drawn(made, beads)
    turn, shift = Rotation.random(random_state=3).as_matrix(), np.array([3.0, -1.0, 0.5])
    there = drawn(made, beads @ turn.T + shift)
    np.testing.assert_allclose(there.atoms, here.atoms @ turn.T + shift, atol=1e-6)
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-6)


def test_mirror_images_fit_mirrored_beads_and_come_back_when_mirrored_twice(
    tmp_path: Path,
) -> None:
    mapping, _, made = library(tmp_path)
    goal = np.cumsum(0.12 * np.random.default_rng(6).standard_normal((8, 3)), axis=0)
    beads = map_positions(mapping, goal)
    here, there = drawn(made, beads), drawn(mirrored(made), -beads)
    np.testing.assert_allclose(there.atoms, -here.atoms, atol=1e-6)
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-6)
    again = mirrored(mirrored(made))
    assert np.array_equal(again.points, made.points) and np.array_equal(again.own, made.own)
    both = make_library(
        Conformations(made.own, made.log_weights), library(tmp_path)[1], mirror=True
    )
    assert len(both.own) == 2 * len(made.own)
    assert drawn(both, beads).scores[0, 0] == 0.0


def test_beads_that_no_conformation_has_are_met_with_wider_widths(tmp_path: Path) -> None:
    """The farther beads are from those of a conformation, the wider; the nearest comes first."""
    mapping, _, made = library(tmp_path, count=400)
    rng = np.random.default_rng(7)
    blurs = []
    for off in (0.0, 2 * BEAD_WIDTH, 60 * BEAD_WIDTH):
        beads = map_positions(mapping, made.own[11]) + off * rng.standard_normal((4, 3))
        got = drawn(made, beads)
        blurs.append(float(got.blurs[0]))
        assert got.scores.max() == 0.0
        found = [map_positions(mapping, atoms) for atoms in got.atoms[0]]
        rest = [((b - beads) ** 2).sum() for b in found]
        assert rest == sorted(rest)  # of equal weights
    assert blurs[-1] == BLURS[-1]
    assert blurs == sorted(blurs)


def test_weights_of_conformations_count(tmp_path: Path) -> None:
    """Of two that fit alike, the one of larger weight comes first, by as much as it weighs more."""
    mapping, window, made = library(tmp_path)
    x = np.concatenate([made.own, made.own[5:6]])
    weights = np.zeros(len(x))
    weights[-1] = 0.7
    twice = make_library(Conformations(x, weights), window, mirror=False)
    got = drawn(twice, map_positions(mapping, x[5]), wanted=2)
    np.testing.assert_allclose(got.scores[0], [0.0, -0.7], atol=1e-6)
    np.testing.assert_allclose(got.atoms[0, 0], x[5], atol=1e-6)
    np.testing.assert_allclose(got.atoms[0, 1], x[5], atol=1e-6)


def test_one_bead_leaves_every_direction_free(tmp_path: Path) -> None:
    """Conformations of a molecule of one bead are turned at random about it: even on a sphere."""
    mapping, _, made = library(tmp_path, carbons=4, each=4)
    beads = np.tile([1.0, 2.0, 3.0], (150, 1, 1))
    uniform = np.random.default_rng(8).random((150, 12))
    got = candidates(made, beads, np.zeros((150, 0, 3)), NO_JOINT[1], uniform, 2)
    centres = np.array([map_positions(mapping, a) for a in got.atoms[:, 0]])
    np.testing.assert_allclose(centres[:, 0], beads[:, 0], atol=1e-9)
    arms = got.atoms[:, 0, 0] - centres[:, 0]
    unit = arms / np.linalg.norm(arms, axis=1)[:, None]
    for axis in range(3):
        assert stats.kstest(unit[:, axis], stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3


def test_two_beads_leave_the_angle_about_their_line_free(tmp_path: Path) -> None:
    mapping, _, made = library(tmp_path, carbons=4, each=2)
    beads = np.tile(map_positions(mapping, made.own[2]), (500, 1, 1))
    uniform = np.random.default_rng(9).random((500, 12))
    got = candidates(made, beads, np.zeros((500, 0, 3)), NO_JOINT[1], uniform, 2)
    again = np.array([map_positions(mapping, a) for a in got.atoms[:, 0]])
    assert np.abs(again - beads).max() < 3 * BEAD_WIDTH
    axis = beads[0, 1] - beads[0, 0]
    across = np.cross(axis, [0.3, 0.8, -0.5])
    one = across / np.linalg.norm(across)
    other = np.cross(axis, one) / np.linalg.norm(axis)
    arms = got.atoms[:, 0, 0] - beads[:, 0]
    angle = np.arctan2(arms @ other, arms @ one)
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3


# --- windows --------------------------------------------------------------------------------------


def test_windows_are_of_one_kind_only_if_their_forces_are(tmp_path: Path) -> None:
    found = system(tmp_path, chain(40), {"CHN": 1}, carbons=40, each=2)
    molecule, mapping = found.topology.molecule_types[0], found.molecules[0]
    none = np.zeros((0, 5), dtype=np.int64)
    windows = {tuple(w.atoms[w.own].tolist()): w for w in find_windows(molecule, mapping)}
    here = windows[16, 17]
    key = kind_of(here, none)
    assert kind_of(windows[28, 29], none) == key
    charged = replace(molecule, charges=molecule.charges + (np.arange(40) == here.atoms[0]))
    heavier = replace(molecule, masses=molecule.masses + (np.arange(40) == here.atoms[2]))
    bonds = molecule.terms["bond"]
    stretched = bonds.parameters.copy()
    stretched[here.atoms[0], 0] += 0.01
    longer = replace(
        molecule, terms={**molecule.terms, "bond": replace(bonds, parameters=stretched)}
    )
    for other in (charged, heavier, longer):
        there = find_windows(other, mapping)
        keys = {tuple(w.atoms[w.own].tolist()): kind_of(w, none) for w in there}
        assert keys[16, 17] != key
        assert keys[28, 29] == key  # which does not hold that atom


def test_what_a_window_is_joined_to_shares_an_angle_with_it(tmp_path: Path) -> None:
    found = system(tmp_path, chain(40), {"CHN": 1}, carbons=40, each=2)
    for window in find_windows(found.topology.molecule_types[0], found.molecules[0]):
        own, joint = window.atoms[window.own], window.atoms[window.joint]
        near = {a for o in own.tolist() for a in range(o - 2, o + 3)} - set(own.tolist())
        assert set(joint.tolist()) == {a for a in near if 0 <= a < 40}


# --- one molecule alone ---------------------------------------------------------------------------


def test_starts_have_every_bond_of_the_tree_at_its_length(tmp_path: Path) -> None:
    top = topology(tmp_path, chain(9) + CHIRAL, {"CHN": 1, "CHI": 1})
    for kind in top.molecule_types:
        tables = vacuum_tables(kind, top, 300.0)
        x = starts(tables, VacuumOptions(300.0, copies=20))
        d = x[:, tables.bonds[:, 0]] - x[:, tables.bonds[:, 1]]
        np.testing.assert_allclose(np.linalg.norm(d, axis=2), np.tile(tables.lengths, (20, 1)))
        ends = x[:, -1] - x[:, 0]
        assert np.abs(ends.mean(axis=0)).max() < 4 * ends.std() / math.sqrt(20)


def test_rings_close_and_weights_are_at_most_one(tmp_path: Path) -> None:
    top = topology(tmp_path, chain(6, ring=True), {"CHN": 1})
    tables = vacuum_tables(top.molecule_types[0], top, 400.0)
    found = conformations(tables, VacuumOptions(400.0, copies=8, settle=200, steps=400))
    d = found.positions[:, tables.bonds[:, 0]] - found.positions[:, tables.bonds[:, 1]]
    assert len(tables.bonds) == 6
    np.testing.assert_allclose(np.linalg.norm(d, axis=2), 0.153, atol=3e-5)
    assert found.log_weights.max() == 0.0
    assert (found.log_weights <= 0.0).all()


def test_an_end_to_end_distance_is_that_of_freely_turning_bonds(tmp_path: Path) -> None:
    """Without torsions and pairs <r^2> of n bonds is l^2 (n (1+c)/(1-c) - 2c (1-c^n)/(1-c)^2), c
    the mean of minus the cosine of the angle between bonds (Flory)."""
    top = topology(tmp_path, chain(6), {"CHN": 1})
    t = vacuum_tables(top.molecule_types[0], top, 500.0)
    t = replace(
        t, pairs=t.pairs[:0], pair_parameters=t.pair_parameters[:0], torsions=t.torsions[:0],
        torsion_which=t.torsion_which[:0], torsion_left=t.torsion_left[:0],
    )  # fmt: skip
    found = conformations(t, VacuumOptions(500.0, copies=64, settle=1500, steps=6000, every=60))
    x = found.positions
    assert (found.log_weights == 0.0).all()
    steps = np.diff(x, axis=1) / 0.153
    c = float((steps[:, 1:] * steps[:, :-1]).sum(axis=2).mean())
    grid = np.linspace(0.0, np.pi, 4001)
    law = np.sin(grid) * np.exp(-250.0 * (grid - math.radians(112.0)) ** 2 / (BOLTZMANN * 500.0))
    assert c == pytest.approx(-float((np.cos(grid) * law).sum() / law.sum()), abs=0.01)
    n = 5
    wanted = 0.153**2 * (n * (1 + c) / (1 - c) - 2 * c * (1 - c**n) / (1 - c) ** 2)
    assert ((x[:, -1] - x[:, 0]) ** 2).sum(axis=1).mean() == pytest.approx(wanted, rel=0.06)


# --- whole frames ---------------------------------------------------------------------------------


def test_atoms_go_with_their_beads_wherever_these_are(tmp_path: Path) -> None:
    """Moved as a whole, and by lattice vectors: the same atoms beside their beads."""
    mapping = system(tmp_path, chain(6) + ION, {"CHN": 3, "ION": 2}, carbons=6)
    box = np.diag([3.0, 3.1, 3.2])
    rng = np.random.default_rng(2)
    rows = [0.9 * np.array([k, k % 2, 0]) + 0.22 * np.arange(3)[:, None] * [0, 0, 1] + 0.3
            for k in range(3)]  # fmt: skip
    beads = np.concatenate([*rows, [[0.4, 2.0, 2.2], [1.9, 2.2, 2.0]]])
    beads += 0.01 * rng.standard_normal(beads.shape)
    quick = PhysicsSamplingOptions(relaxation=5, bead_tolerance=0.0, conformations=128, pieces=128)
    sampler = PhysicsSampler(mapping, quick, 300.0)
    here = sampler.sample(Structure(beads, box))
    lattice = np.repeat([[1, 0, 0], [0, -1, 2], [0, 0, 0], [2, 1, 0], [0, 0, -1]], [3, 3, 3, 1, 1],
                        axis=0) @ box  # fmt: skip
    shift = np.array([0.37, -0.61, 5.2])
    there = sampler.sample(Structure(beads + lattice + shift, box))
    off = minimum_image(there.positions - here.positions - shift, box)
    assert np.abs(off).max() < 1e-3
    again = map_positions(mapping, there.positions) - beads - lattice - shift
    assert np.abs(minimum_image(again, box)).max() < 1e-4

"""Atoms without a model: windows, superposition, company, and whole frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.chemistry.stereo import restore
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.geometry.turns import random_turns
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.methods.physics.fit import fit
from deepbackmap.methods.physics.library import candidates, make_library
from deepbackmap.methods.physics.options import PhysicsSamplingOptions
from deepbackmap.methods.physics.packing import REACH, Crowd, pair_table
from deepbackmap.methods.physics.sampler import PhysicsSampler
from deepbackmap.methods.physics.vacuum import Conformations
from deepbackmap.methods.physics.windows import cut, find_windows, kind_of, rows_inside
from deepbackmap.system import Structure
from physics_systems import CHIRAL, ION, chain, system

BOX = np.diag([3.0, 3.1, 3.2])
RNG = np.random.default_rng(1)
QUICK = PhysicsSamplingOptions(relaxation=20, bead_tolerance=0.0, conformations=128, pieces=128)
WARM = 300.0


# --- superposition ----------------------------------------------------------------------------


@pytest.mark.parametrize("points", [1, 2, 3, 5, 9])
def test_superposition_is_that_of_scipy(points: int) -> None:
    library, targets = RNG.standard_normal((6, points, 3)), RNG.standard_normal((4, points, 3))
    weights = RNG.uniform(0.5, 2.0, points)
    near = RNG.integers(0, 6, (4, 3))
    turns, shifts, left = fit(library, near, targets, weights)
    for m, k in np.ndindex(4, 3):
        x, y = library[near[m, k]], targets[m]
        centre = [np.average(p, axis=0, weights=weights) for p in (x, y)]
        wanted = 0.0
        if points > 1:
            wanted = Rotation.align_vectors(y - centre[1], x - centre[0], weights=weights)[1] ** 2
        found = ((x @ turns[m, k].T + shifts[m, k] - y) ** 2).sum(axis=1) @ weights
        assert found == pytest.approx(wanted, abs=1e-5)
        assert left[m, k] == pytest.approx(found, abs=1e-5)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0)


def test_superposition_of_points_in_a_line() -> None:
    line = np.linspace(0.0, 1.0, 4)[:, None]
    library, targets = line * [[1.0, 0.0, 0.0]], line * [[0.0, -1.0, 0.0]]
    for goal in (targets, -library, library):
        turns, shifts, left = fit(library[None], np.zeros((1, 1), int), goal[None], np.ones(4))
        np.testing.assert_allclose(library @ turns[0, 0].T + shifts[0, 0], goal, atol=1e-6)
        assert left[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_points_of_no_weight_do_not_count() -> None:
    library, targets = RNG.standard_normal((1, 5, 3)), RNG.standard_normal((1, 5, 3))
    near, weights = np.zeros((1, 1), int), np.array([1.0, 2.0, 1.0, 0.0, 0.0])
    some = fit(library, near, targets, weights)
    few = fit(library[:, :3], near, targets[:, :3], weights[:3])
    for a, b in zip(some, few, strict=True):
        np.testing.assert_allclose(a, b)


def test_turns_about_an_axis_leave_it() -> None:
    axes = RNG.standard_normal((5, 3))
    turns = random_turns(axes, RNG.uniform(size=(5, 7, 3)))
    np.testing.assert_allclose(
        np.einsum("mkij,mj->mki", turns, axes), axes[:, None] * np.ones((1, 7, 1))
    )
    free = random_turns(np.zeros((2000, 3)), RNG.uniform(size=(2000, 1, 3)))[:, 0]
    np.testing.assert_allclose(np.linalg.det(free), 1.0)
    assert np.abs(free.mean(axis=0)).max() < 0.06


# --- windows ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("carbons", "each", "ring"), [(8, 2, False), (30, 3, False), (24, 2, True)]
)
def test_every_atom_is_drawn_once(tmp_path: Path, carbons: int, each: int, ring: bool) -> None:
    found = system(tmp_path, chain(carbons, ring=ring), {"CHN": 1}, carbons=carbons, each=each)
    molecule, mapping = found.topology.molecule_types[0], found.molecules[0]
    windows = find_windows(molecule, mapping)
    drawn = np.concatenate([w.atoms[w.own] for w in windows])
    assert sorted(drawn.tolist()) == list(range(carbons))
    assert (len(windows) == 1) == (carbons == 8)
    x = RNG.standard_normal((carbons, 3))
    beads = map_positions(found, x)
    for w in windows:
        np.testing.assert_allclose(w.weights @ x[w.atoms], beads[w.beads])
        assert not set(w.own) & set(w.joint)


def test_windows_inside_a_chain_are_one_kind(tmp_path: Path) -> None:
    found = system(tmp_path, chain(40), {"CHN": 1}, carbons=40, each=2)
    windows = find_windows(found.topology.molecule_types[0], found.molecules[0])
    none = np.zeros((0, 5), dtype=np.int64)
    kinds = [kind_of(w, none) for w in windows]
    assert len(set(kinds[3:-3])) == 1
    assert len(set(kinds)) > 1


def test_a_cut_has_the_terms_inside_it(tmp_path: Path) -> None:
    molecule = system(tmp_path, chain(9), {"CHN": 1}, carbons=9).topology.molecule_types[0]
    piece = cut(molecule, np.arange(2, 7))
    assert piece.n_atoms == 5
    assert piece.bonds.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert len(piece.terms["angle"].atoms) == 3
    assert len(piece.terms["proper"].atoms) == 4  # two of each of two torsions
    assert [0, 4] not in piece.exclusions.tolist() and [0, 3] in piece.exclusions.tolist()
    window = find_windows(molecule, system(tmp_path, chain(9), {"CHN": 1}, carbons=9).molecules[0])
    assert rows_inside(window[0], np.array([[0, 1, 2, 3, 99]])).tolist() == []


# --- candidates and company -------------------------------------------------------------------


def test_a_conformation_that_fits_is_found(tmp_path: Path) -> None:
    """Beads made from one of the conformations, turned and moved: its atoms come back."""
    found = system(tmp_path, chain(8), {"CHN": 1}, carbons=8, each=2)
    window = find_windows(found.topology.molecule_types[0], found.molecules[0])[0]
    x = np.cumsum(0.1 * RNG.standard_normal((50, 8, 3)), axis=1)
    library = make_library(Conformations(x, np.zeros(50)), window, mirror=True)
    turn = Rotation.random(random_state=2).as_matrix()
    for goal in (x[7] @ turn.T + 1.0, -x[9] @ turn.T):
        got = candidates(
            library, map_positions(found, goal)[None], np.zeros((1, 0, 3)),
            np.zeros(0, dtype=bool), np.full((1, 12), 0.5), 4,
        )  # fmt: skip
        np.testing.assert_allclose(got.atoms[0, 0], goal, atol=1e-6)
        assert got.scores[0, 0] == 0.0 and (np.diff(got.scores[0]) <= 0.0).all()


def crowd_of_two(tmp_path: Path, box: np.ndarray) -> Crowd:
    """Two lone atoms."""
    found = system(tmp_path, ION, {"ION": 2})
    return Crowd(2, box, pair_table(found.topology), 2.0 / np.linalg.det(box))


def choose(crowd: Crowd, atom: int, places: np.ndarray, u: np.ndarray, beta: float) -> int:
    """One atom takes one of some places."""
    own = np.array([[atom]])
    return int(
        crowd.choose(own, own, places[None, :, None], np.zeros((1, len(places))), u, beta)[0]
    )


def test_choices_have_boltzmann_s_weights(tmp_path: Path) -> None:
    """Two places beside another charge, whose energies are known by hand."""
    crowd = crowd_of_two(tmp_path, BOX)
    choose(crowd, 0, np.array([[1.0, 1.0, 1.0]]), np.full((1, 1), 0.5), 0.0)
    r = np.array([0.40, 0.46])
    places = np.array([1.0, 1.0, 1.0]) + r[:, None] * [0.0, 0.6, 0.8]
    lj = 4 * 0.5 * ((0.34 / r) ** 12 - (0.34 / r) ** 6)
    charge = 138.935458 * (1 / r + r**2 / (2 * REACH**3) - 1.5 / REACH)
    beta = 0.02
    wanted = np.exp(-beta * (lj + charge))
    wanted /= wanted.sum()
    draws = [choose(crowd, 1, places, RNG.uniform(1e-9, 1, (1, 2)), beta) for _ in range(4000)]
    assert np.mean(np.array(draws) == 1) == pytest.approx(wanted[1], abs=0.025)


SKEWED = np.array([[3.0, 0.0, 0.0], [1.0, 3.0, 0.0], [-0.9, 1.2, 3.0]])


@pytest.mark.parametrize("box", [BOX, SKEWED, 1.2 * np.eye(3)])
def test_company_is_felt_through_the_walls(tmp_path: Path, box: np.ndarray) -> None:
    for shift in ([1, 0, 0], [0, -1, 0], [1, 1, -1], [-2, 0, 1]):
        crowd = crowd_of_two(tmp_path, box)
        choose(crowd, 0, np.array([[0.05, 0.02, 0.01]]), np.full((1, 1), 0.5), 0.0)
        near = np.array([0.05, 0.02, 0.25]) + shift @ box
        far = np.array([0.6, 0.5, 0.55])
        assert choose(crowd, 1, np.stack([near, far]), np.full((1, 2), 0.5), 0.4) == 1
        assert choose(crowd, 1, np.stack([far, near]), np.full((1, 2), 0.5), 0.4) == 0


# --- whole frames -----------------------------------------------------------------------------


def bead_frame(mapping: SystemMapping, seed: int, spread: float = 0.2) -> Structure:
    """Beads of straight chains, here and there on a grid."""
    rng = np.random.default_rng(seed)
    beads, at = np.zeros((mapping.n_beads, 3)), 0
    for k, t in enumerate(mapping.topology.molecule_type_index()):
        n = mapping.molecules[t].n_beads
        start = 0.75 * np.array([k % 4, k // 4 % 4, k // 16]) + 0.2
        beads[at : at + n] = start + spread * np.arange(n)[:, None] * [0.0, 0.0, 1.0]
        at += n
    return Structure(beads + 0.01 * rng.standard_normal(beads.shape), BOX)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> SystemMapping:
    """Chains, one-bead molecules with a centre, and ions."""
    text = chain(6) + CHIRAL + ION
    return system(tmp_path_factory.mktemp("mixed"), text, {"CHN": 4, "CHI": 5, "ION": 2}, carbons=6)


def test_bonds_and_beads_are_exact(mixed: SystemMapping) -> None:
    beads = bead_frame(mixed, 1)
    made = PhysicsSampler(mixed, QUICK, WARM).sample(beads)
    again = map_positions(mixed, made.positions)
    assert np.abs(minimum_image(again - beads.positions, BOX)).max() < 1e-4
    bonds = mixed.topology.expand_terms("bond")
    vectors = made.positions[bonds.atoms[:, 1]] - made.positions[bonds.atoms[:, 0]]
    assert np.abs(np.linalg.norm(vectors, axis=1) - bonds.parameters[:, 0]).max() < 1e-4


def test_frames_are_named_by_seed_and_number(mixed: SystemMapping) -> None:
    beads = bead_frame(mixed, 1)
    sampler = PhysicsSampler(mixed, QUICK, WARM)
    first, second = sampler.sample(beads, frame=3), sampler.sample(beads, frame=4)
    again = PhysicsSampler(mixed, QUICK, WARM).sample(beads, frame=3)
    assert first.positions.tobytes() == again.positions.tobytes()
    assert np.abs(first.positions - second.positions).max() > 0.01


@pytest.mark.parametrize("sign", [1, -1])
def test_hands_are_kept(mixed: SystemMapping, sign: int) -> None:
    """Of some molecules; of the others any."""
    first = mixed.topology.molecule_offsets()[4:7]
    atoms = first[:, None] + np.array([0, 1, 2, 3, 4])
    signs = np.array([sign, -sign, 0])
    hands = Handedness(torch.from_numpy(atoms), torch.from_numpy(signs))
    made = PhysicsSampler(mixed, QUICK, WARM, hands).sample(bead_frame(mixed, 2))
    p = made.positions[atoms[:, 1:]]
    volume = np.einsum(
        "ci,ci->c", np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), p[:, 3] - p[:, 0]
    )
    assert (np.sign(volume[:2]) == signs[:2]).all()


def test_a_wrong_centre_is_turned_inside_out() -> None:
    """Lengths to the heavy branches and angles between them stay."""
    x = 0.15 * np.array(
        [[0, 0, 0], [0, 0, 0.7], [0.9, 0, -0.3], [-0.5, 0.8, -0.3], [-0.5, -0.8, -0.4]]
    )
    centres, light = np.array([[0, 1, 2, 3, 4]]), np.array([False, True, False, False, False])
    sign = int(np.sign(np.dot(np.cross(x[2] - x[1], x[3] - x[1]), x[4] - x[1])))
    for wanted, same in ((sign, True), (-sign, False)):
        y = x.copy()
        restore(y, centres, np.array([wanted]), light)
        assert np.allclose(x, y) == same
        found = np.sign(np.dot(np.cross(y[2] - y[1], y[3] - y[1]), y[4] - y[1]))
        assert found == wanted
        np.testing.assert_allclose(
            np.linalg.norm(y[1:] - y[0], axis=1), np.linalg.norm(x[1:] - x[0], axis=1)
        )
        np.testing.assert_allclose(y[2:], x[2:])
    restore(y, centres, np.array([sign]), ~light)  # no single light branch: left alone
    assert np.sign(np.dot(np.cross(y[2] - y[1], y[3] - y[1]), y[4] - y[1])) == -sign


def test_a_long_chain_is_placed_bead_by_bead(tmp_path: Path) -> None:
    found = system(tmp_path, chain(24), {"CHN": 3}, carbons=24, each=2)
    sampler = PhysicsSampler(found, QUICK, WARM)
    assert sampler.placements == 3 * 12 * 3
    beads = bead_frame(found, 3, spread=0.24)
    counted: list[int] = []
    made = sampler.sample(beads, progress=counted.append)
    assert sum(counted) == sampler.placements
    again = map_positions(found, made.positions)
    assert np.abs(again - beads.positions).max() < 1e-4


def test_a_bond_through_a_ring_is_drawn_again(tmp_path: Path) -> None:
    """The atoms of both, and no others."""
    text = chain(6, name="CHN", ring=True)
    found = system(tmp_path, text, {"CHN": 2}, carbons=6, each=6)
    sampler = PhysicsSampler(found, QUICK, WARM)
    angle = np.pi / 3 * np.arange(6)
    flat = 0.153 * np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])
    upright = flat[:, [0, 2, 1]] + [0.153, 0.0, 0.0]
    apart = Structure(np.concatenate([flat, upright + 1.0]), BOX)
    assert not sampler._stuck(apart).any()
    linked = Structure(np.concatenate([flat, upright]), BOX)
    assert sampler._stuck(linked)[:6].all() and sampler._stuck(linked)[6:].any()


def test_wrong_input_is_refused(mixed: SystemMapping, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        PhysicsSamplingOptions(temperature=0.0)
    with pytest.raises(ValueError, match="sweeps: expected a whole number from 0"):
        PhysicsSamplingOptions(sweeps=-1)
    with pytest.raises(ValueError, match="candidates: expected a whole number from 1"):
        PhysicsSamplingOptions(candidates=0)
    small = system(tmp_path, ION, {"ION": 2})
    with pytest.raises(InputError, match="expected 2 beads, found 3"):
        PhysicsSampler(small, QUICK, WARM).sample(Structure(np.zeros((3, 3)), BOX))

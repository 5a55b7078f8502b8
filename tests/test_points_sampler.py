"""The sampler of point models: exact bonds and beads, named noise, batches, hands, refusals."""

import dataclasses
import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

from deepbackmap.api.hands import handedness_of
from deepbackmap.blocks.index import whole_beads
from deepbackmap.chemistry import tacticity
from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.errors import InputError
from deepbackmap.geometry import parts
from deepbackmap.mapping import map_positions
from deepbackmap.methods.base import Model, open_sampler
from deepbackmap.methods.points.options import PointSamplingOptions
from deepbackmap.methods.points.sampler import LAST_NOISE, PointSampler, _move, path_angles, triples
from deepbackmap.methods.voxel.options import VoxelSamplingOptions
from deepbackmap.methods.voxel.sampler import VoxelSampler
from small_polystyrene import (
    ALTERNATING,
    ATOMS,
    BEADS,
    SKEWED,
    atoms,
    beads,
    mapping,
    point_model,
    quick_model,
    rotation,
)


def sampler(model=None, **options):
    model = model or point_model()
    options = {"sweeps": 0, "steps": 3, "relaxation": 0, **options}
    hands = handedness_of(mapping(), model.spec.handedness)
    return PointSampler(model, mapping(), PointSamplingOptions(**options), "cpu", hands)


@cache
def coarse():
    return beads(atoms())


@cache
def made(**options):
    return sampler(**options).sample(coarse())


def furthest(one, other):
    return float(np.abs(one.positions - other.positions).max())


def bonds_off(structure):
    held = Constraints.of(mapping().topology, bonds=True)
    return float(np.abs(held.deviations(structure.positions)).max())


def beads_off(structure, centres):
    whole = whole_beads(centres.positions, centres.box, mapping())
    return float(np.abs(map_positions(mapping(), structure.positions) - whole).max())


# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"sweeps": 1}, {"relaxation": 4}], ids=str)
def test_bonds_and_beads_are_exact(options):
    found = made(**options)
    assert found.positions.shape == (3 * ATOMS, 3)
    assert found.positions.dtype == np.float64
    assert np.array_equal(found.box, SKEWED)
    assert bonds_off(found) < 1e-5
    assert beads_off(found, coarse()) < 1e-5


def test_without_rigid_bonds_beads_are_exact():
    model = point_model()
    soft = Model(dataclasses.replace(model.spec, rigid=False), model.generator)
    found = sampler(soft).sample(coarse())
    assert beads_off(found, coarse()) < 1e-5
    assert 1e-4 < bonds_off(found) < 0.2  # the network has random weights


def test_each_of_sweeps_and_relaxation_changes_something():
    assert furthest(made(), made(sweeps=1)) > 1e-3
    assert furthest(made(), made(relaxation=4, bead_tolerance=0.0)) > 1e-3
    assert furthest(made(), made(steps=5)) > 1e-4


def test_stereocentres_have_the_hands_of_the_pattern():
    centres = tacticity.find_centres(mapping())
    wanted = tacticity.expected_signs(centres, ALTERNATING)
    assert set(wanted.tolist()) == {1, -1}
    for options in ({}, {"sweeps": 1}, {"relaxation": 4, "bead_tolerance": 0.0}):
        assert np.array_equal(tacticity.signs(made(**options), centres), wanted)


def test_the_mirror_image_of_the_pattern_makes_the_mirror_image():
    """Beads reflected and hands turned round: the same structures, reflected, but for which of two
    hydrogens has which name. The last monomer is left out: of its paired hydrogens only one counts
    in a bead, so that making beads exact tells them apart."""
    model = point_model()
    other = {k: [-s for s in v] for k, v in ALTERNATING.items()}
    right, left = (
        Model(dataclasses.replace(model.spec, rigid=False, handedness=h), model.generator)
        for h in (ALTERNATING, other)
    )
    mirror = np.array([1.0, -1.0, 1.0])
    plain = dataclasses.replace(coarse(), box=np.diag([2.6, 2.5, 2.4]))
    reflected = dataclasses.replace(plain, positions=plain.positions * mirror)
    one, two = sampler(right).sample(plain), sampler(left).sample(reflected)
    off = np.abs(one.positions * mirror - two.positions).reshape(3, ATOMS, 3)
    heavy = mapping().topology.masses()[:ATOMS] > 3
    assert off[:, np.flatnonzero(heavy)[:8]].max() < 1e-3
    # With the pattern of the other hand the structure is another one, not its mirror image.
    wrong = sampler(right).sample(reflected)
    off = np.abs(one.positions * mirror - wrong.positions).reshape(3, ATOMS, 3)
    assert off[:, np.flatnonzero(heavy)[:8]].max() > 0.01


# --- random numbers -------------------------------------------------------------------------------


def test_same_names_same_numbers():
    again = sampler().sample(coarse())
    assert np.array_equal(again.positions, made().positions)
    for other in (sampler().sample(coarse(), frame=1), sampler(seed=1).sample(coarse())):
        moved = np.abs(other.positions - made().positions).max(1)
        assert (moved > 1e-5).mean() > 0.9


def test_one_sampler_makes_frames_in_any_order():
    one = sampler(relaxation=2)
    late = one.sample(coarse(), frame=7)
    one.sample(beads(atoms(1)), frame=3)
    assert np.array_equal(one.sample(coarse(), frame=7).positions, late.positions)
    fresh = sampler(relaxation=2).sample(coarse(), frame=7)
    assert np.array_equal(fresh.positions, late.positions)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_size_of_batches_changes_nothing(batch):
    assert furthest(made(), sampler(batch=batch).sample(coarse())) < 1e-5
    assert furthest(made(sweeps=1), sampler(sweeps=1, batch=batch).sample(coarse())) < 1e-5


@pytest.mark.parametrize("sweeps", [0, 1])
def test_the_size_of_parts_changes_not_a_bit(monkeypatch, sweeps):
    whole = made(sweeps=sweeps).positions
    for most in (7, 2):
        monkeypatch.setattr(parts, "PART", most)
        assert np.array_equal(sampler(sweeps=sweeps).sample(coarse()).positions, whole)


def test_images_of_beads_change_nothing_but_the_place_of_chains():
    rng = np.random.default_rng(0)
    shifts = rng.integers(-2, 3, coarse().positions.shape) @ SKEWED
    found = sampler(sweeps=1).sample(
        dataclasses.replace(coarse(), positions=coarse().positions + shifts)
    )
    moved = np.repeat(shifts[::BEADS], ATOMS, axis=0)  # chains start at their first bead
    # a distance may take the next entry of the table of radial functions
    assert np.abs(found.positions - moved - made(sweeps=1).positions).max() < 1e-3


def test_turned_beads_give_the_turned_structure():
    room = np.diag([9.0, 9.0, 9.0])
    one = sampler().sample(dataclasses.replace(coarse(), box=room))
    turn = rotation(2)
    two = sampler().sample(
        dataclasses.replace(coarse(), positions=coarse().positions @ turn.T, box=room)
    )
    assert np.abs(one.positions @ turn.T - two.positions).max() < 1e-3


# --- the path -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 40])
def test_places_on_the_path_go_from_noise_to_data(steps):
    angles = path_angles(steps)
    assert len(angles) == steps + 1
    assert angles[0] == 0.0
    assert angles[-1] == pytest.approx(0.5 * math.pi)
    assert all(b > a for a, b in pairwise(angles))
    if steps > 1:
        assert math.cos(angles[-2]) == pytest.approx(LAST_NOISE)


def test_steps_of_second_order_are_nearer_to_the_path():
    """Data of a Gaussian half as wide as the noise: the path is known, and so is its end."""
    wide, start = 0.5, torch.linspace(-2.0, 2.0, 9)[:, None]

    def end(u, angle):
        c, s = math.cos(angle), math.sin(angle)
        return wide**2 * s / (c**2 + wide**2 * s**2) * u

    def travelled(steps, second):
        state, before = start, None
        for angles in triples(steps)[:-1]:  # the last step is of first order in any case
            ends = end(state, angles[1])
            state, before = _move(state, ends, before if second else None, angles), ends
        last = math.acos(LAST_NOISE)
        exact = math.sqrt(math.cos(last) ** 2 + wide**2 * math.sin(last) ** 2) * start
        return float((state - exact).abs().max())

    # twice the steps: a quarter of the error, not half of it; and already good with few
    assert travelled(160, True) < 0.27 * travelled(80, True)
    assert 0.45 < travelled(160, False) / travelled(80, False) < 0.55
    assert travelled(5, True) < 0.3 * travelled(5, False)


def test_fluctuations_grow_with_the_root_of_the_temperature():
    """Where the network answers zero and only beads are held, exactly so."""
    model = point_model(size=0.0)
    # no hands: atoms of a wrong one would be placed anew, with other random numbers
    soft = Model(dataclasses.replace(model.spec, rigid=False, handedness={}), model.generator)
    low, mid, high = (
        sampler(soft, temperature=t).sample(coarse()).positions for t in (125.0, 500.0, 2000.0)
    )
    assert np.abs(mid - low).max() > 1e-3
    np.testing.assert_allclose(high - mid, 2 * (mid - low), atol=1e-5)


def test_what_the_network_is_told_stays_inside_its_training():
    model = point_model()
    spec = dataclasses.replace(model.spec, temperatures=(400.0, 500.0, 600.0))
    for asked, told in ((300.0, 400.0), (450.0, 450.0), (900.0, 600.0), (None, 500.0)):
        found = sampler(Model(spec, model.generator), temperature=asked)
        assert found.told_heat == pytest.approx(math.sqrt(told / 500.0))
        assert found.heat == pytest.approx(math.sqrt((asked or 500.0) / 500.0))


def test_progress_counts_every_block_it_promised():
    counted = []
    # hands not told: weights that learned nothing make wrong ones, and all would be placed anew
    one = PointSampler(
        point_model(), mapping(), PointSamplingOptions(sweeps=1, steps=3, relaxation=0)
    )
    one.sample(coarse(), progress=counted.append)
    assert sum(counted) == one.placements == 3 * BEADS * (3 + 1)


def test_the_sampler_is_the_models():
    assert isinstance(open_sampler(point_model(), mapping(), PointSamplingOptions()), PointSampler)
    voxel = quick_model(frame="plane", radius=0.45)
    assert isinstance(open_sampler(voxel, mapping(), VoxelSamplingOptions()), VoxelSampler)


# --- refusals -------------------------------------------------------------------------------------


def test_the_wrong_number_of_beads_is_refused():
    short = dataclasses.replace(coarse(), positions=coarse().positions[:-1])
    with pytest.raises(InputError, match="frame 4: expected 18 beads, found 17"):
        sampler().sample(short, frame=4)


def test_a_chain_that_the_model_never_met_is_refused():
    model = point_model()
    known = model.spec.options.vocabulary
    fewer = dataclasses.replace(
        known, variants={**known.variants, "B": known.variants["B"][:1]}
    )  # fmt: skip
    spec = dataclasses.replace(
        model.spec, options=dataclasses.replace(model.spec.options, vocabulary=fewer)
    )
    with pytest.raises(InputError, match="bead of type B: expected atoms and neighbours"):
        PointSampler(Model(spec, model.generator), mapping(), PointSamplingOptions())


def test_a_box_too_small_for_the_relaxation_is_refused():
    flat = dataclasses.replace(coarse(), box=np.diag([5.0, 5.0, 1.2]))
    with pytest.raises(InputError, match=r"frame 0: expected a box at least .* relaxation 0"):
        sampler(relaxation=2).sample(flat)
    assert beads_off(sampler().sample(flat), flat) < 1e-5


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"relaxation": -1}, {"sweeps": -1}, {"cold_start": 0.0}, {"cold_start": 1.1}],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PointSamplingOptions(**options)

"""The sampler: nothing depends on batches, frames are named, what it refuses, choices."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import deepbackmap.methods.voxel.sampler as module
from deepbackmap.blocks.index import build_bead_frames, whole_beads
from deepbackmap.errors import InputError
from deepbackmap.methods.base import Model
from deepbackmap.methods.voxel.environment import STAGES
from deepbackmap.methods.voxel.grid import gaussian_basis
from deepbackmap.methods.voxel.options import VoxelOptions, VoxelSamplingOptions
from deepbackmap.methods.voxel.sampler import VoxelSampler
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure
from small_polystyrene import (
    ATOMS,
    BEAD_TYPES,
    BEADS,
    SKEWED,
    atoms,
    bead_frames,
    beads,
    environment,
    mapping,
    quick_model,
    random_model,
    rotation,
    specification,
)

PLANE = {"frame": "plane", "same_molecule_beads": True, "radius": 0.45}
"""A small radius, so that several beads can be placed at once in the small box."""
AXIS = {"frame": "axis", "radius": 0.45}


class Fixed(nn.Module):
    """A generator that puts every atom at one place in the local frame."""

    def __init__(self, place):
        super().__init__()
        self.place = torch.tensor(place)

    def forward(self, condition, noise, target):
        return gaussian_basis(self.place, VoxelOptions()).expand(len(noise), -1)


def sampler(model=None, **options):
    options = {"sweeps": 1, **options}
    return VoxelSampler(model or quick_model(**PLANE), mapping(), VoxelSamplingOptions(**options))


@pytest.fixture(scope="module")
def coarse():
    return beads(atoms())


@pytest.fixture(scope="module")
def expected(coarse):
    """What one call with large batches gives."""
    return sampler().sample(coarse)


def assert_same(found, expected, tolerance=1e-5):
    assert np.abs(found.positions - expected.positions).max() <= tolerance


def test_positions_are_finite_and_inside_the_cube(coarse, expected):
    assert expected.positions.shape == (3 * ATOMS, 3)
    assert expected.positions.dtype == np.float64
    assert np.array_equal(expected.box, coarse.box)
    owner = sampler().blocks.atom_owner.numpy()
    relative = expected.positions - whole_beads(coarse.positions, SKEWED, mapping())[owner]
    assert np.isfinite(relative).all()
    assert np.abs(relative).max() <= 0.525 * math.sqrt(3)
    assert relative.std() > 0.02  # the model used here does not put everything on the bead


@pytest.mark.parametrize("batch", [1, 7])
def test_the_size_of_batches_changes_nothing(coarse, expected, batch):
    assert_same(sampler(batch=batch).sample(coarse), expected)


def test_the_same_with_a_network_of_the_package(coarse):
    one, two = (sampler(random_model(**PLANE), batch=b, sweeps=0).sample(coarse) for b in (2, 512))
    assert_same(one, two)


def test_levels_give_what_one_bead_after_the_other_gives(coarse, expected, monkeypatch):
    together = []

    def one_by_one(neighbours, keys):
        together.extend(len(level) for level in module_levels(neighbours, keys))
        for bead in sorted(range(len(keys)), key=lambda k: (float(keys[k]), k)):
            yield torch.tensor([bead])

    module_levels = module.levels
    monkeypatch.setattr(module, "levels", one_by_one)
    assert_same(sampler().sample(coarse), expected)
    assert max(together) > 2  # or there was nothing to compare


def test_same_names_same_numbers(coarse, expected):
    again = sampler().sample(coarse)
    assert np.array_equal(again.positions, expected.positions)
    for other in (sampler().sample(coarse, frame=1), sampler(seed=1).sample(coarse)):
        difference = np.abs(other.positions - expected.positions).max(axis=1)
        assert (difference > 1e-4).mean() > 0.9


def test_images_of_beads_change_nothing_but_the_place_of_chains(coarse, expected):
    rng = np.random.default_rng(0)
    shifts = rng.integers(-2, 3, coarse.positions.shape) @ SKEWED
    found = sampler().sample(dataclasses.replace(coarse, positions=coarse.positions + shifts))
    moved = np.repeat(shifts[::BEADS], ATOMS, axis=0)  # chains start at their first bead
    assert np.abs(found.positions - moved - expected.positions).max() < 1e-5


def test_a_rotated_system_gives_rotated_atoms(coarse, expected):
    """In the plane frame, which leaves no angle free."""
    q = rotation(2)
    turned = Structure(coarse.positions @ q.T, coarse.box @ q.T)
    found = sampler().sample(turned)
    assert np.abs(found.positions - expected.positions @ q.T).max() < 1e-5


def test_sweeps_go_on_from_the_first_pass(coarse, expected):
    none = sampler(sweeps=0).sample(coarse)
    assert np.abs(none.positions - expected.positions).max() > 1e-3


def test_progress_counts_every_sequence(coarse):
    counted = []
    one = sampler(Model(specification(**PLANE), Fixed([0.0, 0.0, 0.0])), sweeps=2)
    one.sample(coarse, progress=counted.append)
    assert sum(counted) == one.placements == 2 * 18 * 3


def test_time_and_box_are_kept(coarse):
    one = sampler(Model(specification(**PLANE), Fixed([0.0, 0.0, 0.0])), sweeps=0)
    found = one.sample(dataclasses.replace(coarse, time=12.5))
    assert found.time == 12.5
    assert np.array_equal(found.box, coarse.box)


def test_local_positions_come_back_to_the_laboratory(coarse):
    place = [0.12, -0.03, 0.08]
    one = sampler(Model(specification(**PLANE), Fixed(place)))
    found = one.sample(coarse)
    frames = build_bead_frames(
        coarse.positions, SKEWED, one.blocks, mapping(), cutoff=0.7, plane=True
    )
    owner = one.blocks.atom_owner.numpy()
    # local = R laboratory
    offset = np.array(place) @ frames.rotation[0].double().numpy()
    whole = whole_beads(coarse.positions, SKEWED, mapping())
    assert np.abs(found.positions - (whole + offset)[owner]).max() < 2e-4


# --- candidates -------------------------------------------------------------------------------


def test_relaxation_does_not_depend_on_batches(coarse):
    one, two = (sampler(batch=b, block_relaxation=2, sweeps=0).sample(coarse) for b in (2, 512))
    assert_same(one, two)
    without = sampler(sweeps=0).sample(coarse)
    assert np.abs(one.positions - without.positions).max() > 1e-3


def test_candidates_do_not_depend_on_batches(coarse):
    options = {"sweeps": 0, "candidates": 3, "choice": "boltzmann"}
    model = quick_model(**AXIS)
    assert_same(
        sampler(model, batch=7, **options).sample(coarse),
        sampler(model, **options).sample(coarse),
    )


def test_orientations_are_equally_spaced_about_the_axis(coarse, monkeypatch):
    seen = []

    def first(self, frames, relative, many, placed, name):
        seen.append(placed.unflatten(0, (-1, 4)))
        return seen[-1][:, 0]

    monkeypatch.setattr(VoxelSampler, "_choose", first)
    model = Model(specification(**AXIS), Fixed([0.1, 0.0, 0.05]))
    sampler(model, sweeps=0, candidates=4).sample(coarse)
    starts = []
    for placed in seen:
        x, y, z = placed[:, :, 0].unbind(-1)
        torch.testing.assert_close(z, torch.full_like(z, 0.05), atol=2e-4, rtol=0)
        torch.testing.assert_close(torch.hypot(x, y), torch.full_like(z, 0.1), atol=3e-4, rtol=0)
        steps = torch.remainder(torch.atan2(y, x).diff(dim=1), 2 * math.pi)
        quarter = torch.where(steps > math.pi, 2 * math.pi - steps, steps)
        torch.testing.assert_close(quarter, torch.full_like(steps, math.pi / 2), atol=0.01, rtol=0)
        starts += torch.atan2(y, x)[:, 0].tolist()
    assert np.std(starts) > 1.0  # from a start of their own: uniform has 1.8


class Follower(nn.Module):
    """A generator that puts every atom at the centre of the beads it sees."""

    def forward(self, condition, noise, target):
        return condition[:, -len(BEAD_TYPES) :].sum(1).flatten(1)


def test_what_is_placed_in_a_turned_frame_is_turned_back(coarse, monkeypatch):
    """The centre of the beads does not depend on the orientation, but for the grid."""
    spread, sizes = [], []

    def compare(self, frames, relative, many, placed, name):
        candidates = placed.unflatten(0, (-1, 4))
        spread.append(float((candidates - candidates[:, :1]).abs().max()))
        sizes.append(float(torch.hypot(candidates[..., 0], candidates[..., 1]).max()))
        return candidates[:, 0]

    monkeypatch.setattr(VoxelSampler, "_choose", compare)
    sampler(Model(specification(**AXIS), Follower()), sweeps=0, candidates=4).sample(coarse)
    assert max(sizes) > 0.08  # off the axis, so that a wrong turn would show
    assert max(spread) < 0.01


def choose(monkeypatch, energies, n=4000, **options):
    """Which of the candidates with given energies is taken, for many beads."""
    copies = len(energies)
    one = sampler(Model(specification(**AXIS), Fixed([0.0] * 3)), candidates=copies, **options)
    total = torch.tensor(energies).repeat(n)
    monkeypatch.setattr(module, "batch_terms", lambda *a: None)
    monkeypatch.setattr(module, "block_energies", lambda *a: {"bond": total / 2, "lj": total / 2})
    label = torch.arange(copies).repeat(n).float()[:, None, None].expand(-1, 1, 3)
    name = module.hash_counters(7, torch.arange(n)).repeat_interleave(copies)
    frames, relative = bead_frames(atoms())
    any_environment = environment(atoms(), STAGES[0], [0])
    return one._choose(frames, relative, any_environment, label, name)[:, 0, 0].long()


def test_lowest_energy(monkeypatch):
    assert set(choose(monkeypatch, [3.0, -1.0, 2.0], choice="lowest").tolist()) == {1}


@pytest.mark.parametrize(
    ("options", "beta"),
    [
        ({"choice": "boltzmann"}, 1 / (BOLTZMANN * 500.0)),
        ({"choice": "boltzmann", "temperature": 300.0}, 1 / (BOLTZMANN * 300.0)),
        (
            {"choice": "reweight", "temperature": 300.0},
            1 / (BOLTZMANN * 300.0) - 1 / (BOLTZMANN * 500.0),
        ),
        ({"choice": "reweight"}, 0.0),
    ],
)
def test_choice_by_weight(monkeypatch, options, beta):
    """Frequencies against exp(-beta U), beta as each choice defines it; trained at 500 K."""
    energies = [0.0, 2.0, 5.0]
    found = torch.bincount(choose(monkeypatch, energies, **options), minlength=3).double() / 4000
    weight = torch.exp(-beta * torch.tensor(energies, dtype=torch.float64))
    share = weight / weight.sum()
    assert bool(((found - share).abs() < 5 * (share * (1 - share) / 4000).sqrt() + 1e-9).all())


# --- refusals ---------------------------------------------------------------------------------


def test_wrong_number_of_beads(coarse):
    fewer = dataclasses.replace(coarse, positions=coarse.positions[:-1])
    with pytest.raises(InputError, match="frame 4: expected 18 beads, found 17"):
        sampler().sample(fewer, frame=4)


@pytest.mark.parametrize(
    "box", [np.diag([0.89, 5.0, 5.0]), np.array([[5.0, 0, 0], [0, 5.0, 0], [0, 4.99, 0.89]])]
)
def test_box_that_is_too_small(coarse, box):
    message = "frame 0: expected a box at least 0.900 nm high in every direction"
    with pytest.raises(InputError, match=re.escape(message)):
        sampler().sample(dataclasses.replace(coarse, box=box))


def test_types_that_the_model_never_saw():
    spec = dataclasses.replace(specification(**PLANE), bead_types=("A", "C"))
    with pytest.raises(InputError, match="bead type B is unknown to the model"):
        sampler(Model(spec, Fixed([0.0, 0.0, 0.0])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": -1}, "sweeps: expected a whole number from 0 to 100000, got -1"),
        ({"candidates": 0}, "candidates: expected a whole number from 1 to 1000000, got 0"),
        ({"batch": 0}, "batch: expected a whole number from 1 to 100000000, got 0"),
        ({"choice": "best"}, "choice: expected one of lowest, boltzmann, reweight, got 'best'"),
        ({"temperature": 0.0}, "temperature: expected a positive number below 100000 K, got 0.0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VoxelSamplingOptions(**options)

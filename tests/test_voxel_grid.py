"""Densities on the grid: integrals, separability, collapse, and conditions against plain loops."""

import math

import pytest
import torch

from deepbackmap.blocks.plan import ANGLE, BOND, EXCLUDED, TORSION
from deepbackmap.methods.voxel.environment import STAGES
from deepbackmap.methods.voxel.grid import (
    VoxelCondition,
    collapse,
    condition_channels,
    gaussian_basis,
    grid_axis,
)
from deepbackmap.methods.voxel.options import VoxelOptions
from small_polystyrene import BEAD_TYPES, TYPES, atoms, environment

OPTIONS = VoxelOptions(same_molecule_beads=True)


def points(n, reach, seed=0):
    """Points with every component within ``reach``."""
    random = torch.Generator().manual_seed(seed)
    return reach * (2 * torch.rand(n, 3, generator=random) - 1)


def direct(x, options):
    """exp(-d^2 / 2 width^2) voxel by voxel."""
    axis = grid_axis(options)
    centres = torch.cartesian_prod(axis, axis, axis)
    return torch.exp(-(centres - x[..., None, :]).square().sum(-1) / (2 * options.width**2))


def test_voxel_centres():
    expected = [-0.525, -0.375, -0.225, -0.075, 0.075, 0.225, 0.375, 0.525]
    assert grid_axis(OPTIONS).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "options", [OPTIONS, VoxelOptions(voxels=16), VoxelOptions(edge=1.0, width=0.12)]
)
def test_separable_density_is_the_direct_one(options):
    x = points(20, 0.7).reshape(4, 5, 3)
    torch.testing.assert_close(gaussian_basis(x, options), direct(x, options))


@pytest.mark.parametrize("width", [0.08, 0.1, 0.12])
@pytest.mark.parametrize("voxels", [8, 12])
def test_an_atom_integrates_to_the_gaussians_volume(voxels, width):
    options = VoxelOptions(voxels=voxels, width=width)
    volume = (options.edge / voxels) ** 3
    found = gaussian_basis(points(50, 0.1), options).sum(-1) * volume
    expected = torch.full_like(found, (2 * math.pi) ** 1.5 * width**3)
    # Sampling a Gaussian at distances h is off by 2 exp(-2 (pi width / h)^2) an axis, cutting it
    # at 0.5 nm by erfc(0.5 / (width sqrt 2)).
    coarse = 2 * math.exp(-2 * (math.pi * width * voxels / options.edge) ** 2)
    cut = math.erfc(0.5 / (width * math.sqrt(2)))
    torch.testing.assert_close(found, expected, rtol=3.5 * (coarse + cut) + 1e-5, atol=0)


@pytest.mark.parametrize(
    ("reach", "bias"), [(0.30, 0.0003), (0.35, 0.0009), (0.40, 0.004), (0.50, 0.027), (0.60, 0.09)]
)
def test_collapse_gives_back_the_position(reach, bias):
    """The bias along an axis is that of the specification (section 2), and nearly no other."""
    x = points(200, reach)
    off = (collapse(gaussian_basis(x, OPTIONS), OPTIONS) - x).abs()
    assert float(off.max()) < 1.1 * bias
    along = torch.zeros(1, 3)
    along[0, 0] = reach
    found = collapse(gaussian_basis(along, OPTIONS), OPTIONS)
    assert float((found - along)[0, 1:].abs().max()) < 1e-6


def test_collapse_is_a_mean_with_weights():
    a, b = points(2, 0.3)
    mixed = 3 * gaussian_basis(a, OPTIONS) + gaussian_basis(b, OPTIONS)
    torch.testing.assert_close(collapse(mixed, OPTIONS), 0.75 * a + 0.25 * b, atol=5e-4, rtol=0)
    torch.testing.assert_close(
        collapse(0.01 * mixed, OPTIONS), collapse(mixed, OPTIONS), atol=1e-6, rtol=0
    )


def test_collapse_of_nothing_is_the_bead():
    assert torch.equal(collapse(torch.zeros(2, 512), OPTIONS), torch.zeros(2, 3))


def test_gradients_reach_every_voxel():
    density = gaussian_basis(points(1, 0.2), OPTIONS).requires_grad_(True)
    collapse(density, OPTIONS).sum().backward()
    assert bool((density.grad != 0).all())


def test_unknown_frames_are_refused():
    with pytest.raises(ValueError, match="frame: expected one of axis, plane, got 'cube'"):
        VoxelOptions(frame="cube")


# --- conditions -------------------------------------------------------------------------------


def roles_of(bits, same):
    """Indices of the roles of a pair, written out."""
    if not same:
        return [4]
    found = [k for k, bit in enumerate((BOND, ANGLE, TORSION)) if bits & bit]
    return found if bits & EXCLUDED else [*found, 3]


def by_loops(env, row, slot, generated):
    """The condition of one target, one atom and one bead after the other."""
    a = len(TYPES)
    grid = torch.zeros(5 * a + len(BEAD_TYPES) + 1, 512)

    def add(density, kind, bits, same):
        for role in roles_of(bits, same):
            grid[role * a + kind] += density

    for n in range(env.atoms.shape[1]):
        if env.atom_valid[row, n]:
            bits, same = int(env.atom_bits[row, slot, n]), bool(env.atom_same[row, n])
            add(direct(env.atoms[row, n], OPTIONS), int(env.atom_type[row, n]), bits, same)
    for s in range(env.targets.shape[1]):
        if s == slot or env.targets[row, s] < 0 or (s > slot and env.stage.first):
            continue
        density = generated[s][row] if s < slot else direct(env.own[row, s], OPTIONS)
        add(density, int(env.target_type[row, s]), int(env.target_bits[row, slot, s]), True)
    for k in range(env.beads.shape[1]):
        if env.bead_valid[row, k]:
            density = direct(env.beads[row, k], OPTIONS)
            grid[5 * a + int(env.bead_type[row, k])] += density
            if env.bead_same[row, k]:
                grid[-1] += density
    return grid.reshape(-1, 8, 8, 8)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_condition_is_the_sum_over_everything_seen(stage):
    # beads of both kinds and of several lengths in one batch, so that slots are padded
    env = environment(atoms(), stage, [2, 4, 9, 17])
    assert int(env.atom_valid.sum(1).min()) > 5
    condition = VoxelCondition(env, len(TYPES), len(BEAD_TYPES), OPTIONS)
    random = torch.Generator().manual_seed(0)
    t = env.targets.shape[1]
    generated = [torch.rand(4, 512, generator=random) for _ in range(t)]
    for slot in (0, 1, t - 1):
        found = condition.at(slot, generated[:slot])
        assert found.shape == (4, condition_channels(OPTIONS, len(TYPES), len(BEAD_TYPES)), 8, 8, 8)
        for row in (r for r in range(4) if env.targets[r, slot] >= 0):
            expected = by_loops(env, row, slot, generated)
            torch.testing.assert_close(found[row], expected, atol=2e-5, rtol=1e-5)


def test_the_extra_channel_is_optional():
    env = environment(atoms(), STAGES[0], [3])
    without = VoxelOptions()
    assert condition_channels(without, 4, 2) == condition_channels(OPTIONS, 4, 2) - 1 == 22
    narrow = VoxelCondition(env, 4, 2, without).at(0, [])
    assert torch.equal(narrow, VoxelCondition(env, 4, 2, OPTIONS).at(0, [])[:, :-1])

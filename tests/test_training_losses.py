"""Losses against closed forms, Monte Carlo and plain loops; which labels are free."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from deepbackmap.blocks.symmetry import block_flips, principal_axis, sides
from deepbackmap.methods.adversarial import Frozen, critic_loss, gradient_penalty
from deepbackmap.methods.voxel.batches import canonical_labels
from deepbackmap.methods.voxel.block_terms import (
    BatchTerms,
    batch_terms,
    block_energies,
    build_block_terms,
    internal_coordinates,
)
from deepbackmap.methods.voxel.environment import STAGES
from deepbackmap.methods.voxel.losses import (
    centre_of_mass,
    critic_inputs,
    energy_score,
    flat_slots,
    physical_prior,
)
from deepbackmap.system import BondedTerms, MoleculeType
from small_polystyrene import (
    ATOMS,
    BEADS,
    TYPES,
    atoms,
    bead_frames,
    blocks,
    environment,
    mapping,
)


class Linear(nn.Module):
    """C(x) = w . x."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return (x * self.weight).sum((1, 2, 3, 4))


# --- critic -----------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0.3, 1.0, 2.5])
def test_gradient_penalty_of_a_linear_critic(length):
    """Its gradient is w everywhere, so the penalty is (|w| - 1)^2 wherever it is taken."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 3, 3, generator=random)
    critic = Linear(length * weight / weight.norm())
    real, fake = torch.randn(2, 3, 2, 3, 3, 3, generator=random)
    used = torch.tensor([True, False, True])
    penalty, slope = gradient_penalty(critic, real, fake, used, torch.tensor([0.2, 0.5, 0.9]))
    assert float(slope) == pytest.approx(length, abs=1e-5)
    assert float(penalty.detach()) == pytest.approx((length - 1) ** 2, abs=1e-5)
    # and it moves the critic: d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
    (gradient,) = torch.autograd.grad(penalty, critic.weight)
    expected = 2 * (length - 1) * weight / weight.norm()
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


def test_gradient_penalty_is_taken_between_the_samples():
    """C(x) = |x|^2 / 2 has the gradient x: the penalty tells where it was taken."""
    real, fake = torch.zeros(2, 2, 1, 2, 2, 2).unbind(0)
    real[:, 0, 0, 0, 0], fake[:, 0, 0, 0, 0] = 3.0, 1.0
    mix = torch.tensor([1.0, 0.25])  # 3 and 1.5
    penalty, slope = gradient_penalty(
        lambda x: 0.5 * x.square().sum((1, 2, 3, 4)), real, fake, torch.tensor([True, True]), mix
    )
    assert float(penalty.detach()) == pytest.approx((2.0**2 + 0.5**2) / 2)
    assert float(slope) == pytest.approx((3.0 + 1.5) / 2)
    only, _ = gradient_penalty(
        lambda x: 0.5 * x.square().sum((1, 2, 3, 4)), real, fake, torch.tensor([False, True]), mix
    )
    assert float(only.detach()) == pytest.approx(0.5**2)


def test_critic_loss_by_hand():
    real, fake = torch.tensor([1.0, 3.0, 100.0]), torch.tensor([0.5, -0.5, -100.0])
    used = torch.tensor([True, True, False])
    assert float(critic_loss(real, fake, used, 0.0)) == pytest.approx(0.0 - 2.0)
    assert float(critic_loss(real, fake, used, 0.1)) == pytest.approx(-2.0 + 0.1 * 5.0)


def test_critic_inputs_go_by_slot_then_by_sample():
    conditions = [torch.full((2, 1, 2, 2, 2), float(s)) for s in range(3)]
    densities = [torch.full((2, 8), 10.0 + s) for s in range(3)]
    types = torch.zeros(2, 3, 2)
    types[0, :, 0] = 1
    types[1, :, 1] = 1
    found = critic_inputs(conditions, densities, types)
    assert found.shape == (6, 3, 2, 2, 2)
    used = flat_slots(torch.tensor([[True, True, False], [True, True, True]]))
    assert used.tolist() == [True, True, True, True, False, True]
    for row in range(6):
        slot, sample = divmod(row, 2)
        channels = found[row, :, 0, 0, 0].tolist()
        expected = [float(slot), 0.0, 0.0]
        expected[1 + sample] = 10.0 + slot
        assert channels == expected


def test_frozen_lets_gradients_through_but_moves_nothing():
    module = nn.Linear(3, 1)
    x = torch.randn(2, 3, requires_grad=True)
    with Frozen(module):
        module(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


# --- energy score -----------------------------------------------------------------------------


def gaussian_score(shift, width, n=40_000):
    """Mean position score of draws from N(shift, width^2) for N(0, 1), in units of 0.1 nm."""
    random = torch.Generator().manual_seed(3)
    a, b, y = 0.1 * torch.randn(3, n, 1, 3, generator=random)
    centre = 0.1 * torch.tensor([shift, 0.0, 0.0])
    used = torch.ones(n, 1, dtype=torch.bool)
    one = torch.ones(n, 1)
    no_terms = BatchTerms(torch.zeros(n, 1, 3), {}, {}, {})
    found = energy_score(centre + width * a, centre + width * b, y, used, no_terms, one)
    assert float(found["score_internal"]) == 0.0
    return float(found["score_position"])


@pytest.mark.parametrize("width", [0.5, 1.0, 1.7])
def test_energy_score_of_gaussians_in_closed_form(width):
    """E|x - y| of two Gaussians in three dimensions is 2 s sqrt(2 / pi), s^2 of the difference."""
    expected = 2 * math.sqrt(2 / math.pi) * (math.sqrt(1 + width**2) - 0.5 * math.sqrt(2) * width)
    assert gaussian_score(0.0, width) == pytest.approx(expected, rel=0.01)


def test_energy_score_is_smallest_for_the_right_distribution():
    right = gaussian_score(0.0, 1.0)
    for shift, width in [(0.0, 0.7), (0.0, 1.4), (0.5, 1.0), (0.3, 0.8), (0.0, 0.01)]:
        assert gaussian_score(shift, width) > right + 0.005


def batch_of(bead=3, stage=STAGES[3]):
    """Environment, terms and tables of one sequence."""
    frames, relative = bead_frames(atoms(2))
    env = environment(atoms(2), stage, [bead])
    terms = build_block_terms(blocks(), mapping(), TYPES)
    return env, batch_terms(terms, blocks(), frames, relative, env), terms


def test_energy_score_of_internal_coordinates():
    """Stretching one bond by 0.02 nm in one of the draws; the score of the terms it is in."""
    env, batch, _ = batch_of()
    used, weight = env.target_valid, torch.ones_like(env.own[..., 0])
    same = energy_score(env.own, env.own, env.own, used, batch, weight)
    assert abs(float(same["score_internal"])) < 1e-4
    assert abs(float(same["score_position"])) < 1e-4
    moved = env.own.clone()
    carbon = batch.context[0, batch.index["bond"][0][0][batch.index["bond"][0][0] >= 5][0] - 5]
    out = moved[0, 0] - carbon
    moved[0, 0] += 0.02 * out / out.norm()
    # both draws off by the same: |x - y| without the half of |x - x'|
    both = energy_score(moved, moved, env.own, used, batch, weight)
    assert float(both["score_position"]) == pytest.approx(0.2 / 5, rel=1e-3)
    pairs = zip(
        internal_coordinates(batch, moved), internal_coordinates(batch, env.own), strict=True
    )
    off = torch.cat([(a - b).abs()[mask] for (a, mask), (b, _) in pairs])
    assert float(off.max()) == pytest.approx(0.2, rel=1e-3)  # the bond, in units of 0.1 nm
    assert float(both["score_internal"]) == pytest.approx(float(off.mean()), rel=1e-2)
    # one draw off, one right: half of |x - y| minus half of |x - x'|
    only = energy_score(moved, env.own, env.own, used, batch, weight)
    assert abs(float(only["score_internal"])) < 1e-4


# --- physical prior ---------------------------------------------------------------------------


def test_centre_of_mass_leaves_empty_slots_out():
    x = torch.tensor([[[1.0, 0, 0], [0, 2.0, 0], [9.0, 9, 9]]])
    found = centre_of_mass(x, torch.tensor([[1.0, 3.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.25, 1.5, 0.0]]))


def test_prior_is_the_difference_of_energies():
    env, batch, terms = batch_of()
    masses = torch.full((1, 5), 1.008)
    zero = physical_prior(terms, batch, env, env.own, env.own, masses)
    assert set(zero) == {"bond", "angle", "dihedral", "lj", "com"}
    assert all(abs(float(v)) < 1e-5 for v in zero.values())
    moved = env.own + torch.tensor([0.003, 0.0, 0.004])
    found = physical_prior(terms, batch, env, moved, env.own, masses)
    one, two = (block_energies(terms, batch, env, x) for x in (moved, env.own))
    for name in one:
        assert float(found[name]) == pytest.approx(abs(float(one[name] - two[name])))
        assert float(found[name]) > 0
    assert float(found["com"]) == pytest.approx(0.005, rel=1e-3)


# --- free labels ------------------------------------------------------------------------------


def molecule_and_beads():
    return mapping().topology.molecule_types[0], mapping().molecules[0]


def test_polystyrene_has_one_free_flip_a_phenyl_and_no_other():
    flips = block_flips(*molecule_and_beads())
    assert [f.bead for f in flips] == [1, 3, 5]
    for m, flip in enumerate(flips):
        # ortho with ortho, meta with meta, hydrogens with them; ipso and para stay
        pairs = {(a - 16 * m, b - 16 * m) for a, b in zip(flip.atoms, flip.images, strict=True)}
        one_way = {(6, 14), (7, 15), (8, 12), (9, 13)}
        assert pairs == one_way | {(b, a) for a, b in one_way}


def forked(planar):
    """A bead that hangs on another one, with two equal branches of two atoms at its centre."""
    bonds = [(0, 1), (1, 2), (2, 3), (1, 4), (4, 5)] + ([] if planar else [(1, 6)])
    n = 6 if planar else 7
    molecule = MoleculeType(
        name="MOL",
        atom_names=tuple(f"X{k}" for k in range(n)),
        atom_types=("C",) * 6 + ("H",) * (n - 6),
        residue_names=("MOL",) * n,
        residue_numbers=np.ones(n, dtype=np.int64),
        charges=np.zeros(n),
        masses=np.full(n, 12.0),
        terms={"bond": BondedTerms(np.array(bonds), np.zeros((len(bonds), 2)))},
        nrexcl=0,
        exclusions=np.zeros((0, 2), dtype=np.int64),
        pairs=BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3))),
    )
    _, beads = molecule_and_beads()
    owner = np.array([0] + [1] * (n - 1))
    return molecule, dataclasses.replace(beads, owner=owner)


def test_branches_of_a_planar_centre_are_free_those_of_a_tetrahedral_one_are_not():
    (flip,) = block_flips(*forked(planar=True))
    assert (flip.bead, flip.atoms.tolist(), flip.images.tolist()) == (1, [2, 3, 4, 5], [4, 5, 2, 3])
    assert block_flips(*forked(planar=False)) == []


def prepared(seed=0):
    frames, relative = bead_frames(atoms(seed), plane=True)
    return frames, relative


def flipped(relative, which):
    """The same with the labels of some rings exchanged."""
    out = relative.clone()
    for number, flip in enumerate(block_flips(*molecule_and_beads())):
        for chain in range(3):
            if which[chain, number]:
                at = torch.as_tensor(flip.atoms + chain * ATOMS)
                out[:, at] = relative[:, torch.as_tensor(flip.images + chain * ATOMS)]
    return out


def canonical(relative, frames):
    return canonical_labels(relative, frames, blocks(), mapping())


def test_canonical_labels_do_not_depend_on_the_labels_given():
    frames, relative = prepared()
    expected = canonical(relative, frames)
    assert torch.equal(canonical(expected, frames), expected)
    rng = np.random.default_rng(0)
    for _ in range(5):
        which = rng.integers(0, 2, (3, 3)).astype(bool)
        other = flipped(relative, which)
        assert which.any() == (not torch.equal(other, relative))
        assert torch.equal(canonical(other, frames), expected)


def signed_volumes(positions):
    """(a x b) . c of three neighbours of every tetrahedral carbon, in the order of their labels."""
    molecule, _ = molecule_and_beads()
    chains = positions.reshape(3, ATOMS, 3)
    near = [[] for _ in range(ATOMS)]
    for i, j in molecule.bonds.tolist():
        near[i].append(j)
        near[j].append(i)
    centres = [k for k in range(ATOMS) if len(near[k]) == 4]
    assert len(centres) == 6
    arms = np.stack([chains[:, near[k][:3]] - chains[:, [k]] for k in centres], axis=1)
    return np.linalg.det(arms)


def test_canonical_labels_keep_atoms_bonds_and_chirality():
    frames, relative = prepared()
    found = canonical(flipped(relative, np.ones((3, 3), dtype=bool)), frames)
    owner = blocks().atom_owner.numpy()
    before, after = (frames.whole[0][owner] + r[0] for r in (relative, found))
    # every bead keeps its set of atoms
    for bead in range(3 * BEADS):
        mine = owner == bead
        a, b = (np.array(sorted(map(tuple, x[mine].tolist()))) for x in (before, after))
        np.testing.assert_allclose(a, b)
    bonds = mapping().topology.molecule_types[0].bonds
    for x in (before, after):
        chains = x.reshape(3, ATOMS, 3).double()
        lengths = (chains[:, bonds[:, 0]] - chains[:, bonds[:, 1]]).norm(dim=-1)
        assert 0.09 < float(lengths.min()) < float(lengths.max()) < 0.17
    one, two = (signed_volumes(x.double().numpy()) for x in (before, after))
    np.testing.assert_allclose(one, two)


def test_all_rings_point_to_the_same_side_of_the_commonest_axis():
    frames, relative = prepared(1)
    found = canonical(relative, frames)
    vectors = []
    for number, flip in enumerate(block_flips(*molecule_and_beads())):
        for chain in range(3):
            local = found[0, chain * ATOMS : (chain + 1) * ATOMS]
            turn = frames.rotation[0, chain * BEADS + 2 * number + 1]
            vectors.append(sides((local @ turn.T).numpy(), flip))
    axis = principal_axis(np.array(vectors))
    assert (np.array(vectors) @ axis > 0).all() or (np.array(vectors) @ axis < 0).all()


def test_principal_axis_of_known_vectors():
    rng = np.random.default_rng(0)
    along = np.array([0.6, -0.8, 0.0])
    vectors = rng.choice([-1, 1], (200, 1)) * along + rng.normal(0, 0.05, (200, 3))
    axis = principal_axis(vectors)
    np.testing.assert_allclose(np.abs(axis @ along), 1.0, atol=1e-2)
    assert axis[1] > 0  # the largest entry is positive

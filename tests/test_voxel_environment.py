"""Environments: who sees whom, periodic images, rotations, padding."""

import dataclasses

import numpy as np
import pytest
import torch

from deepbackmap.blocks.index import BeadFrames, build_bead_frames, stack_frames, whole_beads
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.methods.voxel.environment import (
    ALONE,
    STAGES,
    Stage,
    gather_environment,
    stages_of,
)
from deepbackmap.methods.voxel.options import VoxelOptions
from small_polystyrene import (
    ATOMS,
    BEADS,
    SKEWED,
    TYPES,
    atoms,
    bead_frames,
    beads,
    blocks,
    environment,
    mapping,
    order_keys,
    rotation,
)

HEAVY_FIRST, LIGHT_FIRST, HEAVY_GIBBS, LIGHT_GIBBS = STAGES
OPEN = np.eye(3) * 20.0
"""A box in which no chain meets an image."""
EACH = pytest.mark.parametrize("stage", STAGES, ids=str)


def seen_atoms(env, structure, row=0):
    """Global numbers of the atoms that one bead sees, found by where they are."""
    frames, _ = bead_frames(structure)
    bead = int(env.bead[row])
    turn = frames.rotation[0, bead].double().numpy()
    places = env.atoms[row][env.atom_valid[row]].double().numpy() @ turn
    off = structure.positions[None] - (places + beads(structure).positions[bead])[:, None]
    distance = np.linalg.norm(minimum_image(off, structure.box), axis=-1)
    assert (distance.min(1) < 1e-5).all()
    found = distance.argmin(1).tolist()
    assert len(set(found)) == len(found)  # no atom twice: the boxes here are large enough
    return found


def hydrogens(*monomers):
    """Of the CH2 and CH group, without those at the chain's ends."""
    return [16 * m + k for m in monomers for k in (0, 2, 3)]


def ring_hydrogens(*monomers):
    return [16 * m + k for m in monomers for k in (7, 9, 11, 13, 15)]


def carbons(*monomers):
    return [16 * m + k for m in monomers for k in (1, 4)]


def ring(*monomers):
    return [16 * m + k for m in monomers for k in (5, 6, 8, 10, 12, 14)]


# --- visibility, written out for the second phenyl bead of a chain of three monomers -----------

VISIBLE = {
    # beads A1 B1 A2 are before it; heavy atoms only
    HEAVY_FIRST: carbons(0, 1) + ring(0),
    # all heavy atoms, its own ring included; hydrogens of the beads before it
    LIGHT_FIRST: carbons(0, 1, 2) + ring(0, 1, 2) + hydrogens(0, 1) + [48] + ring_hydrogens(0),
    # all heavy atoms but its own, which are the sequence; no hydrogens of its own and of the
    # second backbone bead, which it is bonded to
    HEAVY_GIBBS: carbons(0, 1, 2) + ring(0, 2) + hydrogens(0, 2) + [48, 49] + ring_hydrogens(0, 2),
    # the same without any hydrogens
    ALONE: carbons(0, 1, 2) + ring(0, 2),
    # everything but its own hydrogens
    LIGHT_GIBBS: sorted(set(range(50)) - set(ring_hydrogens(1))),
}


@pytest.mark.parametrize("stage", [*STAGES, ALONE], ids=str)
def test_what_a_phenyl_bead_sees_of_its_own_chain(stage):
    structure = atoms(chains=1, box=OPEN)
    env = environment(structure, stage, [3], radius=5.0)
    assert sorted(seen_atoms(env, structure)) == sorted(VISIBLE[stage])
    assert bool(env.atom_same[env.atom_valid].all())
    expected = ring_hydrogens(1) if stage.light else ring(1)
    assert env.targets[0].tolist() == expected


def test_what_a_sweep_hides_from_a_backbone_bead():
    """The second of three is bonded to both others and to its ring: their hydrogens are hidden."""
    structure = atoms(chains=1, box=OPEN)
    env = environment(structure, HEAVY_GIBBS, [2], radius=5.0)
    expected = carbons(0, 2) + ring(0, 1, 2) + ring_hydrogens(0, 2)
    assert sorted(seen_atoms(env, structure)) == sorted(expected)


def test_what_is_hidden_follows_from_bonds_between_atoms():
    """Written out another way, for all beads: the owners of atoms that share a bond."""
    structure = atoms(chains=1, box=OPEN)
    owner = blocks(chains=1).atom_owner.numpy()
    molecule = mapping(chains=1).topology.molecule_types[0]
    near = np.eye(BEADS, dtype=bool)
    for i, j in molecule.bonds.tolist():
        near[owner[i], owner[j]] = near[owner[j], owner[i]] = True
    for bead in range(BEADS):
        found = np.array(
            seen_atoms(environment(structure, HEAVY_GIBBS, [bead], radius=9.0), structure)
        )
        hydrogen = ~molecule.heavy
        expected = np.flatnonzero(hydrogen & ~near[bead][owner])
        assert sorted(found[hydrogen[found]]) == expected.tolist()


def test_images_of_the_own_chain_hide_nothing():
    """An image of the bead's own molecule is another molecule: its hydrogens are seen."""
    structure = atoms()
    env = environment(structure, HEAVY_GIBBS, list(range(3 * BEADS)), radius=1.0)
    hydrogen = torch.isin(env.atom_type, torch.tensor([TYPES.index("H"), TYPES.index("H_AR")]))
    seen = (hydrogen & env.atom_valid).sum()
    alone = environment(structure, ALONE, list(range(3 * BEADS)), radius=1.0)
    others = torch.isin(alone.atom_type, torch.tensor([TYPES.index("H"), TYPES.index("H_AR")]))
    assert not bool((others & alone.atom_valid & alone.atom_same).any())
    assert int(seen) > int((others & alone.atom_valid).sum()) > 0


def test_a_model_says_which_hydrogens_are_hidden():
    assert stages_of(VoxelOptions()) == STAGES
    changed = stages_of(VoxelOptions(hidden_hydrogens="chain"))
    assert changed == (HEAVY_FIRST, LIGHT_FIRST, ALONE, LIGHT_GIBBS)


OTHERS = {
    # of other chains: what is placed by then
    HEAVY_FIRST: lambda heavy, earlier: heavy & earlier,
    LIGHT_FIRST: lambda heavy, earlier: heavy | earlier,
    HEAVY_GIBBS: lambda heavy, earlier: np.ones_like(heavy),
    LIGHT_GIBBS: lambda heavy, earlier: np.ones_like(heavy),
}


@EACH
def test_what_is_seen_of_other_chains(stage):
    """Chains take turns at each rank; the bead is the first phenyl of the second chain."""
    structure = atoms()
    structure = dataclasses.replace(structure, box=OPEN)
    bead = BEADS + 1
    env = environment(structure, stage, [bead], radius=4.0)
    owner = blocks().atom_owner.numpy()
    heavy = np.tile(mapping().topology.molecule_types[0].heavy, 3)
    # written out: ranks 0 and 1 of the first chain, rank 0 of the second and third
    earlier = np.isin(owner, [0, 1, BEADS, 2 * BEADS])
    other = np.arange(3 * ATOMS) // ATOMS != 1
    expected = np.flatnonzero(other & OTHERS[stage](heavy, earlier))
    found = np.array(seen_atoms(env, structure))
    flags = env.atom_same[0][env.atom_valid[0]].numpy()
    assert sorted(found[~flags]) == expected.tolist()
    assert set(found[flags] // ATOMS) <= {1}


@EACH
def test_the_first_bead_of_all_starts_from_nothing(stage):
    env = environment(atoms(), stage, [0])
    if stage == HEAVY_FIRST:
        assert not bool(env.atom_valid.any())
    else:
        assert bool(env.atom_valid.any())


def test_only_what_is_within_the_radius():
    structure, radius = atoms(), 0.5
    env = environment(structure, LIGHT_GIBBS, [4], radius=radius)
    centre = beads(structure).positions[4]
    distance = np.linalg.norm(minimum_image(structure.positions - centre, SKEWED), axis=1)
    own = np.isin(np.arange(len(distance)), env.targets[0].numpy())
    assert sorted(seen_atoms(env, structure)) == np.flatnonzero((distance < radius) & ~own).tolist()
    near = np.linalg.norm(minimum_image(beads(structure).positions - centre, SKEWED), axis=1)
    assert int(env.bead_valid.sum()) == int((near < radius).sum())


def test_environment_atoms_come_nearest_first():
    env = environment(atoms(), LIGHT_GIBBS, list(range(3 * BEADS)))
    distance = torch.where(env.atom_valid, env.atoms.norm(dim=-1), torch.inf)
    assert bool((distance.diff(dim=1).nan_to_num(0.0) >= -1e-6).all())


def test_types_bits_and_positions_belong_together():
    structure = atoms()
    env = environment(structure, LIGHT_GIBBS, [9])
    found = seen_atoms(env, structure)
    table, valid = blocks(), env.atom_valid[0]
    assert env.atom_type[0][valid].tolist() == table.atom_type[table.atom_kind[found]].tolist()
    same = [a // ATOMS == 1 for a in found]
    assert env.atom_same[0][valid].tolist() == same
    # the roles of the third target, from the terms themselves
    target = int(env.targets[0, 2]) - ATOMS
    molecule = mapping().topology.molecule_types[0]
    for n, atom in enumerate(found):
        pair = {target, atom - ATOMS}
        bonded = same[n] and any(pair <= set(b) for b in molecule.terms["bond"].atoms.tolist())
        angled = same[n] and any(pair <= set(b) for b in molecule.terms["angle"].atoms.tolist())
        assert bool(env.atom_bits[0, 2, n] & 1) == bonded
        assert bool(env.atom_bits[0, 2, n] & 2) == angled


# --- periodic images --------------------------------------------------------------------------

FIELDS = ("own", "atoms", "atom_type", "atom_valid", "atom_same", "atom_bits")


def gather(centres, box, relative, stage, members, *, plane=True):
    table = blocks()
    frames = build_bead_frames(centres, box, table, mapping(), cutoff=0.97, plane=plane)
    bead = torch.tensor(members)
    return gather_environment(
        table,
        frames,
        relative,
        torch.zeros_like(bead),
        bead,
        stage,
        order_keys(table),
        radius=0.7,
    )


def assert_same_environment(one, other):
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)
    for name in ("beads", "bead_type", "bead_same"):
        a, b = (getattr(e, name)[e.bead_valid] for e in (one, other))
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


@EACH
@pytest.mark.parametrize("seed", [0, 1])
def test_images_of_beads_change_nothing(stage, seed):
    structure = atoms(seed)
    _, relative = bead_frames(structure)
    centres, everyone = beads(structure).positions, list(range(3 * BEADS))
    expected = gather(centres, SKEWED, relative, stage, everyone)
    rng = np.random.default_rng(seed)
    shifted = centres + rng.integers(-3, 4, centres.shape) @ SKEWED
    assert_same_environment(gather(shifted, SKEWED, relative, stage, everyone), expected)
    moved = shifted + rng.normal(size=3)
    assert_same_environment(gather(moved, SKEWED, relative, stage, everyone), expected)
    # another cell of the same lattice
    other = np.array([[1, 0, 0], [-1, 1, 0], [1, 1, 1]]) @ SKEWED
    assert_same_environment(gather(shifted, other, relative, stage, everyone), expected)


def test_whole_beads_joins_chains():
    centres = beads(atoms()).positions
    rng = np.random.default_rng(0)
    shifted = centres + rng.integers(-3, 4, centres.shape) @ SKEWED
    found = whole_beads(shifted, SKEWED, mapping()).reshape(3, BEADS, 3)
    first = shifted.reshape(3, BEADS, 3)[:, :1]
    np.testing.assert_allclose(found[:, :1], first)  # the first bead stays
    expected = centres.reshape(3, BEADS, 3)
    np.testing.assert_allclose(found - first, expected - expected[:, :1], atol=1e-9)


def test_an_image_of_the_own_chain_is_another_chain():
    """Across a short box a chain meets itself; those atoms are neighbours, not relatives."""
    chain = atoms(chains=1, box=OPEN)
    short = np.full(3, 20.0)
    short[np.ptp(chain.positions, axis=0).argmax()] = 1.45
    structure = dataclasses.replace(chain, box=np.diag(short))
    env = environment(structure, LIGHT_GIBBS, list(range(BEADS)))
    assert bool((env.atom_valid & ~env.atom_same).any())
    strangers = env.atom_valid & ~env.atom_same
    assert not bool(env.atom_bits.masked_select(strangers[:, None]).any())
    assert bool(env.bead_same[:, 0].all())


# --- rotations --------------------------------------------------------------------------------


@EACH
def test_plane_frame_sees_the_same_after_a_rotation(stage):
    structure, q = atoms(), rotation(5)
    _, relative = bead_frames(structure)
    centres, everyone = beads(structure).positions, list(range(3 * BEADS))
    expected = gather(centres, SKEWED, relative, stage, everyone)
    turned = relative @ torch.as_tensor(q.T, dtype=torch.float32)
    assert_same_environment(gather(centres @ q.T, SKEWED @ q.T, turned, stage, everyone), expected)


def test_axis_frame_sees_the_same_up_to_a_turn_about_z():
    structure, q = atoms(), rotation(5)
    _, relative = bead_frames(structure)
    centres = beads(structure).positions
    one = gather(centres, SKEWED, relative, LIGHT_GIBBS, [3], plane=False)
    turned = relative @ torch.as_tensor(q.T, dtype=torch.float32)
    two = gather(centres @ q.T, SKEWED @ q.T, turned, LIGHT_GIBBS, [3], plane=False)
    a, b = one.atoms[0].double(), two.atoms[0].double()
    torch.testing.assert_close(a[:, 2], b[:, 2], atol=2e-6, rtol=0)
    torch.testing.assert_close(a @ a.T, b @ b.T, atol=2e-6, rtol=0)
    phase = torch.atan2(b[:, 1], b[:, 0]) - torch.atan2(a[:, 1], a[:, 0])
    steps = torch.polar(torch.ones_like(phase), phase)
    assert float((steps - steps[0]).abs().max()) < 1e-3


def test_the_axis_is_on_z():
    structure = atoms()
    for plane in (True, False):
        env = environment(structure, LIGHT_GIBBS, [1, 3], plane=plane)
        # a phenyl bead's axis comes from its own backbone bead, which is then below it
        for row, backbone in enumerate((0, 2)):
            vector = beads(structure).positions[[1, 3][row]] - beads(structure).positions[backbone]
            below = torch.tensor([0.0, 0.0, -float(np.linalg.norm(vector))])
            off = (env.beads[row] - below).norm(dim=1)
            assert float(off[env.bead_valid[row]].min()) < 1e-5


def test_turned_and_repeated():
    env = environment(atoms(), LIGHT_GIBBS, [3, 5])
    turn = torch.as_tensor(np.stack([rotation(1), rotation(2)]), dtype=torch.float32)
    turned = env.turned(turn)
    torch.testing.assert_close(turned.atoms[1], env.atoms[1] @ turn[1].T)
    torch.testing.assert_close(turned.beads[0], env.beads[0] @ turn[0].T)
    torch.testing.assert_close(turned.own[0, 1], turn[0] @ env.own[0, 1])
    twice = env.repeated(2)
    assert twice.stage == env.stage
    assert twice.bead.tolist() == [3, 3, 5, 5]
    assert torch.equal(twice.atoms[::2], env.atoms)
    assert torch.equal(twice.atom_bits[1::2], env.atom_bits)


# --- batches ----------------------------------------------------------------------------------


@EACH
def test_a_bead_sees_the_same_in_every_batch(stage):
    structure, members = atoms(), [0, 3, 8, 13, 16]
    together = environment(structure, stage, members)
    for row, bead in enumerate(members):
        alone = environment(structure, stage, [bead])
        n, t = int(alone.atom_valid.sum()), alone.targets.shape[1]
        assert int(together.atom_valid[row].sum()) == n
        assert torch.equal(together.atoms[row, :n], alone.atoms[0, :n])
        assert torch.equal(together.atom_bits[row, :t, :n], alone.atom_bits[0, :, :n])
        assert torch.equal(together.targets[row, :t], alone.targets[0])
        assert not bool((together.targets[row, t:] >= 0).any())


def test_several_frames_in_one_batch():
    structures = [atoms(0), atoms(1)]
    pairs = [bead_frames(s) for s in structures]
    frames: BeadFrames = stack_frames([f for f, _ in pairs])
    relative = torch.cat([r for _, r in pairs])
    bead, frame = torch.tensor([4, 4, 11]), torch.tensor([1, 0, 1])
    env = gather_environment(
        blocks(), frames, relative, frame, bead, LIGHT_GIBBS, order_keys(blocks()), radius=0.7
    )
    for row in range(3):
        alone = environment(structures[int(frame[row])], LIGHT_GIBBS, [int(bead[row])])
        n = int(alone.atom_valid.sum())
        assert int(env.atom_valid[row].sum()) == n
        assert torch.equal(env.atoms[row, :n], alone.atoms[0, :n])


def test_stages_are_the_four_of_the_method():
    assert set(STAGES) == {Stage(a, b) for a in (False, True) for b in (False, True)}
    assert [s.light for s in STAGES if s.first] == [False, True]  # heavy atoms first

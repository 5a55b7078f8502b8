"""Energies of blocks against the force field of the whole system."""

import dataclasses

import numpy as np
import pytest
import torch

from deepbackmap.forcefield import ForceField
from deepbackmap.methods.voxel.block_terms import (
    BatchTerms,
    batch_terms,
    block_energies,
    build_block_terms,
    internal_coordinates,
    lennard_jones_energy,
)
from deepbackmap.methods.voxel.environment import (
    ALONE,
    STAGES,
    WHOLE,
    Environment,
    gather_environment,
)
from deepbackmap.system import Structure
from small_polystyrene import TYPES, atoms, bead_frames, blocks, mapping, order_keys, rotation

OPEN = np.eye(3) * 16.0
"""A box in which everything sees everything, once: all pairs are within the cut-offs below."""
RADIUS, CUTOFF = 6.0, 7.9
EACH = pytest.mark.parametrize("stage", STAGES, ids=str)


def whole_system(structure):
    """Energies of the force field by the groups of the prior."""
    field = ForceField.from_topology(mapping().topology, cutoff=CUTOFF)
    found = field.energies_by_term(structure)
    return {
        "bond": found["bond"],
        "angle": found["angle"],
        "dihedral": found["proper"] + found["improper"],
        "lj": found["lj"],
    }


def setting(structure, stage, members, *, plane=True, radius=RADIUS):
    """Environment, terms of the batch, and tables."""
    frames, relative = bead_frames(structure, cutoff=radius + 0.3, plane=plane)
    table, bead = blocks(), torch.tensor(members)
    env = gather_environment(
        table,
        frames,
        relative,
        torch.zeros_like(bead),
        bead,
        stage,
        order_keys(table),
        radius=radius,
    )
    terms = build_block_terms(table, mapping(), TYPES)
    return env, batch_terms(terms, table, frames, relative, env), terms


def energies(structure, stage, members, **options):
    env, batch, terms = setting(structure, stage, members, **options)
    return block_energies(terms, batch, env, env.own)


@pytest.fixture(scope="module")
def structure():
    """A frame in which no pair is in the range where the energy of a block is softened."""
    found = atoms(2, box=OPEN)
    first, second = np.triu_indices(found.n, 1)
    apart = np.linalg.norm(found.positions[first] - found.positions[second], axis=1)
    kinds = mapping().topology.atom_type_index()
    c6, c12 = (getattr(mapping().topology, c)[kinds[first], kinds[second]] for c in ("c6", "c12"))
    bonded = np.isin(
        first * found.n + second,
        [
            (i + m * 50) * found.n + j + m * 50
            for m in range(3)
            for i, j in mapping().topology.molecule_types[0].exclusions.tolist()
        ],
    )
    assert ((apart > 0.6 * (c12 / c6) ** (1 / 6)) | bonded).all()
    return found


def test_the_first_pass_counts_every_term_and_pair_once(structure):
    """Each term is counted when the last of its atoms is placed, so the sum is the whole."""
    everyone = list(range(18))
    total = {"bond": 0.0, "angle": 0.0, "dihedral": 0.0, "lj": 0.0}
    for stage in STAGES[:2]:
        for name, value in energies(structure, stage, everyone).items():
            total[name] += float(value.double().sum())
    expected = whole_system(structure)
    assert set(total) == set(expected)
    for name, value in expected.items():
        assert abs(value) > 1.0
        assert total[name] == pytest.approx(value, rel=2e-4), name


@pytest.mark.parametrize("stage", [STAGES[3], WHOLE], ids=["hydrogens", "blocks"])
@pytest.mark.parametrize("bead", [0, 1, 2, 3, 4, 11])
def test_moving_atoms_costs_what_it_costs_the_whole_system(structure, bead, stage):
    env, batch, terms = setting(structure, stage, [bead])
    rng = np.random.default_rng(bead)
    step = rng.normal(0, 0.005, (env.targets.shape[1], 3))
    positions = structure.positions.copy()
    positions[env.targets[0].numpy()] += step
    moved = Structure(positions, structure.box)
    rotated = env.own + torch.as_tensor(step, dtype=torch.float32) @ _axes(structure, bead).T
    before = block_energies(terms, batch, env, env.own)
    after = block_energies(terms, batch, env, rotated)
    one, two = whole_system(structure), whole_system(moved)
    for name in ("bond", "angle", "dihedral", "lj"):
        change = float(after[name] - before[name])
        assert change == pytest.approx(two[name] - one[name], rel=2e-3, abs=2e-3), name
    assert abs(two["bond"] - one["bond"]) > 0.1


def _axes(structure, bead):
    frames, _ = bead_frames(structure)
    return frames.rotation[0, bead]


@pytest.mark.parametrize("stage", [STAGES[2], ALONE], ids=str)
def test_heavy_sweeps_leave_hydrogens_out(structure, stage):
    """The same by loops over the topology's terms, for a bead in the middle, whose neighbours by
    bonds are the two other backbone beads and its own ring."""
    found = energies(structure, stage, [8])
    molecule = mapping().topology.molecule_types[0]
    mine, shift = {33 - 16 + 0, 33 - 16 + 3}, 50  # CH2 and CH carbon of the second monomer
    assert {int(a) - shift for a in setting(structure, stage, [8])[0].targets[0]} == mine
    x = structure.positions[shift : shift + 50]
    bond = sum(
        0.5 * k * (np.linalg.norm(x[i] - x[j]) - r0) ** 2
        for (i, j), (r0, k) in zip(
            molecule.terms["bond"].atoms.tolist(), molecule.terms["bond"].parameters, strict=True
        )
        if mine & {i, j} and molecule.heavy[[i, j]].all()
    )
    assert float(found["bond"]) == pytest.approx(bond, rel=1e-3)
    assert _angle_energy(molecule, x, mine) == pytest.approx(float(found["angle"]), rel=1e-3)
    rings = {7, 9, 11, 13, 15, 39, 41, 43, 45, 47}  # hydrogens of the first and the third
    seen = set() if stage.alone else rings
    assert _heavy_lj(structure, mine, shift, seen) == pytest.approx(float(found["lj"]), rel=1e-3)


def _angle_energy(molecule, x, mine):
    total = 0.0
    listed = molecule.terms["angle"]
    for atoms_, (theta0, k) in zip(listed.atoms.tolist(), listed.parameters, strict=True):
        if mine & set(atoms_) and molecule.heavy[atoms_].all():
            a, b = x[atoms_[0]] - x[atoms_[1]], x[atoms_[2]] - x[atoms_[1]]
            theta = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            total += 0.5 * k * (theta - theta0) ** 2
    return total


def _heavy_lj(structure, mine, shift, seen):
    """Pairs with all other chains' atoms, the own chain's heavy atoms and the hydrogens that are
    seen, and among themselves."""
    topology = mapping().topology
    molecule, kinds = topology.molecule_types[0], topology.atom_type_index()
    excluded = {tuple(p) for p in molecule.exclusions.tolist()}
    total = 0.0
    for i in sorted(mine):
        for j in range(150):
            local = j - shift
            if 0 <= local < 50:
                twice = local in mine and local <= i
                hidden = not molecule.heavy[local] and local not in seen
                if hidden or twice or tuple(sorted((i, local))) in excluded:
                    continue
            r = np.linalg.norm(structure.positions[i + shift] - structure.positions[j])
            row = kinds[i + shift], kinds[j]
            total += topology.c12[row] / r**12 - topology.c6[row] / r**6
    return total


@EACH
def test_energies_do_not_depend_on_the_frame(structure, stage):
    """Neither on which local frame is used, nor on a turn of it."""
    members = [2, 3, 9, 17]
    plane, axis = (energies(structure, stage, members, plane=p) for p in (True, False))
    env, batch, terms = setting(structure, stage, members)
    turn = torch.as_tensor(rotation(4), dtype=torch.float32).expand(4, 3, 3)
    rotated = env.turned(turn)
    context = dataclasses.replace(batch, context=batch.context @ turn.transpose(1, 2))
    turned = block_energies(terms, context, rotated, rotated.own)
    for name, value in plane.items():
        torch.testing.assert_close(axis[name], value, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(turned[name], value, rtol=1e-3, atol=1e-2)


@EACH
def test_energies_do_not_depend_on_the_batch(structure, stage):
    members = [0, 1, 10, 17]
    together = energies(structure, stage, members)
    for row, bead in enumerate(members):
        alone = energies(structure, stage, [bead])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][row], value[0], rtol=1e-4, atol=1e-3)


def test_repeated_terms(structure):
    env, batch, terms = setting(structure, STAGES[1], [3, 4])
    plain = block_energies(terms, batch, env, env.own)
    many = env.repeated(3)
    found = block_energies(terms, batch.repeated(3), many, many.own)
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value.repeat_interleave(3), rtol=1e-4, atol=1e-3)


def test_forces_are_the_gradient(structure):
    """Finite differences along a random direction."""
    env, batch, terms = setting(structure, STAGES[3], [3])
    own = env.own.clone().requires_grad_(True)
    total = sum(block_energies(terms, batch, env, own).values()).sum()
    (gradient,) = torch.autograd.grad(total, own)
    direction = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))

    def at(step):
        with torch.no_grad():
            return float(
                sum(block_energies(terms, batch, env, env.own + step * direction).values()).sum()
            )

    h = 3e-4
    slope = (at(h) - at(-h)) / (2 * h)
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02)


@EACH
def test_clashes_cost_much_but_stay_finite(structure, stage):
    env, batch, terms = setting(structure, stage, [3, 9])
    collapsed = torch.zeros_like(env.own).requires_grad_(True)
    found = block_energies(terms, batch, env, collapsed)
    total = torch.stack(list(found.values())).sum()
    (gradient,) = torch.autograd.grad(total, collapsed)
    assert bool(torch.isfinite(total))
    assert bool(torch.isfinite(gradient).all())
    # an atom on top of one of another chain
    if bool((env.atom_valid & ~env.atom_same)[0].any()):
        clash = env.own.clone()
        stranger = int(torch.nonzero(env.atom_valid[0] & ~env.atom_same[0])[0, 0])
        clash[0, 0] = env.atoms[0, stranger]
        high = lennard_jones_energy(terms.lennard_jones, env, clash)[0]
        low = lennard_jones_energy(terms.lennard_jones, env, env.own)[0]
        assert 1e2 < float(high - low) < 1e8


def test_internal_coordinates_are_bond_lengths_angles_and_dihedrals(structure):
    env, batch, _ = setting(structure, STAGES[3], [3])
    found = internal_coordinates(batch, env.own)
    values = [v[0][used[0]].tolist() for v, used in found]
    x = structure.positions
    ring_h = [23, 25, 27, 29, 31]
    bonds = [10 * np.linalg.norm(x[h] - x[h - 1]) for h in ring_h]
    assert sorted(values[0]) == pytest.approx(sorted(bonds), abs=1e-4)
    assert len(values[1]) == 10  # two angles at each of the five hydrogens
    assert np.abs(np.array(values[1]) - np.radians(120)).max() < 0.25
    sines, cosines = np.array(values[-2]), np.array(values[-1])
    np.testing.assert_allclose(sines**2 + cosines**2, 1.0, atol=1e-5)


def test_no_terms_no_energy():
    """A batch without any term or neighbour has the energy of the pairs inside it alone."""
    env: Environment = setting(atoms(2, box=OPEN), STAGES[0], [0])[0]
    assert not bool(env.atom_valid.any())
    empty = BatchTerms(torch.zeros(1, 1, 3), {}, {}, {})
    terms = build_block_terms(blocks(), mapping(), TYPES)
    found = block_energies(terms, empty, env, env.own)
    assert {k: float(v) for k, v in found.items()} == dict.fromkeys(found, 0.0)

"""Forces on a box: minus the gradient of the energies, no net force, each pair once."""

import dataclasses
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import deepbackmap
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.nonbonded import Exclusions
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mechanics.forces import NEAR, BoxForces
from deepbackmap.system.whole import make_whole
from small_polystyrene import ATOMS, SKEWED, atoms, mapping

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
MIXED = Path(__file__).parent / "data" / "mixed"
CPU = torch.device("cpu")
CUTOFF = 0.75


@cache
def melt():
    """Topology and first frame of the packaged melt, molecules whole."""
    topology = read_topology(MELT / "topol.top")
    frame = read_frames(MELT / "aa.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    return topology, dataclasses.replace(frame, positions=whole)


@cache
def mixed():
    """Molecules of several kinds with every kind of term, 1-4 pairs among them."""
    topology = read_topology(MIXED / "mixed.top")
    frame = read_frames(MIXED / "mixed.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    return topology, dataclasses.replace(frame, positions=whole)


def found(topology, frame, *, rigid, cutoff=CUTOFF):
    forces = BoxForces(topology, CPU, rigid=rigid, cutoff=cutoff)
    x = torch.as_tensor(frame.positions, dtype=torch.float32)
    return forces(x, forces.list_pairs(frame.positions, frame.box))


def expected(topology, frame, *, rigid, cutoff=CUTOFF):
    """Another way: derivatives of the energies in double precision."""
    field = ForceField.from_topology(topology, cutoff=cutoff, reaction_field_epsilon=math.inf)
    x = torch.tensor(frame.positions, requires_grad=True)
    parts = field.energies(x, torch.tensor(frame.box), excluded_correction=False)
    total = sum(v for k, v in parts.items() if v.requires_grad and not (rigid and k == "bond"))
    return -torch.autograd.grad(total, x)[0]


@pytest.mark.parametrize("rigid", [True, False])
@pytest.mark.parametrize("system", [melt, mixed])
def test_forces_are_minus_the_gradient_of_the_energies(system, rigid, monkeypatch):
    # The mixed system has contacts so close that its forces would be bounded.
    monkeypatch.setattr("deepbackmap.mechanics.forces.SOFT", 0.75 if system is melt else 0.1)
    topology, frame = system()
    cutoff = min(CUTOFF, 0.45 * float(frame.box.diagonal().min()))
    got = found(topology, frame, rigid=rigid, cutoff=cutoff).double()
    right = expected(topology, frame, rigid=rigid, cutoff=cutoff)
    largest = float(right.norm(dim=1).max())
    assert largest > 100
    assert float((got - right).norm(dim=1).max()) < 1e-3 * largest


def test_forces_add_up_to_nothing():
    force = found(*melt(), rigid=True).double()
    scale = float(force.abs().sum())
    assert float(force.sum(0).abs().max()) < 1e-5 * scale
    # nor do they turn a molecule on its own by bonded terms alone
    topology, frame = melt()
    forces = BoxForces(topology, CPU, rigid=False, cutoff=CUTOFF)
    none = forces.list_pairs(frame.positions, frame.box)
    none = dataclasses.replace(
        none, first=none.first[:0], second=none.second[:0],
        shift=none.shift[..., :0], kind=none.kind[:0], n_near=0,
    )  # fmt: skip
    x = torch.as_tensor(frame.positions - frame.positions.mean(0), dtype=torch.float32)
    bonded = forces(x, none).double()
    torque = torch.linalg.cross(x.double(), bonded).sum(0)
    assert float(torque.abs().max()) < 1e-4 * float(bonded.abs().sum())


def test_near_and_far_pairs_are_all_pairs():
    topology, frame = melt()
    forces = BoxForces(topology, CPU, rigid=True, cutoff=CUTOFF)
    pairs = forces.list_pairs(frame.positions, frame.box)
    x = torch.as_tensor(frame.positions, dtype=torch.float32)
    near, far = pairs.near(), pairs.far()
    assert len(near.first) + len(far.first) == len(pairs.first)
    for part, inside in ((near, True), (far, False)):
        assert len(part.first) > 100
        apart = frame.positions[part.second.numpy()] - frame.positions[part.first.numpy()]
        step = minimum_image(apart, frame.box)
        distance = np.linalg.norm(step, axis=1)
        assert bool(((distance < NEAR) == inside)[np.abs(distance - NEAR) > 1e-5].all())
    whole = forces(x, pairs)
    torch.testing.assert_close(
        forces(x, near) + forces.of_pairs(x, far), whole,
        atol=1e-4 * float(whole.abs().max()), rtol=0,
    )  # fmt: skip


@pytest.mark.parametrize("system", [melt, lambda: (mapping().topology, atoms())])
def test_pairs_are_listed_once_and_without_the_excluded(system):
    topology, frame = system()
    forces = BoxForces(topology, CPU, rigid=True, cutoff=CUTOFF)
    pairs = forces.list_pairs(frame.positions, frame.box)
    listed = torch.stack([pairs.first, pairs.second], 1).long().numpy()
    assert bool((listed[:, 0] != listed[:, 1]).all())
    keys = np.sort(listed, axis=1) @ [topology.n_atoms, 1]
    assert len(np.unique(keys)) == len(keys)
    assert not Exclusions(topology).contains(listed).any()
    # all others within reach, by brute force
    near = []
    for i in range(topology.n_atoms - 1):
        step = minimum_image(frame.positions[i + 1 :] - frame.positions[i], frame.box)
        j = i + 1 + np.flatnonzero(np.linalg.norm(step, axis=1) < CUTOFF)
        near.append(np.stack([np.full(len(j), i), j], 1))
    near = np.concatenate(near)
    near = near[~Exclusions(topology).contains(near)]
    assert set(near @ [topology.n_atoms, 1]) <= set(keys)
    assert len(keys) < 1.4 * len(near)


def test_images_of_molecules_change_nothing():
    frame, topology = atoms(), mapping().topology
    moved = frame.positions + np.repeat(SKEWED * [[1], [-2], [1]], ATOMS, axis=0)
    one = found(topology, frame, rigid=True)
    other = found(topology, dataclasses.replace(frame, positions=moved), rigid=True)
    torch.testing.assert_close(one, other, atol=0.02 + 1e-3 * float(one.abs().max()), rtol=0)


def test_pieces_change_nothing(monkeypatch):
    whole = found(*melt(), rigid=True)
    monkeypatch.setattr("deepbackmap.mechanics.forces.PAIRS_AT_ONCE", 10_000)
    parts = found(*melt(), rigid=True)
    torch.testing.assert_close(whole, parts, atol=1e-3 * float(whole.abs().max()), rtol=0)


def test_a_list_lasts_for_moves_within_the_skin():
    topology, frame = melt()
    forces = BoxForces(topology, CPU, rigid=True, cutoff=CUTOFF)
    random = np.random.default_rng(0).normal(size=frame.positions.shape)
    moved = frame.positions + 0.012 * random / np.linalg.norm(random, axis=1, keepdims=True)
    x = torch.as_tensor(moved, dtype=torch.float32)
    old = forces(x, forces.list_pairs(frame.positions, frame.box))
    new = forces(x, forces.list_pairs(moved, frame.box))
    torch.testing.assert_close(old, new, atol=1e-3 * float(new.abs().max()), rtol=0)


def test_repulsion_is_bounded_and_pushes_apart():
    """Two hydrogens of different chains nearer and nearer along one line."""
    topology, frame = mapping().topology, atoms()
    forces = BoxForces(topology, CPU, rigid=True)
    alone = np.concatenate([
        frame.positions[k * ATOMS : (k + 1) * ATOMS] - frame.positions[k * ATOMS] + 8.0 * k
        for k in range(3)
    ])  # fmt: skip
    box = np.diag([40.0, 40.0, 40.0])
    sizes = []
    for gap in (0.2, 0.1, 0.05, 0.01, 1e-4, 0.0):
        x = alone.copy()
        x[ATOMS : 2 * ATOMS] += x[0] - x[ATOMS] + np.array([gap, 0.0, 0.0])
        force = forces(torch.as_tensor(x, dtype=torch.float32), forces.list_pairs(x, box))
        assert bool(torch.isfinite(force).all())
        sizes.append(float(force.norm(dim=1).max()))
    # as large as it gets well before the atoms meet, and nothing where they have no direction
    assert sizes[2] > sizes[3] > sizes[4]
    assert max(sizes) < 2e5

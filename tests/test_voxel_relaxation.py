"""The thermal relaxation: right temperature, and repair of what is stiff."""

from pathlib import Path

import numpy as np
import pytest
import torch

import deepbackmap
from deepbackmap.data.systems import TrainingSystem, map_whole
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.batches import Batch, VoxelFrames
from deepbackmap.methods.voxel.block_terms import block_energies
from deepbackmap.methods.voxel.environment import WHOLE
from deepbackmap.methods.voxel.options import VoxelModelOptions
from deepbackmap.methods.voxel.relaxation import relax

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
TEMPERATURE = 568.0


@pytest.fixture(scope="module")
def frames() -> VoxelFrames:
    topology = read_topology(MELT / "topol.top")
    file = load_mapping("ps-two-bead")
    with read_frames(MELT / "aa.gro") as source:
        structures = list(source)
    types = ("C", "C_AR", "H", "H_AR")
    spec = ModelSpec(
        "voxel", VoxelModelOptions(), types, ("A", "B"), file.to_text(), TEMPERATURE, 0.27
    )
    mapping = file.resolve(topology)
    beads = tuple(map_whole(s, mapping) for s in structures)
    system = TrainingSystem(mapping, tuple(structures), beads, (TEMPERATURE,) * len(beads))
    return VoxelFrames(spec, system, torch.device("cpu"))


def whole_blocks(frames: VoxelFrames, kind: int) -> Batch:
    """Blocks of one bead type in the simulated melt, everything around them true."""
    own = frames.blocks.bead_type[frames.blocks.bead_kind] == kind
    bead = torch.nonzero(own).squeeze(1)
    zero = torch.zeros_like(bead)
    phase = torch.zeros(len(bead), int(frames.blocks.bead_molecule[-1]) + 1)
    angle = torch.zeros(len(bead))
    return frames.batch(WHOLE, zero, bead, phase, angle, jitter=0.0, noise_seed=0)


def energies(frames: VoxelFrames, batch: Batch, positions: torch.Tensor) -> dict[str, float]:
    found = block_energies(frames.terms, batch.terms, batch.clean, positions)
    return {k: float(v.mean()) for k, v in found.items()}


@pytest.mark.parametrize(("kind", "noise"), [(0, 0.0), (0, 0.03), (1, 0.0), (1, 0.03)])
def test_blocks_of_a_melt_keep_or_regain_their_thermal_energy(
    frames: VoxelFrames, kind: int, noise: float
) -> None:
    batch = whole_blocks(frames, kind)
    random = torch.Generator().manual_seed(1)
    start = batch.truth + noise * torch.randn(batch.truth.shape, generator=random)
    name = hash_counters(5, batch.clean.bead)
    placed = relax(
        frames.terms, batch.terms, batch.clean, start,
        temperature=TEMPERATURE, steps=40, name=name,
    )  # fmt: skip
    reference = energies(frames, batch, batch.truth)
    got = energies(frames, batch, placed)
    if noise > 0:
        assert energies(frames, batch, start)["angle"] > 5 * reference["angle"]
    assert got["angle"] == pytest.approx(reference["angle"], rel=0.2)
    assert got["dihedral"] == pytest.approx(reference["dihedral"], rel=0.25)
    assert got["bond"] < 6.0  # stiff springs, 10 to 11 of them, share kT/2 each at a tenth


def test_a_colder_target_gives_colder_blocks(frames: VoxelFrames) -> None:
    batch = whole_blocks(frames, 1)
    name = hash_counters(5, batch.clean.bead)
    angle = []
    for temperature in (568.0, 313.0):
        placed = relax(
            frames.terms, batch.terms, batch.clean, batch.truth,
            temperature=temperature, steps=60, name=name,
        )  # fmt: skip
        angle.append(energies(frames, batch, placed)["angle"])
    assert angle[1] / angle[0] == pytest.approx(313.0 / 568.0, rel=0.25)


def test_the_same_name_gives_the_same_steps_in_any_batch(frames: VoxelFrames) -> None:
    batch = whole_blocks(frames, 0)
    name = hash_counters(3, batch.clean.bead)
    arguments = (frames.terms, batch.terms, batch.clean, batch.truth)
    first = relax(*arguments, temperature=TEMPERATURE, steps=5, name=name)
    again = relax(*arguments, temperature=TEMPERATURE, steps=5, name=name)
    other = relax(*arguments, temperature=TEMPERATURE, steps=5, name=name + 1)
    assert torch.equal(first, again)
    assert float((first - other).norm(dim=-1).mean()) > 1e-3
    assert np.isfinite(first.numpy()).all()

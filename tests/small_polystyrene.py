"""A small melt of polystyrene and a model with random weights, for the tests of several rooms."""

import dataclasses
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.blocks.index import BeadFrames, Blocks, build_bead_frames, build_blocks
from deepbackmap.blocks.plan import build_plan
from deepbackmap.chemistry import tacticity
from deepbackmap.data.systems import TrainingSystem, map_whole
from deepbackmap.io.topology import read_topology
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.methods.base import Model, new_generator
from deepbackmap.methods.points.frames import PointFrames, fit, same_labels
from deepbackmap.methods.points.options import PointModelOptions, PointNetworkOptions, PointOptions
from deepbackmap.methods.points.slots import KindNames, bead_signs, collect_vocabulary, name_kinds
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.environment import Environment, Stage, gather_environment
from deepbackmap.methods.voxel.grid import condition_channels
from deepbackmap.methods.voxel.options import NetworkOptions, VoxelModelOptions, VoxelOptions
from deepbackmap.system import Structure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from melt import build

# The systems are tiny: on a busy machine, threads that wait for each other cost several times
# what the work does.
torch.set_num_threads(1)

MONOMERS, CHAINS = 3, 3
ATOMS = 16 * MONOMERS + 2
"""In a chain."""
BEADS = 2 * MONOMERS
"""In a chain."""
TYPES, BEAD_TYPES = ("C", "C_AR", "H", "H_AR"), ("A", "B")
SKEWED = np.array([[2.5, 0.0, 0.0], [0.9, 2.4, 0.0], [-0.7, 0.8, 2.3]])
"""A cell in which the chains, which are 1 to 1.5 nm long, meet each other's images."""
TINY = NetworkOptions(architecture="plain", channels=4, critic_channels=4, noise=4, slope=0.2)


@cache
def mapping(monomers: int = MONOMERS, chains: int = CHAINS) -> SystemMapping:
    """The packaged two-bead mapping on a topology written by our own builder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "topol.top"
        build.write_topology(path, monomers, chains)
        topology = read_topology(path)
    return load_mapping("ps-two-bead").resolve(topology)


@cache
def _positions(monomers: int, chains: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return build.place_chains(build.build_chains(monomers, chains, rng), 2.4, rng).reshape(-1, 3)


def atoms(seed: int = 0, *, chains: int = CHAINS, box: np.ndarray = SKEWED) -> Structure:
    """A frame of atoms, chains whole, a little off the ideal places (where distances tie)."""
    ideal = _positions(MONOMERS, chains, seed)
    noise = np.random.default_rng(seed).normal(0.0, 0.003, ideal.shape)
    return Structure(ideal + noise, box.copy())


@cache
def blocks(monomers: int = MONOMERS, chains: int = CHAINS) -> Blocks:
    """Tables of the small melt."""
    system = mapping(monomers, chains)
    return build_blocks(build_plan(system, TYPES, BEAD_TYPES), system, torch.device("cpu"))


def beads(structure: Structure) -> Structure:
    """The beads of a frame with whole chains."""
    system = mapping(chains=structure.n // ATOMS)
    return dataclasses.replace(structure, positions=map_positions(system, structure.positions))


def bead_frames(
    structure: Structure, *, cutoff: float = 0.97, plane: bool = True
) -> tuple[BeadFrames, torch.Tensor]:
    """Neighbours and axes of a frame with whole chains, and its atoms relative to their beads."""
    chains = structure.n // ATOMS
    table, system = blocks(chains=chains), mapping(chains=chains)
    centres = beads(structure).positions
    found = build_bead_frames(centres, structure.box, table, system, cutoff=cutoff, plane=plane)
    relative = structure.positions - centres[table.atom_owner.numpy()]
    return found, torch.as_tensor(relative, dtype=torch.float32)[None]


def environment(
    structure: Structure,
    stage: Stage,
    members: list[int],
    *,
    keys: torch.Tensor | None = None,
    radius: float = 0.7,
    plane: bool = True,
) -> Environment:
    """What some beads see; by default chains are placed in the order of their numbers."""
    table = blocks(chains=structure.n // ATOMS)
    frames, relative = bead_frames(structure, cutoff=radius + 0.27, plane=plane)
    bead = torch.tensor(members)
    when = order_keys(table) if keys is None else keys
    frame = torch.zeros_like(bead)
    return gather_environment(table, frames, relative, frame, bead, stage, when, radius=radius)


def order_keys(table: Blocks) -> torch.Tensor:
    """When beads are placed: by rank, then by molecule."""
    turn = (table.bead_molecule + 0.5) / (int(table.bead_molecule.max()) + 1)
    return table.rank[table.bead_kind] + turn


@cache
def _mapping_text() -> str:
    return load_mapping("ps-two-bead").to_text()


def specification(**voxel: object) -> ModelSpec:
    """What a tiny model is; voxel options by keyword."""
    return ModelSpec(
        method="voxel",
        options=VoxelModelOptions(VoxelOptions(**voxel), TINY),
        atom_types=TYPES,
        bead_types=BEAD_TYPES,
        mapping=_mapping_text(),
        temperature=500.0,
        reach=0.27,
        provenance={"note": "random weights"},
    )


def random_model(seed: int = 0, **voxel: object) -> Model:
    """A model of the authors' small architecture with random weights.

    They are enlarged until the densities differ from voxel to voxel, so that what a model sees
    matters: fresh weights give nearly constant densities, which all collapse to one point.
    """
    spec = specification(**voxel)
    torch.manual_seed(seed)
    generator = new_generator(spec)
    with torch.no_grad():
        generator.leave.weight.mul_(150.0)
        generator.noise.weight.mul_(30.0)
    return Model(spec, generator.requires_grad_(False).eval())


ALTERNATING = {"A:0": [1, -1]}
"""Handedness of the chains that the builder makes."""
POINTS = PointOptions(cutoff=0.4, radial=5, chain=2, depth=3)
TINY_POINTS = PointNetworkOptions(width=16, blocks=1, channels=2, times=2)


def handedness(monomers: int = MONOMERS, chains: int = CHAINS, flip: int = 1) -> Handedness:
    """Hands of the stereocentres; those of the mirror image where ``flip`` is -1."""
    centres = tacticity.find_centres(mapping(monomers, chains))
    signs = flip * tacticity.expected_signs(centres, ALTERNATING)
    return Handedness(torch.from_numpy(centres.atoms), torch.from_numpy(signs))


def training_system(
    structures: list[Structure], *, temperature: float = 500.0, hands: int = 0
) -> TrainingSystem:
    """Frames of the small melt with their beads; with the builder's hands where ``hands`` is 1."""
    chains = structures[0].n // ATOMS
    return TrainingSystem(
        mapping(chains=chains),
        tuple(structures),
        tuple(map_whole(s, mapping(chains=chains)) for s in structures),
        (temperature,) * len(structures),
        handedness(chains=chains, flip=hands) if hands else None,
    )


@cache
def point_hands(
    monomers: int = MONOMERS, chains: int = CHAINS, flip: int = 1
) -> tuple[dict[int, int], ...]:
    """Signs of the beads' stereocentres; those of the mirror image where ``flip`` is -1."""
    return bead_signs(mapping(monomers, chains), handedness(monomers, chains, flip))


@cache
def point_names(monomers: int = MONOMERS, chains: int = CHAINS, flip: int = 1) -> KindNames:
    """Names of the slots of all kinds of bead."""
    system, plan = mapping(monomers, chains), blocks(monomers, chains).plan
    return name_kinds(system, plan, POINTS, point_hands(monomers, chains, flip))


def point_specification(**changes: object) -> ModelSpec:
    """What a tiny point model is; fields by keyword."""
    known = {
        "method": "points",
        "options": PointModelOptions(POINTS, TINY_POINTS, collect_vocabulary([point_names()])),
        "rigid": True,
        "handedness": ALTERNATING,
    }
    return dataclasses.replace(specification(), **{**known, **changes})


def point_frames(spec: ModelSpec, structures: list[Structure], **changes: object) -> PointFrames:
    """Training frames with the builder's hands."""
    system = training_system(structures, temperature=spec.temperature, hands=1)
    changed = dataclasses.replace(system, **changes)
    made = PointFrames(spec, changed, torch.device("cpu"))
    same_labels([made])
    return made


@cache
def point_model(seed: int = 0, size: float = 0.1) -> Model:
    """A point model fitted on a few frames, with random weights that let it see its surroundings
    (fresh ones answer zero)."""
    spec = point_specification()
    torch.manual_seed(seed)
    generator = new_generator(spec)
    fit([point_frames(spec, [atoms(k) for k in range(4)])], generator)
    for name, weights in generator.named_parameters():
        if name.endswith("leave.weight"):
            nn.init.normal_(weights, std=size)
    return Model(spec, generator.requires_grad_(False).eval())


class OneLayer(nn.Module):
    """A generator of one layer, for laws that hold whatever the network is."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        channels = condition_channels(spec.options.voxel, len(TYPES), len(BEAD_TYPES))
        self.see = nn.Conv3d(channels, 1, 3, padding=1)
        self.draw = nn.Linear(
            spec.options.network.noise + len(spec.atom_types), spec.options.voxel.voxels**3
        )

    def forward(
        self, condition: torch.Tensor, noise: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """As the networks of the package."""
        drawn = self.draw(torch.cat([noise, target], dim=1))
        return torch.sigmoid(10.0 * (5.0 * self.see(condition).flatten(1) + drawn))


def quick_model(seed: int = 0, **voxel: object) -> Model:
    """A model whose every call is cheap."""
    spec = specification(**voxel)
    torch.manual_seed(seed)
    return Model(spec, OneLayer(spec).requires_grad_(False).eval())


def rotation(seed: int = 0) -> np.ndarray:
    """A proper rotation drawn at random."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))

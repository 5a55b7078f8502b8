"""Training frames as tensors, and batches of sequences drawn from them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from deepbackmap.blocks.index import (
    BeadFrames,
    Blocks,
    build_bead_frames,
    build_blocks,
    relative_positions,
    stack_frames,
)
from deepbackmap.blocks.plan import build_plan
from deepbackmap.blocks.symmetry import Flip, block_flips, principal_axis, sides
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import cell_heights
from deepbackmap.geometry.frames import turn_about_z
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.block_terms import (
    BatchTerms,
    BlockTerms,
    batch_terms,
    build_block_terms,
)
from deepbackmap.methods.voxel.environment import Environment, Stage, gather_environment, stages_of
from deepbackmap.methods.voxel.options import VoxelModelOptions


def canonical_labels(
    relative: Float[Tensor, "f na 3"], frames: BeadFrames, blocks: Blocks, mapping: SystemMapping
) -> Float[Tensor, "f na 3"]:
    """Relabel symmetric groups so that their sides point the same way in all blocks.

    Which way is taken from the data: the axis along which the two sides are found most often, in
    the frame of the bead and two of its neighbours, so that the cut falls where there are fewest.
    """
    out = relative.clone()
    index = mapping.topology.molecule_type_index()
    atom0, bead0 = mapping.topology.molecule_offsets()[:-1], mapping.bead_offsets()[:-1]
    groups: dict[tuple[int, int], list[tuple[int, np.ndarray, Flip]]] = {}
    for t, molecule in enumerate(mapping.topology.molecule_types):
        for flip in block_flips(molecule, mapping.molecules[t]):
            key = (
                int(blocks.plan.bead_type[blocks.plan.bead_kinds[t] + flip.bead]),
                len(flip.atoms),
            )
            copies = np.flatnonzero(index == t)
            rotation = frames.rotation[:, torch.as_tensor(bead0[copies] + flip.bead)]
            atoms = torch.as_tensor(atom0[copies][:, None] + np.arange(molecule.n_atoms))
            local = (relative[:, atoms] @ rotation.transpose(-1, -2)).cpu().numpy()
            groups.setdefault(key, []).append((t, sides(local, flip), flip))
    for members in groups.values():
        axis = principal_axis(np.concatenate([s.reshape(-1, 3) for _, s, _ in members]))
        for t, side, flip in members:
            copies = np.flatnonzero(index == t)
            wrong = torch.as_tensor(side @ axis < 0)  # f, copies
            at = torch.as_tensor(atom0[copies][:, None] + flip.atoms)
            to = torch.as_tensor(atom0[copies][:, None] + flip.images)
            out[:, at] = torch.where(wrong[..., None, None], relative[:, to], out[:, at])
    return out


@dataclass(frozen=True)
class Batch:
    """Sequences of one stage and one length, with the truth."""

    env: Environment
    """What the generator sees (turned, with noise)."""
    terms: BatchTerms
    """In the frame before the turn."""
    clean: Environment
    """As the data has it, before the turn and the noise."""
    turn: Float[Tensor, "B 3 3"]
    truth: Float[Tensor, "B T 3"]
    """Positions of the targets before the turn."""


class VoxelFrames:
    """A set of frames on a device, from which batches are drawn."""

    def __init__(
        self,
        spec: ModelSpec,
        system: TrainingSystem,
        device: torch.device,
        *,
        canonical: bool = False,
    ) -> None:
        """Everything on the device.

        Args:
            spec: of the model.
            system: with its frames.
            device: to work on.
            canonical: whether to label symmetric groups the same way in all frames.

        Raises:
            InputError: a box that is too small for what a block sees.
        """
        assert isinstance(spec.options, VoxelModelOptions)
        self.voxel, mapping = spec.options.voxel, system.mapping
        plan = build_plan(mapping, spec.atom_types, spec.bead_types)
        host = build_blocks(plan, mapping, torch.device("cpu"))
        plane = self.voxel.frame == "plane"
        found: list[BeadFrames] = []
        planes: list[BeadFrames] = []
        relative: list[np.ndarray] = []
        for k, structure in enumerate(system.structures):
            lowest = float(cell_heights(structure.box).min())
            if lowest < 2 * self.voxel.radius:
                raise InputError(
                    f"training frame {k}: the box is {lowest:.3f} nm high, expected at least "
                    f"twice the environment's radius, {2 * self.voxel.radius:.3f} nm"
                )
            centres = system.beads[k]
            for store, flat in ((found, plane), (planes, True)):
                if store is planes and not canonical:
                    continue
                store.append(
                    build_bead_frames(
                        centres, structure.box, host, mapping, cutoff=spec.bead_cutoff, plane=flat
                    )
                )
            relative.append(relative_positions(structure, mapping, centres))
        self.blocks = build_blocks(plan, mapping, device)
        stacked = torch.as_tensor(np.stack(relative), dtype=torch.float32)
        if canonical:
            stacked = canonical_labels(stacked, stack_frames(planes), host, mapping)
        self.relative = stacked.to(device)
        self.frames = stack_frames(found).to(device)
        self.terms: BlockTerms = build_block_terms(self.blocks, mapping, spec.atom_types)
        masses = np.concatenate([m.masses for m in mapping.topology.molecule_types])
        self.masses = torch.as_tensor(masses, dtype=torch.float32, device=device)
        self._buckets = self._sort_into_buckets()

    def _sort_into_buckets(self) -> list[tuple[Stage, Tensor]]:
        """Beads with sequences of one length, by stage: no slot of a batch is wasted."""
        buckets = []
        for stage in stages_of(self.voxel):
            length = (self.blocks.sequence(stage.light) >= 0).sum(1)[self.blocks.bead_kind]
            for n in length.unique().tolist():
                if n > 0:
                    buckets.append((stage, torch.nonzero(length == n).squeeze(1)))
        return buckets

    def draw(self, size: int, random: torch.Generator, *, augment: bool, jitter: float) -> Batch:
        """A batch of sequences of one stage and one length, drawn with replacement.

        Buckets are drawn in proportion to their beads; the numbers come from a generator on the
        CPU, so that they are the same whatever the device.
        """
        device = self.blocks.device
        weights = torch.tensor([float(len(b)) for _, b in self._buckets])
        stage, members = self._buckets[int(torch.multinomial(weights, 1, generator=random))]
        bead = members[torch.randint(len(members), (size,), generator=random).to(device)]
        frame = torch.randint(len(self.relative), (size,), generator=random).to(device)
        angle = torch.rand(size, generator=random) * 2 * torch.pi * float(augment)
        molecules = int(self.blocks.bead_molecule[-1]) + 1
        phase = torch.rand(size, molecules, generator=random).to(device)
        noise_seed = int(torch.randint(2**62, (1,), generator=random))
        return self.batch(
            stage, frame, bead, phase, angle.to(device), jitter=jitter, noise_seed=noise_seed
        )

    def batch(
        self,
        stage: Stage,
        frame: Tensor,
        bead: Tensor,
        phase: Float[Tensor, "B m"],
        angle: Float[Tensor, "B"],
        *,
        jitter: float,
        noise_seed: int,
    ) -> Batch:
        """The environments of given sequences.

        Args:
            phase: in (0, 1), when each molecule's turn comes among beads of the same rank; stands
                for the random order of chains.
            angle: turn about z, rad.
        """
        neighbours = self.frames.neighbours[frame, bead].clamp_min(0)
        rank = self.blocks.rank[self.blocks.bead_kind[neighbours]]
        keys = rank + phase.gather(1, self.blocks.bead_molecule[neighbours])
        clean = gather_environment(
            self.blocks,
            self.frames,
            self.relative,
            frame,
            bead,
            stage,
            keys,
            radius=self.voxel.radius,
        )
        terms = batch_terms(self.terms, self.blocks, self.frames, self.relative, clean)
        turn = turn_about_z(angle)
        env = clean.turned(turn)
        if jitter > 0:
            env = _jittered(env, jitter, noise_seed)
        return Batch(env=env, terms=terms, clean=clean, turn=turn, truth=clean.own)


def _jittered(env: Environment, sd: float, seed: int) -> Environment:
    """Noise on the atoms that every second sample sees."""
    random = torch.Generator(device=env.atoms.device).manual_seed(seed)
    half = (torch.arange(len(env.atoms), device=env.atoms.device) % 2)[:, None, None] * sd

    def noisy(x: Tensor) -> Tensor:
        draw = torch.randn(x.shape, generator=random, device=x.device)
        return x + half * draw

    return replace(env, atoms=noisy(env.atoms), own=noisy(env.own))

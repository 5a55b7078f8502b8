"""The sampler: first pass in the order S, then coloured Gibbs sweeps."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.blocks.index import BeadFrames, build_bead_frames, build_blocks, whole_beads
from deepbackmap.blocks.order import colours, levels
from deepbackmap.blocks.plan import build_plan
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import cell_heights
from deepbackmap.geometry.counter_random import hash_counters, normal, uniform
from deepbackmap.geometry.frames import turn_about_z
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.base import Model, Progress
from deepbackmap.methods.voxel.block_terms import batch_terms, block_energies, build_block_terms
from deepbackmap.methods.voxel.environment import (
    WHOLE,
    Environment,
    Stage,
    gather_environment,
    stages_of,
)
from deepbackmap.methods.voxel.grid import VoxelCondition
from deepbackmap.methods.voxel.options import VoxelModelOptions, VoxelSamplingOptions
from deepbackmap.methods.voxel.relaxation import relax
from deepbackmap.methods.voxel.stereo import restore
from deepbackmap.methods.voxel.unroll import place_sequence
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure

REPAIRS = 3
"""Tries to relax a stereocentre with the right hand."""

# Streams of random numbers, so that no two uses share one.
_ORDER, _COLOUR, _NOISE, _CHOICE, _ANGLE, _RELAX = range(6)


class VoxelSampler:
    """Puts the atoms of one topology back, frame by frame, with a voxel model."""

    def __init__(
        self,
        model: Model,
        mapping: SystemMapping,
        options: VoxelSamplingOptions,
        device: torch.device | str = "cpu",
        handedness: Handedness | None = None,
    ) -> None:
        """Prepare the tables; raises ``InputError`` for types that the model never saw.

        Args:
            handedness: of the stereocentres, which is then restored after every pass.
        """
        assert isinstance(model.spec.options, VoxelModelOptions)
        self.spec, self.mapping, self.options = model.spec, mapping, options
        self.voxel, self.network = model.spec.options.voxel, model.spec.options.network
        self.device = torch.device(device)
        plan = build_plan(mapping, model.spec.atom_types, model.spec.bead_types)
        self.blocks = build_blocks(plan, mapping, self.device)
        self.terms = build_block_terms(self.blocks, mapping, model.spec.atom_types)
        self.handedness = handedness and Handedness(
            handedness.atoms.to(self.device), handedness.sign.to(self.device)
        )
        self.generator = model.generator.to(self.device).to(  # type: ignore[call-overload]
            memory_format=torch.channels_last_3d
        )

    @property
    def settled(self) -> None:
        """Blocks are relaxed one by one, if at all."""
        return None

    @property
    def placements(self) -> int:
        """Sequences placed for a frame, for progress bars."""
        return 2 * len(self.blocks.bead_kind) * (1 + self.options.sweeps)

    def sample(
        self, beads: Structure, *, frame: int = 0, progress: Progress | None = None
    ) -> Structure:
        """Atoms for one frame of beads; molecules are whole.

        Args:
            beads: positions of the beads in the order of the mapping.
            frame: its number, which names the random numbers together with the seed.
            progress: called with the number of sequences placed since the last call.

        Raises:
            InputError: wrong number of beads, or a box that is too small.
        """
        self._check(beads, frame)
        frames = build_bead_frames(
            beads.positions,
            beads.box,
            self.blocks,
            self.mapping,
            cutoff=self.spec.bead_cutoff,
            plane=self.voxel.frame == "plane",
        )
        relative = torch.zeros(1, len(self.blocks.atom_kind), 3, device=self.device)
        with torch.no_grad():
            self._passes(frames, relative, frame, progress or (lambda n: None))
        owner = self.blocks.atom_owner
        # In double precision: a large box in single precision would lose the bond lengths' digits.
        whole = whole_beads(beads.positions, beads.box, self.mapping)
        positions = whole[owner.cpu().numpy()] + relative[0].cpu().numpy().astype(np.float64)
        return Structure(positions=positions, box=beads.box, time=beads.time)

    def _check(self, beads: Structure, frame: int) -> None:
        if beads.n != len(self.blocks.bead_kind):
            raise InputError(
                f"frame {frame}: expected {len(self.blocks.bead_kind)} beads, found {beads.n}"
            )
        lowest, needed = float(cell_heights(beads.box).min()), 2 * self.voxel.radius
        if lowest < needed:
            raise InputError(
                f"frame {frame}: expected a box at least {needed:.3f} nm high in every direction "
                f"(twice the model's cut-off), found {lowest:.3f} nm"
            )

    def _passes(self, frames: BeadFrames, relative: Tensor, frame: int, progress: Progress) -> None:
        seed = self.options.seed
        neighbours = frames.neighbours[0]
        molecule = self.blocks.bead_molecule
        rank = self.blocks.rank[self.blocks.bead_kind].to(torch.float32)
        turn = uniform(hash_counters(seed, frame, _ORDER, molecule), 1).squeeze(-1)
        first = rank + turn
        index = torch.arange(len(rank), device=self.device)
        priority = uniform(hash_counters(seed, frame, _COLOUR, index), 1).squeeze(-1)
        sweep = colours(neighbours, priority).to(torch.float32)
        orders = {True: list(levels(neighbours, first)), False: list(levels(neighbours, sweep))}
        for number in range(1 + self.options.sweeps):
            keys = first if number == 0 else sweep
            for stage in (s for s in stages_of(self.voxel) if s.first == (number == 0)):
                for ready in orders[stage.first]:
                    self._place_level(
                        frames, relative, ready, stage, keys, (frame, number), progress
                    )
            if self.handedness is not None:
                restore(relative[0], self.blocks, frames, self.handedness)
            if self.options.block_relaxation > 0 and number >= min(1, self.options.sweeps):
                for ready in orders[False]:
                    for part in ready.split(self.options.batch):
                        self._relax(frames, relative, part, sweep, (frame, number, 0))
                self._repair(frames, relative, orders[False], sweep, (frame, number))

    def _place_level(
        self,
        frames: BeadFrames,
        relative: Tensor,
        ready: Int64[Tensor, "m"],
        stage: Stage,
        keys: Float[Tensor, "nb"],
        names: tuple[int, int],
        progress: Progress,
    ) -> None:
        """Place the sequences of beads that do not see each other; sorted by length, so that few
        slots are empty, and cut to the largest batch."""
        length = (self.blocks.sequence(stage.light) >= 0).sum(1)[self.blocks.bead_kind[ready]]
        progress(int((length == 0).sum()))
        for n in length.unique().tolist():
            if n == 0:
                continue
            members = ready[length == n]
            for part in members.split(max(1, self.options.batch // self.options.candidates)):
                self._place(frames, relative, part, stage, keys, names)
                progress(len(part))

    def _place(
        self,
        frames: BeadFrames,
        relative: Tensor,
        bead: Int64[Tensor, "B"],
        stage: Stage,
        keys: Float[Tensor, "nb"],
        names: tuple[int, int],
    ) -> None:
        copies = self.options.candidates
        zero = torch.zeros_like(bead)
        env = gather_environment(
            self.blocks, frames, relative, zero, bead, stage, keys, radius=self.voxel.radius
        )
        many = env.repeated(copies) if copies > 1 else env
        name = hash_counters(self.options.seed, *names, int(stage.light), many.bead)
        candidate = torch.arange(copies, device=self.device).repeat(len(bead))
        seen, turn = many, None
        if self.voxel.frame == "axis":
            # Equally spaced orientations about the free axis (II D 3), from a random start.
            start = uniform(hash_counters(name, _ANGLE), 1).squeeze(-1)
            turn = turn_about_z(2 * math.pi * (candidate / copies + start))
            seen = many.turned(turn)
        types, spec = len(self.spec.atom_types), self.spec
        condition = VoxelCondition(seen, types, len(spec.bead_types), self.voxel)
        size = (many.targets.shape[1], self.network.noise)
        noise = normal(hash_counters(name, _NOISE, candidate), size[0] * size[1])
        _, placed = place_sequence(
            self.generator, condition, seen, noise.unflatten(-1, size), types, self.voxel
        )
        if turn is not None:
            placed = placed @ turn
        if copies > 1:
            placed = self._choose(frames, relative, many, placed, name)
        local = placed @ frames.rotation[0, bead]
        valid = env.target_valid
        relative[0, env.targets[valid]] = local[valid]

    def _repair(
        self,
        frames: BeadFrames,
        relative: Tensor,
        order: list[Tensor],
        keys: Float[Tensor, "nb"],
        names: tuple[int, int],
    ) -> None:
        """Restore and relax again the centres that relaxation turned back; restore those that do
        not stay after some tries, strained as they may be."""
        if self.handedness is None:
            return
        for attempt in range(1, REPAIRS + 1):
            wrong = restore(relative[0], self.blocks, frames, self.handedness)
            if len(wrong) == 0:
                return
            for ready in order:
                part = ready[torch.isin(ready, wrong)]
                if len(part):
                    self._relax(frames, relative, part, keys, (*names, attempt))
        restore(relative[0], self.blocks, frames, self.handedness)

    def _relax(
        self,
        frames: BeadFrames,
        relative: Tensor,
        bead: Int64[Tensor, "B"],
        keys: Float[Tensor, "nb"],
        names: tuple[int, int, int],
    ) -> None:
        """Relax all atoms of blocks that do not see each other."""
        zero, radius = torch.zeros_like(bead), self.voxel.radius
        env = gather_environment(
            self.blocks, frames, relative, zero, bead, WHOLE, keys, radius=radius
        )
        placed = relax(
            self.terms,
            batch_terms(self.terms, self.blocks, frames, relative, env),
            env,
            env.own,
            temperature=self.options.temperature or self.spec.temperature,
            steps=self.options.block_relaxation,
            name=hash_counters(self.options.seed, *names, _RELAX, bead),
        )
        valid = env.target_valid
        relative[0, env.targets[valid]] = (placed @ frames.rotation[0, bead])[valid]

    def _choose(
        self, frames: BeadFrames, relative: Tensor, many: Environment, placed: Tensor, name: Tensor
    ) -> Float[Tensor, "B T 3"]:
        """One candidate of each bead, by energy (II D 3)."""
        batch = batch_terms(self.terms, self.blocks, frames, relative, many)
        energies = block_energies(self.terms, batch, many, placed)
        copies = self.options.candidates
        total = torch.stack(list(energies.values())).sum(0).reshape(-1, copies)
        if self.options.choice == "lowest":
            best = total.argmin(1)
        else:
            candidate = torch.arange(copies, device=self.device).repeat(len(total))
            u = uniform(hash_counters(name, _CHOICE, candidate), 1).reshape(-1, copies)
            # Gumbel's trick: the largest of log-weight + noise is a draw by weight.
            best = (-self._beta() * total - torch.log(-torch.log(u))).argmax(1)
        return placed.unflatten(0, (-1, copies))[torch.arange(len(best)), best]

    def _beta(self) -> float:
        trained = self.spec.temperature
        wanted = self.options.temperature or trained
        beta = 1.0 / (BOLTZMANN * wanted)
        return beta - 1.0 / (BOLTZMANN * trained) if self.options.choice == "reweight" else beta

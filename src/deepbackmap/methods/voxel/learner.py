"""The voxel networks, their optimisers and the two steps that move them (Eqs. 9 to 15)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deepbackmap.data.systems import TrainingSystem, only
from deepbackmap.methods.adversarial import Frozen, critic_loss, gradient_penalty
from deepbackmap.methods.learning import apply_gradients, follow, rate_share, seeded
from deepbackmap.methods.options import Metrics
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.batches import Batch, VoxelFrames
from deepbackmap.methods.voxel.environment import Environment
from deepbackmap.methods.voxel.fresh import fresh_critic, fresh_generator, start_gaussian
from deepbackmap.methods.voxel.grid import VoxelCondition, gaussian_basis
from deepbackmap.methods.voxel.losses import (
    critic_inputs,
    density_loss,
    energy_score,
    flat_slots,
    physical_prior,
)
from deepbackmap.methods.voxel.options import VoxelModelOptions, VoxelTrainingOptions
from deepbackmap.methods.voxel.unroll import place_sequence


def _bucket(batch: Batch) -> dict[str, Tensor]:
    """Which sequences a batch is of, for the log: their length, and the stage as zeros and ones."""
    stage = batch.env.stage
    return {
        "sequence_length": torch.tensor(float(batch.env.targets.shape[1])),
        "sequence_light": torch.tensor(float(stage.light)),
        "sequence_first_pass": torch.tensor(float(stage.first)),
    }


class VoxelLearner:
    """Networks, optimisers and the two steps that move them."""

    def __init__(self, fabric: Fabric, spec: ModelSpec, options: VoxelTrainingOptions) -> None:
        assert isinstance(spec.options, VoxelModelOptions)
        self.fabric, self.spec, self.options = fabric, spec, options
        self.voxel, self.network = spec.options.voxel, spec.options.network
        self.iteration = 0
        torch.manual_seed(options.seed)
        generator = fresh_generator(spec)
        if options.gaussian_bias:
            start_gaussian(generator, self.voxel)
        critic = fresh_critic(spec)
        # Convolutions on a channels-last grid are up to twice as fast on CPUs and on tensor cores.
        layout = torch.channels_last_3d
        self.generator = generator.to(fabric.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.critic = critic.to(fabric.device).to(memory_format=layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        betas = (options.beta1, options.beta2)
        self.generator_optimiser = torch.optim.Adam(
            self.generator.parameters(), lr=options.learning_rate, betas=betas
        )
        self.critic_optimiser = torch.optim.Adam(
            self.critic.parameters(), lr=options.critic_learning_rate, betas=betas
        )
        self._generate: Callable[..., Tensor] = self.generator
        self._judge: Callable[..., Tensor] = self.critic
        if options.compile:
            self._generate = torch.compile(self.generator)
            # Double backward (the penalty) is not supported through a compiled critic.

    # -- checkpoints -------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """Everything that resuming needs."""
        return {
            "iteration": self.iteration,
            "generator": self.generator.state_dict(),
            "critic": self.critic.state_dict(),
            "average": self.average.state_dict(),
            "generator_optimiser": self.generator_optimiser.state_dict(),
            "critic_optimiser": self.critic_optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.iteration = state["iteration"]
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])
        self.average.load_state_dict(state["average"])
        self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])

    def begin(self, generator: nn.Module) -> None:
        """Begin with the weights of another model's generator; the critic stays fresh."""
        for mine in (self.generator, self.average):
            mine.load_state_dict(generator.state_dict())

    @property
    def result(self) -> nn.Module:
        """The generator to save: its moving average where one is kept."""
        return self.average if self.options.average > 0 else self.generator

    # -- pieces of a step --------------------------------------------------------------------

    def _noise(self, batch: Batch, random: torch.Generator, copies: int = 1) -> Tensor:
        b, t = batch.env.targets.shape
        shape = (b * copies, t, self.network.noise)
        return torch.randn(shape, generator=random).to(self.fabric.device)

    def _condition(self, env: Environment) -> VoxelCondition:
        types, beads = len(self.spec.atom_types), len(self.spec.bead_types)
        return VoxelCondition(env, types, beads, self.voxel)

    def _place(
        self,
        generator: Callable[..., Tensor],
        env: Environment,
        condition: VoxelCondition,
        noise: Tensor,
    ) -> tuple[list[Tensor], Tensor]:
        with self.fabric.autocast():
            return place_sequence(
                generator,  # type: ignore[arg-type]
                condition,
                env,
                noise,
                len(self.spec.atom_types),
                self.voxel,
            )

    def _critic_samples(
        self, env: Environment, densities: list[Tensor], condition: VoxelCondition
    ) -> Tensor:
        types = nn.functional.one_hot(env.target_type, len(self.spec.atom_types)).float()
        conditions = [condition.at(s, densities[:s]) for s in range(len(densities))]
        return critic_inputs(conditions, densities, types)

    def _real_densities(self, batch: Batch) -> list[Tensor]:
        turned = batch.truth @ batch.turn.transpose(1, 2)
        return list(gaussian_basis(turned, self.voxel).unbind(1))

    # -- the two steps -----------------------------------------------------------------------

    def critic_step(
        self, batch: Batch, random: torch.Generator, *, penalty_weight: float
    ) -> dict[str, Tensor]:
        """One update of the critic (Eqs. 9, 10).

        Args:
            batch: to judge.
            random: for noise and for the mixing.
            penalty_weight: of the gradient penalty; 0: it is not computed.
        """
        used = flat_slots(batch.env.target_valid)
        condition = self._condition(batch.env)
        with torch.no_grad():
            fake_densities, _ = self._place(
                self._generate, batch.env, condition, self._noise(batch, random)
            )
            fake = self._critic_samples(batch.env, fake_densities, condition)
            real = self._critic_samples(batch.env, self._real_densities(batch), condition)
        with self.fabric.autocast():
            scores = self._judge(torch.cat([real, fake]))
        on_real, on_fake = scores.chunk(2)
        loss = critic_loss(on_real, on_fake, used, self.options.drift)
        parts = {"critic": loss.detach()}
        if penalty_weight > 0:
            mix = torch.rand(len(real), generator=random).to(real.device)
            with self.fabric.autocast():
                penalty, slope = gradient_penalty(self._judge, real, fake, used, mix)
            loss = loss + penalty_weight * penalty
            parts |= {"penalty": penalty.detach(), "critic_slope": slope}
        norm = apply_gradients(self.fabric, loss, self.critic, self.critic_optimiser, 0.0)
        bucket = {f"critic_{k}": v for k, v in _bucket(batch).items()}
        return parts | {"critic_gradient": norm} | bucket

    def _critic_steps(self, random: torch.Generator) -> dict[str, Tensor]:
        """The critic's updates of one iteration; every ``penalty_every``-th has the penalty, with
        as many times its weight. Which ones hangs on the iteration alone, so that a resumed run
        goes on as one that was not interrupted.

        Returns:
            What the last update with a penalty found, else the last: all of one batch.
        """
        o = self.options
        parts: dict[str, Tensor] = {}
        for k in range(o.critic_steps):
            due = (self.iteration * o.critic_steps + k + 1) % o.penalty_every == 0
            weight = o.penalty * o.penalty_every if due else 0.0
            found = self.critic_step(self._draw(random), random, penalty_weight=weight)
            parts = found if due or "penalty" not in parts else parts
        return parts

    def generator_step(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """One update of the generator (II D, up to Eq. 15)."""
        o, i = self.options, self.iteration
        adversarial, prior, score = o.adversarial.at(i), o.prior.at(i), o.score.at(i)
        copies = 2 if score > 0 else 1
        env = batch.env.repeated(copies) if copies > 1 else batch.env
        condition = self._condition(env)
        densities, turned = self._place(
            self._generate, env, condition, self._noise(batch, random, copies)
        )
        placed = turned @ batch.turn.repeat_interleave(copies, dim=0)
        loss = torch.zeros((), device=placed.device)
        parts: dict[str, Tensor] = {}
        if adversarial > 0:
            with Frozen(self.critic), self.fabric.autocast():
                samples = self._critic_samples(env, densities, condition)
                judged = self._judge(samples)
            used = flat_slots(env.target_valid)
            parts["adversarial"] = -torch.where(used, judged, 0.0).sum() / used.sum()
            loss = loss + adversarial * parts["adversarial"]
        first = placed[::copies]
        if prior > 0:
            phi = self._prior(batch, first)
            parts |= {f"prior_{k}": v for k, v in phi.items()}
            loss = loss + prior * torch.stack(list(phi.values())).sum()
        if score > 0:
            valid = batch.env.target_valid
            weight = torch.ones_like(batch.truth[..., 0])
            scores = energy_score(first, placed[1::2], batch.truth, valid, batch.terms, weight)
            parts |= scores
            loss = loss + score * torch.stack(list(scores.values())).sum()
        shape = o.density.at(i)
        if shape > 0:
            parts["density"] = density_loss(densities, self._real_densities(batch), copies)
            loss = loss + shape * parts["density"]
        norm = apply_gradients(self.fabric, loss, self.generator, self.generator_optimiser, o.clip)
        follow(self.average, self.generator, o.average, self.iteration)
        return {k: v.detach() for k, v in parts.items()} | {"gradient": norm} | _bucket(batch)

    def _prior(self, batch: Batch, placed: Tensor) -> dict[str, Tensor]:
        masses = (
            self.data.masses[self.data.blocks.atom_kind[batch.env.targets.clamp_min(0)]]
            * batch.env.target_valid
        )
        return physical_prior(
            self.data.terms, batch.terms, batch.clean, placed, batch.truth, masses
        )

    def _set_rates(self) -> None:
        o = self.options
        share = rate_share(o, self.iteration)
        listens = o.adversarial.at(self.iteration) > 0
        for optimiser, rate in (
            (self.generator_optimiser, o.learning_rate * (o.adversarial_rate if listens else 1.0)),
            (self.critic_optimiser, o.critic_learning_rate),
        ):
            for group in optimiser.param_groups:
                group["lr"] = rate * share

    def _draw(self, random: torch.Generator) -> Batch:
        o = self.options
        return self.data.draw(o.batch, random, augment=o.augment, jitter=o.jitter)

    def use(self, training: Sequence[TrainingSystem], held_out: Sequence[TrainingSystem]) -> None:
        """The frames to train on and to validate on.

        Raises:
            InputError: several systems, or a box that is too small.
        """
        self.attach(
            self._on_device(only(training)),
            self._on_device(only(held_out)) if held_out else None,
        )

    def attach(self, data: VoxelFrames, held_out: VoxelFrames | None) -> None:
        """As ``use``, with frames that are on the device."""
        self.data, self.held_out = data, held_out

    def _on_device(self, system: TrainingSystem) -> VoxelFrames:
        return VoxelFrames(self.spec, system, self.fabric.device, canonical=self.options.canonical)

    def running(self) -> AbstractContextManager[None]:
        """Nothing special."""
        return nullcontext()

    def step(self) -> dict[str, Tensor]:
        """One iteration: the critic's updates, then the generator's (or the former alone)."""
        o = self.options
        random = seeded(o.seed, self.iteration, self.fabric.global_rank)
        self._set_rates()
        parts: dict[str, Tensor] = {}
        alone = o.critic_alone_from <= self.iteration < o.critic_alone_until
        if alone or o.adversarial.at(self.iteration) > 0:
            parts |= self._critic_steps(random)
        if not alone:
            parts |= self.generator_step(self._draw(random), random)
        self.iteration += 1
        return parts

    @torch.no_grad()
    def validate(self, batches: int = 12) -> Metrics:
        """Scores and energy differences on held-out frames, always with the same numbers."""
        data = self.held_out
        if data is None:
            return {}
        sums: dict[str, list[float]] = {}
        generator = self.result
        for k in range(batches):
            random = seeded(self.options.seed, k, 7919)
            batch = data.draw(64, random, augment=self.options.augment, jitter=0.0)
            env = batch.env.repeated(2)
            _, turned = self._place(
                generator, env, self._condition(env), self._noise(batch, random, 2)
            )
            placed = turned @ batch.turn.repeat_interleave(2, dim=0)
            weight = torch.ones_like(batch.truth[..., 0])
            parts = energy_score(
                placed[::2], placed[1::2], batch.truth, batch.env.target_valid, batch.terms, weight
            )
            phi = self._prior(batch, placed[::2])
            offset = (placed[::2] - batch.truth).norm(dim=-1)
            values = parts | {f"prior_{k}": v for k, v in phi.items()}
            weight_class = "light" if env.stage.light else "heavy"
            turn = "first" if env.stage.first else "gibbs"
            values[f"distance_{weight_class}_{turn}"] = offset[batch.env.target_valid].mean()
            for name, value in values.items():
                sums.setdefault(name, []).append(float(value))
        found = {f"validation_{k}": sum(v) / len(v) for k, v in sums.items()}
        return found | {"validation_main": found["validation_score_internal"]}

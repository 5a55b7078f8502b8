"""The training loop: critic steps, generator steps, logs, checkpoints, exact resume.

All random numbers of iteration i on worker r are drawn from a generator seeded by
(seed, i, r): a run that was interrupted goes on with the same numbers as one that was not, and a
checkpoint needs no random state.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.model import ModelSpec, new_generator
from deepbackmap.model.generate import place_sequence
from deepbackmap.networks import build_critic
from deepbackmap.representation.voxel import VoxelCondition, gaussian_basis
from deepbackmap.training.dataset import Batch, Frames
from deepbackmap.training.losses import (
    Frozen,
    critic_inputs,
    critic_loss,
    density_loss,
    energy_score,
    flat_slots,
    gradient_penalty,
    physical_prior,
)
from deepbackmap.training.options import TrainingOptions

Metrics = dict[str, float]


def seeded(seed: int, iteration: int, *rest: int) -> torch.Generator:
    """A CPU random generator named by integers."""
    value = int(hash_counters(seed, iteration, *rest)) & ((1 << 63) - 1)
    return torch.Generator().manual_seed(value)


def apply_gradients(
    fabric: Fabric, loss: Tensor, module: nn.Module, optimiser: torch.optim.Optimizer, clip: float
) -> Tensor:
    """Backward, average the gradient over workers, step; returns the gradient's norm.

    Gradients are averaged here rather than by a wrapped module because the penalty
    differentiates twice and the unrolling calls the generator many times.
    """
    optimiser.zero_grad(set_to_none=True)
    fabric.backward(loss)
    parameters = [p for p in module.parameters() if p.grad is not None]
    if fabric.world_size > 1:
        flat = torch.cat([p.grad.reshape(-1) for p in parameters])  # type: ignore[union-attr]
        reduced = fabric.all_reduce(flat, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        for p, g in zip(parameters, reduced.split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p)
    norm = nn.utils.clip_grad_norm_(parameters, clip if clip > 0 else math.inf)
    optimiser.step()
    return norm


def rate_share(options: TrainingOptions, iteration: int) -> float:
    """Part of the learning rate that an iteration takes: a rise, then half a cosine."""
    share = min(1.0, (iteration + 1) / options.warmup) if options.warmup else 1.0
    if options.decay:
        cosine = 0.5 * (1 + math.cos(math.pi * min(iteration / options.iterations, 1.0)))
        share *= 0.01 + 0.99 * cosine
    return share


def follow(average: nn.Module, latest: nn.Module, decay: float, iteration: int) -> None:
    """Move the averaged weights towards the latest ones, faster at first; 0: no average."""
    if decay <= 0:
        return
    decay = min(decay, (1 + iteration) / (10 + iteration))
    with torch.no_grad():
        for mean, new in zip(average.parameters(), latest.parameters(), strict=True):
            mean.lerp_(new, 1 - decay)


@runtime_checkable
class Learner(Protocol):
    """What ``run`` trains: the voxel networks or the point generator."""

    fabric: Fabric
    options: TrainingOptions
    iteration: int

    def step(self) -> dict[str, Tensor]:
        """One iteration."""
        ...

    def validate(self, data: Any) -> Metrics:
        """Figures on held-out frames; ``validation_main`` is the one to watch."""
        ...

    def use(self, data: Any) -> None:
        """The frames to train on."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        ...

    @property
    def result(self) -> nn.Module:
        """The generator to save."""
        ...


class Trainer:
    """Networks, optimisers and the two steps that move them."""

    def __init__(self, fabric: Fabric, spec: ModelSpec, options: TrainingOptions) -> None:
        self.fabric, self.spec, self.options = fabric, spec, options
        self.iteration = 0
        torch.manual_seed(options.seed)
        types = len(spec.atom_types)
        generator = new_generator(spec)
        critic = build_critic(spec.channels + types, spec.network)
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

    def state(self) -> dict[str, Any]:
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

    @property
    def result(self) -> nn.Module:
        """The generator to save: its moving average where one is kept."""
        return self.average if self.options.average > 0 else self.generator

    # -- pieces of a step --------------------------------------------------------------------

    def _noise(self, batch: Batch, random: torch.Generator, copies: int = 1) -> Tensor:
        b, t = batch.env.targets.shape
        shape = (b * copies, t, self.spec.network.noise)
        return torch.randn(shape, generator=random).to(self.fabric.device)

    def _condition(self, env: Any) -> VoxelCondition:
        spec = self.spec
        return VoxelCondition(env, len(spec.atom_types), len(spec.bead_types), spec.voxel)

    def _place(
        self, generator: Callable[..., Tensor], env: Any, condition: VoxelCondition, noise: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        with self.fabric.autocast():
            return place_sequence(
                generator,  # type: ignore[arg-type]
                condition,
                env,
                noise,
                len(self.spec.atom_types),
                self.spec.voxel,
            )

    def _critic_samples(
        self, env: Any, densities: list[Tensor], condition: VoxelCondition
    ) -> Tensor:
        types = nn.functional.one_hot(env.target_type, len(self.spec.atom_types)).float()
        conditions = [condition.at(s, densities[:s]) for s in range(len(densities))]
        return critic_inputs(conditions, densities, types)

    def _real_densities(self, batch: Batch) -> list[Tensor]:
        turned = batch.truth @ batch.turn.transpose(1, 2)
        return list(gaussian_basis(turned, self.spec.voxel).unbind(1))

    # -- the two steps -----------------------------------------------------------------------

    def critic_step(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """One update of the critic (Eqs. 9, 10)."""
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
            mix = torch.rand(len(real), generator=random).to(real.device)
            penalty = gradient_penalty(self._judge, real, fake, used, mix)
        on_real, on_fake = scores.chunk(2)
        wasserstein = critic_loss(on_real, on_fake, used, self.options.drift)
        loss = wasserstein + self.options.penalty * penalty
        apply_gradients(self.fabric, loss, self.critic, self.critic_optimiser, 0.0)
        return {"critic": wasserstein.detach(), "penalty": penalty.detach()}

    def generator_step(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """One update of the generator (Eqs. 11 to 15)."""
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
            phi = physical_prior(*self._prior_arguments(batch, first))
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
        return {k: v.detach() for k, v in parts.items()} | {"gradient": norm}

    def _prior_arguments(self, batch: Batch, placed: Tensor) -> tuple[Any, ...]:
        masses = (
            self.data.masses[self.data.blocks.atom_kind[batch.env.targets.clamp_min(0)]]
            * batch.env.target_valid
        )
        return (self.data.terms, batch.terms, batch.clean, placed, batch.truth, masses)

    def _set_rates(self) -> None:
        o = self.options
        share = rate_share(o, self.iteration)
        for optimiser, rate in (
            (self.generator_optimiser, o.learning_rate),
            (self.critic_optimiser, o.critic_learning_rate),
        ):
            for group in optimiser.param_groups:
                group["lr"] = rate * share

    def _draw(self, random: torch.Generator) -> Batch:
        o = self.options
        return self.data.draw(o.batch, random, augment=o.augment, jitter=o.jitter)

    def use(self, data: Frames) -> None:
        """The frames to train on."""
        self.data = data

    def step(self) -> dict[str, Tensor]:
        """One iteration: the critic's updates, then the generator's."""
        o = self.options
        random = seeded(o.seed, self.iteration, self.fabric.global_rank)
        self._set_rates()
        parts: dict[str, Tensor] = {}
        if o.adversarial.at(self.iteration) > 0:
            for _ in range(o.critic_steps):
                parts |= self.critic_step(self._draw(random), random)
        parts |= self.generator_step(self._draw(random), random)
        self.iteration += 1
        return parts

    @torch.no_grad()
    def validate(self, data: Frames, batches: int = 12) -> Metrics:
        """Scores and energy differences on held-out frames, always with the same numbers."""
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
            phi = physical_prior(*self._prior_arguments(batch, placed[::2]))
            offset = (placed[::2] - batch.truth).norm(dim=-1)
            values = parts | {f"prior_{k}": v for k, v in phi.items()}
            weight_class = "light" if env.stage.light else "heavy"
            turn = "first" if env.stage.first else "gibbs"
            values[f"distance_{weight_class}_{turn}"] = offset[batch.env.target_valid].mean()
            for name, value in values.items():
                sums.setdefault(name, []).append(float(value))
        found = {f"validation_{k}": sum(v) / len(v) for k, v in sums.items()}
        return found | {"validation_main": found["validation_score_internal"]}


class Log:
    """Metrics as JSON lines and for TensorBoard; a resumed run drops what it will repeat."""

    def __init__(self, folder: Path, iteration: int) -> None:
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [s for s in lines if json.loads(s)["iteration"] <= iteration]
            aside = self.path.with_suffix(".tmp")
            aside.write_text("".join(f"{s}\n" for s in kept))
            aside.replace(self.path)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=iteration)

    def write(self, iteration: int, values: Metrics) -> None:
        """One line of metrics."""
        with self.path.open("a") as out:
            out.write(json.dumps({"iteration": iteration, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._board.close()


def save_checkpoint(trainer: Learner, path: Path) -> None:
    """Write the state aside, then rename: a checkpoint is whole or the one before."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(trainer.state(), aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _stop_on_signal() -> Iterator[list[bool]]:
    """Turns the first Ctrl-C or SIGTERM into a wish to stop after this iteration."""
    wish: list[bool] = []

    def ask(signum: int, frame: Any) -> None:
        if wish:
            raise KeyboardInterrupt
        wish.append(True)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def run(
    trainer: Learner,
    data: Any,
    validation: Any,
    folder: Path,
    *,
    on_checkpoint: Callable[[Learner, Metrics], None],
    progress: bool = True,
    stop_after: float | None = None,
) -> bool:
    """Train until the last iteration, or until interrupted; always leaves a checkpoint.

    Args:
        on_checkpoint: called on the first worker with the latest metrics after each checkpoint.
        stop_after: seconds after which to stop as if interrupted.

    Returns:
        Whether the last iteration was reached.
    """
    options, fabric = trainer.options, trainer.fabric
    trainer.use(data)
    main = fabric.is_global_zero
    log = Log(folder, trainer.iteration) if main else None
    latest: Metrics = {}
    started, since = time.perf_counter(), time.perf_counter()
    bar = tqdm(
        total=options.iterations,
        initial=trainer.iteration,
        disable=not (progress and main),
        unit="it",
        desc="training",
    )

    def checkpoint() -> None:
        if main:
            save_checkpoint(trainer, folder / "checkpoint.pt")
            on_checkpoint(trainer, latest)
        fabric.barrier()

    with _stop_on_signal() as wish:
        try:
            while trainer.iteration < options.iterations:
                parts = trainer.step()
                i = trainer.iteration
                bar.update()
                if log and i % options.log_every == 0:
                    now = time.perf_counter()
                    values = {k: float(v) for k, v in parts.items()}
                    values["seconds_per_iteration"] = (now - since) / options.log_every
                    since = now
                    log.write(i, values)
                    latest.update(values)
                if validation is not None and log and i % options.validate_every == 0:
                    found = trainer.validate(validation)
                    log.write(i, found)
                    latest.update(found)
                    bar.set_postfix(validation=f"{found['validation_main']:.4f}")
                late = stop_after is not None and time.perf_counter() - started > stop_after
                # Every worker must leave the loop at the same iteration.
                stop = bool(
                    fabric.all_reduce(torch.tensor(float(bool(wish) or late)), reduce_op="sum")
                    if fabric.world_size > 1
                    else bool(wish) or late
                )
                if stop or i % options.checkpoint_every == 0 or i == options.iterations:
                    checkpoint()
                if stop:
                    return trainer.iteration >= options.iterations
        finally:
            bar.close()
            if log:
                log.close()
    return True

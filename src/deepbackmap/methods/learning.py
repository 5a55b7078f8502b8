"""What every learner needs: named random numbers, gradients over workers, rates, averages."""

from __future__ import annotations

import math

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.methods.options import TrainingOptions


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

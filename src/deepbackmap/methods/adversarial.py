"""A critic's losses, for whatever it judges (Eqs. 9 and 10)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


def masked_mean(values: Tensor, used: Tensor) -> Tensor:
    """Mean over the entries that are used (0 where none is)."""
    return torch.where(used, values, 0.0).sum() / used.sum().clamp_min(1)


def critic_loss(
    real: Float[Tensor, "n"], fake: Float[Tensor, "n"], used: Tensor, drift: float
) -> Tensor:
    """Wasserstein loss of the critic (Eq. 9): high for real, low for generated samples."""
    distance = masked_mean(fake, used) - masked_mean(real, used)
    return distance + drift * masked_mean(real.square(), used)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "n *d"],
    fake: Float[Tensor, "n *d"],
    used: Tensor,
    mix: Float[Tensor, "n"],
) -> tuple[Tensor, Tensor]:
    """Gradient penalty between real and generated samples, conditions included (Eq. 10).

    Returns:
        Mean of (|grad C| - 1)^2, and the mean of |grad C| to watch.
    """
    t = mix.view(-1, *[1] * (real.dim() - 1))
    between = (t * real + (1 - t) * fake).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    length = (gradient.float().square().flatten(1).sum(1) + 1e-12).sqrt()
    return masked_mean((length - 1).square(), used), masked_mean(length, used).detach()


class Frozen:
    """Parameters that a loss flows through but does not move, for the length of a block."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._module.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        self._module.requires_grad_(True)

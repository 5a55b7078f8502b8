"""Losses of the point generator: of expected ends, and of draws."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepbackmap.methods.points.generator import (
    BlockFlow,
)
from deepbackmap.methods.points.networks import NARROWEST, SPREADS, WIDEST
from deepbackmap.methods.points.samples import Samples

FIRST_STAGE = 0.1
"""Weight of the first stage's own error in the loss."""

MEASURED = 40
"""Samples after which a measured spread counts fully in its moving average."""


def path_loss(flow: BlockFlow, sample: Samples) -> tuple[dict[str, Tensor], Tensor]:
    """Errors of the expected ends in units of what is to be expected, and the squared deviation
    of the first stage."""
    end, mean, size = flow.network(
        sample.noisy, sample.angle, sample.heat, sample.fixed, sample.seen, sample.width
    )
    unit = _unit(flow, sample)
    deviation = (mean - sample.end).square()
    real = sample.real
    total = real.sum().clamp_min(1.0)
    off = (end - sample.end) * real
    return {
        "end": (off / size.clamp_min(1e-3)).square().sum() / total,
        "mean": (deviation * real / unit.square()).sum() / total,
        "distance": off.square().sum() / total,
    }, deviation


def _unit(flow: BlockFlow, sample: Samples) -> Float[Tensor, "b d"]:
    """How far the first stage's answer is expected to be off."""
    net, heat, width = flow.network, sample.heat, sample.width
    return net.expected_spread(sample.angle, heat, width) * net.size(heat, width)


def draw_loss(flow: BlockFlow, sample: Samples) -> tuple[dict[str, Tensor], Tensor]:
    """Energy score of two draws in one step, in units of what is to be expected, and the squared
    deviation of the first stage.

    Its expectation is least where draws are distributed as the data (Gneiting, Raftery, J. Am.
    Stat. Assoc. 102, 359, 2007).
    """
    size = _unit(flow, sample)

    def drawn(noise: Tensor) -> tuple[Tensor, Tensor]:
        end, mean, _ = flow.network(
            noise, sample.angle, sample.heat, sample.fixed, sample.seen, sample.width
        )
        return end, mean

    def apart(one: Tensor, other: Tensor) -> Tensor:
        return (((one - other) / size * sample.real).square().sum(-1) + 1e-6).sqrt().mean()

    # two noises that do not know of each other: the sample's own, and it shuffled among blocks
    (one, mean), (two, _) = drawn(sample.noisy), drawn(sample.noisy.roll(1, 0) * sample.real)
    score = 0.5 * (apart(one, sample.end) + apart(two, sample.end)) - 0.5 * apart(one, two)
    return of_a_draw(flow, sample, score, one, mean)


def of_a_draw(
    flow: BlockFlow, sample: Samples, loss: Tensor, draw: Tensor, mean: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """A draw's loss with the errors of the first stage, and the squared deviation of that."""
    size = _unit(flow, sample)
    deviation, total = (mean - sample.end).square(), sample.real.sum().clamp_min(1.0)
    return {
        "end": loss,
        "mean": (deviation * sample.real / size.square()).sum() / total,
        "distance": ((draw - sample.end) * sample.real).square().sum() / total,
    }, deviation


def measure_spread(flow: BlockFlow, sample: Samples, deviation: Float[Tensor, "b d"]) -> None:
    """Moving average of the first stage's deviation by time and direction.

    What exact beads leave is measured on these; what beads that are off add, on the others, by
    the part that comes from them.
    """
    net = flow.network
    scaled = deviation / net.size(sample.heat, sample.width).square()
    exact = sample.real * (sample.width == 0)[:, None]
    if not net.options.uncertain:
        _follow(net.spread, sample.angle, scaled, sample.real)
        return
    _follow(net.spread, sample.angle, scaled, exact)
    part = net.loosened(sample.heat, sample.width)
    tight = net.expected_spread(sample.angle).square()
    _follow(net.loose, sample.angle, scaled - (1 - part) * tight, part * (sample.real - exact))


def _follow(
    table: Float[Tensor, "t d"], angle: Float[Tensor, "b"], squares: Float[Tensor, "b d"],
    weight: Float[Tensor, "b d"],
) -> None:  # fmt: skip
    """Moves a table, in place, towards the mean of squares that count by their weight at most."""
    place = (angle * (2.0 / math.pi) * (SPREADS - 1)).round().to(torch.int64)
    member = nn.functional.one_hot(place, SPREADS).to(squares.dtype)
    # Variants that lack a direction say nothing about it.
    count = member.T @ weight
    new = (member.T @ (squares * (weight > 0))) / count.clamp_min(1e-6)
    rate = 0.02 * (count / MEASURED).clamp_max(1.0)
    moved = (table.square() * (1 - rate) + rate * new).clamp_min(0.0)
    table.copy_(moved.sqrt().clamp(NARROWEST, WIDEST))

"""Losses: critic, generator, physical prior (Eqs. 9 to 15) and the energy score."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepbackmap.representation.block_terms import (
    BatchTerms,
    BlockTerms,
    block_energies,
    internal_coordinates,
)
from deepbackmap.representation.environment import Environment


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
) -> Tensor:
    """Mean of (|grad C| - 1)^2 between real and generated samples, conditions included (Eq. 10)."""
    t = mix.view(-1, *[1] * (real.dim() - 1))
    between = (t * real + (1 - t) * fake).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    length = (gradient.float().square().flatten(1).sum(1) + 1e-12).sqrt()
    return masked_mean((length - 1).square(), used)


def centre_of_mass(
    positions: Float[Tensor, "B T 3"], masses: Float[Tensor, "B T"]
) -> Float[Tensor, "B 3"]:
    """Centre of mass of the atoms of each sequence; empty slots have mass zero."""
    weights = masses / masses.sum(1, keepdim=True).clamp_min(1e-12)
    return (positions * weights[..., None]).sum(1)


def physical_prior(
    terms: BlockTerms,
    batch: BatchTerms,
    env: Environment,
    placed: Float[Tensor, "B T 3"],
    truth: Float[Tensor, "B T 3"],
    masses: Float[Tensor, "B T"],
) -> dict[str, Tensor]:
    """Phi by part (Eqs. 13, 14): mean |E_ref - E_gen| by group of terms in kJ/mol, and the
    distance of the centres of mass in nm."""
    reference = block_energies(terms, batch, env, truth)
    energies = block_energies(terms, batch, env, placed)
    parts = {k: (reference[k] - energies[k]).abs().mean() for k in energies}
    shift = centre_of_mass(placed, masses) - centre_of_mass(truth, masses)
    parts["com"] = (shift.square().sum(-1) + 1e-12).sqrt().mean()
    return parts


def _length(x: Tensor) -> Tensor:
    return (x.square().sum(-1) + 1e-10).sqrt()


def energy_score(
    first: Float[Tensor, "B T 3"],
    second: Float[Tensor, "B T 3"],
    truth: Float[Tensor, "B T 3"],
    used: Tensor,
    batch: BatchTerms,
    atom_weight: Float[Tensor, "B T"],
) -> dict[str, Tensor]:
    """Energy scores of two independent draws (Gneiting, Raftery 2007, Eq. 21).

    (|x - y| + |x' - y|)/2 - |x - x'|/2 is a strictly proper score: its mean is smallest when the
    draws come from the distribution of y. Taken on the positions of each atom (units of 0.1 nm),
    and on every bond length, angle and dihedral that the sequence closes.
    """
    scale = 10.0

    def score(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (_length(a - y) + _length(b - y) - _length(a - b))

    atoms = score(scale * first, scale * second, scale * truth)
    parts = {"score_position": masked_mean(atoms * atom_weight, used)}
    values = [internal_coordinates(batch, x) for x in (first, second, truth)]
    total, count = torch.zeros_like(atoms[0, 0]), 0
    for (a, mask), (b, _), (y, _) in zip(*values, strict=True):
        s = score(a[..., None], b[..., None], y[..., None])
        total = total + torch.where(mask, s, 0.0).sum()
        count += int(mask.sum())
    parts["score_internal"] = total / max(count, 1)
    return parts


def density_loss(
    generated: list[Float[Tensor, "n v3"]], real: list[Float[Tensor, "B v3"]], copies: int
) -> Tensor:
    """Squared difference of densities summed over the grid, mean over atoms and draws."""
    pairs = zip(generated, real, strict=True)
    parts = [(g - r.repeat_interleave(copies, 0)).square().sum(1).mean() for g, r in pairs]
    return torch.stack(parts).mean()


def critic_inputs(
    conditions: list[Float[Tensor, "B C v v v"]],
    densities: list[Float[Tensor, "B v3"]],
    types: Float[Tensor, "B T A"],
) -> Float[Tensor, "n c v v v"]:
    """Condition and candidate, its density in the channel of its type, of all slots (T B)."""
    rows = []
    for slot, (condition, density) in enumerate(zip(conditions, densities, strict=True)):
        candidate = types[:, slot, :, None] * density[:, None]
        rows.append(torch.cat([condition, candidate.unflatten(-1, condition.shape[2:])], dim=1))
    return torch.cat(rows)


def flat_slots(used: Tensor) -> Tensor:
    """(B, T) mask in the order of ``critic_inputs``."""
    return used.transpose(0, 1).reshape(-1)


class Frozen:
    """Parameters that a loss flows through but does not move, for the length of a block."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._module.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        self._module.requires_grad_(True)

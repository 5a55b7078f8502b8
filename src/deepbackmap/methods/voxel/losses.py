"""Losses: critic, generator, physical prior (Eqs. 9 to 15) and the energy score."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deepbackmap.methods.adversarial import masked_mean
from deepbackmap.methods.voxel.block_terms import (
    BatchTerms,
    BlockTerms,
    block_energies,
    internal_coordinates,
)
from deepbackmap.methods.voxel.environment import Environment


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
    """Phi by part (II D, the terms of Eq. 15): mean |E_ref - E_gen| by group of terms in kJ/mol,
    and the distance of the centres of mass in nm."""
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

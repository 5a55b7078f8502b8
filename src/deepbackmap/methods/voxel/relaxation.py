"""Thermal relaxation of a placed block: what is stiff, at the temperature asked for.

The authors' later code may follow the choice of a candidate by 20 steps of gradient descent, which
makes structures cold. Here the steps are those of overdamped Langevin dynamics at the target
temperature in the energy of the block, everything around it held. The few steps bring
the stiff degrees of freedom (bonds, angles, impropers, contacts) to equilibrium; the soft ones,
torsions and the packing, stay as the generator drew them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from deepbackmap.geometry.counter_random import hash_counters, normal
from deepbackmap.methods.voxel.block_terms import BatchTerms, BlockTerms, block_energies
from deepbackmap.methods.voxel.environment import Environment
from deepbackmap.quantities import BOLTZMANN

MOBILITY = 2.5e-6
"""Step times mobility, nm^2 mol/kJ. The stiffest modes (out-of-plane motion of aromatic rings) have
a curvature near 5e5 kJ/mol/nm^2; twice this step makes their energy half too large."""
BOND_FACTOR = 10.0
"""Bonds are usually constrained where they are simulated, and soft force constants only stand in
for that: they are held this much stiffer."""
LARGEST_MOVE = 0.01
"""No atom moves farther in one step by force, nm, however bad the contact."""


def _force(
    terms: BlockTerms, batch: BatchTerms, env: Environment, positions: Tensor
) -> Float[Tensor, "B T 3"]:
    with torch.enable_grad():
        x = positions.detach().requires_grad_(True)
        energies = block_energies(terms, batch, env, x)
        total = sum(e.sum() * (BOND_FACTOR if k == "bond" else 1.0) for k, e in energies.items())
        (gradient,) = torch.autograd.grad(total, x)  # type: ignore[arg-type]
    return -gradient


def relax(
    terms: BlockTerms,
    batch: BatchTerms,
    env: Environment,
    placed: Float[Tensor, "B T 3"],
    *,
    temperature: float,
    steps: int,
    name: Tensor,
) -> Float[Tensor, "B T 3"]:
    """Positions after ``steps`` of overdamped Langevin dynamics.

    The noise of two successive steps is averaged (Leimkuhler, Matthews, Appl. Math. Res. Express
    2013, 34): exact for harmonic modes at any stable step, where the usual scheme is too hot.

    Args:
        temperature: K.
        name: key of the random numbers of each sequence, (B,).
    """
    size = (2.0 * MOBILITY * BOLTZMANN * temperature) ** 0.5

    slot = torch.arange(placed.shape[1], device=placed.device)

    def noise(step: int) -> Tensor:
        # Named by slot: the empty slots of a batch must not change the numbers of the others.
        return normal(hash_counters(name[:, None], step, slot), 3)

    x, last = placed, noise(0)
    for step in range(1, steps + 1):
        move = MOBILITY * _force(terms, batch, env, x)
        length = move.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        move = move * (LARGEST_MOVE / length).clamp_max(1.0)
        new = noise(step)
        x = x + move + 0.5 * size * (last + new)
        last = new
    return torch.where(env.target_valid[..., None], x, placed)

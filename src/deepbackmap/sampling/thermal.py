"""A few steps of dynamics of a whole box with bonds and beads held exactly.

A generator is never as sharp as a force field: its angles are somewhat too hot, and a few contacts
too close. Langevin dynamics at the target temperature brings what is stiff to equilibrium within
tens of steps, without moving a bead or a bond. Each step costs one force evaluation, and these
are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.forcefield.forces import BoxForces
from deepbackmap.geometry.counter_random import hash_counters, normal
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.sampling.projection import Projector

LARGEST_MOVE = 0.003
"""nm: no force moves an atom farther in one step, however bad the contact."""


@dataclass(frozen=True)
class ThermalOptions:
    """How a box takes on a temperature."""

    temperature: float
    """K."""
    steps: int
    timestep: float = 0.001
    """ps."""
    friction: float = 50.0
    """1/ps."""


def thermalise(
    positions: Float[Tensor, "n 3"],
    beads: Float[Tensor, "nb 3"],
    box: Float[np.ndarray, "3 3"],
    forces: BoxForces,
    projector: Projector,
    masses: Float[Tensor, "n"],
    names: Int64[Tensor, "n"],
    options: ThermalOptions,
) -> Float[Tensor, "n 3"]:
    """Positions after some steps of constrained Langevin dynamics.

    Kick, friction and noise, drift, projection (as GROMACS' stochastic integrator; Goga et al.,
    J. Chem. Theory Comput. 8, 3637, 2012).

    Args:
        positions: nm, molecules whole, bonds and beads exact.
        beads: where they are held, nm, molecules whole.
        box: lattice vectors as rows, nm.
        forces: of the box.
        projector: keeps bonds and beads.
        masses: u.
        names: keys of the random numbers of each atom.
        options: temperature, number and kind of steps.
    """
    pairs = forces.list_pairs(positions.cpu().numpy(), box)
    step, mass = options.timestep, masses[:, None]
    keep = math.exp(-options.friction * step)
    size = (BOLTZMANN * options.temperature / mass).sqrt()

    def noise(k: int) -> Tensor:
        return size * normal(hash_counters(names, k), 3).to(size.dtype)

    x, v = positions, projector.tangent(positions, noise(0))
    for k in range(1, options.steps + 1):
        kick = step * forces(x.to(torch.float32), pairs).to(x.dtype) / mass
        length = step * kick.norm(dim=-1, keepdim=True)
        kick = kick * (LARGEST_MOVE / length.clamp_min(1e-12)).clamp_max(1.0)
        v = keep * (v + kick) + math.sqrt(1.0 - keep * keep) * noise(k)
        moved = projector.project(x + step * v, beads, at=x).positions
        v, x = (moved - x) / step, moved
    return x

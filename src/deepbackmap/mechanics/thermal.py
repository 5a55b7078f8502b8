"""A few steps of dynamics of a whole box with bonds and beads held exactly.

A generator is never as sharp as a force field: its angles are somewhat too hot, and a few contacts
too close. Langevin dynamics at the target temperature brings what is stiff to equilibrium within
tens of steps, without moving a bead or a bond. The bath may begin colder than that, so that what is
too hot gives off its energy sooner. Each step costs one force evaluation, and these are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.geometry.counter_random import hash_counters, normal
from deepbackmap.mechanics.forces import BoxForces
from deepbackmap.mechanics.projection import Projector
from deepbackmap.quantities import BOLTZMANN

LIGHTEST = 3.0
"""u: hydrogens count as that heavy in these steps."""
FAR_EVERY = 4
"""Steps: pairs that are far count that often, and as much more."""
WARMING = 0.6
"""Part of the steps in which a bath that begins cold warms up."""
ON_THE_WAY = 1e-5
"""nm: how far bonds and beads may be off between two steps; about what GROMACS lets SHAKE leave by
default (``shake-tol``, 1e-4 of a length)."""
LARGEST_MOVE = 0.003
"""nm: no force moves an atom farther in one step, however bad the contact."""


@dataclass(frozen=True)
class ThermalOptions:
    """How a box takes on a temperature."""

    temperature: float
    """K."""
    steps: int
    timestep: float = 0.002
    """ps."""
    friction: float = 25.0
    """1/ps."""
    cold_start: float = 1.0
    """Part of the temperature at which the bath begins; it rises linearly for ``WARMING`` of the
    steps and is then what it should be."""


def thermalise(
    positions: Float[Tensor, "n 3"],
    beads: Float[Tensor, "nb 3"],
    box: Float[np.ndarray, "3 3"],
    forces: BoxForces,
    projector: Projector,
    names: Int64[Tensor, "n"],
    options: ThermalOptions,
) -> Float[Tensor, "n 3"]:
    """Positions after some steps of constrained Langevin dynamics.

    Kick, half a drift, friction and noise, half a drift, projection: the order whose positions are
    nearest to the right distribution at a given step (Zhang et al., J. Phys. Chem. A 123, 6056,
    2019; as OpenMM's ``LangevinMiddleIntegrator``). Where atoms are in equilibrium does not depend
    on their masses, so that light ones may be given more (``LIGHTEST``) and longer steps be made.
    Pairs that are far push every few steps (Tuckerman et al., J. Chem. Phys. 97, 1990, 1992).

    Args:
        positions: nm, molecules whole, bonds and beads exact.
        beads: where they are held, nm, molecules whole.
        box: lattice vectors as rows, nm.
        forces: of the box.
        projector: keeps bonds and beads; atoms weigh what they do to it.
        names: keys of the random numbers of each atom.
        options: temperature, number and kind of steps.
    """
    pairs = forces.list_pairs(positions.cpu().numpy(), box)
    step, mass = options.timestep, projector.masses[:, None]
    keep = math.exp(-options.friction * step)
    size = (BOLTZMANN * options.temperature / mass).sqrt()

    def noise(k: int) -> Tensor:
        warm = min(1.0, k / max(1.0, WARMING * options.steps))
        part = options.cold_start + (1.0 - options.cold_start) * warm
        return math.sqrt(part) * size * normal(hash_counters(names, k), 3).to(size.dtype)

    x, v = positions, projector.tangent(positions, noise(0))
    for k in range(1, options.steps + 1):
        at = x.to(torch.float32)
        pushed = forces(at, pairs.near())
        if (k - 1) % FAR_EVERY == 0:
            pushed += FAR_EVERY * forces.of_pairs(at, pairs.far())
        kick = step * pushed.to(x.dtype) / mass
        length = step * kick.norm(dim=-1, keepdim=True)
        kick = kick * (LARGEST_MOVE / length.clamp_min(1e-12)).clamp_max(1.0)
        v = v + kick
        aim = x + 0.5 * step * v
        v = keep * v + math.sqrt(1.0 - keep * keep) * noise(k)
        aim = aim + 0.5 * step * v
        # only where the last step ends is written
        near = ON_THE_WAY if k < options.steps else None
        moved = projector.project(aim, beads, at=x, tolerance=near).positions
        v, x = v + (moved - aim) / step, moved
    return x

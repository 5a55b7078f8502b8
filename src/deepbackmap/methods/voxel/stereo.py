"""Stereochemistry as a constraint: centres of the wrong hand are turned inside out.

The beads fix the hand of a stereocentre only through the shape of its surroundings, and a
generator reads it wrongly now and then. A wrong centre is reflected, together with its hydrogen, in
the plane of its other three branches. The bonds to these and the angles between them stay as
they are; the sweeps and the relaxation that follow fit the neighbourhood to it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.blocks.index import BeadFrames, Blocks


def signs(positions: Float[Tensor, "c 5 3"]) -> Float[Tensor, "c"]:
    """Triple product of the branches of each centre, nm^3."""
    a, b, c, d = positions[:, 1:].unbind(1)
    return (torch.linalg.cross(b - a, c - a, dim=-1) * (d - a)).sum(-1)


def restore(
    relative: Float[Tensor, "na 3"], blocks: Blocks, frames: BeadFrames, wanted: Handedness
) -> Int64[Tensor, "b"]:
    """Reflect the centres of the wrong hand that have exactly one light branch, in place.

    Args:
        relative: positions of atoms relative to their beads.

    Returns:
        The beads that own the reflected centres.
    """
    atoms = wanted.atoms
    origin = frames.whole[0, blocks.atom_owner[atoms]]
    positions = origin + relative[atoms]
    light = ~blocks.atom_heavy[blocks.atom_kind[atoms[:, 1:]]]
    wrong = (signs(positions) * wanted.sign < 0) & (light.sum(1) == 1)
    if not bool(wrong.any()):
        return atoms.new_zeros(0)
    atoms, positions, light = atoms[wrong], positions[wrong], light[wrong]
    rows = torch.arange(len(atoms), device=atoms.device)
    hydrogen = 1 + light.to(torch.int8).argmax(1)
    others = positions[:, 1:][~light].reshape(-1, 3, 3)
    normal = torch.linalg.cross(others[:, 1] - others[:, 0], others[:, 2] - others[:, 0], dim=-1)
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    for column in (torch.zeros_like(hydrogen), hydrogen):
        height = ((positions[rows, column] - others[:, 0]) * normal).sum(-1, keepdim=True)
        relative[atoms[rows, column]] -= 2 * height * normal
    return blocks.atom_owner[atoms[:, 0]].unique()

"""Local frames: a bead-bead vector on the z axis, and what is done with the angle about it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def _unit(v: Tensor, eps: float = 1e-12) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(eps)


def axis_frame(axis: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Minimal rotation R with R axis = |axis| z (II C 1); rows are the local axes.

    A zero axis (molecule of one bead) gives the identity; an axis along -z is turned
    about x, where the minimal rotation is not unique.
    """
    u = _unit(axis)
    x, y, c = u[:, 0], u[:, 1], u[:, 2]
    none = axis.norm(dim=-1) < 1e-9
    flipped = c < -1.0 + 1e-6
    k = 1.0 / torch.where(flipped, torch.ones_like(c), 1.0 + c)
    rows = torch.stack(
        [1 - k * x * x, -k * x * y, -x, -k * x * y, 1 - k * y * y, -y, x, y, c], dim=-1
    ).reshape(-1, 3, 3)
    turn = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=axis.dtype, device=axis.device))
    rows = torch.where(flipped[:, None, None], turn, rows)
    return torch.where(
        none[:, None, None], torch.eye(3, dtype=axis.dtype, device=axis.device), rows
    )


def plane_frame(axis: Float[Tensor, "b 3"], second: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Rotation with ``axis`` on z and ``second`` in the half plane x > 0 of the xz plane.

    Where the two are parallel, or ``second`` is zero, it falls back to ``axis_frame``:
    the angle about z is then arbitrary but defined.
    """
    z = _unit(axis)
    perpendicular = second - (second * z).sum(-1, keepdim=True) * z
    x = _unit(perpendicular)
    rows = torch.stack([x, torch.linalg.cross(z, x, dim=-1), z], dim=1)
    degenerate = (perpendicular.norm(dim=-1) < 1e-6) | (axis.norm(dim=-1) < 1e-9)
    return torch.where(degenerate[:, None, None], axis_frame(axis), rows)


def turn_about_z(angle: Float[Tensor, "b"]) -> Float[Tensor, "b 3 3"]:
    """Rotation matrices about z by ``angle`` in rad."""
    c, s, o, i = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([c, -s, o, s, c, o, o, o, i], dim=-1).reshape(-1, 3, 3)

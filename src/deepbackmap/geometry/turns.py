"""Random rotations, many at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def random_turns(
    axes: Float64[np.ndarray, "m 3"], uniform: Float64[np.ndarray, "m k 3"]
) -> Float64[np.ndarray, "m k 3 3"]:
    """Rotations about an axis by random angles; any rotation where the axis is zero.

    Args:
        axes: of any length, nm.
        uniform: numbers between 0 and 1.

    Source: Shoemake, Graphics Gems III, 124 (1992), for the rotations without an axis.
    """
    length = np.linalg.norm(axes, axis=1)[:, None]
    unit = np.where(length > 1e-9, axes / np.maximum(length, 1e-9), 0.0)[:, None]
    half = np.pi * uniform[..., :1]
    turned = np.concatenate([np.cos(half), np.sin(half) * unit], axis=-1)
    a, b = np.sqrt(1.0 - uniform[..., 0]), np.sqrt(uniform[..., 0])
    p, q = 2.0 * np.pi * uniform[..., 1], 2.0 * np.pi * uniform[..., 2]
    free = np.stack([a * np.sin(p), a * np.cos(p), b * np.sin(q), b * np.cos(q)], axis=-1)
    return _matrix(np.where(length[:, None] > 1e-9, turned, free))


def _matrix(q: Float64[np.ndarray, "m k 4"]) -> Float64[np.ndarray, "m k 3 3"]:
    """Rotation matrices of unit quaternions (w, x, y, z)."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

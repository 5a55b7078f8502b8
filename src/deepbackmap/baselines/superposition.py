"""Rigid superposition of fragments on the beads around a bead, many at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64


def nearest_by_distances(
    templates: Float64[np.ndarray, "f l 3"],
    targets: Float64[np.ndarray, "m l 3"],
    weights: Float64[np.ndarray, " l"],
    keep: int,
) -> Int64[np.ndarray, "m k"]:
    """The templates whose distances between beads are most like a target's.

    Args:
        templates: beads relative to the central one, nm.
        targets: the same, found.
        weights: of the beads.
        keep: how many, or as many as there are.

    Returns:
        Indices of templates, in no order.
    """
    a, b = _distances(templates, weights), _distances(targets, weights)
    square = (b**2).sum(axis=1)[:, None] + (a**2).sum(axis=1)[None] - 2.0 * b @ a.T
    keep = min(keep, len(templates))
    return np.argpartition(square, keep - 1, axis=1)[:, :keep].astype(np.int64)


def superpose(
    templates: Float64[np.ndarray, "m k l 3"],
    targets: Float64[np.ndarray, "m l 3"],
    weights: Float64[np.ndarray, " l"],
) -> tuple[Float64[np.ndarray, "m k 3 3"], Float64[np.ndarray, "m k"]]:
    """Rotations about the central bead that bring templates nearest to targets.

    Args:
        templates: beads relative to the central one, nm.
        targets: the same, found.
        weights: of the beads.

    Returns:
        Matrices R, so that R template is near the target, and the weighted mean square distances
        that are left, nm^2.

    Source: Kabsch, Acta Cryst. A 34, 827 (1978).
    """
    covariance = np.einsum("l,mli,mklj->mkij", weights, targets, templates)
    u, s, vt = np.linalg.svd(covariance)
    hand = np.sign(np.linalg.det(u @ vt))
    u[..., 2] *= hand[..., None]
    s[..., 2] *= hand
    total = np.einsum("l,mkli,mkli->mk", weights, templates, templates)
    total = total + np.einsum("l,mli,mli->m", weights, targets, targets)[:, None]
    left = np.maximum(total - 2.0 * s.sum(axis=-1), 0.0)
    return u @ vt, left / max(float(weights.sum()), 1e-12)


def _distances(
    beads: Float64[np.ndarray, "f l 3"], weights: Float64[np.ndarray, " l"]
) -> Float64[np.ndarray, "f d"]:
    """Distances between all beads, the central one included, by weight."""
    points = np.concatenate([np.zeros((len(beads), 1, 3)), beads], axis=1)
    scale = np.concatenate([[1.0], weights])
    i, j = np.triu_indices(points.shape[1], 1)
    distances = np.linalg.norm(points[:, i] - points[:, j], axis=-1)
    return distances * np.sqrt(scale[i] * scale[j])

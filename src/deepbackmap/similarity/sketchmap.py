"""Sketch-map: a projection that keeps the distances that matter (Ceriotti, Tribello, Parrinello).

| here | PNAS 108, 13023 (2011); JCTC 9, 1521 (2013) |
|---|---|
| ``Switching`` | F(d) and f(d), the sigmoids of the high and of the low dimension |
| ``stress`` | chi^2 = sum_{i<j} w_i w_j [F(D_ij) - f(d_ij)]^2 / sum_{i<j} w_i w_j |
| ``classical_mds`` | the initial guess |
| ``project`` | descent on chi^2, then pointwise global search on a grid |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.spatial.distance import pdist, squareform

GRID = 21
"""Places along each axis that the pointwise search tries."""
MARGIN = 0.1
"""By how much of its extent the grid stands out of the map on every side."""
MOST_STEPS = 2000
"""Of a descent."""


@dataclass(frozen=True)
class Switching:
    """F(d) = 1 - (1 + (2^(a/b) - 1) (d/sigma)^a)^(-b/a): 0 at 0, 1/2 at sigma, 1 far away."""

    sigma: float
    a: float
    """Power of the distance near 0, at least 1."""
    b: float
    """1 - F falls off with this power of the distance."""

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """The value at distances of any shape."""
        return 1.0 - self._base(distance) ** (-self.b / self.a)

    def slope(self, distance: np.ndarray) -> np.ndarray:
        """The derivative at distances of any shape."""
        factor = (2.0 ** (self.a / self.b) - 1.0) * self.b / self.sigma
        powers = (distance / self.sigma) ** (self.a - 1.0)
        return factor * powers * self._base(distance) ** (-self.b / self.a - 1.0)

    def _base(self, distance: np.ndarray) -> np.ndarray:
        return 1.0 + (2.0 ** (self.a / self.b) - 1.0) * (distance / self.sigma) ** self.a


@dataclass(frozen=True)
class Identity:
    """F(d) = d: the stress is that of metric multidimensional scaling."""

    def __call__(self, distance: np.ndarray) -> np.ndarray:
        """The distances themselves."""
        return distance

    def slope(self, distance: np.ndarray) -> np.ndarray:
        """One."""
        return np.ones_like(distance)


Transform = Switching | Identity


def kernel_distances(kernel: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n n"]:
    """Distances in a kernel's own space, D_ij^2 = K_ii + K_jj - 2 K_ij.

    REMatch is not quite positive definite, so that a square can come out below 0 by rounding or
    a little more; such a distance is 0.
    """
    own = np.diag(kernel)
    return np.sqrt(np.maximum(own[:, None] + own[None] - 2.0 * kernel, 0.0))


def classical_mds(distances: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "n 2"]:
    """The two leading coordinates of classical multidimensional scaling.

    Args:
        distances: symmetric, at least two points.

    Returns:
        Centred coordinates along the axes of largest spread; the largest entry of each is
        positive, so that the result does not depend on the solver's choice of sign.
    """
    n = len(distances)
    squares = distances**2
    gram = -0.5 * (
        squares - squares.mean(axis=0) - squares.mean(axis=1, keepdims=True) + squares.mean()
    )
    values, vectors = eigh(gram, subset_by_index=[n - 2, n - 1])
    points = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1]
    largest = points[np.abs(points).argmax(axis=0), [0, 1]]
    return points * np.where(largest < 0, -1.0, 1.0)


def stress(
    points: Float64[np.ndarray, "n 2"],
    target: Float64[np.ndarray, "n n"],
    low: Transform,
    weights: Float64[np.ndarray, " n"] | None = None,
) -> tuple[float, Float64[np.ndarray, "n 2"]]:
    """Sketch-map's stress function and its gradient.

    Args:
        points: the map.
        target: F(D_ij), symmetric.
        low: f.
        weights: of the points; a pair weighs their product. None: all 1.

    Returns:
        chi^2 per pair and its derivative by the points.
    """
    pair = _pair_weights(len(points), weights)
    distance = pdist(points)
    off = low(distance) - squareform(target, checks=False)
    # Two points on one place have no direction to part in.
    nearby = np.where(distance > 0.0, distance, 1.0)
    pull = squareform(np.where(distance > 0.0, pair * off * low.slope(nearby) / nearby, 0.0))
    gradient = 2.0 * (pull.sum(axis=1, keepdims=True) * points - pull @ points)
    return float(pair @ off**2), gradient


def _pair_weights(n: int, weights: Float64[np.ndarray, " n"] | None) -> np.ndarray:
    """w_i w_j of every pair i < j, adding up to 1."""
    i, j = np.triu_indices(n, 1)
    own = np.ones(n) if weights is None else weights
    pair = own[i] * own[j]
    return pair / pair.sum()


def project(
    distances: Float64[np.ndarray, "n n"],
    high: Transform,
    low: Transform,
    *,
    weights: Float64[np.ndarray, " n"] | None = None,
    searches: int = 1,
) -> tuple[Float64[np.ndarray, "n 2"], float]:
    """Lays out points so that f of their distances is F of the given ones.

    Starts from classical scaling and descends (L-BFGS). Each search then offers every point in
    turn all places of a grid, with the others where they are, moves it to the best, and descends
    again; what does not lower the stress is not kept.

    Args:
        distances: symmetric, at least three points.
        high: F.
        low: f.
        weights: of the points.
        searches: passes of the pointwise search.

    Returns:
        The map, centred on its mean, and its stress.
    """
    target = high(distances)
    np.fill_diagonal(target, 0.0)
    points, lowest = _descend(classical_mds(distances), target, low, weights)
    for _ in range(searches):
        moved = _search(points, target, low, weights)
        if np.array_equal(moved, points):
            break
        moved, reached = _descend(moved, target, low, weights)
        if reached >= lowest:
            break
        points, lowest = moved, reached
    return points - points.mean(axis=0), lowest


def _descend(
    points: Float64[np.ndarray, "n 2"],
    target: Float64[np.ndarray, "n n"],
    low: Transform,
    weights: Float64[np.ndarray, " n"] | None,
) -> tuple[Float64[np.ndarray, "n 2"], float]:
    def flat(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = stress(x.reshape(-1, 2) * scale, target, low, weights)
        return value, gradient.ravel() * scale

    # In units of the map's extent, so that the solver's tolerances mean the same for any unit.
    scale = float(np.ptp(points)) or 1.0
    found = minimize(
        flat, points.ravel() / scale, jac=True, method="L-BFGS-B",
        options={"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": 1e-10, "gtol": 1e-9},
    )  # fmt: skip
    return found.x.reshape(-1, 2) * scale, float(found.fun)


def _search(
    points: Float64[np.ndarray, "n 2"],
    target: Float64[np.ndarray, "n n"],
    low: Transform,
    weights: Float64[np.ndarray, " n"] | None,
) -> Float64[np.ndarray, "n 2"]:
    """Moves every point in turn to the best place of a grid, if that is better than its own."""
    moved = points.copy()
    own = np.ones(len(points)) if weights is None else weights
    margin = MARGIN * np.ptp(points, axis=0)
    axes = np.linspace(points.min(axis=0) - margin, points.max(axis=0) + margin, GRID, axis=1)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    for k in range(len(points)):
        places = np.concatenate([moved[k][None], grid])
        apart = places[:, None] - moved[None]
        off = low(np.sqrt(np.einsum("gjk,gjk->gj", apart, apart))) - target[k]
        off[:, k] = 0.0
        moved[k] = places[(off**2 @ own).argmin()]
    return moved

"""Regularised-entropy match of sets of environments (De et al. 2016), many pairs at once.

For structures A and B with n and m environments the kernel is Tr(P^T C), C_ij = (a_i . b_j)^zeta,
where the plan P, with marginals 1/n and 1/m, minimises sum_ij P_ij (1 - C_ij + alpha ln P_ij);
Sinkhorn's iteration finds it, with steps of Newton's method for what it has not found soon. K_AB
is divided by sqrt(K_AA K_BB). The numbers are those of dscribe's ``REMatchKernel``, which takes the
pairs one by one.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.errors import InputError

TOLERANCE = 1e-10
"""Relative error of a plan's marginals at which it is good enough."""
ROUND, MOST_ROUNDS = 30, 100
"""Iterations until the pairs that have converged are put aside, and how often that is done."""
LONGEST = 3.0
"""Largest change of a balancing vector's logarithm in one step of Newton's method."""
BLOCK = 100_000
"""Similarities in one block: they stay in the processor's cache while they are iterated."""


def rematch_kernel(
    features: Float64[np.ndarray, "c f"],
    structure: Int64[np.ndarray, " c"],
    *,
    alpha: float,
    zeta: int = 1,
) -> Float64[np.ndarray, "n n"]:
    """The normalised kernel between all structures.

    Args:
        features: of unit length, one row for each environment.
        structure: to which of the n structures each environment belongs, ascending from 0.
        alpha: weight of the entropy.
        zeta: power of the similarity of two environments.

    Returns:
        Symmetric, 1 on its diagonal.

    Raises:
        InputError: alpha is so small that the plans do not converge.
    """
    sizes = np.bincount(structure)
    starts = np.cumsum(sizes) - sizes
    kernel = np.zeros((len(sizes), len(sizes)))
    for n, m in combinations_with_replacement(np.unique(sizes).tolist(), 2):
        left, right = np.flatnonzero(sizes == n), np.flatnonzero(sizes == m)
        columns = features[starts[right, None] + np.arange(m)]
        for k, row in enumerate(left):
            first = k if n == m else 0  # every pair once
            others = right[first:]
            values = _match_row(features[starts[row] + np.arange(n)], columns[first:], alpha, zeta)
            kernel[row, others] = kernel[others, row] = values
    scale = np.sqrt(np.diag(kernel))
    return kernel / np.outer(scale, scale)


def _match_row(
    one: Float64[np.ndarray, "n f"], others: Float64[np.ndarray, "p m f"], alpha: float, zeta: int
) -> Float64[np.ndarray, " p"]:
    """One structure against others of equal size, in blocks."""
    step = max(1, BLOCK // (len(one) * others.shape[1]))
    found = [
        match((one @ others[k : k + step].transpose(0, 2, 1)) ** zeta, alpha)
        for k in range(0, len(others), step)
    ]
    return np.concatenate(found)


def match(similarity: Float64[np.ndarray, "p n m"], alpha: float) -> Float64[np.ndarray, " p"]:
    """The regularised-entropy match of p pairs of structures, not normalised.

    Args:
        similarity: between environments, at most 1.
        alpha: weight of the entropy.

    Returns:
        Tr(P^T C) of every pair.

    Raises:
        InputError: a plan does not converge.
    """
    # A factor for each row leaves the plan as it is and keeps exp from underflowing.
    weights = np.exp((similarity - similarity.max(axis=2, keepdims=True)) / alpha)
    found = np.empty(len(similarity))
    left = np.arange(len(similarity))
    u = np.full((*similarity.shape[:2], 1), 1.0 / similarity.shape[1])
    for _ in range(MOST_ROUNDS):
        u, v, done = _balance(weights, u)
        plan = u[done] * weights[done] * v[done]
        found[left[done]] = (plan * similarity[left[done]]).sum(axis=(1, 2))
        left, weights = left[~done], weights[~done]
        if not len(left):
            return found
        u = _newton(weights, u[~done], v[~done])
    raise InputError(
        f"structure map: expected the match of environments to converge within "
        f"{MOST_ROUNDS * ROUND} iterations, found that it does not with alpha {alpha:g}: raise it"
    )


def _balance(
    weights: Float64[np.ndarray, "p n m"], u: Float64[np.ndarray, "p n 1"]
) -> tuple[Float64[np.ndarray, "p n 1"], Float64[np.ndarray, "p 1 m"], Bool[np.ndarray, " p"]]:
    """A round of Sinkhorn's iteration for plans u_i w_ij v_j, and which of them have converged.

    Behind each update of u the rows add up to 1/n; the next v says how far the columns are off.
    """
    n, m = weights.shape[1:]
    v = np.zeros((len(weights), 1, m))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # then it never converges
        for _ in range(ROUND):
            before = v
            v = (1.0 / m) / np.matmul(u.transpose(0, 2, 1), weights)
            u = (1.0 / n) / np.matmul(weights, v.transpose(0, 2, 1))
            done = (np.abs(v - before) <= TOLERANCE * v).all(axis=(1, 2))
            if done.all():
                break
    return u, v, done


def _newton(
    weights: Float64[np.ndarray, "p n m"],
    u: Float64[np.ndarray, "p n 1"],
    v: Float64[np.ndarray, "p 1 m"],
) -> Float64[np.ndarray, "p n 1"]:
    """One step of Newton's method towards the columns' marginals, from plans with right rows.

    Where a plan is nearly a permutation Sinkhorn's iteration creeps: it moves weight around only
    as fast as the plan mixes rows. Newton's step does not mind. A step that goes too far to be
    trusted is cut short; what comes of it is judged by the next round like everything else.
    """
    n, m = weights.shape[1:]
    plan = u * weights * v
    columns = plan.sum(axis=1)
    mixing = n * np.matmul(plan.transpose(0, 2, 1), plan)
    # Rows that add up to zero: a factor for all of v is one for all of u. The constant pins it.
    hessian = columns[:, :, None] * np.eye(m) - mixing + 1.0 / m**2
    usable = np.isfinite(hessian).all(axis=(1, 2))
    step = np.zeros_like(columns)
    missing = (1.0 / m - columns)[usable]
    inverse = np.linalg.pinv(hessian[usable], hermitian=True)
    step[usable] = np.matmul(inverse, missing[:, :, None])[:, :, 0]
    step *= np.minimum(1.0, LONGEST / np.maximum(np.abs(step).max(axis=1, keepdims=True), LONGEST))
    ahead = (v[:, 0] * np.exp(step))[:, :, None]
    return (1.0 / n) / np.matmul(weights, ahead)

"""REMatch against dscribe's numbers and its two limits."""

import numpy as np
import pytest
from dscribe.kernels import REMatchKernel
from scipy.optimize import linear_sum_assignment

from deepbackmap.errors import InputError
from deepbackmap.similarity.rematch import match, rematch_kernel


def environments(sizes, seed=0, features=20):
    rng = np.random.default_rng(seed)
    rows = rng.random((sum(sizes), features)) ** 3 + 0.3  # alike, as in a melt
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize(("alpha", "zeta"), [(1.0, 1), (0.1, 2), (0.03, 1), (0.1, 4)])
@pytest.mark.parametrize("sizes", [[5] * 6, [1, 4, 4, 7, 2, 1]], ids=["equal", "mixed"])
def test_the_kernel_is_dscribes(alpha, zeta, sizes):
    rows, owner = environments(sizes)
    # dscribe's threshold is of squares
    theirs = REMatchKernel(
        metric="polynomial", degree=zeta, gamma=1, coef0=0, alpha=alpha, threshold=1e-24
    ).create([rows[owner == k] for k in range(len(sizes))])
    ours = rematch_kernel(rows, owner, alpha=alpha, zeta=zeta)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_much_entropy_makes_the_average_kernel():
    similar = np.random.default_rng(1).random((3, 4, 6))
    np.testing.assert_allclose(match(similar, 1e6), similar.mean(axis=(1, 2)), atol=1e-6)


def test_little_entropy_makes_the_best_match():
    # Sinkhorn's iteration alone does not get there in 20 000 steps
    similar = np.random.default_rng(2).random((5, 6, 6))
    best = [s[linear_sum_assignment(-s)].mean() for s in similar]
    np.testing.assert_allclose(match(similar, 1e-3), best, atol=1e-3)


def test_the_order_of_environments_and_structures_does_not_matter():
    rows, owner = environments([3, 3, 5, 3])
    kernel = rematch_kernel(rows, owner, alpha=0.1)
    rng = np.random.default_rng(3)
    order = rng.permutation(4)
    mixed = [rng.permutation(np.flatnonzero(owner == k)) for k in order]
    again = rematch_kernel(
        rows[np.concatenate(mixed)], np.repeat(np.arange(4), [len(m) for m in mixed]), alpha=0.1
    )
    np.testing.assert_allclose(again, kernel[np.ix_(order, order)], atol=1e-10)


def test_a_structure_is_most_like_itself():
    rows, owner = environments([4] * 6)
    kernel = rematch_kernel(rows, owner, alpha=0.05)
    np.testing.assert_allclose(np.diag(kernel), 1.0)
    assert (kernel[~np.eye(6, dtype=bool)] < 1.0).all()
    assert np.array_equal(kernel, kernel.T)


def test_an_alpha_that_is_too_small_is_refused():
    # two rows want one column, and what would make them share it underflows
    similar = np.array([[[0.9, 0.5], [0.8, 0.3]]])
    with pytest.raises(InputError, match=r"alpha 0\.0001: raise it"):
        match(similar, 1e-4)

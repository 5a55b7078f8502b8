"""Neighbours part by part: the same pairs, to the bits, however a box is cut."""

import numpy as np
import pytest

from deepbackmap.geometry.cell import neighbour_pairs
from deepbackmap.geometry.parts import neighbours_by_parts

SKEWED = np.array([[3.0, 0.0, 0.0], [0.9, 2.6, 0.0], [-1.1, 0.7, 2.2]])
FLAT = np.diag([6.0, 5.0, 0.8])
"""Lower than the cut-off: particles see their own images across it."""


def scattered(box, n=400, spread=2.0, seed=1):
    """Particles in the box and in images of it, which the caller did not wrap."""
    return np.random.default_rng(seed).uniform(-spread, spread, (n, 3)) @ box


def together(parts):
    """All pairs of all parts, in the order of one piece."""
    rows = [
        np.column_stack([p.i, p.j, p.shifts, p.vectors.view(np.int64), p.distances.view(np.int64)])
        for _, p in parts
    ]
    rows = np.concatenate(rows)
    return rows[np.lexsort(rows[:, 4::-1].T)]


@pytest.mark.parametrize("box", [np.diag([3.0, 3.1, 2.9]), SKEWED, FLAT, np.diag([9.0, 1.2, 1.3])])
@pytest.mark.parametrize("cutoff", [0.4, 1.3])
@pytest.mark.parametrize("most", [400, 90, 40, 5])
def test_parts_come_to_the_pairs_of_the_whole_box(box, cutoff, most):
    x = scattered(box)
    parts = list(neighbours_by_parts(x, box, cutoff, most))
    assert (len(parts) == 1) == (most == 400)
    np.testing.assert_array_equal(
        np.sort(np.concatenate([own for own, _ in parts])), np.arange(len(x))
    )
    for own, pairs in parts:
        assert set(pairs.i.tolist()) <= set(own.tolist())
        assert (np.diff(own) > 0).all()
    whole = neighbour_pairs(x, box, cutoff)
    assert len(whole.i) > 100
    assert np.array_equal(together(parts), together([(None, whole)]))


@pytest.mark.parametrize("box", [SKEWED, FLAT])
def test_vectors_lead_to_the_image_that_is_named(box):
    x = scattered(box)
    for _, pairs in neighbours_by_parts(x, box, 0.9, 60):
        np.testing.assert_allclose(
            x[pairs.i] + pairs.vectors, x[pairs.j] + pairs.shifts @ box, atol=1e-12
        )
        assert pairs.distances.max() < 0.9


def test_a_part_of_nothing_and_numbers_that_are_none():
    ((own, pairs),) = neighbours_by_parts(np.zeros((0, 3)), np.eye(3), 0.5)
    assert len(own) == len(pairs.i) == 0
    x = scattered(SKEWED)
    x[7] = np.nan
    with pytest.raises(ValueError, match="finite"):
        list(neighbours_by_parts(x, SKEWED, 0.5, 20))

"""Laws of periodic cells, against brute force over images."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepbackmap.geometry.cell import (
    cell_heights,
    cell_volume,
    minimum_image,
    neighbour_pairs,
    validate_box,
    wrap,
)

REFERENCE_LIKE = np.array([[10.0, 0, 0], [-1.98, 2.72, 0], [0.3, 1.1, 2.5]])


def images(reach):
    return np.array(list(product(range(-reach, reach + 1), repeat=3)), dtype=float)


@st.composite
def boxes(draw):
    """Lower triangular cells, skewed up to several times beyond GROMACS' limits."""
    lengths = [draw(st.floats(0.5, 6.0)) for _ in range(3)]
    skew = [draw(st.floats(-2.0, 2.0)) for _ in range(3)]
    box = np.diag(lengths)
    box[1, 0] = skew[0] * lengths[0]
    box[2, 0] = skew[1] * lengths[0]
    box[2, 1] = skew[2] * lengths[1]
    return box


@settings(max_examples=60, deadline=None)
@given(boxes(), st.integers(0, 2**32 - 1))
def test_minimum_image_is_shortest_of_all_images(box, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(-3, 3, (20, 3)) @ box
    found = minimum_image(vectors, box)
    counts = (vectors - found) @ np.linalg.inv(box)
    assert np.abs(counts - np.rint(counts)).max() < 1e-9
    # A shorter image differs by a lattice vector of at most 2 |v|, which spans this many cells;
    # in the most skewed cells that is more than can be enumerated, so look at the nearest 12.
    reach = min(12, int(2 * np.linalg.norm(found, axis=1).max() / cell_heights(box).min()) + 1)
    near = found[:, None] + images(reach) @ box
    assert (np.linalg.norm(near, axis=2).min(axis=1) > np.linalg.norm(found, axis=1) - 1e-7).all()


def test_minimum_image_beyond_half_the_smallest_height():
    vector = np.array([[4.9, 1.3, 0.2]])
    rounded = vector - np.rint(vector @ np.linalg.inv(REFERENCE_LIKE)) @ REFERENCE_LIKE
    near = vector + images(4) @ REFERENCE_LIKE
    shortest = np.linalg.norm(near, axis=1).min()
    found = np.linalg.norm(minimum_image(vector, REFERENCE_LIKE))
    assert found == pytest.approx(shortest, abs=1e-12)
    assert np.linalg.norm(rounded) > shortest + 0.01  # plain rounding would have been wrong


@settings(max_examples=40, deadline=None)
@given(boxes(), st.integers(0, 2**32 - 1))
def test_minimum_image_forgets_lattice_vectors_and_sign(box, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(-0.5, 0.5, (10, 3)) @ box
    moved = vectors + rng.integers(-4, 5, (10, 3)) @ box
    length = np.linalg.norm(minimum_image(vectors, box), axis=1)
    assert np.allclose(np.linalg.norm(minimum_image(moved, box), axis=1), length, atol=1e-9)
    assert np.allclose(np.linalg.norm(minimum_image(-moved, box), axis=1), length, atol=1e-9)


def test_minimum_image_keeps_leading_shape():
    vectors = np.zeros((2, 3, 3)) + REFERENCE_LIKE[0]
    assert minimum_image(vectors, REFERENCE_LIKE).shape == (2, 3, 3)
    assert np.allclose(minimum_image(vectors, REFERENCE_LIKE), 0.0)


@settings(max_examples=40, deadline=None)
@given(boxes(), st.integers(0, 2**32 - 1))
def test_wrap_stays_in_the_cell_and_on_the_lattice(box, seed):
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-5, 5, (30, 3))
    wrapped = wrap(positions, box)
    fractions = wrapped @ np.linalg.inv(box)
    assert fractions.min() > -1e-9
    assert fractions.max() < 1 + 1e-9
    assert np.abs(minimum_image(wrapped - positions, box)).max() < 1e-7


def test_heights_and_volume_of_a_known_cell():
    assert cell_volume(REFERENCE_LIKE) == pytest.approx(10 * 2.72 * 2.5)
    assert np.allclose(cell_heights(np.diag([1.0, 2.0, 3.0])), [1, 2, 3])
    faces = [np.cross(REFERENCE_LIKE[k - 2], REFERENCE_LIKE[k - 1]) for k in range(3)]
    expected = [cell_volume(REFERENCE_LIKE) / np.linalg.norm(f) for f in faces]
    assert np.allclose(cell_heights(REFERENCE_LIKE), expected)


@pytest.mark.parametrize("cutoff", [0.4, 1.6, 3.1])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_neighbour_pairs_against_brute_force(cutoff, spread):
    # 3.1 nm exceeds the cell itself; a spread of 4 leaves positions unwrapped.
    box = np.array([[3.0, 0, 0], [-1.4, 2.7, 0], [0.3, 1.1, 2.5]])
    positions = np.random.default_rng(3).uniform(-0.5, 0.5, (25, 3)) @ box * spread
    shifts = images(14)
    expected = set()
    for i, j in product(range(25), repeat=2):
        d = np.linalg.norm(positions[j] - positions[i] + shifts @ box, axis=1)
        for k in np.flatnonzero((d < cutoff) & (d > 0)):
            expected.add((i, j, *shifts[k].astype(int).tolist()))
    pairs = neighbour_pairs(positions, box, cutoff)
    found = list(zip(pairs.i.tolist(), pairs.j.tolist(), *pairs.shifts.T.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert found == sorted(found)
    direct = positions[pairs.j] - positions[pairs.i] + pairs.shifts @ box
    assert np.allclose(pairs.vectors, direct)
    assert np.allclose(pairs.distances, np.linalg.norm(direct, axis=1))
    assert pairs.distances.max() < cutoff


def test_neighbour_pairs_of_nothing():
    pairs = neighbour_pairs(np.zeros((0, 3)), np.eye(3), 0.5)
    assert len(pairs.i) == len(pairs.distances) == 0
    assert pairs.shifts.shape == pairs.vectors.shape == (0, 3)


def test_lonely_particle_sees_its_own_images():
    pairs = neighbour_pairs(np.zeros((1, 3)), np.eye(3), 1.1)
    assert len(pairs.i) == 6
    assert np.allclose(pairs.distances, 1.0)


@pytest.mark.parametrize(
    "box",
    [
        np.zeros((3, 3)),
        np.diag([1.0, 1.0, np.nan]),
        np.ones((3, 3)),
        np.diag([1.0, 0, 1]),
        np.array([[2.5, -1e308, 0.0], [0.6, 2.4, 0.0], [-0.5, 0.7, 2.4]]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_flat_box_is_refused(box):
    with pytest.raises(ValueError, match="box: expected"):
        validate_box(box)
    with pytest.raises(ValueError, match="box: expected"):
        minimum_image(np.ones((1, 3)), box)
    with pytest.raises(ValueError, match="box: expected"):
        neighbour_pairs(np.ones((1, 3)), box, 1.0)


def test_bad_cutoff_and_positions_are_refused():
    with pytest.raises(ValueError, match="cutoff: expected a positive distance, got 0"):
        neighbour_pairs(np.zeros((1, 3)), np.eye(3), 0.0)
    with pytest.raises(ValueError, match="positions: expected finite"):
        neighbour_pairs(np.full((1, 3), np.nan), np.eye(3), 1.0)

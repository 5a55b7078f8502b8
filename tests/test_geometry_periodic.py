"""The minimum image of differences of positions in triclinic cells."""

import itertools

import numpy as np
import pytest
import torch

from deepbackmap.geometry.periodic import minimum_image

BOXES = {
    "cubic": np.diag([2.0, 2.0, 2.0]),
    "skewed": np.array([[8.0, 0.0, 0.0], [3.65, 2.2, 0.0], [0.0, 0.0, 2.7]]),
    # far from reduced: the off-diagonal elements exceed half of the diagonal ones
    "extreme": np.array([[3.0, 0.0, 0.0], [2.9, 2.5, 0.0], [-2.2, 2.4, 2.1]]),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_any_image_of_a_short_vector_comes_back(box):
    rng = np.random.default_rng(1)
    direction = rng.normal(size=(500, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    short = direction * rng.uniform(0.0, 0.499 * box.diagonal().min(), size=(500, 1))
    images = rng.integers(-4, 5, size=(500, 3)) @ box
    found = minimum_image(torch.tensor(short + images), torch.tensor(box))
    np.testing.assert_allclose(found.numpy(), short, atol=1e-12)


def test_short_vectors_are_the_nearest_of_all_images():
    box = BOXES["extreme"]
    rng = np.random.default_rng(2)
    vectors = rng.uniform(-3.0, 3.0, size=(400, 3))
    shifts = np.array(list(itertools.product(range(-4, 5), repeat=3))) @ box
    nearest = np.linalg.norm(vectors[:, None] + shifts, axis=-1).min(axis=1)
    within = nearest < 0.5 * box.diagonal().min()
    found = minimum_image(torch.tensor(vectors), torch.tensor(box)).norm(dim=-1).numpy()
    assert within.sum() > 50
    np.testing.assert_allclose(found[within], nearest[within], atol=1e-12)


def test_open_boundaries_leave_vectors_alone():
    vectors = torch.tensor([[30.0, -2.0, 7.0]])
    assert torch.equal(minimum_image(vectors, None), vectors)


def test_gradient_is_the_identity():
    box = torch.tensor(BOXES["skewed"])
    vectors = torch.tensor([[7.0, 3.0, -2.5]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    (minimum_image(vectors, box) * weights).sum().backward()
    assert torch.equal(vectors.grad, weights[None])

"""Local frames: what is on which axis, proper rotations, equivariance, degenerate input."""

import math

import pytest
import torch

from deepbackmap.geometry.frames import axis_frame, plane_frame, turn_about_z
from small_polystyrene import rotation

EYE = torch.eye(3, dtype=torch.float64)


def vectors(n, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=random, dtype=torch.float64)


def assert_rotations(r):
    torch.testing.assert_close(r @ r.transpose(1, 2), EYE.to(r.dtype).expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(len(r), dtype=r.dtype))


def apply(r, v):
    return (r @ v[..., None]).squeeze(-1)


def test_axis_frame_puts_the_axis_on_z():
    axis = vectors(200)
    r = axis_frame(axis)
    assert_rotations(r)
    expected = torch.zeros_like(axis)
    expected[:, 2] = axis.norm(dim=1)
    torch.testing.assert_close(apply(r, axis), expected)


def test_axis_frame_is_the_minimal_rotation():
    axis = vectors(200)
    angle = torch.acos(axis[:, 2] / axis.norm(dim=1))
    r = axis_frame(axis)
    torch.testing.assert_close(r.diagonal(dim1=1, dim2=2).sum(1), 1 + 2 * angle.cos())
    # and its axis is perpendicular to both vectors
    pole = torch.linalg.cross(axis, EYE[2].expand_as(axis), dim=-1)
    torch.testing.assert_close(apply(r, pole), pole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_axis_frame_along_and_against_z(dtype):
    axis = torch.tensor([[0, 0, 1.0], [0, 0, -1.0], [0, 0, 0.4], [0, 0, -0.4]], dtype=dtype)
    r = axis_frame(axis)
    assert_rotations(r)
    torch.testing.assert_close(apply(r, axis)[:, 2], axis[:, 2].abs())


@pytest.mark.parametrize("angle", [1e-1, 1e-2, 2e-3, 1e-3, 1e-4, 1e-6, 1e-9])
def test_axis_frame_near_minus_z_stays_a_rotation(angle):
    phase = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)
    axis = torch.stack(
        [
            math.sin(angle) * phase.cos(),
            math.sin(angle) * phase.sin(),
            -math.cos(angle) + 0 * phase,
        ],
        dim=1,
    )
    r = axis_frame(axis)
    torch.testing.assert_close(r @ r.transpose(1, 2), EYE.expand_as(r), atol=1e-9, rtol=0)
    # nearer than 1.5 mrad the turn about x stands in; the axis is off by no more than that
    off = (apply(r, axis) - EYE[2]).norm(dim=1).max()
    assert float(off) < (1.5e-3 if angle < 1.5e-3 else 1e-9)


def test_no_axis_is_the_laboratory():
    zero = torch.zeros(2, 3, dtype=torch.float64)
    assert torch.equal(axis_frame(zero), EYE.expand(2, 3, 3))
    assert torch.equal(plane_frame(zero, vectors(2)), EYE.expand(2, 3, 3))


def test_plane_frame_puts_the_second_vector_in_the_xz_half_plane():
    axis, second = vectors(200), vectors(200, 1)
    r = plane_frame(axis, second)
    assert_rotations(r)
    torch.testing.assert_close(apply(r, axis)[:, 2], axis.norm(dim=1))
    turned = apply(r, second)
    assert float(turned[:, 1].abs().max()) < 1e-12
    assert bool((turned[:, 0] > 0).all())


def test_plane_frame_follows_a_rotation_of_the_laboratory():
    axis, second = vectors(50), vectors(50, 1)
    q = torch.from_numpy(rotation(3))
    torch.testing.assert_close(
        plane_frame(axis @ q.T, second @ q.T), plane_frame(axis, second) @ q.T
    )


def test_plane_frame_of_parallel_vectors_is_the_axis_frame():
    axis = vectors(5)
    for second in (axis * 0.7, -axis, torch.zeros_like(axis)):
        assert torch.equal(plane_frame(axis, second), axis_frame(axis))


def test_turns_about_z():
    a, b = torch.rand(2, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 6
    assert_rotations(turn_about_z(a))
    torch.testing.assert_close(turn_about_z(a) @ turn_about_z(b), turn_about_z(a + b))
    x = apply(turn_about_z(a), EYE[0].expand(30, 3))
    torch.testing.assert_close(x, torch.stack([a.cos(), a.sin(), 0 * a], dim=1))
    torch.testing.assert_close(apply(turn_about_z(a), EYE[2].expand(30, 3)), EYE[2].expand(30, 3))

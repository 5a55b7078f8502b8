"""Rigid superposition of many small point sets, compiled."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.methods.physics.compiled import compiled, threaded

NEWTON = 50
"""Iterations at most for the largest eigenvalue."""


def fit(
    library: Float64[np.ndarray, "f p 3"],
    near: Int64[np.ndarray, "m k"],
    targets: Float64[np.ndarray, "m p 3"],
    weights: Float64[np.ndarray, " p"],
) -> tuple[
    Float64[np.ndarray, "m k 3 3"], Float64[np.ndarray, "m k 3"], Float64[np.ndarray, "m k"]
]:
    """Turns and shifts that bring point sets nearest to targets.

    Args:
        library: point sets, nm.
        near: which of them are tried for each target.
        targets: nm.
        weights: of the points.

    Returns:
        Matrices R and vectors s, so that R p + s is near the target, and the sums of weighted
        squared distances that are left, in the unit of the weights times nm^2.

    Source: Theobald, Acta Cryst. A 61, 478 (2005): the largest eigenvalue of Horn's matrix by
    Newton's method, its eigenvector from cofactors.
    """
    m, k = near.shape
    turns, shifts, left = np.zeros((m, k, 3, 3)), np.zeros((m, k, 3)), np.zeros((m, k))
    used = np.flatnonzero(weights > 0.0)
    _fit(
        np.ascontiguousarray(library[:, used]), near, np.ascontiguousarray(targets[:, used]),
        weights[used], turns, shifts, left,
    )  # fmt: skip
    return turns, shifts, left


@threaded
def _fit(
    library: Any, near: Any, targets: Any, weights: Any, turns: Any, shifts: Any, left: Any
) -> None:
    m, k = near.shape
    p = len(weights)
    total = weights.sum()
    for q in numba.prange(m):
        goal = np.zeros(3)
        for a in range(p):
            for d in range(3):
                goal[d] += weights[a] * targets[q, a, d] / total
        centre, s, n = np.zeros(3), np.zeros((3, 3)), np.zeros((4, 4))
        for c in range(k):
            x = library[near[q, c]]
            centre[:] = 0.0
            for a in range(p):
                for d in range(3):
                    centre[d] += weights[a] * x[a, d] / total
            s[:, :], square = 0.0, 0.0
            for a in range(p):
                for d in range(3):
                    u = x[a, d] - centre[d]
                    t = targets[q, a, d] - goal[d]
                    square += weights[a] * (u * u + t * t)
                    for e in range(3):
                        s[d, e] += weights[a] * u * (targets[q, a, e] - goal[e])
            largest = _turn(s, 0.5 * square, n, turns[q, c])
            left[q, c] = max(0.0, square - 2.0 * largest)
            for d in range(3):
                shifts[q, c, d] = goal[d]
                for e in range(3):
                    shifts[q, c, d] -= turns[q, c, d, e] * centre[e]


@compiled
def _turn(s: Any, upper: float, n: Any, out: Any) -> float:
    """The rotation for a covariance matrix; returns the largest eigenvalue of Horn's matrix.

    Args:
        s: sums of x_d y_e.
        upper: a bound from above on the eigenvalue.
        n: room for Horn's matrix.
        out: the rotation is written here.
    """
    n[0, 0] = s[0, 0] + s[1, 1] + s[2, 2]
    n[1, 1] = s[0, 0] - s[1, 1] - s[2, 2]
    n[2, 2] = -s[0, 0] + s[1, 1] - s[2, 2]
    n[3, 3] = -s[0, 0] - s[1, 1] + s[2, 2]
    n[0, 1] = s[1, 2] - s[2, 1]
    n[0, 2] = s[2, 0] - s[0, 2]
    n[0, 3] = s[0, 1] - s[1, 0]
    n[1, 2] = s[0, 1] + s[1, 0]
    n[1, 3] = s[2, 0] + s[0, 2]
    n[2, 3] = s[1, 2] + s[2, 1]
    for i in range(4):
        for j in range(i):
            n[i, j] = n[j, i]
    # characteristic polynomial x^4 + c2 x^2 + c1 x + c0 (the trace is zero)
    c2 = 0.0
    for d in range(3):
        for e in range(3):
            c2 -= 2.0 * s[d, e] * s[d, e]
    c1 = -8.0 * _det3(s, 0, 1, 2, 0, 1, 2)
    c0 = 0.0
    for j in range(4):
        a, b, c = (j + 1) % 4, (j + 2) % 4, (j + 3) % 4
        a, b, c = min(a, b, c), a + b + c - min(a, b, c) - max(a, b, c), max(a, b, c)
        c0 += (1.0 if j % 2 == 0 else -1.0) * n[0, j] * _det3(n, 1, 2, 3, a, b, c)
    x = upper
    for _ in range(NEWTON):
        x2 = x * x
        value = (x2 + c2) * x2 + c1 * x + c0
        slope = 4.0 * x2 * x + 2.0 * c2 * x + c1
        if slope == 0.0:
            break
        step = value / slope
        x -= step
        if abs(step) < 1e-11 * abs(x):
            break
    for i in range(4):
        n[i, i] -= x
    best, w0, w1, w2, w3 = -1.0, 1.0, 0.0, 0.0, 0.0
    for i in range(4):  # a row of cofactors is an eigenvector; the longest is the surest
        if i == 0:
            a, b, c = 1, 2, 3
        elif i == 1:
            a, b, c = 0, 2, 3
        elif i == 2:
            a, b, c = 0, 1, 3
        else:
            a, b, c = 0, 1, 2
        sign = 1.0 if i % 2 == 0 else -1.0
        q0 = sign * _det3(n, a, b, c, 1, 2, 3)
        q1 = -sign * _det3(n, a, b, c, 0, 2, 3)
        q2 = sign * _det3(n, a, b, c, 0, 1, 3)
        q3 = -sign * _det3(n, a, b, c, 0, 1, 2)
        size = q0 * q0 + q1 * q1 + q2 * q2 + q3 * q3
        if size > best:
            best, w0, w1, w2, w3 = size, q0, q1, q2, q3
    if best <= 1e-24 * upper**6:  # points in a line or one point: any turn of several will do
        w0, w1, w2, w3 = _line(s)
        best = w0 * w0 + w1 * w1 + w2 * w2 + w3 * w3
    r = 1.0 / math.sqrt(best)
    w0, w1, w2, w3 = w0 * r, w1 * r, w2 * r, w3 * r
    out[0, 0] = 1.0 - 2.0 * (w2 * w2 + w3 * w3)
    out[0, 1] = 2.0 * (w1 * w2 - w0 * w3)
    out[0, 2] = 2.0 * (w1 * w3 + w0 * w2)
    out[1, 0] = 2.0 * (w1 * w2 + w0 * w3)
    out[1, 1] = 1.0 - 2.0 * (w1 * w1 + w3 * w3)
    out[1, 2] = 2.0 * (w2 * w3 - w0 * w1)
    out[2, 0] = 2.0 * (w1 * w3 - w0 * w2)
    out[2, 1] = 2.0 * (w2 * w3 + w0 * w1)
    out[2, 2] = 1.0 - 2.0 * (w1 * w1 + w2 * w2)
    return x


@compiled
def _det3(m: Any, a: int, b: int, c: int, i: int, j: int, k: int) -> float:
    """Determinant of three rows and columns."""
    return (
        m[a, i] * (m[b, j] * m[c, k] - m[b, k] * m[c, j])
        - m[a, j] * (m[b, i] * m[c, k] - m[b, k] * m[c, i])
        + m[a, k] * (m[b, i] * m[c, j] - m[b, j] * m[c, i])
    )


@compiled
def _line(s: Any) -> tuple[float, float, float, float]:
    """The shortest turn that brings one line onto another, from s = x y^T times a number."""
    # the longest column is along x, the longest row along y, with one sign together
    best, row, column = -1.0, 0, 0
    for d in range(3):
        for e in range(3):
            if abs(s[d, e]) > best:
                best, row, column = abs(s[d, e]), d, e
    if best == 0.0:
        return 1.0, 0.0, 0.0, 0.0
    x, y = s[:, column].copy(), s[row].copy()
    x /= math.sqrt((x * x).sum())
    y /= math.sqrt((y * y).sum())
    # x and y as they enter: s[row, column] = x[row] y[column] times something positive
    if s[row, column] * x[row] * y[column] < 0.0:
        y = -y
    w = 1.0 + (x * y).sum()
    if w < 1e-9:  # opposite: half a turn about any axis across
        a = np.zeros(3)
        a[np.argmin(np.abs(x))] = 1.0
        a -= (a * x).sum() * x
        return 0.0, a[0], a[1], a[2]
    return w, x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]

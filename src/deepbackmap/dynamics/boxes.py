"""Boxes as engines want them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from deepbackmap.dynamics.containers import EngineError


def reduced(box: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors of the same lattice with the smallest tilts, lower triangular, nm.

    OpenMM refuses others, and GROMACS searches neighbours in no others.
    """
    a, b, c = box.astype(np.float64)
    c = c - b * np.rint(c[1] / b[1])
    c = c - a * np.rint(c[0] / a[0])
    b = b - a * np.rint(b[0] / a[0])
    return np.array([a, b, c])


def check_box(box: Float64[np.ndarray, "3 3"], cutoff: float) -> None:
    """Refuses boxes in which an atom would see two images of another.

    Raises:
        EngineError: half the smallest diagonal element is below the cut-off.
    """
    smallest = float(np.diag(box).min())
    if smallest < 2.0 * cutoff:
        raise EngineError(
            f"expected a box of at least {2.0 * cutoff:g} nm (twice the cut-off) in every "
            f"direction, found {smallest:g} nm"
        )

"""Minimum image in triclinic cells, in torch and differentiable."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def minimum_image(
    vectors: Float[Tensor, "*batch 3"], box: Float[Tensor, "*cells 3 3"] | None
) -> Float[Tensor, "*batch 3"]:
    """Move difference vectors by lattice vectors to their short image.

    The lattice is taken off row by row, the last first, which is exact whenever the shortest
    image is shorter than half of the smallest diagonal element of the box: the component along
    an axis then tells the multiple of its row. Longer vectors come out as one of their images,
    not always the shortest.

    Args:
        vectors: differences of positions in nm.
        box: lattice vectors as rows, lower triangular, in nm, the same for all or one for each
            vector (by broadcasting); None for open boundaries.

    Returns:
        The images in nm; their derivative with respect to ``vectors`` is the identity.
    """
    if box is None:
        return vectors
    for axis in (2, 1, 0):
        multiple = torch.round(vectors[..., axis].detach() / box[..., axis, axis])
        vectors = vectors - multiple[..., None] * box[..., axis, :]
    return vectors

"""Which beads can be placed at the same time.

Two beads *see* each other when they are neighbours within the model's cut-off. Placing all beads
one after the other in the order of some keys gives the same structure as placing, together, every
bead whose earlier neighbours are all done: that is how batches are found here, so that they are
large and yet nothing depends on how they were cut.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def _earlier(neighbours: Int64[Tensor, "nb k"], keys: Float[Tensor, "nb"]) -> Bool[Tensor, "nb k"]:
    """Which neighbours come before the bead (equal keys: by index)."""
    other = neighbours.clamp_min(0)
    own = torch.arange(len(keys), device=keys.device)[:, None]
    before = (keys[other] < keys[:, None]) | ((keys[other] == keys[:, None]) & (other < own))
    return before & (neighbours >= 0)


def levels(
    neighbours: Int64[Tensor, "nb k"], keys: Float[Tensor, "nb"]
) -> Iterator[Int64[Tensor, "m"]]:
    """Beads in batches: each as early as its earlier neighbours allow.

    Args:
        neighbours: padded with -1; may contain the bead itself and, in small boxes, duplicates.
        keys: the sequential order.
    """
    waits = _earlier(neighbours, keys)
    left = torch.arange(len(keys), device=keys.device)
    done = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
    while len(left):
        blocked = (waits[left] & ~done[neighbours[left].clamp_min(0)]).any(1)
        ready = left[~blocked]
        done[ready] = True
        left = left[blocked]
        yield ready


def colours(
    neighbours: Int64[Tensor, "nb k"], priority: Float[Tensor, "nb"]
) -> Int64[Tensor, "nb"]:
    """A colouring in which no bead sees another of its colour (greedy, in order of priority)."""
    colour = torch.full((len(neighbours),), -1, dtype=torch.int64, device=neighbours.device)
    width = neighbours.shape[1] + 1
    own = torch.arange(len(neighbours), device=neighbours.device)
    for ready in levels(neighbours, priority):
        others = neighbours[ready]
        theirs = colour[others.clamp_min(0)]
        counts = (others >= 0) & (theirs >= 0) & (others != own[ready][:, None])
        taken = torch.zeros(len(ready), width + 1, dtype=torch.bool, device=neighbours.device)
        taken.scatter_(1, torch.where(counts, theirs, width), True)
        taken[:, width] = False
        colour[ready] = (~taken).to(torch.int8).argmax(1)
    return colour

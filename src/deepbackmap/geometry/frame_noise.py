"""How the random numbers of one frame go with those of the frames before it.

By default frames have nothing to do with each other: their numbers are named by the number of the
frame. Where frames are a film, two other ways make structures move no more than their beads do:
numbers that all frames share, and numbers that are correlated in time. In all three the numbers of
one frame by itself are what they should be, so that every frame is a draw of the same ensemble, and
all are pure functions of seed, name and time: frames can be made in any order, anywhere.

Normal numbers follow an Ornstein-Uhlenbeck process (Phys. Rev. 36, 823, 1930), whose correlation
over a time t is exp(-t/tau). It is built as Levy built Brownian motion: values at whole multiples
of tau, as weighted sums of independent numbers before them, then middles of intervals, which are
normal given their two ends. What names other random numbers (choices, noise of the dynamics) is
renewed at random moments, on average once in tau, so that the same correlation holds for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.geometry.counter_random import hash_counters, normal, uniform

ATTEMPT = 1 << 40
"""What is added to the number of a frame that is drawn anew is a multiple of this."""
ANEW = 2 * ATTEMPT
"""Added for each time that the atoms of one draw are placed anew."""
PLACEMENTS = 4
"""Times that the atoms of one draw are placed, the first included."""
MEMORY = 16
"""Times tau over which numbers are summed: e to the minus 16 is left out."""
HALVINGS = 12
"""Of an interval of tau: times are told apart to tau / 4096."""
EMPTY = 32
"""Intervals of tau in which a renewal is looked for: e to the minus 32 have none."""
MOST = 12
"""Renewals in an interval of tau: one in 10^10 has more."""
_GRID, _MIDDLE, _COUNT, _MOMENT = range(64, 68)
"""Streams of random numbers."""


@dataclass(frozen=True)
class Turn:
    """The random numbers of one frame."""

    number: int
    """Stands for the frame in the names of its numbers."""
    at: float | None = None
    """Time in units of tau; None: numbers have nothing to do with time."""

    def normal(self, key: Int64[Tensor, "..."], n: int) -> Float[Tensor, "... n"]:
        """Standard normal numbers for each key."""
        return normal(key, n) if self.at is None else slow_normal(key, n, self.at)

    def renewed(self, key: Int64[Tensor, "..."]) -> Int64[Tensor, "..."]:
        """The keys that name other random numbers at that time."""
        return key if self.at is None else hash_counters(key, renewals(key, self.at))


def draw_number(frame: int, draw: int) -> int:
    """What names the random numbers of a draw of a frame.

    Each draw has numbers of its own for ``PLACEMENTS`` placements, ``ANEW`` apart: of the first two
    even and odd multiples of ``ATTEMPT``, of the next two those above, and so on.

    Args:
        frame: its number.
        draw: which, from 0.
    """
    pair, second = divmod(draw, 2)
    return frame + second * ATTEMPT + pair * PLACEMENTS * ANEW


def turn_of(frame: int, time: float, tau: float) -> Turn:
    """The random numbers of a frame.

    Args:
        frame: its number, with a multiple of ``ATTEMPT``.
        time: of the frame, ps.
        tau: how long numbers go on, ps; 0: each frame has its own; infinite: all have the same.
    """
    if not tau:
        return Turn(frame)
    attempt = frame // ATTEMPT * ATTEMPT
    return Turn(attempt) if math.isinf(tau) else Turn(attempt, time / tau)


def slow_normal(key: Int64[Tensor, "..."], n: int, at: float) -> Float[Tensor, "... n"]:
    """Standard normal numbers that change with time.

    Args:
        key: name of each series.
        n: numbers of each.
        at: time, in units in which the correlation falls to 1/e.
    """
    cell = math.floor(at)
    left, right = _on_grid(key, n, cell), _on_grid(key, n, cell + 1)
    goal, low, high = round((at - cell) * (1 << HALVINGS)), 0, 1 << HALVINGS
    while goal not in (low, high):
        half = 0.5 * (high - low) / (1 << HALVINGS)
        middle = (low + high) // 2
        fresh = normal(hash_counters(key, _MIDDLE, cell, middle), n)
        # given both ends, which are exp(-2 half) correlated
        at_middle = (left + right) / (2.0 * math.cosh(half)) + math.sqrt(math.tanh(half)) * fresh
        if goal <= middle:
            high, right = middle, at_middle
        if goal >= middle:
            low, left = middle, at_middle
    return left if goal == low else right


def _on_grid(key: Int64[Tensor, "..."], n: int, cell: int) -> Float[Tensor, "... n"]:
    """Numbers at a whole time: what independent ones before it have left."""
    weights = [math.exp(-m) for m in range(MEMORY + 1)]
    scale = 1.0 / math.sqrt(sum(w * w for w in weights))
    parts = (w * normal(hash_counters(key, _GRID, cell - m), n) for m, w in enumerate(weights))
    return scale * sum(parts, torch.zeros(()))


def renewals(key: Int64[Tensor, "..."], at: float) -> Int64[Tensor, "..."]:
    """Names of the last renewals before a time, of a Poisson process of rate one for each key.

    Args:
        key: name of each process.
        at: time.
    """
    last = math.floor(at)
    flat = key.reshape(-1)
    found = torch.full_like(flat, (last - EMPTY) * (MOST + 1))
    open_ = torch.arange(len(flat), device=key.device)
    for cell in range(last, last - EMPTY, -1):
        keys = flat[open_]
        count = _poisson(uniform(hash_counters(keys, _COUNT, cell), 1))
        moment = uniform(hash_counters(keys, _MOMENT, cell), MOST)
        there = torch.arange(MOST, device=key.device) < count
        there &= moment <= at - cell
        latest, which = torch.where(there, moment, -1.0).max(dim=-1)
        hit = latest >= 0.0
        found[open_[hit]] = cell * (MOST + 1) + which[hit] + 1
        open_ = open_[~hit]
        if not len(open_):
            break
    return found.reshape(key.shape)


def _poisson(u: Float[Tensor, "... 1"]) -> Int64[Tensor, "... 1"]:
    """Numbers of a Poisson distribution of mean one, from uniform ones."""
    chances = [math.exp(-1.0) / math.factorial(k) for k in range(MOST)]
    edges = torch.tensor(chances, dtype=torch.float64, device=u.device).cumsum(0)
    return (u.double() > edges).sum(dim=-1, keepdim=True)

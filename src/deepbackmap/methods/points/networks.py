"""The network of the point models: what all atoms of a block are moved to at once.

Two stages. The first sees what is around the block and says where its atoms are on average; the
second sees, in units of what is to be expected, how far the noisy block is from there. The
preconditioning between them is that of Karras et al., NeurIPS 2022, arXiv 2206.00364, about the
first stage's answer instead of zero.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from deepbackmap.methods.points.options import PointNetworkOptions

SPREADS = 12
"""Times at which the expected deviations are kept."""

NARROWEST, WIDEST = 0.02, 1.0
"""Bounds of the expected deviations, in units of the whitened positions."""


class Residual(nn.Module):
    """x + f(norm(x)), scaled and shifted by the time."""

    def __init__(self, width: int, times: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        self.modulate = nn.Linear(times, 2 * width)
        self.drop = nn.Dropout(dropout)
        for part in (self.modulate, self.last):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, x: Float[Tensor, "b w"], time: Float[Tensor, "b t"]) -> Float[Tensor, "b w"]:
        """One residual step."""
        scale, shift = self.modulate(time).chunk(2, dim=-1)
        hidden = self.norm(x) * (1 + scale) + shift
        hidden = nn.functional.silu(self.first(hidden))
        return x + self.last(self.drop(hidden))


class Stage(nn.Module):
    """Residual blocks and a linear answer, which is zero at first."""

    def __init__(self, outputs: int, options: PointNetworkOptions) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            Residual(options.width, 2 * options.times, options.dropout)
            for _ in range(options.blocks)
        )
        self.norm = nn.LayerNorm(options.width)
        self.leave = nn.Linear(options.width, outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "b w"], time: Float[Tensor, "b t"]) -> tuple[Tensor, Tensor]:
        """What it leaves for the next stage, and its answer."""
        for step in self.steps:
            x = step(x, time)
        return x, self.leave(nn.functional.silu(self.norm(x)))


class AtomEncoder(nn.Module):
    """Densities around an atom → a few numbers and vectors, the same way for all atoms of a type:
    learned functions of the distance to each class of neighbour, summed up."""

    def __init__(self, types: int, radial: int, channels: int) -> None:
        super().__init__()
        functions = 2 * types * radial
        self.scalars = nn.Parameter(torch.randn(types, functions, channels) / functions**0.5)
        self.vectors = nn.Parameter(torch.randn(types, functions, channels) / functions**0.5)
        self.bias = nn.Parameter(torch.zeros(types, channels))

    def forward(
        self, seen: Float[Tensor, "b s f 4"], kinds: Int64[Tensor, "s"]
    ) -> Float[Tensor, "b i"]:
        """All numbers of a block side by side.

        Args:
            seen: normalised densities and their vectors.
            kinds: type of the atom of each slot.
        """
        numbers = torch.einsum("bsf,sfm->bsm", seen[..., 0], self.scalars[kinds])
        numbers = nn.functional.silu(numbers + self.bias[kinds])
        pushes = torch.einsum("bsfd,sfm->bsmd", seen[..., 1:], self.vectors[kinds])
        return torch.cat([numbers.flatten(1), pushes.flatten(1)], dim=-1)


class BlockNetwork(nn.Module):
    """For the blocks of one bead type."""

    spread: Tensor
    loose: Tensor
    push: Tensor
    kinds: Tensor

    def __init__(
        self, kinds: tuple[int, ...], types: int, radial: int, fixed: int,
        options: PointNetworkOptions,
    ) -> None:  # fmt: skip
        """Fresh weights.

        Args:
            kinds: type of the atom of each slot.
            types: how many atom types there are.
            radial: functions of the densities.
            fixed: numbers that describe the block otherwise.
            options: widths.
        """
        super().__init__()
        self.options = options
        slots, outputs = len(kinds), 3 * len(kinds)
        self.register_buffer("kinds", torch.tensor(kinds))
        self.atoms = AtomEncoder(types, radial, options.channels)
        self.mixed = nn.Linear(4 * slots * options.channels, options.width)
        self.enter = nn.Linear(fixed, options.width)
        self.drop = nn.Dropout(options.dropout)
        self.time = nn.Linear(2 * options.times, 2 * options.times)
        self.around = Stage(outputs, options)
        self.own = nn.Linear(outputs, options.width)
        self.inside = Stage(outputs, options)
        # How far data are from the first stage's answer, by time and direction; training
        # measures it.
        self.register_buffer("spread", torch.full((SPREADS, outputs), 0.5))
        if options.uncertain:
            # The same for what beads that are off move, and how much they move, a nm.
            self.register_buffer("loose", torch.full((SPREADS, outputs), 0.5))
            self.register_buffer("push", torch.zeros(outputs))

    def expected_spread(
        self, angle: Float[Tensor, "b"], heat: Tensor | None = None, width: Tensor | None = None
    ) -> Float[Tensor, "b d"]:
        """How far the first stage's answer is off, by direction, in units of ``size`` (linear
        between the kept times).

        Args:
            angle: place on the path.
            heat, width: as for ``forward``.
        """
        tight = _between(self.spread, angle)
        if width is None or heat is None or not self.options.uncertain:
            return tight
        share = self.loosened(heat, width)
        loose = _between(self.loose, angle)
        return ((1.0 - share) * tight.square() + share * loose.square()).sqrt()

    def size(self, heat: Float[Tensor, "b"], width: Tensor | None = None) -> Float[Tensor, "b d"]:
        """Size of the noise in every direction: that of the temperature and of beads that are
        off, (b, 1) where they are exact."""
        if width is None or not self.options.uncertain:
            return heat[:, None]
        return (heat[:, None].square() + (width[:, None] * self.push).square()).sqrt()

    def loosened(self, heat: Float[Tensor, "b"], width: Float[Tensor, "b"]) -> Tensor:
        """Part of the square of ``size`` that comes from the beads, (b, d)."""
        return (width[:, None] * self.push / self.size(heat, width)).square()

    def forward(
        self,
        noisy: Float[Tensor, "b d"],
        angle: Float[Tensor, "b"],
        heat: Float[Tensor, "b"],
        fixed: Float[Tensor, "b i"],
        seen: Float[Tensor, "b s f 4"],
        width: Float[Tensor, "b"] | None = None,
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Expected end of the path.

        Args:
            noisy: whitened positions on the path.
            angle: place on the path, 0 to pi/2.
            heat: size of the noise; the root of the temperature over that of the whitening.
            fixed: everything about the block but its own atoms and densities.
            seen: normalised densities.
            width: how far beads are off those of their atoms, nm; None, or to a network that is
                not told: they are exact.

        Returns:
            The expected end, the first stage's answer to that, and the size of what the second
            stage adds.
        """
        powers = torch.arange(1, self.options.times + 1, device=angle.device)
        phase = angle[:, None] * powers
        time = nn.functional.silu(self.time(torch.cat([phase.cos(), phase.sin()], dim=-1)))
        x = self.enter(fixed) + self.mixed(self.drop(self.atoms(seen, self.kinds)))
        hidden, mean = self.around(x, time)
        c, s = angle.cos()[:, None], angle.sin()[:, None]
        spread, noise = self.expected_spread(angle, heat, width), self.size(heat, width)
        variance = c.square() + (s * spread).square()
        off = noisy - s * mean
        size = noise * c * spread * variance.rsqrt()
        inner = hidden + self.own(off * variance.rsqrt() / noise)
        _, more = self.inside(inner, time)
        end = mean + spread.square() * s / variance * off + size * more
        return end, mean, size


def _between(table: Float[Tensor, "t d"], angle: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
    """A table over the times of a path, linear between them."""
    place = (angle * (2.0 / math.pi) * (SPREADS - 1)).clamp(0.0, SPREADS - 1 - 1e-4)
    low = place.floor().to(torch.int64)
    part = (place - low)[:, None]
    return table[low] * (1.0 - part) + table[low + 1] * part


class BlockCritic(nn.Module):
    """Judges the blocks of one bead type (``training.target: critic``)."""

    kinds: Tensor

    def __init__(
        self, kinds: tuple[int, ...], types: int, radial: int, fixed: int,
        options: PointNetworkOptions,
    ) -> None:  # fmt: skip
        """Fresh weights; arguments as those of ``BlockNetwork``."""
        super().__init__()
        self.register_buffer("kinds", torch.tensor(kinds))
        self._times = 2 * options.times
        self.atoms = AtomEncoder(types, radial, options.channels)
        self.mixed = nn.Linear(4 * len(kinds) * options.channels, options.width)
        self.enter = nn.Linear(fixed, options.width)
        self.own = nn.Linear(3 * len(kinds), options.width)
        self.inside = Stage(1, options)

    @classmethod
    def beside(cls, network: BlockNetwork) -> BlockCritic:
        """One of the widths of a generator's network."""
        types, functions, _ = network.atoms.scalars.shape
        return cls(
            tuple(network.kinds.tolist()), types, functions // (2 * types),
            network.enter.in_features, network.options,
        )  # fmt: skip

    def forward(
        self, end: Float[Tensor, "k d"], fixed: Float[Tensor, "b i"], seen: Float[Tensor, "b s f 4"]
    ) -> Float[Tensor, "k"]:
        """High for what is true.

        Args:
            end: whitened positions, one or several sets of the blocks.
            fixed: everything about the blocks but their own atoms and densities.
            seen: normalised densities.
        """
        around = self.enter(fixed) + self.mixed(self.atoms(seen, self.kinds))
        x = around.repeat(len(end) // len(fixed), 1) + self.own(end)
        return self.inside(x, x.new_zeros(len(x), self._times))[1].squeeze(1)

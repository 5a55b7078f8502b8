"""The paper's generator and critic, and the smaller pair of the authors' later code.

Layer by layer as the supplementary description has them; ``channels`` is the width c (128 in the
paper) and the block counts its depth. Normalisation is over all channels and voxels of a sample
with a gain and bias for each channel (``GroupNorm`` with one group), as the gradient penalty
wants no coupling between samples. A sample is placed on 8 x 8 x 8 voxels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from deepbackmap.methods.voxel.options import NetworkOptions


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)


class SameConv(nn.Conv3d):
    """Convolution that keeps the grid, for even kernels too (one voxel more at the far side)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(inputs, outputs, kernel, padding=(kernel - 1) // 2 if kernel % 2 else 0)
        low = (kernel - 1) // 2
        self._pad = None if kernel % 2 else (low, kernel - 1 - low) * 3

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve, (B, C, v, v, v) → (B, C', v, v, v)."""
        return super().forward(x if self._pad is None else functional.pad(x, self._pad))


class Residual(nn.Module):
    """conv3 - norm - act - conv3 - norm, plus the input, act."""

    def __init__(self, channels: int, slope: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            SameConv(channels, channels, 3),
            _norm(channels),
            nn.LeakyReLU(slope),
            SameConv(channels, channels, 3),
            _norm(channels),
        )
        self.act = nn.LeakyReLU(slope)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape in and out."""
        return self.act(x + self.body(x))


class Generator(nn.Module):
    """Condition, noise and target type to the density of the target (II D): residual network."""

    def __init__(self, channels_in: int, types: int, options: NetworkOptions) -> None:
        super().__init__()
        c, s = options.channels, options.slope
        self.act = nn.LeakyReLU(s)
        self.enter = nn.Sequential(SameConv(channels_in, c, 4), _norm(c), nn.LeakyReLU(s))
        self.condition = nn.Sequential(*[Residual(c, s) for _ in range(options.condition_blocks)])
        self.down = nn.Sequential(
            nn.Conv3d(c, 2 * c, 3, stride=2, padding=1),
            _norm(2 * c),
            nn.LeakyReLU(s),
            SameConv(2 * c, 2 * c, 3),
            _norm(2 * c),
        )
        self.down_skip = nn.Conv3d(c, 2 * c, 1, stride=2)
        # The paper pads the 1^3 vector to 7^3 and applies a valid convolution of width 4:
        # a transposed convolution from 1^3 to 4^3 is the same map without the zeros.
        self.noise = nn.ConvTranspose3d(options.noise + types, 2 * c, 4)
        self.merge = nn.Sequential(SameConv(4 * c + types, 2 * c, 3), _norm(2 * c), nn.LeakyReLU(s))
        self.middle = nn.Sequential(*[Residual(2 * c, s) for _ in range(options.middle_blocks)])
        self.up_skip = nn.Conv3d(2 * c, c, 1)
        self.up = nn.Sequential(
            SameConv(c, c, 3), _norm(c), nn.LeakyReLU(s), SameConv(c, c, 3), _norm(c)
        )
        self.output = nn.Sequential(*[Residual(2 * c, s) for _ in range(options.output_blocks)])
        self.leave = nn.Conv3d(2 * c, 1, 1)

    def forward(
        self,
        condition: Float[Tensor, "B C v v v"],
        noise: Float[Tensor, "B Z"],
        target: Float[Tensor, "B A"],
    ) -> Float[Tensor, "B v3"]:
        """Density of the target atom, values in (0, 1), flattened over the grid.

        Args:
            condition: densities of the environment by channel.
            noise: standard normal numbers.
            target: one-hot type of the atom to place.
        """
        full = self.condition(self.enter(condition))
        half = self.act(self.down(full) + self.down_skip(full))
        seed = torch.cat([noise, target], dim=1)[..., None, None, None]
        drawn = self.act(self.noise(seed))
        size = half.shape[-3:]
        tiled = target[..., None, None, None].expand(-1, -1, *size)
        x = self.middle(self.merge(torch.cat([drawn, tiled, half], dim=1)))
        u = self.up_skip(functional.interpolate(x, scale_factor=2, mode="nearest"))
        u = self.act(u + self.up(u))
        x = self.leave(self.output(torch.cat([u, full], dim=1)))
        return torch.sigmoid(x.float()).flatten(1)


class DenseBlock(nn.Module):
    """conv3 - norm - act - conv3 - norm, beside its input (pooled where it strides), act."""

    def __init__(self, inputs: int, growth: int, stride: int, slope: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(inputs, growth, 3, stride=stride, padding=1),
            _norm(growth),
            nn.LeakyReLU(slope),
            SameConv(growth, growth, 3),
            _norm(growth),
        )
        self.skip = nn.MaxPool3d(2) if stride == 2 else nn.Identity()
        self.act = nn.LeakyReLU(slope)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, v, v, v) → (B, C + growth, v/stride, ...)."""
        return self.act(torch.cat([self.body(x), self.skip(x)], dim=1))


class Critic(nn.Module):
    """How real a target atom is in its environment (Eq. 9): dense network."""

    def __init__(self, channels_in: int, options: NetworkOptions) -> None:
        super().__init__()
        c, s = options.critic_channels, options.slope
        self.body = nn.Sequential(
            SameConv(channels_in, c, 4),
            nn.LeakyReLU(s),
            DenseBlock(c, c, 1, s),
            DenseBlock(2 * c, 2 * c, 2, s),
            DenseBlock(4 * c, 2 * c, 1, s),
            SameConv(6 * c, 2 * c, 3),
            _norm(2 * c),
            nn.LeakyReLU(s),
            nn.Conv3d(2 * c, c, 4),
            _norm(c),
            nn.LeakyReLU(s),
            nn.Flatten(),
        )
        self.leave = nn.Linear(c, 1)

    def forward(self, x: Float[Tensor, "B C v v v"]) -> Float[Tensor, "B"]:
        """Score of condition and candidate atom (its density in the channel of its type)."""
        return self.leave(self.body(x)).float().squeeze(1)


class PlainGenerator(nn.Module):
    """The small generator of the authors' later code.

    Its upsampling repeats the coarse grid as a tile there, which scrambles positions; here it
    repeats each voxel.
    """

    def __init__(self, channels_in: int, types: int, options: NetworkOptions) -> None:
        super().__init__()
        c, s = options.channels, options.slope

        def layer(conv: nn.Module, width: int) -> nn.Sequential:
            return nn.Sequential(conv, _norm(width), nn.LeakyReLU(s))

        self.condition = nn.Sequential(
            layer(SameConv(channels_in, c, 5), c), layer(SameConv(c, c, 3), c)
        )
        self.down = layer(nn.Conv3d(c, 2 * c, 3, stride=2, padding=1), 2 * c)
        self.noise = nn.Linear(options.noise + types, 2 * c * 64)
        self.act = nn.LeakyReLU(s)
        self.merge = layer(SameConv(4 * c, 2 * c, 3), 2 * c)
        self.up = layer(SameConv(2 * c, c, 3), c)
        self.output = nn.Sequential(
            layer(SameConv(2 * c, c, 3), c), layer(SameConv(c, c // 2, 3), c // 2)
        )
        self.leave = nn.Conv3d(c // 2, 1, 1)

    def forward(
        self,
        condition: Float[Tensor, "B C v v v"],
        noise: Float[Tensor, "B Z"],
        target: Float[Tensor, "B A"],
    ) -> Float[Tensor, "B v3"]:
        """As ``Generator.forward``."""
        full = self.condition(condition)
        half = self.down(full)
        drawn = self.act(self.noise(torch.cat([noise, target], dim=1)))
        x = self.merge(torch.cat([half, drawn.unflatten(1, (-1, 4, 4, 4))], dim=1))
        x = self.up(functional.interpolate(x, scale_factor=2, mode="nearest"))
        x = self.leave(self.output(torch.cat([x, full], dim=1)))
        return torch.sigmoid(x.float()).flatten(1)


class PlainCritic(nn.Module):
    """The small critic of the authors' later code (without its spectral norm)."""

    def __init__(self, channels_in: int, options: NetworkOptions) -> None:
        super().__init__()
        c, s = options.critic_channels, options.slope
        self.body = nn.Sequential(
            SameConv(channels_in, c, 5),
            nn.LeakyReLU(s),
            nn.Conv3d(c, 2 * c, 3, stride=2, padding=1),
            _norm(2 * c),
            nn.LeakyReLU(s),
            SameConv(2 * c, 2 * c, 3),
            _norm(2 * c),
            nn.LeakyReLU(s),
            nn.Conv3d(2 * c, c, 4),
            _norm(c),
            nn.LeakyReLU(s),
            nn.Flatten(),
        )
        self.leave = nn.Linear(c, 1)

    def forward(self, x: Float[Tensor, "B C v v v"]) -> Float[Tensor, "B"]:
        """As ``Critic.forward``."""
        return self.leave(self.body(x)).float().squeeze(1)


def build_generator(
    channels_in: int, types: int, options: NetworkOptions
) -> Generator | PlainGenerator:
    """Generator for a condition of ``channels_in`` channels and ``types`` atom types."""
    kind = Generator if options.architecture == "residual" else PlainGenerator
    return kind(channels_in, types, options)


def build_critic(channels_in: int, options: NetworkOptions) -> Critic | PlainCritic:
    """Critic of a condition and a candidate of together ``channels_in`` channels."""
    kind = Critic if options.architecture == "residual" else PlainCritic
    return kind(channels_in, options)

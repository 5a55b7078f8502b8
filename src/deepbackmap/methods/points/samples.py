"""Training samples: blocks somewhere on their paths from noise to data, and what they see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deepbackmap.methods.points.frames import PointFrames
from deepbackmap.methods.points.generator import (
    PointGenerator,
    select,
)

LATE = 1.5
"""Exponent that draws more times near the data than near the noise."""


@dataclass(frozen=True)
class Samples:
    """Blocks of one type on their paths."""

    noisy: Float[Tensor, "b d"]
    end: Float[Tensor, "b d"]
    angle: Float[Tensor, "b"]
    heat: Float[Tensor, "b"]
    fixed: Float[Tensor, "b i"]
    seen: Float[Tensor, "b s f 4"]
    real: Float[Tensor, "b d"]
    """One where the direction exists."""
    width: Float[Tensor, "b"]
    """How far beads are off, nm."""


@torch.no_grad()
def draw(
    generator: PointGenerator,
    data: Sequence[PointFrames],
    size: int,
    frames: int,
    settled: float,
    jitter: float,
    random: torch.Generator,
    *,
    paths: bool = True,
) -> dict[str, Samples]:
    """Blocks of each type from some frames, ``size`` of each type in all.

    Args:
        data: of one or several systems, all frames of which are drawn from alike.
        settled: part of the frames in which surroundings are finished.
        jitter: noise on what is seen of the surroundings, nm.
        random: a generator on the CPU, so that numbers are the same whatever the device.
        paths: at all places along the paths; else at their beginning alone.
    """
    places = [(part, k) for part in data for k in range(len(part))]
    frames = min(frames, len(places))
    chosen = torch.randperm(len(places), generator=random)[:frames].tolist()
    u = (torch.arange(frames) + torch.rand(frames, generator=random)) / frames
    angles = (0.5 * math.pi) * (1.0 - (1.0 - u) ** LATE)
    angles = angles[torch.randperm(frames, generator=random)].clamp_max(0.5 * math.pi - 0.01)
    angles = angles if paths else torch.zeros(frames)
    done = torch.rand(frames, generator=random) < settled
    found: dict[str, list[Samples]] = {}
    for place, angle, still in zip(chosen, angles.tolist(), done.tolist(), strict=True):
        part, k = places[place]
        states = _on_path(generator, part, k, angle, random)
        positions = part.positions(generator, k, states, math.sin(angle))
        around = part.positions(generator, k, None) if still else positions
        if jitter > 0:
            noise = torch.randn(around.shape, generator=random).to(around.device)
            around = around + jitter * noise
        for bead_type, table in part.tables.types.items():
            rows = torch.randperm(len(table.beads), generator=random)[: max(1, size // frames)]
            rows = rows.to(positions.device)
            these = select(table, rows)
            fixed, seen = generator.observe(
                bead_type, around, positions[these.own], these, part.tables, part.scenes[k],
                part.heat[k], still, part.widths[k],
            )  # fmt: skip
            found.setdefault(bead_type, []).append(
                Samples(
                    noisy=states[bead_type][rows],
                    end=part.whitened[bead_type][k][rows],
                    angle=fixed.new_full((len(rows),), angle),
                    heat=fixed.new_full((len(rows),), part.heat[k]),
                    fixed=fixed,
                    seen=seen,
                    real=(generator.flow(bead_type).unscale[these.variant] > 0).to(fixed.dtype),
                    width=fixed.new_full((len(rows),), part.widths[k]),
                )
            )
    return {t: _joined(parts) for t, parts in found.items()}


def _on_path(
    generator: PointGenerator, data: PointFrames, frame: int, angle: float, random: torch.Generator
) -> dict[str, Tensor]:
    """Whitened positions of all blocks of a frame at one place on their paths."""
    states = {}
    for bead_type, table in data.tables.types.items():
        end, flow = data.whitened[bead_type][frame], generator.flow(bead_type)
        noise = torch.randn(end.shape, generator=random).to(end.device)
        noise = noise * (flow.unscale[table.variant] > 0)
        size = flow.noise(data.heat[frame], data.widths[frame])
        states[bead_type] = math.cos(angle) * size * noise + math.sin(angle) * end
    return states


def _joined(parts: Sequence[Samples]) -> Samples:
    columns = {n: torch.cat([getattr(p, n) for p in parts]) for n in Samples.__dataclass_fields__}
    return Samples(**columns)

"""Training frames: where blocks are in their frames, and what a fresh generator takes from that."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from deepbackmap.blocks.handedness import split_by_hands
from deepbackmap.blocks.index import build_bead_frames, build_blocks, relative_positions
from deepbackmap.blocks.plan import build_plan
from deepbackmap.blocks.symmetry import block_flips, principal_axis
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.points.generator import (
    FLOOR,
    BlockFlow,
    PointGenerator,
    Scene,
    local_positions,
    make_scene,
)
from deepbackmap.methods.points.options import PointModelOptions
from deepbackmap.methods.points.pairs import MARGIN, find_pairs
from deepbackmap.methods.points.slots import (
    KindNames,
    bead_signs,
    build_point_tables,
    mirrored_frames,
    name_kinds,
)
from deepbackmap.methods.spec import ModelSpec


@dataclass(frozen=True)
class SlotFlip:
    """A free relabelling of one bead type as an exchange of slots."""

    slots: tuple[int, ...]
    images: tuple[int, ...]

    @property
    def halves(self) -> tuple[list[int], list[int]]:
        """The slots of either half."""
        ahead = [(a, b) for a, b in zip(self.slots, self.images, strict=True) if a < b]
        return [a for a, _ in ahead], [b for _, b in ahead]


def slot_flips(
    mapping: SystemMapping, names: KindNames, own: dict[str, tuple[str, ...]]
) -> dict[str, list[SlotFlip]]:
    """Which slots of a bead type hold atoms that are the same but for their names."""
    found: dict[str, set[SlotFlip]] = {}
    first = 0
    for molecule, beads in zip(mapping.topology.molecule_types, mapping.molecules, strict=True):
        for flip in block_flips(molecule, beads):
            kind = first + flip.bead
            bead_type = names.bead_type[kind]
            slot = {a: own[bead_type].index(s) for s, a in names.own[kind].items()}
            pair = SlotFlip(
                *(tuple(slot[a] for a in g.tolist()) for g in (flip.atoms, flip.images))
            )
            found.setdefault(bead_type, set()).add(pair)
        first += beads.n_beads
    return {t: sorted(f, key=lambda p: p.slots) for t, f in found.items()}


@dataclass(frozen=True)
class BlockRows:
    """Blocks of one bead type."""

    local: Float[Tensor, "n d"]
    """Positions in their frames, nm."""
    variant: Int64[Tensor, "n"]
    there: Bool[Tensor, "n s"]
    """Which slots are filled."""


class PointFrames:
    """Training frames: where blocks are in their frames, and what is near what."""

    def __init__(self, spec: ModelSpec, system: TrainingSystem, device: torch.device) -> None:
        """Everything but what needs the generator's statistics.

        Args:
            spec: of the model, with its vocabulary.
            system: with its frames.
            device: to work on.
        """
        assert isinstance(spec.options, PointModelOptions)
        self.points, vocabulary = spec.options.points, spec.options.slots()
        mapping = split_by_hands(system.mapping, system.handedness)
        structures, beads = system.structures, system.beads
        plan = build_plan(mapping, spec.atom_types, spec.bead_types)
        blocks = build_blocks(plan, mapping, torch.device("cpu"))
        names = name_kinds(mapping, plan, self.points, bead_signs(mapping, system.handedness))
        self.spec, self.device, self._blocks = spec, device, blocks
        self.host = build_point_tables(mapping, blocks, names, vocabulary, self.points)
        self.tables = build_point_tables(
            mapping, build_blocks(plan, mapping, device), names, vocabulary, self.points
        )
        self.heat = [math.sqrt(t / spec.temperature) for t in system.temperatures]
        self.widths = list(system.off)
        self._frames = [
            mirrored_frames(
                build_bead_frames(c, s.box, blocks, mapping, cutoff=spec.bead_cutoff, plane=True),
                self.host.hand,
            )
            for s, c in zip(structures, beads, strict=True)
        ]
        relative = [
            torch.as_tensor(relative_positions(s, mapping, c), dtype=torch.float32)
            for s, c in zip(structures, beads, strict=True)
        ]
        self._relative = [torch.cat([r, r.new_zeros(1, 3)]) for r in relative]
        self.flips = slot_flips(mapping, names, vocabulary.own)
        self.whitened: dict[str, Float[Tensor, "f b d"]] = {}
        self.scenes: list[Scene] = []

    def __len__(self) -> int:
        return len(self._frames)

    def sides(self, bead_type: str, flip: SlotFlip) -> Float[Tensor, "f b 3"]:
        """Vectors from the one half of a symmetric group to the other, in the blocks' frames."""
        a, b = flip.halves
        local = self.local(bead_type).unflatten(-1, (-1, 3))
        return (local[:, :, a] - local[:, :, b]).sum(2)

    def exchange(self, bead_type: str, flip: SlotFlip, wrong: Bool[Tensor, "f b"]) -> None:
        """Exchanges the labels of the halves in some blocks."""
        table = self.host.types[bead_type]
        for relative, turned in zip(self._relative, wrong, strict=True):
            own = table.own[turned]
            relative[own[:, list(flip.slots)]] = relative[own[:, list(flip.images)]]

    def local(self, bead_type: str) -> Float[Tensor, "f b s3"]:
        """Positions of all blocks of a type in their frames, nm."""
        table = self.host.types[bead_type]
        return torch.stack(
            [
                local_positions(r, table, f.rotation[0]).flatten(1)
                for r, f in zip(self._relative, self._frames, strict=True)
            ]
        )

    def blocks(self, bead_type: str) -> BlockRows:
        """All blocks of a type on exact beads, of all such frames."""
        table, local = self.host.types[bead_type], self.local(bead_type)
        exact = local[torch.tensor(self.widths) == 0] if min(self.widths) == 0 else local
        there = table.own < self.host.n_atoms
        frames = len(exact)
        return BlockRows(
            exact.flatten(0, 1), table.variant.repeat(frames), there.repeat(frames, 1)
        )  # fmt: skip

    def prepare(self, generator: PointGenerator) -> None:
        """Whiten by the generator's statistics, and list pairs by its means."""
        host = copy.deepcopy(generator).to("cpu")
        types, cutoff = len(self.spec.atom_types), self.points.cutoff + MARGIN
        for bead_type, table in self.host.types.items():
            flow = host.flow(bead_type)
            local = self.local(bead_type).unflatten(-1, (-1, 3))
            white = torch.stack([flow.whitened(x, table.variant) for x in local])
            self.whitened[bead_type] = white.to(self.device)
        self.scenes = []
        for frames in self._frames:
            means = host.means(self.host, frames.rotation[0])
            pairs = find_pairs(
                self.host, self._blocks, frames.near(), frames.whole[0], means, cutoff, types
            )
            self.scenes.append(make_scene(frames.to(self.device), pairs.to(self.device)))

    def surroundings(
        self, generator: PointGenerator, bead_type: str
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Context, beads of the chain, and densities around each atom, of about a dozen frames."""
        table, found = self.tables.types[bead_type], []
        for k in range(0, len(self), max(1, len(self) // 12)):
            positions = self.positions(generator, k, None)
            context, chain = generator.neighbours(positions, table, self.tables, self.scenes[k])
            seen = generator.around(positions, positions[table.own], table, self.scenes[k])
            found.append((context, chain, seen[table.own < self.tables.n_atoms]))
        return found

    def positions(
        self, generator: PointGenerator, frame: int, states: dict[str, Tensor] | None,
        shrink: float = 1.0,
    ) -> Float[Tensor, "na1 3"]:  # fmt: skip
        """Positions relative to beads of whitened states of a frame, of the data by default."""
        data = {t: u[frame] for t, u in self.whitened.items()}
        scene = self.scenes[frame]
        return generator.spread(states or data, self.tables, scene.rotation, shrink=shrink)


def same_labels(data: Sequence[PointFrames]) -> None:
    """Gives symmetric groups the same labels in all blocks of all systems: by the axis along which
    their two sides point most often, so that the cut falls where there are fewest."""
    flips = {(t, f): None for part in data for t, found in part.flips.items() for f in found}
    for bead_type, flip in flips:
        here = [p for p in data if bead_type in p.host.types]
        sides = [part.sides(bead_type, flip) for part in here]
        axis = principal_axis(torch.cat([x.reshape(-1, 3) for x in sides]).numpy())
        for part, x in zip(here, sides, strict=True):
            part.exchange(bead_type, flip, x @ torch.as_tensor(axis, dtype=x.dtype) < 0)


def fit(data: Sequence[PointFrames], generator: PointGenerator) -> None:
    """Sets a fresh generator's statistics: of blocks, and of what they see."""
    for bead_type in generator.names:
        here = [part for part in data if bead_type in part.host.types]
        fit_blocks(generator.flow(bead_type), [p.blocks(bead_type) for p in here])
    for part in data:
        part.prepare(generator)
    with torch.no_grad():
        for bead_type in generator.names:
            here = [part for part in data if bead_type in part.host.types]
            _fit_surroundings(generator.flow(bead_type), bead_type, here, generator)
    fit_push(data, generator)


def _fit_surroundings(
    flow: BlockFlow, bead_type: str, data: Sequence[PointFrames], generator: PointGenerator
) -> None:
    contexts, chains, seen = [], [], []
    for part in data:
        table = part.tables.types[bead_type]
        there, chained = table.context < part.tables.n_atoms, table.chain_hand != 0
        for context, chain, around in part.surroundings(generator, bead_type):
            contexts.append((context, there))
            chains.append((chain, chained))
            seen.append(around)
    for name, found in (("context", contexts), ("chain", chains)):
        mean, std = _moments(*(torch.cat(x) for x in zip(*found, strict=True)))
        getattr(flow, f"{name}_mean").copy_(mean)
        getattr(flow, f"{name}_std").copy_(std.clamp_min(0.02))
    flow.density_mean.copy_(torch.cat(seen).mean(0))
    flow.density_std.copy_(torch.cat(seen).std(0).clamp_min(0.05))


def fit_push(data: Sequence[PointFrames], generator: PointGenerator) -> None:
    """Sets how much beads that are off move blocks, by what noisy frames have more than exact
    ones of the same system; for generators that are told."""
    if not generator.uncertain:
        return
    for bead_type in generator.names:
        more, squares = [], 0.0
        for part in data:
            if bead_type not in part.tables.types:
                continue
            heat = torch.tensor(part.heat, device=part.device)[:, None]
            widths = torch.tensor(part.widths, device=part.device)
            each = part.whitened[bead_type].square().mean(1)
            if (widths > 0).any() and (widths == 0).any():
                exact = (each / heat.square())[widths == 0].mean(0)
                more.append((each - heat.square() * exact)[widths > 0].sum(0))
                squares += float(widths.square().sum())
        if squares:
            found = (torch.stack(more).sum(0) / squares).clamp_min(0.0).sqrt()
            generator.flow(bead_type).network.push.copy_(found)


def _moments(
    values: Float[Tensor, "b k 3"], used: Bool[Tensor, "b k"]
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k"]]:
    """Mean, and standard deviation of a component, of each slot where it is used."""
    weight = used.to(values.dtype)[..., None]
    total = weight.sum(0).clamp_min(1.0)
    mean = (values * weight).sum(0) / total
    variance = ((values - mean).square() * weight).sum(0) / total
    return mean, variance.mean(-1).sqrt()


def fit_blocks(flow: BlockFlow, data: Sequence[BlockRows]) -> None:
    """Mean, directions and widths of the blocks of one type.

    The directions are the principal axes of the most frequent variant; every variant has its own
    mean and widths along them. Slots that this variant lacks are axes of their own.
    """
    counts = sum(torch.bincount(rows.variant, minlength=flow.variants) for rows in data)
    assert isinstance(counts, Tensor)

    def of(variant: int) -> tuple[Tensor, Tensor, Tensor]:
        members = [rows.variant == variant for rows in data]
        found = [rows.local[m] for rows, m in zip(data, members, strict=True)]
        rows = torch.cat(found).double()
        there = next(x.there[m][0] for x, m in zip(data, members, strict=True) if m.any())
        return rows.mean(0), torch.cov(rows.T), there.repeat_interleave(3)

    _, covariance, there = of(int(counts.argmax()))
    modes = torch.eye(len(there), dtype=torch.float64)
    at = torch.nonzero(there).squeeze(1)
    modes[at[:, None], at] = torch.linalg.eigh(covariance[at[:, None], at])[1]
    flow.modes.copy_(modes)
    for variant in torch.nonzero(counts).squeeze(1).tolist():
        mean, covariance, there = of(variant)
        width = torch.diagonal(modes.T @ covariance @ modes)
        width = (width + FLOOR**2 * modes.square()[there].sum(0)).sqrt()
        real = width > 0.05 * FLOOR
        flow.mean[variant] = (mean * there).to(flow.mean)
        flow.scale[variant] = torch.where(real, width, 0.0).to(flow.scale)
        inverse = torch.where(real, 1.0 / width.clamp_min(1e-9), 0.0)
        flow.unscale[variant] = inverse.to(flow.unscale)

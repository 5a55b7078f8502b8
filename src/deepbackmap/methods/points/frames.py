"""Training frames: where blocks are in their frames, and what a fresh generator takes from that."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

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
    TypeTable,
    bead_signs,
    build_point_tables,
    mirrored_frames,
    name_kinds,
)
from deepbackmap.methods.spec import ModelSpec


@dataclass(frozen=True)
class _Flips:
    """Free relabellings of one bead type as exchanges of slots."""

    slots: tuple[int, ...]
    images: tuple[int, ...]


def slot_flips(
    mapping: SystemMapping, names: KindNames, own: dict[str, tuple[str, ...]]
) -> dict[str, list[_Flips]]:
    """Which slots of a bead type hold atoms that are the same but for their names."""
    found: dict[str, set[_Flips]] = {}
    first = 0
    for molecule, beads in zip(mapping.topology.molecule_types, mapping.molecules, strict=True):
        for flip in block_flips(molecule, beads):
            kind = first + flip.bead
            bead_type = names.bead_type[kind]
            slot = {a: own[bead_type].index(s) for s, a in names.own[kind].items()}
            pair = _Flips(*(tuple(slot[a] for a in g.tolist()) for g in (flip.atoms, flip.images)))
            found.setdefault(bead_type, set()).add(pair)
        first += beads.n_beads
    return {t: sorted(f, key=lambda p: p.slots) for t, f in found.items()}


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
        mapping, structures, beads = system.mapping, system.structures, system.beads
        plan = build_plan(mapping, spec.atom_types, spec.bead_types)
        blocks = build_blocks(plan, mapping, torch.device("cpu"))
        names = name_kinds(mapping, plan, self.points, bead_signs(mapping, system.handedness))
        self.spec, self.device, self._blocks = spec, device, blocks
        self._host = build_point_tables(mapping, blocks, names, vocabulary, self.points)
        self.tables = build_point_tables(
            mapping, build_blocks(plan, mapping, device), names, vocabulary, self.points
        )
        self.heat = [math.sqrt(t / spec.temperature) for t in system.temperatures]
        self._frames = [
            mirrored_frames(
                build_bead_frames(c, s.box, blocks, mapping, cutoff=spec.bead_cutoff, plane=True),
                self._host.hand,
            )
            for s, c in zip(structures, beads, strict=True)
        ]
        relative = [
            torch.as_tensor(relative_positions(s, mapping, c), dtype=torch.float32)
            for s, c in zip(structures, beads, strict=True)
        ]
        self._relative = [torch.cat([r, r.new_zeros(1, 3)]) for r in relative]
        self._relabel(slot_flips(mapping, names, vocabulary.own))
        self.whitened: dict[str, Float[Tensor, "f b d"]] = {}
        self.scenes: list[Scene] = []

    def __len__(self) -> int:
        return len(self._frames)

    def _relabel(self, flips: dict[str, list[_Flips]]) -> None:
        """Give symmetric groups the same labels in all blocks: by the axis along which their two
        sides point most often, so that the cut falls where there are fewest."""
        for bead_type, found in flips.items():
            table = self._host.types.get(bead_type)
            if table is None:
                continue
            for flip in found:
                ahead = [(a, b) for a, b in zip(flip.slots, flip.images, strict=True) if a < b]
                a, b = [x for x, _ in ahead], [x for _, x in ahead]
                local = [
                    local_positions(r, table, f.rotation[0])
                    for r, f in zip(self._relative, self._frames, strict=True)
                ]
                sides = torch.stack([(x[:, a] - x[:, b]).sum(1) for x in local])
                axis = principal_axis(sides.reshape(-1, 3).numpy())
                wrong = sides @ torch.as_tensor(axis, dtype=sides.dtype) < 0
                for relative, turned in zip(self._relative, wrong, strict=True):
                    own = table.own[turned]
                    relative[own[:, list(flip.slots)]] = relative[own[:, list(flip.images)]]

    def local(self, bead_type: str) -> Float[Tensor, "f b s3"]:
        """Positions of all blocks of a type in their frames, nm."""
        table = self._host.types[bead_type]
        return torch.stack(
            [
                local_positions(r, table, f.rotation[0]).flatten(1)
                for r, f in zip(self._relative, self._frames, strict=True)
            ]
        )

    def prepare(self, generator: PointGenerator) -> None:
        """Whiten by the generator's statistics, and list pairs by its means."""
        host = copy.deepcopy(generator).to("cpu")
        types, cutoff = len(self.spec.atom_types), self.points.cutoff + MARGIN
        for bead_type, table in self._host.types.items():
            flow = host.flow(bead_type)
            local = self.local(bead_type).unflatten(-1, (-1, 3))
            white = torch.stack([flow.whitened(x, table.variant) for x in local])
            self.whitened[bead_type] = white.to(self.device)
        self.scenes = []
        for frames in self._frames:
            means = host.means(self._host, frames.rotation[0])
            pairs = find_pairs(
                self._host, self._blocks, frames.near(), frames.whole[0], means, cutoff, types
            )
            self.scenes.append(make_scene(frames.to(self.device), pairs.to(self.device)))

    def fit(self, generator: PointGenerator) -> None:
        """Set a fresh generator's statistics: of blocks, and of what they see."""
        for bead_type, table in self._host.types.items():
            fit_blocks(generator.flow(bead_type), self.local(bead_type), table, self._host.n_atoms)
        self.prepare(generator)
        with torch.no_grad():
            for bead_type in self.tables.types:
                self._fit_surroundings(generator, bead_type)

    def _fit_surroundings(self, generator: PointGenerator, bead_type: str) -> None:
        table, flow = self.tables.types[bead_type], generator.flow(bead_type)
        contexts, chains, seen = [], [], []
        for k in range(0, len(self), max(1, len(self) // 12)):
            positions = self.positions(generator, k, None)
            context, chain = generator.neighbours(positions, table, self.tables, self.scenes[k])
            contexts.append(context)
            chains.append(chain)
            own = positions[table.own]
            around = generator.around(positions, own, table, self.scenes[k])
            seen.append(around[table.own < self.tables.n_atoms])
        there = table.context < self.tables.n_atoms
        for name, found, used in (
            ("context", contexts, there), ("chain", chains, table.chain_hand != 0)
        ):  # fmt: skip
            mean, std = _moments(torch.stack(found), used)
            getattr(flow, f"{name}_mean").copy_(mean)
            getattr(flow, f"{name}_std").copy_(std.clamp_min(0.02))
        flow.density_mean.copy_(torch.cat(seen).mean(0))
        flow.density_std.copy_(torch.cat(seen).std(0).clamp_min(0.05))

    def positions(
        self, generator: PointGenerator, frame: int, states: dict[str, Tensor] | None,
        shrink: float = 1.0,
    ) -> Float[Tensor, "na1 3"]:  # fmt: skip
        """Positions relative to beads of whitened states of a frame, of the data by default."""
        data = {t: u[frame] for t, u in self.whitened.items()}
        scene = self.scenes[frame]
        return generator.spread(states or data, self.tables, scene.rotation, shrink=shrink)


def _moments(
    values: Float[Tensor, "f b k 3"], used: Tensor
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, "k"]]:
    """Mean, and standard deviation of a component, of each slot where it is used, (b, k)."""
    weight = used.to(values.dtype)[None, ..., None]
    total = (weight.sum((0, 1)) * len(values)).clamp_min(1.0)
    mean = (values * weight).sum((0, 1)) / total
    variance = ((values - mean).square() * weight).sum((0, 1)) / total
    return mean, variance.mean(-1).sqrt()


def fit_blocks(
    flow: BlockFlow, local: Float[Tensor, "f b d"], table: TypeTable, n_atoms: int
) -> None:
    """Mean, directions and widths of the blocks of one type.

    The directions are the principal axes of the most frequent variant; every variant has its own
    mean and widths along them. Slots that this variant lacks are axes of their own.
    """
    counts = torch.bincount(table.variant, minlength=flow.variants)
    data = local.double()

    def of(variant: int) -> tuple[Tensor, Tensor, Tensor]:
        members = table.variant == variant
        rows = data[:, members].flatten(0, 1)
        there = (table.own[members][0] < n_atoms).repeat_interleave(3)
        return rows.mean(0), torch.cov(rows.T), there

    _, covariance, there = of(int(counts.argmax()))
    modes = torch.eye(data.shape[-1], dtype=torch.float64)
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

"""Training of the point generator: data set, statistics, and the loop's steps.

Each step takes a few frames, puts every block of each somewhere on its path between noise and
data, and asks for the end of the path of some of the blocks. What they see is on its path as they
are (as when a whole box is placed) or finished (as in a Gibbs sweep).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from deepbackmap.mapping import SystemMapping
from deepbackmap.model import ModelSpec, new_generator
from deepbackmap.model.points import (
    FLOOR,
    BlockFlow,
    PointGenerator,
    Scene,
    local_positions,
    make_scene,
    select,
)
from deepbackmap.networks.points import NARROWEST, SPREADS, WIDEST
from deepbackmap.representation.environment import build_bead_frames, build_blocks
from deepbackmap.representation.plan import build_plan
from deepbackmap.representation.points import (
    MARGIN,
    KindNames,
    TypeTable,
    build_point_tables,
    find_pairs,
    mirrored_frames,
    name_kinds,
)
from deepbackmap.system import Structure
from deepbackmap.training.adversary import Adversary
from deepbackmap.training.dataset import relative_positions
from deepbackmap.training.loop import (
    Metrics,
    apply_gradients,
    follow,
    rate_share,
    seeded,
)
from deepbackmap.training.options import TrainingOptions
from deepbackmap.training.symmetry import block_flips, principal_axis

FIRST_STAGE = 0.1
"""Weight of the first stage's own error in the loss."""
LATE = 1.5
"""Exponent that draws more times near the data than near the noise."""
MEASURED = 40
"""Samples after which a measured spread counts fully in its moving average."""


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


class FlowFrames:
    """Training frames: where blocks are in their frames, and what is near what."""

    def __init__(
        self,
        spec: ModelSpec,
        mapping: SystemMapping,
        structures: Sequence[Structure],
        device: torch.device,
        *,
        beads: Sequence[np.ndarray],
        hands: tuple[dict[int, int], ...],
        temperatures: Sequence[float],
    ) -> None:
        """Everything but what needs the generator's statistics.

        Args:
            spec: of the model, with its vocabulary.
            mapping: of the system.
            structures: the frames.
            device: to work on.
            beads: positions of the beads of every frame.
            hands: ``representation.points.bead_signs``.
            temperatures: of every frame, K.
        """
        assert spec.vocabulary is not None
        plan = build_plan(mapping, spec.atom_types, spec.bead_types)
        blocks = build_blocks(plan, mapping, torch.device("cpu"))
        names = name_kinds(mapping, plan, spec.points, hands)
        self.spec, self.device, self._blocks = spec, device, blocks
        self._host = build_point_tables(mapping, blocks, names, spec.vocabulary, spec.points)
        self.tables = build_point_tables(
            mapping, build_blocks(plan, mapping, device), names, spec.vocabulary, spec.points
        )
        self.heat = [math.sqrt(t / spec.temperature) for t in temperatures]
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
        self._relabel(slot_flips(mapping, names, spec.vocabulary.own))
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
        types, cutoff = len(self.spec.atom_types), self.spec.points.cutoff + MARGIN
        for bead_type, table in self._host.types.items():
            flow = host.flow(bead_type)
            local = self.local(bead_type).unflatten(-1, (-1, 3))
            white = torch.stack([flow.whitened(x, table.variant) for x in local])
            self.whitened[bead_type] = white.to(self.device)
        self.scenes = []
        for frames in self._frames:
            means = host.means(self._host, frames.rotation[0])
            pairs = find_pairs(self._host, self._blocks, frames, means, cutoff, types)
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


@dataclass(frozen=True)
class _Sample:
    """Blocks of one type on their paths."""

    noisy: Float[Tensor, "b d"]
    end: Float[Tensor, "b d"]
    angle: Float[Tensor, "b"]
    heat: Float[Tensor, "b"]
    fixed: Float[Tensor, "b i"]
    seen: Float[Tensor, "b s f 4"]
    real: Float[Tensor, "b d"]
    """One where the direction exists."""


class FlowTrainer:
    """The point generator, its optimiser and the step that moves it."""

    def __init__(self, fabric: Fabric, spec: ModelSpec, options: TrainingOptions) -> None:
        self.fabric, self.spec, self.options = fabric, spec, options
        self.paths = options.target == "flow"
        self.measure = path_loss if self.paths else draw_loss
        self.iteration = 0
        self._beside = ThreadPoolExecutor(1)
        self._ahead: Future[tuple[dict[str, _Sample], torch.Generator]] | None = None
        torch.manual_seed(options.seed)
        generator = new_generator(spec).to(fabric.device)
        assert isinstance(generator, PointGenerator)
        self.generator = generator
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.adversary = (
            Adversary(fabric, generator, options) if options.target == "critic" else None
        )
        self.optimiser = torch.optim.AdamW(
            generator.parameters(),
            lr=options.learning_rate,
            betas=(options.beta1, options.beta2),
            weight_decay=options.weight_decay,
        )

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        return {
            "iteration": self.iteration,
            "generator": self.generator.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "adversary": self.adversary.state() if self.adversary else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self.iteration, self._ahead = state["iteration"], None
        self.generator.load_state_dict(state["generator"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.adversary:
            self.adversary.restore(state["adversary"])

    @property
    def result(self) -> nn.Module:
        """The generator to save: its moving average where one is kept."""
        return self.average if self.options.average > 0 else self.generator

    def use(self, data: FlowFrames) -> None:
        """The frames to train on; a fresh generator takes its statistics from them."""
        self.data, self._ahead = data, None
        if self.iteration == 0:
            data.fit(self.generator)
            self.average.load_state_dict(self.generator.state_dict())
        else:
            data.prepare(self.generator)

    def step(self) -> dict[str, Tensor]:
        """One update."""
        o = self.options
        for group in self.optimiser.param_groups:
            group["lr"] = o.learning_rate * rate_share(o, self.iteration)
        self.generator.train()
        samples, random = self._next_samples()
        loss = torch.zeros((), device=self.fabric.device)
        parts: dict[str, Tensor] = {}
        errors = {}
        for bead_type, sample in samples.items():
            with self.fabric.autocast(), _named_dropout(random, self.fabric.device):
                found, deviation = self._learn(bead_type, sample)
            loss = loss + found["end"] + FIRST_STAGE * found["mean"]
            parts |= {f"{bead_type}_{k}": v.detach() for k, v in found.items()}
            errors[bead_type] = deviation.detach()
        norm = apply_gradients(self.fabric, loss, self.generator, self.optimiser, o.clip)
        for bead_type, deviation in errors.items():
            measure_spread(self.generator.flow(bead_type), samples[bead_type], deviation)
        follow(self.average, self.generator, o.average, self.iteration)
        for kept, new in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(new)
        self.iteration += 1
        return parts | {"gradient": norm}

    def _learn(self, bead_type: str, sample: _Sample) -> tuple[dict[str, Tensor], Tensor]:
        """Errors of a step, and the squared deviation of the first stage."""
        flow = self.generator.flow(bead_type)
        if self.adversary is None:
            return self.measure(flow, sample)
        loss, draw, mean = self.adversary.judge(
            bead_type, flow, sample.end, sample.heat, sample.fixed, sample.seen, sample.real
        )
        return _of_a_draw(flow, sample, loss, draw, mean)

    def _samples(self, iteration: int) -> tuple[dict[str, _Sample], torch.Generator]:
        """What an iteration learns from, and the random numbers that it goes on with."""
        o = self.options
        random = seeded(o.seed, iteration, self.fabric.global_rank)
        samples = draw(
            self.generator, self.data, o.batch, o.frames, o.settled, o.jitter, random,
            paths=self.paths,
        )  # fmt: skip
        return samples, random

    def _next_samples(self) -> tuple[dict[str, _Sample], torch.Generator]:
        """Those of this iteration. On a CPU those of the next are meanwhile made beside it: they
        hang on the generator's statistics only, which training does not change."""
        if self.fabric.device.type != "cpu":
            return self._samples(self.iteration)
        ahead = self._ahead or self._beside.submit(self._samples, self.iteration)
        last = self.iteration + 1 >= self.options.iterations
        found = ahead.result()
        self._ahead = None if last else self._beside.submit(self._samples, self.iteration + 1)
        return found

    @torch.no_grad()
    def validate(self, data: FlowFrames, batches: int = 12) -> Metrics:
        """Errors on held-out frames, always with the same noise."""
        generator = self.result.eval()
        assert isinstance(generator, PointGenerator)
        data.prepare(generator)
        sums: dict[str, list[float]] = {}
        for k in range(batches):
            random = seeded(self.options.seed, k, 7919)
            samples = draw(
                generator, data, 4 * self.options.batch, 1, 0.0, 0.0, random, paths=self.paths
            )
            for bead_type, sample in samples.items():
                found, _ = self.measure(generator.flow(bead_type), sample)
                for name, value in found.items():
                    sums.setdefault(f"{bead_type}_{name}", []).append(float(value))
        means = {f"validation_{k}": sum(v) / len(v) for k, v in sums.items()}
        ends = [v for k, v in means.items() if k.endswith("_distance")]
        return means | {"validation_main": sum(ends) / len(ends)}


@contextmanager
def halved_threads() -> Iterator[None]:
    """Half of PyTorch's threads for the step, half for the samples of the next one."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _named_dropout(random: torch.Generator, device: torch.device) -> Iterator[None]:
    """What dropout draws depends on ``random`` alone, so that a run that was resumed goes on as one
    that was not; the global generators are left as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(1 << 62, (), generator=random)))
        yield


def path_loss(flow: BlockFlow, sample: _Sample) -> tuple[dict[str, Tensor], Tensor]:
    """Errors of the expected ends in units of what is to be expected, and the squared deviation
    of the first stage."""
    end, mean, size = flow.network(
        sample.noisy, sample.angle, sample.heat, sample.fixed, sample.seen
    )
    spread = flow.network.expected_spread(sample.angle)
    deviation = (mean - sample.end).square()
    real = sample.real
    total = real.sum().clamp_min(1.0)
    off = (end - sample.end) * real
    return {
        "end": (off / size.clamp_min(1e-3)).square().sum() / total,
        "mean": (deviation * real / (spread * sample.heat[:, None]).square()).sum() / total,
        "distance": off.square().sum() / total,
    }, deviation


def draw_loss(flow: BlockFlow, sample: _Sample) -> tuple[dict[str, Tensor], Tensor]:
    """Energy score of two draws in one step, in units of what is to be expected, and the squared
    deviation of the first stage.

    Its expectation is least where draws are distributed as the data (Gneiting, Raftery, J. Am.
    Stat. Assoc. 102, 359, 2007).
    """
    size = flow.network.expected_spread(sample.angle) * sample.heat[:, None]

    def drawn(noise: Tensor) -> tuple[Tensor, Tensor]:
        end, mean, _ = flow.network(noise, sample.angle, sample.heat, sample.fixed, sample.seen)
        return end, mean

    def apart(one: Tensor, other: Tensor) -> Tensor:
        return (((one - other) / size * sample.real).square().sum(-1) + 1e-6).sqrt().mean()

    # two noises that do not know of each other: the sample's own, and it shuffled among blocks
    (one, mean), (two, _) = drawn(sample.noisy), drawn(sample.noisy.roll(1, 0) * sample.real)
    score = 0.5 * (apart(one, sample.end) + apart(two, sample.end)) - 0.5 * apart(one, two)
    return _of_a_draw(flow, sample, score, one, mean)


def _of_a_draw(
    flow: BlockFlow, sample: _Sample, loss: Tensor, draw: Tensor, mean: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """A draw's loss with the errors of the first stage, and the squared deviation of that."""
    size = flow.network.expected_spread(sample.angle) * sample.heat[:, None]
    deviation, total = (mean - sample.end).square(), sample.real.sum().clamp_min(1.0)
    return {
        "end": loss,
        "mean": (deviation * sample.real / size.square()).sum() / total,
        "distance": ((draw - sample.end) * sample.real).square().sum() / total,
    }, deviation


def measure_spread(flow: BlockFlow, sample: _Sample, deviation: Float[Tensor, "b d"]) -> None:
    """Moving average of the first stage's deviation by time and direction."""
    spread = flow.network.spread
    place = (sample.angle * (2.0 / math.pi) * (SPREADS - 1)).round().to(torch.int64)
    member = nn.functional.one_hot(place, SPREADS).to(deviation.dtype)
    # Variants that lack a direction say nothing about it.
    count = member.T @ sample.real
    scaled = deviation / sample.heat[:, None].square() * sample.real
    new = (member.T @ scaled) / count.clamp_min(1.0)
    rate = 0.02 * (count / MEASURED).clamp_max(1.0)
    spread.copy_((spread.square() * (1 - rate) + rate * new).sqrt().clamp(NARROWEST, WIDEST))


@torch.no_grad()
def draw(
    generator: PointGenerator,
    data: FlowFrames,
    size: int,
    frames: int,
    settled: float,
    jitter: float,
    random: torch.Generator,
    *,
    paths: bool = True,
) -> dict[str, _Sample]:
    """Blocks of each type from some frames, ``size`` of each type in all.

    Args:
        settled: part of the frames in which surroundings are finished.
        jitter: noise on what is seen of the surroundings, nm.
        random: a generator on the CPU, so that numbers are the same whatever the device.
        paths: at all places along the paths; else at their beginning alone.
    """
    frames = min(frames, len(data))
    chosen = torch.randperm(len(data), generator=random)[:frames].tolist()
    u = (torch.arange(frames) + torch.rand(frames, generator=random)) / frames
    angles = (0.5 * math.pi) * (1.0 - (1.0 - u) ** LATE)
    angles = angles[torch.randperm(frames, generator=random)].clamp_max(0.5 * math.pi - 0.01)
    angles = angles if paths else torch.zeros(frames)
    done = torch.rand(frames, generator=random) < settled
    found: dict[str, list[_Sample]] = {t: [] for t in data.tables.types}
    for k, angle, still in zip(chosen, angles.tolist(), done.tolist(), strict=True):
        states = _on_path(generator, data, k, angle, random)
        positions = data.positions(generator, k, states, math.sin(angle))
        around = data.positions(generator, k, None) if still else positions
        if jitter > 0:
            noise = torch.randn(around.shape, generator=random).to(around.device)
            around = around + jitter * noise
        for bead_type, table in data.tables.types.items():
            rows = torch.randperm(len(table.beads), generator=random)[: max(1, size // frames)]
            rows = rows.to(positions.device)
            part = select(table, rows)
            fixed, seen = generator.observe(
                bead_type, around, positions[part.own], part, data.tables, data.scenes[k],
                data.heat[k], still,
            )  # fmt: skip
            found[bead_type].append(
                _Sample(
                    noisy=states[bead_type][rows],
                    end=data.whitened[bead_type][k][rows],
                    angle=fixed.new_full((len(rows),), angle),
                    heat=fixed.new_full((len(rows),), data.heat[k]),
                    fixed=fixed,
                    seen=seen,
                    real=(generator.flow(bead_type).unscale[part.variant] > 0).to(fixed.dtype),
                )
            )
    return {t: _joined(parts) for t, parts in found.items()}


def _on_path(
    generator: PointGenerator, data: FlowFrames, frame: int, angle: float, random: torch.Generator
) -> dict[str, Tensor]:
    """Whitened positions of all blocks of a frame at one place on their paths."""
    states = {}
    for bead_type, table in data.tables.types.items():
        end = data.whitened[bead_type][frame]
        noise = torch.randn(end.shape, generator=random).to(end.device)
        noise = noise * (generator.flow(bead_type).unscale[table.variant] > 0)
        states[bead_type] = math.cos(angle) * data.heat[frame] * noise + math.sin(angle) * end
    return states


def _joined(parts: Sequence[_Sample]) -> _Sample:
    columns = {n: torch.cat([getattr(p, n) for p in parts]) for n in _Sample.__dataclass_fields__}
    return _Sample(**columns)

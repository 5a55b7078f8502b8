"""Training of the point generator: data set, statistics, and the loop's steps.

Each step takes a few frames, puts every block of each somewhere on its path between noise and
data, and asks for the end of the path of some of the blocks. What they see is on its path as they
are (as when a whole box is placed) or finished (as in a Gibbs sweep).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from deepbackmap.data.systems import TrainingSystem
from deepbackmap.errors import InputError
from deepbackmap.methods.learning import apply_gradients, follow, rate_share, seeded
from deepbackmap.methods.options import Metrics
from deepbackmap.methods.points.adversary import Adversary
from deepbackmap.methods.points.frames import PointFrames, fit, fit_push, same_labels
from deepbackmap.methods.points.generator import (
    PointGenerator,
    fresh_generator,
)
from deepbackmap.methods.points.losses import (
    FIRST_STAGE,
    draw_loss,
    measure_spread,
    of_a_draw,
    path_loss,
)
from deepbackmap.methods.points.options import PointModelOptions, PointTrainingOptions
from deepbackmap.methods.points.samples import Samples, draw
from deepbackmap.methods.spec import ModelSpec


class PointLearner:
    """The point generator, its optimiser and the step that moves it."""

    def __init__(self, fabric: Fabric, spec: ModelSpec, options: PointTrainingOptions) -> None:
        self.fabric, self.spec, self.options = fabric, spec, options
        assert isinstance(spec.options, PointModelOptions)
        if options.target == "critic" and spec.options.network.uncertain:
            raise InputError(
                "training.target: expected flow or draw with network.uncertain, found critic, "
                "which does not see how far beads are off"
            )
        self.paths = options.target == "flow"
        self.measure = path_loss if self.paths else draw_loss
        self.iteration = 0
        self._begun = False
        self._beside = ThreadPoolExecutor(1)
        self._ahead: Future[tuple[dict[str, Samples], torch.Generator]] | None = None
        torch.manual_seed(options.seed)
        generator = fresh_generator(spec).to(fabric.device)
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

    def running(self) -> AbstractContextManager[None]:
        """Half of the threads for the step, half for the samples of the next one."""
        return halved_threads()

    def state(self) -> dict[str, object]:
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

    def begin(self, generator: nn.Module) -> None:
        """Begin with the weights and the statistics of another model's generator; what it is not
        told, as how far beads are off, has no weight at first."""
        for mine in (self.generator, self.average):
            mine.load_state_dict(_widened(generator.state_dict(), mine.state_dict()))
        self._begun = True

    def use(self, training: Sequence[TrainingSystem], held_out: Sequence[TrainingSystem]) -> None:
        """The frames to train on and to validate on; a fresh generator takes its statistics from
        the former.

        Raises:
            InputError: a kind of block on held-out frames alone.
        """
        learned, tested = (
            [PointFrames(self.spec, s, self.fabric.device) for s in part]
            for part in (training, held_out)
        )
        same_labels(learned)
        same_labels(tested)
        self.attach(learned, tested)

    def attach(self, data: Sequence[PointFrames], held_out: Sequence[PointFrames]) -> None:
        """As ``use``, with frames that are on the device."""
        self.data, self.held_out, self._ahead = data, held_out, None
        if self.iteration == 0 and not self._begun:
            fit(data, self.generator)
            self.average.load_state_dict(self.generator.state_dict())
            return
        for part in data:
            part.prepare(self.generator)
        if self.iteration == 0:
            fit_push(data, self.generator)
            self.average.load_state_dict(self.generator.state_dict())

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

    def _learn(self, bead_type: str, sample: Samples) -> tuple[dict[str, Tensor], Tensor]:
        """Errors of a step, and the squared deviation of the first stage."""
        flow = self.generator.flow(bead_type)
        if self.adversary is None:
            return self.measure(flow, sample)
        loss, draw, mean = self.adversary.judge(
            bead_type, flow, sample.end, sample.heat, sample.fixed, sample.seen, sample.real
        )
        return of_a_draw(flow, sample, loss, draw, mean)

    def _samples(self, iteration: int) -> tuple[dict[str, Samples], torch.Generator]:
        """What an iteration learns from, and the random numbers that it goes on with."""
        o = self.options
        random = seeded(o.seed, iteration, self.fabric.global_rank)
        samples = draw(
            self.generator, self.data, o.batch, o.frames, o.settled, o.jitter, random,
            paths=self.paths,
        )  # fmt: skip
        return samples, random

    def _next_samples(self) -> tuple[dict[str, Samples], torch.Generator]:
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
    def validate(self, batches: int = 12) -> Metrics:
        """Errors on held-out frames, always with the same noise: over all systems and, where there
        are several, of each by its number."""
        each = [self._errors(part, batches) for part in self.held_out]
        if not each:
            return {}
        names = sorted({name for one in each for name in one})
        found = {n: _mean([one[n] for one in each if n in one]) for n in names}
        main = _mean([v for k, v in found.items() if k.endswith("_distance")])
        if len(each) > 1:
            found |= {f"{k}_{n}": v for k, one in enumerate(each) for n, v in one.items()}
        return {f"validation_{n}": v for n, v in found.items()} | {"validation_main": main}

    def _errors(self, data: PointFrames, batches: int) -> dict[str, float]:
        """Of one held-out system, by bead type and part of the loss."""
        generator = self.result.eval()
        assert isinstance(generator, PointGenerator)
        data.prepare(generator)
        sums: dict[str, list[float]] = {}
        for k in range(batches):
            random = seeded(self.options.seed, k, 7919)
            samples = draw(
                generator, [data], 4 * self.options.batch, 1, 0.0, 0.0, random, paths=self.paths
            )
            for bead_type, sample in samples.items():
                found, _ = self.measure(generator.flow(bead_type), sample)
                for name, value in found.items():
                    sums.setdefault(f"{bead_type}_{name}", []).append(float(value))
        return {name: _mean(values) for name, values in sums.items()}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _widened(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a generator that is not told how far beads are off, for one that is."""
    found = dict(given)
    for name, mine in wanted.items():
        if name not in given:
            tight = name.replace(".loose", ".spread")
            found[name] = given.get(tight, mine)
        elif given[name].shape != mine.shape and name.endswith("enter.weight"):
            found[name] = torch.cat([given[name], given[name].new_zeros(len(mine), 1)], dim=1)
    return found


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

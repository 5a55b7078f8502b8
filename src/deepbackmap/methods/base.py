"""The seam: what a method offers to training and sampling, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics.gather import Gathering
from deepbackmap.mechanics.settle import Settled
from deepbackmap.methods import find_method
from deepbackmap.methods.options import MethodOptions, Metrics, SamplingOptions, TrainingOptions
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.system import Structure

if TYPE_CHECKING:
    # For trainings only, and it takes seconds to import.
    from lightning_fabric import Fabric

Progress = Callable[[int], None]
"""Called with the number of blocks placed since the last call."""


@dataclass(frozen=True)
class Model:
    """A generator and what it needs to be used."""

    spec: ModelSpec
    generator: nn.Module


def new_generator(spec: ModelSpec) -> nn.Module:
    """A generator with fresh weights for a specification."""
    return find_method(spec.method).generator(spec)


def open_sampler(
    model: Model,
    mapping: SystemMapping,
    options: SamplingOptions,
    device: torch.device | str = "cpu",
    handedness: Handedness | None = None,
) -> Sampler:
    """The sampler of a model's method.

    Raises:
        InputError: the model does not know a type of the topology.
    """
    method = find_method(model.spec.method)
    return method.sampler(model, mapping, options, torch.device(device), handedness)


@runtime_checkable
class Learner(Protocol):
    """What training runs: networks, their optimisers, and the steps that move them."""

    @property
    def fabric(self) -> Fabric:
        """Device, precision and workers."""
        ...

    @property
    def options(self) -> TrainingOptions:
        """Of the run."""
        ...

    @property
    def iteration(self) -> int:
        """Steps done."""
        ...

    @property
    def result(self) -> nn.Module:
        """The generator to save."""
        ...

    def begin(self, generator: nn.Module) -> None:
        """Begin with another model's weights, before ``use``.

        Args:
            generator: of a model of the same options and types.
        """
        ...

    def use(self, training: Sequence[TrainingSystem], held_out: Sequence[TrainingSystem]) -> None:
        """The frames to train on, and those to validate on (none: an empty sequence)."""
        ...

    def step(self) -> dict[str, Tensor]:
        """One iteration."""
        ...

    def validate(self) -> Metrics:
        """Figures on the held-out frames; ``validation_main`` is the one to watch. Empty where
        there are none."""
        ...

    def state(self) -> dict[str, object]:
        """Everything that resuming needs."""
        ...

    def restore(self, state: dict[str, object]) -> None:
        """Go on from ``state``."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """What must hold while ``step`` is called again and again."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """Puts the atoms of one topology back, frame by frame."""

    @property
    def options(self) -> SamplingOptions:
        """Of the run."""
        ...

    @property
    def placements(self) -> int:
        """What ``progress`` counts to for a frame."""
        ...

    @property
    def settled(self) -> Settled | None:
        """What the last steps of the frame that was sampled last came to; None: it had none."""
        ...

    def sample(
        self, beads: Structure, *, frame: int = 0, progress: Progress | None = None
    ) -> Structure:
        """Atoms for one frame of beads; molecules are whole.

        Args:
            beads: positions of the beads in the order of the mapping.
            frame: its number, which names the random numbers together with the seed.
            progress: called with the number of placements since the last call.

        Raises:
            InputError: wrong number of beads, or a box that is too small.
        """
        ...


@runtime_checkable
class SharedSampler(Sampler, Protocol):
    """One whose ``sample`` threads may call at the same time, and ``settled`` after it: it does
    together what they ask for together."""

    @property
    def at_once(self) -> int:
        """How many frames are worth being sampled at once."""
        ...

    @property
    def gathering(self) -> Gathering:
        """Where threads wait for each other."""
        ...


@runtime_checkable
class Method(Protocol):
    """One way to put atoms back: what it learns with, and what it samples with."""

    @property
    def options(self) -> MethodOptions:
        """Its name and its option classes."""
        ...

    def completed(self, spec: ModelSpec, systems: Sequence[TrainingSystem]) -> ModelSpec:
        """The specification with what the method learns from its data before it trains, and with
        the sampling options that a new model has.

        Raises:
            InputError: data that the method cannot learn from.
        """
        ...

    def generator(self, spec: ModelSpec) -> nn.Module:
        """A generator with fresh weights."""
        ...

    def learner(self, fabric: Fabric, spec: ModelSpec, options: TrainingOptions) -> Learner:
        """A learner with a fresh generator."""
        ...

    def sampler(
        self,
        model: Model,
        mapping: SystemMapping,
        options: SamplingOptions,
        device: torch.device,
        handedness: Handedness | None,
    ) -> Sampler:
        """A sampler of a model on a system.

        Args:
            model: of this method.
            mapping: of the system.
            options: of the method's class.
            device: to work on.
            handedness: of the stereocentres; None: not known.

        Raises:
            InputError: the model does not know a type of the topology.
        """
        ...

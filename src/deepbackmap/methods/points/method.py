"""The point method as training and sampling know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import nn

from deepbackmap.blocks.handedness import Handedness, split_by_hands
from deepbackmap.blocks.plan import build_plan
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.base import Learner, Method, Model, Sampler
from deepbackmap.methods.options import SamplingOptions, TrainingOptions
from deepbackmap.methods.points.generator import fresh_generator
from deepbackmap.methods.points.options import (
    NEW_MODEL,
    OPTIONS,
    PointModelOptions,
    PointSamplingOptions,
    PointTrainingOptions,
)
from deepbackmap.methods.points.sampler import PointSampler
from deepbackmap.methods.points.slots import bead_signs, collect_vocabulary, name_kinds
from deepbackmap.methods.spec import ModelSpec

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class PointMethod:
    """All atoms of a block at once, as a flow on points."""

    options = OPTIONS

    def completed(self, spec: ModelSpec, systems: Sequence[TrainingSystem]) -> ModelSpec:
        """With the slots that occur in the data."""
        assert isinstance(spec.options, PointModelOptions)
        names = []
        for system in systems:
            mapping = split_by_hands(system.mapping, system.handedness)
            plan = build_plan(mapping, spec.atom_types, spec.bead_types)
            hands = bead_signs(mapping, system.handedness)
            names.append(name_kinds(mapping, plan, spec.options.points, hands))
        options = replace(spec.options, vocabulary=collect_vocabulary(names))
        return replace(spec, options=options, defaults=dict(NEW_MODEL))

    def generator(self, spec: ModelSpec) -> nn.Module:
        """A generator with fresh weights."""
        return fresh_generator(spec)

    def learner(self, fabric: Fabric, spec: ModelSpec, options: TrainingOptions) -> Learner:
        """A learner with a fresh generator."""
        assert isinstance(options, PointTrainingOptions)
        # Here, because it brings Lightning, which takes seconds, and nobody samples with it.
        found = import_module("deepbackmap.methods.points.learner")
        learner: Learner = found.PointLearner(fabric, spec, options)
        return learner

    def sampler(
        self,
        model: Model,
        mapping: SystemMapping,
        options: SamplingOptions,
        device: torch.device,
        handedness: Handedness | None,
    ) -> Sampler:
        """A sampler of a model on a system."""
        assert isinstance(options, PointSamplingOptions)
        return PointSampler(model, mapping, options, device, handedness)


METHOD: Method = PointMethod()

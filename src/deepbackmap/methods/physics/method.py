"""The physics method as sampling knows it; there is nothing to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.errors import InputError
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.base import Learner, Method, Model, Sampler
from deepbackmap.methods.options import SamplingOptions, TrainingOptions
from deepbackmap.methods.physics.options import (
    OPTIONS,
    PhysicsModelOptions,
    PhysicsSamplingOptions,
)
from deepbackmap.methods.physics.sampler import PhysicsSampler
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.system import Topology

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class PhysicsMethod:
    """Conformations of one molecule in vacuo, drawn onto beads among their neighbours."""

    options = OPTIONS

    def completed(self, spec: ModelSpec, systems: Sequence[TrainingSystem]) -> ModelSpec:
        """As it is."""
        return spec

    def generator(self, spec: ModelSpec) -> nn.Module:
        """Nothing that has weights."""
        return nn.Module()

    def learner(self, fabric: Fabric, spec: ModelSpec, options: TrainingOptions) -> Learner:
        """There is none.

        Raises:
            InputError: always.
        """
        raise InputError(
            "method: expected one that learns (voxel or points), found physics; it needs no "
            "training: backmap --model none"
        )

    def sampler(
        self,
        model: Model,
        mapping: SystemMapping,
        options: SamplingOptions,
        device: torch.device,
        handedness: Handedness | None,
    ) -> Sampler:
        """A sampler of a system."""
        assert isinstance(options, PhysicsSamplingOptions)
        temperature = options.temperature or model.spec.temperature
        return PhysicsSampler(mapping, options, temperature, handedness, device)


METHOD: Method = PhysicsMethod()


def no_model(topology: Topology, mapping: SystemMapping, text: str, temperature: float) -> Model:
    """What stands for a model where there is none.

    Args:
        topology: of the system.
        mapping: of the topology.
        text: the mapping's file, verbatim.
        temperature: K.
    """
    used = {t for t, count in topology.blocks if count}
    atoms = {a for t in used for a in topology.molecule_types[t].atom_types}
    beads = {b for t in used for b in mapping.molecules[t].bead_types}
    spec = ModelSpec(
        method=OPTIONS.name, options=PhysicsModelOptions(), atom_types=tuple(sorted(atoms)),
        bead_types=tuple(sorted(beads)), mapping=text, temperature=temperature, rigid=True,
    )  # fmt: skip
    return Model(spec, nn.Module())

"""A model as one safetensors file: weights, options, mapping, types and where it came from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from deepbackmap.errors import InputError
from deepbackmap.model.points import PointGenerator
from deepbackmap.networks import NetworkOptions, build_generator
from deepbackmap.networks.points import PointNetworkOptions
from deepbackmap.representation.points import PointOptions, Vocabulary
from deepbackmap.representation.voxel import VoxelOptions

FORMAT = "deepbackmap-model-1"


@dataclass(frozen=True)
class ModelSpec:
    """What a model is, apart from its weights."""

    atom_types: tuple[str, ...]
    bead_types: tuple[str, ...]
    mapping: str
    """The mapping file it was trained with, verbatim."""
    temperature: float
    """Of the training frames, K."""
    reach: float
    """No owned atom was farther from its bead in training, nm."""
    voxel: VoxelOptions = field(default_factory=VoxelOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    representation: str = "voxel"
    """``voxel``: densities on a grid, atom by atom (the paper); ``points``: all atoms of a block at
    once, as a flow. Only the options of the one that is named count."""
    points: PointOptions = field(default_factory=PointOptions)
    point_network: PointNetworkOptions = field(default_factory=PointNetworkOptions)
    vocabulary: Vocabulary | None = None
    """Slots of the point representation."""
    temperatures: tuple[float, ...] = ()
    """Of all training frames, K, where these are not all at ``temperature``."""
    rigid: bool = False
    """Whether all bonds of the training frames have the topology's lengths: then the structures
    made have them too."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Data, seed, iterations, versions, scores: whatever a reader wants to know."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Sampling options that suit this model (``sweeps``, ``candidates``, ``choice``)."""
    handedness: Mapping[str, Any] = field(default_factory=dict)
    """Signs of the stereocentres of the training frames (``chemistry.tacticity.Pattern``)."""

    @property
    def bead_cutoff(self) -> float:
        """Beads within this distance may see each other's atoms, nm."""
        if self.representation == "points":
            return self.points.cutoff + 2 * self.reach
        return self.voxel.radius + self.reach

    @property
    def channels(self) -> int:
        """Channels of the condition."""
        return self.voxel.channels(len(self.atom_types), len(self.bead_types))


@dataclass(frozen=True)
class Model:
    """A generator and what it needs to be used."""

    spec: ModelSpec
    generator: nn.Module


def new_generator(spec: ModelSpec) -> nn.Module:
    """A generator with fresh weights for a specification."""
    if spec.representation == "points":
        if spec.vocabulary is None:
            raise ValueError("vocabulary: expected the slots of a point model, got none")
        return PointGenerator(spec.vocabulary, spec.points, spec.atom_types, spec.point_network)
    return build_generator(spec.channels, len(spec.atom_types), spec.network)


def save_model(model: Model, path: str | Path) -> None:
    """Write a model as one file, aside first, so that it is whole or not there."""
    path = Path(path)
    spec = asdict(model.spec)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.generator.state_dict().items()}
    metadata = {"format": FORMAT, "spec": json.dumps(spec)}
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(weights, aside, metadata=metadata)
        # safetensors makes files for the owner alone; a model has the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o666 & ~mask)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _spec_from(text: str) -> ModelSpec:
    raw = json.loads(text)
    raw["voxel"] = VoxelOptions(**raw["voxel"])
    raw["network"] = NetworkOptions(**raw["network"])
    raw["points"] = PointOptions(**raw.get("points", {}))
    raw["point_network"] = PointNetworkOptions(**raw.get("point_network", {}))
    raw["temperatures"] = tuple(raw.get("temperatures", ()))
    if raw.get("vocabulary") is not None:
        raw["vocabulary"] = Vocabulary(
            **{
                part: {t: tuple(names) for t, names in found.items()}
                for part, found in raw["vocabulary"].items()
            }
        )
    raw["atom_types"], raw["bead_types"] = tuple(raw["atom_types"]), tuple(raw["bead_types"])
    for name in ("provenance", "defaults", "handedness"):
        if not isinstance(raw.get(name, {}), dict):
            raise TypeError(f"{name}: expected keys and values")
    return ModelSpec(**raw)


def read_spec(path: str | Path) -> ModelSpec:
    """The specification of a model file, without its weights.

    Raises:
        InputError: the file is missing, damaged or not a model of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors model file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise InputError(
            f"{path}: expected a model of format {FORMAT}, found {metadata.get('format')!r}"
        )
    try:
        return _spec_from(metadata["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the model's specification is damaged ({error})") from error


def load_model(path: str | Path) -> Model:
    """Read a model; nothing in the file is executed.

    Raises:
        InputError: as ``read_spec``, or weights that do not fit the specification.
    """
    spec = read_spec(path)
    try:
        with safe_open(Path(path), framework="pt") as handle:
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: the model's weights are damaged ({error})") from error
    with torch.device("meta"):
        generator = new_generator(spec)
    try:
        generator.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: weights do not fit the model's options ({first})") from error
    generator.requires_grad_(False).eval()
    return Model(spec, generator)

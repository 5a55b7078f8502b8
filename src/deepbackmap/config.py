"""Frozen options composed once from strict YAML: an unknown key is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from deepbackmap.errors import InputError
from deepbackmap.networks import NetworkOptions
from deepbackmap.networks.points import PointNetworkOptions
from deepbackmap.representation.points import PointOptions
from deepbackmap.representation.voxel import VoxelOptions
from deepbackmap.training.options import DataOptions, TrainingOptions


@dataclass(frozen=True)
class TrainConfig:
    """Everything that ``deepbackmap train`` reads."""

    representation: str = "voxel"
    """``voxel`` (the paper's) or ``points``; only the sections of that one count."""
    data: DataOptions = field(default_factory=DataOptions)
    voxel: VoxelOptions = field(default_factory=VoxelOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    points: PointOptions = field(default_factory=PointOptions)
    point_network: PointNetworkOptions = field(default_factory=PointNetworkOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)

    def __post_init__(self) -> None:
        if self.representation not in ("voxel", "points"):
            raise ValueError(
                f"representation: expected 'voxel' or 'points', got '{self.representation}'"
            )


_PATHS = ("topology", "structure", "trajectory", "beads")


def _compose(cls: type, values: Any, where: str, key: str) -> Any:
    """An instance of a frozen dataclass from nested dictionaries; every key must be a field."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: '{key}' expected a section of keys, found {values!r}")
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{key}.{name}" if key else str(name)
        if name not in hints:
            known = ", ".join(hints)
            raise InputError(f"{where}: unknown key '{full}', expected one of {known}")
        wanted = hints[name]
        if dataclasses.is_dataclass(wanted):
            arguments[name] = _compose(wanted, value, where, full)  # type: ignore[arg-type]
        else:
            arguments[name] = _scalar(wanted, value, where, full)
    try:
        return cls(**arguments)
    except ValueError as error:
        raise InputError(f"{where}: {key + '.' if key else ''}{error}") from error


def _scalar(wanted: type, value: Any, where: str, key: str) -> Any:
    if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if wanted is float and isinstance(value, str):
        try:  # YAML reads 1e-4 (without a dot) as a string
            return float(value)
        except ValueError:
            pass
    if type(value) is wanted:
        return value
    raise InputError(f"{where}: '{key}' expected {wanted.__name__}, found {value!r}")


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both else value
    return out


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{where}{line}: not valid YAML ({error})".replace("\n", " ")) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected keys and values, found {type(values).__name__}")
    return values


def presets() -> tuple[str, ...]:
    """Names of the packaged training presets."""
    folder = resources.files("deepbackmap") / "presets" / "training"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir()))


def _preset(name: str, where: str) -> dict[str, Any]:
    if name not in presets():
        raise InputError(
            f"{where}: unknown preset '{name}', expected one of {', '.join(presets())}"
        )
    file = resources.files("deepbackmap") / "presets" / "training" / f"{name}.yaml"
    return _parse(file.read_text(), f"preset {name}")


def _override(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise InputError(f"option '{text}': expected key=value, as in training.batch=36")
    nested: Any = _parse(f"v: {value}", f"option '{text}'")["v"]
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def _absolute_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    data = dict(values.get("data") or {})
    for name in _PATHS:
        if isinstance(data.get(name), str) and data[name]:
            data[name] = str((folder / data[name]).resolve())
    mapping = data.get("mapping")
    if isinstance(mapping, str) and (folder / mapping).is_file():
        data["mapping"] = str((folder / mapping).resolve())
    return {**values, "data": data} if data else values


def load_train_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Compose a training configuration from a preset, a file and ``key=value`` options.

    Args:
        path: a YAML file, whose paths are relative to it, or the name of a preset.
        overrides: as ``training.batch=36``; paths in them are relative to the current folder.

    Raises:
        InputError: missing file, unknown preset or key, or a value of the wrong type.
    """
    where = str(path)
    if str(path) in presets() and not Path(path).exists():
        values: dict[str, Any] = {"preset": str(path)}
    elif Path(path).is_file():
        try:
            text = Path(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: expected a configuration as text, found {error}") from error
        values = _absolute_paths(_parse(text, where), Path(path).parent)
    else:
        raise InputError(f"{where}: no such file, nor a preset ({', '.join(presets())})")
    given: dict[str, Any] = {}
    for override in overrides:
        given = _merge(given, _override(override))
    values = _merge(values, _absolute_paths(given, Path.cwd()))
    name = values.pop("preset", None)
    if name is not None:
        values = _merge(_preset(str(name), where), values)
    return _compose(TrainConfig, values, where, "")


def dump_config(config: TrainConfig) -> str:
    """The configuration as YAML that ``load_train_config`` reads back."""
    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)

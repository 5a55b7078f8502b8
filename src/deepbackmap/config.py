"""Frozen options composed once from strict YAML: an unknown key is an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from deepbackmap.data.options import OF_A_SYSTEM, DataOptions
from deepbackmap.errors import InputError
from deepbackmap.methods import DEFAULT_METHOD, METHODS, find_options
from deepbackmap.methods.compose import compose, fields_of
from deepbackmap.methods.options import MethodOptions, ModelOptions, TrainingOptions

COMMON = ("method", "data", "training")
"""Sections that every configuration has; the others are those of the method's models."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that ``deepbackmap train`` reads."""

    method: MethodOptions
    data: DataOptions
    model: ModelOptions
    """Of the method; in a file its sections stand beside ``data`` and ``training``."""
    training: TrainingOptions
    """Of the method."""

    def sections(self) -> dict[str, Any]:
        """As a file has it."""
        inner = {name: getattr(self.model, name) for name in fields_of(self.method.model)}
        parts = {"data": self.data, **inner, "training": self.training}
        return {
            "method": self.method.name,
            **{name: dataclasses.asdict(part) for name, part in parts.items()},
        }


_PATHS = ("topology", "structure", "trajectory", "beads")


def _composed(values: dict[str, Any], where: str) -> TrainConfig:
    """The configuration that some keys and values say."""
    name = values.get("method", DEFAULT_METHOD)
    if not isinstance(name, str) or name not in METHODS:
        raise InputError(f"{where}: method: expected one of {', '.join(METHODS)}, found {name!r}")
    method = find_options(name)
    own = fields_of(method.model)
    for key in values:
        if key not in (*COMMON, *own):
            raise InputError(
                f"{where}: unknown key '{key}', expected one of the method {name}: "
                f"{', '.join((*COMMON, *own))}"
            )
    config = TrainConfig(
        method=method,
        data=compose(DataOptions, _shared(values.get("data", {})), where, "data"),
        model=compose(
            method.model, {k: v for k, v in values.items() if k in own}, where, method=name
        ),
        training=compose(method.training, values.get("training", {}), where, "training", name),
    )
    asked = [one.dynamics for one in config.data.each if one.dynamics]
    if asked and not method.temperatures:
        raise InputError(
            f"{where}: data.dynamics: expected none with the method {name}, which trains on frames "
            f"of one temperature, found '{asked[0]}'"
        )
    return config


def _shared(data: Any) -> Any:
    """The section ``data`` with what it says of all systems in each of them."""
    if not isinstance(data, dict) or not isinstance(data.get("systems"), list):
        return data
    common = {k: data[k] for k in OF_A_SYSTEM if k in data}
    each = [{**common, **one} if isinstance(one, dict) else one for one in data["systems"]]
    return {**data, "systems": each}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both else value
    return out


class _Loader(yaml.SafeLoader):
    """Without numbers to base 60, as YAML 1.2: 12:13 is a text (a range of frames), not 733."""


def _number(loader: _Loader, node: yaml.ScalarNode) -> object:
    if ":" in node.value:
        return node.value
    integer = node.tag.endswith("int")
    return loader.construct_yaml_int(node) if integer else loader.construct_yaml_float(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_Loader)
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
    # nothing is an empty text, as data.dynamics="" comes from a shell, and not YAML's null
    nested: Any = _parse(f"v: {value}", f"option '{text}'")["v"] if value.strip() else ""
    for part in reversed(key.split(".")):
        nested = {part: nested}
    return nested


def _absolute_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    data = dict(values["data"]) if isinstance(values.get("data"), dict) else {}
    parts = [data]
    if isinstance(data.get("systems"), list):
        data["systems"] = [dict(x) if isinstance(x, dict) else x for x in data["systems"]]
        parts += [x for x in data["systems"] if isinstance(x, dict)]
    for part in parts:
        for name in _PATHS:
            if isinstance(part.get(name), str) and part[name]:
                part[name] = str((folder / part[name]).resolve())
    mapping = data.get("mapping")
    if isinstance(mapping, str) and (folder / mapping).is_file():
        data["mapping"] = str((folder / mapping).resolve())
    training = dict(values["training"]) if isinstance(values.get("training"), dict) else {}
    start = training.get("init_from")
    if isinstance(start, str) and (folder / start).is_file():
        training["init_from"] = str((folder / start).resolve())
    return {
        **values,
        **({"data": data} if data else {}),
        **({"training": training} if training else {}),
    }


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
    return _composed(values, where)


def dump_config(config: TrainConfig) -> str:
    """The configuration as YAML that ``load_train_config`` reads back."""
    return yaml.safe_dump(config.sections(), sort_keys=False)

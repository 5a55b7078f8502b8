"""The header of a model file: what the model is, checked before anything is made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deepbackmap.errors import InputError
from deepbackmap.methods import METHODS, find_options
from deepbackmap.methods.spec import ModelSpec

FORMAT = "deepbackmap-model-2"
FIRST_FORMAT = "deepbackmap-model-1"
"""Before the methods had options of their own; still read."""


def read_spec(path: str | Path) -> ModelSpec:
    """The specification of a model file, without its weights.

    Raises:
        InputError: the file is missing, damaged or not a model of this package.
    """
    return spec_of(read_metadata(path), path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header of a model file as it is written.

    Raises:
        InputError: the file is missing, damaged or not a model of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="np") as handle:
            metadata: dict[str, str] = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors model file ({error})") from error
    if metadata.get("format") not in (FORMAT, FIRST_FORMAT):
        raise InputError(
            f"{path}: expected a model of format {FORMAT}, found {metadata.get('format')!r}"
        )
    return metadata


def spec_of(metadata: Mapping[str, str], path: str | Path) -> ModelSpec:
    """The specification in a header.

    Raises:
        InputError: it is damaged, or says something that cannot be.
    """
    where = f"{path}: the model's specification is damaged"
    try:
        raw = json.loads(metadata["spec"])
        if not isinstance(raw, dict):
            raise TypeError(f"expected keys and values, found {raw!r:.60}")
        if metadata["format"] == FIRST_FORMAT:
            raw = _from_first(raw)
        return _spec(raw, where)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} ({error})") from error


def to_text(spec: ModelSpec) -> str:
    """The specification as ``spec_of`` reads it, the same text for the same specification."""
    return json.dumps(asdict(spec), sort_keys=True)


def _spec(raw: dict[str, Any], where: str) -> ModelSpec:
    if raw["method"] not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, found '{raw['method']}'")
    raw["options"] = find_options(raw["method"]).model.from_values(raw["options"], where)
    for name in ("atom_types", "bead_types", "temperatures"):
        kind = (int, float) if name == "temperatures" else str
        if not isinstance(raw[name], list) or not all(isinstance(x, kind) for x in raw[name]):
            raise TypeError(f"{name}: expected a list, found {raw[name]!r}")
        raw[name] = tuple(raw[name])
    for name in ("provenance", "defaults", "handedness"):
        if not isinstance(raw[name], dict):
            raise TypeError(f"{name}: expected keys and values")
    if not isinstance(raw["mapping"], str) or not isinstance(raw["rigid"], bool):
        raise TypeError("mapping, rigid: expected a text and true or false")
    return ModelSpec(**raw)


def _from_first(raw: dict[str, Any]) -> dict[str, Any]:
    """A header of the first format, which held the options of both methods side by side."""
    method = raw.pop("representation", "voxel")
    parts = {name: raw.pop(name, {}) for name in ("voxel", "network", "points", "point_network")}
    vocabulary = raw.pop("vocabulary", None)
    defaults = dict(raw.get("defaults", {}))
    if method == "points":
        raw["options"] = {
            "points": parts["points"], "network": parts["point_network"], "vocabulary": vocabulary
        }  # fmt: skip
    else:
        raw["options"] = {"voxel": parts["voxel"], "network": parts["network"]}
        if "relaxation" in defaults:
            defaults["block_relaxation"] = defaults.pop("relaxation")
    empty = {"temperatures": [], "rigid": False, "provenance": {}, "handedness": {}}
    return {**empty, **raw, "method": method, "defaults": defaults}

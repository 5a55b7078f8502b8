"""The header of a model file: what the model is, checked before anything is made from it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from deepbackmap.errors import InputError
from deepbackmap.methods import METHODS, find_options
from deepbackmap.methods.spec import ModelSpec

FORMAT = "deepbackmap-model-2"
FIRST_FORMAT = "deepbackmap-model-1"
"""Before methods had options of their own and files a checksum; still read."""
KEY = "deepbackmap"
"""Of the one entry of the file's metadata: safetensors writes several in no fixed order, and the
files of two identical runs are to be identical."""


@dataclass(frozen=True)
class Header:
    """What a model file says before its weights."""

    spec: ModelSpec
    checksum: str | None
    """``model.file.checksum`` of specification and weights; None in files of the first format."""
    text: str
    """The specification as it is written, which the checksum covers."""


def read_spec(path: str | Path) -> ModelSpec:
    """The specification of a model file, without its weights.

    Raises:
        InputError: the file is missing, damaged or not a model of this package.
    """
    return read_header(path).spec


def read_header(path: str | Path) -> Header:
    """The header of a model file.

    Raises:
        InputError: the file is missing, damaged, not a model of this package, or says something
            that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        with safe_open(path, framework="np") as handle:
            metadata: dict[str, str] = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors model file ({error})") from error
    where = f"{path}: the model's specification is damaged"
    try:
        found = json.loads(metadata[KEY]) if KEY in metadata else dict(metadata)
        if not isinstance(found, dict) or found.get("format") not in (FORMAT, FIRST_FORMAT):
            said = found.get("format") if isinstance(found, dict) else found
            raise InputError(f"{path}: expected a model of format {FORMAT}, found {said!r:.80}")
        raw = json.loads(found["spec"])
        if not isinstance(raw, dict):
            raise TypeError(f"expected keys and values, found {raw!r:.60}")
        if found["format"] == FIRST_FORMAT:
            return Header(_spec(_from_first(raw), where), None, found["spec"])
        return Header(_spec(raw, where), str(found["checksum"]), found["spec"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} ({error})") from error


def write_header(spec: str, checksum: str) -> dict[str, str]:
    """Metadata that ``read_header`` reads.

    Args:
        spec: ``to_text`` of the specification.
        checksum: of it and the weights.
    """
    found = {"checksum": checksum, "format": FORMAT, "spec": spec}
    return {KEY: json.dumps(found, sort_keys=True)}


def to_text(spec: ModelSpec) -> str:
    """The specification as JSON, the same text for the same specification."""
    return json.dumps(asdict(spec), sort_keys=True)


def _spec(raw: dict[str, Any], where: str) -> ModelSpec:
    if raw["method"] not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, found '{raw['method']}'")
    for name in ("bead_hands", "bead_distances"):
        raw.setdefault(name, {})  # models made before these were kept have none
    raw["options"] = find_options(raw["method"]).model.from_values(raw["options"], where)
    for name in ("atom_types", "bead_types", "temperatures"):
        kind = (int, float) if name == "temperatures" else str
        if not isinstance(raw[name], list) or not all(isinstance(x, kind) for x in raw[name]):
            raise TypeError(f"{name}: expected a list, found {raw[name]!r}")
        raw[name] = tuple(raw[name])
    for name in ("temperature", "reach"):
        if isinstance(raw[name], bool) or not isinstance(raw[name], (int, float)):
            raise TypeError(f"{name}: expected a number, found {raw[name]!r:.60}")
        raw[name] = float(raw[name])
    for name in ("provenance", "defaults", "handedness", "bead_hands", "bead_distances"):
        if not isinstance(raw[name], dict):
            raise TypeError(f"{name}: expected keys and values")
    raw["bead_distances"] = {k: _range(v) for k, v in raw["bead_distances"].items()}
    if not isinstance(raw["mapping"], str) or not isinstance(raw["rigid"], bool):
        raise TypeError("mapping, rigid: expected a text and true or false")
    return ModelSpec(**raw)


def _range(values: Any) -> tuple[float, float]:
    """Two lengths, the shorter one first."""
    low, high = (float(v) for v in values)
    if not 0.0 <= low <= high < math.inf:
        raise ValueError(f"bead_distances: expected a shortest and a longest, found {values!r:.60}")
    return low, high


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

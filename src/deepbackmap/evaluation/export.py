"""An evaluation written down: ``metrics.json`` and ``metrics.csv``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib import resources
from typing import Any

import numpy as np

from deepbackmap.evaluation.comparison import SCORE
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.result import Estimate, Evaluation

SCHEMA_VERSION = 1
"""Of ``metrics.json``: grows when a field changes its meaning or goes; new fields leave it."""
DIGITS = 6
"""Significant digits of the numbers in arrays."""
COLUMNS = ("figure", "group", "unit", "scored", "target", "reference", "floor", "method",
           "frames", "value", "error", "times_floor")  # fmt: skip


def metrics_json(evaluation: Evaluation, structure_map: object, program: str) -> str:
    """The whole evaluation as one JSON object (``metrics_schema``).

    A number that is not finite becomes null.

    Args:
        evaluation: what was measured.
        structure_map: of the same samples, as a dataclass, or None.
        program: name and version of what wrote it.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "program": program,
        **_plain(evaluation),
        "structure_map": _plain(structure_map),
    }
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def metrics_schema() -> dict[str, Any]:
    """The JSON schema of ``metrics.json``."""
    text = resources.files("deepbackmap.evaluation").joinpath("metrics.schema.json").read_text()
    schema: dict[str, Any] = json.loads(text)
    return schema


def _plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and arrays as JSON knows them."""
    if isinstance(value, Figures):
        return _plain(value.to_dict())
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _rounded(value.tolist())
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _rounded(value: Any) -> Any:
    """Nested lists of numbers, shortened."""
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def metrics_csv(evaluation: Evaluation) -> str:
    """The figures as a table with one line for each figure and method, the score first.

    A number that cannot be said is an empty field.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(_lines(evaluation))
    return text.getvalue()


def _lines(evaluation: Evaluation) -> Iterator[list[str]]:
    """Rows of the table."""
    frames = {m.name: m.n_frames for m in evaluation.methods}

    def line(
        head: list[str], target: float, reference: float, floor: float, name: str, found: Estimate
    ) -> list[str]:
        numbers = [_number(v) for v in (target, reference, floor)]
        ratio = times_floor(found.value, target, floor)
        last = [_number(v) for v in (found.value, found.error, ratio)]
        return [*head, *numbers, name, str(frames[name]), *last]

    for method in evaluation.methods:
        head = [SCORE, "", "", "false"]
        yield line(head, 0.0, math.nan, evaluation.score_floor, method.name, method.score)
    for figure in evaluation.figures:
        head = [figure.name, figure.group, figure.unit, str(figure.scored).lower()]
        for name, found in figure.methods.items():
            yield line(head, figure.target, figure.reference, figure.floor, name, found)


def times_floor(value: float, target: float, floor: float) -> float:
    """Distance from the target as a multiple of the floor's; NaN where there is no such thing."""
    noise = abs(floor - target)
    return abs(value - target) / noise if noise > 0.0 else math.nan


def _number(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""

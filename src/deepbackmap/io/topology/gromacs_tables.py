"""Tables of bonded interactions, as ``gmx mdrun -tableb`` takes them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from deepbackmap.errors import InputError

LETTERS = {"bonds": "b", "angles": "a", "dihedrals": "d"}
"""Section → letter in the names of its tables (``table_b0.xvg``)."""
_NAME = re.compile(r"_([bad])(\d+)\.xvg$")
MOST_POINTS = 1_000_000


@dataclass(frozen=True)
class _Curve:
    start: float
    spacing: float
    values: Float64[np.ndarray, "2 points"]


@dataclass
class Tables:
    """Curves by section and number, read when they are first asked for."""

    files: dict[tuple[str, int], Path]
    read: dict[tuple[str, int], _Curve] = field(default_factory=dict)
    made: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Sequence[Path]) -> Tables:
        """Tables by the end of their names: ``_b0.xvg``, ``_a3.xvg``, ``_d1.xvg``.

        Raises:
            InputError: a file has another name.
        """
        found = {}
        sections = {letter: section for section, letter in LETTERS.items()}
        for path in files:
            if (match := _NAME.search(path.name)) is None:
                raise InputError(
                    f"{path}: expected a table whose name ends in _b, _a or _d, a number and .xvg "
                    f"(table_b0.xvg), found {path.name}"
                )
            found[sections[match.group(1)], int(match.group(2))] = path
        return cls(found)

    def name(self, section: str, number: int) -> str:
        """What the file of a table would be called."""
        return f"table_{LETTERS[section]}{number}.xvg"

    def curve(self, section: str, number: int) -> tuple[float, float, float, float] | None:
        """Row of the table in ``grids``, its start, spacing and number of points; None: not given.

        Lengths are in nm, angles in rad.

        Raises:
            InputError: the file cannot be read.
        """
        numbers = sorted(n for s, n in self.files if s == section)
        if number not in numbers:
            return None
        curve = self._curve(section, number)
        points = curve.values.shape[1]
        return float(numbers.index(number)), curve.start, curve.spacing, float(points)

    def grids(self, section: str) -> Float64[np.ndarray, "t 2 points"]:
        """All tables of a section; shorter ones are filled up at their ends."""
        if section not in self.made:
            curves = [self._curve(s, n) for s, n in sorted(self.files) if s == section]
            longest = max(c.values.shape[1] for c in curves)
            self.made[section] = np.stack(
                [
                    np.pad(c.values, ((0, 0), (0, longest - c.values.shape[1])), mode="edge")
                    for c in curves
                ]
            )
        return self.made[section]

    def _curve(self, section: str, number: int) -> _Curve:
        key = section, number
        if key not in self.read:
            self.read[key] = _read(self.files[key], angles=section != "bonds")
        return self.read[key]


def _read(path: Path, *, angles: bool) -> _Curve:
    """A file of x, energy and minus its slope, at even spacing; angles in degrees."""
    try:
        rows = np.loadtxt(path, comments=("#", "@"), ndmin=2)
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: expected a table of three columns, found: {problem}") from None
    if rows.shape[1] != 3 or not 2 <= len(rows) <= MOST_POINTS or not np.isfinite(rows).all():
        raise InputError(
            f"{path}: expected a table of three columns and two rows or more, found "
            f"{rows.shape[0]} rows of {rows.shape[1]}"
        )
    x, energy, force = rows.T
    step = (x[-1] - x[0]) / (len(x) - 1)
    if step <= 0.0 or not np.allclose(np.diff(x), step, rtol=1e-3, atol=1e-9):
        raise InputError(f"{path}: expected even spacing that goes up, found another")
    scale = math.pi / 180.0 if angles else 1.0
    slope = -force / scale
    return _Curve(float(x[0]) * scale, float(step) * scale, np.stack([energy, slope]))

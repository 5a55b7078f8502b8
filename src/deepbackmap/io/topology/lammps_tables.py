"""Tables of LAMMPS' bond, angle and dihedral style ``table``, read and written.

LAMMPS draws a cubic spline through the lines of the file, takes N points of it and draws another
through those (``spline``) or straight lines (``linear``); we take the spline in both cases.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import CubicSpline

from deepbackmap.errors import InputError
from deepbackmap.io.topology.lammps_lines import LammpsInput, lines_of, plain_style, real_number
from deepbackmap.io.topology.lammps_styles import Curve, Made, Units

MOST_POINTS = 1_000_000
_ENDS = {"bond": "FP", "angle": "FP", "dihedral": ""}


def made_of_table(
    found: LammpsInput, kind: str, where: str, words: list[str], units: Units, name: str
) -> list[Made]:
    """A term of style ``table``: its file, and the name of the table in it.

    Args:
        found: whose styles say how many points are taken.
        kind: bond, angle or dihedral.
        where: the line of the coefficients.
        words: of the coefficients.
        units: of the file.
        name: our kind.

    Raises:
        InputError: the file or the table is missing or malformed.
    """
    if len(words) < 2:
        raise IndexError
    path = Path(where.rpartition(":")[0]).parent / words[0]
    table = _table(path, words[1], 4 if kind != "dihedral" else 3)
    points = _points(found.styles.get(kind, []))
    if kind == "dihedral":
        return [Made(name, (), _periodic(path, table, points, units))]
    scale = units.length if kind == "bond" else math.pi / 180.0
    return [Made(name, (), _curve(table, points, units.energy, scale))]


def _points(style: list[str]) -> int | None:
    """Number of points of ``table spline N``, also inside of a hybrid style."""
    for k, word in enumerate(style):
        if plain_style(word) == "table" and style[k + 2 : k + 3] and style[k + 2].isdecimal():
            return int(style[k + 2])
    return None


def _curve(
    table: Float64[np.ndarray, "n 3"], points: int | None, energy: float, scale: float
) -> Curve:
    """Two splines, whose slopes at the ends are those of the file."""
    x, y, force = table.T
    if points is None:
        points = len(x)
    first = CubicSpline(x, y, bc_type=((1, -force[0]), (1, -force[-1])))
    forces = CubicSpline(x, force)
    even = np.linspace(x[0], x[-1], points)
    ends = -forces(even[[0, -1]])
    second = CubicSpline(even, first(even), bc_type=((1, ends[0]), (1, ends[1])))
    values = np.stack([second(even) * energy, second(even, 1) * energy / scale])
    return Curve(float(x[0]) * scale, float(even[1] - even[0]) * scale, values)


def _periodic(
    path: Path, table: Float64[np.ndarray, "n 3"], points: int | None, units: Units
) -> Curve:
    """The same all the way round."""
    x, y, _ = table.T
    if not 0.0 < x[-1] - x[0] < 2.0 * math.pi:
        raise InputError(f"{path}: expected dihedrals that go up by less than a turn, found others")
    around = CubicSpline(np.append(x, x[0] + 2.0 * math.pi), np.append(y, y[0]), bc_type="periodic")
    n = points or len(x)
    even = np.linspace(-math.pi, math.pi, n + 1)
    again = CubicSpline(even, np.append(around(even[:-1]), around(even[0])), bc_type="periodic")
    values = np.stack([again(even) * units.energy, again(even, 1) * units.energy])
    return Curve(-math.pi, 2.0 * math.pi / n, values)


def _table(path: Path, name: str, width: int) -> Float64[np.ndarray, "n 3"]:
    """x, energy and force of one table of a file; dihedrals in rad, without forces zeros."""
    lines = ((where, text.split()) for where, text, _ in lines_of(path))
    filled = ((where, words) for where, words in lines if words)
    for _, words in filled:
        if words == [name]:
            break
    else:
        raise InputError(f"{path}: expected a table {name}, found none of that name")
    where, head = next(filled, (str(path), []))
    if "N" not in head or not head[head.index("N") + 1 :]:
        raise InputError(f"{where}: expected N and a number of lines of table {name}, found none")
    n = int(real_number(where, head[head.index("N") + 1]))
    if not 2 <= n <= MOST_POINTS:
        raise InputError(f"{where}: expected 2 to {MOST_POINTS} lines of table {name}, found {n}")
    bare = "NOF" in head
    rows = list(_rows(filled, n, 3 if bare else 4))
    if len(rows) != n:
        raise InputError(f"{where}: expected {n} lines of table {name}, found {len(rows)}")
    found = np.array([[*row, 0.0][:3] for row in rows])
    if width == 3 and "RADIANS" not in head:
        found[:, 0] *= math.pi / 180.0
    if (np.diff(found[:, 0]) <= 0.0).any():
        raise InputError(f"{where}: expected table {name} to go up, found a line that does not")
    return found


def _rows(
    lines: Iterator[tuple[str, list[str]]], n: int, width: int
) -> Iterator[tuple[float, ...]]:
    for _, (where, words) in zip(range(n), lines, strict=False):
        if len(words) < width:
            raise InputError(f"{where}: expected {width} words in a table, found {len(words)}")
        yield tuple(real_number(where, w) for w in words[1:width])


def table_text(
    name: str,
    x: Float64[np.ndarray, " n"],
    energy: Float64[np.ndarray, " n"],
    slope: Float64[np.ndarray, " n"],
    *,
    dihedral: bool = False,
) -> list[str]:
    """Lines of a table in LAMMPS' units (angles in degrees, which slopes are per).

    The last point of a dihedral's is the first one again and is left out.
    """
    n = len(x) - dihedral
    head = f"N {n} DEGREES" if dihedral else f"N {n}"
    rows = zip(x.tolist(), energy.tolist(), (-slope).tolist(), strict=True)
    lines = [f"{k} {a:.12g} {e:.14g} {f:.14g}" for k, (a, e, f) in enumerate(rows, 1)]
    return ["", name, head, "", *lines[:n]]

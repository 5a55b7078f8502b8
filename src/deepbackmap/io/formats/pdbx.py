"""PDBx/mmCIF files: the table of atoms and the cell, all models.

Only what coordinates need is read: the loop `_atom_site` and the items `_cell`. Lengths are in Å.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from deepbackmap.io.formats.base import (
    NM_PER_ANGSTROM,
    FormatError,
    FrameReader,
    box_from_lengths_and_angles,
)
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_WORD = re.compile(r"""'(?:[^']|'(?=\S))*'|"(?:[^"]|"(?=\S))*"|[^\s]+""")
"""A value: in quotes that end before a blank, or up to the next blank."""
_CELL = tuple(f"_cell.{word}" for word in ("length_a", "length_b", "length_c", "angle_alpha",
                                           "angle_beta", "angle_gamma"))  # fmt: skip


class PdbxReader(FrameReader):
    """Frames of an mmCIF file, one a model."""

    def __init__(self, path: Path) -> None:
        lines = path.read_bytes().decode(errors="replace").splitlines()
        if not any(line.startswith("data_") for line in lines[:1000]):
            raise FormatError("an mmCIF file, which has a line data_NAME, found none")
        columns, rows = _atom_site(lines)
        self._box = _cell(lines)
        models = _column(columns, rows, "pdbx_PDB_model_num") or ["1"] * len(rows)
        names = list(dict.fromkeys(models))
        self.n_frames, rest = len(names), len(rows) % len(names)
        self.n_particles = len(rows) // len(names)
        whole = [name for name in names for _ in range(self.n_particles)]
        if rest or models != whole:
            raise FormatError("models of one number of atoms, found others")
        self._positions = _numbers(columns, rows).reshape(self.n_frames, -1, 3) * NM_PER_ANGSTROM
        first = rows[: self.n_particles]
        self.table = ParticleTable(
            names=tuple(_named(columns, first, "atom_id")),
            resnames=tuple(_named(columns, first, "comp_id")),
            resids=_residues(_named(columns, first, "seq_id")),
        )

    def read(self, index: int) -> Structure:
        """One frame."""
        return Structure(self._positions[index].copy(), self._box.copy(), float(index))

    def close(self) -> None:
        """Nothing is open."""


def _words(line: str) -> list[str]:
    found = _WORD.findall(line)
    return [w[1:-1] if len(w) > 1 and w[0] in "'\"" and w[-1] == w[0] else w for w in found]


def _atom_site(lines: list[str]) -> tuple[list[str], list[list[str]]]:
    """Names of the columns and rows of the table of atoms."""
    head = next((k for k, s in enumerate(lines) if s.startswith("_atom_site.")), None)
    if head is None:
        raise FormatError("a table _atom_site, found none")
    columns: list[str] = []
    while head < len(lines) and lines[head].startswith("_atom_site."):
        columns.append(lines[head].split()[0].removeprefix("_atom_site."))
        head += 1
    rows: list[list[str]] = []
    for number, line in enumerate(lines[head:], head + 1):
        if not line.strip() or line[0] in "#_" or line.startswith(("loop_", "data_")):
            break
        rows.append(_words(line))
        if len(rows[-1]) != len(columns):
            raise FormatError(
                f"{len(columns)} values for an atom in line {number}, found {len(rows[-1])}"
            )
    if not rows:
        raise FormatError("at least one atom, found none")
    return columns, rows


def _column(columns: list[str], rows: list[list[str]], name: str) -> list[str]:
    """A column; empty if there is none."""
    if name not in columns:
        return []
    k = columns.index(name)
    return [row[k] for row in rows]


def _named(columns: list[str], rows: list[list[str]], name: str) -> list[str]:
    """The author's column, or else the archive's."""
    found = _column(columns, rows, f"auth_{name}") or _column(columns, rows, f"label_{name}")
    if not found:
        raise FormatError(f"a column label_{name} of the atoms, found none")
    return found


def _residues(words: list[str]) -> np.ndarray:
    """Residue numbers; a point or question mark, for none, repeats the one before."""
    numbers: list[int] = []
    for word in words:
        whole = word.removeprefix("-").isdecimal() and len(word) < 18
        numbers.append(int(word) if whole else (numbers[-1] if numbers else 1))
    return np.array(numbers, dtype=np.int64)


def _numbers(columns: list[str], rows: list[list[str]]) -> Float64[np.ndarray, "n 3"]:
    axes = [_column(columns, rows, f"Cartn_{axis}") for axis in "xyz"]
    if not all(axes):
        raise FormatError("columns Cartn_x, Cartn_y and Cartn_z of the atoms, found fewer")
    try:
        return np.array([[float(word) for word in axis] for axis in axes]).T.copy()
    except ValueError as error:
        raise FormatError(f"numbers as coordinates, found {error}") from error


def _cell(lines: list[str]) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors in nm; zeros if the file has no cell, or one of 1 Å, which means none."""
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("_cell."):
            words = _words(line)
            if len(words) == 2:
                found[words[0]] = words[1]
    if not all(name in found for name in _CELL):
        return np.zeros((3, 3))
    try:
        numbers = np.array([float(found[name]) for name in _CELL])
    except ValueError as error:
        raise FormatError(f"numbers for the cell, found {error}") from error
    if (numbers[:3] == 1.0).all():
        return np.zeros((3, 3))
    return box_from_lengths_and_angles(numbers[:3] * NM_PER_ANGSTROM, numbers[3:])

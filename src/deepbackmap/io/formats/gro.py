"""GROMACS' .gro: fixed columns in nm, one frame after another.

Read and written here and not through MDAnalysis, which keeps the cell as single precision lengths
and angles, reads only the first frame, and would not say so.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.io.formats.base import FormatError, FrameReader, FrameWriter, check_widths
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_TIME = re.compile(r"\bt=\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)(?![\w.:/-])")
_BOX_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
_LARGEST = 9999.9995
"""What %8.3f can hold; below zero a tenth of it."""
_MAY_STAND = np.isin(np.arange(256), list(b"0123456789.+- "))
"""By character, whether a coordinate may have it."""
_SHORTEST_ROW = 21
"""Bytes of a row, its newline too, that has columns for coordinates."""
BLOCK = 1 << 16
"""Rows that are text at the same time."""


class GroReader(FrameReader):
    """Frames of a .gro file, found by one pass over its lines."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        self._size = path.stat().st_size
        try:
            self._starts = self._scan()
            self.n_frames = len(self._starts)
            if not self.n_frames:
                raise FormatError("at least one frame, found an empty file")
            self.table = self._read_table()
        except BaseException:
            self._file.close()
            raise

    def read(self, index: int) -> Structure:
        """One frame; its time is taken from ``t=`` in the title, else its number."""
        title, lines, box = self._lines(index)
        found = _TIME.search(title)
        time = float(found.group(1)) if found else np.inf
        return Structure(
            _positions(lines), _parse_box(box), time if np.isfinite(time) else float(index)
        )

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _scan(self) -> list[int]:
        """Where every frame starts; refuses frames that are cut short."""
        starts: list[int] = []
        while True:
            start = self._file.tell()
            title = self._file.readline()
            if not title.strip() and not self._file.read().strip():
                return starts  # blank lines at the end of the file
            self._file.seek(start + len(title))  # a title may be blank
            count = self._file.readline().decode(errors="replace").strip()
            if not (count.isascii() and count.isdigit()) or int(count[:18]) < 1:
                raise FormatError(f"a number of atoms in frame {len(starts)}, found '{count[:40]}'")
            self.n_particles = int(count[:18]) if not starts else self.n_particles
            if int(count[:18]) != self.n_particles:
                raise FormatError(
                    f"{self.n_particles} atoms in frame {len(starts)} as in frame 0, found {count}"
                )
            if self.n_particles * _SHORTEST_ROW > self._size:
                raise FormatError(
                    f"{self.n_particles} atoms in frame {len(starts)}, found a file of "
                    f"{self._size} bytes, which is too short for them"
                )
            for line in range(self.n_particles + 1):
                if not self._file.readline().strip():
                    raise FormatError(
                        f"{self.n_particles} atoms and a box in frame {len(starts)}, "
                        f"found the end of the file after {line} of these lines"
                    )
            starts.append(start)

    def _lines(self, index: int) -> tuple[str, list[bytes], str]:
        """Title, rows of atoms and row of the box."""
        self._file.seek(self._starts[index])
        title = self._file.readline().decode(errors="replace")
        self._file.readline()
        lines = [self._file.readline().rstrip(b"\r\n") for _ in range(self.n_particles)]
        return title, lines, self._file.readline().decode(errors="replace")

    def _read_table(self) -> ParticleTable:
        _, lines, _ = self._lines(0)
        texts = [line.decode(errors="replace") for line in lines]
        return ParticleTable(
            names=tuple(sys.intern(line[10:15].strip()) for line in texts),
            resnames=tuple(sys.intern(line[5:10].strip()) for line in texts),
            resids=_residue_numbers(texts),
        )


def _residue_numbers(lines: list[str]) -> Int64[np.ndarray, "n"]:
    """Columns 1 to 5; stars, for numbers that have outgrown them, repeat the number before."""
    numbers: list[int] = []
    for row, line in enumerate(lines, 1):
        word = line[:5].strip()
        if word and not word.strip("*") and numbers:
            numbers.append(numbers[-1])
            continue
        try:
            numbers.append(int(word))
        except ValueError as error:
            raise FormatError(
                f"a residue number in columns 1 to 5 of atom {row}, found '{word}'"
            ) from error
    return np.array(numbers, dtype=np.int64)


class GroWriter(FrameWriter):
    """Writes .gro frames; atom and residue numbers begin again at 0 after 99999, as GROMACS'."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        table = check_widths(table, path, 5)
        self._numbers = (table.resids % 100_000).astype(np.int32)
        self._resnames, self._names = table.resnames, table.names
        # of a large box they are made for each frame: a frame is not written often enough
        self._heads = self._head(0) if table.n <= BLOCK else None
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame."""
        low, high = structure.positions.min(), structure.positions.max()
        if high >= _LARGEST or low <= -_LARGEST / 10:
            raise FormatError(
                f"coordinates from -999.999 to 9999.999 nm, which is all that .gro holds, found "
                f"{low:.3f} to {high:.3f}"
            )
        self._file.write(f"deepbackmap t= {structure.time:.5f} step= {index}\n{structure.n:5d}\n")
        for start in range(0, structure.n, BLOCK):
            heads = self._head(start) if self._heads is None else self._heads
            block = structure.positions[start : start + BLOCK].tolist()
            self._file.writelines(
                f"{head}{x:8.3f}{y:8.3f}{z:8.3f}\n"
                for head, (x, y, z) in zip(heads, block, strict=True)
            )
        shown = _BOX_ORDER if np.any(structure.box - np.diag(np.diag(structure.box))) else None
        order = shown or _BOX_ORDER[:3]
        words = [f"{structure.box[i, j]:10.5f}" for i, j in order]
        # The cell is read word by word, so that from 1000 nm on a blank must stand between.
        joint = "" if all(word[0] == " " for word in words) else " "
        self._file.write(joint.join(words) + "\n")

    def _head(self, start: int) -> list[str]:
        """The columns before the coordinates of the rows of a block."""
        block = slice(start, start + BLOCK)
        numbers, names = self._numbers[block].tolist(), self._names[block]
        return [
            f"{number:5d}{resname:<5s}{name:>5s}{k % 100_000:5d}"
            for k, (number, resname, name) in enumerate(
                zip(numbers, self._resnames[block], names, strict=True), start + 1
            )
        ]

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


def _positions(lines: list[bytes]) -> Float64[np.ndarray, "n 3"]:
    """Coordinates; the distance of the decimal points tells the width of the columns.

    The points must stand below one another: a row with a character more or less is found out.
    """
    first = lines[0]
    dots = [k for k, character in enumerate(first) if character == ord(".") and k >= 20]
    width = dots[1] - dots[0] if len(dots) >= 3 else 8
    end = 20 + 3 * width
    if not all(len(line) >= end for line in lines):
        row = next(k for k, line in enumerate(lines, 1) if len(line) < end)
        raise FormatError(f"three coordinates of {width} columns behind column 20 in the row of "
                          f"atom {row}, found it too short")  # fmt: skip
    table = np.frombuffer(b"".join(line[20:end] for line in lines), np.uint8)
    table = table.reshape(len(lines), 3, width)
    places = [d - 20 for d in dots[:3]]
    flat = table.reshape(len(lines), 3 * width)
    at_point = (flat[:, places] == ord(".")).all(axis=1) & (len(places) == 3)
    at_point &= _MAY_STAND[flat].all(axis=1)
    if not at_point.all():
        row = int(np.flatnonzero(~at_point)[0])
        raise FormatError(
            f"three coordinates of {width} columns behind column 20 in the row of atom {row + 1}, "
            f"found '{lines[row][20:60].decode(errors='replace')}'"
        )
    try:
        numbers = np.ascontiguousarray(table).view(f"S{width}")[..., 0].astype(np.float64)
    except ValueError as error:
        raise FormatError(f"three coordinates behind column 20, found {error}") from error
    return numbers


def _parse_box(line: str) -> Float64[np.ndarray, "3 3"]:
    words = line.split()
    try:
        numbers = [float(w) for w in words]
    except ValueError:
        numbers = []
    if len(numbers) not in (3, 9):
        raise FormatError(f"a box of 3 or 9 numbers, found '{line.strip()}'")
    box = np.zeros((3, 3))
    for (i, j), value in zip(_BOX_ORDER, numbers, strict=False):
        box[i, j] = value
    return box

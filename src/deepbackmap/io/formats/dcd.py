"""CHARMM's, NAMD's and OpenMM's .dcd, read and written here.

A .dcd is a row of Fortran records, each between two copies of its length, which are all looked at.
The cell is stored in double precision as lengths and angles (or their cosines), so nothing is lost
by taking it from there. Lengths in the file are in Å, times in AKMA units.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.io.formats.base import (
    NM_PER_ANGSTROM,
    FormatError,
    FrameReader,
    FrameWriter,
    box_from_lengths_and_angles,
    lengths_and_cosines,
)
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_PS_PER_AKMA = 0.04888821290839616
_PLACES = (0, 2, 5, 4, 3, 1)
"""Where a, b, c, alpha, beta, gamma stand in a record of the file."""
_CHARMM = 24
"""Version of CHARMM that the files pretend to be from, as other programs do."""


class DcdReader(FrameReader):
    """Frames of a .dcd file."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._read_head()
        except BaseException:
            self._file.close()
            raise

    def _read_head(self) -> None:
        """Takes byte order, flags and sizes from the three records in front of the frames."""
        first = self._bytes(0, 8)
        self._order = next(
            (o for o in "<>" if first == struct.pack(f"{o}i", 84) + b"CORD"), None
        ) or _no_dcd(first)
        head = self._record(0, 84)
        numbers = struct.unpack(f"{self._order}20i", head[4:])
        charmm = numbers[19] != 0
        self._cell, four = charmm and numbers[10] == 1, charmm and numbers[11] == 1
        delta = struct.unpack(f"{self._order}{'f' if charmm else 'd'}",
                              head[40 : 44 if charmm else 48])[0]  # fmt: skip
        self._first, self._every = numbers[1], max(1, numbers[2])
        self._time = float(delta) * self._every * _PS_PER_AKMA
        at = 92 + self._length(92) + 8
        (self.n_particles,) = struct.unpack(f"{self._order}i", self._record(at, 4))
        at += 12
        if self.n_particles < 1:
            raise FormatError(f"a number of particles, found {self.n_particles}")
        self._free = self._free_particles(at, numbers[8])
        self._begin = at + (8 + 4 * len(self._free) if numbers[8] else 0)
        cell = 56 if self._cell else 0
        axes = 4 if four else 3
        self._whole = cell + axes * (8 + 4 * self.n_particles)
        self._later = cell + axes * (8 + 4 * len(self._free))
        rest = self._size - self._begin - self._whole
        if rest < 0:
            raise FormatError("at least one frame, found none")
        self.n_frames = 1 + rest // self._later
        self._over = rest % self._later

    def _free_particles(self, at: int, fixed: int) -> Int64[np.ndarray, "_"]:
        """Those that move: only they are in the frames after the first."""
        n = self.n_particles
        if not fixed:
            return np.arange(n)
        if not 0 < fixed < n:
            raise FormatError(f"fixed particles among {n}, found {fixed}")
        record = self._record(at, 4 * (n - fixed))
        free = np.frombuffer(record, f"{self._order}i4").astype(np.int64) - 1
        if free.min() < 0 or free.max() >= n:
            raise FormatError(f"moving particles from 1 to {n}, found {free.max() + 1}")
        return free

    def read(self, index: int) -> Structure:
        """One frame."""
        cell, positions = self._frame(index)
        if index and len(self._free) < self.n_particles:
            _, first = self._frame(0)
            first[self._free] = positions
            positions = first
        box = np.zeros((3, 3)) if cell is None else _box(cell)
        time = (index + self._first / self._every) * self._time
        return Structure(positions * NM_PER_ANGSTROM, box, time)

    def _frame(self, index: int) -> tuple[Float64[np.ndarray, "6"] | None, np.ndarray]:
        """The cell, if there is one, and the coordinates of a frame in Å."""
        start = self._begin + (self._whole + (index - 1) * self._later if index else 0)
        data = self._bytes(start, self._later if index else self._whole)
        at, cell = 0, None
        if self._cell:
            cell = np.frombuffer(self._part(data, at, 48), f"{self._order}f8").astype(np.float64)
            at += 56
        n = len(self._free) if index else self.n_particles
        axes = []
        for _ in range(3):
            axes.append(np.frombuffer(self._part(data, at, 4 * n), f"{self._order}f4"))
            at += 8 + 4 * n
        if at < len(data):  # a fourth dimension, which nothing here needs
            self._part(data, at, 4 * n)
        return cell, np.stack(axes, axis=1).astype(np.float64)

    def check_end(self) -> None:
        """Refuses bytes behind the last whole frame."""
        if self._over:
            raise FormatError(
                f"the file to end with frame {self.n_frames - 1}, found {self._over} more bytes: "
                f"a frame that is cut short, or another file joined on"
            )

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _bytes(self, at: int, count: int) -> bytes:
        data = os.pread(self._file.fileno(), count, at)
        if len(data) < count:
            raise FormatError("a whole frame, found the end of the file")
        return data

    def _length(self, at: int) -> int:
        """Length of the record that starts at a byte, if both copies agree."""
        (length,) = struct.unpack(f"{self._order}i", self._bytes(at, 4))
        if not 0 <= length <= self._size - at - 8 or self._bytes(at + 4 + length, 4) != (
            struct.pack(f"{self._order}i", length)
        ):
            raise FormatError(f"a record at byte {at}, found one of damaged length {length}")
        return int(length)

    def _record(self, at: int, expected: int) -> bytes:
        if self._length(at) != expected:
            raise FormatError(
                f"a record of {expected} bytes at byte {at}, found {self._length(at)}"
            )
        return self._bytes(at + 4, expected)

    def _part(self, data: bytes, at: int, length: int) -> bytes:
        """A record of a frame."""
        mark = struct.pack(f"{self._order}i", length)
        end = at + 4 + length
        if data[at : at + 4] != mark or data[end : end + 4] != mark:
            raise FormatError(
                f"a record of {length} bytes, found another length: the frame is damaged, or "
                f"belongs to another file that was joined on"
            )
        return data[at + 4 : end]


def _no_dcd(first: bytes) -> str:
    """Refuses a file that begins otherwise."""
    if first[:4] in (struct.pack("<i", 84), struct.pack(">i", 84), struct.pack("<q", 84)[:4]):
        raise FormatError(f"a .dcd of coordinates, with 32 bit records, found {first!r}")
    raise FormatError("a .dcd trajectory, found a file that begins otherwise")


class DcdWriter(FrameWriter):
    """Writes .dcd; the format has no time for each frame, so frames are numbered 1 ps apart."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        self._file: BinaryIO = path.open("wb")
        self._n = table.n
        self._count = 0
        self._write_head()

    def _write_head(self) -> None:
        numbers = [0] * 20
        numbers[0], numbers[2], numbers[3] = self._count, 1, self._count
        numbers[10], numbers[19] = 1, _CHARMM
        head = bytearray(b"CORD" + struct.pack("<20i", *numbers))
        head[40:44] = struct.pack("<f", 1.0 / _PS_PER_AKMA)
        self._file.seek(0)
        for record in (
            bytes(head),
            struct.pack("<i", 1) + b"deepbackmap".ljust(80),
            struct.pack("<i", self._n),
        ):
            self._put(record)

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame, angles as cosines."""
        lengths, cosines = lengths_and_cosines(structure.box)
        cell = np.empty(6)
        cell[list(_PLACES)] = [*(lengths / NM_PER_ANGSTROM), *cosines]
        self._put(cell.astype("<f8").tobytes())
        for axis in (structure.positions / NM_PER_ANGSTROM).astype("<f4").T:
            self._put(axis.tobytes())
        self._count += 1

    def close(self) -> None:
        """Finishes the file: the number of frames goes into its head."""
        try:
            self._write_head()
        finally:
            self._file.close()

    def _put(self, record: bytes) -> None:
        mark = struct.pack("<i", len(record))
        self._file.write(mark + record + mark)


def _box(record: Float64[np.ndarray, "6"]) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors in nm; angles that are all within -1 to 1 are cosines."""
    cell = record[list(_PLACES)]
    lengths, angles = cell[:3] * NM_PER_ANGSTROM, cell[3:]
    if not cell.any():
        return np.zeros((3, 3))
    if (np.abs(angles) <= 1.0).all():
        angles = 90.0 - np.rad2deg(np.arcsin(angles))
    elif (cell < 0.0).any() or (angles >= 180.0).any():
        raise FormatError(
            f"a cell as lengths and angles, found {record.tolist()} (CHARMM's shape matrix?)"
        )
    return box_from_lengths_and_angles(lengths, angles)

"""GROMACS' .xtc and .trr: frames found, checked and read here.

Every number of a frame's head is held against the file before anything is done with it, so that
a damaged file ends in a sentence and not in a crash. Lattice vectors come as they are stored.
Written are .trr here and .xtc through the encoder of MDAnalysis.
"""

from __future__ import annotations

import os
import struct
from abc import abstractmethod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from deepbackmap.io.formats.base import FormatError, FrameReader, FrameWriter
from deepbackmap.io.formats.xtc_stream import PackedFrame, unpack
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_XTC_MAGIC, _XTC_NEW_MAGIC, _TRR_MAGIC = 1995, 2023, 1993
"""The new .xtc has 64 bits for the length of a stream."""
_PLAIN = 9
"""Up to so many particles .xtc stores plain numbers."""
_TRR_NAME = b"GMX_trn_file"


class _Cut(Exception):
    """The file ends inside a frame."""


class _Blocks(FrameReader):
    """Frames one after another, each of a length that its head tells."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._starts = self._scan()
            self.n_frames = len(self._starts)
        except BaseException:
            self._file.close()
            raise

    def _scan(self) -> list[int]:
        """Where every frame starts, the last one perhaps cut short."""
        starts: list[int] = []
        at = 0
        while at < self._size:
            try:
                n, length = self._head(at)
            except _Cut:
                n, length = (self.n_particles if starts else 0), self._size - at + 1
            if not starts:
                self.n_particles = n
            if n != self.n_particles:
                raise FormatError(
                    f"{self.n_particles} particles in frame {len(starts)} as in frame 0, found {n}"
                )
            starts.append(at)
            at += length
        if not starts or not self.n_particles:
            raise FormatError("at least one frame, found none")
        return starts

    @abstractmethod
    def _head(self, at: int) -> tuple[int, int]:
        """Number of particles and length in bytes of the frame that starts at a byte."""

    @abstractmethod
    def _frame(self, data: bytes) -> Structure:
        """The frame in some bytes."""

    def read(self, index: int) -> Structure:
        """One frame."""
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < self.n_frames else None
        try:
            if end is None:
                end = start + self._head(start)[1]
            if end > self._size:
                raise _Cut
            return self._frame(self._bytes(start, end - start))
        except _Cut:
            raise FormatError(
                f"a whole frame, found that the file ends {self._size - start} bytes behind its "
                f"beginning"
            ) from None

    def ends_whole(self) -> bool:
        """Whether the last frame ends where the file does."""
        try:
            return self._starts[-1] + self._head(self._starts[-1])[1] == self._size
        except _Cut:
            return False

    def check_end(self) -> None:
        """Nothing is left to check: frames are counted to the last byte of the file."""

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _bytes(self, at: int, count: int) -> bytes:
        data = os.pread(self._file.fileno(), count, at)
        if len(data) < count:
            raise _Cut
        return data


class XtcReader(_Blocks):
    """Frames of an .xtc file."""

    def _head(self, at: int) -> tuple[int, int]:
        magic, n = struct.unpack(">2i", self._bytes(at, 8))
        if magic not in (_XTC_MAGIC, _XTC_NEW_MAGIC):
            raise FormatError(f"an .xtc frame at byte {at}, found a foreign number {magic}")
        (again,) = struct.unpack(">i", self._bytes(at + 52, 4))
        if n < 1 or n != again:
            raise FormatError(
                f"a number of particles in the frame at byte {at}, found {n} and {again}"
            )
        if n <= _PLAIN:
            return n, 56 + 12 * n
        wide = magic == _XTC_NEW_MAGIC
        length = int.from_bytes(self._bytes(at + 88, 8 if wide else 4), "big", signed=True)
        # From 2 bits a particle (all on one point) to 96 and those that tell of a run.
        if not 0 < length <= 13 * n + 1 or 4 * length < n:
            raise FormatError(
                f"a stream of coordinates for {n} particles in the frame at byte {at}, found one "
                f"of {length} bytes"
            )
        head = 96 if wide else 92
        return n, head + length + -length % 4

    def _frame(self, data: bytes) -> Structure:
        magic, n, _, time = struct.unpack(">3if", data[:16])
        box = np.frombuffer(data, ">f4", 9, 16).astype(np.float64).reshape(3, 3)
        if n <= _PLAIN:
            x = np.frombuffer(data, ">f4", 3 * n, 56).astype(np.float64).reshape(n, 3)
            return Structure(x, box, time)
        precision, *numbers = struct.unpack(">f7i", data[56:88])
        head = 96 if magic == _XTC_NEW_MAGIC else 92
        length = int.from_bytes(data[88:head], "big")
        if any(data[head + length :]):
            raise FormatError("zeros behind the stream of coordinates, found something else")
        x, y, z, to_x, to_y, to_z, step = numbers
        stream = np.frombuffer(data, np.uint8, length, head)
        packed = PackedFrame(n, precision, (x, y, z), (to_x, to_y, to_z), step, stream)
        return Structure(unpack(packed).astype(np.float64), box, time)


class _TrrHead(NamedTuple):
    """What a .trr frame says of itself."""

    n: int
    real: str
    """``>f4`` or ``>f8``."""
    before: int
    """Bytes from the beginning of the frame to its blocks."""
    blocks: tuple[int, ...]
    """Bytes of box, virial, pressure, positions, velocities and forces."""

    @property
    def length(self) -> int:
        return self.before + sum(self.blocks)


class TrrReader(_Blocks):
    """Frames of a .trr file, in single or double precision."""

    def _head(self, at: int) -> tuple[int, int]:
        found = _trr_head(self._bytes(at, min(88, self._size - at)), at)
        return found.n, found.length

    def _frame(self, data: bytes) -> Structure:
        head = _trr_head(data[:88], 0)
        box_bytes, virial, pressure, x_bytes = head.blocks[:4]
        if not x_bytes:
            raise FormatError("coordinates, found a frame without")
        size = int(head.real[2])
        (time,) = struct.unpack(f">{'f' if size == 4 else 'd'}", data[76 : 76 + size])
        box = np.zeros((3, 3))
        if box_bytes:
            box = np.frombuffer(data, head.real, 9, head.before).astype(np.float64).reshape(3, 3)
        start = head.before + box_bytes + virial + pressure
        x = np.frombuffer(data, head.real, 3 * head.n, start).astype(np.float64)
        return Structure(x.reshape(-1, 3), box, float(time))


def _trr_head(data: bytes, at: int) -> _TrrHead:
    """Reads and checks the head of a frame that starts at a byte."""
    if len(data) < 84:
        raise _Cut
    magic, long, short = struct.unpack(">3i", data[:12])
    if magic != _TRR_MAGIC or long != 13 or short != 12 or data[12:24] != _TRR_NAME:
        raise FormatError(f"a .trr frame at byte {at}, found something else")
    sizes = struct.unpack(">13i", data[24:76])
    ir, energy, box, virial, pressure, top, sym, x, v, f, n, _, _ = sizes
    size = box // 9 or (x or v or f) // (3 * n) if n > 0 else 0
    usual = [(b, 9) for b in (box, virial, pressure)] + [(b, 3 * n) for b in (x, v, f)]
    if (
        size not in (4, 8)
        or ir or energy or top or sym
        or any(b not in (0, size * count) for b, count in usual)
    ):  # fmt: skip
        raise FormatError(f"sizes that fit {n} particles in the frame at byte {at}, found {sizes}")
    return _TrrHead(n, f">f{size}", 76 + 2 * size, (box, virial, pressure, x, v, f))


class XtcWriter(FrameWriter):
    """Writes .xtc, to 0.001 nm."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        self._path = path
        self._file: Any = None
        self._count = 0

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame."""
        x, box = structure.positions.astype(np.float32), structure.box.astype(np.float32)
        if not np.abs(structure.positions).max(initial=0.0) < _LARGEST:
            raise FormatError(
                f"coordinates within {_LARGEST:g} nm, which is all that .xtc holds, found more: "
                f"write .trr"
            )
        try:
            self._open().write(x, box, index, structure.time, 1000.0)
        except OSError as error:
            raise FormatError(f"to write a frame, found: {error}") from error
        self._count += 1

    def _open(self) -> Any:
        """The encoder, from the first frame on."""
        if self._file is None:
            # Here, because MDAnalysis takes most of a second, which nobody waits for before
            # there is something to write.
            from MDAnalysis.lib.formats.libmdaxdr import XTCFile

            self._file = XTCFile(str(self._path), "w")
        return self._file

    def close(self) -> None:
        """Finishes the file, and looks whether all of it came to the disk."""
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:
            raise FormatError(f"to finish the file, found: {error}") from error
        if not self._count:
            return
        reader = XtcReader(self._path)
        try:
            whole = reader.n_frames == self._count and reader.ends_whole()
        finally:
            reader.close()
        if not whole:
            raise FormatError("a disk with space for the file, found that it took a part only")


_LARGEST = 2796.0
"""In nm: beyond it three sides together can exceed the largest step that the encoder's table has,
and the encoder reads behind the table."""


class TrrWriter(FrameWriter):
    """Writes .trr, in single precision."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        self._file: BinaryIO = path.open("wb")

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame."""
        n = structure.n
        head = struct.pack(">3i", _TRR_MAGIC, 13, 12) + _TRR_NAME
        head += struct.pack(">13i", 0, 0, 36, 0, 0, 0, 0, 12 * n, 0, 0, n, index, 0)
        head += struct.pack(">2f", structure.time, 0.0)
        self._file.write(head)
        self._file.write(structure.box.astype(">f4").tobytes())
        self._file.write(structure.positions.astype(">f4").tobytes())

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()

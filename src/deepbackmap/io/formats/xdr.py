"""GROMACS' .xtc and .trr, through the low-level readers of MDAnalysis.

These hand over the lattice vectors as they are stored; the high-level ones turn them into single
precision lengths and angles, and leave files with offsets beside the trajectory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from MDAnalysis.lib.formats.libmdaxdr import TRRFile, XTCFile

from deepbackmap.io.formats.base import FormatError, FrameReader, FrameWriter
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure


class XdrReader(FrameReader):
    """Frames of an .xtc or .trr file."""

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        if not self._size:
            raise FormatError("at least one frame, found an empty file")
        try:
            self._file = XTCFile(str(path)) if path.suffix.lower() == ".xtc" else TRRFile(str(path))
            self.n_frames = len(self._file)
        except OSError as error:
            raise FormatError(f"a {path.suffix} trajectory, found: {error}") from error
        self.n_particles = int(self._file.n_atoms)
        if not self.n_frames:
            raise FormatError("at least one frame, found none")

    def read(self, index: int) -> Structure:
        """One frame."""
        try:
            self._file.seek(index)
            frame = self._file.read()
        except OSError as error:
            raise FormatError(f"a whole frame, found: {error}") from error
        if not getattr(frame, "hasx", True):
            raise FormatError("coordinates, found a frame without")
        return Structure(
            np.array(frame.x, dtype=np.float64),
            np.array(frame.box, dtype=np.float64),
            float(frame.time),
        )

    def check_end(self) -> None:
        """Refuses bytes behind the last whole frame."""
        end = self._file._bytes_tell()
        if end != self._size:
            raise FormatError(
                f"the file to end with frame {self.n_frames - 1} at byte {end}, found "
                f"{self._size - end} more bytes of a frame that is cut short"
            )

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class XdrWriter(FrameWriter):
    """Writes .xtc (to 0.001 nm) or .trr (single precision)."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        self._xtc = path.suffix.lower() == ".xtc"
        self._file = XTCFile(str(path), "w") if self._xtc else TRRFile(str(path), "w")

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame."""
        x = structure.positions.astype(np.float32)
        box = structure.box.astype(np.float32)
        try:
            if self._xtc:
                self._file.write(x, box, index, structure.time, 1000.0)
            else:
                self._file.write(x, None, None, box, index, structure.time, 0.0, len(x))
        except OSError as error:
            raise FormatError(f"to write a frame, found: {error}") from error

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()

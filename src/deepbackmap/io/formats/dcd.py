"""CHARMM's and NAMD's .dcd, through the low-level reader of MDAnalysis.

The cell is stored in double precision as lengths and angles (or their cosines), so nothing is
lost by taking it from there. Lengths in the file are in Å, times in AKMA units.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float64
from MDAnalysis.lib.formats.libdcd import DCDFile

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


class DcdReader(FrameReader):
    """Frames of a .dcd file."""

    def __init__(self, path: Path) -> None:
        self._size = path.stat().st_size
        try:
            self._file = DCDFile(str(path))
        except (OSError, ValueError) as error:
            raise FormatError(f"a .dcd trajectory, found: {error}") from error
        self.n_frames = len(self._file)
        self.n_particles = int(self._file.header["natoms"])
        if self.n_frames < 1:
            raise FormatError("at least one frame, found none")

    def read(self, index: int) -> Structure:
        """One frame."""
        try:
            self._file.seek(index)
            frame = self._file.read()
        except OSError as error:
            raise FormatError(f"a whole frame, found: {error}") from error
        header = self._file.header
        step = index + header["istart"] / max(1, header["nsavc"])
        time = step * header["delta"] * header["nsavc"] * _PS_PER_AKMA
        positions = np.array(frame.xyz, dtype=np.float64) * NM_PER_ANGSTROM
        return Structure(positions, _box(np.array(frame.unitcell, dtype=np.float64)), float(time))

    def check_end(self) -> None:
        """Refuses bytes behind the last whole frame."""
        file = self._file
        rest = self._size - file._header_size - file._firstframesize
        if rest % file._framesize:
            raise FormatError(
                f"the file to end with frame {self.n_frames - 1}, found "
                f"{rest % file._framesize} more bytes of a frame that is cut short"
            )

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class DcdWriter(FrameWriter):
    """Writes .dcd; the format has no time for each frame, so frames are numbered 1 ps apart."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        self._file = DCDFile(str(path), "w")
        self._file.write_header(
            remarks="deepbackmap", natoms=table.n, istart=0, nsavc=1,
            delta=1.0 / _PS_PER_AKMA, is_periodic=1,
        )  # fmt: skip

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame, angles as cosines."""
        lengths, cosines = lengths_and_cosines(structure.box)
        record = np.empty(6)
        record[list(_PLACES)] = [*(lengths / NM_PER_ANGSTROM), *cosines]
        try:
            self._file.write((structure.positions / NM_PER_ANGSTROM).astype(np.float32), box=record)
        except OSError as error:
            raise FormatError(f"to write a frame, found: {error}") from error

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


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

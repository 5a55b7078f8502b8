"""HOOMD's .gsd, through the gsd package.

Not through MDAnalysis, which takes the tilt factors of a triclinic box for cosines of its angles.
Lengths are taken to be in Å, as MDAnalysis does; HOOMD itself has no units. The files know types,
not names, and times are step numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.geometry.cell import wrap
from deepbackmap.io.formats.base import NM_PER_ANGSTROM, FormatError, FrameReader, FrameWriter
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_DAMAGE = (OSError, RuntimeError, ValueError, IndexError, KeyError, TypeError, OverflowError,
           MemoryError)  # fmt: skip
"""What the package raises, in practice, when a file is damaged; also for lengths of 1e18."""


class GsdReader(FrameReader):
    """Frames of a .gsd file; the origin is moved from the middle of the cell to its corner."""

    def __init__(self, path: Path, length: float | None = None) -> None:
        """Opens a file.

        Args:
            path: of the file.
            length: of its unit in nm; Å by default.
        """
        self._nm = NM_PER_ANGSTROM if length is None else length
        try:
            self._file = _hoomd().open(str(path), "r")
        except _DAMAGE as error:
            raise FormatError(f"a .gsd trajectory, found: {error}") from error
        try:
            self._read_head()
        except _DAMAGE as error:
            self._file.close()
            raise FormatError(f"a .gsd trajectory, found: {error}") from error
        except FormatError:
            self._file.close()
            raise

    def _read_head(self) -> None:
        """Takes numbers and types from the first frame."""
        self.n_frames = len(self._file)
        if not self.n_frames:
            raise FormatError("at least one frame, found none")
        particles = self._file[0].particles
        self.n_particles = int(particles.N)
        if len(particles.typeid) and not particles.typeid.max() < len(particles.types):
            raise FormatError(
                f"types numbered below {len(particles.types)}, found {particles.typeid.max()}"
            )
        types = tuple(str(particles.types[k]) for k in particles.typeid)
        resids = np.ones(len(types), dtype=np.int64)  # the format has no residues
        self.table = ParticleTable(types, ("",) * len(types), resids, types, named=False)

    def read(self, index: int) -> Structure:
        """One frame.

        A frame that has nothing of its own would be the first one again. HOOMD writes none, since
        its steps go on; a damaged number of a frame in the file's index leaves some.
        """
        try:
            frame, own = self._file[index], self._has_own(index)
        except _DAMAGE as error:
            raise FormatError(f"a whole frame, found: {error}") from error
        if not own:
            raise FormatError("something of its own in every frame, found nothing in this one")
        if self.n_particles != frame.particles.N:
            raise FormatError(f"{self.n_particles} particles, found {frame.particles.N}")
        box = _lattice(np.asarray(frame.configuration.box, dtype=np.float64))
        positions = np.asarray(frame.particles.position, dtype=np.float64)
        images = np.asarray(frame.particles.image, dtype=np.float64)
        positions = positions + (images + 0.5) @ box
        return Structure(positions * self._nm, box * self._nm, float(frame.configuration.step))

    def _has_own(self, index: int) -> bool:
        """Whether a frame but the first holds any data."""
        file = self._file.file
        names = ("configuration/step", "particles/position")
        return (
            index == 0
            or any(file.chunk_exists(index, name) for name in names)
            or any(file.chunk_exists(index, n) for n in file.find_matching_chunk_names(""))
        )

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


class GsdWriter(FrameWriter):
    """Writes .gsd with bonds, where they are known; steps are frame numbers."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        self._gsd = _hoomd()
        words = table.types or table.names
        self._types = list(dict.fromkeys(words))
        number = {name: k for k, name in enumerate(self._types)}
        self._typeid = np.array([number[w] for w in words], dtype=np.uint32)
        self._table, self._bonds = table, table.bonds
        self._bond_types = _bond_types(words, table.bonds)
        self._file = self._gsd.open(str(path), "w")

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame, wrapped into the cell, with image counts."""
        box = structure.box / NM_PER_ANGSTROM
        positions = structure.positions / NM_PER_ANGSTROM
        inside = wrap(positions, box)
        frame = self._gsd.Frame()
        frame.configuration.step = index
        frame.configuration.dimensions = 3
        frame.configuration.box = [
            box[0, 0], box[1, 1], box[2, 2],
            box[1, 0] / box[1, 1], box[2, 0] / box[2, 2], box[2, 1] / box[2, 2],
        ]  # fmt: skip
        frame.particles.N = self._table.n
        frame.particles.types = self._types
        frame.particles.typeid = self._typeid
        frame.particles.position = (inside - 0.5 * box.sum(axis=0)).astype(np.float32)
        frame.particles.image = np.rint((positions - inside) @ np.linalg.inv(box)).astype(np.int32)
        if self._table.masses is not None:
            frame.particles.mass = self._table.masses.astype(np.float32)
        if self._table.charges is not None:
            frame.particles.charge = self._table.charges.astype(np.float32)
        if self._bonds is not None:
            frame.bonds.N = len(self._bonds)
            frame.bonds.group = self._bonds.astype(np.uint32)
            frame.bonds.types, frame.bonds.typeid = self._bond_types
        self._file.append(frame)

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


def _bond_types(
    words: tuple[str, ...], bonds: Int64[np.ndarray, "m 2"] | None
) -> tuple[list[str], Int64[np.ndarray, "m"]]:
    """Names of the types of bonds, as "A-B" by the types of the two, and the type of each."""
    pairs = [] if bonds is None else bonds.tolist()
    names = ["-".join(sorted((words[i], words[j]))) for i, j in pairs]
    types = list(dict.fromkeys(names))
    number = {name: k for k, name in enumerate(types)}
    return types, np.array([number[name] for name in names], dtype=np.int64)


def _hoomd() -> Any:
    try:
        import gsd.hoomd
    except ImportError as error:
        raise FormatError(
            "the package gsd, which .gsd files need (pip install 'deepbackmap[gsd]'), found none"
        ) from error
    return gsd.hoomd


def _lattice(record: Float64[np.ndarray, "6"]) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors from three lengths and three tilt factors."""
    x, y, z, xy, xz, yz = record
    return np.array([[x, 0.0, 0.0], [xy * y, y, 0.0], [xz * z, yz * z, z]])

"""Formats that are read through MDAnalysis' readers and parsers as they are."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from MDAnalysis.coordinates.base import ProtoReader
from MDAnalysis.topology.base import TopologyReaderBase

from deepbackmap.io.formats.base import (
    NM_PER_ANGSTROM,
    FormatError,
    FrameReader,
    box_from_lengths_and_angles,
)
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure


class MDAnalysisReader(FrameReader):
    """Frames of a file whose lengths MDAnalysis takes to be in Å."""

    def __init__(
        self, path: Path, reader: type[ProtoReader], table: ParticleTable | None, **options: Any
    ) -> None:
        self.table = table
        try:
            with warnings.catch_warnings():
                # Guessed masses and missing records are of no interest here: what matters
                # (counts, names, boxes, coordinates) is checked by io.trajectory.
                warnings.simplefilter("ignore")
                self._reader = reader(str(path), **options)
                self.n_frames = int(self._reader.n_frames)
                self.n_particles = int(self._reader.n_atoms)
        except _FOREIGN as error:
            raise FormatError(f"a {path.suffix} file, found: {_said(error)}") from error

    def read(self, index: int) -> Structure:
        """One frame."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step = self._reader[index]
                positions = np.array(step.positions, dtype=np.float64) * NM_PER_ANGSTROM
                cell = None if step.dimensions is None else step.dimensions.astype(np.float64)
                time = float(step.time)
        except _FOREIGN as error:
            raise FormatError(f"a whole frame, found: {_said(error)}") from error
        if cell is None:
            return Structure(positions, np.zeros((3, 3)), time)
        box = box_from_lengths_and_angles(cell[:3] * NM_PER_ANGSTROM, cell[3:])
        return Structure(positions, box, time)

    def close(self) -> None:
        """Lets go of the file."""
        self._reader.close()


def read_table(
    path: Path, parser: type[TopologyReaderBase], named: bool = True, **options: Any
) -> ParticleTable:
    """Names and residues of a file; types in place of names where it has no names."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with parser(str(path)) as opened:
                found = opened.parse(**options)
    except _FOREIGN as error:
        raise FormatError(f"a {path.suffix} file, found: {_said(error)}") from error
    n = found.n_atoms
    residue = found.tt.atoms2residues(np.arange(n))
    resids = np.asarray(found.resids.values)[residue].astype(np.int64)
    if not named:
        types = tuple(str(t) for t in found.types.values)
        return ParticleTable(types, ("",) * n, resids, types=types, named=False)
    return ParticleTable(
        names=tuple(str(x) for x in found.names.values),
        resnames=tuple(str(x) for x in np.asarray(found.resnames.values)[residue]),
        resids=resids,
    )


_FOREIGN = (OSError, EOFError, ValueError, IndexError, KeyError, TypeError, StopIteration)
"""What the readers raise, in practice, when a file is damaged."""


def _said(error: BaseException) -> str:
    return f"{type(error).__name__} {error}".splitlines()[0].strip()

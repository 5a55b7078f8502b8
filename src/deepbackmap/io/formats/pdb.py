"""Protein Data Bank files: read through MDAnalysis, written here.

CRYST1 holds lengths to 0.001 Å and angles to 0.01 degrees: a skewed cell of 10 nm comes back with
errors of up to 0.001 nm. Coordinates hold 0.001 Å.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from MDAnalysis.coordinates.PDB import PDBReader
from MDAnalysis.topology.PDBParser import PDBParser

from deepbackmap.io.formats.base import (
    NM_PER_ANGSTROM,
    FormatError,
    FrameReader,
    FrameWriter,
    check_widths,
    lengths_and_cosines,
)
from deepbackmap.io.formats.mdanalysis import MDAnalysisReader, read_table
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure


def open_pdb(path: Path) -> FrameReader:
    """Frames of a .pdb file, one a MODEL."""
    table = read_table(path, PDBParser)
    return MDAnalysisReader(path, PDBReader, table, n_atoms=table.n)


class PdbWriter(FrameWriter):
    """Writes .pdb, one MODEL a frame; numbers that outgrow their columns begin again at 0."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        check_widths(table, path, 4, 4)
        numbers = (table.resids % 10_000).tolist()
        self._heads = [
            f"ATOM  {(k + 1) % 100_000:5d} {_place(name)} {resname:<4s} {number:4d}    "
            for k, (number, resname, name) in enumerate(
                zip(numbers, table.resnames, table.names, strict=True)
            )
        ]
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame."""
        positions = structure.positions / NM_PER_ANGSTROM
        low, high = positions.min(), positions.max()
        if high >= 9999.9995 or low <= -999.9995:
            raise FormatError(
                f"coordinates from -99.999 to 999.999 nm, which is all that .pdb holds, found "
                f"{low / 10:.3f} to {high / 10:.3f}"
            )
        lengths, cosines = lengths_and_cosines(structure.box)
        cell = "".join(f"{v:9.3f}" for v in lengths / NM_PER_ANGSTROM)
        cell += "".join(f"{v:7.2f}" for v in np.rad2deg(np.arccos(cosines)))
        rows = [
            f"{head}{x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00\n"
            for head, (x, y, z) in zip(self._heads, positions.tolist(), strict=True)
        ]
        # MDAnalysis wants the cell ahead of MODEL; GROMACS takes the time from the title.
        self._file.write(f"TITLE     deepbackmap t= {structure.time:.5f} step= {index}\n")
        self._file.write(f"CRYST1{cell} P 1           1\nMODEL     {(index + 1) % 10_000:4d}\n")
        self._file.writelines(rows)
        self._file.write("ENDMDL\n")

    def close(self) -> None:
        """Finishes the file."""
        self._file.write("END\n")
        self._file.close()


def _place(name: str) -> str:
    """Four columns; names shorter than that leave the first one free."""
    return name if len(name) == 4 else f" {name:<3s}"

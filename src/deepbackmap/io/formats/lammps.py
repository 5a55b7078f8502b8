"""LAMMPS data and dump files: read through MDAnalysis, written here.

Lengths are taken to be in Å ("real" and "metal" units). The files know types, not names. Times of
a dump are its step numbers, since it does not hold the time step.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from MDAnalysis.coordinates.LAMMPS import DATAReader, DumpReader
from MDAnalysis.topology.LAMMPSParser import DATAParser, LammpsDumpParser

from deepbackmap.io.formats.base import NM_PER_ANGSTROM, FormatError, FrameReader, FrameWriter
from deepbackmap.io.formats.mdanalysis import MDAnalysisReader, read_table
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_STYLES = {
    "full": "id resid type charge x y z",
    "molecular": "id resid type x y z",
    "bond": "id resid type x y z",
    "angle": "id resid type x y z",
    "charge": "id type charge x y z",
    "atomic": "id type x y z",
}
_STYLE_BY_FIELDS = {5: "atomic", 8: "atomic", 6: "molecular", 9: "molecular", 7: "full", 10: "full"}
"""Without image flags, and with them."""


def open_data(path: Path) -> FrameReader:
    """The one frame of a LAMMPS data file."""
    style, expected = _atoms_section(path)
    table = read_table(path, DATAParser, named=False, atom_style=style)
    if table.n != expected:
        raise FormatError(f"{expected} atoms as its header says, found {table.n}")
    return MDAnalysisReader(path, DATAReader, table, n_atoms=table.n, atom_style=style)


class DumpFrames(MDAnalysisReader):
    """Frames of a LAMMPS dump."""

    def __init__(self, path: Path) -> None:
        self._path = path
        super().__init__(path, DumpReader, read_table(path, LammpsDumpParser, named=False))

    def check_end(self) -> None:
        """Refuses lines behind the last whole frame, which MDAnalysis would pass over."""
        with self._path.open("rb") as file:
            lines = sum(1 for _ in file)
        rest = lines % (self.n_particles + 9)
        if rest:
            raise FormatError(
                f"{self.n_particles + 9} lines a frame, found {rest} more lines of a frame that is "
                f"cut short"
            )


class DumpWriter(FrameWriter):
    """Writes a LAMMPS dump; steps are frame numbers."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        types, _, _ = _numbered_types(table)
        self._heads = [
            f"{k} {m} {t}" for k, (m, t) in enumerate(zip(_molecules(table), types, strict=True), 1)
        ]
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, structure: Structure, index: int) -> None:
        """Appends one frame; coordinates are called unwrapped, since they may be."""
        box = structure.box / NM_PER_ANGSTROM
        xy, xz, yz = box[1, 0], box[2, 0], box[2, 1]
        x = np.array([min(0.0, xy, xz, xy + xz), max(0.0, xy, xz, xy + xz) + box[0, 0]])
        y = np.array([min(0.0, yz), max(0.0, yz) + box[1, 1]])
        self._file.write(
            f"ITEM: TIMESTEP\n{index}\nITEM: NUMBER OF ATOMS\n{len(self._heads)}\n"
            f"ITEM: BOX BOUNDS xy xz yz pp pp pp\n"
            f"{x[0]:.10g} {x[1]:.10g} {xy:.10g}\n{y[0]:.10g} {y[1]:.10g} {xz:.10g}\n"
            f"0 {box[2, 2]:.10g} {yz:.10g}\nITEM: ATOMS id mol type xu yu zu\n"
        )
        self._file.writelines(
            f"{head} {a:.5f} {b:.5f} {c:.5f}\n"
            for head, (a, b, c) in zip(
                self._heads, (structure.positions / NM_PER_ANGSTROM).tolist(), strict=True
            )
        )

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


class DataWriter(FrameWriter):
    """Writes a LAMMPS data file (atom style full, no bonded terms), which holds one frame."""

    def __init__(self, path: Path, table: ParticleTable) -> None:
        if table.masses is None:
            raise FormatError("masses, which a LAMMPS data file holds, found none")
        self._types, self._names, self._masses = _numbered_types(table)
        self._table = table
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, structure: Structure, index: int) -> None:
        """Writes the frame; a second one is refused."""
        if index:
            raise FormatError("one frame, which is all that a LAMMPS data file holds, found more")
        box = structure.box / NM_PER_ANGSTROM
        lines = ["LAMMPS data file by deepbackmap, lengths in Angstrom", ""]
        lines += [f"{self._table.n} atoms", f"{len(self._names)} atom types", ""]
        lines += [f"0 {box[k, k]:.10g} {a}lo {a}hi" for k, a in enumerate("xyz")]
        lines += [f"{box[1, 0]:.10g} {box[2, 0]:.10g} {box[2, 1]:.10g} xy xz yz", "", "Masses", ""]
        lines += [
            f"{k} {mass:.6g}  # {name}"
            for k, (mass, name) in enumerate(zip(self._masses, self._names, strict=True), 1)
        ]
        lines += ["", "Atoms  # full", ""]
        charges = np.zeros(self._table.n) if self._table.charges is None else self._table.charges
        rows = zip(
            _molecules(self._table), self._types, charges.tolist(),
            (structure.positions / NM_PER_ANGSTROM).tolist(), strict=True,
        )  # fmt: skip
        lines += [
            f"{k} {m} {t} {q:.6g} {x:.5f} {y:.5f} {z:.5f}"
            for k, (m, t, q, (x, y, z)) in enumerate(rows, 1)
        ]
        self._file.write("\n".join(lines) + "\n")

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


def _numbered_types(table: ParticleTable) -> tuple[list[int], list[str], list[float]]:
    """Types as numbers from 1 in order of appearance, their names and masses.

    Particles of one type but several masses (beads at the ends of a chain) are types of their own
    here, since LAMMPS has one mass a type.
    """
    words = table.types or table.names
    masses = np.zeros(table.n) if table.masses is None else table.masses.round(6)
    keys = list(zip(words, masses.tolist(), strict=True))
    number = {key: k for k, key in enumerate(dict.fromkeys(keys), 1)}
    return [number[k] for k in keys], [name for name, _ in number], [mass for _, mass in number]


def _molecules(table: ParticleTable) -> list[int]:
    return (table.resids if table.molecules is None else table.molecules).tolist()


def _atoms_section(path: Path) -> tuple[str, int]:
    """Columns of the Atoms section, from its hint or its width, and the number in the header.

    MDAnalysis passes over the hint, takes every width but one to be ``molecular``, and does not
    look at the number.
    """
    hint, fields, expected = "", 0, 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split("#")[0].split()
            if words[1:] == ["atoms"] and words[0].isdigit():
                expected = int(words[0])
            elif words == ["Atoms"]:
                hint = line.partition("#")[2].strip()
                fields = next((len(s.split("#")[0].split()) for s in file if s.strip()), 0)
                break
    style = hint or _STYLE_BY_FIELDS.get(fields, "")
    if style not in _STYLES:
        raise FormatError(
            f"atoms in one of the styles {', '.join(_STYLES)}, found "
            f"{f'style {hint}' if hint else f'{fields} columns in the Atoms section'}"
        )
    return _STYLES[style], expected

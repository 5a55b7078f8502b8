"""Protein Data Bank files, one frame a MODEL, or up to each END.

CRYST1 holds lengths to 0.001 Å and angles to 0.01 degrees: a skewed cell of 10 nm comes back with
errors of up to 0.001 nm. Coordinates hold 0.001 Å. A CRYST1 counts until the next one (OpenMM
writes one for all models, GROMACS one a model); that of 1 Å, which the format wants where there is
no cell, is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.io.formats.base import (
    NM_PER_ANGSTROM,
    FormatError,
    FrameReader,
    FrameWriter,
    box_from_lengths_and_angles,
    check_widths,
    lengths_and_cosines,
)
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_ATOMS = (b"ATOM  ", b"HETATM")
_ENDS = (b"ENDMDL", b"END")
_COLUMNS = slice(30, 54)
"""Three coordinates of eight columns each."""
_MAY_STAND = np.isin(np.arange(256), list(b"0123456789.+- "))
"""By character, whether a coordinate may have it."""


class _Frame(NamedTuple):
    start: int
    """Byte of the first atom."""
    n: int
    box: Float64[np.ndarray, "3 3"]


class PdbReader(FrameReader):
    """Frames of a .pdb file, found by one pass over its lines."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        try:
            self._frames = self._scan()
            self.n_frames = len(self._frames)
            if not self.n_frames:
                raise FormatError("at least one ATOM, found none")
            self.n_particles = self._frames[0].n
            self.table = self._read_table()
        except BaseException:
            self._file.close()
            raise

    def read(self, index: int) -> Structure:
        """One frame."""
        frame = self._frames[index]
        if frame.n != self.n_particles:
            raise FormatError(f"{self.n_particles} atoms as in frame 0, found {frame.n}")
        positions = _positions(self._lines(index)) * NM_PER_ANGSTROM
        return Structure(positions, frame.box.copy(), float(index))

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _scan(self) -> list[_Frame]:
        frames: list[_Frame] = []
        box = np.zeros((3, 3))
        start, n, model, at = -1, 0, False, 0
        for line in self._file:
            record = line[:6]
            if record in _ATOMS:
                if not n:
                    start = at
                n += 1
            elif record == b"CRYST1":
                box = _cell(line, len(frames))
            elif record.rstrip() == b"MODEL":
                if model and n:
                    raise FormatError(f"an ENDMDL behind frame {len(frames)}, found none")
                model = True
            elif record.rstrip() in _ENDS:
                if n:
                    frames.append(_Frame(start, n, box))
                n, model = 0, False
            at += len(line)
        if n and model:
            raise FormatError(f"an ENDMDL behind frame {len(frames)}, found the end of the file")
        if n:
            frames.append(_Frame(start, n, box))
        return frames

    def _lines(self, index: int) -> list[bytes]:
        """The rows of the atoms of a frame."""
        frame = self._frames[index]
        self._file.seek(frame.start)
        lines: list[bytes] = []
        while len(lines) < frame.n:
            line = self._file.readline()
            if line[:6] in _ATOMS:
                lines.append(line)
        return lines

    def _read_table(self) -> ParticleTable:
        lines = [line.decode(errors="replace") for line in self._lines(0)]
        return ParticleTable(
            names=tuple(line[12:16].strip() for line in lines),
            resnames=tuple(line[17:21].strip() for line in lines),
            resids=_residue_numbers([line[22:26] for line in lines]),
        )


def _residue_numbers(words: list[str]) -> Int64[np.ndarray, "n"]:
    """Numbers; words for those that outgrew the columns (stars, letters) count on from there."""
    numbers: list[int] = []
    for k, word in enumerate(words):
        try:
            numbers.append(int(word))
        except ValueError:
            last = numbers[-1] if numbers else 0
            numbers.append(last + (k > 0 and word != words[k - 1]))
    return np.array(numbers, dtype=np.int64)


def _positions(lines: list[bytes]) -> Float64[np.ndarray, "n 3"]:
    """Coordinates in Å.

    The point is the fifth of eight columns, unless the number fills all of them: so a row with a
    character more or less is found out.
    """
    joined = b"".join(line[_COLUMNS] for line in lines)
    bad = np.array([len(line) < _COLUMNS.stop for line in lines])
    if not bad.any():
        table = np.frombuffer(joined, np.uint8).reshape(len(lines), 3, 8)
        placed = (table[..., 4] == ord(".")) | (table != ord(" ")).all(axis=-1)
        points = (table == ord(".")).sum(axis=-1) == 1
        bad = ~(placed & points & _MAY_STAND[table].all(axis=-1)).all(axis=-1)
        try:
            if not bad.any():
                return np.ascontiguousarray(table).view("S8")[..., 0].astype(np.float64)
        except ValueError as error:
            raise FormatError(f"three coordinates in columns 31 to 54, found {error}") from error
    row = int(np.flatnonzero(bad)[0])
    found = lines[row][_COLUMNS].decode(errors="replace").rstrip()
    raise FormatError(f"three coordinates in columns 31 to 54 of atom {row + 1}, found '{found}'")


def _cell(line: bytes, frame: int) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors of a CRYST1 record in nm."""
    places = [(6, 15), (15, 24), (24, 33), (33, 40), (40, 47), (47, 54)]
    try:
        found = np.array([float(line[a:b]) for a, b in places])
    except ValueError as error:
        raise FormatError(
            f"three lengths and three angles in CRYST1 of frame {frame}, found "
            f"'{line[6:54].decode(errors='replace').strip()}'"
        ) from error
    if (found[:3] == 1.0).all():
        return np.zeros((3, 3))
    return box_from_lengths_and_angles(found[:3] * NM_PER_ANGSTROM, found[3:])


class PdbWriter(FrameWriter):
    """Writes .pdb, one MODEL a frame; numbers that outgrow their columns begin again at 0.

    Elements and bonds (CONECT) stand in it where they are known; bonds of up to 99 999 atoms, whose
    numbers are their own.
    """

    def __init__(self, path: Path, table: ParticleTable) -> None:
        table = check_widths(table, path, 4)
        numbers = (table.resids % 10_000).tolist()
        symbols = [s.upper() if s != "X" else "" for s in table.elements] or [""] * table.n
        self._heads = [
            f"ATOM  {(k + 1) % 100_000:5d} {_place(name, symbol)} {resname:<4s} {number:4d}    "
            for k, (number, resname, name, symbol) in enumerate(
                zip(numbers, table.resnames, table.names, symbols, strict=True)
            )
        ]
        self._ends = [f"{'':10s}{symbol:>2s}\n" if symbol else "\n" for symbol in symbols]
        self._bonds = table.bonds if table.n < 100_000 else None
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(
        self,
        structure: Structure,
        index: int,
        factors: Float64[np.ndarray, "n"] | None = None,
    ) -> None:
        """Appends one frame.

        Args:
            structure: positions in nm, and the cell.
            index: number of the frame.
            factors: for the column of temperature factors; zeros by default.
        """
        numbers = np.zeros(structure.n) if factors is None else np.minimum(factors, 999.99)
        positions = structure.positions / NM_PER_ANGSTROM
        low, high = positions.min(), positions.max()
        if high >= 9999.9995 or low <= -999.9995:
            raise FormatError(
                f"coordinates from -99.999 to 999.999 nm, which is all that .pdb holds, found "
                f"{low / 10:.3f} to {high / 10:.3f}"
            )
        lengths, cosines = lengths_and_cosines(structure.box)
        lengths = lengths / NM_PER_ANGSTROM if structure.box.any() else np.ones(3)
        cell = "".join(f"{v:9.3f}" for v in lengths)
        cell += "".join(f"{v:7.2f}" for v in np.rad2deg(np.arccos(cosines)))
        rows = [
            f"{head}{x:8.3f}{y:8.3f}{z:8.3f}  1.00{b:6.2f}{end}"
            for head, (x, y, z), b, end in zip(
                self._heads, positions.tolist(), numbers.tolist(), self._ends, strict=True
            )
        ]
        # MDAnalysis wants the cell ahead of MODEL; GROMACS takes the time from the title.
        self._file.write(f"TITLE     deepbackmap t= {structure.time:.5f} step= {index}\n")
        self._file.write(f"CRYST1{cell} P 1           1\nMODEL     {(index + 1) % 10_000:4d}\n")
        self._file.writelines(rows)
        self._file.write("ENDMDL\n")

    def close(self) -> None:
        """Finishes the file."""
        if self._bonds is not None:
            self._file.writelines(_conect(self._bonds))
        self._file.write("END\n")
        self._file.close()


def _conect(bonds: Int64[np.ndarray, "m 2"]) -> Iterator[str]:
    """Records of the bonds, every bond at both of its atoms, up to four in a record."""
    both = np.concatenate([bonds, bonds[:, ::-1]]) + 1
    both = both[np.lexsort(both.T[::-1])]
    atoms, starts = np.unique(both[:, 0], return_index=True)
    for atom, partners in zip(atoms, np.split(both[:, 1], starts[1:]), strict=True):
        for k in range(0, len(partners), 4):
            yield f"CONECT{atom:5d}" + "".join(f"{p:5d}" for p in partners[k : k + 4]) + "\n"


def _place(name: str, symbol: str = "") -> str:
    """Four columns; the first is free for short names but of elements of two letters."""
    two = len(symbol) == 2 and name.upper().startswith(symbol)
    return f"{name:<4s}" if len(name) == 4 or two else f" {name:<3s}"

"""LAMMPS data and dump files.

Coordinates are those that LAMMPS means, whatever form they have in the file: image flags are
counted in, the origin of the box stays where LAMMPS has it (for `x y z`, scaled ones and data files
alike), and only lattice vectors are kept of the box. The files know types, not names.

Lengths are in Å unless the file names its units (`dump_modify units yes`) or the caller does; those
of `lj` are refused until somebody says how long sigma is. Times are step numbers, unless the dump
has both times and units.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.io.formats.base import NM_PER_ANGSTROM, FormatError, FrameReader, FrameWriter
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure

_NM = {"real": 0.1, "metal": 0.1, "electron": 0.052917721, "nano": 1.0, "micro": 1e3, "si": 1e9,
       "cgs": 1e7}  # fmt: skip
"""Length of a unit in nm, by LAMMPS' styles of units."""
_PS = {"real": 1e-3, "metal": 1.0, "electron": 1e-3, "nano": 1e3, "micro": 1e6, "si": 1e12,
       "cgs": 1e12}  # fmt: skip
"""Unit of time in ps."""
_FORMS = (("x", "y", "z"), ("xs", "ys", "zs"), ("xu", "yu", "zu"), ("xsu", "ysu", "zsu"))
IMAGES = ("ix", "iy", "iz")
"""Image flags: beside wrapped coordinates they say where an atom is that left the cell."""
_STYLES = {
    "full": "id mol type q x y z",
    "molecular": "id mol type x y z",
    "bond": "id mol type x y z",
    "angle": "id mol type x y z",
    "charge": "id type q x y z",
    "atomic": "id type x y z",
}
_SECTIONS = ("Atoms", "Masses", "Velocities", "Bonds", "Angles", "Dihedrals", "Impropers", "Pair",
             "PairIJ", "Bond", "Angle", "Dihedral", "Improper", "Ellipsoids", "Lines", "Triangles",
             "Bodies", "BondBond", "BondAngle", "MiddleBondTorsion", "EndBondTorsion",
             "AngleTorsion", "AngleAngleTorsion", "BondBond13", "AngleAngle", "Atom")  # fmt: skip
"""First words of the sections of a data file."""


class _Rows(NamedTuple):
    """Rows of atoms in order of their numbers."""

    table: ParticleTable
    numbers: Int64[np.ndarray, "n"]
    positions: Float64[np.ndarray, "n 3"]
    """In the file's unit, scaled or not."""
    scaled: bool
    images: Int64[np.ndarray, "n 3"]
    """How many lattice vectors away an atom is from where its coordinates say."""


class _Frame(NamedTuple):
    """The head of a frame of a dump, and where its rows begin."""

    step: int
    time: float | None
    n: int
    box: Float64[np.ndarray, "3 3"]
    """Lattice vectors as they stand in the file, lower triangular or not."""
    origin: Float64[np.ndarray, "3"]
    columns: tuple[str, ...]
    rows: int
    """Byte."""


class DumpReader(FrameReader):
    """Frames of a LAMMPS dump, found by one pass over its lines."""

    def __init__(self, path: Path, length: float | None = None) -> None:
        """Opens a dump.

        Args:
            path: of the file.
            length: of its unit in nm; what the file says, or Å, by default.
        """
        self._file: BinaryIO = path.open("rb")
        self._size = path.stat().st_size
        self._units = ""
        try:
            self._frames = self._scan()
            self.n_frames = len(self._frames)
            if not self.n_frames:
                raise FormatError("at least one frame, found none")
            self.n_particles = self._frames[0].n
            self._nm = _length_unit(self._units, length)
            first = self._rows(0)
            self.table, self._numbers = first.table, first.numbers
        except BaseException:
            self._file.close()
            raise

    def read(self, index: int) -> Structure:
        """One frame, its atoms in the order of their numbers."""
        frame = self._frames[index]
        if frame.n != self.n_particles:
            raise FormatError(f"{self.n_particles} particles as in frame 0, found {frame.n}")
        rows = self._rows(index)
        if not np.array_equal(rows.numbers, self._numbers):
            raise FormatError("the atoms of frame 0 by their numbers (id), found others")
        x = rows.positions + rows.images @ frame.box
        if rows.scaled:
            x = frame.origin + (rows.positions + rows.images) @ frame.box
        box, turn = lower_triangular(frame.box)
        time = float(frame.step)
        if frame.time is not None and self._units in _PS:
            time = frame.time * _PS[self._units]
        return Structure((x @ turn) * self._nm, box * self._nm, time)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def _scan(self) -> list[_Frame]:
        """Heads of all frames; refuses what is cut short."""
        frames: list[_Frame] = []
        while (frame := self._head(len(frames))) is not None:
            frames.append(frame)
            for row in range(frame.n):
                line = self._file.readline()
                if not line.strip() or line.startswith(b"ITEM:"):
                    raise FormatError(
                        f"{frame.n} rows of atoms in frame {len(frames) - 1}, found {row}"
                    )
        return frames

    def _head(self, number: int) -> _Frame | None:
        """The head of the next frame; None at the end of the file."""
        step, n = 0, -1
        time: float | None = None
        lattice: tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]] | None = None
        begun = False
        while True:
            words = self._line()
            if not words:
                if begun or self._file.read().strip():
                    raise FormatError(f"a whole frame {number}, found that it is cut short")
                return None
            begun = True
            if words[0] != "ITEM:" or len(words) < 2:
                raise FormatError(
                    f"a line that begins with ITEM: in frame {number}, found "
                    f"'{' '.join(words)[:60]}': a row of atoms too many, or a file of another kind"
                )
            item, rest = words[1], words[2:]
            if item == "UNITS":
                self._units = " ".join(self._line())
            elif item == "TIME":
                time = self._numbers_in(number, "TIME", 1)[0]
            elif item == "TIMESTEP":
                step = self._whole(number, "TIMESTEP")
            elif item == "NUMBER":
                n = self._whole(number, "NUMBER OF ATOMS")
                if not 1 <= n <= self._size // 4:
                    raise FormatError(
                        f"a number of atoms that a file of {self._size} bytes can hold in frame "
                        f"{number}, found {n}"
                    )
            elif item == "BOX":
                lattice = self._box(number, rest[1:])
            elif item == "ATOMS":
                if n < 0 or lattice is None:
                    raise FormatError(
                        f"the number of atoms and the box before the atoms of frame {number}, "
                        f"found neither or one of them"
                    )
                return _Frame(step, time, n, *lattice, tuple(rest), self._file.tell())
            else:
                raise FormatError(
                    f"known sections in frame {number}, found ITEM: {' '.join(words[1:])[:60]}"
                )

    def _line(self) -> list[str]:
        return self._file.readline().decode(errors="replace").split()

    def _whole(self, number: int, item: str) -> int:
        words = self._line()
        if len(words) != 1 or not words[0].removeprefix("-").isdecimal() or len(words[0]) > 18:
            raise FormatError(
                f"a whole number as {item} of frame {number}, found '{' '.join(words)[:60]}'"
            )
        return int(words[0])

    def _numbers_in(self, number: int, item: str, count: int) -> list[float]:
        words = self._line()
        try:
            found = [float(w) for w in words]
        except ValueError:
            found = []
        if len(found) != count or not np.isfinite(found).all():
            raise FormatError(
                f"{count} numbers as {item} of frame {number}, found '{' '.join(words)[:60]}'"
            )
        return found

    def _box(
        self, number: int, rest: list[str]
    ) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3"]]:
        """Lattice vectors and origin."""
        if rest[:2] == ["abc", "origin"]:
            rows = np.array([self._numbers_in(number, "BOX BOUNDS", 4) for _ in range(3)])
            return rows[:, :3], rows[:, 3]
        skew = rest[:3] == ["xy", "xz", "yz"]
        rows = np.array(
            [self._numbers_in(number, "BOX BOUNDS", 3 if skew else 2) for _ in range(3)]
        )
        low, high = rows[:, 0].copy(), rows[:, 1].copy()
        xy, xz, yz = rows[:, 2] if skew else np.zeros(3)
        # The bounds are those of the box around the skewed cell.
        low[0] -= min(0.0, xy, xz, xy + xz)
        high[0] -= max(0.0, xy, xz, xy + xz)
        low[1] -= min(0.0, yz)
        high[1] -= max(0.0, yz)
        return _lattice(high - low, (xy, xz, yz)), low

    def _rows(self, index: int) -> _Rows:
        """The atoms of a frame."""
        frame = self._frames[index]
        form = next((f for f in _FORMS if set(f) <= set(frame.columns)), None)
        if form is None or "id" not in frame.columns:
            raise FormatError(
                f"columns id and x y z (or xs, xu, xsu) in the dump, found "
                f"{' '.join(frame.columns)}"
            )
        self._file.seek(frame.rows)
        lines = [self._file.readline() for _ in range(frame.n)]
        fields = _fields(lines, len(frame.columns), "ITEM: ATOMS names")
        return _sorted_rows(fields, frame.columns, form, form[0] in ("xs", "xsu"))


class DataReader(FrameReader):
    """The one frame of a LAMMPS data file."""

    n_frames = 1

    def __init__(self, path: Path, length: float | None = None) -> None:
        """Reads a data file.

        Args:
            path: of the file.
            length: of its unit in nm; Å by default.
        """
        text = path.read_bytes().decode(errors="replace")
        lines = text.splitlines()
        if len(lines) > 1 and lines[0].strip() and lines[0].split()[0] == "ITEM:":
            raise FormatError("a LAMMPS data file, found a dump")
        head, start, hint = _head_of_data(lines)
        n = head.atoms
        rows = _section(lines, start)
        if len(rows) != n:
            raise FormatError(f"{n} atoms as its header says, found {len(rows)}")
        columns = _columns(hint, rows[0].split())
        width = len(rows[0].split())
        fields = _fields([r.encode() for r in rows], width, f"style '{hint or columns}' has")
        names = [*columns.split(), *IMAGES][:width]
        found = _sorted_rows(fields, tuple(names), ("x", "y", "z"), False)
        self.n_particles, self.table = n, found.table
        box, turn = lower_triangular(head.box)
        nm = _length_unit("", length)
        positions = found.positions + found.images @ head.box
        self._frame = Structure((positions @ turn) * nm, box * nm, 0.0)

    def read(self, index: int) -> Structure:
        """The frame."""
        return Structure(self._frame.positions.copy(), self._frame.box.copy(), 0.0)

    def close(self) -> None:
        """Nothing is open."""


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


class SystemWriter(FrameWriter):
    """Writes a LAMMPS data file with all terms of a system, which holds one frame."""

    def __init__(self, text: Callable[[Structure], str], path: Path, table: ParticleTable) -> None:
        self._text = text
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, structure: Structure, index: int) -> None:
        """Writes the frame; a second one is refused."""
        _refuse_second(index)
        self._file.write(self._text(structure))

    def close(self) -> None:
        """Finishes the file."""
        self._file.close()


ONE_FRAME = "one frame, which is all that a LAMMPS data file holds"
"""What is expected of those who write one."""


def _refuse_second(index: int) -> None:
    if index:
        raise FormatError(f"{ONE_FRAME}, found more")


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
        _refuse_second(index)
        box = structure.box / NM_PER_ANGSTROM
        lines = ["LAMMPS data file by deepbackmap, units = real", ""]
        lines += [f"{self._table.n} atoms", f"{len(self._names)} atom types", ""]
        lines += [f"0 {box[k, k]:.10g} {a}lo {a}hi" for k, a in enumerate("xyz")]
        if np.tril(box, -1).any():
            lines += [f"{box[1, 0]:.10g} {box[2, 0]:.10g} {box[2, 1]:.10g} xy xz yz"]
        lines += ["", "Masses", ""]
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


class _DataHead(NamedTuple):
    """What a data file says in front of its sections."""

    atoms: int
    box: Float64[np.ndarray, "3 3"]


def _head_of_data(lines: list[str]) -> tuple[_DataHead, int, str]:
    """Number of atoms and box, the line behind `Atoms`, and the style named there."""
    atoms = -1
    found: dict[str, list[float]] = {}
    for k, line in enumerate(lines[1:], 1):
        body, _, comment = line.partition("#")
        words = body.split()
        if words == ["Atoms"]:
            if atoms < 1:
                raise FormatError("a number of atoms in the header, found none")
            hint = comment.split()
            return _DataHead(atoms, _box_of_data(found)), k + 1, hint[0] if hint else ""
        if words[1:] == ["atoms"] and words[0].isdecimal():
            atoms = int(words[0][:18])
        for key in ("xlo xhi", "ylo yhi", "zlo zhi", "xy xz yz", "avec", "bvec", "cvec"):
            name = key.split()
            if words[-len(name) :] == name:
                try:
                    found[key] = [float(w) for w in words[: -len(name)]]
                except ValueError as error:
                    raise FormatError(
                        f"numbers in front of {key} in line {k + 1}, found '{body.strip()}'"
                    ) from error
    raise FormatError("a section Atoms, found none")


def _box_of_data(found: dict[str, list[float]]) -> Float64[np.ndarray, "3 3"]:
    """Lattice vectors from the header of a data file."""
    general = [found.get(key, []) for key in ("avec", "bvec", "cvec")]
    if all(len(v) == 3 for v in general):
        return np.array(general)
    bounds = [found.get(key, []) for key in ("xlo xhi", "ylo yhi", "zlo zhi")]
    tilt = found.get("xy xz yz", [0.0, 0.0, 0.0])
    if any(len(b) != 2 for b in bounds) or len(tilt) != 3:
        raise FormatError("a box as xlo xhi, ylo yhi and zlo zhi in the header, found none")
    low, high = np.array(bounds).T
    return _lattice(high - low, (tilt[0], tilt[1], tilt[2]))


def _section(lines: list[str], start: int) -> list[str]:
    """The rows of a section, without comments and the blank lines around them."""
    rows: list[str] = []
    for line in lines[start:]:
        body = line.partition("#")[0].strip()
        if not body:
            if rows:
                break
            continue
        if body.split()[0] in _SECTIONS:
            break
        rows.append(body)
    if not rows:
        raise FormatError("rows in the section Atoms, found none")
    return rows


def _columns(hint: str, row: list[str]) -> str:
    """Names of the columns of the Atoms section, without image flags."""
    if hint in _STYLES:
        columns = _STYLES[hint]
    elif hint:
        columns = ""
    else:
        fields = len(row)
        by_width = {5: "atomic", 6: "molecular", 7: "full"}
        style = by_width.get(fields) or by_width.get(fields - 3, "")
        if style == "molecular" and not row[2].lstrip("+-").isdecimal() and "." in row[2]:
            style = "charge"
        columns = _STYLES.get(style, "")
    wide = len(columns.split())
    if not columns or len(row) not in (wide, wide + 3):
        raise FormatError(
            f"atoms in one of the styles {', '.join(_STYLES)}, found "
            f"{f'style {hint} with ' if hint else ''}{len(row)} columns in the Atoms section"
        )
    return columns


def _fields(lines: list[bytes], width: int, said: str) -> np.ndarray:
    """Rows of words as an array, if every row has its number of them."""
    rows = [line.split() for line in lines]
    if set(map(len, rows)) != {width}:
        row = next(k for k, found in enumerate(rows) if len(found) != width)
        raise FormatError(
            f"{width} columns as {said}, found {len(rows[row])} in row {row + 1} of the atoms"
        )
    return np.array(rows)


def _sorted_rows(
    fields: np.ndarray, columns: tuple[str, ...], form: tuple[str, str, str], scaled: bool
) -> _Rows:
    """Atoms in the order of their numbers."""

    def numbers(name: str, kind: type) -> np.ndarray:
        try:
            return fields[:, columns.index(name)].astype(kind)
        except (ValueError, OverflowError) as error:
            raise FormatError(f"numbers in column {name}, found {error}") from error

    ids = numbers("id", np.int64)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (np.diff(ids) == 0).any():
        raise FormatError(f"each atom once, found atom {ids[:-1][np.diff(ids) == 0][0]} twice")
    positions = np.stack([numbers(name, np.float64) for name in form], axis=1)[order]
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise FormatError(
            f"finite coordinates, found {positions[bad[0]].tolist()} for atom {ids[bad[0]]}"
        )
    kind = next((c for c in ("type", "element") if c in columns), None)
    types = ("1",) * len(ids)
    if kind is not None:
        words = fields[order, columns.index(kind)]
        types = tuple(w.decode(errors="replace") for w in words.tolist())
    residues = numbers("mol", np.int64)[order] if "mol" in columns else np.ones_like(ids)
    table = ParticleTable(types, ("",) * len(ids), residues, types=types, named=False)
    images = np.zeros((len(ids), 3), dtype=np.int64)
    if set(IMAGES) <= set(columns) and form[0] in ("x", "xs"):
        images = np.stack([numbers(name, np.int64) for name in IMAGES], axis=1)[order]
    return _Rows(table, ids, positions, scaled, images)


def lower_triangular(
    box: Float64[np.ndarray, "3 3"],
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "3 3"]]:
    """A cell turned so that a lies along x and b in the plane of x and y.

    Args:
        box: lattice vectors as rows, right-handed.

    Returns:
        The turned cell, and the rotation that turns rows of positions with it from the right.

    Raises:
        FormatError: the vectors are left-handed or do not span space.
    """
    if not np.triu(box, 1).any():
        return box, np.eye(3)
    if not np.linalg.det(box) > 0.0:
        raise FormatError(f"right-handed lattice vectors, found {box.tolist()}")
    q, r = np.linalg.qr(box.T)
    signs = np.sign(np.diag(r))
    return np.tril((r * signs[:, None]).T), q * signs


def _lattice(
    lengths: Float64[np.ndarray, "3"], tilt: tuple[float, float, float]
) -> Float64[np.ndarray, "3 3"]:
    xy, xz, yz = tilt
    return np.array([[lengths[0], 0.0, 0.0], [xy, lengths[1], 0.0], [xz, yz, lengths[2]]])


def _length_unit(units: str, given: float | None) -> float:
    """Length of the unit in nm, from what the caller and the file say."""
    if given is not None:
        return given
    if units and units not in _NM:
        raise FormatError(
            f"units with a known length ({', '.join(_NM)}), found '{units}': say how long one is "
            f"(--length-unit, in nm)"
        )
    return _NM.get(units, NM_PER_ANGSTROM)

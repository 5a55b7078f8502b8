"""Structures and trajectories: frames in nm with their full boxes, in and out of files.

Everything is checked where it enters: a frame that comes out of ``FrameSource`` has the right
number of particles, finite coordinates and a box. Outputs are written beside their place and
moved there when they are complete.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from weakref import WeakSet

import numpy as np
from jaxtyping import Int64

from deepbackmap.errors import InputError, Stopped
from deepbackmap.geometry.cell import cell_heights, validate_box
from deepbackmap.io.atomic import disk_refuses, new_file, refuse_existing, refuse_inputs
from deepbackmap.io.formats.base import FormatError, FrameReader, FrameWriter
from deepbackmap.io.formats.dcd import DcdReader, DcdWriter
from deepbackmap.io.formats.gro import GroReader, GroWriter
from deepbackmap.io.formats.gsd import GsdReader, GsdWriter
from deepbackmap.io.formats.lammps import (
    ONE_FRAME,
    DataReader,
    DataWriter,
    DumpReader,
    DumpWriter,
    SystemWriter,
)
from deepbackmap.io.formats.mdanalysis import EXTENSIONS as MDANALYSIS
from deepbackmap.io.formats.mdanalysis import FORMATS as MDANALYSIS_FORMATS
from deepbackmap.io.formats.mdanalysis import NAMES, MdanalysisReader
from deepbackmap.io.formats.pdb import PdbReader, PdbWriter
from deepbackmap.io.formats.pdbx import PdbxReader, PdbxWriter
from deepbackmap.io.formats.xdr import TrrReader, TrrWriter, XtcReader, XtcWriter
from deepbackmap.io.tables import ParticleTable, atom_table
from deepbackmap.system import Structure, Topology

__all__ = ["FrameSource", "ParticleTable", "TrajectoryWriter", "atom_table", "open_writer",
           "parse_frames", "read_frames", "read_positions"]  # fmt: skip

READERS: dict[str, Callable[[Path], FrameReader]] = {
    "gro": GroReader,
    "pdb": PdbReader,
    "cif": PdbxReader,
    "xtc": XtcReader,
    "trr": TrrReader,
    "dcd": DcdReader,
}
"""Formats with a unit of length of their own, by name."""

NATIVE_UNITS = {"gro": 1.0, "pdb": 0.1, "cif": 0.1, "xtc": 1.0, "trr": 1.0, "dcd": 0.1}
"""That unit in nm."""

UNIT_READERS: dict[str, Callable[[Path, float | None], FrameReader]] = {
    "data": DataReader,
    "dump": DumpReader,
    "gsd": GsdReader,
}
"""Formats without one: they take its length in nm."""

EXTENSIONS = {
    ".gro": "gro", ".pdb": "pdb", ".ent": "pdb", ".cif": "cif", ".pdbx": "cif", ".mmcif": "cif",
    ".xtc": "xtc", ".trr": "trr", ".dcd": "dcd", ".data": "data", ".lmp": "data",
    ".lammpstrj": "dump", ".dump": "dump", ".gsd": "gsd", **MDANALYSIS,
}  # fmt: skip
"""Formats by extension, in lower case."""

_NAMELESS = ("xtc", "trr", "dcd", *(kind for kind in MDANALYSIS_FORMATS if kind not in NAMES))
_LAMMPS_WORDS = {"data": "data", "lmp": "data", "dump": "dump", "lammpstrj": "dump"}
"""Formats by a part of the name, as in data.polymer and dump.1000."""

WRITERS: dict[str, Callable[[Path, ParticleTable], FrameWriter]] = {
    ".gro": GroWriter,
    ".pdb": PdbWriter,
    ".cif": PdbxWriter,
    ".xtc": XtcWriter,
    ".trr": TrrWriter,
    ".dcd": DcdWriter,
    ".data": DataWriter,
    ".lammpstrj": DumpWriter,
    ".dump": DumpWriter,
    ".gsd": GsdWriter,
}
"""By extension, in lower case."""


_OPEN: WeakSet[FrameSource] = WeakSet()


class FrameSource:
    """The chosen frames of a trajectory, read one by one as they are asked for."""

    def __init__(
        self,
        path: Path,
        reader: FrameReader,
        table: ParticleTable,
        frames: Int64[np.ndarray, "f"],
        files: tuple[Path, ...] = (),
        *,
        lone: bool = False,
    ) -> None:
        self.files = (path, *files)
        """All files that were read for it; none of them is written to while it is open."""
        self.path = path
        """The file that the frames come from."""
        self.table = table
        """Names of the particles, from the structure file."""
        self.frames = frames
        """Number of every frame in its file, from 0."""
        self.without_cell = False
        """Whether a frame that was read has no cell: a lone molecule in vacuo."""
        self._lone = lone
        self._reader = reader
        self._at_hand: dict[int, Structure] = {}
        _OPEN.add(self)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Structure]:
        for k in range(len(self)):
            yield self[k]

    def __getitem__(self, k: int) -> Structure:
        """The k-th of the chosen frames.

        Raises:
            IndexError: there are not that many.
            InputError: the frame is damaged, has coordinates that are not finite, or no box.
        """
        number = int(self.frames[k])
        if number in self._at_hand:
            return self._at_hand.pop(number)
        with _blame(f"{self.path} frame {number}"):
            structure = self._reader.read(number)
            if self._lone and not structure.box.any():
                structure, self.without_cell = _in_vacuo(structure), True
            _check_frame(structure, self.table.n)
        return structure

    def check_ends(self) -> None:
        """Reads the earliest and the latest chosen frame, and finds a file that is cut short."""
        earliest, latest = int(self.frames.argmin()), int(self.frames.argmax())
        first = self[earliest]
        if earliest != latest:
            self[latest]  # comes second, since the end is checked from where it leaves the file
        if self.frames.max() == self._reader.n_frames - 1:
            with _blame(str(self.path)):
                self._reader.check_end()
        # Not read twice (text is slow), and handed out once, since its arrays can be written to.
        self._at_hand[int(self.frames[earliest])] = first

    def close(self) -> None:
        """Lets go of the file."""
        _OPEN.discard(self)
        self._reader.close()

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_frames(
    structure_file: str | Path,
    trajectory: str | Path | None = None,
    *,
    frames: str | None = None,
    lone: bool = False,
) -> FrameSource:
    """Opens a structure and, if there is one, its trajectory.

    Args:
        structure_file: names and, without a trajectory, also the frames; .gro, .pdb, a LAMMPS
            data file or dump, or .gsd.
        trajectory: the frames; any of these, .xtc, .trr or .dcd.
        frames: which of them, "A:B:C" as numpy slices; all by default.
        lone: whether they are of one molecule, which needs no cell: frames without one get a cell
            in which no atom sees an image of another.

    Returns:
        The frames in nm and ps.

    Raises:
        InputError: a file is missing, of unknown extension, empty, damaged or cut short, the two
            do not have the same number of particles, or no frame is chosen.
    """
    structure_path = Path(structure_file)
    path = structure_path if trajectory is None else Path(trajectory)
    parse_frames(frames)
    head = _open(structure_path)
    if head.table is None:
        head.close()
        raise InputError(
            f"{structure_path}: expected a structure with names (such as .gro or .pdb), found "
            f"{structure_path.suffix}, which holds coordinates only"
        )
    table = head.table
    reader = head
    if path is structure_path and not head.n_frames:
        head.close()
        raise InputError(
            f"{structure_path}: expected coordinates, found names only; give the file of the "
            "frames behind it"
        )
    if path is not structure_path:
        head.close()
        reader = _open(path)
    files = (structure_path,)
    return _choose(path, reader, table, frames, str(structure_path), files, lone=lone)


def read_positions(
    trajectory: str | Path,
    table: ParticleTable,
    *,
    frames: str | None = None,
    lone: bool = False,
) -> FrameSource:
    """Opens a trajectory whose names are known already, such as beads of a mapped topology.

    Args:
        trajectory: the frames; names that the file has itself are not looked at.
        table: names of the particles.
        frames: which of them, "A:B:C" as numpy slices; all by default.
        lone: as of ``read_frames``.

    Returns:
        The frames in nm and ps.

    Raises:
        InputError: as ``read_frames``.
    """
    path = Path(trajectory)
    parse_frames(frames)
    return _choose(path, _open(path), table, frames, "the topology", lone=lone)


def _choose(
    path: Path,
    reader: FrameReader,
    table: ParticleTable,
    frames: str | None,
    names: str,
    files: tuple[Path, ...] = (),
    *,
    lone: bool = False,
) -> FrameSource:
    """The chosen frames of an open file, if it holds as many particles as there are names."""
    try:
        if reader.n_particles != table.n:
            raise InputError(
                f"{path}: expected {table.n} particles as in {names}, found {reader.n_particles}"
            )
        numbers = np.arange(reader.n_frames, dtype=np.int64)[parse_frames(frames)]
        if not len(numbers):
            raise InputError(
                f"{path}: expected frames {frames} to choose some of its {reader.n_frames} frames, "
                f"found none"
            )
        source = FrameSource(path, reader, table, numbers, files, lone=lone)
        source.check_ends()
    except BaseException:
        reader.close()
        raise
    return source


def parse_frames(text: str | None) -> slice:
    """Reads "A:B:C" as a slice; "A" alone is one frame.

    Args:
        text: up to three whole numbers between colons; None is all frames.

    Returns:
        The slice.

    Raises:
        InputError: the text is something else.
    """
    if text is None:
        return slice(None)
    number = r"\s*([-+]?\d+)?\s*"
    match = re.fullmatch(f"{number}(:{number})?(:{number})?", text)
    if match is None or not text.strip():
        raise InputError(f"frames: expected A:B:C as whole numbers, found '{text}'")
    start, colon, stop, _, step = match.groups()
    first = int(start) if start else None
    if colon is None and first is not None:
        return slice(first, None if first == -1 else first + 1)
    if step is not None and int(step) == 0:
        raise InputError(f"frames: expected a step other than 0, found '{text}'")
    return slice(first, int(stop) if stop else None, int(step) if step else None)


class TrajectoryWriter:
    """A file to be: a context manager that leaves all of it or nothing."""

    def __init__(
        self,
        path: Path,
        table: ParticleTable,
        force: bool,
        make: Callable[[Path, ParticleTable], FrameWriter],
        companions: Mapping[Path, str],
        without_cell: bool,
    ) -> None:
        self._path = path
        self._without_cell = without_cell and path.suffix.lower() in _CELL_OR_NONE
        self._n = table.n
        self._force = force
        # names are the writer's: of a large box they are as much as its atoms
        self._make: Callable[[Path], FrameWriter] | None = lambda part: make(part, table)
        self._companions = companions
        self._place: AbstractContextManager[Path] | None = None
        self._writer: FrameWriter | None = None
        self._count = 0

    def __enter__(self) -> TrajectoryWriter:
        self._place = new_file(self._path)
        part = self._place.__enter__()
        assert self._make is not None
        try:
            with _blame(str(self._path)):
                self._writer, self._make = self._make(part), None
        except BaseException:
            self._leave(*sys.exc_info())
            raise
        return self

    def write(self, structure: Structure) -> None:
        """Appends one frame.

        Args:
            structure: as many particles as the table, in nm.

        Raises:
            InputError: the format cannot hold it, or the disk is full.
            ValueError: the number of particles is not the table's, a coordinate is not finite, or
                there is no box: nothing of that kind is ever written.
        """
        if self._writer is None:
            raise ValueError("write: expected to be inside 'with open_writer(...)'")
        try:
            _check_frame(structure, self._n)
        except FormatError as error:
            raise ValueError(f"structure: expected {error}") from error
        if self._without_cell:
            structure = replace(structure, box=np.zeros((3, 3)))
        with _blame(f"{self._path} frame {self._count}"):
            self._writer.write(structure, self._count)
        self._count += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._writer is not None
        try:
            with _blame(str(self._path)):
                self._writer.close()
            if kind is None:
                if not self._count:
                    raise ValueError(f"{self._path}: expected at least one frame to be written")
                for file in (self._path, *self._companions):
                    refuse_existing(file, self._force)
                for file, text in self._companions.items():
                    with new_file(file) as part:
                        part.write_text(text, encoding="utf-8")
        except BaseException:
            self._leave(*sys.exc_info())
            raise
        finally:
            self._writer = None
        self._leave(kind, error, trace)

    def _leave(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Renames the part if all went well, and else removes it."""
        assert self._place is not None
        place, self._place = self._place, None
        try:
            place.__exit__(kind, error, trace)
        except BaseException as raised:
            if raised is not error:
                raise


_CELL_OR_NONE = (".gro", ".pdb", ".cif", ".xtc", ".trr", ".dcd")
"""Formats that can say that there is no cell."""


def open_writer(
    path: str | Path,
    table: ParticleTable,
    *,
    force: bool = False,
    topology: Topology | None = None,
    without_cell: bool = False,
    frames: int = 1,
) -> TrajectoryWriter:
    """Prepares to write a structure or trajectory; everything that can be refused is refused here.

    Args:
        path: its extension chooses the format.
        table: names of the particles in order.
        force: whether to replace an existing file.
        topology: of the particles, for formats that hold more of it than names: a LAMMPS data
            file then has all terms, and an input script is written beside it.
        without_cell: whether what was read has no cell (``FrameSource.without_cell``): then none is
            written, where the format can say so.
        frames: how many there will be, as far as is known; some formats hold one.

    Returns:
        A context manager with ``write(structure)``.

    Raises:
        InputError: the extension is unknown, the file exists or is being read (by any name), or
            its folder is missing or not writable; or the format cannot hold the topology.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise InputError(
            f"{path}: expected an output ending in {', '.join(WRITERS)}, found "
            f"'{path.suffix or path.name}'"
        )
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, found a folder")
    refuse_existing(path, force)
    refuse_inputs(path, *(file for source in _OPEN for file in source.files))
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected a folder {path.parent} to write to, found none")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{path}: expected a folder that can be written to, found {path.parent} read-only"
        )
    make, companions = WRITERS[path.suffix.lower()], {}
    lammps = path.suffix.lower() == ".data"
    if lammps and frames > 1:
        raise InputError(f"{path}: expected {ONE_FRAME}, found {frames}; --frames chooses")
    if lammps and topology is not None:
        from deepbackmap.io.topology.lammps_writer import lammps_files

        files = lammps_files(topology, path.stem)
        make = partial(SystemWriter, files.text)
        companions = {path.with_suffix(end): text for end, text in files.companions.items()}
        inputs = topology.origin.inputs if topology.origin else ()
        for file in companions:
            refuse_inputs(file, topology.source, *inputs)
            refuse_existing(file, force)
    return TrajectoryWriter(path, table, force, make, companions, without_cell)


@dataclass(frozen=True)
class _Reading:
    """What the caller says of files whose names or contents do not say it."""

    format: str | None = None
    length: float | None = None
    """Of the unit in nm."""
    files: frozenset[Path] | None = None
    """In that unit whatever their format says; None: all."""

    def overrides(self, path: Path) -> bool:
        """Whether the unit is that of a file whose format has one of its own."""
        return self.length is not None and (self.files is None or path.resolve() in self.files)


_READING: ContextVar[_Reading] = ContextVar("reading")


@contextmanager
def reading_as(
    format: str | None = None,
    length_unit: str | float | None = None,
    *,
    files: Sequence[str | Path | None] | None = None,
    others: Sequence[str | Path | None] = (),
) -> Iterator[None]:
    """Says what coordinate files are whose names do not tell, and in which unit.

    Args:
        format: of files with unknown names: gro, pdb, cif, xtc, trr, dcd, data, dump, gsd, or one
            of those that MDAnalysis reads.
        length_unit: of ``files``, whatever their format says, and of all without a unit of their
            own (LAMMPS, GSD): nm, A, or its length in nm as a number (sigma of reduced units).
        files: that are worked on; None: all that are read.
        others: that are read beside them.

    Raises:
        InputError: there is no such format or unit, or the names of all files tell their formats,
            so that ``format`` would do nothing.
    """
    known = (*READERS, *UNIT_READERS, *MDANALYSIS_FORMATS)
    if format is not None and format not in known:
        raise InputError(f"format: expected one of {', '.join(known)}, found '{format}'")
    length = None if length_unit is None else _unit(str(length_unit))
    main = None if files is None else [Path(f) for f in files if f is not None]
    read = [*(main or ()), *(Path(f) for f in others if f is not None)]
    if format is not None and read and all(_named_format(path) for path in read):
        raise InputError(
            f"format: expected a file whose name does not say what it is, found {read[0]}, which "
            f"is read as {_named_format(read[0])} by its name: rename it, or leave the option out"
        )
    chosen = None if main is None else frozenset(path.resolve() for path in main)
    mark = _READING.set(_Reading(format, length, chosen))
    try:
        yield
    finally:
        _READING.reset(mark)


def _unit(text: str) -> float:
    """Length of a unit in nm."""
    try:
        length = {"nm": 1.0, "a": 0.1, "å": 0.1, "angstrom": 0.1}.get(text.lower()) or float(text)
    except ValueError:
        length = 0.0
    if not 1e-6 < length < 1e12:
        raise InputError(
            f"length unit: expected nm, A, or the length of the unit in nm, found '{text}'"
        )
    return length


def format_of(path: Path) -> str | None:
    """The format of a coordinate file, by its name, else as ``reading_as`` says, else None."""
    return _named_format(path) or _READING.get(_Reading()).format


def _named_format(path: Path) -> str | None:
    names = [part.lower() for part in path.name.split(".")]
    if len(names) > 2 and names[-1] in PACKED:
        names.pop()
    found = EXTENSIONS.get(f".{names[-1]}") if len(names) > 1 else None
    words = (_LAMMPS_WORDS[name] for name in names if name in _LAMMPS_WORDS)
    return found or (next(words, None) if len(names) > 1 else None)


_WAYS = {
    ".cpt": "a checkpoint of GROMACS: 'gmx trjconv -f x.cpt -s x.tpr -o x.gro' converts it",
    ".edr": "energies of GROMACS, which hold no coordinates",
    ".top": "a topology: give it with -p",
    ".itp": "a topology: give it with -p",
    ".restart": "a restart of LAMMPS: 'lmp -restart2data FILE.restart FILE.data' converts it",
    ".rst": "a restart file: convert it to .pdb or NetCDF with the program that wrote it (cpptraj)",
    ".chk": "a checkpoint of OpenMM, which only that machine reads: write a .pdb or .dcd",
    ".xml": "XML: of a State of OpenMM write the positions with PDBFile.writeFile",
    ".h5": "HDF5: 'mdconvert FILE.h5 -o FILE.xtc' (MDTraj) converts MDTraj's, --format h5md reads "
    "those of H5MD",
    ".mdcrd": "Amber's text trajectory, which holds no sizes: convert it to NetCDF with cpptraj",
}
"""By extension: what it is, and the way in."""


def holds_names(path: Path) -> bool:
    """Whether a file of this name holds names or types of its particles."""
    return format_of(path) not in _NAMELESS


def _open(path: Path) -> FrameReader:
    kind = format_of(path)
    if kind is None and path.suffix.lower() in _WAYS:
        raise InputError(
            f"{path}: expected structures or trajectories, found {_WAYS[path.suffix.lower()]}"
        )
    if kind is None:
        raise InputError(
            f"{path}: expected a file ending in {', '.join(EXTENSIONS)} (or data.NAME, dump.NAME), "
            f"found '{path.suffix or path.name}': --format says what it is"
        )
    if not path.is_file():
        raise InputError(
            f"{path}: expected a file, found {'a folder' if path.is_dir() else 'none'}"
        )
    with _blame(str(path)):
        if not path.stat().st_size:
            raise FormatError("at least one frame, found an empty file")
        with _unpacked(path) as plain:
            reader = _reader(kind, plain)
            said = _READING.get(_Reading())
            if kind in READERS and said.length is not None and said.overrides(path):
                return _InUnit(reader, said.length / NATIVE_UNITS[kind])
            return reader


def _reader(kind: str, path: Path) -> FrameReader:
    """The reader of a format; LAMMPS' two are told apart by what they begin with."""
    if kind in READERS:
        return READERS[kind](path)
    if kind in MDANALYSIS_FORMATS:
        return MdanalysisReader(path, kind)
    if kind == "data":
        with path.open("rb") as file:
            kind = "dump" if file.read(5) == b"ITEM:" else kind
    return UNIT_READERS[kind](path, _READING.get(_Reading()).length)


class _InUnit(FrameReader):
    """Frames of a file that is not in the unit of its format."""

    def __init__(self, reader: FrameReader, factor: float) -> None:
        self._reader, self._factor = reader, factor
        self.n_particles, self.n_frames = reader.n_particles, reader.n_frames
        self.table = reader.table

    def read(self, index: int) -> Structure:
        found, factor = self._reader.read(index), self._factor
        return replace(found, positions=factor * found.positions, box=factor * found.box)

    def check_end(self) -> None:
        self._reader.check_end()

    def close(self) -> None:
        self._reader.close()


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file, or what is inside of it if it is packed, which lasts while it is held open."""
    with path.open("rb") as file:
        head = file.read(8)
    opened = next((way for mark, way in _PACKED.items() if head.startswith(mark)), None)
    if opened is None:
        yield path
        return
    with tempfile.TemporaryFile() as plain:  # has no name, so that nothing can be left behind
        try:
            with opened(path) as source:
                shutil.copyfileobj(source, plain, 1 << 20)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            raise FormatError(f"a whole packed file, found: {error}") from error
        plain.seek(0)
        yield Path(f"/dev/fd/{plain.fileno()}")


_PACKED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""What opens packed files, by their first bytes."""
PACKED = ("gz", "bz2", "xz")
"""Ends of their names."""


_FARTHEST, _NARROWEST = 1e6, 0.1
"""In nm. Of cells beyond these limits neighbour search takes all memory or divides by zero."""


_VACUUM = 4.0
"""nm: how far apart images of a molecule without a cell are, at least; no force reaches so far."""


def _in_vacuo(structure: Structure) -> Structure:
    """A structure in a cell so wide that nothing sees its image."""
    across = float(np.ptp(structure.positions, axis=0).max()) if structure.n else 0.0
    edge = np.ceil(2.0 * (across + _VACUUM)) / 2.0
    return replace(structure, box=np.eye(3) * edge) if np.isfinite(edge) else structure


def _check_frame(structure: Structure, n: int) -> None:
    if structure.n != n:
        raise FormatError(f"{n} particles, found {structure.n}")
    if not np.isfinite(structure.time):
        raise FormatError(f"a time, found {structure.time}")
    largest = float(np.abs(structure.positions).max(initial=0.0))
    if not np.isfinite(largest):  # of one that is not a number, that is the largest
        bad = np.flatnonzero(~np.isfinite(structure.positions).all(axis=1))
        raise FormatError(
            f"finite coordinates, found {structure.positions[bad[0]].tolist()} for particle "
            f"{bad[0] + 1}"
        )
    if largest > _FARTHEST:
        raise FormatError(f"coordinates within {_FARTHEST:g} nm, found {largest:g} nm")
    if not structure.box.any():
        raise FormatError(
            "a periodic box, found none (all zeros); one molecule alone can do without, several "
            "need theirs in the file (gmx editconf -box, CRYST1 in a .pdb)"
        )
    try:
        validate_box(structure.box)
    except ValueError as error:
        raise FormatError(str(error).removeprefix("box: expected ")) from error
    if np.triu(structure.box, 1).any() or (np.diag(structure.box) <= 0).any():
        raise FormatError(
            f"a box in lower triangular form, found lattice vectors {structure.box.tolist()}"
        )
    narrow, wide = float(cell_heights(structure.box).min()), float(np.abs(structure.box).max())
    if narrow < _NARROWEST or wide > _FARTHEST:
        raise FormatError(
            f"a box from {_NARROWEST:g} to {_FARTHEST:g} nm, found lattice vectors "
            f"{structure.box.tolist()}"
        )


class _blame:
    """Turns what a format has to say into a sentence that names the file."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, FormatError):
            raise InputError(f"{self._where}: expected {error}") from error
        if isinstance(error, OSError):
            kind = Stopped if disk_refuses(error) else InputError
            raise kind(f"{self._where}: {error.strerror or error}") from error

"""Inputs with and without names, and files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepbackmap.errors import InputError
from deepbackmap.io.trajectory import FrameSource, read_frames, read_positions
from deepbackmap.mapping import SystemMapping
from deepbackmap.mapping.match import bead_table, check_atoms, check_beads
from deepbackmap.system import Topology

WITHOUT_NAMES = (".xtc", ".trr", ".dcd")
"""Files that hold coordinates only."""


def open_atoms(
    path: str | Path, structure: str | Path | None, topology: Topology, frames: str | None = None
) -> FrameSource:
    """Opens frames of atoms whose names, the file's or else the structure's, are the topology's.

    Raises:
        InputError: the file cannot be read, has no names and there is no structure, or its atoms
            are not those of the topology in its order.
    """
    path = Path(path)
    if path.suffix.lower() not in WITHOUT_NAMES:
        source, named = read_frames(path, frames=frames), path
    elif structure is None:
        raise InputError(f"{path}: expected a structure with the names of its atoms, found none")
    else:
        source, named = read_frames(structure, path, frames=frames), Path(structure)
    try:
        check_atoms(topology, source.table, str(named))
    except BaseException:
        source.close()
        raise
    return source


def open_beads(path: str | Path, system: SystemMapping, frames: str | None = None) -> FrameSource:
    """Opens frames of beads; where the file has names, they are compared.

    Raises:
        InputError: the file cannot be read, or its beads are not those of the mapping.
    """
    path = Path(path)
    if path.suffix.lower() in WITHOUT_NAMES:
        return read_positions(path, bead_table(system), frames=frames)
    source = read_frames(path, frames=frames)
    try:
        check_beads(system, source.table, str(path))
    except BaseException:
        source.close()
        raise
    return source


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write that becomes ``path`` when all went well, and else nothing.

    Raises:
        InputError: the disk refuses.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield aside
        aside.replace(path)
    except OSError as error:
        if error.filename != str(aside):
            raise  # of something else that is done meanwhile
        raise InputError(
            f"{path}: expected a place to write to, found: {error.strerror or error}"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def check_folder(path: Path, force: bool, mark: str) -> None:
    """Refuses a folder that cannot be written.

    Args:
        path: of the folder to be.
        force: whether an earlier one may be replaced.
        mark: a file that every such folder holds, so that force never removes anything else.

    Raises:
        InputError: there is something already, or no folder to write it to.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: expected a folder to write, found a file")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise InputError(f"{path}: expected no such folder, found one (force replaces it)")
        if not (path / mark).is_file():
            raise InputError(
                f"{path}: expected a folder with {mark} to replace, found one without it"
            )
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: expected a folder {path.parent} to write to, found none")


@contextmanager
def new_folder(path: Path, force: bool, mark: str) -> Iterator[Path]:
    """A folder to fill that becomes ``path`` when all went well, and else nothing.

    Args:
        path: of the folder to be.
        force: whether an earlier one may be replaced.
        mark: a file that every such folder holds.

    Raises:
        InputError: as ``check_folder``, or the disk refuses.
    """
    check_folder(path, force, mark)
    path = path.absolute()
    aside, before = (path.with_name(f".{path.name}.{os.getpid()}.{w}") for w in ("new", "old"))
    try:
        aside.mkdir()
        yield aside
        if path.exists():
            path.replace(before)
        aside.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: expected a place to write to, found: {error.strerror or error}"
        ) from error
    finally:
        if before.exists() and not path.exists():
            before.replace(path)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)

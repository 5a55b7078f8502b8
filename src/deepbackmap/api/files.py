"""Inputs with and without names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import check_folder, new_folder, refuse_inputs
from deepbackmap.io.atomic import new_file as beside
from deepbackmap.io.trajectory import FrameSource, holds_names, read_frames, read_positions
from deepbackmap.mapping import SystemMapping
from deepbackmap.mapping.match import bead_table, check_atoms, check_beads
from deepbackmap.system import Topology

__all__ = ["beside", "check_folder", "check_names_used", "new_folder", "open_atoms", "open_beads",
           "spare_inputs", "spare_inputs_beside"]  # fmt: skip

Given = str | Path | None | Sequence[str | Path]
"""A file, a name of a packaged thing, several of them, or none."""


def spare_inputs(output: str | Path, *inputs: Given) -> None:
    """Refuses to write over what is read, by whatever name, or to put the record there.

    Args:
        output: file or folder to be written.
        inputs: what is read for it.

    Raises:
        InputError: the output or the record beside it is an input, or holds one.
    """
    files = [word for given in inputs for word in _words(given)]
    refuse_inputs(output, *files)
    refuse_inputs(f"{output}.json", *files)


def spare_inputs_beside(second: str | Path, output: str | Path, *inputs: Given) -> None:
    """The same for a second output, which must not be the first one either.

    Raises:
        InputError: as ``spare_inputs``, or both outputs are the same.
    """
    if Path(second).resolve() == Path(output).resolve():
        raise InputError(f"{second}: expected another file than the output, found the same")
    refuse_inputs(second, *(word for given in inputs for word in _words(given)))


def _words(given: Given) -> list[str | Path]:
    """Single files; mappings may be joined by semicolons."""
    if given is None:
        return []
    several = [given] if isinstance(given, str | Path) else list(given)
    return [word for one in several for word in (one, *str(one).split(";"))]


def check_names_used(structure: str | Path | None, *files: str | Path | None) -> None:
    """Refuses a structure that should name atoms where every file names its own.

    Raises:
        InputError: the structure would not be looked at.
    """
    if structure is not None and all(f is None or holds_names(Path(f)) for f in files):
        raise InputError(
            f"{structure}: expected files without names (such as .xtc) with this structure, found "
            "only files that name their atoms: leave it out"
        )


def open_atoms(
    path: str | Path, structure: str | Path | None, topology: Topology, frames: str | None = None
) -> FrameSource:
    """Opens frames of atoms whose names, the file's or else the structure's, are the topology's.

    Raises:
        InputError: the file cannot be read, has no names and there is no structure, or its atoms
            are not those of the topology in its order.
    """
    path = Path(path)
    if holds_names(path):
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
    if not holds_names(path):
        return read_positions(path, bead_table(system), frames=frames)
    source = read_frames(path, frames=frames)
    try:
        check_beads(system, source.table, str(path))
    except BaseException:
        source.close()
        raise
    return source

"""Inputs with and without names."""

from __future__ import annotations

from pathlib import Path

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import check_folder, new_folder
from deepbackmap.io.atomic import new_file as beside
from deepbackmap.io.trajectory import FrameSource, holds_names, read_frames, read_positions
from deepbackmap.mapping import SystemMapping
from deepbackmap.mapping.match import bead_table, check_atoms, check_beads
from deepbackmap.system import Topology

__all__ = ["beside", "check_folder", "new_folder", "open_atoms", "open_beads"]


def open_atoms(
    path: str | Path, structure: str | Path | None, topology: Topology, frames: str | None = None
) -> FrameSource:
    """Opens frames of atoms whose names, the file's or else the structure's, are the topology's.

    Raises:
        InputError: the file cannot be read, has no names and there is no structure, or its atoms
            are not those of the topology in its order.
    """
    path, alone = Path(path), topology.n_molecules == 1
    if holds_names(path):
        source, named = read_frames(path, frames=frames, lone=alone), path
    elif structure is None:
        raise InputError(f"{path}: expected a structure with the names of its atoms, found none")
    else:
        source = read_frames(structure, path, frames=frames, lone=alone)
        named = Path(structure)
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
    path, alone = Path(path), system.topology.n_molecules == 1
    if not holds_names(path):
        return read_positions(path, bead_table(system), frames=frames, lone=alone)
    source = read_frames(path, frames=frames, lone=alone)
    try:
        check_beads(system, source.table, str(path))
    except BaseException:
        source.close()
        raise
    return source

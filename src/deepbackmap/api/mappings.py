"""Mapping files made from a topology, or from atoms and beads of the same frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deepbackmap.api.files import beside, spare_inputs
from deepbackmap.errors import InputError
from deepbackmap.io.atomic import refuse_existing
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import FrameSource, read_frames
from deepbackmap.mapping.draft import draft
from deepbackmap.mapping.infer import Inferred, infer
from deepbackmap.mapping.match import check_atoms
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import bond_trees, make_whole


def infer_mapping(
    atoms: str | Path,
    beads: str | Path,
    *,
    topology: str | Path,
    atoms_trajectory: str | Path | None = None,
    beads_trajectory: str | Path | None = None,
    output: str | Path | None = None,
    frames: str | None = None,
    by_order: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Inferred:
    """Finds the mapping that leads from atoms to beads (``mapping.infer``).

    Args:
        atoms: atoms with names, in the topology's order.
        beads: beads of the same frames, molecule by molecule in the same order.
        topology: of the atoms.
        atoms_trajectory: frames of the atoms; None takes those of the structure.
        beads_trajectory: frames of the beads, likewise.
        output: YAML to write; None: none.
        frames: which frames, "A:B:C"; all by default.
        by_order: whether the atoms are in the topology's order whatever they are called.
        force: whether to replace an existing output.
        progress: whether to show a bar on standard error.

    Returns:
        The mapping, and how far the beads that it gives are from the file's.

    Raises:
        InputError: an input is wrong, the files have other frames, or no weights fit.
    """
    if output is not None:
        spare_inputs(output, atoms, beads, topology, atoms_trajectory, beads_trajectory)
        refuse_existing(output, force)
    system = read_topology(topology)
    alone = system.n_molecules == 1
    with (
        read_frames(atoms, atoms_trajectory, frames=frames, lone=alone) as fine,
        read_frames(beads, beads_trajectory, frames=frames, lone=alone) as coarse,
    ):
        check_atoms(system, fine.table, str(atoms), by_order=by_order)
        if len(fine) != len(coarse):
            raise InputError(
                f"{coarse.path}: expected {len(fine)} frames as in {fine.path}, found {len(coarse)}"
            )
        found = infer(system, coarse.table, _pairs(system, fine, coarse, progress), str(beads))
    _write(found.text, output)
    return found


def draft_mapping(
    topology: str | Path,
    *,
    way: str = "residue",
    size: int | None = None,
    output: str | Path | None = None,
    force: bool = False,
) -> str:
    """A first mapping of a system, to be edited (``mapping.draft``).

    Args:
        topology: of the atoms.
        way: ``residue`` for a bead a residue or monomer, ``graph`` for rings and small pieces.
        size: heavy atoms of a piece, with ``graph``; 4 by default.
        output: YAML to write; None: none.
        force: whether to replace an existing output.

    Returns:
        The YAML.

    Raises:
        InputError: an input or option is wrong.
    """
    if output is not None:
        spare_inputs(output, topology)
        refuse_existing(output, force)
    if size is not None and way != "graph":
        raise InputError(f"size: expected graph with it, found {way}")
    text = draft(read_topology(topology), way=way, size=4 if size is None else size)
    _write(text, output)
    return text


def _pairs(
    topology: Topology, fine: FrameSource, coarse: FrameSource, progress: bool
) -> Iterator[tuple[Structure, Structure]]:
    """Whole atoms and beads, frame by frame; the cells must be the same."""
    trees = bond_trees(topology)
    bar = tqdm(fine.frames.tolist(), unit="frame", disable=not progress)
    for number, atoms, beads in zip(bar, fine, coarse, strict=True):
        where = f"{fine.path} frame {number}"
        vacuum = fine.without_cell and coarse.without_cell
        if np.abs(atoms.box - beads.box).max() > 2e-3 and not vacuum:
            raise InputError(
                f"{coarse.path} frame {number}: expected the box of {where}, "
                f"{np.diag(atoms.box).round(3).tolist()} nm, found "
                f"{np.diag(beads.box).round(3).tolist()} nm"
            )
        whole = make_whole(atoms.positions, atoms.box, topology, trees=trees, source=where)
        yield replace(atoms, positions=whole), beads


def _write(text: str, output: str | Path | None) -> None:
    if output is not None:
        with beside(Path(output)) as part:
            part.write_text(text, encoding="utf-8")

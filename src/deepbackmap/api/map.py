"""Atoms to beads: a whole trajectory, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from deepbackmap.api.files import spare_inputs
from deepbackmap.geometry.cell import wrap
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table, check_atoms
from deepbackmap.mapping.order import atom_order
from deepbackmap.mapping.selection import refuse_absent
from deepbackmap.system.whole import bond_trees, make_whole, refuse_long_bonds


def map_trajectory(
    structure: str | Path,
    trajectory: str | Path | None,
    topology: str | Path,
    mapping: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    frames: str | None = None,
    by_order: bool = False,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
    force: bool = False,
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> int:
    """Maps an atomistic structure or trajectory to beads.

    Frames are read, made whole, mapped, wrapped into the cell and written one at a time, so that
    memory does not grow with their number.

    Args:
        structure: atoms with names, in the topology's order.
        trajectory: frames of it; None maps the frames of the structure file.
        topology: of the atoms, in any format that ``io.topology`` reads.
        mapping: mapping file, or the name of a packaged one, or several of them.
        output: bead structure or trajectory to write.
        frames: which frames, "A:B:C"; all by default.
        by_order: whether the atoms are in the topology's order whatever they are called; then the
            lengths of bonds are checked.
        drop: residues of molecules that get no beads.
        keep: residues of molecules of which every atom becomes a bead.
        force: whether to replace an existing output.
        progress: whether to show a bar on standard error.
        note: called with each sentence about what was left out or accepted.

    Returns:
        The number of frames written.

    Raises:
        InputError: an input is wrong or does not fit the others; then no output is left.
    """
    spare_inputs(output, structure, trajectory, topology, mapping)
    atoms = read_topology(topology)
    refuse_absent(atoms, drop=drop, keep=keep)
    file = load_mapping(mapping, drop=drop, keep=keep)
    system_mapping = file.resolve(atoms, drop=True)
    with read_frames(structure, trajectory, frames=frames) as source:
        match = check_atoms(atoms, source.table, str(structure), by_order=by_order)
        order = None if match.certain else atom_order(atoms)
        writer = open_writer(output, bead_table(system_mapping), force=force)
        trees = bond_trees(atoms)
        with writer, tqdm(total=len(source), unit="frame", disable=not progress) as bar:
            for number, frame in zip(source.frames.tolist(), source, strict=True):
                where = f"{source.path} frame {number}"
                if order is not None:
                    order.check(frame, where)
                whole = make_whole(
                    frame.positions, frame.box, atoms, trees=trees, source=where, endless=True
                )
                refuse_long_bonds(whole, atoms, where, frame.box)
                beads = wrap(map_positions(system_mapping, whole, frame.box), frame.box)
                writer.write(replace(frame, positions=beads))
                bar.update()
        if note is not None:
            for sentence in (*file.without_dropped(atoms)[1], *match.notes):
                note(sentence)
        return len(source)

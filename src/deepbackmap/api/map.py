"""Atoms to beads: a whole trajectory, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepbackmap.api import judgement
from deepbackmap.api.bar import FrameBar
from deepbackmap.api.files import spare_inputs
from deepbackmap.api.run import FrameRun, frame_jobs
from deepbackmap.errors import InputError
from deepbackmap.evaluation.plausible import Bonds, look_at_atoms
from deepbackmap.evaluation.usable import worst
from deepbackmap.geometry.cell import wrap
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.jobs.task import Job, Report, Work
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions, mapping_words
from deepbackmap.mapping.match import bead_table, check_atoms
from deepbackmap.mapping.selection import refuse_absent
from deepbackmap.system import Structure
from deepbackmap.system.whole import bond_trees, make_whole


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
    keep_defects: bool = False,
    force: bool = False,
    progress: bool = True,
    note: Callable[[str], None] | None = None,
) -> int:
    """Maps an atomistic structure or trajectory to beads.

    Frames are read, made whole, mapped, wrapped into the cell and written one at a time, so that
    memory does not grow with their number. ``OUTPUT.json`` records inputs, options and versions.

    Args:
        structure: atoms with names, in the topology's order.
        trajectory: frames of it; None maps the frames of the structure file.
        topology: of the atoms, in any format that ``io.topology`` reads.
        mapping: mapping file, or the name of a packaged one, or several of them.
        output: bead structure or trajectory to write.
        frames: which frames, "A:B:C"; all by default.
        by_order: whether the atoms are in the topology's order whatever they are called.
        drop: residues of molecules that get no beads.
        keep: residues of molecules of which every atom becomes a bead.
        keep_defects: map what atoms cannot look like (a wrong unit or order, an atom far away) all
            the same, with a note that begins with WARNING for each such frame.
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
    system = file.resolve(atoms, drop=True)
    inputs = {"structure": structure, "trajectory": trajectory, "topology": topology,
              "mapping": mapping_words(mapping)}  # fmt: skip
    options = {"frames": frames, "by_order": by_order, "drop": list(drop), "keep": list(keep),
               "keep_defects": keep_defects}  # fmt: skip
    # Kept nowhere: a frame takes no longer to map than to be read again.
    run = FrameRun(
        "map", inputs, output, options, kept=False, force=force, progress=progress
    )  # fmt: skip
    alone = atoms.n_molecules == 1
    with read_frames(structure, trajectory, frames=frames, lone=alone) as source:
        match = check_atoms(atoms, source.table, str(structure), by_order=by_order)
        writer = open_writer(
            output, bead_table(system), force=force, without_cell=source.without_cell,
            frames=len(source),
        )  # fmt: skip
        notes = (*file.without_dropped(atoms)[1], *match.notes)
        task = MapTask(system, str(source.path), source.without_cell, keep_defects)
        jobs = frame_jobs(source)
        totals = _Totals(atoms.n_atoms, system.n_beads, notes)
        bar = FrameBar(len(source), 1, "frame", progress)
        summary = run.write(task, jobs, totals, writer, bar)
    if note is not None:
        for sentence in summary.accepted:
            note(sentence)
    return summary.frames


@dataclass(frozen=True)
class MapTask:
    """What is done to every frame of atoms."""

    system: SystemMapping
    source: str
    """The file, for messages."""
    without_cell: bool = False
    keep_defects: bool = False

    def open(self) -> Work:
        """Maps one frame after another; the content of a job is its atoms."""
        atoms = self.system.topology
        trees, bonds = bond_trees(atoms), Bonds.of_atoms(atoms)

        def work(job: Job, report: Report) -> Mapped:
            frame, where = job.content, f"{self.source} frame {job.number}"
            findings = look_at_atoms(bonds, frame)
            said = "" if worst(findings) == "fine" else f"{where}: {judgement.one_line(findings)}"
            if said and not self.keep_defects:
                raise InputError(f"{said}; keep-defects maps it all the same")
            whole = make_whole(
                frame.positions, frame.box, atoms, trees=trees, source=where, endless=True
            )
            beads = map_positions(self.system, whole, frame.box)
            if not self.without_cell:
                beads = wrap(beads, frame.box)
            return Mapped(replace(frame, positions=beads), said)

        return work


@dataclass(frozen=True)
class Mapped:
    """Beads of a frame."""

    beads: Structure
    said: str
    """What is wrong with its atoms; empty: nothing."""


@dataclass(frozen=True)
class MapSummary:
    """What was mapped."""

    frames: int
    atoms: int
    beads: int
    """Of both in each frame."""
    accepted: tuple[str, ...]
    """What was left out or accepted, as sentences; of frames that are mapped in spite of what is
    wrong with them, beginning with WARNING."""
    engine: None = None

    def to_dict(self) -> dict[str, Any]:
        """For a program."""
        return {k: v for k, v in asdict(self).items() if k != "engine"}


class _Totals:
    """Counts frames."""

    def __init__(self, atoms: int, beads: int, accepted: tuple[str, ...]) -> None:
        self._summary = MapSummary(0, atoms, beads, accepted)

    def add(self, job: Job, done: Mapped) -> Structure:
        """One more frame."""
        more = (f"WARNING: {done.said}",) if done.said else ()
        now = self._summary
        self._summary = replace(now, frames=now.frames + 1, accepted=now.accepted + more)
        return done.beads

    def summary(self) -> MapSummary:
        """Of all frames."""
        return self._summary

"""Reading training frames, checked."""

from __future__ import annotations

import numpy as np

from deepbackmap.data.options import DataOptions, SystemOptions
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import cell_heights
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.mapping.match import check_atoms, check_beads
from deepbackmap.system import Structure
from deepbackmap.system.lean import Lean, without_sites
from deepbackmap.system.whole import bond_trees, make_whole


def read_systems(
    data: DataOptions, least_height: float
) -> tuple[list[TrainingSystem], list[TrainingSystem]]:
    """The systems to train on, and those that are held out (none where ``validate`` is empty).

    Args:
        data: names of the files, and which frames.
        least_height: of a box that the model can be trained on, nm.

    Raises:
        InputError: a file is missing or wrong, or a box too small.
    """
    for number, one in enumerate(data.each):
        _check(one, f"data.systems[{number}]" if data.systems else "data")
    if not data.mapping:
        raise InputError("data.mapping: expected a file, found nothing")
    training: list[TrainingSystem] = []
    held_out: list[TrainingSystem] = []
    for one in data.each:
        lean = without_sites(read_topology(one.topology))
        mapping = lean_mapping(load_mapping(data.mapping).resolve(lean.full), lean)
        if one.validate:
            _refuse_common_frames(one, alone=lean.full.n_molecules == 1)
        training.append(_read(lean, mapping, one, one.train, least_height))
        if one.validate:
            held_out.append(_read(lean, mapping, one, one.validate, least_height))
    return training, held_out


def _check(one: SystemOptions, key: str) -> None:
    """Refuses a system that says too little."""
    for name in ("topology", "structure"):
        if not getattr(one, name):
            raise InputError(f"{key}.{name}: expected a file, found nothing")
    if not one.temperature > 0:
        raise InputError(
            f"{key}.temperature: expected the frames' temperature in K, found {one.temperature}"
        )


def _refuse_common_frames(one: SystemOptions, *, alone: bool) -> None:
    """Refuses to validate on frames that are trained on: that figure would say nothing."""
    numbers = []
    for frames in (one.train, one.validate):
        with read_frames(one.structure, one.trajectory or None, frames=frames, lone=alone) as some:
            numbers.append(set(some.frames.tolist()))
            name = some.path
    if common := sorted(numbers[0] & numbers[1]):
        raise InputError(
            f"{name}: expected frames to validate on that are not trained on, found frame "
            f"{common[0]} in train {one.train} and in validate {one.validate}; validate '' does "
            "without"
        )


def _read(
    lean: Lean, mapping: SystemMapping, data: SystemOptions, frames: str, least_height: float
) -> TrainingSystem:
    """Frames without virtual sites, which are no model's business."""
    structures: list[Structure] = []
    mapped: list[np.ndarray] = []
    trees = bond_trees(mapping.topology)
    alone = lean.full.n_molecules == 1
    names, frame_file = data.structure, data.trajectory or None
    with read_frames(names, frame_file, frames=frames, lone=alone) as source:
        check_atoms(lean.full, source.table, data.structure)
        for number, full in zip(source.frames.tolist(), source, strict=True):
            frame = lean.strip(full)
            where = f"{source.path} frame {number}"
            lowest = float(cell_heights(frame.box).min())
            if lowest < least_height:
                raise InputError(
                    f"{where}: expected a box at least {least_height:.3f} nm high in every "
                    f"direction (twice the cut-off), found {lowest:.3f} nm"
                )
            structures.append(frame)
            if not data.beads:
                whole = make_whole(
                    frame.positions, frame.box, mapping.topology, trees=trees, source=where
                )
                mapped.append(map_positions(mapping, whole))
    beads = _read_beads(mapping, data, frames, len(structures)) or mapped
    return TrainingSystem(
        mapping, tuple(structures), tuple(beads), (data.temperature,) * len(structures)
    )


def _read_beads(
    mapping: SystemMapping, data: SystemOptions, frames: str, expected: int
) -> list[np.ndarray]:
    """The beads of some frames where these are given, else nothing."""
    if not data.beads:
        return []
    alone = mapping.topology.n_molecules == 1
    with read_frames(data.beads, frames=frames, lone=alone) as source:
        check_beads(mapping, source.table, data.beads)
        if len(source) != expected:
            raise InputError(
                f"{data.beads}: expected {expected} frames as of the atoms (frames {frames}), "
                f"found {len(source)}"
            )
        return [frame.positions for frame in source]

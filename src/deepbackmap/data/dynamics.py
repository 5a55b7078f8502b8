"""More training frames by the force field's own dynamics, kept in a run's folder."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deepbackmap.data.options import DataOptions, SystemOptions
from deepbackmap.data.systems import TrainingSystem
from deepbackmap.dynamics.containers import Dynamics, Engine, EngineError
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.errors import InputError
from deepbackmap.io.atomic import make_folder, new_file
from deepbackmap.mapping import map_positions
from deepbackmap.system import Structure
from deepbackmap.system.whole import bond_trees, make_whole

TIMESTEP = 0.002
"""ps; all bonds are held."""


def run_dynamics(
    folder: Path, systems: Sequence[TrainingSystem], data: DataOptions, *, progress: bool
) -> None:
    """More training frames by the force field's own dynamics from those of systems that ask for it.

    They are kept in the run's folder, frame by frame, so that a run that was stopped goes on; those
    of other options are made anew.

    Args:
        folder: of the run.
        systems: with the training frames.
        data: temperatures, length and interval.
        progress: whether to show a bar on standard error.

    Raises:
        InputError: the engine is not there, or cannot run a frame, or the disk refuses.
    """
    make_folder(folder)
    number = 0
    for system, one in zip(systems, data.each, strict=True):
        if not one.dynamics:
            continue
        engine = open_engine(system.mapping.topology, name=data.engine)
        bar = tqdm(system.structures, disable=not progress, unit="frame", desc="dynamics")
        for start in bar:
            target, origin = _file(folder, number), _origin(start, one, data)
            if not _made_so(target, origin):
                frames, temperatures = _run(engine, start, one, data, number)
                _keep(target, frames, temperatures, origin)
            number += 1


def with_dynamics(
    folder: Path, systems: Sequence[TrainingSystem], data: DataOptions
) -> list[TrainingSystem]:
    """The training frames and what ``run_dynamics`` made of them.

    Args:
        folder: of the run.
        systems: the same as then.
        data: the same as then.
    """
    found, number = [], 0
    for system, one in zip(systems, data.each, strict=True):
        if not one.dynamics:
            found.append(system)
            continue
        structures, beads = list(system.structures), list(system.beads)
        temperatures = list(system.temperatures)
        trees = bond_trees(system.mapping.topology)
        for _ in system.structures:
            with np.load(_file(folder, number)) as kept:
                for rows, temperature in zip(kept["frames"], kept["temperatures"], strict=True):
                    made = Structure(
                        positions=rows[:-3].astype(np.float64), box=rows[-3:].astype(np.float64)
                    )
                    whole = make_whole(
                        made.positions, made.box, system.mapping.topology, trees=trees
                    )
                    structures.append(made)
                    beads.append(map_positions(system.mapping, whole))
                    temperatures.append(float(temperature))
            number += 1
        found.append(
            replace(
                system, structures=tuple(structures), beads=tuple(beads),
                temperatures=tuple(temperatures),
            )
        )  # fmt: skip
    return found


def _file(folder: Path, number: int) -> Path:
    return folder / f"dynamics-{number:04d}.npz"


def _run(
    engine: Engine, start: Structure, one: SystemOptions, data: DataOptions, number: int
) -> tuple[list[np.ndarray], list[float]]:
    """Frames (positions and box) from one start, and their temperatures in K."""
    every = max(1, round(data.every / TIMESTEP))
    steps = every * max(1, round(data.picoseconds / data.every))
    current = start
    frames: list[np.ndarray] = []
    temperatures: list[float] = []
    for temperature in one.temperatures():
        try:
            run = engine.run(
                current,
                Dynamics(
                    steps=steps, temperature=temperature, timestep=TIMESTEP, friction=5.0,
                    seed=number + 1, every=every, frames_every=every,
                ),
            )  # fmt: skip
        except EngineError as error:
            raise InputError(f"dynamics of training frame {number}: {error}") from error
        # The first frames of another temperature are still on the way to it.
        kept = run.frames[-(steps // every) :]
        kept = kept if temperature == one.temperature else kept[len(kept) // 3 :]
        frames += [np.concatenate([f.positions, f.box]).astype(np.float32) for f in kept]
        temperatures += [temperature] * len(kept)
        current = run.structure
    return frames, temperatures


def _keep(target: Path, frames: list[np.ndarray], temperatures: list[float], origin: str) -> None:
    with new_file(target) as part:
        np.savez_compressed(part, frames=np.stack(frames), temperatures=temperatures, origin=origin)


def _origin(start: Structure, one: SystemOptions, data: DataOptions) -> str:
    """What frames of dynamics depend on: where they start and the options of the run."""
    asked = {f: getattr(one, f) for f in ("topology", "dynamics")}
    asked |= {f: getattr(data, f) for f in ("picoseconds", "every", "engine")}
    at = np.concatenate([start.positions, start.box]).astype(np.float64)
    return json.dumps(asked | {"start": hashlib.sha256(at.tobytes()).hexdigest()})


def _made_so(path: Path, origin: str) -> bool:
    """Whether frames of dynamics are there that were made from the same with the same options."""
    if not path.exists():
        return False
    try:
        with np.load(path) as found:
            return "origin" in found and str(found["origin"]) == origin
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected frames of dynamics of an earlier call, found a damaged file; remove "
            "it and they are made anew"
        ) from error

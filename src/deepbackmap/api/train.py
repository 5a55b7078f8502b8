"""Train a model from a configuration; a second call goes on where the first one stopped."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from tqdm import tqdm

import deepbackmap
from deepbackmap.api.devices import choose_device
from deepbackmap.config import TrainConfig, dump_config, load_train_config
from deepbackmap.errors import InputError
from deepbackmap.evaluation import tacticity
from deepbackmap.geometry.cell import cell_heights, minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mapping.match import check_atoms, check_beads
from deepbackmap.model import Model, ModelSpec, save_model
from deepbackmap.representation.plan import build_plan
from deepbackmap.representation.points import bead_signs, collect_vocabulary, name_kinds
from deepbackmap.sampling.options import POINT_DEFAULTS
from deepbackmap.system import Structure
from deepbackmap.system.kinds import HELD as HELD_KINDS
from deepbackmap.system.whole import bond_trees, make_whole
from deepbackmap.training.dataset import Frames, relative_positions
from deepbackmap.training.flow import FlowFrames, FlowTrainer, halved_threads
from deepbackmap.training.loop import Learner, Metrics, Trainer, run
from deepbackmap.training.options import DataOptions

HELD = 0.002
"""nm: bonds whose rms deviation from the topology is below that were held in the data."""
TIMESTEP = 0.002
"""ps, of dynamics from training frames; all bonds are held."""
REACH_MARGIN = 0.01
"""Added to the largest distance of an atom from its bead in training, nm."""


def train(
    config: str | Path,
    overrides: Sequence[str] = (),
    *,
    run_folder: str | Path,
    devices: int = 1,
    device: str = "auto",
    progress: bool = True,
    stop_after: float | None = None,
) -> bool:
    """Train, or go on training, in ``run_folder``.

    The folder holds ``config.yaml``, ``checkpoint.pt``, ``metrics.jsonl``, TensorBoard's files and
    ``model.safetensors``, renewed at each checkpoint. A run that was finished before only writes
    its model anew.

    Args:
        config: a YAML file or the name of a preset.
        overrides: ``key=value`` options on top of it.
        run_folder: made if it is missing; one that holds a checkpoint goes on from there.
        devices: workers (processes) that share each step; each draws its own batch.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: whether to show a bar on standard error.
        stop_after: seconds after which to stop as if interrupted.

    Returns:
        Whether the last iteration was reached.

    Raises:
        InputError: a wrong option, file or frame, or a run folder of another configuration.
    """
    options = load_train_config(config, overrides)
    folder = Path(run_folder)
    _check_folder(folder, options)
    mapping, train_frames, held_out = _read_data(options)
    fabric = _fabric(options.training.precision, device, devices)
    fabric.launch()
    if options.representation == "points" and options.data.dynamics:
        if fabric.is_global_zero:
            run_dynamics(folder, mapping, train_frames, options.data, progress=progress)
        fabric.barrier()
        train_frames = _with_dynamics(folder, mapping, train_frames)
    spec = _specification(options, mapping, train_frames)
    points = options.representation == "points"
    trainer: Learner = (FlowTrainer if points else Trainer)(fabric, spec, options.training)

    def on_device(split: _Split) -> Frames | FlowFrames:
        if points:
            return FlowFrames(
                spec, mapping, split.structures, fabric.device, beads=split.beads,
                hands=_hands(mapping, spec), temperatures=split.temperatures,
            )  # fmt: skip
        return Frames(
            spec,
            mapping,
            split.structures,
            fabric.device,
            beads=split.beads,
            canonical=options.training.canonical,
        )

    def save(trainer: Learner, metrics: Metrics) -> None:
        provenance = {**spec.provenance, "iteration": trainer.iteration, "metrics": dict(metrics)}
        model = Model(replace(spec, provenance=provenance), trainer.result)
        save_model(model, folder / "model.safetensors")

    data = on_device(train_frames)
    validation = on_device(held_out) if held_out.structures else None
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        _restore(trainer, checkpoint)
    if fabric.is_global_zero:
        _write_config(folder, options)
        if trainer.iteration >= options.training.iterations:
            save(trainer, _last_metrics(folder / "metrics.jsonl"))
    with halved_threads() if points else nullcontext():
        return run(
            trainer,
            data,
            validation,
            folder,
            on_checkpoint=save,
            progress=progress,
            stop_after=stop_after,
        )


@dataclass(frozen=True)
class _Split:
    """Frames of one split and their beads."""

    structures: list[Structure]
    beads: list[np.ndarray]
    temperatures: list[float]
    """K."""


def _fabric(precision: str, device: str, devices: int) -> Fabric:
    if devices < 1:
        raise InputError(f"devices: expected at least 1, found {devices}")
    accelerator = "gpu" if choose_device(device).type == "cuda" else "cpu"
    try:
        return Fabric(
            accelerator=accelerator,
            devices=devices,
            precision=precision,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError) as error:  # of an unknown precision, or too many devices
        raise InputError(
            f"expected a precision and a number of devices that Lightning Fabric can use, found "
            f"training.precision {precision} on {devices} of {accelerator}: {error}"
        ) from error


def _check_folder(folder: Path, options: TrainConfig) -> None:
    known = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the run, found a file")
    if not (folder / "checkpoint.pt").exists():
        return
    before = load_train_config(known)
    for part in ("representation", "data", "voxel", "network", "points", "point_network"):
        if getattr(before, part) != getattr(options, part):
            raise InputError(
                f"{folder}: expected a run with the same '{part}' section as asked for, found "
                "another; give another folder with --run"
            )


def _write_config(folder: Path, options: TrainConfig) -> None:
    """The options of the run, aside first; the first thing that is written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".config.yaml.{os.getpid()}.tmp"
        try:
            aside.write_text(dump_config(options), encoding="utf-8")
            aside.replace(folder / "config.yaml")
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder that can be written to, found: {error.strerror}"
        ) from error


def _restore(trainer: Learner, path: Path) -> None:
    try:
        state = torch.load(path, map_location=trainer.fabric.device, weights_only=True)
    except Exception as error:  # torch raises many types for a damaged archive
        first = str(error).partition("\n")[0]
        raise InputError(f"{path}: expected a readable checkpoint, found: {first}") from error
    try:
        trainer.restore(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(
            f"{path}: expected a checkpoint of the run's networks, found: {first}"
        ) from error


def _last_metrics(path: Path) -> Metrics:
    """The latest value of everything that was logged."""
    found: Metrics = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            found |= json.loads(line)
    found.pop("iteration", None)
    return found


def _read_data(options: TrainConfig) -> tuple[SystemMapping, _Split, _Split]:
    data = options.data
    for name in ("topology", "mapping", "structure"):
        if not getattr(data, name):
            raise InputError(f"data.{name}: expected a file, found nothing")
    if not data.temperature > 0:
        raise InputError(
            f"data.temperature: expected the frames' temperature in K, found {data.temperature}"
        )
    topology = read_topology(data.topology)
    mapping = load_mapping(data.mapping).resolve(topology)
    needed = 2 * (
        options.points.cutoff if options.representation == "points" else options.voxel.radius
    )
    held_out = _read_split(mapping, data, data.validate, needed) if data.validate else None
    return mapping, _read_split(mapping, data, data.train, needed), held_out or _Split([], [], [])


def _read_split(mapping: SystemMapping, data: DataOptions, frames: str, needed: float) -> _Split:
    """Some frames with their beads, checked.

    Args:
        mapping: of the system.
        data: names of the files.
        frames: which of them.
        needed: least height of the box, nm.
    """
    structures: list[Structure] = []
    mapped: list[np.ndarray] = []
    trees = bond_trees(mapping.topology)
    with read_frames(data.structure, data.trajectory or None, frames=frames) as source:
        check_atoms(mapping.topology, source.table, data.structure)
        for number, frame in zip(source.frames.tolist(), source, strict=True):
            where = f"{source.path} frame {number}"
            lowest = float(cell_heights(frame.box).min())
            if lowest < needed:
                raise InputError(
                    f"{where}: expected a box at least {needed:.3f} nm high in every direction "
                    f"(twice the cut-off), found {lowest:.3f} nm"
                )
            structures.append(frame)
            if not data.beads:
                whole = make_whole(
                    frame.positions, frame.box, mapping.topology, trees=trees, source=where
                )
                mapped.append(map_positions(mapping, whole))
    beads = _read_beads(mapping, data, frames, len(structures)) or mapped
    return _Split(structures, beads, [data.temperature] * len(structures))


def _read_beads(
    mapping: SystemMapping, data: DataOptions, frames: str, expected: int
) -> list[np.ndarray]:
    """The beads of some frames where these are given, else nothing."""
    if not data.beads:
        return []
    with read_frames(data.beads, frames=frames) as source:
        check_beads(mapping, source.table, data.beads)
        if len(source) != expected:
            raise InputError(
                f"{data.beads}: expected {expected} frames as of the atoms (frames {frames}), "
                f"found {len(source)}"
            )
        return [frame.positions for frame in source]


def _specification(options: TrainConfig, mapping: SystemMapping, split: _Split) -> ModelSpec:
    topology = mapping.topology
    used = sorted({t for i, _ in topology.blocks for t in topology.molecule_types[i].atom_types})
    beads = sorted({t for i, _ in topology.blocks for t in mapping.molecules[i].bead_types})
    far = max(
        float(np.linalg.norm(relative_positions(s, mapping, b), axis=1).max())
        for s, b in zip(split.structures, split.beads, strict=True)
    )
    centres = tacticity.find_centres(mapping)
    handedness = np.stack([tacticity.signs(s, centres) for s in split.structures])
    pattern = tacticity.learn_pattern(centres, handedness)
    data = options.data
    spec = ModelSpec(
        atom_types=tuple(used),
        bead_types=tuple(beads),
        mapping=load_mapping(data.mapping).to_text(),
        temperature=data.temperature,
        reach=round(far + REACH_MARGIN, 3),
        representation=options.representation,
        voxel=options.voxel,
        network=options.network,
        points=options.points,
        point_network=options.point_network,
        temperatures=tuple(sorted(set(split.temperatures))),
        rigid=_held(mapping, split),
        handedness=pattern,
        provenance={
            "trained_by": f"deepbackmap {deepbackmap.__version__} train",
            "torch": torch.__version__,
            "processor": platform.machine(),
            "topology": Path(data.topology).name,
            "trajectory": Path(data.trajectory or data.structure).name,
            "train": data.train,
            "validate": data.validate,
            "seed": options.training.seed,
            "training": dump_config(options).split("training:")[1],
            "cores": os.cpu_count(),
        },
    )
    if options.representation != "points":
        return spec
    plan = build_plan(mapping, spec.atom_types, spec.bead_types)
    names = name_kinds(mapping, plan, options.points, _hands(mapping, spec))
    return replace(spec, vocabulary=collect_vocabulary(names), defaults=dict(POINT_DEFAULTS))


def _hands(mapping: SystemMapping, spec: ModelSpec) -> tuple[dict[int, int], ...]:
    """The hand of each bead that has a stereocentre, by molecule type."""
    centres = tacticity.find_centres(mapping)
    signs = tacticity.expected_signs(centres, spec.handedness)
    return bead_signs(mapping, centres.atoms[:, 0], signs)


def _held(mapping: SystemMapping, split: _Split) -> bool:
    """Whether the frames' bonds all have the topology's lengths."""
    kinds = [mapping.topology.expand_terms(k) for k in HELD_KINDS]
    atoms = np.concatenate([t.atoms for t in kinds])
    lengths = np.concatenate([t.parameters[:, 0] for t in kinds])
    if not len(atoms):
        return False
    for frame in split.structures:
        arms = minimum_image(frame.positions[atoms[:, 1]] - frame.positions[atoms[:, 0]], frame.box)
        off = np.linalg.norm(arms, axis=1) - lengths
        if np.sqrt(np.mean(off**2)) > HELD:
            return False
    return True


def _origin(start: Structure, data: DataOptions) -> str:
    """What frames of dynamics depend on: where they start and the options of the run."""
    asked = {
        f: getattr(data, f) for f in ("topology", "dynamics", "picoseconds", "every", "engine")
    }
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


def run_dynamics(
    folder: Path, mapping: SystemMapping, split: _Split, data: DataOptions, *, progress: bool
) -> None:
    """More training frames by the force field's own dynamics from each that is given.

    They are kept in the run's folder, frame by frame, so that a run that was stopped goes on; those
    of other options are made anew.

    Args:
        folder: of the run.
        mapping: of the system.
        split: the training frames.
        data: temperatures, length and interval.
        progress: whether to show a bar on standard error.

    Raises:
        InputError: the engine is not there, or cannot run a frame.
    """
    from deepbackmap.dynamics.containers import Dynamics, EngineError
    from deepbackmap.dynamics.engines import open_engine

    folder.mkdir(parents=True, exist_ok=True)
    engine = open_engine(mapping.topology, name=data.engine)
    every = max(1, round(data.every / TIMESTEP))
    steps = every * max(1, round(data.picoseconds / data.every))
    for k, start in enumerate(
        tqdm(split.structures, disable=not progress, unit="frame", desc="dynamics")
    ):
        target = folder / f"dynamics-{k:04d}.npz"
        origin = _origin(start, data)
        if _made_so(target, origin):
            continue
        current, frames, temperatures = start, [], []
        for temperature in data.temperatures():
            try:
                run = engine.run(
                    current,
                    Dynamics(
                        steps=steps, temperature=temperature, timestep=TIMESTEP, friction=5.0,
                        seed=k + 1, every=every, frames_every=every,
                    ),
                )  # fmt: skip
            except EngineError as error:
                raise InputError(f"dynamics of training frame {k}: {error}") from error
            # The first frames of another temperature are still on the way to it.
            kept = run.frames[-(steps // every) :]
            kept = kept if temperature == data.temperature else kept[len(kept) // 3 :]
            frames += [np.concatenate([f.positions, f.box]).astype(np.float32) for f in kept]
            temperatures += [temperature] * len(kept)
            current = run.structure
        aside = folder / f".{target.name}.{os.getpid()}.tmp"
        try:
            with aside.open("wb") as out:
                np.savez_compressed(
                    out, frames=np.stack(frames), temperatures=temperatures, origin=origin
                )
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)


def _with_dynamics(folder: Path, mapping: SystemMapping, split: _Split) -> _Split:
    """The training frames and what dynamics made of them."""
    structures, beads = list(split.structures), list(split.beads)
    temperatures = list(split.temperatures)
    trees = bond_trees(mapping.topology)
    for k in range(len(split.structures)):
        with np.load(folder / f"dynamics-{k:04d}.npz") as found:
            for rows, temperature in zip(found["frames"], found["temperatures"], strict=True):
                made = Structure(
                    positions=rows[:-3].astype(np.float64), box=rows[-3:].astype(np.float64)
                )
                whole = make_whole(made.positions, made.box, mapping.topology, trees=trees)
                structures.append(made)
                beads.append(map_positions(mapping, whole))
                temperatures.append(float(temperature))
    return _Split(structures, beads, temperatures)

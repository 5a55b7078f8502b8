"""Train a model from a configuration; a second call goes on where the first one stopped."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

import deepbackmap
from deepbackmap.api.devices import choose_device, choose_precision
from deepbackmap.api.hands import UNSURE, FoundHands
from deepbackmap.api.models import find_model
from deepbackmap.blocks.handedness import Handedness
from deepbackmap.chemistry import bead_hands, hands, tacticity
from deepbackmap.config import TrainConfig, dump_config, load_train_config
from deepbackmap.data.frames import read_systems
from deepbackmap.data.noise import with_noise
from deepbackmap.data.options import DataOptions
from deepbackmap.data.systems import TrainingSystem, types_of
from deepbackmap.errors import InputError
from deepbackmap.evaluation.plausible import known_distances
from deepbackmap.io.atomic import make_folder, new_file, refuse_inputs
from deepbackmap.mapping import load_mapping
from deepbackmap.methods import find_method
from deepbackmap.methods.base import Learner, Method, Model
from deepbackmap.methods.options import Metrics, TrainingOptions
from deepbackmap.methods.points.options import PointModelOptions
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.model.file import load_model, save_model
from deepbackmap.training.checkpoints import restore_checkpoint
from deepbackmap.training.log import last_metrics
from deepbackmap.training.run import run

READ_WRONGLY = 0.001
"""Share of the centres whose hands may be read wrongly from beads, for a model to read them."""
READING = "hands_read_from_beads"
"""Entry of the provenance that says how well they are read."""
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
    if options.training.init_from:
        refuse_inputs(
            Path(run_folder) / "model.safetensors", find_model(options.training.init_from)
        )
    folder, method = Path(run_folder), find_method(options.method.name)
    before = _check_folder(folder, options)
    systems, held_out = read_systems(options.data, options.model.least_height())
    precision = choose_precision(options.training.precision, choose_device(device))
    fabric = _fabric(precision, device, devices)
    fabric.launch()
    if any(one.dynamics for one in options.data.each):
        systems = _with_dynamics(fabric, folder, systems, options, progress=progress)
    spec, systems, held_out = _specification(options, method, precision, systems, held_out)
    if options.data.bead_noise.copies:
        _check_noise(options)
        systems = with_noise(systems, options.data.bead_noise, options.training.seed)
    if fabric.is_global_zero and (reading := spec.provenance.get(READING)) and not spec.bead_hands:
        warnings.warn(f"{folder}: {reading}", stacklevel=2)
    learner = method.learner(fabric, spec, options.training)

    def save(learner: Learner, metrics: Metrics) -> None:
        # without the time it took, so that two identical runs make identical files
        found = {k: v for k, v in metrics.items() if not k.startswith("seconds")}
        provenance = {**spec.provenance, "iteration": learner.iteration, "metrics": found}
        model = Model(replace(spec, provenance=provenance), learner.result)
        save_model(model, folder / "model.safetensors")

    checkpoint = folder / "checkpoint.pt"
    if before is not None:
        restore_checkpoint(learner, checkpoint)
        _refuse_done(folder, learner.iteration, before.training, options.training)
    elif options.training.init_from:
        learner.begin(_start(options.training.init_from, spec).generator)
    learner.use(systems, held_out)
    if fabric.is_global_zero:
        _write_config(folder, options)
        if learner.iteration >= options.training.iterations:
            save(learner, last_metrics(folder / "metrics.jsonl"))
    return run(learner, folder, on_checkpoint=save, progress=progress, stop_after=stop_after)


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


def _start(name: str, spec: ModelSpec) -> Model:
    """The model that a run begins with.

    Raises:
        InputError: it is missing or damaged, or of other options or types than the run's.
    """
    model = load_model(find_model(name))
    for part in ("method", "options", "atom_types", "bead_types"):
        found, wanted = getattr(model.spec, part), getattr(spec, part)
        if part == "options" and isinstance(found, PointModelOptions) and _told(wanted):
            found = replace(found, network=replace(found.network, uncertain=True))
        if found != wanted:
            raise InputError(
                f"training.init_from: expected a model with the {part.replace('_', ' ')} of the "
                f"configuration, found in {name} others ({_difference(found, wanted)})"
            )
    return model


def _told(options: object) -> bool:
    """Whether a model is told how far beads are off, which one that is not can learn."""
    return isinstance(options, PointModelOptions) and options.network.uncertain


def _check_noise(options: TrainConfig) -> None:
    """Refuses noisy beads for a model that is not told of them."""
    if not _told(options.model):
        raise InputError(
            "data.bead_noise: expected a model that is told how far beads are off (method points, "
            "network.uncertain: true), found one that is not"
        )


def _difference(found: object, wanted: object) -> str:
    """The first field in which two options differ, or both values."""
    if is_dataclass(found) and type(found) is type(wanted):
        for f in fields(found):
            one, other = getattr(found, f.name), getattr(wanted, f.name)
            if one != other:
                inner = _difference(one, other)
                return f"{f.name}.{inner}" if is_dataclass(one) else f"{f.name}: {inner}"
    return f"{found} instead of {wanted}"


def _check_folder(folder: Path, options: TrainConfig) -> TrainConfig | None:
    """The configuration of the run that the folder holds; None: it holds no checkpoint.

    Raises:
        InputError: it is no folder, or that run differs in more than its training.
    """
    known = folder / "config.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the run, found a file")
    if not (folder / "checkpoint.pt").exists():
        return None
    found = load_train_config(known)
    before, asked = found.sections(), options.sections()
    for part in asked:
        if part != "training" and before.get(part) != asked[part]:
            raise InputError(
                f"{folder}: expected a run with the same '{part}' section as asked for, found "
                "another; give another folder with --run"
            )
    return found


def _refuse_done(folder: Path, done: int, before: TrainingOptions, asked: TrainingOptions) -> None:
    """Refuses other options of training for a run that is finished: they would change what is
    recorded of it and nothing else.

    Raises:
        InputError: they are others than the run's.
    """
    if done >= asked.iterations and before != asked:
        raise InputError(
            f"{folder}: expected training.iterations above the {done} that are done, or the "
            f"options that they were done with, found others ({_difference(before, asked)}); give "
            "more iterations, or another folder with --run"
        )


def _write_config(folder: Path, options: TrainConfig) -> None:
    """The options of the run, aside first; the first thing that is written."""
    make_folder(folder)
    with new_file(folder / "config.yaml") as part:
        part.write_text(dump_config(options), encoding="utf-8")


def _with_dynamics(
    fabric: Fabric,
    folder: Path,
    systems: Sequence[TrainingSystem],
    options: TrainConfig,
    *,
    progress: bool,
) -> list[TrainingSystem]:
    """The training frames and what dynamics makes of them, on the first worker for all."""
    # imported here: engines are slow to load, and most runs need none
    from deepbackmap.data.dynamics import run_dynamics, with_dynamics

    if fabric.is_global_zero:
        run_dynamics(folder, systems, options.data, progress=progress)
    fabric.barrier()
    return with_dynamics(folder, systems, options.data)


def _specification(
    options: TrainConfig,
    method: Method,
    precision: str,
    systems: Sequence[TrainingSystem],
    held_out: Sequence[TrainingSystem],
) -> tuple[ModelSpec, list[TrainingSystem], list[TrainingSystem]]:
    """What the model will be, and the systems with the hands of their stereocentres."""
    atom_types, bead_types = types_of(systems)
    data = options.data
    pattern = _pattern(systems)
    temperatures = {t for s in systems for t in s.temperatures}
    read, reading = _bead_hands(systems, held_out, pattern)
    spec = ModelSpec(
        method=options.method.name,
        options=options.model,
        atom_types=atom_types,
        bead_types=bead_types,
        mapping=load_mapping(data.mapping).to_text(),
        temperature=data.each[0].temperature,
        reach=round(max(s.reach for s in systems) + REACH_MARGIN, 3),
        temperatures=tuple(sorted(temperatures)),
        rigid=all(s.rigid for s in systems),
        handedness=pattern,
        bead_hands=read,
        bead_distances=known_distances(
            (s.mapping, replace(frame, positions=beads))
            for s in systems
            for frame, beads in zip(s.structures, s.beads, strict=True)
        ),
        provenance={
            "trained_by": f"deepbackmap {deepbackmap.__version__} train",
            "torch": torch.__version__,
            "processor": platform.machine(),
            "precision": precision,
            **_files(data),
            "seed": options.training.seed,
            "training": asdict(options.training),
            "cores": os.cpu_count(),
            **({READING: reading} if reading else {}),
        },
    )
    known = [[replace(s, handedness=_hands_of(s)) for s in part] for part in (systems, held_out)]
    return method.completed(spec, known[0]), known[0], known[1]


def _files(data: DataOptions) -> dict[str, Any]:
    """Which frames a model learns from; a list where there are several systems."""
    each = [
        {
            "topology": Path(one.topology).name,
            "trajectory": Path(one.trajectory or one.structure).name,
            "train": one.train,
            "validate": one.validate,
        }
        for one in data.each
    ]
    noise = {"bead_noise": asdict(data.bead_noise)} if data.bead_noise.copies else {}
    return {**(each[0] if len(each) == 1 else {"systems": each}), **noise}


def _hands_of(system: TrainingSystem) -> Handedness | None:
    """The hand that a system's own frames show at every centre; 0 where they differ."""
    centres = tacticity.find_centres(system.mapping)
    signs = np.stack([tacticity.signs(s, centres) for s in system.structures])
    same = np.where((signs == signs[0]).all(axis=0), signs[0], 0)
    return FoundHands(centres, hands.told(same, "reference")).handedness


def _bead_hands(
    systems: Sequence[TrainingSystem],
    held_out: Sequence[TrainingSystem],
    pattern: tacticity.Pattern,
) -> tuple[dict[str, Any], str]:
    """How beads tell the hands of stereocentres, and a sentence about how well they do.

    What beads tell is kept only where it is right on frames that it was not learned from. Where
    the training has a pattern, a wrong reading would be worse than to assume that; where it has
    none, nothing else would say the hands, and what is in doubt is said to be.

    Returns:
        Statistics, empty where there are no centres or beads say too little; and the sentence.
    """
    found = bead_hands.learn([_example(s) for s in systems])
    tested = [_example(s) for s in (held_out or systems)]
    patterns = [tacticity.expected_signs(e.centres, pattern) for e in tested]
    if not found.tables:
        return {}, ""
    known = all(np.all(p) for p in patterns)
    wrong = bead_hands.wrongly_read(found, tested, patterns, 0.0 if known else UNSURE)
    which = "centres" if known else f"centres said to be {UNSURE:.0%} sure"
    said = f"{wrong:.2%} of the {which} of {'held-out' if held_out else 'training'} frames wrong"
    if wrong > READ_WRONGLY:
        return {}, f"{said} (at most {READ_WRONGLY:.1%}): hands are not read from beads"
    return found.to_json(), said


def _example(system: TrainingSystem) -> bead_hands.Example:
    """Beads of a system's frames, with the hands of their atoms."""
    centres = tacticity.find_centres(system.mapping)
    frames = [replace(s, positions=b) for s, b in zip(system.structures, system.beads, strict=True)]
    signs = [tacticity.signs(s, centres) for s in system.structures]
    return bead_hands.Example(system.mapping, centres, frames, signs)


def _pattern(systems: Sequence[TrainingSystem]) -> tacticity.Pattern:
    """Signs of the stereocentres by type and place, over all frames of all systems."""
    found: dict[str, list[int]] = {}
    for system in systems:
        centres = tacticity.find_centres(system.mapping)
        signs = np.stack([tacticity.signs(s, centres) for s in system.structures])
        for name, pair in tacticity.learn_pattern(centres, signs).items():
            if found.setdefault(name, pair) != pair:
                found[name] = []  # systems that differ tell nothing
    return {name: hands for name, hands in found.items() if hands}

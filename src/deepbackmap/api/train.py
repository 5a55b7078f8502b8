"""Train a model from a configuration; a second call goes on where the first one stopped."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

import deepbackmap
from deepbackmap.config import TrainConfig, dump_config, load_train_config
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping
from deepbackmap.mapping.match import check_atoms, check_beads
from deepbackmap.model import Model, ModelSpec, save_model
from deepbackmap.system import Structure
from deepbackmap.training.dataset import Frames, map_whole, relative_positions
from deepbackmap.training.loop import Metrics, Trainer, run

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
    ``model.safetensors``, renewed at each checkpoint.

    Args:
        config: a YAML file or the name of a preset.
        overrides: ``key=value`` options on top of it.
        devices: workers (processes) that share each step; each draws its own batch.
        device: ``auto``, ``cpu`` or ``cuda``.
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
    fabric = Fabric(
        accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[device],
        devices=devices,
        precision=options.training.precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    spec = _specification(options, mapping, train_frames)
    trainer = Trainer(fabric, spec, options.training)
    canonical = options.training.canonical
    data = Frames(
        spec,
        mapping,
        *train_frames.arguments,
        fabric.device,
        canonical=canonical,
        beads=train_frames.beads,
    )
    validation = None
    if held_out.structures:
        validation = Frames(
            spec,
            mapping,
            *held_out.arguments,
            fabric.device,
            canonical=canonical,
            beads=held_out.beads,
        )
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        trainer.restore(_read_checkpoint(checkpoint, fabric.device))
    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(dump_config(options))

    def save(trainer: Trainer, metrics: Metrics) -> None:
        provenance = {**spec.provenance, "iteration": trainer.iteration, "metrics": dict(metrics)}
        model = Model(replace(spec, provenance=provenance), trainer.result)
        save_model(model, folder / "model.safetensors")

    return run(
        trainer,
        data,
        validation,
        folder,
        on_checkpoint=save,
        progress=progress,
        stop_after=stop_after,
    )


class _Split:
    """Frames of one split, and their beads where these were given."""

    def __init__(self, structures: list[Structure], beads: list[np.ndarray] | None) -> None:
        self.structures, self.beads = structures, beads

    @property
    def arguments(self) -> tuple[list[Structure]]:
        return (self.structures,)


def _check_folder(folder: Path, options: TrainConfig) -> None:
    known = folder / "config.yaml"
    if not (folder / "checkpoint.pt").exists():
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder for the run, found a file")
        return
    before = load_train_config(known)
    for part in ("data", "voxel", "network"):
        if getattr(before, part) != getattr(options, part):
            raise InputError(
                f"{folder}: holds a run with another '{part}' section than asked for; "
                "give another folder with --run"
            )


def _read_checkpoint(path: Path, device: torch.device) -> dict:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types for a damaged archive
        raise InputError(f"{path}: not a readable checkpoint ({error})") from error


def _read_data(options: TrainConfig) -> tuple[SystemMapping, _Split, _Split]:
    data = options.data
    for name in ("topology", "mapping", "structure"):
        if not getattr(data, name):
            raise InputError(f"data.{name}: expected a file, found nothing")
    if data.temperature <= 0:
        raise InputError(
            f"data.temperature: expected the frames' temperature in K, found {data.temperature}"
        )
    topology = read_topology(data.topology)
    mapping = load_mapping(data.mapping).resolve(topology)

    def split(frames: str) -> _Split:
        trajectory = data.trajectory or None
        with read_frames(data.structure, trajectory, frames=frames) as source:
            check_atoms(topology, source.table, data.structure)
            structures = list(source)
        if not data.beads:
            return _Split(structures, None)
        with read_frames_of_beads(data.beads, mapping, frames) as source:
            return _Split(structures, [s.positions for s in source])

    return mapping, split(data.train), split(data.validate) if data.validate else _Split([], None)


def read_frames_of_beads(path: str, mapping: SystemMapping, frames: str):  # type: ignore[no-untyped-def]
    """Bead frames checked against a mapping."""
    source = read_frames(path, frames=frames)
    check_beads(mapping, source.table, path)
    return source


def _specification(options: TrainConfig, mapping: SystemMapping, split: _Split) -> ModelSpec:
    topology = mapping.topology
    used = sorted({t for i, _ in topology.blocks for t in topology.molecule_types[i].atom_types})
    beads = sorted({t for i, _ in topology.blocks for t in mapping.molecules[i].bead_types})
    first = split.structures[0]
    centres = map_whole(first, mapping) if split.beads is None else split.beads[0]
    far = np.linalg.norm(relative_positions(first, mapping, centres), axis=1).max()
    for k, s in enumerate(split.structures[1:], start=1):
        c = map_whole(s, mapping) if split.beads is None else split.beads[k]
        far = max(far, np.linalg.norm(relative_positions(s, mapping, c), axis=1).max())
    data = options.data
    return ModelSpec(
        atom_types=tuple(used),
        bead_types=tuple(beads),
        mapping=load_mapping(data.mapping).to_text(),
        temperature=data.temperature,
        reach=round(float(far) + REACH_MARGIN, 3),
        voxel=options.voxel,
        network=options.network,
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

"""A model as one safetensors file: weights, options, mapping, types and where it came from."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from deepbackmap.errors import InputError
from deepbackmap.methods import find_method
from deepbackmap.methods.base import Model
from deepbackmap.model.header import FORMAT, read_metadata, spec_of, to_text


def save_model(model: Model, path: str | Path) -> None:
    """Write a model as one file, aside first, so that it is whole or not there."""
    path = Path(path)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.generator.state_dict().items()}
    metadata = {"format": FORMAT, "spec": to_text(model.spec)}
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(weights, aside, metadata=metadata)
        # safetensors makes files for the owner alone; a model has the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o666 & ~mask)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def load_model(path: str | Path) -> Model:
    """Read a model; nothing in the file is executed.

    Raises:
        InputError: as ``read_spec``, or weights that do not fit the specification.
    """
    spec = spec_of(read_metadata(path), path)
    try:
        with safe_open(Path(path), framework="pt") as handle:
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: the model's weights are damaged ({error})") from error
    try:
        with torch.device("meta"):
            generator = find_method(spec.method).generator(spec)
    except ValueError as error:
        raise InputError(f"{path}: the model's specification is damaged ({error})") from error
    try:
        generator.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: weights do not fit the model's options ({first})") from error
    generator.requires_grad_(False).eval()
    return Model(spec, generator)

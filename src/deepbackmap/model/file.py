"""A model as one safetensors file: weights, options, mapping, types and where it came from."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import new_file
from deepbackmap.methods import find_method
from deepbackmap.methods.base import Model
from deepbackmap.model.header import read_header, to_text, write_header


def checksum(spec: str, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a specification's text and of all weights as they are stored, by name.

    Args:
        spec: ``model.header.to_text``.
        weights: tensors on the CPU.
    """
    found = hashlib.sha256(spec.encode())
    for name in sorted(weights):
        tensor = weights[name].contiguous()
        found.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def save_model(model: Model, path: str | Path, *, half: bool = False) -> None:
    """Write a model as one file, aside first, so that it is whole or not there. The same model
    gives the same bytes.

    Args:
        model: with its weights.
        path: to write.
        half: whether to keep what was learned by descent in half precision. Buffers (statistics of
            the data, which are differences of large numbers) stay as they are.

    Raises:
        InputError: the disk refuses.
    """
    path = Path(path)
    learned = {name for name, _ in model.generator.named_parameters()}
    weights = {}
    for name, values in model.generator.state_dict().items():
        kept = values.detach().cpu().contiguous()
        weights[name] = kept.to(torch.float16) if half and name in learned else kept
    spec = to_text(model.spec)
    metadata = write_header(spec, checksum(spec, weights))
    content = save(weights, metadata=metadata)
    with new_file(path) as part:
        part.write_bytes(content)


def load_model(path: str | Path) -> Model:
    """Read a model; nothing in the file is executed. Weights in half precision become single.

    Raises:
        InputError: as ``read_header``; weights that are damaged, not finite, or do not fit the
            specification.
    """
    header = read_header(path)
    try:
        with safe_open(Path(path), framework="pt") as handle:
            weights = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: the model's weights are damaged ({error})") from error
    _check_weights(weights, path)
    if header.checksum is not None:
        found = checksum(header.text, weights)
        if not hmac.compare_digest(found, header.checksum):
            raise InputError(
                f"{path}: the model is damaged: expected checksum {header.checksum:.16}, found "
                f"{found[:16]}; fetch or train it again"
            )
    try:
        with torch.device("meta"):
            generator = find_method(header.spec.method).generator(header.spec)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: the model's specification is damaged ({error})") from error
    single = {k: v.float() if v.dtype == torch.float16 else v for k, v in weights.items()}
    try:
        generator.load_state_dict(single, assign=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: weights do not fit the model's options ({first})") from error
    generator.requires_grad_(False).eval()
    return Model(header.spec, generator)


def _check_weights(weights: Mapping[str, Tensor], path: str | Path) -> None:
    for name, values in weights.items():
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            raise InputError(f"{path}: expected finite weights, found others in {name}")

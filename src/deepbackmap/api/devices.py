"""Where to compute."""

from __future__ import annotations

import torch

from deepbackmap.errors import InputError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.

    Raises:
        InputError: another name, or no GPU where one is asked for.
    """
    if name not in DEVICES:
        raise InputError(f"device: expected one of {', '.join(DEVICES)}, found '{name}'")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device: expected a CUDA device as asked for, found none on this machine")
    return torch.device("cuda" if available and name != "cpu" else "cpu")

"""Where to compute."""

from __future__ import annotations

import torch

from deepbackmap.errors import InputError

DEVICES = ("auto", "cpu", "cuda")
_ASKED = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
"""What PyTorch is asked about the processor; versions that cannot say count as no."""


def choose_precision(name: str, device: torch.device) -> str:
    """The precision of a name, as Lightning Fabric calls it.

    Args:
        name: ``auto``: ``bf16-mixed`` where the hardware multiplies in it, else ``32-true``;
            anything else stays.
        device: to compute on.
    """
    if name != "auto":
        return name
    return "bf16-mixed" if _has_bf16(device) else "32-true"


def _has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16: without, it is emulated, and many times slower
    than single precision. Asked of the hardware, not timed, so that a resumed run gets the same
    answer."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = torch.backends.cpu.get_cpu_capability()
    if not known.startswith("AVX512"):
        return False
    return any(getattr(torch.cpu, name, bool)() for name in _ASKED)


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

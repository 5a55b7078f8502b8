"""Elementwise work over millions of pairs as one pass over memory.

Torch writes out the result of every operation; for a million atoms with some two hundred
neighbours each that is a gigabyte each time, and moving it is all that a card then does.
``torch.compile`` makes one kernel of a function instead. Compiling takes some seconds, which small
systems would not get back.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch

FROM = 100_000
"""Atoms from which on functions are compiled."""


def fused(function: Callable[..., Any], atoms: int, device: torch.device) -> Callable[..., Any]:
    """A function of tensors, as one kernel where that is worth it.

    Args:
        function: elementwise, with sums over rows.
        atoms: of the system.
        device: that it works on.
    """
    if device.type != "cuda" or atoms < FROM or not can_compile():
        return function
    return _compiled(function)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled once, for all sizes; as it is where that fails."""
    quick = torch.compile(function, dynamic=True, fullgraph=True)
    chosen = [quick]

    def either(*arguments: Any) -> Any:
        try:
            return chosen[0](*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if chosen[0] is function:
                raise
            warnings.warn(f"{function.__name__} is not compiled: {error}", stacklevel=2)
            chosen[0] = function
            return function(*arguments)

    return either


@functools.cache
def can_compile() -> bool:
    """Whether there is what ``torch.compile`` needs on a card: Triton, and a C compiler."""
    there = importlib.util.find_spec("triton") is not None
    return there and any(shutil.which(name) for name in ("cc", "gcc", "clang"))

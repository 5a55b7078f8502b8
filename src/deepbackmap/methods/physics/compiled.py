"""Numba's decorators as this folder uses them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_FOLDER = hashlib.sha256(
    b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).hexdigest()


def compiled(function: Callable[..., Any], *, parallel: bool = False, fast: bool = False) -> Any:
    """Compiles a function and keeps the outcome until any file of this folder changes.

    Numba itself looks at the function's own file only, not at those of the functions it calls.

    Args:
        function: plain loops over arrays; a wrapper that checks its arguments is taken off.
        parallel: whether ``prange`` loops are shared by threads.
        fast: whether sums may be added up in another order.
    """
    dispatcher = numba.njit(
        inspect.unwrap(function), cache=True, parallel=parallel, fastmath=fast, error_model="numpy"
    )
    key = dispatcher._cache._index_key
    dispatcher._cache._index_key = lambda *args: (*key(*args), _FOLDER)
    return dispatcher


def threaded(function: Callable[..., Any]) -> Any:
    """``compiled`` with loops that threads share; each pass of a loop is on its own."""
    return compiled(function, parallel=True)


def inner(function: Callable[..., Any]) -> Any:
    """``compiled`` where sums may be added up in another order."""
    return compiled(function, fast=True)

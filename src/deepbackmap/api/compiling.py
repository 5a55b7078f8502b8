"""Says so when a command waits for Numba to compile, which happens once on a machine."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numba.core import event
from tqdm import tqdm

PATIENCE = 5.0
"""Seconds of compiling after which a line says what is going on."""
LINE = "compiling, once: about half a minute; what is compiled is kept for the next run"


class _Watch(event.Listener):
    """Says a line when compiling has taken long."""

    def __init__(self, say: Callable[[str], object], patience: float) -> None:
        self._say, self._patience = say, patience
        self._depth, self._began, self._spent, self._said = 0, 0.0, 0.0, False
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None

    def on_start(self, event: object) -> None:
        """A function, or one that it calls, begins to be compiled."""
        with self._lock:
            if self._depth == 0:
                self._began = time.monotonic()
                if not self._said:
                    self._timer = threading.Timer(self._patience - self._spent, self._look)
                    self._timer.daemon = True
                    self._timer.start()
            self._depth += 1

    def on_end(self, event: object) -> None:
        """It is compiled."""
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._spent += time.monotonic() - self._began
                if self._timer is not None:
                    self._timer.cancel()

    def _look(self) -> None:
        with self._lock:
            if self._depth > 0 and not self._said:
                self._said = True
                self._say(LINE)


@contextmanager
def said_when_compiling(
    show: bool, say: Callable[[str], object] | None = None, patience: float = PATIENCE
) -> Iterator[None]:
    """Watches over what is done inside.

    Args:
        show: whether to say anything.
        say: called with the line, at most once; by default it goes to standard error.
        patience: seconds of compiling in all after which it is said.
    """
    if not show:
        yield
        return
    watch = _Watch(say or (lambda line: tqdm.write(line, file=sys.stderr)), patience)
    with event.install_listener("numba:compile", watch):
        yield

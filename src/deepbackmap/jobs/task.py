"""What a verb gives to be done: a task, and one job a frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

Report = Callable[[int], None]
"""Called with how much was done since the last call, for bars."""


@dataclass(frozen=True)
class Job:
    """One frame to be worked on."""

    index: int
    """Its place among the chosen frames, from 0."""
    number: int
    """Its number in the file, which names its random numbers."""
    content: Any
    """The frame, and what else belongs to it."""


Work = Callable[[Job, Report], Any]
"""Does a job; the result is data that can be sent and kept (dataclasses, arrays, numbers)."""


@runtime_checkable
class Task(Protocol):
    """What is done to every frame: data that can be sent to another process or machine.

    It holds contents, not names of files, so that no disk need be shared.
    """

    def open(self) -> Work:
        """Prepares the work once, for many jobs.

        Raises:
            InputError: what was given cannot be worked with.
        """
        ...


def no_report(done: int) -> None:
    """Where nobody looks at a bar."""

"""Who works on the jobs: one interface in front of this process, of processes, and of a cluster."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections import deque
from typing import Any

from deepbackmap.errors import InputError, Stopped
from deepbackmap.jobs.task import Job, Report, Task, Work, no_report

LOST = 3
"""Workers that may be lost over one frame before it counts as the frame's fault."""

FRAMES_EACH = 4
"""Frames for each process that is started unasked."""
WORTH = 30_000
"""Atoms over all frames: a process takes two seconds to begin, as long as two frames of 5 832."""
WORKER_BYTES, ATOM_BYTES = 5e8, 1_200.0
"""Memory of a process, and more for each atom of its frame."""


class Failure:
    """A job that cannot be done, to be raised when its turn comes."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Pool(ABC):
    """Takes jobs and gives back results in whatever order they are done.

    A context manager: on leaving it nothing is left running.
    """

    @property
    @abstractmethod
    def most(self) -> int:
        """Jobs that it has at once, done ones that were not yet taken included: bounds memory."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Takes a job."""

    @abstractmethod
    def next(self, report: Report = no_report) -> tuple[int, Any]:
        """Waits until some job is done.

        Args:
            report: told what is done of a job before it is, where that is known.

        Returns:
            Index of the job and its result, or a ``Failure``.
        """

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        """Lets go of the workers."""
        return


class Here(Pool):
    """This process."""

    most = 1
    """One after another."""

    def __init__(self, task: Task) -> None:
        """Prepares the work.

        Raises:
            InputError: what was given cannot be worked with.
        """
        self.work: Work = task.open()
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Takes a job."""
        self._jobs.append(job)

    def next(self, report: Report = no_report) -> tuple[int, Any]:
        """Does a job."""
        job = self._jobs.popleft()
        try:
            return job.index, self.work(job, report)
        except InputError as error:
            return job.index, Failure(error)


def cores() -> int:
    """Threads that this process may use: as the environment says, else the cores it may run on."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1


def worth_sharing(frames: int, particles: int) -> int:
    """Processes that frames are shared out among where nobody says how many.

    One a thread that this process may use, as far as there are frames and memory for them; one
    alone where their work is less than what it takes to begin.

    Args:
        frames: that there are to be done.
        particles: atoms in each.
    """
    if frames * particles < WORTH:
        return 1
    room = int(_free_memory() / (WORKER_BYTES + ATOM_BYTES * particles))
    return max(1, min(cores(), frames // FRAMES_EACH, room))


def _free_memory() -> float:
    """Bytes; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return math.inf


def lost(job: Job) -> Stopped:
    """What to say of a job over which workers were lost again and again."""
    return Stopped(
        f"frame {job.number}: expected a worker to finish it, found {LOST} of them ended by the "
        "system over it; is there enough memory? Fewer workers need less"
    )

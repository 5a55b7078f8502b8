"""Workers that are threads which do together what they can: a card with a frame for each."""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from deepbackmap.jobs.pool import Pool
from deepbackmap.jobs.task import Job, Report, Work, no_report
from deepbackmap.jobs.threads import take_result

MOMENT = 0.02
"""s between two looks at whether others may take their seats."""


@runtime_checkable
class Table(Protocol):
    """Where threads wait for each other."""

    @property
    def members(self) -> int:
        """How many sit there, or are expected to."""
        ...

    def expect(self, number: int) -> None:
        """Keeps so many seats; nothing is done before they are taken."""
        ...

    def seated(self, seat: int) -> AbstractContextManager[None]:
        """Takes a seat."""
        ...


@runtime_checkable
class SharedWork(Protocol):
    """Work of which some jobs are done at once."""

    @property
    def at_once(self) -> int:
        """How many, at most; 1: one after another."""
        ...

    @property
    def table(self) -> Table:
        """Where they wait for each other; whoever needs the others no more has left it."""
        ...

    def __call__(self, job: Job, report: Report) -> Any:
        """Does a job."""
        ...


class Seats(Pool):
    """As many threads as sit at a table. When all have left it, the next sit down, while the first
    finish what they do alone."""

    def __init__(self, work: SharedWork) -> None:
        """Prepares threads.

        Args:
            work: of the task.
        """
        self._work: Work = work
        self._table, self._at_once = work.table, work.at_once
        self._threads = ThreadPoolExecutor(2 * self._at_once)
        self._waiting: deque[Job] = deque()
        self._jobs: dict[Future[Any], Job] = {}

    @property
    def most(self) -> int:
        """Jobs at once: those at the table, and those who come next or are done."""
        return 2 * self._at_once

    def submit(self, job: Job) -> None:
        """Takes a job."""
        self._waiting.append(job)

    def next(self, report: Report = no_report) -> tuple[int, Any]:
        """Waits until some job is done."""
        done: set[Future[Any]] = set()
        while not done:
            self._begin()
            done, _ = wait(self._jobs, timeout=MOMENT, return_when=FIRST_COMPLETED)
        return take_result(self._jobs, done)

    def _begin(self) -> None:
        """Those who wait sit down, if the table is empty."""
        if not self._waiting or self._table.members:
            return
        chosen = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
        self._table.expect(len(chosen))
        for seat, job in enumerate(chosen):
            self._jobs[self._threads.submit(self._one, job, seat)] = job

    def _one(self, job: Job, seat: int) -> Any:
        with self._table.seated(seat):
            return self._work(job, no_report)

    def __exit__(self, *error: object) -> None:
        """Ends when the jobs that have begun are done; no other begins."""
        self._threads.shutdown()

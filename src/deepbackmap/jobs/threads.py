"""Workers that are threads of this process: for work whose time is spent in compiled code."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from deepbackmap.errors import InputError
from deepbackmap.jobs.pool import Failure, Pool
from deepbackmap.jobs.task import Job, Report, Task, no_report


class Threads(Pool):
    """Some threads, which share what the task has opened."""

    def __init__(self, task: Task, workers: int) -> None:
        """Prepares the work.

        Args:
            task: whose work may be done by several threads at once.
            workers: how many.

        Raises:
            InputError: what was given cannot be worked with.
        """
        self._work = task.open()
        self._most = workers + 1
        self._pool = ThreadPoolExecutor(workers)
        self._jobs: dict[Future[Any], Job] = {}

    @property
    def most(self) -> int:
        """Jobs at once."""
        return self._most

    def submit(self, job: Job) -> None:
        """Takes a job."""
        self._jobs[self._pool.submit(self._work, job, no_report)] = job

    def next(self, report: Report = no_report) -> tuple[int, Any]:
        """Waits until some job is done."""
        done, _ = wait(self._jobs, return_when=FIRST_COMPLETED)
        return take_result(self._jobs, done)

    def __exit__(self, *error: object) -> None:
        """Ends when the jobs that have begun are done; no other begins."""
        self._pool.shutdown(cancel_futures=True)


def take_result(jobs: dict[Future[Any], Job], done: set[Future[Any]]) -> tuple[int, Any]:
    """Result of the job that was begun first of those that are done, which is taken out.

    Args:
        jobs: under way, in the order they were begun in.
        done: some of them, one at least.
    """
    future = next(f for f in jobs if f in done)
    job = jobs.pop(future)
    try:
        return job.index, future.result()
    except InputError as error:
        return job.index, Failure(error)

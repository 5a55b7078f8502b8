"""Jobs in, results out, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from deepbackmap.errors import InputError
from deepbackmap.jobs.cluster import Cluster
from deepbackmap.jobs.journal import NoJournal
from deepbackmap.jobs.pool import Failure, Here, Pool
from deepbackmap.jobs.processes import Processes
from deepbackmap.jobs.seats import Seats, SharedWork
from deepbackmap.jobs.task import Job, Report, Task, no_report


def open_pool(task: Task, workers: int = 1, scheduler: str | None = None) -> Pool:
    """Who works on the jobs of a task.

    Args:
        task: what is done.
        workers: processes; 1: this one.
        scheduler: of a Dask cluster: address, file, or kind of batch system; None: none.

    Raises:
        InputError: there is no such scheduler, no worker, or the task cannot be opened.
    """
    if workers < 1:
        raise InputError(f"workers: expected at least 1, found {workers}")
    if scheduler is not None:
        return Cluster(task, scheduler, workers)
    if workers > 1:
        return Processes(task, workers)
    here = Here(task)
    if isinstance(here.work, SharedWork) and here.work.at_once > 1:
        return Seats(here.work)
    return here


def in_order(
    pool: Pool, jobs: Iterable[Job], journal: NoJournal, report: Report = no_report
) -> Iterator[tuple[Job, Any]]:
    """Results in the order of the jobs, of which ``pool.most`` are in memory.

    Args:
        pool: who works on them.
        jobs: are asked for as there is room.
        journal: what is done already, and where results are kept as they come.
        report: told what is done of a job before it is.

    Raises:
        InputError: a job cannot be done; the results before it have been handed out.
    """
    waiting: deque[Job] = deque()
    done: dict[int, Any] = {}
    left = iter(jobs)
    while True:
        while len(waiting) < pool.most and (job := next(left, None)) is not None:
            waiting.append(job)
            if job.index not in journal:
                pool.submit(job)
        if not waiting:
            return
        first = waiting.popleft()
        if first.index in journal and first.index not in done:
            yield first, journal.read(first.index)
            continue
        while first.index not in done:
            index, result = pool.next(report)
            if not isinstance(result, Failure):
                journal.add(index, result)
            done[index] = result
        result = done.pop(first.index)
        if isinstance(result, Failure):
            raise result.error
        yield first, result

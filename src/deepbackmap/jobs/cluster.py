"""Workers on other machines, through Dask: a cluster that runs, or one of a batch system.

Task and jobs travel as data and results come back as data, so that no disk need be shared. Dask
gives the jobs of a worker that is lost to others. The scheduler holds the task and the jobs that
are under way, no more.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import threading
import time
import warnings
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from deepbackmap.errors import InputError, Stopped
from deepbackmap.jobs.pool import Failure, Pool, lost
from deepbackmap.jobs.processes import AHEAD, sendable
from deepbackmap.jobs.task import Job, Report, Task, Work, no_report

SYSTEMS = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster", "lsf": "LSFCluster",
    "moab": "MoabCluster", "oar": "OARCluster", "htcondor": "HTCondorCluster",
    "local": "LocalCluster",
}  # fmt: skip
"""Batch systems, and the class of ``dask_jobqueue`` for each; ``local`` runs its jobs here."""
RECOUNT = 5.0
"""Seconds between two counts of the workers."""
PATIENCE = 60.0
"""Seconds until a cluster that is said to be there must have a worker."""


class Cluster(Pool):
    """Workers of a Dask cluster."""

    def __init__(self, task: Task, scheduler: str, workers: int) -> None:
        """Connects.

        Args:
            task: that each worker opens.
            scheduler: address or file of a scheduler, or the kind of a batch system.
            workers: jobs that a batch system is asked for; of a cluster that is there, all work.

        Raises:
            InputError: Dask is not installed, nothing answers, or there is no such batch system.
        """
        self._client, self._made = connect(scheduler, workers)
        try:
            from distributed import as_completed

            data = pickle.dumps(task, protocol=5)
            self._name = hashlib.sha256(data).hexdigest()
            # As a task of the scheduler's and not as data on a worker, which would be lost with it.
            self._task = self._client.submit(_given, data, key=f"task-{self._name}")
            self._counted, self._most = -math.inf, 1
            self._done = as_completed()
            self._jobs: dict[Any, Job] = {}
            self._suspects: deque[Job] = deque()
        except BaseException:
            self.__exit__()
            raise

    @property
    def most(self) -> int:
        """Jobs at once: as many for each worker as there are now; they come and go."""
        if time.monotonic() - self._counted > RECOUNT:
            self._counted = time.monotonic()
            self._most = AHEAD * max(1, sum(self._client.nthreads().values()))
        return self._most

    def submit(self, job: Job) -> None:
        """Takes a job."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph")
            future = self._client.submit(
                _work_on, self._task, self._name, job, pure=False, priority=-job.index
            )
        self._jobs[future] = job
        self._done.add(future)

    def next(self, report: Report = no_report) -> tuple[int, Any]:
        """Waits until some job is done.

        Dask gives up all jobs that a lost worker held, those that only waited there included. So a
        job that was given up runs once more when no other does: then it is its own fault.
        """
        from distributed import KilledWorker

        while True:
            alone = not self._jobs
            if alone:
                self.submit(self._suspects.popleft())
            future = next(self._done)
            job = self._jobs.pop(future)
            try:
                found = future.result()
            except KilledWorker:
                if alone:
                    return job.index, Failure(lost(job))
                self._suspects.append(job)
                continue
            except Exception as error:
                raise Stopped(
                    f"frame {job.number}: expected the cluster to finish it, found: {error}"
                ) from error
            return job.index, Failure(found) if isinstance(found, BaseException) else found

    def __exit__(self, *error: object) -> None:
        """Takes back what is not done, and ends a cluster that was made here."""
        with suppress(Exception):
            self._client.cancel(list(self._jobs), force=True)
        with suppress(Exception):
            self._client.close()
        if self._made is not None:
            self._made.close()


def connect(scheduler: str, workers: int) -> tuple[Any, Any]:
    """A client, and the cluster if one was made for it.

    Args:
        scheduler: address or file of a scheduler, or the kind of a batch system.
        workers: jobs that a batch system is asked for.

    Raises:
        InputError: Dask is not installed, nothing answers, or there is no such batch system.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "scheduler: expected Dask to be installed, found none: pip install "
            "'deepbackmap[cluster]'"
        ) from error
    if scheduler in SYSTEMS:
        made = _batch(scheduler, workers)
        return Client(made), made
    found: dict[str, Any] = {"timeout": PATIENCE}
    if Path(scheduler).is_file():
        found["address"] = _address(Path(scheduler))
    elif ":" in scheduler:
        found["address"] = scheduler
    else:
        raise InputError(
            f"scheduler: expected an address (tcp://HOST:PORT), a file of a scheduler that runs, "
            f"or one of {', '.join(SYSTEMS)}, found '{scheduler}'"
        )
    try:
        client = Client(**found)
    except (OSError, ValueError) as error:
        raise InputError(f"scheduler {scheduler}: expected one that answers, found none") from error
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        client.close()
        raise InputError(f"scheduler {scheduler}: expected workers, found none") from error
    return client, None


def _address(path: Path) -> str:
    """The address in the file that ``dask-scheduler --scheduler-file`` writes."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["address"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"scheduler: expected a file of a scheduler that runs, as dask-scheduler's option "
            f"--scheduler-file writes it, found another in {path}"
        ) from error
    return str(found)


def _batch(system: str, workers: int) -> Any:
    """A cluster of jobs of a batch system, as Dask's own configuration says they are."""
    try:
        import dask_jobqueue
        from dask_jobqueue import local
    except ImportError as error:
        raise InputError(
            "scheduler: expected dask-jobqueue to be installed, found none: pip install "
            "'deepbackmap[cluster]'"
        ) from error
    name = SYSTEMS[system]
    kind = local.LocalCluster if system == "local" else getattr(dask_jobqueue, name)
    try:
        made = kind(scheduler_options={"dashboard_address": ":0"})  # any port that is free
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"scheduler {system}: expected its section in Dask's jobqueue.yaml (cores, memory), "
            f"found: {error}"
        ) from error
    made.scale(jobs=max(1, workers))
    return made


_OPEN: dict[str, Work] = {}
"""In a worker: the task that was opened last, by name."""
ONE = threading.Lock()
"""In a worker: one job at a time."""


def _given(data: bytes) -> bytes:
    """The task, as it came."""
    return data


def _work_on(data: bytes, name: str, job: Job) -> Any:
    """Does a job in a worker, one at a time; a mistake in it is a result."""
    with ONE:
        try:
            if name not in _OPEN:
                _OPEN.clear()
                _OPEN[name] = pickle.loads(data).open()
            return _OPEN[name](job, no_report)
        except Exception as error:
            return sendable(error)

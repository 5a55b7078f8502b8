"""Workers that are processes of this machine.

Each is a Python of its own that imports the package, is sent the task once, and then one job at a
time over a socket. Nothing of the calling program is run again in it, and threads are shared out
before it imports anything that counts cores. A worker that the system ends (out of memory, say)
is replaced, and its job is done again.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from deepbackmap.errors import InputError, Stopped
from deepbackmap.jobs.pool import LOST, Failure, Pool, cores, lost
from deepbackmap.jobs.task import Job, Report, Task, no_report

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Variables by which libraries are told how many threads to use."""
PROGRAM = "import sys; sys.path[:] = {path!r}; from {module} import serve; serve({handle})"
AHEAD = 2
"""Jobs for each worker that are held at once."""


class _Worker:
    """One process."""

    def __init__(self, task: bytes, threads: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            program = PROGRAM.format(path=sys.path, module=__name__, handle=theirs.fileno())
            environment = os.environ | dict.fromkeys(THREADS, str(threads))
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], pass_fds=(theirs.fileno(),), env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        self.connection = Connection(ours.detach())
        self.job: Job | None = None
        with suppress(OSError):  # one that ended at once is found out when it is waited for
            self.connection.send_bytes(task)

    def take(self, job: Job) -> None:
        """Is sent a job."""
        self.job = job
        with suppress(OSError):
            self.connection.send_bytes(pickle.dumps(job, protocol=5))

    def end(self) -> None:
        """Ends at once; there is nothing to clean up in it."""
        self.connection.close()
        self._process.kill()
        self._process.wait()


class Processes(Pool):
    """Some processes of this machine."""

    def __init__(self, task: Task, workers: int) -> None:
        """Starts them.

        Args:
            task: that each opens.
            workers: how many; they share the threads that this process may use.
        """
        self._task = pickle.dumps(task, protocol=5)
        self._threads = max(1, cores() // workers)
        self._most = AHEAD * workers
        self._jobs: deque[Job] = deque()
        self._ended: dict[int, int] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(_Worker(self._task, self._threads))
        except BaseException:
            self.__exit__()
            raise

    @property
    def most(self) -> int:
        """Jobs at once."""
        return self._most

    def submit(self, job: Job) -> None:
        """Takes a job, and gives it to a worker that has none."""
        self._jobs.append(job)
        self._give()

    def next(self, report: Report = no_report) -> tuple[int, Any]:
        """Waits until some job is done."""
        while True:
            busy = [w for w in self._workers if w.job is not None]
            ready = wait([w.connection for w in busy])
            worker = next(w for w in busy if w.connection in ready)
            found = self._answer(worker)
            self._give()
            if found is not None:
                return found

    def _give(self) -> None:
        for worker in self._workers:
            if worker.job is None and self._jobs:
                worker.take(self._jobs.popleft())

    def _answer(self, worker: _Worker) -> tuple[int, Any] | None:
        """Result of a worker's job; None: it has ended, and another one begins anew."""
        job = worker.job
        assert job is not None
        try:
            found = pickle.loads(worker.connection.recv_bytes())
        except (EOFError, OSError):
            return self._replace(worker, job)
        worker.job = None
        return job.index, Failure(found) if isinstance(found, BaseException) else found

    def _replace(self, worker: _Worker, job: Job) -> tuple[int, Any] | None:
        worker.end()
        self._workers[self._workers.index(worker)] = _Worker(self._task, self._threads)
        self._ended[job.index] = self._ended.get(job.index, 0) + 1
        if self._ended[job.index] >= LOST:
            return job.index, Failure(lost(job))
        self._jobs.appendleft(job)
        return None

    def __exit__(self, *error: object) -> None:
        """Ends all of them."""
        for worker in self._workers:
            worker.end()


def serve(handle: int) -> None:
    """Does jobs until nobody asks any more.

    Args:
        handle: of the socket.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    connection = Connection(handle)
    with suppress(EOFError, OSError):
        try:
            work = pickle.loads(connection.recv_bytes()).open()
        except Exception as error:
            connection.recv_bytes()
            connection.send_bytes(pickle.dumps(sendable(error)))
            return
        while True:
            job = pickle.loads(connection.recv_bytes())
            try:
                found = work(job, no_report)
            except Exception as error:
                found = sendable(error)
            connection.send_bytes(pickle.dumps(found, protocol=5))


def sendable(error: Exception) -> Exception:
    """An error that can be sent, with the place of a bug in it."""
    if isinstance(error, InputError):
        return (Stopped if isinstance(error, Stopped) else InputError)(str(error))
    return RuntimeError("a worker failed:\n" + "".join(traceback.format_exception(error)))

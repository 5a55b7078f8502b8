"""Small tasks for tests of the loop over frames; in a module, so that workers can import them."""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.jobs.task import Job
from deepbackmap.system import Structure


@dataclass(frozen=True)
class Shake:
    """Moves the particles of a frame by numbers that its own number names."""

    seconds: float = 0.0
    """That a frame takes."""
    bad: tuple[int, ...] = ()
    """Numbers of frames that are refused."""
    deadly: tuple[int, ...] = ()
    """Numbers of frames over which a worker ends, the first so many times."""
    deaths: str = ""
    """Folder in which deaths are counted."""
    most_deaths: int = 1
    unusable: str = ""
    """Why the task cannot be opened."""

    def open(self):
        if self.unusable:
            raise InputError(self.unusable)
        return self._work

    def _work(self, job, report):
        report(1)
        time.sleep(self.seconds)
        if job.number in self.bad:
            raise InputError(f"frame {job.number}: expected a good one, found a bad one")
        if job.number in self.deadly and self._dies(job.number):
            os.kill(os.getpid(), signal.SIGKILL)
        moved = np.random.default_rng(job.number).normal(size=job.content.positions.shape)
        return replace(job.content, positions=job.content.positions + moved)

    def _dies(self, number):
        before = len(list(Path(self.deaths).glob(f"{number}.*")))
        if before < self.most_deaths:
            Path(self.deaths, f"{number}.{before}").touch()
        return before < self.most_deaths


@dataclass(frozen=True)
class Threads:
    """Says how many threads the libraries of a worker were told to use."""

    def open(self):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        return lambda job, report: [os.environ.get(name) for name in names]


def jobs(count, n=5, first=0):
    """Some frames, whose numbers are not their places."""
    for k in range(count):
        yield Job(k, 10 * k + first, Structure(np.full((n, 3), float(k)), np.eye(3), time=float(k)))


def say_numbers(number, link):
    """What the others said."""
    sent = {q: np.full((1, 3), float(number)) for q in range(3)}
    return {q: float(a[0, 0]) for q, a in link.exchange(False, sent)[1].items()}


def add_up(given, link):
    """The same number, so many times the sum of all."""
    value, times = given
    for _ in range(times):
        sent = {q: np.full((1, 3), value) for q in range(3)}
        value += sum(a[0, 0] for a in link.exchange(False, sent)[1].values())
    return value


def bad_part(number, link):
    """Part 1 is refused; the others wait for it."""
    if number == 1:
        raise InputError("part 1: expected a good one, found a bad one")
    link.exchange(False, {})


def die_once(given, link):
    """The worker of part 1 ends, the first time."""
    folder, number = given
    link.exchange(False, {})
    if number == 1 and not Path(folder, "died").exists():
        Path(folder, "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    sent = {q: np.ones((1, 3)) for q in range(3)}
    return 1.0 + sum(float(a[0, 0]) for a in link.exchange(False, sent)[1].values())

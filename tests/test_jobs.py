"""The loop over frames: order, memory, lost workers, and what an interrupted run keeps."""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest

from deepbackmap.errors import InputError, Stopped
from deepbackmap.jobs import pool as pools
from deepbackmap.jobs.journal import Journal, NoJournal, journal_of, open_journal
from deepbackmap.jobs.loop import in_order, open_pool
from deepbackmap.jobs.pool import LOST, Failure, Here, Pool, cores
from deepbackmap.jobs.processes import Processes
from deepbackmap.jobs.threads import Threads as ThreadPool
from deepbackmap.system import Structure
from job_tasks import Shake, Threads, jobs

RUN = {"beads": "some", "seed": 0}


def values(pool, count, journal=None):
    with pool:
        found = in_order(pool, jobs(count), journal or NoJournal())
        return [(job.index, result.positions.tobytes(), result.time) for job, result in found]


class Shuffled(Pool):
    """Does jobs in any order."""

    most = 7

    def __init__(self, task, seed=0):
        self._work, self._jobs, self._random = task.open(), [], random.Random(seed)
        self.held = self.submitted = 0

    def submit(self, job):
        self._jobs.append(job)
        self.submitted += 1
        self.held = max(self.held, len(self._jobs))

    def next(self, report=None):
        job = self._jobs.pop(self._random.randrange(len(self._jobs)))
        try:
            return job.index, self._work(job, lambda n: None)
        except InputError as error:
            return job.index, Failure(error)


@pytest.mark.parametrize("seed", range(5))
def test_results_come_in_order_whatever_is_done_first(seed):
    pool = Shuffled(Shake(), seed)
    assert values(pool, 40) == values(Here(Shake()), 40)
    assert pool.held <= pool.most


def test_frames_are_read_as_there_is_room():
    read = []

    def some():
        for job in jobs(30):
            read.append(job.index)
            yield job

    pool = Shuffled(Shake())
    for job, _ in in_order(pool, some(), NoJournal()):
        assert len(read) <= job.index + pool.most


def test_a_bad_frame_is_told_when_its_turn_comes():
    for pool in (Here(Shake(bad=(70, 90))), Shuffled(Shake(bad=(70, 90)), 3)):
        seen = []
        with pytest.raises(InputError, match="frame 70: expected a good one"):
            for job, _ in in_order(pool, jobs(20), NoJournal()):
                seen.append(job.number)
        assert seen == [0, 10, 20, 30, 40, 50, 60]


def test_processes_and_threads_make_what_one_makes():
    expected = values(Here(Shake()), 9)
    assert values(ThreadPool(Shake(0.01), 3), 9) == expected
    with pytest.raises(InputError, match="frame 10: expected a good one"):
        values(ThreadPool(Shake(bad=(10,)), 2), 3)
    assert values(Processes(Shake(0.01), 3), 9) == expected


def test_a_worker_that_is_lost_is_replaced_and_its_frame_done_again(tmp_path):
    expected = values(Here(Shake()), 6)
    once = Shake(deadly=(20, 40), deaths=str(tmp_path))
    assert values(Processes(once, 2), 6) == expected
    assert len(list(tmp_path.iterdir())) == 2
    always = Shake(deadly=(20,), deaths=str(tmp_path), most_deaths=99)
    with pytest.raises(InputError, match="frame 20: expected a worker to finish it"):
        values(Processes(always, 2), 6)
    assert len(list(tmp_path.glob("20.*"))) == 1 + LOST


def test_mistakes_and_bugs_of_workers_arrive():
    with pytest.raises(InputError, match="no such type"):
        values(Processes(Shake(unusable="no such type"), 2), 3)
    with pytest.raises(InputError, match="frame 10: expected a good one"):
        values(Processes(Shake(bad=(10,)), 2), 3)
    pool = Processes(Shake(deadly=(10,), deaths="/nowhere/at all"), 2)
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        values(pool, 3)


def test_threads_are_shared_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert cores() == 6
    with Processes(Threads(), 2) as pool:
        (found,) = [result for _, result in in_order(pool, jobs(1), NoJournal())]
    assert found == ["3"] * 4


def test_no_process_is_left():
    pool = Processes(Shake(60.0), 2)
    running = [w._process for w in pool._workers]
    with pytest.raises(KeyboardInterrupt), pool:
        pool.submit(next(jobs(1)))
        raise KeyboardInterrupt
    assert all(process.poll() is not None for process in running)


def filled(path, count=5):
    """A journal that a killed run has left."""
    with suppress(MemoryError), open_journal(path, RUN, resume=False, frames=9) as journal:
        for job, result in in_order(Here(Shake()), jobs(count), NoJournal()):
            journal.add(job.index, result)
        raise MemoryError
    return journal_of(path)


def test_what_is_done_is_not_done_again(tmp_path):
    out = tmp_path / "out.xtc"
    filled(out)
    pool = Shuffled(Shake())
    with open_journal(out, RUN, resume=True, frames=9) as journal:
        assert len(journal) == 5
        assert values(pool, 9, journal) == values(Here(Shake()), 9)
    assert pool.submitted == 4
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_was_cut_anywhere_or_damaged_is_read_as_far_as_it_is_whole(tmp_path):
    data = filled(tmp_path / "out.xtc").read_bytes()
    head = data.index(b"\n", data.index(b"\n") + 1) + 1
    size = (len(data) - head) // 5
    path, rng = tmp_path / "cut", random.Random(0)
    for cut in [head, head + 1, *(rng.randrange(head, len(data)) for _ in range(40)), len(data)]:
        path.write_bytes(data[:cut])
        with path.open("r+b") as file:
            journal = Journal(file, head)
            whole = (cut - head) // size
            assert len(journal) == whole
            journal.add(whole, Structure(np.full((5, 3), 7.0), np.eye(3)))
            assert journal.read(whole).positions[0, 0] == 7.0
        with path.open("r+b") as file:
            assert len(Journal(file, head)) == whole + 1
    for _ in range(20):
        at = rng.randrange(head, len(data))
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with path.open("r+b") as file:
            assert len(Journal(file, head)) <= 5
            good = Journal(file, head)
            assert all(good.read(k).time == k for k in range(len(good)))
            assert len(good) >= (at - head) // size


@pytest.mark.parametrize("bit", [0, 1, 4, 7, 9, 40, 63])
def test_a_damaged_number_of_a_frame_puts_no_result_in_its_place(tmp_path, bit):
    data = bytearray(filled(tmp_path / "out.xtc").read_bytes())
    head = data.index(b"\n", data.index(b"\n") + 1) + 1
    size = (len(data) - head) // 5
    data[head + 2 * size + bit // 8] ^= 1 << bit % 8
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with path.open("r+b") as file:
        journal = Journal(file, head)
        assert len(journal) == 2
        assert [journal.read(k).time for k in (0, 1)] == [0.0, 1.0]


def test_other_options_are_refused_and_named(tmp_path):
    out = tmp_path / "out.xtc"
    filled(out)
    other = RUN | {"seed": 1}
    with (
        pytest.raises(InputError, match=r"out\.xtc: expected the options .* found other seed;"),
        open_journal(out, other, resume=True, frames=9),
    ):
        pass
    assert journal_of(out).exists()
    with open_journal(out, other, resume=False, frames=9) as journal:
        assert len(journal) == 0
    assert list(tmp_path.iterdir()) == []


def test_no_journal_or_something_else_is_a_fresh_start(tmp_path):
    out = tmp_path / "out.xtc"
    for text in (None, b"", b"something else", b"deepbackmap journal 1\n{"):
        if text is not None:
            journal_of(out).write_bytes(text)
        with open_journal(out, RUN, resume=True, frames=9) as journal:
            assert len(journal) == 0
    filled(out)
    with open_journal(out, RUN, resume=False, frames=1) as journal:
        journal.add(0, None)
        assert 0 not in journal
    assert list(tmp_path.iterdir()) == []


def test_errors_say_what_is_kept(tmp_path):
    out = tmp_path / "out.xtc"
    for error, words in ((Stopped("frame 3 is bad"), "frame 3 is bad; "),
                         (KeyboardInterrupt(), "")):  # fmt: skip
        with (
            pytest.raises(type(error)) as caught,
            open_journal(out, RUN, resume=False, frames=9) as journal,
        ):
            journal.add(4, Structure(np.zeros((1, 3)), np.eye(3)))
            raise error
        assert str(caught.value).startswith(f"{words}1 of 9 frames are kept")
        assert journal_of(out).exists()
        with pytest.raises(type(error)), open_journal(out, RUN, resume=False, frames=9):
            raise type(error)
        assert not journal_of(out).exists()
    with (
        pytest.raises(InputError, match=r"^a file is damaged$"),
        open_journal(out, RUN, resume=False, frames=9) as journal,
    ):
        journal.add(4, Structure(np.zeros((1, 3)), np.eye(3)))
        raise InputError("a file is damaged")
    assert not journal_of(out).exists()


def test_two_runs_do_not_write_one_output(tmp_path):
    out = tmp_path / "out.xtc"
    with (
        open_journal(out, RUN, resume=False, frames=9) as journal,
        pytest.raises(InputError, match=r"out\.xtc: expected no other process"),
    ):
        journal.add(0, Structure(np.zeros((1, 3)), np.eye(3)))
        with open_journal(out, RUN, resume=True, frames=9):
            pass
    assert not journal_of(out).exists()


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


def test_a_journal_runs_nothing(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        journal = Journal(file, 0)
        for k, thing in enumerate((Evil(), subprocess.Popen, pickle.Unpickler)):
            journal.add(k, thing)
            with pytest.raises(pickle.UnpicklingError, match="is no data of a journal"):
                journal.read(k)


LONG = """
import sys
sys.path[:0] = {path!r}
from deepbackmap.jobs.journal import open_journal
from deepbackmap.jobs.loop import in_order, open_pool
from job_tasks import Shake, jobs
with (
    open_pool(Shake(0.05), {workers}) as pool,
    open_journal({out!r}, {run!r}, resume=True, frames=40) as journal,
):
    for job, result in in_order(pool, jobs(40), journal):
        print(job.index, result.positions.tobytes().hex(), flush=True)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_a_run_comes_to_its_end(workers, tmp_path):
    out, rng = tmp_path / "out.xtc", random.Random(workers)
    program = LONG.format(path=sys.path, workers=workers, out=str(out), run=RUN)
    for attempt in range(30):
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        )
        if attempt < 4:
            for _ in range(rng.randrange(1, 12)):
                process.stdout.readline()
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGINT]))
        said, _ = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        time.sleep(0.2)  # its workers let go of nothing that the next one needs
    expected = [f"{k} {p.hex()}" for k, p, _ in values(Here(Shake()), 40)]
    assert said.split("\n")[:-1] == expected
    assert attempt == 4
    assert not journal_of(out).exists()


def test_there_is_one_way_to_a_pool():
    assert isinstance(open_pool(Shake()), Here)
    with open_pool(Shake(), 2) as pool:
        assert isinstance(pool, Processes)
    with pytest.raises(InputError, match=r"expected an address .* found 'nonsense'"):
        open_pool(Shake(), 1, "nonsense")


def test_the_head_of_a_journal_is_plain(tmp_path):
    path = filled(tmp_path / "out.xtc")
    with path.open("rb") as file:
        assert file.readline() == b"deepbackmap journal 1\n"
        assert set(json.loads(file.readline())) == {"beads", "seed", "version"}


def test_frames_are_shared_out_unasked_where_it_pays(monkeypatch):
    monkeypatch.setattr(pools, "cores", lambda: 4)
    monkeypatch.setattr(pools, "_free_memory", lambda: 1e12)
    assert pools.worth_sharing(1, 10_000_000) == 1  # one frame cannot be shared
    assert pools.worth_sharing(5, 5832) == 1  # less work than a start
    assert pools.worth_sharing(8, 5832) == 2
    assert pools.worth_sharing(200, 5832) == 4  # as many as there are threads
    assert pools.worth_sharing(100_000, 162) == 4
    monkeypatch.setattr(pools, "_free_memory", lambda: 4e9)
    assert pools.worth_sharing(200, 1_000_000) == 2  # 1.7 GB each
    assert pools.worth_sharing(200, 100_000_000) == 1
    monkeypatch.undo()
    assert pools._free_memory() > 1e6

"""Threads that wait for each other, and jobs that sit down together."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deepbackmap.errors import InputError
from deepbackmap.jobs.journal import NoJournal
from deepbackmap.jobs.loop import in_order, open_pool
from deepbackmap.jobs.pool import Here
from deepbackmap.jobs.seats import Seats
from deepbackmap.jobs.task import Job
from deepbackmap.mechanics.gather import (
    ATOMS_AT_ONCE,
    BYTES_AN_ATOM,
    FRAMES_AT_ONCE,
    Gathering,
    frames_at_once,
)


def together(table, threads, talk):
    """What some threads come to that all have a seat; each calls ``talk`` with its number."""
    table.expect(threads)

    def one(k):
        with table.seated(k):
            return talk(k)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


class Doubling:
    """Doubles numbers, and writes down which came together."""

    def __init__(self, bad=()):
        self.groups, self.bad = [], set(bad)

    def __call__(self, numbers):
        self.groups.append(list(numbers))
        if self.bad & set(numbers):
            raise ArithmeticError(f"bad: {numbers}")
        return [2 * n for n in numbers]


def test_the_same_questions_are_answered_together_in_the_order_of_the_seats():
    table, work = Gathering(), Doubling()

    def talk(k):
        time.sleep(0.02 * ((k * 5) % 4))  # whoever comes first
        return table.ask("even" if k % 2 == 0 else "odd", work, k)

    assert together(table, 6, talk) == [0, 2, 4, 6, 8, 10]
    assert sorted(work.groups) == [[0, 2, 4], [1, 3, 5]]
    assert table.members == 0


def test_who_leaves_is_not_waited_for():
    table, work = Gathering(), Doubling()

    def talk(k):
        return [table.ask("x", work, 10 * k + turn) for turn in range(1 + k)]

    found = together(table, 3, talk)
    assert found == [[2 * (10 * k + turn) for turn in range(1 + k)] for k in range(3)]
    assert work.groups == [[0, 10, 20], [11, 21], [22]]


def test_what_fails_together_is_done_one_by_one():
    table, work = Gathering(), Doubling(bad=[2])

    def talk(k):
        if k == 2:
            with pytest.raises(ArithmeticError, match=r"bad: \[2\]"):
                table.ask("x", work, k)
            return None
        return table.ask("x", work, k)

    assert together(table, 4, talk) == [0, 2, None, 6]
    assert work.groups == [[0, 1, 2, 3], [0], [1], [2], [3]]


def test_nothing_is_done_before_all_expected_are_there():
    table, work = Gathering(), Doubling()
    table.expect(2)
    early = threading.Thread(target=lambda: _sit(table, 0, work))
    early.start()
    time.sleep(0.1)
    assert work.groups == []
    _sit(table, 1, work)
    early.join(5.0)
    assert work.groups == [[0, 1]]


def _sit(table, seat, work):
    with table.seated(seat):
        table.ask("x", work, seat)


def test_a_thread_that_fails_before_it_asks_keeps_nobody_waiting():
    table, work = Gathering(), Doubling()

    def talk(k):
        if k == 1:
            raise InputError("no beads")
        return table.ask("x", work, k)

    with pytest.raises(InputError, match="no beads"):
        together(table, 3, talk)
    assert work.groups == [[0, 2]]
    assert table.members == 0


def test_threads_without_a_seat_are_answered_alone_or_take_one():
    table, work = Gathering(), Doubling()
    assert table.ask("x", work, 4) == 8
    with table.working():
        assert table.members == 1
        assert table.ask("x", work, 5) == 10
    assert table.members == 0
    table.expect(1)
    with table.seated(0):
        with table.working():
            assert table.members == 1  # the one it has
        assert table.members == 0
        assert table.ask("x", work, 6) == 12
    assert work.groups == [[4], [5], [6]]
    assert table.members == 0


@pytest.mark.parametrize("seed", range(5))
def test_answers_do_not_depend_on_who_comes_when(seed):
    """Threads that ask for different things, different times."""
    table, work = Gathering(), Doubling()

    def talk(k):
        mood = random.Random(100 * seed + k)
        kinds = random.Random(k)  # the same questions for every seed
        found = []
        for turn in range(kinds.randrange(1, 6)):
            time.sleep(mood.random() * 0.005)
            found.append(table.ask(kinds.choice("ab"), work, 100 * k + turn))
        return found

    found = together(table, 7, talk)
    for k, answers in enumerate(found):
        assert answers == [2 * (100 * k + turn) for turn in range(len(answers))]
    expected = Doubling()
    again = Gathering()
    together(again, 7, lambda k: _same(again, expected, k))
    assert sorted(work.groups) == sorted(expected.groups)


def _same(table, work, k):
    kinds = random.Random(k)
    for turn in range(kinds.randrange(1, 6)):
        table.ask(kinds.choice("ab"), work, 100 * k + turn)


def test_many_small_frames_go_together_and_a_large_one_alone():
    large = 2 * ATOMS_AT_ONCE * BYTES_AN_ATOM
    assert frames_at_once(10, large) == FRAMES_AT_ONCE
    assert frames_at_once(20_000, large) == ATOMS_AT_ONCE // 20_000
    assert frames_at_once(3_000_000, large) == frames_at_once(ATOMS_AT_ONCE, large) == 1
    # as many as fit a small card
    assert frames_at_once(10_000, 45_000 * BYTES_AN_ATOM) == 4
    assert frames_at_once(10_000, 1000) == 1


# --- jobs -----------------------------------------------------------------------------------------


class Shared:
    """A task whose jobs double their content together."""

    def __init__(self, at_once, bad=()):
        self.at_once, self.bad = at_once, bad
        self.table, self.work, self.afterwards = Gathering(), Doubling(), []

    def open(self):
        return self

    def __call__(self, job, report):
        if job.number in self.bad:
            raise InputError(f"frame {job.number}: expected a good one")
        with self.table.working():
            found = self.table.ask("x", self.work, job.content)
        self.afterwards.append(self.table.members)
        return found


def jobs(n):
    return (Job(k, 10 * k, k) for k in range(n))


def values(pool, n):
    with pool:
        return [(job.index, done) for job, done in in_order(pool, jobs(n), NoJournal())]


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 13])
def test_jobs_sit_down_together_and_come_out_in_order(frames):
    task = Shared(4)
    pool = open_pool(task)
    assert isinstance(pool, Seats)
    assert values(pool, frames) == [(k, 2 * k) for k in range(frames)]
    sizes = [len(g) for g in task.work.groups]
    assert sum(sizes) == frames and max(sizes) <= 4
    assert sizes[0] == min(4, frames)
    assert task.table.members == 0


def test_frames_one_after_another_need_no_seats():
    assert isinstance(open_pool(Shared(1)), Here)


def test_few_jobs_are_held():
    task, read = Shared(4), []

    def some():
        for job in jobs(40):
            read.append(job.index)
            yield job

    pool = open_pool(task)
    with pool:
        for job, _ in in_order(pool, some(), NoJournal()):
            assert len(read) <= job.index + pool.most == job.index + 8


def test_a_bad_frame_is_told_when_its_turn_comes_and_holds_up_no_other():
    task, seen = Shared(4, bad=(60,)), []
    pool = open_pool(task)
    with pool, pytest.raises(InputError, match="frame 60: expected a good one"):
        for job, done in in_order(pool, jobs(12), NoJournal()):
            seen.append((job.index, done))
    assert seen == [(k, 2 * k) for k in range(6)]
    assert task.table.members == 0

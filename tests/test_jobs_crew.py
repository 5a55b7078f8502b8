"""Workers of a Dask cluster that talk to each other, and what happens when one of them ends."""

import pickle
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from deepbackmap.errors import InputError, Stopped
from deepbackmap.jobs import crew as crews
from deepbackmap.jobs.crew import Crew, LeftAloneError, Link, host_of
from job_tasks import add_up, bad_part, die_once, say_numbers
from machines import RUN, WORKERS, Machines, environment
from test_jobs_cluster import (
    melt,  # noqa: F401
    run,
)

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    found = Machines(tmp_path_factory.mktemp("machines"))
    yield found
    found.end()


@pytest.fixture(scope="module")
def crew(machines):
    with Crew(str(machines.file), 1, WORKERS) as found:
        yield found


def links(count):
    """Connected links, as workers have them."""
    ways = {}
    for p in range(count):
        for q in range(p + 1, count):
            ways[p, q], ways[q, p] = socket.socketpair()
    return [Link(p, {q: ways[p, q] for q in range(count) if q != p}) for p in range(count)]


def together(function, parts):
    found = [None] * len(parts)

    def one(k):
        found[k] = function(k, parts[k])

    threads = [threading.Thread(target=one, args=(k,)) for k in range(len(parts))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert not any(t.is_alive() for t in threads)
    return found


def test_arrays_larger_than_any_buffer_go_both_ways_and_flags_reach_all():
    count, rows = 4, 200_000

    def talk(k, link):
        sent = {q: np.full((rows, 3), 10.0 * k + q) for q in range(count) if q not in (k, 3 - k)}
        return link.exchange(k == 2, sent)

    for k, (flag, come) in enumerate(together(talk, links(count))):
        assert flag
        assert sorted(come) == [q for q in range(count) if q not in (k, 3 - k)]
        for q, array in come.items():
            np.testing.assert_array_equal(array, np.full((rows, 3), 10.0 * q + k))
    assert [f for f, _ in together(lambda _, link: link.exchange(False, {}), links(3))] == 3 * [
        False
    ]


def test_one_who_is_gone_is_noticed():
    first, second, third = links(3)

    def talk(k, link):
        if k == 1:
            for way in link._others.values():
                way.close()
            return None
        with pytest.raises(LeftAloneError, match="another worker is gone"):
            link.exchange(False, {q: np.zeros((5, 3)) for q in link._others})
            link.exchange(False, {})
        for way in link._others.values():
            way.close()
        return "noticed"

    assert together(talk, [first, second, third]) == ["noticed", None, "noticed"]


def test_hosts():
    assert host_of("tcp://10.0.0.7:4321") == "10.0.0.7"
    assert host_of("tls://node-3.cluster:80") == "node-3.cluster"
    assert host_of("tcp://[::1]:80") == "::1"


def test_who_does_not_know_the_secret_is_sent_away():
    secret = bytes(range(crews.SECRET))
    place = crews._listen(secret, "127.0.0.1")
    door = crews._DOORS.pop(secret)
    stranger = socket.create_connection(place)
    stranger.sendall(bytes(crews.SECRET + 8))
    silent = socket.create_connection(place)
    silent.close()
    friend = threading.Thread(target=lambda: crews._call(place, secret, 1))
    friend.start()
    assert list(crews._answer(door, secret, 1)) == [1]
    assert stranger.recv(1) == b""
    friend.join()
    door.close()


def test_workers_know_each_other(crew):
    assert crew(say_numbers, [5, 6, 7]) == [{1: 6.0, 2: 7.0}, {0: 5.0, 2: 7.0}, {0: 5.0, 1: 6.0}]
    assert crew(add_up, [(1.0, 50)] * WORKERS) == 3 * [3.0**50]


def test_a_mistake_of_one_is_told_whatever_the_others_say(crew):
    with pytest.raises(InputError, match="part 1: expected a good one"):
        crew(bad_part, [0, 1, 2])


def test_a_worker_that_ends_is_replaced_and_all_begin_again(machines, crew, tmp_path):
    filling = threading.Timer(2.0, machines.fill)
    filling.start()
    assert crew(die_once, [(str(tmp_path), k) for k in range(WORKERS)]) == 3 * [3.0]
    filling.join()
    assert [p.name for p in tmp_path.iterdir()] == ["died"]


def test_workers_that_never_meet_are_given_up(crew, monkeypatch):
    monkeypatch.setattr(crew, "_together", lambda work, items: [LeftAloneError("gone")] * 3)
    with pytest.raises(Stopped, match="parts: expected 3 workers to take steps together"):
        crew(say_numbers, [1, 2, 3])


def test_too_few_workers_and_one_part_are_refused(machines, monkeypatch):
    monkeypatch.setattr(crews, "PATIENCE", 1.0)
    with pytest.raises(InputError, match=f"parts: expected at least {WORKERS + 1} workers"):
        Crew(str(machines.file), 1, WORKERS + 1)
    with pytest.raises(InputError, match="parts: expected at least 2, found 1"):
        Crew(str(machines.file), 1, 1)


def test_work_and_links_can_be_sent():
    assert pickle.loads(pickle.dumps(LeftAloneError("x"))).args == ("x",)


def backmapped(folder, output, *more):
    words = ["backmap", str(MELT / "cg.gro"), "-p", str(MELT / "topol.top"), "-q", "-o", output]
    program = RUN.format(path=[p for p in sys.path if p])
    return subprocess.Popen(
        [sys.executable, "-c", program, *words, "--relaxation", "30", *more], cwd=folder,
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_box_in_parts_has_the_bytes_of_one(machines, tmp_path):
    """Through the command, with the packaged model and melt."""
    for output, more in (
        ("one.gro", ()),
        ("parts.gro", ("--scheduler", str(machines.file), "--parts", "3")),
    ):
        process = backmapped(tmp_path, output, *more)
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    assert (tmp_path / "one.gro").read_bytes() == (tmp_path / "parts.gro").read_bytes()


def test_a_model_without_such_steps_is_refused(machines, melt):  # noqa: F811
    process = run(melt, "parts.xtc", "--parts", "2", "--scheduler", str(machines.file))
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 2
    assert "parts: expected a model that takes steps of the whole box" in said
    assert not (melt / "parts.xtc").exists()


def test_parts_without_a_scheduler_are_refused(melt):  # noqa: F811
    process = run(melt, "alone.xtc", "--parts", "2")
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 2
    assert "parts: expected --scheduler" in said
    assert len(said.strip().splitlines()) == 1

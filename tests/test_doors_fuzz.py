"""Damaged inputs: a sample in every run, 1 500 with ``-m slow`` (see ``fuzz_doors``)."""

import pytest

from fuzz_doors import BYTES, LINES, VERBS, Case, Worker, judge, make_case, write_whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "whole"
    write_whole(folder)
    return folder


def broken(whole, numbers):
    """Cases that broke a rule, and how."""
    worker = Worker(whole)
    found = {}
    try:
        for number in numbers:
            case = make_case(number, whole)
            verdict = judge(case, worker.run(number))
            if verdict:
                found[number] = (case.verb, case.victim, case.damage, verdict)
    finally:
        worker.close()
    return found


def test_a_sample_of_damaged_inputs(whole):
    assert broken(whole, range(150)) == {}


@pytest.mark.slow
def test_many_damaged_inputs(whole):
    assert broken(whole, range(150, 1650)) == {}


def test_cases_follow_from_their_numbers_and_reach_everything(whole):
    cases = [make_case(k, whole) for k in range(1500)]
    assert [c.data for c in cases[:50]] == [make_case(k, whole).data for k in range(50)]
    assert {c.verb for c in cases} == set(VERBS)
    assert {c.damage for c in cases} == {d.__name__ for d in BYTES + LINES}
    assert {c.victim for c in cases} == {v for _, victims in VERBS.values() for v in victims}


def test_the_judge_knows_what_is_wrong():
    case = Case(0, "map", "aa.gro", "noise", b"", ())
    good = {"code": 2, "said": "deepbackmap: aa.gro: expected\n", "new": []}
    assert judge(case, good) == ""
    assert judge(case, {**good, "code": 1}) == "exit 1"
    assert judge(case, {**good, "new": ["out.gro"]}) == "left ['out.gro']"
    assert "more than a line" in judge(case, {**good, "said": "Traceback\n"})
    assert judge(case, {"ended": -14}) == "hang"
    assert judge(case, {"ended": -11}) == "crash -11"
    assert judge(case, {"code": 0, "said": "", "new": []}) == "wrote nothing"
    taken = {"code": 0, "said": "", "new": ["out.gro"]}
    assert judge(case, {**taken, "off": [0.1]}) == ""
    assert "misled" in judge(case, {**taken, "off": [0.9]})


def test_a_worker_that_is_ended_is_started_again(whole):
    worker = Worker(whole)
    try:
        assert "code" in worker.run(0)
        worker._process.kill()
        worker._process.wait()
        first = worker._process
        try:
            ended = worker.run(0)
        except BrokenPipeError:
            worker._process, ended = None, {"ended": -9}
        assert ended == {"ended": -9}
        assert "code" in worker.run(0)
        assert worker._process is not first
    finally:
        worker.close()

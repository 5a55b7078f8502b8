"""A line about compiling: when it takes long, once, and not otherwise."""

import time

import pytest
from numba import njit
from numba.core import event

from deepbackmap.api.compiling import LINE, said_when_compiling


def compile_something():
    @njit
    def add(a, b):
        return a + b

    assert add(1, 2) == 3


def compile_for(seconds):
    """As Numba reports it."""
    name = "numba:compile"
    # one function, and one that it calls
    with event.trigger_event(name, data={}), event.trigger_event(name, data={}):
        time.sleep(seconds)


@pytest.mark.parametrize(("parts", "said"), [((0.5,), 1), ((0.12, 0.12, 0.12), 1), ((0.05,), 0)])
def test_it_is_said_when_all_of_it_takes_longer_than_patience(parts, said):
    lines = []
    with said_when_compiling(True, lines.append, patience=0.2):
        for seconds in parts:
            compile_for(seconds)
            time.sleep(0.25)  # what is done in between does not count
    assert lines == [LINE] * said


def test_it_is_said_once_and_only_inside():
    lines = []
    with said_when_compiling(True, lines.append, patience=0.05):
        compile_for(0.2)
        compile_for(0.2)
    compile_for(0.2)
    assert lines == [LINE]


def test_nothing_is_said_unasked(capsys):
    with said_when_compiling(False, patience=0.0):
        compile_something()
    with said_when_compiling(True, patience=60.0):
        compile_something()
    assert capsys.readouterr().err == ""


def test_numba_reports_what_it_compiles(capsys):
    with said_when_compiling(True, patience=0.0):
        compile_something()
    assert capsys.readouterr().err.strip() == LINE

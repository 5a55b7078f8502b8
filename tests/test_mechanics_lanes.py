"""How the loops of the dynamics are compiled: parts, roots, what is kept, and Numba beside them."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from deepbackmap.mechanics import lanes
from deepbackmap.mechanics.lanes import (
    LANES,
    compiled,
    gather,
    load,
    part,
    prefetch,
    store,
    whole,
)

SOURCE = """
import numpy as np
from numba import prange
from pathlib import Path
from deepbackmap.mechanics.lanes import compiled, inner, part, threaded, threaded_part

HERE = Path(__file__).parent

@inner
def square(x, k):
    return x[k] * x[k]

@part
def doubled(x):
    found = np.zeros(len(x))
    for k in range(len(x)):
        found[k] = 2.0 * square(x, k)
    return found

@threaded_part
def add(x, found):
    for k in prange(len(x)):
        found[k] += square(x, k)

def total(x):
    found = doubled(x)
    add(x, found)
    return found.sum()

total = compiled(total, folder=HERE)

if __name__ == "__main__":
    print(total(np.arange(5.0)), sum(total.stats.cache_hits.values()))
"""


CALLED = """
import sys
import numpy as np
from deepbackmap.mechanics.lanes import compiled

@compiled
def square(x):
    return x[0] * x[0]

@compiled
def doubled(x):
    return 2.0 * square(x)

x = np.array([3.0])
for name in sys.argv[1:]:
    print({"square": square, "doubled": doubled}[name](x))
"""


def run(folder: Path, *arguments: str) -> list[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "kept")}
    done = subprocess.run(
        [sys.executable, folder / "loops.py", *arguments], env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()


def test_what_was_compiled_is_kept_until_a_file_of_its_folder_changes(tmp_path):
    (tmp_path / "loops.py").write_text(SOURCE)
    assert run(tmp_path) == ["90.0", "0"]
    assert run(tmp_path) == ["90.0", "1"]
    (tmp_path / "beside.py").write_text("# another file\n")
    assert run(tmp_path) == ["90.0", "0"]


@part
def _filled(n):
    found = np.full(n, 3.0)
    return found - np.ones(n)


@compiled
def _sum_of_filled(n):
    return _filled(n).sum()


def test_numba_of_others_works_beside_it():
    """What Numba keeps of its own while our functions are compiled serves those of others."""
    assert _sum_of_filled(4) == 8.0

    @numba.njit
    def other(n):
        return np.full(n, 3.0) - np.ones(n)

    @numba.njit(parallel=True)
    def sums(x):
        return (x * x).sum() + np.zeros(3).max()

    np.testing.assert_array_equal(other(3), [2.0, 2.0, 2.0])
    assert sums(np.arange(4.0)) == pytest.approx(14.0)
    assert _sum_of_filled(5) == 10.0


@compiled
def _picked(table, places, lower, found):
    for k in range(0, len(places), LANES):
        store(lower, k, whole(load(places, k)))
        store(found, k, gather(table, whole(load(places, k))))


def test_vectors_are_gathered_from_where_their_elements_say():
    rng = np.random.default_rng(0)
    table, places = rng.normal(size=50), rng.uniform(0.0, 50.0, 8 * LANES)
    places[:3] = [0.0, 49.0, 7.0]
    lower, found = np.zeros((2, len(places)))
    _picked(table, places, lower, found)
    np.testing.assert_array_equal(lower, np.floor(places))
    np.testing.assert_array_equal(found, table[np.floor(places).astype(int)])


@compiled
def _asked_for(x, k):
    prefetch(x, k)
    x[k] += 1.0


@pytest.mark.parametrize("place", [0, 6])
def test_asking_for_a_place_changes_nothing_else(place):
    x = np.arange(7.0)
    _asked_for(x, place)
    assert x.tolist() == [k + (k == place) for k in range(7)]


def test_what_another_process_compiled_can_be_called_by_loops_and_by_python(tmp_path):
    (tmp_path / "loops.py").write_text(CALLED)
    assert run(tmp_path, "square") == ["9.0"]
    assert run(tmp_path, "doubled", "square") == ["18.0", "9.0"]


def test_processes_that_compile_at_once_do_not_write_over_each_other(monkeypatch):
    """Of two processes, each with types of its own for one function, both codes are kept."""
    names = []
    for own in ("one", "other"):
        monkeypatch.setattr(lanes, "_OWN", own)
        names.append(lanes.compiled(_doubled)._cache._cache_file._data_name(1))
    assert names[0] != names[1]
    assert "one-1" in names[0] and "other-1" in names[1]


def _doubled(x):
    return 2.0 * x

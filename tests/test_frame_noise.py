"""Random numbers that go on from frame to frame: each frame's by itself, and all together."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from deepbackmap.api.backmap import backmap
from deepbackmap.errors import InputError
from deepbackmap.geometry.counter_random import hash_counters, normal
from deepbackmap.geometry.frame_noise import (
    ANEW,
    ATTEMPT,
    PLACEMENTS,
    draw_number,
    renewals,
    slow_normal,
    turn_of,
)
from deepbackmap.io.trajectory import open_writer, read_frames
from deepbackmap.methods.options import correlation_time
from finish_systems import write_chains

N = 40_000
KEYS = hash_counters(3, torch.arange(N))
TIMES = (0.0, 0.3, 0.5, 1.0, 2.0, 2.9999, 7.77, -3.2)


def at(time):
    return slow_normal(KEYS, 1, time).squeeze(-1).double().numpy()


@pytest.mark.parametrize("time", TIMES)
def test_every_frame_by_itself_has_normal_numbers(time):
    found = at(time)
    assert stats.kstest(found, "norm").pvalue > 1e-3
    assert found.mean() == pytest.approx(0.0, abs=4.5 / math.sqrt(N))
    assert found.var() == pytest.approx(1.0, abs=4.5 * math.sqrt(2 / N))


@pytest.mark.parametrize("first", [0.0, 0.37, -5.5])
@pytest.mark.parametrize("apart", [0.01, 0.1, 0.5, 1.0, 1.7, 4.0])
def test_correlation_falls_exponentially(first, apart):
    expected = math.exp(-apart)
    error = (1.0 - expected**2) / math.sqrt(N)
    a, b = at(first), at(first + apart)
    # times are told apart to 1/4096
    assert np.mean(a * b) / np.sqrt(np.mean(a * a) * np.mean(b * b)) == pytest.approx(
        expected, abs=4.5 * error + 3e-4
    )


def test_the_process_is_gaussian_and_forgets():
    """What a middle value has beyond its two neighbours' expectation has nothing to do with them,
    and sums of values are normal."""
    a, b, c = at(0.25), at(0.75), at(1.25)
    r = math.exp(-0.5)
    left = c - r * b  # given the present, the future does not depend on the past
    assert abs(np.corrcoef(left, a)[0, 1]) < 4.5 / math.sqrt(N)
    assert left.var() == pytest.approx(1 - r * r, rel=4.5 * math.sqrt(2 / N))
    total = (a + b - c) / np.std(a + b - c)
    assert stats.kstest(total, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(a**2, c**2)[0, 1] - math.exp(-2.0)) < 0.03


def test_close_times_have_close_numbers_and_any_time_can_be_asked_for_first():
    step = np.abs(at(5.0) - at(5.0 + 1 / 4096)).max()
    assert 0.0 < step < 6.0 * math.sqrt(2 / 4096)
    few = KEYS[:10]
    forward = [slow_normal(few, 3, t) for t in (1.5, 2.5)]
    backward = [slow_normal(few, 3, t) for t in (2.5, 1.5)]
    assert torch.equal(forward[0], backward[1]) and torch.equal(forward[1], backward[0])
    assert torch.equal(slow_normal(few[4:5], 3, 1.5), forward[0][4:5])


@pytest.mark.parametrize("apart", [0.05, 0.5, 1.0, 2.5])
def test_names_last_as_long_as_correlation(apart):
    for first in (0.0, 0.6, 12.9):
        same = (renewals(KEYS, first) == renewals(KEYS, first + apart)).double().mean()
        chance = math.exp(-apart)
        error = math.sqrt(chance * (1 - chance) / N)
        assert float(same) == pytest.approx(chance, abs=4.5 * error)


def test_a_name_does_not_come_back():
    few = KEYS[:500]
    seen = torch.stack([renewals(few, 0.05 * k) for k in range(200)])
    changes = (seen[1:] != seen[:-1]).double().sum(0)
    assert [len(column.unique()) - 1 for column in seen.T] == changes.tolist()
    # 9.95 on average; two in one step of 0.05 count once
    expected = 199 * (1 - math.exp(-0.05))
    assert float(changes.mean()) == pytest.approx(expected, abs=4.5 * math.sqrt(expected / 500))


def test_the_turn_of_a_frame():
    key = KEYS[:7]
    own, other = turn_of(3, 30.0, 0.0), turn_of(4, 40.0, 0.0)
    assert (own.number, other.number) == (3, 4)
    assert torch.equal(own.normal(key, 2), normal(key, 2))
    assert torch.equal(own.renewed(key), key)
    shared = [turn_of(k, 10.0 * k, math.inf) for k in (3, 4)]
    assert shared[0] == shared[1]
    slow = [turn_of(k, 10.0 * k, 20.0) for k in (3, 4)]
    assert [s.at for s in slow] == [1.5, 2.0]
    assert slow[0].number == slow[1].number
    # an attempt that was in vain is not made again
    for tau in (0.0, 20.0, math.inf):
        again = turn_of(3 + 2 * ATTEMPT, 30.0, tau)
        assert again.number == turn_of(3, 30.0, tau).number + 2 * ATTEMPT


def test_no_two_attempts_at_any_frames_have_one_name():
    """Draws and placements of all frames differ, and the first of each goes by the frame's own."""
    frames, draws = (0, 1, 7, ATTEMPT - 1), range(6)
    names = [
        draw_number(frame, draw) + placement * ANEW
        for frame in frames for draw in draws for placement in range(PLACEMENTS)
    ]  # fmt: skip
    assert len(set(names)) == len(names)
    assert [draw_number(frame, 0) for frame in frames] == list(frames)
    assert max(names) < 2**62
    # frames that share their numbers share those of every attempt
    for tau in (20.0, math.inf):
        one, two = (turn_of(draw_number(f, 2) + ANEW, 30.0, tau) for f in (3, 4))
        assert one.number == two.number != turn_of(3, 30.0, tau).number


def test_words():
    assert [correlation_time(w) for w in ("frame", "shared", "ou:2.5")] == [0.0, math.inf, 2.5]
    for bad in ("", "ou", "ou:", "ou:0", "ou:-1", "ou:inf", "ou:x", "frame:3", "shared:1", "white"):
        with pytest.raises(ValueError, match="noise: expected frame, shared, or ou:TAU"):
            correlation_time(bad)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Some chains whose beads do not move for 20 ps."""
    folder = tmp_path_factory.mktemp("still")
    write_chains(folder)
    with (
        read_frames(folder / "cg.gro") as source,
        open_writer(folder / "cg.trr", source.table, force=True) as w,
    ):
        frame = source[0]
        for time in (0.0, 0.1, 20.0):
            w.write(replace(frame, time=time))
    return folder


MODELS = {
    "points": {"model": "ps-two-bead-points"},
    "physics": {"model": "none", "mapping": "ps-two-bead", "sweeps": 1,
                "options": {"pieces": 64, "conformations": 64}},
}  # fmt: skip


def moves(folder, output, noise, **options):
    """Rms way of the atoms (nm) from the first frame to the two others."""
    backmap(
        folder / "cg.gro", folder / "cg.trr", topology=folder / "topol.top", noise=noise,
        output=output, relaxation=6, bead_tolerance=0.02, temperature=500.0, device="cpu",
        keep_defects=True, progress=False, **options,
    )  # fmt: skip
    with read_frames(folder / "aa.gro", output) as source:
        first, *others = [f.positions for f in source]
    return [float(np.sqrt(((x - first) ** 2).sum(axis=1).mean())) for x in others]


@pytest.mark.parametrize("method", MODELS)
def test_structures_move_as_their_noise_does(method, still, tmp_path):
    own = moves(still, tmp_path / "own.trr", "frame", **MODELS[method])
    assert min(own) > 0.02  # what a new draw moves
    assert moves(still, tmp_path / "shared.trr", "shared", **MODELS[method]) == [0.0, 0.0]
    soon, late = moves(still, tmp_path / "slow.trr", "ou:2", **MODELS[method])
    assert soon < 0.7 * own[0]
    assert late > 0.7 * own[1]


def test_correlation_in_time_needs_times_and_a_method_that_has_it(still, tmp_path):
    with read_frames(still / "cg.gro") as source:
        frame, table = source[0], source.table
    with open_writer(tmp_path / "cg.trr", table) as writer:
        for _ in range(2):
            writer.write(frame)
    given = {"topology": still / "topol.top", "output": tmp_path / "x.trr", "progress": False}
    points = "ps-two-bead-points"
    with pytest.raises(InputError, match="expected frames at different times for noise ou:2"):
        backmap(still / "cg.gro", tmp_path / "cg.trr", model=points, noise="ou:2", **given)
    with pytest.raises(InputError, match="noise: expected frame, shared, or ou:TAU"):
        backmap(still / "cg.gro", model=points, noise="white", **given)
    with pytest.raises(InputError, match="noise: expected an option of the method voxel"):
        backmap(still / "cg.gro", model="ps-two-bead-568K", noise="shared", **given)

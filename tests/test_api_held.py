"""What the last steps came to: options, sums over frames, and beads to colour by."""

import json

import numpy as np
import pytest

import small_polystyrene as ps
from deepbackmap.api.held import Held, moved_beads
from deepbackmap.errors import InputError
from deepbackmap.evaluation.judge import Judge
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import map_positions
from deepbackmap.mechanics.settle import FIRST_WIDTH, Settled
from deepbackmap.methods.options import SettlingOptions
from deepbackmap.methods.settling import LastSteps
from deepbackmap.system import Structure


def settled(evaluations=100, drifting=(), strained=0, **widths):
    return Settled(np.zeros((0, 3)), evaluations, widths, drifting, np.arange(strained))


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"relaxation": -1}, "relaxation: expected a whole number from 0"),
        ({"relaxation": 10_000_001}, "relaxation: expected a whole number from 0 to 10000000"),
        ({"bead_tolerance": 1e-4}, "bead_tolerance: expected 0 .* or a width from 0.0005 to 1 nm"),
        ({"bead_tolerance": -0.01}, "bead_tolerance: expected 0"),
        ({"bead_tolerance": 1.5}, "bead_tolerance: expected 0"),
        ({"bead_tolerance": float("nan")}, "bead_tolerance: expected 0"),
        ({"cold_start": 0.0}, "cold_start"),
        ({"cold_start": 1.5}, "cold_start"),
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        SettlingOptions(**given)


@pytest.mark.parametrize(
    "given",
    [{"relaxation": 0}, {"relaxation": None}, {"bead_tolerance": 0.0}, {"bead_tolerance": 1.0},
     {"bead_tolerance": 0.0005}, {"cold_start": 1.0}],
    ids=str,
)  # fmt: skip
def test_numbers_at_the_ends_are_not(given):
    (name,) = given
    assert getattr(SettlingOptions(**given), name) == given[name]


@pytest.mark.parametrize(
    ("given", "defaults"),
    [
        ({"cold_start": 0.5}, {}),
        ({"cold_start": 0.5, "relaxation": 0}, {"relaxation": 9}),
        ({"bead_tolerance": 0.01, "relaxation": 0}, {}),
        ({"bead_tolerance": 0.01}, {"relaxation": 0}),
    ],
)
def test_what_would_do_nothing_is_refused(given, defaults):
    with pytest.raises(ValueError, match="expected a relaxation of 1 or more steps with it"):
        SettlingOptions.chosen(given, defaults)


def test_a_cold_start_suits_the_models_own_number_of_steps_only():
    defaults = {"relaxation": 9, "cold_start": 0.1}
    assert SettlingOptions.chosen({}, defaults).cold_start == 0.1
    assert SettlingOptions.chosen({"relaxation": 50}, defaults).cold_start == 1.0
    assert SettlingOptions.chosen({"relaxation": 50, "cold_start": 0.2}, defaults).cold_start == 0.2
    # exactly is what no relaxation does anyway
    assert SettlingOptions.chosen({"bead_tolerance": 0.0, "relaxation": 0}, {}).relaxation == 0


# --- last steps -----------------------------------------------------------------------------------


def small(**options):
    system, frame = ps.mapping(), ps.atoms()
    beads = Structure(map_positions(system, frame.positions), frame.box)
    return LastSteps(system, SettlingOptions(**options), 300.0), frame, beads


def test_no_relaxation_is_one_projection():
    last, frame, beads = small(relaxation=0)
    found = last(frame.positions, beads, 0)
    assert found.evaluations == 0
    assert np.abs(map_positions(ps.mapping(), found.positions) - beads.positions).max() < 1e-6
    assert np.abs(found.positions - frame.positions).max() < 0.05


def test_seed_and_frame_name_the_random_numbers():
    def made(seed, frame):
        last, start, beads = small(relaxation=5, bead_tolerance=0.01, seed=seed)
        return last(start.positions, beads, frame).positions

    first = made(0, 0)
    assert np.array_equal(first, made(0, 0))
    assert np.abs(first - made(1, 0)).max() > 1e-4
    assert np.abs(first - made(0, 1)).max() > 1e-4


@pytest.mark.parametrize(("found", "told"), [(0.01, 0.01), (0.05, FIRST_WIDTH)])
def test_after_a_wrong_hand_no_one_is_told_more_than_the_usual_width(monkeypatch, found, told):
    """For wider beads they come out farther off; the last try is on beads that atoms can have."""
    last, frame, beads = small()
    asked = []

    def place(on, attempt, width):
        asked.append((attempt, width))
        return frame.positions

    made = Settled(frame.positions, 1, dict.fromkeys("AB", found))
    monkeypatch.setattr(LastSteps, "__call__", lambda *_, **__: made)
    settled = last.until_right(place, lambda x: len(asked) < 3, beads, 0, placed_for=0.0)
    assert asked == [(0, 0.0), (1, pytest.approx(told)), (2, 0.0)]
    assert settled.evaluations == 3


def test_a_box_that_is_too_low_is_refused_but_not_without_relaxation():
    last, _, beads = small()
    low = Structure(beads.positions, 0.6 * beads.box)
    with pytest.raises(InputError, match=r"frame 3: expected a box at least 1.560 nm high"):
        last.check_box(low, 3)
    last.check_box(beads, 3)
    small(relaxation=0)[0].check_box(low, 3)


# --- sums -----------------------------------------------------------------------------------------


def test_values_add_up_whatever_the_order():
    one = Held.of(settled(100, ("angles",), A=0.01, B=0.03))
    two = Held.of(settled(300, ("angles", "contacts"), 2, A=0.0, B=0.0))
    total = one + two
    assert total == two + one
    assert Held() + total == total
    assert (total.frames, total.evaluations, total.soft, total.strained) == (2, 400, 1, 2)
    assert total.widths == {"A": 0.01, "B": 0.03}
    assert total.drifting == {"angles": 2, "contacts": 1}


def test_a_record_holds_means_and_is_json():
    total = Held.of(settled(100, A=0.01)) + Held.of(settled(200, A=0.02))
    found = json.loads(json.dumps(total.to_dict()))
    assert found["force_evaluations_per_frame"] == 150
    assert found["widths_nm"] == {"A": pytest.approx(0.015)}
    assert (found["frames"], found["soft_frames"], found["strained_molecules"]) == (2, 2, 0)
    assert Held().to_dict()["force_evaluations_per_frame"] == 0


def test_rows_for_a_person():
    assert Held().to_rows() == []
    assert dict(Held.of(settled(A=0.0)).to_rows()) == {
        "beads held": "exactly, as atoms can have them",
        "last steps": "100 force evaluations a frame",
    }
    some = Held.of(settled(A=0.01, drifting=("angles",))) + Held.of(settled(A=0.0))
    rows = dict(some.to_rows())
    assert "A 0.0050 nm in 1 of 2 frames" in rows["beads held"]
    assert rows["last steps"].endswith("still drifting in the end: angles (1 frame)")
    every = Held.of(settled(A=0.01)) + Held.of(settled(A=0.01))
    assert "of 2 frames" not in dict(every.to_rows())["beads held"]


# --- a file to colour by --------------------------------------------------------------------------


def test_moved_beads_are_temperature_factors(tmp_path):
    system, frame = ps.mapping(), ps.atoms()
    judge = Judge(system.topology, system)
    mapped = map_positions(system, frame.positions)
    beads = mapped.copy()
    beads[4] += [0.03, 0.0, 0.04]  # 0.05 nm
    path = tmp_path / "moved.pdb"
    with moved_beads(path, judge, system) as show:
        for number in range(2):
            show(frame, Structure(beads, frame.box), number)
    lines = [row for row in path.read_text().splitlines() if row.startswith(("ATOM", "HETATM"))]
    factors = np.array([float(row[60:66]) for row in lines]).reshape(2, -1)
    expected = np.zeros(system.n_beads)
    expected[4] = 0.5
    np.testing.assert_allclose(factors, [expected] * 2, atol=0.01)
    with read_frames(path) as source:
        assert len(source) == 2


def test_other_endings_are_refused_and_nothing_is_written(tmp_path):
    system = ps.mapping()
    judge = Judge(system.topology, system)
    with (
        pytest.raises(InputError, match=r"moved.gro: expected a file that ends in .pdb"),
        moved_beads(tmp_path / "moved.gro", judge, system),
    ):
        raise AssertionError
    assert not list(tmp_path.iterdir())
    with moved_beads(None, judge, system) as show:
        show(ps.atoms(), ps.beads(ps.atoms()), 0)


def test_a_run_that_fails_leaves_no_file(tmp_path):
    system = ps.mapping()
    judge = Judge(system.topology, system)
    with (
        pytest.raises(RuntimeError, match="stop"),
        moved_beads(tmp_path / "moved.pdb", judge, system),
    ):
        raise RuntimeError("stop")
    assert not list(tmp_path.iterdir())

"""From placed atoms to a temperature: how beads are held, how many steps it takes, same bits."""

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from deepbackmap.evaluation.judge import Judge
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mechanics import settle
from deepbackmap.mechanics.settle import SettleOptions, Settler, bead_types, drifts, next_width
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
TEMPERATURE = 568.0
NOISE = 0.01


@functools.cache
def melt():
    """The packaged melt: mapping, whole molecules, their beads, box."""
    topology = read_topology(MELT / "topol.top")
    frame = read_frames(MELT / "aa.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    mapping = load_mapping("ps-two-bead").resolve(topology)
    return mapping, whole, map_positions(mapping, whole), frame.box


@functools.cache
def settler():
    return Settler(melt()[0], threads=1)


def noisy(width, seed=1):
    beads = melt()[2]
    return beads + width * np.random.default_rng(seed).normal(size=beads.shape)


def settled(beads, *, positions=None, by=None, **options):
    """Atoms of the melt with other beads."""
    _, whole, _, box = melt()
    x = whole if positions is None else positions
    options = SettleOptions(**{"temperature": TEMPERATURE, **options})
    return (by or settler()).settle(x, beads, box, np.arange(len(x)), options)


@functools.cache
def on_its_own_beads():
    return settled(melt()[2])


@functools.cache
def on_noisy_beads():
    return settled(noisy(NOISE))


def warmth(found, beads):
    energies = settler().mechanics.energies(found.positions, beads, melt()[3])
    return settler().warmth(energies, TEMPERATURE)


def spread():
    """Relative standard deviation of the angle energy of all molecules together."""
    return (settler().fits_below - settle.FITS) / settle.DEVIATIONS


# --- exact or soft --------------------------------------------------------------------------------


def test_beads_of_atoms_come_out_exact():
    found, beads = on_its_own_beads(), melt()[2]
    assert set(found.widths.values()) == {0.0}
    assert np.abs(map_positions(melt()[0], found.positions) - beads).max() < 1e-6
    assert not len(found.strained)
    assert warmth(found, beads) == pytest.approx(1.04, abs=4 * spread())


def test_beads_with_noise_come_out_soft_and_as_wide_as_the_noise():
    found, beads = on_noisy_beads(), noisy(NOISE)
    for kind, width in found.widths.items():
        assert NOISE / 2 < width < NOISE * 2, kind
    off = map_positions(melt()[0], found.positions) - beads
    assert NOISE / 2 < np.sqrt((off**2).mean()) < NOISE * 2
    assert warmth(found, beads) == pytest.approx(1.04, abs=4 * spread())


def test_exact_beads_would_have_heated_the_angles():
    """What softness is for: the same beads held exactly."""
    held = settled(noisy(NOISE), bead_tolerance=0.0, steps=60)
    assert warmth(held, noisy(NOISE)) > 1.04 + 10 * spread()


@pytest.mark.parametrize("made", [on_its_own_beads, on_noisy_beads])
def test_no_centre_is_turned_over_and_no_ring_pierced(made):
    mapping, whole, _, box = melt()
    judge = Judge(mapping.topology, mapping)
    before = judge.look(Structure(whole, box))
    after = judge.look(Structure(made().positions, box), before)
    assert np.count_nonzero(before.right)
    assert judge.new_defects(after, before) == []


@pytest.mark.parametrize("width", [0.0, 0.02])
def test_a_given_width_is_used_as_given(width):
    found = settled(melt()[2], bead_tolerance=width, steps=80)
    assert found.widths == dict.fromkeys(settler().bead_types, width)
    off = np.sqrt(((map_positions(melt()[0], found.positions) - melt()[2]) ** 2).mean())
    # one that is 0.02 nm wide has not yet reached all of it
    assert off < 1e-6 if width == 0.0 else 0.3 * width < off < 1.1 * width


def test_a_width_that_steps_cannot_follow_is_exact_and_is_said_to_be():
    found = settled(melt()[2], bead_tolerance=0.0005, steps=20)
    assert set(found.widths.values()) == {0.0}
    assert np.abs(map_positions(melt()[0], found.positions) - melt()[2]).max() < 1e-6


def test_a_start_that_is_too_hot_is_not_held_exactly_from_the_start(monkeypatch):
    """Atoms at their beads, crowded: the beads fit, and come out exact all the same."""
    seen = []
    run = settler().mechanics.run

    def spied(*arguments, **keywords):
        seen.append(np.max(arguments[5]))
        return run(*arguments, **keywords)

    monkeypatch.setattr(settler().mechanics, "run", spied)
    whole = melt()[1]
    kicked = whole + 0.02 * np.random.default_rng(2).normal(size=whole.shape)
    found = settled(melt()[2], positions=kicked)
    assert seen[0] == settle.FIRST_WIDTH
    assert seen[-1] == 0.0 or settle.SMALL <= max(found.widths.values()) < 2 * settle.SMALL


# --- placed anew ----------------------------------------------------------------------------------


def spied(seen, positions=None):
    """Places atoms where they are, or at given positions, and keeps what it was asked with."""

    def anew(x, widths):
        seen.append(x.copy())
        return x if positions is None else positions

    return anew


def settled_anew(beads, anew, placed_for=None, **options):
    _, whole, _, box = melt()
    options = SettleOptions(TEMPERATURE, **options)
    return settler().settle(whole, beads, box, np.arange(len(whole)), options, anew, placed_for)


def test_beads_that_fit_or_have_given_widths_are_not_placed_anew():
    seen = []
    exact = settled_anew(melt()[2], spied(seen))
    np.testing.assert_array_equal(exact.positions, on_its_own_beads().positions)
    settled_anew(noisy(NOISE), spied(seen), bead_tolerance=NOISE, steps=10)
    assert seen == []


def test_beads_that_do_not_fit_are_placed_anew_once_on_beads_nearer_the_truth():
    """Atoms of the posterior have beads that are nearer to the true ones than noisy beads are."""
    seen, beads = [], noisy(0.03)
    found = settled_anew(beads, spied(seen), steps=20)
    assert len(seen) == 1
    mapping, _, true, _ = melt()
    by_then = map_positions(mapping, seen[0]) - true
    assert np.sqrt((by_then**2).mean()) < 0.9 * 0.03
    learned = settle.ESTIMATES * settle.LEARN
    assert found.evaluations in {k * settle.LOOK + learned + 20 for k in range(settle.LOOKS + 1)}
    # it goes on from what was placed: one step after it, atoms are where they were put
    put = melt()[1]
    near = settled_anew(beads, spied([], put), steps=1)
    moved = np.sqrt(((near.positions - put) ** 2).mean())
    gone = np.sqrt(((seen[0] - put) ** 2).mean())
    assert moved < 0.2 * gone


def asked(seen, positions):
    """As ``spied``, and keeps the widths that it was asked for."""

    def anew(x, widths):
        seen.append(dict(widths))
        return positions

    return anew


def test_who_can_be_told_widths_is_told_before_they_are_looked_for(monkeypatch):
    """A start that is too hot was placed for exact beads: it is placed for usual widths instead."""
    monkeypatch.setattr(settle, "HOT", 0.0)
    seen, beads = [], noisy(0.03)
    found = settled_anew(beads, asked(seen, melt()[1]), 0.0, steps=5)
    assert seen == [{"A": settle.FIRST_WIDTH, "B": settle.FIRST_WIDTH}]
    assert all(0.015 < w < 0.06 for w in found.widths.values())
    # one that was placed for wide beads at once is not placed anew
    settled_anew(beads, asked(seen, melt()[1]), settle.FIRST_WIDTH, steps=5)
    assert len(seen) == 1


@pytest.mark.parametrize(("found", "asked_for"), [(0.01, 1), (0.02, 0), (0.05, 0)])
def test_who_was_told_too_much_is_told_what_was_found(monkeypatch, found, asked_for):
    """Narrower beads say more of where atoms are, wider ones less than the steps have found out."""
    monkeypatch.setattr(settle, "HOT", 0.0)
    monkeypatch.setattr(settle, "LOOKS", 0)  # not held exactly in any case
    monkeypatch.setattr(settle, "next_width", lambda width, square: found)
    seen = []
    settled_anew(noisy(found), asked(seen, melt()[1]), settle.FIRST_WIDTH, steps=5)
    assert seen == [dict.fromkeys("AB", settle.WIDER * found)] * asked_for


def test_who_cannot_be_told_is_asked_whatever_the_width(monkeypatch):
    monkeypatch.setattr(settle, "next_width", lambda width, square: 0.05)
    seen = []
    settled_anew(noisy(0.05), spied(seen), steps=5)
    assert len(seen) == 1


def test_widths_that_no_longer_change_are_found(monkeypatch):
    """Where atoms were placed for them; else they are still on their way and all are taken."""
    monkeypatch.setattr(settle, "HOT", 0.0)
    monkeypatch.setattr(settle, "next_width", lambda width, square: 1.1 * width)
    beads, learned = noisy(0.02), settle.ESTIMATES * settle.LEARN
    told = settled_anew(beads, asked([], melt()[1]), settle.FIRST_WIDTH, steps=5)
    assert told.evaluations == settle.LEARN + 5
    assert settled_anew(beads, spied([]), steps=5).evaluations == learned + 5
    monkeypatch.setattr(settle, "next_width", lambda width, square: 1.2 * width)
    told = settled_anew(beads, asked([], melt()[1]), settle.FIRST_WIDTH, steps=5)
    assert told.evaluations == learned + 5


# --- how many steps -------------------------------------------------------------------------------


def steps_that_were_run(monkeypatch, **options):
    """Evaluations that were reported, and those that were made."""
    made = []
    run = settler().mechanics.run

    def counted(positions, beads, box, langevin, *rest, **keywords):
        made.append(langevin.steps)
        return run(positions, beads, box, langevin, *rest, **keywords)

    monkeypatch.setattr(settler().mechanics, "run", counted)
    return settled(melt()[2], **options), made


@pytest.mark.parametrize("number", [1, 37])
def test_a_given_number_of_steps_is_taken(number, monkeypatch):
    found, made = steps_that_were_run(monkeypatch, steps=number, bead_tolerance=0.0)
    assert found.evaluations == sum(made) == number
    assert found.drifting == ()


def test_they_follow_the_look_at_the_beads(monkeypatch):
    found, made = steps_that_were_run(monkeypatch, steps=37)
    assert made == [settle.LOOK, 37]
    assert found.evaluations == sum(made)


@pytest.mark.parametrize(
    ("placed_for", "width", "friction"),
    [
        (settle.FIRST_WIDTH, 0.02, settle.LOOSE),
        (settle.FIRST_WIDTH, 0.05, settle.GENTLE),
        (settle.FIRST_WIDTH, 0.01, 25.0),  # placed anew
        (None, 0.05, 25.0),  # the same
    ],
)
def test_atoms_that_are_near_where_they_belong_go_on_with_little_friction(
    monkeypatch, placed_for, width, friction
):
    made, run = [], settler().mechanics.run

    def spied_on(positions, beads, box, langevin, *rest, **keywords):
        made.append(langevin.friction)
        return run(positions, beads, box, langevin, *rest, **keywords)

    monkeypatch.setattr(settler().mechanics, "run", spied_on)
    monkeypatch.setattr(settle, "HOT", 0.0)
    monkeypatch.setattr(settle, "LOOKS", 0)
    monkeypatch.setattr(settle, "drifts", lambda before, after: False)
    monkeypatch.setattr(settle, "next_width", lambda before, square: width)
    settled_anew(noisy(width), asked([], melt()[1]), placed_for)
    assert made[0] == 25.0  # while widths are looked for
    assert made[-1] == friction


def test_exact_beads_and_a_given_number_of_steps_have_the_friction_that_was_asked_for(monkeypatch):
    made, run = [], settler().mechanics.run

    def spied_on(positions, beads, box, langevin, *rest, **keywords):
        made.append(langevin.friction)
        return run(positions, beads, box, langevin, *rest, **keywords)

    monkeypatch.setattr(settler().mechanics, "run", spied_on)
    beads = melt()[2]
    settled_anew(beads, asked([], melt()[1]), 0.0)
    settled(beads, bead_tolerance=0.02, steps=4)
    assert set(made) == {25.0}


def test_little_friction_lets_molecules_go_farther():
    """Of motion against friction the mean squared distance goes as one over it."""
    _, whole, beads, _ = melt()
    far = [
        np.mean((settled(beads, bead_tolerance=1.0, steps=200, friction=f).positions - whole) ** 2)
        for f in (settle.GENTLE, 25.0, 125.0)
    ]
    assert far[0] > far[1] > far[2]


def test_until_settled_stops_at_its_limit_and_says_what_drifts(monkeypatch):
    monkeypatch.setattr(settle, "drifts", lambda before, after: True)
    found, made = steps_that_were_run(monkeypatch, bead_tolerance=0.0)
    assert found.evaluations == sum(made) == settle.MOST // settle.WINDOW * settle.WINDOW
    assert found.drifting == tuple(settle.WATCHED)


@pytest.mark.parametrize(("width", "times"), [(0.02, 1), (0.04, 2)])
def test_wide_beads_may_take_twice_as_long(width, times, monkeypatch):
    monkeypatch.setattr(settle, "drifts", lambda before, after: True)
    monkeypatch.setattr(settle, "MOST", 2 * settle.WINDOW)
    found = settled(melt()[2], bead_tolerance=width)
    assert found.evaluations == times * settle.MOST + settle.CALMING


def test_what_was_placed_for_soft_beads_settles_sooner(monkeypatch):
    monkeypatch.setattr(settle, "drifts", lambda before, after: True)
    monkeypatch.setattr(settle, "HOT", 0.0)
    monkeypatch.setattr(settle, "ENOUGH", 30)
    monkeypatch.setattr(settle, "next_width", lambda width, square: 0.02)
    found = settled_anew(noisy(0.02), asked([], melt()[1]), settle.FIRST_WIDTH)
    assert found.evaluations == settle.LEARN + 30 + settle.CALMING


def test_strained_blocks_are_slowed_down_until_the_temperature_allows_them(monkeypatch):
    """Atoms of the melt as at twice its temperature, on soft beads, with hardly any friction."""
    _, _, beads, box = melt()
    hot = settled(beads, steps=60, bead_tolerance=0.02, temperature=2 * TEMPERATURE).positions
    before = settler().hot_atoms(hot, box, TEMPERATURE)
    monkeypatch.setattr(settle._Run, "until_settled", lambda self, most, window: self._advance(1))
    left = {}
    slowed = settle.SLOWED
    for part in (slowed, 1.0):
        monkeypatch.setattr(settle, "SLOWED", part)
        found = settled(beads, positions=hot, bead_tolerance=0.02, friction=1.0)
        left[part] = settler().hot_atoms(found.positions, box, TEMPERATURE).sum()
    assert before.any()
    assert left[slowed] < 0.5 * left[1.0]


def test_hot_atoms_are_those_of_a_bead_whose_angles_hold_too_much():
    mapping, whole, _, box = melt()
    rest = settler().hot_atoms(whole, box, TEMPERATURE)
    assert rest.mean() < 0.02
    assert settler().hot_atoms(whole, box, 0.05 * TEMPERATURE).mean() > 0.9
    bent = whole.copy()
    bent[0] += 0.05
    owner = mapping.atom_owners()
    changed = settler().hot_atoms(bent, box, TEMPERATURE) & ~rest
    assert set(owner[changed]) == {owner[0]}


def test_until_settled_stops_when_nothing_drifts_but_not_at_once(monkeypatch):
    monkeypatch.setattr(settle, "drifts", lambda before, after: False)
    found, _ = steps_that_were_run(monkeypatch, bead_tolerance=0.0)
    assert found.evaluations == settle.FEWEST
    assert found.drifting == ()


def test_a_cold_start_is_colder_on_the_way_only():
    """After three steps the atoms of a bath at a hundredth of the temperature have moved less."""
    moved = [
        np.abs(settled(melt()[2], steps=3, bead_tolerance=0.0, cold_start=part).positions
               - melt()[1]).mean()
        for part in (1.0, 0.01)
    ]  # fmt: skip
    assert moved[1] < 0.7 * moved[0]


# --- the same bits --------------------------------------------------------------------------------


def test_threads_change_no_bit():
    beads = noisy(NOISE)
    one, two = (settled(beads, by=Settler(melt()[0], threads=n), steps=20) for n in (1, 2))
    assert np.array_equal(one.positions, two.positions)
    assert one.widths == two.widths


def test_a_frame_is_the_same_alone_and_after_another():
    alone = settled(noisy(NOISE), by=Settler(melt()[0], threads=1), steps=20)
    busy = Settler(melt()[0], threads=1)
    settled(noisy(0.02, seed=5), by=busy, steps=10)
    after = settled(noisy(NOISE), by=busy, steps=20)
    assert np.array_equal(alone.positions, after.positions)
    assert alone.widths == after.widths


def test_widths_are_a_little_wider_than_the_last_estimate(monkeypatch):
    monkeypatch.setattr(settle, "next_width", lambda width, square: 0.02)
    found = settled(noisy(0.02), steps=0)
    assert set(found.widths.values()) == {settle.WIDER * 0.02}
    monkeypatch.setattr(settle, "next_width", lambda width, square: settle.WIDEST)
    assert set(settled(noisy(0.02), steps=0).widths.values()) == {settle.WIDEST}


# --- small pieces ---------------------------------------------------------------------------------


def test_next_width_on_hand_values():
    assert next_width(0.02, 0.02**2) == pytest.approx(0.02)
    # the stride goes farther than the ratio of standard deviations
    assert next_width(0.02, (0.9 * 0.02) ** 2) == pytest.approx(0.9**settle.STRIDE * 0.02)
    assert 1.0 < settle.STRIDE < 2.0
    # and is bounded
    assert next_width(0.02, 1.0) == pytest.approx(0.04)
    assert next_width(0.02, 1e-12) == pytest.approx(0.01)
    assert next_width(settle.WIDEST, 1.0) == settle.WIDEST
    assert next_width(settle.NARROWEST, 1e-12) == settle.NARROWEST


def test_the_fixed_point_of_the_width_is_that_of_noise_and_freedom():
    """A coordinate that alone would vary by s, held by w to a bead that is n off it: the mean
    squared distance is known, and the width found makes such beads most likely: n^2 = w^2 + s^2."""
    s, n, width = 0.01, 0.02, 0.05
    for _ in range(60):
        kept = s**2 / (s**2 + width**2)
        square = (1 - kept) ** 2 * n**2 + s**2 * (1 - kept)
        width = next_width(width, square)
    assert width == pytest.approx(math.sqrt(n**2 - s**2), rel=1e-3)


def test_drifts_on_hand_values():
    none = np.zeros(3)
    # mean 1, standard error sqrt(2 / 3) / sqrt(3) with ddof 1: 1 / sqrt(3) = 0.577
    assert not drifts(none, np.array([0.0, 1.0, 2.0]))
    assert drifts(none, np.array([1.0, 2.0, 3.0]))  # 2 / 0.577 = 3.5
    assert drifts(none, np.array([-1.0, -2.0, -3.0]))
    assert not drifts(np.zeros(1), np.array([5.0]))  # one molecule says nothing


@pytest.mark.parametrize("molecules", [2_000, 200_000])
@pytest.mark.parametrize(("part", "expected"), [(0.8, False), (1.3, True)])
def test_what_is_waited_for_does_not_shrink_with_the_box(part, expected, molecules):
    """However many molecules show it, less than ``NEGLIGIBLE`` of their spread is none."""
    rng = np.random.default_rng(0)
    before = rng.normal(-170.0, 28.0, molecules)
    after = before + part * settle.NEGLIGIBLE * 28.0 + rng.normal(0.0, 5.0, molecules)
    assert drifts(before, after) is expected
    few = slice(0, 30)  # chance alone makes more than that among so few
    assert not drifts(before[few], before[few] + rng.normal(0.0, 28.0, 30))


def test_warmth_counts_kt_half_a_degree_of_freedom():
    by = settler()
    degrees = by._degrees
    energies = {"angle": np.array([0.5 * 0.00831446261815324 * 300.0 * degrees + by._strain])}
    assert by.warmth(energies, 300.0) == pytest.approx(1.0)
    assert by.warmth(energies, 150.0) == pytest.approx(2.0)


def test_bead_types_share_out_all_beads():
    mapping = melt()[0]
    found = bead_types(mapping)
    assert list(found) == ["A", "B"]
    assert np.array_equal(np.sort(np.concatenate(list(found.values()))), np.arange(mapping.n_beads))


def test_molecules_without_angles_are_never_too_hot():
    mapping = melt()[0]
    bare = dataclasses.replace(
        mapping.topology,
        molecule_types=tuple(
            dataclasses.replace(m, terms={k: v for k, v in m.terms.items() if k != "angle"})
            for m in mapping.topology.molecule_types
        ),
    )
    by = Settler(dataclasses.replace(mapping, topology=bare), threads=1)
    assert by.warmth({"angle": np.zeros(12)}, 300.0) == 1.0
    assert by.fits_below == settle.FITS
    found = settled(melt()[2], by=by, steps=5)
    assert set(found.widths.values()) == {0.0}

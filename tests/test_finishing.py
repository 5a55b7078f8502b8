"""The protocol of finishing, on an engine that only notes what it is asked for."""

import math
from dataclasses import replace

import numpy as np
import pytest

import small_polystyrene
from deepbackmap.dynamics.containers import EngineError, Segment
from deepbackmap.dynamics.finishing import (
    PARTED,
    ROUNDS,
    CannotFinish,
    FinishOptions,
    finish_structure,
    interval,
    seed_from,
)
from deepbackmap.forcefield.contacts import Contacts
from deepbackmap.system import Structure

TOPOLOGY = small_polystyrene.mapping(chains=2).topology
N = small_polystyrene.ATOMS
CONTACTS = Contacts(TOPOLOGY)


class NotingEngine:
    """Moves atoms by ``move`` in a minimisation; its energies come from ``series``."""

    name = "noting"
    temperature = staticmethod(lambda step: np.full(len(step), 500.0))

    def __init__(self, series=None, move=lambda x: x, fails=0):
        self.series = series or (lambda steps: np.random.default_rng(0).normal(size=len(steps)))
        self.move, self.fails = move, fails
        self.minimisations, self.runs, self.given, self.done = [], [], [], 0

    def minimise(self, structure, options, hold=None):
        self.minimisations.append(options)
        moved = replace(structure, positions=self.move(structure.positions))
        return self._segment(moved, None, np.zeros(1, dtype=np.int64), options.steps)

    def run(self, structure, options, velocities=None, hold=None):
        if self.fails:
            self.fails -= 1
            raise EngineError("the bond of A and B came apart")
        self.runs.append(options)
        self.given.append(velocities)
        step = np.arange(0, options.steps + 1, options.every)
        found = self._segment(
            structure, np.full_like(structure.positions, len(self.runs)), step, options.steps
        )
        self.done += options.steps
        return found

    def _segment(self, structure, velocities, step, evaluations):
        energies = {"lj": self.series(self.done + step), "bond": np.arange(len(step), dtype=float)}
        energies["temperature"] = self.temperature(self.done + step)
        return Segment(structure, velocities, step, energies, (), evaluations)


def finish(engine, structure=None, seed=3, **options):
    structure = frame() if structure is None else structure
    return finish_structure(
        engine, CONTACTS, structure, FinishOptions(temperature=500.0, **options), seed=seed
    )


def frame(apart=2.5):
    """Two equal chains, one beside the other."""
    chain = small_polystyrene.atoms(chains=1).positions
    positions = np.concatenate([chain, chain + np.array([apart, 0.0, 0.0])])
    return Structure(positions, np.diag([8.0, 7.0, 7.0]))


def put(first, second):
    """The frame with one atom in the place of another."""
    positions = frame().positions
    positions[second] = positions[first]
    return replace(frame(), positions=positions)


def test_evaluations_are_counted():
    done = finish(NotingEngine(), steps=250, minimise=20)
    assert (done.minimisation, done.dynamics, done.steps) == (20, 250, 250)
    assert done.force_evaluations == 270
    assert len(done.energies["lj"]) == 250 // done.every + 1
    assert set(done.settled) == {"lj"}  # constrained bonds have no energy


def test_no_minimisation_where_none_is_asked_for():
    engine = NotingEngine()
    assert finish(engine, minimise=0).minimisation == 0
    assert not engine.minimisations


def test_bonds_are_stiff_while_minimising_and_held_in_the_dynamics():
    engine = NotingEngine()
    finish(engine, bond_constant=4e5)
    assert [m.bond_constant for m in engine.minimisations] == [4e5]
    assert engine.runs[0].constrain
    assert engine.runs[0].temperature == 500.0


def test_minimisation_goes_on_until_atoms_are_apart():
    def part(positions):
        return positions + np.repeat([[0.0] * 3, [0.3, 0.0, 0.0]], N, axis=0)

    engine = NotingEngine(move=part)
    done = finish(engine, frame(0.03))
    assert 1 < len(engine.minimisations) <= ROUNDS
    assert done.minimisation == 10 * (2 ** len(engine.minimisations) - 1)
    assert CONTACTS.closest(done.structure).relative >= PARTED


def test_atoms_that_cannot_be_parted_are_named():
    engine = NotingEngine()
    with pytest.raises(CannotFinish, match=r"expected 630 force evaluations .* 0\.6 sigma") as info:
        finish(engine, frame(0.03))
    assert len(engine.minimisations) == ROUNDS
    contact = info.value.contact
    assert contact.distance == pytest.approx(0.03)
    assert abs(contact.first - contact.second) == N
    assert not engine.runs


@pytest.mark.parametrize("bonded", [False, True])
def test_atoms_in_one_place_are_refused_bonded_or_not(bonded):
    first, second = TOPOLOGY.molecule_types[0].bonds[0].tolist() if bonded else (0, 30)
    engine = NotingEngine()
    with pytest.raises(CannotFinish, match="places of their own") as info:
        finish(engine, put(first, second))
    assert {info.value.contact.first, info.value.contact.second} == {first, second}
    assert math.isnan(info.value.contact.relative)
    assert not engine.minimisations


def test_atoms_in_one_place_across_the_boundary():
    together = put(0, 30)
    positions = together.positions.copy()
    positions[30] += together.box[0] - together.box[2]
    with pytest.raises(CannotFinish, match="places of their own"):
        finish(NotingEngine(), replace(together, positions=positions))


def test_the_engine_s_sentence_is_passed_on():
    with pytest.raises(CannotFinish, match=r"^the bond of A and B came apart"):
        finish(NotingEngine(fails=1), minimise=0)


def test_a_start_that_fails_is_minimised_more_and_run_again():
    engine = NotingEngine(fails=2)
    done = finish(engine, steps=50)
    assert [m.steps for m in engine.minimisations] == [10, 20, 40]
    assert done.minimisation == 70
    assert done.dynamics == 2 * 51 + 50  # runs that failed count in full
    assert done.steps == 50
    always = NotingEngine(fails=99)
    with pytest.raises(CannotFinish, match="came apart"):
        finish(always)
    assert len(always.minimisations) == ROUNDS


def test_a_run_that_fails_later_is_not_begun_again():
    engine = NotingEngine(series=lambda step: 0.01 * step)
    run = engine.run

    def fail_later(*arguments):
        if len(engine.runs) == 2:
            engine.fails = 1
        return run(*arguments)

    engine.run = fail_later
    with pytest.raises(CannotFinish, match="came apart"):
        finish(engine, steps=200, until_settled=True)
    assert len(engine.minimisations) == 1


def test_energies_that_are_not_finite_are_an_error():
    with pytest.raises(CannotFinish, match="expected finite energies, found lj nan"):
        finish(NotingEngine(series=lambda s: np.where(s > 20, math.nan, 1.0)))


def test_a_run_goes_on_until_a_decay_is_over():
    rng = np.random.default_rng(1)

    def decay(step):
        return 10.0 * np.exp(-step / 500.0) + rng.normal(size=len(step))

    engine = NotingEngine(series=decay)
    done = finish(engine, until_settled=True, steps=200, max_steps=50_000)
    assert done.settled["lj"].settled
    assert 1_000 < done.steps < 20_000
    assert done.steps == sum(r.steps for r in engine.runs) == done.dynamics
    assert len(done.energies["lj"]) == done.steps // done.every + 1
    assert len({r.seed for r in engine.runs}) == len(engine.runs)
    # each piece goes on with the velocities that the one before it ended with
    assert engine.given[0] is None
    assert [float(v[0, 0]) for v in engine.given[1:]] == list(range(1, len(engine.runs)))


def test_a_run_that_never_settles_ends_at_the_maximum_and_says_so():
    engine = NotingEngine(series=lambda step: 0.01 * step)
    done = finish(engine, until_settled=True, steps=200, max_steps=3_000)
    assert done.unsettled == ("lj",)
    assert 2_900 < done.steps <= 3_000


def test_nothing_has_settled_before_the_temperature_is_reached():
    engine = NotingEngine()
    assert finish(engine, steps=400).settled["lj"].settled
    engine.temperature = lambda step: np.full(len(step), 430.0)
    assert finish(engine, steps=400).settled["lj"].state == "drifting"


def test_a_short_run_goes_on_by_whole_intervals():
    engine = NotingEngine(series=lambda step: 0.01 * step)
    done = finish(engine, until_settled=True, steps=10, max_steps=64)
    assert done.steps == 60
    assert [r.steps for r in engine.runs][:3] == [10, 10, 10]
    assert all(r.every == 10 for r in engine.runs)


def test_every_piece_of_a_run_holds_whole_intervals():
    for steps in (1, 7, 100, 101, 250, 1_000, 1_500):
        for settling in (False, True):
            options = FinishOptions(temperature=1.0, steps=steps, until_settled=settling)
            assert steps % interval(options) == 0
    assert interval(FinishOptions(temperature=1.0, steps=3_000)) == 30


def test_seeds_are_named_by_whole_numbers():
    assert seed_from(1, 2) == seed_from(1, 2)
    many = {seed_from(a, b) for a in range(30) for b in range(30)}
    assert len(many) == 900
    assert all(0 < s < 2**31 - 1 for s in many)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0.0), ("temperature", -1.0), ("temperature", math.nan), ("steps", 0),
     ("minimise", -1), ("bond_constant", 0.0), ("friction", math.inf), ("max_steps", 0)],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        FinishOptions(**{"temperature": 300.0, name: value})

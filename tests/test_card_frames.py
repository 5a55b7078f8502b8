"""Several frames at once on a card, here on processors: each comes to what it comes to alone."""

import dataclasses
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from deepbackmap.mapping import map_positions
from deepbackmap.mechanics.card import engine as card
from deepbackmap.mechanics.card import fused, held, pairs
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.card.frames import CardFrames
from deepbackmap.mechanics.engine import Langevin, LostError, Mechanics
from deepbackmap.mechanics.gather import Gathering, copies_of
from test_endless import BOX as ENDLESS
from test_endless import endless as endless
from test_mechanics_constraints import straight
from test_mechanics_engine import on_constraints, short_chains
from test_mechanics_settle import melt

CLOSE = 1e-6
"""nm: sums are in another order."""


def frames_of(mapping, table=None):
    return CardFrames(mapping, gathering=table or Gathering(), device="cpu")


def three():
    """Three frames of some chains, in boxes of their own."""
    mapping, x, _, box = short_chains()
    rng = np.random.default_rng(3)
    boxes = [box, 1.05 * box, np.diag(np.diag(box) * [1.2, 1.0, 1.1])]
    at = [x + rng.normal(0.0, 0.002, x.shape) + shift for shift in (0.0, 0.7, -5.0)]
    found = [CardMechanics(mapping, device="cpu").project(p, map_positions(mapping, p)) for p in at]
    at = [f.positions for f in found]
    names = [np.arange(len(x)) + 1000 * k for k in range(3)]
    return mapping, at, [map_positions(mapping, p) for p in at], boxes, names


def at_once(engine, ask):
    """What three threads come to."""
    table = engine._gathering
    table.expect(3)

    def one(k):
        with table.seated(k):
            return ask(engine, k)

    with ThreadPoolExecutor(3) as threads:
        return list(threads.map(one, range(3)))


def counted(monkeypatch):
    """How many frames engines were made for."""
    made = []
    old = CardMechanics.__init__

    def init(self, mapping, **options):
        made.append(mapping.topology.n_molecules)
        old(self, mapping, **options)

    monkeypatch.setattr(CardMechanics, "__init__", init)
    return made


@pytest.mark.parametrize("reach", [0.6, 0.86])
def test_lists_of_several_boxes_are_those_of_each(reach):
    mapping, at, _, boxes, _ = three()
    single = CardMechanics(mapping, device="cpu")._pairs
    several = CardMechanics(copies_of(mapping, 3), device="cpu")._pairs
    n = len(at[0])
    x = torch.tensor(np.concatenate(at))
    lists = pairs.list_neighbours(x, np.stack(boxes), reach, several)
    owners, points = lists.owners(), lists.points(x)
    for k in range(3):
        alone = pairs.list_neighbours(x[k * n : (k + 1) * n], boxes[k][None], reach, single)
        for a in range(n):
            here, there = lists.rows[k * n + a].long(), alone.rows[a].long()
            here, there = here[here < len(owners) - 1], there[there < len(alone.owners()) - 1]
            mine = sorted((owners[here] - k * n).tolist())
            assert mine == sorted(alone.owners()[there].tolist())
            apart = (points[here] - points[k * n + a]).norm(dim=-1)
            assert len(apart) == 0 or float(apart.max()) < reach + 2 * pairs.ROUNDED


def test_energies_and_projections_are_those_of_each(monkeypatch):
    mapping, at, beads, boxes, _ = three()
    rough = [x + np.random.default_rng(k).normal(0.0, 0.01, x.shape) for k, x in enumerate(at)]
    engine = frames_of(mapping)
    made = counted(monkeypatch)
    found = at_once(engine, lambda e, k: e.project(rough[k], beads[k], box=boxes[k]))
    energies = at_once(
        engine, lambda e, k: e.energies(at[k], beads[k], boxes[k], 0.02 * k, temperature=500.0)
    )
    assert made == [3 * mapping.topology.n_molecules]  # and used twice
    alone = frames_of(mapping)
    for k in range(3):
        expected = alone.project(rough[k], beads[k], box=boxes[k])
        np.testing.assert_allclose(found[k].positions, expected.positions, rtol=0, atol=CLOSE)
        single = alone.energies(at[k], beads[k], boxes[k], 0.02 * k, temperature=500.0)
        assert list(energies[k]) == list(single)
        for name, values in single.items():
            np.testing.assert_allclose(
                energies[k][name], values, rtol=1e-5, atol=1e-4, err_msg=name
            )


@pytest.mark.parametrize("width", [0.0, 0.02])
def test_steps_are_those_of_each(width):
    mapping, at, beads, boxes, names = three()
    how = Langevin(20, 500.0)

    def ask(engine, k):
        seen = []

        def observe(o):
            seen.append((o.step, o.energies["angle"], o.positions))
            return False

        run = engine.run(at[k], beads[k], boxes[k], how, names[k], width, every=10, observe=observe)
        again = engine.run(
            run.positions, beads[k], boxes[k], how, names[k], width, velocities=run.velocities,
            every=10,
        )  # fmt: skip
        return run, seen, again

    found = at_once(frames_of(mapping), ask)
    for k in range(3):
        (run, seen, again), (expected, alone, last) = found[k], ask(frames_of(mapping), k)
        assert np.abs(run.positions - expected.positions).max() < CLOSE
        assert np.abs(run.positions - at[k]).max() > 0.02
        assert np.abs(again.positions - last.positions).max() < 10 * CLOSE
        assert [s[0] for s in seen] == [s[0] for s in alone] == [10, 20]
        for mine, its in zip(seen, alone, strict=True):
            np.testing.assert_allclose(mine[1], its[1], rtol=1e-4, atol=1e-3)
            assert np.abs(mine[2] - its[2]).max() < CLOSE
        assert np.abs(again.observed[0].positions - last.observed[0].positions).max() < 10 * CLOSE
        # an observation that is kept is of its step, not of the end
        assert np.abs(again.observed[0].positions - again.positions).max() > 0.005
        if width == 0.0:
            assert on_constraints(mapping, run.positions, beads[k]) < CLOSE


def test_frames_that_go_on_are_worked_on_without_those_that_are_done(monkeypatch):
    mapping, at, beads, boxes, names = three()
    engine = frames_of(mapping)
    made = counted(monkeypatch)

    def ask(e, k):
        for turn in range(1 + k):
            run = e.run(at[k], beads[k], boxes[k], Langevin(4, 500.0, first_step=turn), names[k])
        return run.positions

    found = at_once(engine, ask)
    m = mapping.topology.n_molecules
    assert made == [3 * m]  # of two frames too, with one of them again; of one the engine itself
    for k in range(3):
        assert np.abs(found[k] - ask(frames_of(mapping), k)).max() < CLOSE


def test_different_steps_are_not_taken_together():
    mapping, at, beads, boxes, names = three()

    def ask(engine, k):
        how = Langevin(4 + 2 * (k == 1), 500.0 if k < 2 else 300.0)
        return engine.run(at[k], beads[k], boxes[k], how, names[k]).kinetic

    found = at_once(frames_of(mapping), ask)
    for k in range(3):
        np.testing.assert_allclose(found[k], ask(frames_of(mapping), k), rtol=1e-6)
    assert [len(f) for f in found] == [5, 7, 5]


def test_strained_molecules_are_named_by_their_own_frame():
    mapping, x, beads = straight(10)
    far = beads.copy()
    far[5] += [0.0, 0.3, 0.0]
    box = 12.0 * np.eye(3)
    given = [beads, far, beads]
    found = at_once(frames_of(mapping), lambda e, k: e.project(x, given[k], box=box))
    assert [len(f.strained) for f in found] == [0, 1, 0]
    assert found[1].strained.tolist() == Mechanics(mapping).project(x, far).strained.tolist()


def test_a_frame_that_is_lost_does_not_take_the_others_along():
    mapping, at, beads, boxes, names = three()
    at[1][60] = np.nan

    def ask(engine, k):
        try:
            return engine.run(at[k], beads[k], boxes[k], Langevin(2, 300.0), names[k]).positions
        except LostError as error:
            return str(error)

    found = at_once(frames_of(mapping), ask)
    assert "molecule 2" in found[1]
    for k in (0, 2):
        assert np.abs(found[k] - ask(frames_of(mapping), k)).max() < CLOSE


def test_molecules_bonded_to_their_own_images_are_worked_on_alone(endless, monkeypatch):
    _, mapping, x, moved = endless
    beads, names = map_positions(mapping, x, ENDLESS), np.arange(len(x))
    engine = frames_of(mapping)
    made = counted(monkeypatch)
    runs = at_once(engine, lambda e, k: e.run(moved, beads, ENDLESS, Langevin(3, 300.0), names))
    assert made == []
    expected = CardMechanics(mapping, device="cpu").run(
        moved, beads, ENDLESS, Langevin(3, 300.0), names
    )
    for run in runs:
        assert np.abs(run.positions - expected.positions).max() < CLOSE


# --- lists and inverses that are filled again -----------------------------------------------------


def test_lists_in_old_tensors_are_the_same_lists():
    mapping, at, _, boxes, _ = three()
    tables = CardMechanics(mapping, device="cpu")._pairs
    x = torch.tensor(at[0])
    first = pairs.list_neighbours(x, boxes[0][None], 0.7, tables)
    kept = pairs.fitted(first, None)
    moved = x + torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1)) / 99
    second = pairs.list_neighbours(moved, boxes[0][None], 0.7, tables)
    how = CardMechanics(mapping, device="cpu")._parameters(0.0)
    lattice = torch.tensor(boxes[0])[None]
    for lists, at_ in ((first, x), (second, moved)):
        again = pairs.fitted(lists, kept)
        assert again is kept
        one, other = (pairs.pair_forces(at_, s, tables, how, lattice) for s in (lists, kept))
        assert float(other.abs().max()) > 1.0
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-3)
    small = pairs.fitted(pairs.list_neighbours(x, boxes[0][None], 0.4, tables), None)
    larger = pairs.fitted(first, small)
    assert larger is not small and larger.rows.shape[1] > small.rows.shape[1]


def test_old_inverses_get_better_by_squares():
    mapping, x, beads, box = melt()
    engine = CardMechanics(mapping, device="cpu")
    s = engine._state(x, beads, 0.0, None, box)
    before = held.invert(s.held, held.matrix(s.held, held.units(s.held, s.x, None), s.active))
    s.x += torch.randn(s.x.shape, dtype=s.x.dtype, generator=torch.Generator().manual_seed(2)) / 200
    a = held.matrix(s.held, held.units(s.held, s.x, None), s.active)
    blocks = held._blocks(s.held, a)

    def off(inverses):
        one = torch.eye(blocks[0].shape[-1], dtype=s.x.dtype)
        return max(
            float(torch.linalg.eigvals(one - i @ b).abs().max())
            for i, b in zip(inverses, blocks, strict=True)
        )

    once = held.improved(s.held, a, before)
    assert 0.01 < off(before) < 0.9
    assert off(once) == pytest.approx(off(before) ** 2, rel=0.05)
    assert off(held.improved(s.held, a, once)) == pytest.approx(off(once) ** 2, rel=0.05)


# --- captured steps -------------------------------------------------------------------------------


class Recorded:
    """Stands for a captured step: it reads and writes the tensors of then, whatever the state has
    come to have in their place."""

    made = 0

    def __init__(self, engine, s, how, off=0.0):
        Recorded.made += 1
        self._then = dataclasses.replace(s)
        self._engine, self._how, self._off = engine, how, off

    def replay(self):
        self._engine._step(self._then, self._how)
        self._then.x += self._off


def recorded(monkeypatch, engine, off=0.0):
    """An engine that captures."""
    engine.captures = True
    Recorded.made = 0
    old = engine._capture

    def capture(s, how):
        monkeypatch.setattr(card, "_captured", lambda step: Recorded(engine, s, how, off))
        old(s, how)

    monkeypatch.setattr(engine, "_capture", capture)
    return engine


@pytest.mark.parametrize("rounds", [3, 1])
def test_captured_steps_are_the_steps(rounds, monkeypatch):
    """Lists and inverses are filled again in place, whatever is taken back."""
    monkeypatch.setattr(card, "ROUNDS", rounds)
    mapping, x, beads, box = short_chains()
    names, how = np.arange(len(x)), Langevin(60, 500.0)
    expected = CardMechanics(mapping, device="cpu").run(x, beads, box, how, names)
    engine = recorded(monkeypatch, CardMechanics(mapping, device="cpu"))
    found = engine.run(x, beads, box, how, names)
    assert engine.captures
    assert found.lists == expected.lists > 3
    assert 1 <= Recorded.made <= 5
    assert np.abs(found.positions - expected.positions).max() < CLOSE
    np.testing.assert_allclose(found.kinetic, expected.kinetic, rtol=1e-6)


def test_a_capture_that_is_not_the_step_is_not_used(monkeypatch):
    mapping, x, beads, box = short_chains()
    names, how = np.arange(len(x)), Langevin(20, 500.0)
    expected = CardMechanics(mapping, device="cpu").run(x, beads, box, how, names)
    engine = recorded(monkeypatch, CardMechanics(mapping, device="cpu"), off=1e-6)
    with pytest.warns(UserWarning, match=r"not captured on this card: .* 1.0e-06 nm off"):
        found = engine.run(x, beads, box, how, names)
    assert not engine.captures and Recorded.made == 1
    assert np.abs(found.positions - expected.positions).max() < CLOSE


def test_a_card_that_cannot_capture_goes_on_without(monkeypatch):
    mapping, x, beads, box = short_chains()
    engine = CardMechanics(mapping, device="cpu")
    assert not engine.captures  # no card
    engine.captures = True

    def refuse(step):
        raise RuntimeError("operation not permitted")

    monkeypatch.setattr(card, "_captured", refuse)
    with pytest.warns(UserWarning, match="operation not permitted"):
        engine.run(x, beads, box, Langevin(20, 500.0), np.arange(len(x)))
    assert not engine.captures


# --- compiled functions ---------------------------------------------------------------------------


def test_small_systems_and_processors_compile_nothing():
    for atoms, device in ((10**7, "cpu"), (100, "cuda")):
        assert fused.fused(len, atoms, torch.device(device)) is len


@pytest.mark.parametrize("there", [True, False])
def test_large_ones_on_a_card_do_where_they_can(there, monkeypatch):
    monkeypatch.setattr(fused, "can_compile", lambda: there)
    assert (fused.fused(pairs._near, 10**7, torch.device("cuda")) is pairs._near) != there


def test_what_cannot_be_compiled_is_done_as_it_is(monkeypatch):
    def broken(*_, **__):
        def call(*_):
            raise RuntimeError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    work = fused._compiled(lambda a, b: a + b)
    with pytest.warns(UserWarning, match="is not compiled: no compiler"):
        assert work(1, 2) == 3
    assert work(3, 4) == 7


TRACED = """
import numpy as np, torch
from deepbackmap.mechanics.card import pairs
from deepbackmap.mechanics.card.engine import CardMechanics
from test_mechanics_engine import short_chains

mapping, x, beads, box = short_chains()
engine, wide = CardMechanics(mapping, device="cpu"), np.diag(np.diag(box) + 0.3)

def values():
    return [v for b in (box, wide) for v in (engine.forces(x, beads, b),
                                             engine.energies(x, beads, b)["lj inter"])]

expected, traced = values(), {}

def whole(function, atoms, device):
    made = torch.compile(function, backend="eager", fullgraph=True, dynamic=True)
    return traced.setdefault(function.__name__, made)

pairs.fused = whole
for found, value in zip(values(), expected, strict=True):
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-3)
print(*sorted(traced))
"""


def test_functions_of_pairs_are_one_graph():
    """Traced whole, as a card's compiler wants them, they come to the same. In a process of its
    own, for checked types cannot be traced."""
    paths = os.pathsep.join(p for p in (str(Path(__file__).parent), *sys.path) if p)
    ran = subprocess.run(
        [sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["_halves", "_near", "_not_excluded", "_pushed"]

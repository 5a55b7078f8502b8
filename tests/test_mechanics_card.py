"""Dynamics in tensors, on processors: what a card would do, against the compiled loops."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch

import small_polystyrene as ps
from deepbackmap.forcefield import ForceField, energies_per_molecule
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.mapping import map_positions
from deepbackmap.mechanics import bonded, noise, settle
from deepbackmap.mechanics.card import engine as card
from deepbackmap.mechanics.card import held, pairs
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.card.terms import Listed, evaluate
from deepbackmap.mechanics.engine import Langevin, LostError, Mechanics
from deepbackmap.mechanics.settle import Settler
from deepbackmap.methods.options import SettlingOptions
from deepbackmap.methods.settling import LastSteps
from deepbackmap.system import Structure
from test_endless import BOX as ENDLESS
from test_endless import endless as endless
from test_mechanics_constraints import beads_off, bonds_off, straight
from test_mechanics_engine import (
    EXAMPLES,
    autograd_forces,
    benders,
    by_autograd,
    energies_without_friction,
    on_constraints,
    short_chains,
)
from test_mechanics_settle import melt
from test_mechanics_systems import BOX, SYSTEMS

TOLERANCE = 1e-6


def on_card(mapping, **options):
    return CardMechanics(mapping, device="cpu", **options)


@functools.cache
def engines():
    """Both, for the packaged melt."""
    mapping = melt()[0]
    return on_card(mapping), Mechanics(mapping, threads=1)


# --- bonded terms ---------------------------------------------------------------------------------


def by_tensors(kind, x, atoms, parameters, cell=None):
    """Energy and forces of some terms of one molecule."""
    kernel = bonded.KERNELS[kind]
    listed = Listed(
        kind, kernel.loop, kernel.number, torch.tensor(atoms),
        torch.tensor(kernel.prepare(parameters)), torch.zeros(len(atoms), dtype=torch.int64), False,
    )  # fmt: skip
    at = None if cell is None else torch.tensor(cell)
    energies, forces = evaluate(listed, torch.tensor(x), at)
    found = torch.zeros(x.shape, dtype=torch.float64)
    found.index_add_(0, listed.atoms.reshape(-1), forces.reshape(-1, 3))
    return energies.sum().item(), found.numpy()


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize("seed", range(3))
def test_terms_are_the_gradients_of_the_force_field(kind, seed):
    count, row = EXAMPLES[kind]
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 0.2, (7, 3))
    atoms = np.array([rng.permutation(7)[:count] for _ in range(5)])
    parameters = np.array([row] * 5) * rng.uniform(0.8, 1.2, (5, 1))
    if kind == "proper":
        parameters[:, 2] = [1, 2, 3, 4, -2]
    energy, forces = by_tensors(kind, x, atoms, parameters)
    expected = by_autograd(kind, x[None], atoms, parameters)
    assert energy == pytest.approx(expected[0][0], rel=1e-11)
    np.testing.assert_allclose(forces, expected[1][0], rtol=1e-9, atol=1e-9 * np.abs(forces).max())


@pytest.mark.parametrize("kind", ["bond", "angle", "proper"])
def test_terms_take_the_shortest_images_where_there_is_a_cell(kind):
    count, row = EXAMPLES[kind]
    rng = np.random.default_rng(1)
    cell = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.6, 0.5, 1.8]])
    x = rng.normal(0.0, 0.15, (6, 3))
    atoms = np.array([rng.permutation(6)[:count] for _ in range(4)])
    moved = x + rng.integers(-1, 2, x.shape) @ cell
    there = by_tensors(kind, moved, atoms, np.array([row] * 4), cell)
    open_ = by_tensors(kind, x, atoms, np.array([row] * 4))
    assert there[0] == pytest.approx(open_[0], rel=1e-9)
    np.testing.assert_allclose(there[1], open_[1], rtol=0, atol=1e-9 * np.abs(open_[1]).max())
    assert abs(by_tensors(kind, moved, atoms, np.array([row] * 4))[0] - open_[0]) > 1e-3


@pytest.mark.parametrize("kind", EXAMPLES)
def test_degenerate_geometry_has_finite_forces(kind):
    count, row = EXAMPLES[kind]
    line = np.stack([0.1 * np.arange(4), np.zeros(4), np.zeros(4)], axis=1)
    for x in (np.zeros((4, 3)), line, np.array([[0, 0, 0], [0, 0, 0], [0.1] * 3, [0.1] * 3])):
        energy, forces = by_tensors(kind, x, np.arange(count)[None], np.array([row]))
        assert math.isfinite(energy)
        assert np.isfinite(forces).all()


# --- pairs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("skewed", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1.9])
def test_neighbours_are_all_pairs_in_reach_but_the_excluded_ones(skewed, scale):
    mapping, x, _, box = short_chains(ps.SKEWED if skewed else np.diag([2.2, 2.5, 3.1]))
    rng = np.random.default_rng(2)
    box = scale * box
    x = rng.uniform(size=x.shape) @ box + rng.integers(-2, 3, (len(x), 3)) @ box
    engine = on_card(mapping)
    reach = 0.49 * float((1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)).min())
    lists = pairs.list_neighbours(torch.tensor(x), box[None], reach, engine._pairs)
    points = lists.points(torch.tensor(x)).numpy()
    owners, rows = lists.owners().numpy(), lists.rows.numpy()
    found = {
        (a, int(owners[k]))
        for a in range(len(x)) for k in rows[a]
        if np.linalg.norm(points[k] - points[a]) < reach
    }  # fmt: skip
    images = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ box
    wrapped = points[: len(x)]
    apart = wrapped[:, None] - wrapped[None]
    near = np.array([np.linalg.norm(apart + i, axis=-1) < reach for i in images]).any(axis=0)
    excluded = engine._pairs.excluded.numpy()
    for a in range(len(x)):
        near[a, excluded[a][excluded[a] >= 0]] = False
    assert found == set(zip(*np.nonzero(near), strict=True))
    assert len(found) > len(x)


@pytest.mark.parametrize("epsilon", [2.5, math.inf, None])
def test_forces_and_energies_are_those_of_the_force_field(epsilon):
    mapping, x, _, box = melt()
    some = np.random.default_rng(0).normal(0.0, 0.001, x.shape) + x
    field = ForceField.from_topology(mapping.topology, cutoff=0.7, reaction_field_epsilon=epsilon)
    engine = on_card(mapping, rigid=False, epsilon=epsilon)
    beads = map_positions(mapping, some)
    found, expected = engine.forces(some, beads, box), autograd_forces(field, some, box)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    energies = engine.energies(some, beads, box)
    for name, values in energies_per_molecule(field, Structure(some, box)).items():
        np.testing.assert_allclose(
            energies[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max(), err_msg=name
        )
    assert not energies["bead"].any()


@pytest.mark.parametrize("softness", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("width", [0.0, 0.02])
def test_forces_and_energies_by_term_are_those_of_the_compiled_engine(softness, width):
    _, x, beads, box = melt()
    other = beads + np.random.default_rng(1).normal(0.0, 0.01, beads.shape)
    on, off = (
        e.forces(x, other, box, width, temperature=500.0, softness=softness) for e in engines()
    )
    np.testing.assert_allclose(on, off, rtol=0, atol=1e-5 * np.abs(off).max())
    for shifted in (False, True):
        on, off = (
            e.energies(x, other, box, width, temperature=500.0, shifted=shifted) for e in engines()
        )
        assert list(on) == list(off)
        for name, values in off.items():
            np.testing.assert_allclose(
                on[name], values, rtol=1e-5, atol=1e-5 * np.abs(values).max(), err_msg=name
            )
    assert (off["bead"].max() > 1.0) == (width > 0.0)


def test_terms_without_a_function_are_differentiated(monkeypatch):
    mapping, x, beads, box = short_chains()
    whole = on_card(mapping, rigid=False)
    left = {k: v for k, v in bonded.KERNELS.items() if k not in ("angle", "improper")}
    monkeypatch.setattr(card, "KERNELS", left)
    without = on_card(mapping, rigid=False)
    np.testing.assert_allclose(
        without.forces(x, beads, box), whole.forces(x, beads, box), rtol=0, atol=1e-6
    )
    one, other = (e.energies(x, beads, box)["angle"] for e in (whole, without))
    np.testing.assert_allclose(other, one, rtol=1e-12)
    assert one.min() > 0.0


# --- noise ----------------------------------------------------------------------------------------


def test_noise_is_that_of_the_compiled_loops():
    mapping, x, beads, box = short_chains()
    engine = on_card(mapping)
    names = hash_counters(5, torch.arange(len(x))).numpy()
    state = engine._state(x, beads, 0.0, names, box)
    found = engine._noise(state, torch.tensor(17)).numpy()
    bits = hash_counters(torch.tensor(names), 17).numpy().astype(np.uint64)
    pieces = [(bits >> np.uint64(14 * c)) & np.uint64((1 << 14) - 1) for c in range(3)]
    assert np.array_equal(found, noise.quantiles()[np.stack(pieces, axis=1).astype(np.int64)])


# --- constraints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("noisy", [0.002, 0.02])
@pytest.mark.parametrize("block", [256, 24])
def test_bonds_and_beads_are_exact_and_where_the_compiled_solver_puts_them(
    noisy, block, monkeypatch
):
    monkeypatch.setattr(held, "BLOCK", block)
    mapping, x, beads, _ = melt()
    rough = x + np.random.default_rng(0).normal(0.0, noisy, x.shape)
    found = on_card(mapping).project(rough, beads)
    assert on_constraints(mapping, found.positions, beads) < TOLERANCE
    assert not len(found.strained) and not len(found.broken)
    expected = engines()[1].project(rough, beads).positions
    # equations of blocks are solved to a part in a thousand, so that the way there differs a little
    off = np.abs(found.positions - expected).max()
    assert off < (1e-5 if block == 256 else 5e-3 * np.abs(expected - rough).max())


def test_blocks_are_cut_so_that_each_row_is_in_one_and_all_entries_near(monkeypatch):
    mapping = melt()[0]
    exact = [np.ones(m.n_beads, dtype=bool) for m in mapping.molecules]
    how = {"rigid": True, "lightest": 3.0, "device": torch.device("cpu")}
    whole = held.held_of(mapping, exact, **how)
    monkeypatch.setattr(held, "BLOCK", 40)
    cut = held.held_of(mapping, exact, **how)
    assert whole.whole and not cut.whole
    for tables in (whole, cut):
        assert len(torch.unique(tables.places)) == tables.n_rows
    assert max(size for *_, size in cut.batches) <= 48
    # neighbours stay together: most entries are inside blocks
    assert len(whole.entries) == 2 * len(whole.high)
    assert len(cut.entries) > 0.6 * len(whole.entries)


def test_inverses_of_whole_molecules_solve_at_once_and_those_of_blocks_in_the_end(monkeypatch):
    mapping, x, beads, box = melt()
    rng = np.random.default_rng(3)
    for block, iterations in ((256, 1), (40, 60)):
        monkeypatch.setattr(held, "BLOCK", block)
        engine = on_card(mapping)
        s = engine._state(x, beads, 0.0, None, box)
        a = held.matrix(s.held, held.units(s.held, s.x, None), s.active)
        right = torch.tensor(rng.normal(size=s.held.n_rows))
        y = held.solve(s.held, a, held.invert(s.held, a), right, iterations)
        assert float((held.multiply(s.held, a, y) - right).abs().max()) < 1e-8
        # the matrix is what moves do to constraints
        u = held.units(s.held, s.x, None)
        again = held.changes(s.held, u, held.move(s.held, u, y), s.active)
        assert float((again - right).abs().max()) < 1e-6


def test_tangents_are_those_of_the_compiled_solver():
    _, x, beads, _ = melt()
    on, off = engines()
    x = off.project(x, beads).positions
    v = np.random.default_rng(4).normal(size=x.shape)
    np.testing.assert_allclose(on.tangent(x, v), off.tangent(x, v), rtol=0, atol=1e-7)


def test_small_moves_come_back_along_the_directions_they_left():
    mapping, x, beads, _ = melt()
    on, off = engines()
    at = off.project(x, beads).positions
    moved = at + np.random.default_rng(5).normal(0.0, 0.002, x.shape)
    found, expected = (e.project(moved, beads, at=at) for e in (on, off))
    assert on_constraints(mapping, found.positions, beads) < TOLERANCE
    np.testing.assert_allclose(found.positions, expected.positions, rtol=0, atol=3e-6)


def test_beads_out_of_reach_are_named_and_bonds_stay_exact():
    mapping, x, beads = straight(10)
    far = beads.copy()
    far[5] += [0.0, 0.3, 0.0]
    found, expected = (e.project(x, far) for e in (on_card(mapping), Mechanics(mapping)))
    assert bonds_off(mapping, found.positions).max() < TOLERANCE
    assert np.array_equal(found.strained, expected.strained)
    assert len(found.strained)
    on, off = (beads_off(mapping, r.positions, far).max() for r in (found, expected))
    assert on == pytest.approx(off, rel=0.02)


# --- steps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.0, 0.02, np.inf])
def test_the_melt_takes_the_same_steps_as_by_the_compiled_engine(width):
    mapping, x, beads, box = melt()
    names = hash_counters(7, torch.arange(len(x))).numpy()
    on, off = (e.run(x, beads, box, Langevin(20, 568.0), names, width, every=10) for e in engines())
    assert np.abs(on.positions - off.positions).max() < 1e-4
    np.testing.assert_allclose(on.kinetic, off.kinetic, rtol=1e-4)
    assert np.linalg.norm(on.positions - x, axis=1).max() > 0.03
    assert [o.step for o in on.observed] == [o.step for o in off.observed] == [10, 20]
    for name, values in off.observed[0].energies.items():
        np.testing.assert_allclose(
            on.observed[0].energies[name], values, rtol=1e-3, atol=0.05, err_msg=name
        )
    assert bonds_off(mapping, on.positions).max() < TOLERANCE
    if width == 0.0:
        assert np.abs(map_positions(mapping, on.positions) - beads).max() < TOLERANCE


@pytest.mark.parametrize("width", [0.0, 0.02])
@pytest.mark.parametrize("name", SYSTEMS)
def test_so_do_molecules_of_every_make(name, width):
    """From shaken starts: a flat ring has nearly dependent constraints, which magnify roundings."""
    mapping, flat = SYSTEMS[name]()
    shaken = flat + np.random.default_rng(8).normal(0.0, 0.02, flat.shape)
    x = Mechanics(mapping).project(shaken, map_positions(mapping, flat), np.inf).positions
    beads, names = map_positions(mapping, x), np.arange(len(x))
    on, off = (
        e.run(x, beads, BOX, Langevin(20, 400.0), names, width)
        for e in (on_card(mapping), Mechanics(mapping))
    )
    assert np.abs(on.positions - off.positions).max() < 1e-4
    assert bonds_off(mapping, on.positions).max() < TOLERANCE
    if width == 0.0:
        assert beads_off(mapping, on.positions, beads).max() < TOLERANCE


@pytest.mark.parametrize("width", [0.0, 0.01])
def test_molecules_bonded_to_their_own_images_hold(endless, width):
    _, mapping, x, moved = endless
    field = ForceField.from_topology(mapping.topology, cutoff=0.9, reaction_field_epsilon=None)
    beads, names = map_positions(mapping, x, ENDLESS), np.arange(len(x))
    springs = on_card(mapping, rigid=False, cutoff=0.9, epsilon=None)
    shaken = moved + np.random.default_rng(5).normal(0.0, 0.01, x.shape)
    expected = autograd_forces(field, shaken, ENDLESS)
    found = springs.forces(shaken, beads, ENDLESS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    run = on_card(mapping).run(moved, beads, ENDLESS, Langevin(20, 300.0), names, width)
    bonds = mapping.topology.molecule_types[0].bonds
    both = np.concatenate([bonds, bonds + len(x) // 2])
    d = minimum_image(run.positions[both[:, 0]] - run.positions[both[:, 1]], ENDLESS)
    np.testing.assert_allclose(np.linalg.norm(d, axis=1), 0.154, atol=TOLERANCE)
    off = minimum_image(map_positions(mapping, run.positions, ENDLESS) - beads, ENDLESS)
    assert np.abs(off).max() < (TOLERANCE if width == 0.0 else 0.06)
    assert np.linalg.norm(run.positions - moved, axis=1).max() > 0.005


@pytest.mark.parametrize(
    ("name", "value"), [("CHECK", 50), ("CHECK", 1), ("ROUNDS", 1), ("WHOLE", 1)]
)
def test_how_often_the_host_looks_and_how_careful_it_begins_change_nothing(
    name, value, monkeypatch
):
    """Runs that went too far for their lists or missed their constraints are taken back."""
    mapping, x, beads, box = short_chains()
    names, how = np.arange(len(x)), Langevin(40, 500.0)
    expected = on_card(mapping).run(x, beads, box, how, names)
    monkeypatch.setattr(card, name, value)
    found = on_card(mapping).run(x, beads, box, how, names)
    assert on_constraints(mapping, found.positions, beads) < TOLERANCE
    # chains that touch pull roundings apart
    assert np.median(np.abs(found.positions - expected.positions)) < 1e-6
    assert np.abs(found.positions - expected.positions).max() < 1e-4


def test_constraints_that_small_moves_do_not_reach_are_reached_by_newtons_method(monkeypatch):
    mapping, x, beads, box = short_chains()
    names, how = np.arange(len(x)), Langevin(5, 500.0)
    expected = on_card(mapping).run(x, beads, box, how, names)
    monkeypatch.setattr(card, "MOST_ROUNDS", 2)
    monkeypatch.setattr(card, "ROUNDS", 2)
    monkeypatch.setattr(held, "shake", lambda h, a, i, u, x, *_: (x, torch.ones(h.n_rows).double()))
    found = on_card(mapping).run(x, beads, box, how, names)
    assert on_constraints(mapping, found.positions, beads) < TOLERANCE
    assert np.abs(found.positions - expected.positions).max() < 0.002


@pytest.mark.parametrize("block", [256, 40])
def test_without_friction_energy_is_conserved(block, monkeypatch):
    """1 fs, rigid bonds and held beads: energies of the same size change hands, none is lost."""
    monkeypatch.setattr(held, "BLOCK", block)
    system = benders(27)
    engine = on_card(system[0], lightest=0.0)
    total, swing = energies_without_friction(engine, system, 200, 6)
    assert np.ptp(total) < 0.01 * total[0]
    assert np.ptp(swing) > 5 * np.ptp(total)


def test_the_melt_conserves_energy_with_its_pairs():
    mapping, x, beads, box = melt()
    engine, names = on_card(mapping, lightest=0.0), np.arange(len(x))
    warm = engine.run(x, beads, box, Langevin(40, 300.0, timestep=0.001), names)
    how = Langevin(60, 1.0, timestep=0.0005, friction=0.0, largest_move=1.0)
    run = engine.run(warm.positions, beads, box, how, names, velocities=warm.velocities, every=10)
    total = []
    for seen in run.observed[:-1]:
        shifted = engine.energies(seen.positions, beads, box, shifted=True)
        potential = sum(v.sum() for name, v in shifted.items() if name != "bond")
        total.append(potential + run.kinetic[seen.step : seen.step + 2].mean())
    assert np.ptp(total) < 0.01 * run.kinetic[1:].mean()
    assert np.ptp(run.kinetic[1:]) > 3 * np.ptp(total)


def test_what_is_lost_is_said_and_small_boxes_are_refused():
    mapping, x, beads, box = short_chains()
    engine, names = on_card(mapping), np.arange(len(x))
    lost = x.copy()
    lost[60] = np.nan
    with pytest.raises(LostError, match="molecule 2"):
        engine.run(lost, beads, box, Langevin(2, 300.0), names)
    with pytest.raises(ValueError, match="heights of at least"):
        engine.run(x, beads, np.eye(3), Langevin(1, 300.0), names)
    with pytest.raises(ValueError, match="far_every"):
        on_card(mapping, far_every=2)


def without_data(value):
    """The same with tensors on torch's device ``meta``, which have shapes and no numbers."""
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: without_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if type(value) in (list, tuple):
        return type(value)(without_data(v) for v in value)
    return value


def test_no_number_of_a_step_is_looked_at_and_all_are_on_one_device(monkeypatch):
    """Looking at a number of a tensor without any is an error, and so is one of another device: so
    nothing in a step waits for the host."""
    monkeypatch.setitem(pairs.PAIRS_AT_ONCE, "meta", 1 << 18)
    mapping, x, beads, box = short_chains()
    engine = on_card(mapping)
    widths = np.where(np.arange(len(beads)) % 2, 0.02, 0.0)
    s = engine._state(x, beads, widths, np.arange(len(x)), box)
    engine._list_pairs(s)
    engine._renew_inverses(s)
    kinetic = torch.zeros(3, dtype=torch.float64)
    how = card._How(kinetic + 3.0, kinetic, engine._parameters(0.5), 0.95, 0.002, 0.003, 0)
    engine._step(s, how)
    assert float(kinetic[1]) > 0.0
    for name in ("_pairs", "_listed", "_shares", "_masses", "_normal"):
        setattr(engine, name, without_data(getattr(engine, name)))
    engine.device = torch.device("meta")
    s, how = without_data(s), without_data(how)
    with torch.no_grad():
        engine._step(s, how)
        s.rounds = 0
        with pytest.raises(RuntimeError, match="item"):  # Newton's method does look
            engine._step(s, how)


# --- where it is chosen ---------------------------------------------------------------------------


def test_the_device_says_which_engine():
    mapping = short_chains()[0]
    assert type(settle.open_mechanics(mapping)) is Mechanics
    assert type(settle.open_mechanics(mapping, device="cpu")) is Mechanics
    # a device without numbers stands for a card
    seen = []
    stand_in = lambda *_, **options: seen.append(options["device"])  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "open_mechanics", stand_in)
        LastSteps(mapping, SettlingOptions(), 300.0, device=torch.device("cuda"))
    assert seen == [torch.device("cuda")]


def test_frames_settle_on_it_as_by_the_compiled_engine(monkeypatch):
    mapping, x, beads, box = melt()
    options = settle.SettleOptions(568.0, steps=10)
    names = np.arange(len(x))
    expected = Settler(mapping, threads=1).settle(x, beads, box, names, options)
    monkeypatch.setattr(settle, "open_mechanics", lambda m, **_: on_card(m))
    found = Settler(mapping).settle(x, beads, box, names, options)
    assert found.evaluations == expected.evaluations
    assert found.widths == expected.widths
    assert np.abs(found.positions - expected.positions).max() < 1e-3
    assert np.abs(map_positions(mapping, found.positions) - beads).max() < TOLERANCE

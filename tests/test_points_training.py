"""Training of point models: data and their labels, what is drawn, steps, exact resume, commands."""

import copy
import dataclasses
import io
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from checkpoints import equal
from cli_systems import ALTERNATING, command, refused, write_system
from deepbackmap.api.train import train
from deepbackmap.blocks.symmetry import block_flips
from deepbackmap.config import load_train_config
from deepbackmap.data.options import DataOptions
from deepbackmap.dynamics.containers import Minimisation
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.methods.learning import seeded
from deepbackmap.methods.points.learner import PointLearner
from deepbackmap.methods.points.losses import draw_loss, measure_spread, path_loss
from deepbackmap.methods.points.networks import NARROWEST, SPREADS, WIDEST
from deepbackmap.methods.points.options import PointTrainingOptions
from deepbackmap.methods.points.samples import draw
from deepbackmap.model.header import read_spec
from small_polystyrene import (
    ATOMS,
    TINY_POINTS,
    atoms,
    mapping,
    point_frames,
    point_specification,
)

OPTIONS = PointTrainingOptions(
    iterations=6, batch=12, frames=2, learning_rate=2e-3, beta1=0.9, beta2=0.99, weight_decay=0.01,
    warmup=2, decay=True, settled=0.4, jitter=0.003, average=0.9, clip=2.0,
)  # fmt: skip
SPEC = point_specification()
STATES = [atoms(k) for k in range(3)]


@pytest.fixture(scope="module")
def data():
    return point_frames(SPEC, STATES, temperatures=(500.0, 400.0, 600.0))


def trainer(data, options=OPTIONS, spec=SPEC, state=None):
    made = PointLearner(Fabric(accelerator="cpu", devices=1), spec, options)
    if state is not None:
        made.restore(state)
    made.attach([data], [data])
    return made


def drawn(one, seed=0, *, size=12, frames=2, settled=0.5, jitter=0.0):
    return draw(one.generator, one.data, size, frames, settled, jitter, seeded(0, seed))


# --- data -----------------------------------------------------------------------------------------


def ring_flips():
    molecule, blocks = mapping().topology.molecule_types[0], mapping().molecules[0]
    return block_flips(molecule, blocks)


def test_labels_of_ring_sides_do_not_matter(data):
    random = np.random.default_rng(0)
    relabelled, count = [], 0
    for frame in STATES:
        x = frame.positions.copy().reshape(3, ATOMS, 3)
        for chain, flip in ((c, f) for c in range(3) for f in ring_flips()):
            if random.random() < 0.5:
                x[chain, flip.atoms] = x[chain, flip.images]
                count += 1
        relabelled.append(dataclasses.replace(frame, positions=x.reshape(-1, 3)))
    assert 5 < count < 22
    other = point_frames(SPEC, relabelled)
    for t in ("A", "B"):
        torch.testing.assert_close(other.local(t), data.local(t), atol=1e-6, rtol=0)


def test_ring_sides_point_one_way(data):
    flip = ring_flips()[0]
    ahead = flip.atoms < flip.images
    pairs = np.stack([flip.atoms[ahead], flip.images[ahead]])
    table = data.tables.types["B"]
    row = int((table.beads == flip.bead).nonzero())
    slots = [[table.own[row].tolist().index(a) for a in side] for side in pairs.tolist()]
    local = data.local("B").unflatten(-1, (-1, 3))
    sides = (local[:, :, slots[0]] - local[:, :, slots[1]]).sum(2).flatten(0, 1)
    axis = torch.linalg.eigh(sides.T @ sides)[1][:, -1]
    along = sides @ axis
    assert bool((along > 0).all() or (along < 0).all())


def test_whitening_takes_its_statistics_from_the_frames_once(data):
    one = trainer(data)
    before = {k: v.clone() for k, v in one.generator.state_dict().items()}
    one.iteration = 3
    one.attach([point_frames(SPEC, [atoms(7)])], [])
    assert equal(before, dict(one.generator.state_dict()))
    one.attach([data], [data])


# --- what is drawn --------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same(data):
    one = trainer(data)
    first, again, other = drawn(one, 0), drawn(one, 0), drawn(one, 1)
    for t, sample in first.items():
        for name in sample.__dataclass_fields__:
            assert torch.equal(getattr(sample, name), getattr(again[t], name)), name
        assert not torch.equal(sample.noisy, other[t].noisy)


def test_samples_are_on_their_paths(data):
    one = trainer(data)
    for seed in range(5):
        for t, sample in drawn(one, seed, frames=3).items():
            assert len(sample.angle) == 12, t
            assert float(sample.angle.min()) >= 0
            assert float(sample.angle.max()) < 0.5 * math.pi
            c, s = sample.angle.cos()[:, None], sample.angle.sin()[:, None]
            noise = (sample.noisy - s * sample.end) / (c * sample.heat[:, None])
            real = sample.real == 1
            assert bool((sample.noisy[~real] == 0).all())
            near = (sample.angle < 1.5)[:, None] & real
            if int(near.sum()) > 50:
                assert float(noise[near].mean().abs()) < 0.25
                assert float(noise[near].std()) == pytest.approx(1.0, rel=0.2)
            heats = {round(math.sqrt(k / 500.0), 4) for k in (400.0, 500.0, 600.0)}
            assert {round(h, 4) for h in sample.heat.tolist()} <= heats


def test_settled_surroundings_are_those_of_the_data(data):
    one = trainer(data)
    still = drawn(one, 2, settled=1.0, frames=1, size=9)["A"]
    moving = drawn(one, 2, settled=0.0, frames=1, size=9)["A"]
    assert torch.equal(still.noisy, moving.noisy)
    assert not torch.equal(still.fixed, moving.fixed)
    # told which it is: the last number
    assert set(still.fixed[:, -1].tolist()) == {1.0}
    assert set(moving.fixed[:, -1].tolist()) == {0.0}


def test_jitter_changes_what_is_seen_and_not_the_blocks(data):
    one = trainer(data)
    plain, noisy = (drawn(one, 3, frames=1, jitter=j, settled=0.0)["B"] for j in (0.0, 0.01))
    # the same blocks in another order: by where their paths end
    order, other = (s.end[:, 0].argsort() for s in (plain, noisy))
    assert torch.equal(plain.noisy[order], noisy.noisy[other])
    assert not torch.equal(plain.fixed[order], noisy.fixed[other])
    assert float((plain.seen[order] - noisy.seen[other]).abs().max()) > 0.01


# --- steps ----------------------------------------------------------------------------------------


def test_the_loss_falls(data):
    options = dataclasses.replace(
        OPTIONS, iterations=40, batch=12, settled=0.0, jitter=0.0, average=0.5, weight_decay=0.0,
        learning_rate=5e-3,
    )  # fmt: skip
    one = trainer(data, options)
    before = one.validate(batches=3)
    for _ in range(40):
        parts = one.step()
        assert all(bool(torch.isfinite(v).all()) for v in parts.values())
    after = one.validate(batches=3)
    assert after["validation_main"] < 0.8 * before["validation_main"]
    for t in ("A", "B"):
        spread = one.generator.flow(t).network.spread
        assert float(spread.min()) >= NARROWEST
        assert float(spread.max()) <= WIDEST
        assert float((spread - 0.5).abs().max()) > 0.01  # it was measured
        # what is saved has what was measured
        assert torch.equal(spread, one.result.flow(t).network.spread)


def test_a_measured_spread_comes_to_what_is_there(data):
    one = trainer(data)
    flow, sample = one.generator.flow("A"), drawn(one, 0)["A"]
    start = flow.network.spread.clone()
    sample = dataclasses.replace(sample, angle=torch.full_like(sample.angle, 0.3))
    off = 0.2 * sample.heat[:, None].expand_as(sample.end)
    for _ in range(900):
        measure_spread(flow, sample, off.square())
    row = round(0.3 * 2 / math.pi * (SPREADS - 1))
    met = (sample.real == 1).all(0)  # what few blocks have comes there later
    none = (sample.real == 0).all(0)
    torch.testing.assert_close(
        flow.network.spread[row, met], torch.full_like(start[row, met], 0.2), atol=0.02, rtol=0
    )
    rest = torch.arange(SPREADS) != row
    assert torch.equal(flow.network.spread[rest], start[rest])
    assert torch.equal(flow.network.spread[row, none], start[row, none])
    for size, bound in ((0.0, NARROWEST), (50.0, WIDEST)):
        for _ in range(900):
            measure_spread(flow, sample, size * torch.ones_like(sample.end))
        torch.testing.assert_close(
            flow.network.spread[row, met], torch.full_like(start[row, met], bound)
        )


def test_a_perfect_answer_has_no_loss(data):
    one = trainer(data)
    sample = drawn(one, 0)["B"]
    flow = one.generator.flow("B")
    plain = copy.deepcopy(flow)
    plain.network.forward = lambda *a: (sample.end, sample.end, torch.ones_like(sample.end))
    parts, deviation = path_loss(plain, sample)
    assert all(float(v) == 0.0 for v in parts.values())
    assert float(deviation.max()) == 0.0


def test_validation_is_the_same_every_time_and_changes_nothing(data):
    one = trainer(data)
    before = {k: v.clone() for k, v in one.generator.state_dict().items()}
    first, second = one.validate(batches=2), one.validate(batches=2)
    assert first == second
    assert {"validation_main", "validation_A_distance", "validation_B_end"} <= set(first)
    assert equal(before, dict(one.generator.state_dict()))


@pytest.mark.parametrize(("dropout", "target"), [(0.0, "flow"), (0.2, "flow"), (0.0, "critic")])
def test_a_restored_trainer_goes_on_bit_by_bit(data, dropout, target):
    options = dataclasses.replace(OPTIONS, target=target)
    network = dataclasses.replace(TINY_POINTS, dropout=dropout)
    spec = dataclasses.replace(SPEC, options=dataclasses.replace(SPEC.options, network=network))
    straight = trainer(data, options, spec)
    for _ in range(3):
        straight.step()
    kept = io.BytesIO()
    torch.save(straight.state(), kept)
    for _ in range(3):
        straight.step()
    torch.rand(7)  # the state of the global generator must not matter
    resumed = trainer(
        data, dataclasses.replace(options), spec,
        torch.load(io.BytesIO(kept.getvalue()), weights_only=True),
    )  # fmt: skip
    assert resumed.iteration == 3
    for _ in range(3):
        resumed.step()
    assert equal(straight.state(), resumed.state())
    with torch.no_grad():
        ends = [
            path_loss(one.result.eval().flow("A"), drawn(one, 5)["A"])[0]["end"]
            for one in (straight, resumed)
        ]
    assert torch.equal(*ends)


# --- draws in one step ----------------------------------------------------------------------------


def one_step(trainer_, seed=0):
    return draw(
        trainer_.generator, trainer_.data, 12, 2, 0.5, 0.0, seeded(0, seed), paths=False
    )  # fmt: skip


def test_the_score_of_a_network_without_spread_is_its_distance(data):
    """A fresh network ignores the noise: both draws are its mean, and are nowhere apart."""
    fresh = trainer(data, dataclasses.replace(OPTIONS, target="draw"))
    sample = one_step(fresh)["A"]
    assert bool((sample.angle == 0).all())
    flow = fresh.generator.flow("A")
    with torch.no_grad():
        found, deviation = draw_loss(flow, sample)
    size = flow.network.spread[0].clamp_min(1e-3) * sample.heat[:, None]
    off = ((sample.end / size) * sample.real).square().sum(1).sqrt()
    assert float(found["end"]) == pytest.approx(float(off.mean()), abs=2e-3)
    torch.testing.assert_close(deviation, sample.end.square())


def test_draws_spread_as_far_as_the_data(data):
    """The energy score rewards spread: a network that is trained by it learns to use the noise."""
    options = dataclasses.replace(
        OPTIONS, target="draw", iterations=60, batch=24, settled=0.0, learning_rate=0.01,
        warmup=1, decay=False,
    )  # fmt: skip
    one = trainer(data, options)
    before = float(one.step()["A_end"])
    for _ in range(59):
        last = one.step()
    assert float(last["A_end"]) < 0.9 * before
    sample, flow = one_step(one, 3)["A"], one.generator.flow("A")
    with torch.no_grad():
        ends = [
            flow.network(n, sample.angle, sample.heat, sample.fixed, sample.seen)[0]
            for n in (sample.noisy, sample.noisy.roll(1, 0))
        ]
    assert float((ends[0] - ends[1]).abs().max()) > 0.1
    assert "validation_A_end" in one.validate(batches=1)


def test_a_critic_tells_data_from_draws_and_the_generator_follows(data):
    options = dataclasses.replace(
        OPTIONS, target="critic", settled=0.0, batch=24, critic_steps=5, penalty=1.0,
        critic_learning_rate=0.01, beta1=0.5, warmup=1, decay=False,
    )  # fmt: skip
    one = trainer(data, options)
    assert one.adversary is not None
    critic = one.adversary._critics[one.generator.names.index("A")]
    sample, flow = one_step(one, 3)["A"], one.generator.flow("A")

    def judged():
        with torch.no_grad():
            fake = flow.network(sample.noisy, sample.angle, sample.heat, sample.fixed, sample.seen)
            both = torch.cat([sample.end * sample.real, fake[0] * sample.real])
            on_real, on_fake = critic(both, sample.fixed, sample.seen).chunk(2)
        return float((on_real - on_fake).mean()), fake[0]

    fresh = judged()[1].clone()
    one.optimiser.param_groups[0]["lr"] = 0.0
    for _ in range(4):
        one._learn("A", one_step(one, 3)["A"])
    apart, still = judged()
    assert apart > 0.1
    assert torch.equal(still, fresh)
    one.step()
    assert not torch.equal(judged()[1], fresh)
    assert "validation_A_distance" in one.validate(batches=1)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target: expected one of flow, draw, critic, got 'guess'"):
        PointTrainingOptions(target="guess")


# --- commands -------------------------------------------------------------------------------------

CONFIG = """method: points
data:
  topology: topol.top
  mapping: ps-two-bead
  structure: aa.gro
  trajectory: aa.xtc
  train: "0:2"
  validate: "2:3"
  temperature: 500
points: {cutoff: 0.4, radial: 4, chain: 2}
network: {width: 16, blocks: 1, channels: 2, times: 2}
training: {iterations: 4, batch: 8, frames: 2, learning_rate: 2.0e-3, average: 0.9, log_every: 1,
  checkpoint_every: 2, validate_every: 4}
"""


@pytest.fixture(scope="module")
def melt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("melt")
    write_system(folder)
    (folder / "train.yaml").write_text(CONFIG)
    return folder


def run(melt, folder, *overrides, **options):
    return train(
        melt / "train.yaml", overrides, run_folder=folder, progress=False, device="cpu", **options
    )


def metrics(folder):
    lines = [json.loads(s) for s in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in s.items() if k != "seconds_per_iteration"} for s in lines]


def test_a_resumed_run_is_the_uninterrupted_one_and_makes_structures(melt, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(melt, whole)
    assert not run(melt, parts, stop_after=0.0)
    assert torch.load(parts / "checkpoint.pt", weights_only=True)["iteration"] == 1
    assert run(melt, parts)
    assert metrics(whole) == metrics(parts)
    assert "validation_main" in metrics(whole)[-1]
    weights = [load_file(folder / "model.safetensors") for folder in (whole, parts)]
    assert equal(*weights)
    spec = read_spec(whole / "model.safetensors")
    assert spec.method == "points"
    assert spec.handedness == ALTERNATING
    assert set(spec.options.vocabulary.own) == {"A", "B"}
    assert not spec.rigid  # atoms of this melt were shaken
    assert not list(whole.glob("dynamics-*"))
    # A finished run writes its model anew, and nothing else is asked of another options' folder.
    (whole / "model.safetensors").unlink()
    assert run(melt, whole)
    assert equal(load_file(whole / "model.safetensors"), weights[0])
    with pytest.raises(InputError, match="expected a run with the same 'network' section"):
        run(melt, whole, "network.width=24")
    made = command(
        "backmap", melt / "cg.gro", "-p", melt / "topol.top", "-o", tmp_path / "aa.gro",
        "--model", whole / "model.safetensors", "--sweeps", 0, "--steps", 2,
    )  # fmt: skip
    assert made.code == 0, made.err
    assert json.loads((tmp_path / "aa.gro.json").read_text())["summary"]["options"]["steps"] == 2


def test_the_forcefields_dynamics_adds_frames(melt, tmp_path):
    pytest.importorskip("openmm")
    topology = read_topology(melt / "topol.top")
    engine = open_engine(topology, name="openmm-cpu")
    relaxed = engine.minimise(read_frames(melt / "aa.gro")[0], Minimisation(steps=200)).structure
    with open_writer(tmp_path / "start.gro", atom_table(topology)) as writer:
        writer.write(relaxed)
    dynamics = (
        f"data.structure={tmp_path / 'start.gro'}", "data.trajectory=''",
        "data.dynamics='568'", "data.picoseconds=0.02", "data.every=0.01", "data.train='0:1'",
        "data.engine=openmm-cpu", "data.validate=''", "training.iterations=2",
    )  # fmt: skip
    assert run(melt, tmp_path / "run", *dynamics)
    kept = tmp_path / "run" / "dynamics-0000.npz"
    with np.load(kept) as found:
        frames, temperatures = found["frames"], found["temperatures"]
    assert frames.shape[1:] == (3 * ATOMS + 3, 3)
    assert len(frames) == len(temperatures) >= 1
    assert set(temperatures.tolist()) == {568.0}
    assert np.isfinite(frames).all()
    assert read_spec(tmp_path / "run" / "model.safetensors").temperatures == (500.0, 568.0)
    before = kept.read_bytes()
    assert run(melt, tmp_path / "run", *dynamics)
    assert kept.read_bytes() == before


def test_dynamics_of_other_options_is_not_taken_for_what_is_asked(melt, tmp_path, monkeypatch):
    """As where a run was stopped before its first checkpoint, and another is asked for."""
    made = read_frames(melt / "aa.gro")[0]
    rows = np.concatenate([made.positions, made.box])[None].astype(np.float32)
    monkeypatch.setattr("deepbackmap.data.dynamics.open_engine", _Repeating(made))
    folder, short = tmp_path / "run", ("data.validate=''", "data.train='0:1'")
    assert run(melt, folder, *short, "data.dynamics='568'")
    (folder / "checkpoint.pt").unlink()
    assert run(melt, folder, *short, "data.dynamics='430'")
    with np.load(folder / "dynamics-0000.npz") as found:
        assert found["frames"].shape[1:] == rows.shape[1:]
    assert read_spec(folder / "model.safetensors").temperatures == (430.0, 500.0)


def test_damaged_frames_of_dynamics_are_named(melt, tmp_path, monkeypatch):
    made = read_frames(melt / "aa.gro")[0]
    monkeypatch.setattr("deepbackmap.data.dynamics.open_engine", _Repeating(made))
    folder, options = tmp_path / "run", ("data.validate=''", "data.train='0:1'")
    assert run(melt, folder, *options, "data.dynamics='568'")
    kept = folder / "dynamics-0000.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(InputError, match=r"dynamics-0000\.npz: expected frames of dynamics of an"):
        run(melt, folder, *options, "data.dynamics='568'")


class _Repeating:
    """In place of an engine: every frame it makes is the same."""

    name = "repeating"

    def __init__(self, frame):
        self.frame = frame

    def minimise(self, structure, options, hold=None):
        raise AssertionError("not asked for")

    def __call__(self, topology, name):
        return self

    def run(self, structure, options):
        frames = [self.frame] * (options.steps // options.frames_every)
        return SimpleNamespace(frames=frames, structure=self.frame)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.dynamics='abc'", "dynamics: expected temperatures in K with commas, got 'abc'"),
        ("data.dynamics='500,-3'", "dynamics: expected temperatures in K with commas"),
        ("data.every=0", "every: expected a positive time"),
        ("method=pixels", "method: expected one of voxel, points, physics, found 'pixels'"),
        ("points.depth=0", "points.depth: expected a whole number from 1 to 16, got 0"),
        ("network.width=0", "network.width: expected a whole number from 1 to 8192, got 0"),
        ("points.size=3", "unknown key 'points.size'"),
    ],
)
def test_wrong_options_are_refused_with_one_sentence(melt, tmp_path, override, words):
    message = refused("train", melt / "train.yaml", "--run", tmp_path / "run", override)
    assert words in message
    assert not (tmp_path / "run").exists()


def test_messages_name_the_key_as_it_is_written(melt):
    with pytest.raises(InputError) as caught:
        load_train_config(melt / "train.yaml", ["method=pixels"])
    assert ": method: expected" in str(caught.value)


def test_temperatures_of_dynamics_are_read_in_order():
    assert DataOptions(dynamics="568, 430,313").temperatures() == (568.0, 430.0, 313.0)
    assert DataOptions().temperatures() == ()

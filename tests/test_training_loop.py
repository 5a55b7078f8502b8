"""Data set and training loop: batches, steps, exact resume, workers that agree."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from deepbackmap.blocks.index import relative_positions
from deepbackmap.data.systems import map_whole
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.methods.learning import seeded
from deepbackmap.methods.options import Ramp
from deepbackmap.methods.voxel.batches import VoxelFrames
from deepbackmap.methods.voxel.environment import STAGES
from deepbackmap.methods.voxel.grid import gaussian_basis
from deepbackmap.methods.voxel.learner import VoxelLearner
from deepbackmap.methods.voxel.options import VoxelTrainingOptions
from deepbackmap.training.checkpoints import save_checkpoint
from deepbackmap.training.run import run
from small_polystyrene import (
    ATOMS,
    BEADS,
    SKEWED,
    atoms,
    beads,
    blocks,
    mapping,
    specification,
    training_system,
)

CPU = torch.device("cpu")
SPEC = specification(radius=0.45)
OPTIONS = VoxelTrainingOptions(
    iterations=4,
    batch=3,
    critic_steps=1,
    adversarial=Ramp(1.0, 1.0),
    prior=Ramp(0.0, 0.01, 0, 2),
    score=Ramp(1.0, 1.0),
    jitter=0.005,
    average=0.9,
    decay=True,
    clip=5.0,
    drift=0.001,
    log_every=1,
    checkpoint_every=2,
    validate_every=2,
)
"""Everything is switched on."""


def wrapped(structure, seed=0):
    """The same frame with every atom in another image."""
    shifts = np.random.default_rng(seed).integers(-1, 2, structure.positions.shape) @ SKEWED
    return dataclasses.replace(structure, positions=structure.positions + shifts)


@pytest.fixture(scope="module")
def data():
    return VoxelFrames(SPEC, training_system([atoms(0), atoms(1)]), CPU)


def trainer(data, options=OPTIONS, spec=SPEC):
    made = VoxelLearner(
        Fabric(accelerator="cpu", devices=1, precision=options.precision), spec, options
    )
    made.attach(data, data)
    return made


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[k], other[k]) for k in one)


# --- data set ---------------------------------------------------------------------------------


def test_beads_and_relative_positions_make_up_the_frame():
    structure = atoms()
    found = map_whole(wrapped(structure), mapping())
    off = minimum_image(found - beads(structure).positions, SKEWED)
    np.testing.assert_allclose(off, 0.0, atol=1e-9)
    relative = relative_positions(wrapped(structure), mapping(), found)
    owner = blocks().atom_owner.numpy()
    np.testing.assert_allclose(
        relative, structure.positions - beads(structure).positions[owner], atol=1e-9
    )


def test_frames_do_not_depend_on_wrapping(data):
    other = VoxelFrames(SPEC, training_system([wrapped(atoms(0)), wrapped(atoms(1), 1)]), CPU)
    torch.testing.assert_close(other.relative, data.relative, atol=1e-6, rtol=0)
    torch.testing.assert_close(other.frames.rotation, data.frames.rotation, atol=1e-6, rtol=0)


def test_given_beads_are_used(data):
    given = [beads(atoms(k)).positions for k in (0, 1)]
    system = training_system([atoms(0), atoms(1)])
    same = VoxelFrames(SPEC, dataclasses.replace(system, beads=tuple(given)), CPU)
    torch.testing.assert_close(same.relative, data.relative)
    shifted = dataclasses.replace(system, beads=tuple(b + 0.01 for b in given))
    moved = VoxelFrames(SPEC, shifted, CPU)
    torch.testing.assert_close(moved.relative, data.relative - 0.01, atol=1e-6, rtol=0)


def draw(data, seed, **options):
    return data.draw(5, seeded(0, seed), **{"augment": False, "jitter": 0.0, **options})


def test_batches_hold_the_truth(data):
    """Turned back to the laboratory, the targets are where the frame has them."""
    owner = blocks().atom_owner
    for seed in range(6):
        batch = draw(data, seed, augment=True)
        turn = data.frames.rotation[batch.env.frame, batch.env.bead]
        back = batch.truth @ turn
        assert torch.equal(
            owner[batch.env.targets], batch.env.bead[:, None].expand_as(back[..., 0])
        )
        expected = data.relative[batch.env.frame[:, None], batch.env.targets]
        torch.testing.assert_close(back, expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(batch.env.own, batch.truth @ batch.turn.transpose(1, 2))
        torch.testing.assert_close(batch.env.atoms, batch.clean.atoms @ batch.turn.transpose(1, 2))
        # the atoms of a turned environment are not those of the clean one
        assert float((batch.env.own - batch.truth).abs().max()) > 0.01


def test_batches_waste_no_slot_and_meet_every_sequence(data):
    met = set()
    for seed in range(150):
        batch = draw(data, seed)
        assert bool(batch.env.target_valid.all())
        stage = batch.env.stage
        met |= {
            (stage.light, stage.first, int(f), int(b) % BEADS)
            for f, b in zip(batch.env.frame, batch.env.bead, strict=True)
        }
    assert len(met) == 4 * 2 * BEADS


def test_batches_are_named_by_their_generator(data):
    one, two, other = draw(data, 1), draw(data, 1), draw(data, 2)
    assert torch.equal(one.env.atoms, two.env.atoms)
    assert one.env.bead.tolist() != other.env.bead.tolist() or one.env.stage != other.env.stage


def test_jitter_moves_every_second_sample(data):
    sd, moves = 0.01, []
    for seed in range(30):
        batch = draw(data, seed, jitter=sd)
        assert torch.equal(batch.env.atoms[::2], batch.clean.atoms[::2])
        assert torch.equal(batch.env.own[::2], batch.clean.own[::2])
        assert torch.equal(batch.truth, batch.clean.own)
        moves.append((batch.env.own - batch.clean.own)[1::2].flatten())
    assert float(torch.cat(moves).std()) == pytest.approx(sd, rel=0.15)


def test_molecules_take_turns_in_the_first_pass():
    """Of another molecule's bead of the same rank, chance decides whether it is there yet."""
    wide = VoxelFrames(specification(radius=0.9), training_system([atoms(0)]), CPU)
    bead = torch.arange(3).repeat_interleave(16) * BEADS  # the first bead of each chain
    phase = torch.rand(48, 3, generator=torch.Generator().manual_seed(0))
    stage = next(s for s in STAGES if s.first and not s.light)
    batch = wide.batch(
        stage, torch.zeros_like(bead), bead, phase, torch.zeros(48), jitter=0.0, noise_seed=0
    )
    strangers = (batch.env.atom_valid & ~batch.env.atom_same).sum(1)
    mine = phase.gather(1, wide.blocks.bead_molecule[bead][:, None])
    alone = (phase >= mine).all(1)  # its turn is the first: nothing is there
    assert bool((strangers[alone] == 0).all())
    assert bool((strangers[~alone] > 0).any())


def test_canonical_frames_have_the_relabelled_atoms():
    plain = VoxelFrames(SPEC, training_system([atoms(0), atoms(1)]), CPU)
    found = VoxelFrames(SPEC, training_system([atoms(0), atoms(1)]), CPU, canonical=True)
    moved = (plain.relative != found.relative).any(-1)
    # rings only, and not every one
    local = torch.nonzero(moved)[:, 1] % ATOMS
    assert set(local.tolist()) <= {
        16 * m + k for m in range(3) for k in (6, 7, 8, 9, 12, 13, 14, 15)
    }
    assert 0 < int(moved.sum()) < 2 * 3 * 3 * 8


def test_a_box_that_is_too_small_is_refused():
    flat = dataclasses.replace(atoms(), box=np.diag([5.0, 5.0, 0.8]))
    with pytest.raises(InputError, match=r"training frame 1: the box is 0\.800 nm high, expected"):
        VoxelFrames(SPEC, training_system([atoms(), flat]), CPU)


# --- steps ------------------------------------------------------------------------------------


def test_a_step_moves_its_own_network_only(data):
    one = trainer(data)
    batch = draw(data, 0)
    generator, critic = weights(one.generator), weights(one.critic)
    parts = one.critic_step(batch, seeded(0, 1), penalty_weight=0.1)
    assert {"critic", "penalty", "critic_slope", "critic_gradient"} <= set(parts)
    assert equal(weights(one.generator), generator)
    assert not equal(weights(one.critic), critic)
    critic = weights(one.critic)
    slopes = [p.grad.clone() for p in one.critic.parameters()]
    one.iteration = 1  # the prior's ramp has begun
    parts = one.generator_step(batch, seeded(0, 2))
    assert {"adversarial", "prior_lj", "prior_com", "score_internal", "gradient"} <= set(parts)
    assert equal(weights(one.critic), critic)
    assert not equal(weights(one.generator), generator)
    assert all(p.requires_grad for p in one.critic.parameters())
    # nor is time spent on slopes that nobody asks for
    assert all(torch.equal(p.grad, g) for p, g in zip(one.critic.parameters(), slopes, strict=True))
    assert all(bool(torch.isfinite(v).all()) for v in parts.values())


class Oracle(nn.Module):
    """Gives the densities of known places, slot by slot; its weight does nothing."""

    def __init__(self, places):
        super().__init__()
        self.slots = iter(gaussian_basis(places, SPEC.options.voxel).unbind(1))
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, condition, noise, target):
        return next(self.slots) + 0.0 * self.weight


def test_a_perfect_generator_has_no_loss_in_any_orientation(data):
    """One that gives the density of the true place in the turned frame it is asked in."""
    one = trainer(data, dataclasses.replace(OPTIONS, adversarial=Ramp(), average=0.0))
    one.iteration = 2  # the prior is at its last value
    for seed in range(3):
        batch = draw(data, seed, augment=True)
        one.generator = one._generate = Oracle(batch.env.own.repeat_interleave(2, dim=0))
        parts = one.generator_step(batch, seeded(0, 2))
        # what is left is the bias of the grid, 0.0003 nm
        assert float(parts["score_position"]) < 0.01
        assert float(parts["prior_com"]) < 0.001


def test_validation_measures_in_the_frame_of_the_truth(data):
    one = trainer(data)
    one._place = lambda generator, env, condition, noise: ([], env.own)
    found = one.validate(batches=3)
    # which of the four kinds of passes three batches hold is up to PyTorch's random numbers
    assert any(name.startswith("validation_distance_") for name in found)
    for name, value in found.items():
        limit = {"validation_prior_lj": 0.5, "validation_prior_bond": 0.05}.get(name, 0.01)
        assert value < limit, name


def test_every_part_of_the_generators_loss_can_be_switched_off(data):
    off = dataclasses.replace(OPTIONS, adversarial=Ramp(), prior=Ramp(), average=0.0)
    one = trainer(data, off)
    critic = weights(one.critic)
    bucket = {"sequence_length", "sequence_light", "sequence_first_pass"}
    assert set(one.step()) == {"score_position", "score_internal", "gradient"} | bucket
    assert equal(weights(one.critic), critic)  # no critic is trained while its weight is 0
    assert one.result is one.generator


def test_the_critic_learns_to_tell_real_from_generated(data):
    """Many steps on one batch: the Wasserstein term falls."""
    one = trainer(data, dataclasses.replace(OPTIONS, critic_learning_rate=1e-3, beta1=0.5))
    batch = draw(data, 0)

    def step():
        return one.critic_step(batch, seeded(0, 1), penalty_weight=0.1)

    found = [float(step()["critic"]) for _ in range(8)]
    assert found[-1] < found[0] - 0.01


def test_the_generator_learns_a_batch(data):
    """Many steps on one batch by the energy score alone."""
    options = dataclasses.replace(OPTIONS, adversarial=Ramp(), prior=Ramp(), learning_rate=3e-3)
    one = trainer(data, options)
    one._set_rates()
    batch = draw(data, 3)
    found = [float(one.generator_step(batch, seeded(0, 1))["score_position"]) for _ in range(10)]
    assert found[-1] < 0.95 * found[0]


def test_average_follows_the_generator(data):
    one = trainer(data)
    before = weights(one.average)
    one.iteration = 10**6
    one.generator_step(draw(data, 0), seeded(0, 1))
    for name, new in weights(one.generator).items():
        torch.testing.assert_close(weights(one.average)[name], 0.9 * before[name] + 0.1 * new)
    assert one.result is one.average


def test_learning_rates_fall_along_half_a_cosine(data):
    one = trainer(data, dataclasses.replace(OPTIONS, iterations=100))
    rates = []
    for iteration in (0, 50, 100):
        one.iteration = iteration
        one._set_rates()
        rates.append(one.generator_optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([5e-5, 5e-5 * 0.505, 5e-7])


def test_mixed_precision_stays_finite(data):
    one = trainer(data, dataclasses.replace(OPTIONS, precision="bf16-mixed"))
    parts = one.step()
    assert all(bool(torch.isfinite(v).all()) for v in parts.values())
    assert all(p.dtype == torch.float32 for p in one.generator.parameters())


def test_validation_is_the_same_every_time_and_changes_nothing(data):
    one = trainer(data)
    before = weights(one.generator)
    first, second = one.validate(batches=1), one.validate(batches=1)
    assert first == second
    assert {"validation_score_internal", "validation_prior_lj"} <= set(first)
    assert all(np.isfinite(v) for v in first.values())
    assert equal(weights(one.generator), before)


# --- the critic's phases ----------------------------------------------------------------------


def recorded(one):
    """Every call of the critic's step: iteration, weight of the penalty, what it found."""
    found, plain = [], one.critic_step

    def step(batch, random, *, penalty_weight):
        parts = plain(batch, random, penalty_weight=penalty_weight)
        found.append((one.iteration, penalty_weight, parts))
        return parts

    one.critic_step = step
    return found


def test_one_in_so_many_critic_updates_has_the_penalty(data):
    """Critic updates are counted over iterations: 2 an iteration and every third."""
    lazy = dataclasses.replace(OPTIONS, critic_steps=2, penalty_every=3, penalty=0.5)
    one = trainer(data, lazy)
    calls = recorded(one)
    lines = [one.step() for _ in range(3)]
    # a line of the log is of one batch: that of the penalty where there was one
    for line, (_, _, parts) in zip(lines, [calls[1], calls[2], calls[5]], strict=True):
        assert all(line[name] is value for name, value in parts.items())
        assert ("penalty" in line) == ("penalty" in parts)
    assert [w for _, w, _ in calls] == [0.0, 0.0, 1.5, 0.0, 0.0, 1.5]
    assert ["penalty" in parts for _, _, parts in calls] == [w > 0 for _, w, _ in calls]


def test_the_lazy_penalty_is_the_penalty_where_it_is_due(data):
    """The same batch, noise and critic: the same penalty; without it the same distance."""
    batch, found = draw(data, 0), []
    for weight in (0.1, 0.4, 0.0):
        one = trainer(data)
        found.append(one.critic_step(batch, seeded(0, 1), penalty_weight=weight))
    assert torch.equal(found[0]["penalty"], found[1]["penalty"])
    assert torch.equal(found[0]["critic_slope"], found[1]["critic_slope"])
    assert torch.equal(found[0]["critic"], found[2]["critic"])
    assert "penalty" not in found[2]
    # and it is what moves the critic: another weight, another gradient
    assert float(found[0]["critic_gradient"]) != float(found[2]["critic_gradient"])


def test_a_resumed_run_has_the_penalty_at_the_same_updates(data):
    lazy = dataclasses.replace(OPTIONS, critic_steps=1, penalty_every=3)
    straight, parts = trainer(data, lazy), trainer(data, lazy)
    for _ in range(4):
        straight.step()
    for _ in range(2):
        parts.step()
    resumed = trainer(data, lazy)
    resumed.restore(parts.state())
    calls = recorded(resumed)
    for _ in range(2):
        resumed.step()
    assert [(i, w > 0) for i, w, _ in calls] == [(2, True), (3, False)]
    assert equal(states(straight), states(resumed))


def test_the_critic_alone_moves_nothing_else(data):
    options = dataclasses.replace(
        OPTIONS, adversarial=Ramp(0.0, 1.0, 3, 3), critic_alone_from=1, critic_alone_until=3
    )
    one, moved = trainer(data, options), []
    for _ in range(4):
        generator, critic = weights(one.generator), weights(one.critic)
        parts = one.step()
        moved.append(
            (not equal(weights(one.generator), generator), not equal(weights(one.critic), critic))
        )
        assert ("critic_gradient" in parts) == moved[-1][1]
        assert ("gradient" in parts) == moved[-1][0]
    assert moved == [(True, False), (False, True), (False, True), (True, True)]


def test_the_rate_falls_when_the_generator_listens(data):
    options = dataclasses.replace(
        OPTIONS, adversarial=Ramp(0.0, 1.0, 2, 2), adversarial_rate=0.1, decay=False
    )
    one, rates = trainer(data, options), []
    for iteration in (1, 2):
        one.iteration = iteration
        one._set_rates()
        rates.append(
            [o.param_groups[0]["lr"] for o in (one.generator_optimiser, one.critic_optimiser)]
        )
    assert rates == [[pytest.approx(5e-5), 1e-4], [pytest.approx(5e-6), 1e-4]]


def test_a_line_says_which_sequences_it_is_of(data):
    one = trainer(data)
    for seed in range(4):
        batch = draw(data, seed)
        parts = one.generator_step(batch, seeded(0, 2)) | one.critic_step(
            batch, seeded(0, 1), penalty_weight=0.0
        )
        stage = batch.env.stage
        for who in ("", "critic_"):
            assert float(parts[f"{who}sequence_length"]) == batch.truth.shape[1]
            assert float(parts[f"{who}sequence_light"]) == stage.light
            assert float(parts[f"{who}sequence_first_pass"]) == stage.first


def test_gradients_in_the_log_are_those_of_the_networks(data):
    one = trainer(data, dataclasses.replace(OPTIONS, clip=0.0))
    parts = one.critic_step(draw(data, 0), seeded(0, 1), penalty_weight=0.1)
    parts |= one.generator_step(draw(data, 0), seeded(0, 2))
    for name, module in (("critic_gradient", one.critic), ("gradient", one.generator)):
        by_hand = sum(float(p.grad.square().sum()) for p in module.parameters()) ** 0.5
        assert float(parts[name]) == pytest.approx(by_hand, rel=1e-4)


# --- where a run begins -----------------------------------------------------------------------


def first_densities(one, data):
    batch = draw(data, 0)
    noise = torch.randn(*batch.truth.shape[:2], SPEC.options.network.noise)
    with torch.no_grad():
        condition = one._condition(batch.env)
        return torch.stack(one._place(one.generator, batch.env, condition, noise)[0])


@pytest.mark.parametrize("architecture", ["plain", "residual"])
def test_fresh_densities_can_sum_to_a_gaussians(data, architecture):
    network = dataclasses.replace(
        SPEC.options.network, architecture=architecture, condition_blocks=1, middle_blocks=1,
        output_blocks=1,
    )  # fmt: skip
    spec = dataclasses.replace(SPEC, options=dataclasses.replace(SPEC.options, network=network))
    # (2 pi)^(3/2) width^3 over the volume of a voxel
    wanted = (2 * np.pi) ** 1.5 * 0.1**3 / 0.15**3
    sums = [
        float(first_densities(trainer(data, options, spec), data).sum(-1).mean())
        for options in (OPTIONS, dataclasses.replace(OPTIONS, gaussian_bias=True))
    ]
    assert sums[0] > 20 * wanted
    assert wanted / 3 < sums[1] < 3 * wanted


def test_a_learner_begins_with_the_weights_of_another(data):
    torch.manual_seed(0)
    before = trainer(data, dataclasses.replace(OPTIONS, seed=5))
    torch.manual_seed(1)
    after = trainer(data, dataclasses.replace(OPTIONS, gaussian_bias=True))
    after.begin(before.generator)
    assert equal(weights(after.generator), weights(before.generator))
    assert equal(weights(after.average), weights(before.generator))
    torch.manual_seed(2)
    one = first_densities(before, data)
    torch.manual_seed(2)
    assert torch.equal(first_densities(after, data), one)
    # they are its own: training moves them and not those of the other
    kept = weights(before.generator)
    after.step()
    assert equal(weights(before.generator), kept)


# --- resuming ---------------------------------------------------------------------------------


def states(one):
    """Everything that training changes, as tensors by name."""
    found = {}
    for name, part in one.state().items():
        if name.endswith("optimiser"):
            for k, values in part["state"].items():
                found |= {f"{name}.{k}.{n}": torch.as_tensor(v) for n, v in values.items()}
        elif name != "iteration":
            found |= {f"{name}.{k}": v for k, v in part.items()}
    return {k: v.clone() for k, v in found.items()}


def test_a_restored_trainer_goes_on_bit_by_bit(data, tmp_path):
    straight = trainer(data)
    for _ in range(2):
        straight.step()
    save_checkpoint(straight, tmp_path / "checkpoint.pt")
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
    for _ in range(2):
        straight.step()
    resumed = trainer(data, dataclasses.replace(OPTIONS))
    torch.rand(7)  # the state of the global generator must not matter
    resumed.restore(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    assert resumed.iteration == 2
    for _ in range(2):
        resumed.step()
    one, two = states(straight), states(resumed)
    assert len(one) > 40
    assert equal(one, two)


def test_run_stops_resumes_and_repeats_no_line(data, tmp_path):
    saved = []

    def go(folder, **options):
        folder.mkdir(exist_ok=True)
        one = trainer(data, dataclasses.replace(OPTIONS, validate_every=4))
        one.validate = lambda: VoxelLearner.validate(one, batches=1)  # to save time
        if (folder / "checkpoint.pt").exists():
            one.restore(torch.load(folder / "checkpoint.pt", weights_only=True))
        done = run(
            one,
            folder,
            on_checkpoint=lambda t, m: saved.append((t.iteration, dict(m))),
            progress=False,
            **options,
        )
        return done, one

    done, whole = go(tmp_path / "whole")
    assert done
    assert [i for i, _ in saved] == [2, 4]
    assert "validation_score_internal" in saved[1][1]
    for expected in (False, False, False, True):
        done, one = go(tmp_path / "parts", stop_after=0.0)
        # the last iteration counts as reached also when the time is up
        assert done == expected
    assert equal(states(one), states(whole))
    lines = [json.loads(s) for s in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert [v["iteration"] for v in lines if "penalty" in v] == [1, 2, 3, 4]
    assert sum(1 for p in (tmp_path / "parts" / "tensorboard").iterdir()) >= 1


def test_lines_beyond_the_checkpoint_are_dropped(data, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"iteration": 0, "a": 1}\n{"iteration": 3, "a": 2}\n')
    one = trainer(data, dataclasses.replace(OPTIONS, iterations=1))
    run(one, tmp_path, on_checkpoint=lambda t, m: None, progress=False)
    lines = [json.loads(s) for s in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [v["iteration"] for v in lines] == [0, 1]


def test_checkpoints_by_the_clock(data, tmp_path):
    """A checkpoint after every iteration that takes longer than the limit, none by the count."""
    for minutes, expected in ((1e-9, [1, 2, 3, 4]), (1e5, [4]), (0.0, [4])):
        options = dataclasses.replace(
            OPTIONS, checkpoint_every=1000, checkpoint_minutes=minutes, validate_every=1000
        )
        saved = []
        run(
            trainer(data, options),
            tmp_path,
            on_checkpoint=lambda t, m, saved=saved: saved.append(t.iteration),
            progress=False,
        )
        assert saved == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_iteration(data, tmp_path, number):
    before = signal.getsignal(number)
    one = trainer(data)
    step = one.step

    def interrupted():
        parts = step()
        os.kill(os.getpid(), number)
        return parts

    one.step = interrupted
    done = run(one, tmp_path, on_checkpoint=lambda t, m: None, progress=False)
    assert not done
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["iteration"] == 1
    assert signal.getsignal(number) is before


# --- workers ----------------------------------------------------------------------------------

WORKER = """
import sys
from pathlib import Path
import torch
from lightning_fabric import Fabric
torch.set_num_threads(1)
from small_polystyrene import atoms, training_system
from test_training_loop import OPTIONS, SPEC
from deepbackmap.methods.voxel.learner import VoxelLearner
from deepbackmap.training.run import run

fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
trainer = VoxelLearner(fabric, SPEC, OPTIONS)
trainer.use([training_system([atoms(0), atoms(1)])], [])
folder = Path(sys.argv[1])
done = run(trainer, folder, on_checkpoint=lambda t, m: None, progress=False)
assert done
torch.save(trainer.state(), folder / f"rank{fabric.global_rank}.pt")
"""


def test_two_workers_end_with_the_same_weights(data, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    here = Path(__file__).parent
    paths = [str(here), str(here.parent / "src"), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    for part in ("generator", "critic", "average"):
        assert equal(one[part], two[part])
    # each worker drew batches of its own: the weights are not those of one worker alone
    alone = trainer(data)
    for _ in range(OPTIONS.iterations):
        alone.step()
    assert not equal(weights(alone.generator), one["generator"])

"""Training on several systems, and on beads that are off by a width that the network is told."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from cli_systems import refused, write_system
from deepbackmap.api.models import ModelEntry
from deepbackmap.api.train import train
from deepbackmap.blocks.index import whole_beads
from deepbackmap.config import dump_config, load_train_config
from deepbackmap.data.noise import bonds_of, moves, with_noise
from deepbackmap.data.options import NoiseOptions
from deepbackmap.errors import InputError
from deepbackmap.io.trajectory import read_frames
from deepbackmap.methods.learning import seeded
from deepbackmap.methods.points.frames import fit, fit_push, same_labels
from deepbackmap.methods.points.generator import USUAL_WIDTH, fresh_generator
from deepbackmap.methods.points.learner import PointLearner
from deepbackmap.methods.points.losses import measure_spread
from deepbackmap.methods.points.options import PointTrainingOptions
from deepbackmap.methods.points.sampler import PointSampler, PointSamplingOptions
from deepbackmap.methods.points.samples import draw
from deepbackmap.methods.settling import BeadDistances
from deepbackmap.model.header import read_spec
from small_polystyrene import (
    TINY_POINTS,
    atoms,
    beads,
    handedness,
    mapping,
    point_frames,
    point_model,
    point_specification,
    training_system,
)

OPTIONS = PointTrainingOptions(
    iterations=6, batch=12, frames=2, learning_rate=2e-3, beta1=0.9, average=0.9
)
SPEC = point_specification()
UNCERTAIN = point_specification(
    options=dataclasses.replace(
        SPEC.options, network=dataclasses.replace(TINY_POINTS, uncertain=True)
    )
)
NOISE = NoiseOptions(copies=2, narrowest=0.005, widest=0.05)


def noisy(count=3, options=NOISE, seed=0):
    """A system with exact frames and their noisy copies."""
    system = training_system([atoms(k) for k in range(count)], hands=1)
    return with_noise([system], options, seed)[0]


def noisy_frames(system, spec=UNCERTAIN):
    fields = ("beads", "temperatures", "widths")
    return point_frames(
        spec, list(system.structures), **{name: getattr(system, name) for name in fields}
    )


def learner(spec, data, options=OPTIONS):
    made = PointLearner(Fabric(accelerator="cpu", devices=1), spec, options)
    made.attach(data, data)
    return made


# --- noise ----------------------------------------------------------------------------------------


def test_copies_come_after_the_exact_frames_and_are_off_by_their_width():
    system = noisy(4)
    assert len(system.structures) == len(system.beads) == 12
    assert system.widths[:4] == (0.0,) * 4
    assert all(0.005 <= w <= 0.05 for w in system.widths[4:])
    assert len(set(system.widths[4:])) == 8
    for k, (frame, width) in enumerate(zip(system.beads, system.widths, strict=True)):
        off = frame - system.beads[k % 4]
        assert np.sqrt(np.mean(off**2)) == pytest.approx(width, rel=1e-9, abs=1e-12)
        assert system.structures[k] is system.structures[k % 4]


def test_widths_are_spread_evenly_over_their_logarithms():
    many = noisy(3, NoiseOptions(copies=60, narrowest=0.001, widest=0.1))
    place = np.log(np.array(many.widths[3:]) / 0.001) / math.log(100)
    assert abs(place.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(place))
    assert place.std() == pytest.approx(math.sqrt(1 / 12), rel=0.2)


def test_noise_depends_on_the_seed_and_on_nothing_else():
    assert all(map(np.array_equal, noisy().beads, noisy().beads))
    assert not np.array_equal(noisy().beads[-1], noisy(seed=1).beads[-1])
    first, second = with_noise([training_system([atoms(0)])] * 2, NOISE, 0)
    assert not np.array_equal(first.beads[-1], second.beads[-1])


def test_moves_of_a_pair_stretch_and_bend_it_and_leave_its_middle():
    """What is not an independent move of each bead pulls bonded beads apart or past each other."""
    pair = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.3]])
    random = np.random.default_rng(0)
    found = np.stack([moves(pair, np.array([[0, 1]]), random) for _ in range(2000)])
    assert np.sqrt((found**2).mean((1, 2))) == pytest.approx(np.ones(2000))
    middle, apart = found.mean(1), found[:, 1] - found[:, 0]
    # independent moves alone would have half as much in the middle as in the difference, squared
    assert (middle**2).mean() < 0.8 * (apart**2).mean() / 4
    assert abs(apart.mean(0)).max() < 0.15


def test_beads_without_bonds_move_alone():
    found = moves(np.zeros((500, 3)), np.zeros((0, 2), dtype=np.int64), np.random.default_rng(1))
    assert abs(np.corrcoef(found[:-1, 0], found[1:, 0])[0, 1]) < 0.2


def test_bonds_are_those_of_every_copy():
    system = training_system([atoms(0)])
    found = bonds_of(system)
    assert len(found) == len(np.unique(found, axis=0)) == 3 * 5
    whole = whole_beads(system.beads[0], system.structures[0].box, system.mapping)
    assert np.linalg.norm(whole[found[:, 0]] - whole[found[:, 1]], axis=1).max() < 0.4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"copies": -1}, "copies: expected a whole number from 0 to 1000, got -1"),
        ({"narrowest": 0.1}, "narrowest, widest: expected two widths"),
        ({"widest": 2.0}, "narrowest, widest: expected two widths"),
    ],
    ids=str,
)
def test_noise_that_cannot_be_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        NoiseOptions(**options)


# --- a network that is told -----------------------------------------------------------------------


def test_a_new_input_changes_nothing_at_first_and_exact_beads_stay_what_they_were():
    plain = point_model().generator
    told = learner(UNCERTAIN, [point_frames(UNCERTAIN, [atoms(k) for k in range(3)])])
    told.begin(plain)
    data = point_frames(SPEC, [atoms(5)])
    data.prepare(plain)
    for t, table in data.tables.types.items():
        positions = data.positions(plain, 0, None)
        seen = (t, positions, positions[table.own], table, data.tables, data.scenes[0], 1.0, False)
        state = 0.5 * data.whitened[t][0]
        full = torch.full((len(state),), 0.8)
        ends = []
        for generator, width in ((plain, 0.0), (told.generator.eval(), 0.0),
                                 (told.generator, 0.03)):  # fmt: skip
            fixed, around = generator.observe(*seen, width)
            net = generator.flow(t).network
            ends.append(net(state, full, full, fixed, around, width * full / 0.8)[0])
        assert torch.equal(ends[0], ends[1])
        assert torch.equal(ends[0], ends[2])  # until training says how far beads push atoms


def test_the_push_is_what_noisy_beads_have_more_than_exact_ones():
    """Blocks relative to beads that are off have just that much more variance."""
    data = noisy_frames(noisy(3, NoiseOptions(copies=4, narrowest=0.02, widest=0.02)))
    generator = fresh_generator(UNCERTAIN)
    fit([data], generator)
    for t in ("A", "B"):
        push = generator.flow(t).network.push
        squares = data.whitened[t].square().mean(1)
        added = squares[3:].mean(0) - squares[:3].mean(0)
        torch.testing.assert_close(
            (0.02 * push).square(), added.clamp_min(0.0), rtol=1e-3, atol=1e-4
        )
        assert float((0.02 * push).max()) > 3.0  # beads were at the atoms' centre, and are not
        size = generator.flow(t).noise(1.0, 0.02)
        torch.testing.assert_close(size, (1.0 + added.clamp_min(0.0)).sqrt(), rtol=1e-3, atol=1e-3)
        assert torch.equal(generator.flow(t).noise(0.8, 0.0), torch.full_like(size, 0.8))


def test_exact_frames_alone_push_nothing():
    generator = fresh_generator(UNCERTAIN)
    data = point_frames(UNCERTAIN, [atoms(0)])
    fit([data], generator)
    assert all(not generator.flow(t).network.push.any() for t in ("A", "B"))
    told = point_model().generator
    fit_push([data], told)  # one that is not told has none
    assert not hasattr(told.flow("A").network, "push")


def test_what_noise_leaves_open_is_measured_apart():
    """Exact samples move one table, the others the other, by the part that is theirs."""
    one = learner(UNCERTAIN, [noisy_frames(noisy(2))])
    flow = one.generator.flow("A")
    sample = draw(one.generator, one.data, 40, 6, 0.0, 0.0, seeded(0, 1))["A"]
    sample = dataclasses.replace(sample, angle=torch.full_like(sample.angle, 0.3))
    net = flow.network
    exact, off = (sample.width == 0), (sample.width > 0)
    assert bool(exact.any())
    assert bool(off.any())
    before = net.loose.clone()
    tight = dataclasses.replace(
        sample, **{f.name: getattr(sample, f.name)[exact] for f in dataclasses.fields(sample)}
    )
    for _ in range(900):
        measure_spread(flow, tight, 0.04 * net.size(tight.heat, tight.width).square())
    assert torch.equal(net.loose, before)
    full = net.size(sample.heat, sample.width).square() * net.expected_spread(sample.angle).square()
    share = net.loosened(sample.heat, sample.width)
    wanted = full * (1 - share) + 0.09 * share * net.size(sample.heat, sample.width).square()
    kept = net.spread.clone()
    loose = dataclasses.replace(
        sample, **{f.name: getattr(sample, f.name)[off] for f in dataclasses.fields(sample)}
    )
    for _ in range(3000):
        measure_spread(flow, loose, wanted[off])
    assert torch.equal(net.spread, kept)
    row = (net.loose - before).abs().sum(1).argmax()
    pushed = (share[off].mean(0) > 0.5) & (sample.real == 1).all(0)
    assert bool(pushed.any())
    torch.testing.assert_close(
        net.loose[row, pushed], torch.full_like(net.loose[row, pushed], 0.3), atol=0.02, rtol=0
    )


def test_noisy_beads_are_learned_from():
    one = learner(
        UNCERTAIN, [noisy_frames(noisy(3))],
        dataclasses.replace(OPTIONS, iterations=40, learning_rate=5e-3),
    )  # fmt: skip
    errors = []
    for _ in range(40):
        parts = one.step()
        assert all(bool(torch.isfinite(v)) for v in parts.values())
        errors.append(float(parts["A_end"] + parts["B_end"]))
    assert np.mean(errors[-10:]) < 0.9 * np.mean(errors[:10])


def test_a_critic_is_not_trained_on_beads_that_are_off():
    with pytest.raises(InputError, match=r"training\.target: expected flow or draw with network"):
        learner(UNCERTAIN, [], dataclasses.replace(OPTIONS, target="critic"))


def test_sampling_puts_blocks_where_they_belong_and_not_at_beads_that_are_off():
    """A fresh network takes data to have half of the noise's width in every direction: told that
    beads are off, blocks are about as far from these; not told, beads are where they were given."""
    data = [noisy_frames(noisy(3, NoiseOptions(copies=4, narrowest=0.03, widest=0.03)))]
    generator = learner(UNCERTAIN, data).generator.eval()
    model = dataclasses.replace(point_model(), spec=UNCERTAIN, generator=generator)
    sampler = PointSampler(
        model, mapping(), PointSamplingOptions(steps=8, relaxation=0), handedness=handedness()
    )
    given = beads(atoms(4))
    off = []
    for width in (0.0, 0.03):
        with torch.no_grad():
            drawn = sampler._drawn(given, 0, width, lambda n: None)
        made = dataclasses.replace(given, positions=drawn)
        off.append(np.sqrt(np.mean((beads(made).positions - given.positions) ** 2)))
    assert off[0] < 0.01
    assert 0.012 < off[1] < 0.06


def test_beads_that_the_training_did_not_have_are_placed_for_the_usual_width():
    spec = dataclasses.replace(
        UNCERTAIN, bead_distances={"A-A": (0.1, 0.4), "A-B": (0.1, 0.4)}
    )  # fmt: skip
    options = PointSamplingOptions(steps=1, relaxation=0)
    given = beads(atoms(4))
    far = dataclasses.replace(given, positions=given.positions * 1.6, box=given.box * 1.6)

    def sampler(spec, told=True):
        generator = fresh_generator(spec) if told else point_model().generator
        model = dataclasses.replace(point_model(), spec=spec, generator=generator)
        return PointSampler(model, mapping(), options)

    assert sampler(spec)._width_of(given) == 0.0
    assert sampler(spec)._width_of(far) == USUAL_WIDTH
    assert sampler(UNCERTAIN)._width_of(far) == 0.0  # no distances are known
    assert sampler(SPEC, told=False)._width_of(far) is None


def test_distances_outside_those_of_the_training_are_counted_by_hand():
    given = beads(atoms(1))
    system = mapping()
    whole = whole_beads(given.positions, given.box, system)
    kinds = system.molecules[0].bead_types
    pairs = bonds_of(training_system([atoms(1)])).tolist()
    mixed = [(a, b) for a, b in pairs if kinds[a % 6] != kinds[b % 6]]
    apart = np.array([np.linalg.norm(whole[a] - whole[b]) for a, b in mixed])
    middle = float(np.median(apart))
    found = BeadDistances(system, {"A-B": (0.0, middle)}).outside(given)
    assert found == pytest.approx(np.mean(apart > middle))
    assert 0 < found < 1
    assert BeadDistances(system, {}).outside(given) == 0.0


# --- several systems ------------------------------------------------------------------------------


def test_a_box_and_its_mirror_image_teach_what_the_box_does():
    """Left-handed chains are looked at in a mirror: two systems, one statistics. Hydrogens are left
    out: which of two has which name follows space, not the chain, and a mirror turns it round."""
    frames = [atoms(k) for k in range(3)]
    turned = [
        dataclasses.replace(f, positions=f.positions * [-1, 1, 1], box=f.box * [-1, 1, 1])
        for f in frames
    ]
    alone, both = fresh_generator(SPEC), fresh_generator(SPEC)
    one = [point_frames(SPEC, frames)]
    two = [point_frames(SPEC, frames), point_frames(SPEC, turned, handedness=handedness(flip=-1))]
    fit(one, alone)
    same_labels(two)
    fit(two, both)
    for t, slots in SPEC.options.slots().own.items():
        heavy = [k for k, name in enumerate(slots) if ".-:" in name]
        means = [g.flow(t).mean.unflatten(-1, (-1, 3))[:, heavy] for g in (alone, both)]
        torch.testing.assert_close(*means, atol=1e-4, rtol=0)
        assert float(means[0].abs().max()) > 0.05


def test_frames_of_all_systems_are_drawn():
    parts = [point_frames(SPEC, [atoms(0)]), point_frames(SPEC, [atoms(1), atoms(2)])]
    generator = fresh_generator(SPEC)
    fit(parts, generator)
    ends = {float(w) for p in parts for k in range(len(p)) for w in p.whitened["B"][k][:, 0]}
    seen = {
        float(x)
        for seed in range(20)
        for x in draw(generator, parts, 9, 1, 0.0, 0.0, seeded(0, seed))["B"].end[:, 0]
    }
    assert len(seen & ends) > 0.9 * len(ends)


def test_validation_says_each_system_by_its_number():
    parts = [point_frames(SPEC, [atoms(0)]), point_frames(SPEC, [atoms(1)])]
    one = learner(SPEC, parts)
    found = one.validate(batches=2)
    for name in ("A_end", "B_distance"):
        each = [found[f"validation_{k}_{name}"] for k in (0, 1)]
        assert found[f"validation_{name}"] == pytest.approx(sum(each) / 2)
    one.held_out = parts[:1]
    assert "validation_0_A_end" not in one.validate(batches=2)
    one.held_out = []
    assert one.validate() == {}


CONFIG = """method: points
data:
  mapping: ps-two-bead
  structure: aa.gro
  trajectory: aa.xtc
  temperature: 500
  systems:
    - {topology: topol.top, train: "0:1", validate: "2:3"}
    - {topology: topol.top, train: "1:2", validate: ""}
  bead_noise: {copies: 1}
points: {cutoff: 0.4, radial: 4, chain: 2}
network: {width: 16, blocks: 1, channels: 2, times: 2, uncertain: true}
training: {iterations: 4, batch: 8, frames: 2, log_every: 1, checkpoint_every: 2, validate_every: 4}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("systems")
    write_system(made)
    (made / "train.yaml").write_text(CONFIG)
    return made


def test_systems_take_what_they_do_not_say_from_the_section(folder, tmp_path):
    config = load_train_config(folder / "train.yaml")
    first, second = config.data.each
    assert first.structure == second.structure == str(folder / "aa.gro")
    assert first.topology == str(folder / "topol.top")
    assert (first.train, second.train, second.temperature) == ("0:1", "1:2", 500.0)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_train_config(tmp_path / "again.yaml") == config
    alone = load_train_config("tiny", ["data.train=1:2"])
    assert alone.data.each == (alone.data,)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.systems=3", "'data.systems' expected a list of sections, found 3"),
        ("data.systems=[3]", "'data.systems[0]' expected a section of keys, found 3"),
        ("data.systems=[{mapping: x}]", "unknown key 'data.systems[0].mapping'"),
        ("data.systems=[{topology: ''}]", "data.systems[0].topology: expected a file"),
        ("data.systems=[{temperature: 0}]", "data.systems[0].temperature: expected the frames'"),
        ("data.mapping=''", "data.mapping: expected a file, found nothing"),
        ("network.uncertain=false", "data.bead_noise: expected a model that is told"),
        ("data.bead_noise.copies=-2", "data.bead_noise.copies: expected a whole number"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(folder, tmp_path, override, words):
    if override.startswith("data.systems=[{t"):
        override = override.replace("[{", f"[{{topology: '{folder}/topol.top', ", 1)
        override = override.replace(f"topology: '{folder}/topol.top', topology", "topology")
    message = refused("train", folder / "train.yaml", "--run", tmp_path / "run", override)
    assert words in message
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_run_on_two_systems_says_so_and_goes_on_bit_by_bit(folder, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = folder / "train.yaml"
    assert train(config, run_folder=whole, device="cpu", progress=False)
    assert not train(config, run_folder=parts, device="cpu", progress=False, stop_after=0.0)
    assert train(config, run_folder=parts, device="cpu", progress=False)
    one, two = (load_file(f / "model.safetensors") for f in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    spec = read_spec(whole / "model.safetensors")
    assert [s["train"] for s in spec.provenance["systems"]] == ["0:1", "1:2"]
    assert spec.provenance["bead_noise"]["copies"] == 1
    assert spec.options.network.uncertain
    assert float(one["flows.0.network.push"].max()) > 0


def test_a_model_that_is_not_told_begins_one_that_is_and_not_the_other_way(folder, tmp_path):
    plain = ("network.uncertain=false", "data.bead_noise.copies=0")
    config = folder / "train.yaml"
    quiet = {"device": "cpu", "progress": False}
    train(config, plain, run_folder=tmp_path / "plain", **quiet)
    start = f"training.init_from={tmp_path / 'plain' / 'model.safetensors'}"
    frozen = (start, "training.learning_rate=0")
    train(config, frozen, run_folder=tmp_path / "told", **quiet)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "told"))
    name = "flows.0.network.enter.weight"
    assert torch.equal(after[name][:, :-1], before[name])
    assert not after[name][:, -1].any()
    back = (f"training.init_from={tmp_path / 'told' / 'model.safetensors'}", *plain)
    with pytest.raises(InputError, match="expected a model with the options of the configuration"):
        train(config, back, run_folder=tmp_path / "back", **quiet)


def test_hands_are_those_of_each_systems_own_frames(folder, tmp_path):
    """A mirror image beside its box: no pattern is left to assume, and both are learned from."""
    with read_frames(folder / "aa.gro", folder / "aa.xtc") as source:
        frames = list(source)
    systems = [training_system(frames), training_system(
        [dataclasses.replace(f, positions=f.positions * [-1, 1, 1], box=f.box * [-1, 1, 1])
         for f in frames]
    )]  # fmt: skip
    from deepbackmap.api.train import _hands_of, _pattern

    assert _pattern(systems) == {}
    one, other = (_hands_of(s).sign for s in systems)
    assert torch.equal(one, -other)
    assert bool((one != 0).all())


def test_a_list_of_models_names_the_files_of_each_system_once(folder, tmp_path):
    spec = dataclasses.replace(SPEC, provenance={"systems": [
        {"topology": "a.top", "trajectory": "a.xtc", "train": "0:1"},
        {"topology": "a.top", "trajectory": "a.xtc", "train": "1:2"},
        {"topology": "b.top", "trajectory": "b.xtc", "train": "0:1"},
    ]})  # fmt: skip
    entry = ModelEntry("m", tmp_path / "m", 10, default=False, spec=spec)
    assert "trained on a.top, a.xtc; b.top, b.xtc at 500 K\n" in entry.to_text()
    alone = dataclasses.replace(SPEC, provenance={"topology": "a.top", "trajectory": "a.xtc"})
    assert "trained on a.top, a.xtc at 500 K\n" in dataclasses.replace(entry, spec=alone).to_text()

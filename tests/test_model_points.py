"""The point generator: whitening and back, a file and back, the outer form of the network."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from deepbackmap.errors import InputError
from deepbackmap.methods.base import Model, new_generator
from deepbackmap.methods.points.frames import fit
from deepbackmap.methods.points.generator import local_positions
from deepbackmap.methods.points.networks import BlockNetwork
from deepbackmap.methods.points.options import PointModelOptions, PointNetworkOptions
from deepbackmap.model.file import load_model, save_model
from small_polystyrene import (
    ATOMS,
    TYPES,
    atoms,
    point_frames,
    point_model,
    point_specification,
)

END = 0.5 * math.pi


@pytest.fixture(scope="module")
def fitted():
    """Frames of which the generator has the statistics, and the generator."""
    spec = point_specification()
    torch.manual_seed(0)
    generator = new_generator(spec)
    data = point_frames(spec, [shaken(k) for k in range(3)])
    fit([data], generator)
    return data, generator


def shaken(seed, size=0.02):
    """A frame far from the ideal places."""
    frame = atoms(seed)
    noise = size * np.random.default_rng(seed + 50).normal(size=frame.positions.shape)
    return dataclasses.replace(frame, positions=frame.positions + noise)


# --- whitening ------------------------------------------------------------------------------------


def test_local_and_whitened_undo_each_other(fitted):
    data, generator = fitted
    for t, table in data.tables.types.items():
        flow = generator.flow(t)
        real = (flow.unscale[table.variant] > 0).to(torch.float32)
        u = torch.randn(real.shape, generator=torch.Generator().manual_seed(1)) * real
        place = flow.local(u, table.variant)
        back, full = flow.whitened(place, table.variant), (real == 1).all(1)
        assert bool(full.any())
        torch.testing.assert_close(back[full], u[full], atol=2e-4, rtol=0)
        again = flow.local(flow.whitened(place, table.variant), table.variant)
        torch.testing.assert_close(again, place, atol=1e-5, rtol=0)


def test_whitened_data_put_atoms_where_they_were(fitted):
    data, generator = fitted
    for k, frame in enumerate(shaken(k) for k in range(3)):
        found = data.positions(generator, k, None)
        assert bool((found[-1] == 0).all())
        # through the same labels of ring sides, whatever they were in the file
        where = {t: data.local(t)[k] for t in data.tables.types}
        for t, table in data.tables.types.items():
            local = local_positions(found, table, data.scenes[k].rotation).flatten(1)
            torch.testing.assert_close(local, where[t], atol=1e-5, rtol=0)
        # and the atoms are those of the frame, up to the exchange of ring sides
        owner = data.tables.atom_owner[:-1]
        whole = data.scenes[k].whole[owner] + found[:-1]
        step = torch.cdist(
            whole.double().view(3, ATOMS, 3), torch.tensor(frame.positions).view(3, ATOMS, 3)
        )
        assert float(step.amin(2).max()) < 1e-5


def test_whitened_data_have_mean_zero_and_unit_width(fitted):
    data, generator = fitted
    for t, u in data.whitened.items():
        table = data.tables.types[t]
        for variant in table.variant.unique().tolist():
            rows = u[:, table.variant == variant].flatten(0, 1)
            real = generator.flow(t).unscale[variant] > 0
            assert float(rows.mean(0).abs().max()) < 1e-3
            assert bool((rows[:, ~real] == 0).all())
            # smaller than one where the floor of the widths counts, never larger
            assert float(rows[:, real].std(0).max()) < 1.001
            assert float(rows[:, real].std(0).max()) > 0.95


def test_the_mean_is_where_zero_is(fitted):
    data, generator = fitted
    rotation = data.scenes[0].rotation
    means = generator.means(data.tables, rotation)
    for t, table in data.tables.types.items():
        local = local_positions(means, table, rotation).flatten(1)
        torch.testing.assert_close(local, generator.flow(t).mean[table.variant], atol=1e-6, rtol=0)
        states = {k: u[0] for k, u in data.whitened.items()}
        none = generator.spread(states, data.tables, rotation, shrink=0.0)
        torch.testing.assert_close(none, means, atol=1e-6, rtol=0)


def test_statistics_do_not_hold_what_is_not_there(fitted):
    """A variant without some atoms has no directions of theirs."""
    data, generator = fitted
    for t, table in data.tables.types.items():
        flow = generator.flow(t)
        for variant in table.variant.unique().tolist():
            here = table.own[table.variant == variant][0] < data.tables.n_atoms
            there = here.repeat_interleave(3)
            assert bool((flow.mean[variant][~there] == 0).all())
            reach = (flow.modes * flow.scale[variant]).square().sum(1).sqrt()
            assert float(reach[there].min()) > 1e-3
            lone = flow.modes[~there].square().sum(0) > 0.999
            assert bool((flow.scale[variant][lone] == 0).all())


# --- one file -------------------------------------------------------------------------------------


def test_a_point_model_comes_back_from_its_file(tmp_path):
    model = point_model()
    spec = dataclasses.replace(
        model.spec, temperatures=(400.0, 500.0), defaults={"steps": 4}, provenance={"seed": 3}
    )
    save_model(Model(spec, model.generator), tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    assert loaded.spec == spec
    assert loaded.spec.options.vocabulary == model.spec.options.vocabulary
    before, after = model.generator.state_dict(), loaded.generator.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    # also what the file does not hold, because it follows from the options
    torch.testing.assert_close(loaded.generator.radial, model.generator.radial)
    data = point_frames(spec, [atoms(0)])
    data.prepare(model.generator)
    ends = []
    for generator in (model.generator, loaded.generator):
        table, flow = data.tables.types["A"], generator.flow("A")
        positions = data.positions(generator, 0, None)
        fixed, seen = generator.observe(
            "A", positions, positions[table.own], table, data.tables, data.scenes[0], 1.0, True
        )
        full = torch.ones(len(fixed))
        ends.append(flow.network(data.whitened["A"][0], 0.7 * full, full, fixed, seen)[0])
    assert torch.equal(*ends)


def test_a_point_model_needs_slots():
    with pytest.raises(ValueError, match="vocabulary: expected the slots of a point model"):
        new_generator(point_specification(options=PointModelOptions()))


def test_weights_of_other_options_are_refused(tmp_path):
    model = point_model()
    other = dataclasses.replace(
        model.spec,
        options=dataclasses.replace(
            model.spec.options, network=dataclasses.replace(model.spec.options.network, width=8)
        ),
    )
    save_model(Model(other, model.generator), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="weights do not fit the model's options"):
        load_model(tmp_path / "m.safetensors")


# --- the network's outer form ---------------------------------------------------------------------

FIXED, RADIAL, BATCH = 7, 4, 5


def network(width=12, **options):
    torch.manual_seed(0)
    made = BlockNetwork(
        (0, 2, 1), len(TYPES), RADIAL, FIXED,
        PointNetworkOptions(width=width, blocks=1, channels=2, times=3, **options),
    )  # fmt: skip
    made.spread.copy_(0.1 + 0.8 * torch.rand(made.spread.shape))
    return made.eval()


def inputs(seed=0, batch=BATCH):
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 9, generator=random),
        torch.randn(batch, FIXED, generator=random),
        torch.randn(batch, 3, 2 * len(TYPES) * RADIAL, 4, generator=random),
    )


def at(net, angle, heat=1.0, seed=0, noisy=None):
    state, fixed, seen = inputs(seed)
    state = state if noisy is None else noisy
    full = torch.ones(len(state))
    with torch.no_grad():
        return net(state, angle * full, heat * full, fixed, seen)


def test_near_the_data_a_fresh_network_answers_with_the_state():
    noisy = inputs()[0]
    end, _, size = at(network(), END - 1e-4)
    torch.testing.assert_close(end, noisy, atol=1e-4, rtol=0)
    assert float(size.max()) < 2e-4


def test_at_the_noise_the_answer_does_not_depend_on_it():
    net = network()
    end, mean, size = at(net, 0.0)
    assert bool(torch.isfinite(end).all())
    assert bool((mean == 0).all())
    assert bool((end == 0).all())
    torch.testing.assert_close(size, net.spread[0].expand_as(size))


@pytest.mark.parametrize("heat", [1.0, 0.8])
@pytest.mark.parametrize("angle", [0.0, 0.4, 1.2, 1.5])
def test_without_the_second_stage_the_answer_is_that_of_gaussians(angle, heat):
    """Data of a given width about the first stage's answer, noise of the given size: the expected
    data and what is uncertain about them, by regression."""
    net = network()
    with torch.no_grad():
        net.around.leave.bias.copy_(torch.linspace(-1, 1, 9))
    noisy = inputs()[0]
    end, mean, size = at(net, angle, heat)
    assert float((mean - torch.linspace(-1, 1, 9)).abs().max()) < 1e-6
    c, s = math.cos(angle), math.sin(angle)
    width = heat * net.expected_spread(torch.full((1,), angle))
    gain = s * width**2 / (c**2 * heat**2 + s**2 * width**2)
    torch.testing.assert_close(end, mean + gain * (noisy - s * mean), atol=1e-5, rtol=1e-5)
    left = width**2 * (1 - s * gain)
    torch.testing.assert_close(size, left.sqrt().expand_as(size), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.9, 1.5])
def test_the_second_stage_counts_in_units_of_what_is_uncertain(angle):
    net, plain = network(), network()
    more = torch.linspace(-2, 2, 9)
    with torch.no_grad():
        net.inside.leave.bias.copy_(more)
    end, _, size = at(net, angle)
    torch.testing.assert_close(end, at(plain, angle)[0] + size * more, atol=1e-6, rtol=1e-5)


def test_the_first_stage_does_not_see_the_noise():
    net = network()
    with torch.no_grad():
        net.around.leave.weight.normal_()
        net.inside.leave.weight.normal_()
    first, second = at(net, 0.7), at(net, 0.7, noisy=inputs(1)[0])
    assert torch.equal(first[1], second[1])
    assert float((first[0] - second[0]).abs().max()) > 0.01
    assert float(first[1].std()) > 0.01


def test_blocks_of_a_batch_are_on_their_own():
    net = network()
    with torch.no_grad():
        net.around.leave.weight.normal_()
        net.inside.leave.weight.normal_()
        noisy, fixed, seen = inputs()
        angle, heat = torch.linspace(0, 1.5, BATCH), torch.linspace(0.8, 1.0, BATCH)
        together = net(noisy, angle, heat, fixed, seen)[0]
        for k in range(BATCH):
            part = slice(k, k + 1)
            alone = net(noisy[part], angle[part], heat[part], fixed[part], seen[part])[0]
            torch.testing.assert_close(alone, together[part], atol=1e-5, rtol=1e-5)


def test_expected_spreads_are_interpolated_between_their_times():
    net = network()
    times = len(net.spread)
    angles = torch.arange(times) * (END / (times - 1))
    torch.testing.assert_close(net.expected_spread(angles), net.spread, atol=2e-4, rtol=0)
    between = net.expected_spread(angles[:-1] + 0.5 * angles[1])
    torch.testing.assert_close(between, 0.5 * (net.spread[1:] + net.spread[:-1]))


@pytest.mark.parametrize(
    "options", [{"width": 0}, {"blocks": 0}, {"channels": 0}, {"times": 0}, {"dropout": 1.0}],
    ids=str,
)  # fmt: skip
def test_network_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PointNetworkOptions(**options)

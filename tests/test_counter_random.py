"""Counter-based random numbers: known values, distribution, independence."""

import math

import pytest
import torch
from scipy import stats

from deepbackmap.geometry.counter_random import hash_counters, normal, uniform

MASK = (1 << 64) - 1
GOLDEN, MIX1, MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def splitmix(state, n):
    """Outputs of SplitMix64 in Python's integers, as its authors print it."""
    for _ in range(n):
        state = (state + GOLDEN) & MASK
        z = state
        z = ((z ^ (z >> 30)) * MIX1) & MASK
        z = ((z ^ (z >> 27)) * MIX2) & MASK
        yield z ^ (z >> 31)


def state_before(output):
    """The state from which SplitMix64 gives an output next."""

    def unshift(z, bits):
        out = z
        for _ in range(64 // bits):
            out = z ^ (out >> bits)
        return out

    z = (unshift(output, 31) * pow(MIX2, -1, 1 << 64)) & MASK
    z = (unshift(z, 27) * pow(MIX1, -1, 1 << 64)) & MASK
    return (unshift(z, 30) - GOLDEN) & MASK


def signed(value):
    return value - (1 << 64) if value >> 63 else value


def test_published_values_of_splitmix64():
    # seed 1234567: the values that implementations in other languages are checked against
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert list(splitmix(1234567, 3)) == published
    assert int(hash_counters(1234567)) & MASK == published[0]
    bits = torch.tensor([v >> 40 for v in published], dtype=torch.float64)
    found = uniform(torch.tensor(1234567), 3).to(torch.float64)
    torch.testing.assert_close(found, bits / 2**24, rtol=0, atol=2.0**-24)


@pytest.mark.parametrize("output", [MASK, 0])
def test_uniform_stays_inside_the_open_interval(output):
    before = state_before(output)
    assert next(splitmix(before, 1)) == output
    u = uniform(torch.tensor([signed(before)]), 1)
    assert 0.0 < float(u) < 1.0
    assert bool(torch.isfinite(normal(torch.tensor([signed(before)]), 4)).all())
    assert bool(torch.isfinite(torch.log(-torch.log(u))).all())


def test_uniform_moments_and_shape():
    u = uniform(hash_counters(5, torch.arange(2000)), 50)
    assert u.shape == (2000, 50)
    assert u.dtype == torch.float32
    flat = u.flatten().double()
    assert float(flat.mean()) == pytest.approx(0.5, abs=5 * math.sqrt(1 / 12 / len(flat)))
    assert float(flat.var()) == pytest.approx(1 / 12, rel=0.02)
    assert stats.kstest(flat.numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n", [1, 7, 8])
def test_normal_moments_and_distribution(n):
    x = normal(hash_counters(9, torch.arange(16000)), n)
    assert x.shape == (16000, n)
    flat = x.flatten().double().numpy()
    assert flat.mean() == pytest.approx(0.0, abs=5 / math.sqrt(len(flat)))
    assert flat.var() == pytest.approx(1.0, abs=6 * math.sqrt(2 / len(flat)))
    assert stats.kurtosis(flat) == pytest.approx(0.0, abs=6 * math.sqrt(24 / len(flat)))
    assert stats.kstest(flat, "norm").pvalue > 1e-3


def test_both_halves_of_box_muller_are_independent():
    x = normal(hash_counters(1, torch.arange(20000)), 6).double()
    assert float((torch.corrcoef(x.T) - torch.eye(6)).abs().max()) < 5 / math.sqrt(20000)
    squares = torch.corrcoef((x**2).T) - torch.eye(6)
    assert float(squares.abs().max()) < 5 / math.sqrt(20000)


@pytest.mark.parametrize("place", range(6))
def test_neighbouring_counters_are_not_correlated(place):
    """Counters that differ by one in any place give unrelated numbers."""
    names = [3, 1, 0, torch.arange(20000), 1, 0]
    if place == 3:
        x = normal(hash_counters(*names), 1).squeeze(-1).double()
        pairs = torch.stack([x[:-1], x[1:]])
    else:
        other = list(names)
        other[place] += 1
        pairs = torch.stack([normal(hash_counters(*n), 1).squeeze(-1) for n in (names, other)])
    assert abs(float(torch.corrcoef(pairs.double())[0, 1])) < 5 / math.sqrt(pairs.shape[1])


def test_the_order_of_counters_matters_and_none_collide():
    a, b = torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij")
    keys = hash_counters(a, b)
    assert len(keys.unique()) == keys.numel()
    assert bool((keys == keys.T).sum() == 300)  # the diagonal only
    assert int(hash_counters(1, 2)) != int(hash_counters(1, 2, 0))


def test_negative_and_large_counters():
    assert int(hash_counters(-1)) == int(hash_counters(MASK))
    assert int(hash_counters(torch.tensor(-5), 3)) == int(hash_counters(-5, torch.tensor(3)))


def test_nothing_depends_on_the_shape_of_a_batch():
    beads = torch.arange(40)
    keys = hash_counters(11, beads, torch.arange(3)[:, None])
    whole = normal(keys, 5)
    for k, bead in enumerate([0, 17, 39]):
        one = normal(hash_counters(11, bead, 2), 5)
        assert torch.equal(one, whole[2, bead]), k
    assert torch.equal(normal(keys[1, 5:9], 5), whole[1, 5:9])
    assert torch.equal(uniform(keys.reshape(-1), 4), uniform(keys, 4).reshape(-1, 4))

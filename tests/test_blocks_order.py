"""Batches of beads: independent, in order, as early as possible; colourings."""

import numpy as np
import pytest
import torch

from deepbackmap.blocks.order import colours, levels
from deepbackmap.geometry.cell import neighbour_pairs

BOX = np.array([[2.0, 0.0, 0.0], [0.7, 1.9, 0.0], [-0.4, 0.5, 1.8]])


def graph(seed, n=80, cutoff=0.55):
    """A padded neighbour table as the sampler has it: the bead itself first, then the others."""
    rng = np.random.default_rng(seed)
    pairs = neighbour_pairs(rng.uniform(0, 2, (n, 3)) @ BOX, BOX, cutoff)
    rows = [[k, *pairs.j[pairs.i == k].tolist()] for k in range(n)]
    table = np.full((n, max(map(len, rows))), -1, dtype=np.int64)
    for k, row in enumerate(rows):
        table[k, : len(row)] = row
    return torch.from_numpy(table), [set(r) - {k} for k, r in enumerate(rows)]


def keys_of(seed, n=80, ties=False):
    values = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return (values * 6).floor() if ties else values


CASES = pytest.mark.parametrize(("seed", "ties"), [(0, False), (1, True), (2, False), (3, True)])


def sequence(keys):
    """The order in which beads would be placed one by one: by key, then by index."""
    return sorted(range(len(keys)), key=lambda k: (float(keys[k]), k))


@CASES
def test_a_level_holds_no_two_beads_that_see_each_other(seed, ties):
    table, seen = graph(seed)
    found = [level.tolist() for level in levels(table, keys_of(seed, ties=ties))]
    assert sorted(k for level in found for k in level) == list(range(80))
    assert any(len(level) > 3 for level in found)
    for level in found:
        assert all(not seen[k] & set(level) for k in level)


@CASES
def test_a_beads_earlier_neighbours_are_done_and_no_later_one(seed, ties):
    table, seen = graph(seed)
    keys = keys_of(seed, ties=ties)
    place = {k: n for n, k in enumerate(sequence(keys))}
    done = set()
    for level in levels(table, keys):
        for k in level.tolist():
            assert {j for j in seen[k] if place[j] < place[k]} == seen[k] & done
        done |= set(level.tolist())


@CASES
def test_levels_are_as_early_as_they_can_be(seed, ties):
    table, seen = graph(seed)
    keys = keys_of(seed, ties=ties)
    depth = {}
    for k in sequence(keys):
        depth[k] = 1 + max((depth[j] for j in seen[k] if j in depth), default=-1)
    found = {k: n for n, level in enumerate(levels(table, keys)) for k in level.tolist()}
    assert found == depth


@CASES
def test_colours_are_those_of_the_greedy_rule(seed, ties):
    table, seen = graph(seed)
    priority = keys_of(seed, ties=ties)
    found = colours(table, priority).tolist()
    expected = {}
    for k in sequence(priority):
        taken = {expected[j] for j in seen[k] if j in expected}
        expected[k] = next(c for c in range(80) if c not in taken)
    assert dict(enumerate(found)) == expected
    assert all(found[k] != found[j] for k in range(80) for j in seen[k])


def test_colours_as_keys_give_one_level_a_colour():
    table, _ = graph(4)
    colour = colours(table, keys_of(4))
    sweep = list(levels(table, colour.float()))
    assert len(sweep) == int(colour.max()) + 1
    # a bead may move to an earlier level, where nothing of a lower colour is in its way: never
    # here, because the greedy rule leaves no colour free
    for number, level in enumerate(sweep):
        assert set(colour[level].tolist()) == {number}


def test_lonely_and_repeated_neighbours():
    """No neighbours at all; the bead itself and duplicates, as in small boxes."""
    lonely = torch.arange(4)[:, None]
    assert [level.tolist() for level in levels(lonely, torch.rand(4))] == [[0, 1, 2, 3]]
    assert colours(lonely, torch.rand(4)).tolist() == [0, 0, 0, 0]
    pair = torch.tensor([[0, 1, 1, 0, -1], [1, 0, 0, 1, 1]])
    assert [level.tolist() for level in levels(pair, torch.tensor([2.0, 1.0]))] == [[1], [0]]
    assert colours(pair, torch.tensor([2.0, 1.0])).tolist() == [1, 0]


def test_a_complete_graph_is_a_sequence():
    table = torch.arange(7).expand(7, 7)
    keys = torch.tensor([3.0, 0.0, 6.0, 1.0, 5.0, 2.0, 4.0])
    assert [level.tolist() for level in levels(table, keys)] == [[k] for k in sequence(keys)]
    assert sorted(colours(table, keys).tolist()) == list(range(7))


def test_no_beads():
    assert list(levels(torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0))) == []

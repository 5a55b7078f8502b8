"""Rings, and bonds through them, on hand-made geometry."""

import numpy as np
import pytest

from deepbackmap.chemistry import rings
from deepbackmap.chemistry.rings import find_rings, pierced_rings
from evaluation_systems import SKEWED, molecule, rotation, scattered, structure

HEXAGON = [(k, (k + 1) % 6) for k in range(6)]
CORNERS = 0.139 * np.array([[np.cos(a), np.sin(a), 0.0] for a in np.arange(6) * np.pi / 3])
RING = np.arange(6)[None]
BONDS = np.array([*[sorted(e) for e in HEXAGON], (6, 7)])
"""The ring's own, and one of another molecule."""


def threaded(start, end):
    return np.concatenate([CORNERS, [start, end]])


def test_a_ring_is_found_in_cyclic_order():
    found = find_rings(molecule(["C"] * 6, HEXAGON))
    assert len(found) == 1
    steps = {tuple(sorted(e)) for e in zip(found[0], np.roll(found[0], 1), strict=True)}
    assert steps == {tuple(sorted(e)) for e in HEXAGON}


def test_fused_rings_are_two():
    naphthalene = [*HEXAGON, (5, 6), (6, 7), (7, 8), (8, 9), (9, 4)]
    found = find_rings(molecule(["C"] * 10, naphthalene))
    assert sorted(map(sorted, found)) == [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]


def test_chains_and_large_loops_are_no_rings():
    assert find_rings(molecule(["C"] * 5, [(k, k + 1) for k in range(4)])) == []
    loop = molecule(["C"] * 11, [(k, (k + 1) % 11) for k in range(11)])
    assert find_rings(loop) == []
    assert len(find_rings(loop, largest=11)) == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("through", [(0.0, 0.0), (0.08, -0.05), (-0.11, 0.02)])
def test_a_bond_through_a_ring_is_found_anywhere_in_the_cell(seed, through):
    x, y = through
    positions = threaded([x - 0.02, y, -0.07], [x, y + 0.01, 0.08])
    origin = np.random.default_rng(seed).uniform(-3, 3, 3)
    frame = scattered(positions @ rotation(seed) + origin, seed=seed)
    assert pierced_rings(frame, RING, BONDS).tolist() == [[0, 6]]


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ([0.0, 0.0, 0.02], [0.0, 0.0, 0.17]),  # stops above the ring
        ([0.13, 0.05, -0.07], [0.13, 0.05, 0.08]),  # passes just outside an edge
        ([-0.2, 0.0, 0.03], [0.2, 0.0, 0.03]),  # flies over it
        ([-0.2, 0.0, 0.0], [-0.15, 0.0, 0.0]),  # lies in its plane, outside
    ],
)
def test_a_bond_beside_a_ring_is_not(start, end):
    assert len(pierced_rings(structure(threaded(start, end)), RING, BONDS)) == 0


def test_an_image_of_a_bond_counts():
    positions = threaded([0.0, 0.0, -0.07], [0.0, 0.0, 0.08])
    positions[6:] += SKEWED[0] + 2 * SKEWED[2]
    assert len(pierced_rings(structure(positions), RING, BONDS)) == 1
    positions[6:] += 0.5 * SKEWED[1]
    assert len(pierced_rings(structure(positions), RING, BONDS)) == 0


def test_a_puckered_ring_is_still_a_ring():
    chair = threaded([0.02, 0.01, -0.1], [0.02, 0.01, 0.1])
    chair[:6, 2] += 0.025 * (-1.0) ** np.arange(6)
    assert len(pierced_rings(structure(chair), RING, BONDS)) == 1


def test_substituents_do_not_pierce_their_ring():
    """A bond that starts at a corner never counts, even if it is bent through the ring."""
    positions = threaded([0.3, 0.0, 0.0], [-0.05, 0.0, 0.05])
    positions[0] = [0.1, 0.0, -0.05]
    bonds = np.concatenate([BONDS, [[0, 7]]])
    assert len(pierced_rings(structure(positions), RING, bonds)) == 0


def test_without_rings_nothing_is_pierced():
    none = np.zeros((0, 6), dtype=np.int64)
    assert pierced_rings(structure(CORNERS), none, BONDS[:6]).shape == (0, 2)


def crowd(seed, n, box):
    """Flat rings and short bonds anywhere in a box and in the images around it."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform(-1.0, 2.0, (2 * n, 1, 3)) @ box
    rings = np.concatenate([middles[k] + CORNERS @ rotation(k) for k in range(n)])
    ends = middles[n:] + np.array([[-1.0], [1.0]]) * rng.normal(0.0, 0.08, (n, 1, 3))
    atoms = structure(np.concatenate([rings, ends.reshape(-1, 3)]), box)
    return atoms, np.arange(6 * n).reshape(-1, 6), 6 * n + np.arange(2 * n).reshape(-1, 2)


@pytest.mark.parametrize("box", [np.diag([2.0, 2.2, 6.0]), SKEWED * (6.0 / SKEWED[2, 2])])
def test_layers_find_what_is_found_at_once(box, monkeypatch):
    atoms, members, bonds = crowd(3, 400, box)
    whole = pierced_rings(atoms, members, bonds)
    assert len(whole) >= 5
    sizes = []
    search = rings._pairs_between

    def counted(first, second, *rest):
        sizes.append(len(first) + len(second))
        return search(first, second, *rest)

    monkeypatch.setattr(rings, "_pairs_between", counted)
    monkeypatch.setattr(rings, "PART", 100)
    assert np.array_equal(pierced_rings(atoms, members, bonds), whole)
    assert len(sizes) >= 4
    assert max(sizes) < 600  # of 800


def test_a_ring_in_the_lowest_layer_is_pierced_across_the_face(monkeypatch):
    box = np.diag([3.0, 3.0, 12.0])
    ring, bond = (
        CORNERS + np.array([1.0, 1.0, 0.01]),
        np.array([[1.02, 1.01, 11.93], [1.02, 1.01, 12.06]]),
    )
    atoms = structure(np.concatenate([ring, bond]), box)
    monkeypatch.setattr(rings, "PART", 2)
    assert pierced_rings(atoms, RING, BONDS).tolist() == [[0, 6]]

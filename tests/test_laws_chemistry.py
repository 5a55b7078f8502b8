"""Chemistry told from the graph: whatever the numbering, and as networkx tells it."""

import networkx as nx
import numpy as np
import pytest
from networkx.algorithms.isomorphism import GraphMatcher, categorical_node_match

from deepbackmap.chemistry import cip, double_bonds, rings, stereo, tacticity
from deepbackmap.evaluation.contacts import pairs_within_bonds
from deepbackmap.system import Structure
from deepbackmap.system.whole import bond_tree
from evaluation_systems import SKEWED, molecule, rotation, scattered, structure
from laws import (
    graph_of,
    mirrored,
    moved,
    permutation,
    places,
    random_rings,
    random_tree,
    renumbered,
    turned,
)
from test_chemistry_double_bonds import BUTENE, FLAT, TYPES, torsions

SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_atoms_share_a_rank_where_a_symmetry_of_the_graph_exchanges_them(seed):
    """In a tree, refinement by neighbours finds the orbits of the automorphisms exactly."""
    types, bonds = random_tree(4, seed)
    kind = molecule(types, bonds)
    graph = graph_of(kind)
    match = GraphMatcher(graph, graph, categorical_node_match("type", ""))
    orbits = {a: {a} for a in graph}
    for way in match.isomorphisms_iter():
        for a, b in way.items():
            orbits[a].add(b)
    ranks = stereo.canonical_ranks(kind)
    for a, orbit in orbits.items():
        assert {b for b in graph if ranks[b] == ranks[a]} == orbit


@pytest.mark.parametrize("seed", SEEDS)
def test_lighter_atoms_rank_lower_and_ranks_are_dense(seed):
    kind = molecule(*random_tree(8, seed))
    ranks = stereo.canonical_ranks(kind)
    assert set(ranks) == set(range(ranks.max() + 1))
    order = np.argsort(ranks)
    assert (np.diff(kind.masses[order]) >= 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_ranks_centres_and_pairs_do_not_know_the_numbering(seed):
    kind = molecule(*random_tree(9, seed))
    order = permutation(kind.n_atoms, seed)
    other = renumbered(kind, order)
    assert np.array_equal(stereo.canonical_ranks(other), stereo.canonical_ranks(kind)[order])

    def named(found):
        return sorted(map(tuple, found.tolist()))

    centres = stereo.stereocentres(other)
    assert named(order[centres]) == named(stereo.stereocentres(kind))
    pairs = order[stereo.prochiral_pairs(other)]
    pairs[:, 3:] = np.sort(pairs[:, 3:], axis=1)  # these two are told apart by their numbers only
    assert named(pairs) == named(stereo.prochiral_pairs(kind))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stereocentre_has_four_branches_that_no_symmetry_exchanges(seed):
    kind = molecule(*random_tree(9, seed))
    ranks = stereo.canonical_ranks(kind)
    graph = graph_of(kind)
    centres = stereo.stereocentres(kind)
    expected = [a for a in graph if graph.degree(a) == 4
                and len({ranks[b] for b in graph.neighbors(a)}) == 4]  # fmt: skip
    assert centres[:, 0].tolist() == expected
    for centre, *branches in centres.tolist():
        assert sorted(branches) == sorted(graph.neighbors(centre))
        assert (np.diff(ranks[branches]) > 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mirror_turns_every_hand_and_every_label_over(seed):
    kind = molecule(*random_tree(9, seed))
    frame = structure(places(kind.n_atoms, seed))
    centres, pairs = stereo.stereocentres(kind), stereo.prochiral_pairs(kind)
    for sign, rows in ((stereo.handedness, centres), (stereo.prochiral_labels, pairs)):
        found = sign(frame, rows)
        assert np.array_equal(sign(mirrored(frame), rows), -found)
        assert np.array_equal(sign(moved(frame, seed), rows), found)
        assert np.array_equal(sign(turned(frame, seed), rows), found)


@pytest.mark.parametrize("seed", SEEDS)
def test_exchanging_two_branches_turns_a_hand_over(seed):
    rows = np.array([[0, 1, 2, 3, 4]])
    frame = structure(0.1 * np.random.default_rng(seed).normal(size=(5, 3)))
    right = stereo.handedness(frame, rows)
    for swaps in range(4):
        order = np.arange(1, 5)
        rng = np.random.default_rng([seed, swaps])
        for _ in range(swaps):
            a, b = rng.choice(4, 2, replace=False)
            order[[a, b]] = order[[b, a]]
        mixed = np.concatenate([[0], order])[None]
        assert stereo.handedness(frame, mixed).tolist() == ((-1) ** swaps * right).tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_restoring_gives_the_hand_that_is_wanted_and_keeps_the_heavy_branches(seed):
    rng = np.random.default_rng(seed)
    corners = 0.06 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    corners[0] *= 1.05
    x = np.concatenate([np.zeros((1, 3)), corners + 0.005 * rng.normal(size=(4, 3))])
    x = x @ rotation(seed) + rng.normal(size=3)
    light = np.array([False, True, False, False, False])
    rows = np.array([[0, *(1 + rng.permutation(4))]])
    for wanted in (1, -1):
        y = x.copy()
        stereo.restore(y, rows, np.array([wanted]), light)
        assert np.sign(stereo.volumes(y, rows)) == wanted
        assert np.array_equal(y[2:], x[2:])
        for heavy in (2, 3, 4):  # bonds keep their lengths
            assert np.linalg.norm(y[heavy] - y[0]) == pytest.approx(np.linalg.norm(x[heavy] - x[0]))
        assert np.linalg.norm(y[1] - y[0]) == pytest.approx(np.linalg.norm(x[1] - x[0]))
        again = y.copy()
        stereo.restore(again, rows, np.array([wanted]), light)
        assert np.array_equal(again, y)


@pytest.mark.parametrize("seed", range(10))
def test_every_ring_is_a_shortest_way_round_one_of_its_bonds(seed):
    kind = molecule(*random_rings(14, seed))
    graph = graph_of(kind)
    found = rings.find_rings(kind)
    for ring in found:
        edges = list(zip(ring, ring[1:] + ring[:1], strict=True))
        assert all(graph.has_edge(*e) for e in edges)
        assert len(set(ring)) == len(ring)
    shortest = {}
    for a, b in graph.edges:
        rest = graph.copy()
        rest.remove_edge(a, b)
        if nx.has_path(rest, a, b):
            shortest[a, b] = nx.shortest_path_length(rest, a, b) + 1
    sizes = {e: n for e, n in shortest.items() if n <= rings.LARGEST_RING}
    for (a, b), size in sizes.items():
        around = [len(r) for r in found if {a, b} in [
            {x, y} for x, y in zip(r, r[1:] + r[:1], strict=True)]]  # fmt: skip
        assert min(around) == size
    # and no ring is there that is not the shortest of any of its bonds
    for ring in found:
        edges = zip(ring, ring[1:] + ring[:1], strict=True)
        assert len(ring) in {shortest.get((min(e), max(e)), shortest.get(e)) for e in edges}


@pytest.mark.parametrize("seed", SEEDS)
def test_atoms_in_rings_do_not_know_the_numbering(seed):
    """Of several shortest ways round, which one is taken may; the atoms in some ring may not, nor
    how many rings of each size go through a graph where each is the only one."""
    kind = molecule(*random_rings(12, seed))
    order = permutation(kind.n_atoms, seed + 50)
    ours = [{int(order[a]) for a in r} for r in rings.find_rings(renumbered(kind, order))]
    theirs = [set(r) for r in rings.find_rings(kind)]
    sized = sorted(map(len, theirs))
    assert sorted(map(len, ours))[:1] == sized[:1]
    bridges = {frozenset(e) for e in nx.bridges(graph_of(kind))}
    for ring in (*ours, *theirs):
        assert not [e for e in bridges if e <= ring and len(ring) == 2]
    inside = set().union(*theirs) if theirs else set()
    assert inside == (set().union(*ours) if ours else set())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plane_is_told_from_a_singular_value(seed):
    ring = np.arange(6)[None]
    rng = np.random.default_rng(seed)
    angles = np.arange(6) * np.pi / 3
    flat = 0.14 * np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], axis=1)
    bent = flat + 0.01 * rng.normal(size=(6, 3))
    smallest = np.linalg.svd(bent - bent.mean(axis=0))[1][-1]
    for x, rms in ((flat, 0.0), (bent, smallest / np.sqrt(6))):
        frame = scattered(x @ rotation(seed) + rng.normal(size=3), SKEWED, seed)
        assert rings.out_of_plane(frame, ring)[0] == pytest.approx(rms, abs=1e-7)
        assert rings.out_of_plane(frame, ring[:, ::-1].copy())[0] == pytest.approx(rms, abs=1e-7)


def chair(height):
    angles = np.arange(6) * np.pi / 3
    return np.stack([np.cos(angles), np.sin(angles), height * (-1.0) ** np.arange(6)], axis=1)


@pytest.mark.parametrize("height", [0.0, 0.01, 0.05, 0.2])
def test_a_chair_is_out_of_plane_by_its_height(height):
    frame = structure(0.3 * chair(height))
    assert rings.out_of_plane(frame, np.arange(6)[None])[0] == pytest.approx(0.3 * height)


@pytest.mark.parametrize("seed", range(8))
def test_a_bond_pierces_a_flat_ring_where_it_meets_its_disc(seed):
    """A regular polygon of many corners is a disc; segments of random ends meet it or not."""
    rng = np.random.default_rng(seed)
    corners, radius = 10, 0.2
    angles = 2 * np.pi * np.arange(corners) / corners
    ring = radius * np.stack([np.cos(angles), np.sin(angles), np.zeros(corners)], axis=1)
    ends = 0.3 * rng.uniform(-1, 1, (60, 3))
    start, end = ends[::2], ends[1::2]
    at = start[:, 2] / (start[:, 2] - end[:, 2])
    where = start + at[:, None] * (end - start)
    crosses = (at > 0) & (at < 1)
    distance = np.linalg.norm(where[:, :2], axis=1)
    inner = radius * np.cos(np.pi / corners)
    sure = ~crosses | (distance < inner) | (distance > radius)
    rows = np.arange(corners)[None]
    bonds = corners + np.arange(60).reshape(-1, 2)
    x = np.concatenate([ring, ends]) @ rotation(seed)
    for frame in (structure(x), scattered(x, SKEWED, seed), mirrored(structure(x))):
        hit = np.isin(np.arange(30), rings.pierced_rings(frame, rows, bonds)[:, 1])
        assert np.array_equal(hit[sure], (crosses & (distance < inner))[sure])
    backwards = rings.pierced_rings(structure(x), rows[:, ::-1].copy(), bonds[:, ::-1].copy())
    assert np.array_equal(backwards, rings.pierced_rings(structure(x), rows, bonds))


@pytest.mark.parametrize("seed", SEEDS)
def test_cis_and_trans_are_no_hands(seed):
    """A mirror, a turn and an image leave the side as it is; half a turn of an end does not."""
    kind = molecule(TYPES, BUTENE, terms=torsions(20.0))
    bonds = double_bonds.double_bonds(kind)
    frame = structure(FLAT + 0.01 * np.random.default_rng(seed).normal(size=FLAT.shape))
    side = double_bonds.sides(frame, bonds)
    assert abs(side).tolist() == [1]
    for other in (mirrored(frame), moved(frame, seed), turned(frame, seed)):
        assert np.array_equal(double_bonds.sides(other, bonds), side)
    exchanged = frame.positions[[0, 1, 2, 5, 4, 3]]
    assert np.array_equal(double_bonds.sides(structure(exchanged), bonds), -side)
    assert np.array_equal(double_bonds.sides(frame, bonds[:, ::-1].copy()), side)


@pytest.mark.parametrize("seed", SEEDS)
def test_double_bonds_do_not_know_the_numbering(seed):
    kind = molecule(TYPES, BUTENE, terms=torsions(20.0))
    order = permutation(6, seed)
    found = order[double_bonds.double_bonds(renumbered(kind, order))].tolist()
    assert found in ([[0, 1, 2, 3]], [[3, 2, 1, 0]])


@pytest.mark.parametrize("seed", SEEDS)
def test_priorities_do_not_know_the_numbering(seed):
    kind = molecule(*random_tree(9, seed))
    order = permutation(kind.n_atoms, seed)
    place = np.argsort(order)
    ours, theirs = cip.Priorities(renumbered(kind, order)), cip.Priorities(kind)
    for centre, *branches in stereo.stereocentres(kind).tolist():
        right = theirs.order(centre, branches)
        found = ours.order(int(place[centre]), [int(place[b]) for b in branches])
        assert (None if found is None else order[found].tolist()) == right


@pytest.mark.parametrize("seed", SEEDS)
def test_the_heavier_atom_goes_first(seed):
    kind = molecule(*random_tree(9, seed))
    numbers = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9, "Cl": 17}
    for centre, *branches in stereo.stereocentres(kind).tolist():
        ranked = cip.Priorities(kind).order(centre, branches)
        if ranked is not None:
            z = [numbers[kind.atom_types[b]] for b in ranked]
            assert z == sorted(z, reverse=True)


@pytest.mark.parametrize("seed", range(12))
def test_the_sign_of_an_order_is_that_of_the_permutation(seed):
    rng = np.random.default_rng(seed)
    order, row = [7, 3, 9, 1], rng.permutation([7, 3, 9, 1]).tolist()
    sign = cip.sign_of_order(order, row)
    a, b = rng.choice(4, 2, replace=False)
    swapped = list(row)
    swapped[a], swapped[b] = row[b], row[a]
    assert cip.sign_of_order(order, swapped) == -sign
    matrix = np.eye(4)[[[order[3], *order[:3]].index(x) for x in row]]
    assert sign == -round(np.linalg.det(matrix))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bonds", [1, 2, 3, 4])
def test_pairs_within_bonds_are_networkx_s(seed, bonds):
    kind = molecule(*random_rings(12, seed))
    graph = graph_of(kind)
    near = dict(nx.all_pairs_shortest_path_length(graph, cutoff=bonds))
    expected = sorted((a, b) for a in graph for b in near[a] if a < b)
    assert list(map(tuple, pairs_within_bonds(kind, bonds).tolist())) == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bond_tree_spans_the_molecule_and_leaves_the_rings_closures(seed):
    kind = molecule(*random_rings(13, seed))
    graph = graph_of(kind)
    tree = bond_tree(kind)
    steps = [(k, int(p)) for k, p in enumerate(tree.parent) if p not in (-1, k)]
    spanned = nx.Graph(steps)
    assert nx.is_forest(spanned)
    assert all(graph.has_edge(*s) for s in steps)
    assert len(steps) == graph.number_of_nodes() - nx.number_connected_components(graph)
    closed = {tuple(sorted(c)) for c in np.asarray(tree.closures).reshape(-1, 2).tolist()}
    assert len(closed) == graph.number_of_edges() - len(steps)


@pytest.mark.parametrize("monomers", [2, 4, 7])
def test_a_mirrored_chain_has_the_other_hands_and_the_same_dyads(monomers):
    import small_polystyrene
    from melt import build

    rng = np.random.default_rng(monomers)
    x = build.build_chains(monomers, 2, rng).reshape(-1, 3)
    frame = Structure(x, 20.0 * np.eye(3))
    centres = tacticity.find_centres(small_polystyrene.mapping(monomers, 2))
    found = tacticity.signs(frame, centres)
    assert np.abs(found).min(initial=1) == 1
    assert np.array_equal(tacticity.signs(mirrored(frame), centres), -found)
    assert np.array_equal(tacticity.signs(turned(frame, 3), centres), found)
    assert np.array_equal(tacticity.signs(moved(frame, 3), centres), found)
    pattern = tacticity.learn_pattern(centres, found[None])
    flipped = tacticity.learn_pattern(centres, -found[None])
    assert flipped == {kind: [-s for s in signs] for kind, signs in pattern.items()}
    assert np.array_equal(tacticity.expected_signs(centres, pattern), found)

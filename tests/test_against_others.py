"""Geometry, energies and graphs beside those of ASE, MDAnalysis, SciPy and networkx."""

import math

import ase
import ase.geometry
import MDAnalysis as mda
import networkx as nx
import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list
from MDAnalysis.analysis import align
from MDAnalysis.lib import distances as others
from MDAnalysis.lib.mdamath import triclinic_box, triclinic_vectors
from scipy import stats
from scipy.spatial.transform import Rotation

from deepbackmap.baselines.superposition import nearest_by_distances, superpose
from deepbackmap.chemistry.rings import out_of_plane
from deepbackmap.evaluation.contacts import radial_distributions
from deepbackmap.evaluation.metrics import (
    jensen_shannon_by_spread,
    shift_of_median,
)
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.contacts import Contacts
from deepbackmap.forcefield.nonbonded import Exclusions
from deepbackmap.geometry.cell import (
    cell_heights,
    cell_volume,
    minimum_image,
    neighbour_pairs,
    shortest_lengths,
    wrap,
)
from deepbackmap.geometry.frames import axis_frame, plane_frame
from deepbackmap.geometry.turns import random_turns
from deepbackmap.io.formats.base import box_from_lengths_and_angles, lengths_and_cosines
from deepbackmap.io.topology.gromacs_molecules import pairs_within
from deepbackmap.system import BondedTerms, Structure
from deepbackmap.system.whole import make_whole
from evaluation_systems import SKEWED, molecule, scattered, topology
from laws import graph_of, random_rings, random_tree

CELLS = {
    "skewed": SKEWED,
    "flat": np.array([[4.0, 0.0, 0.0], [1.9, 2.5, 0.0], [-1.7, 1.1, 2.1]]),
    "cube": np.eye(3) * 2.7,
    # a truncated octahedron, as GROMACS writes it
    "octahedron": 2.9 * np.array([[1, 0, 0], [1 / 3, math.sqrt(8) / 3, 0],
                                  [-1 / 3, math.sqrt(2) / 3, math.sqrt(6) / 3]]),
}  # fmt: skip
cells = pytest.mark.parametrize("name", CELLS)


def dimensions(box):
    """Lengths in nm and angles in degrees, by MDAnalysis; its distances know no unit."""
    return triclinic_box(*box.astype(np.float64))


# --- cells ----------------------------------------------------------------------------------------


@cells
def test_shortest_images_are_those_of_ase(name):
    box = CELLS[name]
    vectors = np.random.default_rng(0).uniform(-9.0, 9.0, (400, 3))
    theirs, lengths = ase.geometry.find_mic(vectors, box)
    ours = minimum_image(vectors, box)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), lengths, atol=1e-9)
    # the same image but where two are equally short
    same = np.abs(ours - theirs).max(axis=1) < 1e-6
    assert same.mean() > 0.99
    moved = (vectors - ours) @ np.linalg.inv(box)
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-9)


@cells
def test_neighbours_are_those_of_ase_with_their_images(name):
    box = CELLS[name]
    x = np.random.default_rng(1).uniform(-3.0, 6.0, (24, 3))
    for cutoff in (0.6, 1.5):
        ours = neighbour_pairs(x, box, cutoff)
        i, j, shift, d = neighbor_list("ijSd", ase.Atoms("H24", x, cell=box, pbc=True), cutoff)
        order = np.lexsort((shift[:, 2], shift[:, 1], shift[:, 0], j, i))
        assert np.array_equal(ours.i, i[order])
        assert np.array_equal(ours.j, j[order])
        assert np.array_equal(ours.shifts, shift[order])
        np.testing.assert_allclose(ours.distances, d[order], atol=1e-12)


@cells
def test_wrapping_is_that_of_ase(name):
    box = CELLS[name]
    x = np.random.default_rng(2).uniform(-20.0, 20.0, (300, 3))
    theirs = ase.geometry.wrap_positions(x, box, eps=0.0)
    np.testing.assert_allclose(wrap(x, box), theirs, atol=1e-9)


@cells
def test_lattices_come_from_their_lengths_and_angles_as_in_mdanalysis(name):
    box = CELLS[name]
    six = dimensions(box)
    theirs = triclinic_vectors(six).astype(np.float64)
    ours = box_from_lengths_and_angles(six[:3].astype(np.float64), six[3:].astype(np.float64))
    np.testing.assert_allclose(ours, theirs, atol=3e-6)
    lengths, cosines = lengths_and_cosines(box)
    np.testing.assert_allclose(lengths, six[:3], rtol=1e-6)
    np.testing.assert_allclose(np.degrees(np.arccos(cosines)), six[3:], rtol=1e-5)
    cell = ase.cell.Cell(box)
    assert cell_volume(box) == pytest.approx(cell.volume)
    reciprocal = np.linalg.norm(cell.reciprocal(), axis=1)
    np.testing.assert_allclose(cell_heights(box), 1.0 / reciprocal)


@cells
def test_shortest_lattice_vectors_are_those_of_the_reduced_cell_of_ase(name):
    box = CELLS[name]
    reduced = ase.geometry.minkowski_reduction.minkowski_reduce(box)[0]
    expected = np.sort(np.linalg.norm(reduced, axis=1))
    np.testing.assert_allclose(shortest_lengths(box), expected, atol=1e-9)


# --- directions -----------------------------------------------------------------------------------


def test_random_rotations_are_as_even_as_those_of_scipy():
    """The angle of a random rotation has the density (1 - cos w) / pi; an image of a vector is
    anywhere on the sphere."""
    uniform = np.random.default_rng(3).random((4000, 1, 3))
    turns = random_turns(np.zeros((4000, 3)), uniform)[:, 0]
    rotations = Rotation.from_matrix(turns)
    np.testing.assert_allclose(rotations.as_matrix(), turns, atol=1e-9)
    angles = rotations.magnitude()
    assert stats.kstest(angles, lambda w: (w - np.sin(w)) / np.pi).pvalue > 1e-3
    there = turns @ np.array([0.6, 0.0, 0.8])
    for axis in range(3):
        assert stats.kstest(there[:, axis], stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3
    theirs = Rotation.random(4000, random_state=4).magnitude()
    assert stats.ks_2samp(angles, theirs).pvalue > 1e-3


def test_turns_about_an_axis_are_scipys_and_their_angles_are_even():
    rng = np.random.default_rng(5)
    axes, uniform = rng.normal(size=(2000, 3)), rng.random((2000, 1, 3))
    turns = random_turns(axes, uniform)[:, 0]
    unit = axes / np.linalg.norm(axes, axis=1)[:, None]
    expected = Rotation.from_rotvec(2.0 * np.pi * uniform[:, 0, :1] * unit).as_matrix()
    np.testing.assert_allclose(turns, expected, atol=1e-9)


def test_local_frames_are_the_smallest_turn_and_the_turn_onto_two_vectors():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
    frames = axis_frame(torch.tensor(a)).numpy()
    angles = Rotation.from_matrix(frames).magnitude()
    np.testing.assert_allclose(np.cos(angles), a[:, 2] / np.linalg.norm(a, axis=1), atol=1e-9)
    planes = plane_frame(torch.tensor(a), torch.tensor(b)).numpy()
    for k in range(20):
        # SciPy turns the first vector exactly and the second as far as it goes
        across = b[k] - (b[k] @ a[k]) / (a[k] @ a[k]) * a[k]
        found, left = Rotation.align_vectors(
            [[0, 0, 1], [1, 0, 0]],
            [a[k] / np.linalg.norm(a[k]), across / np.linalg.norm(across)],
        )
        assert left < 1e-6
        np.testing.assert_allclose(planes[k], found.as_matrix(), atol=1e-9)


@pytest.mark.parametrize("beads", [2, 4, 7])
def test_superposition_is_that_of_mdanalysis_and_scipy(beads):
    rng = np.random.default_rng(beads)
    weights = rng.uniform(0.5, 2.0, beads)
    templates = rng.normal(size=(5, 3, beads, 3))
    targets = rng.normal(size=(5, beads, 3))
    turns, left = superpose(templates, targets, weights)
    for m in range(5):
        for k in range(3):
            found, rssd = Rotation.align_vectors(targets[m], templates[m, k], weights=weights)
            assert left[m, k] * weights.sum() == pytest.approx(rssd**2, rel=1e-6)
            if beads > 2:  # else turning about the axis of both costs nothing
                np.testing.assert_allclose(turns[m, k], found.as_matrix(), atol=1e-6)
            moved = templates[m, k] @ turns[m, k].T
            rest = (weights * ((moved - targets[m]) ** 2).sum(axis=1)).sum() / weights.sum()
            assert left[m, k] == pytest.approx(rest, rel=1e-9, abs=1e-12)
            assert np.linalg.det(turns[m, k]) == pytest.approx(1.0)
            if beads > 2:
                matrix, rmsd = align.rotation_matrix(templates[m, k], targets[m], weights=weights)
                assert rmsd**2 == pytest.approx(left[m, k], rel=1e-5)
                np.testing.assert_allclose(matrix, turns[m, k], atol=1e-5)


def test_templates_are_told_by_distances_however_they_are_turned():
    rng = np.random.default_rng(7)
    templates = rng.normal(size=(40, 4, 3))
    which = np.array([3, 17, 31])
    turns = Rotation.random(3, random_state=1).as_matrix()
    targets = np.einsum("mij,mlj->mli", turns, templates[which])
    targets += rng.normal(0.0, 1e-3, targets.shape)
    assert nearest_by_distances(templates, targets, np.ones(4), 1)[:, 0].tolist() == which.tolist()
    mirror = nearest_by_distances(templates, targets * [1, 1, -1], np.ones(4), 1)
    assert mirror[:, 0].tolist() == which.tolist()  # distances know no hand; the turn will


# --- energies -------------------------------------------------------------------------------------


def chain(n, bonded):
    """Atoms in a row with terms of one kind on all of them."""
    kinds = {"bond": 2, "angle": 3, "proper": 4, "improper": 4}
    width = kinds[bonded]
    rows = np.array([range(k, k + width) for k in range(n - width + 1)])
    parameters = {
        "bond": [0.15, 1200.0], "angle": [1.9, 300.0], "proper": [0.4, 7.0, 3.0],
        "improper": [0.3, 90.0],
    }[bonded]  # fmt: skip
    terms = BondedTerms(rows, np.tile(parameters, (len(rows), 1)))
    none = BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2)))
    pairs = [(a, b) for a in range(n) for b in range(a)]
    made = molecule(
        ["C"] * n, [(k, k + 1) for k in range(n - 1)], exclusions=pairs,
        terms={"bond": none, bonded: terms},
    )  # fmt: skip
    return made, rows


@cells
@pytest.mark.parametrize("bonded", ["bond", "angle", "proper", "improper"])
def test_energies_are_those_of_mdanalysis_internal_coordinates(bonded, name):
    """Molecules cut by the cell: its bonds, angles and dihedrals, and the formula."""
    box = CELLS[name]
    made, rows = chain(9, bonded)
    x = np.cumsum(np.random.default_rng(8).normal(0.0, 0.09, (9, 3)), axis=0)
    frame = scattered(x, box, seed=9)
    field = ForceField.from_topology(topology(made), cutoff=0.6)
    found = field.energies_by_term(frame)[bonded]
    at = [frame.positions[rows[:, c]] for c in range(rows.shape[1])]
    six = dimensions(box)
    if bonded == "bond":
        r = others.calc_bonds(*at, box=six)
        expected = 0.5 * 1200.0 * ((r - 0.15) ** 2).sum()
    elif bonded == "angle":
        theta = others.calc_angles(*at, box=six)
        expected = 0.5 * 300.0 * ((theta - 1.9) ** 2).sum()
    else:
        phi = others.calc_dihedrals(*at, box=six)
        if bonded == "proper":
            expected = 7.0 * (1 + np.cos(3.0 * phi - 0.4)).sum()
        else:
            off = np.angle(np.exp(1j * (phi - 0.3)))
            expected = 0.5 * 90.0 * (off**2).sum()
    assert found == pytest.approx(expected, rel=2e-4, abs=1e-6)


@cells
def test_lennard_jones_of_a_gas_is_the_sum_over_mdanalysis_distances(name):
    box, n, cutoff = CELLS[name], 40, 0.9
    x = np.random.default_rng(10).random((n, 3)) @ box
    made = molecule(["C"], [])
    gas = topology(made, counts=[n], sigma=0.3, epsilon=0.4)
    apart = others.self_distance_array(x, box=dimensions(box)).astype(np.float64)
    r = apart[apart < cutoff]
    expected = (4 * 0.4 * ((0.3 / r) ** 12 - (0.3 / r) ** 6)).sum()
    found = ForceField.from_topology(gas, cutoff=cutoff).energies_by_term(Structure(x, box))
    assert found["lj"] == pytest.approx(expected, rel=1e-3)
    assert found["coulomb"] == 0.0


@cells
def test_the_closest_contact_is_that_of_mdanalysis(name):
    box, n = CELLS[name], 30
    x = np.random.default_rng(11).random((n, 3)) @ box
    gas = topology(molecule(["C"], []), counts=[n], sigma=1.0)
    finder, frame = Contacts(gas), scattered(x, box)
    table = others.distance_array(x, x, box=dimensions(box))
    table[np.arange(n), np.arange(n)] = np.inf
    i, j = np.unravel_index(table.argmin(), table.shape)
    found = finder.closest(frame)
    assert {found.first, found.second} == {i, j}
    assert found.distance == pytest.approx(table.min(), rel=1e-5)
    assert found.relative == pytest.approx(found.distance)  # sigma is 1 nm
    pairs, apart = finder.within(frame, 0.6)
    assert len(pairs) == (table < 0.6).sum() // 2
    np.testing.assert_allclose(apart, table[pairs[:, 0], pairs[:, 1]], rtol=1e-4)
    near = finder.near(frame, 0.5)
    assert len(near.pairs) == (table < 0.5).sum() // 2
    assert (np.diff(near.relative) >= 0).all()


@cells
def test_radial_distributions_are_mdanalysis_histograms(name):
    box, n = CELLS[name], 80
    x = np.random.default_rng(12).random((n, 3)) @ box
    gas = topology(molecule(["C"], []), counts=[n])
    width, bins = 0.05, 20  # up to 1 nm: below half of the heights of these cells
    found = radial_distributions(
        Structure(x, box), np.arange(n), np.zeros(n, dtype=np.int64), Exclusions(gas),
        width=width, bins=bins,
    )  # fmt: skip
    apart = others.self_distance_array(x, box=dimensions(box))
    counts, edges = np.histogram(apart, bins=bins, range=(0.0, width * bins))
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    expected = 2 * counts / (n * n / cell_volume(box) * shells)
    # a distance may fall on either side of an edge: MDAnalysis has them in single precision
    assert np.abs(found[0] - expected).sum() <= 2.1 * 2 / (n * n / cell_volume(box) * shells).min()
    assert found.shape == (1, bins)


# --- graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_exclusions_are_shortest_paths_of_networkx(seed):
    rng = np.random.default_rng(seed)
    kind = molecule(*(random_rings(12, seed) if seed % 2 else random_tree(8, seed)))
    graph, n = graph_of(kind), kind.n_atoms
    reach = int(rng.integers(1, 5))
    lengths = dict(nx.all_pairs_shortest_path_length(graph, cutoff=reach))
    expected = sorted((a, b) for a in range(n) for b in lengths[a] if a < b)
    assert [tuple(p) for p in pairs_within(kind.bonds, n, reach).tolist()] == expected


@cells
@pytest.mark.parametrize("seed", range(3))
def test_molecules_are_made_whole_as_by_mdanalysis(name, seed):
    kind = molecule(*random_tree(12, seed))
    box = CELLS[name]
    x = np.zeros((kind.n_atoms, 3))
    rng = np.random.default_rng(seed)
    for a, b in nx.bfs_edges(graph_of(kind), 0):
        step = rng.normal(size=3)
        x[b] = x[a] + 0.15 * step / np.linalg.norm(step)
    # its vectors are folded once only, so that atoms have to lie in the cell
    frame = Structure(wrap(x + np.array([2.9, 0.1, 2.0]), box), box)
    ours = make_whole(frame.positions, box, topology(kind))
    universe = mda.Universe.empty(kind.n_atoms, trajectory=True)
    universe.add_TopologyAttr("bonds", [tuple(b) for b in kind.bonds.tolist()])
    universe.atoms.positions = frame.positions
    universe.dimensions = dimensions(box)
    theirs = mda.lib.mdamath.make_whole(universe.atoms, inplace=False)
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], atol=2e-5)
    np.testing.assert_array_equal(ours[0], frame.positions[0])


def test_the_mean_plane_of_a_ring_is_that_of_scipy():
    """Rms distance from the plane of least squares, by a singular value decomposition."""
    rng = np.random.default_rng(13)
    angle = np.pi / 3 * np.arange(6)
    flat = 0.14 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    for size in (0.0, 0.01, 0.05):
        turn = Rotation.random(random_state=2).as_matrix()
        ring = (flat + size * rng.normal(size=flat.shape)) @ turn + 1.3
        singular = np.linalg.svd(ring - ring.mean(axis=0), compute_uv=False)[-1]
        frame = scattered(ring, SKEWED, seed=3)
        found = out_of_plane(frame, np.arange(6)[None])
        assert found[0] == pytest.approx(singular / math.sqrt(6), abs=1e-8)


# --- numbers --------------------------------------------------------------------------------------


def test_figures_of_samples_are_scipys():
    rng = np.random.default_rng(14)
    reference, generated = rng.normal(3.0, 0.5, 5000), rng.normal(3.1, 0.6, 4000)
    low, high = 3.0 - 8 * 0.5, 3.0 + 12 * 0.5
    # the bins are those of the sample's own mean and spread, so only nearly these
    one, two = (np.histogram(v, 60, (low, high))[0] + 0.0 for v in (reference, generated))
    middle = 0.5 * (one / one.sum() + two / two.sum())
    expected = 0.5 * sum(stats.entropy(v / v.sum(), middle, base=2) for v in (one, two))
    assert jensen_shannon_by_spread(reference, generated) == pytest.approx(expected, rel=0.3)
    shift = (np.median(generated) - np.median(reference)) / stats.tstd(reference)
    assert shift_of_median(reference, generated) == pytest.approx(shift, rel=1e-3)

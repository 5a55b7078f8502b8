"""Groups that lie almost in a plane: mended where the force field wants them otherwise."""

import functools
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
from deepbackmap.chemistry.folded import CORNERS, FLAT, FoldedGroups, fitted_corners
from deepbackmap.chemistry.warmth import angle_energies
from deepbackmap.forcefield.system import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mechanics.settle import SettleOptions, Settler
from deepbackmap.system.whole import make_whole

MELT = Path(deepbackmap.__file__).parent / "packaged" / "melt"
SQUARE = np.array([[1, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0.0]])
BOX = 3.0 * np.eye(3)


@functools.cache
def melt():
    """Topology, force field, groups, whole molecules and box of simulated atoms."""
    topology = read_topology(MELT / "topol.top")
    frame = read_frames(MELT / "aa.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    groups = FoldedGroups.from_topology(topology)
    return topology, ForceField.from_topology(topology), groups, whole, frame.box


def folded(number):
    """The melt with both hydrogens of a CH2 almost in the plane of its carbons."""
    _, _, groups, whole, _ = melt()
    row = groups.rows[np.flatnonzero(groups.ends == 2)[number]]
    positions = whole.copy()
    a, b = positions[row[1:3]] - positions[row[0]]
    out = -(a + b) / np.linalg.norm(a + b)
    along = (a - b) / np.linalg.norm(a - b)
    above = 0.1 * np.cross(out, along)
    for atom, way in zip(row[3:], (out + along + above, out - along - above), strict=True):
        length = np.linalg.norm(positions[atom] - positions[row[0]])
        positions[atom] = positions[row[0]] + length * way / np.linalg.norm(way)
    return positions, row


def turn(seed):
    """A proper rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def lengths(positions, row):
    return np.linalg.norm(positions[row[1:]] - positions[row[0]], axis=1)


# --- which groups there are -----------------------------------------------------------------------


def test_groups_of_polystyrene_are_its_methylenes_and_methyls():
    topology, _, groups, _, _ = melt()
    molecule = topology.molecule_types[0]
    hydrogens = molecule.masses < 2.0
    near = [set() for _ in hydrogens]
    for a, b in molecule.bonds.tolist():
        near[a].add(b)
        near[b].add(a)
    counted = [sum(hydrogens[list(n)]) for n in near if len(n) == 4]
    assert sorted(set(groups.ends)) == [2, 3]
    for ends in (2, 3):
        assert (groups.ends == ends).sum() == topology.n_molecules * counted.count(ends)
    assert all(hydrogens[row[-2:] % molecule.n_atoms].all() for row in groups.rows)


def test_groups_of_a_molecule_are_those_of_the_next_by_its_first_atom():
    topology, _, groups, _, _ = melt()
    each = groups.rows.reshape(topology.n_molecules, -1, 5)
    assert np.array_equal(each - topology.molecule_offsets()[:-1, None, None], each[:1] + 0 * each)


# --- where corners go -----------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_corners_of_a_turned_tetrahedron_are_found_again(ends, seed):
    turned = CORNERS @ turn(seed)
    assert np.allclose(fitted_corners(turned, ends), turned)
    assert np.allclose(fitted_corners(turned[[1, 0, 2, 3]], ends), turned[[1, 0, 2, 3]])


def test_two_branches_are_met_whatever_the_end_atoms_do():
    """Their plane stays; end atoms lie in the plane across, which halves the branches' angle."""
    rng = np.random.default_rng(5)
    a, b = CORNERS[:2] @ turn(9)
    ends = rng.normal(size=(2, 3))
    found = fitted_corners(np.array([a, b, *(ends / np.linalg.norm(ends, axis=1)[:, None])]), 2)
    assert np.allclose(found[:2], [a, b], atol=0.02)
    assert np.allclose(found @ found.T, CORNERS @ CORNERS.T)
    assert np.abs((found[2] - found[3]) @ found[:2].T).max() < 1e-9


# --- mending --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 7, 30])
def test_a_folded_group_is_mended_and_nothing_else_moves(number):
    _, field, groups, whole, box = melt()
    positions, row = folded(number)
    k = np.flatnonzero(groups.rows[:, 0] == row[0])[0]
    assert groups.flatness(positions, box)[k] < FLAT < groups.flatness(whole, box)[k]
    found = groups.mend(field, positions, box)
    assert set(np.flatnonzero((found != positions).any(axis=1))) == set(row[3:])
    assert np.allclose(lengths(found, row), lengths(positions, row))
    assert groups.flatness(found, box)[k] > FLAT
    energies = [angle_energies(field, x, box)[row[0]] for x in (positions, found)]
    assert energies[1] < 0.3 * energies[0]


def test_simulated_atoms_stay_as_they_are():
    _, field, groups, whole, box = melt()
    assert groups.mend(field, whole, box) is whole


def test_the_mirror_image_is_mended_into_the_mirror_image():
    _, field, groups, _, box = melt()
    positions, _ = folded(3)
    flip = np.array([-1.0, 1.0, 1.0])
    found = groups.mend(field, flip * positions, box)
    assert np.allclose(flip * found, groups.mend(field, positions, box), atol=1e-9)


def test_images_of_atoms_make_no_difference():
    _, field, groups, _, box = melt()
    positions, row = folded(3)
    away = positions.copy()
    away[row[3]] += box[0]
    found = groups.mend(field, away, box)
    assert np.allclose(found[row[4]], groups.mend(field, positions, box)[row[4]])
    assert np.allclose(found[row[3]], groups.mend(field, positions, box)[row[3]])


CROSS = """[ defaults ]
1 2 no 1.0 1.0
[ atomtypes ]
M 10.0 0.0 A 0.3 0.1
X 10.0 0.0 A 0.3 0.1
[ moleculetype ]
CROSS 3
[ atoms ]
1 M 1 C M 1
2 X 1 C X1 2
3 X 1 C X2 3
4 X 1 C X3 4
5 X 1 C X4 5
[ bonds ]
{bonds}
[ angles ]
{angles}
[ system ]
cross
[ molecules ]
CROSS 1
"""


@pytest.mark.parametrize(("rest", "stays"), [(90.0, True), (109.47, False)])
def test_what_the_force_field_wants_flat_stays_flat(rest, stays, tmp_path):
    """Four ligands in a square, as about platinum, against the same as a tetrahedron."""
    pairs = [(a, b) for a in range(4) for b in range(a)]
    opposite = 180.0 if stays else rest
    angles = "\n".join(
        f"{a + 2} 1 {b + 2} 1 {rest if SQUARE[a] @ SQUARE[b] == 0 else opposite} 400"
        for a, b in pairs
    )
    bonds = "\n".join(f"1 {a + 2} 1 0.2 100000" for a in range(4))
    path = tmp_path / "topol.top"
    path.write_text(CROSS.format(bonds=bonds, angles=angles))
    topology = read_topology(path)
    groups, field = FoldedGroups.from_topology(topology), ForceField.from_topology(topology)
    positions = 1.0 + 0.2 * np.concatenate([np.zeros((1, 3)), SQUARE @ turn(2)])
    assert groups.flatness(positions, BOX)[0] < FLAT
    found = groups.mend(field, positions, BOX)
    assert np.allclose(found, positions) is stays
    assert np.allclose(lengths(found, groups.rows[0]), 0.2)


def test_no_groups_no_change(tmp_path):
    path = tmp_path / "topol.top"
    path.write_text(CROSS.format(bonds="1 2 1 0.2 100000", angles=""))
    topology = read_topology(path)
    groups = FoldedGroups.from_topology(topology)
    positions = np.random.default_rng(0).uniform(size=(5, 3))
    assert groups.rows.shape == (0, 5)
    assert groups.mend(ForceField.from_topology(topology), positions, BOX) is positions


# --- in the last steps ----------------------------------------------------------------------------


@pytest.mark.parametrize(("tolerance", "times"), [(0.0, 0), (0.02, 1)])
def test_the_last_steps_mend_where_beads_are_soft(tolerance, times, monkeypatch):
    """Once, before hot blocks are slowed down; what was moved starts from rest."""
    topology, _, _, whole, box = melt()
    mapping = load_mapping("ps-two-bead").resolve(topology)
    settler, seen = Settler(mapping, threads=1), []
    run, (_, row) = settler.mechanics.run, folded(20)

    def moved(positions, box):
        seen.append(("mend", None))
        return positions + np.where(np.isin(np.arange(len(positions)), row[3:])[:, None], 0.01, 0.0)

    def ran(*arguments, velocities=None, **keywords):
        seen.append(("run", velocities))
        return run(*arguments, velocities=velocities, **keywords)

    monkeypatch.setattr(settler, "mended", moved)
    monkeypatch.setattr(settler.mechanics, "run", ran)
    beads, names = map_positions(mapping, whole), np.arange(len(whole))
    settler.settle(whole, beads, box, names, SettleOptions(568.0, bead_tolerance=tolerance))
    words = [word for word, _ in seen]
    assert words.count("mend") == times
    if times:
        after = seen[words.index("mend") + 1][1]
        assert set(np.flatnonzero((after == 0.0).all(axis=1))) == set(row[3:])

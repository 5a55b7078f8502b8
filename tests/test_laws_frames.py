"""What is measured in a frame does not change with how the frame is written down.

A frame may be shifted, its atoms put into any image, its cell described by other lattice vectors,
its molecules numbered otherwise, two of it laid side by side, or mirrored: what all of this does to
each figure is known without a reference value.
"""

import numpy as np
import pytest
import torch

import small_polystyrene
from deepbackmap.evaluation import Plan, measure
from deepbackmap.evaluation.contacts import exclude_within_bonds, radial_distributions
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.evaluation.plausible import look_at_beads
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.contacts import Contacts
from deepbackmap.forcefield.molecules import energies_per_molecule
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import map_positions
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole
from evaluation_systems import SKEWED, molecule, rotation, structure, topology
from laws import doubled, mirrored, moved, permutation, places, sheared, turned, twice

MAPPING = small_polystyrene.mapping()
TOPOLOGY = MAPPING.topology
FRAME = small_polystyrene.atoms(3)
FIELD = ForceField.from_topology(TOPOLOGY, cutoff=0.9)
CHAIN = small_polystyrene.ATOMS
SAME = {
    "moved": lambda f, seed: moved(f, seed),
    "sheared": lambda f, seed: sheared(f),
    "both": lambda f, seed: moved(sheared(f), seed),
    "mirrored": lambda f, seed: mirrored(f),
}
CHIRAL = ("moved", "sheared", "both")
"""Those that keep hands."""


def same(way, seed=1):
    return SAME[way](FRAME, seed)


@pytest.mark.parametrize("way", SAME)
def test_energies_do_not_know_how_a_frame_is_written(way):
    expected, found = FIELD.energies_by_term(FRAME), FIELD.energies_by_term(same(way))
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("way", SAME)
def test_energies_of_molecules_do_not_either_and_add_up(way):
    expected = energies_per_molecule(FIELD, FRAME)
    found = energies_per_molecule(FIELD, same(way))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-8, atol=1e-8)
    total = FIELD.energies_by_term(FRAME)
    assert sum(v.sum() for k, v in expected.items() if k.startswith("lj i")) == pytest.approx(
        total["lj"]
    )


@pytest.mark.parametrize("axis", range(3))
def test_two_cells_hold_twice_the_energy(axis):
    both = ForceField.from_topology(twice(TOPOLOGY), cutoff=0.9)
    once, found = FIELD.energies_by_term(FRAME), both.energies_by_term(doubled(FRAME, axis))
    assert found == pytest.approx({k: 2 * v for k, v in once.items()}, rel=1e-8, abs=1e-8)
    parts = energies_per_molecule(both, doubled(FRAME, axis))
    for name, values in energies_per_molecule(FIELD, FRAME).items():
        np.testing.assert_allclose(parts[name], np.tile(values, 2), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_molecules_of_a_kind_may_change_places(seed):
    order = permutation(small_polystyrene.CHAINS, seed)
    x = FRAME.positions.reshape(-1, CHAIN, 3)[order].reshape(-1, 3)
    other = Structure(x, FRAME.box)
    assert FIELD.energies_by_term(other) == pytest.approx(FIELD.energies_by_term(FRAME), rel=1e-9)
    for name, values in energies_per_molecule(FIELD, FRAME).items():
        found = energies_per_molecule(FIELD, other)[name]
        np.testing.assert_allclose(found, values[order], rtol=1e-9, atol=1e-9)


def forces(field, frame):
    x, box = field.checked(frame)
    x.requires_grad_()
    total = sum(field.energies(x, box).values())
    (gradient,) = torch.autograd.grad(total, x)
    return -gradient.numpy()


def test_forces_add_up_to_nothing_and_turn_with_the_molecule():
    found = forces(FIELD, FRAME)
    np.testing.assert_allclose(found.sum(axis=0), 0.0, atol=1e-6 * np.abs(found).max())
    np.testing.assert_allclose(forces(FIELD, same("both")), found, rtol=1e-6, atol=1e-5)
    flipped = forces(FIELD, mirrored(FRAME)) * [1.0, 1.0, -1.0]
    np.testing.assert_allclose(flipped, found, rtol=1e-6, atol=1e-5)


def test_open_space_has_no_torque_and_no_direction():
    open_frame = Structure(FRAME.positions, np.zeros((3, 3)))
    field = ForceField.from_topology(TOPOLOGY, cutoff=20.0, reaction_field_epsilon=None)
    found = forces(field, open_frame)
    torque = np.cross(open_frame.positions, found).sum(axis=0)
    np.testing.assert_allclose(torque, 0.0, atol=1e-6 * np.abs(found).max())
    turn = rotation(5)
    other = Structure(FRAME.positions @ turn, np.zeros((3, 3)))
    np.testing.assert_allclose(forces(field, other), found @ turn, rtol=1e-6, atol=1e-5)


PLAN = Plan.from_topology(TOPOLOGY)


@pytest.fixture(scope="module")
def measured():
    return measure(PLAN, [FRAME])


@pytest.mark.parametrize("way", SAME)
def test_a_measurement_does_not_know_how_a_frame_is_written(way, measured):
    found = measure(PLAN, [same(way)])
    flipped = -1 if way == "mirrored" else 1
    assert np.array_equal(found.handedness, flipped * measured.handedness)
    assert np.array_equal(found.prochiral, flipped * measured.prochiral)
    assert np.array_equal(found.pierced_of, measured.pierced_of)
    assert np.array_equal(found.clashes_of, measured.clashes_of)
    assert np.array_equal(np.sort(found.nearest_pair), np.sort(measured.nearest_pair))
    for name in ("closest", "nearest", "ring_rms", "bond_squares", "bond_largest"):
        np.testing.assert_allclose(getattr(found, name), getattr(measured, name), atol=1e-7)
    for name, values in measured.energies.items():
        np.testing.assert_allclose(found.energies[name], values, rtol=1e-7, atol=1e-7)
    for name, counts in measured.counts.items():
        # a value on the edge of a bin may fall to either side of it by rounding
        off = np.abs(found.counts[name] - counts).sum()
        off_mirrored = np.abs(found.counts[name][:, ::-1] - counts).sum()
        assert min(off, off_mirrored if flipped < 0 else off) <= 4, name
    for name, curve in measured.rdf.items():
        np.testing.assert_allclose(found.rdf[name], curve, atol=0.05 * max(1.0, curve.max()))


CALCULATED = {"length": "calc_bonds", "angle": "calc_angles", "dihedral": "calc_dihedrals"}


@pytest.mark.parametrize("kind", CALCULATED)
def test_distributions_are_those_of_mdanalysis(kind, measured):
    from MDAnalysis.lib import distances
    from MDAnalysis.lib.mdamath import triclinic_box

    box = triclinic_box(*(10 * FRAME.box))
    rows = PLAN.coordinates[kind]
    x = (10 * FRAME.positions).astype(np.float32)
    theirs = getattr(distances, CALCULATED[kind])(*(x[column] for column in rows.T), box=box)
    theirs = theirs / 10 if kind == "length" else np.degrees(theirs)
    seen = 0
    for observable in PLAN.observables:
        if observable.kind == kind:
            low, high, bins = observable.bins
            inside = np.clip(theirs[observable.rows], low + 1e-6, high - 1e-6)
            expected = np.histogram(inside, bins, (low, high))[0]
            ours = measured.counts[observable.name][0]
            assert ours.sum() == expected.sum()
            # single precision: a value on the edge of a bin may fall to its other side
            assert np.abs(ours - expected).sum() <= max(2, 0.04 * expected.sum())
            seen += 1
    assert seen or kind == "dihedral"


@pytest.mark.parametrize("axis", [0, 2])
def test_two_cells_are_measured_as_one_cell_twice(axis, measured):
    found = measure(Plan.from_topology(twice(TOPOLOGY)), [doubled(FRAME, axis)])
    assert np.array_equal(found.handedness, np.tile(measured.handedness, 2))
    assert np.array_equal(found.clashes, 2 * measured.clashes)
    assert np.array_equal(found.pierced_of, np.tile(measured.pierced_of, 2))
    assert found.nearest == pytest.approx(measured.nearest)
    for name, counts in measured.counts.items():
        assert np.abs(found.counts[name] - 2 * counts).sum() <= 8, name
    for name, curve in measured.rdf.items():
        np.testing.assert_allclose(found.rdf[name], curve, atol=0.05 * max(1.0, curve.max()))


def test_frames_are_measured_one_by_one(measured):
    other = small_polystyrene.atoms(4)
    both = measure(PLAN, [other, FRAME])
    for name in ("closest", "nearest", "clashes", "bond_squares"):
        np.testing.assert_allclose(getattr(both, name)[1:], getattr(measured, name))
    assert np.array_equal(both.select([1]).handedness, measured.handedness)


def numbers(values, path=""):
    """All numbers of nested dictionaries and lists by their way."""
    if isinstance(values, dict):
        return {
            k: v
            for key, inner in values.items()
            for k, v in numbers(inner, f"{path}/{key}").items()
        }
    if isinstance(values, (list, tuple)):
        return {
            k: v for n, inner in enumerate(values) for k, v in numbers(inner, f"{path}/{n}").items()
        }
    return {path: values} if isinstance(values, (int, float)) else {}


@pytest.fixture(scope="module")
def judge():
    return Judge(TOPOLOGY, MAPPING)


@pytest.mark.parametrize("way", CHIRAL)
def test_figures_of_a_frame_do_not_know_how_it_is_written(way, judge):
    beads = small_polystyrene.beads(FRAME)
    right = numbers(judge.frame(FRAME, beads).to_dict())
    found = numbers(judge.frame(same(way), SAME[way](beads, 1)).to_dict())
    assert len(right) > 20
    assert found == pytest.approx(right, rel=1e-5, abs=1e-6, nan_ok=True)


def test_figures_add_up_in_any_order(judge):
    frames = [small_polystyrene.atoms(k) for k in range(3)]
    parts = [judge.frame(f, small_polystyrene.beads(f), k) for k, f in enumerate(frames)]
    one = numbers(Figures.total(parts).to_dict())
    for order in ((2, 0, 1), (1, 2, 0)):
        other = numbers(Figures.total([parts[k] for k in order]).to_dict())
        assert other == pytest.approx(one, rel=1e-9, nan_ok=True)
    assert Figures.total(parts).frames == sum(p.frames for p in parts)
    assert Figures.total(parts).atoms == sum(p.atoms for p in parts)
    closest = [p.contacts.closest for p in parts]
    assert Figures.total(parts).contacts.closest == min(closest)


ATOMS = topology(molecule(["C"], []), counts=[60])


@pytest.mark.parametrize("seed", range(3))
def test_pair_functions_do_not_know_how_a_gas_is_written(seed):
    gas = structure(places(60, seed))
    excluded = exclude_within_bonds(ATOMS, 0)
    groups = (np.arange(60) % 2).astype(np.int64)
    right = radial_distributions(gas, np.arange(60), groups, excluded)
    for other in (moved(gas, seed), sheared(gas), mirrored(gas)):
        found = radial_distributions(other, np.arange(60), groups, excluded)
        np.testing.assert_allclose(found, right, atol=1e-9 + 0.1 * right.max())
        assert (np.abs(found - right) > 1e-9).mean() < 0.02
    order = permutation(60, seed)
    shuffled = Structure(gas.positions[order], gas.box)
    found = radial_distributions(shuffled, np.arange(60), groups[order], excluded)
    np.testing.assert_allclose(found, right)


@pytest.mark.parametrize("seed", range(3))
def test_g_of_r_is_that_of_mdanalysis_in_a_right_angled_cell(seed):
    import MDAnalysis as mda
    from MDAnalysis.analysis.rdf import InterRDF

    box = np.diag([2.6, 2.8, 3.0])
    gas = structure(places(80, seed, box), box)
    universe = mda.Universe.empty(80, trajectory=True)
    universe.atoms.positions = 10 * gas.positions
    universe.dimensions = [26, 28, 30, 90, 90, 90]
    theirs = InterRDF(universe.atoms, universe.atoms, nbins=60, range=(0.0, 12.0),
                      exclusion_block=(1, 1)).run().results.rdf  # fmt: skip
    top = topology(molecule(["C"], []), counts=[80])
    (ours,) = radial_distributions(
        gas, np.arange(80), np.zeros(80, dtype=np.int64), exclude_within_bonds(top, 0),
        width=0.02, bins=60,
    )  # fmt: skip
    # MDAnalysis takes an atom's own place out of the density, and counts in single precision: a
    # pair on an edge may fall to its other side
    assert (np.abs(ours - theirs * 79 / 80) > 1e-3 * ours.max()).sum() <= 4


@pytest.mark.parametrize("seed", range(4))
def test_the_closest_pair_is_that_of_a_search_by_hand(seed):
    gas = structure(places(60, seed))
    found = Contacts(ATOMS).closest(gas)
    images = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3) @ SKEWED
    i, j = np.triu_indices(60, 1)
    apart = gas.positions[j] - gas.positions[i]
    away = np.linalg.norm(apart[:, None] + images, axis=2).min(axis=1)
    assert found.distance == pytest.approx(away.min())
    k = away.argmin()
    assert {found.first, found.second} == {i[k], j[k]}


@pytest.mark.parametrize("way", SAME)
def test_whole_molecules_are_the_same_whatever_the_image(way):
    other = same(way)
    whole = make_whole(other.positions, other.box, TOPOLOGY)
    flip = np.array([1, 1, -1.0]) if way == "mirrored" else np.ones(3)
    for k in range(small_polystyrene.CHAINS):
        rows = slice(k * CHAIN, (k + 1) * CHAIN)
        found = (whole[rows] - whole[rows.start]) * flip
        np.testing.assert_allclose(found, FRAME.positions[rows] - FRAME.positions[rows.start],
                                   atol=1e-9)  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_mapping_commutes_with_motions(seed):
    x, turn = FRAME.positions, rotation(seed)
    right = map_positions(MAPPING, x)
    np.testing.assert_allclose(map_positions(MAPPING, x + 3.0), right + 3.0)
    np.testing.assert_allclose(map_positions(MAPPING, x @ turn), right @ turn, atol=1e-12)
    np.testing.assert_allclose(map_positions(MAPPING, 2.5 * x), 2.5 * right)
    other = small_polystyrene.atoms(seed).positions
    np.testing.assert_allclose(
        map_positions(MAPPING, 0.3 * x + 0.7 * other),
        0.3 * right + 0.7 * map_positions(MAPPING, other),
    )


def test_beads_are_centres_of_mass_as_mdanalysis_has_them():
    import MDAnalysis as mda

    universe = mda.Universe.empty(TOPOLOGY.n_atoms, trajectory=True)
    universe.add_TopologyAttr("masses", TOPOLOGY.masses())
    universe.atoms.positions = 10 * FRAME.positions
    beads = map_positions(MAPPING, FRAME.positions)
    kinds = [t for m in MAPPING.molecules for t in m.bead_types] * small_polystyrene.CHAINS
    chain = MAPPING.molecules[0]
    for bead in [k for k, t in enumerate(kinds) if t == "B"]:
        copy, place = divmod(bead, chain.n_beads)
        ring = np.flatnonzero(chain.owner == place) + copy * CHAIN
        centre = universe.atoms[ring].center_of_mass() / 10
        np.testing.assert_allclose(beads[bead], centre, atol=1e-6)


@pytest.mark.parametrize("way", CHIRAL)
def test_what_is_said_of_beads_does_not_know_how_they_are_written(way):
    beads = small_polystyrene.beads(FRAME)
    right = [f.sentence for f in look_at_beads(MAPPING, beads)]
    assert [f.sentence for f in look_at_beads(MAPPING, SAME[way](beads, 2))] == right
    broken = Structure(np.repeat(beads.positions[:1], len(beads.positions), axis=0), beads.box)
    assert look_at_beads(MAPPING, broken) != look_at_beads(MAPPING, beads)


def test_a_turned_cell_measures_alike():
    gas = structure(places(40, 1))
    i, j = np.triu_indices(40, 1)
    other = turned(gas, 4)
    right = minimum_image(gas.positions[j] - gas.positions[i], gas.box)
    found = minimum_image(other.positions[j] - other.positions[i], other.box)
    np.testing.assert_allclose(
        np.linalg.norm(found, axis=1), np.linalg.norm(right, axis=1), atol=1e-9
    )

"""Rigid templates: learned, kept, matched, superposed and chosen."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import deepbackmap
import small_polystyrene
from deepbackmap.baselines import surroundings
from deepbackmap.baselines.joints import find_joints, joint_energies
from deepbackmap.baselines.placement import TemplateOptions, TemplatePlacer
from deepbackmap.baselines.sites import find_sites
from deepbackmap.baselines.superposition import superpose
from deepbackmap.baselines.templates import (
    Fragments,
    learn_templates,
    match_site,
    read_templates,
    write_templates,
)
from deepbackmap.chemistry import tacticity
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image, neighbour_pairs, wrap
from deepbackmap.geometry.turns import random_turns
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, map_positions
from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology
from deepbackmap.system.whole import make_whole

LOWEST = TemplateOptions()
NEAREST = TemplateOptions(candidates=1, sweeps=0)


@cache
def learned(seeds=(0, 1, 2), most=400):
    system = small_polystyrene.mapping()
    return learn_templates(system, [small_polystyrene.atoms(s) for s in seeds], most=most)


def place(templates, beads, options=LOWEST, frame=0):
    return TemplatePlacer(small_polystyrene.mapping(), templates, options).place(beads, frame=frame)


def apart(a, b):
    """Largest distance of atoms in two frames, periodic images equal."""
    return np.linalg.norm(minimum_image(a.positions - b.positions, b.box), axis=1).max()


def test_what_was_learned_comes_back():
    """The beads of a frame that the templates come from give its atoms, rings and hands and all."""
    frame = small_polystyrene.atoms(1)
    made = place(learned(), small_polystyrene.beads(frame), NEAREST)
    assert apart(made, frame) < 1e-6


def test_placement_turns_with_the_beads():
    """Rotated and wrapped beads give the rotated atoms, molecules whole."""
    frame = small_polystyrene.atoms(5)
    beads = small_polystyrene.beads(frame)
    turn = small_polystyrene.rotation(1)
    box = np.linalg.qr((beads.box @ turn.T).T)[1].T  # lower triangular again, by a rotation
    turn = np.linalg.solve(beads.box, box).T
    assert abs(abs(np.linalg.det(turn)) - 1) < 1e-9
    turn, box = (turn, box) if np.linalg.det(turn) > 0 else (-turn, -box)
    moved = replace(beads, positions=wrap(beads.positions @ turn.T, box), box=box)
    expected = place(learned(), beads)
    expected = replace(expected, positions=expected.positions @ turn.T, box=box)
    assert apart(place(learned(), moved), expected) < 1e-6


def test_unseen_beads_get_the_right_hands_whole_bonds_and_their_places():
    frame = small_polystyrene.atoms(11)
    system = small_polystyrene.mapping()
    beads = small_polystyrene.beads(frame)
    made = place(learned(tuple(range(8))), beads)
    centres = tacticity.find_centres(system)
    np.testing.assert_array_equal(tacticity.signs(made, centres), tacticity.signs(frame, centres))
    remapped = map_positions(system, made.positions) - beads.positions
    assert np.sqrt((minimum_image(remapped, beads.box) ** 2).sum(axis=1).mean()) < 0.03
    owner, start = system.molecules[0].owner, 0
    for a, b in system.topology.molecule_types[0].bonds:
        if owner[a] == owner[b]:  # inside a fragment, as rigid as it was
            r = np.linalg.norm(made.positions[start + a] - made.positions[start + b])
            assert 0.09 < r < 0.17


def test_choosing_mends_joints_and_contacts():
    """A melt, from templates of its other frames, against the nearest fragments alone."""
    melt = Path(deepbackmap.__file__).parent / "packaged" / "melt"
    topology = read_topology(melt / "topol.top")
    system = load_mapping("ps-two-bead").resolve(topology)
    with read_frames(melt / "aa.gro", melt / "aa.xtc") as source:
        last, *others = [
            replace(f, positions=make_whole(f.positions, f.box, topology)) for f in source
        ][::-1]
    templates = learn_templates(system, others)
    beads = replace(last, positions=map_positions(system, last.positions))
    owner, molecule = system.atom_owners(), topology.molecule_types[0]
    terms = topology.expand_terms("bond")
    across = owner[terms.atoms[:, 0]] != owner[terms.atoms[:, 1]]
    a, b = terms.atoms[across].T

    def misfit(made):
        lengths = np.linalg.norm(made.positions[a] - made.positions[b], axis=1)
        return np.sqrt(((lengths - terms.parameters[across, 0]) ** 2).mean())

    def clashes(made):
        pairs = neighbour_pairs(made.positions, made.box, 0.19)
        foreign = pairs.i // molecule.n_atoms != pairs.j // molecule.n_atoms
        return np.count_nonzero(foreign) // 2

    near, chosen = (
        TemplatePlacer(system, templates, options).place(beads, frame=0)
        for options in (NEAREST, TemplateOptions(candidates=24, sweeps=3))
    )
    assert misfit(chosen) < misfit(near) < 0.02
    assert clashes(chosen) < 0.3 * clashes(near)
    centres = tacticity.find_centres(system)
    np.testing.assert_array_equal(tacticity.signs(chosen, centres), tacticity.signs(last, centres))


def test_draws_depend_on_seed_and_frame_only():
    beads = small_polystyrene.beads(small_polystyrene.atoms(11))
    templates = learned(tuple(range(8)))
    hot = TemplateOptions(temperature=2000.0, seed=3)
    one = place(templates, beads, hot, frame=2)
    np.testing.assert_array_equal(one.positions, place(templates, beads, hot, frame=2).positions)
    assert apart(one, place(templates, beads, hot, frame=3)) > 0.01
    assert apart(one, place(templates, beads, replace(hot, seed=4), frame=2)) > 0.01


def test_files_keep_templates(tmp_path):
    templates = replace(learned(), provenance={"temperature": 500.0}, handedness={"A:0": [1, -1]})
    write_templates(templates, tmp_path / "t.npz")
    found = read_templates(tmp_path / "t.npz")
    assert found.provenance == templates.provenance
    assert found.handedness == templates.handedness
    assert len(found.fragments) == len(templates.fragments)
    for a, b in zip(found.fragments, templates.fragments, strict=True):
        assert (a.bead_type, a.pattern, a.parity, a.labels, a.distances) == (
            b.bead_type, b.pattern, b.parity, b.labels, b.distances
        )  # fmt: skip
        np.testing.assert_allclose(a.atoms, b.atoms, atol=5.1e-5)
        np.testing.assert_allclose(a.beads, b.beads, atol=5.1e-5)
    with pytest.raises(InputError, match=r"t.npz: expected no file of that name"):
        write_templates(templates, tmp_path / "t.npz")
    with pytest.raises(InputError, match=r"expected a templates file to end in .npz"):
        write_templates(templates, tmp_path / "t.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "t.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"t.npz: expected a templates file"):
        read_templates(tmp_path / "t.npz")
    with pytest.raises(InputError, match=r"none.npz: expected a templates file, found none"):
        read_templates(tmp_path / "none.npz")


def test_one_fragment_of_a_kind_is_the_medoid():
    """Of three fragments the one between the two others."""
    base = small_polystyrene.atoms(0)
    frames = [replace(base, positions=base.positions.copy()) for _ in range(3)]
    for frame, angle in zip(frames, (-0.02, 0.0, 0.03), strict=True):
        frame.positions[:] = base.positions * (1 + angle)
    one = learn_templates(small_polystyrene.mapping(chains=3), frames, most=1)
    assert all(len(f) == 1 for f in one.fragments)
    with pytest.raises(InputError, match="templates: expected to keep at least 1 of a kind"):
        learned(most=0)


def test_kinds_are_those_of_the_chain_not_its_length():
    """Inner beads of a 12-mer are inner beads of a 10-mer; hands alternate."""

    def inner(monomers):
        system = small_polystyrene.mapping(monomers)
        sites = find_sites(system.topology.molecule_types[0], system.molecules[0])
        return {replace(s, beads=(), atoms=()) for s in sites[8:-8]}

    assert inner(10) == inner(12)
    system = small_polystyrene.mapping(10)
    sites = find_sites(system.topology.molecule_types[0], system.molecules[0])
    assert [s.parity for s in sites[::2]] == [0, 1] * 5
    assert sites[8].labels == ("A+", "A-", "B+", "A+A+", "A+B+", "A-A-", "A-B+")


def test_a_missing_kind_is_named():
    templates = learned()
    rings = replace(
        templates, fragments=tuple(f for f in templates.fragments if f.bead_type == "B")
    )
    with pytest.raises(
        InputError, match="structure: expected templates for bead B1 of molecule PS1 of type A"
    ):
        place(rings, small_polystyrene.beads(small_polystyrene.atoms()))


def test_short_chains_take_what_fits_best():
    """A site of a 3-mer finds fragments of a 10-mer that share most of its surroundings."""
    long = small_polystyrene.mapping(10, 1)
    short = small_polystyrene.mapping()
    sites = find_sites(long.topology.molecule_types[0], long.molecules[0])

    def empty(site):
        n = len(site.labels)
        return Fragments(site.bead_type, site.pattern, site.parity, site.labels, site.distances,
                         np.zeros((1, n, 3)), np.zeros((1, len(site.atoms), 3)))  # fmt: skip

    templates = replace(learned(), fragments=tuple(empty(s) for s in sites))
    for site in find_sites(short.topology.molecule_types[0], short.molecules[0]):
        found = match_site(templates, site, "bead")
        assert found.pattern == site.pattern
        ends = [s for s in sites if s.pattern == site.pattern]
        assert found.parity == site.parity or all(s.parity != site.parity for s in ends)
        assert len(set(found.labels) & set(site.labels)) >= 3


def test_superposition_is_the_best_rotation():
    """A turned template comes back; no other rotation is nearer where nothing fits exactly."""
    rng = np.random.default_rng(0)
    template, turn = rng.normal(size=(1, 1, 5, 3)), small_polystyrene.rotation(2)
    weights = np.array([1.0, 1.0, 0.5, 0.5, 0.1])
    found, left = superpose(template, template[:, 0] @ turn.T, weights)
    np.testing.assert_allclose(found[0, 0], turn, atol=1e-12)
    assert left[0, 0] < 1e-12
    target = rng.normal(size=(1, 5, 3))
    found, left = superpose(template, target, weights)
    assert abs(np.linalg.det(found[0, 0]) - 1) < 1e-9

    def distance(matrix):
        gaps = template[0, 0] @ matrix.T - target[0]
        return (weights * (gaps**2).sum(axis=1)).sum() / weights.sum()

    assert abs(distance(found[0, 0]) - left[0, 0]) < 1e-9
    others = random_turns(np.zeros((1, 3)), rng.uniform(size=(1, 500, 3)))[0]
    assert min(distance(m) for m in others) > left[0, 0]


def test_random_turns_are_rotations_about_their_axis():
    rng = np.random.default_rng(0)
    axes = np.array([[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    turns = random_turns(axes, rng.uniform(size=(2, 4000, 3)))
    np.testing.assert_allclose(turns @ np.swapaxes(turns, 2, 3) - np.eye(3), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(turns), 1.0, atol=1e-9)
    np.testing.assert_allclose(turns[0, :, 2, 2], 1.0, atol=1e-12)
    # Free rotations are spread evenly: the mean matrix vanishes, the mean square is a third.
    np.testing.assert_allclose(turns[1].mean(axis=0), 0.0, atol=0.04)
    np.testing.assert_allclose((turns[1] ** 2).mean(axis=0), 1 / 3, atol=0.02)


def test_molecules_of_two_beads_are_turned_about_their_axis():
    """Nothing says by how much: candidates differ, beads and the fragments' bonds are kept."""
    two = small_polystyrene.mapping(2, 3)
    mapping: SystemMapping = load_mapping("ps-one-bead").resolve(two.topology)
    atoms = small_polystyrene._positions(2, 3, 0).copy()
    frame = replace(small_polystyrene.atoms(), positions=atoms)
    beads = replace(frame, positions=map_positions(mapping, frame.positions))
    templates = learn_templates(mapping, [frame])
    made = TemplatePlacer(mapping, templates, LOWEST).place(beads, frame=0)
    assert apart(made, frame) > 0.05
    back = map_positions(mapping, made.positions)
    np.testing.assert_allclose(back, beads.positions, atol=1e-9)
    for a, b in inner_bonds(mapping):
        new, old = (np.linalg.norm(f.positions[a] - f.positions[b]) for f in (made, frame))
        assert abs(new - old) < 1e-9


def test_molecules_of_one_bead_are_turned_at_random():
    """Methane on its beads: every molecule another way, its own shape kept."""
    system, frame = methane(40)
    templates = learn_templates(system, [frame])
    beads = replace(frame, positions=map_positions(system, frame.positions))
    made = TemplatePlacer(system, templates, NEAREST).place(beads, frame=0)
    np.testing.assert_allclose(map_positions(system, made.positions), beads.positions, atol=1e-9)
    arms = (made.positions.reshape(40, 5, 3) - beads.positions[:, None])[:, 1]
    assert abs(np.linalg.norm(arms, axis=1) - 0.109).max() < 1e-6
    assert np.linalg.norm(arms.mean(axis=0)) < 0.05  # 0.109 if all pointed the same way


def inner_bonds(system):
    """Bonds inside the fragments of the first molecule."""
    owner = system.molecules[0].owner
    return [b for b in system.topology.molecule_types[0].bonds if owner[b[0]] == owner[b[1]]]


def methane(count):
    """Molecules of one bead, all turned the same way."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3.0)
    shape = 0.109 * np.concatenate([np.zeros((1, 3)), corners])
    bonds = BondedTerms(np.array([[0, k] for k in range(1, 5)]), np.tile([0.109, 2e5], (4, 1)))
    molecule = MoleculeType(
        "CH4", ("C", "H1", "H2", "H3", "H4"), ("C", *"HHHH"), ("MET",) * 5,
        np.ones(5, dtype=np.int64), np.zeros(5), np.array([12.011] + [1.008] * 4), {"bond": bonds},
        3, np.array([[i, j] for i in range(5) for j in range(i + 1, 5)]),
        BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3))),
    )  # fmt: skip
    table = 1e-6 * np.ones((2, 2))
    topology = Topology("gas", (molecule,), ((0, count),), ("C", "H"), 1e-3 * table, 1e-6 * table)
    text = "residues:\n  MET:\n    beads:\n      - {name: M, type: M, atoms: [C, H1, H2, H3, H4]}\n"
    system = MappingFile.from_text(text).resolve(topology)
    centres = np.random.default_rng(0).uniform(0.0, 2.8, (count, 1, 3))
    return system, Structure((centres + shape).reshape(-1, 3), 4.0 * np.eye(3))


@pytest.mark.parametrize("options", [{"candidates": 0}, {"sweeps": -1}, {"temperature": 0.0}])
def test_senseless_options_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        TemplateOptions(**options)


def test_energies_of_pairs_are_those_of_their_beads(monkeypatch):
    """Moving one bead of a pair costs what it costs alone, with the other where it is."""
    monkeypatch.setattr(surroundings, "RANGE", 3.0)
    monkeypatch.setattr(surroundings, "MOST", 10**6)
    frame, system = small_polystyrene.atoms(2), small_polystyrene.mapping()
    molecule, mapping = system.topology.molecule_types[0], system.molecules[0]
    whole = small_polystyrene.beads(frame).positions
    relative = frame.positions - whole[system.atom_owners()]
    crowd = surroundings.Crowd(system, reach=0.3)
    around = crowd.surroundings(whole, frame.box)
    copies = np.arange(small_polystyrene.CHAINS)
    rng = np.random.default_rng(0)
    bead, atoms, placed = {}, {}, {}
    for k in (2, 3):
        owned = np.flatnonzero(mapping.owner == k)
        bead[k] = mapping.n_beads * copies + k
        atoms[k] = molecule.n_atoms * copies[:, None] + owned
        spread = rng.normal(0.0, 0.01, (small_polystyrene.CHAINS, 3, len(owned), 3))
        placed[k] = relative[atoms[k]][:, None] + spread
    rest = whole, relative, bead[2], mapping.owner, 0, 0
    shift = (whole[bead[3]] - whole[bead[2]])[:, None, None]
    there = relative[atoms[3]][:, None] + shift  # the second as it is, seen from the first
    pair = find_joints(molecule, *(np.flatnonzero(mapping.owner == k).tolist() for k in (2, 3)))
    alone = find_joints(molecule, np.flatnonzero(mapping.owner == 2).tolist())
    both = np.concatenate([placed[2], np.repeat(there, 3, axis=1)], axis=2)
    together, single = joint_energies(pair, both, *rest), joint_energies(alone, placed[2], *rest)
    np.testing.assert_allclose(np.diff(together), np.diff(single), atol=1e-8)
    full = crowd.energies(around, 0, relative, bead[2], atoms[2], placed[2])
    without = crowd.energies(around, 0, relative, bead[2], atoms[2], placed[2], without=bead[3])
    between = crowd.between(0, (atoms[2], atoms[3]), (placed[2], there))[:, :, 0]
    assert np.abs(between).max() > 0.1  # or nothing was tested
    np.testing.assert_allclose(full, without + between, rtol=1e-4, atol=1e-3)


def test_clashes_cost_what_lennard_jones_says(monkeypatch):
    """Against the force field's own energies, where no pair reaches the ceiling."""
    monkeypatch.setattr(surroundings, "RANGE", 3.0)
    monkeypatch.setattr(surroundings, "MOST", 10**6)
    monkeypatch.setattr(surroundings, "CEILING", np.inf)
    system, frame = methane(30)
    # A cluster in a large box: every pair is within reach, in one image only.
    frame = replace(frame, box=2.0 * frame.box)
    beads = replace(frame, positions=map_positions(system, frame.positions))
    crowd = surroundings.Crowd(system, reach=0.11)
    around = crowd.surroundings(beads.positions, beads.box)
    relative = frame.positions - np.repeat(beads.positions, 5, axis=0)
    atoms = np.arange(150).reshape(30, 5)
    placed = relative.reshape(30, 1, 5, 3)
    found = crowd.energies(around, 0, relative, np.arange(30), atoms, placed)[:, 0]
    x = frame.positions
    gaps = np.linalg.norm(minimum_image(x[:, None] - x[None], frame.box), axis=2)
    types = system.topology.atom_type_index()
    c6, c12 = (t[types[:, None], types] for t in (system.topology.c6, system.topology.c12))
    foreign = atoms[:, 0].repeat(5)[:, None] != atoms[:, 0].repeat(5)[None]
    r = np.where(foreign, gaps, 1.0)
    every = np.where(foreign, c12 / r**12 - c6 / r**6, 0.0).reshape(30, 5, 150).sum(axis=(1, 2))
    assert gaps[foreign].min() > 0.05  # nearer ones count as this far apart
    np.testing.assert_allclose(found, every, rtol=1e-3, atol=1e-4 * np.abs(every).mean())

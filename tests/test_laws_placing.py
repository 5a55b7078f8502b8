"""Where virtual sites, modifiers and projections put atoms: formulas by hand, and symmetries."""

import math
from dataclasses import replace

import numpy as np
import pytest

import small_polystyrene as ps
from deepbackmap.baselines.modifiers import (
    apply_modifiers,
    packaged_modifiers,
    parse_modifiers,
    resolve_modifiers,
)
from deepbackmap.baselines.projection import kick, project
from deepbackmap.baselines.sites import find_sites
from deepbackmap.chemistry import tacticity
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.mapping import MappingFile, load_mapping, map_positions
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.system import Structure
from deepbackmap.system.lean import site_shares, without_sites
from deepbackmap.system.sites import place_sites
from evaluation_systems import SKEWED, rotation
from laws import mirrored, places
from sited_systems import MAPPING, write_sited

HEAD = """[ defaults ]
1 2 yes 0.5 0.8333
[ atomtypes ]
C  6 14.0 0.0 A 0.35 0.40
V  0  0.0 0.0 D 0.0  0.0
[ moleculetype ]
MOL 1
[ atoms ]
1 C 1 MOL C1 1 0.1 14.0
2 C 1 MOL C2 1 0.2 14.0
3 C 1 MOL C3 1 0.3 14.0
4 C 1 MOL C4 1 0.4 14.0
5 V 1 MOL V1 1 -1.0 0.0
[ bonds ]
1 2 1 0.15 250000
2 3 1 0.15 250000
3 4 1 0.15 250000
"""
TAIL = "\n[ system ]\nsites\n[ molecules ]\nMOL 2\n"


def unit(v):
    return v / np.linalg.norm(v)


def sited(folder, lines):
    path = folder / "sited.top"
    path.write_text(HEAD + lines + TAIL)
    return read_topology(path)


A, B, C, ANGLE, LENGTH = 0.3, 0.45, 2.5, 110.0, 0.12


def flat(w, p, q, r):
    """The unit vector at an angle to p -> q in the plane of r."""
    along = unit(q - p)
    across = unit((r - q) - ((r - q) @ along) * along)
    return math.cos(math.radians(w)) * along + math.sin(math.radians(w)) * across


RULES = {
    "2": (f"[ virtual_sites2 ]\n5 1 2 1 {A}", lambda x: (1 - A) * x[0] + A * x[1]),
    "2fd": (f"[ virtual_sites2 ]\n5 2 1 2 {LENGTH}", lambda x: x[1] + LENGTH * unit(x[0] - x[1])),
    "3": (
        f"[ virtual_sites3 ]\n5 1 2 3 1 {A} {B}",
        lambda x: (1 - A - B) * x[0] + A * x[1] + B * x[2],
    ),
    "3fd": (
        f"[ virtual_sites3 ]\n5 2 1 3 2 {A} {LENGTH}",
        lambda x: x[1] + LENGTH * unit((1 - A) * (x[0] - x[1]) + A * (x[2] - x[1])),
    ),
    "3fad": (
        f"[ virtual_sites3 ]\n5 1 2 3 3 {ANGLE} {LENGTH}",
        lambda x: x[0] + LENGTH * flat(ANGLE, x[0], x[1], x[2]),
    ),
    "3out": (
        f"[ virtual_sites3 ]\n5 2 1 3 4 {A} {B} {C}",
        lambda x: x[1] + A * (x[0] - x[1]) + B * (x[2] - x[1])
        + C * np.cross(x[0] - x[1], x[2] - x[1]),
    ),
    "4fdn": (
        f"[ virtual_sites4 ]\n5 1 2 3 4 2 {A} {B} {LENGTH}",
        lambda x: x[0] + LENGTH * unit(np.cross(
            A * (x[2] - x[0]) - (x[1] - x[0]), B * (x[3] - x[0]) - (x[1] - x[0]))),
    ),
    "n": ("[ virtual_sitesn ]\n5 2 1 2 3", lambda x: (x[0] + x[1] + x[2]) / 3),  # by mass
}  # fmt: skip
MIRRORED = ("3out", "4fdn")
"""Those that are out of the plane of their atoms, by a vector product."""


def walks(count=2, seed=0):
    x = np.cumsum(0.1 * np.random.default_rng(seed).normal(size=(count, 5, 3)), axis=1)
    return x + 1.3 * np.arange(count)[:, None, None]


@pytest.mark.parametrize("name", RULES)
def test_sites_are_where_the_manual_of_gromacs_says(name, tmp_path):
    lines, formula = RULES[name]
    topology, x = sited(tmp_path, lines), walks()
    found = place_sites(x.reshape(-1, 3), 6.0 * np.eye(3), topology).reshape(-1, 5, 3)
    np.testing.assert_array_equal(found[:, :4], x[:, :4])
    for copy in range(2):
        np.testing.assert_allclose(found[copy, 4], formula(x[copy]), atol=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_sites_move_turn_and_jump_with_their_atoms(name, tmp_path):
    """Beside the first atom they are made from, whatever images the others are given in."""
    topology, x = sited(tmp_path, RULES[name][0]), walks(seed=1)
    here = place_sites(x.reshape(-1, 3), SKEWED, topology).reshape(-1, 5, 3)[:, 4]
    turn, shift = rotation(2), np.array([4.0, -7.0, 0.3])
    moved = (x @ turn + shift).reshape(-1, 3)
    there = place_sites(moved, SKEWED @ turn, topology).reshape(-1, 5, 3)[:, 4]
    np.testing.assert_allclose(there, here @ turn + shift, atol=1e-12)
    lattice = np.random.default_rng(3).integers(-2, 3, (10, 3)) @ SKEWED
    jumped = place_sites(x.reshape(-1, 3) + lattice, SKEWED, topology).reshape(-1, 5, 3)[:, 4]
    off = (jumped - here) @ np.linalg.inv(SKEWED)
    np.testing.assert_allclose(off, np.rint(off), atol=1e-9)
    flip = np.array([1.0, 1.0, -1.0])
    glass = place_sites((x * flip).reshape(-1, 3), 6.0 * np.eye(3), topology).reshape(-1, 5, 3)
    same = np.abs(glass[:, 4] * flip - here).max() < 1e-12
    assert same != (name in MIRRORED)


@pytest.mark.parametrize("name", RULES)
def test_charges_of_sites_stay_in_the_molecule(name, tmp_path):
    """Shares add up to one, so that the charge stays; of sites that are means the dipole too."""
    topology, x = sited(tmp_path, RULES[name][0]), walks(seed=4)
    molecule = topology.molecule_types[0]
    shares = site_shares(molecule)[4]
    assert sum(share for _, share in shares) == pytest.approx(1.0)
    assert all(atom < 4 for atom, _ in shares)
    lean = without_sites(topology)
    assert lean.sites == 2 and lean.topology.n_atoms == 8
    assert "2 virtual sites are constructed" in lean.notes()[0]
    assert lean.topology.charges().sum() == pytest.approx(topology.charges().sum())
    full = place_sites(x.reshape(-1, 3), 6.0 * np.eye(3), topology)
    dipole = (topology.charges()[:, None] * full).sum(axis=0)
    left = (lean.topology.charges()[:, None] * full[lean.real]).sum(axis=0)
    if name in ("2", "3", "n"):
        np.testing.assert_allclose(left, dipole, atol=1e-12)
    else:  # the nearest that is a mean, which is not the same
        assert np.linalg.norm(left - dipole) > 1e-3
    structure = Structure(full, 6.0 * np.eye(3))
    again = lean.fill(lean.strip(structure))
    np.testing.assert_allclose(again.positions, full, atol=1e-12)


def test_beads_of_a_sited_system_are_where_they_were_without_its_sites(tmp_path):
    """A bead that counts a site with a weight is a mean of the atoms that make it."""
    top, _, _ = write_sited(tmp_path, waters=5, chains=2)
    topology = read_topology(top)
    text = MAPPING.replace("[OW, HW1, HW2, MW]", "{OW: 2, HW1: 1, HW2: 1, MW: 3}")
    mapping = MappingFile.from_text(text.replace("residues:", "weights: plain\nresidues:")).resolve(
        topology
    )
    lean = without_sites(topology)
    slim = lean_mapping(mapping, lean)
    rng = np.random.default_rng(5)
    atoms = np.cumsum(0.05 * rng.normal(size=(lean.topology.n_atoms, 3)), axis=0)
    full = lean.filled(atoms, np.zeros((3, 3)))
    waters = slice(2, None)
    np.testing.assert_allclose(
        map_positions(slim, atoms)[waters], map_positions(mapping, full)[waters], atol=1e-12
    )
    for beads in slim.molecules:
        sums = np.bincount(beads.weight_beads, beads.weights)
        np.testing.assert_allclose(sums, 1.0)


def test_a_bead_on_a_site_that_is_no_mean_is_refused(tmp_path):
    topology = sited(tmp_path, RULES["3out"][0])
    text = (
        "residues:\n  MOL:\n    beads:\n      - {name: A, type: A, atoms: [C1, C2, C3, C4, V1]}\n"
    )
    mapping = MappingFile.from_text(text + "weights: plain\n").resolve(topology)
    with pytest.raises(InputError, match="found the virtual site V1, whose place is none"):
        lean_mapping(mapping, without_sites(topology))


# --- the paper's baseline -------------------------------------------------------------------------

FILE = load_mapping("ps-two-bead")
SYSTEM = ps.mapping()


def resolved(text):
    return resolve_modifiers(parse_modifiers(text, "m"), "m", SYSTEM, FILE)


def modified(text, frame):
    return apply_modifiers(resolved(text), SYSTEM, frame)


LINES = {
    "out": "[ out ]\nHC CB CA +CA C1\n",
    "cis": "[ cis ]\nC1 CB CA -CB\n",
    "trans": "[ trans ]\nC1 CB CA -CB\n",
    "chiral": "[ chiral ]\nHC CB CA C1 +CA\n",
    "two hydrogens": "[ chiral ]\nHA CA CB -CB\nHB CA -CB CB\n",
}


@pytest.mark.parametrize("name", LINES)
def test_modifiers_move_and_turn_with_the_molecule_and_do_no_more_when_repeated(name):
    frame = Structure(ps.atoms().positions, np.eye(3) * 20.0)
    text = f"[ residue ]\nPS*\n{LINES[name]}"
    here = modified(text, frame)
    turn, shift = ps.rotation(1), np.array([0.5, 2.0, -1.0])
    there = modified(text, replace(frame, positions=frame.positions @ turn + shift))
    np.testing.assert_allclose(there.positions, here.positions @ turn + shift, atol=1e-9)
    moved = np.abs(here.positions - frame.positions).max(axis=1) > 1e-9
    assert 0 < moved.sum() < len(moved) / 4
    if name not in ("chiral", "trans", "cis"):
        again = modified(text, here)
        np.testing.assert_allclose(again.positions, here.positions, atol=1e-9)


@pytest.mark.parametrize("name", ["out", "cis", "trans"])
def test_what_lies_in_a_plane_or_opposite_does_not_know_left_from_right(name):
    frame = Structure(ps.atoms().positions, np.eye(3) * 20.0)
    text = f"[ residue ]\nPS*\n{LINES[name]}"
    there = modified(text, mirrored(frame))
    here = mirrored(modified(text, frame))
    np.testing.assert_allclose(there.positions, here.positions, atol=1e-9)


def test_chiral_makes_one_hand_of_a_molecule_and_of_its_mirror_image():
    text = f"[ residue ]\nPS*\n{LINES['chiral']}"
    frame = Structure(ps.atoms().positions, np.eye(3) * 20.0)
    flipped = text.replace("CA C1 +CA", "C1 CA +CA")
    centres = tacticity.find_centres(SYSTEM)
    hands = [
        tacticity.signs(f, centres)
        for f in (modified(text, frame), modified(text, mirrored(frame)), modified(flipped, frame))
    ]
    # along a chain the branches of a centre come in the same order, so that one line is one hand
    np.testing.assert_array_equal(hands[0], hands[1])
    np.testing.assert_array_equal(hands[0], -hands[2])
    assert set(hands[0].tolist()) <= {1, -1}


def test_directions_that_are_undefined_leave_atoms_where_they_are():
    """All atoms in one point, and all in a line."""
    text = packaged_modifiers()["polystyrene"].read_text(encoding="utf-8")
    point = Structure(np.ones((SYSTEM.topology.n_atoms, 3)), np.eye(3) * 9.0)
    line = replace(point, positions=point.positions * np.arange(point.n)[:, None] * 0.01)
    np.testing.assert_array_equal(modified(text, point).positions, point.positions)
    found = modified(text, line).positions
    assert np.isfinite(found).all()
    off = found - found[:1]
    assert np.abs(np.cross(off, np.ones(3))).max() < 1e-9  # nothing leaves the line


def test_projected_atoms_lie_between_their_beads():
    """In the box around the beads of their molecule, wherever these are; and alike in copies."""
    beads = places(SYSTEM.n_beads, 3)
    found = project(SYSTEM, beads).reshape(ps.CHAINS, -1, 3)
    own = beads.reshape(ps.CHAINS, -1, 3)
    assert (found >= own.min(axis=1, keepdims=True) - 1e-12).all()
    assert (found <= own.max(axis=1, keepdims=True) + 1e-12).all()
    order = [2, 0, 1]
    swapped = project(SYSTEM, own[order].reshape(-1, 3)).reshape(ps.CHAINS, -1, 3)
    np.testing.assert_array_equal(swapped, found[order])
    # linear in the beads, with shares that add up to one
    half = project(SYSTEM, 0.5 * (beads + 1.0))
    np.testing.assert_allclose(half.reshape(found.shape), 0.5 * (found + 1.0), atol=1e-12)


def test_kicks_of_one_name_grow_with_their_size_and_know_no_neighbour():
    frame = ps.atoms()
    small, large = (kick(frame, s, seed=3, frame=1).positions for s in (0.01, 0.04))
    np.testing.assert_allclose(large - frame.positions, 4 * (small - frame.positions), atol=1e-9)
    shift = large - frame.positions
    neighbours = (shift[1:] * shift[:-1]).sum(axis=1)
    assert abs(neighbours.mean()) < 4 * neighbours.std() / math.sqrt(len(neighbours))
    assert np.array_equal(kick(frame, 0.0, seed=3, frame=1).positions, frame.positions)
    part = replace(frame, positions=frame.positions[:20])
    np.testing.assert_array_equal(kick(part, 0.04, seed=3, frame=1).positions, large[:20])


def test_sites_of_templates_are_those_of_the_chain_and_not_of_its_length():
    """Inner monomers of a short and of a long chain are one kind; ends are others."""
    kinds = {}
    for monomers in (12, 30):
        mapping = ps.mapping(monomers, 1)
        found = find_sites(mapping.topology.molecule_types[0], mapping.molecules[0])
        keys = [(s.bead_type, s.pattern, s.parity, s.labels, s.distances) for s in found]
        kinds[monomers] = keys
        for bead, site in enumerate(found):
            assert bead not in site.beads
            assert len(set(site.labels)) == len(site.labels)
            assert list(site.distances) == sorted(site.distances)
    inner = set(kinds[12][8:16])
    assert inner <= set(kinds[30][8:-8])
    assert not inner & {*kinds[12][:2], *kinds[12][-2:]}
    assert len(set(kinds[30])) == len(set(kinds[12]))

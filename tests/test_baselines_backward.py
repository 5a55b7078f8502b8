"""The paper's baseline: projection, displacement and modifiers."""

from dataclasses import replace

import numpy as np
import pytest

import small_polystyrene
from deepbackmap.baselines.beads import whole_beads
from deepbackmap.baselines.modifiers import (
    apply_modifiers,
    packaged_modifiers,
    parse_modifiers,
    read_modifiers,
    resolve_modifiers,
)
from deepbackmap.baselines.projection import kick, project
from deepbackmap.chemistry import tacticity
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image, wrap
from deepbackmap.mapping import load_mapping
from deepbackmap.system import Structure

FILE = load_mapping("ps-two-bead")


def placed(text, frame, source="m.txt"):
    """Projection and modifiers on the beads of a frame."""
    system = small_polystyrene.mapping()
    found = resolve_modifiers(parse_modifiers(text, source), source, system, FILE)
    start = projected(small_polystyrene.beads(frame))
    return start, apply_modifiers(found, system, start)


def projected(beads):
    system = small_polystyrene.mapping()
    return Structure(project(system, whole_beads(system, beads, source="beads")), beads.box)


def names():
    """Atoms of the first chain by their names in the mapping and their monomer, from 0."""
    repeat = FILE.rules[0].repeat
    return {
        (n, k): 16 * k + m
        for k in range(small_polystyrene.MONOMERS)
        for m, n in enumerate(repeat.names)
    }


def test_wrapped_beads_are_made_whole():
    frame = small_polystyrene.atoms()
    beads = small_polystyrene.beads(frame)
    wrapped = replace(beads, positions=wrap(beads.positions, beads.box))
    system = small_polystyrene.mapping()
    whole = whole_beads(system, wrapped, source="beads")
    assert not np.allclose(wrapped.positions, beads.positions)  # or nothing was tested
    per_chain = (whole - beads.positions).reshape(small_polystyrene.CHAINS, -1, 3)
    np.testing.assert_allclose(per_chain, per_chain[:, :1].repeat(per_chain.shape[1], 1), atol=1e-9)


def test_beads_too_far_apart_are_refused():
    beads = small_polystyrene.beads(small_polystyrene.atoms())
    far = beads.positions.copy()
    far[1] += 0.5 * beads.box.sum(axis=0)
    with pytest.raises(InputError, match=r"cg frame 3: expected bonds shorter than half the cell"):
        whole_beads(small_polystyrene.mapping(), replace(beads, positions=far), source="cg frame 3")


def test_atoms_stand_on_the_weighted_mean_of_their_beads():
    """Ring atoms and CH2 groups belong to one bead; a CH group equally to two."""
    beads = small_polystyrene.beads(small_polystyrene.atoms())
    found, at = projected(beads).positions, names()
    first, second, ring, third = (beads.positions[k] for k in (0, 2, 3, 4))
    np.testing.assert_allclose(found[at["CA", 1]], second, atol=1e-12)
    np.testing.assert_allclose(found[at["H4", 1]], ring, atol=1e-12)
    np.testing.assert_allclose(found[at["CB", 1]], 0.5 * (second + third), atol=1e-12)
    # The first bead sits on its carbon; the CH group that it owns counts for it as well.
    np.testing.assert_allclose(found[at["CB", 0]], 0.5 * (first + second), atol=1e-12)


def test_projection_moves_with_the_beads():
    """It commutes with rotation and translation."""
    beads = small_polystyrene.beads(small_polystyrene.atoms())
    system, turn = small_polystyrene.mapping(), small_polystyrene.rotation(3)
    shift = np.array([0.3, -0.1, 0.2])
    moved = project(system, beads.positions @ turn.T + shift)
    np.testing.assert_allclose(moved, project(system, beads.positions) @ turn.T + shift, atol=1e-12)


def test_kicks_have_their_size_and_their_seed():
    start = Structure(np.zeros((20000, 3)), 3.0 * np.eye(3))
    one = kick(start, 0.05, seed=1, frame=4)
    assert abs(one.positions.std() - 0.05) < 0.001
    assert abs(one.positions.mean()) < 0.001
    np.testing.assert_array_equal(one.positions, kick(start, 0.05, seed=1, frame=4).positions)
    for other in (kick(start, 0.05, seed=2, frame=4), kick(start, 0.05, seed=1, frame=5)):
        assert np.abs(other.positions - one.positions).max() > 0.05


@pytest.mark.parametrize("size", [-0.1, float("nan")])
def test_senseless_kicks_are_refused(size):
    with pytest.raises(InputError, match="kick: expected a displacement in nm of at least 0"):
        kick(Structure(np.zeros((1, 3)), np.eye(3)), size, seed=0, frame=0)


def dihedral(a, b, c, d):
    """By projection on the plane across b-c; degrees, trans = 180."""
    axis = (c - b) / np.linalg.norm(c - b)
    u, v = (x - (x @ axis) * axis for x in (a - b, d - c))
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v))


@pytest.mark.parametrize(("kind", "expected"), [("cis", 0.0), ("trans", 180.0)])
def test_cis_and_trans(kind, expected):
    """In the plane of the others, at the topology's bond length and angle."""
    text = f"[ residue ]\nPS*\n[ {kind} ]\nC2 CB CA -CB\n"
    with pytest.raises(InputError, match="line 4: expected C2 to be bonded to CB, found no bond"):
        placed(text, small_polystyrene.atoms())
    start, found = placed(text.replace("C2 CB", "C1 CB"), small_polystyrene.atoms())
    at = names()
    a, b, c, d = (found.positions[i] for i in (at["C1", 1], at["CB", 1], at["CA", 1], at["CB", 0]))
    assert abs(np.linalg.norm(a - b) - 0.151) < 1e-9
    cosine = (a - b) @ (c - b) / np.linalg.norm(a - b) / np.linalg.norm(c - b)
    assert abs(np.degrees(np.arccos(cosine)) - 109.45) < 1e-6
    assert abs(dihedral(a, b, c, d) - expected) < 1e-4
    changed = np.flatnonzero((found.positions != start.positions).any(axis=1))
    per_chain = small_polystyrene.ATOMS
    assert set(changed % per_chain) == {at["C1", 1], at["C1", 2]}  # the first has no -CB


def test_out_points_away():
    start, found = placed("[ residue ]\nPS*\n[ out ]\nHC CB CA +CA C1\n", small_polystyrene.atoms())
    at = names()
    centre = start.positions[at["CB", 1]]
    arm = found.positions[at["HC", 1]] - centre
    others = [start.positions[i] - centre for i in (at["CA", 1], at["CA", 2], at["C1", 1])]
    away = -sum(v / np.linalg.norm(v) for v in others)
    np.testing.assert_allclose(arm, 0.11 * away / np.linalg.norm(away), atol=1e-9)


@pytest.mark.parametrize("order", ["CA C1 +CA", "+CA C1 CA"])
def test_chiral_sets_the_hand(order):
    """Seen from the atom that moved, the others follow one another anticlockwise."""
    _, found = placed(f"[ residue ]\nPS*\n[ chiral ]\nHC CB {order}\n", small_polystyrene.atoms())
    at, x = names(), found.positions
    by_name = {"CA": at["CA", 1], "C1": at["C1", 1], "+CA": at["CA", 2]}
    p, q, r = (x[by_name[name]] for name in order.split())
    light = x[at["HC", 1]]
    assert np.cross(q - p, r - p) @ (light - p) > 0
    assert abs(np.linalg.norm(light - x[at["CB", 1]]) - 0.11) < 1e-9


def test_chiral_with_two_others_gives_both_hydrogens():
    text = "[ residue ]\nPS*\n[ chiral ]\nHA CA CB -CB\nHB CA -CB CB\n"
    _, found = placed(text, small_polystyrene.atoms())
    at, x = names(), found.positions
    a, b = (x[at[n, 1]] - x[at["CA", 1]] for n in ("HA", "HB"))
    assert abs(np.degrees(np.arccos(a @ b / 0.11**2)) - 109.47) < 0.01


def test_packaged_modifiers_make_the_hand_and_the_bonds():
    """From beads alone: every centre of the reference's hand, and bonds near their lengths."""
    frame = small_polystyrene.atoms()
    system = small_polystyrene.mapping()
    text = packaged_modifiers()["polystyrene"].read_text()
    _, found = placed(text, frame)
    centres = tacticity.find_centres(system)
    wanted, made = (tacticity.signs(s, centres) for s in (frame, found))
    assert len(wanted) == small_polystyrene.CHAINS * (small_polystyrene.MONOMERS - 1)
    np.testing.assert_array_equal(made, wanted)
    molecule = system.topology.molecule_types[0]
    chain = found.positions[: small_polystyrene.ATOMS]
    term = molecule.terms["bond"]
    a, b = term.atoms.T
    lengths = np.linalg.norm(minimum_image(chain[a] - chain[b], frame.box), axis=1)
    off = np.abs(lengths - term.parameters[:, 0])
    assert off.max() < 0.05


def test_sections_choose_monomers():
    def moved(section):
        text = f"[ residue ]\nPS*\n[ {section} ]\nH4 C4 C3 C5\n"
        # The ring's atoms share a point, where no direction is defined; move them apart first.
        frame = small_polystyrene.atoms()
        system = small_polystyrene.mapping()
        found = resolve_modifiers(parse_modifiers(text, "m"), "m", system, FILE)
        after = apply_modifiers(found, system, frame)
        changed = np.flatnonzero((after.positions != frame.positions).any(axis=1))
        return {int(a) // 16 for a in changed if a < small_polystyrene.ATOMS}

    assert moved("out") == {0, 1, 2}
    assert moved("out odd") == {0, 2}
    assert moved("out even") == {1}
    assert moved("out first") == {0}
    assert moved("out last") == {2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("C1 CB CA\n", r"m line 1: expected a section such as \[ residue \], found 'C1 CB CA'"),
        ("[ out ]\nC1 CB CA\n", r"m line 2: expected \[ residue \] with a name first"),
        ("[ swap ]\n", r"m line 1: expected one of the sections residue, out, cis"),
        ("[ out middle ]\n", r"m line 1: expected a section such as \[ out \], or one of odd"),
        ("[ residue ]\nPS PT\n", "m line 2: expected one residue name, found 'PS PT'"),
        ("[ residue ]\nPS*\n[ cis ]\nA B C\n", "m line 4: expected 4 atom names for cis, found 3"),
        ("[ residue ]\nPS*\n\n[ out ]\nA B A\n", "m line 5: expected atom names that differ"),
        ("; nothing\n", "m: expected at least one modifier, found none"),
    ],
)
def test_unreadable_modifiers_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_modifiers(text, "m")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("C1 CX CA", "m line 4: expected atoms of residue PS\\* .*, found 'CX'"),
        ("C1 CB HX HY", "m line 4: expected a monomer that has all of C1 CB HX HY, found none"),
    ],
)
def test_unknown_atoms_are_refused(line, message):
    with pytest.raises(InputError, match=message):
        placed(f"[ residue ]\nPS*\n[ out ]\n{line}\n", small_polystyrene.atoms(), "m")


def test_unknown_residues_are_refused():
    with pytest.raises(
        InputError, match=r"m line 4: expected one of the residues PS1 .* found ALA"
    ):
        placed("[ residue ]\nALA\n[ out ]\nC1 CB CA\n", small_polystyrene.atoms(), "m")


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"none\.txt: expected a modifiers file, found No such file"
    ):
        read_modifiers(tmp_path / "none.txt")

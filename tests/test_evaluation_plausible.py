"""Beads that cannot be, each told by the sentence that helps; and beads that can, left alone."""

from dataclasses import replace

import numpy as np
import pytest

import small_polystyrene
from deepbackmap.evaluation.plausible import (
    LONGEST_BOND,
    OUTSIDE_LEAST,
    Bonds,
    _mean_square,
    known_distances,
    look_at_atoms,
    look_at_beads,
    look_at_temperature,
)
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.system import BondedTerms, Structure
from evaluation_systems import reference_folder, rotation, scattered
from test_system_whole import molecule, topology

MAPPING = small_polystyrene.mapping(monomers=3)
BOX = 6.0 * np.eye(3)


def beads(seed=0, noise=0.0):
    found = small_polystyrene.beads(small_polystyrene.atoms(seed, box=BOX))
    shift = np.random.default_rng(seed).normal(0.0, noise, found.positions.shape)
    return replace(found, positions=found.positions + shift)


def scaled(frame, factor):
    return replace(frame, positions=factor * frame.positions, box=factor * frame.box)


def said(frame, **more):
    return look_at_beads(MAPPING, frame, **more)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.03])
def test_beads_of_atoms_are_fine_wherever_they_are(seed, noise):
    frame = beads(seed, noise)
    for shown in (
        frame,
        replace(frame, positions=frame.positions @ rotation(seed) + [3.0, 1.0, -9.0]),
        scattered(frame.positions, BOX, seed),
        replace(frame, positions=frame.positions * [1, 1, -1]),
    ):
        assert [f.severity for f in said(shown)] == ["fine"]


@pytest.mark.parametrize(
    ("factor", "hint"),
    [
        (10.0, "is the file in Å? (--length-unit A)"),
        (0.1, "is the file in nm? (--length-unit nm)"),
        (1 / 0.35, "reduced units"),
        (0.1 / 0.5, "reduced units"),
        (0.1 / 0.35, "reduced units"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_another_unit_is_named(factor, hint, seed):
    first = said(scaled(beads(seed, 0.01), factor))[0]
    assert first.severity == "unusable"
    assert "bonded beads" in first.sentence
    assert hint in first.sentence


def test_the_size_of_the_unit_is_about_right():
    sentence = said(scaled(beads(), 1 / 0.35))[0].sentence
    assert 0.3 < float(sentence.split("about ")[-1].split(" ")[0]) < 0.45


@pytest.mark.parametrize("bead", [0, 3, 17])
@pytest.mark.parametrize("seed", range(3))
def test_a_bead_that_jumped_is_named(bead, seed):
    frame = beads(seed)
    way = np.random.default_rng(seed).normal(size=3)
    moved = frame.positions.copy()
    moved[bead] += 2.0 * way / np.linalg.norm(way)
    (finding,) = said(replace(frame, positions=moved))
    assert finding.severity == "unusable"
    assert "where it should be?" in finding.sentence
    assert any(f"({bead + 1}) of molecule {bead // 6 + 1}" in name for name in finding.where[:2])


@pytest.mark.parametrize("how", ["reversed", "types apart"])
def test_another_order_is_asked_for(how):
    mapping = small_polystyrene.mapping(monomers=8, chains=2)
    rng = np.random.default_rng(1)
    bonds = Bonds.of(mapping)
    # straight chains of A beads, each with its B on one side or the other
    place = np.zeros((2, 8, 2, 3))
    place[..., 0] = 0.25 * np.arange(8)[:, None]
    place[:, :, 1, 1] = np.where(np.arange(8) % 2, 0.35, -0.35)
    place[1, ..., 2] = 2.0
    right = place + rng.normal(0.0, 0.01, place.shape)
    wrong = {
        "reversed": right.reshape(2, 8, 2, 3)[:, :, ::-1],
        "types apart": right.reshape(2, 8, 2, 3).transpose(0, 2, 1, 3),
    }[how].reshape(-1, 3)
    frame = replace(beads(), positions=right.reshape(-1, 3))
    assert [f.severity for f in look_at_beads(mapping, frame)] == ["fine"]
    (finding,) = look_at_beads(mapping, replace(frame, positions=np.ascontiguousarray(wrong)))
    assert finding.severity == "unusable"
    assert "in the order and of the types of the mapping?" in finding.sentence
    assert len(bonds.pairs) == 2 * 15


def test_beads_in_one_place():
    frame = beads()
    assert "all 18 in one place" in said(replace(frame, positions=0 * frame.positions))[0].sentence
    moved = frame.positions.copy()
    moved[7] = moved[6]
    finding = said(replace(frame, positions=moved))[0]
    assert finding.severity == "unusable"
    assert "1 of 15 bonded pairs in one place" in finding.sentence


def test_a_box_of_another_unit():
    frame = beads()
    small = replace(frame, box=0.05 * frame.box)
    assert any("g/cm^3" in f.sentence for f in said(small))
    assert all("g/cm^3" not in f.sentence for f in said(frame))


def test_distances_that_training_never_had():
    frame = beads()
    seen = {"A-A": (0.30, 0.32), "A-B": (0.0, 1.0), "X-Y": (0.0, 0.0)}
    (finding,) = said(frame, known=seen)
    assert finding.severity == "suspicious"
    assert finding.sentence.startswith("expected A-A beads 0.300 to 0.320 nm apart as in training")
    assert [f.severity for f in said(frame, known={"A-A": (0.0, 1.0)})] == ["fine"]
    bonds = Bonds.of(MAPPING)
    first, second = frame.positions[bonds.pairs[bonds.kinds == "A-A"].T]
    apart = np.sort(np.linalg.norm(minimum_image(second - first, frame.box), axis=1))
    for outside, severity in ((OUTSIDE_LEAST - 1, "fine"), (OUTSIDE_LEAST, "suspicious")):
        limit = float(apart[-outside - 1 : len(apart) - outside + 1].mean())
        assert [f.severity for f in said(frame, known={"A-A": (0.0, limit)})] == [severity]


def test_what_bonds_allow_is_never_passed_by_atoms():
    """However the atoms of two bonded beads are placed with bonds at their lengths."""
    frame, bonds = beads(), Bonds.of(MAPPING)
    first, second = frame.positions[bonds.pairs.T]
    assert (np.linalg.norm(minimum_image(second - first, BOX), axis=1) < bonds.most).all()
    assert (bonds.expected < bonds.most).all()
    assert set(bonds.kinds) == {"A-A", "A-B"}


def test_a_freely_rotating_chain():
    """One bond is its length; long chains grow as a walk (characteristic ratio (1+a)/(1-a))."""
    assert _mean_square(0, 0.0) == 0.0
    assert _mean_square(1, 0.15) == pytest.approx(0.15**2)
    two = 2 * 0.15**2 * (1 + 0.4)
    assert _mean_square(2, 0.30) == pytest.approx(two)
    assert _mean_square(10_000, 1_500.0) / (10_000 * 0.15**2) == pytest.approx(1.4 / 0.6, rel=1e-3)


@pytest.mark.parametrize(
    ("asked", "known", "far"),
    [
        (568.0, (568.0, 568.0), False),
        (500.0, (568.0, 568.0), False),
        (313.0, (568.0, 568.0), True),
        (400.0, (313.0, 568.0), False),
        (900.0, (313.0, 568.0), True),
    ],
)
def test_a_temperature_far_from_training(asked, known, far):
    found = look_at_temperature(asked, known)
    assert bool(found) == far
    assert all(f"found {asked:g} K" in f.sentence for f in found)


@pytest.mark.parametrize("mapping", ["ps-two-bead"])
def test_published_beads_are_fine_at_every_temperature(mapping):
    folder = reference_folder()
    system = load_mapping(mapping).resolve(read_topology(folder / "topol.top"))
    for name in ("test_568K_cg.xtc", "test_313K_cg.xtc", "test_453K_cg.xtc"):
        with read_frames(folder / "cg.gro", folder / name, frames=":2") as source:
            for frame in source:
                assert [f.severity for f in look_at_beads(system, frame)] == ["fine"]


def test_known_distances_hold_those_of_the_frames():
    """Nearly all of what they are told from is within; a frame stretched by a tenth is not."""
    frames = [beads(seed) for seed in range(3)]
    known = known_distances((MAPPING, frame) for frame in frames)
    assert set(known) == {"A-A", "A-B"}
    assert all(0.0 < low < high for low, high in known.values())
    narrow = [f.severity for frame in frames for f in said(frame, known=known)]
    assert set(narrow) <= {"fine", "suspicious"}
    stretched = said(scaled(frames[0], 1.2), known=known)
    assert all("as in training" in f.sentence for f in stretched)
    assert len(stretched) == 2


def test_no_molecule_lasts_at_any_temperature():
    assert look_at_temperature(29_500.0, (29_000.0, 30_000.0))[0].severity == "unusable"
    assert not look_at_temperature(568.0, (568.0, 568.0))


def test_a_box_in_another_unit_than_the_beads():
    frame = beads()
    sentence = said(replace(frame, positions=10.0 * frame.positions))[0].sentence
    assert "in one unit?" in sentence or "--length-unit A" in sentence


def test_a_molecule_that_is_there_twice():
    frame = beads()
    moved = frame.positions.copy()
    moved[6:12] = moved[:6]
    finding = said(replace(frame, positions=moved))[0]
    assert finding.severity == "unusable"
    assert "6 pairs of beads in one place: is a molecule there twice?" in finding.sentence
    assert "molecule 1" in finding.where[0] and "molecule 2" in finding.where[0]


@pytest.mark.parametrize(("kind", "columns"), [("bond_g96", 2), ("morse", 3), ("connection", 0)])
def test_bonds_of_other_kinds_have_lengths_too(kind, columns):
    """Those with a length of rest count as harmonic ones; others as usual bonds."""
    (molecule,) = MAPPING.topology.molecule_types
    bonds = molecule.terms["bond"]
    if kind == "connection":  # the first bond has no energy
        first = BondedTerms(bonds.atoms[:1], bonds.parameters[:1, :0])
        rest = BondedTerms(bonds.atoms[1:], bonds.parameters[1:])
        terms = {**molecule.terms, "bond": rest, kind: first}
    else:
        wide = np.ones((len(bonds.atoms), columns))
        wide[:, :2] = bonds.parameters
        terms = {k: v for k, v in molecule.terms.items() if k != "bond"}
        terms[kind] = BondedTerms(bonds.atoms, wide)
    topology = replace(MAPPING.topology, molecule_types=(replace(molecule, terms=terms),))
    found = Bonds.of(replace(MAPPING, topology=topology))
    expected = Bonds.of(MAPPING)
    tolerance = 0.05 if kind == "connection" else 1e-12
    np.testing.assert_allclose(found.most, expected.most, rtol=tolerance)


ATOMS = small_polystyrene.mapping(monomers=3).topology


def atoms_said(frame, topology=ATOMS):
    return look_at_atoms(Bonds.of_atoms(topology), frame)


@pytest.mark.parametrize("seed", range(3))
def test_atoms_are_fine_wherever_they_are(seed):
    frame = small_polystyrene.atoms(seed, box=BOX)
    for shown in (
        frame,
        replace(frame, positions=frame.positions @ rotation(seed) + [3.0, 1.0, -9.0]),
        scattered(frame.positions, BOX, seed),
    ):
        assert [f.severity for f in atoms_said(shown)] == ["fine"]


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda x: 10.0 * x, "is the file in Å? (--length-unit A)"),
        (lambda x: 0.1 * x, "is the file in nm? (--length-unit nm)"),
        (lambda x: x / 0.35, "reduced units"),
        (lambda x: x[::-1], "are the atoms in the order of "),
    ],
)
def test_atoms_of_another_unit_or_order_are_told_apart(change, hint):
    frame = small_polystyrene.atoms(1, box=BOX)
    factor = change(np.ones(1))[0]
    moved = np.ascontiguousarray(change(frame.positions))
    finding = atoms_said(replace(frame, positions=moved, box=factor * BOX))[0]
    assert finding.severity == "unusable"
    assert hint in finding.sentence


@pytest.mark.parametrize("atom", [0, 17, 60])
def test_an_atom_that_jumped_is_named(atom):
    frame = small_polystyrene.atoms(2, box=BOX)
    moved = frame.positions.copy()
    moved[atom] += [0.0, 1.0, 0.0]
    (finding,) = atoms_said(replace(frame, positions=moved))
    assert "where it should be?" in finding.sentence
    assert any(f"(atom {atom + 1})" in name for name in finding.where)


def connected(name, n, bonds):
    """A molecule whose bonds have no lengths."""
    made = molecule(name, n, bonds)
    return replace(made, terms={"connection": BondedTerms(made.bonds, np.zeros((len(bonds), 0)))})


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
@pytest.mark.parametrize("length", [0.1, 0.3])
def test_a_known_bond_may_be_twice_as_long(factor, length):
    made = molecule("M", 2, [(0, 1)])
    terms = {"bond": BondedTerms(made.bonds, np.array([[length, 1.0]]))}
    x = np.zeros((10, 3))
    x[:, 1] = np.repeat(np.arange(5.0), 2)
    x[1::2, 0] = length
    x[1, 0] = factor * max(LONGEST_BOND, 2 * length)
    system = topology((replace(made, terms=terms), 5))
    found = atoms_said(Structure(x, 20.0 * np.eye(3)), system)
    assert (found[0].severity == "fine") == (factor < 1.0)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_a_bond_may_be_stretched_but_not_beyond_all_bonds(factor):
    """One bond at so many times the longest that any may have; of two atoms, so nothing else."""
    pair = topology((connected("M", 2, [(0, 1)]), 5))
    x = np.zeros((10, 3))
    x[:, 1] = np.repeat(np.arange(5.0), 2)
    x[1::2, 0] = 0.15
    x[1, 0] = factor * max(LONGEST_BOND, 3 * 0.15)
    found = atoms_said(Structure(x, 20.0 * np.eye(3)), pair)
    assert (found[0].severity == "fine") == (factor < 1.0)


def test_particles_larger_than_atoms_are_measured_by_their_own_median():
    chain = topology((connected("M", 8, [(k, k + 1) for k in range(7)]), 1))
    x = np.zeros((8, 3))
    x[:, 0] = 1.5 * np.arange(8)
    frame = Structure(x, 40.0 * np.eye(3))
    assert atoms_said(frame, chain)[0].severity == "fine"
    x[7, 0] += 4.0
    assert "found 1 of 7 farther" in atoms_said(frame, chain)[0].sentence
    alone = topology((molecule("A", 1, []), 8))
    assert atoms_said(frame, alone)[0].severity == "fine"


def test_bonds_of_all_molecules_are_those_of_the_topology():
    """Types in runs that take turns: every bond joins two particles of one molecule."""
    water, pair = molecule("W", 3, [(0, 1), (0, 2)]), molecule("M", 2, [(0, 1)])
    system = replace(
        topology((water, 2), (pair, 3)), blocks=((0, 2), (1, 1), (0, 1), (1, 2))
    )  # fmt: skip
    bonds = Bonds.of_atoms(system)
    first = np.concatenate([[0], np.cumsum([3, 3, 2, 3, 2, 2])])
    of = np.searchsorted(first, bonds.pairs, side="right")
    assert (of[:, 0] == of[:, 1]).all()
    assert len(bonds.pairs) == 3 * 2 + 3
    assert bonds.name(11) == "C1 (atom 12) of molecule 5 (M)"

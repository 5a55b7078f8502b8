"""Hands of a system: which source is believed, and types of molecules that share their hands."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import deepbackmap
import small_polystyrene as ps
from deepbackmap.api import backmap
from deepbackmap.api import hands as api_hands
from deepbackmap.api.hands import find_hands, handedness_of
from deepbackmap.api.models import find_model
from deepbackmap.blocks.handedness import Handedness, split_by_hands
from deepbackmap.chemistry import hands, tacticity
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.model.header import read_spec
from deepbackmap.system import BondedTerms, Structure
from deepbackmap.system.whole import make_whole
from evaluation_systems import molecule, topology

ALTERNATING = {"A:0": [1, -1]}
STEREO = "\nstereo:\n  - {pattern: isotactic}\n"


def spec(**changes):
    return dataclasses.replace(ps.specification(), handedness=ALTERNATING, **changes)


def file(section=""):
    text = ps.specification().mapping
    return MappingFile.from_text(text + section, "m.yaml")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """All that may say something of the hands, by the word for it."""
    system = ps.mapping()
    frame = ps.atoms()
    table = atom_table(system.topology)
    with open_writer(tmp_path / "like.gro", table) as writer:
        writer.write(dataclasses.replace(frame, box=40.0 * np.eye(3)))
    names = [n for t in system.molecules for n in t.bead_types]
    (tmp_path / "labels.txt").write_text(
        "\n".join(f"{n}u" if n == "A" else n for n in names) + "\n"
    )
    centres = tacticity.find_centres(system)
    read = np.resize([1, 1, -1], len(centres.atoms))
    monkeypatch.setattr(
        api_hands.bead_hands, "from_beads", lambda *given: hands.told(read, "beads")
    )
    monkeypatch.setattr(api_hands.bead_hands.BeadStatistics, "from_json", lambda given: given)
    return system, tmp_path, frame


WORDS = ("reference", "labels", "mapping", "beads", "assumed")


@pytest.mark.parametrize("first", range(len(WORDS)))
def test_the_first_source_that_knows_is_believed(first, sources):
    """With the sources before it taken away, each gives all hands."""
    system, folder, frame = sources
    there = set(WORDS[first:])
    found = find_hands(
        system,
        file(STEREO if "mapping" in there else ""),
        spec(bead_hands={"some": "thing"} if "beads" in there else {}),
        like=folder / "like.gro" if "reference" in there else None,
        labels=folder / "labels.txt" if "labels" in there else None,
        beads=frame,
    )
    count = len(found.centres.atoms)
    assert found.hands.share() == {WORDS[first]: count}
    assert found.words() == api_hands.SAID[WORDS[first]]
    assert np.array_equal(found.handedness.sign.numpy(), found.hands.sign)
    assert np.array_equal(found.known.signs, found.hands.sign)


def test_the_reference_is_what_the_structure_has_and_labels_are_as_they_say(sources):
    system, folder, frame = sources
    by_structure = find_hands(system, file(), spec(), like=folder / "like.gro")
    expected = tacticity.signs(frame, by_structure.centres)
    assert np.array_equal(by_structure.hands.sign, expected)
    assert (find_hands(system, file(), spec(), labels=folder / "labels.txt").hands.sign == 1).all()


def test_a_centre_that_one_source_leaves_open_is_taken_from_the_next(sources):
    system, folder, _ = sources
    labels = (folder / "labels.txt").read_text().split()
    molecule = labels[: system.molecules[0].n_beads]
    at = molecule.index("Au")
    # the first chain alone is labelled; bead by bead of the whole system
    whole = molecule + ["A" if w == "Au" else w for w in molecule] * (ps.CHAINS - 1)
    (folder / "some.txt").write_text("\n".join(whole) + "\n")
    found = find_hands(system, file(), spec(), labels=folder / "some.txt")
    share = found.hands.share()
    assert set(share) == {"labels", "assumed"}
    assert sum(share.values()) == len(found.centres.atoms)
    assert f"({share['labels']} of {len(found.centres.atoms)})" in found.words()
    assert at >= 0


def test_without_any_source_nothing_is_known():
    found = find_hands(ps.mapping(), file(), None)
    assert found.handedness is None
    assert found.words() == "not known"
    assert handedness_of(ps.mapping(), {}) is None
    assert handedness_of(ps.mapping(), ALTERNATING).sign.abs().min() == 1


def test_hands_read_from_beads_may_be_in_doubt():
    centres = tacticity.find_centres(ps.mapping())
    n = len(centres.atoms)
    read = hands.told(np.ones(n, dtype=np.int64), "beads")
    sure = np.where(np.arange(n) == 0, 0.6, 0.99)
    found = api_hands.FoundHands(centres, dataclasses.replace(read, sure=sure))
    assert found.doubtful == 1
    assert found.words() == "read from the beads; 1 of them not clear"


def test_how_sure_hands_read_from_beads_are_is_said_by_molecule():
    mapping = ps.mapping()
    centres, topology = tacticity.find_centres(mapping), mapping.topology
    each = len(centres.atoms) // topology.n_molecules
    read = hands.told(np.ones(len(centres.atoms), dtype=np.int64), "beads")
    sure = np.full((topology.n_molecules, each), 0.99)
    sure[1], sure[2, 0], source = 0.6, 0.5, read.source.reshape(sure.shape).copy()
    source[0] = hands.SOURCES.index("labels")
    found = api_hands.FoundHands(
        centres, dataclasses.replace(read, sure=sure.ravel(), source=source.ravel())
    )
    by_molecule = found.sure_by_molecule(topology)
    assert list(by_molecule) == list(range(2, topology.n_molecules + 1))
    assert by_molecule[2] == pytest.approx(0.6)
    assert by_molecule[3] == pytest.approx(0.99 - 0.49 / each)
    said = found.words(topology)
    assert said.startswith(found.words())
    assert "(molecule 2: 60 % sure, 3: " in said
    assert said.endswith(", others more)" if len(by_molecule) > 3 else " sure)")


def test_of_hands_that_are_told_nothing_is_doubted():
    mapping = ps.mapping()
    centres = tacticity.find_centres(mapping)
    told = hands.told(np.ones(len(centres.atoms), dtype=np.int64), "labels")
    found = api_hands.FoundHands(centres, told)
    assert found.sure_by_molecule(mapping.topology) == {}
    assert found.words(mapping.topology) == "as labelled"


@pytest.mark.parametrize(
    ("section", "against"),
    [
        ("", ()),
        ("\nstereo:\n  - {pattern: syndiotactic}\n", None),
        ("\nstereo:\n  - {pattern: isotactic}\n", range(1, 13)),
        ("\nstereo:\n  - {numbers: 3, pattern: isotactic}\n", (3,)),
    ],
)
def test_hands_that_the_beads_contradict_are_said(section, against):
    """The packaged melt is syndiotactic, each chain of one hand or the other."""
    packaged = Path(deepbackmap.__file__).parent / "packaged" / "melt"
    model = read_spec(find_model("default"))
    told = MappingFile.from_text(model.mapping + section, "m.yaml")
    system = told.resolve(read_topology(packaged / "topol.top"))
    with read_frames(packaged / "cg.gro") as source:
        beads = source[0]
    found = find_hands(system, told, model, beads=beads)
    if against is None:  # those chains that have the other hand
        shown = find_hands(system, told, model, like=packaged / "aa.gro").hands.sign
        apart = shown.reshape(12, -1)[:, 0] != found.hands.sign.reshape(12, -1)[:, 0]
        against = 1 + np.flatnonzero(apart)
    assert found.contradicted == tuple(against)
    if found.contradicted:
        assert "show others than what was told" in found.findings[0].sentence
        assert found.findings[0].where[0] == f"molecule {found.contradicted[0]}"
    right = find_hands(system, told, model, like=packaged / "aa.gro", beads=beads)
    assert right.contradicted == () == right.findings


def test_a_structure_of_something_else_is_refused_with_its_name(sources):
    _, folder, _ = sources
    other = ps.mapping(monomers=4)
    with pytest.raises(InputError, match=r"like.gro: expected the atoms of the system"):
        find_hands(other, file(), spec(), like=folder / "like.gro")


# --- a type for each set of hands -----------------------------------------------------------------


def with_signs(system, *per_molecule):
    centres = tacticity.find_centres(system)
    owner = hands.molecule_of(system.topology, centres)
    sign = np.concatenate(
        [np.resize(per_molecule[m], np.count_nonzero(owner == m))
         for m in range(system.topology.n_molecules)]
    )  # fmt: skip
    return Handedness(torch.from_numpy(centres.atoms), torch.from_numpy(sign))


def atom_names(system):
    types = system.topology.molecule_types
    return [types[t].atom_names for t in system.topology.molecule_type_index()]


@pytest.mark.parametrize(
    ("signs", "blocks"),
    [
        (([1], [1], [-1], [1]), ((0, 2), (1, 1), (0, 1))),
        (([1], [-1], [1], [-1]), ((0, 1), (1, 1), (0, 1), (1, 1))),
        (([1, -1], [-1, 1], [0], [1, -1]), ((0, 1), (1, 1), (2, 1), (0, 1))),
    ],
)
def test_there_is_a_type_for_each_set_of_hands(signs, blocks):
    system = ps.mapping(chains=4)
    found = split_by_hands(system, with_signs(system, *signs))
    assert found.topology.blocks == blocks
    assert len(found.topology.molecule_types) == len({tuple(s) for s in signs})
    assert atom_names(found) == atom_names(system)
    assert np.array_equal(found.atom_owners(), system.atom_owners())
    assert found.n_beads == system.n_beads


def test_types_that_are_different_stay_so_and_ions_without_centres_too():
    """Two kinds of chain, of which the copies of one differ."""
    short, long = ps.mapping(chains=1), ps.mapping(monomers=4, chains=1)
    topology = dataclasses.replace(
        short.topology,
        molecule_types=(short.topology.molecule_types[0], long.topology.molecule_types[0]),
        blocks=((0, 2), (1, 2), (0, 1)),
    )
    system = SystemMapping(topology, (short.molecules[0], long.molecules[0]))
    found = split_by_hands(system, with_signs(system, [1], [-1], [1], [1], [1]))
    assert found.topology.blocks == ((0, 1), (1, 1), (2, 2), (0, 1))
    assert atom_names(found) == atom_names(system)


def test_copies_alike_change_nothing():
    system = ps.mapping()
    assert split_by_hands(system, None) is system
    assert split_by_hands(system, with_signs(system, [1], [1], [1])) is system


def test_sides_of_double_bonds_come_with_the_hands(tmp_path):
    """From the mapping; a reference is believed before it; without centres all the same."""
    x = np.array([[-0.07, 0.12, 0], [0, 0, 0], [0.13, 0, 0], [0.2, 0.12, 0]])  # cis
    torsion = BondedTerms(np.array([[0, 1, 2, 3]]), np.array([[np.pi, 60.0, 2.0]]))
    system = topology(
        molecule(["C"] * 4, [(0, 1), (1, 2), (2, 3)], terms={"proper": torsion}), counts=[2]
    )
    text = (
        "residues:\n  MOL:\n    beads:\n      - {name: X, type: X, atoms: [C1, C2, C3, C4]}\n"
        "stereo:\n  - {double_bonds: {C2=C3: trans}}\n"
    )
    mapped = MappingFile.from_text(text, "m.yaml")
    told = find_hands(mapped.resolve(system), mapped, None)
    assert told.sides.side.tolist() == [-1, -1]
    assert told.handedness.any_wrong(np.concatenate([x, x + 1.0]), system.masses())
    frame = Structure(np.concatenate([x, x * [1, -1, 1] + 1.0]), 4.0 * np.eye(3))
    with open_writer(tmp_path / "like.gro", atom_table(system)) as writer:
        writer.write(frame)
    shown = find_hands(mapped.resolve(system), mapped, None, like=tmp_path / "like.gro")
    assert shown.sides.side.tolist() == [1, 1]
    assert not shown.handedness.any_wrong(frame.positions, system.masses())


ISOPROPYL = """
weights: mass
residues:
  MOL:
    beads:
      - {name: L, type: M, atoms: [C3], owns: [C3, C1, H2]}
      - {name: R, type: M, atoms: [C4]}
      - {name: X, type: X, atoms: [O5]}
"""
"""A carbon with a hydrogen and three others; two of these are alike but for their beads."""


def test_a_reference_tells_hands_that_only_beads_make(tmp_path):
    system = topology(
        molecule(["C", "H", "C", "C", "O"], [(0, k) for k in range(1, 5)]), counts=[3]
    )
    mapped = MappingFile.from_text(ISOPROPYL, "m.yaml")
    x = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.09
    mirror = x * [1, 1, -1]
    frame = Structure(np.concatenate([x + 1.0, mirror + 2.0, x + 3.0]), 4.0 * np.eye(3))
    with open_writer(tmp_path / "like.gro", atom_table(system)) as writer:
        writer.write(frame)
    where = (mapped.resolve(system), mapped, None)
    assert find_hands(*where, like=tmp_path / "like.gro").handedness is None
    found = find_hands(*where, like=tmp_path / "like.gro", of_beads=True)
    assert found.centres.atoms[:, 0].tolist() == [0, 5, 10]
    sign = found.hands.sign
    assert np.abs(sign).tolist() == [1, 1, 1] and (sign * sign[0]).tolist() == [1, -1, 1]
    assert not found.handedness.any_wrong(frame.positions, system.masses())
    swapped = frame.positions.reshape(3, 5, 3)[:, [0, 1, 3, 2, 4]].reshape(-1, 3)
    assert found.handedness.any_wrong(swapped, system.masses())
    # by the order of its branches the first is right, but it was pushed through its heavy ones
    through = frame.positions.copy()
    through[0] += 1.2 * (through[[2, 3, 4]].mean(axis=0) - through[0])
    assert found.handedness.any_wrong(through, system.masses())
    assert find_hands(*where, of_beads=True).handedness is None


def test_true_stereocentres_are_not_counted_twice(sources):
    system, folder, _ = sources
    plain = find_hands(system, file(), None, like=folder / "like.gro")
    more = find_hands(system, file(), None, like=folder / "like.gro", of_beads=True)
    assert np.array_equal(more.centres.atoms, plain.centres.atoms)
    assert np.array_equal(more.hands.sign, plain.hands.sign)


# --- one bead a monomer ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_bead():
    """The packaged melt with one bead a monomer: mapping file, system, model, folder."""
    melt = Path(deepbackmap.__file__).parent / "packaged" / "melt"
    file = load_mapping("ps-one-bead")
    system = file.resolve(read_topology(melt / "topol.top"))
    return file, system, read_spec(find_model("ps-one-bead-points")), melt


def test_one_bead_a_monomer_says_that_hands_are_assumed(one_bead):
    file, system, spec, melt = one_bead
    with read_frames(melt / "aa.gro") as source:
        beads = dataclasses.replace(source[0], positions=map_positions(system, source[0].positions))
    found = find_hands(system, file, spec, beads=beads)
    assert found.words() == "assumed: the pattern of the training data"


def test_one_bead_a_monomer_takes_hands_from_all_that_can_be_given(one_bead, tmp_path):
    file, system, spec, melt = one_bead
    assumed = find_hands(system, file, spec).hands.sign
    like = find_hands(system, file, spec, like=melt / "aa.gro")
    assert like.words() == "as in the reference structure"
    np.testing.assert_array_equal(like.hands.sign, assumed)  # both are of the same melt
    letters = np.random.default_rng(0).choice(["u", "d"], system.n_beads)
    (tmp_path / "labels.txt").write_text("\n".join(f"M{x}" for x in letters))
    labelled = find_hands(system, file, spec, labels=tmp_path / "labels.txt")
    assert labelled.words() == "as labelled"
    owner = system.atom_owners()[labelled.centres.atoms[:, 0]]
    np.testing.assert_array_equal(labelled.hands.sign, np.where(letters == "u", 1, -1)[owner])
    told = MappingFile.from_text(f"{file.to_text()}\nstereo:\n  - {{pattern: isotactic}}\n")
    pattern = find_hands(told.resolve(system.topology), told, spec)
    assert pattern.words() == "as the mapping says"
    assert set(pattern.hands.sign.tolist()) == {1}


def test_assumed_hands_of_atoms_that_do_not_fit_are_said(tmp_path):
    """A mirrored melt, by a model that cannot read hands from beads."""
    packaged = Path(deepbackmap.__file__).parent / "packaged" / "melt"
    topology = read_topology(packaged / "topol.top")
    system = load_mapping("ps-one-bead").resolve(topology)
    with read_frames(packaged / "aa.gro") as source:
        atoms = source[0]
    whole = make_whole(atoms.positions, atoms.box, topology)
    said = {}
    for name, sign in (("right", 1.0), ("mirrored", -1.0)):  # a lattice is its own inverse
        beads = dataclasses.replace(atoms, positions=sign * map_positions(system, whole))
        with open_writer(tmp_path / f"{name}.gro", bead_table(system)) as writer:
            writer.write(beads)
        summary = backmap(
            tmp_path / f"{name}.gro", topology=packaged / "topol.top", model="ps-one-bead-points",
            output=tmp_path / f"{name}-aa.gro", keep_defects=True, progress=False,
        )  # fmt: skip
        said[name] = [f for f in summary.findings if "do the chains have others" in f.sentence]
    assert [len(found) for found in said.values()] == [0, 1]

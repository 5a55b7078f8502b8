"""Mappings of other programs, several at once, residues dropped and kept."""

import dataclasses

import numpy as np
import pytest

from deepbackmap.errors import InputError
from deepbackmap.mapping import MappingFile, load_mapping, map_positions
from deepbackmap.mapping.file import join_mappings
from deepbackmap.mapping.match import bead_table
from deepbackmap.mapping.resolve import name_monomers
from test_mapping import BUTANE, VOTCA, butane, polystyrene, resolved
from test_system_whole import molecule, topology

BACKWARD = """; a lipid's tail
[ molecule ]
BUT
[ martini ]
L R
[ mapping ]
gromos
[ atoms ]
  1 C1 L
  2 C2 L L R
  3 C3 L R
  4 C4 R
[ chiral ]
C1 C2 C3 C4
[ trans ]
C1 C2 C3 C4
"""
VERMOUTH = """[ block ]
[ from ]
charmm
[ to ]
martini3
[ from blocks ]
BUT
[ to blocks ]
B
[ mapping ]
C1 L
C2 L 2
C2 R
C3 L 0
C3 R
C4 R
"""
PYCGTOOL = """; comment
[ BUT ]
L P1 C1 C2
R P2 -1 C3 C4 C4
[SOL]
W P4 OW HW1 HW2
"""


def water():
    plain = molecule("SOL", 3, [(0, 1), (0, 2)])
    return dataclasses.replace(
        plain, atom_names=("OW", "HW1", "HW2"), residue_names=("SOL",) * 3,
        masses=np.array([15.999, 1.008, 1.008]),
    )  # fmt: skip


def weights(found, bead):
    chosen = found.weight_beads == bead
    return dict(zip(found.weight_atoms[chosen].tolist(), found.weights[chosen], strict=True))


def test_backward_counts_how_often_an_atom_stands_in_a_bead():
    heavy = dataclasses.replace(butane(), masses=np.array([15.0, 14.0, 14.0, 15.0]))
    found = resolved(BACKWARD, heavy).molecules[0]
    assert found.bead_names == found.bead_types == ("L", "R")
    left = np.array([15.0, 14.0 * 2 / 3, 7.0])
    right = np.array([14.0 / 3, 7.0, 15.0])
    assert weights(found, 0) == pytest.approx(dict(enumerate(left / left.sum())))
    assert weights(found, 1) == pytest.approx(dict(enumerate(right / right.sum(), 1)))
    # C3 stands once in each: the first one has it.
    assert found.owner.tolist() == [0, 0, 0, 1]


def test_backward_atom_of_no_weight_and_beads_in_their_order():
    text = BACKWARD.replace("L R\n[ map", "R L\n[ map").replace("C1 L\n", "C1 !L\n")
    found = resolved(text, butane()).molecules[0]
    assert found.bead_names == ("R", "L")
    assert weights(found, 1) == pytest.approx({1: 4 / 7, 2: 3 / 7})
    assert found.owner.tolist() == [1, 1, 1, 0]  # C3: L, which comes first in its line


def test_vermouth_and_pycgtool():
    found = resolved(VERMOUTH, butane()).molecules[0]
    assert weights(found, 0) == pytest.approx({0: 1 / 3, 1: 2 / 3})
    assert weights(found, 1) == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    assert found.owner.tolist() == [0, 0, 1, 1]
    both = MappingFile.from_text(PYCGTOOL).resolve(topology((butane(), 1), (water(), 2)))
    # PyCGTOOL's centre is the geometric one, whatever the masses.
    assert weights(both.molecules[1], 0) == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})
    assert weights(both.molecules[0], 1) == pytest.approx({2: 1 / 3, 3: 2 / 3})
    assert both.molecules[0].bead_types == ("P1", "P2")


@pytest.mark.parametrize(
    ("text", "old", "new", "match"),
    [
        (BACKWARD, "[ chiral ]", "[ chirl ]", r"line 13: expected molecule, martini or atoms"),
        (BACKWARD, "[ atoms ]", "[ atoms", r"line 8: expected '\[ section \]', found '\[ atoms'"),
        (BACKWARD, "  4 C4 R", "  4 C4", "line 12: expected a number, an atom and its beads"),
        (BACKWARD, "  4 C4 R", "  4 C4 Q", "line 12: expected only the beads L R, found '4 C4 Q'"),
        (BACKWARD, "  4 C4 R", "  4 C3 R", "line 12: expected atom C3 of residue BUT once"),
        (BACKWARD, "L R\n[ map", "L R S\n[ map", "line 3: expected atoms with .* none in S"),
        (BACKWARD, "[ molecule ]\nBUT\n", "", r"line 3: expected \[ molecule \] with a residue's"),
        (VERMOUTH, "C2 L 2", "C2 L x", "line 12: expected a weight of zero or above"),
        (VERMOUTH, "C2 L 2", "C2 L -2", "line 12: expected a weight of zero or above"),
        (VERMOUTH, "C2 L 2", "1:C2 L 2", "line 12: expected an atom, its bead and perhaps"),
        (VERMOUTH, "BUT\n", "BUT PRO\n", "line 7: expected one block, found 2; beads over several"),
        (VERMOUTH, "[ block ]", "[ modification ]", "line 1: .* which is not read; write the ends"),
        (VERMOUTH, "[ to ]", "[ two ]", "line 4: expected block, from blocks, to blocks or map"),
        (PYCGTOOL, "L P1 C1 C2", "L P1", "line 3: expected a bead's name, its type and its atoms"),
        (PYCGTOOL, "L P1", "R P1", "line 4: expected bead R once"),
        (PYCGTOOL, "L P1 C1 C2", "@v L P1 R", "line 3: expected beads of atoms, found '@v'"),
        (PYCGTOOL, "[SOL]", "[BUT]", "line 2: expected residue BUT once, found it 2 times"),
    ],
)  # fmt: skip
def test_bad_files_of_other_programs_are_refused(text, old, new, match):
    assert old in text
    with pytest.raises(InputError, match=f"^m.map {match}"):
        MappingFile.from_text(text.replace(old, new, 1), "m.map").resolve(topology((butane(), 1)))


INDEX = "[ System ]\n1 2 3 4 5 6 7 8\n[ L ]\n 1 2\n[ R ]\n3\n4\n"


def test_index_groups_are_beads_of_every_molecule_alike():
    heavy = dataclasses.replace(butane(), masses=np.array([15.0, 5.0, 14.0, 14.0]))
    system = topology((heavy, 2))
    found = MappingFile.from_text(INDEX).resolve(system)
    assert found.n_beads == 4
    assert weights(found.molecules[0], 0) == pytest.approx({0: 0.75, 1: 0.25})
    every = INDEX + "[ L ]\n5 6\n[ R ]\n7 8\n"
    again = MappingFile.from_text(every).resolve(system).molecules[0]
    assert np.array_equal(again.owner, found.molecules[0].owner)
    assert again.bead_names == ("L", "R")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[ R ]\n3\n4", "[ R ]\n3\n4\n5", "line 5: expected group R to have a bead of one mol"),
        ("[ R ]\n3\n4", "[ R ]\n3\n9", "line 5: expected group R to have atoms up to 8, found 9"),
        ("[ R ]\n3\n4", "[ R ]\n3\n3", "line 5: expected group R .* differ, found one twice"),
        ("[ R ]\n3\n4", "[ R ]", "line 5: expected group R to have atoms that differ, found none"),
        ("[ R ]\n3\n4", "[ R ]\n3\n0", "line 7: expected atom numbers from 1, found '0'"),
        ("[ R ]\n3\n4", "[ R ]\n3 4\n[ L ]\n5\n[ R ]\n6 7 8", "molecules BUT to be cut alike"),
    ],
)
def test_bad_index_files_are_refused(old, new, match):
    assert old in INDEX
    with pytest.raises(InputError, match=match):
        resolved_two = MappingFile.from_text(INDEX.replace(old, new), "i.ndx")
        resolved_two.resolve(topology((butane(), 2)))


def test_cgsmiles_finds_the_atoms_by_bonds():
    pytest.importorskip("cgsmiles")
    n = 4
    chain = polystyrene(n)
    # A holds CH, which bears the ring and is bonded to the next one, and CH2; B is the ring.
    text = "{[#A]([#B])[#A]([#B])[#A]([#B])[#A]([#B])}.{#A=[>]C([$])C[<],#B=[$]c1ccccc1}"
    found = MappingFile.from_text(text).resolve(topology((chain, 1))).molecules[0]
    assert found.bead_types == ("A", "B") * n
    assert found.bead_names[:3] == ("A1", "B2", "A3")
    packaged = load_mapping("ps-two-bead").resolve(topology((chain, 1))).molecules[0]
    assert np.array_equal(found.owner, packaged.owner)
    ring = weights(found, 1)
    assert ring == pytest.approx(weights(packaged, 1))
    # other elements, another length
    with pytest.raises(InputError, match=r"expected a mapping of molecule PS1, found that of A-B"):
        MappingFile.from_text(text).resolve(topology((polystyrene(3), 1)))


def test_cgsmiles_reads_a_chain_of_equal_ends_in_the_order_of_its_atoms():
    pytest.importorskip("cgsmiles")
    united = dataclasses.replace(butane(), masses=np.array([15.035, 14.027, 14.027, 15.035]))
    text = "{[#A][#A]}.{#A=CC[$]}"
    assert resolved(text, united).molecules[0].owner.tolist() == [0, 0, 1, 1]
    shared = resolved("{[#A][#A]}.{#A=CC[C;0.5][!]}", five()).molecules[0]
    left = np.array([15.035, 14.027, 14.027 / 2])
    assert weights(shared, 0) == pytest.approx(dict(enumerate(left / left.sum())))
    assert shared.owner.tolist() == [0, 0, 0, 1, 1]
    for bad in ("{[#A][#A]}.{#A=CC[$", "{[#A]|3}"):
        with pytest.raises(InputError, match="expected a CGSmiles string"):
            MappingFile.from_text(bad)


def five():
    plain = molecule("PEN", 5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    return dataclasses.replace(plain, masses=np.array([15.035, 14.027, 14.027, 14.027, 15.035]))


WATER_XML = (
    "<cg_molecule><name>w</name><ident>SOL</ident><topology><cg_beads><cg_bead><name>W</name>"
    "<type>W</type><mapping>w</mapping><beads>1:SOL:OW 1:SOL:HW1 1:SOL:HW2</beads></cg_bead>"
    "</cg_beads></topology><maps><map><name>w</name><weights>1 0 0</weights></map></maps>"
    "</cg_molecule>"
)


def test_several_files_of_several_programs(tmp_path):
    system = topology((butane(), 3), (water(), 2))
    files = {"a.xml": VOTCA, "w.xml": WATER_XML, "b.yaml": BUTANE, "c.map": PYCGTOOL}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: tmp_path / name for name in files}
    mapping = load_mapping(f"{paths['a.xml']};{paths['w.xml']}")
    found = mapping.resolve(system)
    # An atom of weight zero is put back by the bead that names it.
    assert found.molecules[1].owner.tolist() == [0, 0, 0]
    assert weights(found.molecules[1], 0) == {0: 1.0}
    x = np.random.default_rng(0).normal(size=(system.n_atoms, 3))
    assert np.allclose(map_positions(found, x)[6:], x[[12, 15]])
    mixed = load_mapping([paths["b.yaml"], paths["w.xml"]])
    assert mixed.resolve(system).n_beads == 8
    for one in (mapping, mixed):  # a model carries the text of all
        again = MappingFile.from_text(one.to_text(), "other")
        assert again == one
    with pytest.raises(InputError, match=r"c\.map: expected residue BUT to be mapped in one file"):
        load_mapping([paths["b.yaml"], paths["c.map"]])
    with pytest.raises(InputError, match=r"a\.xml: expected molecule BUT to be mapped in one file"):
        load_mapping([paths["a.xml"], paths["a.xml"]])
    index = MappingFile.from_text("[ A ]\n1 2 3 4\n", "i.ndx")
    with pytest.raises(InputError, match=r"a\.xml: expected one mapping of molecule BUT, found"):
        join_mappings([index, load_mapping(paths["a.xml"])]).resolve(system)
    with pytest.raises(InputError, match=r"expected a mapping of molecule SOL, found that of BUT"):
        load_mapping(paths["a.xml"]).resolve(system)


def test_hands_may_stand_in_a_file_of_their_own(tmp_path):
    (tmp_path / "but.map").write_text(BACKWARD)
    (tmp_path / "hands.yaml").write_text("stereo:\n  - {molecules: BUT, centres: {C2: R}}\n")
    found = load_mapping([tmp_path / "but.map", tmp_path / "hands.yaml"])
    assert len(found.stereo) == 1
    assert MappingFile.from_text(found.to_text()).stereo == found.stereo
    one = found.resolve(topology((butane(), 1))).molecules[0]
    assert one.owner.tolist() == resolved(BACKWARD, butane()).molecules[0].owner.tolist()
    alone = load_mapping(tmp_path / "hands.yaml")
    with pytest.raises(InputError, match="expected a mapping of molecule BUT, found none"):
        alone.resolve(topology((butane(), 1)))


def test_errors_name_the_file_of_the_residue(tmp_path):
    (tmp_path / "one.yaml").write_text(BUTANE)
    (tmp_path / "two.yaml").write_text(
        "residues:\n  SOL:\n    beads: [{name: W, type: W, atoms: [OX]}]\n"
    )
    mapping = load_mapping([tmp_path / "one.yaml", tmp_path / "two.yaml"])
    with pytest.raises(InputError, match=r"/two\.yaml line 3: bead W .* expected an atom OX"):
        mapping.resolve(topology((butane(), 1), (water(), 1)))


def test_dropped_molecules_have_no_beads_and_kept_ones_are_their_atoms():
    system = topology((butane(), 2), (water(), 3))
    x = np.random.default_rng(1).normal(size=(system.n_atoms, 3))
    file = MappingFile.from_text(BUTANE)
    alone = file.resolve(topology((butane(), 2)))
    dropped = MappingFile.from_text(BUTANE + "drop: [SO*]\n")
    with pytest.raises(InputError, match="found SOL, which the mapping drops"):
        dropped.resolve(system)
    found = dropped.resolve(system, drop=True)
    assert np.allclose(map_positions(found, x), map_positions(alone, x[:8]))
    less, notes = dropped.without_dropped(system)
    assert (less.n_atoms, notes) == (8, ["left out: 3 molecules SOL (9 atoms)"])
    kept = file.with_selection(keep=["SOL"]).resolve(system)
    assert np.allclose(map_positions(kept, x)[4:], x[8:])
    assert bead_table(kept).names[4:] == water().atom_names * 3
    assert kept.molecules[1].bead_bonds.tolist() == [[0, 1], [0, 2]]
    assert file.with_selection(keep=["SOL"]).kept(system) == ("SOL",)
    again = MappingFile.from_text(file.with_selection(["SOL"]).to_text())
    assert again.selection.drop == ("SOL",)
    with pytest.raises(InputError, match="SOL to be dropped or kept, found both"):
        MappingFile.from_text(BUTANE + "drop: [SOL]\nkeep: [SOL]\n")
    with pytest.raises(InputError, match="SOL: expected to be dropped or kept, found both"):
        file.with_selection(["SOL"], ["SOL"])
    pair = dataclasses.replace(butane(), residue_names=("BUT", "BUT", "END", "END"))
    with pytest.raises(InputError, match="whole molecules, found residue END of molecule BUT"):
        file.with_selection(["END"]).resolve(topology((pair, 1)))


def test_molecules_without_entries_have_the_names_of_the_topology():
    rules = MappingFile.from_text(BUTANE).rules
    monomers, joined = name_monomers(water(), rules, "m.yaml")
    assert monomers == [("SOL", {"OW": 0, "HW1": 1, "HW2": 2})]
    assert joined == [False]


BRANCH = """
residues:
  COR:
    beads:
      - {name: X, type: X, atoms: {C: 1, +C: 1}, owns: [C]}
  ARM:
    beads:
      - {name: "Y{n}", type: Y, atoms: {C: 1, -C: 1}, owns: [C]}
"""


def star():
    """A core with three arms of one residue each, behind it in the list."""
    plain = molecule("STAR", 4, [(0, 1), (0, 2), (0, 3)])
    return dataclasses.replace(
        plain, atom_names=("C",) * 4, residue_names=("COR", "ARM", "ARM", "ARM"),
        residue_numbers=np.arange(1, 5),
    )  # fmt: skip


def test_a_branch_asks_which_neighbour_is_meant():
    match = (
        r"line 5: bead X of residue COR 1 .* expected one monomer for '\+C', found bonds to 3: "
        r"\+1:C \(ARM 2\), \+2:C \(ARM 3\), \+3:C \(ARM 4\)"
    )
    with pytest.raises(InputError, match=match):
        resolved(BRANCH, star())
    for n in (1, 2, 3):
        found = resolved(BRANCH.replace("+C", f"+{n}:C"), star()).molecules[0]
        assert weights(found, 0) == {0: 0.5, n: 0.5}
        # an arm's neighbour is the core, though another arm stands before it in the list
        assert weights(found, 3) == {3: 0.5, 0: 0.5}
    with pytest.raises(InputError, match=r"expected 4 monomers after it for '\+4:C', found only 3"):
        resolved(BRANCH.replace("+C", "+4:C"), star())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[ moleculetype ]\nBUT 3\n[ atoms ]\n", "a GROMACS topology; 'deepbackmap mapping draft"),
        ("[ BB ]\nATOM      1  N   ALA A   1\n", "fragments of CG2AT; write the atom names"),
        ("CRYST1   30.000\nATOM      1  N   ALA\n", "a PDB structure; 'deepbackmap mapping infer"),
        ("but\n    1\n    1BUT     C1    1   0.200   0.200   0.200\n", "a .gro structure"),
        ("site-types:\n  A:\n    index: [0, 1]\n", "a map of OpenMSCG .* x-weight as weights"),
        ("LAMMPS data file\n\n4 atoms\n", "a LAMMPS data file"),
    ],
)
def test_other_files_are_named_with_the_way_in(text, match):
    with pytest.raises(InputError, match=rf"^x: expected a mapping, found {match}"):
        MappingFile.from_text(text, "x")

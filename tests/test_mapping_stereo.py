"""The stereo section of mapping files: what it gives, and every refusal with its line."""

from importlib import resources

import numpy as np
import pytest

import small_polystyrene
from deepbackmap.chemistry import tacticity
from deepbackmap.chemistry.double_bonds import sides
from deepbackmap.chemistry.stereo_section import double_bonds_from_mapping, from_mapping
from deepbackmap.errors import InputError
from deepbackmap.mapping import MappingFile
from deepbackmap.system import Structure
from evaluation_systems import molecule, topology
from melt import build
from melt.tacticity import chain_hands

BOX = 20.0 * np.eye(3)
TWO_BEAD = (
    resources.files("deepbackmap") / "presets" / "mappings" / "ps-two-bead.yaml"
).read_text()
MONOMERS, CHAINS = 6, 4


def signs(section, monomers=MONOMERS, chains=CHAINS):
    """Signs of every chain's centres by a section."""
    file = MappingFile.from_text(TWO_BEAD + "\nstereo:\n" + section, "m.yaml")
    mapping = small_polystyrene.mapping(monomers, chains)
    found = from_mapping(file, mapping, tacticity.find_centres(mapping))
    known = {"mapping": int((found.sign != 0).sum()), "unknown": int((found.sign == 0).sum())}
    assert found.share() == {word: n for word, n in known.items() if n}
    return found.sign.reshape(chains, monomers - 1)


def of_builder(word, monomers=MONOMERS):
    """Signs that the package finds in a chain that the builder made, atom by atom."""
    hand = chain_hands(word, monomers, 1, np.random.default_rng(0))
    x = build.build_chains(monomers, 1, np.random.default_rng(0), hand)[0]
    mapping = small_polystyrene.mapping(monomers, 1)
    return tacticity.signs(Structure(x, BOX), tacticity.find_centres(mapping))


@pytest.mark.parametrize("word", ["syndiotactic", "isotactic", "mrrm"])
@pytest.mark.parametrize("first", ["+", "-"])
def test_pattern_gives_the_chains_that_the_builder_makes_of_that_word(word, first):
    found = signs(f"  - {{pattern: {word}, first: '{first}'}}\n")
    built = of_builder(word + "+")
    assert (found == found[0]).all()
    np.testing.assert_array_equal(found[0], built * built[0] * int(f"{first}1"))


def test_atactic_chains_differ_come_again_with_the_seed_and_keep_their_share_of_meso():
    one = signs("  - {pattern: atactic, seed: 3}\n", 40, 30)
    assert len(np.unique(one, axis=0)) == 30
    np.testing.assert_array_equal(one, signs("  - {pattern: atactic, seed: 3}\n", 40, 30))
    assert (one != signs("  - {pattern: atactic, seed: 4}\n", 40, 30)).any()
    assert (one[:, 1:] == one[:, :-1]).mean() == pytest.approx(0.5, abs=0.05)  # 3 sd: 0.045
    zero = signs("  - {pattern: atactic, seed: 0}\n", 40, 30)
    assert (zero != one).any() and len(np.unique(zero, axis=0)) == 30
    rich = signs("  - {pattern: atactic, meso: 0.8}\n", 40, 30)
    assert (rich[:, 1:] == rich[:, :-1]).mean() == pytest.approx(0.8, abs=0.04)


def test_later_entries_overrule_and_numbers_count_the_molecules():
    found = signs(
        "  - {pattern: isotactic}\n"
        "  - {molecules: PS*, numbers: [2, 4-9], pattern: isotactic, first: '-'}\n"
        "  - {numbers: 4, centres: {'3:CB': '+'}}\n"
    )
    assert (found[[0, 2]] == 1).all() and (found[1] == -1).all()
    assert found[3].tolist() == [-1, -1, 1, -1, -1]


def test_what_no_entry_speaks_of_is_not_known():
    found = signs("  - {numbers: 1, centres: {'2:CB': '-'}}\n")
    assert found.sum() == found[0, 1] == -1


def test_r_and_s_of_the_first_centre_of_a_chain():
    # Priorities: ring, CH2 of the chain, CH3, H. R, seen from opposite H: ring, next, previous
    # clockwise, (ring x next) . previous < 0, so (previous x next) . ring > 0: the builder's +.
    found = signs("  - {centres: {'1:CB': R}}\n")
    assert (found[:, 0] == of_builder("+----")[0]).all()
    assert (signs("  - {centres: {'1:CB': S}}\n")[:, 0] == of_builder("-++++")[0]).all()
    assert not found[:, 1:].any()


def test_r_and_s_name_mirror_images_and_may_begin_a_pattern():
    right = signs("  - {centres: {CB: R}}\n")
    assert (right != 0).all()
    np.testing.assert_array_equal(signs("  - {centres: {CB: S}}\n"), -right)
    began = signs("  - {pattern: rrrr, first: R}\n")
    assert (began[:, 0] == right[:, 0]).all() and (began[:, 1:] == -began[:, :-1]).all()


@pytest.mark.parametrize(
    "section, message",
    [
        ("  - {pattern: heterotactic}\n", "expected pattern to be syndiotactic, isotactic"),
        ("  - {patern: isotactic}\n", "expected an entry of stereo to have keys .*found 'patern'"),
        ("  - {molecules: PS*}\n", "to say centres, pattern or double_bonds, found none"),
        ("  - {centres: {CB: D}}\n", r"the hand of CB to be one of R, S, \+, -, found 'D'"),
        ("  - {pattern: isotactic, seed: 2}\n", "expected 'seed' beside pattern atactic"),
        ("  - {pattern: atactic, seed: -1}\n", "expected seed to be a whole number from 0"),
        ("  - {pattern: atactic, seed: 0.5}\n", "expected seed to be a whole number from 0"),
        ("  - {centres: {CB: R}, first: R}\n", "expected 'first' beside a pattern"),
        ("  - {pattern: atactic, meso: 1.5}\n", "expected meso between 0 and 1, found 1.5"),
        ("  - {numbers: [0], pattern: atactic}\n", "expected molecule numbers such as 3 or 1-6"),
        ("  - {numbers: 5-2, pattern: atactic}\n", "expected molecule numbers such as 3 or 1-6"),
        ("  - {double_bonds: {CA-CB: cis}}\n", "expected a double bond as two atoms, C9=C10"),
        ("  - {double_bonds: {CA=CB: left}}\n", "the side of CA=CB to be one of cis, trans, Z, E"),
        ("  pattern: isotactic\n", "expected stereo to be a list"),
        ("  - {pattern: mrr}\n", "expected 4 letters m and r, one less than the 5 stereocentres"),
        ("  - {centres: {CA: R}}\n", "expected a stereocentre CA .*found an atom that is none"),
        ("  - {centres: {QQ: R}}\n", "expected a stereocentre QQ in molecule PS1, found none"),
        ("  - {centres: {'6:CB': R}}\n", "expected a stereocentre 6:CB"),
        ("  - {pattern: isotactic, centre: CA}\n", "expected stereocentres CA .*found none"),
        ("  - {molecules: PE, pattern: isotactic}\n", "expected molecules PE .*found 0 .*PS1"),
        ("  - {numbers: 5, pattern: isotactic}\n", "with these numbers, found 4 of that name"),
        ("  - {double_bonds: {CA=C1: cis}}\n", "expected a bond CA=C1 .*found none"),
    ],
)
def test_mistakes_are_told_with_file_and_line(section, message):
    line = TWO_BEAD.count("\n") + 3
    with pytest.raises(InputError, match=rf"^m\.yaml line {line}: .*{message}"):
        file = MappingFile.from_text(TWO_BEAD + "\nstereo:\n" + section, "m.yaml")
        mapping = small_polystyrene.mapping(MONOMERS, CHAINS)
        from_mapping(file, mapping, tacticity.find_centres(mapping))
        double_bonds_from_mapping(file, mapping)


def test_mapping_without_the_section_tells_nothing():
    file = MappingFile.from_text(TWO_BEAD, "m.yaml")
    assert file.stereo == ()
    mapping = small_polystyrene.mapping(3, 1)
    found = from_mapping(file, mapping, tacticity.find_centres(mapping))
    assert found.share() == {"unknown": 2}
    assert not len(double_bonds_from_mapping(file, mapping).atoms)


BUTENE = molecule(
    ["C", "C", "C", "C", *["H"] * 8],
    [(0, 1), (1, 2), (2, 3), (0, 4), (0, 5), (0, 6), (1, 7), (2, 8), (3, 9), (3, 10), (3, 11)],
)
HALIDE = molecule(["C", "C", "F", "Cl", "Br", "H"], [(0, 1), (0, 2), (0, 5), (1, 3), (1, 4)])
ONE_BEAD = "residues:\n  MOL:\n    beads:\n      - {{name: X, type: X, atoms: [{}]}}\nstereo:\n"


def double_bonds(kind, section, count=2):
    file = MappingFile.from_text(ONE_BEAD.format(", ".join(kind.atom_names)) + section, "m.yaml")
    return double_bonds_from_mapping(file, file.resolve(topology(kind, counts=(count,))))


def test_cis_and_trans_go_by_the_heavy_neighbours():
    found = double_bonds(BUTENE, "  - {double_bonds: {C2=C3: trans}}\n")
    assert found.atoms.tolist() == [[0, 1, 2, 3], [12, 13, 14, 15]]
    assert found.side.tolist() == [-1, -1]
    x = np.zeros((24, 3))
    x[:4] = [[-0.1, 0.1, 0], [0, 0, 0], [0.13, 0, 0], [0.2, -0.1, 0]]
    x[12:16] = [[-0.1, 0.1, 0], [0, 0, 0], [0.13, 0, 0], [0.2, 0.1, 0]]
    assert sides(Structure(x, BOX), found.atoms).tolist() == [-1, 1]


def test_later_entries_overrule_the_sides_of_single_molecules():
    found = double_bonds(
        BUTENE, "  - {double_bonds: {C2=C3: trans}}\n  - {numbers: 2, double_bonds: {C2=C3: cis}}\n"
    )
    assert found.side.tolist() == [-1, 1]


def test_z_and_e_go_by_priority():
    found = double_bonds(HALIDE, "  - {double_bonds: {C1=C2: Z}}\n", 1)
    assert found.atoms.tolist() == [[2, 0, 1, 4]]  # fluorine on one side, bromine on the other
    assert found.side.tolist() == [1]


def test_sides_that_nothing_tells_are_refused():
    with pytest.raises(InputError, match=r"one heavy atom beside the double bond at C2.*found 2"):
        double_bonds(HALIDE, "  - {double_bonds: {C1=C2: cis}}\n")
    with pytest.raises(InputError, match="expected substituents of different priority at C4"):
        double_bonds(BUTENE, "  - {double_bonds: {C3=C4: Z}}\n")


def test_a_pattern_over_two_kinds_of_centres_asks_which():
    # a chain whose monomers have one centre with F and one with Cl
    types, bonds = [], []
    for m in range(4):
        b = len(types)
        types += ["C", "F", "H", "C", "Cl", "H"]
        bonds += [(b, b + 1), (b, b + 2), (b, b + 3), (b + 3, b + 4), (b + 3, b + 5)]
        if m:
            bonds.append((b - 3, b))
    types += ["H", "Br"]
    bonds += [(0, len(types) - 2), (len(types) - 5, len(types) - 1)]
    chain = molecule(types, bonds)
    text = ONE_BEAD.format(", ".join(chain.atom_names))
    with pytest.raises(InputError, match=r"expected one kind of stereocentre .*found \d kinds"):
        section_signs(chain, text + "  - {pattern: isotactic}\n")
    one = section_signs(chain, text + "  - {centres: {C4: '-', C7: '+', C10: '-'}}\n")
    assert one.tolist()[:3] == [-1, 1, -1] and not one[3:].any()


def section_signs(kind, text):
    file = MappingFile.from_text(text, "m.yaml")
    mapping = file.resolve(topology(kind))
    return from_mapping(file, mapping, tacticity.find_centres(mapping)).sign

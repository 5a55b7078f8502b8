"""Hands from a reference, labels and a pattern, and which source is believed."""

import os
from pathlib import Path

import numpy as np
import pytest

import small_polystyrene
from deepbackmap.chemistry import double_bonds, hands, tacticity
from deepbackmap.errors import InputError
from deepbackmap.system import Structure
from evaluation_systems import molecule, topology
from melt import build
from melt.tacticity import chain_hands

BOX = 20.0 * np.eye(3)
MONOMERS, CHAINS = 5, 3


@pytest.fixture(scope="module")
def melt():
    """Atactic chains, their mapping, and the builder's signs, of (previous x next) . ring."""
    rng = np.random.default_rng(5)
    wanted = chain_hands("atactic", MONOMERS, CHAINS, rng)
    x = build.build_chains(MONOMERS, CHAINS, rng, wanted)
    mapping = small_polystyrene.mapping(MONOMERS, CHAINS)
    return mapping, tacticity.find_centres(mapping), Structure(x.reshape(-1, 3), BOX), wanted


def test_reference_of_the_whole_system_gives_each_chain_its_own_hands(melt):
    mapping, centres, structure, wanted = melt
    found = hands.from_reference(mapping.topology, centres, structure)
    # the triple product that this package takes has the other sign than the builder's
    np.testing.assert_array_equal(found.sign, -wanted.ravel())
    assert found.share() == {"reference": CHAINS * (MONOMERS - 1)}
    assert (found.sure == 1.0).all()


@pytest.mark.parametrize("box", [BOX, np.zeros((3, 3))])
def test_one_molecule_speaks_for_all_of_its_type(melt, box):
    mapping, centres, structure, wanted = melt
    size = 16 * MONOMERS + 2
    for k in range(CHAINS):
        one = Structure(structure.positions[k * size : (k + 1) * size], box)
        found = hands.from_reference(mapping.topology, centres, one)
        np.testing.assert_array_equal(found.sign.reshape(CHAINS, -1), -wanted[[k] * CHAINS])


def test_reference_of_something_else_is_refused(melt):
    mapping, centres, structure, _ = melt
    half = Structure(structure.positions[:100], BOX)
    with pytest.raises(InputError, match=r"like.gro: expected the atoms of the system \(246\)"):
        hands.from_reference(mapping.topology, centres, half, source="like.gro")


def test_names_decide_between_molecules_of_one_size():
    kinds = [
        molecule(["C", "H", "F", "Cl", "Br"], [(0, k) for k in range(1, 5)]),
        molecule(["C", "F", "H", "Cl", "Br"], [(0, k) for k in range(1, 5)]),
    ]
    system = topology(*kinds, counts=(2, 1))
    rows = np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 12, 11, 13, 14]])
    centres = tacticity.Centres(rows, ("X:0",) * 3, np.zeros(3, dtype=np.int64))
    x = np.vstack([np.zeros(3), [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]]) / 10
    with pytest.raises(InputError, match="found 5 atoms that fit several"):
        hands.from_reference(system, centres, Structure(x, BOX))
    found = hands.from_reference(system, centres, Structure(x, BOX), kinds[0].atom_names)
    assert found.sign[0] == found.sign[1] != 0
    assert found.sign[2] == 0
    assert found.share() == {"unknown": 1, "reference": 2}


def labels_of(chain, meaning):
    """As the authors of the mapping label them: ring beads u or d, the others m or r."""
    letter = {s: c for c, s in meaning.items()}
    signs = [*chain, chain[-1]]  # the last monomer has a letter, but no stereocentre
    return [
        w for k, s in enumerate(signs) for w in (f"A{k}{'r' if k % 2 else 'm'}", f"B{k}{letter[s]}")
    ]


def test_labels_of_ring_beads_tell_the_centres_that_bear_the_rings(melt):
    mapping, centres, structure, _ = melt
    right = hands.from_reference(mapping.topology, centres, structure).sign
    meaning = {"u": 1, "d": -1}
    words = [w for c in right.reshape(CHAINS, -1) for w in labels_of(c, meaning)]
    found = hands.from_labels(mapping, centres, words, meaning)
    np.testing.assert_array_equal(found.sign, right)
    assert found.share() == {"labels": len(right)}
    other = hands.from_labels(mapping, centres, words, {"u": -1, "d": 1})
    np.testing.assert_array_equal(other.sign, -right)
    one = hands.from_labels(mapping, centres, words[: 2 * MONOMERS], meaning)
    np.testing.assert_array_equal(one.sign.reshape(CHAINS, -1), right.reshape(CHAINS, -1)[[0] * 3])


def test_label_of_the_bead_that_owns_a_centre_comes_before_those_beside_it(melt):
    mapping, centres, _, _ = melt
    owner_says = ["Au", "Bd"] * MONOMERS
    found = hands.from_labels(mapping, centres, owner_says, {"u": 1, "d": -1})
    assert (found.sign == 1).all()


def test_labels_that_contradict_or_do_not_fit_are_refused(melt):
    mapping, centres, _, _ = melt
    meaning = {"u": 1, "d": -1}
    with pytest.raises(InputError, match="f: expected labels that end in d or u, found none"):
        hands.from_labels(mapping, centres, ["A", "B"] * MONOMERS, meaning, "f")
    with pytest.raises(InputError, match=r"system \(30\) or of a molecule \(10\), found 4"):
        hands.from_labels(mapping, centres, ["A", "Bu"] * 2, meaning)
    # the second A bead, with no say of its own centre, beside the first centre's ring
    torn = ["A", "Bu", "Ad", *["A", "Bu"] * MONOMERS][: 2 * MONOMERS]
    torn[2], torn[3] = "Ad", "Bu"
    with pytest.raises(InputError, match="atom 5, found beads beside it with both signs"):
        hands.from_labels(mapping, centres, torn, meaning)


def test_file_of_labels(tmp_path):
    path = tmp_path / "types.txt"
    path.write_text("# beads\n1 A1r\n\n2 B1d # ring\nA2m\n")
    assert hands.read_labels(path) == ("A1r", "B1d", "A2m")
    path.write_text("1 A1r\n3 B1d\n")
    with pytest.raises(InputError, match="line 2: expected bead 2 and its label, found '3 B1d'"):
        hands.read_labels(path)
    with pytest.raises(InputError, match="expected labels as text"):
        hands.read_labels(tmp_path / "none.txt")


def test_the_first_source_that_knows_a_centre_is_believed(melt):
    _, centres, _, _ = melt
    n = len(centres.atoms)
    one, two = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    one[:4], two[2:8] = 1, -1
    found = hands.combine(
        hands.told(one, "labels"),
        hands.told(two, "mapping"),
        hands.from_pattern(centres, {"A:0": [1, 0]}),
    )
    assert found.sign[:8].tolist() == [1, 1, 1, 1, -1, -1, -1, -1]
    assert found.share() == {"unknown": 2, "labels": 4, "mapping": 4, "assumed": 2}
    assert found.sure[found.source == hands.SOURCES.index("assumed")].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="sources: expected at least one"):
        hands.combine()


def test_sides_of_double_bonds_across_the_faces_of_a_box():
    # a at the left of b=c, d once on a's side and once opposite, the frame turned at random
    flat = np.array([[0.1, 0.1, 0], [0, 0, 0], [0, -0.13, 0], [0.1, -0.2, 0], [-0.1, -0.2, 0.02]])
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    wrapped = (flat @ turn) % 1.0  # across the boundary of a box of 1 nm
    found = double_bonds.sides(
        Structure(wrapped, np.eye(3)), np.array([[0, 1, 2, 3], [0, 1, 2, 4]])
    )
    assert found.tolist() == [1, -1]


def test_published_labels_cover_every_centre_of_a_chain():
    folder = Path(os.environ.get("DEEPBACKMAP_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = folder / "aps_cg" / "bead_types.txt"
    if not path.exists():
        pytest.skip("the published reference data is not here")
    mapping = small_polystyrene.mapping(96, 2)
    centres = tacticity.find_centres(mapping)
    words = hands.read_labels(path)
    found = hands.from_labels(mapping, centres, words, {"u": 1, "d": -1})
    sign = found.sign.reshape(2, 95)
    assert (sign != 0).all()
    # the letter of the A bead after a dyad says what the dyad is: m for one of equal signs
    for k in range(1, 95):
        assert (words[2 * k][-1] == "m") == (sign[0, k] == sign[0, k - 1])

"""Hands told by patterns, labels, references: what they have to do with one another."""

from itertools import pairwise

import numpy as np
import pytest

import small_polystyrene
from deepbackmap.chemistry import hands, stereo_section, tacticity
from deepbackmap.errors import InputError
from deepbackmap.mapping import MappingFile, load_mapping
from deepbackmap.system import Structure
from laws import mirrored, moved, permutation
from small_polystyrene import build

MONOMERS, CHAINS = 6, 4
CENTRES_EACH = MONOMERS - 1
BOX = 30.0 * np.eye(3)
SYSTEM = small_polystyrene.mapping(MONOMERS, CHAINS)
CENTRES = tacticity.find_centres(SYSTEM)
TEXT = load_mapping("ps-two-bead").to_text()


def drawn(seed):
    """Signs of all centres, some of them not known."""
    return np.random.default_rng(seed).integers(-1, 2, len(CENTRES.atoms))


def by_section(section):
    file = MappingFile.from_text(f"{TEXT}\nstereo:\n{section}", "m.yaml")
    return stereo_section.from_mapping(file, SYSTEM, CENTRES).sign.reshape(CHAINS, -1)


def test_there_are_as_many_centres_as_inner_monomers():
    assert len(CENTRES.atoms) == CHAINS * CENTRES_EACH


def dyads(signs):
    """m where neighbouring centres have one sign, r where they differ."""
    return "".join("m" if a == b else "r" for a, b in pairwise(signs.tolist()))


@pytest.mark.parametrize("first", ["+", "-"])
@pytest.mark.parametrize("pattern", ["mmmm", "rrrr", "mrmr", "rmmr", "mrrm", "rrrm"])
def test_dyads_that_are_asked_for_are_those_that_come(pattern, first):
    found = by_section(f'  - {{pattern: {pattern}, first: "{first}"}}\n')
    for chain in found:
        assert dyads(chain) == pattern
        assert chain[0] == (1 if first == "+" else -1)


@pytest.mark.parametrize(("word", "pattern"), [("isotactic", "mmmm"), ("syndiotactic", "rrrr")])
def test_words_are_patterns(word, pattern):
    words = by_section(f'  - {{pattern: {word}, first: "+"}}\n')
    assert np.array_equal(words, by_section(f'  - {{pattern: {pattern}, first: "+"}}\n'))
    assert {dyads(chain) for chain in words} == {pattern}


@pytest.mark.parametrize("meso", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(1, 4))
def test_atactic_chains_without_chance_are_regular(seed, meso):
    found = by_section(f"  - {{pattern: atactic, seed: {seed}, meso: {meso}}}\n")
    assert {dyads(chain) for chain in found} == {("m" if meso else "r") * (CENTRES_EACH - 1)}


@pytest.mark.parametrize("seed", range(1, 4))
def test_atactic_chains_do_not_depend_on_what_else_is_asked(seed):
    alone = by_section(f"  - {{pattern: atactic, seed: {seed}}}\n")
    after = by_section(
        f'  - {{pattern: isotactic, first: "+"}}\n  - {{pattern: atactic, seed: {seed}}}\n'
    )
    assert np.array_equal(alone, after)
    assert np.abs(alone).min() == 1


@pytest.mark.parametrize("numbers", ["1", "[1, 3]", "[2-4]", "[1-2, 4]"])
def test_numbers_choose_chains_and_leave_the_others(numbers):
    from_text = {"1": {0}, "[1, 3]": {0, 2}, "[2-4]": {1, 2, 3}, "[1-2, 4]": {0, 1, 3}}
    found = by_section(f'  - {{pattern: isotactic, first: "+", numbers: {numbers}}}\n')
    assert {k for k in range(CHAINS) if found[k].any()} == from_text[numbers]
    assert set(np.unique(found)) <= {0, 1}


@pytest.mark.parametrize("seed", range(4))
def test_a_mirrored_reference_has_all_other_hands(seed):
    rng = np.random.default_rng(seed)
    x = build.build_chains(MONOMERS, CHAINS, rng).reshape(-1, 3)
    frame = Structure(x, BOX)
    right = hands.from_reference(SYSTEM.topology, CENTRES, frame).sign
    assert np.abs(right).min() == 1
    for same in (moved(frame, seed), Structure(x + 7.0, BOX), Structure(x, np.zeros((3, 3)))):
        found = hands.from_reference(SYSTEM.topology, CENTRES, same).sign
        assert np.array_equal(found, right)
    flipped = hands.from_reference(SYSTEM.topology, CENTRES, mirrored(frame)).sign
    assert np.array_equal(flipped, -right)


@pytest.mark.parametrize("seed", range(3))
def test_molecules_of_a_reference_may_change_places(seed):
    x = np.concatenate([
        build.build_chains(MONOMERS, 1, np.random.default_rng([seed, k])).reshape(-1, 3)
        * [1, 1, (-1) ** k] for k in range(CHAINS)
    ])  # fmt: skip
    right = hands.from_reference(SYSTEM.topology, CENTRES, Structure(x, BOX)).sign
    order = permutation(CHAINS, seed)
    other = x.reshape(CHAINS, -1, 3)[order].reshape(-1, 3)
    found = hands.from_reference(SYSTEM.topology, CENTRES, Structure(other, BOX)).sign
    assert np.array_equal(found.reshape(CHAINS, -1), right.reshape(CHAINS, -1)[order])


@pytest.mark.parametrize("seed", range(6))
def test_combining_is_associative_idempotent_and_believes_the_first(seed):
    a, b, c = (hands.told(drawn(10 * seed + k), w) for k, w in
               enumerate(("reference", "labels", "mapping")))  # fmt: skip
    left = hands.combine(hands.combine(a, b), c)
    right = hands.combine(a, hands.combine(b, c))
    for name in ("sign", "source", "sure"):
        assert np.array_equal(getattr(left, name), getattr(right, name))
        assert np.array_equal(getattr(hands.combine(a, a), name), getattr(a, name))
    known = a.sign != 0
    assert np.array_equal(left.sign[known], a.sign[known])
    silent = ~known & (b.sign != 0)
    assert np.array_equal(left.sign[silent], b.sign[silent])
    assert (left.sign == 0).sum() == ((a.sign == 0) & (b.sign == 0) & (c.sign == 0)).sum()
    assert sum(left.share().values()) == len(CENTRES.atoms)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_told_is_sure_and_what_is_not_is_a_coin(seed):
    found = hands.told(drawn(seed), "labels")
    assert set(found.sure[found.sign != 0].tolist()) <= {1.0}
    assert set(found.sure[found.sign == 0].tolist()) <= {0.5}


@pytest.mark.parametrize("seed", range(4))
def test_labels_of_one_chain_are_labels_of_all(seed):
    rng = np.random.default_rng(seed)
    beads = SYSTEM.molecules[0].n_beads
    letters = rng.choice(["u", "d"], beads)
    labels = tuple(f"S{k}{letter}" for k, letter in enumerate(letters))
    one = hands.from_labels(SYSTEM, CENTRES, labels, {"u": 1, "d": -1})
    every = hands.from_labels(SYSTEM, CENTRES, labels * CHAINS, {"u": 1, "d": -1})
    assert np.array_equal(one.sign, every.sign)
    flipped = hands.from_labels(SYSTEM, CENTRES, labels, {"u": -1, "d": 1})
    assert np.array_equal(flipped.sign, -one.sign)
    owner = SYSTEM.atom_owners()[CENTRES.atoms[:, 0]]
    meant = np.where(np.tile(letters, CHAINS)[owner] == "u", 1, -1)
    assert np.array_equal(one.sign, meant)


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("comment", ["", "   # of the first chain", " #"])
def test_a_file_of_labels_reads_back(numbered, comment, tmp_path):
    labels = tuple(f"A{k}{'ud'[k % 2]}" for k in range(9))
    rows = [f"{k} {n}" if numbered else n for k, n in enumerate(labels, 1)]
    text = "\n\n".join(row + comment for row in rows)
    (tmp_path / "l.txt").write_text(f"# labels\n{text}\n")
    assert hands.read_labels(tmp_path / "l.txt") == labels


@pytest.mark.parametrize("row", ["3 A1u", "A1u A2u A3u", "1 A1u A2u", "0 A1u"])
def test_rows_of_labels_that_do_not_count_are_refused(row, tmp_path):
    (tmp_path / "l.txt").write_text(f"{row}\n")
    with pytest.raises(InputError, match=r"l\.txt line 1: expected bead 1 and its label"):
        hands.read_labels(tmp_path / "l.txt")


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1)])
def test_a_pattern_is_learned_from_what_it_gives(signs):
    pattern = {"A:0": list(signs)}
    expected = tacticity.expected_signs(CENTRES, pattern)
    known = expected != 0
    assert known.all() == (0 not in signs)
    if known.all():
        assert tacticity.learn_pattern(CENTRES, expected[None]) == pattern
    assumed = hands.from_pattern(CENTRES, pattern)
    assert np.array_equal(assumed.sign, expected)
    assert set(assumed.sure.tolist()) == {0.5}


@pytest.mark.parametrize("first", ["R", "S"])
def test_r_and_s_are_mirror_images_all_along_the_chain(first):
    found = by_section(f"  - {{pattern: syndiotactic, first: {first}}}\n")
    other = by_section(f"  - {{pattern: syndiotactic, first: {'S' if first == 'R' else 'R'}}}\n")
    assert np.array_equal(found, -other)
    assert np.abs(found).min() == 1


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ("  - {pattern: mmm}\n", "expected 4 letters m and r"),
        ("  - {pattern: mmmmmm}\n", "expected 4 letters m and r"),
        ("  - {pattern: heterotactic}\n", "pattern"),
        ("  - {pattern: isotactic, molecules: NONE}\n", "expected molecules NONE"),
        ("  - {pattern: isotactic, numbers: 9}\n", "expected molecules"),
        ("  - {pattern: isotactic, first: x}\n", "first"),
        ("  - {pattern: atactic, meso: 1.5}\n", "meso"),
        ("  - {pattern: atactic, meso: .nan}\n", "meso"),
        ("  - {patern: isotactic}\n", "patern"),
        ("  - {pattern: isotactic, seed: 1}\n", "seed"),
    ],
)
def test_sections_that_cannot_be_are_refused(section, match):
    with pytest.raises(InputError, match=match):
        by_section(section)

"""Mappings: the packaged ones, both kinds of topology, laws of the map, and every refusal."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepbackmap.errors import InputError
from deepbackmap.evaluation.plausible import Bonds
from deepbackmap.io.trajectory import ParticleTable
from deepbackmap.mapping import MappingFile, load_mapping, map_positions, packaged_mappings
from deepbackmap.mapping.assemble import bead_bonds, depth_first
from deepbackmap.mapping.match import bead_table, check_atoms, check_beads
from test_system_whole import molecule, topology

NAMES = [
    *("HA", "CA", "HB", "HC", "CB"),
    *("C1", "C2", "H2", "C3", "H3", "C4", "H4", "C5", "H5", "C6", "H6"),
]
LOCAL_BONDS = [
    ("HA", "CA"), ("HB", "CA"), ("HC", "CB"), ("CA", "CB"), ("CB", "C1"), ("C1", "C2"),
    ("C2", "C3"), ("C3", "C4"), ("C4", "C5"), ("C5", "C6"), ("C6", "C1"), ("C2", "H2"),
    ("C3", "H3"), ("C4", "H4"), ("C5", "H5"), ("C6", "H6"),
]  # fmt: skip
DOC = (Path(__file__).parents[1] / "docs" / "mapping.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOC, flags=re.DOTALL)


def mass(name):
    return 12.011 if name[0] == "C" else 1.008


def polystyrene(n, name="PS1"):
    """A chain in one residue, the extra end hydrogens behind the last monomer."""
    index = {a: k for k, a in enumerate(NAMES)}
    bonds = [(16 * m + index[a], 16 * m + index[b]) for m in range(n) for a, b in LOCAL_BONDS]
    bonds += [(16 * m + index["CB"], 16 * (m + 1) + index["CA"]) for m in range(n - 1)]
    bonds += [(16 * n, index["CA"]), (16 * n + 1, 16 * (n - 1) + index["CB"])]
    atoms = [*(NAMES * n), "HX", "HY"]
    return dataclasses.replace(
        molecule(name, len(atoms), bonds),
        atom_names=tuple(f"{a[0]}{k + 1}" for k, a in enumerate(atoms)),
        residue_names=(name,) * len(atoms),
        masses=np.array([mass(a) for a in atoms]),
    )


def by_residue(n):
    """The same chain with one residue a monomer, and where its atoms are in the other one."""
    whole = polystyrene(n)
    other: list[int] = []
    names, residues = [], []
    for m in range(n):
        extra = [(16 * n, "HX")] * (m == 0) + [(16 * n + 1, "HY")] * (m == n - 1)
        other += [16 * m + k for k in range(16)] + [k for k, _ in extra]
        names += NAMES + [a for _, a in extra]
        residues += [m + 1] * (16 + len(extra))
    here = np.argsort(other)
    chain = dataclasses.replace(
        molecule("PSR", len(other), np.sort(here[whole.bonds], axis=1).tolist()),
        atom_names=tuple(names),
        residue_names=("STY",) * len(other),
        residue_numbers=np.array(residues),
        masses=whole.masses[other],
    )
    return chain, np.array(other)


def resolved(text, *molecules):
    runs = [(m, 1) for m in molecules]
    return MappingFile.from_text(text, "m.yaml").resolve(topology(*runs))


@pytest.mark.parametrize("n", [3, 10, 200])
def test_two_beads_a_monomer(n):
    found = load_mapping("ps-two-bead").resolve(topology((polystyrene(n), 2))).molecules[0]
    assert found.bead_names == tuple(f"{b}{m + 1}" for m in range(n) for b in "BS")
    assert found.bead_types == ("A", "B") * n
    assert set(found.bead_residue_names) == {"PS1"}
    owned = np.bincount(found.owner).reshape(n, 2)
    assert owned[:, 1].tolist() == [11] * n
    assert owned[:, 0].tolist() == [6] + [5] * (n - 2) + [6]
    assert found.owner[16 * n] == 0
    assert found.owner[16 * n + 1] == 2 * n - 2
    # A1, B1, A2, B2, ... (spec 3.1); A_m to A_m-1, A1 to A2, B_m to A_m (spec 2.4)
    assert found.order.tolist() == list(range(2 * n))
    expected = [[0, 2], [0, 1]]
    expected += [pair for m in range(1, n) for pair in ([2 * m - 2, 2 * m], [2 * m, 2 * m + 1])]
    assert found.align.tolist() == expected
    bonds = [[2 * m, 2 * m + 1] for m in range(n)] + [[2 * m, 2 * m + 2] for m in range(n - 1)]
    assert found.bead_bonds.tolist() == sorted(bonds)


def test_half_mass_rule_by_hand():
    """The weights that were fitted to the published pairs (spec 1.2)."""
    found = load_mapping("ps-two-bead").resolve(topology((polystyrene(3), 1))).molecules[0]

    def weights(bead):
        chosen = found.weight_beads == bead
        return dict(zip(found.weight_atoms[chosen].tolist(), found.weights[chosen], strict=True))

    assert weights(0) == {1: 1.0}
    middle = {16: 0.0373, 17: 0.4441, 18: 0.0373, 19: 0.0186, 20: 0.2220, 4: 0.2220, 3: 0.0186}
    assert weights(2) == pytest.approx(middle, abs=6e-5)
    # the last one has no share of the extra hydrogen
    assert weights(4) == pytest.approx({k + 16: w for k, w in middle.items()}, abs=6e-5)
    ring = {k: 0.1558 if k in (5, 6, 8, 10, 12, 14) else 0.01307 for k in range(5, 16)}
    assert weights(1) == pytest.approx(ring, abs=6e-5)


def test_one_bead_is_the_centre_of_mass_of_its_monomer():
    n = 4
    chain = polystyrene(n)
    mapping = load_mapping("ps-one-bead").resolve(topology((chain, 1)))
    x = np.random.default_rng(0).normal(size=(chain.n_atoms, 3))
    monomer = np.concatenate([np.repeat(np.arange(n), 16), [0, n - 1]])
    expected = [
        np.average(x[monomer == m], axis=0, weights=chain.masses[monomer == m]) for m in range(n)
    ]
    assert np.allclose(map_positions(mapping, x), expected)
    assert np.array_equal(mapping.molecules[0].owner, monomer)
    assert mapping.molecules[0].align.tolist() == [[0, 1], [0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("n", [2, 3, 200])
def test_both_kinds_of_topology_give_the_same_beads(n):
    residues, repeat = EXAMPLES
    chain, other = by_residue(n)
    a = resolved(repeat, polystyrene(n))
    b = resolved(residues, chain)
    x = np.random.default_rng(n).normal(size=(chain.n_atoms, 3))
    assert np.allclose(map_positions(a, x), map_positions(b, x[other]))
    one, two = a.molecules[0], b.molecules[0]
    assert one.bead_names == two.bead_names
    assert np.array_equal(one.owner[other], two.owner)
    for field in ("bead_bonds", "align", "order"):
        assert np.array_equal(getattr(one, field), getattr(two, field))
    assert two.bead_residue_numbers.tolist() == [m + 1 for m in range(n) for _ in range(2)]


def test_documented_example_is_the_packaged_mapping():
    assert load_mapping("ps-two-bead").resolve(topology((polystyrene(5), 1))).molecules[0].weights \
        == pytest.approx(resolved(EXAMPLES[1], polystyrene(5)).molecules[0].weights)  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_laws_of_the_forward_map(n, copies, seed):
    rng = np.random.default_rng(seed)
    chain = polystyrene(n)
    ion = dataclasses.replace(molecule("NA", 1, []), atom_names=("NA",), residue_names=("NA",))
    text = EXAMPLES[1] + "  NA:\n    beads:\n      - {name: NA, type: ion, atoms: [NA]}\n"
    system = topology((chain, copies), (ion, 2), (chain, 1))
    mapping = MappingFile.from_text(text).resolve(system)
    x = rng.normal(size=(system.n_atoms, 3))
    beads = map_positions(mapping, x)
    assert len(beads) == mapping.n_beads == (copies + 1) * 2 * n + 2
    for m in mapping.molecules:
        assert np.allclose(np.bincount(m.weight_beads, m.weights), 1.0)
        assert (m.weights > 0).all()
        assert sorted(set(m.owner.tolist())) == list(range(m.n_beads))
    # moves with the atoms
    rotation = np.linalg.qr(rng.normal(size=(3, 3))).Q
    shift = rng.normal(size=3)
    assert np.allclose(map_positions(mapping, x @ rotation + shift), beads @ rotation + shift)
    # copies do not see one another
    alone = MappingFile.from_text(text).resolve(topology((chain, 1)))
    per = chain.n_atoms
    for c in range(copies):
        one = map_positions(alone, x[c * per : (c + 1) * per])
        assert np.allclose(one, beads[c * 2 * n : (c + 1) * 2 * n])
    # single atoms pass through, in place
    assert np.allclose(beads[copies * 2 * n : copies * 2 * n + 2], x[copies * per :][:2])
    found = bead_table(mapping)
    assert found.n == len(beads)
    assert found.masses.sum() == pytest.approx(system.masses().sum())
    assert found.resids[[0, 2 * n - 1, -1]].tolist() == [1, 1, copies + 3]
    check_beads(mapping, found, "beads.gro")


def test_wrong_number_of_positions_is_refused():
    mapping = load_mapping("ps-two-bead").resolve(topology((polystyrene(3), 1)))
    with pytest.raises(ValueError, match="whole_positions: expected 50 atoms, got 49"):
        map_positions(mapping, np.zeros((49, 3)))


def recursive_preorder(n, bonds):
    neighbours = [sorted({j for b in bonds for j in b if i in b and j != i}) for i in range(n)]
    order = []

    def visit(i):
        order.append(i)
        for j in neighbours[i]:
            if j not in order:
                visit(j)

    for i in range(n):
        if i not in order:
            visit(i)
    return order


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.data())
def test_depth_first_order(n, data):
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda p: p[0] != p[1])
    bonds = data.draw(st.lists(pairs, max_size=15)) if n > 1 else []
    array = bead_bonds(np.array(bonds, dtype=np.int64).reshape(-1, 2), np.arange(n))
    order, parent = depth_first(n, array)
    assert order.tolist() == recursive_preorder(n, bonds)
    place = np.argsort(order)
    for bead in range(n):
        if parent[bead] >= 0:
            assert place[parent[bead]] < place[bead]
            assert [min(bead, parent[bead]), max(bead, parent[bead])] in array.tolist()


BUTANE = """
weights: plain
residues:
  BUT:
    beads:
      - {name: L, type: E, atoms: {C1: 1, C2: 1}}
      - {name: R, type: E, atoms: {C3: 1, C4: 3}}
"""


def butane(names=("C1", "C2", "C3", "C4")):
    plain = molecule("BUT", 4, [(0, 1), (1, 2), (2, 3)])
    return dataclasses.replace(plain, atom_names=tuple(names), residue_names=("BUT",) * 4)


def test_plain_weights_and_default_owners():
    found = resolved(BUTANE, butane()).molecules[0]
    assert found.weights.tolist() == [0.5, 0.5, 0.25, 0.75]
    assert found.owner.tolist() == [0, 0, 1, 1]
    assert found.align.tolist() == [[0, 1], [0, 1]]


def test_mass_weights_follow_the_topology():
    heavy = dataclasses.replace(butane(), masses=np.array([12.0, 36.0, 1.0, 1.0]))
    found = resolved(BUTANE.replace("plain", "mass"), heavy).molecules[0]
    assert found.weights.tolist() == [0.25, 0.75, 0.25, 0.75]


def test_explicit_axis_and_lonely_bead():
    text = BUTANE.replace("atoms: {C3: 1, C4: 3}", "align: [R, L], atoms: {C3: 1, C4: 3}")
    assert resolved(text, butane()).molecules[0].align.tolist() == [[0, 1], [1, 0]]
    one = "residues: {BUT: {beads: [{name: X, type: X, atoms: [C1, C2, C3, C4]}]}}"
    found = resolved(one, butane()).molecules[0]
    assert found.align.tolist() == [[-1, -1]]
    assert found.order.tolist() == [0]


def test_unused_molecule_types_need_no_entry():
    system = topology((butane(), 3), (molecule("WATER", 3, []), 0))
    mapping = MappingFile.from_text(BUTANE).resolve(system)
    assert mapping.molecules[1].n_beads == 0
    assert map_positions(mapping, np.zeros((12, 3))).shape == (6, 3)
    assert bead_table(mapping).n == 6


def test_several_chains_in_one_molecule_type_have_their_own_ends():
    chain, _ = by_residue(2)
    n = chain.n_atoms
    double = dataclasses.replace(
        molecule("PAIR", 2 * n, [*chain.bonds.tolist(), *(chain.bonds + n).tolist()]),
        atom_names=chain.atom_names * 2,
        residue_names=chain.residue_names * 2,
        residue_numbers=np.concatenate([chain.residue_numbers, chain.residue_numbers + 2]),
        masses=np.tile(chain.masses, 2),
    )
    found = resolved(EXAMPLES[0], double).molecules[0]
    assert found.bead_names == ("B1", "S1", "B2", "S2", "B3", "S3", "B4", "S4")
    single = resolved(EXAMPLES[0], chain).molecules[0]
    assert np.allclose(found.weights, np.tile(single.weights, 2))
    assert found.order.tolist() == list(range(8))
    assert found.align.tolist() == [*single.align.tolist(), *(single.align + 4).tolist()]


def test_monomer_on_its_own_takes_its_variant():
    found = load_mapping("ps-two-bead").resolve(topology((polystyrene(1), 1))).molecules[0]
    assert np.bincount(found.owner).tolist() == [7, 11]
    with pytest.raises(
        InputError, match=r"m\.yaml line 14: .*bead B\{n\} to have a variant 'alone'"
    ):
        resolved(EXAMPLES[1], polystyrene(1))


def test_bead_that_does_not_exist_at_an_end():
    text = """
residues:
  R:
    beads:
      - {name: "C{n}", type: C, atoms: [C1]}
      - name: "L{n}"
        type: L
        atoms: {C1: 1, +C1: 1}
        owns: [C2]
        last: none
        alone: none
"""
    # Three residues of a carbon and, but for the last, a linker atom.
    chain = molecule("CHAIN", 5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    chain = dataclasses.replace(
        chain, atom_names=("C1", "C2", "C1", "C2", "C1"), residue_numbers=np.array([1, 1, 2, 2, 3])
    )
    found = resolved(text, chain).molecules[0]
    assert found.bead_names == ("C1", "L1", "C2", "L2", "C3")
    assert found.weight_atoms.tolist() == [0, 0, 2, 2, 2, 4, 4]


def test_extra_atoms_ahead_of_the_first_monomer():
    text = """
residues:
  P:
    repeat: {length: 2, names: [A, B], before: [{name: X, monomer: first}]}
    beads:
      - {name: "M{n}", type: M, atoms: [A, B], first: {atoms: [X, A, B]}}
"""
    chain = molecule("P", 5, [(0, 1), (1, 2), (2, 3), (3, 4)])
    chain = dataclasses.replace(chain, residue_names=("P",) * 5)
    assert resolved(text, chain).molecules[0].owner.tolist() == [0, 0, 0, 1, 1]


def test_exact_residue_name_wins_over_a_pattern():
    entry = "{beads: [{name: %s, type: T, atoms: [C1, C2, C3, C4]}]}"
    text = f"residues:\n  B*: {entry % 'star'}\n  BUT: {entry % 'exact'}\n"
    assert resolved(text, butane()).molecules[0].bead_names == ("exact",)
    text = f"residues:\n  B*: {entry % 'star'}\n  BU?: {entry % 'mark'}\n"
    with pytest.raises(InputError, match=r"expected one entry for residue BUT .* B\* and BU\?"):
        resolved(text, butane())


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("weights: plain", "wieghts: plain", r"line 2: expected the file to have keys .*'wieghts'"),
        ("weights: plain", "weights: mas", r"line 2: expected weights to be one of mass, plain"),
        ("weights: plain", "weights: [", "line 4: expected YAML, found"),
        (
            "residues:",
            "residue:",
            "expected the file to have keys residues, weights, stereo, drop, keep, found",
        ),
        ("type: E, atoms: {C1: 1, C2: 1}", "atoms: [C1, C2]", "line 6: .* have the key 'type'"),
        ("{C1: 1, C2: 1}", "{C1: 1, C1: 1}", r"name each key once, found 'C1' again"),
        ("{C1: 1, C2: 1}", "[C1, C1]", "name each atom once"),
        ("{C1: 1, C2: 1}", "{C1: 1, C2: x}", "weight of C2 to be a number, found 'x'"),
        ("{C1: 1, C2: 1}", "{C1: 1, C2: .nan}", "the weight of C2 to be a number"),
        ("{C1: 1, C2: 1}", "{C1: 1, C2: inf}", "the weight of C2 to be a finite number"),
        ("{C1: 1, C2: 1}", "{C1: 1, C2: 0}", "a weight above zero for C2 in bead L"),
        ("{C1: 1, C2: 1}", "{C1: 1, C2: -1}", "a weight above zero for C2 in bead L"),
        ("{C1: 1, C2: 1}", "[]", "bead L to have atoms, found none"),
        ("{C1: 1, C2: 1}", "C1", "the atoms of bead L to be keys with values, found 'C1'"),
        ("{C1: 1, C2: 1}", "{C1: 1, C9: 1}", "bead L of residue BUT 1 .* expected an atom C9"),
        ("{C1: 1, C2: 1}", "{C1: 1, -C2: 1}", "expected a monomer before it for '-C2'.*'first'"),
        ("{C1: 1, C2: 1}", "{C1: 1, +C2: 1}", r"expected a monomer after it for '\+C2'.*'last'"),
        ("{C1: 1, C2: 1}", "{C1: 1}", "one bead to own every atom, found none for atom C2 of "),
        ("{C3: 1, C4: 3}", "[C2, C3, C4]", "one owner for atom C2 of residue BUT 1 .* L and R"),
        ("{C1: 1, C2: 1}", "[C1, C2], owns: []", "expected bead L of molecule BUT to own atoms"),
        ("name: L", "name: R", "name its beads apart, found 'R' twice"),
        ("name: L", 'name: "L{m}"', r"a bead name with at most \{n\} in braces"),
        ("name: L", "name: []", "the name of a bead of residue BUT to be a word"),
        ("name: L", "align: [L], name: L", "align of bead L to name two beads, found 1"),
        ("name: L", "align: [L, Z], name: L", "expected a bead Z to align with, found only L R"),
        ("name: L", "align: [L, L], name: L", "align to name two different beads, found L"),
        ("  BUT:", "  PRO:", "expected an entry for residue BUT of molecule BUT .* found only PRO"),
    ],
)
def test_bad_mappings_are_refused_with_their_place(old, new, match):
    assert old in BUTANE
    with pytest.raises(InputError, match=rf"^m\.yaml.*{match}"):
        resolved(BUTANE.replace(old, new, 1), butane())


def test_empty_mappings_are_refused():
    for text, match in (
        ("", "found an empty file"),
        ("# nothing\n", "found an empty file"),
        ("residues: {}", "at least one residue, found none"),
        ("residues: {A: {beads: []}}", "residue A to have beads, found none"),
        ("just words", "the file to be keys with values, found 'just words'"),
        ("residues: [A]", "residues to be keys with values, found a list"),
    ):
        with pytest.raises(InputError, match=match):
            MappingFile.from_text(text)


def test_missing_entry_comes_with_a_stub_that_works():
    with pytest.raises(InputError) as caught:
        resolved(BUTANE.replace("BUT", "PRO"), butane())
    sentence, stub = str(caught.value).split("\n", 1)
    assert sentence.endswith("'--drop BUT', or put this under 'residues':")
    assert resolved(f"residues:\n{stub}\n", butane()).molecules[0].owner.tolist() == [0] * 4


@pytest.mark.parametrize("n", [3, 10, 40])
def test_stub_of_a_whole_chain_is_cut_into_monomers(n):
    chain = polystyrene(n, "PSX")
    with pytest.raises(InputError, match="expected an entry for residue PSX") as caught:
        resolved(BUTANE, chain)
    stub = str(caught.value).split("\n", 1)[1]
    found = resolved(f"residues:\n{stub}\n", chain).molecules[0]
    expected = load_mapping("ps-one-bead").resolve(topology((chain, 1))).molecules[0]
    assert np.array_equal(found.owner, expected.owner)
    assert found.weights == pytest.approx(expected.weights)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("length: 16", "length: 15", "line 6: expected as many names as the length, 15, found 16"),
        ("length: 16", "length: 0", "length of a monomer to be a whole number from 1"),
        ("length: 16", "length: 1.5", "length of a monomer to be a whole number from 1"),
        ("[HA, CA, HB,", "[HA, CA, HA,", "atom names that differ, found 'HA' 2 times"),
        ("monomer: first", "monomer: 3", "monomer of an extra atom to be one of first, last"),
        ("[CA, HA]", "[CA, HZ]", r"a bond between two of the monomer's names, found \[CA, HZ\]"),
        ("[CA, HA]", "[CA]", r"a bond between two of the monomer's names, found \[CA\]"),
        ("name: HY, ", "", "an extra atom to have the key 'name'"),
    ],
)
def test_bad_repeats_are_refused(old, new, match):
    assert old in EXAMPLES[1]
    with pytest.raises(InputError, match=rf"^m\.yaml.*{match}"):
        resolved(EXAMPLES[1].replace(old, new, 1), polystyrene(3))


def test_atoms_in_another_order_than_the_names_are_refused():
    chain = polystyrene(3)
    bonds = chain.bonds.copy()
    swap = {3: 4, 4: 3}  # the carbon before its hydrogen
    turned = dataclasses.replace(
        molecule("PS1", chain.n_atoms, [[swap.get(a, a) for a in pair] for pair in bonds.tolist()]),
        residue_names=chain.residue_names,
    )
    match = r"line 5: expected no bond between CA of monomer 1 \(atom C2\) and HC of monomer 1"
    with pytest.raises(InputError, match=rf"m\.yaml {match}"):
        resolved(EXAMPLES[1], turned)
    more = molecule("PS1", chain.n_atoms, [*bonds.tolist(), (0, 40)])
    more = dataclasses.replace(more, residue_names=chain.residue_names)
    match = "expected no bond between HA of monomer 1 .* and C3 of monomer 3"
    with pytest.raises(InputError, match=match):
        resolved(EXAMPLES[1], more)


def test_residue_that_cannot_be_cut_is_refused():
    wrong = polystyrene(3)
    text = EXAMPLES[1].replace("        - {name: HY, monomer: last}\n", "")
    with pytest.raises(InputError, match=r"multiple of 16 atoms and 1 extra ones, found 50"):
        resolved(text, wrong)


def test_repeated_atom_names_are_refused():
    with pytest.raises(InputError, match="to have names that differ, found C1 twice; a 'repeat'"):
        resolved(BUTANE, butane(("C1", "C1", "C3", "C4")))


def test_massless_atoms_cannot_be_weighted_by_mass():
    ghost = dataclasses.replace(butane(), masses=np.array([12.0, 0.0, 12.0, 12.0]))
    with pytest.raises(InputError, match=r"bead L .*expected atoms with masses, found one of mass"):
        resolved(BUTANE.replace("plain", "mass"), ghost)
    assert resolved(BUTANE, ghost).molecules[0].weights[0] == 0.5


def test_names_that_yaml_would_take_for_something_else():
    text = BUTANE
    for old, new in (("C1", "NO"), ("C2", "1E5"), ("C3", "ON"), ("C4", "'~'")):
        text = text.replace(old, new)
    found = resolved(text, butane(("NO", "1E5", "ON", "~"))).molecules[0]
    assert found.weight_atoms.tolist() == [0, 1, 2, 3]


def test_loading_by_name_and_by_path(tmp_path):
    assert packaged_mappings() == ("ps-one-bead", "ps-two-bead")
    for name in packaged_mappings():
        mapping = load_mapping(name)
        path = tmp_path / f"{name}.yaml"
        path.write_text(mapping.to_text())
        assert load_mapping(path).rules == mapping.rules
        assert MappingFile.from_text(mapping.to_text(), name) == mapping
    with pytest.raises(InputError, match=r"nothing: expected a mapping file .* ps-two-bead"):
        load_mapping("nothing")
    with pytest.raises(InputError, match=r"none\.yaml: expected a mapping file, found No such"):
        load_mapping(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bytes\.yaml: expected a mapping as text"):
        load_mapping(tmp_path / "bytes.yaml")


VOTCA = """<cg_molecule>
  <name>butane</name>
  <ident>BUT</ident>
  <topology>
    <cg_beads>
      <cg_bead><name>L</name><type>E</type><symmetry>1</symmetry><mapping>left</mapping>
        <beads> 1:BUT:C1 1:BUT:C2 1:BUT:C3 </beads></cg_bead>
      <cg_bead><name>R</name><type>E</type><mapping>right</mapping>
        <beads> 1:BUT:C2 1:BUT:C3 1:BUT:C4 </beads></cg_bead>
    </cg_beads>
  </topology>
  <maps>
    <map><name>left</name><weights> 4 2 2 </weights></map>
    <map><name>right</name><weights> 1 1 2 </weights></map>
  </maps>
</cg_molecule>
"""


def test_votca_weights_and_owners():
    found = resolved(VOTCA, butane()).molecules[0]
    assert found.bead_names == ("L", "R")
    assert found.bead_types == ("E", "E")
    assert found.weights.tolist() == [0.5, 0.25, 0.25, 0.25, 0.25, 0.5]
    assert found.weight_atoms.tolist() == [0, 1, 2, 1, 2, 3]
    # C2 and C3 weigh a quarter in both beads: the first one gets them.
    assert found.owner.tolist() == [0, 0, 0, 1]
    more = VOTCA.replace(" 1 1 2 ", " 1 2 1 ")
    assert resolved(more, butane()).molecules[0].owner.tolist() == [0, 0, 1, 1]
    # an atom of weight zero is no part of the bead
    zero = VOTCA.replace(" 4 2 2 ", " 4 0 2 ")
    assert resolved(zero, butane()).molecules[0].owner.tolist() == [0, 1, 0, 1]
    assert MappingFile.from_text(VOTCA).to_text() == VOTCA


def test_votca_gives_the_packaged_mapping():
    n = 3
    chain = polystyrene(n)
    packaged = load_mapping("ps-one-bead").resolve(topology((chain, 1))).molecules[0]
    beads, maps = "", ""
    for b in range(n):
        atoms = packaged.weight_atoms[packaged.weight_beads == b]
        named = " ".join(f"1:PS1:{chain.atom_names[a]}" for a in atoms)
        beads += (
            f"<cg_bead><name>M{b + 1}</name><type>M</type><mapping>m{b}</mapping>"
            f"<beads>{named}</beads></cg_bead>"
        )
        weights = " ".join(str(w) for w in chain.masses[atoms])
        maps += f"<map><name>m{b}</name><weights>{weights}</weights></map>"
    text = (
        f"<cg_molecule><name>PS</name><ident>PS1</ident><topology><cg_beads>{beads}</cg_beads>"
        f"</topology><maps>{maps}</maps></cg_molecule>"
    )
    found = resolved(text, chain).molecules[0]
    for field in dataclasses.fields(found):
        a, b = getattr(found, field.name), getattr(packaged, field.name)
        assert np.allclose(a, b) if isinstance(a, np.ndarray) else a == b


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("</cg_molecule>", "", "expected XML, found"),
        ("cg_molecule>", "molecule>", "expected a VOTCA <cg_molecule>, found <molecule>"),
        ("<ident>BUT</ident>", "", "expected <ident> in the molecule, found none"),
        ("<ident>BUT", "<ident>PRO", "expected a mapping of molecule BUT, found that of PRO"),
        ("<name>L</name>", "", "expected <name> in a bead, found none"),
        (">left</mapping>", ">up</mapping>", "expected a map up for bead L, found none"),
        (" 4 2 2 ", " 4 2 ", "expected 3 weights in map left, one an atom of bead L, found 2"),
        (" 4 2 2 ", " 4 2 a ", "expected numbers as weights of map left"),
        (" 4 2 2 ", " 4 2 -2 ", "expected weights of map left above zero"),
        (" 4 2 2 ", " 4 2 nan ", "expected weights of map left above zero"),
        (" 4 2 2 ", " 0 0 0 ", "expected weights of map left above zero"),
        ("1:BUT:C1 ", "1:BUT:C7 ", "found no 1:BUT:C7 there"),
        ("1:BUT:C1 ", "BUT:C1 ", "as number:residue:atom, found 'BUT:C1'"),
        ("1:BUT:C1 ", "1:BUT:C2 ", "expected bead L to name each atom once"),
    ],
)
def test_bad_votca_files_are_refused(old, new, match):
    assert old in VOTCA
    with pytest.raises(InputError, match=rf"^m\.yaml: .*{match}"):
        resolved(VOTCA.replace(old, new), butane())


def test_votca_without_beads_or_with_ambiguous_atoms_is_refused():
    empty = re.sub(r"<cg_bead>.*</cg_bead>", "", VOTCA, flags=re.DOTALL)
    with pytest.raises(InputError, match="expected beads under"):
        resolved(empty, butane())
    with pytest.raises(InputError, match="found 1:BUT:C1 twice"):
        resolved(VOTCA, butane(("C1", "C1", "C3", "C4")))


def named(names):
    return ParticleTable(tuple(names), ("R",) * len(names), np.ones(len(names), dtype=np.int64))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda n: n[:7] + n[6:], "bead S1 at position 8 of molecule 2 .*, found B1 a second time"),
        (lambda n: n[:7] + n[8:], "bead S1 .* of molecule 2 .*, found B2, so that S1 is missing"),
        (lambda n: [*n[:7], "X", *n[8:]], "found X, which is no bead of this molecule$"),
        (lambda n: [*n[:7], "S3", *n[8:]], r"bead S1 .* of molecule 2 \(PS1\), found S3$"),
        (lambda n: n[:-1], r"bead S3 .* molecule 3 .*, found the end of the file \(18 beads exp"),
        (lambda n: [*n, "B1"], "no bead after molecule 3, the last one of test.top, found bead B1"),
        (lambda n: n[:6], r"bead B1 at position 7 of molecule 2 .* found the end .* 6 in the file"),
    ],
)
def test_beads_that_do_not_match_are_refused(change, match):
    system = topology((polystyrene(3), 3))
    mapping = load_mapping("ps-two-bead").resolve(system)
    names = list(bead_table(mapping).names)
    check_beads(mapping, named(names), "cg.gro")
    with pytest.raises(InputError, match=rf"^cg\.gro: expected .*{match}"):
        check_beads(mapping, named(change(names)), "cg.gro")


def test_atoms_that_do_not_match_are_refused():
    system = topology((butane(), 2))
    names = [*butane().atom_names] * 2
    check_atoms(system, named(names), "aa.gro")
    with pytest.raises(InputError, match=r"aa\.gro: expected atom C2 at position 6 of molecule 2"):
        check_atoms(system, named([*names[:5], "H", *names[6:]]), "aa.gro")


def test_files_without_names_are_compared_by_number():
    system = topology((butane(), 2))
    types = dataclasses.replace(named(["1"] * 8), named=False)
    check_atoms(system, types, "a.data")
    with pytest.raises(InputError, match=r"a\.data: expected 8 atoms for the 2 molecules of test"):
        check_atoms(system, dataclasses.replace(named(["1"] * 7), named=False), "a.data")


def test_beads_may_go_by_their_types():
    system = topology((polystyrene(3), 2))
    mapping = load_mapping("ps-two-bead").resolve(system)
    own = check_beads(mapping, bead_table(mapping), "cg.gro")
    assert set(own.by) == {"names"}
    assert own.notes == ()
    typed = check_beads(mapping, named("AB" * 6), "cg.gro")
    assert typed.by == ("types",)
    assert typed.notes[0] == "beads of PS1 go by their types: A for B1, B for S1, ..."
    assert "residues called R in the file are taken as PS1" in typed.notes
    # B1 is the first ring here, though the mapping calls its first backbone bead so.
    numbered = check_beads(mapping, named(["A1", "B1", "A2", "B2", "A3", "B3"] * 2), "cg.gro")
    assert numbered.by == ("numbered types",)
    assert numbered.notes[0].endswith("A1 for B1, B1 for S1, ...")


@pytest.mark.parametrize(
    ("names", "match"),
    [
        # one molecule by its types, the other by names: no molecule type goes by two
        ([*"ABABAB", "B1", "S1", "B2", "S2", "B3", "S3"], "bead A at position 7 of molecule 2"),
        # both kinds within a molecule
        ([*"ABAB", "B3", "S3", *"ABABAB"], "bead A at position 5 of molecule 1"),
        # rings first: what the types say is another order than the mapping's
        (list("BA" * 6), r"bead .* at position 1 of molecule 1 .*; --by-order takes the beads in"),
        (list("AAABBB" * 2), "bead B at position 2 of molecule 1"),
    ],
)
def test_beads_of_two_schemes_are_refused(names, match):
    mapping = load_mapping("ps-two-bead").resolve(topology((polystyrene(3), 2)))
    with pytest.raises(InputError, match=match):
        check_beads(mapping, named(names), "cg.gro", by_order=False)


def test_names_of_the_mapping_win_over_types():
    text = BUTANE.replace("name: L, type: E", "name: E, type: E").replace("name: R", "name: E2")
    # By numbered types the first bead would be E1, by types the second one E.
    mapping = resolved(text, butane())
    assert check_beads(mapping, named(["E", "E2"]), "cg.gro").by == ("names",)
    assert check_beads(mapping, named(["E", "E"]), "cg.gro").by == ("types",)
    assert check_beads(mapping, named(["E1", "E2"]), "cg.gro").by == ("numbered types",)


def test_order_is_trusted_on_request():
    system = topology((butane(), 3))
    mapping = dataclasses.replace(resolved(BUTANE, butane()), topology=system)
    match = check_beads(mapping, named("PQ" * 3), "cg.gro", by_order=True)
    assert match.by == ("order",)
    assert match.notes[0] == "beads are taken in the file's order"
    with pytest.raises(InputError, match="expected 6 beads for the 3 molecules"):
        check_beads(mapping, named("PQ" * 2), "cg.gro", by_order=True)
    assert check_atoms(system, named("wxyz" * 3), "aa.gro", by_order=True).by == ("order",)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 14), st.integers(0, 2**32 - 1))
def test_no_shape_brings_beads_beyond_the_bound(n, seed):
    rng = np.random.default_rng(seed)
    parents = [int(rng.integers(k)) for k in range(1, n)]
    tree = dataclasses.replace(
        molecule("TREE", n, [(p, k) for k, p in enumerate(parents, 1)]),
        atom_names=tuple(f"X{k}" for k in range(n)), residue_names=("TREE",) * n,
    )  # fmt: skip
    beads = rng.integers(3, size=n)
    rows = [
        f"      - {{name: b{b}, type: T, atoms: "
        f"{{{', '.join(f'X{k}: {rng.uniform(0.1, 3):.3f}' for k in np.flatnonzero(beads == b))}}}}}"
        for b in range(3)
        if (beads == b).any()
    ]
    mapping = resolved("weights: plain\nresidues:\n  TREE:\n    beads:\n" + "\n".join(rows), tree)
    x = np.zeros((n, 3))
    for k, p in enumerate(parents, 1):
        step = rng.normal(size=3)
        x[k] = x[p] + step / np.linalg.norm(step)
    places, bonds = map_positions(mapping, x), Bonds.of(mapping)
    for (i, j), bound in zip(bonds.pairs, bonds.most, strict=True):
        assert np.linalg.norm(places[i] - places[j]) <= bound + 1e-9


def test_bound_by_hand():
    """The first backbone bead is a carbon, two bonds (of 1 nm) from the ring's first carbon."""
    mapping = load_mapping("ps-two-bead").resolve(topology((polystyrene(3), 1)))
    ring = [(0, "C"), *[(1, "C"), (2, "H")] * 2, *[(2, "C"), (3, "H")] * 2, (3, "C"), (4, "H")]
    mean = sum(mass(a) * (k + 2) for k, a in ring) / sum(mass(a) for _, a in ring)
    assert mapping.molecules[0].bead_bonds[0].tolist() == [0, 1]
    assert Bonds.of(mapping).most[0] == pytest.approx(mean)

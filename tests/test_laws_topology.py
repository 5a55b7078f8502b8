"""A topology is the same however its file is written down, and as other programs read it."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import openmm as mm
import pytest
import torch
from openmm import app, unit

from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.system import Structure
from deepbackmap.system.elements import element_symbols
from laws import permutation, renumbered
from small_polystyrene import build
from test_io_lammps import BOX, data_text, places

DATA = Path(__file__).parent / "data"
SYSTEMS = {"kinds": "kinds", "mixed": "mixed"}
"""Made-up systems that hold every kind of term we know."""


def tables_of(kind):
    return sorted(p for p in (DATA / kind).glob("table_*.xvg"))


def read(kind, path=None):
    return read_topology(
        path or DATA / kind / f"{kind}.top",
        include_dirs=[DATA / kind],
        tables=tables_of(kind),
    )


def frame_of(kind):
    with read_frames(DATA / kind / f"{kind}.gro") as source:
        return source[0]


def energies(topology, frame, cutoff=0.5):
    field = ForceField.from_topology(topology, cutoff=cutoff)
    return field.energies_by_term(frame)


def terms_of(terms):
    """Rows of a table in an order that does not depend on the file's."""
    rows = [(*a, *np.round(p, 10)) for a, p in zip(terms.atoms.tolist(), terms.parameters.tolist(),
                                                   strict=True)]  # fmt: skip
    return sorted(rows)


def assert_same(found, expected):
    """Two topologies hold the same, but for the order of terms."""
    assert found.blocks == expected.blocks
    assert found.n_atoms == expected.n_atoms
    for ours, theirs in zip(found.molecule_types, expected.molecule_types, strict=True):
        for name in ("name", "atom_names", "atom_types", "residue_names", "nrexcl"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("charges", "masses", "residue_numbers", "exclusions"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        assert ours.terms.keys() == theirs.terms.keys()
        for kind, terms in theirs.terms.items():
            assert terms_of(ours.terms[kind]) == terms_of(terms), kind
        assert terms_of(ours.pairs) == terms_of(theirs.pairs)
        assert ours.sites.keys() == theirs.sites.keys()
    a, b = found.atom_type_index(), expected.atom_type_index()
    np.testing.assert_allclose(found.c6[np.ix_(a, a)], expected.c6[np.ix_(b, b)])
    np.testing.assert_allclose(found.c12[np.ix_(a, a)], expected.c12[np.ix_(b, b)])


def lines_of(kind):
    return (DATA / kind / f"{kind}.top").read_text().splitlines()


def with_comments(lines, rng):
    found = []
    for line in lines:
        if rng.random() < 0.3 and not (found and found[-1].rstrip().endswith("\\")):
            found.append(rng.choice(["", "; nothing", "   ;", "\t"]))
        ends = line.rstrip().endswith("\\") or ";" in line
        found.append(line if ends or rng.random() < 0.5 else f"{line} ; {rng.integers(99)}")
    return found


def with_blanks(lines, rng):
    """More room between words, tabs among it, and before them."""

    def wider(line):
        if line.lstrip().startswith("#") or '"' in line:
            return line
        return "  " * int(rng.integers(3)) + re.sub(" +", lambda m: rng.choice(["\t", "   "]), line)

    return [wider(line) for line in lines]


def with_continued_lines(lines, rng):
    """A line broken between two words."""
    found = []
    for line in lines:
        words = line.split(" ")
        plain = not any(c in line for c in '#;["\\') and len(words) > 2
        if plain and rng.random() < 0.4:
            k = int(rng.integers(1, len(words)))
            found += [" ".join(words[:k]) + " \\", " ".join(words[k:])]
        else:
            found.append(line)
    return found


def with_shouted_sections(lines, rng):
    def shouted(line):
        head = re.fullmatch(r"\s*\[\s*(\w+)\s*\]\s*", line)
        return f"[{head[1].upper()}]" if head and rng.random() < 0.7 else line

    return [shouted(line) for line in lines]


def with_idle_branches(lines, rng):
    """Branches that nobody takes, full of nonsense."""
    found = []
    for line in lines:
        starts = re.match(r"\s*\[", line)
        if starts and rng.random() < 0.5:
            found += ["#ifdef NEVER_DEFINED", "this is no topology", "#endif"]
        if starts and rng.random() < 0.5:
            found += ["#define SOMETHING", "#ifndef SOMETHING", "[ nor this ]", "#endif"]
        found.append(line)
    return found


WAYS = (with_comments, with_blanks, with_continued_lines, with_shouted_sections, with_idle_branches)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("way", WAYS, ids=lambda w: w.__name__)
@pytest.mark.parametrize("kind", SYSTEMS)
def test_the_same_text_written_otherwise_is_the_same_topology(kind, way, seed, tmp_path):
    rng = np.random.default_rng(seed)
    (tmp_path / "a.top").write_text("\n".join(way(lines_of(kind), rng)) + "\n")
    assert_same(read(kind, tmp_path / "a.top"), read(kind))


@pytest.mark.parametrize("kind", SYSTEMS)
def test_windows_line_ends_are_line_ends(kind, tmp_path):
    (tmp_path / "a.top").write_bytes("\r\n".join(lines_of(kind)).encode() + b"\r\n")
    assert_same(read(kind, tmp_path / "a.top"), read(kind))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", SYSTEMS)
def test_a_topology_cut_into_files_is_the_same(kind, seed, tmp_path):
    """Cut before sections that no branch surrounds; files in folders of their own."""
    lines = lines_of(kind)
    depth, cuts = 0, []
    for k, line in enumerate(lines):
        depth += line.strip().startswith("#if") - line.strip().startswith("#endif")
        if depth == 0 and re.match(r"\s*\[", line):
            cuts.append(k)
    rng = np.random.default_rng(seed)
    chosen = [0, *sorted(rng.choice(cuts[1:], 3, replace=False).tolist()), len(lines)]
    (tmp_path / "parts").mkdir()
    main = []
    for n, (a, b) in enumerate(pairwise(chosen)):
        (tmp_path / "parts" / f"{n}.itp").write_text("\n".join(lines[a:b]) + "\n")
        main.append(f'#include "parts/{n}.itp"')
    (tmp_path / "a.top").write_text("\n".join(main) + "\n")
    assert_same(read(kind, tmp_path / "a.top"), read(kind))


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chains")
    build.write_topology(folder / "topol.top", 3, 3)
    text = (folder / "topol.top").read_text()
    (folder / "topol.top").write_text(
        text.replace('#include "PS.itp"', (folder / "PS.itp").read_text())
    )
    return folder / "topol.top"


def edited(path, tmp_path, change):
    (tmp_path / "b.top").write_text(change(path.read_text()))
    return read_topology(tmp_path / "b.top")


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (1, 1, 1)])
def test_molecules_may_be_counted_in_several_lines(chains, counts, tmp_path):
    rows = "".join(f"PS1 {c}\n" for c in counts)
    found = edited(chains, tmp_path, lambda text: text.replace("PS1 3\n", rows))
    right = read_topology(chains)
    assert np.array_equal(found.molecule_type_index(), right.molecule_type_index())
    assert np.array_equal(found.molecule_offsets(), right.molecule_offsets())
    assert np.array_equal(found.masses(), right.masses())
    assert sorted(found.expand_terms("bond").atoms.tolist()) == sorted(
        right.expand_terms("bond").atoms.tolist()
    )


def rows_of(text, section):
    """Lines of a section, and the text before and after them."""
    start = text.index(f"[ {section} ]")
    end = text.find("[", start + 1)
    end = len(text) if end < 0 else end
    head, *rows = text[start:end].splitlines(True)
    return text[:start] + head, rows, text[end:]


@pytest.mark.parametrize("section", ["bondtypes", "angletypes", "atomtypes", "bonds", "angles"])
def test_the_order_of_lines_does_not_matter(chains, section, tmp_path):
    def shuffled(text):
        before, rows, after = rows_of(text, section)
        plain = [r for r in rows if r.strip() and r.strip()[0] not in ";#"]
        order = permutation(len(plain), 3)
        return before + "".join(plain[k] for k in order) + "\n" + after

    found = edited(chains, tmp_path, shuffled)
    assert_same(found, read_topology(chains))


@pytest.mark.parametrize(("section", "atoms"), [("bonds", 2), ("angles", 3)])
def test_terms_read_from_behind_have_the_same_energy(chains, section, atoms, tmp_path):
    def reversed_rows(text):
        before, rows, after = rows_of(text, section)
        turned = []
        for row in rows:
            words = row.partition(";")[0].split()
            if len(words) > atoms:
                row = " ".join([*reversed(words[:atoms]), *words[atoms:]]) + "\n"
            turned.append(row)
        return before + "".join(turned) + after

    found, right = edited(chains, tmp_path, reversed_rows), read_topology(chains)
    x = np.random.default_rng(0).random((right.n_atoms, 3)) * 2
    frame = Structure(x, 2.5 * np.eye(3))
    assert energies(found, frame) == pytest.approx(energies(right, frame), rel=1e-10)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", SYSTEMS)
def test_energies_do_not_know_the_numbering_of_atoms(kind, seed):
    """Every kind of term, virtual sites among them, with the atoms of each molecule renumbered."""
    topology, frame = read(kind), frame_of(kind)
    orders = [permutation(m.n_atoms, seed + k) for k, m in enumerate(topology.molecule_types)]
    types = tuple(renumbered(m, o) for m, o in zip(topology.molecule_types, orders, strict=True))
    starts = topology.molecule_offsets()[:-1]
    rows = np.concatenate(
        [s + orders[t] for s, t in zip(starts, topology.molecule_type_index(), strict=True)]
    )
    place = np.argsort(rows)
    between = {name: replace(terms, atoms=place[terms.atoms].astype(np.int64))
               for name, terms in topology.intermolecular.items()}  # fmt: skip
    other = replace(topology, molecule_types=types, intermolecular=between)
    found = energies(other, Structure(frame.positions[rows], frame.box))
    assert found == pytest.approx(energies(topology, frame), rel=1e-8, abs=1e-7)


@pytest.mark.parametrize("kind", SYSTEMS)
def test_atoms_masses_charges_and_bonds_are_those_that_openmm_reads(kind, chains):
    """OpenMM knows fewer kinds of term than we do, so that it reads what it can: the chains."""
    theirs = app.GromacsTopFile(str(chains)).topology
    ours = read_topology(chains)
    molecule = ours.molecule_types[0]
    names = [a.name for a in theirs.atoms()]
    assert names == list(molecule.atom_names) * 3
    bonds = {tuple(sorted((b[0].index, b[1].index))) for b in theirs.bonds()}
    assert bonds == set(map(tuple, np.sort(ours.expand_terms("bond").atoms, axis=1).tolist()))
    symbols = [a.element.symbol for a in theirs.atoms() if a.element is not None]
    if len(symbols) == ours.n_atoms:
        assert symbols == list(element_symbols(ours.masses()))


def openmm_energies(path, x):
    """Energies by force of OpenMM's own reading, in open space."""
    system = app.GromacsTopFile(str(path)).createSystem(
        nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
    )
    found = {}
    for k, force in enumerate(system.getForces()):
        force.setForceGroup(k)
        found[k] = type(force).__name__
    context = mm.Context(
        system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(x)
    parts = {}
    for k, name in found.items():
        state = context.getState(getEnergy=True, groups={k})
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        parts[name] = parts.get(name, 0.0) + energy
    return parts


@pytest.mark.parametrize("seed", range(2))
def test_energies_are_those_of_openmms_own_reading(chains, seed):
    topology = read_topology(chains)
    rng = np.random.default_rng(seed)
    x = build.place_chains(build.build_chains(3, 3, rng), 6.0, rng).reshape(-1, 3)
    x = x + 0.004 * rng.normal(size=x.shape)
    field = ForceField.from_topology(topology, cutoff=50.0, reaction_field_epsilon=None)
    ours = field.energies_by_term(Structure(x, np.zeros((3, 3))))
    theirs = openmm_energies(chains, x)
    assert ours["bond"] == pytest.approx(theirs["HarmonicBondForce"], rel=1e-5)
    assert ours["angle"] == pytest.approx(theirs["HarmonicAngleForce"], rel=1e-5)
    rest = sum(v for k, v in theirs.items() if k not in ("HarmonicBondForce", "HarmonicAngleForce"))
    assert sum(ours.values()) - ours["bond"] - ours["angle"] == pytest.approx(rest, rel=1e-4)


# --- LAMMPS ------------------------------------------------------------------------------------


def sections(text):
    """Head of a data file and its sections by title line."""
    parts = re.split(r"\n\n([A-Z][A-Za-z]+(?: [A-Za-z]+)*(?: # [a-z/]+)?)\n\n", text)
    return parts[0], dict(zip(parts[1::2], (p.strip("\n").splitlines() for p in parts[2::2]),
                              strict=True))  # fmt: skip


def joined(head, found):
    return head + "".join(f"\n\n{t}\n\n" + "\n".join(rows) for t, rows in found.items()) + "\n"


def lammps_frame():
    return Structure(places().round(6) / 10, np.eye(3) * BOX / 10)


def lammps(tmp_path, text):
    (tmp_path / "a.data").write_text(text)
    return read_topology(tmp_path / "a.data")


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_a_data_file_may_stand_in_any_order(seed, tmp_path):
    head, found = sections(data_text())
    assert {"Masses", "Atoms # full", "Bonds", "Angles"} <= set(found)
    right = lammps(tmp_path, data_text())
    mixed = {t: [rows[k] for k in permutation(len(rows), seed)] for t, rows in found.items()}
    assert_same(lammps(tmp_path, joined(head, mixed)), right)


@pytest.mark.parametrize("seed", range(2))
def test_numbers_of_bonds_and_angles_mean_nothing(seed, tmp_path):
    head, found = sections(data_text())
    right = lammps(tmp_path, data_text())
    for title in ("Bonds", "Angles", "Dihedrals", "Impropers"):
        rows = found[title]
        numbers = 1 + permutation(len(rows), seed)
        found[title] = [f"{n} {r.partition(' ')[2]}" for n, r in zip(numbers, rows, strict=True)]
    assert_same(lammps(tmp_path, joined(head, found)), right)


def test_comments_and_room_in_a_data_file_mean_nothing(tmp_path):
    head, found = sections(data_text())
    right = lammps(tmp_path, data_text())
    wide = {t: [f"  {re.sub(' ', '   ', r)}  # as it was" for r in rows]
            for t, rows in found.items() if "Coeffs" not in t}  # fmt: skip
    assert_same(lammps(tmp_path, joined(head, {**found, **wide})), right)


def in_metal_units(text):
    """The same data in eV instead of kcal/mol; lengths are angstroms in both."""
    head, found = sections(text.replace("units = real", "units = metal"))
    scale = 4.184 / 96.48533212
    columns = {"Pair Coeffs": (1,), "Bond Coeffs": (1,), "Angle Coeffs": (1,),
               "Dihedral Coeffs": (1, 2, 3, 4), "Improper Coeffs": (1,)}  # fmt: skip
    for title, rows in found.items():
        scaled = columns.get(title.partition(" #")[0], ())
        for k, row in enumerate(rows):
            words = row.split()
            for c in scaled:
                words[c] = f"{float(words[c]) * scale:.12g}"
            rows[k] = " ".join(words)
    return joined(head, found)


def test_the_units_of_a_data_file_are_converted(tmp_path):
    right = energies(lammps(tmp_path, data_text()), lammps_frame())
    found = energies(lammps(tmp_path, in_metal_units(data_text())), lammps_frame())
    for name, energy in right.items():
        assert found[name] == pytest.approx(energy, rel=2e-5, abs=1e-6), name


@pytest.mark.parametrize("seed", range(2))
def test_energies_do_not_know_the_numbering_of_lammps_atoms(seed, tmp_path):
    right = energies(lammps(tmp_path, data_text()), lammps_frame())
    order = np.concatenate([6 * k + permutation(6, seed) for k in range(3)])
    place = np.argsort(order)
    head, found = sections(data_text())
    atoms = [found["Atoms # full"][a].split() for a in order]
    found["Atoms # full"] = [" ".join([str(k), *row[1:]]) for k, row in enumerate(atoms, 1)]
    for title in ("Bonds", "Angles", "Dihedrals", "Impropers"):
        rows = [row.split() for row in found[title]]
        found[title] = [" ".join([*r[:2], *(str(1 + place[int(a) - 1]) for a in r[2:])])
                        for r in rows]  # fmt: skip
    frame = lammps_frame()
    other = Structure(frame.positions[order], frame.box)
    result = energies(lammps(tmp_path, joined(head, found)), other)
    assert result == pytest.approx(right, rel=1e-8, abs=1e-8)


# --- OpenMM ------------------------------------------------------------------------------------


def openmm_system(order=(0, 1, 2, 3), split=False):
    """Four particles in a chain; forces added in some order, bonds in one force or in two."""
    system = mm.System()
    for mass in (12.0, 14.0, 16.0, 1.0):
        system.addParticle(mass)
    bonds, more, angles, torsions, pairs = (
        mm.HarmonicBondForce(), mm.HarmonicBondForce(), mm.HarmonicAngleForce(),
        mm.PeriodicTorsionForce(), mm.NonbondedForce(),
    )  # fmt: skip
    for k in range(3):
        (more if split and k else bonds).addBond(k, k + 1, 0.14 + 0.01 * k, 2e5)
    for k in range(2):
        angles.addAngle(k, k + 1, k + 2, 1.9, 300.0 + k)
    torsions.addTorsion(0, 1, 2, 3, 3, 0.3, 2.0)
    for charge in (0.2, -0.3, 0.4, -0.3):
        pairs.addParticle(charge, 0.3, 0.5)
    pairs.createExceptionsFromBonds([(0, 1), (1, 2), (2, 3)], 0.5, 0.5)
    forces = [bonds, angles, torsions, pairs]
    for k in order:
        system.addForce(forces[k])
    if split:
        system.addForce(more)
    return system


def read_xml(folder, system):
    (folder / "s.xml").write_text(mm.XmlSerializer.serialize(system))
    rows = [f"ATOM  {k:5d}  {n:<3s} MOL A   1    {k:8.3f}{0.5 * k * k:8.3f}   0.000"
            for k, n in enumerate(("C", "N", "O", "H"), 1)]  # fmt: skip
    (folder / "s.pdb").write_text("\n".join(rows) + "\nEND\n")
    return read_topology(folder / "s.xml")


CHAIN = np.array([[0, 0, 0], [0.14, 0.02, 0], [0.2, 0.15, 0.03], [0.33, 0.17, 0.1]])


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_forces_of_a_system_may_stand_in_any_order_or_be_split(order, split, tmp_path):
    system = openmm_system(order, split)
    ours = read_xml(tmp_path, system)
    assert_same(ours, read_xml(tmp_path, openmm_system()))
    context = mm.Context(
        system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(CHAIN)
    state = context.getState(getEnergy=True)
    total = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    field = ForceField.from_topology(ours, cutoff=9.0, reaction_field_epsilon=None)
    found = field.energies_by_term(Structure(CHAIN, np.zeros((3, 3))))
    assert sum(found.values()) == pytest.approx(total, rel=1e-6)


def test_forces_of_a_system_are_minus_the_gradient(tmp_path):
    system = openmm_system()
    ours = read_xml(tmp_path, system)
    context = mm.Context(
        system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(CHAIN)
    forces = context.getState(getForces=True).getForces(asNumpy=True)
    theirs = forces.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    field = ForceField.from_topology(ours, cutoff=9.0, reaction_field_epsilon=None)
    x = torch.tensor(CHAIN, requires_grad=True)
    sum(field.energies(x, None).values()).backward()
    np.testing.assert_allclose(-x.grad.numpy(), theirs, rtol=1e-5, atol=1e-3)

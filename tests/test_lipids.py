"""A small bilayer with CHARMM's kinds of term: check, backmap without a model, map."""

import sys
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app

from cli_systems import command
from deepbackmap.api.hands import find_hands
from deepbackmap.forcefield import ForceField, terms
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.system.topology import require_energies
from lipid_system import molecule, write_lipids
from popc_system import CARBONS, SITE, force_field, write_popc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import popc_bilayer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Atoms of a bilayer, its beads and topology."""
    folder = tmp_path_factory.mktemp("lipids")
    top, cg, mapping = write_lipids(folder, side=3)
    done = command("backmap", cg, "-p", top, "--mapping", mapping, "--model", "none",
                   "--temperature", 310, "-o", folder / "aa.gro", "--option",
                   "conformations=2400", "--option", "pieces=600")  # fmt: skip
    assert done.code == 0, done
    return folder, top, cg, mapping, done.out


def positions(path):
    with read_frames(path) as source:
        return source[0]


def test_the_terms_are_those_of_charmm(made):
    topology = read_topology(made[1])
    require_energies(topology)
    found = topology.molecule_types[0].terms
    assert set(found) == {"bond", "angle", "urey_bradley", "proper", "improper"}
    atoms, bonds = molecule()
    assert len(found["bond"].atoms) == len(bonds) == len(atoms) - 1
    assert sum(charge for *_, charge in atoms) == pytest.approx(1.0)


def test_check_says_that_it_fits(made):
    _, top, cg, mapping, _ = made
    given = ("-p", top, "--mapping", mapping, "--beads", cg)
    done = command("check", *given, "--model", "none", "--temperature", 310)
    assert done.code == 0 and "LIP, 50 atoms in 5 beads" in done.out
    assert "no packaged model knows these types" in command("check", *given).out


def test_heads_are_outside_and_beads_where_they_were(made):
    folder, top, cg, mapping, said = made
    assert said.split("bonds through rings")[1].split()[0] == "0"
    atoms = positions(folder / "aa.gro").positions.reshape(18, 50, 3)
    names = [name for name, *_ in molecule()[0]]
    head = np.abs(atoms[:, names.index("N"), 2] - 3.0)
    tail = np.abs(atoms[:, names.index("C10"), 2] - 3.0)
    assert (head > tail + 0.5).all()
    done = command("map", folder / "aa.gro", "-p", top, "--mapping", mapping, "-o",
                   folder / "again.gro")  # fmt: skip
    assert done.code == 0, done
    given, again = positions(cg), positions(folder / "again.gro")
    apart = again.positions - given.positions
    apart -= np.diag(given.box) * np.rint(apart / np.diag(given.box))
    # beads that were put on straight lines, which no lipid has exactly there
    assert np.sqrt((apart**2).sum(axis=1).mean()) < 0.12


# --- POPC of CHARMM27, with the beads of Martini 3


@pytest.fixture(scope="module")
def popc(tmp_path_factory):
    if force_field() is None:
        pytest.skip("GROMACS' charmm27.ff is absent")
    return write_popc(tmp_path_factory.mktemp("popc"))


def test_popc_has_the_terms_of_charmm(popc):
    topology = read_topology(popc[0])
    require_energies(topology)
    lipid = topology.molecule_types[0]
    assert lipid.n_atoms == 134 and lipid.charges.sum() == pytest.approx(0.0, abs=1e-9)
    assert {"urey_bradley", "proper", "improper"} <= set(lipid.terms) and "cmap" not in lipid.terms
    assert len(lipid.bonds) == 133 and len(lipid.pairs.atoms) > 300


def test_popc_in_the_beads_of_martini(popc):
    """Twelve beads and a virtual site of the coarse-grained model, which shares atoms of two."""
    top, cg, mapping = popc
    found = load_mapping(mapping).resolve(read_topology(top)).molecules[0]
    assert found.bead_names == (*CARBONS, SITE)
    owned = np.bincount(found.owner, minlength=13)
    assert owned.sum() == 134 and (owned > 0).all()
    names = read_topology(top).molecule_types[0].atom_names
    assert {names[a] for a in np.flatnonzero(found.owner == 12)} == {"C2", "HS"}
    members = np.bincount(found.weight_atoms, minlength=134)
    assert (members == 2).sum() > 10 and members.max() == 3
    given = ("-p", top, "--mapping", mapping, "--beads", cg)
    done = command("check", *given, "--model", "none", "--temperature", 310)
    assert done.code == 0 and "POPC, 134 atoms in 13 beads" in done.out
    assert "hands of 18 stereocentres: not known" in done.out
    hands = mapping.parent / "hands.yaml"
    hands.write_text("stereo:\n  - {molecules: POPC, centres: {C2: R}, "
                     "double_bonds: {C29=C210: cis}}\n")  # fmt: skip
    told = command("check", *given, "--mapping", hands, "--model", "none", "--temperature", 310)
    assert told.code == 0 and "not known" not in told.out


def test_atoms_of_popc_without_a_model(popc):
    """Of beads that were put on straight lines, so that atoms cannot have them exactly there."""
    top, cg, mapping = popc
    hands, folder = mapping.parent / "sides.yaml", mapping.parent
    hands.write_text("stereo:\n  - {molecules: POPC, double_bonds: {C29=C210: cis}}\n")
    done = command("backmap", cg, "-p", top, "--mapping", mapping, "--mapping", hands, "--model",
                   "none", "--temperature", 310, "-o", folder / "aa.gro", "--keep-defects",
                   "--option", "conformations=400", "--option", "pieces=100")  # fmt: skip
    assert done.code == 0, done
    assert done.out.split("bonds through rings")[1].split()[0] == "0"
    atoms = positions(folder / "aa.gro").positions.reshape(18, 134, 3)
    names = read_topology(top).molecule_types[0].atom_names
    head, tail = (np.abs(atoms[:, names.index(n), 2] - 4.0) for n in ("N", "C218"))
    assert (head > tail + 0.8).all()
    turn = torch.tensor([[names.index(n) for n in ("C28", "C29", "C210", "C211")]])
    box = torch.tensor(positions(cg).box)
    # cis for all of them, as the mapping says
    assert (terms.dihedrals(torch.tensor(atoms), turn, box).abs() < 1.57).all()
    assert "double bonds         0 of 18 cis for trans or trans for cis" in done.out
    again = command("map", folder / "aa.gro", "-p", top, "--mapping", mapping, "-o",
                    folder / "again.gro")  # fmt: skip
    assert again.code == 0, again
    given, found = positions(cg), positions(folder / "again.gro")
    apart = found.positions - given.positions
    apart -= np.diag(given.box) * np.rint(apart / np.diag(given.box))
    assert np.sqrt((apart**2).sum(axis=1).mean()) < 0.17


# --- POPC of CHARMM36, as OpenMM has it


@pytest.fixture(scope="module")
def charmm36(tmp_path_factory):
    """Two lipids of OpenMM's own bilayer: System, structure and the folder."""
    folder = tmp_path_factory.mktemp("charmm36")
    return *popc_bilayer.write_bilayer(folder, 2), folder


def test_charmm36_from_openmm_has_openmm_s_energies(charmm36):
    """Urey-Bradley terms are springs across angles there, 1-4 pairs have their own numbers."""
    xml, pdb, _ = charmm36
    topology = read_topology(xml)
    require_energies(topology)
    lipid = topology.molecule_types[0]
    assert topology.blocks == ((0, 2),) and lipid.n_atoms == 134
    assert set(lipid.terms) == {"bond", "harmonic", "angle", "proper", "improper", "lj14"}
    assert len(lipid.bonds) == 133 and "cmap" not in lipid.terms
    found = ForceField.from_topology(topology, cutoff=1.0, reaction_field_epsilon=78.3)
    ours = found.energies_by_term(positions(pdb))
    system = openmm.XmlSerializer.deserialize(xml.read_text())
    for k, force in enumerate(system.getForces()):
        force.setForceGroup(k)
    context = openmm.Context(system, openmm.VerletIntegrator(0.001),
                             openmm.Platform.getPlatformByName("Reference"))  # fmt: skip
    context.setPositions(app.PDBFile(str(pdb)).positions)
    theirs = {"bond": 0.0, "angle": 0.0, "proper": 0.0}
    names = {"HarmonicBondForce": "bond", "HarmonicAngleForce": "angle",
             "PeriodicTorsionForce": "proper"}  # fmt: skip
    for k, force in enumerate(system.getForces()):
        if (name := names.get(type(force).__name__)) is not None:
            energy = context.getState(getEnergy=True, groups={k}).getPotentialEnergy()
            theirs[name] += energy.value_in_unit(openmm.unit.kilojoule_per_mole)
    for name, energy in theirs.items():
        assert ours[name] == pytest.approx(energy, rel=1e-5)


@pytest.mark.parametrize("site", [False, True])
def test_charmm36_is_mapped_and_fits(charmm36, site):
    """Twelve beads; the thirteenth is a virtual site of the coarse-grained model."""
    xml, pdb, folder = charmm36
    mapping = popc_bilayer.write_mapping(folder / f"{site}.yaml", xml, pdb, site=site)
    beads = folder / f"cg_{site}.gro"
    done = command("map", pdb, "-p", xml, "--mapping", mapping, "-o", beads)
    assert done.code == 0, done
    done = command("check", "-p", xml, "--mapping", mapping, "--beads", beads, "--model", "none",
                   "--temperature", 303)  # fmt: skip
    assert done.code == 0, done
    assert f"POP, 134 atoms in {12 + site} beads" in done.out and "not known" not in done.out
    resolved = load_mapping(mapping).resolve(read_topology(xml))
    centres = find_hands(resolved, load_mapping(mapping), None, like=pdb)
    told = find_hands(resolved, load_mapping(mapping), None)
    # what the mapping says is what the structure has
    assert (told.sides.side == 1).all() and (centres.sides.side == 1).all()
    known = told.hands.sign != 0
    assert known.sum() == 2 and (told.hands.sign[known] == centres.hands.sign[known]).all()
    given, atoms = positions(beads).positions.reshape(2, -1, 3), positions(pdb).positions
    masses, names = resolved.topology.molecule_types[0].masses, list(popc_bilayer.BEADS)
    atom_names = resolved.topology.molecule_types[0].atom_names
    phosphorus = [k for k, n in enumerate(atom_names) if n in ("P", "O11", "O12", "O13", "O14")]
    phosphorus += [k for k, n in enumerate(atom_names) if n in ("C11", "H11A", "H11B")]
    wanted = np.average(atoms[:134][phosphorus], axis=0, weights=masses[phosphorus])
    apart = given[0, names.index("PO4")] - wanted
    box = np.diag(positions(pdb).box)
    assert np.abs(apart - box * np.rint(apart / box)).max() < 1e-3

"""Topologies through OpenMM: the energies are those that OpenMM computes from the same System."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm as mm
import pytest
from openmm import app, unit

from deepbackmap.errors import InputError
from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.topology.openmm import Particles, particles_of, topology_of
from deepbackmap.system import Structure
from deepbackmap.system.sites import place_sites
from deepbackmap.system.topology import require_energies

HERE = Path(__file__).parent / "data"
FOREIGN = HERE / "foreign"
"""Made with ParmEd 4.3.1 from the tripeptides of ``tools/gromacs_peptides.py``."""
KJ = unit.kilojoule_per_mole
OPEN = np.zeros((3, 3))


def energy_of(system, positions):
    """OpenMM's, in open space and without a cut-off."""
    context = mm.Context(
        system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(positions)
    return context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(KJ)


def our_energies(topology, positions):
    field = ForceField.from_topology(topology, cutoff=60.0, reaction_field_epsilon=None)
    return field.energies_by_term(Structure(np.array(positions), OPEN))


def peptide():
    """Atoms of the tripeptide that the GROMACS tests use, and one water beside it."""
    lines = (HERE / "peptides" / "charmm27-tip3p.gro").read_text().splitlines()[2:]
    lines = [line.replace(" OT1", "   O").replace(" OT2", " OXT") for line in lines]
    rows = [line for line in lines if line[5:10].strip() in ("ALA", "TRP", "GLY")]
    text = "".join(
        f"ATOM  {k + 1:5d} {row[10:15].strip():<4s} {row[5:10].strip()} A{int(row[:5]):4d}    "
        + "".join(f"{10 * float(row[20 + 8 * i : 28 + 8 * i]):8.3f}" for i in range(3))
        + f"  1.00  0.00           {row[10:15].strip()[0]}\n"
        for k, row in enumerate(rows)
        if not row[10:15].strip().startswith("H")
    )
    return app.PDBFile(io.StringIO(text + "TER\nEND\n"))


def solvated(*files, model=None):
    start = peptide()
    force_field = app.ForceField(*files)
    made = app.Modeller(start.topology, start.positions)
    made.addHydrogens(force_field)
    if model:
        made.addSolvent(force_field, model=model, padding=0.35 * unit.nanometer)
    system = force_field.createSystem(
        made.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False
    )
    return made, system


@pytest.mark.parametrize(
    ("files", "model", "kinds"),
    [
        (("amber14-all.xml", "amber14/tip3p.xml"), "tip3p", {"bond", "angle", "proper"}),
        (("amber14-all.xml", "amber14/tip4pew.xml"), "tip4pew", {"bond", "proper"}),
        (("charmm36.xml", "charmm36/water.xml"), None, {"harmonic", "cmap", "improper", "lj14"}),
    ],
)
def test_force_fields_of_openmm(files, model, kinds):
    made, system = solvated(*files, model=model)
    positions = np.array(made.positions.value_in_unit(unit.nanometer))
    topology = topology_of(system, particles_of(made.topology), "system.xml")
    require_energies(topology)
    found = our_energies(topology, positions)
    assert sum(found.values()) == pytest.approx(energy_of(system, positions), rel=1e-7)
    assert kinds <= set(topology.molecule_types[0].terms)
    assert topology.n_atoms == system.getNumParticles()
    masses = [system.getParticleMass(k) / unit.dalton for k in range(topology.n_atoms)]
    assert topology.masses().tolist() == pytest.approx(masses)
    if model:  # waters are one type, however many there are
        waters = [m for m in topology.molecule_types if m.name == "HOH"]
        assert len(waters) == 1 and len(topology.blocks) <= 4
        assert waters[0].bonds.tolist() == [[0, 1], [0, 2]]
    if model == "tip4pew":
        moved = place_sites(positions, OPEN, topology)
        assert np.abs(moved - positions).max() < 2e-4  # another geometry of TIP4P
        assert waters[0].virtual.tolist() == [False, False, False, True]


def write(folder, made, system):
    (folder / "a.xml").write_text(mm.XmlSerializer.serialize(system))
    with (folder / "a.pdb").open("w") as file:
        app.PDBFile.writeFile(made.topology, made.positions, file, keepIds=True)


def test_a_system_is_read_beside_its_pdb(tmp_path):
    made, system = solvated("charmm36.xml", "charmm36/water.xml")
    write(tmp_path, made, system)
    topology = read_topology(tmp_path / "a.xml")
    positions = np.array(made.positions.value_in_unit(unit.nanometer))
    total = sum(our_energies(topology, positions).values())
    assert total == pytest.approx(energy_of(system, positions), rel=1e-7)
    names = [a.name for a in made.topology.atoms()]
    assert list(topology.molecule_types[0].atom_names) == names
    (tmp_path / "a.pdb").rename(tmp_path / "b.pdb")
    with pytest.raises(InputError, match=r"names of its atoms beside it \(a\.pdb or a\.cif"):
        read_topology(tmp_path / "a.xml")
    again = read_topology(tmp_path / "a.xml", names=tmp_path / "b.pdb")
    assert again.n_atoms == topology.n_atoms


def read_places(name):
    return np.loadtxt(FOREIGN / name)


def test_amber_topologies():
    x = read_places("peptide_amber.xyz")
    topology = read_topology(FOREIGN / "peptide.prmtop")
    made = app.AmberPrmtopFile(str(FOREIGN / "peptide.prmtop"))
    system = made.createSystem(nonbondedMethod=app.NoCutoff, rigidWater=False)
    for force in system.getForces():
        if isinstance(force, mm.PeriodicTorsionForce):
            for k in range(force.getNumTorsions()):  # this file has dihedrals of nothing
                *atoms, n, phase, constant = force.getTorsionParameters(k)
                force.setTorsionParameters(k, *atoms, max(n, 1), phase, constant)
    total = sum(our_energies(topology, x).values())
    assert total == pytest.approx(energy_of(system, x), rel=1e-7)
    assert topology.blocks == ((0, 1), (1, 3))
    assert topology.molecule_types[0].residue_names[0] == "ALA"
    assert len(topology.molecule_types[0].pairs.atoms) > 50


def test_charmm_topologies_with_and_without_parameters():
    x = read_places("peptide_charmm.xyz")
    files = [FOREIGN / "peptide.rtf", FOREIGN / "peptide.prm"]
    topology = read_topology(FOREIGN / "peptide.psf", parameters=files)
    psf = app.CharmmPsfFile(str(FOREIGN / "peptide.psf"))
    parameters = app.CharmmParameterSet(*map(str, files))
    system = psf.createSystem(parameters, nonbondedMethod=app.NoCutoff, rigidWater=False)
    found = our_energies(topology, x)
    assert sum(found.values()) == pytest.approx(energy_of(system, x), rel=1e-7)
    assert {"improper", "cmap"} <= set(topology.molecule_types[0].terms)
    bare = read_topology(FOREIGN / "peptide.psf")
    assert bare.masses().tolist() == pytest.approx(topology.masses().tolist())
    assert bare.charges().tolist() == pytest.approx(topology.charges().tolist())
    ours, theirs = bare.molecule_types[0], topology.molecule_types[0]
    assert ours.bonds.tolist() == theirs.bonds.tolist()
    with pytest.raises(InputError, match="expected CHARMM's parameter files"):
        require_energies(bare)


def test_what_is_not_converted_is_named():
    system = mm.System()
    nonbonded = mm.NonbondedForce()
    for _ in range(3):
        system.addParticle(12.0)
        nonbonded.addParticle(0.0, 0.3, 0.4)
    odd = mm.CustomBondForce("k*r^7")
    odd.addPerBondParameter("k")
    odd.addBond(0, 1, [1.0])
    odd.addBond(1, 2, [1.0])
    for force in (nonbonded, odd, mm.GBSAOBCForce(), mm.CMMotionRemover()):
        system.addForce(force)
    three = Particles(("A", "B", "C"), ("X",) * 3, (1, 1, 1), np.array([[0, 1], [1, 2]]))
    topology = topology_of(system, three, "some.xml")
    assert topology.molecule_types[0].atom_names == ("A", "B", "C")
    with pytest.raises(InputError) as raised:
        require_energies(topology)
    message = str(raised.value)
    assert "CustomBondForce (k*r^7) is not known (and 1 more such lines)" in message
    assert "GBSAOBCForce" in message and "CMMotion" not in message
    with pytest.raises(InputError, match="names of 3 particles, found 2"):
        topology_of(system, Particles(("A", "B"), ("X",) * 2, (1, 1), three.bonds[:1]), "some.xml")


def test_molecules_are_found_by_their_bonds_and_terms_between_them_kept():
    system = mm.System()
    nonbonded, bonds = mm.NonbondedForce(), mm.HarmonicBondForce()
    for k in range(9):
        system.addParticle(1.008 if k % 3 else 15.999)
        nonbonded.addParticle(0.4 if k % 3 else -0.8, 0.3, 0.5)
    for first in (0, 3, 6):
        for h in (1, 2):
            bonds.addBond(first, first + h, 0.1, 1000.0)
            nonbonded.addException(first, first + h, 0.0, 1.0, 0.0)
    bonds.addBond(0, 8, 0.5, 20.0)
    for force in (nonbonded, bonds):
        system.addForce(force)
    chemical = np.array([[k, k + h] for k in (0, 3, 6) for h in (1, 2)])
    particles = Particles(("O", "H1", "H2") * 3, ("W",) * 9, (4, 4, 4, 7, 7, 7, 9, 9, 9), chemical)
    topology = topology_of(system, particles, "water.xml")
    assert topology.blocks == ((0, 3),)
    assert topology.molecule_types[0].residue_numbers.tolist() == [1, 1, 1]
    assert topology.intermolecular["harmonic"].atoms.tolist() == [[0, 8]]
    x = np.random.default_rng(0).uniform(0, 1, (9, 3))
    assert sum(our_energies(topology, x).values()) == pytest.approx(energy_of(system, x), rel=1e-9)


def test_damaged_files_are_one_sentence(tmp_path):
    made, system = solvated("amber14-all.xml")
    write(tmp_path, made, system)
    text = (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"a\.xml: expected an OpenMM System, found"):
        read_topology(tmp_path / "a.xml")
    (tmp_path / "c.prmtop").write_text("%VERSION  VERSION_STAMP = V0001.000\n%FLAG TITLE\nx\n")
    with pytest.raises(InputError, match=r"c\.prmtop: expected an Amber topology, found"):
        read_topology(tmp_path / "c.prmtop")
    (tmp_path / "d.psf").write_text("PSF\n\n  2 !NTITLE\n")
    with pytest.raises(InputError, match=r"d\.psf: expected (a CHARMM|particles)"):
        read_topology(tmp_path / "d.psf")


@pytest.fixture(scope="module")
def in_water():
    return solvated("charmm36.xml", "charmm36/water.xml", model="tip3p")


@pytest.mark.parametrize("known", [(), ("HOH",), ("ALA", "GLY", "HOH")])
def test_bonds_that_a_pdb_lacks_are_those_of_springs(in_water, known):
    """Without CONECT only standard residues have bonds: springs are told from Urey-Bradley's."""
    made, system = in_water
    named = particles_of(made.topology)
    within = [all(named.residue_names[a] in known for a in pair) for pair in named.bonds.tolist()]
    fewer = replace(named, bonds=named.bonds[np.array(within)])
    assert len(fewer.bonds) < len(named.bonds)
    whole, found = (topology_of(system, p, "system.xml") for p in (named, fewer))
    assert [(m.name, m.n_atoms) for m in found.molecule_types] == [
        (m.name, m.n_atoms) for m in whole.molecule_types
    ]
    assert found.blocks == whole.blocks and not found.intermolecular
    peptide, wanted = found.molecule_types[0], whole.molecule_types[0]
    np.testing.assert_array_equal(peptide.bonds, wanted.bonds)
    for kind in ("bond", "harmonic"):
        np.testing.assert_array_equal(peptide.terms[kind].atoms, wanted.terms[kind].atoms)
    assert len(wanted.terms["harmonic"].atoms) > 20


def ring(ion):
    """Three atoms in a ring, each bond across the angle of the others, and an ion held to it."""
    system, springs, angles = mm.System(), mm.HarmonicBondForce(), mm.HarmonicAngleForce()
    for _ in range(3 + ion):
        system.addParticle(12.0)
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        springs.addBond(a, b, 0.15, 2e5)
        angles.addAngle(a, b, c, 1.05, 300.0)
    if ion:
        springs.addBond(0, 3, 0.5, 500.0)
    system.addForce(springs)
    system.addForce(angles)
    return system


def test_a_ring_of_three_is_bonds_and_a_spring_to_an_ion_is_none():
    names = Particles(("A", "B", "C", "I"), ("RNG",) * 3 + ("ION",), (1, 1, 1, 2),
                      np.array([[0, 1], [1, 2], [0, 2]]))  # fmt: skip
    known = topology_of(ring(True), names, "x.xml")
    assert [m.n_atoms for m in known.molecule_types] == [3, 1]
    assert known.intermolecular["harmonic"].atoms.tolist() == [[0, 3]]
    alone = Particles(("A", "B", "C"), ("RNG",) * 3, (1, 1, 1), np.zeros((0, 2), dtype=np.int64))
    (found,) = topology_of(ring(False), alone, "x.xml").molecule_types
    assert found.bonds.tolist() == [[0, 1], [0, 2], [1, 2]] and "harmonic" not in found.terms


def test_a_prmtop_that_was_cut_short_says_so(tmp_path):
    path = tmp_path / "x.prmtop"
    path.write_text((FOREIGN / "peptide.prmtop").read_text()[:3000])
    with pytest.raises(InputError, match=r"no 'RESIDUE_POINTER': has it been cut short\?"):
        read_topology(path)

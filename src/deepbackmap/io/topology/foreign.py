"""Files that are given as topologies and are something else, or not enough: the way in."""

from __future__ import annotations

import re

from deepbackmap.io.topology.base import TopologyFormat

_PAIRED = "give the topology that the simulation was run with (.top, prmtop, psf, System XML, data)"


def _begins(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, flags=re.MULTILINE)


def _format(name: str, suffixes: tuple[str, ...], pattern: str, advice: str) -> TopologyFormat:
    found = _begins(pattern)
    return TopologyFormat(name, suffixes, lambda head: bool(found.search(head)), None, advice)


FOREIGN: tuple[TopologyFormat, ...] = (
    _format(
        "a topology of GROMOS", (),
        r"\ATITLE\s*\n(.*\n)*?END\s*\n\s*(PHYSICALCONSTANTS|TOPVERSION)",
        "ATB and 'top2top' give the same as a GROMACS .top",
    ),
    _format(
        "a GROMOS structure (g96), which holds no force field", (".g96", ".cnf"),
        r"\ATITLE\s*\n(.*\n)*?END\s*\n\s*(TIMESTEP|POSITION|BOX|GENBOX)", _PAIRED,
    ),
    _format(
        "parameters or residues of Amber", (".frcmod", ".lib", ".off", ".prepi"),
        r"^!!index array str|\A[^\n]*\nMASS\s*$",
        "give the prmtop that tleap makes with them (saveamberparm)",
    ),
    _format(
        "a system of moltemplate", (".lt",), r"^\s*write(_once)?\s*\(\s*[\"']",
        "give the input script that moltemplate.sh wrote (system.in), beside its data file",
    ),
    _format(
        "a restart file of LAMMPS", (".restart",), r"\ALammpS RestartT",
        "let LAMMPS write a data file of it: lmp -restart2data FILE system.data",
    ),
    _format(
        "a FIELD file of DL_POLY", (),
        r"^\s*(?i:molecular types|molecules)\s+\d+\s*\n(.*\n)*?\s*(?i:nummols)",
        "write it as GROMACS or LAMMPS have it (InterMol, DL_FIELD)",
    ),
    _format(
        "parameters of a run", (".mdp",), r"^\s*(integrator|nsteps|cutoff-scheme|coulombtype)\s*=",
        "give the topology that it is run with (topol.top)",
    ),
    _format(
        "a mapping", (".yaml", ".yml"), r"^residues\s*:",
        "give it with --mapping, and here the topology of the atoms",
    ),
    _format(
        "a trajectory, which holds no force field",
        (".xtc", ".trr", ".dcd", ".gsd", ".lammpstrj", ".dump", ".nc", ".h5md", ".tng"),
        r"\AITEM: TIMESTEP", _PAIRED,
    ),
    _format(
        "a PDB structure, which holds no force field", (".pdb", ".ent"),
        r"\A(HEADER|TITLE\s+\w|REMARK|CRYST1|MODEL|ATOM|HETATM|COMPND)\b",
        f"{_PAIRED}; 'gmx pdb2gmx' or OpenMM's ForceField make one",
    ),
    _format(
        "a .gro structure, which holds no force field", (".gro",),
        r"\A[^\n]*\n\s*\d+\s*\n\s*\d+\w+\s+\w+\s+\d+\s+-?\d+\.\d+", _PAIRED,
    ),
    _format(
        "an mmCIF structure, which holds no force field", (".cif", ".mmcif", ".pdbx"),
        r"\Adata_\S*\s", _PAIRED,
    ),
    _format(
        "a Tripos mol2 file", (".mol2",), r"@<TRIPOS>MOLECULE",
        "acpype (Amber's GAFF), CGenFF or LigParGen make a topology from it",
    ),
    _format(
        "a molecule without force field", (".sdf", ".mol", ".smi"), r"V[23]000\s*$",
        "OpenFF's Interchange makes a topology from it (to_top, to_openmm)",
    ),
    _format(
        "a force field of OpenMM", (), r"<ForceField\b",
        "that has parameters only: give the System made with it "
        "(XmlSerializer.serialize(forcefield.createSystem(...))) beside the .pdb",
    ),
    _format(
        "a state of OpenMM", (), r"<State\b",
        "that has positions only: give the System (XmlSerializer.serialize(system))",
    ),
    _format(
        "residues or parameters of CHARMM", (".rtf", ".prm", ".str"),
        r"^(RESI\s|MASS\s|BONDS\s*$|ATOMS\s*$|read\s+(rtf|para))",
        "give the psf as topology, and this file with --parameters",
    ),
    _format(
        "coordinates of Amber", (".inpcrd", ".rst7", ".crd"),
        r"\A[^\n]*\n\s*\d+(\s+\S+)?\s*\n(\s*-?\d+\.\d{7}){6}",
        "give the .prmtop that belongs to it",
    ),
    _format(
        "an Interchange of OpenFF", (".json",), r"\A\s*\{",
        "write it as GROMACS has it: interchange.to_top('system.top')",
    ),
)  # fmt: skip
"""Recognised and not read."""

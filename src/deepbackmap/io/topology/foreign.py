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
        "a PDB structure, which holds no force field", (".pdb", ".ent"),
        r"\A(HEADER|TITLE|REMARK|CRYST1|MODEL|ATOM|HETATM|COMPND)\b",
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

"""Prints what atoms of a lipid bilayer are worth that are made without a model.

    python tools/popc_bilayer.py FOLDER
    python tools/popc_bilayer.py FOLDER --lipids 32

The bilayer is OpenMM's own (128 POPC, equilibrated in water, which is taken away), its topology
that of OpenMM's CHARMM36 as a System. The beads are the twelve of Martini 3 and, on request, a
virtual site of the coarse-grained model between both linkers. Atoms are mapped, checked, put back
and compared with those that they were made from; with ``--lipids`` so many of one corner, whose
edges then are not those of a bilayer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from deepbackmap.io.topology import read_topology

FORCE_FIELD = "charmm36.xml"
BEADS = {
    # heavy atoms of each bead; hydrogens go with what they are bonded to
    "NC3": ("N", "C12", "C13", "C14", "C15"),
    "PO4": ("P", "O11", "O12", "O13", "O14", "C11"),
    "GL1": ("C1", "C2", "O21", "C21", "O22"),
    "GL2": ("C3", "O31", "C31", "O32"),
    "C1A": ("C22", "C23", "C24", "C25"),
    "D2A": ("C26", "C27", "C28", "C29", "C210"),
    "C3A": ("C211", "C212", "C213", "C214"),
    "C4A": ("C215", "C216", "C217", "C218"),
    "C1B": ("C32", "C33", "C34", "C35"),
    "C2B": ("C36", "C37", "C38", "C39"),
    "C3B": ("C310", "C311", "C312", "C313"),
    "C4B": ("C314", "C315", "C316"),
}
COMMANDS = (
    "map popc.pdb -o popc_cg.gro --force",
    "check --beads popc_cg.gro --model none --temperature 303",
    "backmap popc_cg.gro --model none --temperature 303 -o popc_made.gro --keep-defects --force",
    "evaluate --reference popc.pdb --generated none=popc_made.gro --beads popc_cg.gro --no-map "
    "-o evaluated --force",
)
"""What is shown; topology and mapping follow each."""
SITE, SITE_ATOMS = "VGL", ("C2", "HS")
"""The virtual site: the mean of both linkers; it puts back these atoms."""


def write_bilayer(folder: Path, lipids: int | None = None) -> tuple[Path, Path]:
    """A System and a structure of OpenMM's bilayer without water.

    Args:
        folder: to write to.
        lipids: how many, the nearest to one corner; None: all.

    Returns:
        The System's XML and the PDB file.
    """
    found = app.PDBFile(str(Path(app.__file__).parent / "data" / "POPC.pdb"))
    model = app.Modeller(found.topology, found.positions)
    places = np.array(model.positions.value_in_unit(unit.nanometer))
    residues = list(model.topology.residues())
    names = [r.name for r in residues]
    kept = [k for k, name in enumerate(names) if name == "POP"]
    if lipids is not None:
        heads = np.array([places[next(residues[k].atoms()).index][:2] for k in kept])
        kept = [kept[k] for k in np.argsort(np.abs(heads).max(axis=1))[:lipids]]
    model.delete([r for k, r in enumerate(residues) if k not in set(kept)])
    system = app.ForceField(FORCE_FIELD).createSystem(
        model.topology, nonbondedMethod=app.CutoffPeriodic,
        nonbondedCutoff=1.0 * unit.nanometer, constraints=None,
    )  # fmt: skip
    xml, pdb = folder / "popc.xml", folder / "popc.pdb"
    xml.write_text(openmm.XmlSerializer.serialize(system))
    with pdb.open("w") as file:
        app.PDBFile.writeFile(model.topology, model.positions, file)
    return xml, pdb


def write_mapping(path: Path, topology: Path, structure: Path, *, site: bool) -> Path:
    """The beads of Martini 3, hands and sides of POPC."""
    lipid = read_topology(topology, names=structure).molecule_types[0]
    near = {a: b for i, j in lipid.bonds.tolist() for a, b in ((i, j), (j, i))}
    owner = {name: bead for bead, named in BEADS.items() for name in named}
    owned: dict[str, list[str]] = {bead: [] for bead in BEADS}
    for k, name in enumerate(lipid.atom_names):
        owned[owner.get(name) or owner[lipid.atom_names[near[k]]]].append(name)
    lines = ["weights: mass", "residues:", "  POP:", "    beads:"]
    for bead, names in owned.items():
        left = [n for n in names if not (site and n in SITE_ATOMS)]
        lines.append(f"      - {{name: {bead}, type: {bead}, atoms: [{', '.join(names)}], "
                     f"owns: [{', '.join(left)}]}}")  # fmt: skip
    if site:
        both = ", ".join(owned["GL1"] + owned["GL2"])
        lines.append(f"      - {{name: {SITE}, type: {SITE}, atoms: [{both}], "
                     f"owns: [{', '.join(SITE_ATOMS)}]}}")  # fmt: skip
    lines += ["stereo:", "  - molecules: POP", "    centres: {C2: R}",
              "    double_bonds: {C29=C210: cis}"]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    """Maps, checks, puts back and compares, by the commands that a user would give."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lipids", type=int)
    parser.add_argument("--site", action="store_true", help="with a virtual site among the beads")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    topology, structure = write_bilayer(options.folder, options.lipids)
    write_mapping(options.folder / "popc.yaml", topology, structure, site=options.site)
    for words in COMMANDS:
        print(f"$ deepbackmap {words}", flush=True)
        code = (
            "import sys; from deepbackmap.cli.main import run; sys.argv[0] = 'deepbackmap'; run()"
        )
        given = [*words.split(), "-p", "popc.xml", "--mapping", "popc.yaml"]
        subprocess.run([sys.executable, "-c", code, *given], cwd=options.folder, check=True)


if __name__ == "__main__":
    main()

"""Make anew GROMACS' energies of a tripeptide in water with GROMACS' own force fields.

    python tools/gromacs_peptides.py [--gmx gmx_d]

Writes ``tests/data/peptides/`` (for each force field and water model what ``pdb2gmx`` and
``solvate`` make of a small Ala-Trp-Gly, and energies by GROMACS' own names in kJ/mol). The force
fields themselves stay where GROMACS keeps them. Needs GROMACS in double precision.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import tempfile
from pathlib import Path

import numpy as np

from gromacs_reference import NOTES, RUN, TESTS, Gromacs

FOLDER = TESTS / "peptides"
CASES = (
    ("charmm27", "tip3p"),
    ("oplsaa", "tip4p"),
    ("amber99sb-ildn", "tip3p"),
    ("amber99sb-ildn", "tip4p"),
    ("gromos54a7", "spc"),
)
"""Force field and water model; GROMOS goes with SPC, whose topology is that of TIP3P."""

BACKBONE = {
    # atom: (bonded to, angle with, dihedral with, length / nm, angle, dihedral)
    "N": ("C", "CA", "N", 0.133, 116.0, 150.0),
    "CA": ("N", "C", "CA", 0.146, 122.0, 180.0),
    "C": ("CA", "N", "C", 0.152, 111.0, -70.0),
    "O": ("C", "CA", "N", 0.123, 120.5, -30.0),
    "CB": ("CA", "C", "N", 0.153, 110.0, -122.0),
}
SIDE = [
    # tryptophan: atom, three atoms before it, length / nm, angle, dihedral
    ("CG", "CB", "CA", "N", 0.150, 113.5, -65.0),
    ("CD1", "CG", "CB", "CA", 0.136, 127.0, 95.0),
    ("CD2", "CG", "CB", "CA", 0.143, 126.5, -85.0),
    ("NE1", "CD1", "CG", "CB", 0.137, 110.0, 180.0),
    ("CE2", "CD2", "CG", "CB", 0.141, 107.0, 180.0),
    ("CE3", "CD2", "CG", "CB", 0.140, 134.0, 0.0),
    ("CZ2", "CE2", "CD2", "CG", 0.139, 122.0, 180.0),
    ("CZ3", "CE3", "CD2", "CG", 0.138, 118.5, 180.0),
    ("CH2", "CZ2", "CE2", "CD2", 0.137, 117.5, 0.0),
]


def main() -> None:
    """Write topologies, coordinates and energies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gmx", default="gmx_d")
    options = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    record: dict[str, object] = {"settings": RUN, "notes": NOTES, "energies": {}}
    for force_field, water in CASES:
        with tempfile.TemporaryDirectory() as folder:
            gromacs = Gromacs(options.gmx, Path(folder))
            record["program"] = gromacs.version()
            name = f"{force_field}-{water}"
            record["energies"][name] = _case(gromacs, force_field, water, name)
    (FOLDER / "energies.json").write_text(json.dumps(record, indent=1) + "\n")


def _case(gromacs: Gromacs, force_field: str, water: str, name: str) -> dict[str, float]:
    (gromacs.folder / "start.pdb").write_text(_peptide())
    made = ("-o", "dry.gro", "-p", "topol.top", "-i", "posre.itp")
    gromacs("pdb2gmx", "-f", "start.pdb", "-ff", force_field, "-water", water, "-ignh", *made)
    gromacs("editconf", "-f", "dry.gro", "-o", "box.gro", "-box", "2.3", "-c")
    solvent = "tip4p.gro" if water == "tip4p" else "spc216.gro"
    gromacs("solvate", "-cp", "box.gro", "-cs", solvent, "-p", "topol.top", "-o", "wet.gro")
    top = gromacs.folder / "topol.top"
    text = "\n".join(line for line in top.read_text().splitlines() if not line.startswith(";"))
    top.write_text(
        f"; Made by tools/gromacs_peptides.py with gmx pdb2gmx and gmx solvate.\n{text}\n"
    )
    (gromacs.folder / "run.mdp").write_text("".join(f"{k} = {v}\n" for k, v in RUN.items()))
    gromacs("grompp", "-f", "run.mdp", "-c", "wet.gro", "-p", "topol.top", "-maxwarn", "9")
    # the sites of TIP4P stand where GROMACS puts them, as a plain conversion has them
    gromacs("mdrun", "-s", "topol.tpr", "-nt", "1", "-rerun", "wet.gro", "-e", "rerun.edr")
    dump = gromacs("dump", "-e", "rerun.edr")
    names = re.findall(r"^ +\d+  (\S.*?) +\(kJ/mol\)$", dump, flags=re.MULTILINE)
    chosen = "\n".join(str(i + 1) for i in range(len(names))) + "\n\n"
    gromacs("energy", "-f", "rerun.edr", "-dp", "-o", "energy.xvg", answer=chosen)
    row = np.loadtxt(gromacs.folder / "energy.xvg", comments=("#", "@"), ndmin=2)[0]
    (FOLDER / f"{name}.top").write_text(top.read_text())
    (FOLDER / f"{name}.gro").write_text((gromacs.folder / "wet.gro").read_text())
    (FOLDER / "posre.itp").write_text((gromacs.folder / "posre.itp").read_text())
    return dict(zip(names, map(float, row[1:]), strict=True))


def _peptide() -> str:
    """Ala-Trp-Gly without hydrogens, atom after atom from lengths, angles and dihedrals."""
    rows: list[tuple[str, str, int, np.ndarray]] = []
    before: dict[str, np.ndarray] = {}
    for number, residue in enumerate(("ALA", "TRP", "GLY"), start=1):
        atoms: dict[str, np.ndarray] = {}
        for name in ("N", "CA", "C", "O", "CB"):
            if name == "CB" and residue == "GLY":
                continue
            if not before and name in ("N", "CA", "C"):
                start = {"N": (0.0, 0.0, 0.0), "CA": (0.146, 0.0, 0.0), "C": (0.2, 0.142, 0.0)}
                atoms[name] = np.array(start[name])
                continue
            one, two, three, length, angle, dihedral = BACKBONE[name]
            a, b, c = _before(name, one, two, three, atoms, before)
            atoms[name] = _place(a, b, c, length, angle, dihedral)
        if residue == "TRP":
            for name, one, two, three, length, angle, dihedral in SIDE:
                atoms[name] = _place(atoms[one], atoms[two], atoms[three], length, angle, dihedral)
        if number == 3:
            atoms["OXT"] = _place(atoms["C"], atoms["CA"], atoms["N"], 0.125, 117.0, 150.0)
        rows += [(name, residue, number, xyz) for name, xyz in atoms.items()]
        before = atoms
    lines = [
        f"ATOM  {k + 1:5d}  {name:<3s} {residue} A{number:4d}    "
        + "".join(f"{10 * x:8.3f}" for x in xyz)
        + "  1.00  0.00"
        for k, (name, residue, number, xyz) in enumerate(rows)
    ]
    return "\n".join([*lines, "TER", "END", ""])


def _before(
    name: str,
    one: str,
    two: str,
    three: str,
    atoms: dict[str, np.ndarray],
    before: dict[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three atoms that an atom of the backbone is placed from, some in the residue before."""
    if name == "N":
        return before["C"], before["CA"], before["N"]
    if name == "CA":
        return atoms["N"], before["C"], before["CA"]
    if name == "C":
        return atoms["CA"], atoms["N"], before["C"]
    return atoms[one], atoms[two], atoms[three]


def _place(
    one: np.ndarray,
    two: np.ndarray,
    three: np.ndarray,
    length: float,
    angle: float,
    dihedral: float,
) -> np.ndarray:
    """An atom bonded to ``one`` with an angle with ``two`` and a dihedral with ``three``."""
    theta, phi = math.radians(angle), math.radians(dihedral)
    along = (two - one) / np.linalg.norm(two - one)
    normal = np.cross(three - two, along)
    normal /= np.linalg.norm(normal)
    across = np.cross(along, normal)
    out = np.cos(phi) * across - np.sin(phi) * normal
    return one + length * (math.cos(theta) * along + math.sin(theta) * out)


if __name__ == "__main__":
    main()

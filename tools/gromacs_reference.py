"""Make anew the energies of GROMACS that the tests compare with.

    python tools/gromacs_reference.py [--data FOLDER] [--gmx gmx_d]

Writes ``tests/data/mixed/`` (a small system with our own numbers that uses what the reference
box does not) and ``tests/data/gromacs_energies.json`` (energies by GROMACS' own names in
kJ/mol). Needs GROMACS, in double precision where it can be had, and the reference data.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1] / "tests" / "data"

RUN = {
    "integrator": "md",
    "nsteps": "0",
    "nstlist": "1",
    "nstenergy": "1",
    "nstcalcenergy": "1",
    "cutoff-scheme": "verlet",
    "verlet-buffer-tolerance": "-1",  # the list is made anew for each frame: no buffer needed
    "rlist": "1.0",
    "coulombtype": "reaction-field",
    "coulomb-modifier": "none",
    "rcoulomb": "1.0",
    "epsilon-rf": "2.5",
    "epsilon-r": "1",
    "vdwtype": "cut-off",
    "vdw-modifier": "none",
    "rvdw": "1.0",
    "DispCorr": "no",
    "constraints": "none",
    "continuation": "yes",
}
"""Run parameters: plain cut-off at 1.0 nm, reaction field, every bond a spring."""

NOTES = (
    "Energies in kJ/mol. Coulomb (SR) counts q q (1/r + k r^2 - c) of pairs that are not "
    "excluded, q q (k r^2 - c) of excluded pairs, both within the cut-off, and -c/2 q^2 of every "
    "charge. Molecules were made whole first, which moves atoms by box vectors only. Per. Imp. "
    "Dih. are dihedrals of type 4, Improper Dih. of type 2, Proper Dih. of types 1 and 9."
)


@dataclass(frozen=True)
class Case:
    """Frames of one system to evaluate."""

    system: str
    topology: Path
    structure: Path
    trajectory: Path
    trajectory_name: str
    frames: tuple[int, ...]
    defines: tuple[str, ...] = ()


class Gromacs:
    """The GROMACS program, run in a folder of its own."""

    def __init__(self, program: str, folder: Path) -> None:
        """Remember which program to run and where."""
        self.program = program
        self.folder = folder

    def __call__(self, *arguments: str | Path, answer: str = "") -> str:
        """Run one tool and return what it printed; its failure is ours."""
        done = subprocess.run(
            [self.program, "-quiet", *map(str, arguments)],
            cwd=self.folder,
            input=answer,
            capture_output=True,
            text=True,
            env={**os.environ, "GMX_MAXBACKUP": "-1"},
        )
        if done.returncode != 0:
            raise SystemExit(f"{self.program} {arguments[0]} failed:\n{done.stderr[-3000:]}")
        return done.stdout

    def version(self) -> str:
        """Version and precision, for the record."""
        lines = self("--version").splitlines()
        kept = [line.split(":", 1)[1].strip() for line in lines if line.startswith("GROMACS vers")]
        kept += [line.split(":", 1)[1].strip() for line in lines if line.startswith("Precision")]
        return f"{self.program} " + ", ".join(kept)


def energies(gromacs: Gromacs, case: Case) -> list[dict[str, float]]:
    """Energies by term of every frame of the trajectory of a case."""
    settings = dict(RUN)
    if case.defines:
        settings["define"] = " ".join(f"-D{name}" for name in case.defines)
    mdp = "".join(f"{key} = {value}\n" for key, value in settings.items())
    (gromacs.folder / "run.mdp").write_text(mdp)
    # one warning is meant: the mixed system defines a type twice
    inputs = ("-f", "run.mdp", "-c", case.structure, "-p", case.topology)
    gromacs("grompp", *inputs, "-maxwarn", "1")
    whole = ("-s", "topol.tpr", "-pbc", "whole", "-o", "whole.trr")
    gromacs("trjconv", "-f", case.trajectory, *whole, answer="0\n")
    gromacs("mdrun", "-s", "topol.tpr", "-rerun", "whole.trr", "-nt", "1", "-e", "rerun.edr")
    dump = gromacs("dump", "-e", "rerun.edr")
    names = re.findall(r"^ +\d+  (\S.*?) +\(kJ/mol\)$", dump, flags=re.MULTILINE)
    chosen = "\n".join(str(i + 1) for i in range(len(names))) + "\n\n"
    gromacs("energy", "-f", "rerun.edr", "-dp", "-o", "energy.xvg", answer=chosen)
    rows = np.loadtxt(gromacs.folder / "energy.xvg", comments=("#", "@"), ndmin=2)
    if rows.shape[1] != len(names) + 1:
        raise SystemExit(f"expected {len(names)} terms from gmx energy, found {rows.shape[1] - 1}")
    return [dict(zip(names, map(float, row[1:]), strict=True)) for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the mixed system and the energies of all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("DEEPBACKMAP_DATA", TESTS.parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default), help="reference data")
    parser.add_argument("--gmx", default="gmx_d" if shutil.which("gmx_d") else "gmx")
    options = parser.parse_args(arguments)
    write_mixed(TESTS / "mixed")
    with tempfile.TemporaryDirectory() as folder:
        gromacs = Gromacs(options.gmx, Path(folder))
        frames = []
        for case in cases(options.data.resolve()):
            found = energies(gromacs, case)
            frames += [
                {
                    "system": case.system,
                    "topology": f"{case.system}/{case.topology.name}",
                    "defines": list(case.defines),
                    "trajectory": case.trajectory_name,
                    "frame": frame,
                    "energies": found[frame],
                }
                for frame in case.frames
            ]
        record = {"program": gromacs.version(), "settings": RUN, "notes": NOTES, "frames": frames}
    TESTS.joinpath("gromacs_energies.json").write_text(json.dumps(record, indent=1) + "\n")


def cases(data: Path) -> list[Case]:
    """All frames of the record: the reference box, and the mixed system by combination rule."""
    sps, mixed = data / "sps", TESTS / "mixed"
    if not (sps / "topol.top").is_file():
        raise SystemExit(f"expected the reference data in {sps}, found none (see --data)")
    names = {"train_568K_aa.xtc": (0, 7), "test_313K_aa.xtc": (0, 20)}
    found = [
        Case("sps", sps / "topol.top", sps / "aa.gro", sps / name, f"sps/{name}", frames)
        for name, frames in names.items()
    ]
    top, gro = mixed / "mixed.top", mixed / "mixed.gro"
    for defines in ((), ("RULE1",), ("RULE2",)):
        found.append(Case("mixed", top, gro, gro, "mixed/mixed.gro", (0,), defines))
    return found


# ---------------------------------------------------------------------------------------------
# The mixed system

TYPES = {
    # name: (bonded type, atomic number, mass, charge, sigma, epsilon)
    "ca": ("CX", 6, 12.011, 0.10, 0.340, 0.360),
    "cb": ("CX", 6, 12.011, 0.00, 0.355, 0.290),
    "oa": ("OX", 8, 15.999, -0.40, 0.300, 0.710),
    "ha": ("HX", 1, 1.008, 0.06, 0.250, 0.125),
    "ow": ("OW", 8, 15.999, -0.80, 0.316, 0.650),
    "hw": ("HW", 1, 1.008, 0.40, 0.100, 0.050),
}

BRANCH = (("ca", "cb", "ca", "oa", "ha", "ha", "ha", "ha", "oa", "ha"), (0, 1, 2, 3, 0, 0, 1, 2, 8))
"""Types, and the atom that each atom after the first is bonded to."""

HEADER = """\
; A made-up system: every number is ours, none belongs to a published force field.
; Made by tools/gromacs_reference.py.
#ifdef RULE1
[ defaults ]
1 1 yes 0.5 0.8333
#else
#ifdef RULE2
[ defaults ]
1 2 yes 0.5 0.8333
#else
[ Defaults ]
; nbfunc  comb-rule  gen-pairs  fudgeLJ  fudgeQQ
1 3 yes 0.5 0.8333
#endif
#endif

[ atomtypes ]
"""

BONDED_TYPES = """\
[ bondtypes ]
CX CX 1 0.153 250000
CX OX 1 0.142 270000
HX CX 1 0.109 284512 0.109 284512 ; states A and B
OX HX 1 0.096 3.0e5
OX CX 1 0.141 268000 ; the later line counts

[ constrainttypes ]
CX CX 1 0.152
CX CX 2 0.250

[ angletypes ]
CX CX CX 1 112.7 488.3
CX CX HX 1 110.7 313.8
OX CX CX 1 109.5 418.4 \\
; a continued line

HX CX HX 1 107.8 276.1
HX CX OX 1 109.5 292.9
CX OX HX 1 108.5 460.2
CX OX HX 2 108.5 400.0
CX OX CX 1 109.5 502.1
OX CX OX 1 111.5 774.9

[ dihedraltypes ]
X  CX CX X  9   0.0  0.65 3
X  CX CX X  9 180.0  0.30 1
OX CX CX X  9  10.0  1.10 2
OX CX CX HX 9   0.0  0.97 3
OX CX CX HX 9   0.0 -1.02 2
OX CX CX HX 9 180.0  0.33 1
CX OX 3 0.70 2.10 0.40 -3.20 0.05 -0.01
CX HX 2 35.3 167.4
X  X  OX HX 1   0.0  0.20 3

#define stiff_plane 180.0 4.20 2
#define gentle      5.0 0.8 3
"""

CHAIN = """\
[ moleculetype ]
chain 2

[ atoms ]
1 ca 1 CHN C1 1  0.25 15.0
2 ca 1 CHN C2 1 -0.25
3 cb 2 CHN C3 2
4 cb 2 CHN C4 2 -0.10 14.0
5 oa 2 CHN O5 2 -0.30 16.0

[ bonds ]
1 2
2 3 1 0.15 3.1e5
4 5 1

[ constraints ]
3 4 1
1 3 2

[ angles ]
1 2 3
2 3 4 1 111.0 520.0
3 4 5 1

[ dihedrals ]
1 2 3 4 1 gentle
2 3 4 5 9

[ exclusions ]
1 5 4
"""

WATER = """\
; included by mixed.top
[ moleculetype ]
water 2

[ atoms ]
1 ow 1 WAT OW 1
2 hw 1 WAT H1 1
3 hw 1 WAT H2 1

#ifndef FLEXIBLE
[ settles ]
1 1 0.10 0.1633
[ exclusions ]
1 2 3
2 1 3
3 1 2
#else
[ bonds ]
1 2 1 0.10 345000
1 3 1 0.10 345000
[ angles ]
2 1 3 1 109.47 383
#endif

; not in the system, so nothing asks for what it means
[ moleculetype ]
unused 3
[ atoms ]
1 ow 1 FOU OW 1
2 hw 1 FOU H1 1
3 hw 1 FOU M 1
[ bonds ]
1 2 1 0.1 345000
[ virtual_sites2 ]
3 1 2 1 0.1
"""

FOOTER = """\
#ifdef POSRES
#include "absent.itp"
#endif

#include "water.itp"

[ system ]
Mixed molecules

[ molecules ]
branch 5
chain 3
water 12
chain 2
branch 1
"""


def write_mixed(folder: Path) -> None:
    """Write ``mixed.top``, ``water.itp`` and ``mixed.gro``."""
    folder.mkdir(parents=True, exist_ok=True)
    text = HEADER + _nonbonded_sections() + BONDED_TYPES + _branch() + CHAIN + FOOTER
    (folder / "mixed.top").write_text(text)
    (folder / "water.itp").write_text(WATER)
    (folder / "mixed.gro").write_text(_coordinates())


def _nonbonded_sections() -> str:
    """Atom types (two forms of the line), overridden pairs, 1-4 pairs; as C6, C12 for rule 1."""
    atoms: dict[bool, list[str]] = {True: [], False: []}
    for as_c6, lines in atoms.items():
        for name, (bonded, z, mass, charge, sigma, epsilon) in TYPES.items():
            v, w = _form(sigma, epsilon, as_c6)
            element = "" if name == "cb" else z
            lines.append(f"{name} {bonded} {element} {mass} {charge} A {v:.8g} {w:.8g}")
    special = {
        as_c6: [
            "[ nonbond_params ]",
            "ca oa 1 {:.8g} {:.8g}".format(*_form(0.31, 0.45, as_c6)),
            "ow ha 1 {:.8g} {:.8g}".format(*_form(0.27, 0.40, as_c6)),
            "[ pairtypes ]",
            "ha ca 1 {:.8g} {:.8g}".format(*_form(0.28, 0.11, as_c6)),
            "#define pair_oh {:.8g} {:.8g}".format(*_form(0.26, 0.15, as_c6)),
        ]
        for as_c6 in (True, False)
    }
    first, second = ("\n".join(atoms[key] + special[key]) for key in (True, False))
    return f"#ifdef RULE1\n{first}\n#else\n{second}\n#endif\n\n"


def _form(sigma: float, epsilon: float, as_c6: bool) -> tuple[float, float]:
    return (4 * epsilon * sigma**6, 4 * epsilon * sigma**12) if as_c6 else (sigma, epsilon)


def _branch() -> str:
    """A branched molecule with all its angles, dihedrals and 1-4 pairs, in several functions."""
    types, parents = BRANCH
    n = len(types)
    bonds = [(p, i + 1) for i, p in enumerate(parents)]
    near = [
        sorted({b for a, b in bonds if a == i} | {a for a, b in bonds if b == i}) for i in range(n)
    ]
    angles = [(i, j, k) for j in range(n) for i in near[j] for k in near[j] if i < k]
    torsions = [
        (i, j, k, m)
        for j, k in bonds
        for i in near[j]
        for m in near[k]
        if k != i and m not in (j, i)
    ]
    atoms = "\n".join(
        f"{i + 1} {t} {1 + i // 5} BR{1 + i // 5} {t[0].upper()}{i + 1} {i + 1}"
        for i, t in enumerate(types)
    )
    lines = ["[ moleculetype ]", "branch 3", "", "[ atoms ]", atoms, "", "[ bonds ]"]
    lines += [_numbers(b) + " 1" for b in bonds]
    lines += ["", "[ pairs ]"]
    for i, _, _, m in torsions:
        inline = " pair_oh" if {types[i], types[m]} == {"oa", "ha"} else ""
        lines.append(_numbers((i, m)) + " 1" + inline)
    lines += ["", "[ angles ]"]
    bonded = [TYPES[t][0] for t in types]
    for i, j, k in angles:
        g96 = sorted((bonded[i], bonded[k])) == ["CX", "HX"] and bonded[j] == "OX"
        lines.append(_numbers((i, j, k)) + (" 2" if g96 else " 1"))
    lines += ["", "[ dihedrals ]"]
    for torsion in torsions:
        inner = {bonded[torsion[1]], bonded[torsion[2]]}
        lines.append(_numbers(torsion) + (" 9" if inner == {"CX"} else " 3"))
    lines += ["", "[ dihedrals ] ; impropers", "1 2 5 6 2", "2 1 3 7 4 stiff_plane"]
    lines += ["3 2 9 4 2 -30.0 120.5", "2 3 4 5 4 0.0 0.7 3", "1 2 3 4 1 30.0 1.5 2 30.0 1.5 2"]
    return "\n".join(lines) + "\n\n"


def _numbers(atoms: Sequence[int]) -> str:
    return " ".join(str(a + 1) for a in atoms)


def _coordinates() -> str:
    """Molecules grown at random and put into a triclinic box without overlaps, as ``.gro``."""
    rng = np.random.default_rng(20)
    box = np.array([[2.5, 0.0, 0.0], [0.5, 2.4, 0.0], [-0.4, 0.6, 2.3]])
    water = (("ow", "hw", "hw"), (0, 0))
    chain = (("ca", "ca", "cb", "cb", "oa"), (0, 1, 2, 3))
    branch_names = [(f"{t[0].upper()}{i + 1}", f"BR{1 + i // 5}") for i, t in enumerate(BRANCH[0])]
    chain_names = [(f"{t[0].upper()}{i + 1}", "CHN") for i, t in enumerate(chain[0])]
    water_names = [("OW", "WAT"), ("H1", "WAT"), ("H2", "WAT")]
    kinds = {
        "b": (BRANCH, branch_names),
        "c": (chain, chain_names),
        "w": (water, water_names),
    }
    placed = np.zeros((0, 3))
    rows: list[tuple[str, str]] = []
    for letter in "bbbbbccc" + "w" * 12 + "ccb":
        (types, parents), names = kinds[letter]
        placed = np.concatenate([placed, _place(rng, _grow(rng, types, parents), placed, box)])
        rows += names
    lines = ["Mixed molecules", str(len(rows))]
    for i, ((name, residue), xyz) in enumerate(zip(rows, placed, strict=True)):
        lines.append(f"{1:5d}{residue:<5}{name:>5}{i + 1:5d}" + "".join(f"{x:8.3f}" for x in xyz))
    vectors = [box[0, 0], box[1, 1], box[2, 2], 0, 0, box[1, 0], 0, box[2, 0], box[2, 1]]
    return "\n".join(lines) + "\n" + " ".join(f"{v:.5f}" for v in vectors) + "\n"


def _grow(rng: np.random.Generator, types: Sequence[str], parents: Sequence[int]) -> np.ndarray:
    """One conformation: bonds of about the right length, nothing else closer than 0.15 nm."""
    while True:
        xyz = np.zeros((1, 3))
        for i, parent in enumerate(parents):
            step = rng.normal(size=3)
            length = 0.105 if types[i + 1][0] == "h" else 0.148
            new = xyz[parent] + step / np.linalg.norm(step) * (length + rng.normal() * 0.004)
            others = np.delete(xyz, parent, axis=0)
            if len(others) and np.linalg.norm(others - new, axis=1).min() < 0.15:
                break
            xyz = np.concatenate([xyz, new[None]])
        else:
            return xyz


def _place(
    rng: np.random.Generator, molecule: np.ndarray, placed: np.ndarray, box: np.ndarray
) -> np.ndarray:
    """Move a molecule to where no other atom is closer than 0.2 nm in the periodic box."""
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3) @ box
    while True:
        moved = molecule + rng.uniform(size=3) @ box
        gaps = moved[:, None, None] - placed[None, :, None] - shifts
        if len(placed) == 0 or np.linalg.norm(gaps, axis=-1).min() > 0.2:
            return moved


if __name__ == "__main__":
    main()

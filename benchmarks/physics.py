"""Prints how good atoms from physics alone are, beside the floor, and what a frame takes.

    python benchmarks/physics.py
    python benchmarks/physics.py --systems octane cumene --frames 10 --steps 100 200
    python benchmarks/physics.py --smoke

Nothing is used but topology, mapping, beads and, without --no-hands, the hands that ``backmap
--like`` finds in a structure of the reference. The reference data (folders ``sps`` and ``liquids``
inside the folder that --data or DEEPBACKMAP_DATA names, else ``../shared/data`` beside the
repository) are published structures. The liquids' files lack their 1-4 pairs, which are listed here
from those of the force field, so that GROMACS must be installed for them. Every figure compares the
first frames with all reference frames; a floor is that of ``evaluate`` for so many frames.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quality import data_folder

from deepbackmap.api.hands import find_hands
from deepbackmap.errors import InputError
from deepbackmap.evaluation import Beads, Evaluation, Plan, Sample, evaluate_samples, measure
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile, SystemMapping, load_mapping, map_positions
from deepbackmap.methods.physics.options import PhysicsSamplingOptions
from deepbackmap.methods.physics.sampler import PhysicsSampler
from deepbackmap.methods.physics.tables import bond_distances
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import make_whole

OCTANE = """
weights: mass
residues:
  L49C:
    beads:
      - {name: B1, type: E, atoms: [C8], owns: [C8, H24, H25, H26]}
      - {name: B2, type: M, owns: [C7, H22, H23, C6, H20, H21],
         atoms: {C7: 0.5, H22: 0.5, H23: 0.5, C6: 1, H20: 1, H21: 1, C5: 0.5, H18: 0.5, H19: 0.5}}
      - {name: B3, type: M, owns: [C5, H18, H19, C4, H16, H17],
         atoms: {C5: 0.5, H18: 0.5, H19: 0.5, C4: 1, H16: 1, H17: 1, C3: 0.5, H14: 0.5, H15: 0.5}}
      - {name: B4, type: M, owns: [C3, H14, H15, C2, H12, H13, C1, H9, H10, H11],
         atoms: {C3: 0.5, H14: 0.5, H15: 0.5, C2: 1, H12: 1, H13: 1, C1: 0.5, H9: 0.5, H10: 0.5}}
"""
CUMENE = """
weights: mass
residues:
  G065:
    beads:
      - {name: B1, type: M, atoms: [C1], owns: [C1, H1, H2, H3, C2, H4]}
      - {name: S2, type: R, atoms: [C7, H10, C6, H9, C5, H8, C4, C9, H12, C8, H11]}
      - {name: B3, type: M, atoms: [C3], owns: [C3, H5, H6, H7]}
"""
LIQUIDS = {"octane": ("L49C", 215, OCTANE, ""), "cumene": ("G065", 265, CUMENE, "CAro")}
"""Molecule type, molecules, mapping, and an atom type that gromos54a7 calls C."""
POLYSTYRENE = {
    "ps568": (568, "ps-two-bead"),
    "ps313": (313, "ps-two-bead"),
    "ps568-one": (568, "ps-one-bead"),
    "ps313-one": (313, "ps-one-bead"),
}
"""Temperature, K, and mapping."""


@dataclass(frozen=True)
class Case:
    """One system with its reference."""

    name: str
    temperature: float
    file: MappingFile
    mapping: SystemMapping
    reference: list[Structure]
    beads: list[Structure]
    like: Path
    """A structure of the reference, whose hands are wanted."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 2 means that an input is wrong."""
    options = parse(arguments)
    try:
        for name in options.systems:
            run(name, options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = [*LIQUIDS, *POLYSTYRENE]
    parser.add_argument("--systems", nargs="+", choices=known, default=known)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="+", default=[150], help="of dynamics")
    parser.add_argument("--data", type=Path, help="folder that holds sps and liquids")
    parser.add_argument("--no-hands", action="store_true", help="hands are not known")
    parser.add_argument("--all", action="store_true", help="print every figure")
    parser.add_argument("--smoke", action="store_true", help="octane, one frame, few conformations")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.systems, options.frames, options.steps = ["octane"], 1, [10]
    return options


def run(name: str, options: argparse.Namespace) -> None:
    """Makes the frames of one system and prints their figures."""
    root = data_folder(options.data).parent
    with tempfile.TemporaryDirectory() as scratch:
        case = liquid(name, root, Path(scratch)) if name in LIQUIDS else polystyrene(name, root)
    case = replace(case, beads=case.beads[: options.frames])
    hands = None
    if not options.no_hands:
        found = find_hands(case.mapping, case.file, None, like=case.like, of_beads=True)
        hands = found.handedness
    few = {"conformations": 128, "pieces": 64} if options.smoke else {}
    for steps in options.steps:
        how = PhysicsSamplingOptions(relaxation=steps, **few)
        started = time.perf_counter()
        sampler = PhysicsSampler(case.mapping, how, case.temperature, hands)
        sampler.sample(case.beads[0])  # what is compiled is compiled
        print(f"{name}: once {time.perf_counter() - started:.1f} s")
        started = time.perf_counter()
        made = [sampler.sample(b, frame=k) for k, b in enumerate(case.beads)]
        each = (time.perf_counter() - started) / len(made)
        show(f"{name}, {steps} steps, {each:.2f} s a frame", judged(case, made), options.all)


def judged(case: Case, made: list[Structure]) -> Evaluation:
    """As ``evaluate`` does."""
    plan = Plan.from_topology(case.mapping.topology)
    count = range(len(case.reference))
    right = Sample("reference", "reference", measure(plan, case.reference), list(count))
    given = Beads(case.beads, case.mapping)
    found = Sample("physics", "physics", measure(plan, made, beads=given), list(range(len(made))))
    return evaluate_samples(plan, right, [found], temperature=case.temperature)


def show(title: str, found: Evaluation, everything: bool) -> None:
    """The score, every scored figure, shifts of energies and what must be zero."""
    score = found.methods[0].score.value
    print(f"\n{title}: score {score:.4f}, floor {found.score_floor:.4f}")
    for f in found.figures:
        value = f.methods["physics"].value
        shown = f.scored or "shift of the me" in f.name or f.name.startswith(MUST)
        if everything or shown:
            print(f"  {f.name:<50} {value:9.4f}  floor {f.floor:8.4f}")


MUST = ("inverted", "bonds through", "pairs closer", "g(r)", "re-mapped", "smallest")
"""Beginnings of names of figures that are always printed."""


def polystyrene(name: str, root: Path) -> Case:
    """Test frames, mapped."""
    kelvin, wanted = POLYSTYRENE[name]
    folder, file = root / "sps", load_mapping(wanted)
    mapping = file.resolve(read_topology(folder / "topol.top"))
    atoms = frames(folder / "aa.gro", folder / f"test_{kelvin}K_aa.xtc")
    beads = [
        Structure(
            map_positions(mapping, make_whole(a.positions, a.box, mapping.topology)), a.box
        )
        for a in atoms
    ]  # fmt: skip
    return Case(name, float(kelvin), file, mapping, atoms, beads, folder / "aa.gro")


def liquid(name: str, root: Path, scratch: Path) -> Case:
    """A liquid at 350 K."""
    molecule, count, text, alias = LIQUIDS[name]
    folder = root / "liquids" / name
    top = with_pairs(folder / f"{molecule}.itp", scratch, molecule, count, alias)
    file = MappingFile.from_text(text, f"mapping of {name}")
    mapping = file.resolve(top)
    atoms, beads = (frames(folder / f"{kind}.gro", folder / f"{kind}.xtc") for kind in ("aa", "cg"))
    return Case(name, 350.0, file, mapping, atoms, beads, folder / "aa.gro")


def with_pairs(itp: Path, scratch: Path, molecule: str, count: int, alias: str) -> Topology:
    """A published topology with its 1-4 pairs: all that are three bonds apart and not excluded."""
    if shutil.which("gmx") is None:
        raise InputError("gmx: expected GROMACS for gromos54a7, found none")
    lines = itp.read_text(encoding="utf-8")
    if alias:
        lines = lines.replace(f" {alias} ", f" {'C':>{len(alias)}} ")

    def read(text: str) -> Topology:
        path = scratch / f"{molecule}.top"
        path.write_text(
            f'#include "gromos54a7.ff/forcefield.itp"\n{text}\n[ system ]\nliquid\n'
            f"[ molecules ]\n{molecule} {count}\n",
            encoding="utf-8",
        )
        return read_topology(path)

    bare = read(lines).molecule_types[0]
    explicit = {
        tuple(sorted(map(int, row.split()[:2])))
        for row in lines.split("[exclusions]")[-1].splitlines()
        if row.split(";")[0].split()
    }
    pairs = [
        f"{i + 1} {j + 1} 1"
        for i, near in enumerate(bond_distances(bare, 3))
        for j, bonds in near.items()
        if bonds == 3 and j > i and (i + 1, j + 1) not in explicit
    ]
    return read("\n".join([lines, "[ pairs ]", *pairs]))


def frames(structure: Path, trajectory: Path) -> list[Structure]:
    """All frames of a file."""
    with read_frames(structure, trajectory) as source:
        return list(source)


if __name__ == "__main__":
    sys.exit(main())

"""Small systems, written by hand, for the tests of atoms without a model."""

from __future__ import annotations

from pathlib import Path

from deepbackmap.io.topology import read_topology
from deepbackmap.mapping import MappingFile, SystemMapping
from deepbackmap.system import Topology

HEAD = """
[ defaults ]
1 3 no 1.0 1.0
[ atomtypes ]
C 6 14.0 0.0 A 0.37 0.4
H 1 1.0 0.0 A 0.25 0.1
X 9 35.0 0.0 A 0.34 0.5
Y 9 80.0 0.0 A 0.35 0.5
"""


def chain(carbons: int, *, name: str = "CHN", ring: bool = False) -> str:
    """United atoms in a row or a ring: bonds, angles, torsions with a gauche and a trans well."""
    lines = [f"[ moleculetype ]\n{name} 3", "[ atoms ]"]
    lines += [f"{i} C 1 {name} C{i} {i} 0.0 14.0" for i in range(1, carbons + 1)]
    span = carbons if ring else 0

    def row(i: int, k: int) -> str | None:
        atoms = [(i + j) % carbons + 1 if span else i + j + 1 for j in range(k)]
        return " ".join(map(str, atoms)) if max(atoms) <= carbons else None

    for section, k, rest in (
        ("bonds", 2, ["1 0.153 250000"]),
        ("angles", 3, ["1 112.0 500"]),
        ("dihedrals", 4, ["1 0 5.0 3", "1 0 2.0 1"]),
    ):
        rows = [r for i in range(carbons) if (r := row(i, k))]
        lines += [f"[ {section} ]", *(f"{r} {p}" for r in rows for p in rest)]
    return "\n".join(lines) + "\n"


CHIRAL = """
[ moleculetype ]
CHI 3
[ atoms ]
1 C 1 CHI C 1 0.0 14.0
2 H 1 CHI H 2 0.1 1.0
3 X 1 CHI X 3 -0.1 35.0
4 Y 1 CHI Y 4 0.0 80.0
5 C 1 CHI M 5 0.0 14.0
[ bonds ]
1 2 1 0.109 250000
1 3 1 0.170 250000
1 4 1 0.190 250000
1 5 1 0.153 250000
[ angles ]
2 1 3 1 109.5 400
2 1 4 1 109.5 400
2 1 5 1 109.5 400
3 1 4 1 109.5 400
3 1 5 1 109.5 400
4 1 5 1 109.5 400
"""
ION = """
[ moleculetype ]
ION 1
[ atoms ]
1 X 1 ION ION 1 1.0 35.0
"""
MAPPING = """
weights: mass
residues:
  CHN:
    beads:
{beads}
  CHI:
    beads:
      - {{name: C1, type: D, atoms: [C, H, X, Y, M]}}
  ION:
    beads:
      - {{name: I1, type: I, atoms: [ION]}}
"""


def beads_of_chain(carbons: int, each: int) -> str:
    """Beads of so many carbons, the last of what is left."""
    rows = []
    for k, start in enumerate(range(0, carbons, each)):
        names = ", ".join(f"C{i + 1}" for i in range(start, min(start + each, carbons)))
        rows.append(f"      - {{name: B{k + 1}, type: B, atoms: [{names}]}}")
    return "\n".join(rows)


def system(
    folder: Path, molecules: str, counts: dict[str, int], *, carbons: int = 4, each: int = 2
) -> SystemMapping:
    """Topology and mapping of a box.

    Args:
        folder: to write the topology to.
        molecules: molecule types, as GROMACS text.
        counts: molecules by name.
        carbons: of a chain.
        each: of them in a bead.
    """
    text = MAPPING.format(beads=beads_of_chain(carbons, each))
    return MappingFile.from_text(text, "mapping").resolve(topology(folder, molecules, counts))


def topology(folder: Path, molecules: str, counts: dict[str, int]) -> Topology:
    """The atoms alone; arguments as of ``system``."""
    rows = "\n".join(f"{name} {count}" for name, count in counts.items())
    path = folder / "topol.top"
    path.write_text(f"{HEAD}{molecules}\n[ system ]\ntest\n[ molecules ]\n{rows}\n")
    return read_topology(path)

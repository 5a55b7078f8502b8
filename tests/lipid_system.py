"""A small bilayer: an ester of choline with one tail, terms as CHARMM's force fields have them.

Urey-Bradley angles, dihedrals of type 9, a harmonic improper at the carbonyl, no correction map,
1-4 pairs from their own table. The numbers are round ones near those of such force fields, not
those of any. The beads are in the manner of Martini: head, linker and three of the tail, of which
one shares atoms with its neighbours, as the virtual sites of coarse-grained sterols do.
"""

from itertools import combinations
from pathlib import Path

import numpy as np

from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import open_writer
from deepbackmap.mapping import load_mapping
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure

KINDS = {
    # type: number, mass, sigma / nm, epsilon / kJ mol-1, sigma and epsilon of 1-4 pairs
    "NTL": (7, 14.007, 0.330, 0.84, 0.330, 0.84),
    "CTL5": (6, 12.011, 0.367, 0.335, 0.339, 0.042),
    "CTL2": (6, 12.011, 0.358, 0.234, 0.339, 0.042),
    "CTL3": (6, 12.011, 0.364, 0.326, 0.339, 0.042),
    "CL": (6, 12.011, 0.356, 0.293, 0.356, 0.293),
    "OSL": (8, 15.9994, 0.294, 0.418, 0.294, 0.418),
    "OBL": (8, 15.9994, 0.303, 0.502, 0.249, 0.502),
    "HL": (1, 1.008, 0.125, 0.193, 0.125, 0.193),
    "HAL2": (1, 1.008, 0.239, 0.117, 0.239, 0.117),
}
TAIL = 10
MAPPING = """residues:
  LIP:
    beads:
      - {name: NC3, type: Q1, atoms: [N, CM1, CM2, CM3, CA, HM1A, HM1B, HM1C, HM2A, HM2B, HM2C,
         HM3A, HM3B, HM3C, HAA, HAB]}
      - {name: GL, type: SN4a, atoms: [CB, OS, C1, OB, HBA, HBB]}
      - {name: C1, type: C1, atoms: [C2, C3, C4, H2A, H2B, H3A, H3B, H4A, H4B]}
      - {name: CV, type: C1, atoms: {C4: 0.5, C5: 1, C6: 1, C7: 0.5, H5A: 1, H5B: 1, H6A: 1,
         H6B: 1}, owns: [C5, C6, H5A, H5B, H6A, H6B]}
      - {name: C2, type: C1, atoms: [C7, C8, C9, C10, H7A, H7B, H8A, H8B, H9A, H9B, H10A, H10B,
         H10C]}
"""


def molecule() -> tuple[list[tuple[str, str, float]], list[tuple[int, int]]]:
    """Name, type and charge of the atoms, and the bonds."""
    atoms: list[tuple[str, str, float]] = [("N", "NTL", -0.48)]
    bonds: list[tuple[int, int]] = []

    def add(name: str, kind: str, charge: float, to: int) -> int:
        atoms.append((name, kind, charge))
        bonds.append((to, len(atoms) - 1))
        return len(atoms) - 1

    for m in (1, 2, 3):
        carbon = add(f"CM{m}", "CTL5", -0.35, 0)
        for letter in "ABC":
            add(f"HM{m}{letter}", "HL", 0.25, carbon)
    last = 0
    for name, charge in (("CA", -0.10), ("CB", -0.08)):
        last = add(name, "CTL2", charge, last)
        for letter in "AB":
            add(
                f"H{name[1]}{letter}",
                "HL" if name == "CA" else "HAL2",
                0.25 if name == "CA" else 0.09,
                last,
            )
    last = add("OS", "OSL", -0.49, last)
    last = add("C1", "CL", 0.90, last)
    add("OB", "OBL", -0.63, last)
    for k in range(2, TAIL + 1):
        end = k == TAIL
        last = add(f"C{k}", "CTL3" if end else "CTL2", -0.27 if end else -0.18, last)
        for letter in "ABC" if end else "AB":
            add(f"H{k}{letter}", "HAL2", 0.09, last)
    return atoms, bonds


def _bond(a: str, b: str) -> str:
    if "H" in (a[0], b[0]):
        return "0.1111 258000"
    if {a, b} == {"CL", "OBL"}:
        return "0.122 627600"
    return "0.1334 125520" if {a, b} == {"CL", "OSL"} else "0.153 190000"


def _angle(a: str, b: str, c: str) -> str:
    if b == "CL":
        return "122 500 0 0"
    if a[0] == "H" and c[0] == "H":
        return "109.0 297.1 0.1802 4519"
    if "H" in (a[0], c[0]):
        return "110.1 221.8 0.2179 18853"
    return "109.6 334.7 0 0" if b == "OSL" else "113.6 488.3 0.2561 9338"


def write_lipids(folder: Path, side: int = 3, spacing: float = 0.7) -> tuple[Path, Path, Path]:
    """Topology, beads of a bilayer (``side`` squared lipids a leaflet) and mapping."""
    atoms, bonds = molecule()
    kinds = [kind for _, kind, _ in atoms]
    near: list[list[int]] = [[] for _ in atoms]
    for i, j in bonds:
        near[i].append(j)
        near[j].append(i)
    angles = [(i, j, k) for j in range(len(atoms)) for i, k in combinations(sorted(near[j]), 2)]
    dihedrals = [(i, j, k, m) for j, k in bonds for i in near[j] if i != k
                 for m in near[k] if m not in (j, i)]  # fmt: skip
    pairs = sorted({(min(d[0], d[3]), max(d[0], d[3])) for d in dihedrals})
    carbonyl = [name for name, *_ in atoms].index("C1")
    text = "[ defaults ]\n1 2 yes 1.0 1.0\n[ atomtypes ]\n"
    text += "".join(f"{k} {n} {m} 0 A {s} {e}\n" for k, (n, m, s, e, *_) in KINDS.items())
    text += "[ pairtypes ]\n"
    for a, b in combinations([*KINDS, *KINDS], 2):
        if list(KINDS).index(a) <= list(KINDS).index(b):
            s, e = (KINDS[a][4] + KINDS[b][4]) / 2, np.sqrt(KINDS[a][5] * KINDS[b][5])
            line = f"{a} {b} 1 {s:.5f} {e:.5f}\n"
            text += "" if line in text else line
    text += "[ moleculetype ]\nLIP 3\n[ atoms ]\n"
    text += "".join(
        f"{n} {kind} 1 LIP {name} {n} {charge} {KINDS[kind][1]}\n"
        for n, (name, kind, charge) in enumerate(atoms, 1)
    )
    rows = {
        "bonds": [f"{i + 1} {j + 1} 1 {_bond(kinds[i], kinds[j])}" for i, j in bonds],
        "pairs": [f"{i + 1} {j + 1} 1" for i, j in pairs],
        "angles": [f"{i + 1} {j + 1} {k + 1} 5 {_angle(kinds[i], kinds[j], kinds[k])}"
                   for i, j, k in angles],
        "dihedrals": [f"{i + 1} {j + 1} {k + 1} {m + 1} 9 0 "
                      + ("8.0 2" if "CL" in (kinds[j], kinds[k]) and "OSL" in (kinds[j], kinds[k])
                         else "0.8 3") for i, j, k, m in dihedrals]
        + [" ".join(str(x + 1) for x in (carbonyl, *sorted(near[carbonyl]))) + " 2 0 800"],
    }  # fmt: skip
    for section, lines in rows.items():
        text += f"[ {section} ]\n" + "\n".join(lines) + "\n"
    text += f"[ system ]\nbilayer\n[ molecules ]\nLIP {2 * side**2}\n"
    top, cg, mapping = folder / "lipids.top", folder / "cg.gro", folder / "lipids.yaml"
    top.write_text(text)
    mapping.write_text(MAPPING)
    with open_writer(cg, bead_table(load_mapping(mapping).resolve(read_topology(top)))) as writer:
        writer.write(_bilayer(side, spacing))
    return top, cg, mapping


def _bilayer(side: int, spacing: float) -> Structure:
    """Straight lipids on a square lattice, heads outside, the tails of two leaflets apart."""
    heights = np.array([1.55, 1.15, 0.82, 0.52, 0.15]) + 0.15
    rng = np.random.default_rng(4)
    rows = []
    for leaf in (1.0, -1.0):
        for i in range(side):
            for j in range(side):
                places = np.zeros((5, 3))
                places[:, :2] = spacing * np.array([i + 0.25 * (leaf > 0), j])
                places[:, 2] = 3.0 + leaf * heights
                places += 0.02 * rng.normal(size=(5, 3))
                rows.append(places)
    return Structure(np.concatenate(rows), np.diag([side * spacing, side * spacing, 6.0]))

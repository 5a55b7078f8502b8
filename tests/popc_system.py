"""A small bilayer of POPC: CHARMM27's own residue, beads in the manner of Martini 3.

The topology is written from GROMACS' ``lipids.rtp`` (atoms, charges, bonds, impropers) with all
angles, dihedrals and 1-4 pairs that the bonds make, their numbers from ``charmm27.ff``:
Urey-Bradley angles, dihedrals of type 9, harmonic impropers, no correction map. The mapping is a
file of Backward's kind with Martini's twelve beads and a thirteenth, a virtual site of the
coarse-grained model between both linkers.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np

from deepbackmap.io.topology import read_topology
from deepbackmap.io.topology.gromacs_lines import gromacs_include_dirs
from deepbackmap.io.trajectory import open_writer
from deepbackmap.mapping import load_mapping
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure

CARBONS = {
    # carbons of each bead; what is bonded to them goes with them, unless it is named itself
    "NC3": ("N", "C11", "C12", "C13", "C14"),
    "PO4": ("P1", "O1", "O2", "O3", "O4", "C15"),
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
SITE = "VGL"
"""The virtual site of the coarse-grained model: the mean of both linkers, owner of one carbon."""
PLACES = {
    # place across and height over the middle, nm
    "NC3": (0.0, 2.30), "PO4": (0.0, 1.95), "GL1": (-0.13, 1.62), "GL2": (0.2, 1.60),
    "C1A": (-0.22, 1.25), "D2A": (-0.22, 0.90), "C3A": (-0.2, 0.55), "C4A": (-0.22, 0.18),
    "C1B": (0.25, 1.22), "C2B": (0.25, 0.86), "C3B": (0.22, 0.52), "C4B": (0.25, 0.18),
    SITE: (0.035, 1.61),
}  # fmt: skip


def force_field() -> Path | None:
    """GROMACS' charmm27.ff, if it is here."""
    folders = (folder / "charmm27.ff" for folder in gromacs_include_dirs())
    return next((folder for folder in folders if (folder / "lipids.rtp").is_file()), None)


def residue(folder: Path) -> dict[str, list[list[str]]]:
    """Rows of the residue by section."""
    text = (folder / "lipids.rtp").read_text().split("[ POPC ]")[1].split("\n[ ")[0]
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        words = line.partition(";")[0].split()
        if words[:1] == ["["]:
            found[words[1]] = []
        elif words:
            list(found.values())[-1].append(words)
    return found


def write_popc(folder: Path, side: int = 3, spacing: float = 0.82) -> tuple[Path, Path, Path]:
    """Topology, beads of a bilayer (``side`` squared lipids a leaflet) and mapping."""
    source = force_field()
    assert source is not None
    rows = residue(source)
    names = [row[0] for row in rows["atoms"]]
    bonds = [(names.index(a), names.index(b)) for a, b, *_ in rows["bonds"]]
    near: list[list[int]] = [[] for _ in names]
    for i, j in bonds:
        near[i].append(j)
        near[j].append(i)
    top, cg, mapping = folder / "popc.top", folder / "popc_cg.gro", folder / "popc.map"
    top.write_text(_topology(rows, names, bonds, near, 2 * side**2))
    mapping.write_text(_mapping(names, near))
    beads = bead_table(load_mapping(mapping).resolve(read_topology(top)))
    with open_writer(cg, beads) as writer:
        writer.write(_bilayer(beads.names, side, spacing))
    return top, cg, mapping


def _topology(
    rows: dict[str, list[list[str]]],
    names: list[str],
    bonds: list[tuple[int, int]],
    near: list[list[int]],
    count: int,
) -> str:
    angles = [(i, j, k) for j in range(len(names)) for i, k in combinations(near[j], 2)]
    turns = [(i, j, k, m) for j, k in bonds for i in near[j] if i != k
             for m in near[k] if m not in (j, i)]  # fmt: skip
    impropers = [tuple(names.index(a) for a in row[:4]) for row in rows.get("impropers", [])]
    text = '#include "charmm27.ff/forcefield.itp"\n[ moleculetype ]\nPOPC 3\n[ atoms ]\n'
    for k, (name, kind, charge, *_) in enumerate(rows["atoms"], 1):
        text += f"{k} {kind} 1 POPC {name} {k} {charge}\n"
    ends = sorted({(min(t[0], t[3]), max(t[0], t[3])) for t in turns})
    sections = (
        ("bonds", bonds, 1), ("pairs", ends, 1),
        ("angles", angles, 5), ("dihedrals", turns, 9), ("dihedrals", impropers, 2),
    )  # fmt: skip
    for section, listed, function in sections:
        text += f"[ {section} ]\n"
        text += "".join(" ".join(str(a + 1) for a in row) + f" {function}\n" for row in listed)
    return text + f"[ system ]\nbilayer\n[ molecules ]\nPOPC {count}\n"


def _mapping(names: list[str], near: list[list[int]]) -> str:
    owner = {name: bead for bead, named in CARBONS.items() for name in named}
    lines = ["[ molecule ]", "POPC", "[ martini ]", " ".join([*CARBONS, SITE]), "[ atoms ]"]
    for k, name in enumerate(names):
        bead = owner.get(name) or owner[names[near[k][0]]]
        beads = [bead, SITE] if bead in ("GL1", "GL2") else [bead]
        if name in ("C2", "HS"):
            beads = [SITE, "GL1", "GL2"]
        lines.append(f"{k + 1} {name} {' '.join(beads)}")
    return "\n".join(lines) + "\n"


def _bilayer(names: tuple[str, ...], side: int, spacing: float) -> Structure:
    """Straight lipids on a square lattice, every second one turned, nothing above and below."""
    rng = np.random.default_rng(7)
    count = len(PLACES)
    across, height = np.array([PLACES[name] for name in names[:count]]).T
    rows = []
    for leaf in (1.0, -1.0):
        for i in range(side):
            for j in range(side):
                turn = rng.uniform(0.0, 2.0 * np.pi)
                places = np.stack(
                    [across * np.cos(turn), across * np.sin(turn), leaf * height], axis=1
                )
                places += [spacing * (i + 0.25 * (leaf > 0)), spacing * j, 4.0]
                rows.append(places + 0.015 * rng.normal(size=places.shape))
    edge = side * spacing
    return Structure(np.concatenate(rows), np.diag([edge, edge, 8.0]))

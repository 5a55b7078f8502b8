"""Small systems with virtual sites of every kind, as GROMACS topologies."""

from pathlib import Path

import numpy as np

from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer
from deepbackmap.system import Structure
from deepbackmap.system.sites import place_sites

HEAD = """[ defaults ]
1 2 yes 0.5 0.8333
[ atomtypes ]
C   6  14.0   0.0  A  0.35  0.40
OW  8  16.0   0.0  A  0.3154 0.6487
HW  1  1.008  0.0  A  0.0   0.0
V   0  0.0    0.0  D  0.0   0.0
"""
WATER = """[ moleculetype ]
SOL 2
[ atoms ]
1 OW 1 SOL OW  1  0.0   16.0
2 HW 1 SOL HW1 1  0.52  1.008
3 HW 1 SOL HW2 1  0.52  1.008
4 V  1 SOL MW  1 -1.04  0.0
[ settles ]
1 1 0.09572 0.15139
[ virtual_sites3 ]
4 1 2 3 {function}
[ exclusions ]
1 2 3 4
2 1 3 4
3 1 2 4
4 1 2 3
"""
OTHER = """[ moleculetype ]
MOL 3
[ atoms ]
1 C 1 MOL C1 1  0.1 15.035
2 C 1 MOL C2 1  0.1 14.027
3 C 1 MOL C3 1  0.1 14.027
4 C 1 MOL C4 1  0.1 15.035
5 V 1 MOL V1 1 -0.1 0.0
6 V 1 MOL V2 1 -0.1 0.0
7 V 1 MOL V3 1 -0.1 0.0
8 V 1 MOL V4 1 -0.1 0.0
9 V 1 MOL V5 1  0.0 0.0
[ bonds ]
1 2 1 0.153 250000
2 3 1 0.153 250000
3 4 1 0.153 250000
[ angles ]
1 2 3 1 112 500
2 3 4 1 112 500
[ dihedrals ]
1 2 3 4 1 0 6.0 3
[ virtual_sites3 ]
5 1 2 3 2 0.4 0.12
6 2 1 3 4 0.3 0.3 2.5
8 4 3 2 3 120 0.11
[ virtual_sites4 ]
7 2 1 3 4 2 1.1 0.9 0.1
[ virtual_sitesn ]
9 2 1 2 3 4
[ exclusions ]
5 1 2 3 4 6 7 8 9
6 1 2 3 4 7 8 9
7 1 2 3 4 8 9
8 1 2 3 4 9
9 1 2 3 4
"""
MAPPING = """residues:
  SOL:
    beads:
      - {name: W, type: W, atoms: [OW, HW1, HW2, MW]}
  MOL:
    beads:
      - {name: M, type: M, atoms: [C1, C2, C3, C4]}
"""
TIP4P, TIP4P_DISTANCE = "1 0.128012065 0.128012065", "2 0.5 0.015"
"""The fourth site by two of GROMACS' functions."""
WATER_ATOMS = np.array([[0, 0, 0], [0.0757, 0.0586, 0], [-0.0757, 0.0586, 0], [0, 0.015, 0]])
CHAIN = np.array([[0, 0, 0], [0.0855, 0.1269, 0], [0.2385, 0.1269, 0], [0.3240, 0.2538, 0]])


def write_sited(
    folder: Path, waters: int = 40, chains: int = 4, *, function: str = TIP4P, edge: float = 2.6
) -> tuple[Path, Path, Path]:
    """Topology, atoms (sites in their places) and mapping in a folder."""
    top, gro, mapping = folder / "sited.top", folder / "sited.gro", folder / "sited.yaml"
    top.write_text(
        f"{HEAD}{WATER.format(function=function)}{OTHER}[ system ]\nsites\n[ molecules ]\n"
        f"MOL {chains}\nSOL {waters}\n"
    )
    mapping.write_text(MAPPING)
    topology = read_topology(top)
    structure = Structure(_positions(waters, chains, edge), np.eye(3) * edge)
    placed = place_sites(structure.positions, structure.box, topology)
    with open_writer(gro, atom_table(topology)) as writer:
        writer.write(Structure(placed, structure.box))
    return top, gro, mapping


def _positions(waters: int, chains: int, edge: float) -> np.ndarray:
    """Molecules on the points of a lattice, in random directions."""
    rng = np.random.default_rng(5)
    points = int(np.ceil((waters + 2 * chains) ** (1 / 3)))
    lattice = np.stack(np.meshgrid(*[np.arange(points)] * 3), axis=-1).reshape(-1, 3)
    lattice = lattice * (edge / points)
    rows = []
    for k in range(chains):
        rows.append(np.concatenate([CHAIN, np.zeros((5, 3))]) + lattice[2 * k])
    for k in range(waters):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        rows.append(WATER_ATOMS @ turn + lattice[2 * chains + k])
    return np.concatenate(rows)

"""Some chains far from each other, to be finished or run in little time."""

import sys
from pathlib import Path

import numpy as np

from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from melt import build

MONOMERS, CHAINS = 3, 6
BOX = np.array([[5.2, 0.0, 0.0], [1.1, 7.2, 0.0], [-0.7, 0.9, 4.8]])


def write_chains(folder: Path) -> None:
    """Topology, atoms and beads (.gro and .trr, two frames) in a skewed box."""
    build.write_topology(folder / "topol.top", MONOMERS, CHAINS)
    topology = read_topology(folder / "topol.top")
    mapping = load_mapping("ps-two-bead").resolve(topology)
    rng = np.random.default_rng(3)
    chains = build.build_chains(MONOMERS, CHAINS, rng)
    places = np.array([[x, y, 0.0] for x in (0.0, 2.5) for y in (0.0, 2.4, 4.8)])
    chains = chains - chains.mean(axis=1, keepdims=True) + places[:, None]
    whole = chains.reshape(-1, 3)
    for name, table, of in (
        ("aa", atom_table(topology), lambda x: x),
        ("cg", bead_table(mapping), lambda x: map_positions(mapping, x)),
    ):
        frames = [
            Structure(of(whole + 0.003 * np.random.default_rng(k).normal(size=whole.shape)), BOX,
                      time=5.0 * k)
            for k in range(2)
        ]  # fmt: skip
        with open_writer(folder / f"{name}.gro", table) as writer:
            writer.write(frames[0])
        with open_writer(folder / f"{name}.trr", table) as writer:
            for frame in frames:
                writer.write(frame)

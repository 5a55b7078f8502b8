"""Cut the sample data out of a run: topology, a few frames of atoms and of their beads.

    PYTHONPATH=tools python -m melt.package FOLDER TARGET [--frames 5]

Frames are evenly spaced over the production run, the last one included. Chains are written
whole, the middle of each inside the box; positions are rounded to 0.001 nm, in the .gro files
(first of the frames) as in the .xtc files, and the beads are those of the rounded atoms.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import MDAnalysis
import numpy as np
from MDAnalysis.coordinates.XTC import XTCWriter
from MDAnalysis.lib.formats.libmdaxdr import XTCFile

from melt.analyse import NM_PER_ANGSTROM, frames
from melt.build import Array, chain_topology, write_gro_names, write_topology
from melt.structure import bead_names, beads
from melt.tacticity import FILE

DECIMALS = 3


def inside(chains: Array, edges: Array) -> Array:
    """Shift each whole chain so that its middle lies in the box (edges, nm, shape (3,))."""
    cells = np.floor(chains.mean(axis=1, keepdims=True) / edges)
    shifted: Array = chains - edges * cells
    return shifted


def pick(folder: Path, n_frames: int, n_monomers: int) -> list[tuple[float, Array, Array]]:
    """Evenly spaced frames: time (ps), chains (chains, atoms, 3) and edges (3,), nm."""
    xtc = folder / "prod.xtc"
    with XTCFile(str(xtc)) as steps:
        total = len(steps) - 1
    wanted = {round(total * (k + 1) / n_frames) for k in range(n_frames)}
    found = []
    for i, (time, chains, box) in enumerate(frames([xtc], n_monomers)):
        if i in wanted:
            edges = np.diag(box)
            found.append((time, np.round(inside(chains, edges), DECIMALS), edges))
    return found


def write_pair(
    path: Path, picked: list[tuple[float, Array, Array]], names: tuple[str, ...], title: str
) -> None:
    """Write ``path.gro`` (first frame) and ``path.xtc`` (all frames)."""
    time, chains, edges = picked[0]
    gro = path.with_suffix(".gro")
    write_gro_names(gro, chains, names, edges, f"{title} t= {time:.1f}")
    universe = MDAnalysis.Universe(str(gro))
    size = universe.atoms.n_atoms
    with XTCWriter(str(path.with_suffix(".xtc")), size, precision=DECIMALS) as writer:
        for number, (time, chains, edges) in enumerate(picked):
            step = universe.trajectory.ts
            universe.atoms.positions = chains.reshape(-1, 3) / NM_PER_ANGSTROM
            step.dimensions = [*(edges / NM_PER_ANGSTROM), 90.0, 90.0, 90.0]
            step.time, step.frame = time, number
            step.data["step"] = number
            writer.write(universe.atoms)


def main() -> None:
    """Write the sample data into the target folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--monomers", type=int, default=10)
    parser.add_argument("--kind", default="syndiotactic", help="tacticity, for the titles")
    o = parser.parse_args()
    o.target.mkdir(parents=True, exist_ok=True)
    picked = pick(o.folder, o.frames, o.monomers)
    write_topology(o.target / "topol.top", o.monomers, len(picked[0][1]), o.kind)
    title = f"{o.kind} polystyrene"
    write_pair(o.target / "aa", picked, chain_topology(o.monomers).names, title)
    mapped = [(time, np.round(beads(chains), DECIMALS), edges) for time, chains, edges in picked]
    write_pair(o.target / "cg", mapped, bead_names(o.monomers), f"{title}, beads")
    if (o.folder / FILE).exists():
        shutil.copyfile(o.folder / FILE, o.target / FILE)


if __name__ == "__main__":
    main()

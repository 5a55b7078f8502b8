"""Measure a melt made by ``run.py`` and, beside it, a reference melt of the same chains.

    PYTHONPATH=tools python -m melt.analyse FOLDER [--reference GRO XTC [XTC ...]]

Density, conformation, handedness and defects come from the frames; energies come from GROMACS,
which recomputes both trajectories with the same settings (``mdrun -rerun``: plain cut-offs, bonds
left out since both melts hold them). Energies are kJ/mol for one chain, the volume nm^3 for one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import MDAnalysis
import numpy as np
from MDAnalysis.coordinates.TRR import TRRWriter
from MDAnalysis.lib.formats.libmdaxdr import XTCFile

from melt.build import (
    ATOMS_PER_MONOMER,
    Array,
    backbone,
    count_wrong_signs,
    pierced_rings,
    write_topology,
)
from melt.run import COMMON
from melt.structure import whole
from melt.tacticity import read_hands

TERMS = ("Angle", "Proper-Dih.", "Improper-Dih.", "LJ-(SR)", "Disper.-corr.", "Coulomb-(SR)")
NM_PER_ANGSTROM = 0.1
RERUN = {
    **COMMON,
    "integrator": "md",
    "nsteps": "0",
    "constraints": "none",
    "verlet-buffer-tolerance": "-1",
    "rlist": "1.0",
    "vdw-modifier": "None",
    "nstenergy": "1",
}


def frames(
    xtc: list[Path], n_monomers: int, stride: int = 1
) -> Iterator[tuple[float, Array, Array]]:
    """Read frames: time (ps), whole chains (chains, atoms, 3) and box vectors (3, 3), nm."""
    size = ATOMS_PER_MONOMER * n_monomers + 2
    number = 0
    for path in xtc:
        with XTCFile(str(path)) as steps:
            for step in steps:
                if number % stride == 0:
                    box = step.box.astype(np.float64)
                    chains = step.x.astype(np.float64).reshape(-1, size, 3)
                    yield float(step.time), whole(chains, box), box
                number += 1


def torsions(chains: Array, quadruples: Array) -> Array:
    """Dihedral angles, degrees, -180 to 180 with trans at 180: shape (chains, quadruples)."""
    a, b, c, d = (chains[:, quadruples[:, k]] for k in range(4))
    axis = c - b
    left, right = np.cross(b - a, axis), np.cross(axis, d - c)
    y = np.linalg.norm(axis, axis=-1) * ((b - a) * right).sum(axis=-1)
    phi: Array = np.degrees(np.arctan2(y, (left * right).sum(axis=-1)))
    return phi


def standard_error(series: Array, n_blocks: int = 6) -> float:
    """Standard error of a correlated series' mean, from the means of its blocks."""
    if len(series) < 2 * n_blocks:
        return float(np.std(series, ddof=1) / np.sqrt(len(series)))
    means = [block.mean() for block in np.array_split(series, n_blocks)]
    return float(np.std(means, ddof=1) / np.sqrt(n_blocks))


def _summary(series: list[float] | Array) -> tuple[float, float]:
    values = np.asarray(series, dtype=np.float64)
    return round(float(values.mean()), 4), round(standard_error(values), 4)


def shapes(xtc: list[Path], n_monomers: int, stride: int, folder: Path) -> dict[str, object]:
    """Volume, backbone conformation, size, handedness and defects over the frames.

    "States kept" is the fraction of backbone torsions that are in the last frame in the state
    (trans, gauche+, gauche-) of the first: near the sum of the squared populations when the
    conformation was forgotten in between, near 1 when it was not. Signs are held against the
    tacticity.txt in ``folder``, and without it against the reference's hands.
    """
    spine = backbone(n_monomers)
    quadruples = np.array([spine[i : i + 4] for i in range(len(spine) - 3)])
    volume, trans, reach, turns = [], [], [], []
    wrong = pierced = 0
    smallest = np.inf
    for _, chains, box in frames(xtc, n_monomers, stride):
        phi = torsions(chains, quadruples)
        turns.append(phi)
        trans.append(float((np.abs(phi) > 120).mean()))
        volume.append(float(np.linalg.det(box)) / len(chains))
        reach.append(float(((chains[:, spine[-1]] - chains[:, spine[0]]) ** 2).sum(-1).mean()))
        wrong += count_wrong_signs(chains, read_hands(folder, n_monomers, len(chains)))
        pierced += len(pierced_rings(chains, n_monomers, box))
        smallest = min(smallest, float(np.diag(box).min()))
    state = np.where(np.abs(turns) > 120, 0, np.sign(turns))
    return {
        "frames": len(volume),
        "volume of a chain": _summary(volume),
        "smallest edge": round(smallest, 4),
        "backbone trans fraction": _summary(trans),
        "mean squared end-to-end distance": _summary(reach),
        "backbone states kept": round(float((state[0] == state[-1]).mean()), 3),
        "wrong signs": wrong,
        "pierced rings": pierced,
    }


def energies(
    gro: Path, xtc: list[Path], n_monomers: int, stride: int, folder: Path, gmx: str
) -> dict[str, tuple[float, float]]:
    """Energy of each term for one chain, kJ/mol: mean and its standard error."""
    folder.mkdir(parents=True, exist_ok=True)
    n_chains = 0
    with TRRWriter(str(folder / "whole.trr"), _n_atoms(gro)) as writer:
        universe = MDAnalysis.Universe(str(gro))
        for _, chains, box in frames(xtc, n_monomers, stride):
            n_chains = len(chains)
            universe.atoms.positions = chains.reshape(-1, 3) / NM_PER_ANGSTROM
            universe.trajectory.ts.triclinic_dimensions = box / NM_PER_ANGSTROM
            writer.write(universe.atoms)
    write_topology(folder / "topol.top", n_monomers, n_chains)
    (folder / "rerun.mdp").write_text("".join(f"{k} = {v}\n" for k, v in RERUN.items()))
    first = folder / "first.gro"
    universe.atoms.write(str(first))
    _run(
        [gmx, "grompp", "-f", "rerun.mdp", "-c", first.name, "-p", "topol.top", "-o", "rerun.tpr"],
        folder,
    )
    mdrun = [gmx, "mdrun", "-deffnm", "rerun", "-rerun", "whole.trr", "-ntmpi", "1", "-ntomp", "1"]
    _run(mdrun, folder)
    _run([gmx, "energy", "-f", "rerun.edr", "-o", "terms.xvg"], folder, "\n".join(TERMS) + "\n\n")
    lines = (folder / "terms.xvg").read_text().splitlines()
    table = np.array([[float(v) for v in x.split()] for x in lines if x[0] not in "#@"])[:, 1:]
    table /= n_chains
    found = {term: _summary(table[:, k]) for k, term in enumerate(TERMS)}
    found["sum"] = _summary(table.sum(axis=1))
    return found


def _n_atoms(gro: Path) -> int:
    with Path(gro).open() as lines:
        next(lines)
        return int(next(lines))


def _run(command: list[str], folder: Path, answers: str = "") -> None:
    subprocess.run(command, cwd=folder, check=True, input=answers, text=True, capture_output=True)


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reference", type=Path, nargs="+", default=[], help="GRO XTC [XTC ...]")
    parser.add_argument("--monomers", type=int, default=10)
    parser.add_argument("--stride", type=int, default=10, help="take every n-th frame of the run")
    parser.add_argument("--gmx", default="gmx")
    o = parser.parse_args()
    sets = {"melt": (o.folder / "prod.gro", [o.folder / "prod.xtc"], o.stride)}
    if o.reference:
        sets["reference"] = (o.reference[0], o.reference[1:], 1)
    report = {
        name: shapes(xtc, o.monomers, stride, gro.parent)
        | energies(gro, xtc, o.monomers, stride, o.folder / f"rerun_{name}", o.gmx)
        for name, (gro, xtc, stride) in sets.items()
    }
    text = json.dumps(report, indent=2)
    (o.folder / "report.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()

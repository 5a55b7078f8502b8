"""Run the melt with GROMACS: minimise, compress, anneal, equilibrate, produce.

    PYTHONPATH=tools python -m melt.run FOLDER [--equilibration NS] [--production NS] [--threads 2]

The stages before those two have lengths of their own, in ps: --relaxation, --compression,
--hot, --cooling; --pressure, in bar, sets how fast the chains are pressed together.
FOLDER must hold what ``build.py`` writes. A stage whose ``.gro`` is there is skipped and a
stage that was cut short goes on from its checkpoint, so the command can be repeated.
After the start and after every stage the chains are checked: no bond through a ring, every
stereocentre as built. A melt that fails is worthless: build again with another seed.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from melt.build import count_wrong_signs, pierced_rings
from melt.structure import read_gro, whole
from melt.tacticity import read_hands

TEMPERATURE = 568.0
"""K, that of the reference melt."""
HOT = 800.0
"""K, for compression and annealing."""

COMMON = {
    "cutoff-scheme": "Verlet",
    "nstlist": "20",
    "verlet-buffer-tolerance": "0.005",
    "vdwtype": "Cut-off",
    "rvdw": "1.0",
    "DispCorr": "EnerPres",
    "coulombtype": "Reaction-Field",
    "rcoulomb": "1.0",
    "epsilon-r": "1",
    "epsilon-rf": "2.5",
    "nstenergy": "500",
    "nstlog": "10000",
}
MINIMISE = {
    **COMMON,
    "integrator": "steep",
    "nsteps": "3000",
    "emtol": "100",
    "emstep": "0.005",
    "constraints": "none",
}
DYNAMICS = {
    **COMMON,
    "integrator": "md",
    "constraints": "all-bonds",
    "constraint-algorithm": "LINCS",
    "lincs-order": "6",
    "lincs-iter": "2",
    "comm-mode": "Linear",
    "nstcomm": "100",
    "tcoupl": "v-rescale",
    "tc-grps": "System",
    "tau-t": "0.2",
}
NPT = {
    "pcoupl": "C-rescale",
    "pcoupltype": "isotropic",
    "tau-p": "2.0",
    "compressibility": "1e-4",
    "ref-p": "1.01325",
}


@dataclass(frozen=True)
class Stage:
    """One mdrun: its name, its length and its settings."""

    name: str
    settings: dict[str, str]

    @property
    def mdp(self) -> str:
        """The text of its .mdp file."""
        return "".join(f"{key:<24} = {value}\n" for key, value in self.settings.items())


def _md(name: str, time: float, step: float, *extra: dict[str, str]) -> Stage:
    """A stage of dynamics: time in ps, step in ps, settings that override the common ones."""
    settings = {**DYNAMICS, "dt": f"{step}", "nsteps": f"{round(time / step)}"}
    for more in extra:
        settings |= more
    return Stage(name, settings)


def stages(
    equilibration: float,
    production: float,
    seed: int,
    *,
    relaxation: float = 20.0,
    compression: float = 120.0,
    pressure: float = 500.0,
    hot_time: float = 150.0,
    cooling: float = 250.0,
    every: float = 1.0,
) -> list[Stage]:
    """The protocol; equilibration and production in ns, other times in ps, pressure in bar."""
    at = {"ref-t": f"{TEMPERATURE}"}
    hot = {"ref-t": f"{HOT}"}
    press = {"ref-p": f"{pressure:g}", "tau-p": "1.0"}
    draw = {"gen-vel": "yes", "gen-temp": "300", "gen-seed": f"{seed}"}
    cool = {
        "annealing": "single",
        "annealing-npoints": "3",
        "annealing-time": f"0 {hot_time:g} {hot_time + cooling:g}",
        "annealing-temp": f"{HOT} {HOT} {TEMPERATURE}",
    }
    frames = {
        "nstxout-compressed": f"{round(every / 0.002)}",
        "compressed-x-precision": "10000",
    }
    return [
        Stage("em", MINIMISE),
        _md("relax", relaxation, 0.0005, at, draw),
        _md("compress", compression, 0.001, hot, NPT, press),
        _md("anneal", hot_time + cooling, 0.002, hot, NPT, cool),
        _md("equil", 1000 * equilibration, 0.002, at, NPT),
        _md("prod", 1000 * production, 0.002, at, NPT, frames),
    ]


def check(gro: Path) -> None:
    """Check the chains of a structure file against the hands in the tacticity.txt beside it.

    Raises:
        RuntimeError: if a bond runs through a ring or a stereocentre is inverted.
    """
    chains, edges = read_gro(gro)
    chains = whole(chains, edges)
    n_monomers = chains.shape[1] // 16
    pierced = pierced_rings(chains, n_monomers, edges)
    wrong = count_wrong_signs(chains, read_hands(gro.parent, n_monomers, len(chains)))
    if pierced or wrong:
        raise RuntimeError(f"{gro.name}: {wrong} wrong signs, pierced rings {pierced}")
    print(f"{gro.name}: no defect, box {np.round(edges, 4)} nm", flush=True)


def _gmx(command: list[str], folder: Path) -> None:
    with (folder / "gmx.out").open("a") as log:
        subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=subprocess.STDOUT)


def run_stage(stage: Stage, previous: str, folder: Path, gmx: str, threads: int) -> None:
    """Prepare and run one stage from the structure of the one before."""
    if not (folder / f"{stage.name}.gro").exists():
        (folder / f"{stage.name}.mdp").write_text(stage.mdp)
        tpr = f"{stage.name}.tpr"
        if not (folder / tpr).exists():
            state = ["-t", f"{previous}.cpt"] if (folder / f"{previous}.cpt").exists() else []
            inputs = ["-f", f"{stage.name}.mdp", "-c", f"{previous}.gro", "-p", "topol.top"]
            outputs = ["-o", tpr, "-po", f"{stage.name}.out.mdp"]
            _gmx([gmx, "grompp", *inputs, *state, *outputs], folder)
        parallel = ["-ntmpi", "1", "-ntomp", f"{threads}", "-pin", "off"]
        restart = ["-cpi", f"{stage.name}.cpt", "-cpt", "2"]
        _gmx([gmx, "mdrun", "-deffnm", stage.name, *parallel, *restart], folder)
    check(folder / f"{stage.name}.gro")


def main() -> None:
    """Run every stage that is not yet done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gmx", default="gmx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--relaxation", type=float, default=20.0, help="ps, dilute")
    parser.add_argument("--compression", type=float, default=120.0, help="ps")
    parser.add_argument("--pressure", type=float, default=500.0, help="bar, of the compression")
    parser.add_argument("--hot", type=float, default=150.0, help="ps of annealing at 800 K")
    parser.add_argument("--cooling", type=float, default=250.0, help="ps from there to 568 K")
    parser.add_argument("--equilibration", type=float, default=0.8, help="ns")
    parser.add_argument("--production", type=float, default=1.5, help="ns")
    parser.add_argument("--every", type=float, default=1.0, help="ps from frame to frame")
    parser.add_argument("--seed", type=int, default=2026, help="of the velocities")
    options = parser.parse_args()
    previous = "start"
    check(options.folder / "start.gro")
    protocol = stages(
        options.equilibration,
        options.production,
        options.seed,
        relaxation=options.relaxation,
        compression=options.compression,
        pressure=options.pressure,
        hot_time=options.hot,
        cooling=options.cooling,
        every=options.every,
    )
    for stage in protocol:
        run_stage(stage, previous, options.folder, options.gmx, options.threads)
        previous = stage.name


if __name__ == "__main__":
    main()

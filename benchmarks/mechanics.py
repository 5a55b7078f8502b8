"""What a step of the mechanics costs, beside a GROMACS step of the same box in the same run.

    python benchmarks/mechanics.py                      # the reference box, 1 and 2 threads
    python benchmarks/mechanics.py --copies 8           # the box eight times along x
    python benchmarks/mechanics.py --smoke              # seconds, on the packaged melt, for CI

Bonds and beads are exact. The split is by parts called alone on one thread; ``list`` is spread over
the steps that a list serves. GROMACS is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

import deepbackmap
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mechanics import steps
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole

ROOT = Path(__file__).resolve().parents[1]
PACKAGED = Path(deepbackmap.__file__).parent / "packaged" / "melt"
SETTINGS = """integrator = sd
dt = 0.001
nsteps = {steps}
constraints = all-bonds
cutoff-scheme = Verlet
rcoulomb = 1.0
rvdw = 1.0
coulombtype = reaction-field
epsilon-rf = 0
tc-grps = system
tau-t = 0.1
ref-t = 568
gen-vel = yes
gen-temp = 568
nstlog = {steps}
nstenergy = {steps}
"""


def folder(smoke: bool) -> Path:
    shared = Path(os.environ.get("DEEPBACKMAP_DATA", ROOT.parent / "shared" / "data")) / "sps"
    return PACKAGED if smoke or not shared.exists() else shared


def repeated(
    mapping: SystemMapping, frame: Structure, copies: int
) -> tuple[SystemMapping, Structure]:
    topology = replace(mapping.topology, blocks=mapping.topology.blocks * copies)
    positions = np.concatenate([frame.positions + k * frame.box[0] for k in range(copies)])
    box = frame.box * np.array([[copies], [1], [1]])
    return replace(mapping, topology=topology), Structure(positions, box)


def median(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def gromacs_step(source: Path, threads: int, count: int) -> float | None:
    """Milliseconds of a step of GROMACS; None where it is not installed."""
    if shutil.which("gmx") is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        there = Path(name)
        for path in [*source.glob("*.top"), *source.glob("*.itp"), source / "aa.gro"]:
            shutil.copy(path, there)
        (there / "run.mdp").write_text(SETTINGS.format(steps=count))
        prepare = "gmx -quiet grompp -f run.mdp -c aa.gro -p topol.top -maxwarn 5 -o run.tpr"
        subprocess.run(prepare.split(), cwd=there, check=True, capture_output=True)
        run = f"gmx -quiet mdrun -deffnm run -ntmpi 1 -ntomp {threads} -resethway -noconfout"
        # the number of threads is given here, and GROMACS wants no other one in the environment
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        subprocess.run(run.split(), cwd=there, check=True, capture_output=True, env=environment)
        text = (there / "run.log").read_text()
    found = re.search(r"^\s+Time:\s+[\d.]+\s+([\d.]+)", text, re.MULTILINE)
    assert found is not None
    return 1e3 * float(found[1]) / (count / 2)


def parts(engine: Mechanics, x: np.ndarray, beads: np.ndarray, box: np.ndarray) -> dict[str, float]:
    """Milliseconds of the parts of a step, on one thread."""
    work = engine._work(x, beads, 0.0, np.arange(len(x)))
    work.box = box
    engine._project(work, 1e-6)
    listing = median(lambda: engine._list(work), 5)
    field, groups = engine._field(0.0), engine._places.groups
    moved, kinetic = np.zeros((2, len(groups.types)))
    lists = work.lists
    assert lists is not None
    near = median(lambda: steps.forces_of_pairs(lists, field, work.state, False, 0.0), 20)

    def molecules() -> None:
        steps.molecule_steps(
            work.tables, groups, work.state, lists.slots, lists.points, engine._quantiles, 0.95, 1,
            4.7, 0.002, 0.003, 1e-6, moved, kinetic,
        )  # fmt: skip

    found = {"list": listing, "pairs": near, "molecules": median(molecules, 20)}
    energies = np.zeros(len(groups.types) * 7 * 4)
    found["of these bonded"] = median(
        lambda: steps.bonded_all(
            work.tables, groups, work.state, 4.7, energies, 7, False
        ), 20
    )  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--cutoff", type=float, nargs="+", default=[0.7, 1.0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    count = 20 if options.smoke else options.steps
    source = folder(options.smoke)
    topology = read_topology(source / "topol.top")
    frame = read_frames(source / "aa.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    mapping = load_mapping("ps-two-bead").resolve(topology)
    mapping, frame = repeated(mapping, Structure(whole, frame.box), options.copies)
    x, beads = frame.positions, map_positions(mapping, frame.positions)
    print(f"{len(x)} atoms, load {os.getloadavg()[0]:.1f}")
    reference = {}
    for threads in options.threads if options.copies == 1 else []:
        found = gromacs_step(source, threads, 2 * count)
        if found is not None:
            reference[threads] = found
            print(f"GROMACS, 1.0 nm, {threads} threads: {found:.2f} ms a step")
    for cutoff in options.cutoff:
        for threads in options.threads:
            engine = Mechanics(mapping, cutoff=cutoff, threads=threads)
            names = np.arange(len(x))
            engine.run(x, beads, frame.box, Langevin(5, 568.0), names)
            start = time.perf_counter()
            run = engine.run(x, beads, frame.box, Langevin(count, 568.0), names)
            step = 1e3 * (time.perf_counter() - start) / count
            text = f"cut-off {cutoff}, {threads} threads: {step:.2f} ms a step"
            text += f", {1e3 * step / len(x):.3f} us an atom, {count / run.lists:.1f} steps a list"
            if threads in reference:
                text += f", {step / reference[threads]:.2f} GROMACS steps"
            print(text)
        split = parts(Mechanics(mapping, cutoff=cutoff, threads=1), x, beads, frame.box)
        print("   ms on one thread: " + ", ".join(f"{k} {v:.2f}" for k, v in split.items()))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()

"""Times a step of constrained dynamics with every engine, and the parts of OpenMM's.

    python benchmarks/engines.py [--steps 200] [--threads 1 2] [--smoke]

Every figure is the difference between a long run and a short one, so that starting does not
count. On a shared machine compare processor time, not wall time: the load is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import openmm as mm

import deepbackmap
from deepbackmap.dynamics.boxes import reduced
from deepbackmap.dynamics.constraints import Constraints, thermal_velocities
from deepbackmap.dynamics.containers import Dynamics, Engine, Interactions
from deepbackmap.dynamics.engines import ENGINES, choose, open_engine
from deepbackmap.dynamics.openmm_system import GROUPS, Recipe, build_system
from deepbackmap.errors import InputError
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import make_whole

ROOT = Path(__file__).resolve().parents[1]
TEMPERATURE = 568.0


@dataclass(frozen=True)
class System:
    """A box to time."""

    name: str
    topology: Topology
    start: Structure


def systems() -> list[System]:
    """The packaged melt and, where they are, the reference data."""
    packaged = Path(deepbackmap.__file__).parent / "packaged" / "melt"
    shared = Path(os.environ.get("DEEPBACKMAP_DATA", ROOT.parent / "shared" / "data"))
    found = []
    for name, folder in (("packaged melt", packaged), ("reference box", shared / "sps")):
        if (folder / "topol.top").exists():
            topology = read_topology(folder / "topol.top")
            found.append(System(name, topology, read_frames(folder / "aa.gro")[0]))
    return found


def clock(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the wall and of the processor, children included."""
    before = os.times()
    start = time.perf_counter()
    work()
    wall = time.perf_counter() - start
    after = os.times()
    return wall, sum(after[:4]) - sum(before[:4])


def step_cost(engine: Engine, start: Structure, steps: int, **options: object) -> list[float]:
    """Milliseconds a step, on the wall and of the processor, and seconds to start."""

    def run(n: int) -> None:
        chosen = {"every": 10, **options}
        engine.run(start, Dynamics(n, TEMPERATURE, seed=1, **chosen))  # type: ignore[arg-type]

    cold = clock(lambda: run(10))
    short = clock(lambda: run(10))
    long = clock(lambda: run(10 + steps))
    return [*(1e3 * (a - b) / steps for a, b in zip(long, short, strict=True)), cold[0]]


def engines(system: System, threads: list[int], steps: int) -> None:
    print(f"\n{system.name}: {system.topology.n_atoms} atoms")
    print("| engine | threads | ms a step, wall | ms a step, processor | first start, s | load |")
    print("|---|---|---|---|---|---|")
    for name in ENGINES:
        try:
            choose(name)
        except InputError:
            continue
        if name in ("auto", "openmm"):
            continue
        for n in threads:
            engine = open_engine(system.topology, name=name, threads=n)
            wall, cpu, cold = step_cost(engine, system.start, steps)
            load = os.getloadavg()[0]
            print(
                f"| {name} | {n} | {wall:.2f} | {cpu:.2f} | {cold:.1f} | {load:.1f} |", flush=True
            )


def parts(system: System, steps: int) -> None:
    """What a step of OpenMM's CPU platform is made of: the same step with parts left out."""
    print(f"\nOpenMM's CPU platform, {system.name}, one thread, ms of the processor a step")
    print("| variant | constraints | ms | first start, s |")
    print("|---|---|---|---|")
    everything = set(GROUPS) - {"coulomb only"}
    pairs = {"nonbonded", "lj", "coulomb"}
    rows: list[tuple[str, bool, set[str]]] = [
        ("all", True, everything),
        ("all, bonds as springs", False, everything),
        ("no pair forces", True, everything - pairs),
        ("no pair forces, bonds as springs", False, everything - pairs),
        ("no reaction field of excluded pairs", True, everything - {"excluded"}),
        ("no impropers", True, everything - {"improper"}),
    ]
    for name, constrain, kept in rows:
        cost, cold = part_cost(system, constrain, kept, steps)
        print(
            f"| {name} | {'all bonds' if constrain else 'none'} | {cost:.2f} | {cold:.1f} |",
            flush=True,
        )


def part_cost(system: System, constrain: bool, kept: set[str], steps: int) -> tuple[float, float]:
    """Milliseconds of the processor a step with some forces left out, and seconds to start."""
    topology, start = system.topology, system.start
    # springs hold the bonds of the variant without constraints at a step of 1 fs
    recipe = Recipe(constrain=constrain, bond_constant=None if constrain else 1e5)
    built = build_system(topology, Interactions(), recipe, None, reduced(start.box))
    for k in reversed(range(built.system.getNumForces())):
        group = built.system.getForce(k).getForceGroup()
        if group not in {GROUPS[name] for name in kept | {"bond"}}:
            built.system.removeForce(k)
    integrator = mm.LangevinMiddleIntegrator(TEMPERATURE, 10.0, 0.001)
    integrator.setConstraintTolerance(1e-5)
    platform = mm.Platform.getPlatformByName("CPU")
    contexts: list[mm.Context] = []

    def make() -> None:
        contexts.append(mm.Context(built.system, integrator, platform, {"Threads": "1"}))

    cold = clock(make)[1]
    fixed = Constraints.of(topology, bonds=True)
    positions = fixed.project(make_whole(start.positions, start.box, topology))
    contexts[0].setPositions(positions)
    velocities = thermal_velocities(fixed.masses, TEMPERATURE, 1)
    contexts[0].setVelocities(fixed.project_velocities(positions, velocities))
    integrator.step(10)
    return 1e3 * clock(lambda: integrator.step(steps))[1] / steps, cold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--smoke", action="store_true", help="a few steps of the packaged melt")
    options = parser.parse_args()
    chosen = systems()[:1] if options.smoke else systems()
    steps = 10 if options.smoke else options.steps
    for system in chosen:
        engines(system, options.threads, steps)
        parts(system, steps)


if __name__ == "__main__":
    main()

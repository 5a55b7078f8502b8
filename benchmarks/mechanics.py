"""What a step of the mechanics costs, beside a GROMACS step of the same box in the same run.

    python benchmarks/mechanics.py                      # the reference box, 1 and 2 threads
    python benchmarks/mechanics.py --copies 8           # the box eight times along x
    python benchmarks/mechanics.py --links 100          # all chains linked to one molecule
    python benchmarks/mechanics.py --device cuda       # steps/s of a card
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
import torch

import deepbackmap
from deepbackmap.geometry.cell import minimum_image, neighbour_pairs
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mechanics import steps
from deepbackmap.mechanics.card.engine import CardMechanics
from deepbackmap.mechanics.engine import Langevin, Mechanics
from deepbackmap.system import BondedTerms, Structure
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


def linked(mapping: SystemMapping, frame: Structure, links: int) -> tuple[SystemMapping, Structure]:
    """All copies of the one molecule type as a single molecule, with random links between them.

    Links are bonds at the distance that two heavy atoms of different copies have, at most
    ``REACH``; many of them go across the box.
    """
    topology = mapping.topology
    ((kind, count),) = topology.blocks
    m, b = topology.molecule_types[kind], mapping.molecules[kind]

    def copied(numbers: np.ndarray, each: int) -> np.ndarray:
        return np.concatenate([numbers + k * each for k in range(count)])

    heavy = np.flatnonzero(topology.masses() > 3.5)
    i, j, *_ = neighbour_pairs(frame.positions[heavy], frame.box, REACH)
    pairs = np.stack([heavy[i], heavy[j]], axis=1)
    pairs = pairs[
        (pairs[:, 0] < pairs[:, 1]) & (pairs[:, 0] // m.n_atoms != pairs[:, 1] // m.n_atoms)
    ]
    pairs = pairs[np.random.default_rng(0).permutation(len(pairs))]
    chosen: dict[tuple[int, int], None] = {}
    used: set[int] = set()
    for a, c in pairs.tolist():
        if len(chosen) < links and not used & {a, c}:
            chosen[a, c] = None
            used |= {a, c}
    atoms = np.array(list(chosen), dtype=np.int64).reshape(-1, 2)
    apart = minimum_image(frame.positions[atoms[:, 1]] - frame.positions[atoms[:, 0]], frame.box)
    terms = {
        name: BondedTerms(copied(t.atoms, m.n_atoms), np.tile(t.parameters, (count, 1)), t.grids)
        for name, t in m.terms.items()
    }
    terms["constraint"] = BondedTerms(
        np.concatenate([*(t.atoms for n, t in terms.items() if n == "constraint"), atoms]),
        np.concatenate([*(t.parameters for n, t in terms.items() if n == "constraint"),
                        np.linalg.norm(apart, axis=1)[:, None]]),
    )  # fmt: skip
    net = replace(
        m, name="NET", atom_names=m.atom_names * count, atom_types=m.atom_types * count,
        residue_names=m.residue_names * count, residue_numbers=np.tile(m.residue_numbers, count),
        charges=np.tile(m.charges, count), masses=np.tile(m.masses, count), terms=terms,
        exclusions=np.concatenate([copied(m.exclusions, m.n_atoms), atoms]),
        pairs=BondedTerms(
            copied(m.pairs.atoms, m.n_atoms), np.tile(m.pairs.parameters, (count, 1))
        ),
    )  # fmt: skip
    beads = replace(
        b, bead_names=b.bead_names * count, bead_types=b.bead_types * count,
        bead_residue_names=b.bead_residue_names * count,
        bead_residue_numbers=np.tile(b.bead_residue_numbers, count),
        weight_atoms=copied(b.weight_atoms, m.n_atoms),
        weight_beads=copied(b.weight_beads, b.n_beads), weights=np.tile(b.weights, count),
        owner=copied(b.owner, b.n_beads), bead_bonds=copied(b.bead_bonds, b.n_beads),
        align=copied(b.align, b.n_beads), order=copied(b.order, b.n_beads),
    )  # fmt: skip
    whole = replace(topology, molecule_types=(net,), blocks=((0, 1),))
    return SystemMapping(whole, (beads,)), frame


REACH = 0.42
"""nm: between heavy atoms that are linked."""


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
    work = engine._work(x, beads, 0.0, np.arange(len(x)), box)
    engine._project(work, 1e-6)
    listing = median(lambda: engine._list(work), 5)
    field, groups = engine._field(0.0), engine._places.groups
    moved, kinetic = np.zeros(len(groups.types)), np.zeros(2)
    lists = work.lists
    assert lists is not None
    near = median(lambda: steps.forces_of_pairs(lists, field, work.state, False, 0.0), 20)

    def step() -> None:
        steps.advance(
            work.tables, groups, work.state, lists, field, engine._quantiles, 0.95, 0, 1, 2, 0,
            np.full(2, 4.7), 0.002, 0.003, (1e-6, 1e-6), np.inf, moved, kinetic,
        )  # fmt: skip

    found = {"list": listing, "pairs": near, "molecules": median(step, 20) - near}
    energies = np.zeros(len(groups.types) * 7 * 4)
    found["of these bonded"] = median(
        lambda: steps.bonded_all(
            work.tables, groups, work.state, 4.7, energies, 7, False
        ), 20
    )  # fmt: skip
    return found


def on_device(name: str) -> torch.device:
    """The device of a name on the command line."""
    return torch.device(name.removesuffix("-torch"))


def memory(device: torch.device) -> float:
    """Peak, GiB: of the card, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_tensors(
    mapping: SystemMapping, frame: Structure, cutoff: float, count: int, device: torch.device
) -> str:
    """Rate of the steps in tensors, beads exact."""
    x, beads = frame.positions, map_positions(mapping, frame.positions, frame.box)
    engine, names = CardMechanics(mapping, device=device, cutoff=cutoff), np.arange(len(x))
    engine.run(x, beads, frame.box, Langevin(5, 568.0), names)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    run = engine.run(x, beads, frame.box, Langevin(count, 568.0), names)  # ends with a copy back
    seconds = time.perf_counter() - start
    return (
        f"{len(x)} atoms, cut-off {cutoff}, {device}: {count / seconds:.1f} steps/s, "
        f"{1e6 * seconds / count / len(x):.4f} us an atom, {count / run.lists:.1f} steps a list, "
        f"{memory(device):.2f} GiB" + (", BONDS OFF" if len(run.broken) else "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--links", type=int, help="link all chains to one molecule, so often")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--cutoff", type=float, nargs="+", default=[0.7, 1.0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", choices=("cpu", "cpu-torch", "cuda"), default="cpu")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    count = 20 if options.smoke else options.steps
    source = folder(options.smoke)
    topology = read_topology(source / "topol.top")
    frame = read_frames(source / "aa.gro")[0]
    whole = make_whole(frame.positions, frame.box, topology)
    mapping = load_mapping("ps-two-bead").resolve(topology)
    mapping, frame = repeated(mapping, Structure(whole, frame.box), options.copies)
    if options.links is not None:
        mapping, frame = linked(mapping, frame, options.links)
    if options.device != "cpu":
        for cutoff in options.cutoff:
            print(in_tensors(mapping, frame, cutoff, count, on_device(options.device)), flush=True)
        return
    x, beads = frame.positions, map_positions(mapping, frame.positions, frame.box)
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
            start, used = time.perf_counter(), time.process_time()
            run = engine.run(x, beads, frame.box, Langevin(count, 568.0), names)
            step = 1e3 * (time.perf_counter() - start) / count
            text = f"cut-off {cutoff}, {threads} threads: {step:.2f} ms a step"
            text += f" ({1e3 * (time.process_time() - used) / count:.2f} of processors)"
            if len(run.broken):
                text += ", BONDS OFF"
            text += f", {1e3 * step / len(x):.3f} us an atom, {count / run.lists:.1f} steps a list"
            if threads in reference:
                text += f", {step / reference[threads]:.2f} GROMACS steps"
            print(text)
        split = parts(Mechanics(mapping, cutoff=cutoff, threads=1), x, beads, frame.box)
        print("   ms on one thread: " + ", ".join(f"{k} {v:.2f}" for k, v in split.items()))
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()

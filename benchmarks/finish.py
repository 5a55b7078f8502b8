"""Prints how far a finish brings placed structures: quality against force evaluations.

    python benchmarks/finish.py
    python benchmarks/finish.py --start ours=ours_568K.xtc --temperature 568 --frames 12
    python benchmarks/finish.py --scan
    python benchmarks/finish.py --smoke

Every row is one number of force evaluations: some of minimisation with stiff bonds, the rest steps
of constrained Langevin dynamics, along one run per frame (0: the start as it is). All rows compare
the same frames with all reference frames of that temperature. ``--scan`` varies the minimisation
instead (evaluations and stiffness) before a fixed number of steps. Reference data as in
quality.py; without --start the published structures are finished.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from quality import data_folder

from deepbackmap.dynamics.containers import Dynamics, Engine, EngineError, Minimisation
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.dynamics.finishing import FinishOptions, seed_from
from deepbackmap.errors import InputError
from deepbackmap.evaluation import Measurements, Plan, measure, tabulate
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, read_frames
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole

EVALUATIONS = (0, 100, 250, 500, 1000, 3000)
COLUMNS = ("score", "LJ per chain, shift of the mean", "LJ per chain", "dihedral energy, ratio",
           "angle energy, ratio", "improper energy, ratio", "g(r), mean absolute error",
           "inverted stereocentres", "bonds through rings")  # fmt: skip
SCAN_MINIMISE, SCAN_BONDS, SCAN_STEPS = (0, 5, 10, 20, 50), (1e5, 3e5, 1e6), (100,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 2 means that an input is wrong."""
    options = parse(arguments)
    try:
        run(options)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--start", action="append", help="NAME=FILE.xtc, as often as needed")
    parser.add_argument("--temperature", type=int, default=568, help="in K (default 568)")
    parser.add_argument("--frames", type=int, default=12, help="of each start (default 12)")
    parser.add_argument("--evaluations", default=",".join(map(str, EVALUATIONS)))
    parser.add_argument("--minimise", type=int, default=FinishOptions.minimise)
    parser.add_argument("--bond-constant", type=float, default=FinishOptions.bond_constant)
    parser.add_argument("--friction", type=float, default=FinishOptions.friction, help="1/ps")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder that holds sps")
    parser.add_argument("--output", type=Path, help="JSON to write")
    parser.add_argument("--scan", action="store_true", help="vary the minimisation instead")
    parser.add_argument("--smoke", action="store_true", help="one frame, 30 evaluations")
    options = parser.parse_args(arguments)
    options.evaluations = sorted({int(n) for n in options.evaluations.split(",")})
    if options.smoke:
        options.frames, options.evaluations = 1, [0, 30]
    return options


def run(options: argparse.Namespace) -> None:
    """Finishes, compares and prints."""
    folder = data_folder(options.data)
    topology = read_topology(folder / "topol.top")
    plan = Plan.from_topology(topology)
    engine = open_engine(
        topology, atom_table(topology), name=options.engine, threads=options.threads
    )
    prefix = f"test_{options.temperature}K"
    limit = "0:3" if options.smoke else None
    with read_frames(folder / "aa.gro", folder / f"{prefix}_aa.xtc", frames=limit) as source:
        reference = measure(plan, source, source=str(source.path))
        proper = mean_dihedral_energy(plan, source)
    published = {"paper": folder / f"{prefix}_paper_deepbackmap.xtc"}
    starts = dict(entry.split("=", 1) for entry in options.start) if options.start else published
    results = {}
    for name, path in starts.items():
        with read_frames(folder / "aa.gro", path, frames=f"0:{options.frames}") as source:
            frames = [
                replace(f, positions=make_whole(f.positions, f.box, topology)) for f in source
            ]
        print(f"{name}, {options.temperature} K, {len(frames)} frames against "
              f"{reference.n_frames}, {engine.name}\n")  # fmt: skip
        rows = (scan if options.scan else curve)(options, engine, frames)
        results[name] = print_rows(plan, reference, proper, rows)
    if options.output:
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def curve(options: argparse.Namespace, engine: Engine, frames: Sequence[Structure]) -> list:
    """(label, frames, seconds a frame) after each number of force evaluations."""
    rows = {n: ([], []) for n in options.evaluations}
    for k, frame in enumerate(frames):
        began = time.perf_counter()
        for n, found in along(options, engine, frame, options.evaluations, k).items():
            rows[n][0].append(found[0])
            rows[n][1].append(found[1] - began)
    return [(str(n), made, float(np.mean(taken))) for n, (made, taken) in rows.items()]


def along(
    options: argparse.Namespace, engine: Engine, frame: Structure, marks: Sequence[int], number: int
) -> dict[int, tuple[Structure, float]]:
    """The structure after each number of force evaluations, and when it was there."""
    found = {0: (frame, time.perf_counter())} if 0 in marks else {}
    marks = [n for n in marks if n > 0]
    if not marks:
        return found
    done, velocities = 0, None
    if options.minimise:
        lowered = engine.minimise(frame, Minimisation(options.minimise, options.bond_constant))
        frame, done = lowered.structure, lowered.force_evaluations
    for n in marks:
        if n > done:
            steps = n - done
            piece = Dynamics(
                steps,
                float(options.temperature),
                friction=options.friction,
                seed=seed_from(options.seed, number, n),
                every=steps,
            )
            segment = engine.run(frame, piece, velocities)
            frame, velocities, done = segment.structure, segment.velocities, n
        found[n] = frame, time.perf_counter()
    return found


def scan(options: argparse.Namespace, engine: Engine, frames: Sequence[Structure]) -> list:
    """(label, frames, seconds a frame) for each way to minimise before the same dynamics."""
    rows = []
    for steps in SCAN_STEPS:
        for minimise in SCAN_MINIMISE:
            for constant in SCAN_BONDS if minimise else SCAN_BONDS[:1]:
                options.minimise, options.bond_constant = minimise, constant
                label = f"{minimise} at {constant:g}, {steps} steps" if minimise else f"{steps}"
                made, began = [], time.perf_counter()
                try:
                    for k, frame in enumerate(frames):
                        n = minimise + steps
                        made.append(along(options, engine, frame, [n], k)[n][0])
                except EngineError as error:
                    print(f"{label}: frame {k}: {error}")
                    continue
                rows.append((label, made, (time.perf_counter() - began) / len(frames)))
    return rows


def mean_dihedral_energy(plan: Plan, frames: Sequence[Structure]) -> float:
    """Of proper dihedrals, kJ/mol a frame."""
    return float(np.mean([plan.forcefield.energies_by_term(f)["proper"] for f in frames]))


def print_rows(plan: Plan, reference: Measurements, proper: float, rows: list) -> list[dict]:
    """Prints a table and returns it for JSON."""
    print("| evaluations | " + " | ".join(COLUMNS) + " | s a frame |")
    print("|" + "---|" * (len(COLUMNS) + 2))
    content = []
    for label, frames, seconds in rows:
        table = tabulate(plan, reference, measure(plan, frames, source=label))
        values = {"score": table.score, **{row.name: row.value for row in table}}
        values["dihedral energy, ratio"] = mean_dihedral_energy(plan, frames) / proper
        shown = [f"{values[c]:.4f}" if c in values else "" for c in COLUMNS]
        print(f"| {label} | " + " | ".join(shown) + f" | {seconds:.2f} |", flush=True)
        content.append({"evaluations": label, "seconds_a_frame": seconds, **values})
    print()
    return content


if __name__ == "__main__":
    sys.exit(main())

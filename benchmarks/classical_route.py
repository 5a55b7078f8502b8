"""Prints how far the classical route comes: templates, then a finish, against force evaluations.

    python benchmarks/classical_route.py --work FOLDER
    python benchmarks/classical_route.py --work FOLDER --temperatures 313 --minimise 100 --hold 2000
    python benchmarks/classical_route.py --work FOLDER --model default --minimise 0
    python benchmarks/classical_route.py --work FOLDER --smoke

Rigid templates are set onto the first beads of the published trajectory (``deepbackmap baseline
--method template --no-minimise``), then minimised with stiff bonds and run with all bonds
constrained (Langevin); every row is one number of force evaluations of one run a frame, with those
of the minimisation (0: as placed). All rows compare the same frames with all reference frames of
that temperature. With ``--model`` a model places the atoms instead, and the rest is the same: its
own force evaluations (``--relaxation``) are not counted in the rows, but its seconds are. FOLDER
keeps what was made, so that a run that was stopped goes on; figures and settings go to
FOLDER/classical-route.json. Reference data as in quality.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quality import PUBLISHED_MAPPING, data_folder, open_sampler_of, read_beads

from deepbackmap.api.baseline import find_templates
from deepbackmap.baselines.placement import TemplateOptions, TemplatePlacer
from deepbackmap.baselines.templates import TemplateSet
from deepbackmap.dynamics.containers import Dynamics, Engine, Hold, Minimisation
from deepbackmap.dynamics.engines import open_engine
from deepbackmap.dynamics.finishing import seed_from
from deepbackmap.errors import InputError
from deepbackmap.evaluation import Beads, Measurements, Plan, measure, tabulate
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, read_frames
from deepbackmap.mapping import SystemMapping, load_mapping
from deepbackmap.system import Structure, Topology

EVALUATIONS = (0, 50, 100, 250, 500, 1000, 3000)
COLUMNS = ("score", "LJ per chain, shift of the mean", "LJ per chain, shift of the median",
           "dihedral energy, ratio", "angle energy, ratio", "improper energy, ratio",
           "dihedral C-C-C-C", "angle C-C-C", "LJ per chain", "g(r), mean absolute error",
           "pairs closer than 0.6 sigma", "inverted stereocentres", "bonds through rings",
           "re-mapped beads, rms distance")  # fmt: skip


@dataclass(frozen=True)
class Route:
    """What is done to a frame after the templates are placed."""

    minimise: int
    """Force evaluations."""
    bond_constant: float
    friction: float
    """1/ps."""
    hold: float
    """Of the beads, kJ mol-1 nm-2; 0: not held."""
    hold_until: int
    """Force evaluations after which the beads are let go."""
    draw: bool
    """Templates drawn at the temperature; else those of lowest energy."""
    candidates: int
    sweeps: int
    seed: int
    mapping: str = PUBLISHED_MAPPING
    model: str = ""
    """What places the atoms; templates where it is empty."""
    relaxation: int | None = None
    """Steps inside the model; None: its own default."""

    def name(self) -> str:
        """Of its folder."""
        held = f"h{self.hold:g}u{self.hold_until}" if self.hold else "free"
        drawn = "draw" if self.draw else "lowest"
        drawn = drawn if self.mapping == PUBLISHED_MAPPING else f"{Path(self.mapping).stem}{drawn}"
        if self.model:
            placed = f"{Path(self.model).stem}x{self.relaxation}r{self.seed}"
            return f"m{self.minimise}k{self.bond_constant:g}f{self.friction:g}{held}{placed}"
        return (
            f"m{self.minimise}k{self.bond_constant:g}f{self.friction:g}{held}{drawn}"
            f"c{self.candidates}s{self.sweeps}r{self.seed}"
        )


@dataclass(frozen=True)
class Task:
    """One temperature."""

    temperature: int
    system: SystemMapping
    engine: Engine
    marks: tuple[int, ...]
    place: Callable[[Structure, int], Structure]
    """Puts atoms onto the beads of a frame with a number."""


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
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--temperatures", default="568,313", help="in K, with commas")
    parser.add_argument("--frames", type=int, default=12, help="of each (default 12)")
    parser.add_argument("--evaluations", default=",".join(map(str, EVALUATIONS)))
    parser.add_argument("--templates", type=Path, help="file; the packaged ones by default")
    parser.add_argument("--minimise", type=int, default=10, help="force evaluations (default 10)")
    parser.add_argument("--bond-constant", type=float, default=500_000.0)
    parser.add_argument("--friction", type=float, default=50.0, help="1/ps (default 50)")
    parser.add_argument("--hold", type=float, default=0.0, help="kJ mol-1 nm-2 on beads")
    parser.add_argument("--hold-until", type=int, default=10**9, help="force evaluations")
    parser.add_argument("--lowest", action="store_true", help="templates of lowest energy")
    parser.add_argument("--candidates", type=int, default=TemplateOptions.candidates)
    parser.add_argument("--sweeps", type=int, default=TemplateOptions.sweeps)
    parser.add_argument("--model", default="", help="places the atoms instead of templates")
    parser.add_argument(
        "--mapping", default=PUBLISHED_MAPPING, help="of the beads; others are made from the atoms"
    )
    parser.add_argument("--relaxation", type=int, help="of the model; default its own")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder that holds sps")
    parser.add_argument("--smoke", action="store_true", help="one frame, 30 evaluations")
    options = parser.parse_args(arguments)
    options.evaluations = sorted({int(n) for n in options.evaluations.split(",")})
    options.temperatures = [int(t) for t in options.temperatures.split(",")]
    if options.smoke:
        options.frames, options.evaluations, options.temperatures = 1, [0, 30], [568]
    return options


def run(options: argparse.Namespace) -> None:
    """Makes, compares and prints."""
    folder = data_folder(options.data)
    topology = read_topology(folder / "topol.top")
    file = load_mapping(options.mapping)
    system = file.resolve(topology)
    plan = Plan.from_topology(topology)
    route = Route(
        options.minimise, options.bond_constant, options.friction, options.hold,
        options.hold_until, not options.lowest, options.candidates, options.sweeps, options.seed,
        options.mapping, options.model, options.relaxation,
    )  # fmt: skip
    engine = open_engine(
        topology, atom_table(topology), name=options.engine, threads=options.threads,
        mapping=system,
    )  # fmt: skip
    templates = find_templates(file, system, options.templates)
    results: dict[str, object] = {"route": route.__dict__, "engine": engine.name}
    for temperature in options.temperatures:
        if route.model:
            place = model_placement(route, topology, float(temperature))
        else:
            place = template_placement(route, templates, system, float(temperature))
        task = Task(temperature, system, engine, tuple(options.evaluations), place)
        prefix = f"test_{temperature}K"
        beads = read_beads(folder, temperature, system, f"0:{options.frames}")
        limit = "0:3" if options.smoke else None
        with read_frames(folder / "aa.gro", folder / f"{prefix}_aa.xtc", frames=limit) as source:
            frames = list(source)
        reference = measure(plan, frames, source=str(source.path))
        proper = mean_dihedral_energy(plan, frames)
        made = [
            frame_marks(task, route, frame, k, options.work / route.name())
            for k, frame in enumerate(beads)
        ]
        print(f"{temperature} K, {len(beads)} frames against {reference.n_frames}, {engine.name}, "
              f"{route}\n")  # fmt: skip
        results[str(temperature)] = print_rows(plan, reference, proper, task, beads, made)
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "classical-route.json").write_text(json.dumps(results, indent=2) + "\n")


def frame_marks(
    task: Task, route: Route, beads: Structure, number: int, folder: Path
) -> dict[int, tuple[Structure, float]]:
    """The frame after each number of force evaluations and the seconds that took, kept in files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task.temperature}K-{number}.npz"
    if path.exists():
        with np.load(path) as kept:
            if tuple(kept["marks"]) == task.marks:
                return {
                    int(n): (Structure(x, beads.box, beads.time), float(s))
                    for n, x, s in zip(
                        kept["marks"], kept["positions"], kept["seconds"], strict=True
                    )
                }
    found = make(task, route, beads, number)
    aside = path.with_suffix(".part.npz")
    np.savez(
        aside,
        marks=np.array(task.marks),
        positions=np.stack([found[n][0].positions for n in task.marks]),
        seconds=np.array([found[n][1] for n in task.marks]),
    )
    aside.replace(path)
    return found


def make(
    task: Task, route: Route, beads: Structure, number: int
) -> dict[int, tuple[Structure, float]]:
    """Places, minimises and runs one frame."""
    temperature = float(task.temperature)
    began = time.perf_counter()
    frame = task.place(beads, number)
    found = {0: (frame, time.perf_counter() - began)}
    done, velocities = 0, None
    hold = Hold(beads.positions, route.hold) if route.hold else None
    if route.minimise and max(task.marks) > 0:
        options = Minimisation(route.minimise, route.bond_constant)
        lowered = task.engine.minimise(frame, options, hold)
        frame, done = lowered.structure, lowered.force_evaluations
    for n in task.marks:
        if n > done:
            piece = Dynamics(n - done, temperature, friction=route.friction,
                             seed=seed_from(route.seed, number, n), every=n - done)  # fmt: skip
            held = hold if done < route.hold_until else None
            segment = task.engine.run(frame, piece, velocities, held)
            frame, velocities, done = segment.structure, segment.velocities, n
        if n > 0:
            found[n] = frame, time.perf_counter() - began
    return {n: found[n] for n in task.marks}


def template_placement(
    route: Route, templates: TemplateSet, system: SystemMapping, temperature: float
) -> Callable[[Structure, int], Structure]:
    """Templates onto beads."""
    chosen = TemplateOptions(
        candidates=route.candidates, sweeps=route.sweeps, seed=route.seed,
        temperature=temperature if route.draw else None,
    )  # fmt: skip
    placer = TemplatePlacer(system, templates, chosen)
    return lambda beads, number: placer.place(beads, frame=number)


def model_placement(
    route: Route, topology: Topology, temperature: float
) -> Callable[[Structure, int], Structure]:
    """A model with its own defaults onto beads."""
    given = {"temperature": temperature, "seed": route.seed, "relaxation": route.relaxation}
    sampler = open_sampler_of(route.model, topology, given)
    return lambda beads, number: sampler.sample(beads, frame=number)


def print_rows(
    plan: Plan,
    reference: Measurements,
    proper: float,
    task: Task,
    beads: Sequence[Structure],
    made: Sequence[dict[int, tuple[Structure, float]]],
) -> list[dict]:
    """Prints a table and returns it for JSON."""
    print("| force evaluations | " + " | ".join(COLUMNS) + " | s a frame |")
    print("|" + "---|" * (len(COLUMNS) + 2))
    content = []
    for n in task.marks:
        frames = [per_frame[n][0] for per_frame in made]
        given = Beads(beads, task.system)
        table = tabulate(plan, reference, measure(plan, frames, source=f"{n}", beads=given))
        values = {"score": table.score, **{row.name: row.value for row in table}}
        values["dihedral energy, ratio"] = mean_dihedral_energy(plan, frames) / proper
        seconds = float(np.mean([per_frame[n][1] for per_frame in made]))
        shown = [f"{values[c]:.4f}" if c in values else "" for c in COLUMNS]
        print(f"| {n} | " + " | ".join(shown) + f" | {seconds:.1f} |", flush=True)
        content.append({"evaluations": n, "seconds_a_frame": seconds, **values})
    print()
    return content


def mean_dihedral_energy(plan: Plan, frames: Sequence[Structure]) -> float:
    """Of proper dihedrals, kJ/mol a frame."""
    return float(np.mean([plan.forcefield.energies_by_term(f)["proper"] for f in frames]))


if __name__ == "__main__":
    sys.exit(main())

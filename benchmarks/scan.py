"""Which sweeps, candidates and choices are worth their time (docs/sampling.md).

    python benchmarks/scan.py --frames 2 --temperatures 568,313 \\
        --model ps-two-bead-568K --sweeps 0,1,2 --candidates 1,4 --choices lowest,boltzmann \\
        --relaxation 0,40
    python benchmarks/scan.py --frames 12 --sweeps 0 --candidates 1 --steps 6,10 --relaxation 0,20

Prints one row a combination: score and some of its parts against all reference frames, and seconds
a frame. With one candidate the choice means nothing and is left out.
"""

from __future__ import annotations

import argparse
import itertools
import time

from quality import data_folder, read_beads

from deepbackmap.api.devices import choose_device
from deepbackmap.api.hands import handedness_of
from deepbackmap.api.models import find_model
from deepbackmap.evaluation.observables import Beads, measure
from deepbackmap.evaluation.plan import Plan
from deepbackmap.evaluation.table import tabulate
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import MappingFile
from deepbackmap.methods import find_options
from deepbackmap.methods.base import open_sampler
from deepbackmap.model.file import load_model

ROWS = {
    "score": "score",
    "CCC": "angle C-C-C",
    "CCH": "angle C-C-H",
    "ring": "angle C_AR-C_AR-C_AR",
    "dihedral": "dihedral C-C-C-C",
    "improper": "impropers",
    "LJ": "LJ per chain",
    "LJ shift": "LJ per chain, shift of the median",
    "LJ mean": "LJ per chain, shift of the mean",
    "E angle": "angle energy, ratio",
    "E impr": "improper energy, ratio",
    "inv %": "inverted stereocentres",
    "pierced": "bonds through rings",
    "bond": "bond length deviation, rms",
}


def _list(text: str) -> list[int]:
    return [int(v) for v in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--temperatures", default="568,313")
    parser.add_argument("--sweeps", default="0,1,2")
    parser.add_argument("--candidates", default="1,4")
    parser.add_argument("--choices", default="lowest,boltzmann")
    parser.add_argument("--relaxation", default="0")
    parser.add_argument("--cold-start", default="1", help="of a point model's relaxation")
    parser.add_argument("--steps", default="10", help="along the flow of a point model")
    parser.add_argument("--first", type=int, default=1, help="every how many frames one is taken")
    arguments = parser.parse_args()
    folder = data_folder(None)
    topology = read_topology(folder / "topol.top")
    model = load_model(find_model(arguments.model))
    mapping = MappingFile.from_text(model.spec.mapping).resolve(topology)
    plan = Plan.from_topology(topology)
    print(
        "  T/K sweeps cand choice     relax  cold  flow  s/frame "
        + " ".join(f"{k:>9s}" for k in ROWS)
    )
    for temperature in _list(arguments.temperatures):
        names = [folder / f"test_{temperature}K_{kind}.xtc" for kind in ("aa", "cg")]
        reference = measure(plan, list(read_frames(folder / "aa.gro", names[0])))
        chosen = f"0:{arguments.frames * arguments.first}:{arguments.first}"
        beads = read_beads(folder, temperature, mapping, chosen)
        cases = itertools.product(
            _list(arguments.sweeps),
            _list(arguments.candidates),
            arguments.choices.split(","),
            _list(arguments.relaxation),
            [float(v) for v in arguments.cold_start.split(",")],
            _list(arguments.steps),
        )
        for sweeps, candidates, choice, relaxation, cold, steps in cases:
            if candidates == 1 and choice != arguments.choices.split(",")[0]:
                continue
            kind = find_options(model.spec.method).sampling
            asked = {
                "sweeps": sweeps, "candidates": candidates, "choice": choice,
                "relaxation": relaxation, "block_relaxation": relaxation, "cold_start": cold,
                "steps": steps, "temperature": float(temperature),
            }  # fmt: skip
            options = kind(**{k: v for k, v in asked.items() if k in kind.names()})
            device = choose_device(arguments.device)
            hands = handedness_of(mapping, model.spec.handedness)
            sampler = open_sampler(model, mapping, options, device, hands)
            start = time.perf_counter()
            made = [sampler.sample(b, frame=k) for k, b in enumerate(beads)]
            seconds = (time.perf_counter() - start) / len(beads)
            generated = measure(plan, made, beads=Beads(beads, mapping))
            table = tabulate(plan, reference, generated)
            values = {row.name: row.value for row in table} | {"score": table.score}
            shown = choice if candidates > 1 else "-"
            print(
                f"{temperature:5d} {sweeps:6d} {candidates:4d} {shown:10s} "
                f"{relaxation:5d} {cold:5.2f} {steps:5d} "
                f"{seconds:8.1f} "
                + " ".join(f"{values.get(v, float('nan')):9.4f}" for v in ROWS.values()),
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Prints how well a model puts the atoms of other melts back, hands told.

    python benchmarks/own_melts.py runs/atactic runs/isotactic --frames 12

Each folder is a melt as ``tools/melt`` makes it (``prod.gro``, ``prod.xtc``, ``tacticity.txt``) or
packages it (``aa.gro``, ``aa.xtc``). Some frames, evenly spaced, are mapped to beads and back; the
first frame says the hands (``backmap --like``). What comes out and the frames' own atoms are both
compared with the melt's other frames: the second is the floor, which nothing can do better than.
A melt that is sampled thinly has frames that resemble one another, and so a low floor. With --after
frames are put back that come later in the run than a model saw, and compared with those before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from quality import split

from deepbackmap.api.backmap import backmap
from deepbackmap.errors import InputError
from deepbackmap.evaluation import Measurements, Plan, measure, tabulate
from deepbackmap.evaluation.defects import Figures
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.system import Structure
from deepbackmap.system.whole import make_whole

NAMES = ("prod", "aa")
"""Of a melt's files, the run's and the packaged ones."""
HEAD = [
    "melt", "frames", "score", "floor", "ratio", "angle energy, ratio", "LJ median (sd)",
    "wrong hands", "pairs under 0.6 sigma", "pierced", "beads moved, rms (nm)", "seconds a frame",
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 2 means that an input is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("melts", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--frames", type=int, default=12, help="to put back, of each melt")
    parser.add_argument("--stride", type=int, default=1, help="take every n-th frame of the run")
    parser.add_argument(
        "--after", type=int, help="put back frames of the run from this number on only"
    )  # fmt: skip
    parser.add_argument("--model", default="default")
    parser.add_argument("--mapping", default="ps-two-bead", help="the model's")
    parser.add_argument("--temperature", type=float, default=568.0, help="K")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    try:
        for folder in options.melts:
            with tempfile.TemporaryDirectory() as scratch:
                print("| " + " | ".join(row(folder, options, Path(scratch))) + " |", flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def row(folder: Path, options: argparse.Namespace, scratch: Path) -> list[str]:
    """The cells of one melt."""
    frames = melt_frames(folder, options.stride)
    topology = read_topology(folder / "topol.top")
    plan = Plan.from_topology(topology)
    chosen, rest = choose(len(frames), options)
    own, others = ([frames[k] for k in which] for which in (chosen, rest))
    made, figures, seconds = put_back(folder, own, options, scratch)
    reference = measure(plan, others)
    floor = tabulate(plan, reference, measure(plan, own)).score
    return cells(folder.name, plan, reference, floor, made, figures, seconds)


def choose(count: int, options: argparse.Namespace) -> tuple[Sequence[int], Sequence[int]]:
    """Which frames are put back, and which they are compared with.

    Raises:
        InputError: none are left for one of them.
    """
    if options.after is None:
        return split(count, options.frames)
    first = -(-options.after // options.stride)
    later = np.arange(first, count)
    if not 0 < first < count:
        raise InputError(
            f"after: expected a frame with others before and behind it among the {count} "
            f"frames taken, found {options.after}"
        )
    some = np.linspace(0, len(later) - 1, min(options.frames, len(later))).round().astype(int)
    return later[some].tolist(), list(range(first))


def melt_frames(folder: Path, stride: int) -> list[Structure]:
    """Every so many frames of a melt.

    Raises:
        InputError: the folder holds none, or too few to compare.
    """
    for name in NAMES:
        if (folder / f"{name}.gro").is_file() and (folder / f"{name}.xtc").is_file():
            with read_frames(folder / f"{name}.gro", folder / f"{name}.xtc",
                             frames=f"::{stride}") as source:  # fmt: skip
                found = list(source)
            if len(found) > 1:
                return found
            raise InputError(f"{folder}: expected at least 2 frames, found {len(found)}")
    raise InputError(f"{folder}: expected a melt, found neither prod.gro nor aa.gro with its .xtc")


def put_back(
    folder: Path, own: Sequence[Structure], options: argparse.Namespace, scratch: Path
) -> tuple[list[Structure], Figures, float]:
    """Atoms of the frames' beads, what the judge finds in them, and seconds a frame."""
    topology = read_topology(folder / "topol.top")
    system = load_mapping(options.mapping).resolve(topology)
    beads = [
        replace(f, positions=map_positions(system, make_whole(f.positions, f.box, topology)))
        for f in own
    ]
    for end, some in (("gro", beads[:1]), ("xtc", beads)):
        with open_writer(scratch / f"cg.{end}", bead_table(system), force=True) as writer:
            for frame in some:
                writer.write(frame)
    with open_writer(scratch / "like.gro", atom_table(topology), force=True) as writer:
        writer.write(own[0])
    summary = backmap(
        scratch / "cg.gro", scratch / "cg.xtc", topology=folder / "topol.top",
        output=scratch / "made.gro", model=options.model, like=scratch / "like.gro",
        temperature=options.temperature, seed=options.seed, keep_defects=True, force=True,
        progress=False,
    )  # fmt: skip
    with read_frames(scratch / "made.gro") as source:
        return list(source), summary.figures, summary.seconds / max(1, summary.frames)


def cells(
    name: str,
    plan: Plan,
    reference: Measurements,
    floor: float,
    made: Sequence[Structure],
    figures: Figures,
    seconds: float,
) -> list[str]:
    """As they are printed."""
    table = tabulate(plan, reference, measure(plan, made))
    values = {r.name: r.value for r in table}
    shifts = [v for k, v in values.items() if k.endswith("shift of the median")]
    return [
        name, str(len(made)), f"{table.score:.4f}", f"{floor:.4f}", f"{table.score / floor:.2f}",
        f"{values['angle energy, ratio']:.3f}", f"{np.mean(shifts):+.2f}",
        f"{figures.hands.wrong} of {figures.hands.known}", str(figures.contacts.clashes),
        str(figures.rings.pierced), f"{figures.beads.rms:.4f}", f"{seconds:.1f}",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

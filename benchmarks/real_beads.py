"""Prints what every route makes of beads that users bring, of noisy beads and of mirror images.

    python benchmarks/real_beads.py --routes default
    python benchmarks/real_beads.py --parts noise mirror --noise-frames 6
    python benchmarks/real_beads.py --smoke

Four parts. ``real``: frames of coarse-grained simulations (``sps_cg``, ``aps_cg``), which no atoms
were mapped to, and mapped frames beside them. ``noise``: beads of mapped test frames with Gaussian
noise; if beads are a noisy observation of the atoms, a draw from the exact posterior has the
reference's distributions whatever the noise. ``mirror``: mirror images of test frames, hands told
or not, judged after they are mirrored back. ``md`` (only where it is asked for): the first frame
of ``sps_cg``, as the default route leaves it, runs at once at its temperature, in the volume of its
beads, with all bonds held.

The reference data (folders ``sps``, ``sps_cg`` and ``aps_cg`` inside the folder that --data or
DEEPBACKMAP_DATA names, else ``../shared/data`` beside the repository) are published structures. A
monomer is what ``ps-one-bead`` calls a bead: its angles are those whose middle atom it owns.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from quality import data_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from deepbackmap.api.backmap import backmap
from deepbackmap.api.baseline import baseline
from deepbackmap.api.finish import finish
from deepbackmap.api.hands import FoundHands, find_hands
from deepbackmap.api.md import MdSummary, md
from deepbackmap.api.models import find_model
from deepbackmap.errors import InputError
from deepbackmap.evaluation import Measurements, Plan, measure, tabulate
from deepbackmap.evaluation.defects import Figures
from deepbackmap.evaluation.judge import Judge
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import SystemMapping, load_mapping, map_positions
from deepbackmap.mapping.match import bead_table
from deepbackmap.model.header import read_spec
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import make_whole
from melt import build

MONOMERS, CHAINS = 96, 24
"""Of both coarse-grained melts."""
LABELLED = 6
"""First chains of ``aps_cg`` that its labels belong to (docs/hands.md)."""
HELD_MELT = 568
"""K: of both coarse-grained melts."""
ABOVE = 120.0
"""kJ/mol: no monomer of a melt at 568 K has more in its angles."""
MASSES = (14.027, 77.106)
"""Of an A and of a B bead, for beads of one bead a monomer, u."""
FINISH_STEPS = 300
WIDTHS = (0.0, 0.005, 0.01, 0.02, 0.05)
"""nm: noise of each coordinate."""
TEMPERATURES = (568, 313)
ROUTES = ("default", "one-bead", "voxel", "templates", "physics")
MODELS = {
    "default": "default", "one-bead": "ps-one-bead-points", "voxel": "ps-two-bead-568K",
    "physics": "none",
}  # fmt: skip
PARTS = ("real", "noise", "mirror", "md")
USUAL = PARTS[:3]


@dataclass(frozen=True)
class Melt:
    """Beads that somebody brings."""

    name: str
    topology: Path
    beads: Path
    trajectory: Path | None
    frames: int
    labels: Path | None = None
    labelled: int = 0
    """First beads that the labels speak of."""


@dataclass(frozen=True)
class Row:
    """One line of the table of point 8."""

    name: str
    figures: Figures
    monomers: np.ndarray
    """Angle energy of each, kJ/mol."""
    labelled: str
    """Labelled centres as they should be."""
    seconds: float
    """A frame."""
    held: str = ""

    def cells(self) -> list[str]:
        """As they are printed."""
        hands, blocks = self.figures.hands, self.figures.blocks
        return [
            self.name,
            f"{self.monomers.mean():.1f} / {np.percentile(self.monomers, 99):.0f}",
            f"{100 * np.mean(self.monomers > ABOVE):.2f} %",
            f"{100 * blocks.hotter_than(float(HELD_MELT)) / max(1, blocks.count):.2f} %",
            str(self.figures.contacts.clashes),
            f"{hands.by_side} / {hands.by_order} of {hands.known}",
            self.labelled,
            str(self.figures.rings.pierced),
            f"{self.figures.beads.rms:.4f}",
            f"{self.seconds:.1f} ({1e4 * self.seconds / self.atoms_a_frame:.1f})",
            self.held,
        ]

    @property
    def atoms_a_frame(self) -> float:
        """Of one frame."""
        return self.figures.atoms / max(1, self.figures.frames)


HEAD = [
    "", "angle energy a monomer, mean / p99 (kJ/mol)", f"monomers above {ABOVE:.0f}",
    "beads' blocks beyond what the temperature allows", "pairs under 0.6 sigma",
    "centres wrong by side / by order", "as labelled", "pierced", "beads moved, rms (nm)",
    "seconds a frame (of 10 000 atoms)", "widths (nm)",
]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 2 means that an input is wrong."""
    options = parse(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            run(options, Path(scratch))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(USUAL))
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES))
    parser.add_argument("--melts", nargs="+", default=["mapped", "sps_cg", "aps_cg"])
    parser.add_argument("--no-finish", action="store_true", help="do not finish what was made")
    parser.add_argument("--frames", type=int, default=3, help="of each melt")
    parser.add_argument("--noise-frames", type=int, default=2, help="of each temperature")
    parser.add_argument(
        "--noise-routes", nargs="+", choices=tuple(MODELS), default=["default"],
        help="what places the noisy beads (default: default)",
    )  # fmt: skip
    parser.add_argument("--widths", type=float, nargs="+", default=list(WIDTHS), help="nm")
    parser.add_argument("--temperatures", type=int, nargs="+", default=list(TEMPERATURES))
    parser.add_argument("--md-time", type=float, default=20.0, help="ps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="folder that holds sps, sps_cg and aps_cg")
    parser.add_argument(
        "--smoke", action="store_true", help="the default route, one frame, two chains, one width"
    )
    options = parser.parse_args(arguments)
    options.chains = CHAINS
    if options.smoke:
        options.routes, options.melts = ["default"], ["sps_cg", "aps_cg"]
        options.frames, options.noise_frames, options.chains = 1, 1, 2
        options.widths, options.temperatures, options.no_finish = [0.01], [568], True
    return options


def run(options: argparse.Namespace, scratch: Path) -> None:
    """Prints the parts that were asked for."""
    sps = data_folder(options.data)
    if "real" in options.parts:
        for melt in melts(options, sps, scratch):
            print_real(melt, options, scratch)
    if "md" in options.parts:
        print_md(options, sps, scratch)
    if not {"noise", "mirror"} & set(options.parts):
        return
    for temperature in options.temperatures:
        case = Mapped.of(sps, temperature, options.noise_frames, few=options.smoke)
        for route in options.noise_routes if "noise" in options.parts else ():
            print_noise(case.by(route), options, scratch)
        if "mirror" in options.parts:
            print_mirror(case, options, scratch)


# --- beads of coarse-grained simulations


def melts(options: argparse.Namespace, sps: Path, scratch: Path) -> Iterator[Melt]:
    """Those that were asked for, cut to the chains that are wanted."""
    topology = scratch / "topol.top"
    build.write_topology(topology, MONOMERS, options.chains)
    for name in options.melts:
        if name == "mapped":
            yield Melt(name, sps / "topol.top", sps / "cg.gro", sps / "test_568K_cg.xtc",
                options.frames)  # fmt: skip
            continue
        folder = sps.parent / name
        if not (folder / "cg.gro").is_file():
            raise InputError(f"{folder}: expected a melt of beads, found no cg.gro")
        moving = folder / "cg.xtc"
        source = read_frames(folder / "cg.gro", moving if moving.is_file() else None)
        with source:
            frames = [cut(f, options.chains) for f in list(source)[: options.frames]]
        system = load_mapping("ps-two-bead").resolve(read_topology(topology))
        beads = write_beads(scratch / f"{name}.gro", system, frames[:1])
        several = write_beads(scratch / f"{name}.xtc", system, frames)
        melt = Melt(name, topology, beads, several, len(frames))
        if (folder / "bead_types.txt").is_file():
            count = min(LABELLED, options.chains)
            text = (folder / "bead_types.txt").read_text(encoding="utf-8").split()[1::2]
            rest = ["-"] * ((options.chains - count) * len(text))
            labels = scratch / f"{name}.txt"
            labels.write_text("\n".join([*text * count, *rest]) + "\n", encoding="utf-8")
            melt = replace(melt, labels=labels, labelled=count * len(text))
        yield melt


def cut(frame: Structure, chains: int) -> Structure:
    """The first chains of a melt."""
    return replace(frame, positions=frame.positions[: 2 * MONOMERS * chains])


def write_beads(path: Path, system: SystemMapping, frames: Sequence[Structure]) -> Path:
    """Writes beads by the names of the mapping."""
    with open_writer(path, bead_table(system), force=True) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def print_real(melt: Melt, options: argparse.Namespace, scratch: Path) -> None:
    """The table of point 8 of one melt."""
    print(f"\n## {melt.name}, {melt.frames} frames of {HELD_MELT} K\n")
    atoms = read_topology(melt.topology)
    jury = Jury.of(melt, atoms)
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    if melt.name == "mapped":
        folder = melt.topology.parent
        with read_frames(folder / "aa.gro", folder / "test_568K_aa.xtc",
                         frames=f":{melt.frames}") as source:  # fmt: skip
            show(jury.row("simulated atoms", source, 0.0))
    for route in options.routes:
        made = scratch / f"{melt.name}-{route}.gro"
        try:
            seconds, held = make(route, melt, made, options.seed, scratch)
        except InputError as error:
            print(f"| {route} | not made: {error} |", flush=True)
            continue
        with read_frames(made) as source:
            show(jury.row(route, source, seconds, held))
        if not options.no_finish:
            print_finished(route, made, jury, seconds, melt, scratch)


def print_finished(
    route: str, made: Path, jury: Jury, seconds: float, melt: Melt, scratch: Path
) -> None:
    """One more row: the same after ``finish``."""
    after = scratch / f"{melt.name}-{route}-finished.gro"
    started = time.perf_counter()
    try:
        finish(made, topology=melt.topology, output=after, temperature=float(HELD_MELT),
               steps=FINISH_STEPS, keep_defects=True, force=True, progress=False)  # fmt: skip
    except InputError as error:
        print(f"| {route} + finish | not finished: {error} |", flush=True)
        return
    seconds += (time.perf_counter() - started) / melt.frames
    with read_frames(after) as source:
        show(jury.row(f"{route} + finish", source, seconds))


def show(row: Row) -> None:
    """One line of a table."""
    print("| " + " | ".join(row.cells()) + " |", flush=True)


def make(route: str, melt: Melt, output: Path, seed: int, scratch: Path) -> tuple[float, str]:
    """Atoms of a melt by one route; seconds a frame and how beads were held."""
    frames = f":{melt.frames}"
    started = time.perf_counter()
    if route == "templates":
        baseline(melt.beads, melt.trajectory, topology=melt.topology, mapping="ps-two-bead",
                 output=output, method="template", frames=frames, seed=seed, keep_defects=True,
                 force=True, progress=False)  # fmt: skip
        return (time.perf_counter() - started) / melt.frames, ""
    beads, several, labels = melt.beads, melt.trajectory, melt.labels
    if route == "one-bead":
        beads, several = one_bead(melt, scratch)
        labels = None if labels is None else one_label(labels, scratch)
    summary = backmap(
        beads, several, topology=melt.topology, output=output, model=MODELS[route],
        mapping=mapping_of(route), frames=frames, seed=seed, temperature=float(HELD_MELT),
        labels=labels, keep_defects=True, force=True, progress=False,
    )  # fmt: skip
    widths = {t: w / max(1, summary.held.frames) for t, w in summary.held.widths.items()}
    held = ", ".join(f"{t} {w:.4f}" for t, w in widths.items())
    return summary.seconds / melt.frames, held


def mapping_of(route: str) -> str | None:
    """What a route has to be told of the mapping; models know theirs."""
    return "ps-two-bead" if route == "physics" else None


def one_bead(melt: Melt, scratch: Path) -> tuple[Path, Path]:
    """Beads of one bead a monomer: the mean of its two beads by their mass."""
    system = load_mapping("ps-one-bead").resolve(read_topology(melt.topology))
    weights = np.array(MASSES) / sum(MASSES)
    with read_frames(melt.beads, melt.trajectory) as source:
        frames = [merged(f, weights) for f in list(source)[: melt.frames]]
    return (
        write_beads(scratch / f"{melt.name}-one.gro", system, frames[:1]),
        write_beads(scratch / f"{melt.name}-one.xtc", system, frames),
    )


def merged(frame: Structure, weights: np.ndarray) -> Structure:
    """The mean of every two beads, across the box's faces if need be."""
    first, second = frame.positions[::2], frame.positions[1::2]
    way = minimum_image(second - first, frame.box)
    return replace(frame, positions=first + weights[1] * way)


def one_label(labels: Path, scratch: Path) -> Path:
    """The label of the ring bead for the monomer."""
    found = labels.read_text(encoding="utf-8").split()[1::2]
    path = scratch / "one-bead-labels.txt"
    path.write_text("\n".join(found) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Jury:
    """Judges rows of one melt, all against the same hands and beads."""

    judge: Judge
    monomers: Judge
    beads: list[Structure]
    found: FoundHands
    labelled: np.ndarray
    """Which centres have a label."""

    @classmethod
    def of(cls, melt: Melt, atoms: Topology) -> Jury:
        """Hands as the default model would take them."""
        spec = read_spec(find_model("default"))
        file = load_mapping("ps-two-bead")
        system = file.resolve(atoms)
        with read_frames(melt.beads, melt.trajectory, frames=f":{melt.frames}") as source:
            beads = list(source)
        found = find_hands(system, file, spec, labels=melt.labels, beads=beads[0])
        labelled = np.zeros(len(found.hands.sign), dtype=bool)
        if melt.labels is not None:
            last = atoms.molecule_offsets()[melt.labelled // (2 * MONOMERS)]
            labelled = found.centres.atoms[:, 0] < last
        one = load_mapping("ps-one-bead").resolve(atoms)
        return cls(Judge(atoms, system, hands=found.known), Judge(atoms, one), beads, found,
                   labelled)  # fmt: skip

    def row(self, name: str, frames: Sequence[Structure], seconds: float, held: str = "") -> Row:
        """The figures of some frames."""
        total, energies, right, labelled = Figures(), [], 0, 0
        for number, (frame, beads) in enumerate(zip(frames, self.beads, strict=True)):
            look = self.judge.look(frame)
            total = total + self.judge.figures(look, frame, beads, number)
            energies.append(self.monomers.block_energies(frame))
            bad = (look.by_order != look.right) | (look.by_side != look.right)
            right += int((~bad & self.labelled).sum())
            labelled += int(self.labelled.sum())
        told = f"{right} of {labelled}" if labelled else ""
        return Row(name, total, np.concatenate(energies), told, seconds, held)


# --- a start of dynamics


MD_HEAD = [
    "ps", "temperature from 1 ps on, of each ps (K)",
    "angle energy, highest / at the end (kJ/mol a monomer)", "ratio", "new defects",
    "bonds off, nm", "seconds",
]  # fmt: skip


def print_md(options: argparse.Namespace, sps: Path, scratch: Path) -> None:
    """What dynamics makes of the default's atoms of a coarse-grained frame."""
    alone = argparse.Namespace(**{**vars(options), "melts": ["sps_cg"], "frames": 1})
    melt = next(melts(alone, sps, scratch))
    print(f"\n## Dynamics of {melt.name} at {HELD_MELT} K, constant volume, no heat-up\n")
    print("| " + " | ".join(MD_HEAD) + " |\n|" + "---|" * len(MD_HEAD), flush=True)
    made, folder = scratch / "start.gro", scratch / "md"
    make("default", melt, made, options.seed, scratch)
    summary = md(
        {"default": made}, topology=melt.topology, temperature=float(HELD_MELT), output=folder,
        pressure=None, time=options.md_time, seed=options.seed, progress=False,
    )  # fmt: skip
    print(
        "| " + " | ".join(md_cells(summary, folder, options.chains * MONOMERS)) + " |", flush=True
    )


def md_cells(summary: MdSummary, folder: Path, monomers: int) -> list[str]:
    """The figures of a run: every recorded angle energy against the mean of the last ps."""
    with (folder / "energy.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    time = np.array([float(row["time / ps"]) for row in rows])
    angle = np.array([float(row["angle"]) for row in rows]) / monomers
    kelvin = np.array([float(row["temperature"]) for row in rows])
    each = [kelvin[(time > t) & (time <= t + 1)].mean() for t in np.arange(1.0, time[-1] - 0.5)]
    end, run = angle[time > time[-1] - 1.0].mean(), summary.runs[0]
    between = f"{min(each):.0f} to {max(each):.0f}" if each else ""
    return [
        f"{summary.time:g}", between, f"{angle.max():.1f} / {end:.1f}", f"{angle.max() / end:.3f}",
        "; ".join(run.new) or "0", f"{run.last.bonds.largest:.4f}", f"{summary.seconds:.0f}",
    ]  # fmt: skip


# --- noise and mirror images of mapped frames


@dataclass(frozen=True)
class Mapped:
    """Test frames of one temperature, with their reference."""

    folder: Path
    temperature: int
    plan: Plan
    system: SystemMapping
    reference: Measurements
    beads: list[Structure]
    route: str = "default"

    @classmethod
    def of(cls, sps: Path, temperature: int, frames: int, *, few: bool = False) -> Mapped:
        """The first frames as beads, all frames (two, if few are enough) as the reference."""
        topology = read_topology(sps / "topol.top")
        plan = Plan.from_topology(topology)
        prefix = f"test_{temperature}K"
        with read_frames(sps / "aa.gro", sps / f"{prefix}_aa.xtc",
                         frames=":2" if few else None) as source:  # fmt: skip
            reference = measure(plan, source, source=str(source.path))
        with read_frames(sps / "cg.gro", sps / f"{prefix}_cg.xtc", frames=f":{frames}") as source:
            beads = list(source)
        system = load_mapping("ps-two-bead").resolve(topology)
        return cls(sps, temperature, plan, system, reference, beads)

    def by(self, route: str) -> Mapped:
        """The same for another route, with the beads that it takes: of its own mapping, since means
        of two beads (``one_bead``) are only near those."""
        if route != "one-bead":
            return replace(self, route=route)
        topology = self.system.topology
        system = load_mapping("ps-one-bead").resolve(topology)
        atoms = self.folder / f"test_{self.temperature}K_aa.xtc"
        with read_frames(self.folder / "aa.gro", atoms, frames=f":{len(self.beads)}") as source:
            whole = [make_whole(f.positions, f.box, topology) for f in source]
        beads = [
            replace(f, positions=map_positions(system, x))
            for f, x in zip(self.beads, whole, strict=True)
        ]
        return replace(self, route=route, system=system, beads=beads)

    def row(
        self,
        name: str,
        beads: Sequence[Structure],
        scratch: Path,
        seed: int,
        *,
        like: Path | None = None,
        after: Callable[[Structure], Structure] = lambda frame: frame,
    ) -> list[str]:
        """One line of the table of point 9: atoms of some beads against the reference."""
        paths = [write_beads(scratch / f"noisy.{end}", self.system, list(beads)[:many])
                 for end, many in (("gro", 1), ("xtc", None))]  # fmt: skip
        output = scratch / "noisy-aa.gro"
        summary = backmap(
            *paths, topology=self.folder / "topol.top", output=output, seed=seed, like=like,
            model=MODELS[self.route], mapping=mapping_of(self.route),
            temperature=float(self.temperature), keep_defects=True, force=True, progress=False,
        )  # fmt: skip
        with read_frames(output) as source:
            made = [after(frame) for frame in source]
        table = tabulate(self.plan, self.reference, measure(self.plan, made))
        values = {row.name: row.value for row in table}
        shift = next(v for k, v in values.items() if k.endswith("shift of the median"))
        hands, held = summary.figures.hands, summary.held
        inverted = values.get("inverted stereocentres", float("nan"))
        return [
            name, f"{table.score:.4f}", f"{values['angle energy, ratio']:.3f}", f"{shift:+.2f}",
            f"{inverted:.2f} %", f"{hands.wrong} of {hands.known}",
            f"{summary.figures.contacts.clashes}", f"{summary.figures.rings.pierced}",
            f"{summary.figures.beads.rms:.4f}",
            ", ".join(f"{t} {w / max(1, held.frames):.4f}" for t, w in held.widths.items()),
            f"{held.evaluations / max(1, held.frames):.0f}",
            f"{summary.seconds / max(1, summary.frames):.1f}",
        ]  # fmt: skip


NOISE_HEAD = [
    "score", "angle energy, ratio", "LJ median (sd)", "inverted", "wrong against the wanted hands",
    "pairs under 0.6 sigma", "pierced", "beads moved, rms (nm)", "widths (nm)", "steps", "seconds",
]  # fmt: skip


def print_noise(case: Mapped, options: argparse.Namespace, scratch: Path) -> None:
    """The table of point 9 of one temperature."""
    by = "" if case.route == "default" else f", {case.route}"
    print(f"\n## Noise on mapped beads, {case.temperature} K, {len(case.beads)} frames{by}\n")
    head = ["noise (nm)", *NOISE_HEAD]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    for width in options.widths:
        rng = np.random.default_rng([options.seed, round(1e6 * width)])
        noisy = [
            replace(f, positions=f.positions + rng.normal(0.0, width, f.positions.shape))
            for f in case.beads
        ]
        cells = case.row(f"{width:g}", noisy, scratch, options.seed)
        print("| " + " | ".join(cells) + " |", flush=True)


def print_mirror(case: Mapped, options: argparse.Namespace, scratch: Path) -> None:
    """The table of point 10 of one temperature."""
    print(f"\n## Mirror images, {case.temperature} K, {len(case.beads)} frames\n")
    head = ["hands", *NOISE_HEAD]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    like = scratch / "mirrored-aa.gro"
    with read_frames(case.folder / "aa.gro") as source:
        atoms = mirrored(source[0])
    with open_writer(like, atom_table(case.plan.topology), force=True) as writer:
        writer.write(atoms)
    turned = [mirrored(frame) for frame in case.beads]
    for name, given in (("told", like), ("not told", None)):
        cells = case.row(name, turned, scratch, options.seed, like=given, after=mirrored)
        print("| " + " | ".join(cells) + " |", flush=True)


def mirrored(frame: Structure) -> Structure:
    """The mirror image in the plane of y and z, the cell with it.

    A lattice does not know the sign of its vectors: the first keeps pointing to positive x, and
    the others lose theirs along it.
    """
    positions = frame.positions * [-1.0, 1.0, 1.0]
    box = frame.box * [-1.0, 1.0, 1.0]
    box[0] *= -1.0
    return replace(frame, positions=positions, box=box)


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())

"""From the packaged beads to atoms, compared with the packaged atoms of the same frames."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from deepbackmap.api.backmap import Summary, backmap
from deepbackmap.api.evaluate import evaluate
from deepbackmap.api.models import find_model
from deepbackmap.evaluation import Beads, Plan, QualityTable, measure, tabulate
from deepbackmap.evaluation.table import format_value
from deepbackmap.io.atomic import filled_folder, new_file
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.mapping import MappingFile
from deepbackmap.model.header import read_spec
from deepbackmap.system import Structure

FRAMES = 2
"""Backmapped; the other packaged frames are what they are compared with."""
INPUTS = ("topol.top", "PS.itp", "cg.gro", "cg.xtc")
MDP = """; What grompp needs to check that atoms and topology belong together.
integrator      = md
dt              = 0.001
nsteps          = 1000
cutoff-scheme   = Verlet
rvdw            = 1.0
rcoulomb        = 1.0
coulombtype     = reaction-field
epsilon-rf      = 2.5
constraints     = all-bonds
tcoupl          = v-rescale
tc-grps         = system
tau-t           = 0.1
ref-t           = {temperature:g}
"""


@dataclass(frozen=True)
class Demo:
    """What the demonstration made."""

    folder: Path
    summary: Summary
    generated: QualityTable
    """The generated frames against other frames of the simulation."""
    floor: QualityTable
    """The simulation's own atoms of the generated frames, against the same others."""
    grompp: str
    """What GROMACS' preprocessor said."""

    def to_text(self) -> str:
        """Summary and comparison for a person."""
        rows = [("score", self.generated.score, self.floor.score, "")]
        rows += [
            (a.name, a.value, b.value, a.unit)
            for a, b in zip(self.generated, self.floor, strict=True)
        ]
        wide = max(len(name) for name, *_ in rows)
        lines = [f"{'':<{wide}}  backmapped  simulated"]
        lines += [
            f"{name:<{wide}}  {format_value(a):>10}  {format_value(b):>9} {unit}".rstrip()
            for name, a, b, unit in rows
        ]
        head = (
            f"{self.generated.n_generated} frames against {self.generated.n_reference} others of "
            "the same simulation; the right column is the simulation itself, which nothing beats"
        )
        page = self.folder / "evaluation" / "report.html"
        tail = [f"gmx grompp: {self.grompp}", f"files in {self.folder}; open {page}"]
        return "\n".join([self.summary.to_text(), head, *lines, *tail]) + "\n"


def demo(
    output: str | Path,
    *,
    model: str | Path = "default",
    device: str = "auto",
    force: bool = False,
    progress: bool = True,
) -> Demo:
    """Backmaps packaged beads of a polystyrene melt and compares the atoms with the simulation's.

    The folder then holds the topology and the beads that went in, the atoms that came out, one
    frame of them as a structure, other frames of the simulation (``reference.xtc``), the comparison
    as text, and as a page in ``evaluation/report.html``.

    Args:
        output: folder to write to.
        model: file or packaged name.
        device: ``auto``, ``cpu`` or ``cuda``.
        force: whether to replace files in a folder that holds some.
        progress: whether to show a bar on standard error.

    Raises:
        InputError: the folder holds files already or cannot be written.
        RuntimeError: GROMACS is there and does not take the result.
    """
    path = find_model(model)
    with filled_folder(Path(output), force) as folder:
        return _fill(folder, path, device, force, progress)


def _fill(folder: Path, path: Path, device: str, force: bool, progress: bool) -> Demo:
    """Copies the inputs and makes everything else from them."""
    melt = melt_folder()
    for name in INPUTS:
        with new_file(folder / name) as part:
            shutil.copyfile(melt / name, part)
    summary = backmap(
        folder / "cg.gro",
        folder / "cg.xtc",
        topology=folder / "topol.top",
        output=folder / "aa.xtc",
        model=path,
        frames=f":{FRAMES}",
        device=device,
        force=force,
        progress=progress,
    )
    generated, floor, first, others = _compare(melt, folder, path)
    table = atom_table(read_topology(folder / "topol.top"))
    temperature = read_spec(path).temperature
    for name, frames in (("aa.gro", [first]), ("reference.xtc", others)):
        with open_writer(folder / name, table, force=force) as writer:
            for frame in frames:
                writer.write(frame)
    evaluate(
        folder / "reference.xtc",
        {"backmapped": folder / "aa.xtc"},
        structure=folder / "aa.gro",
        topology=folder / "topol.top",
        output=folder / "evaluation",
        temperature=temperature,
        force=force,
        progress=progress,
    )
    grompp = _grompp(folder, temperature)
    result = Demo(folder, summary, generated, floor, grompp)
    with new_file(folder / "comparison.txt") as part:
        part.write_text(result.to_text(), encoding="utf-8")
    return result


def melt_folder() -> Path:
    """Where the packaged melt is."""
    return Path(str(resources.files("deepbackmap"))) / "packaged" / "melt"


def _compare(
    melt: Path, folder: Path, model: Path
) -> tuple[QualityTable, QualityTable, Structure, list[Structure]]:
    """Tables of the generated and of the true atoms, the first generated frame, and the frames
    that both are compared with."""
    topology = read_topology(folder / "topol.top")
    mapping = MappingFile.from_text(read_spec(model).mapping, str(model)).resolve(topology)
    truth = _frames(melt / "aa.gro", melt / "aa.xtc")
    beads = _frames(melt / "cg.gro", melt / "cg.xtc")[:FRAMES]
    made = _frames(melt / "aa.gro", folder / "aa.xtc")
    plan = Plan.from_topology(topology)
    others = measure(plan, truth[FRAMES:], source=str(melt / "aa.xtc"))

    def table(frames: Sequence[Structure]) -> QualityTable:
        return tabulate(plan, others, measure(plan, frames, beads=Beads(beads, mapping)))

    return table(made), table(truth[:FRAMES]), made[0], truth[FRAMES:]


def _frames(structure: Path, trajectory: Path) -> list[Structure]:
    with read_frames(structure, trajectory) as source:
        return list(source)


def _grompp(folder: Path, temperature: float) -> str:
    """Lets GROMACS check atoms and topology, where it is installed."""
    with new_file(folder / "check.mdp") as part:
        part.write_text(MDP.format(temperature=temperature), encoding="utf-8")
    program = shutil.which("gmx")
    if program is None:
        return "not installed here, not tried"
    done = subprocess.run(
        [program, "-nobackup", "grompp", "-f", "check.mdp", "-c", "aa.gro", "-p", "topol.top",
         "-o", "check.tpr", "-po", "check.out.mdp"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise RuntimeError("gmx grompp refuses the result:\n" + "\n".join(said[-15:]))
    return "accepts aa.gro and topol.top"

"""From the packaged beads to atoms, compared with the packaged atoms of the same frames."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from deepbackmap.api.backmap import Summary, backmap
from deepbackmap.api.evaluate import evaluate
from deepbackmap.api.models import find_model
from deepbackmap.evaluation.result import Evaluation
from deepbackmap.evaluation.table import format_value
from deepbackmap.io.atomic import filled_folder, new_file
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
from deepbackmap.model.header import read_spec

FRAMES = 2
"""Backmapped; the other packaged frames are what they are compared with."""
MADE, TRUE = "backmapped", "simulated"
"""What is compared."""
SHOWN = ("contacts", "stereochemistry", "rings", "beads")
"""Groups of figures in the text, besides the scored ones; the report has all."""
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
    evaluation: Evaluation
    """The generated frames (``MADE``), and the simulation's own atoms of the same beads
    (``TRUE``), against other frames of the simulation."""
    grompp: str
    """What GROMACS' preprocessor said."""

    def to_text(self) -> str:
        """Summary and comparison for a person."""
        scores = {method.name: method.score.value for method in self.evaluation.methods}
        rows = [("score", scores[MADE], scores[TRUE], "")]
        rows += [
            (f.name, f.methods[MADE].value, f.methods[TRUE].value, f.unit)
            for f in self.evaluation.figures
            if f.scored or f.group in SHOWN
        ]
        wide = max(len(name) for name, *_ in rows)
        lines = [f"{'':<{wide}}  {MADE}  {TRUE}"]
        lines += [
            f"{name:<{wide}}  {format_value(a):>10}  {format_value(b):>9} {unit}".rstrip()
            for name, a, b, unit in rows
        ]
        head = (
            f"{self.summary.frames} frames against {self.evaluation.n_reference} others of the "
            "same simulation; the right column is the simulation itself, which nothing beats"
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
    frame of them as a structure, the simulation's atoms of the same beads (``simulated.xtc``) and
    other frames of it (``reference.xtc``), the comparison as text, and as a page in
    ``evaluation/report.html``.

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
    spec = read_spec(path)
    _lay_out(melt, folder, force)
    with new_file(folder / "mapping.yaml") as part:
        part.write_text(spec.mapping, encoding="utf-8")
    evaluation = evaluate(
        folder / "reference.xtc",
        {MADE: folder / "aa.xtc", TRUE: folder / "simulated.xtc"},
        structure=folder / "aa.gro",
        topology=folder / "topol.top",
        output=folder / "evaluation",
        beads=folder / "cg.xtc",
        mapping=folder / "mapping.yaml",
        temperature=spec.temperature,
        force=force,
        progress=progress,
    )
    grompp = _grompp(folder, spec.temperature)
    result = Demo(folder, summary, evaluation, grompp)
    with new_file(folder / "comparison.txt") as part:
        part.write_text(result.to_text(), encoding="utf-8")
    return result


def melt_folder() -> Path:
    """Where the packaged melt is."""
    return Path(str(resources.files("deepbackmap"))) / "packaged" / "melt"


def _lay_out(melt: Path, folder: Path, force: bool) -> None:
    """Writes a generated frame as a structure, the simulation's atoms of the same beads, and the
    frames that both are compared with."""
    table = atom_table(read_topology(folder / "topol.top"))
    with (
        read_frames(melt / "aa.gro", folder / "aa.xtc", frames="0") as made,
        read_frames(melt / "aa.gro", melt / "aa.xtc", frames=f":{FRAMES}") as true,
        read_frames(melt / "aa.gro", melt / "aa.xtc", frames=f"{FRAMES}:") as others,
    ):
        for name, frames in (
            ("aa.gro", made), ("simulated.xtc", true), ("reference.xtc", others)
        ):  # fmt: skip
            with open_writer(folder / name, table, force=force) as writer:
                for frame in frames:
                    writer.write(frame)


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

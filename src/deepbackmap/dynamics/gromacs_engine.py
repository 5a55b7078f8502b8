"""Minimisation and dynamics with GROMACS: files in a folder of their own, one child process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyedr
from jaxtyping import Bool, Float, Float64, Int64
from MDAnalysis.lib.formats.libmdaxdr import TRRFile

from deepbackmap.dynamics.boxes import check_box, reduced
from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.dynamics.containers import (
    Dynamics,
    EngineError,
    Hold,
    Interactions,
    Minimisation,
    Segment,
)
from deepbackmap.dynamics.gromacs_files import (
    BOX_ORDER,
    Settings,
    coordinates_text,
    dynamic_start,
    dynamics_settings,
    images_settings,
    minimisation_settings,
    settings_text,
)
from deepbackmap.dynamics.gromacs_topology import (
    TopologyVariant,
    real_particles,
    topology_text,
)
from deepbackmap.dynamics.naming import Atoms
from deepbackmap.dynamics.start import check_dynamics, held_beads, whole_start
from deepbackmap.errors import InputError
from deepbackmap.forcefield import TERMS
from deepbackmap.geometry.cell import cell_volume
from deepbackmap.io.tables import ParticleTable
from deepbackmap.mapping.containers import SystemMapping
from deepbackmap.mapping.forward import map_positions
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import bond_trees, make_whole

COUNTED_AS = {
    **dict.fromkeys(
        (
            "Bond",
            "G96Bond",
            "Morse",
            "Cubic Bonds",
            "Harmonic Pot.",
            "FENE Bonds",
            "Tab. Bonds",
            "Tab. Bonds NC",
            "Restraint Pot.",
        ),
        "bond",
    ),
    **dict.fromkeys(
        (
            "Angle",
            "G96Angle",
            "Restr. Angles",
            "Lin. Angle",
            "Bond-Cross",
            "BA-Cross",
            "U-B",
            "Quartic Angles",
            "Tab. Angles",
        ),
        "angle",
    ),
    **dict.fromkeys(
        (
            "Proper Dih.",
            "Ryckaert-Bell.",
            "Per. Imp. Dih.",
            "Fourier Dih.",
            "Restr. Dih.",
            "CBT Dih.",
            "Tab. Dih.",
            "CMAP Dih.",
        ),
        "proper",
    ),
    "Improper Dih.": "improper",
    "LJ-14": "lj14",
    "Coulomb-14": "coulomb14",
    "LJ (SR)": "lj",
    "Coulomb (SR)": "coulomb",
    "Position Rest.": "hold",
    "Kinetic En.": "kinetic",
    "Temperature": "temperature",
    "Volume": "volume",
}
"""GROMACS' name of a series → ours; series of one name are added."""
LARGEST_DEVIATION = 1e-3
"""nm: a constraint that is further off has been lost."""
NOT_FINITE = "not finite"
"""Said by a minimisation that stops at once without an error."""
INPUT_ERROR = re.compile(r"^ERROR \d+ \[[^\]]*\]:\n(.*?)\n\s*\n", re.MULTILINE | re.DOTALL)
"""What grompp finds wrong, before it says how many such errors there were."""
FATAL = re.compile(r"^Program: .*?\n\s*\n[^\n]*:\n(.*?)\n\s*\n", re.MULTILINE | re.DOTALL)
"""The words of any other error: they follow a heading, after the place in the source."""
LINCS_ROW = re.compile(
    r"^ *(\d+) +(\d+) +[\d.]+ +[\d.]+ +([\d.]+|-?nan|inf) +([\d.]+) *$", re.MULTILINE
)
"""Two atoms, angle turned, length before and after, fixed length."""
STEPS_TAKEN = re.compile(r"in (\d+) steps")
SAME_BOX = 1e-6
"""Relative change of lengths that is no more than the rounding of a file."""


@dataclass(frozen=True)
class Outcome:
    """What a run left in its folder."""

    folder: Path
    output: str
    real: Bool[np.ndarray, " p"]
    """Which particles are atoms; the others are sites of held beads."""


def find_gromacs(program: str = "gmx") -> Path:
    """The program of GROMACS.

    Raises:
        InputError: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise InputError(
            f"engine: expected GROMACS ({program}) to be installed, found none on the path"
        )
    return Path(found)


class GromacsEngine:
    """``Engine`` on the command line of GROMACS."""

    def __init__(
        self,
        topology: Topology,
        table: ParticleTable,
        interactions: Interactions,
        threads: int,
        scratch: Path | None,
        mapping: SystemMapping | None,
        program: str = "gmx",
    ) -> None:
        self.name = "gromacs"
        self._program = find_gromacs(program)
        self._topology = topology
        self._table = table
        self._interactions = interactions
        self._threads = threads
        self._scratch = scratch
        self._mapping = mapping
        self._trees = bond_trees(topology)
        self._atoms = Atoms(topology)
        self._real = real_particles(topology, mapping)

    def minimise(
        self, structure: Structure, options: Minimisation, hold: Hold | None = None
    ) -> Segment:
        """Steepest descent; each step is one evaluation of the forces, taken or refused."""
        positions = whole_start(self._topology, self._trees, structure)
        variant = self._variant(hold, options.bond_constant, options.nonbonded)
        settings = minimisation_settings(options, self._interactions, structure.box)
        with tempfile.TemporaryDirectory(prefix="deepbackmap-", dir=self._scratch) as name:
            folder = Path(name)
            start = replace(structure, positions=positions)
            outcome = self._compute(folder, start, None, variant, settings, hold)
            steps, energies = self._energies(outcome, structure, 1.0)
            final, _ = self._last(outcome, structure, 0.0)
        evaluations = _evaluations(outcome.output, options.steps)
        return Segment(final, None, steps, energies, (final,), evaluations)

    def run(
        self,
        structure: Structure,
        options: Dynamics,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        hold: Hold | None = None,
    ) -> Segment:
        """Langevin (``sd``) or v-rescale dynamics, C-rescale barostat if there is a pressure."""
        check_dynamics(options, ("langevin", "v-rescale"), self.name)
        positions = whole_start(self._topology, self._trees, structure)
        positions, velocities = dynamic_start(
            self._topology, positions, structure.box, options, velocities
        )
        start = replace(structure, positions=positions)
        settings = dynamics_settings(options, self._interactions, structure.box)
        with tempfile.TemporaryDirectory(prefix="deepbackmap-", dir=self._scratch) as name:
            folder = Path(name)
            variant = self._variant(hold)
            outcome = self._compute(folder, start, velocities, variant, settings, hold)
            steps, energies = self._energies(outcome, structure, options.timestep)
            time = options.steps * options.timestep
            # without steps GROMACS writes no last frame
            last, final = (
                self._last(outcome, structure, time) if options.steps else (start, velocities)
            )
            frames = self._frames(outcome, structure) if options.frames_every else (last,)
        self._check_constraints(last, options)
        return Segment(last, final, steps, energies, frames, options.steps + 1)

    def _variant(
        self, hold: Hold | None, bond_constant: float | None = None, nonbonded: bool = True
    ) -> TopologyVariant:
        if hold is None:
            return TopologyVariant(bond_constant, nonbonded)
        return TopologyVariant(bond_constant, nonbonded, self._mapping, hold.constant)

    def _compute(
        self,
        folder: Path,
        start: Structure,
        velocities: Float64[np.ndarray, "n 3"] | None,
        variant: TopologyVariant,
        settings: Settings,
        hold: Hold | None,
    ) -> Outcome:
        """Writes the inputs, runs ``grompp`` and ``mdrun``."""
        check_box(reduced(start.box), self._interactions.cutoff)
        (folder / "topol.top").write_text(topology_text(self._topology, variant))
        settings = settings | images_settings(self._topology, start.positions, start.box)
        (folder / "run.mdp").write_text(settings_text(settings))
        table, positions, reference = self._table, start.positions, []
        if hold is not None:
            held = held_beads(self._mapping, positions, start.box, hold)
            assert self._mapping is not None  # held_beads has refused that
            table, reference = with_sites(table, self._real), ["-r", "held.gro"]
            text = coordinates_text(table, _interleave(self._real, positions, held), start.box)
            (folder / "held.gro").write_text(text)
            beads = map_positions(self._mapping, positions, start.box)
            positions = _interleave(self._real, positions, beads)
            if velocities is not None:
                # sites take the velocities that their atoms give them
                velocities = _interleave(self._real, velocities, np.zeros_like(beads))
        text = coordinates_text(table, positions, start.box, velocities)
        (folder / "conf.gro").write_text(text)
        real = self._real if hold is not None else np.ones(self._table.n, dtype=bool)
        prepare = ["grompp", "-f", "run.mdp", "-c", "conf.gro", "-p", "topol.top", *reference]
        self._call(folder, start, real, [*prepare, "-o", "run.tpr", "-po", "out.mdp"])
        run = ["mdrun", "-deffnm", "run", "-ntmpi", "1", "-ntomp", str(self._threads)]
        output = self._call(folder, start, real, [*run, "-c", "run.g96", "-pin", "off", "-reprod"])
        return Outcome(folder, output, real)

    def _call(
        self, folder: Path, start: Structure, real: Bool[np.ndarray, " p"], words: list[str]
    ) -> str:
        """Runs one command of GROMACS to its end; an interruption here ends it too."""
        # threads that wait by spinning cost a shared machine tens of times the work itself
        environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
        environment.update(OMP_NUM_THREADS=str(self._threads), GMX_MAXBACKUP="-1")
        with (folder / f"{words[0]}.out").open("w+", encoding="utf-8", errors="replace") as said:
            child = subprocess.Popen(
                [str(self._program), "-quiet", *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                code = child.wait()
            finally:
                # after an interruption nothing of what it would still write is wanted
                child.kill()
                child.wait()
            said.seek(0)
            output = said.read()
        if code != 0 or NOT_FINITE in output:
            raise EngineError(self._reason(output, start, real, words[0], code))
        return output

    def _reason(
        self,
        output: str,
        start: Structure,
        real: Bool[np.ndarray, " p"],
        command: str,
        code: int,
    ) -> str:
        """One sentence about a command that failed, with the atoms where it names them."""
        contact = self._atoms.closest_contact(start)
        before = f"; in the start, {contact}" if contact else ""
        lost = _lost_bond(output)
        if lost is not None:
            atoms = [int(np.count_nonzero(real[: k - 1])) for k in lost]
            return (
                f"expected bonds to keep their lengths, found that GROMACS lost the one between "
                f"{self._atoms.describe(*atoms)}{before}"
            )
        if NOT_FINITE in output:
            return f"expected finite forces, found that GROMACS met some that are not{before}"
        fatal = INPUT_ERROR.search(output) or FATAL.search(output)
        words = " ".join(fatal.group(1).split()).split(". ")[0] if fatal else _ending(code)
        return f"gmx {command} failed: {words.rstrip('.')}{before}"

    def _energies(
        self,
        outcome: Outcome,
        structure: Structure,
        timestep: float,
    ) -> tuple[Int64[np.ndarray, " k"], dict[str, Float64[np.ndarray, " k"]]]:
        """Steps and energies by term; a minimisation counts its steps as picoseconds."""
        series = pyedr.edr_to_dict(str(outcome.folder / "run.edr"))
        time = np.asarray(series["Time"], dtype=np.float64)
        found = {name: np.zeros_like(time) for name in TERMS}
        for theirs, ours in COUNTED_AS.items():
            if theirs in series:
                values = np.asarray(series[theirs], dtype=np.float64)
                found[ours] = found.get(ours, 0.0) + values
        # added up here, since GROMACS' minimisers count the dispersion correction twice
        parts = [found[name] for name in (*TERMS, "hold") if name in found]
        tail = np.asarray(series.get("Disper. corr.", 0.0), dtype=np.float64)
        found["potential"] = np.sum(parts, axis=0) + tail
        found.setdefault("volume", np.full_like(time, cell_volume(structure.box)))
        return np.rint(time / timestep).astype(np.int64), found

    def _frames(self, outcome: Outcome, start: Structure) -> tuple[Structure, ...]:
        """The frames that were asked for, without the start."""
        with TRRFile(str(outcome.folder / "run.trr")) as file:
            return tuple(
                self._frame(outcome, start, np.array(f.x), np.array(f.box), float(f.time))
                for f in file
                if f.hasx and f.step > 0
            )

    def _last(
        self, outcome: Outcome, start: Structure, time: float
    ) -> tuple[Structure, Float64[np.ndarray, "n 3"] | None]:
        """The last frame, which trajectories hold only where their interval divides the steps."""
        blocks = read_g96(outcome.folder / "run.g96")
        velocities = blocks.get("VELOCITY")
        last = self._frame(outcome, start, blocks["POSITION"], blocks["BOX"], time)
        return last, None if velocities is None else velocities[outcome.real]

    def _frame(
        self,
        outcome: Outcome,
        start: Structure,
        positions: Float[np.ndarray, "p 3"],
        box: Float[np.ndarray, "3 3"],
        time: float,
    ) -> Structure:
        """A frame as ours: atoms alone, molecules whole, the start's own lattice vectors."""
        positions = positions[outcome.real].astype(np.float64)
        if not np.isfinite(positions).all():
            raise EngineError(
                f"expected finite positions, found none for {self._atoms.largest(positions)} "
                f"after {time:g} ps"
            )
        # GROMACS has the reduced form, which is the same lattice, and scales it as a whole
        ratio = float(np.cbrt(cell_volume(box.astype(np.float64)) / cell_volume(start.box)))
        lattice = start.box if abs(ratio - 1.0) < SAME_BOX else start.box * ratio
        whole = make_whole(positions, lattice, self._topology, trees=self._trees, endless=True)
        return Structure(whole, lattice, start.time + time)

    def _check_constraints(self, last: Structure, options: Dynamics) -> None:
        fixed = Constraints.of(self._topology, bonds=options.constrain, box=last.box)
        off = np.abs(fixed.deviations(last.positions))
        if len(off) and off.max() > LARGEST_DEVIATION:
            k = int(off.argmax())
            raise EngineError(
                f"expected {self._atoms.describe(*fixed.atoms[k].tolist())} to stay "
                f"{fixed.lengths[k]:.4f} nm apart, found them off by {off[k]:.4f} nm at the end"
            )


def _lost_bond(output: str) -> tuple[int, int] | None:
    """The bond (atoms from 1) that is furthest off in the first warning about constraints."""
    warnings = output.split("LINCS WARNING")
    rows = LINCS_ROW.findall(warnings[1]) if len(warnings) > 1 else []
    if not rows:
        return None
    off = [abs(float(after) - float(fixed)) for _, _, after, fixed in rows]
    worst = rows[int(np.nan_to_num(off, nan=np.inf).argmax())]
    return int(worst[0]), int(worst[1])


def _ending(code: int) -> str:
    return f"it was stopped by signal {-code}" if code < 0 else f"exit code {code}"


def _interleave(
    real: Bool[np.ndarray, " p"],
    atoms: Float64[np.ndarray, "n 3"],
    sites: Float64[np.ndarray, "b 3"],
) -> Float64[np.ndarray, "p 3"]:
    """Vectors of atoms and sites in the order of the topology that GROMACS is given."""
    found = np.empty((len(real), 3))
    found[real] = atoms
    found[~real] = sites
    return found


def read_g96(path: Path) -> dict[str, Float64[np.ndarray, "_ 3"]]:
    """Blocks of a .g96 file: POSITION / nm, VELOCITY / nm ps-1 if there is one, and BOX / nm."""
    found: dict[str, Float64[np.ndarray, "_ 3"]] = {}
    for block in path.read_text().split("\nEND"):
        name, *lines = block.strip().splitlines() or [""]
        if name == "BOX":
            values = np.zeros((3, 3))
            words = [float(w) for line in lines for w in line.split()]
            for (i, j), value in zip(BOX_ORDER, words, strict=False):  # three for a brick
                values[i, j] = value
            found[name] = values
        elif name in ("POSITION", "VELOCITY"):
            # 24 columns of names, which may have blanks in them
            found[name] = np.array([[float(w) for w in line[24:].split()] for line in lines])
    return found


def with_sites(table: ParticleTable, real: Bool[np.ndarray, " p"]) -> ParticleTable:
    """Names of atoms and sites; a site belongs to the residue of the atom before it."""
    owner = np.cumsum(real) - 1
    names = tuple(table.names[k] if atom else "V" for k, atom in zip(owner, real, strict=True))
    return ParticleTable(names, tuple(table.resnames[k] for k in owner), table.resids[owner])


def _evaluations(output: str, steps: int) -> int:
    """How often forces were evaluated: GROMACS counts the start and every step, taken or not."""
    found = STEPS_TAKEN.search(output)
    return int(found.group(1)) if found else steps + 1

"""The files that GROMACS is started from: coordinates, topology, settings."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from deepbackmap.dynamics.boxes import check_box, reduced
from deepbackmap.dynamics.constraints import Constraints, thermal_velocities
from deepbackmap.dynamics.containers import Dynamics, Interactions, Minimisation
from deepbackmap.dynamics.gromacs_topology import TopologyVariant, topology_text
from deepbackmap.dynamics.start import check_dynamics, whole_start
from deepbackmap.io.atomic import make_folder, new_file, refuse_existing
from deepbackmap.io.tables import ParticleTable
from deepbackmap.system import Structure, Topology
from deepbackmap.system.whole import bond_trees, spanning_molecules

DECIMALS = 9
"""Of positions in nm: more than single precision holds, so that nothing is lost on the way."""
BUFFER = 0.15
"""nm: room beyond the cut-off that GROMACS' own choice of a pair list needs."""
BOX_ORDER = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))

Settings = dict[str, str]


@dataclass(frozen=True)
class GromacsInputs:
    """Paths of a complete set of inputs."""

    coordinates: Path
    topology: Path
    settings: Path


def write_gromacs_inputs(
    folder: Path,
    topology: Topology,
    table: ParticleTable,
    structure: Structure,
    options: Dynamics | Minimisation,
    *,
    interactions: Interactions = Interactions(),
    velocities: Float64[np.ndarray, "n 3"] | None = None,
    force: bool = False,
) -> GromacsInputs:
    """Writes ``conf.gro``, ``topol.top`` and ``run.mdp``, which stock ``gmx grompp`` takes.

    For dynamics the start is made whole, projected onto the constraints and given velocities
    (those of ``options.seed`` where none are given), so that any engine starts from the same.

    Args:
        folder: made if it is not there; its parent must be.
        topology: of the system.
        table: names of the atoms.
        structure: the start.
        options: what is to be run.
        interactions: how non-bonded forces are computed.
        velocities: nm/ps.
        force: whether to replace existing files.

    Raises:
        InputError: a file exists, the folder cannot be made, or an option is wrong.
        EngineError: the start cannot be brought onto its constraints, or the box is too small.
    """
    positions = whole_start(topology, bond_trees(topology), structure)
    check_box(reduced(structure.box), interactions.cutoff)
    variant = TopologyVariant()
    if isinstance(options, Dynamics):
        check_dynamics(options, ("langevin", "v-rescale"), "gromacs")
        positions, velocities = dynamic_start(
            topology, positions, structure.box, options, velocities
        )
        settings = dynamics_settings(options, interactions, structure.box)
    else:
        variant = TopologyVariant(options.bond_constant, options.nonbonded)
        settings = minimisation_settings(options, interactions, structure.box)
    settings |= images_settings(topology, positions, structure.box)
    texts = {
        "conf.gro": coordinates_text(table, positions, structure.box, velocities, topology.title),
        "topol.top": topology_text(topology, variant),
        "run.mdp": settings_text(settings),
    }
    _write(folder, texts, force)
    return GromacsInputs(*(folder / name for name in texts))


def dynamic_start(
    topology: Topology,
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    options: Dynamics,
    velocities: Float64[np.ndarray, "n 3"] | None,
) -> tuple[Float64[np.ndarray, "n 3"], Float64[np.ndarray, "n 3"]]:
    """Positions and velocities on the constraints of a run.

    Args:
        topology: whose bonds are held.
        positions: nm, molecules whole.
        box: lattice vectors as rows, nm.
        options: temperature and seed of velocities that are not given.
        velocities: nm/ps.

    Raises:
        EngineError: the constraints cannot be met.
    """
    fixed = Constraints.of(topology, bonds=options.constrain, box=box)
    positions = fixed.project(positions)
    if velocities is None:
        velocities = thermal_velocities(fixed.masses, options.temperature, options.seed)
    return positions, fixed.project_velocities(positions, velocities)


def coordinates_text(
    table: ParticleTable,
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    velocities: Float64[np.ndarray, "n 3"] | None = None,
    title: str = "",
) -> str:
    """A .gro frame with nine decimals, which GROMACS finds out from the first line.

    Args:
        table: names, cut to the five characters that the columns hold.
        positions: nm.
        box: nm; written in its reduced form.
        velocities: nm/ps.
        title: of the first line.
    """
    width = DECIMALS + 5
    lines = [f"{' '.join(title.split()) or 'system'}", f"{len(positions):5d}"]
    for k, place in enumerate(positions.tolist()):
        head = f"{table.resids[k] % 100_000:5d}{table.resnames[k][:5]:<5s}"
        line = f"{head}{table.names[k][:5]:>5s}{(k + 1) % 100_000:5d}"
        line += "".join(f"{x:{width}.{DECIMALS}f}" for x in place)
        if velocities is not None:
            line += "".join(f"{v:{width}.{DECIMALS + 1}f}" for v in velocities[k].tolist())
        lines.append(line)
    lattice = reduced(box)
    lines.append(" ".join(f"{lattice[i, j]:.{DECIMALS}f}" for i, j in BOX_ORDER))
    return "\n".join(lines) + "\n"


def settings_text(settings: Settings) -> str:
    """Settings as an .mdp file."""
    lines = ["; Written by deepbackmap."]
    lines += [f"{name:<24s} = {value}" for name, value in settings.items()]
    return "\n".join(lines) + "\n"


def minimisation_settings(
    options: Minimisation, interactions: Interactions, box: Float64[np.ndarray, "3 3"]
) -> Settings:
    """Settings of a minimisation by steepest descent."""
    return {
        "integrator": "steep",
        "nsteps": str(options.steps),
        "emstep": f"{options.first_step:g}",
        "emtol": f"{options.tolerance:g}",
        "nstenergy": "1",
        "nstcalcenergy": "1",
        "nstxout": "0",
        **_nonbonded(interactions, box, moving=False),
        "constraints": "none",
        **_lincs(),
    }


def dynamics_settings(
    options: Dynamics, interactions: Interactions, box: Float64[np.ndarray, "3 3"]
) -> Settings:
    """Settings of dynamics with all bonds constrained or none."""
    return {
        # md-vv takes the velocities of a start for those of its time. The leap-frog of md takes
        # them for those of half a step before, and atoms then swing through their angles together
        "integrator": "sd" if options.thermostat == "langevin" else "md-vv",
        "nsteps": str(options.steps),
        "dt": f"{options.timestep:.9g}",
        "nstcalcenergy": str(options.every),
        "nstenergy": str(options.every),
        "nstxout": str(options.frames_every),
        "nstvout": str(options.frames_every),
        "nstlog": str(max(options.steps, 1)),
        **_nonbonded(interactions, box, moving=True),
        **_thermostat(options),
        **_barostat(options),
        "gen-vel": "no",
        "continuation": "no",
        "constraints": "all-bonds" if options.constrain else "none",
        **_lincs(),
    }


def images_settings(
    topology: Topology, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"]
) -> Settings:
    """What GROMACS has to be told where a molecule is bonded to its own image; else nothing."""
    endless = bool(spanning_molecules(positions, box, topology).any())
    return {"periodic-molecules": "yes"} if endless else {}


def _thermostat(options: Dynamics) -> Settings:
    common = {"tc-grps": "System", "ref-t": f"{options.temperature:.9g}"}
    if options.thermostat == "langevin":
        seed = str(1 + options.seed % (2**31 - 2))
        return {
            **common,
            "tau-t": f"{1.0 / options.friction:.9g}",
            "ld-seed": seed,
            # friction acts on the centre of mass as well, so its motion is one of the system's own
            "comm-mode": "none",
        }
    seed = str(1 + options.seed % (2**31 - 2))
    return {"tcoupl": "v-rescale", **common, "tau-t": "0.2", "ld-seed": seed, "nstcomm": "100"}


def _barostat(options: Dynamics) -> Settings:
    if options.pressure is None:
        return {"pcoupl": "no"}
    return {
        "pcoupl": "C-rescale",
        "pcoupltype": "isotropic",
        "tau-p": "2.0",
        "ref-p": f"{options.pressure:.9g}",
        "compressibility": "4.5e-5",
    }


def _nonbonded(
    interactions: Interactions, box: Float64[np.ndarray, "3 3"], *, moving: bool
) -> Settings:
    cutoff = f"{interactions.cutoff:.9g}"
    outside = interactions.reaction_field_epsilon
    if outside is None:
        field = {"coulombtype": "cut-off", "coulomb-modifier": "none"}
    elif outside == 1.0:
        # the same interaction, which GROMACS wants under this name
        field = {"coulombtype": "cut-off", "coulomb-modifier": "potential-shift"}
    else:
        # GROMACS understands 0 as a conductor
        value = f"{0.0 if math.isinf(outside) else outside:.9g}"
        field = {"coulombtype": "reaction-field", "coulomb-modifier": "none", "epsilon-rf": value}
    return {
        "cutoff-scheme": "verlet",
        **_pair_list(interactions.cutoff, box, moving=moving),
        **field,
        "rcoulomb": cutoff,
        "vdwtype": "cut-off",
        "vdw-modifier": "none",
        "rvdw": cutoff,
        "DispCorr": "EnerPres" if interactions.dispersion_correction else "no",
    }


def _pair_list(cutoff: float, box: Float64[np.ndarray, "3 3"], *, moving: bool) -> Settings:
    """GROMACS' own choice, or a list that is made often where the box leaves no room for it."""
    room = 0.499 * float(np.diag(reduced(box)).min()) - cutoff
    if room >= BUFFER:
        return {"nstlist": "20" if moving else "10"}
    buffer = max(0.0, min(room, 0.1))
    every = 5 if moving and buffer > 0.05 else 1
    return {
        "nstlist": str(every),
        "verlet-buffer-tolerance": "-1",
        "rlist": f"{cutoff + buffer:.9g}",
    }


def _lincs() -> Settings:
    """Enough for rings whose bonds are all constrained."""
    return {
        "constraint-algorithm": "lincs",
        "lincs-order": "8",
        "lincs-iter": "2",
        "lincs-warnangle": "60",
    }


def _write(folder: Path, texts: dict[str, str], force: bool) -> None:
    """Writes all files aside, then moves them to their places."""
    make_folder(folder, parents=False)
    for name in texts:
        refuse_existing(folder / name, force)
    with ExitStack() as files:
        for name, text in texts.items():
            part = files.enter_context(new_file(folder / name))
            part.write_text(text, encoding="utf-8")

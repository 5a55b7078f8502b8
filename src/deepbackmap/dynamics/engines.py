"""The way to an engine: by name, or the one that measurements say is fastest here."""

from __future__ import annotations

import os
from pathlib import Path

from deepbackmap.dynamics.containers import Engine, Interactions
from deepbackmap.dynamics.gromacs_engine import GromacsEngine, find_gromacs
from deepbackmap.dynamics.internal_engine import InternalEngine
from deepbackmap.dynamics.openmm_engine import OpenmmEngine, best_gpu, platform_names
from deepbackmap.dynamics.sited_engine import SitedEngine
from deepbackmap.errors import InputError
from deepbackmap.io.tables import ParticleTable, atom_table
from deepbackmap.mapping.containers import SystemMapping
from deepbackmap.mapping.lean import lean_mapping
from deepbackmap.system import Topology
from deepbackmap.system.lean import without_sites

PLATFORMS = {"openmm-cpu": "CPU", "openmm-cuda": "CUDA", "openmm-opencl": "OpenCL"}
"""Name of an engine → platform of OpenMM."""
ENGINES = ("auto", "internal", "openmm", *PLATFORMS, "gromacs")
"""Names that ``open_engine`` takes."""


def open_engine(
    topology: Topology,
    table: ParticleTable | None = None,
    *,
    name: str = "auto",
    interactions: Interactions = Interactions(),
    threads: int | None = None,
    scratch: Path | None = None,
    mapping: SystemMapping | None = None,
) -> Engine:
    """An engine for one system.

    ``auto`` takes a GPU platform of OpenMM where there is one, else GROMACS where ``gmx`` is
    installed, else OpenMM's CPU platform: the order that docs/engines.md measured. ``Engine.name``
    says which it was. ``internal`` is the dynamics of this process: it parts any start.

    Args:
        topology: what is simulated.
        table: names of the atoms for messages and files; the topology's by default.
        name: one of ``ENGINES``.
        interactions: how non-bonded forces are computed.
        threads: of the CPU; all that this process may use by default.
        scratch: folder for temporary files of GROMACS; the system's by default.
        mapping: needed only where bead positions are to be held.

    Raises:
        InputError: the name is unknown, or that engine or platform is not installed.
    """
    table = atom_table(topology) if table is None else table
    threads = len(os.sched_getaffinity(0)) if threads is None else threads
    if threads < 1:
        raise InputError(f"threads: expected a whole number above 0, found {threads}")
    engine, platform = choose(name)
    if engine == "internal":
        lean = without_sites(topology)
        held = mapping if mapping is None else lean_mapping(mapping, lean)
        inner = InternalEngine(lean.topology, interactions, threads, held)
        return SitedEngine(inner, lean) if lean.sites else inner
    if engine == "gromacs":
        return GromacsEngine(topology, table, interactions, threads, scratch, mapping)
    return OpenmmEngine(topology, table, interactions, threads, platform, mapping)


def choose(name: str) -> tuple[str, str]:
    """Engine (internal, openmm or gromacs) and platform of OpenMM that a name stands for here.

    Raises:
        InputError: the name is unknown, or what it names is not installed.
    """
    if name not in ENGINES:
        raise InputError(f"engine: expected one of {', '.join(ENGINES)}, found '{name}'")
    if name == "internal":
        return "internal", ""
    if name == "gromacs":
        find_gromacs()
        return "gromacs", ""
    if name in PLATFORMS:
        if PLATFORMS[name] not in platform_names():
            raise InputError(
                f"engine: expected an OpenMM with the platform {PLATFORMS[name]} for '{name}', "
                f"found {', '.join(platform_names())}"
            )
        return "openmm", PLATFORMS[name]
    gpu = best_gpu()
    if name == "auto" and gpu is None and has_gromacs():
        return "gromacs", ""
    return "openmm", gpu or "CPU"


def has_gromacs() -> bool:
    """Whether GROMACS can be run here."""
    try:
        find_gromacs()
    except InputError:
        return False
    return True

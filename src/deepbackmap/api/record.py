"""One record of a run, for every verb that writes: what went in, how, with what, what came out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import deepbackmap
from deepbackmap.io.topology import options_given

PACKAGES = {
    "numpy": "numpy", "torch": "torch", "numba": "numba", "MDAnalysis": "MDAnalysis",
    "openmm": "OpenMM",
}  # fmt: skip
"""Name in a package registry → name in the record."""
READ = 1 << 20
"""Bytes of a file that are hashed at once."""


def make_record(
    verb: str,
    *,
    inputs: Mapping[str, object],
    output: str | Path,
    options: Mapping[str, Any],
    summary: Mapping[str, Any],
    seed: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    engine: str | None = None,
    **more: Any,
) -> str:
    """The record of a run as JSON.

    Args:
        verb: of the command line.
        inputs: what was given, by name; what names a file is recorded with its sha256.
        output: file or folder that the run wrote.
        options: in force, defaults filled in.
        summary: what came of it.
        seed: of all random numbers.
        device: where tensors were.
        threads: of the engine, or else of torch; all cores of this process by default.
        engine: that ran dynamics, as it names itself.
        **more: other things that belong to a verb.
    """
    content = {
        "program": f"deepbackmap {deepbackmap.__version__} {verb}",
        "input": {name: _described(value) for name, value in inputs.items()}
        | ({"topology_options": given} if (given := options_given()) else {}),
        "output": Path(output).name,
        "options": dict(options),
        "seed": seed,
        "device": device,
        "threads": threads if threads is not None else _cores(),
        "engine": None if engine is None else {"name": engine, "version": engine_version(engine)},
        "versions": versions(),
        **more,
        "summary": dict(summary),
    }
    return json.dumps(content, indent=2) + "\n"


def versions() -> dict[str, str | None]:
    """Of Python and of everything that numbers come from; None: not installed."""
    return {
        "python": platform.python_version(),
        **{shown: _installed(package) for package, shown in PACKAGES.items()},
        "GROMACS": gromacs_version(),
    }


def engine_version(name: str) -> str | None:
    """Version of an engine by the name that it calls itself."""
    return gromacs_version() if name.startswith("gromacs") else _installed("openmm")


@cache
def gromacs_version() -> str | None:
    """Version of the GROMACS that would be run here; None: there is none."""
    found = shutil.which("gmx")
    if found is None:
        return None
    try:
        told = subprocess.run(
            [found, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"GROMACS version:\s*(\S+)", told.stdout)
    return match.group(1) if match else None


def file_hash(path: str | Path) -> str:
    """Sha256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as handle:
        while piece := handle.read(READ):
            digest.update(piece)
    return digest.hexdigest()


def _described(value: object) -> object:
    """A file with its hash; what is none as it is."""
    if isinstance(value, Mapping):
        return {str(name): _described(entry) for name, entry in value.items()}
    if not isinstance(value, str | Path):
        return value
    path = Path(value)
    if not path.is_file():
        return str(value)
    return {"file": str(value), "sha256": file_hash(path)}


@cache
def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    """Cores that this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1

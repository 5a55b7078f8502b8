"""Seconds that a command takes before it has anything to do.

    python benchmarks/start.py
    python benchmarks/start.py --smoke

Each row is a Python of its own, the median of ``--repeats``: processor time and time by the clock
of ``--help``, ``models``, a mistake of usage, and of ``backmap`` of the packaged melt until its
first frame begins, and until that is done. Bytecode and compiled kernels are kept as after an
installation (PYTHONDONTWRITEBYTECODE is taken out of the environment, since without bytecode each
run compiles the package's sources), and one run before those that count fills what is missing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MELT = Path(__file__).resolve().parents[1] / "src/deepbackmap/packaged/melt"
COMMANDS = {"--help": ("--help",), "models": ("models",), "mistake": ("backmap", "--no-such")}
BACKMAP = ("backmap", str(MELT / "cg.gro"), str(MELT / "cg.xtc"), "-p", str(MELT / "topol.top"),
           "--frames", "0", "--quiet", "-o")  # fmt: skip
PROGRAM = """
import os, sys, time
started = float(sys.argv.pop(1))
def said(name):
    t = os.times()
    print("AT", name, t.user + t.system, time.time() - started, flush=True)
from deepbackmap.cli.main import run
if sys.argv[1] == "backmap" and "-o" in sys.argv:
    from deepbackmap.jobs.pool import Here
    do = Here.next
    def first(self, *rest):
        said("backmap: first frame begins")
        done = do(self, *rest)
        said("backmap: first frame is done")
        return done
    Here.next = first
try:
    run()
except SystemExit:
    pass
said("end")
"""


def looked_at(words: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Processor and clock seconds at the places that one command comes to."""
    program = [sys.executable, "-c", PROGRAM, str(time.time()), *words]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=kept)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("AT ")]
    if len(rows) > 1:
        rows = rows[:-1]
    return {" ".join(r[1:-2]): (float(r[-2]), float(r[-1])) for r in rows}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        looked_at((*BACKMAP, f"{folder}/first.gro"))
        for k in range(1 if options.smoke else options.repeats):
            for name, words in COMMANDS.items():
                found.setdefault(name, []).append(looked_at(words)["end"])
            for name, at in looked_at((*BACKMAP, f"{folder}/{k}.gro")).items():
                found.setdefault(name, []).append(at)
    print(f"{'':28} {'processor':>10} {'clock':>8}   seconds")
    for name, times in found.items():
        processor, clock = np.median(times, axis=0)
        print(f"{name:28} {processor:>10.2f} {clock:>8.2f}")


if __name__ == "__main__":
    main()

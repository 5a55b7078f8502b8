"""Seconds and memory of placing atoms against the size of the box.

    python benchmarks/box_size.py --copies 1,8,171
    python benchmarks/box_size.py --copies 171 --threads 1 --command
    python benchmarks/box_size.py --smoke

The packaged melt (1 944 atoms) or, where the reference data are at hand (see quality.py), one of
the paper's boxes (5 832 atoms), repeated along its lattice vectors. Each size runs in a process
of its own, whose peak memory is printed; seconds are of ``sample`` alone, after import and model
load, the median of ``--repeats`` calls, and so is the time of processors, which means something on
a busy machine too. --relaxation fixes the number of steps. With --command the command
``backmap`` is run on files of the box, once, and the time and memory of all of it are printed,
from its start until atoms are written.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from deepbackmap.io.tables import ParticleTable
    from deepbackmap.system import Structure

SMOKE = "1,2"


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--copies", default="1,8,171")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--relaxation", type=int, help="the model's by default")
    parser.add_argument("--steps", type=int, help="along the flow; the model's by default")
    parser.add_argument("--sweeps", type=int, help="the model's by default")
    parser.add_argument("--command", action="store_true", help="the whole of backmap, with files")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.copies, options.repeats = SMOKE, 1
    return options


def shape_of(copies: int) -> tuple[int, int, int]:
    """How often the box is repeated along each lattice vector: as near to a cube as it goes."""
    best = (copies, 1, 1)
    for a in range(1, copies + 1):
        for b in range(1, copies // a + 1):
            if copies % (a * b) == 0:
                candidate = (a, b, copies // (a * b))
                if max(candidate) < max(best):
                    best = candidate
    return best


def inputs() -> tuple[Path, str]:
    """Folder of the box that is repeated, and its beads."""
    from quality import data_folder

    from deepbackmap.errors import InputError

    try:
        folder = data_folder(None)
    except InputError:
        folder = Path(__file__).resolve().parents[1] / "src/deepbackmap/packaged/melt"
    return folder, "test_568K_cg.xtc" if (folder / "test_568K_cg.xtc").exists() else "cg.xtc"


def write_files(place: Path, beads: Structure, table: ParticleTable, copies: int) -> None:
    """Beads of the repeated box, and the topology with as many molecules."""
    from deepbackmap.io.tables import ParticleTable
    from deepbackmap.io.trajectory import open_writer

    names = ParticleTable(
        table.names * copies, table.resnames * copies, np.tile(table.resids, copies)
    )
    with open_writer(place / "cg.gro", names) as writer:
        writer.write(beads)
    head, last = re.split(r"(?<=\S)\s+(?=\d+\s*$)", (inputs()[0] / "topol.top").read_text())
    (place / "topol.top").write_text(f"{head} {int(last) * copies}\n")


def by_command(place: Path, arguments: list[str], threads: int) -> dict[str, Any]:
    """``backmap`` of files that ``write_files`` wrote."""
    program = "from deepbackmap.cli.main import run; run()"
    words = ["backmap", "cg.gro", "-p", "topol.top", "-I", str(inputs()[0]), "-q", "-o", "aa.gro"]
    start = time.perf_counter()
    started = subprocess.Popen(
        [sys.executable, "-c", program, *words, *arguments], cwd=place,
        env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads)),
    )  # fmt: skip
    _, status, used = os.wait4(started.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"backmap ended with {os.waitstatus_to_exitcode(status)}")
    with (place / "aa.gro").open() as file:
        file.readline()
        atoms = int(file.readline())
    return {
        "atoms": atoms, "seconds": [seconds], "used": [used.ru_utime + used.ru_stime],
        "peak": used.ru_maxrss / 1024,
    }  # fmt: skip


def one(options: argparse.Namespace) -> None:
    """One size, in this process."""
    import torch
    from quality import open_sampler_of

    from deepbackmap.blocks.index import whole_beads
    from deepbackmap.io.topology import read_topology
    from deepbackmap.io.trajectory import read_frames
    from deepbackmap.mapping import MappingFile
    from deepbackmap.system import Structure

    torch.set_num_threads(options.threads)
    folder, cg = inputs()
    single = read_topology(folder / "topol.top")
    ((kind, count),) = single.blocks
    copies = options.one
    topology = dataclasses.replace(single, blocks=((kind, count * copies),))
    with read_frames(folder / "cg.gro", folder / cg, frames="0:1") as source:
        frame = source[0]
    names = ("sweeps", "relaxation", "steps")
    given = {n: getattr(options, n) for n in names} | {"seed": 0}
    sampler = open_sampler_of(options.model, topology, given)
    # whole first: a chain cut at the face of one box would be torn apart in a larger one
    mapping = MappingFile.from_text(sampler.spec.mapping).resolve(single)
    whole = whole_beads(frame.positions, frame.box, mapping)
    shape = shape_of(copies)
    shifts = np.array([[a, b, c] for a in range(shape[0]) for b in range(shape[1])
                       for c in range(shape[2])]) @ frame.box  # fmt: skip
    beads = Structure(
        positions=(whole[None] + shifts[:, None]).reshape(-1, 3),
        box=frame.box * np.array(shape)[:, None],
    )
    if options.files is not None:
        write_files(options.files, beads, source.table, copies)
        return
    seconds, used = [], []
    for k in range(options.repeats):
        start, before = time.perf_counter(), time.process_time()
        sampler.sample(beads, frame=k)
        seconds.append(time.perf_counter() - start)
        used.append(time.process_time() - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"atoms": topology.n_atoms, "seconds": seconds, "used": used, "peak": peak}))


def main() -> None:
    """All sizes, each in a process of its own."""
    options = parse()
    if options.one is not None:
        one(options)
        return
    print("copies     atoms   seconds  µs/atom  of processors  peak MiB")
    for copies in options.copies.split(","):
        repeats = options.repeats if int(copies) < 50 else 1
        arguments = ["--model", options.model]
        for name in ("relaxation", "steps", "sweeps"):
            if getattr(options, name) is not None:
                arguments += [f"--{name}", str(getattr(options, name))]
        program = [sys.executable, __file__, "--one", copies, "--repeats", str(repeats)]
        program += ["--threads", str(options.threads), *arguments]
        with tempfile.TemporaryDirectory() as place:
            program += ["--files", place] if options.command else []
            done = subprocess.run(program, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            if options.command:
                found = by_command(Path(place), arguments, options.threads)
            else:
                found = json.loads(done.stdout.splitlines()[-1])
        median = float(np.median(found["seconds"]))
        print(
            f"{copies:>6} {found['atoms']:>9} {median:>9.2f} {1e6 * median / found['atoms']:>8.0f} "
            f"{1e6 * float(np.median(found['used'])) / found['atoms']:>14.0f} "
            f"{found['peak']:>9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

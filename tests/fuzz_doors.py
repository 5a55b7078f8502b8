"""Damaged inputs by the thousand: every reader and every verb refuses them or is not misled.

As a program (``python tests/fuzz_doors.py WORK [CASES [FIRST]]``) it tries that many and prints
what broke the rules and what was taken in spite of its damage; ``test_doors_fuzz`` tries fewer.
Each case follows from its number alone. Commands run inside a worker with limits of time and
memory, which is started again when a case ends it.

The rules: one line and exit code 2, or an answer; no traceback, no crash, no hang; a refusal leaves
every file as it was; and what ``map`` takes is the answer to the undamaged file, except for the
beads of atoms whose own digits were changed, which nothing can know.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, MEMORY = 20, 6 << 30
"""Of one case; of the address space, of which torch and its friends take two or three at once."""

ATOMS = ("gro", "pdb", "xtc", "trr", "dcd", "data", "lammpstrj", "gsd")
NUMBERS = ("nan", "inf", "-1", "0", "1e30", "-1e308", "99999999999", "1e-30", "0x10", "", "999999")
CONFIG = """preset: tiny
data:
  topology: topol.top
  mapping: map.yaml
  structure: aa.gro
  trajectory: aa.xtc
  train: "0:2"
  validate: "2:3"
  temperature: 500
training: {iterations: 1}
"""
VERBS = {
    # verb: (weight, files that may be damaged)
    "map": (10, [f"aa.{kind}" for kind in (*ATOMS, "cif")] * 3 + ["topol.top", "map.yaml"]),
    "backmap": (3, [f"cg.{kind}" for kind in ATOMS] + ["model.safetensors"] * 3),
    "baseline": (1, ["cg.gro", "cg.xtc", "map.yaml", "templates.npz"]),
    "finish": (1, ["aa.gro", "aa.xtc"]),
    "evaluate": (1, ["aa.xtc", "aa.gro"]),
    "md": (0.5, ["aa.gro"]),
    "train": (1, ["train.yaml", "train.yaml", "aa.xtc", "map.yaml"]),
}


@dataclass(frozen=True)
class Case:
    """One damaged file and the command that is given it."""

    number: int
    verb: str
    victim: str
    damage: str
    data: bytes
    command: tuple[str, ...]


def make_case(number: int, whole: Path) -> Case:
    """The case of a number; ``whole`` holds the undamaged files."""
    rng = random.Random(number)
    verbs = list(VERBS)
    verb = rng.choices(verbs, [VERBS[v][0] for v in verbs])[0]
    victim = rng.choice(VERBS[verb][1])
    data = (whole / victim).read_bytes()
    text = Path(victim).suffix in (".gro", ".pdb", ".data", ".lammpstrj", ".cif", ".top", ".yaml")
    kinds = BYTES + (LINES * 2 if text else ())
    damage = rng.choice(kinds)
    return Case(
        number, verb, victim, damage.__name__, damage(data, rng), command_of(verb, victim, rng)
    )


def command_of(verb: str, victim: str, rng: random.Random) -> tuple[str, ...]:
    """A command that reads the victim."""
    kind, bare = Path(victim).suffix, Path(victim).suffix in (".xtc", ".trr", ".dcd")
    family = "cg" if verb in ("backmap", "baseline") else "aa"
    files = [f"{family}.gro"]
    if victim.startswith(family):
        files = [f"{family}.gro", victim] if bare else [victim]
        if kind in (".lammpstrj", ".gsd") and rng.random() < 0.5:
            files.insert(0, f"{family}.gro")
    top = ("-p", "topol.top")
    if verb == "map":
        return ("map", *files, *top, "--mapping", "map.yaml", "-o", "out.gro", "-q")
    if verb == "backmap":
        model = ("--model", "model.safetensors", "--sweeps", "0")
        return ("backmap", *files, *top, *model, "-o", "out.gro", "-q", "--keep-defects")
    if verb == "baseline":
        method = ("--method", "backward")
        if victim == "templates.npz":
            method = ("--method", "template", "--templates", victim)
        return ("baseline", *files, *top, "--mapping", "map.yaml", *method, "--no-minimise",
                "--keep-defects", "-o", "out.gro", "-q")  # fmt: skip
    if verb == "finish":
        return ("finish", *files, *top, "--temperature", "300", "--steps", "1", "--minimise", "1",
                "--keep-defects", "--engine", "openmm-cpu", "--threads", "1", "-o", "out.gro",
                "-q")  # fmt: skip
    if verb == "evaluate":
        return ("evaluate", "--reference", "good.xtc", "--generated", f"it={files[-1]}", "-s",
                "aa.gro", *top, "--no-map", "--workers", "1", "-o", "out", "-q")  # fmt: skip
    if verb == "md":
        return ("md", "--start", f"it={files[-1]}", *top, "--temperature", "300", "--time", "1",
                "--engine", "openmm-cpu", "--threads", "1", "-o", "out", "-q")  # fmt: skip
    return ("train", "train.yaml", "--run", "out", "-q", "--device", "cpu")


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + bytes([data[k] ^ (1 << rng.randrange(8))]) + data[k + 1 :]


def flip_early_bit(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(min(200, len(data)))
    return data[:k] + bytes([data[k] ^ (1 << rng.randrange(8))]) + data[k + 1 :]


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + rng.randbytes(rng.randint(1, 16)) + data[k + 16 :]


def cut_end(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def remove_part(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + data[k + rng.randint(1, 64) :]


def insert_part(data: bytes, rng: random.Random) -> bytes:
    k = rng.randrange(len(data))
    return data[:k] + rng.randbytes(rng.randint(1, 64)) + data[k:]


def zero_part(data: bytes, rng: random.Random) -> bytes:
    k, n = rng.randrange(len(data)), rng.randint(1, 64)
    return data[:k] + bytes(min(n, len(data) - k)) + data[k + n :]


def repeat_part(data: bytes, rng: random.Random) -> bytes:
    k, n = rng.randrange(len(data)), rng.randint(1, 200)
    return data[: k + n] + data[k : k + n] + data[k + n :]


def join_twice(data: bytes, rng: random.Random) -> bytes:
    return data + data


def noise(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(0, 400))


def large_word(data: bytes, rng: random.Random) -> bytes:
    """A count or length of four bytes made enormous or negative."""
    k = 4 * rng.randrange(max(1, min(60, len(data) // 4)))
    word = rng.choice([b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\x0f\xff\xff"])
    return data[:k] + (word if rng.random() < 0.5 else word[::-1]) + data[k + 4 :]


def remove_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def repeat_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(True)
    k = rng.randrange(len(lines))
    return b"".join([*lines[:k], lines[k], *lines[k:]])


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(True)
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def change_word(data: bytes, rng: random.Random) -> bytes:
    """A word, often a number, made nonsense."""
    lines = data.split(b"\n")
    k = rng.choice([rng.randrange(len(lines)), rng.randrange(min(12, len(lines))), len(lines) - 2])
    words = lines[k].split()
    if words:
        lines[k] = lines[k].replace(rng.choice(words), rng.choice(NUMBERS).encode(), 1)
    return b"\n".join(lines)


def add_word(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    lines[k] += b" 0.5" if rng.random() < 0.5 else b"\xff\xfe"
    return b"\n".join(lines)


def shift_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    lines[k] = b" " + lines[k] if rng.random() < 0.5 else lines[k][1:]
    return b"\n".join(lines)


BYTES = (flip_bit, flip_early_bit, change_bytes, cut_end, remove_part, insert_part, zero_part,
         repeat_part, join_twice, noise, large_word)  # fmt: skip
LINES = (remove_line, repeat_line, swap_lines, change_word, add_word, shift_line)


# --- inside the worker -------------------------------------------------------------------------


def write_whole(folder: Path) -> None:
    """A small melt in every format, and what else the verbs read."""
    from cli_systems import write_model, write_system
    from deepbackmap.io.topology import read_topology
    from deepbackmap.io.trajectory import atom_table, open_writer, read_frames
    from deepbackmap.mapping import load_mapping
    from deepbackmap.mapping.match import bead_table

    folder.mkdir(parents=True)
    write_system(folder)
    write_model(folder / "model.safetensors")
    (folder / "map.yaml").write_text(load_mapping("ps-two-bead").to_text())
    (folder / "train.yaml").write_text(CONFIG)
    shutil.copy(folder / "aa.xtc", folder / "good.xtc")
    import deepbackmap

    packaged = Path(deepbackmap.__file__).parent / "packaged" / "templates"
    shutil.copy(packaged / "ps-two-bead.npz", folder / "templates.npz")
    topology = read_topology(folder / "topol.top")
    beads = bead_table(load_mapping("ps-two-bead").resolve(topology))
    for name, table in (("aa", atom_table(topology)), ("cg", beads)):
        with read_frames(folder / f"{name}.gro", folder / f"{name}.xtc") as source:
            frames = list(source)
        for kind in ATOMS:
            if kind not in ("gro", "xtc"):
                with open_writer(folder / f"{name}.{kind}", table) as writer:
                    for frame in frames[: 1 if kind == "data" else 2]:
                        writer.write(frame)
        write_cif(folder / f"{name}.cif", table, frames[:2])


def write_cif(path: Path, table: Any, frames: list[Any]) -> None:
    """Atoms and cell as PDBx, which the package only reads."""
    import numpy as np

    from deepbackmap.io.formats.base import lengths_and_cosines

    lengths, cosines = lengths_and_cosines(frames[0].box)
    cell = dict(zip(("length_a", "length_b", "length_c"), 10 * lengths, strict=True))
    angles = np.rad2deg(np.arccos(cosines))
    cell |= dict(zip(("angle_alpha", "angle_beta", "angle_gamma"), angles, strict=True))
    lines = ["data_cell", *(f"_cell.{name} {value:.4f}" for name, value in cell.items()), "loop_"]
    columns = ("id", "label_atom_id", "label_comp_id", "label_seq_id", "Cartn_x", "Cartn_y",
               "Cartn_z", "pdbx_PDB_model_num")  # fmt: skip
    lines += [f"_atom_site.{name}" for name in columns]
    for k, frame in enumerate(frames, 1):
        rows = zip(table.names, table.resnames, table.resids, 10 * frame.positions, strict=True)
        lines += [
            f"{i} {name} {residue} {number} {x:.4f} {y:.4f} {z:.4f} {k}"
            for i, (name, residue, number, (x, y, z)) in enumerate(rows, 1)
        ]
    path.write_text("\n".join([*lines, "#", ""]))


def serve(whole: Path) -> None:
    """Runs the cases whose numbers come in, and says how each ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import torch

    torch.set_num_threads(1)
    from cli_systems import command, contents

    for line in sys.stdin:
        case = make_case(int(line), whole)
        place = whole.parent / f"case-{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        (place / case.victim).write_bytes(case.data)
        os.chdir(place)
        before = contents(place)
        # Of this process' own time, since others may have the cores; a sleep ends too.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(10 * SECONDS)
        started = time.monotonic()
        try:
            done = command(*case.command)
            code, said = done.code, done.err
        except BaseException as error:
            trace = error.__traceback__
            while trace and trace.tb_next:
                trace = trace.tb_next
            where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
            code, said = 1, f"{type(error).__name__}: {error} at {where}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        after = contents(place)
        new = sorted(name for name in after if after[name] != before.get(name))
        found = {"code": code, "said": said[-20_000:], "new": new,
                 "seconds": time.monotonic() - started}  # fmt: skip
        if code == 0 and case.verb == "map":
            found["off"] = _off(case, place, whole)
        print("RESULT " + json.dumps(found), flush=True)


def _off(case: Case, place: Path, whole: Path) -> list[float]:
    """Distances in nm of the mapped beads from the undamaged answer, more than rounding."""
    import numpy as np

    from deepbackmap.geometry.cell import minimum_image
    from deepbackmap.io.trajectory import read_frames

    frames = {"gro": 1, "data": 1, "xtc": 3}.get(case.victim.rpartition(".")[2], 2)
    far: list[float] = []
    with (
        read_frames(place / "out.gro") as source,
        read_frames(whole / "cg.gro", whole / "cg.xtc") as good,
    ):
        for k, made in enumerate(source):
            right = good[k % frames]  # two files in one are twice the frames
            moved = minimum_image(made.positions - right.positions, right.box)
            far += [round(float(d), 4) for d in np.linalg.norm(moved, axis=1) if d > 2e-3]
    return far


# --- outside of it -----------------------------------------------------------------------------


class Worker:
    """A process that runs cases, started again when one of them ends it."""

    def __init__(self, whole: Path) -> None:
        self._whole = whole
        self._process: subprocess.Popen[str] | None = None

    def run(self, number: int) -> dict[str, object]:
        """How a case ended; ``ended`` holds the status of a worker that it took along."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--serve", str(self._whole)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=dict(os.environ, OMP_NUM_THREADS="1", MPLBACKEND="Agg"),
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{number}\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("RESULT "):
                found: dict[str, object] = json.loads(line.removeprefix("RESULT "))
                return found
        self._process = None
        return {"ended": process.wait()}

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


def judge(case: Case, found: dict[str, object]) -> str:
    """What rule a case broke; nothing if it broke none."""
    if "ended" in found:
        late = (-signal.SIGALRM, -signal.SIGPROF)
        return "hang" if found["ended"] in late else f"crash {found['ended']}"
    code, said, new = found["code"], str(found["said"]), found["new"]
    if code not in (0, 2):
        return f"exit {code}"
    if code == 2:
        lines = said.strip().splitlines()
        # Behind a colon the one line may be followed by a mapping to fill in, and a topology's
        # mistakes are all told at once, one a line.
        several = (bool(lines) and lines[0].endswith(":")) or all(x[:2] == "  " for x in lines[1:])
        heads = lines[:1] if several else lines
        if not lines or not all(line.startswith("deepbackmap: ") for line in heads):
            return "refused in more than a line"
        if new:
            return f"left {new}"
    if code == 0 and case.verb != "train" and not new:
        return "wrote nothing"
    off = list(found.get("off", []))  # type: ignore[call-overload]
    if len(off) > MOVED or max(off, default=0.0) > FAR:
        return f"misled, beads off by {off}"
    return ""


MOVED, FAR = 6, 0.5
"""How many beads of ``map`` may move, and how far in nm, by digits that were changed: those of the
eleven atoms of a run of .xtc, no further than bonds may reach."""


def main(arguments: list[str]) -> int:
    """Tries cases, prints those that broke a rule, and counts."""
    work = Path(arguments[0])
    cases = int(arguments[1]) if len(arguments) > 1 else 1500
    first = int(arguments[2]) if len(arguments) > 2 else 0
    whole = work / "whole"
    if not whole.exists():
        write_whole(whole)
    worker, counts, broken = Worker(whole), Counter(), 0
    for number in range(first, first + cases):
        case = make_case(number, whole)
        found = worker.run(number)
        verdict = judge(case, found)
        took = "broken" if verdict else "refused" if found["code"] == 2 else "taken"
        counts[case.verb, took] += 1
        if verdict:
            broken += 1
            print(f"{number} {case.verb} {case.victim} {case.damage}: {verdict}; "
                  f"{str(found.get('said', ''))[-250:].strip()}", flush=True)  # fmt: skip
        elif found.get("off"):
            print(f"{number} {case.verb} {case.victim} {case.damage}: taken, beads off by "
                  f"{found['off']}", flush=True)  # fmt: skip
    worker.close()
    for (verb, took), count in sorted(counts.items()):
        print(f"{verb:9} {took:8} {count}")
    return broken


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        sys.exit(min(1, main(sys.argv[1:])))

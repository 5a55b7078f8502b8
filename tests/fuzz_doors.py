"""Damaged inputs by the thousand: every reader and every verb refuses them or is not misled.

As a program (``python tests/fuzz_doors.py WORK [CASES [FIRST [PROCESSES]]]``) it tries that many,
prints what broke the rules and a table by verb and reader; ``test_doors_fuzz`` tries fewer. Each
case follows from its number alone. A server imports everything once; every case is a fork of it
with limits of time and memory, so that none can spoil the next or take the server along.

The rules: one line and exit code 2, or an answer; no traceback, no crash, no hang, no more memory
than 4 GB; a refusal leaves every file as it was; and beads that come out are those of the
undamaged file, except for the beads of atoms whose own digits were changed, which nothing can know.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fuzz_damage import BYTES, LINES, MODELS, NUMBERS, change_value

SECONDS, MEMORY = 20, 4 << 30
"""Of one case: time on the processor, and memory beyond what the server has."""

TEXT = {".gro", ".pdb", ".data", ".lammpstrj", ".cif", ".top", ".itp", ".yaml", ".map", ".ndx",
        ".xml", ".cgs", ".txt", ".prmtop", ".psf", ".prm", ".rtf", ".modifiers"}  # fmt: skip
BARE = {".xtc", ".trr", ".dcd"}
"""Coordinates without names, which go with a structure."""
ALL = ("gro", "pdb", "xtc", "trr", "dcd", "data", "lammpstrj", "gsd", "cif", "gro.gz")
FRAMES = {"gro": 1, "gz": 1, "data": 1, "xtc": 3}
"""In the undamaged file of each kind; in others two."""
MAPPINGS = ("map.yaml", "stereo.yaml", "map.xml", "map.ndx", "backward.map", "vermouth.map",
            "pycgtool.map", "map.cgs")  # fmt: skip

MAP = "map {files} -p topol.top --mapping map.yaml -o out.gro -q"
MAP_BY = "map good.gro -p topol.top --mapping {victim} -o out.gro -q"
BACKMAP = "backmap {files} -p topol.top --model {model} --sweeps 0 -o out.gro -q --keep-defects"
POINTS = "points.safetensors --relaxation 0 --steps 1"
BASELINE = (
    "baseline {files} -p topol.top --mapping map.yaml --method {method} --no-minimise "
    "--keep-defects -o out.gro -q"
)
MODIFIED = "backward --modifiers ps.modifiers"
TEMPLATES = "template --templates templates.npz"
LEARNED = "template --templates-from aa.xtc --structure aa.gro"
FINISH = (
    "finish {files} -p topol.top --temperature 300 --steps 1 --minimise 1 --keep-defects "
    "--engine openmm-cpu --threads 1 -o out.gro -q"
)
HELD = " --hold-beads --mapping map.yaml --beads cg.gro"
EVALUATE = (
    "evaluate --reference good.xtc --generated it={last} -s good.gro -p topol.top --no-map "
    "--workers 1 -o out -q"
)
MD = (
    "md --start it={last} -p topol.top --temperature 300 --time 1 --engine openmm-cpu "
    "--threads 1 -o out -q"
)
TRAIN = "train {config} --run out -q --device cpu"
BEGUN = "points.yaml training.init_from=points.safetensors"
INFER = "mapping infer {files} -p topol.top -o out.yaml -q"


def _kinds(
    family: str, weight: float, form: str, kinds: tuple[str, ...] = ALL, **words: str
) -> list[tuple[float, str, str]]:
    """One entry for each kind of coordinate file."""
    found = []
    for kind in kinds:
        victim = f"{family}.{kind}"
        files = f"{family}.gro {victim}" if f".{kind}" in BARE else victim
        found.append((weight, victim, form.format(files=files, last=victim, **words)))
    return found


DOORS: tuple[tuple[float, str, str], ...] = (
    # weight, file that is damaged, command that reads it
    *_kinds("aa", 1.5, MAP),
    *((0.6, f"aa.{kind}", f"map aa.gro aa.{kind} -p topol.top --mapping map.yaml -o out.gro -q")
      for kind in ("lammpstrj", "gsd")),
    (1.0, "topol.top", MAP.format(files="good.gro")),
    (1.0, "PS.itp", MAP.format(files="good.gro")),
    *((0.7, victim, MAP_BY.format(victim=victim)) for victim in MAPPINGS),
    *_kinds("cg", 0.4, BACKMAP, model=POINTS),
    *_kinds("cg", 0.15, BACKMAP, ("gro", "xtc"), model="model.safetensors"),
    (1.0, "model.safetensors", BACKMAP.format(files="cg.gro", model="model.safetensors")),
    (1.5, "points.safetensors", BACKMAP.format(files="cg.gro", model=POINTS)),
    (0.7, "labels.txt", BACKMAP.format(files="cg.gro", model=POINTS + " --labels labels.txt")),
    *((0.3, f"aa.{kind}", BACKMAP.format(files="cg.gro", model=f"{POINTS} --like aa.{kind}"))
      for kind in ("gro", "pdb", "cif")),
    (0.4, "stereo.yaml", BACKMAP.format(files="cg.gro", model=POINTS + " --mapping stereo.yaml")),
    *_kinds("cg", 0.25, BASELINE, method="backward"),
    (0.4, "map.yaml", BASELINE.format(files="cg.gro", method="backward")),
    (0.5, "ps.modifiers", BASELINE.format(files="cg.gro", method=MODIFIED)),
    (0.7, "templates.npz", BASELINE.format(files="cg.gro", method=TEMPLATES)),
    (0.3, "aa.xtc", BASELINE.format(files="cg.gro", method=LEARNED)),
    *_kinds("aa", 0.25, FINISH),
    (0.3, "relaxed.gro", FINISH.format(files="good.gro") + " --reference relaxed.gro"),
    (0.3, "cg.gro", FINISH.format(files="good.gro") + HELD),
    *_kinds("aa", 0.2, EVALUATE),
    (0.3, "cg.gro", EVALUATE.format(last="good.gro") + " --beads cg.gro --mapping map.yaml"),
    (0.6, "relaxed.gro", MD.format(last="relaxed.gro")),
    (0.8, "train.yaml", TRAIN.format(config="train.yaml")),
    (0.8, "points.yaml", TRAIN.format(config="points.yaml")),
    (0.4, "aa.xtc", TRAIN.format(config="train.yaml")),
    (0.3, "map.yaml", TRAIN.format(config="points.yaml")),
    (0.5, "points.safetensors", TRAIN.format(config=BEGUN)),
    (0.5, "aa.gro", INFER.format(files="aa.gro cg.gro")),
    (0.5, "cg.gro", INFER.format(files="aa.gro cg.gro")),
    (0.5, "topol.top", "mapping draft -p topol.top -o out.yaml"),
    (0.5, "PS.itp", "mapping draft -p topol.top --by graph -o out.yaml"),
    (0.8, "molecules.data", "mapping draft -p molecules.data -o out.yaml"),
    (0.8, "peptide.prmtop", "mapping draft -p peptide.prmtop -o out.yaml"),
    (0.6, "system.xml", "mapping draft -p system.xml -o out.yaml"),
    (0.8, "peptide.psf", "mapping draft -p peptide.psf -o out.yaml"),
    # options: nothing is damaged but what is said
    *((weight, "options", command) for weight, command in (
        (0.5, MAP.format(files="good.gro")),
        (1.0, BACKMAP.format(files="cg.gro", model=POINTS)),
        (0.3, BACKMAP.format(files="cg.gro", model="model.safetensors")),
        (0.5, BASELINE.format(files="cg.gro", method="backward")),
        (0.3, BASELINE.format(files="cg.gro", method=TEMPLATES)),
        (1.0, FINISH.format(files="good.gro")),
        (1.0, EVALUATE.format(last="good.xtc")),
        (1.0, MD.format(last="relaxed.gro")),
        (1.5, TRAIN.format(config="train.yaml")),
        (1.5, TRAIN.format(config="points.yaml")),
        (0.3, INFER.format(files="aa.gro cg.gro")),
        (0.3, "mapping draft -p topol.top -o out.yaml"),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One damaged file, or bad option, and the command that is given it."""

    number: int
    victim: str
    damage: str
    data: bytes
    command: tuple[str, ...]

    @property
    def verb(self) -> str:
        """Of the command."""
        return " ".join(self.command[: 1 + (self.command[0] == "mapping")])

    @property
    def checked(self) -> str:
        """What beads of the output are compared: of ``atoms``, ``beads`` or none."""
        coordinates = self.victim.startswith(("aa.", "cg."))
        told = {"points.safetensors", "labels.txt"}
        if self.verb == "map":
            return "beads" if coordinates else ""
        if self.verb == "backmap" and "points.safetensors" in self.command:
            return "atoms" if coordinates or self.victim in told else ""
        return ""

    @property
    def frames(self) -> int:
        """Of the undamaged coordinates that are read."""
        read = [w for w in self.command if w.startswith(("aa.", "cg.", "good."))]
        return (
            FRAMES.get(read[-1].rpartition(".")[2], 2)
            if self.verb == "map"
            else FRAMES.get([w for w in read if w.startswith("cg.")][-1].rpartition(".")[2], 2)
        )


def make_case(number: int, whole: Path) -> Case:
    """The case of a number; ``whole`` holds the undamaged files. From -1 down: no damage, one
    case for each of ``DOORS``."""
    if number < 0:
        _, victim, command = DOORS[-1 - number]
        data = b"" if victim == "options" else (whole / victim).read_bytes()
        return Case(number, victim, "none", data, tuple(command.split()))
    rng = random.Random(number)
    _, victim, command = rng.choices(DOORS, [weight for weight, *_ in DOORS])[0]
    words = tuple(command.split())
    if victim == "options":
        more = bad_option(words, rng)
        return Case(number, victim, more[0], b"", (*words, *more))
    data = (whole / victim).read_bytes()
    kinds = BYTES + (LINES * 2 if Path(victim).suffix in TEXT else ())
    if victim.endswith(".safetensors"):
        kinds += MODELS * 5
    if victim.endswith(".yaml"):
        kinds += (change_value,) * 12
    damage = rng.choice(kinds)
    return Case(number, victim, damage.__name__, damage(data, rng), words)


def bad_option(words: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """An option of a verb, or of training, with a value that is none, or a foreign one."""
    if words[0] == "train" and rng.random() < 0.9:
        key = rng.choice(training_keys(words[1]))
        value = rng.choice(
            [v for v in NUMBERS if not (key in WORK_KEYS and len(v) > 5 and v[0] == "9")]
        )
        return (f"{key}={value}",)
    known = options_of(words[: 1 + (words[0] == "mapping")])
    name = rng.choice(known)
    values = [*NUMBERS, "x", "a=b", "a=1", "steps=nan", "1:2:0", "-1:", "::", "5:", "topol.top",
              "none", "\udcff", "A" * 300, "/"]  # fmt: skip
    if name in WORK_OPTIONS:
        values = [v for v in values if not v.startswith("9")]
    return (name, rng.choice(values))


WORK_OPTIONS = {"--steps", "--minimise", "--time", "--sweeps", "--candidates", "--relaxation",
                "--block-relaxation", "--finish-steps", "--max-steps"}  # fmt: skip
WORK_KEYS = {"training.iterations", "training.batch", "training.critic_steps", "training.frames",
             "data.picoseconds"}  # fmt: skip
"""Who asks for much work gets it."""
FLAGS_TOO = ("--by-order", "--force", "--quiet", "--help", "--output", "-o", "--run", "--device")
"""Without a value, or where the output goes."""


@cache
def options_of(verb: tuple[str, ...]) -> list[str]:
    """Names of all options of a verb that take a value."""
    import typer

    from deepbackmap.cli.main import app

    found: Any = typer.main.get_command(app)
    for word in verb:
        found = found.commands[word]
    return sorted(
        p.opts[0] for p in found.params
        if p.param_type_name == "option" and not p.is_flag and p.opts[0] not in FLAGS_TOO
    )  # fmt: skip


@cache
def training_keys(config: str) -> list[str]:
    """Of all options that a configuration may have, and some that it may not."""
    from deepbackmap.config import load_train_config

    method = "voxel" if config == "train.yaml" else "points"
    preset = "tiny" if method == "voxel" else "points"
    sections = load_train_config(preset).sections()
    found = ["method", "preset", "nobody.knows", "training.nobody"]
    for name, section in sections.items():
        if isinstance(section, dict):
            for key, value in section.items():
                found += [f"{name}.{key}.{k}" for k in value] if isinstance(value, dict) else []
                found.append(f"{name}.{key}")
    return found


# --- the server and its forks ------------------------------------------------------------------


def serve(whole: Path) -> None:
    """Forks for each number that comes in, and says how the case ended."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import_all()
    answer = os.dup(1)
    os.dup2(2, 1)  # what a case prints by itself belongs to nobody
    place = whole.parent / f"case-{os.getpid()}"
    for line in sys.stdin:
        case = make_case(int(line), whole)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(whole, place)
        if case.data or case.victim != "options":
            (place / case.victim).write_bytes(case.data)
        told, tell = os.pipe()
        started, child = time.monotonic(), os.fork()
        if child == 0:
            os.close(told)
            _limit()
            with os.fdopen(tell, "w") as out:
                json.dump(_try(case, place, whole), out)
            os._exit(0)
        os.close(tell)
        with os.fdopen(told) as found:
            text = found.read()
        _, status, usage = os.wait4(child, 0)
        end = os.waitstatus_to_exitcode(status)
        result = json.loads(text) if end == 0 else {"ended": end}
        result["seconds"] = round(time.monotonic() - started, 2)
        result["cpu"] = round(usage.ru_utime + usage.ru_stime, 2)
        result["megabytes"] = usage.ru_maxrss // 1024
        os.write(answer, ("RESULT " + json.dumps(result) + "\n").encode())
    shutil.rmtree(place, ignore_errors=True)


def import_all() -> None:
    """All that any case may need, so that forks find it there."""
    import importlib
    import pkgutil

    import openmm  # noqa: F401
    import torch

    import deepbackmap

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(deepbackmap.__path__, "deepbackmap."):
        importlib.import_module(module.name)
    import fuzz_files  # noqa: F401


def _limit() -> None:
    """Of a fork: of its own time, since others may have the cores; a sleep ends too."""
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MEMORY, has + MEMORY))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(10 * SECONDS)


def _try(case: Case, place: Path, whole: Path) -> dict[str, Any]:
    from cli_systems import command, contents
    from fuzz_files import beads_off

    os.chdir(place)
    before = contents(place)
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
    new = sorted(n for n in {*after, *before} if after.get(n) != before.get(n))
    found: dict[str, Any] = {"code": code, "said": said[-20_000:], "new": new}
    if code == 0 and case.checked:
        try:
            found["off"] = beads_off(
                place / "out.gro", whole, case.frames, atoms=case.checked == "atoms"
            )
        except Exception as error:
            found["off"] = [math.inf, f"{type(error).__name__}: {error}"]
    return found


# --- outside of it -----------------------------------------------------------------------------


class Worker:
    """The server of cases, started again if one of them should end it."""

    def __init__(self, whole: Path) -> None:
        self._whole = whole
        self._process: subprocess.Popen[str] | None = None

    def run(self, number: int) -> dict[str, Any]:
        """How a case ended; ``ended`` holds the status of a fork, or server, that it took along."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--serve", str(self._whole)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=dict(os.environ, OMP_NUM_THREADS="1", MPLBACKEND="Agg"),
            )  # fmt: skip
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            for line in process.stdout:
                if line.startswith("RESULT "):
                    return json.loads(line.removeprefix("RESULT "))
        except BrokenPipeError:
            pass
        self._process = None
        return {"ended": process.wait()}

    def close(self) -> None:
        """Ends the server."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


def judge(case: Case, found: dict[str, Any]) -> str:
    """What rule a case broke; nothing if it broke none."""
    if "ended" in found:
        late = (-signal.SIGALRM, -signal.SIGPROF)
        return "hang" if found["ended"] in late else f"crash {found['ended']}"
    code, said, new = found["code"], str(found["said"]), found["new"]
    if code not in (0, 2):
        return f"exit {code}"
    if found.get("megabytes", 0) > MEMORY >> 20 or "to fit into memory" in said:
        return "memory"
    if code == 2:
        if new:
            return f"left {new}"
        return "" if _one_line(said) else "refused in more than a line"
    if not new:
        return "wrote nothing"
    if parts := [name for name in new if re.search(r"(^|/)\.", name)]:
        return f"left {parts}"
    off = found.get("off", [])
    if "expected bonded beads" in said:
        return ""  # noticed, and refused unless asked for by --keep-defects
    if len(off) > MOVED or any(not isinstance(d, float) or not d <= FAR for d in off):
        return f"misled, beads off by {off}"
    return ""


def _one_line(said: str) -> bool:
    """Whether a refusal is a sentence. Behind a colon it may be followed by a mapping to fill in;
    a topology's mistakes are all told at once, one a line; and options that are none of their type
    are refused by the parser in its own words."""
    lines = said.strip().splitlines()
    if lines and lines[0].startswith("Usage: "):
        return "Traceback" not in said
    several = (bool(lines) and lines[0].endswith(":")) or all(x[:2] == "  " for x in lines[1:])
    heads = lines[:1] if several else lines
    return bool(lines) and all(line.startswith("deepbackmap: ") for line in heads)


MOVED, FAR = 6, 0.5
"""How many beads may move, and how far in nm, by digits that were changed: those of the eleven
atoms of a run of .xtc, no further than bonds may reach."""


def results(whole: Path, numbers: Iterator[int] | range) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Cases one after the other, and how each ended."""
    worker = Worker(whole)
    try:
        for number in numbers:
            yield make_case(number, whole), worker.run(number)
    finally:
        worker.close()


def table(tried: list[tuple[Case, dict[str, Any], str]]) -> str:
    """Counts by verb and by what was damaged, as Markdown."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for case, found, verdict in tried:
        row = rows.setdefault((case.verb, case.victim), Counter())
        took = "broke a rule" if verdict else "refused" if found["code"] == 2 else "taken"
        row.update(["cases", took])
    columns = ("cases", "refused", "taken", "broke a rule")
    lines = [f"| verb | damaged | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for (verb, victim), row in sorted(rows.items()):
        lines.append(f"| {verb} | {victim} | {' | '.join(str(row[c]) for c in columns)} |")
    total = sum(rows.values(), Counter())
    lines.append(f"| all | | {' | '.join(str(total[c]) for c in columns)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Tries cases, prints those that broke a rule, and the table."""
    work = Path(arguments[0])
    cases, first, processes = (
        int(x) for x in (*arguments[1:], *("1500", "0", "1")[len(arguments) - 1 :])
    )
    whole = work / "whole"
    if not whole.exists():
        from fuzz_files import write_whole

        write_whole(whole)
    tried: list[tuple[Case, dict[str, Any], str]] = []

    def go(part: int) -> None:
        for case, found in results(whole, range(first + part, first + cases, processes)):
            verdict = judge(case, found)
            tried.append((case, found, verdict))
            if verdict or found.get("off"):
                print(f"{case.number} {' '.join(case.command)} [{case.victim} {case.damage}]: "
                      f"{verdict or 'taken, beads off by ' + str(found['off'])}; "
                      f"{found.get('cpu')} s; {str(found.get('said', ''))[-300:].strip()}",
                      flush=True)  # fmt: skip

    threads = [threading.Thread(target=go, args=(k,)) for k in range(processes)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(table(tried))
    cpu, most = (max(f.get(k, 0) for _, f, _ in tried) for k in ("cpu", "megabytes"))
    total = sum(f.get("cpu", 0) for _, f, _ in tried)
    print(f"{time.monotonic() - started:.0f} s, {total:.0f} s on the processor, at most {cpu} s "
          f"and {most} MB in a case")  # fmt: skip
    return sum(bool(verdict) for *_, verdict in tried)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(Path(sys.argv[2]))
    else:
        sys.exit(min(1, main(sys.argv[1:])))

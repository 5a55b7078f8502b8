"""Verbs that are interrupted by a signal at a random moment, and what they leave.

As a program (``python tests/interruptions.py WORK [COUNT [SEED [INPUTS]]]``) it tries that many
and prints a table; ``test_doors_interruption`` tries fewer. A process that has imported everything
forks for each of them, so that the moments lie in the work of a verb and not in its imports.

The rules: after a signal that can be handled nothing new is there, or all of an output, or the
journal of the frames that are done, and the message says so; after SIGKILL only hidden parts may
be, beside whole outputs; the same command, run once more (with ``--resume``, where there is such),
takes those away and gives the bytes of a run that nobody disturbed. A run of ``train`` keeps
what it has (a configuration, a checkpoint, a model), each of them whole, and goes on from there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

COMMANDS = {
    "map": "map aa.gro aa.xtc -p topol.top --mapping map.yaml -o out.xtc",
    "backmap": "backmap cg.gro cg.xtc -p topol.top --model points.safetensors --relaxation 0 "
    "--keep-defects -o out.xtc",
    "baseline": "baseline cg.gro cg.xtc -p topol.top --mapping map.yaml --method backward "
    "--no-minimise --keep-defects -o out.xtc",
    "finish": "finish aa.gro aa.xtc -p topol.top --temperature 300 --steps 20 --engine internal "
    "--threads 1 --keep-defects -o out.xtc",
    "evaluate": "evaluate --reference good.xtc --generated it=aa.xtc -s aa.gro -p topol.top "
    "--no-map --workers 1 -o out",
    "md": "md --start it=relaxed.gro -p topol.top --temperature 300 --time 1 --engine openmm-cpu "
    "--threads 1 -o out",
    "train": "train points.yaml training.iterations=6 training.checkpoint_every=1 "
    "training.log_every=1 --device cpu --run out",
    "infer": "mapping infer aa.gro cg.gro -p topol.top -o out.yaml",
    "draft": "mapping draft -p topol.top -o out.yaml",
}
RESUMED = ("backmap", "baseline", "finish", "evaluate", "md")
"""Verbs that keep what is done, in a journal, and go on with ``--resume``."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
PATIENCE = 300.0
"""s, after which a verb counts as hanging."""


@dataclass(frozen=True)
class Moment:
    """A verb, the signal it gets, and when, as a part of the time on the processor that it takes
    undisturbed."""

    verb: str
    signal: signal.Signals
    part: float


@dataclass(frozen=True)
class Ending:
    """How a fork ended."""

    code: int
    """Exit status, or minus the signal."""
    said: str
    seconds: float
    """Time on the processor."""


def moments(count: int, seed: int = 0) -> list[Moment]:
    """All verbs and signals in turn, at moments drawn at random."""
    rng = random.Random(seed)
    turns = [(v, s) for s in SIGNALS for v in COMMANDS]
    rng.shuffle(turns)
    return [Moment(*turns[k % len(turns)], rng.uniform(0.0, 1.05)) for k in range(count)]


def words_of(verb: str, again: bool = False) -> list[str]:
    """Of a command; training goes on and drafts are shown whole, so that neither is forced."""
    words = [*COMMANDS[verb].split(), *([] if verb == "draft" else ["-q"])]
    if again:
        words += [*(["--force"] if verb != "train" else [])]
        words += [*(["--resume"] if verb in RESUMED else [])]
    return words


def go(folder: Path, words: list[str], number: int | None = None, when: float = 0.0) -> Ending:
    """Runs a command in a fork, which gets a signal after ``when`` seconds on the processor, so
    that other work on the machine does not change where in the command that is."""
    said_to = folder.parent / f"{folder.name}.said"
    said_to.write_text("")  # before the fork, which may be ended before it writes anything
    started, child = time.monotonic(), os.fork()
    if child == 0:
        _become(folder, words)
    if number is not None:
        while spent(child) < when and time.monotonic() < started + PATIENCE:
            time.sleep(0.001)
        os.kill(child, number)  # not reaped yet, so that it is nobody else's
    while time.monotonic() < started + PATIENCE:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.002)
    else:
        os.kill(child, signal.SIGKILL)
        _, status, used = os.wait4(child, 0)
    said = said_to.read_text(errors="replace")
    return Ending(os.waitstatus_to_exitcode(status), said, used.ru_utime + used.ru_stime)


def spent(child: int) -> float:
    """Time on the processor that all threads of a process have had, s; infinite at its end."""
    if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        return float("inf")
    try:
        return time.clock_gettime((~child << 3) | 2)  # Linux: its number as a clock
    except OSError:
        return float("inf")


def _become(folder: Path, words: list[str]) -> None:
    """In the fork: the command, from its place, as a process of its own."""
    from deepbackmap.cli.main import run

    code = 1
    try:
        said = os.open(folder.parent / f"{folder.name}.said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["deepbackmap", *words]
        run()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same(verb: str, found: dict[str, bytes], right: dict[str, bytes]) -> list[str]:
    """Names of outputs that differ from those of a run that nobody disturbed. Records hold times
    and figures of the machine, logs of training one line or file more for every start."""
    if verb == "train":
        names = {"out/model.safetensors"}  # the configuration holds the folder's own name
    else:
        names = {n for n in right if not n.endswith((".json", ".html"))}
        assert set(found) >= set(right), set(right) - set(found)
    return sorted(n for n in names if found.get(n) != right[n])


def hidden(names: set[str]) -> set[str]:
    """Those with a hidden part."""
    return {n for n in names if any(part.startswith(".") for part in Path(n).parts)}


def check_kept(moment: Moment, said: str, parts: set[str]) -> None:
    """Whether what is hidden may be there."""
    if moment.signal == signal.SIGKILL:
        return
    kept = {n for n in parts if ".journal" in n and moment.verb in RESUMED}
    assert parts == kept, parts - kept
    assert bool(kept) == ("kept" in said), (kept, said)


def check_whole(folder: Path, names: set[str], right: dict[str, bytes]) -> None:
    """What an interrupted run of training keeps can be read."""
    import torch

    from deepbackmap.config import load_train_config
    from deepbackmap.model.file import load_model

    readers: dict[str, Callable[[Path], object]] = {
        "config.yaml": load_train_config,
        "model.safetensors": load_model,
        "checkpoint.pt": lambda p: torch.load(p, weights_only=True),
    }
    for name in names:
        if Path(name).name in readers:
            readers[Path(name).name](folder / name)
    assert {Path(n).parts[0] for n in names} <= {Path(n).parts[0] for n in right}


def interrupt(
    whole: Path, folder: Path, moment: Moment, right: dict[str, bytes], seconds: float
) -> str:
    """Runs a verb, sends it a signal, looks; runs it to its end and looks again.

    Args:
        whole: folder of inputs.
        folder: to work in; it is made.
        moment: what to do when.
        right: outputs of a run that nobody disturbed.
        seconds: that it took, on the processor.

    Returns:
        ``done`` (the signal came too late), ``nothing``, ``parts`` (hidden ones) or ``some`` (of a
        run of training) was left by the interrupted run.
    """
    shutil.copytree(whole, folder)
    before = contents(folder)
    words = words_of(moment.verb)
    ended = go(folder, words, moment.signal, moment.part * seconds)
    now = contents(folder)
    assert {n: now.get(n) for n in before} == before
    new = set(now) - set(before)
    if ended.code == 0:
        # files of TensorBoard are called by time and process
        missing = {n for n in set(right) - new if "tensorboard" not in n}
        assert not missing, missing
        assert not hidden(new), hidden(new)
        left = "done"
    elif moment.verb == "train":
        check_whole(folder, new - hidden(new), right)
        assert moment.signal == signal.SIGKILL or not hidden(new), hidden(new)
        left = "some" if new else "nothing"
    else:
        shown = new - hidden(new)
        check_kept(moment, ended.said, hidden(new))
        # an output is written before its record: either may be there, each whole
        assert shown <= set(right), shown
        assert not same(moment.verb, {**right, **{n: now[n] for n in shown}}, right)
        left = "parts" if hidden(new) else "whole" if shown else "nothing"
    # a signal that comes before the verb begins ends the process as any other, without a word
    if ended.code not in (0, 130, -moment.signal):
        raise AssertionError(f"exit {ended.code}: {ended.said[-2000:]}")
    again = go(folder, words_of(moment.verb, again=True))
    assert again.code == 0, again.said[-2000:]
    after = {n: data for n, data in contents(folder).items() if n not in before}
    assert not hidden(set(after)), hidden(set(after))
    assert not same(moment.verb, after, right), same(moment.verb, after, right)
    shutil.rmtree(folder)
    return left


def undisturbed(whole: Path, place: Path, verb: str) -> tuple[dict[str, bytes], float]:
    """Outputs of a verb and how long it takes, s on the processor; in a second run, since the first
    may compile."""
    before = set(contents(whole))
    found, seconds = {}, 0.0
    for turn in range(2):
        folder = place / f"right-{verb}-{turn}"
        shutil.copytree(whole, folder)
        ended = go(folder, words_of(verb))
        assert ended.code == 0, ended.said[-2000:]
        found = {n: data for n, data in contents(folder).items() if n not in before}
        seconds = ended.seconds
    return found, seconds


def trials(whole: Path, place: Path, listed: list[Moment]) -> Iterator[tuple[Moment, str]]:
    """Each moment, and what the interrupted run left, or what was wrong with that."""
    place.mkdir(parents=True, exist_ok=True)
    right = {}
    for k, moment in enumerate(listed):
        if moment.verb not in right:
            right[moment.verb] = undisturbed(whole, place, moment.verb)
        folder = place / f"moment-{k}"
        try:
            yield moment, interrupt(whole, folder, moment, *right[moment.verb])
        except Exception as error:
            yield moment, f"WRONG: {type(error).__name__}: {error}"


LEFT = ("nothing", "whole", "parts", "some", "done")


def table(found: list[tuple[Moment, str]]) -> str:
    """What was left, by verb and signal, as Markdown."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for moment, left in found:
        row = rows.setdefault((moment.verb, moment.signal.name), Counter())
        row.update(["count", left if left in LEFT else "wrong"])
    columns = ("count", *LEFT, "wrong")
    lines = [f"| verb | signal | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for (verb, number), row in sorted(rows.items()):
        lines.append(f"| {verb} | {number} | {' | '.join(str(row[c]) for c in columns)} |")
    total = sum(rows.values(), Counter())
    return "\n".join([*lines, f"| all | | {' | '.join(str(total[c]) for c in columns)} |"])


def main(arguments: list[str]) -> int:
    """Tries moments, prints those that went wrong, and the table."""
    from fuzz_doors import import_all
    from fuzz_files import write_whole

    work = Path(arguments[0])
    given = [int(x) for x in arguments[1:3]]
    count, seed = (*given, *(60, 1)[len(given) :])
    whole = Path(arguments[3]) if len(arguments) > 3 else work / "whole"
    if not whole.exists():
        write_whole(whole)
    import_all()
    found = []
    for moment, left in trials(whole, work / "place", moments(count, seed)):
        found.append((moment, left))
        print(f"{len(found)} {moment.verb} {moment.signal.name} {moment.part:.3f}: {left}",
              flush=True)  # fmt: skip
    print(table(found))
    return sum(left not in LEFT for _, left in found)


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))

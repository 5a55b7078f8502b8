"""Commands that are interrupted at any moment leave nothing half-written."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import (
    clear_dead,
    filled_folder,
    new_file,
    new_folder,
    part_of,
    refuse_inputs,
)
from deepbackmap.io.formats.xdr import XtcReader
from fuzz_files import write_whole

RUN = "import sys; sys.path[:0] = {paths}; from deepbackmap.cli.main import run; run()"
COMMANDS = {
    "map": "map aa.gro aa.xtc -p topol.top --mapping map.yaml -o out.xtc",
    "backmap": "backmap cg.gro cg.xtc -p topol.top --model model.safetensors --sweeps 1 -o out.xtc "
    "--keep-defects",
    "baseline": "baseline cg.gro cg.xtc -p topol.top --mapping map.yaml --method backward "
    "--no-minimise -o out.xtc --keep-defects",
    "finish": "finish aa.gro aa.xtc -p topol.top --temperature 300 --steps 20 --engine openmm-cpu "
    "--threads 1 --keep-defects -o out.xtc",
    "evaluate": "evaluate --reference good.xtc --generated it=aa.xtc -s aa.gro -p topol.top "
    "--no-map --workers 1 -o out",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "whole"
    write_whole(folder)
    return folder


def start(folder, words):
    program = RUN.format(paths=[p for p in sys.path if p])
    return subprocess.Popen(
        [sys.executable, "-c", program, *words, "-q"], cwd=folder,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )  # fmt: skip


def names(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def check_whole(folder, new):
    """What appeared is all of an output, or nothing but hidden parts."""
    seen = {name for name in new if not any(part.startswith(".") for part in Path(name).parts)}
    if "out.xtc" in seen:
        reader = XtcReader(folder / "out.xtc")
        assert reader.n_frames == 3
        assert reader.ends_whole()
        reader.close()
    for name in seen:
        if name.endswith(".json"):
            json.loads((folder / name).read_text())


def interrupt(whole, folder, verb, number, when):
    """Runs a verb, sends it a signal after some time, and looks; then runs it to its end."""
    shutil.copytree(whole, folder)
    before, words = names(folder), COMMANDS[verb].split()
    process = start(folder, words)
    try:
        process.wait(timeout=when)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert "Traceback" not in said or number == signal.SIGINT, said
    new = names(folder) - before
    if process.returncode == 0:
        assert any(name in new for name in ("out", "out.xtc"))
    elif number != signal.SIGKILL:
        assert new == set(), (process.returncode, said)
    check_whole(folder, new)
    again = start(folder, [*words, "--force"])
    _, said = again.communicate(timeout=300)
    assert again.returncode == 0, said
    left = {name for name in names(folder) - before if Path(name).name.startswith(".")}
    assert left == set()


def moments(count, seed=0):
    """Verb, signal and time in s of every interruption; programs start within a second or two."""
    rng = random.Random(seed)
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    return [
        (rng.choice(list(COMMANDS)), rng.choice(signals), rng.uniform(0.3, 4.0))
        for _ in range(count)
    ]


@pytest.mark.parametrize(("verb", "number", "when"), moments(3))
def test_interruptions(verb, number, when, whole, tmp_path):
    interrupt(whole, tmp_path / "x", verb, number, when)


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "number", "when"), moments(60, seed=1))
def test_many_interruptions(verb, number, when, whole, tmp_path):
    interrupt(whole, tmp_path / "x", verb, number, when)


HOLD = """
import sys, time
from pathlib import Path
from deepbackmap.io.atomic import new_file, new_folder
with {what} as part:
    {fill}
    print("ready", flush=True)
    time.sleep(60)
"""


def held(what, fill):
    """Another process in the middle of writing."""
    path = [p for p in sys.path if p]
    program = f"import sys; sys.path[:0] = {path}\n" + HOLD.format(what=what, fill=fill)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def end(process, number=signal.SIGKILL):
    process.send_signal(number)
    process.communicate()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_parts_of_the_dead_are_cleared_and_of_the_living_kept(kind, tmp_path):
    target = tmp_path / ("a.gro" if kind == "file" else "a")
    if kind == "file":
        process = held(f"new_file(Path({str(target)!r}))", "part.write_text('half')")
    else:
        process = held(
            f"new_folder(Path({str(target)!r}), False, 'mark')", "(part / 'x').write_text('half')"
        )
    try:
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(".a.")
        clear_dead(target)
        assert part.exists()
    finally:
        end(process)
    assert part.exists()
    assert not target.exists()
    clear_dead(tmp_path / "other.gro")
    assert part.exists()
    if kind == "file":
        with new_file(target) as mine:
            mine.write_text("whole")
        assert target.read_text() == "whole"
    else:
        with new_folder(target, False, "mark") as mine:
            (mine / "mark").write_text("whole")
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_was_moved_away_comes_back(tmp_path):
    target = tmp_path / "a"
    old = part_of(target, "old")
    old.mkdir()
    (old / "mark").write_text("earlier")
    clear_dead(target)
    assert (target / "mark").read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_appears_whole_or_not(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("earlier")

    def fail():
        with new_file(target) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]
    with new_file(target) as part:
        assert part.suffix == ".txt"
        part.write_text("later")
    assert target.read_text() == "later"
    assert target.stat().st_mode & 0o777 == 0o666 & ~_mask()
    with (
        pytest.raises(InputError, match=r"b: expected a place to write to"),
        new_file(tmp_path / "no" / "b"),
    ):
        pass


def _mask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence(tmp_path):
    def fill():
        with new_file(tmp_path / "a.txt"):
            Path("/dev/full").write_text("x")

    with pytest.raises(InputError, match=r"a\.txt: expected a place .* No space left"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_folder_is_filled_anew(tmp_path):
    folder = tmp_path / "demo"

    def fail():
        with filled_folder(folder, False):
            (folder / "x").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not folder.exists()
    folder.mkdir()
    (folder / "x").write_text("half")
    (folder / ".unfinished").write_text("")  # as a killed one leaves it
    with filled_folder(folder, False):
        assert not (folder / "x").exists()
        (folder / "y").write_text("whole")
    assert names(folder) == {"y"}
    with (
        pytest.raises(InputError, match="demo: expected an empty folder"),
        filled_folder(folder, False),
    ):
        pass
    assert names(folder) == {"y"}
    with filled_folder(folder, True):
        (folder / "y").write_text("anew")
    assert (folder / "y").read_text() == "anew"


def test_inputs_are_not_outputs(tmp_path):
    file, link = tmp_path / "a", tmp_path / "b"
    file.write_text("x")
    link.symlink_to(file)
    refuse_inputs(tmp_path / "new", file, None, "a packaged name")
    for output, given in ((file, file), (link, file), (file, link), (tmp_path, file)):
        with pytest.raises(InputError, match="none of the inputs"):
            refuse_inputs(output, None, given)


def test_sigterm_is_as_sigint_and_a_limit_is_one_line(capsys):
    import typer

    from deepbackmap.cli.main import _edge

    def raising(error):
        if isinstance(error, int):  # who starts the tests may have it ignored, as nohup does
            signal.signal(error, signal.default_int_handler)
        with pytest.raises(typer.Exit) as caught, _edge():
            if isinstance(error, int):
                os.kill(os.getpid(), error)
                time.sleep(5)
            raise error
        said = capsys.readouterr().err
        assert said.startswith("deepbackmap: ")
        assert said.count("\n") == 1
        return caught.value.exit_code, said

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        assert raising(number) == (130, "deepbackmap: interrupted\n")
    for error, words in [
        (MemoryError("Unable to allocate 1. EiB"), "fit into memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "fit into memory"),
        (RecursionError("maximum recursion depth"), "nest a few levels"),
        (OverflowError("int too large"), "one too large"),
        (OSError(28, "No space left on device", "a.xtc"), "a.xtc: expected a disk with space"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "with space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "a disk with space"),
    ]:
        code, said = raising(error)
        assert code == 2
        assert words in said
    with pytest.raises(ZeroDivisionError), _edge():
        raise ZeroDivisionError

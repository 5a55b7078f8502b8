"""Commands that are interrupted at any moment leave nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import interruptions
from deepbackmap.errors import InputError
from deepbackmap.io.atomic import (
    clear_dead,
    filled_folder,
    new_file,
    new_folder,
    part_of,
    refuse_inputs,
)
from fuzz_files import write_whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "whole"
    write_whole(folder)
    return folder


def names(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_interruptions(whole, tmp_path):
    """A few moments by way of the program, in a process of its own, which forks."""
    program = Path(__file__).with_name("interruptions.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path, "6", "0", whole], capture_output=True, text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "| all | | 6 |" in done.stdout


@pytest.mark.slow
def test_many_interruptions(whole, tmp_path):
    program = Path(__file__).with_name("interruptions.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path, "60", "1", whole], capture_output=True, text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_moments_follow_from_the_seed_and_reach_every_verb():
    many = interruptions.moments(60, 1)
    assert many == interruptions.moments(60, 1) != interruptions.moments(60, 2)
    assert {(m.verb, m.signal) for m in many} == {
        (v, s) for v in interruptions.COMMANDS for s in interruptions.SIGNALS
    }
    assert all(0.0 <= m.part <= 1.05 for m in many)


def test_what_is_left_is_told_apart(tmp_path):
    right = {"out.xtc": b"1234", "out.xtc.json": b"{}"}
    assert interruptions.same("map", right, right) == []
    assert interruptions.same("map", {**right, "out.xtc": b"12"}, right) == ["out.xtc"]
    assert interruptions.same("map", {**right, "out.xtc.json": b"{1}"}, right) == []
    with pytest.raises(AssertionError):
        interruptions.same("map", {"out.xtc": b"1234"}, right)
    assert interruptions.hidden({"out.xtc", ".out.7.part.xtc", "out/.x/y"}) == {
        ".out.7.part.xtc", "out/.x/y",
    }  # fmt: skip
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(Exception, match=r"."):
        interruptions.check_whole(tmp_path, {"checkpoint.pt"}, {"checkpoint.pt": b""})
    found = [(interruptions.Moment("map", signal.SIGINT, 0.5), "nothing"),
             (interruptions.Moment("map", signal.SIGINT, 0.5), "WRONG: half")]  # fmt: skip
    assert interruptions.table(found).splitlines()[-1] == "| all | | 2 | 1 | 0 | 0 | 0 | 0 | 1 |"


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
        (OSError(36, "File name too long", "A" * 300), "one too long"),
        (ValueError("embedded null byte"), "a zero byte"),
        (OSError(28, "No space left on device", "a.xtc"), "a.xtc: expected a disk with space"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "with space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "a disk with space"),
    ]:
        code, said = raising(error)
        assert code == 2
        assert words in said
    with pytest.raises(ZeroDivisionError), _edge():
        raise ZeroDivisionError

"""Outputs appear whole or not at all: written aside, forced to the disk, renamed.

What is being written has a hidden name beside its place, with the number of the process in it. A
process that is killed leaves that part behind; the next one that writes the same output takes it
away. A part that is still being written is locked, which the system undoes however its process
ends: a number alone can be another's by then, or belong to another machine.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deepbackmap.errors import InputError, Stopped

_MARK = ".unfinished"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_SAID = (
    *(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)),
    "PytorchStreamWriter failed",
    "inline_container.cc",
)
"""By libraries that raise errors of their own when the disk refuses."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write that becomes ``path`` when all went well, and else nothing.

    Args:
        path: of the file to be; one that is there is replaced.

    Yields:
        An empty file with the same extension, to be written (again) under its name.

    Raises:
        InputError: the disk refuses.
    """
    clear_dead(path)
    aside = part_of(path)
    try:
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise no_place(path, error) from error
    try:
        _lock(handle)
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    except Exception as error:
        ours = isinstance(error, OSError) and error.filename in (str(aside), str(path))
        if not (ours or disk_refuses(error)):
            raise  # of something else that is done meanwhile
        raise no_place(path, error) from error
    finally:
        aside.unlink(missing_ok=True)
        os.close(handle)


def check_folder(path: Path, force: bool, mark: str) -> None:
    """Refuses a folder that cannot be written.

    Args:
        path: of the folder to be.
        force: whether an earlier one may be replaced.
        mark: a file that every such folder holds, so that force never removes anything else.

    Raises:
        InputError: there is something already, or no folder to write it to.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: expected a folder to write, found a file")
    if path.is_dir() and any(path.iterdir()):
        if not force:
            raise InputError(f"{path}: expected no such folder, found one (force replaces it)")
        if not (path / mark).is_file():
            raise InputError(
                f"{path}: expected a folder with {mark} to replace, found one without it"
            )
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: expected a folder {path.parent} to write to, found none")


@contextmanager
def new_folder(path: Path, force: bool, mark: str) -> Iterator[Path]:
    """A folder to fill that becomes ``path`` when all went well, and else nothing.

    Args:
        path: of the folder to be.
        force: whether an earlier one may be replaced.
        mark: a file that every such folder holds.

    Yields:
        An empty folder.

    Raises:
        InputError: as ``check_folder``, or the disk refuses.
    """
    path = path.absolute()
    clear_dead(path)
    check_folder(path, force, mark)
    aside, before = part_of(path), part_of(path, "old")
    handle = None
    try:
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier process with our number
        aside.mkdir()
        handle = os.open(aside, os.O_RDONLY | os.O_CLOEXEC)
        _lock(handle)
        yield aside
        for file in sorted(aside.rglob("*")):
            _sync(file)
        _sync(aside)
        if path.exists():
            path.replace(before)
        aside.replace(path)
        _sync(path.parent)
    except Exception as error:
        ours = isinstance(error, OSError) and str(error.filename).startswith(str(path.parent))
        if not (ours or disk_refuses(error)):
            raise  # of something else that is done meanwhile
        raise no_place(path, error) from error
    finally:
        if before.exists() and not path.exists():
            before.replace(path)
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(before, ignore_errors=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def filled_folder(path: Path, force: bool) -> Iterator[Path]:
    """A folder that is filled in its place, by files that are each whole or absent.

    A locked mark stands in it until all is there: what a killed process has left under one is
    cleared away by the next, and an error leaves nothing.

    Args:
        path: of the folder.
        force: whether files may be replaced in a folder that holds some.

    Raises:
        InputError: there are files already, or the disk refuses.
    """
    mark, made = path / _MARK, not path.exists()
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: expected a folder to write, found a file")
    if not made and mark.exists() and not _in_use(mark):
        _empty(path)
    new = made or not any(path.iterdir())
    if not (new or force):
        raise InputError(f"{path}: expected an empty folder, found files (force replaces them)")
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise InputError(
            f"{path}: expected a folder that can be written to, found: {error.strerror}"
        ) from error
    try:
        _lock(handle)
        yield path
        for file in sorted(path.rglob("*")):
            _sync(file)
        mark.unlink()
        _sync(path)
    except BaseException:
        if new:
            _empty(path)
            if made:
                with suppress(OSError):
                    path.rmdir()
        mark.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def part_of(path: Path, word: str = "part") -> Path:
    """The hidden name under which this process writes ``path``.

    The extension stays last, since formats are told by it.
    """
    return path.with_name(f".{path.stem}.{os.getpid()}.{word}{path.suffix}")


def clear_dead(path: Path) -> None:
    """Takes away what earlier processes left when they were killed while writing ``path``.

    A folder that was moved away to be replaced, and never was, comes back.
    """
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    left = re.compile(rf"\.{stem}\.(\d+)\.(part|old){suffix}")
    with suppress(OSError):
        for entry in sorted(path.parent.iterdir()):
            found = left.fullmatch(entry.name)
            if found is None or _in_use(entry):
                continue
            if found[2] == "old" and not path.exists():
                entry.replace(path)
            elif entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def refuse_existing(path: str | Path, force: bool = False) -> None:
    """Refuses to replace a file that nobody said may be replaced.

    Args:
        path: of the file to be.
        force: whether one that is there may go.

    Raises:
        InputError: there is one, and it may not.
    """
    if not force and Path(path).exists():
        raise InputError(f"{path}: expected no file of that name, found one (force replaces it)")


def refuse_inputs(output: str | Path, *inputs: str | Path | None) -> None:
    """Refuses an output that is one of the inputs, by whatever name, or a folder around one.

    Args:
        output: file or folder to be written.
        inputs: files that are read; None and names of packaged things are passed over.

    Raises:
        InputError: writing the output would destroy an input.
    """
    place = Path(output)
    if not place.exists():
        return
    real = place.resolve()
    for given in inputs:
        if given is None or not _exists(Path(given)):
            continue
        source = Path(given)
        if source.samefile(place) or (place.is_dir() and real in source.resolve().parents):
            raise InputError(
                f"{output}: expected an output that is none of the inputs, found that it "
                f"{'holds' if place.is_dir() else 'is'} {given}: write to another name"
            )


def _exists(path: Path) -> bool:
    """Whether a file is there; a long mapping in words is no name of one."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def disk_refuses(error: Exception) -> bool:
    """Whether the disk is full, read-only or broken, rather than a file missing.

    Libraries in other languages (torch's, safetensors') say so in errors of their own.
    """
    if isinstance(error, InputError):
        return False
    if isinstance(error, OSError):
        return error.errno in _DISK
    return any(word in str(error) for word in _SAID)


def no_place(path: Path, error: Exception) -> Stopped:
    """What to say when the disk refuses."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return Stopped(f"{path}: expected a place to write to, found: {said}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """For a file that grows in its place, such as a log: a disk that refuses is one sentence.

    Raises:
        InputError: the disk refuses.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not disk_refuses(error):
            raise
        raise no_place(path, error) from error


def make_folder(path: Path, *, parents: bool = True) -> None:
    """A folder that is filled file by file; one that is there is fine.

    Args:
        path: of the folder.
        parents: whether to make those around it as well.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        path.mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: expected a folder that can be written to, found: {error.strerror or error}"
        ) from error


def _sync(path: Path) -> None:
    """Forces a file or folder to the disk, so that a rename never outruns what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else _nothing():  # some systems sync files only
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _lock(handle: int) -> None:
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _in_use(entry: Path) -> bool:
    """Whether a living process holds the lock of a part."""
    try:
        handle = os.open(entry, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False

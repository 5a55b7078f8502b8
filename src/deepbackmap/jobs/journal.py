"""What is done of a run, kept beside its output until all is.

A hidden file holds the results of the frames that are done, as they are done: each with its length
and a checksum, appended and, every so often, forced to the disk. Whatever ends the run, all of them
but perhaps the last can be read again, and a run that resumes does the others only. Numbers are
kept as they were, so that the output has the bytes of a run that nothing ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import pickle
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import deepbackmap
from deepbackmap.errors import InputError, Stopped

SYNC = 5.0
"""Seconds between two times that the file is forced to the disk: what a lost machine costs."""
_HEAD = struct.Struct("<QQI")
"""Index, length and checksum of an entry."""
_MAGIC = b"deepbackmap journal 1\n"
_NUMPY = {"_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"}


class NoJournal:
    """Where nothing is kept: of a single frame there is nothing to resume."""

    def __contains__(self, index: int) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def read(self, index: int) -> Any:
        """There is none."""
        raise KeyError(index)

    def add(self, index: int, result: Any) -> None:
        """Keeps nothing."""


class Journal(NoJournal):
    """Results of frames by index, in an open file."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        """Finds what is whole in it; the rest is cut off.

        Args:
            file: open for reading and writing.
            at: where the entries begin.
        """
        self._file, self._places = file, dict[int, int]()
        self._end, self._synced = at, time.monotonic()
        size = os.fstat(file.fileno()).st_size
        while self._end + _HEAD.size <= size:
            file.seek(self._end)
            index, length, check = _HEAD.unpack(file.read(_HEAD.size))
            if self._end + _HEAD.size + length > size or _sum(index, file.read(length)) != check:
                break
            self._places[index] = self._end
            self._end += _HEAD.size + length
        file.truncate(self._end)

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def __len__(self) -> int:
        return len(self._places)

    def read(self, index: int) -> Any:
        """The result of a frame that is done."""
        self._file.seek(self._places[index])
        _, length, _ = _HEAD.unpack(self._file.read(_HEAD.size))
        return _Data(io.BytesIO(self._file.read(length))).load()

    def add(self, index: int, result: Any) -> None:
        """Keeps the result of a frame.

        Raises:
            OSError: the disk refuses.
        """
        data = pickle.dumps(result, protocol=5)
        self._file.seek(self._end)
        self._file.write(_HEAD.pack(index, len(data), _sum(index, data)) + data)
        self._file.flush()
        if time.monotonic() - self._synced > SYNC:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        self._places[index] = self._end
        self._end += _HEAD.size + len(data)


def _sum(index: int, data: bytes) -> int:
    """Checksum of an entry, its index as well: a damaged one would put a result in the place of
    another frame."""
    return zlib.crc32(data, zlib.crc32(index.to_bytes(8, "little")))


class _Data(pickle.Unpickler):
    """Reads data and runs nothing: containers of this package and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """A class that may be in a journal."""
        if module.startswith("deepbackmap."):
            found = super().find_class(module, name)
            if is_dataclass(found):
                return found
        elif module.split(".")[0] == "numpy" and name in _NUMPY:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no data of a journal")


def journal_of(output: Path) -> Path:
    """The hidden file beside an output."""
    return output.with_name(f".{output.name}.journal")


@contextmanager
def open_journal(
    output: str | Path, run: Mapping[str, Any], *, resume: bool, frames: int
) -> Iterator[NoJournal]:
    """What is kept of a run until it is done.

    A run that does not resume clears what an earlier one has left. What stops a run after some of
    its frames are done says how many are kept; after a mistake in the inputs nothing is, since
    other inputs make other frames.

    Args:
        output: that the run writes; the file is beside it.
        run: what decides about the results, by name: inputs, options, versions.
        resume: whether to go on from what is there, if anything is.
        frames: of the whole run; of a single one nothing is kept.

    Raises:
        InputError: another process writes that output, or an earlier run with other options or
            inputs is to be resumed.
    """
    path = journal_of(Path(output).absolute())
    if frames < 2:
        with suppress(OSError):
            path.unlink()
        yield NoJournal()
        return
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
    except OSError as error:
        raise InputError(
            f"{output}: expected a place to write to, found: {error.strerror or error}"
        ) from error
    with file:
        _lock(file, output)
        journal = _begin(file, output, run, resume)
        try:
            yield journal
        except BaseException as error:
            _end(path, journal, error, frames)
            raise
        path.unlink(missing_ok=True)


def _begin(file: BinaryIO, output: str | Path, run: Mapping[str, Any], resume: bool) -> Journal:
    """The journal of an open file, which is cleared unless it is to be resumed."""
    said = {name: _digest(value) for name, value in run.items()}
    said["version"] = deepbackmap.__version__
    before = _head(file) if resume else None
    if before is None:
        file.seek(0)
        file.truncate()
        text = json.dumps(said).encode()
        file.write(_MAGIC + text + b"\n")
        file.flush()
        return Journal(file, len(_MAGIC) + len(text) + 1)
    if other := [name for name in said if before.get(name) != said[name]]:
        raise InputError(
            f"{output}: expected the options and inputs of the run that is resumed, found other "
            f"{', '.join(other)}; without resume all frames are made anew"
        )
    return Journal(file, file.tell())


def _head(file: BinaryIO) -> dict[str, str] | None:
    """What a journal says of its run; None: it is none."""
    if file.read(len(_MAGIC)) != _MAGIC:
        return None
    try:
        found = json.loads(file.readline())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _lock(file: BinaryIO, output: str | Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{output}: expected no other process that writes it, found one at work"
        ) from error
    except OSError:  # a file system without locks
        return


def _end(path: Path, journal: Journal, error: BaseException, frames: int) -> None:
    """Takes a journal away that nothing can be done with, else says in the error what is kept."""
    mistaken = isinstance(error, InputError) and not isinstance(error, Stopped)
    if mistaken or not len(journal):
        path.unlink(missing_ok=True)
        return
    kept = f"{len(journal)} of {frames} frames are kept: the same command with resume goes on"
    if isinstance(error, Stopped):
        error.args = (f"{error}; {kept}",)
    elif isinstance(error, KeyboardInterrupt):
        error.args = (kept,)

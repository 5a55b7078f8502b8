"""Workers of a Dask cluster that do one thing together, and talk while they do it.

Every worker opens a socket and says where; then all are given their part at once, connect to each
other, and exchange arrays without the scheduler. Those who are not told the secret of the run,
which travels through the scheduler, are not listened to. When a worker is lost the others notice,
and all begin again from what they were given.
"""

from __future__ import annotations

import hmac
import pickle
import secrets
import socket
import struct
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from deepbackmap.errors import InputError, Stopped
from deepbackmap.jobs.cluster import ONE, connect
from deepbackmap.jobs.pool import LOST
from deepbackmap.jobs.processes import sendable

PATIENCE = 60.0
"""Seconds that workers wait for each other, and the crew for workers."""
HEAD = struct.Struct("<?q")
"""Of a message: flag, and number of bytes that follow."""
SECRET = 32
"""Bytes."""
_DOORS: dict[bytes, socket.socket] = {}
"""In a worker: where it listens, by the secret of the run."""


class Crew:
    """Workers of a cluster that work together (``mechanics.parts.Crew``)."""

    def __init__(self, scheduler: str, workers: int, parts: int) -> None:
        """Connects.

        Args:
            scheduler: address or file of a scheduler, or the kind of a batch system.
            workers: jobs that a batch system is asked for.
            parts: how many work together.

        Raises:
            InputError: there is no such scheduler, or it has fewer workers.
        """
        if parts < 2:
            raise InputError(f"parts: expected at least 2, found {parts}")
        self.parts, self.engines = parts, 0
        self._client, self._made = connect(scheduler, max(workers, parts))
        try:
            self._workers()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        """Lets go of the workers, and ends a cluster that was made here."""
        with suppress(Exception):
            self._client.close()
        if self._made is not None:
            self._made.close()

    def __call__(self, work: Callable[[Any, Link], Any], items: Sequence[Any]) -> list[Any]:
        """Does ``work(item, link)`` for all items at once, each by another worker.

        Raises:
            Stopped: workers were lost again and again.
            Exception: what ``work`` raised.
        """
        for _ in range(LOST):
            found = self._together(work, items)
            wrong = [f for f in found if isinstance(f, Exception)]
            if not wrong:
                return found
            told = [f for f in wrong if not isinstance(f, LeftAloneError)]
            if told:
                raise told[0]
        raise Stopped(
            f"parts: expected {len(items)} workers to take steps together, found some of them "
            f"ended or out of reach of the others, {LOST} times"
        )

    def _workers(self) -> list[str]:
        """Addresses of as many as are needed."""
        try:
            self._client.wait_for_workers(self.parts, timeout=PATIENCE)
        except TimeoutError as error:
            found = len(self._client.nthreads())
            raise InputError(
                f"parts: expected at least {self.parts} workers, one a part, found {found}"
            ) from error
        return sorted(self._client.nthreads())[: self.parts]

    def _together(self, work: Callable[[Any, Link], Any], items: Sequence[Any]) -> list[Any]:
        """What came of each item; those who lost another, or were lost, with ``LeftAloneError``."""
        addresses, secret = self._workers(), secrets.token_bytes(SECRET)

        def start(function: Callable[..., Any], *given: Any, at: str) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Sending large graph")
                return self._client.submit(function, *given, workers=[at], pure=False, retries=0)

        try:
            doors = [start(_listen, secret, host_of(a), at=a) for a in addresses]
            places = [d.result(timeout=PATIENCE) for d in doors]
            futures = [
                start(_work_together, work, pickle.dumps(item, protocol=5), secret, k, places, at=a)
                for k, (item, a) in enumerate(zip(items, addresses, strict=True))
            ]
        except Exception:
            return [LeftAloneError("a worker did not listen")]
        return self._results(futures)

    def _results(self, futures: Sequence[Any]) -> list[Any]:
        """In order; none that never comes is waited for once another has failed."""
        from distributed import as_completed

        found: list[Any] = [LeftAloneError("a worker was lost")] * len(futures)
        for future in as_completed(futures):
            with suppress(Exception):  # whatever the cluster says of a worker that is gone
                found[futures.index(future)] = future.result()
            if isinstance(found[futures.index(future)], Exception):
                break
        else:
            return found
        time.sleep(1.0)  # the others notice, and one of them may know more
        for k, future in enumerate(futures):
            with suppress(Exception):
                if future.done():
                    found[k] = future.result()
        with suppress(Exception):
            self._client.cancel(list(futures), force=True)
        return found


class LeftAloneError(OSError):
    """Another worker is gone."""


class Link:
    """A worker's connections to all others (``mechanics.parts.Link``)."""

    def __init__(self, number: int, others: Mapping[int, socket.socket]) -> None:
        """Takes connections.

        Args:
            number: of this part.
            others: by number.
        """
        self._number, self._others = number, dict(sorted(others.items()))

    def exchange(
        self, flag: bool, sent: Mapping[int, np.ndarray]
    ) -> tuple[bool, dict[int, np.ndarray]]:
        """Gives arrays of vectors to others and takes theirs, when all have come to it.

        Pairs of workers talk one after the other, in an order that all agree on, the lower number
        first: none waits for one who waits for it.

        Raises:
            LeftAloneError: another is gone.
        """
        any_flag, come = flag, {}
        try:
            for other, way in self._others.items():
                if self._number < other:
                    _send(way, flag, sent.get(other))
                theirs, array = _receive(way)
                if self._number > other:
                    _send(way, flag, sent.get(other))
                any_flag |= theirs
                if len(array):
                    come[other] = array
        except OSError as error:
            raise LeftAloneError(f"another worker is gone: {error}") from error
        return any_flag, come


def _send(way: socket.socket, flag: bool, array: np.ndarray | None) -> None:
    content = b"" if array is None else array.astype(np.float64, copy=False).tobytes()
    way.sendall(HEAD.pack(flag, len(content)))
    way.sendall(content)


def _receive(way: socket.socket) -> tuple[bool, np.ndarray]:
    flag, size = HEAD.unpack(_exactly(way, HEAD.size))
    return flag, np.frombuffer(_exactly(way, size), dtype=np.float64).reshape(-1, 3)


def _exactly(way: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    view = memoryview(found)
    while len(view):
        count = way.recv_into(view)
        if not count:
            raise ConnectionResetError("its connection is closed")
        view = view[count:]
    return found


# --- in a worker ----------------------------------------------------------------------------------


def host_of(address: str) -> str:
    """The host in an address of a worker, as ``tcp://HOST:PORT``."""
    return address.rpartition("://")[2].rpartition(":")[0].strip("[]")


def _listen(secret: bytes, host: str) -> tuple[str, int]:
    """Opens a door; where it is."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for old in list(_DOORS):  # of a run that came to nothing
        _DOORS.pop(old).close()
    door = socket.create_server((host, 0), family=family, backlog=128)
    _DOORS[secret] = door
    return host, int(door.getsockname()[1])


def _work_together(
    work: Callable[[Any, Link], Any],
    data: bytes,
    secret: bytes,
    number: int,
    places: Sequence[tuple[str, int]],
) -> Any:
    """Does a part; a mistake in it is a result."""
    with ONE, ExitStack() as closing:
        try:
            door = closing.enter_context(_DOORS.pop(secret))
            others = {q: _call(places[q], secret, number) for q in range(number)}
            others |= _answer(door, secret, len(places) - 1 - number)
            for way in others.values():
                closing.enter_context(way)
            return work(pickle.loads(data), Link(number, others))
        except (LeftAloneError, TimeoutError, KeyError) as error:
            return LeftAloneError(str(error))
        except Exception as error:
            return sendable(error)


def _call(place: tuple[str, int], secret: bytes, number: int) -> socket.socket:
    """Connects to a worker with a lower number."""
    try:
        way = socket.create_connection(place, timeout=PATIENCE)
    except OSError as error:
        raise LeftAloneError(f"{place[0]}:{place[1]} does not answer: {error}") from error
    way.sendall(secret + struct.pack("<q", number))
    return _ready(way)


def _answer(door: socket.socket, secret: bytes, count: int) -> dict[int, socket.socket]:
    """Waits for those with higher numbers; whoever does not know the secret is sent away."""
    found: dict[int, socket.socket] = {}
    end = time.monotonic() + PATIENCE
    while len(found) < count:
        door.settimeout(max(0.01, end - time.monotonic()))
        way, _ = door.accept()
        way.settimeout(PATIENCE)
        with suppress(OSError):
            said = bytes(_exactly(way, SECRET + 8))
            if hmac.compare_digest(said[:SECRET], secret):
                found[struct.unpack("<q", said[SECRET:])[0]] = _ready(way)
                continue
        way.close()
    return found


def _ready(way: socket.socket) -> socket.socket:
    """Without delays or time limits, but with a look whether the other is still there."""
    way.settimeout(None)
    way.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    way.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return way

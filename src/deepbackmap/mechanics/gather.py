"""What several threads ask for, done together.

A frame is worked on by one thread, from beads to atoms, as if it were alone. A card is too wide for
one small frame. So whoever asks for something waits until all frames that are under way ask for
something, and then the last one does the work of all who asked for the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from deepbackmap.mapping import SystemMapping

ATOMS_AT_ONCE = 1_000_000
"""In all frames together, at most."""
FRAMES_AT_ONCE = 128
BYTES_AN_ATOM = 40_000
"""Of a card's memory (an H200 needed 24 kB for a box of a million atoms)."""


def copies_of(mapping: SystemMapping, count: int) -> SystemMapping:
    """A system so many times, one after the other.

    Args:
        mapping: of the system.
        count: how often.
    """
    topology = replace(mapping.topology, blocks=mapping.topology.blocks * count)
    return replace(mapping, topology=topology)


def frames_at_once(n_atoms: int, memory: int) -> int:
    """How many frames of so many atoms a card takes together.

    Args:
        n_atoms: of a frame.
        memory: of the card, bytes.
    """
    atoms = min(ATOMS_AT_ONCE, memory // BYTES_AN_ATOM)
    return max(1, min(FRAMES_AT_ONCE, atoms // max(1, n_atoms)))


Work = Callable[[list[Any]], list[Any]]
"""Answers to some requests, in their order."""


@dataclass
class _Question:
    """What one thread waits for."""

    seat: int
    key: Hashable
    work: Work
    request: Any
    answer: Any = None
    error: BaseException | None = None
    done: bool = False


class Gathering:
    """Threads at a table; each asks one thing at a time.

    Answers do not depend on who comes first: requests are put in the order of the seats.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._members = 0
        self._asked: list[_Question] = []
        self._own = threading.local()

    @property
    def members(self) -> int:
        """How many sit at the table, those that are expected included."""
        return self._members

    def expect(self, number: int) -> None:
        """Keeps so many seats, which threads take with ``seated``; nothing is done before."""
        with self._turn:
            self._members += number

    @contextmanager
    def seated(self, seat: int) -> Iterator[None]:
        """Takes one of the seats that are kept.

        Args:
            seat: its number, by which requests are ordered.
        """
        self._own.seat = seat
        try:
            yield
        finally:
            self._leave()

    @contextmanager
    def working(self) -> Iterator[None]:
        """What is asked for in here may be done together with others; a thread that has no seat
        takes one. Whoever comes out leaves the table."""
        if self._seat is None:
            self.expect(1)
            self._own.seat = -1
        try:
            yield
        finally:
            self._leave()

    @property
    def _seat(self) -> int | None:
        return getattr(self._own, "seat", None)

    def _leave(self) -> None:
        if self._seat is None:
            return
        self._own.seat = None
        with self._turn:
            self._members -= 1
            self._answer_if_all()

    def ask(self, key: Hashable, work: Work, request: Any) -> Any:
        """Waits for an answer.

        Args:
            key: requests with the same are answered together.
            work: answers them.
            request: what is asked for.
        """
        seat = self._seat
        if seat is None:
            return work([request])[0]
        question = _Question(seat, key, work, request)
        with self._turn:
            self._asked.append(question)
            self._answer_if_all()
            self._turn.wait_for(lambda: question.done)
        if question.error is not None:
            raise question.error
        return question.answer

    def _answer_if_all(self) -> None:
        if not self._asked or len(self._asked) < self._members:
            return
        groups: dict[Hashable, list[_Question]] = {}
        for question in sorted(self._asked, key=lambda q: q.seat):
            groups.setdefault(question.key, []).append(question)
        self._asked = []
        for group in groups.values():
            _answer(group)
        self._turn.notify_all()


def _answer(group: list[_Question]) -> None:
    """Answers; what fails together is done one by one, so that the others do not suffer for one."""
    try:
        for question, answer in zip(group, group[0].work([q.request for q in group]), strict=True):
            question.answer = answer
    except Exception as error:
        if len(group) == 1:
            group[0].error = error
        else:
            for question in group:
                _answer([question])
    finally:
        for question in group:
            question.done = True

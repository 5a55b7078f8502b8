"""Lines of a GROMACS topology after its preprocessor, each with the place it came from.

Sections of real systems have hundreds of thousands of lines, so lines travel in runs (all those
between two headings or commands) and one becomes an object of its own only for a message.
"""

from __future__ import annotations

import os
import re
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepbackmap.errors import InputError
from deepbackmap.system.topology import listed_problems

_WORD = re.compile(r"\w+")
_INCLUDE = re.compile(r"""["<]([^">]+)[">]\s*$""")
_COMMENT = re.compile(r";[^\n]*")
_CONTINUED = re.compile(r"\\[ \t]*\n")
_DEPTH = 64
_FILES = 2_000
"""Included files of one topology, the same file counted each time."""
_CHARACTERS = 1 << 30
"""Of all files together."""
_REPLACEMENTS = 10_000
"""Macros replaced in one line."""
PROGRAMS = ("gmx", "gmx_mpi", "gmx_d")
"""Names of GROMACS, whose folder of force fields is looked for beside them."""


@dataclass(frozen=True)
class Line:
    """One logical line: comments gone, continuation joined, macros replaced."""

    file: Path
    number: int
    """1-based, of the first of the joined lines."""
    text: str

    @property
    def where(self) -> str:
        """``file:line`` for messages."""
        return f"{self.file}:{self.number}"

    @property
    def fields(self) -> tuple[str, ...]:
        """The words of the line."""
        return tuple(self.text.split())

    def error(self, message: str) -> InputError:
        """An error that begins with the place of this line."""
        return InputError(f"{self.where}: {message}")


@dataclass(frozen=True)
class Run:
    """Consecutive lines of one file."""

    file: Path
    numbers: list[int]
    texts: list[str]

    def line(self, index: int) -> Line:
        """One of the lines."""
        return Line(self.file, self.numbers[index], " ".join(self.texts[index].split()))


@dataclass
class Lines:
    """All lines of one section, from however many places."""

    texts: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, run: Run) -> None:
        """Appends a run."""
        if run.texts:
            self.starts.append(len(self.texts))
            self.runs.append(run)
            self.texts += run.texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Line:
        k = bisect_right(self.starts, index) - 1
        return self.runs[k].line(index - self.starts[k])

    def __iter__(self) -> Iterator[Line]:
        for run in self.runs:
            yield from (run.line(k) for k in range(len(run.texts)))


@dataclass
class Problems:
    """What is wrong with a topology, gathered so that all of it is said at once."""

    path: Path
    found: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Message → where it was met first, and how often."""

    def add(self, where: str, message: str) -> None:
        """One more problem; equal messages are counted and said once."""
        first, count = self.found.get(message, (where, 0))
        self.found[message] = (first, count + 1)

    def catch(self, problem: InputError) -> None:
        """A problem that was raised, which begins with its place."""
        where, _, message = str(problem).partition(": ")
        self.add(where, message)

    def check(self) -> None:
        """Stops if there is anything.

        Raises:
            InputError: one problem as its sentence, several as a list.
        """
        if not self.found:
            return
        lines = [
            f"{where}: {message}" + (f" (and {count - 1} more such lines)" if count > 1 else "")
            for message, (where, count) in self.found.items()
        ]
        if len(lines) == 1:
            raise InputError(lines[0])
        head = f"{self.path}: expected a topology without mistakes, found {len(lines)}"
        raise InputError(listed_problems(head, lines))


def number(line: Line, word: str, what: str) -> float:
    """A finite number from one word of a line.

    Raises:
        InputError: if it is not one (also where a macro is not defined).
    """
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise line.error(f"expected a number for {what}, found '{word}'")
    return value


def integer(line: Line, word: str, what: str) -> int:
    """A whole number from one word of a line, which may be written as ``2.0``.

    Raises:
        InputError: if it is not one.
    """
    value = number(line, word, what)
    if value != int(value):
        raise line.error(f"expected a whole number for {what}, found '{word}'")
    return int(value)


def preprocess(
    path: Path, defines: Mapping[str, str], include_dirs: Sequence[Path]
) -> Iterator[Line | Run]:
    """The headings (as lines) and what is between them (as runs) of a topology, with includes.

    Args:
        path: The ``.top`` file.
        defines: Macros that are defined from the start; an empty value only answers ``#ifdef``.
        include_dirs: Searched after the folder of the including file.

    Raises:
        InputError: for missing files, all of them at once, and for conditions that do not match.
    """
    reader = _Preprocessor(dict(defines), tuple(include_dirs), Problems(path))
    yield from reader.read(path, None)
    reader.problems.check()


def gromacs_include_dirs() -> tuple[Path, ...]:
    """Where an installed GROMACS keeps force fields: GMXLIB, GMXDATA/top, share beside ``gmx``."""
    found = [Path(p) for p in os.environ.get("GMXLIB", "").split(os.pathsep) if p]
    if data := os.environ.get("GMXDATA"):
        found += [Path(data) / "top", Path(data)]
    for program in filter(None, map(shutil.which, PROGRAMS)):
        prefix = Path(program).resolve().parent.parent
        found.append(prefix / "share" / "gromacs" / "top")
    return tuple(dict.fromkeys(found))


@dataclass
class _Condition:
    line: Line
    active: bool
    outer: bool
    has_else: bool = False


@dataclass
class _Preprocessor:
    macros: dict[str, str]
    include_dirs: tuple[Path, ...]
    problems: Problems
    depth: int = 0
    files: int = 0
    characters: int = 0
    conditions: list[_Condition] = field(default_factory=list)

    @property
    def active(self) -> bool:
        return not self.conditions or self.conditions[-1].active

    def read(self, path: Path, included_from: Line | None) -> Iterator[Line | Run]:
        """Headings and runs of one file and of those it includes."""
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as problem:
            message = f"cannot read {path} ({problem.strerror})"
            raise included_from.error(message) if included_from else InputError(message) from None
        self._count(text, included_from)
        outside = len(self.conditions)
        for piece in _pieces(path, text):
            if isinstance(piece, Run):
                if self.active:
                    yield self._expand(piece)
            elif piece.text.startswith("#"):
                yield from self._directive(piece, outside)
            elif self.active:
                yield self._expand_line(piece)
        if len(self.conditions) > outside:
            raise self.conditions[-1].line.error(
                "expected an #endif for this condition, found none"
            )

    def _count(self, text: str, included_from: Line | None) -> None:
        """Refuses what would never end or never fit."""
        self.files += 1
        self.characters += len(text)
        if included_from is None:
            return
        if self.files > _FILES:
            raise included_from.error(f"expected at most {_FILES} included files, found more")
        if self.characters > _CHARACTERS:
            raise included_from.error(
                f"expected at most {_CHARACTERS} characters in all included files, found more"
            )

    def _directive(self, line: Line, outside: int) -> Iterator[Line | Run]:
        name, _, rest = line.text[1:].strip().partition(" ")
        if name in ("ifdef", "ifndef", "else", "endif"):
            self._condition(line, name, rest, outside)
        elif not self.active:
            return
        elif name == "include":
            yield from self._include(line, rest)
        elif name == "define":
            macro, _, value = _argument(line, rest).partition(" ")
            self.macros[macro] = value.strip()
        elif name == "undef":
            self.macros.pop(_argument(line, rest).split()[0], None)
        else:
            raise line.error(
                f"expected #include, #define, #undef, #ifdef, #ifndef, #else or #endif, "
                f"found '#{name}'"
            )

    def _condition(self, line: Line, name: str, rest: str, outside: int) -> None:
        if name in ("ifdef", "ifndef"):
            known = _argument(line, rest).split()[0] in self.macros
            holds = known == (name == "ifdef")
            self.conditions.append(_Condition(line, self.active and holds, self.active))
            return
        if len(self.conditions) <= outside or (name == "else" and self.conditions[-1].has_else):
            raise line.error(f"expected a matching #ifdef or #ifndef before #{name}, found none")
        if name == "endif":
            self.conditions.pop()
            return
        current = self.conditions[-1]
        current.active = current.outer and not current.active
        current.has_else = True

    def _include(self, line: Line, rest: str) -> Iterator[Line | Run]:
        match = _INCLUDE.match(rest.strip())
        if match is None:
            raise line.error(f"expected #include \"file\", found '{line.text}'")
        if self.depth == _DEPTH:
            raise line.error(f"expected at most {_DEPTH} includes inside each other, found more")
        path = self._find(line, match.group(1))
        if path is None:
            return
        self.depth += 1
        yield from self.read(path, line)
        self.depth -= 1

    def _find(self, line: Line, name: str) -> Path | None:
        """The included file; where there is none that is noted, to name all that are missing."""
        searched = tuple(dict.fromkeys((line.file.parent, *self.include_dirs)))
        for folder in searched:
            if (folder / name).is_file():
                return folder / name
        self.problems.add(
            line.where,
            f"expected the included file '{name}' in {', '.join(map(str, searched))}, found none: "
            f"copy it beside the topology, or name its folder (include path, or GMXLIB)",
        )
        return None

    def _expand(self, run: Run) -> Run:
        """The lines with macros replaced; one without a value only answers ``#ifdef``."""
        valued = {name for name, value in self.macros.items() if value}
        if not valued:
            return run
        words = set(" ".join(run.texts).split())
        if valued.isdisjoint(words) and valued.isdisjoint(_WORD.findall(" ".join(words))):
            return run
        texts = [
            text if valued.isdisjoint(_WORD.findall(text)) else self._expand_text(run.line(k))
            for k, text in enumerate(run.texts)
        ]
        return Run(run.file, run.numbers, texts)

    def _expand_line(self, line: Line) -> Line:
        return Line(line.file, line.number, self._expand_text(line))

    def _expand_text(self, line: Line) -> str:
        return self._replace(line, line.text, (), [0])

    def _replace(self, line: Line, text: str, inside: tuple[str, ...], done: list[int]) -> str:
        """The text with macros replaced, those in their values too; ``inside`` leads to it."""
        return _WORD.sub(lambda match: self._value(line, match.group(), inside, done), text)

    def _value(self, line: Line, name: str, inside: tuple[str, ...], done: list[int]) -> str:
        """What one word stands for, which is itself unless a macro with a value has its name."""
        if not (value := self.macros.get(name)):
            return name
        if name in inside:
            raise line.error(f"expected a macro that ends, found that '{name}' holds itself")
        done[0] += 1
        if done[0] > _REPLACEMENTS or len(inside) > _DEPTH:
            raise line.error(
                f"expected at most {_REPLACEMENTS} macros in a line, {_DEPTH} inside each other, "
                f"found more at '{name}'"
            )
        return self._replace(line, value, (*inside, name), done)


def _argument(line: Line, rest: str) -> str:
    """What follows a preprocessor command, which must not be empty."""
    if not (argument := rest.strip()):
        raise line.error(f"expected a name after '{line.text}', found none")
    return argument


def _pieces(path: Path, text: str) -> Iterator[Line | Run]:
    """Headings and commands as lines, all others in runs."""
    numbered = _logical_lines(text)
    numbers = [n for n, _ in numbered]
    texts = [t for _, t in numbered]
    start = 0
    for k in [k for k, t in enumerate(texts) if t[0] in "[#"]:
        if k > start:
            yield Run(path, numbers[start:k], texts[start:k])
        yield Line(path, numbers[k], " ".join(texts[k].split()))
        start = k + 1
    if start < len(texts):
        yield Run(path, numbers[start:], texts[start:])


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Numbers and texts: joined at trailing backslashes, then freed of comments; no empty ones."""
    if _CONTINUED.search(text):
        return _joined_lines(text)
    if ";" in text:
        text = _COMMENT.sub("", text)
    return [(n, t) for n, raw in enumerate(text.split("\n"), 1) if (t := raw.strip())]


def _joined_lines(text: str) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    parts: list[str] = []
    lines = text.split("\n")
    for index, raw in enumerate(lines):
        parts.append(raw.rstrip().removesuffix("\\"))
        if raw.rstrip().endswith("\\") and index + 1 < len(lines):
            continue
        joined = " ".join(parts).partition(";")[0].strip()
        if joined:
            found.append((index + 2 - len(parts), joined))
        parts = []
    return found

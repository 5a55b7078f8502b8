"""Lines of a GROMACS topology after its preprocessor, each with the place it came from."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepbackmap.errors import InputError

_WORD = re.compile(r"\w+")
_INCLUDE = re.compile(r"""["<]([^">]+)[">]\s*$""")
_DEPTH = 64


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
) -> Iterator[Line]:
    """Yield the active lines of a topology and of all it includes.

    Args:
        path: The ``.top`` file.
        defines: Macros that are defined from the start; an empty value only answers ``#ifdef``.
        include_dirs: Searched after the folder of the including file.

    Raises:
        InputError: for a missing file and for conditions that do not match.
    """
    return _Preprocessor(dict(defines), tuple(include_dirs)).read(path, None)


def gromacs_include_dirs() -> tuple[Path, ...]:
    """Where an installed GROMACS keeps force fields: GMXLIB, GMXDATA/top, share beside ``gmx``."""
    found = [Path(p) for p in os.environ.get("GMXLIB", "").split(os.pathsep) if p]
    if data := os.environ.get("GMXDATA"):
        found.append(Path(data) / "top")
    if program := shutil.which("gmx"):
        found.append(Path(program).resolve().parent.parent / "share" / "gromacs" / "top")
    return tuple(found)


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
    depth: int = 0
    conditions: list[_Condition] = field(default_factory=list)

    @property
    def active(self) -> bool:
        return not self.conditions or self.conditions[-1].active

    def read(self, path: Path, included_from: Line | None) -> Iterator[Line]:
        """Lines of one file and of those it includes."""
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as problem:
            message = f"cannot read {path} ({problem.strerror})"
            raise included_from.error(message) if included_from else InputError(message) from None
        outside = len(self.conditions)
        for line in _logical_lines(path, text):
            if line.text.startswith("#"):
                yield from self._directive(line, outside)
            elif self.active:
                yield self._expand(line)
        if len(self.conditions) > outside:
            raise self.conditions[-1].line.error(
                "expected an #endif for this condition, found none"
            )

    def _directive(self, line: Line, outside: int) -> Iterator[Line]:
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

    def _include(self, line: Line, rest: str) -> Iterator[Line]:
        match = _INCLUDE.match(rest.strip())
        if match is None:
            raise line.error(f"expected #include \"file\", found '{line.text}'")
        if self.depth == _DEPTH:
            raise line.error(f"expected at most {_DEPTH} includes inside each other, found more")
        path = self._find(line, match.group(1))
        self.depth += 1
        yield from self.read(path, line)
        self.depth -= 1

    def _find(self, line: Line, name: str) -> Path:
        for folder in (line.file.parent, *self.include_dirs):
            if (folder / name).is_file():
                return folder / name
        folders = ", ".join(str(f) for f in (line.file.parent, *self.include_dirs))
        raise line.error(f"expected the included file '{name}' in {folders}, found none")

    def _expand(self, line: Line) -> Line:
        """The line with macros replaced; one without a value only answers ``#ifdef``."""
        if self.macros.keys().isdisjoint(_WORD.findall(line.text)):
            return line
        return Line(line.file, line.number, self._replace(line, line.text, ()))

    def _replace(self, line: Line, text: str, inside: tuple[str, ...]) -> str:
        """The text with macros replaced, those in their values too; ``inside`` leads to it."""
        return _WORD.sub(lambda match: self._value(line, match.group(), inside), text)

    def _value(self, line: Line, name: str, inside: tuple[str, ...]) -> str:
        """What one word stands for, which is itself unless a macro with a value has its name."""
        if not (value := self.macros.get(name)):
            return name
        if name in inside:
            raise line.error(f"expected a macro that ends, found that '{name}' holds itself")
        return self._replace(line, value, (*inside, name))


def _argument(line: Line, rest: str) -> str:
    """What follows a preprocessor command, which must not be empty."""
    if not (argument := rest.strip()):
        raise line.error(f"expected a name after '{line.text}', found none")
    return argument


def _logical_lines(path: Path, text: str) -> Iterator[Line]:
    """Joined at trailing backslashes, then freed of comments and of tabs; empty ones left out."""
    parts: list[str] = []
    lines = text.splitlines()
    for index, raw in enumerate(lines):
        parts.append(raw.rstrip().removesuffix("\\"))
        if raw.rstrip().endswith("\\") and index + 1 < len(lines):
            continue
        joined = " ".join(" ".join(parts).partition(";")[0].split())
        first = index + 2 - len(parts)
        parts = []
        if joined:
            yield Line(path, first, joined)

"""Mappings of other programs that are files of ``[ sections ]``, as rules by residue.

``backward``: .map files of backward.py and martinize2 (``[ molecule ]``, ``[ martini ]``,
``[ atoms ]``); an atom that stands in several beads, or several times in one, has there the share
that it stands. ``vermouth``: .mapping files (``[ from blocks ]``, ``[ mapping ]``).
``pycgtool``: ``[ RESIDUE ]`` with lines of a bead's name, type and atoms. The first two weigh atoms
by mass, PyCGTOOL's alike, which is what these programs do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from deepbackmap.errors import InputError
from deepbackmap.mapping.rules import BeadForm, BeadRule, ResidueRule

_PASSED_OVER = ("mapping", "chiral", "trans", "cis", "out", "extra", "from", "to")
"""Of a backward file: force fields, and how atoms are placed back, which is not the map."""
_OF_BLOCKS = ("from", "to", "from nodes", "to nodes", "from edges", "to edges")


@dataclass(frozen=True)
class Line:
    """A line with words, without its comment."""

    number: int
    section: str
    """In lower case for comparison; empty ahead of the first one."""
    title: str
    """The section as it is written."""
    words: tuple[str, ...]
    """None of a section's head."""


@dataclass
class _Residue:
    """What is known of a residue while its lines are read."""

    name: str
    line: int
    order: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    owned: dict[str, list[str]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    listed: bool = False
    """Whether the file lists the beads ahead of the atoms."""

    def bead(self, name: str) -> None:
        if name not in self.weights:
            self.order.append(name)
            self.weights[name], self.owned[name] = {}, []

    def rule(self, mass_weighted: bool, source: str) -> ResidueRule:
        empty = [b for b in self.order if not self.weights[b]]
        if empty or not self.order:
            raise InputError(
                f"{source} line {self.line}: expected atoms with weights in every bead of residue "
                f"{self.name}, found none in {empty[0] if empty else 'it'}"
            )
        beads = tuple(
            BeadRule(
                BeadForm(
                    b, self.types.get(b, b), self.weights[b], mass_weighted,
                    tuple(self.owned[b]), None, self.line,
                ),
                {},
            )
            for b in self.order
        )  # fmt: skip
        return ResidueRule(self.name, None, beads, source)


def read_lines(text: str, source: str) -> Iterator[Line]:
    """The lines of a file of sections; a semicolon begins a comment.

    Raises:
        InputError: the head of a section is not closed.
    """
    section = title = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split(";", 1)[0].strip()
        if line.startswith("["):
            if not line.endswith("]") or len(line) < 3:
                raise InputError(f"{source} line {number}: expected '[ section ]', found '{line}'")
            title = line[1:-1].strip()
            section = " ".join(title.lower().split())
            yield Line(number, section, title, ())
        elif line:
            yield Line(number, section, title, tuple(line.split()))


def kind_of_sections(text: str) -> str | None:
    """Which program a file of sections is for: ``backward``, ``vermouth``, ``pycgtool``,
    ``index``, or None for a file that is none of them (YAML)."""
    rows = [r.split(";", 1)[0].strip() for r in text.splitlines()]
    rows = [r for r in rows if r]
    if not rows or not (rows[0].startswith("[") and rows[0].endswith("]")):
        return None
    heads = {" ".join(r.strip("[]").lower().split()) for r in rows if r.startswith("[")}
    if {"from blocks", "from nodes", "block", "modification"} & heads:
        return "vermouth"
    if "atoms" in heads and ("molecule" in heads or "martini" in heads):
        return "backward"
    words = [w for r in rows if not r.startswith("[") for w in r.split()]
    return "index" if words and all(w.isdigit() for w in words) else "pycgtool"


def parse_sections(text: str, kind: str, source: str) -> tuple[ResidueRule, ...]:
    """Reads a mapping of another program.

    Args:
        text: the file.
        kind: ``backward``, ``vermouth`` or ``pycgtool``.
        source: what to call it in errors.

    Returns:
        One rule a residue, in file order.

    Raises:
        InputError: a line that the format does not have, or that is not read, with its number.
    """
    reader = {"backward": _backward, "vermouth": _vermouth, "pycgtool": _pycgtool}[kind]
    residues = reader(text, source)
    times = Counter(r.name for r in residues)
    for residue in residues:
        if times[residue.name] > 1:
            raise InputError(
                f"{source} line {residue.line}: expected residue {residue.name} once, found it "
                f"{times[residue.name]} times"
            )
    if not residues:
        raise InputError(f"{source}: expected residues, found none")
    return tuple(r.rule(kind != "pycgtool", source) for r in residues)


def _backward(text: str, source: str) -> list[_Residue]:
    found: list[_Residue] = []
    for line in read_lines(text, source):
        if not line.words:
            if line.section not in ("molecule", "martini", "atoms", *_PASSED_OVER):
                raise _unknown(line, "molecule, martini or atoms", source)
        elif line.section == "molecule":
            found.append(_Residue(line.words[0], line.number))
        elif line.section in ("martini", "atoms"):
            if not found:
                raise _unknown(line, "[ molecule ] with a residue's name first", source)
            if line.section == "martini":
                found[-1].listed = True
                for bead in line.words:
                    found[-1].bead(bead)
            else:
                _backward_atom(line, found[-1], source)
    return found


def _backward_atom(line: Line, residue: _Residue, source: str) -> None:
    """A line ``NUMBER ATOM BEAD BEAD ...``; a bead with ! in front has the atom at weight zero."""
    if len(line.words) < 3 or not line.words[0].isdigit():
        raise _unknown(line, "a number, an atom and its beads", source)
    _, atom, *beads = line.words
    bare = [b.removeprefix("!") for b in beads]
    if residue.listed and not set(bare) <= set(residue.order):
        raise _unknown(line, f"only the beads {' '.join(residue.order)}", source)
    for bead in bare:
        residue.bead(bead)
    _add_atom(line, residue, atom, source)
    shares = Counter(b for b in beads if not b.startswith("!"))
    for bead, times in shares.items():
        residue.weights[bead][atom] = times / sum(shares.values())
    # The bead in which it stands most often, the first of them if several do.
    owner = max(shares, key=lambda b: shares[b]) if shares else bare[0]
    residue.owned[owner].append(atom)


def _vermouth(text: str, source: str) -> list[_Residue]:
    found: list[_Residue] = []
    shares: list[list[tuple[Line, str, str, float]]] = []
    for line in read_lines(text, source):
        if not line.words:
            if line.section == "modification":
                raise InputError(
                    f"{source} line {line.number}: expected blocks only, found [ modification ], "
                    f"which is not read; write the ends of chains as residues, or as 'first' and "
                    f"'last' in a YAML mapping"
                )
            known = ("block", "molecule", "from blocks", "to blocks", "mapping", *_OF_BLOCKS)
            if line.section not in known:
                raise _unknown(line, "block, from blocks, to blocks or mapping", source)
        elif line.section == "from blocks":
            if len(line.words) > 1:
                raise InputError(
                    f"{source} line {line.number}: expected one block, found {len(line.words)}; "
                    f"beads over several residues need a YAML mapping (prefixes + and -)"
                )
            found.append(_Residue(line.words[0], line.number))
            shares.append([])
        elif line.section == "mapping":
            if not found:
                raise _unknown(line, "[ from blocks ] first", source)
            shares[-1].append(_pair(line, source))
    for residue, rows in zip(found, shares, strict=True):
        _add_shares(residue, rows)
    return found


def _pair(line: Line, source: str) -> tuple[Line, str, str, float]:
    """A line ``ATOM BEAD [WEIGHT]``."""
    if len(line.words) not in (2, 3) or any(":" in w for w in line.words[:2]):
        raise _unknown(line, "an atom, its bead and perhaps a weight", source)
    try:
        weight = float(line.words[2]) if len(line.words) == 3 else 1.0
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise _unknown(line, "a weight of zero or above", source)
    return line, line.words[0], line.words[1], weight


def _add_shares(residue: _Residue, rows: list[tuple[Line, str, str, float]]) -> None:
    owner: dict[str, tuple[float, str]] = {}
    for _, atom, bead, weight in rows:
        residue.bead(bead)
        if weight > 0:
            residue.weights[bead][atom] = residue.weights[bead].get(atom, 0.0) + weight
        if atom not in owner or weight > owner[atom][0]:
            owner[atom] = weight, bead
    for atom, (_, bead) in owner.items():
        residue.owned[bead].append(atom)


def _pycgtool(text: str, source: str) -> list[_Residue]:
    found: list[_Residue] = []
    for line in read_lines(text, source):
        if not line.words:
            found.append(_Residue(line.title, line.number))
            continue
        if not found:
            raise _unknown(line, "[ RESIDUE ] first", source)
        if line.words[0].startswith("@"):
            raise InputError(
                f"{source} line {line.number}: expected beads of atoms, found "
                f"'{line.words[0]}', a bead made of beads; it owns no atoms, so leave it out"
            )
        _pycgtool_bead(line, found[-1], source)
    return found


def _pycgtool_bead(line: Line, residue: _Residue, source: str) -> None:
    """A line ``BEAD TYPE [CHARGE] ATOM ATOM ...``; an atom that comes twice weighs twice."""
    name, *rest = line.words
    atoms = rest[2:] if len(rest) > 1 and _is_number(rest[1]) else rest[1:]
    if not atoms:
        raise _unknown(line, "a bead's name, its type and its atoms", source)
    if name in residue.weights:
        raise _unknown(line, f"bead {name} once", source)
    residue.bead(name)
    residue.types[name] = rest[0]
    for atom, times in Counter(atoms).items():
        residue.weights[name][atom] = float(times)
        if atom not in residue.seen:  # shared atoms belong to the first bead that names them
            residue.seen.add(atom)
            residue.owned[name].append(atom)


def _add_atom(line: Line, residue: _Residue, atom: str, source: str) -> None:
    if atom in residue.seen:
        raise _unknown(line, f"atom {atom} of residue {residue.name} once", source)
    residue.seen.add(atom)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _unknown(line: Line, expected: str, source: str) -> InputError:
    found = " ".join(line.words) if line.words else f"[ {line.title} ]"
    return InputError(f"{source} line {line.number}: expected {expected}, found '{found}'")

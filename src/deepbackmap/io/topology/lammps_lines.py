"""What LAMMPS data files and input scripts say of a topology, still in LAMMPS' words and units.

Of an input only what a topology is made of is read: units, styles, coefficients, ``special_bonds``,
mixing, masses, labels, simple variables, the data file and included files. Commands that change
which atoms there are, are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from deepbackmap.errors import InputError
from deepbackmap.system.topology import Unsupported

COLUMNS = {
    # style: columns of the molecule, the type and the charge after the id
    "atomic": (None, 1, None),
    "charge": (None, 1, 2),
    "bond": (1, 2, None),
    "angle": (1, 2, None),
    "molecular": (1, 2, None),
    "full": (1, 2, 3),
}
LISTS = {"Bonds": 2, "Angles": 3, "Dihedrals": 4, "Impropers": 4}
"""Sections of terms, and atoms in each."""
KINDS_OF_TERM = ("bond", "angle", "dihedral", "improper")
COUNTED = ("Atoms", *LISTS)
"""Sections whose lines the header counts."""
LEAST = {"Pair Coeffs": 3, "PairIJ Coeffs": 4}
"""Fewest words of a line, where that is not two."""
CLASS2 = {
    "BondBond Coeffs": ("angle", "bb", 3),
    "BondAngle Coeffs": ("angle", "ba", 4),
    "MiddleBondTorsion Coeffs": ("dihedral", "mbt", 4),
    "EndBondTorsion Coeffs": ("dihedral", "ebt", 8),
    "AngleTorsion Coeffs": ("dihedral", "at", 8),
    "AngleAngleTorsion Coeffs": ("dihedral", "aat", 3),
    "BondBond13 Coeffs": ("dihedral", "bb13", 3),
    "AngleAngle Coeffs": ("improper", "aa", 6),
}
"""Couplings of style ``class2``: kind of term, the word that says them in an input, and how many
numbers they have."""
COUPLED = frozenset((kind, word) for kind, word, _ in CLASS2.values())
FACTORS = {
    "amber": ((0.0, 0.0, 0.5), (0.0, 0.0, 5.0 / 6.0)),
    "charmm": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "dreiding": ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)),
    "fene": ((0.0, 1.0, 1.0), (0.0, 1.0, 1.0)),
}
"""``special_bonds``: factors of Lennard-Jones and Coulomb over one, two and three bonds."""
SECTIONS = (
    *LISTS,
    "Atoms",
    "Masses",
    "Velocities",
    "Pair Coeffs",
    "PairIJ Coeffs",
    *(f"{kind.title()} Coeffs" for kind in KINDS_OF_TERM),
    *CLASS2,
    *(f"{kind.title()} Type Labels" for kind in ("atom", *KINDS_OF_TERM)),
)
CHANGING = (
    "create_atoms", "delete_atoms", "delete_bonds", "replicate", "create_bonds", "create_box",
    "read_restart", "molecule",
)  # fmt: skip
"""Commands after which the atoms or bonds are not those of the data file."""
NAMED_ROWS = "rows of atoms end with name, residue and its number"
"""What the first line of a data file of ours says: comments of its atoms are their names."""
EXCLUSION, PAIR, SPRING = "exclusion", "pair", "spring"
"""What comments of types of ours say that are listed as bonds and are none: pairs that do not
interact, pairs whose whole interaction is a table, and springs."""
DEEPEST = 16


class Row(NamedTuple):
    """One line of a section or a command."""

    where: str
    """``file:line``."""
    words: list[str]
    comment: str = ""


@dataclass
class LammpsInput:
    """What a data file and inputs say."""

    path: Path
    """Of the data file."""
    units: str | None = None
    atom_style: str | None = None
    named_rows: bool = False
    uncharged: bool = False
    """Whether the pair style leaves charges out."""
    styles: dict[str, list[str]] = field(default_factory=dict)
    """Words of the style by what it belongs to: pair, bond, angle, dihedral, improper."""
    coefficients: dict[str, dict[int, Row]] = field(default_factory=dict)
    """By the same, then by type: words without the type."""
    couplings: dict[tuple[str, str], dict[int, Row]] = field(default_factory=dict)
    """Of style ``class2`` by kind of term and word (``CLASS2``), then by type: numbers only."""
    pair_rows: list[Row] = field(default_factory=list)
    """Of pairs of types: words with both types."""
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    mix: str | None = None
    lj_factors: tuple[float, ...] = (0.0, 0.0, 0.0)
    coulomb_factors: tuple[float, ...] = (0.0, 0.0, 0.0)
    masses: dict[int, tuple[float, str]] = field(default_factory=dict)
    sections: dict[str, list[Row]] = field(default_factory=dict)
    unsupported: dict[str, Unsupported] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def refuse(self, what: str, where: str, count: int = 1) -> None:
        """Notes terms whose energy is not known."""
        before = self.unsupported[what].count if what in self.unsupported else 0
        first = self.unsupported[what].where if what in self.unsupported else where
        self.unsupported[what] = Unsupported(what, first, before + count)

    def style(self, kind: str) -> str:
        """The first word of a style, without the name of an accelerator; empty: not said."""
        return plain_style((self.styles.get(kind) or [""])[0])

    def take_coefficients(self, kind: str, number: int, row: Row) -> None:
        """Keeps the coefficients of a type of terms, or those of a coupling of style ``class2``."""
        words = [w for w in row.words[:2] if plain_style(w) != "class2"]
        if words and (kind, words[0]) in COUPLED:
            numbers = [w for w in row.words if plain_style(w) not in ("class2", words[0])]
            known = self.couplings.setdefault((kind, words[0]), {})
            known[number] = Row(row.where, numbers)
        else:
            self.coefficients.setdefault(kind, {})[number] = row

    def type_number(self, kind: str, where: str, word: str) -> int:
        """Number of a type, which may be written as its label."""
        known = self.labels.get(kind, {}).get(word)
        return known if known is not None else whole_number(where, word)

    def type_range(self, kind: str, where: str, word: str) -> range | list[int]:
        """Types of a command: one, or a range with a star."""
        if "*" not in word:
            return [self.type_number(kind, where, word)]
        low, _, high = word.partition("*")
        first = whole_number(where, low) if low else 1
        last = max((*self.masses, *self.coefficients.get(kind, {}), *self._listed(kind), 1))
        return range(first, (whole_number(where, high) if high else last) + 1)

    def _listed(self, kind: str) -> set[int]:
        """Types that terms of a kind have, for stars that mean all of them."""
        rows = self.sections.get(f"{kind.title()}s", [])
        return {int(r.words[1]) for r in rows if len(r.words) > 1 and r.words[1].isdecimal()}


def plain_style(word: str) -> str:
    """A style without the name of an accelerator."""
    return re.sub(r"/(omp|gpu|kk|intel|opt)$", "", word)


def lines_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, words and comment of every line."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as problem:
        raise InputError(f"cannot read {path} ({problem.strerror})") from None
    for number, raw in enumerate(text.split("\n"), 1):
        words, _, comment = raw.partition("#")
        yield f"{path}:{number}", words.strip(), comment.strip()


# --- data files


def read_data(path: Path, found: LammpsInput) -> None:
    """Sections of a data file; styles are taken from the comments behind their names."""
    current: str | None = None
    counts: dict[str, int] = {}
    for k, (where, text, comment) in enumerate(lines_of(path)):
        if k == 0:
            _title(f"{text} # {comment}", found)
            continue
        if not text:
            continue
        words = text.split()
        if current is None and len(words) == 2 and words[1].title() in COUNTED:
            counts[words[1].title()] = whole_number(where, words[0])
        elif text in SECTIONS:
            current = text
            _style_of_comment(text, comment, found)
        elif text[0].isalpha() and text.endswith("Coeffs"):
            current = None
            found.refuse(f"the energy of section {text} is not known", where)
        elif text[0].isalpha() and len(words) < 3 and not _is_label(current):
            current = None  # a section that says nothing of the topology
        elif current is not None and len(words) < LEAST.get(current, 2):
            raise InputError(
                f"{where}: expected {LEAST.get(current, 2)} words or more in {current}, "
                f"found '{text}'"
            )
        elif current is not None:
            found.sections.setdefault(current, []).append(Row(where, words, comment))
    for section, count in counts.items():
        if count != (n := len(found.sections.get(section, []))):
            raise InputError(
                f"{path}: expected {count} lines of {section} as the header says, found {n}"
            )
    _take_sections(found)


def _title(line: str, found: LammpsInput) -> None:
    """The first line, where LAMMPS itself writes the units."""
    words = line.replace(",", " ").replace(";", " ").split()
    after = words[words.index("units") + 1 :] if "units" in words else []
    if found.units is None and len(after) > 1 and after[0] == "=":
        found.units = after[1]
    found.named_rows = NAMED_ROWS in line


def _is_label(section: str | None) -> bool:
    """Whether rows of a section may begin with a word."""
    return section is not None and (section == "Masses" or section.endswith(" Coeffs"))


def _style_of_comment(section: str, comment: str, found: LammpsInput) -> None:
    """Styles stand as comments behind the names of sections."""
    if not comment:
        return
    words = comment.split()
    if section == "Atoms":
        found.atom_style = words[0]
    elif section in ("Pair Coeffs", "PairIJ Coeffs"):
        found.styles["pair"] = words
    elif section.endswith(" Coeffs") and section not in CLASS2:
        found.styles[section.split()[0].lower()] = words


def _take_sections(found: LammpsInput) -> None:
    for section, rows in found.sections.items():
        if section.endswith(" Type Labels"):
            kind = section.split()[0].lower()
            found.labels[kind] = {r.words[1]: whole_number(r.where, r.words[0]) for r in rows}
    for where, words, _ in found.sections.get("Masses", []):
        number = found.type_number("atom", where, words[0])
        found.masses[number] = (real_number(where, words[1]), where)
    for kind in KINDS_OF_TERM:
        for where, words, comment in found.sections.get(f"{kind.title()} Coeffs", []):
            number = found.type_number(kind, where, words[0])
            found.take_coefficients(kind, number, Row(where, words[1:], comment))
    for section, (kind, word, _) in CLASS2.items():
        for where, words, _ in found.sections.get(section, []):
            number = found.type_number(kind, where, words[0])
            if words[1] != "skip":
                found.take_coefficients(kind, number, Row(where, [word, *words[1:]]))
    for where, words, _ in found.sections.get("Pair Coeffs", []):
        found.pair_rows.append(Row(where, [words[0], words[0], *words[1:]]))
    found.pair_rows += found.sections.get("PairIJ Coeffs", [])


# --- input scripts


def data_of_script(path: Path) -> Path:
    """The data file that an input script reads.

    Raises:
        InputError: it reads none.
    """
    found, restarts = LammpsInput(path), False
    for where, command, words in commands_of(path, found, 0):
        restarts |= command == "read_restart"
        if command == "read_data" and words:
            _check_words(where, command, words)
            return path.parent / words[0]
    raise InputError(
        f"{path}: expected an input script with a command read_data, found none"
        + " but read_restart: let LAMMPS write what it read (write_data) and give that" * restarts
    )


def read_script(path: Path, found: LammpsInput) -> None:
    """Commands of an input that say what the terms are."""
    for where, command, words in commands_of(path, found, 0):
        try:
            _command(where, command, words, found)
        except IndexError:
            raise InputError(
                f"{where}: expected more words after {command}, found {len(words)}"
            ) from None


def commands_of(path: Path, found: LammpsInput, depth: int) -> Iterator[tuple[str, str, list[str]]]:
    """Place, command and words of an input and of what it includes, variables filled in."""
    if depth > DEEPEST:
        raise InputError(f"{path}: expected at most 16 includes inside each other, found more")
    held = ""
    for where, text, _ in lines_of(path):
        held += " " + text
        if held.endswith("&"):
            held = held[:-1]
            continue
        command, *words = _filled(held, found.variables).split() or [""]
        held = ""
        if command == "include" and words:
            _check_words(where, command, words)
            yield from commands_of(path.parent / words[0], found, depth + 1)
        elif command == "variable" and len(words) > 2:
            _variable(words, found.variables)
        elif command:
            yield where, command, words


def _filled(text: str, variables: dict[str, str]) -> str:
    """Variables as their values, where these are known."""

    def value(match: re.Match[str]) -> str:
        return variables.get(match[1] or match[2], match[0])

    return re.sub(r"\$\{(\w+)\}|\$([A-Za-z])", value, text)


def _variable(words: list[str], variables: dict[str, str]) -> None:
    """Takes a variable whose value stands in its line; the first of index variables counts."""
    name, style, value = words[0], words[1], words[2].strip("\"'")
    if style == "index":
        variables.setdefault(name, value)
    elif style == "string" or (style == "equal" and re.fullmatch(r"[-+.\deE]+", value)):
        variables[name] = value
    else:
        variables.pop(name, None)


def _check_words(where: str, command: str, words: list[str]) -> None:
    if any("$" in w for w in words):
        raise InputError(
            f"{where}: expected {command} without variables that are computed, found "
            f"{' '.join(words)}: write the value"
        )


def _command(where: str, command: str, words: list[str], found: LammpsInput) -> None:
    what, _, verb = command.partition("_")
    if command == "units":
        found.units = words[0]
    elif command == "atom_style":
        found.atom_style = words[0]
    elif verb == "style" and what in ("pair", *KINDS_OF_TERM):
        found.styles[what] = words or [""]
    elif verb == "coeff" and any("$" in w for w in words):
        found.refuse(f"the variable in {command} {' '.join(words)} is not known", where)
    elif command == "pair_coeff":
        if len(words) < 3:
            raise IndexError
        found.pair_rows.append(Row(where, words))
    elif verb == "coeff" and what in KINDS_OF_TERM:
        for kind in found.type_range(what, where, words[0]):
            found.take_coefficients(what, kind, Row(where, words[1:]))
    elif command == "pair_modify" and "mix" in words:
        found.mix = words[words.index("mix") + 1]
    elif command == "mass":
        for kind in found.type_range("atom", where, words[0]):
            found.masses[kind] = (real_number(where, words[1]), where)
    elif command == "special_bonds":
        _special_bonds(where, words, found)
    elif command == "labelmap" and words[0] in ("atom", *KINDS_OF_TERM):
        pairs = zip(words[1::2], words[2::2], strict=False)
        labels = {label: whole_number(where, number) for number, label in pairs}
        found.labels[words[0]] = found.labels.get(words[0], {}) | labels
    else:
        _changing(where, command, words, found)


def _changing(where: str, command: str, words: list[str], found: LammpsInput) -> None:
    """Refuses what makes another system of the data file's."""
    added = command == "read_data" and bool({"add", "offset", "shift"} & set(words))
    if command in CHANGING or added:
        raise InputError(
            f"{where}: expected a data file that holds the whole system, found {command}"
            f"{' add' * added}: let LAMMPS write what it has made (write_data) and give that"
        )
    if command == "set" and {"type", "charge", "type/fraction"} & set(words[2:]):
        found.refuse("the command set changes types or charges, which is not followed", where)


def _special_bonds(where: str, words: list[str], found: LammpsInput) -> None:
    k = 0
    while k < len(words):
        word = words[k]
        if word in FACTORS:
            found.lj_factors, found.coulomb_factors = FACTORS[word]
            k += 1
        elif word in ("lj", "coul", "lj/coul"):
            factors = tuple(real_number(where, w) for w in words[k + 1 : k + 4])
            if len(factors) != 3:
                raise InputError(f"{where}: expected three factors after {word}, found fewer")
            if word != "coul":
                found.lj_factors = factors
            if word != "lj":
                found.coulomb_factors = factors
            k += 4
        else:
            if words[k + 1 : k + 2] != ["no"]:
                found.refuse(f"the energy of special_bonds {word} is not known", where)
            k += 2


def real_number(where: str, word: str) -> float:
    """A finite number."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: expected a number, found '{word}'")
    return value


def whole_number(where: str, word: str) -> int:
    """A whole number."""
    if word.isdecimal() and len(word) < 18:
        return int(word)
    value = real_number(where, word)
    if value != int(value) or abs(value) >= 2**62:
        raise InputError(f"{where}: expected a whole number, found '{word}'")
    return int(value)

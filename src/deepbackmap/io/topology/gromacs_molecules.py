"""The molecule sections of a GROMACS topology, from lines to ``MoleculeType``.

Sections are read as whole arrays of numbers; a line becomes an object of its own only where
something is to be said about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.io.topology.gromacs_lines import Line, Lines, Problems, integer, number
from deepbackmap.io.topology.gromacs_tables import Tables
from deepbackmap.io.topology.gromacs_types import (
    FUNCTIONS,
    RULE_C6_C12,
    WIDTH,
    AtomType,
    ForceField,
    Function,
    wrong_count,
)
from deepbackmap.system import BondedTerms, MoleculeType
from deepbackmap.system.kinds import KINDS, SITES
from deepbackmap.system.topology import Unsupported

READ_SECTIONS = (
    "atoms",
    *WIDTH,
    "settles",
    "pairs",
    "pairsnb",
    "exclusions",
    *(f"virtualsites{n}" for n in "1234n"),
)
"""Sections of a molecule that are understood."""

PASSED_SECTIONS = (
    "positionrestraints",
    "distancerestraints",
    "orientationrestraints",
    "anglerestraints",
    "anglerestraintsz",
    "dihedralrestraints",
)
"""Sections of a molecule that say how to run it, not what it is; they are passed over."""

OTHER_SECTIONS = ("polarization", "waterpolarization", "tholepolarization")
"""Sections of a molecule whose energies are not known."""

LARGEST_NREXCL = 1_000
MOST_EXCLUSIONS = 100_000_000
"""Of one molecule type; so many pairs take a few GB."""
LARGEST_SIGMA = 1e6
"""nm."""
LARGEST_NUMBER = 2**31 - 1
"""Of a residue or a function type."""
CHEMICAL_FUNCTIONS = {"bonds": (1, 2, 3, 4, 5, 7, 8), "constraints": (1,)}
"""Function types over which exclusions are counted."""


@dataclass
class MoleculeLines:
    """One ``[ moleculetype ]`` as lines; only the molecules of the system are read further."""

    line: Line
    name: str
    nrexcl: int
    sections: dict[str, Lines] = field(default_factory=dict)
    headings: dict[str, str] = field(default_factory=dict)
    """The sections' names as written, for messages."""


@dataclass(frozen=True)
class Atoms:
    """The ``[ atoms ]`` of a molecule, or of the whole system, as columns."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    bonded: tuple[str, ...]
    """The names that bonded types use."""
    residue_names: tuple[str, ...]
    residue_numbers: Int64[np.ndarray, " n"]
    charges: Float64[np.ndarray, " n"]
    masses: Float64[np.ndarray, " n"]

    @property
    def n(self) -> int:
        """Number of atoms."""
        return len(self.names)


@dataclass
class Notes:
    """What belongs to a molecule but has no energy that is known."""

    found: dict[str, tuple[str, int]] = field(default_factory=dict)

    def add(self, line: Line, what: str, count: int = 1) -> None:
        """Counts lines of which ``line`` is the first."""
        where, before = self.found.get(what, (line.where, 0))
        self.found[what] = (where, before + count)

    def result(self) -> tuple[Unsupported, ...]:
        """All that was noted."""
        return tuple(Unsupported(what, where, n) for what, (where, n) in self.found.items())


@dataclass(frozen=True)
class Rows:
    """Lines of one section that have equally many words, as numbers."""

    lines: Lines
    index: Int64[np.ndarray, " m"]
    """Which of the lines."""
    values: Float64[np.ndarray, "m w"]

    @property
    def width(self) -> int:
        """Words of a line."""
        return self.values.shape[1]

    def of(self, chosen: Bool[np.ndarray, " m"] | Int64[np.ndarray, " k"]) -> Rows:
        """Some of the rows."""
        return Rows(self.lines, self.index[chosen], self.values[chosen])

    def line(self, row: int) -> Line:
        """The line of a row."""
        return self.lines[int(self.index[row])]

    def refuse(self, bad: Bool[np.ndarray, " m"], message: str, problems: Problems) -> Rows:
        """The rows that are not bad; the message may name ``{row}`` and ``{words}`` of one."""
        for row in np.flatnonzero(bad).tolist():
            line = self.line(row)
            text = message.format(words=" ".join(line.fields), row=self.values[row])
            problems.add(line.where, text)
        return self.of(~bad) if bad.any() else self


@dataclass
class Collected:
    """Terms by kind while they are gathered."""

    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    grids: dict[str, np.ndarray] = field(default_factory=dict)

    def add(
        self,
        kind: str,
        order: Int64[np.ndarray, " m"],
        atoms: Int64[np.ndarray, "m k"],
        parameters: Float64[np.ndarray, "m p"],
    ) -> None:
        """Terms and the place of each in its section."""
        if len(atoms):
            self.parts.setdefault(kind, []).append((order, atoms, parameters))

    def result(self, kinds: Iterable[str]) -> dict[str, BondedTerms]:
        """Terms in the order of the file, by kind."""
        found = {}
        for kind in kinds:
            if kind in self.parts:
                order, atoms, parameters = map(np.concatenate, zip(*self.parts[kind], strict=True))
                by = np.argsort(order, kind="stable")
                grids = self.grids.get(kind)
                found[kind] = BondedTerms(atoms[by], parameters[by], grids)
        return found


@dataclass(frozen=True)
class Reader:
    """What reading a molecule needs from around it."""

    force_field: ForceField
    tables: Tables
    problems: Problems


def parse_molecule_header(line: Line, problems: Problems) -> MoleculeLines:
    """The one line of ``[ moleculetype ]``; a wrong nrexcl is noted and stands for 0."""
    words = line.fields
    if len(words) != 2:
        problems.add(
            line.where, f"expected the name and nrexcl of a molecule type, found '{line.text}'"
        )
        return MoleculeLines(line, words[0], 0)
    try:
        nrexcl = integer(line, words[1], "nrexcl")
        if nrexcl < 0:
            raise line.error(f"expected nrexcl of zero or more, found {nrexcl}")
        if nrexcl > LARGEST_NREXCL:
            raise line.error(f"expected nrexcl of at most {LARGEST_NREXCL}, found {words[1]}")
    except InputError as problem:
        problems.catch(problem)
        nrexcl = 0
    return MoleculeLines(line, words[0], nrexcl)


def build_molecule(lines: MoleculeLines, reader: Reader) -> MoleculeType | None:
    """Everything that is counted inside one molecule.

    Problems are noted in ``reader.problems``; terms whose energy is not known in the molecule.

    Returns:
        None where there are no atoms to speak of.
    """
    notes = Notes()
    sections = lines.sections
    _note_others(lines, reader.problems, notes)
    sites, virtual = _parse_sites(lines, reader)
    atoms = _parse_atoms(lines, reader, virtual, notes)
    if atoms is None:
        return None
    terms, bonds = parse_terms(sections, atoms, reader, notes)
    excluded = _parse_exclusions(sections.get("exclusions", Lines()), atoms.n, reader.problems)
    if lines.nrexcl:
        try:
            near = pairs_within(bonds, atoms.n, lines.nrexcl)
        except InputError as problem:
            reader.problems.add(lines.line.where, str(problem))
            near = excluded[:0]
        excluded = np.concatenate([near, excluded])
    pairs, extra = _parse_pairs(sections.get("pairs", Lines()), atoms, reader, notes)
    extra_nb = _parse_pairs_nb(sections.get("pairsnb", Lines()), atoms, reader)
    collected = Collected(extra.parts)
    for kind, parts in extra_nb.parts.items():
        collected.parts.setdefault(kind, []).extend(parts)
    masses = atoms.masses.copy()
    masses[virtual[virtual < atoms.n]] = 0.0
    return MoleculeType(
        name=lines.name,
        atom_names=atoms.names,
        atom_types=atoms.types,
        residue_names=atoms.residue_names,
        residue_numbers=atoms.residue_numbers,
        charges=atoms.charges,
        masses=masses,
        terms={**terms, **collected.result(KINDS)},
        nrexcl=lines.nrexcl,
        exclusions=_unique_pairs(excluded),
        pairs=pairs,
        sites=_complete_means(sites.result(SITES), masses),
        unsupported=notes.result(),
    )


def pairs_within(
    bonds: Int64[np.ndarray, "b 2"], n_atoms: int, distance: int
) -> Int64[np.ndarray, "m 2"]:
    """All pairs i < j that are at most ``distance`` bonds apart, sorted.

    Raises:
        InputError: there are more than ``MOST_EXCLUSIONS``.
    """
    if distance == 0 or len(bonds) == 0:
        return np.zeros((0, 2), dtype=np.int64)
    both = _unique_rows(np.concatenate([bonds, bonds[:, ::-1]]))
    first = np.searchsorted(both[:, 0], np.arange(n_atoms + 1))
    found, reached = both, both
    for _ in range(distance - 1):
        # every (i, j) once for each neighbour k of j becomes (i, k)
        counts = np.diff(first)[reached[:, 1]]
        if counts.sum() + len(found) > MOST_EXCLUSIONS:
            raise InputError(
                f"expected nrexcl with which at most {MOST_EXCLUSIONS} pairs are excluded, "
                f"found {distance}"
            )
        starts = np.repeat(first[reached[:, 1]] - np.cumsum(counts) + counts, counts)
        ends = both[starts + np.arange(len(starts)), 1]
        reached = _unique_rows(np.stack([np.repeat(reached[:, 0], counts), ends], axis=1))
        before = len(found)
        found = _unique_rows(np.concatenate([found, reached]))
        if len(found) == before:
            break  # the whole molecule is within reach
    return _unique_pairs(found)


def _unique_pairs(pairs: Int64[np.ndarray, "m 2"]) -> Int64[np.ndarray, "k 2"]:
    """Pairs i < j, sorted, each once; an atom with itself is no pair."""
    i, j = pairs[pairs[:, 0] != pairs[:, 1]].T
    return _unique_rows(np.stack([np.minimum(i, j), np.maximum(i, j)], axis=1))


def _unique_rows(pairs: Int64[np.ndarray, "m 2"]) -> Int64[np.ndarray, "k 2"]:
    """Rows sorted, each once; as single numbers, which sort much faster than rows.

    (``np.unique`` would hash such numbers first, which takes thirty times as long.)
    """
    n = pairs.max(initial=0) + 1
    keys = np.sort(pairs[:, 0] * n + pairs[:, 1])
    fresh = np.ones(len(keys), dtype=bool)
    fresh[1:] = keys[1:] != keys[:-1]
    return np.stack(np.divmod(keys[fresh], n), axis=1)


def _note_others(lines: MoleculeLines, problems: Problems, notes: Notes) -> None:
    for section, content in lines.sections.items():
        if not len(content) or section in READ_SECTIONS + PASSED_SECTIONS:
            continue
        heading = lines.headings[section]
        if section in OTHER_SECTIONS:
            notes.add(content[0], f"the energy of {heading} is not known", len(content))
            continue
        problems.add(
            content[0].where,
            f"expected a section of a molecule in molecule {lines.name}, found {heading}",
        )


# --- numbers


def numeric_rows(lines: Lines, problems: Problems) -> Iterator[Rows]:
    """The lines as numbers, those with equally many words together."""
    words = [text.split() for text in lines.texts]
    counts = np.fromiter(map(len, words), dtype=np.int64, count=len(words))
    for n in np.unique(counts).tolist():
        index = np.flatnonzero(counts == n)
        chosen = words if len(index) == len(words) else [words[k] for k in index.tolist()]
        try:
            flat = np.fromiter(map(float, chain.from_iterable(chosen)), float, n * len(chosen))
        except ValueError:
            flat = np.array([_float(w) for row in chosen for w in row])
        values = flat.reshape(-1, n)
        good = np.isfinite(values).all(axis=1)
        for k in np.flatnonzero(~good).tolist():
            line = lines[int(index[k])]
            word = next(w for w in chosen[k] if not math.isfinite(_float(w)))
            problems.add(line.where, f"expected a number for a parameter, found '{word}'")
        yield Rows(lines, index[good], values[good])


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _indices(
    rows: Rows, columns: int, n_atoms: int, problems: Problems, *, distinct: bool = True
) -> tuple[Rows, Int64[np.ndarray, "m k"]]:
    """Rows whose first columns are atoms of the molecule, and those as 0-based indices."""
    first = rows.values[:, :columns]
    bad = (first != np.floor(first)).any(axis=1)
    for row in np.flatnonzero(bad).tolist():
        word = next(w for w in rows.line(row).fields if float(w) != math.floor(float(w)))
        problems.add(
            rows.line(row).where,
            f"expected a whole number for the number of an atom, found '{word}'",
        )
    rows = rows.of(~bad)
    first = rows.values[:, :columns]
    outside = (first < 1) | (first > n_atoms)
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        value = first[row][outside[row]][0]
        problems.add(
            rows.line(row).where, f"expected atom numbers from 1 to {n_atoms}, found {value:g}"
        )
    rows = rows.of(np.flatnonzero(~outside.any(axis=1)))
    atoms = rows.values[:, :columns].astype(np.int64) - 1
    if distinct and columns > 1:
        ordered = np.sort(atoms, axis=1)
        same = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        for row in np.flatnonzero(same).tolist():
            named = " ".join(str(a + 1) for a in atoms[row].tolist())
            problems.add(rows.line(row).where, f"expected different atoms, found {named}")
        rows, atoms = rows.of(~same), atoms[~same]
    return rows, atoms


def _function_column(rows: Rows, column: int, problems: Problems) -> tuple[Rows, np.ndarray]:
    """Rows whose function type is a whole number, and those; 1 where there is no such column."""
    if rows.width <= column:
        return rows, np.ones(len(rows.values), dtype=np.int64)
    values = rows.values[:, column]
    bad = np.asarray((values != np.floor(values)) | (np.abs(values) > LARGEST_NUMBER))
    rows = rows.refuse(
        bad, "expected a whole number for the function type, found '{words}'", problems
    )
    return rows, rows.values[:, column].astype(np.int64)


# --- atoms


def _parse_atoms(
    molecule: MoleculeLines, reader: Reader, virtual: Int64[np.ndarray, " v"], notes: Notes
) -> Atoms | None:
    """The ``[ atoms ]`` section; None, with a problem noted, where there is none."""
    lines = molecule.sections.get("atoms", Lines())
    problems = reader.problems
    if not len(lines):
        problems.add(
            molecule.line.where, f"expected [ atoms ] in molecule {molecule.name}, found none"
        )
        return None
    known = reader.force_field.atom_types
    sites = set(virtual.tolist())
    rows = []
    for index, text in enumerate(lines.texts):
        try:
            row = _atom(text.split(), index, known)
        except (ValueError, IndexError, KeyError):
            row = None
        if row is None or (row[6] <= 0.0 and index not in sites) or row[1] not in known:
            try:
                row = _checked_atom(lines[index], index, known, index in sites, notes)
            except InputError as problem:
                problems.catch(problem)
                row = UNREAD
        rows.append(row)
    _note_shells(lines, rows, known, sites, notes)
    names, types, bonded, residues, numbers, charges, masses = zip(*rows, strict=True)
    return Atoms(
        names,
        types,
        bonded,
        residues,
        np.array(numbers, dtype=np.int64),
        np.array(charges, dtype=np.float64),
        np.array(masses, dtype=np.float64),
    )


UNKNOWN_TYPE = "expected a type of [ atomtypes ]"

_Atom = tuple[str, str, str, str, int, float, float]
"""Name, type, bonded type, residue, its number, charge / e, mass / u."""
UNREAD: _Atom = ("?", "?", "?", "?", 1, 0.0, 1.0)
"""In the place of an atom whose line is wrong, so that what is wrong behind it is said as well."""


def _atom(words: Sequence[str], index: int, known: Mapping[str, AtomType]) -> _Atom | None:
    """A line that is as most are; None where it wants a closer look."""
    n = len(words)
    if not 6 <= n <= 11 or int(words[0]) != index + 1:
        return None
    kind = known[words[1]]
    charge = float(words[6]) if n > 6 else kind.charge
    mass = float(words[7]) if n > 7 else kind.mass
    residue = int(words[2])
    if not math.isfinite(charge) or not math.isfinite(mass) or abs(residue) > LARGEST_NUMBER:
        return None
    return words[4], words[1], kind.bonded, words[3], residue, charge, mass


def _checked_atom(
    line: Line, index: int, known: Mapping[str, AtomType], site: bool, notes: Notes
) -> _Atom:
    """One line of ``[ atoms ]`` word by word; what the type lacks must stand on the line.

    Raises:
        InputError: what is wrong with it.
    """
    words = line.fields
    if not 6 <= len(words) <= 11:
        raise line.error(
            "expected nr, type, resnr, residue, atom, cgnr, charge and mass of an atom, "
            f"found {len(words)} words"
        )
    if integer(line, words[0], "the number of the atom") != index + 1:
        raise line.error(f"expected atom number {index + 1}, found {words[0]}")
    kind = known.get(words[1])
    if kind is None and len(words) < 8:
        raise line.error(f"{UNKNOWN_TYPE}, found '{words[1]}'")
    charge = number(line, words[6], "the charge") if len(words) > 6 else getattr(kind, "charge", 0)
    mass = number(line, words[7], "the mass") if len(words) > 7 else getattr(kind, "mass", 0)
    if kind is None:
        notes.add(line, f"{UNKNOWN_TYPE}, found '{words[1]}'")
    elif kind.particle != "A" and not site and mass <= 0.0 and kind.particle != "S":
        raise line.error(
            f"expected a section of virtual sites that says where atom {words[4]} of particle type "
            f"{kind.particle} is, found none"
        )
    if mass <= 0.0 and not site and getattr(kind, "particle", "A") == "A":
        raise line.error(f"expected a mass above zero for atom {words[4]}, found {mass:g}")
    # the number of a residue may carry an insertion letter
    residue = words[2][:-1] if words[2][-1].isalpha() else words[2]
    numbered = integer(line, residue, "the residue number")
    if abs(numbered) > LARGEST_NUMBER:
        raise line.error(f"expected residue numbers up to {LARGEST_NUMBER}, found {words[2]}")
    bonded = kind.bonded if kind else words[1]
    return words[4], words[1], bonded, words[3], numbered, charge, mass


def _note_shells(
    lines: Lines,
    rows: Sequence[_Atom],
    known: Mapping[str, AtomType],
    sites: set[int],
    notes: Notes,
) -> None:
    shells = {name for name, kind in known.items() if kind.particle == "S"}
    if shells:
        for index, row in enumerate(rows):
            if row[1] in shells and index not in sites:
                notes.add(lines[index], "the place of shell particles is not known")


# --- bonded terms


def parse_terms(
    sections: Mapping[str, Lines], atoms: Atoms, reader: Reader, notes: Notes
) -> tuple[dict[str, BondedTerms], Int64[np.ndarray, "b 2"]]:
    """All terms of the bonded sections, and the bonds over which exclusions are counted."""
    collected = Collected()
    bonds = [np.zeros((0, 2), dtype=np.int64)]
    names, codes = np.unique(np.array(atoms.bonded), return_inverse=True)
    types = BondedCodes(tuple(names.tolist()), codes.reshape(-1).astype(np.int64))
    for section in WIDTH:
        for rows in numeric_rows(sections.get(section, Lines()), reader.problems):
            bonds += _parse_section(rows, section, atoms.n, types, reader, collected, notes)
    settles = sections.get("settles", Lines())
    bonds += _parse_settles(settles, atoms.n, reader.problems, collected)
    return collected.result(KINDS), np.concatenate(bonds)


@dataclass(frozen=True)
class BondedCodes:
    """Bonded types of atoms as small numbers."""

    names: tuple[str, ...]
    codes: Int64[np.ndarray, " n"]

    def distinct(
        self, atoms: Int64[np.ndarray, "m k"]
    ) -> tuple[list[tuple[str, ...]], Int64[np.ndarray, " m"]]:
        """The different sequences of types among terms, and which each term has."""
        codes = self.codes[atoms]
        key = np.zeros(len(atoms), dtype=np.int64)
        for column in codes.T:
            key = key * len(self.names) + column
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        found = [tuple(self.names[c] for c in row) for row in codes[first].tolist()]
        return found, inverse.reshape(-1)


def _parse_section(
    rows: Rows,
    section: str,
    n_atoms: int,
    types: BondedCodes,
    reader: Reader,
    collected: Collected,
    notes: Notes,
) -> list[Int64[np.ndarray, "b 2"]]:
    """Adds the terms of some lines; returns the bonds among them."""
    width = WIDTH[section]
    if rows.width < width:
        everything = np.ones(len(rows.values), dtype=bool)
        message = f"expected {width} atoms in [ {section} ], found {rows.width}"
        rows.refuse(everything, message, reader.problems)
        return []
    rows, atoms = _indices(rows, width, n_atoms, reader.problems)
    before = rows.index
    rows, functions = _function_column(rows, width, reader.problems)
    atoms = atoms[np.isin(before, rows.index)]
    bonds = []
    for number_of in np.unique(functions).tolist():
        chosen = functions == number_of
        if number_of in CHEMICAL_FUNCTIONS.get(section, ()):
            bonds.append(atoms[chosen])
        part = _Part(rows.of(chosen), atoms[chosen], section, number_of)
        _add_function(part, types, reader, collected, notes)
    return bonds


@dataclass(frozen=True)
class _Part:
    """Lines of one section and function type with equally many words."""

    rows: Rows
    atoms: Int64[np.ndarray, "m k"]
    section: str
    number: int

    @property
    def chemical(self) -> bool:
        return self.number in CHEMICAL_FUNCTIONS.get(self.section, ())

    def of(self, chosen: np.ndarray) -> _Part:
        return _Part(self.rows.of(chosen), self.atoms[chosen], self.section, self.number)


def _add_function(
    part: _Part, types: BondedCodes, reader: Reader, collected: Collected, notes: Notes
) -> None:
    """Adds terms of one function type, with numbers of their own or of their types."""
    function = FUNCTIONS[part.section].get(part.number)
    if function is None:
        supported = ", ".join(map(str, FUNCTIONS[part.section]))
        _unsupported(
            part,
            f"expected a known function type ({supported}) in [ {part.section} ], "
            f"found {part.number}",
            collected,
            notes,
        )
        return
    if function.kind == "cmap":
        _add_cmaps(part, types, reader, collected, notes)
        return
    words = part.rows.width - WIDTH[part.section] - 1
    if words <= 0 and function.n_parameters:
        part, parameters = _of_types(part, function, types, reader, collected, notes)
    elif function.n_parameters <= words <= max(1, 2 * function.n_parameters):
        start = WIDTH[part.section] + 1
        parameters = part.rows.values[:, start : start + function.n_parameters]
    elif function.n_parameters or words > 0:
        everything = np.ones(len(part.atoms), dtype=bool)
        part.rows.refuse(everything, wrong_count(function, words), reader.problems)
        return
    else:
        parameters = np.zeros((len(part.atoms), 0))
    _add_terms(part, function, parameters, reader, collected, notes)


def _of_types(
    part: _Part,
    function: Function,
    types: BondedCodes,
    reader: Reader,
    collected: Collected,
    notes: Notes,
) -> tuple[_Part, Float64[np.ndarray, "m p"]]:
    """Numbers of the types of the atoms; several terms where the types have several."""
    table = reader.force_field.bonded.get((part.section, function.group))
    distinct, which = types.distinct(part.atoms)
    found = [table.find(t) if table else [] for t in distinct]
    for k, numbers in enumerate(found):
        if not numbers:
            missing = f"expected parameters for {' '.join(distinct[k])} (function {part.number}) "
            missing += f"here or in [ {part.section.removesuffix('s')}types ], found none"
            _unsupported(part.of(which == k), missing, collected, notes)
    counts = np.array([len(numbers) for numbers in found], dtype=np.int64)
    flat = np.array([p for numbers in found for p in numbers], dtype=np.float64)
    flat = flat.reshape(-1, function.n_parameters)
    starts = np.cumsum(counts) - counts
    repeats = counts[which]
    term = np.repeat(np.arange(len(which)), repeats)
    within = np.arange(len(term)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    return part.of(term), flat[starts[which[term]] + within]


def _unsupported(part: _Part, what: str, collected: Collected, notes: Notes) -> None:
    """Notes terms without a known energy; bonds stay bonds."""
    if not len(part.atoms):
        return
    notes.add(part.rows.line(0), what, len(part.atoms))
    if part.chemical:
        none = np.zeros((len(part.atoms), 0))
        collected.add("connection", part.rows.index, part.atoms, none)


def _add_terms(
    part: _Part,
    function: Function,
    parameters: Float64[np.ndarray, "m p"],
    reader: Reader,
    collected: Collected,
    notes: Notes,
) -> None:
    """Adds terms with their numbers as written."""
    kind = function.kind
    if KINDS[kind].grids:
        _add_curves(part, function, parameters, reader, collected, notes)
        return
    order, atoms = part.rows.index, part.atoms
    if kind == "proper" and (odd := parameters[:, 2] != np.floor(parameters[:, 2])).any():
        for row in np.flatnonzero(odd).tolist():
            found = f"{parameters[row, 2]:g}"
            reader.problems.add(
                part.rows.line(row).where,
                f"expected a whole number for the multiplicity, found {found}",
            )
        return
    values = function.convert(parameters)
    if kind == "urey_bradley":
        plain = values[:, 3] == 0.0
        collected.add("angle", order[plain], atoms[plain], values[plain, :2])
        order, atoms, values = order[~plain], atoms[~plain], values[~plain]
    collected.add(kind, order, atoms, values)


def _add_curves(
    part: _Part,
    function: Function,
    parameters: Float64[np.ndarray, "m 2"],
    reader: Reader,
    collected: Collected,
    notes: Notes,
) -> None:
    """Adds tabulated terms; those whose table is not given have no energy."""
    numbers = parameters[:, 0]
    for table in np.unique(numbers).tolist():
        chosen = numbers == table
        curve = reader.tables.curve(part.section, int(table))
        if curve is None:
            name = reader.tables.name(part.section, int(table))
            what = f"expected table {table:g} of [ {part.section} ] (a file {name}), found none"
            _unsupported(part.of(chosen), what, collected, notes)
            continue
        collected.grids[function.kind] = reader.tables.grids(part.section)
        columns = np.tile(curve, (int(chosen.sum()), 1))
        values = np.concatenate([parameters[chosen][:, 1:], columns], axis=1)
        collected.add(function.kind, part.rows.index[chosen], part.atoms[chosen], values)


def _add_cmaps(
    part: _Part, types: BondedCodes, reader: Reader, collected: Collected, notes: Notes
) -> None:
    """Adds correction maps, found by the types of five atoms in this order."""
    known = reader.force_field.cmaps
    distinct, which = types.distinct(part.atoms)
    rows = np.array([known.rows.get(t, -1) for t in distinct], dtype=np.int64)
    for k in np.flatnonzero(rows < 0).tolist():
        what = f"expected a surface for {' '.join(distinct[k])} in [ cmaptypes ], found none"
        _unsupported(part.of(which == k), what, collected, notes)
    sizes = {known.values[r].shape for r in rows[rows >= 0].tolist()}
    if len(sizes) > 1:
        what = "expected correction maps of one size, found several"
        _unsupported(part, what, collected, notes)
        return
    chosen = rows[which] >= 0
    if chosen.any():
        used = np.unique(rows[rows >= 0])
        collected.grids["cmap"] = known.grids(used.tolist())
        row = np.searchsorted(used, rows[which][chosen]).astype(float)
        collected.add("cmap", part.rows.index[chosen], part.atoms[chosen], row[:, None])


def _parse_settles(
    lines: Lines, n_atoms: int, problems: Problems, collected: Collected
) -> list[Int64[np.ndarray, "b 2"]]:
    """Rigid water as three constraints, two of them bonds."""
    bonds: list[np.ndarray] = []
    for k, line in enumerate(lines):
        words = line.fields
        try:
            if len(words) != 4 or integer(line, words[1], "the function type") != 1:
                raise line.error(
                    "expected an atom, function 1 and two distances in [ settles ], "
                    f"found '{line.text}'"
                )
            first = integer(line, words[0], "the number of an atom")
            for atom in (first, first + 1, first + 2):
                if not 1 <= atom <= n_atoms:
                    raise line.error(f"expected atom numbers from 1 to {n_atoms}, found {atom}")
            oh, hh = (number(line, word, "a distance") for word in words[2:])
        except InputError as problem:
            problems.catch(problem)
            continue
        o, h1, h2 = first - 1, first, first + 1
        order = np.full(3, len(bonds) + k, dtype=np.int64) + (1 << 40)  # after [ constraints ]
        atoms = np.array([(o, h1), (o, h2), (h1, h2)], dtype=np.int64)
        collected.add("constraint", order, atoms, np.array([[oh], [oh], [hh]]))
        bonds.append(atoms[:2])
    return bonds


def _parse_exclusions(lines: Lines, n_atoms: int, problems: Problems) -> Int64[np.ndarray, "m 2"]:
    """The first atom of a line with each of the others; itself among them changes nothing."""
    found = [np.zeros((0, 2), dtype=np.int64)]
    for rows in numeric_rows(lines, problems):
        _, atoms = _indices(rows, rows.width, n_atoms, problems, distinct=False)
        others = atoms[:, 1:]
        first = np.repeat(atoms[:, :1], others.shape[1], axis=1)
        found.append(np.stack([first.ravel(), others.ravel()], axis=1))
    return np.concatenate(found)


# --- pairs


def _parse_pairs(
    lines: Lines, atoms: Atoms, reader: Reader, notes: Notes
) -> tuple[BondedTerms, Collected]:
    """1-4 pairs with a common charge factor, and those with charges of their own."""
    plain, extra = Collected(), Collected()
    names, codes = np.unique(np.array(atoms.types), return_inverse=True)
    types = BondedCodes(tuple(names.tolist()), codes.reshape(-1).astype(np.int64))
    for rows in numeric_rows(lines, reader.problems):
        if rows.width < 2:
            everything = np.ones(len(rows.values), dtype=bool)
            rows.refuse(everything, "expected two atoms in [ pairs ], found one", reader.problems)
            continue
        rows, index = _indices(rows, 2, atoms.n, reader.problems)
        before = rows.index
        rows, functions = _function_column(rows, 2, reader.problems)
        index = index[np.isin(before, rows.index)]
        for number_of in np.unique(functions).tolist():
            chosen = functions == number_of
            part = _Part(rows.of(chosen), index[chosen], "pairs", number_of)
            if number_of == 1:
                _add_plain_pairs(part, types, reader, plain, extra, notes)
            elif number_of == 2:
                _add_charged_pairs(part, atoms, reader, extra)
            else:
                what = f"expected function 1 or 2 in [ pairs ], found {number_of}"
                _unsupported(part, what, extra, notes)
    found = plain.result(["lj14"])
    empty = BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3)))
    return found.get("lj14", empty), extra


def _pair_numbers(
    part: _Part, types: BondedCodes, reader: Reader, notes: Notes
) -> tuple[_Part, Float64[np.ndarray, "m 2"]] | None:
    """Lennard-Jones numbers on the line, or those of the types."""
    words = part.rows.width - 3
    if words > 0:
        if words not in (2, 3, 4):
            everything = np.ones(len(part.atoms), dtype=bool)
            message = f"expected 2 parameters for this pair, found {words}"
            part.rows.refuse(everything, message, reader.problems)
            return None
        return part, part.rows.values[:, 3:5]
    distinct, which = types.distinct(part.atoms)
    found = [reader.force_field.pair_parameters(a, b) for a, b in distinct]
    for k, numbers in enumerate(found):
        if numbers is None:
            a, b = sorted(distinct[k])
            rule = "" if reader.force_field.defaults.generate_pairs else " (gen-pairs is no)"
            what = f"expected parameters for the pair of types {a} and {b} here or in "
            what += f"[ pairtypes ]{rule}, found none"
            notes.add(part.rows.line(int(np.argmax(which == k))), what, int((which == k).sum()))
    table = np.array([n or (math.nan, math.nan) for n in found]).reshape(-1, 2)
    values = table[which]
    good = ~np.isnan(values[:, 0])
    return part.of(good), values[good]


def _add_plain_pairs(
    part: _Part,
    types: BondedCodes,
    reader: Reader,
    plain: Collected,
    extra: Collected,
    notes: Notes,
) -> None:
    """Pairs of function 1: charges of the atoms times fudgeQQ."""
    read = _pair_numbers(part, types, reader, notes)
    if read is None:
        return
    part, values = read
    part, c6, c12, sigma, epsilon = _powers(part, values, reader)
    factor = np.full_like(sigma, reader.force_field.defaults.fudge_qq)
    odd = np.isnan(sigma)
    parameters = np.stack([sigma, epsilon, factor], axis=1)
    parameters[odd, :2] = 0.0
    plain.add("lj14", part.rows.index, part.atoms, parameters)
    powers = np.stack([c6, c12], axis=1)
    extra.add("lj14_powers", part.rows.index[odd], part.atoms[odd], powers[odd])


def _add_charged_pairs(part: _Part, atoms: Atoms, reader: Reader, extra: Collected) -> None:
    """Pairs of function 2: factor, charges and numbers on the line.

    Without any GROMACS takes fudgeQQ, the charges of the atoms and no Lennard-Jones.
    """
    if part.rows.width > 3:
        if part.rows.width < 8:
            everything = np.ones(len(part.atoms), dtype=bool)
            message = f"expected 5 parameters for this pair, found {part.rows.width - 3}"
            part.rows.refuse(everything, message, reader.problems)
            return
        values = part.rows.values[:, 6:8]
        product = part.rows.values[:, 3:6].prod(axis=1)
    else:
        values = np.zeros((len(part.atoms), 2))
        product = reader.force_field.defaults.fudge_qq * atoms.charges[part.atoms].prod(axis=1)
    _add_powers(part, values, product, reader, extra)


def _parse_pairs_nb(lines: Lines, atoms: Atoms, reader: Reader) -> Collected:
    """``[ pairs_nb ]``: pairs with charges and numbers of their own, without factors."""
    extra = Collected()
    for rows in numeric_rows(lines, reader.problems):
        bad = np.full(len(rows.values), rows.width not in (7, 11))
        rows = rows.refuse(
            bad,
            "expected two atoms, function 1, two charges and two numbers in [ pairs_nb ], "
            "found '{words}'",
            reader.problems,
        )
        rows, index = _indices(rows, 2, atoms.n, reader.problems)
        if len(index):
            part = _Part(rows, index, "pairs_nb", 1)
            _add_powers(part, rows.values[:, 5:7], rows.values[:, 3:5].prod(axis=1), reader, extra)
    return extra


def _add_powers(
    part: _Part,
    values: Float64[np.ndarray, "m 2"],
    product: Float64[np.ndarray, " m"],
    reader: Reader,
    extra: Collected,
) -> None:
    order = part.rows.index
    kept, c6, c12, _, _ = _powers(part, values, reader)
    good = np.isin(order, kept.rows.index)
    extra.add("lj14_powers", kept.rows.index, kept.atoms, np.stack([c6, c12], axis=1))
    extra.add("coulomb14", kept.rows.index, kept.atoms, product[good][:, None])


def _powers(
    part: _Part, values: Float64[np.ndarray, "m 2"], reader: Reader
) -> tuple[_Part, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """C6, C12, sigma and epsilon of pairs in the form of the combination rule.

    Sigma is NaN where no sigma and epsilon stand for C6 and C12 (one of them alone).
    """
    if reader.force_field.defaults.rule != RULE_C6_C12:
        bad = (values[:, 0] < 0.0) | (values[:, 0] > LARGEST_SIGMA)
        for row in np.flatnonzero(bad).tolist():
            reader.problems.add(
                part.rows.line(row).where,
                f"expected sigma of zero or more and at most {LARGEST_SIGMA:g} nm, "
                f"found {values[row, 0]:g}",
            )
        part, (sigma, epsilon) = part.of(~bad), values[~bad].T
        c6 = 4.0 * epsilon * sigma**6
        return part, c6, c6 * sigma**6, sigma, epsilon
    c6, c12 = values.T
    none, both = (c6 == 0.0) & (c12 == 0.0), (c6 > 0.0) & (c12 > 0.0)
    safe6, safe12 = np.where(both, c6, 1.0), np.where(both, c12, 1.0)
    sigma = np.where(both, (safe12 / safe6) ** (1 / 6), np.where(none, 0.0, math.nan))
    epsilon = np.where(both, safe6 * safe6 / (4.0 * safe12), 0.0)
    return part, c6, c12, sigma, epsilon


# --- virtual sites


def _parse_sites(lines: MoleculeLines, reader: Reader) -> tuple[Collected, Int64[np.ndarray, " v"]]:
    """Virtual sites by kind, and which atoms they are."""
    n_atoms = len(lines.sections.get("atoms", ()))
    collected = Collected()
    found = [np.zeros(0, dtype=np.int64)]
    for name, kind in SITES.items():
        section, number_of = kind.gromacs[0]
        key = section.replace("_", "")
        for rows in numeric_rows(lines.sections.get(key, Lines()), reader.problems):
            if name == "site_mean":
                found += _add_means(rows, n_atoms, reader.problems, collected)
            else:
                found += _add_sites(rows, name, section, number_of, n_atoms, reader, collected)
    return collected, np.unique(np.concatenate(found))


def _add_sites(
    rows: Rows,
    name: str,
    section: str,
    number_of: int,
    n_atoms: int,
    reader: Reader,
    collected: Collected,
) -> list[Int64[np.ndarray, " v"]]:
    """Sites of one kind among the lines of a section that have equally many words."""
    kind = SITES[name]
    width = kind.n_atoms
    known = {k.gromacs[0][1] for k in SITES.values() if k.gromacs[0][0] == section}
    functions = rows.values[:, width] if rows.width > width else np.ones(len(rows.values))
    if number_of == min(known):  # said once, by the first kind of the section
        message = f"expected a function type among {sorted(known)} in [ {section} ], "
        rows.refuse(~np.isin(functions, list(known)), message + "found '{words}'", reader.problems)
    rows = rows.of(functions == number_of)
    expected = width + 1 + len(kind.columns)
    bad = np.full(len(rows.values), rows.width != expected and len(kind.columns) > 0)
    message = f"expected {expected - width - 1} parameters for this virtual site, found "
    rows = rows.refuse(bad, message + str(rows.width - width - 1), reader.problems)
    rows, atoms = _indices(rows, width, n_atoms, reader.problems)
    if not len(atoms):
        return []
    parameters = rows.values[:, width + 1 : expected].copy()
    parameters[:, : kind.degrees] = np.radians(parameters[:, : kind.degrees])
    collected.add(name, rows.index, atoms, parameters)
    return [atoms[:, 0]]


def _add_means(
    rows: Rows, n_atoms: int, problems: Problems, collected: Collected
) -> list[Int64[np.ndarray, " v"]]:
    """``[ virtual_sitesn ]``: one row for each atom; weights of masses (2) follow as NaN."""
    found = []
    for k, values in enumerate(rows.values.tolist()):
        line = rows.line(k)
        site, function, *rest = values
        weighted = function == 3
        atoms = rest[::2] if weighted else rest
        weights = rest[1::2] if weighted else [1.0] * len(atoms)
        whole = [site, *atoms]
        if function not in (1, 2, 3) or not atoms or len(weights) != len(atoms):
            problems.add(
                line.where,
                "expected a site, a function type (1, 2, 3) and atoms, with weights for type 3, in "
                f"[ virtual_sitesn ], found '{line.text}'",
            )
            continue
        if any(a != int(a) or not 1 <= a <= n_atoms for a in whole) or sum(weights) == 0:
            problems.add(
                line.where,
                f"expected atom numbers from 1 to {n_atoms} and weights that do not cancel in "
                f"[ virtual_sitesn ], found '{line.text}'",
            )
            continue
        index = np.array([(int(site) - 1, int(a) - 1) for a in atoms], dtype=np.int64)
        share = np.array(weights) / sum(weights)
        if function == 2:
            share = np.full(len(atoms), math.nan)
        order = np.full(len(atoms), rows.index[k], dtype=np.int64)
        collected.add("site_mean", order, index, share[:, None])
        found.append(index[:1, 0])
    return found


def _complete_means(
    sites: dict[str, BondedTerms], masses: Float64[np.ndarray, " n"]
) -> dict[str, BondedTerms]:
    """Weights of centres of mass, which only the masses tell."""
    if "site_mean" not in sites:
        return sites
    terms = sites["site_mean"]
    open_ = np.isnan(terms.parameters[:, 0])
    weights = np.where(open_, masses[terms.atoms[:, 1]], terms.parameters[:, 0])
    total = np.bincount(terms.atoms[:, 0], weights, minlength=len(masses))[terms.atoms[:, 0]]
    weights = np.where(open_, weights / np.where(total == 0.0, 1.0, total), weights)
    return {**sites, "site_mean": BondedTerms(terms.atoms, weights[:, None])}

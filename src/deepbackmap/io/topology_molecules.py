"""The molecule sections of a GROMACS topology, from lines to ``MoleculeType``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.io.topology_lines import Line, integer, number
from deepbackmap.io.topology_types import (
    FUNCTIONS,
    WIDTH,
    AtomType,
    ForceField,
    Parameters,
    read_parameters,
    sigma_epsilon,
)
from deepbackmap.system import BondedTerms, MoleculeType
from deepbackmap.system.topology import TERM_COLUMNS

READ_SECTIONS = (
    "atoms",
    "bonds",
    "constraints",
    "settles",
    "angles",
    "dihedrals",
    "pairs",
    "exclusions",
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


@dataclass
class MoleculeLines:
    """One ``[ moleculetype ]`` as lines; only the molecules of the system are read further."""

    line: Line
    name: str
    nrexcl: int
    sections: dict[str, list[Line]] = field(default_factory=dict)
    headings: dict[str, str] = field(default_factory=dict)
    """The sections' names as written, for messages."""


@dataclass(frozen=True)
class _Atom:
    name: str
    type: str
    bonded: str
    residue_name: str
    residue_number: int
    charge: float
    mass: float


@dataclass
class _Terms:
    """Terms of one kind while they are collected."""

    atoms: list[tuple[int, ...]] = field(default_factory=list)
    parameters: list[Parameters] = field(default_factory=list)


def parse_molecule_header(line: Line) -> MoleculeLines:
    """The one line of ``[ moleculetype ]``."""
    words = line.fields
    if len(words) != 2:
        raise line.error(f"expected the name and nrexcl of a molecule type, found '{line.text}'")
    nrexcl = integer(line, words[1], "nrexcl")
    if nrexcl < 0:
        raise line.error(f"expected nrexcl of zero or more, found {nrexcl}")
    return MoleculeLines(line, words[0], nrexcl)


def build_molecule(lines: MoleculeLines, force_field: ForceField) -> MoleculeType:
    """Everything that is counted inside one molecule.

    Raises:
        InputError: for what is unsupported, missing or out of range, with its place.
    """
    _refuse_unknown(lines)
    sections = lines.sections
    atoms = _parse_atoms(lines, force_field.atom_types)
    terms: dict[str, _Terms] = {}
    chemical: list[tuple[int, int]] = []
    for section in WIDTH:
        for line in sections.get(section, ()):
            _parse_term(line, section, atoms, force_field, terms, chemical)
    for line in sections.get("settles", ()):
        _parse_settle(line, len(atoms), terms, chemical)
    excluded = [
        pair
        for line in sections.get("exclusions", ())
        for pair in _parse_exclusion(line, len(atoms))
    ]
    return MoleculeType(
        name=lines.name,
        atom_names=tuple(a.name for a in atoms),
        atom_types=tuple(a.type for a in atoms),
        residue_names=tuple(a.residue_name for a in atoms),
        residue_numbers=np.array([a.residue_number for a in atoms], dtype=np.int64),
        charges=np.array([a.charge for a in atoms], dtype=np.float64),
        masses=np.array([a.mass for a in atoms], dtype=np.float64),
        terms={kind: _freeze(t, *_shape(kind)) for kind, t in terms.items()},
        nrexcl=lines.nrexcl,
        exclusions=_unique_pairs(
            np.concatenate(
                [
                    pairs_within(_pair_array(chemical), len(atoms), lines.nrexcl),
                    _pair_array(excluded),
                ]
            )
        ),
        pairs=_freeze(_parse_pairs(sections.get("pairs", ()), atoms, force_field), 2, 3),
    )


def pairs_within(
    bonds: Int64[np.ndarray, "b 2"], n_atoms: int, distance: int
) -> Int64[np.ndarray, "m 2"]:
    """All pairs i < j that are at most ``distance`` bonds apart, sorted."""
    if distance == 0 or len(bonds) == 0:
        return np.zeros((0, 2), dtype=np.int64)
    both = _unique_rows(np.concatenate([bonds, bonds[:, ::-1]]))
    first = np.searchsorted(both[:, 0], np.arange(n_atoms + 1))
    found, reached = [both], both
    for _ in range(distance - 1):
        # every (i, j) once for each neighbour k of j becomes (i, k)
        counts = np.diff(first)[reached[:, 1]]
        starts = np.repeat(first[reached[:, 1]] - np.cumsum(counts) + counts, counts)
        ends = both[starts + np.arange(len(starts)), 1]
        reached = _unique_rows(np.stack([np.repeat(reached[:, 0], counts), ends], axis=1))
        found.append(reached)
    return _unique_pairs(np.concatenate(found))


def _unique_pairs(pairs: Int64[np.ndarray, "m 2"]) -> Int64[np.ndarray, "k 2"]:
    """Pairs i < j, sorted, each once; an atom with itself is no pair."""
    i, j = pairs[pairs[:, 0] != pairs[:, 1]].T
    return _unique_rows(np.stack([np.minimum(i, j), np.maximum(i, j)], axis=1))


def _unique_rows(pairs: Int64[np.ndarray, "m 2"]) -> Int64[np.ndarray, "k 2"]:
    """Rows sorted, each once; as single numbers, which numpy sorts much faster than rows."""
    n = pairs.max(initial=0) + 1
    return np.stack(np.divmod(np.unique(pairs[:, 0] * n + pairs[:, 1]), n), axis=1)


def _pair_array(pairs: Sequence[tuple[int, int]]) -> Int64[np.ndarray, "m 2"]:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _shape(kind: str) -> tuple[int, int]:
    width, columns = TERM_COLUMNS[kind]
    return width, len(columns)


def _freeze(terms: _Terms, width: int, columns: int) -> BondedTerms:
    atoms = np.array(terms.atoms, dtype=np.int64).reshape(-1, width)
    parameters: Float64[np.ndarray, "n p"] = np.array(terms.parameters, dtype=np.float64)
    return BondedTerms(atoms, parameters.reshape(-1, columns))


def _refuse_unknown(lines: MoleculeLines) -> None:
    for section, content in lines.sections.items():
        if section not in READ_SECTIONS + PASSED_SECTIONS and content:
            raise content[0].error(
                f"expected a supported section in molecule {lines.name}, found "
                f"{lines.headings[section]}"
            )


def _parse_atoms(molecule: MoleculeLines, known: Mapping[str, AtomType]) -> list[_Atom]:
    if not (lines := molecule.sections.get("atoms")):
        raise molecule.line.error(f"expected [ atoms ] in molecule {molecule.name}, found none")
    return [_parse_atom(line, index, known) for index, line in enumerate(lines, start=1)]


def _parse_atom(line: Line, index: int, known: Mapping[str, AtomType]) -> _Atom:
    """One line of ``[ atoms ]``; charge and mass are the type's where they are left out."""
    words = line.fields
    if not 6 <= len(words) <= 11:
        raise line.error(
            "expected nr, type, resnr, residue, atom, cgnr, charge and mass of an atom, "
            f"found {len(words)} words"
        )
    if integer(line, words[0], "the number of the atom") != index:
        raise line.error(f"expected atom number {index}, found {words[0]}")
    atom_type = _known_type(line, words[1], known)
    charge = number(line, words[6], "the charge") if len(words) > 6 else atom_type.charge
    mass = number(line, words[7], "the mass") if len(words) > 7 else atom_type.mass
    if mass <= 0.0:
        raise line.error(f"expected a mass above zero for atom {words[4]}, found {mass:g}")
    _refuse_other_b_state(line, words, charge, mass)
    residue_number = _residue_number(line, words[2])
    return _Atom(words[4], words[1], atom_type.bonded, words[3], residue_number, charge, mass)


def _known_type(line: Line, name: str, known: Mapping[str, AtomType]) -> AtomType:
    if (atom_type := known.get(name)) is None:
        raise line.error(f"expected a type of [ atomtypes ], found '{name}'")
    if atom_type.particle != "A":
        raise line.error(
            f"expected an atom (particle type A; virtual sites and shells are not supported), "
            f"found type {name} of particle type {atom_type.particle}"
        )
    return atom_type


def _residue_number(line: Line, word: str) -> int:
    """The number of a residue, without the insertion letter that may follow it."""
    return integer(line, word[:-1] if word[-1].isalpha() else word, "the residue number")


def _refuse_other_b_state(line: Line, words: tuple[str, ...], charge: float, mass: float) -> None:
    second = words[8:]
    same = (
        (len(second) < 1 or second[0] == words[1])
        and (len(second) < 2 or number(line, second[1], "charge B") == charge)
        and (len(second) < 3 or number(line, second[2], "mass B") == mass)
    )
    if not same:
        raise line.error("expected equal parameters in states A and B, found different ones")


def _atom_indices(line: Line, words: Sequence[str], n_atoms: int) -> tuple[int, ...]:
    """0-based indices; each must be in the molecule and differ from the others."""
    indices = tuple(integer(line, word, "the number of an atom") - 1 for word in words)
    for index in indices:
        if not 0 <= index < n_atoms:
            raise line.error(f"expected atom numbers from 1 to {n_atoms}, found {index + 1}")
    if len(set(indices)) < len(indices):
        raise line.error(f"expected different atoms, found {' '.join(words)}")
    return indices


def _parse_term(
    line: Line,
    section: str,
    atoms: Sequence[_Atom],
    force_field: ForceField,
    terms: dict[str, _Terms],
    chemical: list[tuple[int, int]],
) -> None:
    """Add the term or terms of one line of a bonded section."""
    words = line.fields
    width = WIDTH[section]
    if len(words) < width:
        raise line.error(f"expected {width} atoms in [ {section} ], found {len(words)}")
    indices = _atom_indices(line, words[:width], len(atoms))
    number_of = integer(line, words[width], "the function type") if len(words) > width else 1
    if (function := FUNCTIONS[section].get(number_of)) is None:
        supported = ", ".join(str(n) for n in FUNCTIONS[section])
        raise line.error(
            f"expected a supported function type ({supported}) in [ {section} ], found {number_of}"
        )
    if words[width + 1 :]:
        written = [read_parameters(line, function, words[width + 1 :])]
    else:
        types = tuple(atoms[i].bonded for i in indices)
        table = force_field.bonded.get((section, function.group))
        written = table.find(types) if table else []
        if not written:
            raise line.error(
                f"expected parameters for {' '.join(types)} (function {number_of}) here or in "
                f"[ {section.removesuffix('s')}types ], found none"
            )
    collected = terms.setdefault(function.kind, _Terms())
    for parameters in written:
        collected.atoms.append(indices)
        collected.parameters.append(function.convert(line, parameters))
    if section == "bonds" or (section == "constraints" and number_of == 1):
        chemical.append((indices[0], indices[1]))


def _parse_settle(
    line: Line, n_atoms: int, terms: dict[str, _Terms], chemical: list[tuple[int, int]]
) -> None:
    """Rigid water as three constraints, two of them bonds."""
    words = line.fields
    if len(words) != 4 or integer(line, words[1], "the function type") != 1:
        raise line.error(
            f"expected an atom, function 1 and two distances in [ settles ], found '{line.text}'"
        )
    first = integer(line, words[0], "the number of an atom")
    o, h1, h2 = _atom_indices(line, [str(first + i) for i in range(3)], n_atoms)
    oh, hh = (number(line, word, "a distance") for word in words[2:])
    collected = terms.setdefault("constraint", _Terms())
    collected.atoms += [(o, h1), (o, h2), (h1, h2)]
    collected.parameters += [(oh,), (oh,), (hh,)]
    chemical += [(o, h1), (o, h2)]


def _parse_exclusion(line: Line, n_atoms: int) -> list[tuple[int, int]]:
    """The first atom with each of the others; itself among them changes nothing."""
    first, *others = line.fields
    (i,) = _atom_indices(line, [first], n_atoms)
    return [(i, _atom_indices(line, [word], n_atoms)[0]) for word in others]


def _parse_pairs(lines: Sequence[Line], atoms: Sequence[_Atom], force_field: ForceField) -> _Terms:
    """1-4 pairs with their own Lennard-Jones numbers or those of their types."""
    defaults = force_field.defaults
    found = _Terms()
    for line in lines:
        words = line.fields
        if len(words) < 2:
            raise line.error("expected two atoms in [ pairs ], found one")
        i, j = _atom_indices(line, words[:2], len(atoms))
        if len(words) > 2 and integer(line, words[2], "the function type") != 1:
            raise line.error(f"expected function 1 in [ pairs ], found {words[2]}")
        if len(words) > 3:
            v, w = _inline_pair(line, words[3:])
        else:
            v, w = force_field.pair_parameters(line, atoms[i].type, atoms[j].type)
        sigma, epsilon = sigma_epsilon(line, defaults.rule, v, w)
        if not math.isfinite(sigma) or sigma < 0.0:
            raise line.error(f"expected sigma of zero or more, found {sigma:g}")
        found.atoms.append((i, j))
        found.parameters.append((sigma, epsilon, defaults.fudge_qq))
    return found


def _inline_pair(line: Line, words: Sequence[str]) -> tuple[float, float]:
    values = [number(line, word, "a Lennard-Jones number") for word in words]
    if len(values) not in (2, 4):
        raise line.error(f"expected 2 parameters for this pair, found {len(values)}")
    if values[2:] and values[2:] != values[:2]:
        raise line.error("expected equal parameters in states A and B, found different ones")
    return values[0], values[1]

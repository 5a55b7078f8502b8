"""The parameter sections of a GROMACS topology: atom types, bonded types, non-bonded rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from deepbackmap.io.topology_lines import Line, integer, number

Parameters = tuple[float, ...]

RULE_C6_C12, RULE_LORENTZ_BERTHELOT, RULE_GEOMETRIC = 1, 2, 3


@dataclass(frozen=True)
class Defaults:
    """The ``[ defaults ]`` line."""

    rule: int
    """Combination rule: 1 (C6, C12, geometric), 2 (Lorentz-Berthelot), 3 (geometric)."""
    generate_pairs: bool
    fudge_lj: float
    fudge_qq: float


@dataclass(frozen=True)
class AtomType:
    """One line of ``[ atomtypes ]``."""

    name: str
    bonded: str
    """The name that bonded types use."""
    mass: float
    charge: float
    particle: str
    """A, S, V or D; only atoms (A) are supported."""
    v: float
    """C6 under rule 1, else sigma / nm."""
    w: float
    """C12 under rule 1, else epsilon / kJ mol-1."""


@dataclass(frozen=True)
class Function:
    """One GROMACS function type of a bonded section."""

    kind: str
    """Key of ``TERM_COLUMNS``."""
    n_parameters: int
    """Numbers as written, without those of the B state."""
    convert: Callable[[Line, Parameters], Parameters]
    """From the numbers as written to the columns of ``TERM_COLUMNS``."""
    group: int
    """Function types of one group share their types (dihedral types 1 and 9)."""


def _plain(line: Line, p: Parameters) -> Parameters:
    return p


def _degrees_first(line: Line, p: Parameters) -> Parameters:
    return (math.radians(p[0]), *p[1:])


def _proper(line: Line, p: Parameters) -> Parameters:
    if p[2] != int(p[2]):
        raise line.error(f"expected a whole number for the multiplicity, found {p[2]:g}")
    return _degrees_first(line, p)


def _urey_bradley(line: Line, p: Parameters) -> Parameters:
    if p[3] != 0.0:
        raise line.error(
            f"expected k_UB = 0 in an angle of type 5 (Urey-Bradley terms are not supported), "
            f"found {p[3]:g}"
        )
    return _degrees_first(line, p[:2])


FUNCTIONS: dict[str, dict[int, Function]] = {
    "bonds": {1: Function("bond", 2, _plain, 1)},
    "constraints": {
        1: Function("constraint", 1, _plain, 1),
        2: Function("constraint", 1, _plain, 2),
    },
    "angles": {
        1: Function("angle", 2, _degrees_first, 1),
        2: Function("angle_g96", 2, _degrees_first, 2),
        5: Function("angle", 4, _urey_bradley, 5),
    },
    "dihedrals": {
        1: Function("proper", 3, _proper, 1),
        2: Function("improper", 2, _degrees_first, 2),
        3: Function("ryckaert_bellemans", 6, _plain, 3),
        4: Function("proper", 3, _proper, 4),
        9: Function("proper", 3, _proper, 1),
    },
}
"""Supported function types by section."""

WIDTH = {"bonds": 2, "constraints": 2, "angles": 3, "dihedrals": 4}
"""Atoms in a term of each section."""

TYPE_SECTIONS = {
    "bondtypes": "bonds",
    "constrainttypes": "constraints",
    "angletypes": "angles",
    "dihedraltypes": "dihedrals",
}
"""Section whose parameters each type section holds."""


@dataclass
class _Entry:
    types: tuple[str, ...]
    parameters: list[Parameters]


@dataclass
class BondedTypes:
    """Parameters of one bonded section and one group of function types, by bonded types."""

    exact: dict[tuple[str, ...], _Entry] = field(default_factory=dict)
    wild: list[_Entry] = field(default_factory=list)
    """Those with X, in file order."""
    last: _Entry | None = None

    def find(self, types: tuple[str, ...]) -> list[Parameters]:
        """Parameters of a term in either direction, as written; several for a type 9 dihedral.

        The entry with the fewest X wins, the first of equals, as in ``grompp``.
        """
        for key in (types, types[::-1]):
            if key in self.exact:
                return self.exact[key].parameters
        best, most = [], -1
        for entry in self.wild:
            matches = max(_real_matches(entry.types, t) for t in (types, types[::-1]))
            if matches > most:
                best, most = entry.parameters, matches
        return best

    def add(self, line: Line, types: tuple[str, ...], parameters: Parameters, multi: bool) -> None:
        """Add one line; a later one replaces an earlier one unless it continues it (``multi``)."""
        entry = self._entry(types)
        if entry is None:
            entry = _Entry(types, [parameters])
            if "X" in types:
                self.wild.append(entry)
            else:
                self.exact[types] = entry
        elif not multi:
            entry.parameters[:] = [parameters]
        elif parameters not in entry.parameters:
            if entry is not self.last:
                raise line.error(
                    f"expected all lines of dihedral type 9 for {' '.join(types)} to follow each "
                    f"other, found a second block"
                )
            entry.parameters.append(parameters)
        self.last = entry

    def _entry(self, types: tuple[str, ...]) -> _Entry | None:
        keys = (types, types[::-1])
        if "X" in types:
            return next((e for e in self.wild if e.types in keys), None)
        return next((self.exact[k] for k in keys if k in self.exact), None)


def _real_matches(pattern: tuple[str, ...], types: tuple[str, ...]) -> int:
    """Number of types matched without X, or -1 where they do not match."""
    if any(p not in ("X", t) for p, t in zip(pattern, types, strict=True)):
        return -1
    return sum(p != "X" for p in pattern)


@dataclass(frozen=True)
class ForceField:
    """All parameter sections of a topology."""

    defaults: Defaults
    atom_types: Mapping[str, AtomType]
    nonbonded: Mapping[frozenset[str], tuple[float, float]]
    """``[ nonbond_params ]`` by atom types."""
    pairs: Mapping[frozenset[str], tuple[float, float]]
    """``[ pairtypes ]`` by atom types."""
    bonded: Mapping[tuple[str, int], BondedTypes]
    """By section and group of function types."""

    def lennard_jones(self, a: str, b: str) -> tuple[float, float]:
        """Numbers of a pair of atom types in the form of the combination rule."""
        if (given := self.nonbonded.get(frozenset((a, b)))) is not None:
            return given
        one, two = self.atom_types[a], self.atom_types[b]
        w = math.sqrt(one.w * two.w)
        if self.defaults.rule == RULE_LORENTZ_BERTHELOT:
            return (one.v + two.v) / 2, w
        return math.sqrt(one.v * two.v), w

    def pair_parameters(self, line: Line, a: str, b: str) -> tuple[float, float]:
        """Numbers of a 1-4 pair of atom types in the form of the combination rule.

        Generated pairs scale what ``lennard_jones`` gives, ``[ nonbond_params ]`` included.

        Raises:
            InputError: where there are none and none are to be generated.
        """
        if (given := self.pairs.get(frozenset((a, b)))) is not None:
            return given
        if not self.defaults.generate_pairs:
            raise line.error(
                f"expected parameters for the pair of types {a} and {b} here or in "
                f"[ pairtypes ] (gen-pairs is no), found none"
            )
        v, w = self.lennard_jones(a, b)
        fudge = self.defaults.fudge_lj
        return (v * fudge if self.defaults.rule == RULE_C6_C12 else v), w * fudge

    def matrices(
        self, names: Sequence[str]
    ) -> tuple[Float64[np.ndarray, "t t"], Float64[np.ndarray, "t t"]]:
        """C6 and C12 of all pairs of some atom types, in kJ/mol nm^6 and kJ/mol nm^12."""
        table = np.array([[self.lennard_jones(a, b) for b in names] for a in names])
        v, w = table.reshape(len(names), len(names), 2).transpose(2, 0, 1)
        if self.defaults.rule == RULE_C6_C12:
            return v.copy(), w.copy()
        return 4.0 * w * v**6, 4.0 * w * v**12


def sigma_epsilon(line: Line, rule: int, v: float, w: float) -> tuple[float, float]:
    """Sigma / nm and epsilon / kJ mol-1 from numbers in the form of a combination rule.

    Raises:
        InputError: for a C6 or C12 alone, which no sigma stands for.
    """
    if rule != RULE_C6_C12:
        return v, w
    if v == 0.0 and w == 0.0:
        return 0.0, 0.0
    if v <= 0.0 or w <= 0.0:
        raise line.error(f"expected C6 and C12 of a pair both zero or positive, found {v:g} {w:g}")
    return (w / v) ** (1 / 6), v * v / (4.0 * w)


def parse_defaults(lines: Sequence[Line]) -> Defaults:
    """The ``[ defaults ]`` section (one line)."""
    if len(lines) > 1:
        raise lines[1].error("expected one line of [ defaults ], found another")
    line = lines[0]
    words = line.fields
    if not 2 <= len(words) <= 6:
        raise line.error(
            f"expected nbfunc, comb-rule, gen-pairs, fudgeLJ and fudgeQQ, found {len(words)} words"
        )
    if integer(line, words[0], "nbfunc") != 1:
        raise line.error(f"expected nbfunc 1 (Lennard-Jones), found {words[0]}")
    rule = integer(line, words[1], "comb-rule")
    if rule not in (1, 2, 3):
        raise line.error(f"expected comb-rule 1, 2 or 3, found {words[1]}")
    generate = words[2].lower() if len(words) > 2 else "no"
    if generate not in ("yes", "no"):
        raise line.error(f"expected gen-pairs yes or no, found '{words[2]}'")
    if len(words) == 6 and number(line, words[5], "the power of repulsion") != 12:
        raise line.error(f"expected repulsion to the power 12, found {words[5]}")
    fudge_lj = number(line, words[3], "fudgeLJ") if len(words) > 3 else 1.0
    fudge_qq = number(line, words[4], "fudgeQQ") if len(words) > 4 else 1.0
    return Defaults(rule, generate == "yes", fudge_lj, fudge_qq)


def parse_atom_types(lines: Iterable[Line]) -> dict[str, AtomType]:
    """The ``[ atomtypes ]`` section; the bonded name and the atomic number may be left out."""
    found: dict[str, AtomType] = {}
    for line in lines:
        words = line.fields
        at = _particle_column(line, words)
        has_bonded = at == 5 or (at == 4 and words[1][0].isalpha())
        mass, charge, v, w = (
            number(line, words[i], what)
            for i, what in (
                (at - 2, "the mass"),
                (at - 1, "the charge"),
                (at + 1, "sigma or C6"),
                (at + 2, "epsilon or C12"),
            )
        )
        if v < 0 or w < 0:
            raise line.error(f"expected Lennard-Jones numbers of zero or more, found {v:g} {w:g}")
        bonded = words[1] if has_bonded else words[0]
        found[words[0]] = AtomType(words[0], bonded, mass, charge, words[at].upper(), v, w)
    return found


def _particle_column(line: Line, words: tuple[str, ...]) -> int:
    """Which word is the particle type (A, S, V or D); two numbers follow it."""
    for at in (5, 3, 4):
        if len(words) == at + 3 and words[at].upper() in ("A", "S", "V", "D"):
            return at
    raise line.error(
        "expected an atom type (name, bonded name and atomic number if any, mass, charge, "
        f"particle type A, and two numbers), found '{line.text}'"
    )


def parse_pair_table(
    lines: Iterable[Line], section: str, known: Mapping[str, AtomType]
) -> dict[frozenset[str], tuple[float, float]]:
    """``[ nonbond_params ]`` or ``[ pairtypes ]``: numbers by pair of atom types."""
    found: dict[frozenset[str], tuple[float, float]] = {}
    for line in lines:
        words = line.fields
        if len(words) != 5:
            raise line.error(
                f"expected two atom types, the function 1 and two numbers in [ {section} ], "
                f"found {len(words)} words"
            )
        for name in words[:2]:
            if name not in known:
                raise line.error(f"expected a type of [ atomtypes ], found '{name}'")
        if integer(line, words[2], "the function") != 1:
            raise line.error(f"expected function 1 in [ {section} ], found {words[2]}")
        v, w = (number(line, word, "a Lennard-Jones number") for word in words[3:])
        found[frozenset(words[:2])] = (v, w)
    return found


def parse_bonded_types(
    sections: Mapping[str, Sequence[Line]],
) -> dict[tuple[str, int], BondedTypes]:
    """``[ bondtypes ]``, ``[ constrainttypes ]``, ``[ angletypes ]`` and ``[ dihedraltypes ]``.

    Function types that are not supported are passed over here, for force fields list more
    than a system uses; a term that asks for one is an error.
    """
    found: dict[tuple[str, int], BondedTypes] = {}
    for name, section in TYPE_SECTIONS.items():
        for line in sections.get(name, ()):
            types, kind, words = _split_type_line(line, section)
            if (function := FUNCTIONS[section].get(kind)) is None:
                continue
            parameters = read_parameters(line, function, words)
            table = found.setdefault((section, function.group), BondedTypes())
            table.add(line, types, parameters, multi=section == "dihedrals" and kind == 9)
    return found


def _split_type_line(line: Line, section: str) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """Bonded types, function type and the words of the parameters.

    A dihedral type may name two atoms only: the outer two of an improper (function 2), the
    inner two of any other.
    """
    words = line.fields
    width = WIDTH[section]
    if section == "dihedrals" and len(words) > 2 and len(words[2]) == 1 and words[2].isdigit():
        a, b = words[:2]
        types = (a, "X", "X", b) if words[2] == "2" else ("X", a, b, "X")
        return types, int(words[2]), words[3:]
    if len(words) <= width:
        raise line.error(f"expected {width} types and a function type, found '{line.text}'")
    return words[:width], integer(line, words[width], "the function type"), words[width + 1 :]


def read_parameters(line: Line, function: Function, words: Sequence[str]) -> Parameters:
    """The numbers of a term or type as written; those of a B state must equal the A state's."""
    n = function.n_parameters
    if len(words) not in (n, 2 * n):
        raise line.error(
            f"expected {n} parameters for this {function.kind.replace('_', ' ')}, "
            f"found {len(words)}"
        )
    values = tuple(number(line, word, "a parameter") for word in words)
    if values[n:] and values[n:] != values[:n]:
        raise line.error("expected equal parameters in states A and B, found different ones")
    return values[:n]

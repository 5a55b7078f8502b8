"""The parameter sections of a GROMACS topology: atom types, bonded types, non-bonded rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64

from deepbackmap.errors import InputError
from deepbackmap.io.topology.gromacs_lines import Line, Lines, Problems, integer, number
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.pair_forms import PairForms

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
    buckingham: bool = False
    """Whether pairs have exponential repulsion (nbfunc 2), a exp(-b r) - c/r^6."""


@dataclass(frozen=True)
class AtomType:
    """One line of ``[ atomtypes ]``."""

    name: str
    bonded: str
    """The name that bonded types use."""
    mass: float
    charge: float
    particle: str
    """A (atom), V or D (virtual site) or S (shell)."""
    v: float
    """C6 under rule 1, else sigma / nm; a / kJ mol-1 of nbfunc 2."""
    w: float
    """C12 under rule 1, else epsilon / kJ mol-1; b / nm-1 of nbfunc 2."""
    c: float = 0.0
    """Of nbfunc 2, kJ mol-1 nm6."""


@dataclass(frozen=True)
class Function:
    """One GROMACS function type of a bonded section."""

    kind: str
    """Key of ``kinds.KINDS``."""
    n_parameters: int
    """Numbers as written, without those of the B state."""
    convert: Callable[[Float64[np.ndarray, "n p"]], Float64[np.ndarray, "n q"]]
    """From the numbers as written to the columns of ``kinds.KINDS``."""
    group: int
    """Function types of one group share their types (dihedral types 1 and 9)."""


def _fourier(p: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 6"]:
    """Fourier coefficients as those of a Ryckaert-Bellemans dihedral (GROMACS manual)."""
    f1, f2, f3, f4 = p.T
    rows = [f2 + (f1 + f3) / 2, (3 * f3 - f1) / 2, 4 * f4 - f2, -2 * f3, -4 * f4, 0 * f1]
    return np.stack(rows, axis=1)


def _radians(columns: int) -> Callable[[np.ndarray], np.ndarray]:
    """Turns the first columns from degrees to rad."""

    def convert(p: np.ndarray) -> np.ndarray:
        turned = p.copy()
        turned[:, :columns] = np.radians(turned[:, :columns])
        return turned

    return convert


def _functions() -> dict[str, dict[int, Function]]:
    found: dict[str, dict[int, Function]] = {section: {} for section in WIDTH}
    for name, kind in KINDS.items():
        # a curve is written as its number and a factor, a surface by the types of the atoms alone
        written = (len(kind.columns), 2, 0)[kind.grids]
        for section, function in kind.gromacs:
            if section in found:
                found[section][function] = Function(name, written, _radians(kind.degrees), function)
    dihedrals = found["dihedrals"]
    dihedrals[5] = Function("ryckaert_bellemans", 4, _fourier, 5)
    dihedrals[9] = replace(dihedrals[9], group=1)
    return found


WIDTH = {"bonds": 2, "constraints": 2, "angles": 3, "dihedrals": 4, "cmap": 5}
"""Atoms in a term of each section."""

FUNCTIONS = _functions()
"""Function types by section."""

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
class CmapTypes:
    """``[ cmaptypes ]``: surfaces by the bonded types of five atoms, in this order only."""

    rows: Mapping[tuple[str, ...], int]
    """Row of ``grids``."""
    values: tuple[Float64[np.ndarray, "n n"], ...]
    """kJ/mol at even steps of both angles from -180 degrees on."""

    def grids(self, used: Sequence[int]) -> Float64[np.ndarray, "t 4 n n"]:
        """Values and slopes of some rows, as ``BondedTerms.grids`` has them."""
        return np.stack([surface(self.values[row]) for row in used])


@dataclass(frozen=True)
class ForceField:
    """All parameter sections of a topology."""

    defaults: Defaults
    atom_types: Mapping[str, AtomType]
    nonbonded: Mapping[frozenset[str], tuple[float, ...]]
    """``[ nonbond_params ]`` by atom types: two numbers, or three of nbfunc 2."""
    pairs: Mapping[frozenset[str], tuple[float, ...]]
    """``[ pairtypes ]`` by atom types."""
    bonded: Mapping[tuple[str, int], BondedTypes]
    """By section and group of function types."""
    cmaps: CmapTypes

    def lennard_jones(self, a: str, b: str) -> tuple[float, float]:
        """Numbers of a pair of known atom types in the form of the combination rule."""
        if (given := self.nonbonded.get(frozenset((a, b)))) is not None:
            return given[0], given[1]
        one, two = self.atom_types[a], self.atom_types[b]
        w = math.sqrt(one.w * two.w)
        if self.defaults.rule == RULE_LORENTZ_BERTHELOT:
            return (one.v + two.v) / 2, w
        return math.sqrt(one.v * two.v), w

    def pair_parameters(self, a: str, b: str) -> tuple[float, float] | None:
        """Numbers of a 1-4 pair of atom types in the form of the combination rule.

        Generated pairs scale what ``lennard_jones`` gives, ``[ nonbond_params ]`` included.

        Returns:
            None where there are none and none are to be generated.
        """
        if (given := self.pairs.get(frozenset((a, b)))) is not None:
            return given[0], given[1]
        known = a in self.atom_types and b in self.atom_types
        if not known or not self.defaults.generate_pairs or self.defaults.buckingham:
            return None
        v, w = self.lennard_jones(a, b)
        fudge = self.defaults.fudge_lj
        return (v * fudge if self.defaults.rule == RULE_C6_C12 else v), w * fudge

    def forms(self, names: Sequence[str]) -> PairForms:
        """Energies of all pairs of some atom types by nbfunc 2.

        GROMACS combines them in one way whatever the rule: a and c by their geometric mean, 1/b by
        the arithmetic one.
        """
        known = [self.atom_types.get(name) for name in names]
        a0, b0, c0 = (np.array([getattr(t, n, 0.0) for t in known], dtype=float) for n in "vwc")
        product, total = np.multiply.outer(b0, b0), np.add.outer(b0, b0)
        b = 2.0 * product / np.where(product > 0.0, total, 1.0)
        a, c = (np.sqrt(np.multiply.outer(n, n)) for n in (a0, c0))
        row = {name: k for k, name in enumerate(names)}
        for pair, numbers in self.nonbonded.items():
            if pair <= row.keys():
                i, j = (row[name] for name in (*pair, *pair)[:2])
                for m, value in zip((a, b, c), numbers, strict=True):
                    m[i, j] = m[j, i] = value
        zero = np.zeros_like(a)
        return PairForms(np.stack([c, zero, zero, a, b, zero]))

    def matrices(
        self, names: Sequence[str]
    ) -> tuple[Float64[np.ndarray, "t t"], Float64[np.ndarray, "t t"]]:
        """C6 and C12 of all pairs of some atom types, in kJ/mol nm^6 and kJ/mol nm^12.

        Types that are not known have zeros.
        """
        known = [self.atom_types.get(name) for name in names]
        v0, w0 = (np.array([getattr(t, c, 0.0) for t in known], dtype=float) for c in "vw")
        w = np.sqrt(np.multiply.outer(w0, w0))
        if self.defaults.rule == RULE_LORENTZ_BERTHELOT:
            v = np.add.outer(v0, v0) / 2
        else:
            v = np.sqrt(np.multiply.outer(v0, v0))
        row = {name: k for k, name in enumerate(names)}
        for pair, numbers in self.nonbonded.items():
            first, *rest = pair
            second = rest[0] if rest else first
            if first in row and second in row:
                i, j = row[first], row[second]
                v[i, j], w[i, j] = v[j, i], w[j, i] = numbers[:2]
        if self.defaults.rule == RULE_C6_C12:
            return v, w
        return 4.0 * w * v**6, 4.0 * w * v**12


def parse_defaults(lines: Lines) -> Defaults:
    """The ``[ defaults ]`` section (one line)."""
    if len(lines) > 1:
        raise lines[1].error("expected one line of [ defaults ], found another")
    line = lines[0]
    words = line.fields
    if not 2 <= len(words) <= 6:
        raise line.error(
            f"expected nbfunc, comb-rule, gen-pairs, fudgeLJ and fudgeQQ, found {len(words)} words"
        )
    function = integer(line, words[0], "nbfunc")
    if function not in (1, 2):
        raise line.error(f"expected nbfunc 1 (Lennard-Jones) or 2 (Buckingham), found {words[0]}")
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
    return Defaults(rule, generate == "yes", fudge_lj, fudge_qq, function == 2)


def parse_atom_types(lines: Lines, buckingham: bool, problems: Problems) -> dict[str, AtomType]:
    """The ``[ atomtypes ]`` section; the bonded name and the atomic number may be left out."""
    found: dict[str, AtomType] = {}
    for line in lines:
        try:
            atom_type = _atom_type(line, buckingham)
        except InputError as problem:
            problems.catch(problem)
            # stands in for it, so that atoms of this type are no problems of their own
            name = line.fields[0]
            atom_type = AtomType(name, name, 1.0, 0.0, "A", 0.0, 0.0)
        found[atom_type.name] = atom_type
    return found


def _atom_type(line: Line, buckingham: bool) -> AtomType:
    words = line.fields
    at = _particle_column(line, words, 3 if buckingham else 2)
    has_bonded = at == 5 or (at == 4 and words[1][0].isalpha())
    names = ("a", "b", "c") if buckingham else ("sigma or C6", "epsilon or C12")
    mass, charge = (
        number(line, words[at - 2], "the mass"),
        number(line, words[at - 1], "the charge"),
    )
    numbers = [number(line, words[at + k], what) for k, what in enumerate(names, 1)]
    if min(numbers) < 0:
        what = "Buckingham" if buckingham else "Lennard-Jones"
        found = " ".join(f"{n:g}" for n in numbers)
        raise line.error(f"expected {what} numbers of zero or more, found {found}")
    bonded = words[1] if has_bonded else words[0]
    return AtomType(words[0], bonded, mass, charge, words[at].upper(), *numbers)


def _particle_column(line: Line, words: tuple[str, ...], numbers: int) -> int:
    """Which word is the particle type (A, S, V or D); so many numbers follow it."""
    for at in (5, 3, 4):
        if len(words) == at + 1 + numbers and words[at].upper() in ("A", "S", "V", "D"):
            return at
    raise line.error(
        "expected an atom type (name, bonded name and atomic number if any, mass, charge, "
        f"particle type A, and {numbers} numbers), found '{line.text}'"
    )


def parse_pair_table(
    lines: Lines,
    section: str,
    known: Mapping[str, AtomType],
    problems: Problems,
    wanted: int = 1,
) -> dict[frozenset[str], tuple[float, ...]]:
    """``[ nonbond_params ]`` or ``[ pairtypes ]``: numbers by pair of atom types.

    Args:
        lines: of the section.
        section: its name as it is written.
        known: atom types.
        problems: takes lines that are not understood.
        wanted: the function: 1 (two numbers) or 2 (three).
    """
    found: dict[frozenset[str], tuple[float, ...]] = {}
    for k, text in enumerate(lines.texts):
        words = text.split()
        try:
            one, two, function, *rest = words
            numbers = tuple(map(float, rest))
        except ValueError:
            one, two, function, numbers = "", "", "", ()
        right = function == str(wanted) and len(numbers) == 1 + wanted
        if one in known and two in known and right and math.isfinite(sum(numbers)):
            found[frozenset((one, two))] = numbers
            continue
        try:
            _refuse_pair_type(lines[k], section, known, wanted)
        except InputError as problem:
            problems.catch(problem)
    return found


def _refuse_pair_type(line: Line, section: str, known: Mapping[str, AtomType], wanted: int) -> None:
    """Says what is wrong with a line that was not understood."""
    words = line.fields
    if len(words) != 4 + wanted:
        raise line.error(
            f"expected two atom types, the function {wanted} and {('two', 'three')[wanted - 1]} "
            f"numbers in [ {section} ], "
            f"found {len(words)} words"
        )
    for name in words[:2]:
        if name not in known:
            raise line.error(f"expected a type of [ atomtypes ], found '{name}'")
    if integer(line, words[2], "the function") != wanted:
        raise line.error(f"expected function {wanted} in [ {section} ], found {words[2]}")
    for word in words[3:]:
        number(line, word, "a Lennard-Jones number" if wanted == 1 else "a Buckingham number")


def parse_bonded_types(
    sections: Mapping[str, Lines], problems: Problems
) -> dict[tuple[str, int], BondedTypes]:
    """``[ bondtypes ]``, ``[ constrainttypes ]``, ``[ angletypes ]`` and ``[ dihedraltypes ]``.

    Function types that are not known are passed over here, for force fields list more than a
    system uses.
    """
    found: dict[tuple[str, int], BondedTypes] = {}
    for name, section in TYPE_SECTIONS.items():
        for line in sections.get(name, ()):
            try:
                types, kind, words = _split_type_line(line, section)
                if (function := FUNCTIONS[section].get(kind)) is None:
                    continue
                parameters = _parameters(line, function, words)
                table = found.setdefault((section, function.group), BondedTypes())
                table.add(line, types, parameters, multi=section == "dihedrals" and kind == 9)
            except InputError as problem:
                problems.catch(problem)
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


def _parameters(line: Line, function: Function, words: Sequence[str]) -> Parameters:
    """The numbers of a type as written, of state A."""
    n = function.n_parameters
    if not n <= len(words) <= 2 * n:
        raise line.error(wrong_count(function, len(words)))
    return tuple(number(line, word, "a parameter") for word in words)[:n]


def wrong_count(function: Function, found: int) -> str:
    """What to say where a term has too few or too many parameters."""
    kind = function.kind.replace("_", " ")
    return f"expected {function.n_parameters} parameters for this {kind}, found {found}"


def parse_cmap_types(lines: Lines, problems: Problems) -> CmapTypes:
    """``[ cmaptypes ]``: five types, function 1, the numbers of steps, and the surface."""
    rows: dict[tuple[str, ...], int] = {}
    values: list[np.ndarray] = []
    for line in lines:
        words = line.fields
        try:
            if len(words) < 8 or words[5] != "1" or words[6] != words[7]:
                raise line.error(
                    "expected five types, function 1, equal numbers of steps and a surface of "
                    f"[ cmaptypes ], found '{' '.join(words[:8])}'"
                )
            n = integer(line, words[6], "the number of steps")
            if n < 1 or len(words) != 8 + n * n:
                raise line.error(f"expected {n} x {n} energies, found {len(words) - 8}")
            grid = [number(line, word, "an energy") for word in words[8:]]
        except InputError as problem:
            problems.catch(problem)
            continue
        rows[tuple(words[:5])] = len(values)
        values.append(np.array(grid).reshape(n, n))
    return CmapTypes(rows, tuple(values))


def surface(values: Float64[np.ndarray, "n n"]) -> Float64[np.ndarray, "4 n n"]:
    """Energies, slopes along both angles and the mixed derivative of a periodic surface.

    Slopes are those of the periodic cubic splines through the values, per rad (Mackerell et al.,
    J. Comput. Chem. 25, 1400 (2004), which GROMACS follows).
    """
    from scipy.interpolate import CubicSpline  # few topologies have such tables

    def slope(of: np.ndarray, axis: int) -> np.ndarray:
        n = of.shape[axis]
        at = np.linspace(-math.pi, math.pi, n + 1)
        closed = np.concatenate([of, of.take([0], axis=axis)], axis=axis)
        return CubicSpline(at, closed, axis=axis, bc_type="periodic")(at[:-1], 1)

    first = slope(values, 0)
    return np.stack([values, first, slope(values, 1), slope(first, 1)])

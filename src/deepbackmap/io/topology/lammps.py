"""LAMMPS data files as ``Topology``, with coefficients inside or in an input script.

Only what a topology is made of is read of an input: units, styles, coefficients, ``special_bonds``,
mixing, masses and included files. Units are converted here: nm, kJ/mol, u, e, rad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.io.topology.assemble import FlatSystem, assemble
from deepbackmap.io.topology.base import TopologyOptions
from deepbackmap.io.topology.gromacs_molecules import pairs_within
from deepbackmap.quantities import COULOMB
from deepbackmap.system import BondedTerms, Topology
from deepbackmap.system.elements import element_symbols
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.topology import Unsupported


@dataclass(frozen=True)
class Units:
    """One of LAMMPS' systems of units, in ours."""

    energy: float
    """kJ/mol."""
    length: float
    """nm."""
    mass: float
    """u."""
    charge: float
    """e."""


AVOGADRO = 6.02214076e23
UNITS = {
    "real": Units(4.184, 0.1, 1.0, 1.0),
    "metal": Units(96.48533212, 0.1, 1.0, 1.0),
    "si": Units(AVOGADRO * 1e-3, 1e9, AVOGADRO * 1e3, 1.0 / 1.602176634e-19),
    # reduced: epsilon stands for 1 kJ/mol, sigma for 1 nm, the mass for 1 u
    "lj": Units(1.0, 1.0, 1.0, 1.0 / math.sqrt(COULOMB)),
}

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
COUNTED = ("Atoms", *LISTS)
"""Sections whose lines the header counts."""
LEAST = {"Pair Coeffs": 3, "PairIJ Coeffs": 4}
"""Fewest words of a line, where that is not two."""
FACTORS = {
    "amber": ((0.0, 0.0, 0.5), (0.0, 0.0, 5.0 / 6.0)),
    "charmm": ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    "dreiding": ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)),
}
"""``special_bonds``: factors of Lennard-Jones and Coulomb over one, two and three bonds."""


@dataclass
class _Input:
    """What a data file and inputs say."""

    path: Path
    units: str | None = None
    atom_style: str | None = None
    styles: dict[str, str] = field(default_factory=dict)
    """By what they belong to: pair, bond, angle, dihedral, improper."""
    coefficients: dict[str, dict[int, tuple[str, list[str], str]]] = field(default_factory=dict)
    """By the same, then by type: where, words, style."""
    pair_rows: list[tuple[str, list[str], str]] = field(default_factory=list)
    """Of pairs of types: where, words with both types, style."""
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    mix: str | None = None
    lj_factors: tuple[float, ...] = (0.0, 0.0, 0.0)
    coulomb_factors: tuple[float, ...] = (0.0, 0.0, 0.0)
    masses: dict[int, tuple[float, str]] = field(default_factory=dict)
    sections: dict[str, list[tuple[str, list[str]]]] = field(default_factory=dict)
    unsupported: dict[str, Unsupported] = field(default_factory=dict)

    def refuse(self, what: str, where: str, count: int = 1) -> None:
        before = self.unsupported[what].count if what in self.unsupported else 0
        first = self.unsupported[what].where if what in self.unsupported else where
        self.unsupported[what] = Unsupported(what, first, before + count)


def read_lammps(path: Path, options: TopologyOptions) -> Topology:
    """A data file; styles and units come from its comments, from inputs or from the options.

    Raises:
        InputError: the files are malformed, or nothing says what the units are.
    """
    found = _Input(path, units=options.units)
    _read_data(path, found)
    for name in options.inputs:
        _read_script(name, found, 0)
    if found.units not in UNITS:
        raise InputError(
            f"{path}: expected units ({', '.join(UNITS)}) in the first line, in an input script or "
            f"as an option, found {found.units or 'none'}"
        )
    return _build(found, UNITS[found.units])


# --- reading


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, words and comment of every line."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as problem:
        raise InputError(f"cannot read {path} ({problem.strerror})") from None
    for number, raw in enumerate(text.split("\n"), 1):
        words, _, comment = raw.partition("#")
        yield f"{path}:{number}", words.strip(), comment.strip()


SECTIONS = (
    *LISTS,
    "Atoms",
    "Masses",
    "Velocities",
    "Pair Coeffs",
    "PairIJ Coeffs",
    *(f"{kind} Coeffs" for kind in ("Bond", "Angle", "Dihedral", "Improper")),
    *(f"{kind} Type Labels" for kind in ("Atom", "Bond", "Angle", "Dihedral", "Improper")),
)


def _read_data(path: Path, found: _Input) -> None:
    current: str | None = None
    counts: dict[str, int] = {}
    for k, (where, text, comment) in enumerate(_lines(path)):
        if k == 0:
            words = f"{text} # {comment}".replace(",", " ").split()
            after = words[words.index("units") + 1 :] if "units" in words else []
            if found.units is None and len(after) > 1 and after[0] == "=":
                found.units = after[1]
            continue
        if not text:
            continue
        words = text.split()
        if current is None and len(words) == 2 and words[1].title() in COUNTED:
            counts[words[1].title()] = _whole(where, words[0])
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
            found.sections.setdefault(current, []).append((where, words))
    for section, count in counts.items():
        if count != (n := len(found.sections.get(section, []))):
            raise InputError(
                f"{path}: expected {count} lines of {section} as the header says, found {n}"
            )
    _take_sections(found)


def _is_label(section: str | None) -> bool:
    """Whether rows of a section may begin with a word."""
    return section is not None and (section == "Masses" or section.endswith(" Coeffs"))


def _style_of_comment(section: str, comment: str, found: _Input) -> None:
    """Styles stand as comments behind the names of sections."""
    if not comment:
        return
    style = comment.split()[0]
    if section == "Atoms":
        found.atom_style = style
    elif section in ("Pair Coeffs", "PairIJ Coeffs"):
        found.styles["pair"] = style
    elif section.endswith(" Coeffs"):
        found.styles[section.split()[0].lower()] = style


def _take_sections(found: _Input) -> None:
    for section, rows in found.sections.items():
        if section.endswith(" Type Labels"):
            kind = section.split()[0].lower()
            found.labels[kind] = {words[1]: _whole(w, words[0]) for w, words in rows}
    for where, words in found.sections.get("Masses", []):
        number = _type(found, "atom", where, words[0])
        found.masses[number] = (_number(where, words[1]), where)
    for kind in ("bond", "angle", "dihedral", "improper"):
        for where, words in found.sections.get(f"{kind.title()} Coeffs", []):
            number = _type(found, kind, where, words[0])
            found.coefficients.setdefault(kind, {})[number] = (where, words[1:], "")
    for where, words in found.sections.get("Pair Coeffs", []):
        found.pair_rows.append((where, [words[0], words[0], *words[1:]], ""))
    for where, words in found.sections.get("PairIJ Coeffs", []):
        found.pair_rows.append((where, words, ""))


def _read_script(path: Path, found: _Input, depth: int) -> None:
    """Commands of an input that say what the terms are."""
    if depth > 16:
        raise InputError(f"{path}: expected at most 16 includes inside each other, found more")
    held = ""
    for where, text, _ in _lines(path):
        held += " " + text
        if held.endswith("&"):
            held = held[:-1]
            continue
        command, *words = held.split() or [""]
        held = ""
        if command == "include" and words:
            _read_script(path.parent / words[0], found, depth + 1)
        elif command:
            try:
                _command(where, command, words, found)
            except IndexError:
                raise InputError(
                    f"{where}: expected more words after {command}, found {len(words)}"
                ) from None


def _command(where: str, command: str, words: list[str], found: _Input) -> None:
    what, _, verb = command.partition("_")
    if command == "units":
        found.units = words[0]
    elif command == "atom_style":
        found.atom_style = words[0]
    elif verb == "style" and what in ("pair", "bond", "angle", "dihedral", "improper"):
        found.styles[what] = words[0]
    elif verb == "coeff" and any("$" in w for w in words):
        found.refuse(f"the variable in {command} {' '.join(words)} is not known", where)
    elif command == "pair_coeff":
        if len(words) < 4:
            raise IndexError
        found.pair_rows.append((where, words, ""))
    elif verb == "coeff":
        for kind in _range(found, what, where, words[0]):
            found.coefficients.setdefault(what, {})[kind] = (where, words[1:], "")
    elif command == "pair_modify" and "mix" in words:
        found.mix = words[words.index("mix") + 1]
    elif command == "mass":
        for kind in _range(found, "atom", where, words[0]):
            found.masses[kind] = (_number(where, words[1]), where)
    elif command == "special_bonds":
        _special_bonds(where, words, found)


def _special_bonds(where: str, words: list[str], found: _Input) -> None:
    k = 0
    while k < len(words):
        word = words[k]
        if word in FACTORS:
            found.lj_factors, found.coulomb_factors = FACTORS[word]
            k += 1
        elif word in ("lj", "coul", "lj/coul"):
            factors = tuple(_number(where, w) for w in words[k + 1 : k + 4])
            if len(factors) != 3:
                raise InputError(f"{where}: expected three factors after {word}, found fewer")
            if word != "coul":
                found.lj_factors = factors
            if word != "lj":
                found.coulomb_factors = factors
            k += 4
        else:
            found.refuse(f"the energy of special_bonds {word} is not known", where)
            k += 2


def _number(where: str, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: expected a number, found '{word}'")
    return value


def _whole(where: str, word: str) -> int:
    value = _number(where, word)
    if value != int(value) or abs(value) >= 2**62:
        raise InputError(f"{where}: expected a whole number, found '{word}'")
    return int(value)


def _type(found: _Input, kind: str, where: str, word: str) -> int:
    """Number of a type, which may be written as its label."""
    known = found.labels.get(kind, {}).get(word)
    return known if known is not None else _whole(where, word)


def _range(found: _Input, kind: str, where: str, word: str) -> range | list[int]:
    """Types of a command: one, or a range with a star."""
    if "*" not in word:
        return [_type(found, kind, where, word)]
    low, _, high = word.partition("*")
    last = max((*(t for t in found.masses), *found.coefficients.get(kind, {}), 1))
    return range(_whole(where, low) if low else 1, (_whole(where, high) if high else last) + 1)


# --- building


def _build(found: _Input, units: Units) -> Topology:
    ids, molecule, types, charges = _atoms(found, units)
    if not found.masses:
        raise InputError(f"{found.path}: expected a section Masses, found none")
    numbers = sorted(found.masses)
    missing = sorted(set(types.tolist()) - set(numbers))
    if missing:
        raise InputError(f"{found.path}: expected a mass of type {missing[0]}, found none")
    row = {t: k for k, t in enumerate(numbers)}
    masses = np.array([found.masses[t][0] * units.mass for t in types.tolist()])
    terms: dict[str, list[tuple[Sequence[int], Sequence[float]]]] = {}
    joined = _terms(found, units, ids, terms)
    names = _type_names(found, numbers, units)
    c6, c12, sigma, epsilon = _lennard_jones(found, units, numbers)
    kinds = np.array([row[t] for t in types.tolist()], dtype=np.int64)
    excluded, pairs = _special(found, joined, len(ids), kinds, sigma, epsilon)
    atom_types = tuple(names[k] for k in kinds.tolist())
    return assemble(
        FlatSystem(
            atom_names=_atom_names(atom_types, molecule),
            atom_types=atom_types,
            residue_names=("MOL",) * len(ids),
            residue_numbers=molecule,
            charges=charges,
            masses=masses,
            bonds=joined,
            type_names=names,
            c6=c6,
            c12=c12,
            terms={kind: _listed(kind, rows) for kind, rows in terms.items()},
            exclusions=excluded,
            pairs=pairs,
            unsupported=tuple(found.unsupported.values()),
            source=str(found.path),
        )
    )


def _listed(kind: str, rows: list[tuple[Sequence[int], Sequence[float]]]) -> BondedTerms:
    atoms = np.array([list(a) for a, _ in rows], dtype=np.int64)
    parameters = np.array([list(p) for _, p in rows], dtype=np.float64)
    return BondedTerms(
        atoms.reshape(len(rows), KINDS[kind].n_atoms),
        parameters.reshape(len(rows), len(KINDS[kind].columns)),
    )


def _atoms(
    found: _Input, units: Units
) -> tuple[dict[int, int], Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], np.ndarray]:
    """Places of the ids, molecules, types and charges, in the order of the ids."""
    rows = found.sections.get("Atoms")
    if not rows:
        raise InputError(f"{found.path}: expected a section Atoms, found none")
    style = found.atom_style or {7: "full", 10: "full"}.get(len(rows[0][1]))
    if style not in COLUMNS:
        raise InputError(
            f"{rows[0][0]}: expected an atom style ({', '.join(COLUMNS)}) behind 'Atoms #' or in "
            f"an input script, found {style or 'none'}"
        )
    of_molecule, of_type, of_charge = COLUMNS[style]
    least = 5 + sum(c is not None for c in (of_molecule, of_charge))
    table = []
    for where, words in rows:
        if len(words) not in (least, least + 3):
            raise InputError(
                f"{where}: expected {least} or {least + 3} words of an atom of style {style}, "
                f"found {len(words)}"
            )
        table.append(
            (
                _whole(where, words[0]),
                _whole(where, words[of_molecule]) if of_molecule else 1,
                _type(found, "atom", where, words[of_type]),
                _number(where, words[of_charge]) * units.charge if of_charge else 0.0,
            )
        )
    table.sort()
    ids = {row[0]: k for k, row in enumerate(table)}
    if len(ids) != len(table):
        raise InputError(f"{found.path}: expected every atom once, found an id twice")
    _, molecule, types, charges = zip(*table, strict=True)
    return ids, np.array(molecule), np.array(types), np.array(charges, dtype=np.float64)


def _atom_names(types: Sequence[str], molecule: Int64[np.ndarray, " n"]) -> tuple[str, ...]:
    """Type and place in the molecule, for LAMMPS has no names of atoms."""
    counts: dict[int, int] = {}
    names = []
    for kind, number in zip(types, molecule.tolist(), strict=True):
        counts[number] = counts.get(number, 0) + 1
        names.append(f"{kind}{counts[number]}")
    return tuple(names)


def _type_names(found: _Input, numbers: Sequence[int], units: Units) -> tuple[str, ...]:
    """Labels of the types, else elements with the number of the type."""
    by_number = {number: label for label, number in found.labels.get("atom", {}).items()}
    masses = np.array([found.masses[t][0] * units.mass for t in numbers])
    elements = element_symbols(masses)
    return tuple(by_number.get(t, f"{e}{t}") for t, e in zip(numbers, elements, strict=True))


def _terms(
    found: _Input,
    units: Units,
    ids: dict[int, int],
    terms: dict[str, list[tuple[Sequence[int], Sequence[float]]]],
) -> Int64[np.ndarray, "b 2"]:
    """Adds all listed terms; returns the bonds."""
    bonds = []
    for section, width in LISTS.items():
        kind = section[:-1].lower()
        known: dict[int, list[tuple[str, Sequence[float]]] | None] = {}
        for where, words in found.sections.get(section, []):
            if len(words) != width + 2:
                raise InputError(
                    f"{where}: expected {width + 2} words in {section}, found {len(words)}"
                )
            number = _type(found, kind, where, words[1])
            try:
                atoms = [ids[_whole(where, w)] for w in words[2:]]
            except KeyError as problem:
                raise InputError(
                    f"{where}: expected ids of the section Atoms, found {problem.args[0]}"
                ) from None
            if number not in known:
                known[number] = _converted(found, units, kind, number)
            rows = known[number]
            if kind == "bond":
                bonds.append(atoms)
            if rows is None:
                style = found.styles.get(kind, "none")
                found.refuse(
                    f"the energy of {kind} type {number} (style {style}) is not known", where
                )
                rows = [("connection", ())] if kind == "bond" else []
            for name, parameters in rows:
                terms.setdefault(name, []).append((atoms, parameters))
    return np.array(bonds, dtype=np.int64).reshape(-1, 2)


def _converted(
    found: _Input, units: Units, kind: str, number: int
) -> list[tuple[str, Sequence[float]]] | None:
    """Kinds and columns of a type of terms; None where they are not known."""
    if number not in found.coefficients.get(kind, {}):
        return None
    where, words, _ = found.coefficients[kind][number]
    style = found.styles.get(kind, "")
    if style.startswith("hybrid") and words:
        style, words = words[0], words[1:]
    make = STYLES.get((kind, style))
    if make is None:
        return None
    values = [_number(where, w) for w in words]
    try:
        return make(values, units)
    except NotImplementedError:
        return None
    except (IndexError, ValueError):
        raise InputError(
            f"{where}: expected coefficients of {kind}_style {style}, found {' '.join(words)}"
        ) from None


_Made = list[tuple[str, Sequence[float]]]


def _spring(v: list[float], u: Units) -> _Made:
    k, length = v
    return [("bond", (length * u.length, 2.0 * k * u.energy / u.length**2))]


def _morse(v: list[float], u: Units) -> _Made:
    depth, alpha, length = v
    return [("morse", (length * u.length, depth * u.energy, alpha / u.length))]


def _gromos(v: list[float], u: Units) -> _Made:
    k, length = v
    return [("bond_g96", (length * u.length, 4.0 * k * u.energy / u.length**4))]


def _bend(v: list[float], u: Units) -> _Made:
    k, theta = v
    return [("angle", (math.radians(theta), 2.0 * k * u.energy))]


def _bend_charmm(v: list[float], u: Units) -> _Made:
    k, theta, spring, length = v
    columns = (length * u.length, 2.0 * spring * u.energy / u.length**2)
    return [("urey_bradley", (math.radians(theta), 2.0 * k * u.energy, *columns))]


def _bend_squared(v: list[float], u: Units) -> _Made:
    k, theta = v
    return [("angle_g96", (math.radians(theta), 2.0 * k * u.energy))]


def _turn(v: list[float], u: Units) -> _Made:
    k, sign, n = v
    return [("proper", (0.0 if sign > 0 else math.pi, k * u.energy, n))]


def _turn_charmm(v: list[float], u: Units) -> _Made:
    k, n, phase, weight = v
    if weight:
        raise NotImplementedError  # weights of 1-4 pairs
    return [("proper", (math.radians(phase), k * u.energy, n))]


def _turns(v: list[float], u: Units) -> _Made:
    rows = np.array(v[1:]).reshape(int(v[0]), 3).tolist()
    return [("proper", (math.radians(phase), k * u.energy, n)) for k, n, phase in rows]


def _opls(v: list[float], u: Units) -> _Made:
    f1, f2, f3, f4 = (x * u.energy for x in v)
    c = (f2 + (f1 + f3) / 2, (3 * f3 - f1) / 2, 4 * f4 - f2, -2 * f3, -4 * f4, 0.0)
    return [("ryckaert_bellemans", c)]


def _powers(v: list[float], u: Units) -> _Made:
    c = [x * u.energy * (-1) ** n for n, x in enumerate(v)]
    if not 1 <= len(c) <= 6:
        raise ValueError("at most six powers")
    return [("ryckaert_bellemans", (*c, *(0.0,) * (6 - len(c))))]


def _flat(v: list[float], u: Units) -> _Made:
    k, chi = v
    if chi:
        raise NotImplementedError  # the sign of chi is not that of our dihedral
    return [("improper", (0.0, 2.0 * k * u.energy))]


STYLES: dict[tuple[str, str], Callable[[list[float], Units], _Made]] = {
    ("bond", "harmonic"): _spring,
    ("bond", "morse"): _morse,
    ("bond", "gromos"): _gromos,
    ("angle", "harmonic"): _bend,
    ("angle", "charmm"): _bend_charmm,
    ("angle", "cosine/squared"): _bend_squared,
    ("dihedral", "harmonic"): _turn,
    ("dihedral", "charmm"): _turn_charmm,
    ("dihedral", "fourier"): _turns,
    ("dihedral", "opls"): _opls,
    ("dihedral", "multi/harmonic"): _powers,
    ("dihedral", "nharmonic"): lambda v, u: _powers(v[1:], u),
    ("improper", "harmonic"): _flat,
    ("improper", "cvff"): _turn,
}
"""Coefficients of LAMMPS' styles in our kinds and columns."""


def _lennard_jones(
    found: _Input, units: Units, numbers: Sequence[int]
) -> tuple[Float64[np.ndarray, "t t"], ...]:
    """C6, C12, sigma and epsilon by pair of types, mixed as LAMMPS does."""
    style = found.styles.get("pair", "")
    n = len(numbers)
    sigma, epsilon = np.zeros((n, n)), np.zeros((n, n))
    given = np.zeros((n, n), dtype=bool)
    row = {t: k for k, t in enumerate(numbers)}
    if not style.startswith(("lj/cut", "lj/charmm")):
        if style not in ("", "zero", "none"):
            found.refuse(f"the energy of pair_style {style} is not known", str(found.path))
        elif not style:
            found.refuse("expected a pair_style in the data file or an input, found none",
                         str(found.path))  # fmt: skip
        return sigma, epsilon, sigma, epsilon
    for where, words, _ in found.pair_rows:
        first, second = (_range(found, "atom", where, w) for w in words[:2])
        depth, size = (_number(where, w) for w in words[2:4])
        for i in first:
            for j in second:
                if i in row and j in row and (i <= j or len(first) == len(second) == 1):
                    a, b = row[i], row[j]
                    sigma[a, b] = sigma[b, a] = size * units.length
                    epsilon[a, b] = epsilon[b, a] = depth * units.energy
                    given[a, b] = given[b, a] = True
    default = "arithmetic" if style.startswith("lj/charmm") else "geometric"
    rule = found.mix or default
    own_s, own_e = np.diag(sigma), np.diag(epsilon)
    if rule == "arithmetic":
        mixed = 0.5 * np.add.outer(own_s, own_s)
    else:
        mixed = np.sqrt(np.outer(own_s, own_s))
    if rule == "sixthpower":
        found.refuse("the mixing rule sixthpower is not known", str(found.path))
    sigma = np.where(given, sigma, mixed)
    epsilon = np.where(given, epsilon, np.sqrt(np.outer(own_e, own_e)))
    if not given.diagonal().all():
        k = int(np.argmin(given.diagonal()))
        found.refuse(f"expected pair coefficients of atom type {numbers[k]}, found none",
                     str(found.path))  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        c6 = 4.0 * epsilon * sigma**6
        c12 = c6 * sigma**6
    if not np.isfinite(c6 + c12).all():
        raise InputError(f"{found.path}: expected Lennard-Jones numbers whose C12 is finite")
    return c6, c12, sigma, epsilon


def _special(
    found: _Input,
    bonds: Int64[np.ndarray, "b 2"],
    n: int,
    kinds: Int64[np.ndarray, " n"],
    sigma: Float64[np.ndarray, "t t"],
    epsilon: Float64[np.ndarray, "t t"],
) -> tuple[Int64[np.ndarray, "m 2"], BondedTerms]:
    """Pairs over one to three bonds: excluded, and listed again where a factor is not zero."""
    excluded, atoms = [np.zeros((0, 2), dtype=np.int64)], [np.zeros((0, 2), dtype=np.int64)]
    parameters = [np.zeros((0, 3))]
    before: set[tuple[int, ...]] = set()
    for distance in (1, 2, 3):
        near = {tuple(p) for p in pairs_within(bonds, n, distance).tolist()}
        ring = np.array(sorted(near - before), dtype=np.int64).reshape(-1, 2)
        before = near
        lj, coulomb = found.lj_factors[distance - 1], found.coulomb_factors[distance - 1]
        if lj == coulomb == 1.0 or not len(ring):
            continue
        excluded.append(ring)
        if lj or coulomb:
            i, j = kinds[ring].T
            columns = (sigma[i, j], lj * epsilon[i, j], np.full(len(ring), coulomb))
            atoms.append(ring)
            parameters.append(np.stack(columns, axis=1))
    listed = BondedTerms(np.concatenate(atoms), np.concatenate(parameters))
    return np.concatenate(excluded), listed

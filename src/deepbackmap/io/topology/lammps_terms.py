"""Terms of a topology as rows and coefficients of a LAMMPS data file in units real."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.io.topology.gromacs_molecules import pairs_within
from deepbackmap.io.topology.lammps_lines import EXCLUSION, PAIR, SPRING
from deepbackmap.io.topology.lammps_tables import table_text
from deepbackmap.quantities import COULOMB
from deepbackmap.system import BondedTerms, MoleculeType, Topology
from deepbackmap.system.kinds import KINDS, SITES
from deepbackmap.system.topology import listed_problems, require_energies, require_lennard_jones

KCAL = 4.184
"""kJ."""
ANGSTROM = 0.1
"""nm."""
TABLE_POINTS = 4000
"""That LAMMPS takes of a table."""
PAIR_RANGE, PAIR_LINES = (0.05, 1.5), 700
"""nm, of tables of pairs; their lines are spaced geometrically."""
HELD_STIFFNESS = 450.0
"""kcal/mol/A^2, of bonds that ``fix shake`` holds and so never counts."""


@dataclass(frozen=True)
class Style:
    """A type of terms: style, coefficients and what its comment says."""

    section: str
    """Bonds, Angles, Dihedrals or Impropers."""
    name: str
    words: tuple[str, ...] = ()
    mark: str = ""
    couplings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of style ``class2``: words of ``CLASS2`` with their numbers; the others are zero."""


@dataclass(frozen=True)
class Special:
    """Factors of ``special_bonds`` over one, two and three bonds."""

    lj: tuple[float, float, float]
    coulomb: tuple[float, float, float]


ONE_BOND = Special((0.0, 1.0, 1.0), (0.0, 1.0, 1.0))
"""Only what is listed as a bond is excluded, so that any list of exclusions can be stated."""


@dataclass
class LammpsTerms:
    """All terms of a system."""

    numbers: dict[str, dict[Style, int]] = field(default_factory=dict)
    """Types by section, from 1."""
    rows: dict[str, list[tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, "_ _"]]]] = field(
        default_factory=dict
    )
    """Types and atoms (from 0) by section."""
    special: Special = ONE_BOND
    tables: list[str] = field(default_factory=list)
    """Lines of the file of tables."""
    pair_tables: dict[tuple[float, ...], str] = field(default_factory=dict)
    """Names of tables by C6, C12 and product of charges."""
    held: set[Style] = field(default_factory=set)
    """Bonds and angles of ``fix shake``."""

    def number(self, style: Style) -> int:
        """Of a type, which is new if it was not known."""
        known = self.numbers.setdefault(style.section, {})
        return known.setdefault(style, len(known) + 1)


class _NoStyle(Exception):
    """LAMMPS has no style for a kind of term."""


def lammps_terms(topology: Topology, tables: str) -> LammpsTerms:
    """Rows and types of all terms.

    Args:
        topology: with energies.
        tables: name of the file of tables.

    Raises:
        InputError: terms without energies or without a style, all of them at once.
    """
    require_energies(topology)
    require_lennard_jones(topology, "LAMMPS files that are converted")
    made = LammpsTerms()
    problems: list[str] = []
    used = list(dict.fromkeys(t for t, n in topology.blocks if n))
    own = {t: _own_terms(topology.molecule_types[t], made, tables, problems) for t in used}
    if topology.intermolecular:
        across = _named_terms(topology.intermolecular, "between molecules", tables, made, problems)
        if any(style.section == "Bonds" for style, _ in across):
            problems.append("bonds between molecules")
    if problems:
        raise InputError(
            listed_problems(
                f"{topology.source}: expected terms that LAMMPS has a style for, found others "
                f"(a .gro file needs none)",
                problems,
            )
        )
    bonds = {t: _pairs_of(own[t]) for t in used}
    special = _classic(topology, bonds)
    made.special = special or ONE_BOND
    for t in used:
        molecule = topology.molecule_types[t]
        if special is None:
            own[t] += _listed_pairs(topology, molecule, bonds[t], made, tables)
    for molecule, first, count in topology.runs():
        if count:
            shift = first + molecule.n_atoms * np.arange(count, dtype=np.int64)
            t = next(k for k in used if topology.molecule_types[k] is molecule)
            _repeat(own[t], shift, made)
    if topology.intermolecular:
        _repeat(across, np.zeros(1, dtype=np.int64), made)
    return made


_Rows = list[tuple[Style, Int64[np.ndarray, "_ _"]]]


def _repeat(own: _Rows, shift: Int64[np.ndarray, " c"], made: LammpsTerms) -> None:
    """Rows of a molecule for every copy, copy by copy."""
    for section in dict.fromkeys(style.section for style, _ in own):
        parts = [(made.number(style), atoms) for style, atoms in own if style.section == section]
        atoms = np.concatenate([a for _, a in parts])
        types = np.concatenate([np.full(len(a), n, dtype=np.int64) for n, a in parts])
        all_atoms = (atoms[None] + shift[:, None, None]).reshape(-1, atoms.shape[1])
        made.rows.setdefault(section, []).append((np.tile(types, len(shift)), all_atoms))


def _own_terms(
    molecule: MoleculeType, made: LammpsTerms, tables: str, problems: list[str]
) -> _Rows:
    """Terms of one molecule but for pairs and exclusions."""
    terms = {k: v for k, v in molecule.terms.items() if k != "constraint"}
    found = _named_terms(terms, f"in molecule {molecule.name}", tables, made, problems, molecule)
    for kind, listed in molecule.sites.items():
        sections = " or ".join(f"{s} {n}" for s, n in SITES[kind].gromacs)
        problems.append(f"{len(listed.atoms)} virtual sites ({sections}) in molecule "
                        f"{molecule.name}")  # fmt: skip
    if "constraint" in molecule.terms:
        held = _constraints(molecule, problems)
        made.held |= {style for style, _ in held}
        found += held
    return found


def _named_terms(
    terms: Mapping[str, BondedTerms],
    where: str,
    tables: str,
    made: LammpsTerms,
    problems: list[str],
    molecule: MoleculeType | None = None,
) -> _Rows:
    """Terms by type; those without a style are named."""
    found: _Rows = []
    for kind, listed in terms.items():
        if kind in PAIR_KINDS and molecule is not None:
            continue
        if not len(listed.atoms):
            continue
        rows, inverse = np.unique(listed.parameters, axis=0, return_inverse=True)
        for k, row in enumerate(rows):
            atoms = listed.atoms[inverse.reshape(-1) == k]
            try:
                style = _style(kind, row.tolist(), listed, tables, made)
            except _NoStyle as reason:
                named = _atoms_said(atoms[0], molecule)
                energy = f", {KINDS[kind].energy}" if KINDS[kind].energy else ""
                problems.append(
                    f"{len(atoms)} of {kind} ({_sections(kind)}{energy}) {where}{reason}, "
                    f"the first of atoms {named}"
                )
                continue
            found.append((style, atoms))
    return found


def _sections(kind: str) -> str:
    return " or ".join(f"{section} {number}" for section, number in KINDS[kind].gromacs)


def _atoms_said(atoms: Int64[np.ndarray, " k"], molecule: MoleculeType | None) -> str:
    if molecule is None:
        return " ".join(str(a + 1) for a in atoms.tolist())
    return " ".join(f"{molecule.atom_names[a]} ({a + 1})" for a in atoms.tolist())


# --- kinds as styles


def number(value: float) -> str:
    """As it is written."""
    return f"{value:.12g}" if value else "0"


def _bond_words(k: float, length: float) -> tuple[str, ...]:
    return number(k), number(length / ANGSTROM)


def _bond(p: list[float]) -> Style:
    return Style("Bonds", "harmonic", _bond_words(p[1] / 2.0 / KCAL * ANGSTROM**2, p[0]))


def _bond_g96(p: list[float]) -> Style:
    return Style("Bonds", "gromos", _bond_words(p[1] / 4.0 / KCAL * ANGSTROM**4, p[0]))


def _morse(p: list[float]) -> Style:
    words = (p[1] / KCAL, p[2] * ANGSTROM, p[0] / ANGSTROM)
    return Style("Bonds", "morse", tuple(map(number, words)))


def _bond_cubic(p: list[float]) -> Style:
    k = p[1] / KCAL * ANGSTROM**2
    words = (p[0] / ANGSTROM, k, k * p[2] * ANGSTROM, 0.0)
    return Style("Bonds", "class2", tuple(map(number, words)))


def _fene(p: list[float]) -> Style:
    words = (p[1] / KCAL * ANGSTROM**2, p[0] / ANGSTROM, 0.0, 0.0)
    return Style("Bonds", "fene", tuple(map(number, words)))


def _angle(p: list[float]) -> Style:
    return Style("Angles", "harmonic", (number(p[1] / 2.0 / KCAL), number(math.degrees(p[0]))))


def _angle_g96(p: list[float]) -> Style:
    words = (number(p[1] / 2.0 / KCAL), number(math.degrees(p[0])))
    return Style("Angles", "cosine/squared", words)


def _urey_bradley(p: list[float]) -> Style:
    spring = p[3] / 2.0 / KCAL * ANGSTROM**2
    words = (p[1] / 2.0 / KCAL, math.degrees(p[0]), spring, p[2] / ANGSTROM)
    return Style("Angles", "charmm", tuple(map(number, words)))


def _angle_quartic(p: list[float]) -> Style:
    if p[1] or p[2]:
        raise _NoStyle(" with a constant or linear part")
    words = (math.degrees(p[0]), *(c / KCAL for c in p[3:]))
    return Style("Angles", "quartic", tuple(map(number, words)))


def _proper(p: list[float]) -> Style:
    phase, k, n = p
    if n != round(n) or n < 0:
        raise _NoStyle(f" with the multiplicity {n:g}")
    words = ("1", number(k / KCAL), str(round(n)), number(math.degrees(phase)))
    return Style("Dihedrals", "fourier", words)


def _ryckaert_bellemans(p: list[float]) -> Style:
    last = max((n for n, c in enumerate(p) if c), default=0)
    powers = [number(c / KCAL * (-1) ** n) for n, c in enumerate(p[: last + 1])]
    return Style("Dihedrals", "nharmonic", (str(len(powers)), *powers))


def _restricted(p: list[float], section: str) -> Style:
    words = (number(p[1] / 2.0 / KCAL), number(math.degrees(p[0])))
    return Style(section, "cosine/squared/restricted", words)


def _cross(k: tuple[float, float, float], first: float, second: float, theta: float) -> Style:
    words = (k[0] / KCAL * ANGSTROM**2, *(x / KCAL * ANGSTROM for x in k[1:]))
    rest = (first / ANGSTROM, second / ANGSTROM, math.degrees(theta))
    return Style("Angles", "cross", tuple(map(number, (*words, *rest))))


def _class2(section: str, words: tuple[float, ...], **couplings: Iterable[float]) -> Style:
    coupled = tuple((word, tuple(map(number, v))) for word, v in couplings.items())
    return Style(section, "class2", tuple(map(number, words)), couplings=coupled)


NOTHING = (0.0,) * 6


def _bond_torsion(p: list[float]) -> Style:
    lengths = [r / ANGSTROM for r in p[:3]]
    k = [x / KCAL * ANGSTROM for x in p[3:]]
    ends = (*k[:3], *k[6:], lengths[0], lengths[2])
    return _class2("Dihedrals", NOTHING, mbt=(*k[3:6], lengths[1]), ebt=ends)


def _angle_torsion(p: list[float]) -> Style:
    rest = [math.degrees(theta) for theta in p[:2]]
    *k, both = (x / KCAL for x in p[2:])
    return _class2("Dihedrals", NOTHING, at=(*k, *rest), aat=(both, *rest))


def _bond_bond_13(p: list[float]) -> Style:
    values = (p[2] / KCAL * ANGSTROM**2, p[0] / ANGSTROM, p[1] / ANGSTROM)
    return _class2("Dihedrals", NOTHING, bb13=values)


def _angle_angle(p: list[float]) -> Style:
    values = (*(k / KCAL for k in p[3:]), *map(math.degrees, p[:3]))
    return _class2("Impropers", (0.0, 0.0), aa=values)


def _out_of_plane(p: list[float]) -> Style:
    return _class2("Impropers", (p[1] / 2.0 / KCAL, math.degrees(p[0])))


def _umbrella(p: list[float]) -> Style:
    return Style("Impropers", "umbrella", (number(p[1] / KCAL), number(math.degrees(p[0]))))


def _improper(p: list[float]) -> Style:
    """LAMMPS' improper has no sign: where the rest is not flat, a dihedral takes its place."""
    words = (number(p[1] / 2.0 / KCAL), number(math.degrees(p[0])))
    if p[0] == 0.0:
        return Style("Impropers", "harmonic", words)
    return Style("Dihedrals", "quadratic", words)


STYLES: dict[str, Callable[[list[float]], Style]] = {
    "bond": _bond,
    "harmonic": lambda p: replace(_bond(p), mark=SPRING),
    "bond_g96": _bond_g96,
    "morse": _morse,
    "bond_cubic": _bond_cubic,
    "fene": _fene,
    "connection": lambda p: Style("Bonds", "zero"),
    "angle": _angle,
    "angle_g96": _angle_g96,
    "urey_bradley": _urey_bradley,
    "angle_quartic": _angle_quartic,
    "angle_restricted": lambda p: _restricted(p, "Angles"),
    "bond_bond": lambda p: _cross((p[2], 0.0, 0.0), p[0], p[1], math.pi / 2.0),
    "bond_bend": lambda p: _cross((0.0, p[3], p[4]), p[1], p[2], p[0]),
    "proper": _proper,
    "ryckaert_bellemans": _ryckaert_bellemans,
    "improper": _improper,
    "dihedral_restricted": lambda p: _restricted(p, "Dihedrals"),
    "bond_torsion": _bond_torsion,
    "angle_torsion": _angle_torsion,
    "bond_bond_13": _bond_bond_13,
    "angle_angle": _angle_angle,
    "out_of_plane": _out_of_plane,
    "umbrella": _umbrella,
}
"""Kinds that LAMMPS has a style for, besides tables and pairs."""
TABLES = {
    "bond_table": "Bonds",
    "bond_table_nc": "Bonds",
    "angle_table": "Angles",
    "dihedral_table": "Dihedrals",
}
PAIR_KINDS = ("lj14", "lj14_powers", "coulomb14")


def _style(
    kind: str, row: list[float], listed: BondedTerms, tables: str, made: LammpsTerms
) -> Style:
    if kind in STYLES:
        return STYLES[kind](row)
    if kind not in TABLES or listed.grids is None:
        raise _NoStyle("")
    k, index, start, spacing, points = row
    values = k * listed.grids[int(index), :, : int(points)] / KCAL
    x = start + spacing * np.arange(int(points))
    section = TABLES[kind]
    unit = ANGSTROM if section == "Bonds" else math.pi / 180.0
    label = f"{kind.split('_')[0].upper()}_{len(made.tables) + 1}"
    dihedral = section == "Dihedrals"
    if dihedral and not math.isclose(x[-1] - x[0], 2.0 * math.pi, rel_tol=1e-6):
        raise _NoStyle(" over less than a turn")
    made.tables += table_text(label, x / unit, values[0], values[1] * unit, dihedral=dihedral)
    mark = PAIR if kind == "bond_table_nc" else ""
    return Style(section, "table", (tables, label), mark)


def _constraints(molecule: MoleculeType, problems: list[str]) -> _Rows:
    """Constraints as bonds that ``fix shake`` holds: stars of up to four atoms, and triangles."""
    listed = molecule.terms["constraint"]
    neighbours: dict[int, dict[int, float]] = {}
    for (i, j), (length,) in zip(listed.atoms.tolist(), listed.parameters.tolist(), strict=True):
        neighbours.setdefault(i, {})[j] = length
        neighbours.setdefault(j, {})[i] = length
    found: _Rows = []
    seen: set[int] = set()
    for atom in sorted(neighbours):
        if atom in seen:
            continue
        cluster = _cluster(neighbours, atom)
        seen |= set(cluster)
        centre = max(cluster, key=lambda a: (len(neighbours[a]), molecule.masses[a]))
        others = [a for a in cluster if a != centre]
        ends = sum(len(neighbours[a]) for a in others)
        if len(others) > 3 or len(neighbours[centre]) < len(others) or (
            ends > len(others) and len(others) != 2
        ):  # fmt: skip
            problems.append(
                f"constraints (constraints 1) in molecule {molecule.name} that fix shake cannot "
                f"hold, {len(cluster)} atoms from {_atoms_said(np.array([atom]), molecule)} on"
            )
            continue
        found += _held(neighbours, centre, others)
    return found


def _cluster(neighbours: dict[int, dict[int, float]], atom: int) -> list[int]:
    found = [atom]
    for a in found:
        found += [b for b in neighbours[a] if b not in found]
    return found


def _held(
    neighbours: dict[int, dict[int, float]], centre: int, others: list[int]
) -> Iterator[tuple[Style, Int64[np.ndarray, "_ _"]]]:
    """Bonds of a star; of a triangle the angle instead of the third."""
    for other in others:
        length = neighbours[centre][other]
        words = _bond_words(HELD_STIFFNESS, length)
        yield Style("Bonds", "harmonic", words, "held"), np.array([[centre, other]])
    if len(others) == 2 and others[1] in neighbours[others[0]]:
        a, b = (neighbours[centre][o] for o in others)
        c = neighbours[others[0]][others[1]]
        theta = math.degrees(math.acos((a * a + b * b - c * c) / (2.0 * a * b)))
        words = (number(HELD_STIFFNESS), number(theta))
        yield (
            Style("Angles", "harmonic", words, "held"),
            np.array([[others[0], centre, others[1]]]),
        )


# --- pairs


@dataclass(frozen=True)
class _ListedPairs:
    """What pairs have that are listed: atoms, C6, C12 and the product of charges."""

    atoms: Int64[np.ndarray, "m 2"]
    """i < j, each once."""
    values: Float64[np.ndarray, "m 3"]


def _pairs_of(own: _Rows) -> Int64[np.ndarray, "b 2"]:
    """Pairs of atoms that are listed as bonds."""
    found = [atoms for style, atoms in own if style.section == "Bonds"]
    if not found:
        return np.zeros((0, 2), dtype=np.int64)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _summed(molecule: MoleculeType) -> _ListedPairs:
    """All listed pairs, those that occur several times added up."""
    q = molecule.charges
    i, j = molecule.pairs.atoms.T
    sigma, epsilon, factor = molecule.pairs.parameters.T
    c6 = 4.0 * epsilon * sigma**6
    atoms = [molecule.pairs.atoms]
    values = [np.stack([c6, c6 * sigma**6, factor * q[i] * q[j]], axis=1)]
    for kind in PAIR_KINDS:
        if kind not in molecule.terms:
            continue
        listed = molecule.terms[kind]
        zero = np.zeros(len(listed.atoms))
        if kind == "coulomb14":
            columns = (zero, zero, listed.parameters[:, 0])
        elif kind == "lj14":
            s, e = listed.parameters.T
            columns = (4.0 * e * s**6, 4.0 * e * s**12, zero)
        else:
            columns = (*listed.parameters.T, zero)
        atoms.append(listed.atoms)
        values.append(np.stack(columns, axis=1))
    everything = np.sort(np.concatenate(atoms), axis=1)
    unique, inverse = np.unique(everything, axis=0, return_inverse=True)
    total = np.zeros((len(unique), 3))
    np.add.at(total, inverse.reshape(-1), np.concatenate(values))
    return _ListedPairs(unique.reshape(-1, 2), total)


def _normal(topology: Topology, molecule: MoleculeType, atoms: np.ndarray) -> np.ndarray:
    """C6, C12 and charges of pairs as if they were of different molecules, (m, 3)."""
    row = {name: k for k, name in enumerate(topology.type_names)}
    kinds = np.array([row[t] for t in molecule.atom_types], dtype=np.int64)
    i, j = atoms.T
    charges = molecule.charges[i] * molecule.charges[j]
    a, b = kinds[i], kinds[j]
    return np.stack([topology.c6[a, b], topology.c12[a, b], charges], axis=1)


def _classic(topology: Topology, bonds: dict[int, np.ndarray]) -> Special | None:
    """Factors that state all exclusions and listed pairs; None: there are none.

    Exclusions must be what is up to n bonds apart, and listed pairs all that is three apart, with
    one share of their Lennard-Jones and one of their Coulomb.
    """
    for n in (3, 2, 1):
        shares = [_shares(topology, topology.molecule_types[t], bonds[t], n) for t in bonds]
        if any(s is None for s in shares):
            continue
        known = np.array([row for s in shares if s is not None for row in s]).reshape(-1, 2)
        factors = []
        for column in known.T:
            said = column[np.isfinite(column)]
            if len(said) and np.ptp(said) > 1e-7 * max(1.0, abs(said).max()):
                break
            factors.append(float(said.mean()) if len(said) else 0.0)
        if len(factors) == 2 and all(0.0 <= f <= 1.0 + 1e-9 for f in factors):
            rest = [(0.0 if n > 1 else 1.0), 1.0]
            lj, coulomb = ((0.0, rest[0], f if n == 3 else rest[1]) for f in factors)
            return Special(lj, coulomb)
    return None


def _shares(
    topology: Topology, molecule: MoleculeType, bonds: np.ndarray, n: int
) -> list[tuple[float, float]] | None:
    """Shares of 1-4 pairs; nan where a pair says nothing; None: the exclusions are others."""
    within = pairs_within(bonds, molecule.n_atoms, n)
    if not np.array_equal(np.unique(within, axis=0).reshape(-1, 2), molecule.exclusions):
        return None
    listed = _summed(molecule)
    if not len(listed.atoms):
        ring = _ring(bonds, molecule.n_atoms) if n == 3 else within[:0]
        normal = _normal(topology, molecule, ring)
        return [(0.0 if c12 or c6 else math.nan, 0.0 if q else math.nan) for c6, c12, q in normal]
    if n != 3 or not np.array_equal(listed.atoms, _ring(bonds, molecule.n_atoms)):
        return None
    normal = _normal(topology, molecule, listed.atoms)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(normal != 0.0, listed.values / normal, math.nan)
    if ((normal == 0.0) & (listed.values != 0.0)).any():
        return None
    c6, c12 = ratio[:, 0], ratio[:, 1]
    both = np.isfinite(c6) & np.isfinite(c12)
    if not np.allclose(c6[both], c12[both], rtol=1e-7):
        return None
    lj = np.where(np.isfinite(c6), c6, c12)
    return list(zip(lj.tolist(), ratio[:, 2].tolist(), strict=True))


def _ring(bonds: np.ndarray, n_atoms: int) -> Int64[np.ndarray, "m 2"]:
    """Pairs that are three bonds apart, sorted."""
    near = {tuple(p) for p in pairs_within(bonds, n_atoms, 2).tolist()}
    far = {tuple(p) for p in pairs_within(bonds, n_atoms, 3).tolist()}
    return np.array(sorted(far - near), dtype=np.int64).reshape(-1, 2)


def _listed_pairs(
    topology: Topology, molecule: MoleculeType, bonds: np.ndarray, made: LammpsTerms, tables: str
) -> _Rows:
    """Exclusions and listed pairs as bonds without energy, and of style ``table``.

    What is listed as a bond does not interact; a pair that should gets it in its table.
    """
    listed = _summed(molecule)
    excluded = {tuple(p) for p in molecule.exclusions.tolist()}
    bonded = {tuple(p) for p in bonds.tolist()}
    total = {tuple(p): v for p, v in zip(listed.atoms.tolist(), listed.values, strict=True)}
    inside = sorted((set(total) | bonded) - excluded)
    normal = _normal(topology, molecule, np.array(inside, dtype=np.int64).reshape(-1, 2))
    for pair, values in zip(inside, normal, strict=True):
        total[pair] = total.get(pair, np.zeros(3)) + values
    total = {pair: values for pair, values in total.items() if values.any()}
    found: _Rows = []
    nothing = sorted(excluded - bonded - set(total))
    if nothing:
        found.append((Style("Bonds", "zero", (), EXCLUSION), np.array(nothing)))
    by_values: dict[tuple[float, ...], list[tuple[int, ...]]] = {}
    for pair, values in sorted(total.items()):
        by_values.setdefault(tuple(float(f"{v:.11e}") for v in values), []).append(pair)
    for values, pairs in by_values.items():
        found.append((_pair_style(values, made, tables), np.array(pairs)))
    return found


def _pair_style(values: tuple[float, ...], made: LammpsTerms, tables: str) -> Style:
    label = made.pair_tables.setdefault(values, f"PAIR_{len(made.pair_tables) + 1}")
    c6, c12, charges = values
    unit = KCAL * ANGSTROM**6
    said = (c6 / unit, c12 / unit / ANGSTROM**6, charges)
    mark = " ".join([PAIR, *map(number, said)])
    style = Style("Bonds", "table", (tables, label), mark)
    if style not in made.numbers.get("Bonds", {}):
        r = np.geomspace(*PAIR_RANGE, PAIR_LINES)
        energy = c12 / r**12 - c6 / r**6 + COULOMB * charges / r
        slope = -12.0 * c12 / r**13 + 6.0 * c6 / r**7 - COULOMB * charges / r**2
        made.tables += table_text(label, r / ANGSTROM, energy / KCAL, slope / KCAL * ANGSTROM)
        made.number(style)
    return style

"""LAMMPS data files as ``Topology``, with coefficients inside or in an input script.

An input script is a topology too: that of the data file it reads. Units are converted here: nm,
kJ/mol, u, e, rad.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.io.topology.assemble import FlatSystem, assemble
from deepbackmap.io.topology.base import TopologyOptions
from deepbackmap.io.topology.gromacs_molecules import pairs_within
from deepbackmap.io.topology.lammps_lines import (
    CLASS2,
    COLUMNS,
    EXCLUSION,
    LISTS,
    PAIR,
    SPRING,
    LammpsInput,
    Row,
    data_of_script,
    plain_style,
    read_data,
    read_script,
    real_number,
    whole_number,
)
from deepbackmap.io.topology.lammps_pairs import (
    COULOMB_ALONE,
    FORM,
    HYBRIDS,
    TypePairs,
    pairs_of_types,
)
from deepbackmap.io.topology.lammps_styles import (
    COUPLINGS,
    LISTED,
    STYLES,
    UNITS,
    WEIGHT,
    Made,
    Units,
)
from deepbackmap.io.topology.lammps_tables import made_of_table
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import BondedTerms, Topology
from deepbackmap.system.elements import element_symbols
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.pair_forms import OTHER_PAIRS
from deepbackmap.system.topology import Origin


def read_lammps(path: Path, options: TopologyOptions) -> Topology:
    """A data file; styles and units come from its comments, from inputs or from the options.

    Raises:
        InputError: the files are malformed, or nothing says what the units are.
    """
    found = LammpsInput(path, units=options.units)
    read_data(path, found)
    for name in options.inputs:
        read_script(name, found)
    if found.units not in UNITS:
        raise InputError(
            f"{path}: expected units ({', '.join(UNITS)}) in the first line, in an input script "
            f"that reads this file (give that as the topology) or as an option, found "
            f"{found.units or 'none'}"
        )
    units = UNITS[found.units]
    found.uncharged = bool(options.inputs) and _knows_no_charges(found)
    notices = _notices(found, scripted=bool(options.inputs))
    topology = _build(found, units)
    topology = replace(topology, notices=(*topology.notices, *notices))
    first = found.sections["Atoms"][0].words
    style = found.atom_style or "full"
    before = 2 + sum(c is not None for c in COLUMNS[style][::2])
    flags = len(first) > before + 3
    inputs = tuple(map(str, options.inputs))
    if topology.pair_forms is not None:
        topology = replace(topology, notices=(*topology.notices, OTHER_PAIRS.format(path)))
    return replace(topology, origin=Origin(str(path), units.length, before, flags, inputs))


def _knows_no_charges(found: LammpsInput) -> bool:
    """Whether the pair style an input names leaves out what charges do to each other."""
    words = [plain_style(w) for w in found.styles.get("pair", [])]
    styles = [w for w in words if w in FORM or w in COULOMB_ALONE]
    return bool(styles) and not any("coul" in w for w in words)


def _notices(found: LammpsInput, *, scripted: bool) -> list[str]:
    """What a reader should know: what was taken for granted, and charges that are left out."""
    notices = []
    if not scripted and any(found.sections.get(k) for k in ("Angles", "Dihedrals")):
        notices.append(
            f"{found.path}: a data file alone does not say special_bonds (taken as LAMMPS' "
            "default: atoms up to three bonds apart do not interact), how types mix, nor the pair "
            "style; give the input script that reads it as the topology"
        )
    if found.units == "lj":
        notices.append(
            f"{found.path}: units lj are taken as 1 kJ/mol for epsilon, 1 nm for sigma and 1 u, so "
            f"that a reduced temperature of 1 is {1.0 / BOLTZMANN:.2f} K: temperatures are asked "
            "for in K"
        )
    if found.uncharged and COLUMNS[found.atom_style or "full"][2]:
        notices.append(
            f"{found.path}: pair_style {' '.join(found.styles['pair'])} knows no charges, so that "
            "those of the data file are taken as none, as LAMMPS does"
        )
    return notices


def read_lammps_script(path: Path, options: TopologyOptions) -> Topology:
    """The data file that an input script reads, with what the script says of it.

    Raises:
        InputError: as ``read_lammps``, or the script reads no data file.
    """
    return read_lammps(data_of_script(path), replace(options, inputs=(*options.inputs, path)))


# --- building


@dataclass
class _Terms:
    """Terms of a whole system while they are gathered."""

    rows: dict[str, list[tuple[Sequence[int], tuple[float, ...]]]] = field(default_factory=dict)
    """Atoms and columns by kind."""
    curves: dict[str, list[Made]] = field(default_factory=dict)
    """Tables by kind, each once."""
    joined: list[Sequence[int]] = field(default_factory=list)
    """All that LAMMPS counts as bonds, over which ``special_bonds`` goes."""
    apart: list[Sequence[int]] = field(default_factory=list)
    """Pairs of atoms that do not interact whatever ``special_bonds`` says."""
    weights: list[tuple[int, int, float]] = field(default_factory=list)
    """1-4 pairs of dihedrals and their factors."""
    pairs: list[tuple[Sequence[int], tuple[float, ...]]] = field(default_factory=list)
    """Pairs that are listed with numbers of their own (``LISTED``)."""

    def add(self, atoms: Sequence[int], made: Made) -> None:
        """Takes a term."""
        if made.kind == WEIGHT:
            self.weights.append((atoms[0], atoms[-1], made.parameters[0]))
            return
        if made.kind == LISTED:
            self.pairs.append((atoms, made.parameters))
            return
        parameters = made.parameters
        if made.curve is not None:
            known = self.curves.setdefault(made.kind, [])
            row = next((k for k, m in enumerate(known) if m is made), len(known))
            if row == len(known):
                known.append(made)
            curve = made.curve
            parameters = (1.0, row, curve.start, curve.spacing, curve.values.shape[1])
        self.rows.setdefault(made.kind, []).append((atoms, parameters))

    def listed(self) -> dict[str, BondedTerms]:
        """All of them by kind."""
        return {kind: self._listed(kind) for kind in self.rows}

    def _listed(self, kind: str) -> BondedTerms:
        rows = self.rows[kind]
        atoms = np.array([list(a) for a, _ in rows], dtype=np.int64)
        parameters = np.array([list(p) for _, p in rows], dtype=np.float64)
        curves = [m.curve.values for m in self.curves.get(kind, []) if m.curve is not None]
        longest = max((c.shape[1] for c in curves), default=0)
        grids = [np.pad(c, ((0, 0), (0, longest - c.shape[1])), mode="edge") for c in curves]
        return BondedTerms(
            atoms.reshape(len(rows), KINDS[kind].n_atoms),
            parameters.reshape(len(rows), len(KINDS[kind].columns)),
            np.stack(grids) if grids else None,
        )


@dataclass(frozen=True)
class _Atoms:
    """The section Atoms in the order of the ids."""

    places: dict[int, int]
    """Of the ids."""
    molecules: Int64[np.ndarray, " n"]
    types: Int64[np.ndarray, " n"]
    charges: Float64[np.ndarray, " n"]
    named: tuple[tuple[str, str, int], ...]
    """Name, residue and its number, where the file says them; else none."""


def _build(found: LammpsInput, units: Units) -> Topology:
    atoms = _atoms(found, units)
    if not found.masses:
        raise InputError(f"{found.path}: expected a section Masses, found none")
    numbers = sorted(found.masses)
    missing = sorted(set(atoms.types.tolist()) - set(numbers))
    if missing:
        raise InputError(f"{found.path}: expected a mass of type {missing[0]}, found none")
    row = {t: k for k, t in enumerate(numbers)}
    terms = _terms(found, units, atoms.places)
    type_names = _type_names(found, numbers, units)
    table = pairs_of_types(found, units, numbers)
    kinds = np.array([row[t] for t in atoms.types.tolist()], dtype=np.int64)
    excluded, pairs = _special(found, terms, kinds, table)
    pairs = _with_listed(terms, pairs, atoms.charges)
    atom_types = tuple(type_names[k] for k in kinds.tolist())
    names, residues, of_residue = _names(atoms, atom_types)
    return assemble(
        FlatSystem(
            atom_names=names,
            atom_types=atom_types,
            residue_names=residues,
            residue_numbers=of_residue,
            charges=atoms.charges,
            masses=np.array([found.masses[t][0] * units.mass for t in atoms.types.tolist()]),
            bonds=np.array(terms.joined, dtype=np.int64).reshape(-1, 2),
            type_names=type_names,
            c6=table.c6,
            c12=table.c12,
            pair_forms=table.forms,
            terms=terms.listed(),
            exclusions=excluded,
            pairs=pairs,
            unsupported=tuple(found.unsupported.values()),
            source=str(found.path),
        )
    )


def _atoms(found: LammpsInput, units: Units) -> _Atoms:
    rows = found.sections.get("Atoms")
    if not rows:
        raise InputError(f"{found.path}: expected a section Atoms, found none")
    style = found.atom_style or {7: "full", 10: "full"}.get(len(rows[0].words))
    if style not in COLUMNS:
        raise InputError(
            f"{rows[0].where}: expected an atom style ({', '.join(COLUMNS)}) behind 'Atoms #' or "
            f"in an input script, found {style or 'none'}"
        )
    of_molecule, of_type, of_charge = COLUMNS[style]
    column = None if found.uncharged else of_charge
    least = 5 + sum(c is not None for c in (of_molecule, of_charge))
    table = []
    for where, words, comment in rows:
        if len(words) not in (least, least + 3):
            raise InputError(
                f"{where}: expected {least} or {least + 3} words of an atom of style {style}, "
                f"found {len(words)}"
            )
        table.append(
            (
                whole_number(where, words[0]),
                whole_number(where, words[of_molecule]) if of_molecule else 1,
                found.type_number("atom", where, words[of_type]),
                real_number(where, words[column]) * units.charge if column else 0.0,
                _named(where, comment) if found.named_rows else None,
            )
        )
    table.sort(key=lambda r: r[0])
    places = {r[0]: k for k, r in enumerate(table)}
    if len(places) != len(table):
        raise InputError(f"{found.path}: expected every atom once, found an id twice")
    _, molecules, types, charges, named = zip(*table, strict=True)
    return _Atoms(
        places, np.array(molecules), np.array(types), np.array(charges, dtype=np.float64),
        named if found.named_rows else (),
    )  # fmt: skip


def _named(where: str, comment: str) -> tuple[str, str, int]:
    words = comment.split()
    if len(words) != 3:
        raise InputError(
            f"{where}: expected name, residue and its number behind an atom, as the first line "
            f"says, found '{comment}'"
        )
    return words[0], words[1], whole_number(where, words[2])


def _names(
    atoms: _Atoms, types: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...], Int64[np.ndarray, " n"]]:
    """Names of atoms, and names and numbers of residues.

    LAMMPS has none: an atom is called by its type and place in the molecule, unless the file is
    one of ours.
    """
    if atoms.named:
        names, residues, numbers = zip(*atoms.named, strict=True)
        return names, residues, np.array(numbers, dtype=np.int64)
    counts: dict[int, int] = {}
    made = []
    for kind, number in zip(types, atoms.molecules.tolist(), strict=True):
        counts[number] = counts.get(number, 0) + 1
        made.append(f"{kind}{counts[number]}")
    return tuple(made), ("MOL",) * len(made), atoms.molecules


def _type_names(found: LammpsInput, numbers: Sequence[int], units: Units) -> tuple[str, ...]:
    """Labels of the types, else what a file of ours says, else elements with the number."""
    by_number = {number: label for label, number in found.labels.get("atom", {}).items()}
    if found.named_rows:
        rows = found.sections.get("Masses", [])
        by_number |= {int(r.words[0]): r.comment for r in rows if len(r.comment.split()) == 1}
    masses = np.array([found.masses[t][0] * units.mass for t in numbers])
    elements = element_symbols(masses)
    names = [by_number.get(t, f"{e}{t}") for t, e in zip(numbers, elements, strict=True)]
    # one type of ours that has two masses is two types there
    return tuple(
        f"{name}_{t}" if names.count(name) > 1 else name
        for t, name in zip(numbers, names, strict=True)
    )


def _terms(found: LammpsInput, units: Units, places: dict[int, int]) -> _Terms:
    """All listed terms."""
    terms = _Terms()
    for section, width in LISTS.items():
        kind = section[:-1].lower()
        known: dict[int, list[Made] | None] = {}
        for where, words, _ in found.sections.get(section, []):
            if len(words) != width + 2:
                raise InputError(
                    f"{where}: expected {width + 2} words in {section}, found {len(words)}"
                )
            number = found.type_number(kind, where, words[1])
            try:
                atoms = [places[whole_number(where, w)] for w in words[2:]]
            except KeyError as problem:
                raise InputError(
                    f"{where}: expected ids of the section Atoms, found {problem.args[0]}"
                ) from None
            if number not in known:
                known[number] = _converted(found, units, kind, number)
            rows = known[number]
            if rows is None:
                found.refuse(
                    f"the energy of {kind} type {number} (style {_said(found, kind, number)}) is "
                    f"not known",
                    where,
                )
                rows = [Made("connection")] if kind == "bond" else []
            if kind == "bond":
                _join(found, terms, number, atoms)
            for made in rows:
                terms.add(atoms, made)
    return terms


def _said(found: LammpsInput, kind: str, number: int) -> str:
    """The style of a type, for a message."""
    row = found.coefficients.get(kind, {}).get(number)
    if row is not None:
        return _style_and_words(found, kind, row)[0] or "none"
    return f"{found.style(kind) or 'none'}, no coefficients: the input script of the run has them"


def _join(found: LammpsInput, terms: _Terms, number: int, atoms: Sequence[int]) -> None:
    """Notes what a bond means besides its energy."""
    row = found.coefficients.get("bond", {}).get(number)
    terms.joined.append(atoms)
    if row is not None and _style_and_words(found, "bond", row)[0] == "quartic":
        terms.apart.append(atoms)


def _mark(row: Row | None) -> str:
    """What a comment of ours says of a type of bonds."""
    words = [] if row is None else row.comment.split()
    return words[0] if words else ""


def _style_and_words(found: LammpsInput, kind: str, row: Row) -> tuple[str, list[str]]:
    style, words = found.style(kind), row.words
    if style in HYBRIDS and words:
        style, words = plain_style(words[0]), words[1:]
    return style, words


def _not_chemical(made: Made) -> Made:
    """A spring that is no bond."""
    return replace(made, kind="harmonic") if made.kind == "bond" else made


def _converted(found: LammpsInput, units: Units, kind: str, number: int) -> list[Made] | None:
    """A type of terms in our words; None where its energy is not known."""
    if number not in found.coefficients.get(kind, {}):
        return None
    row = found.coefficients[kind][number]
    style, words = _style_and_words(found, kind, row)
    mark = _mark(row)
    if mark == EXCLUSION:
        return []
    if mark == PAIR and len(numbers := row.comment.split()[1:]) == 3:
        c6, c12, charges = (real_number(row.where, w) for w in numbers)
        scale = units.energy * units.length**6
        return [Made(LISTED, (c6 * scale, c12 * scale * units.length**6, charges))]
    make = STYLES.get((kind, style))
    if make is None and style != "table":
        return None
    try:
        if make is None:
            name = f"{kind}_table_nc" if mark == PAIR else f"{kind}_table"
            if name not in KINDS:
                return None
            return made_of_table(found, kind, row.where, words, units, name)
        values = [] if style == "zero" else [real_number(row.where, w) for w in words]
        made = [_not_chemical(m) if mark == SPRING else m for m in make(values, units)]
    except (IndexError, ValueError, ArithmeticError):
        raise InputError(
            f"{row.where}: expected coefficients of {kind}_style {style}, found {' '.join(words)}"
        ) from None
    if style != "class2" or kind == "bond":
        return made
    coupled = _couplings(found, units, kind, number, values)
    return None if coupled is None else made + coupled


def _couplings(
    found: LammpsInput, units: Units, kind: str, number: int, values: Sequence[float]
) -> list[Made] | None:
    """What a type of style ``class2`` has besides; None: LAMMPS would miss coefficients."""
    made: list[Made] = []
    for word in (word for of_kind, word, _ in CLASS2.values() if of_kind == kind):
        row = found.couplings.get((kind, word), {}).get(number)
        if row is None:
            found.refuse(f"expected coefficients {word} of {kind} type {number} (style class2), "
                         f"found none", str(found.path))  # fmt: skip
            return None
        numbers = [real_number(row.where, w) for w in row.words]
        try:
            made += COUPLINGS[kind, word](numbers + list(values[:1]) * (word == "ba"), units)
        except (IndexError, ValueError):
            raise InputError(
                f"{row.where}: expected coefficients {word} of {kind}_style class2, found "
                f"{' '.join(row.words)}"
            ) from None
    return made


# --- pairs


def _special(
    found: LammpsInput, terms: _Terms, kinds: Int64[np.ndarray, " n"], table: TypePairs
) -> tuple[Int64[np.ndarray, "m 2"], BondedTerms]:
    """Pairs over one to three bonds: excluded, and listed again where a factor is not zero."""
    n = len(kinds)
    apart = np.array(terms.apart, dtype=np.int64).reshape(-1, 2)
    excluded = [apart]
    atoms, parameters = [np.zeros((0, 2), dtype=np.int64)], [np.zeros((0, 3))]
    joined = np.array(terms.joined, dtype=np.int64).reshape(-1, 2)
    before = apart.min(axis=1) * n + apart.max(axis=1)
    factors = list(zip(found.lj_factors, found.coulomb_factors, strict=True))
    farthest = max((k for k, f in enumerate(factors, 1) if f != (1.0, 1.0)), default=0)
    for distance, (lj, coulomb) in enumerate(factors[:farthest], 1):
        near = pairs_within(joined, n, distance)
        keys = np.setdiff1d(near[:, 0] * n + near[:, 1], before)
        before = np.concatenate([before, keys])
        if lj == coulomb == 1.0 or not len(keys):
            continue
        ring = np.stack([keys // n, keys % n], axis=1)
        excluded.append(ring)
        if lj or coulomb:
            i, j = kinds[ring].T
            if lj and table.other[i, j].any():
                found.refuse(
                    f"the factor {lj:g} of special_bonds is not known for pairs that are not "
                    f"Lennard-Jones", str(found.path), int(table.other[i, j].sum())
                )  # fmt: skip
            columns = (table.sigma[i, j], lj * table.epsilon[i, j], np.full(len(ring), coulomb))
            atoms.append(ring)
            parameters.append(np.stack(columns, axis=1))
    if terms.weights:
        first, last, weights = np.array(terms.weights).T
        i, j = kinds[first.astype(int)], kinds[last.astype(int)]
        atoms.append(np.stack([first, last], axis=1).astype(np.int64))
        columns = (table.sigma14[i, j], weights * table.epsilon14[i, j], weights)
        parameters.append(np.stack(columns, axis=1))
    return np.concatenate(excluded), BondedTerms(np.concatenate(atoms), np.concatenate(parameters))


def _with_listed(
    terms: _Terms, pairs: BondedTerms, charges: Float64[np.ndarray, " n"]
) -> BondedTerms:
    """The pairs with those that have numbers of their own; what no pair can say becomes terms."""
    atoms, parameters = [pairs.atoms], [pairs.parameters]
    for (i, j), (c6, c12, product) in terms.pairs:
        own = float(charges[i] * charges[j])
        if (c6 > 0.0 and c12 > 0.0) or (c6 == c12 == 0.0):
            sigma = (c12 / c6) ** (1.0 / 6.0) if c6 else 0.0
            epsilon = c6 * c6 / (4.0 * c12) if c6 else 0.0
        else:
            terms.add((i, j), Made("lj14_powers", (c6, c12)))
            sigma = epsilon = 0.0
        if product and not own:
            terms.add((i, j), Made("coulomb14", (product,)))
        atoms.append(np.array([[i, j]], dtype=np.int64))
        parameters.append(np.array([[sigma, epsilon, product / own if own else 0.0]]))
    return BondedTerms(np.concatenate(atoms), np.concatenate(parameters))

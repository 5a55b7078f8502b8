"""GROMACS topologies (``.top`` with its ``.itp`` files) as ``Topology``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.io.topology.base import TopologyOptions
from deepbackmap.io.topology.gromacs_lines import (
    Line,
    Lines,
    Problems,
    Run,
    gromacs_include_dirs,
    integer,
    preprocess,
)
from deepbackmap.io.topology.gromacs_molecules import (
    PASSED_SECTIONS,
    UNKNOWN_TYPE,
    Atoms,
    MoleculeLines,
    Notes,
    Reader,
    build_molecule,
    parse_molecule_header,
    parse_terms,
)
from deepbackmap.io.topology.gromacs_tables import Tables
from deepbackmap.io.topology.gromacs_types import (
    WIDTH,
    ForceField,
    parse_atom_types,
    parse_bonded_types,
    parse_cmap_types,
    parse_defaults,
    parse_pair_table,
)
from deepbackmap.system import BondedTerms, MoleculeType, Topology
from deepbackmap.system.pair_forms import OTHER_PAIRS
from deepbackmap.system.topology import Unsupported

_TYPE_SECTIONS = frozenset(
    (
        "defaults",
        "atomtypes",
        "nonbondparams",
        "pairtypes",
        "bondtypes",
        "constrainttypes",
        "angletypes",
        "dihedraltypes",
        "cmaptypes",
        "implicitgenbornparams",
    )
)
_SYSTEM_SECTIONS = frozenset(("system", "molecules"))
_BETWEEN = "intermolecularinteractions"
MOST_ATOMS = 2**31 - 1
"""Of a system, as in GROMACS."""
MOST_ATOMS_BETWEEN = 100_000_000
"""Of a system with terms between molecules, for which all atoms are written out."""


def read_gromacs(path: Path, options: TopologyOptions) -> Topology:
    """Read a GROMACS topology and everything it includes.

    Only the molecule types that ``[ molecules ]`` names are read in full, so a force field
    or a water model that is included and not used may hold anything. Restraints are passed
    over, and of a perturbed molecule state A counts. See ``docs/topology-reader.md``.

    Args:
        path: The ``.top`` file.
        options: macros, folders of included files, tables. Included files are looked for beside
            the including file, in these folders, and in those of an installed GROMACS (GMXLIB,
            GMXDATA, beside ``gmx``).

    Raises:
        InputError: for all that is missing or malformed, with file and line. A term that is
            understood but for its energy is kept in ``MoleculeType.unsupported`` instead.
    """
    problems = Problems(path)
    sections = _Sections(path, problems)
    folders = (*options.include_dirs, *gromacs_include_dirs())
    for piece in preprocess(path, options.defines, folders):
        sections.add(piece)
    _refuse_part(sections)
    force_field = _force_field(sections)
    sound = not problems.found
    wanted = _counts(sections)
    tables = Tables.of(options.tables)
    if force_field is None:
        problems.check()
        raise AssertionError("a topology without a force field has problems")
    reader = Reader(force_field, tables, problems)
    used = list(dict.fromkeys(molecule.name for molecule, _ in wanted))
    by_name = {molecule.name: molecule for molecule, _ in wanted}
    built = [build_molecule(by_name[name], reader) for name in used]
    types = tuple(molecule for molecule in built if molecule is not None)
    blocks = tuple((used.index(molecule.name), count) for molecule, count in wanted)
    if len(types) == len(built):
        between, unsupported = _between(sections, types, blocks, reader)
    if problems.found and sound:
        _name_types(problems, types)
    problems.check()
    names = _used_atom_types(types, force_field)
    forms = force_field.forms(names) if force_field.defaults.buckingham else None
    with np.errstate(over="ignore"):
        c6, c12 = force_field.matrices(names) if forms is None else forms.lennard_jones()
    if not np.isfinite(c6 + c12).all():
        raise InputError(
            f"{path}: expected Lennard-Jones numbers whose C12 is finite, found larger ones for "
            f"{names[int(np.argmin(np.isfinite(c6 + c12).all(axis=1)))]}"
        )
    title = sections.system.get("system")
    return Topology(
        title=title[0].text if title else "",
        molecule_types=types,
        blocks=blocks,
        type_names=names,
        c6=c6,
        c12=c12,
        pair_forms=forms,
        source=str(path),
        intermolecular=between,
        unsupported=unsupported,
        notices=(
            *_missing_pairs(types, by_name, force_field),
            *([] if forms is None else [OTHER_PAIRS.format(path)]),
        ),
    )


def _name_types(problems: Problems, types: Iterable[MoleculeType]) -> None:
    """Atom types that do not exist stop energies only, but are said with what stops everything."""
    for note in (note for molecule in types for note in molecule.unsupported):
        if note.what.startswith(UNKNOWN_TYPE):
            problems.add(note.where, note.what)


def _missing_pairs(
    types: tuple[MoleculeType, ...],
    lines: Mapping[str, MoleculeLines],
    force_field: ForceField,
) -> Iterator[str]:
    """Molecules whose 1-4 interactions are excluded and not listed, which is rarely meant."""
    for molecule in types:
        dihedrals = any(t.atoms.shape[1] == 4 for t in molecule.terms.values())
        listed = len(molecule.pairs.atoms) or "lj14_powers" in molecule.terms
        if molecule.nrexcl >= 3 and dihedrals and force_field.pairs and not listed:
            yield (
                f"{lines[molecule.name].line.where}: expected [ pairs ] in molecule "
                f"{molecule.name}, whose nrexcl is {molecule.nrexcl} and whose force field has "
                "[ pairtypes ], found none: its 1-4 interactions are left out"
            )


@dataclass
class _Sections:
    """The lines of a topology sorted into its sections."""

    path: Path
    problems: Problems
    types: dict[str, Lines] = field(default_factory=dict)
    molecules: dict[str, MoleculeLines] = field(default_factory=dict)
    system: dict[str, Lines] = field(default_factory=dict)
    between: MoleculeLines | None = None
    current: str | None = None
    molecule: MoleculeLines | None = None

    def add(self, piece: Line | Run) -> None:
        """Sort in a run of lines; a heading changes where the following ones go."""
        try:
            if isinstance(piece, Line):
                self._open(piece)
            else:
                self._sort(piece)
        except InputError as problem:
            self.problems.catch(problem)

    def _sort(self, run: Run) -> None:
        if self.current is None:
            return  # force fields of GROMACS begin with a banner of asterisks; it skips it too
        if self.current == "moleculetype":
            for k in range(len(run.texts)):
                self._start_molecule(run.line(k))
        elif self.current in _TYPE_SECTIONS:
            self.types.setdefault(self.current, Lines()).add(run)
        elif self.current in _SYSTEM_SECTIONS:
            self.system.setdefault(self.current, Lines()).add(run)
        elif self.molecule is not None:
            self.molecule.sections.setdefault(self.current, Lines()).add(run)

    def _open(self, line: Line) -> None:
        if not line.text.endswith("]"):
            raise line.error(f"expected ']' at the end of a section's name, found '{line.text}'")
        # GROMACS compares these names without regard to case, '-' and '_'
        name = "".join(c for c in line.text[1:-1].lower() if c not in " -_")
        self.current = name
        if name in _TYPE_SECTIONS:
            if self.molecules:
                raise line.error(
                    f"expected all types before the first [ moleculetype ], found {line.text}"
                )
        elif name in _SYSTEM_SECTIONS:
            self.molecule = None
        elif name == _BETWEEN:
            self.molecule = self.between = MoleculeLines(line, "between molecules", 0)
            self.molecule.headings[name] = line.text
        elif self.molecule is not None:
            self.molecule.headings[name] = line.text
        elif name != "moleculetype":
            raise line.error(f"expected [ moleculetype ] before {line.text}, found none")

    def _start_molecule(self, line: Line) -> None:
        molecule = parse_molecule_header(line, self.problems)
        if molecule.name in self.molecules:
            raise line.error(
                f"expected one [ moleculetype ] named {molecule.name}, found another after "
                f"{self.molecules[molecule.name].line.where}"
            )
        self.molecules[molecule.name] = self.molecule = molecule


def _refuse_part(sections: _Sections) -> None:
    """Refuses what is included in a topology and is none itself."""
    if sections.molecules and not (sections.types or sections.system):
        names = ", ".join(sections.molecules)
        raise InputError(
            f"{sections.path}: expected a whole topology, found molecule {names} alone: write a "
            f'.top that has #include of its force field (such as "charmm27.ff/forcefield.itp"), '
            f'#include "{sections.path.name}", [ system ] and [ molecules ]'
        )


def _force_field(sections: _Sections) -> ForceField | None:
    """All parameter sections; None, with a problem noted, where the first two are missing."""
    types, problems = sections.types, sections.problems
    missing = [name for name in ("defaults", "atomtypes") if not types.get(name)]
    for name in missing:
        problems.add(str(sections.path), f"expected a section [ {name} ], found none")
    if missing:
        return None
    try:
        defaults = parse_defaults(types["defaults"])
    except InputError as problem:
        problems.catch(problem)
        return None
    atom_types = parse_atom_types(types["atomtypes"], defaults.buckingham, problems)
    form = 2 if defaults.buckingham else 1
    nonbonded = parse_pair_table(
        types.get("nonbondparams", Lines()), "nonbond_params", atom_types, problems, form
    )
    # 1-4 pairs are Lennard-Jones whatever the others are
    pairs = parse_pair_table(types.get("pairtypes", Lines()), "pairtypes", atom_types, problems)
    return ForceField(
        defaults=defaults,
        atom_types=atom_types,
        nonbonded=nonbonded,
        pairs=pairs,
        bonded=parse_bonded_types(types, problems),
        cmaps=parse_cmap_types(types.get("cmaptypes", Lines()), problems),
    )


def _counts(sections: _Sections) -> list[tuple[MoleculeLines, int]]:
    """Molecules and how many of each, in file order; those with none are left out."""
    lines, problems = sections.system.get("molecules"), sections.problems
    if not lines:
        problems.add(str(sections.path), "expected a section [ molecules ], found none")
        return []
    before, found, atoms = len(problems.found), [], 0
    for line in lines:
        try:
            molecule, count = _count(line, sections.molecules)
            atoms += count * len(molecule.sections.get("atoms", ()))
            if atoms > MOST_ATOMS:
                raise line.error(
                    f"expected at most {MOST_ATOMS} atoms in [ molecules ], found {count} of "
                    f"{molecule.name}"
                )
        except InputError as problem:
            problems.catch(problem)
            continue
        if count:
            found.append((molecule, count))
    if not found and len(problems.found) == before:
        problems.add(lines[0].where, "expected at least one molecule in [ molecules ], found none")
    return found


def _count(line: Line, known: Mapping[str, MoleculeLines]) -> tuple[MoleculeLines, int]:
    words = line.fields
    if len(words) != 2:
        raise line.error(f"expected a molecule's name and a count, found '{line.text}'")
    count = integer(line, words[1], "the number of molecules")
    if count < 0:
        raise line.error(f"expected zero molecules or more, found {count}")
    return _by_name(line, words[0], known), count


def _by_name(line: Line, name: str, known: Mapping[str, MoleculeLines]) -> MoleculeLines:
    """The molecule type of a name: as written, or the only one that differs in case."""
    if name in known:
        return known[name]
    alike = [m for n, m in known.items() if n.lower() == name.lower()]
    if len(alike) != 1:
        listed = ", ".join(known) or "none at all"
        raise line.error(f"expected a molecule type ({listed}), found '{name}'")
    return alike[0]


def _used_atom_types(types: Iterable[MoleculeType], force_field: ForceField) -> tuple[str, ...]:
    """Atom types of the molecules, in the order of ``[ atomtypes ]``, then those not in it."""
    used = dict.fromkeys(name for molecule in types for name in molecule.atom_types)
    known = [name for name in force_field.atom_types if name in used]
    return (*known, *(name for name in used if name not in force_field.atom_types))


def _between(
    sections: _Sections,
    types: tuple[MoleculeType, ...],
    blocks: tuple[tuple[int, int], ...],
    reader: Reader,
) -> tuple[dict[str, BondedTerms], tuple[Unsupported, ...]]:
    """``[ intermolecular_interactions ]``: terms with atoms of the system."""
    found = sections.between
    if found is None:
        return {}, ()
    notes = Notes()
    for section, lines in found.sections.items():
        if section in WIDTH or section in PASSED_SECTIONS or not len(lines):
            continue
        notes.add(lines[0], f"the energy of {found.headings[section]} between molecules "
                  "is not known", len(lines))  # fmt: skip
    n_atoms = sum(types[index].n_atoms * count for index, count in blocks)
    if n_atoms > MOST_ATOMS_BETWEEN:
        reader.problems.add(
            found.line.where,
            f"expected at most {MOST_ATOMS_BETWEEN} atoms beside {found.line.text}, "
            f"found {n_atoms}",
        )
        return {}, ()
    atoms = _all_atoms(types, blocks, reader.force_field)
    terms, _ = parse_terms(found.sections, atoms, reader, notes)
    return terms, notes.result()


def _all_atoms(
    types: tuple[MoleculeType, ...],
    blocks: tuple[tuple[int, int], ...],
    force_field: ForceField,
) -> Atoms:
    """The atoms of the whole system; of their columns only the types are filled."""
    names = tuple(n for index, count in blocks for n in types[index].atom_types * count)
    known = force_field.atom_types
    bonded = tuple(known[n].bonded if n in known else n for n in names)
    zero = np.zeros(len(names))
    return Atoms(names, names, bonded, names, zero.astype(np.int64), zero, zero)

"""GROMACS topologies (``.top`` with its ``.itp`` files) as ``Topology``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepbackmap.errors import InputError
from deepbackmap.io.topology_lines import Line, gromacs_include_dirs, integer, preprocess
from deepbackmap.io.topology_molecules import MoleculeLines, build_molecule, parse_molecule_header
from deepbackmap.io.topology_types import (
    ForceField,
    parse_atom_types,
    parse_bonded_types,
    parse_defaults,
    parse_pair_table,
)
from deepbackmap.system import MoleculeType, Topology

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


def read_topology(
    path: str | Path,
    *,
    defines: Mapping[str, str] | None = None,
    include_dirs: Sequence[Path] = (),
) -> Topology:
    """Read a GROMACS topology and everything it includes.

    Only the molecule types that ``[ molecules ]`` names are read in full, so a force field
    or a water model that is included and not used may hold anything. Restraints are passed
    over. Function types are those of ``FUNCTIONS``; see ``docs/topology-reader.md``.

    Args:
        path: The ``.top`` file.
        defines: Macros that are defined from the start, as ``define = -DNAME=value`` does in
            run parameters; an empty value only answers ``#ifdef``.
        include_dirs: Folders searched for included files after the folder of the including
            file and before those of an installed GROMACS (GMXLIB, GMXDATA, beside ``gmx``).

    Raises:
        InputError: for anything that is missing, malformed or not supported, with file
            and line.
    """
    path = Path(path)
    folders = (*map(Path, include_dirs), *gromacs_include_dirs())
    sections = _Sections(path)
    for line in preprocess(path, defines or {}, folders):
        sections.add(line)
    force_field = _force_field(sections)
    wanted = _counts(sections)
    used = list(dict.fromkeys(molecule.name for molecule, _ in wanted))
    by_name = {molecule.name: molecule for molecule, _ in wanted}
    types = tuple(build_molecule(by_name[name], force_field) for name in used)
    names = _used_atom_types(types, force_field)
    c6, c12 = force_field.matrices(names)
    return Topology(
        title=sections.system["system"][0].text if sections.system.get("system") else "",
        molecule_types=types,
        blocks=tuple((used.index(molecule.name), count) for molecule, count in wanted),
        type_names=names,
        c6=c6,
        c12=c12,
        source=str(path),
    )


@dataclass
class _Sections:
    """The lines of a topology sorted into its sections."""

    path: Path
    types: dict[str, list[Line]] = field(default_factory=dict)
    molecules: dict[str, MoleculeLines] = field(default_factory=dict)
    system: dict[str, list[Line]] = field(default_factory=dict)
    current: str | None = None
    molecule: MoleculeLines | None = None

    def add(self, line: Line) -> None:
        """Sort in one line; a heading changes where the following ones go."""
        if line.text.startswith("["):
            self._open(line)
        elif self.current is None:
            return  # force fields of GROMACS begin with a banner of asterisks; it skips it too
        elif self.current == "moleculetype":
            self._start_molecule(line)
        elif self.current in _TYPE_SECTIONS:
            self.types.setdefault(self.current, []).append(line)
        elif self.current in _SYSTEM_SECTIONS:
            self.system.setdefault(self.current, []).append(line)
        elif self.molecule is not None:
            self.molecule.sections.setdefault(self.current, []).append(line)

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
        elif name == "intermolecularinteractions":
            raise line.error(f"expected terms inside molecules only, found {line.text}")
        elif self.molecule is not None:
            self.molecule.headings[name] = line.text
        elif name != "moleculetype":
            raise line.error(f"expected [ moleculetype ] before {line.text}, found none")

    def _start_molecule(self, line: Line) -> None:
        molecule = parse_molecule_header(line)
        if molecule.name in self.molecules:
            raise line.error(
                f"expected one [ moleculetype ] named {molecule.name}, found another after "
                f"{self.molecules[molecule.name].line.where}"
            )
        self.molecules[molecule.name] = self.molecule = molecule


def _force_field(sections: _Sections) -> ForceField:
    types = sections.types
    for needed in ("defaults", "atomtypes"):
        if not types.get(needed):
            raise InputError(f"{sections.path}: expected a section [ {needed} ], found none")
    atom_types = parse_atom_types(types["atomtypes"])
    return ForceField(
        defaults=parse_defaults(types["defaults"]),
        atom_types=atom_types,
        nonbonded=parse_pair_table(types.get("nonbondparams", ()), "nonbond_params", atom_types),
        pairs=parse_pair_table(types.get("pairtypes", ()), "pairtypes", atom_types),
        bonded=parse_bonded_types(types),
    )


def _counts(sections: _Sections) -> list[tuple[MoleculeLines, int]]:
    """Molecules and how many of each, in file order; those with none are left out."""
    lines = sections.system.get("molecules")
    if not lines:
        raise InputError(f"{sections.path}: expected a section [ molecules ], found none")
    found = []
    for line in lines:
        words = line.fields
        if len(words) != 2:
            raise line.error(f"expected a molecule's name and a count, found '{line.text}'")
        count = integer(line, words[1], "the number of molecules")
        if count < 0:
            raise line.error(f"expected zero molecules or more, found {count}")
        molecule = _by_name(line, words[0], sections.molecules)
        if count:
            found.append((molecule, count))
    if not found:
        raise lines[0].error("expected at least one molecule in [ molecules ], found none")
    return found


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
    """Atom types that occur in the molecules, in the order of ``[ atomtypes ]``."""
    used = {name for molecule in types for name in molecule.atom_types}
    return tuple(name for name in force_field.atom_types if name in used)

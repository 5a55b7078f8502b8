"""GROMACS index files: groups of atom numbers as beads.

The numbers count the atoms of the whole system from 1. Groups may name the beads of one molecule
of a kind, which then hold for all of that kind, or those of every molecule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.mapping.assemble import ResolvedBead
from deepbackmap.mapping.sections import read_lines
from deepbackmap.system import MoleculeType, Topology

_OF_GROMACS = ("System", "Other", "Water", "SOL", "non-Water", "Ion", "Water_and_ions", "Protein")
"""Groups that ``gmx make_ndx`` writes ahead of a user's own; passed over where they hold atoms of
several molecules."""


@dataclass(frozen=True)
class IndexGroups:
    """Groups in file order."""

    names: tuple[str, ...]
    atoms: tuple[tuple[int, ...], ...]
    """From 0, in the system."""
    lines: tuple[int, ...]

    def resolve(self, topology: Topology, source: str) -> dict[int, list[ResolvedBead]]:
        """The beads of the molecule types that the groups are about.

        Args:
            topology: whose atoms are numbered.
            source: the file, for errors.

        Returns:
            Beads by index into ``topology.molecule_types``.

        Raises:
            InputError: a number beyond the last atom, a group over several molecules, or groups
                that cut molecules of one kind differently.
        """
        offsets, kinds = topology.molecule_offsets(), topology.molecule_type_index()
        cuts: dict[int, list[ResolvedBead]] = {}
        for k, atoms in enumerate(self.atoms):
            if atoms[-1] >= topology.n_atoms:
                raise self._error(k, source, f"atoms up to {topology.n_atoms}", f"{atoms[-1] + 1}")
            found = np.unique(np.searchsorted(offsets, atoms, side="right") - 1)
            if len(found) > 1:
                if self.names[k] in _OF_GROMACS:
                    continue
                raise self._error(
                    k, source, "a bead of one molecule",
                    f"atoms of {len(found)}, molecules {found[0] + 1} and {found[1] + 1} among "
                    f"them; leave the group out of the file if it is no bead",
                )  # fmt: skip
            molecule = int(found[0])
            kind = topology.molecule_types[int(kinds[molecule])]
            local = tuple(int(a - offsets[molecule]) for a in atoms)
            cuts.setdefault(molecule, []).append(_bead(self.names[k], kind, local))
        return self._by_type(topology, cuts, source)

    def _by_type(
        self, topology: Topology, cuts: dict[int, list[ResolvedBead]], source: str
    ) -> dict[int, list[ResolvedBead]]:
        kinds = topology.molecule_type_index()
        found: dict[int, tuple[int, list[ResolvedBead]]] = {}
        for molecule, beads in sorted(cuts.items()):
            first, known = found.setdefault(int(kinds[molecule]), (molecule, beads))
            if [b.atoms for b in known] != [b.atoms for b in beads]:
                name = topology.molecule_types[int(kinds[molecule])].name
                raise InputError(
                    f"{source}: expected the molecules {name} to be cut alike, found other groups "
                    f"in molecule {molecule + 1} than in molecule {first + 1}"
                )
        return {kind: beads for kind, (_, beads) in found.items()}

    def _error(self, k: int, source: str, expected: str, found: str) -> InputError:
        return InputError(
            f"{source} line {self.lines[k]}: expected group {self.names[k]} to have {expected}, "
            f"found {found}"
        )


def _bead(name: str, molecule: MoleculeType, atoms: tuple[int, ...]) -> ResolvedBead:
    return ResolvedBead(
        name, name, molecule.residue_names[atoms[0]], int(molecule.residue_numbers[atoms[0]]),
        atoms, tuple(molecule.masses[list(atoms)].tolist()), atoms,
    )  # fmt: skip


def parse_index(text: str, source: str) -> IndexGroups:
    """Reads an index file.

    Args:
        text: the file.
        source: what to call it in errors.

    Returns:
        Its groups.

    Raises:
        InputError: a number below 1 or twice in a group, or a group without numbers.
    """
    names: list[str] = []
    groups: list[list[int]] = []
    lines: list[int] = []
    for line in read_lines(text, source):
        if not line.words:
            names.append(line.title)
            groups.append([])
            lines.append(line.number)
            continue
        numbers = [int(w) if w.isdigit() else 0 for w in line.words]
        if min(numbers) < 1:
            raise InputError(
                f"{source} line {line.number}: expected atom numbers from 1, found "
                f"'{line.words[numbers.index(min(numbers))]}'"
            )
        groups[-1] += [n - 1 for n in numbers]
    for name, group, number in zip(names, groups, lines, strict=True):
        if not group or len(set(group)) < len(group):
            found = "one twice" if group else "none"
            raise InputError(
                f"{source} line {number}: expected group {name} to have atoms that differ, found "
                f"{found}"
            )
    return IndexGroups(tuple(names), tuple(tuple(sorted(g)) for g in groups), tuple(lines))

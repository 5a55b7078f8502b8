"""Whether the particles of a coordinate file are those of a topology and its mapping."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.io.tables import ParticleTable, molecule_numbers, residue_numbers, tile_names
from deepbackmap.mapping.containers import SystemMapping
from deepbackmap.system import Topology


def bead_table(system_mapping: SystemMapping) -> ParticleTable:
    """The beads of a system as they stand in a coordinate file.

    Masses and charges are those of the atoms that a bead owns, so that they add up to the
    system's.
    """
    topology = system_mapping.topology
    masses, charges = [], []
    for molecule, mapping in zip(topology.molecule_types, system_mapping.molecules, strict=True):
        owned = mapping.owner >= 0  # no atom of an unused molecule type has an owner
        owner, n = mapping.owner[owned], mapping.n_beads
        masses.append(np.bincount(owner, molecule.masses[owned], minlength=n))
        charges.append(np.bincount(owner, molecule.charges[owned], minlength=n))
    beads = system_mapping.molecules
    return ParticleTable(
        names=tile_names(topology, tuple(b.bead_names for b in beads)),
        resnames=tile_names(topology, tuple(b.bead_residue_names for b in beads)),
        resids=residue_numbers(topology, tuple(b.bead_residue_numbers for b in beads)),
        types=tile_names(topology, tuple(b.bead_types for b in beads)),
        masses=np.concatenate([np.zeros(0), *(np.tile(masses[t], c) for t, c in topology.blocks)]),
        charges=np.concatenate(
            [np.zeros(0), *(np.tile(charges[t], c) for t, c in topology.blocks)]
        ),
        molecules=molecule_numbers(topology, tuple(b.n_beads for b in beads)),
    )


def check_beads(system_mapping: SystemMapping, table: ParticleTable, source: str) -> None:
    """Refuses a structure whose beads are not those of the mapped topology, in its order.

    Of a file that knows only types (``ParticleTable.named``) the number is compared.

    Args:
        system_mapping: what is expected.
        table: what the file holds.
        source: the file.

    Raises:
        InputError: the first molecule that does not match, and what is wrong with it.
    """
    _check(
        system_mapping.topology,
        [m.bead_names for m in system_mapping.molecules],
        table,
        source,
        "bead",
    )


def check_atoms(topology: Topology, table: ParticleTable, source: str) -> None:
    """Refuses a structure whose atoms are not those of the topology, in its order.

    Of a file that knows only types (``ParticleTable.named``) the number is compared.

    Args:
        topology: what is expected.
        table: what the file holds.
        source: the file.

    Raises:
        InputError: the first molecule that does not match, and what is wrong with it.
    """
    _check(topology, [m.atom_names for m in topology.molecule_types], table, source, "atom")


def _check(
    topology: Topology,
    per_type: Sequence[tuple[str, ...]],
    table: ParticleTable,
    source: str,
    what: str,
) -> None:
    total = sum(len(per_type[t]) * count for t, count in topology.blocks)

    def refusal(molecule: str, expected: str, found: str) -> InputError:
        count = f" ({total} {what}s expected, {table.n} in the file)" if table.n != total else ""
        return InputError(f"{source}: expected {expected} {molecule}, found {found}{count}")

    if table.named:
        _compare(topology, per_type, table, what, refusal)
    if table.n != total:
        raise InputError(
            f"{source}: expected {total} {what}s for the {topology.n_molecules} molecules of "
            f"{topology.source}, found {table.n}"
        )


def _compare(
    topology: Topology,
    per_type: Sequence[tuple[str, ...]],
    table: ParticleTable,
    what: str,
    refusal: Callable[[str, str, str], InputError],
) -> None:
    """Compares run by run, and looks for the place only if a run differs."""
    start = first = 0
    for index, count in topology.blocks:
        names = per_type[index]
        stop = start + len(names) * count
        if table.names[start:stop] != names * count:
            k = _first_difference(names, count, table.names[start:stop])
            molecule, place = divmod(k, len(names))
            where = f"of molecule {first + molecule + 1} ({topology.molecule_types[index].name})"
            expected = f"{what} {names[place]} at position {start + k + 1}"
            found = table.names[start + k] if start + k < table.n else None
            raise refusal(where, expected, _diagnosis(names, place, found, what))
        start, first = stop, first + count
    if table.n > start:
        raise refusal(
            f"after molecule {first}, the last one of {topology.source}",
            f"no {what}",
            f"{what} {table.names[start]} at position {start + 1}",
        )


def _first_difference(names: tuple[str, ...], count: int, found: tuple[str, ...]) -> int:
    expected = names * count
    for k, (a, b) in enumerate(zip(expected, found, strict=False)):
        if a != b:
            return k
    return len(found)


def _diagnosis(names: tuple[str, ...], place: int, found: str | None, what: str) -> str:
    """What stands in the place of a name, and what probably happened."""
    if found is None:
        return "the end of the file"
    if place and found == names[place - 1]:
        return f"{found} a second time"
    following = names[place + 1] if place + 1 < len(names) else names[0]
    if found == following:
        return f"{found}, so that {names[place]} is missing"
    if found not in names:
        return f"{found}, which is no {what} of this molecule"
    return f"{found}"

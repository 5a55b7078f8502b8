"""Whether the particles of a coordinate file are those of a topology and its mapping.

Beads go by the names of the mapping, or by its types, with or without a running number: the names
that coarse-grained force fields write. A molecule goes by one of these as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.io.tables import (
    ParticleTable,
    molecule_numbers,
    residue_numbers,
    tile_names,
    tile_pairs,
)
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
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
        bonds=tile_pairs(
            topology, tuple(b.bead_bonds for b in beads), tuple(b.n_beads for b in beads)
        ),
    )


@dataclass(frozen=True)
class Match:
    """How the particles of a file were recognised."""

    by: tuple[str, ...]
    """For each run of ``topology.blocks``: ``names``, ``types``, ``numbered types`` or ``order``;
    ``number`` for a file without names."""
    notes: tuple[str, ...]
    """What was accepted though it is not the mapping's or the topology's own, as sentences."""


def check_beads(
    system_mapping: SystemMapping,
    table: ParticleTable,
    source: str,
    *,
    by_order: bool | None = None,
) -> Match:
    """Refuses a structure whose beads are not those of the mapped topology, in its order.

    Of a file that knows only types (``ParticleTable.named``) the number is compared; what distances
    say of the order is for ``evaluation.plausible``.

    Args:
        system_mapping: what is expected.
        table: what the file holds.
        source: the file.
        by_order: whether names count for nothing, only the number of beads; None: no, and it cannot
            be asked for either.

    Returns:
        By what the beads were recognised.

    Raises:
        InputError: the first molecule that does not match, and what is wrong with it.
    """
    schemes = [_schemes(m) for m in system_mapping.molecules]
    match = _check(system_mapping.topology, schemes, table, source, "bead", by_order)
    notes = [*match.notes, *_residue_note(system_mapping, table)]
    return Match(match.by, tuple(notes))


def check_atoms(
    topology: Topology, table: ParticleTable, source: str, *, by_order: bool | None = None
) -> Match:
    """Refuses a structure whose atoms are not those of the topology, in its order.

    Of a file that knows only types (``ParticleTable.named``) the number is compared.

    Args:
        topology: what is expected.
        table: what the file holds.
        source: the file.
        by_order: whether names count for nothing, only the number of atoms; None: no, and it cannot
            be asked for either.

    Returns:
        By what the atoms were recognised.

    Raises:
        InputError: the first molecule that does not match, and what is wrong with it.
    """
    schemes = [{"names": m.atom_names} for m in topology.molecule_types]
    return _check(topology, schemes, table, source, "atom", by_order)


def _schemes(mapping: MoleculeMapping) -> dict[str, tuple[str, ...]]:
    """The names that the beads of a molecule may have in a file; the mapping's own come first."""
    types = mapping.bead_types
    seen: Counter[str] = Counter()
    numbered = []
    for name in types:
        seen[name] += 1
        numbered.append(f"{name}{seen[name]}")
    return {"names": mapping.bead_names, "types": types, "numbered types": tuple(numbered)}


def _residue_note(system_mapping: SystemMapping, table: ParticleTable) -> list[str]:
    """The first residue name that differs; residues are not told apart by it."""
    start = 0
    for index, count in system_mapping.topology.blocks:
        expected = system_mapping.molecules[index].bead_residue_names
        stop = start + len(expected) * count
        found = table.resnames[start:stop]
        if table.named and found != expected * count:
            own, other = next(p for p in zip(expected * count, found, strict=True) if p[0] != p[1])
            return [f"residues called {other} in the file are taken as {own}"]
        start = stop
    return []


def _check(
    topology: Topology,
    schemes: Sequence[dict[str, tuple[str, ...]]],
    table: ParticleTable,
    source: str,
    what: str,
    by_order: bool | None,
) -> Match:
    total = sum(len(schemes[t]["names"]) * count for t, count in topology.blocks)

    def refusal(molecule: str, expected: str, found: str) -> InputError:
        count = f" ({total} {what}s expected, {table.n} in the file)" if table.n != total else ""
        return InputError(f"{source}: expected {expected} {molecule}, found {found}{count}")

    match = Match(("number",) * len(topology.blocks), ())
    if table.named and by_order:
        match = Match(
            ("order",) * len(topology.blocks), (f"{what}s are taken in the file's order",)
        )
    elif table.named:
        match = _compare(topology, schemes, table, what, refusal, advise=by_order is not None)
    if table.n != total:
        raise InputError(
            f"{source}: expected {total} {what}s for the {topology.n_molecules} molecules of "
            f"{topology.source}, found {table.n}"
        )
    return match


def _compare(
    topology: Topology,
    schemes: Sequence[dict[str, tuple[str, ...]]],
    table: ParticleTable,
    what: str,
    refusal: Callable[[str, str, str], InputError],
    *,
    advise: bool,
) -> Match:
    """Compares run by run, and looks for the place only if a run differs in every scheme."""
    by, notes = [], []
    start = first = 0
    for index, count in topology.blocks:
        names, molecule_type = schemes[index]["names"], topology.molecule_types[index].name
        stop = start + len(names) * count
        found = table.names[start:stop]
        scheme = next((s for s, n in schemes[index].items() if _are(found, n, count)), None)
        if scheme is None:
            # What is said is about the scheme that holds longest: the one that was probably meant.
            nearest = max(schemes[index].values(), key=lambda n: _first_difference(n, found))
            k = _first_difference(nearest, found)
            molecule, place = divmod(k, len(nearest))
            there = found[k] if k < len(found) else None
            raise refusal(
                f"of molecule {first + molecule + 1} ({molecule_type})",
                f"{what} {nearest[place]} at position {start + k + 1}",
                _diagnosis(nearest, place, there, what)
                + (_advice(k, there, what) if advise else ""),
            )
        if scheme != "names" and count:
            given = schemes[index][scheme]
            pairs = list(dict.fromkeys(zip(given, names, strict=True)))[:2]
            means = ", ".join(f"{a} for {b}" for a, b in pairs)
            notes.append(f"beads of {molecule_type} go by their {scheme}: {means}, ...")
        by.append(scheme)
        start, first = stop, first + count
    if table.n > start:
        raise refusal(
            f"after molecule {first}, the last one of {topology.source}",
            f"no {what}",
            f"{what} {table.names[start]} at position {start + 1}",
        )
    return Match(tuple(by), tuple(dict.fromkeys(notes)))


def _advice(place: int, found: str | None, what: str) -> str:
    """What to do where the first particle of a run already has another name."""
    if place or found is None:
        return ""
    return f"; --by-order takes the {what}s in the file's order, whatever they are called"


def _are(found: tuple[str, ...], names: tuple[str, ...], count: int) -> bool:
    """Whether names are those of so many molecules; a topology may name more than memory holds."""
    return len(found) == len(names) * count and found == names * count


def _first_difference(names: tuple[str, ...], found: tuple[str, ...]) -> int:
    for k, (a, b) in enumerate(zip(cycle(names), found, strict=False)):
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

"""What a coordinate file says about its particles besides where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.system import Topology
from deepbackmap.system.elements import element_symbols


@dataclass(frozen=True)
class ParticleTable:
    """Names and numbers of particles (atoms or beads) in the order of the coordinates."""

    names: tuple[str, ...]
    resnames: tuple[str, ...]
    resids: Int64[np.ndarray, "n"]
    types: tuple[str, ...] = ()
    """Atom or bead types; empty if the file has none."""
    masses: Float64[np.ndarray, "n"] | None = None
    """In u, if known."""
    charges: Float64[np.ndarray, "n"] | None = None
    """In e, if known."""
    molecules: Int64[np.ndarray, "n"] | None = None
    """Number of the molecule of each particle, from 1, if known."""
    elements: tuple[str, ...] = ()
    """Chemical symbols, X for what is no atom; empty if not known."""
    bonds: Int64[np.ndarray, "m 2"] | None = None
    """Chemical bonds, if known; particles from 0."""
    named: bool = True
    """False for files that know only types (LAMMPS, GSD): ``names`` then repeats ``types``, and
    cannot be compared with names."""

    @property
    def n(self) -> int:
        """Number of particles."""
        return len(self.names)


def residue_numbers(
    topology: Topology, per_type: tuple[Int64[np.ndarray, "_"], ...]
) -> Int64[np.ndarray, "n"]:
    """Residue numbers of particles as GROMACS writes them to coordinate files.

    Molecules of one residue are numbered through the system, behind the highest number that
    occurs in larger molecules; molecules of several residues keep their own numbers.

    Args:
        topology: molecule types, their residues and counts.
        per_type: for each molecule type, the residue number (as in the topology) of each particle.

    Returns:
        One number a particle, in molecule order.
    """
    single = [len(np.unique(m.residue_numbers)) <= 1 for m in topology.molecule_types]
    highest = [
        int(topology.molecule_types[t].residue_numbers.max())
        for t, count in topology.blocks
        if count and not single[t] and topology.molecule_types[t].n_atoms
    ]
    last = max(highest, default=0)
    runs = [np.zeros(0, dtype=np.int64)]
    for index, count in topology.blocks:
        numbers = per_type[index]
        if single[index]:
            runs.append(np.repeat(last + 1 + np.arange(count, dtype=np.int64), len(numbers)))
            last += count
        else:
            runs.append(np.tile(numbers, count))
    return np.concatenate(runs)


def tile_names(topology: Topology, per_type: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Words given once a molecule type, repeated for every molecule in order."""
    names: list[str] = []
    for index, count in topology.blocks:
        names.extend(per_type[index] * count)
    return tuple(names)


def molecule_numbers(topology: Topology, sizes: tuple[int, ...]) -> Int64[np.ndarray, "n"]:
    """The molecule of every particle, from 1, given how many particles each type has."""
    per_molecule = np.array(sizes, dtype=np.int64)[topology.molecule_type_index()]
    return np.repeat(1 + np.arange(len(per_molecule), dtype=np.int64), per_molecule)


def tile_pairs(
    topology: Topology, pairs: tuple[Int64[np.ndarray, "_ 2"], ...], sizes: tuple[int, ...]
) -> Int64[np.ndarray, "m 2"]:
    """Pairs of particles given once a molecule type, for every molecule of the system.

    Args:
        topology: molecule types and counts.
        pairs: of the particles of each type.
        sizes: how many particles each type has.
    """
    found, start = [np.zeros((0, 2), dtype=np.int64)], 0
    for index, count in topology.blocks:
        shift = start + sizes[index] * np.arange(count, dtype=np.int64)
        found.append((pairs[index][None] + shift[:, None, None]).reshape(-1, 2))
        start += sizes[index] * count
    return np.concatenate(found)


def atom_table(topology: Topology) -> ParticleTable:
    """The atoms of a topology as they stand in a coordinate file."""
    molecules = topology.molecule_types
    sizes = tuple(m.n_atoms for m in molecules)
    return ParticleTable(
        names=tile_names(topology, tuple(m.atom_names for m in molecules)),
        resnames=tile_names(topology, tuple(m.residue_names for m in molecules)),
        resids=residue_numbers(topology, tuple(m.residue_numbers for m in molecules)),
        types=tile_names(topology, tuple(m.atom_types for m in molecules)),
        masses=topology.masses(),
        charges=topology.charges(),
        molecules=molecule_numbers(topology, sizes),
        elements=tile_names(topology, tuple(element_symbols(m.masses) for m in molecules)),
        bonds=tile_pairs(topology, tuple(m.bonds for m in molecules), sizes),
    )

"""What is looked at in a system, found from its topology alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

from deepbackmap.evaluation import contacts, rings, stereo
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.nonbonded import Exclusions
from deepbackmap.system import BondedTerms, MoleculeType, Topology

ANGLE_KINDS = ("angle", "angle_g96")
DIHEDRAL_KINDS = ("proper", "ryckaert_bellemans")
LENGTH_KINDS = ("bond", "constraint")


@dataclass(frozen=True)
class Plan:
    """The observables of a system: everything a topology says once for all frames."""

    topology: Topology
    forcefield: ForceField
    angles: Mapping[str, Int64[np.ndarray, "_ 3"]]
    """All angles of the topology by the types of their atoms, such as ``H-C-H``."""
    dihedrals: Mapping[str, Int64[np.ndarray, "_ 4"]]
    """Proper dihedrals of heavy atoms by the types of their atoms."""
    angle_terms: Mapping[str, BondedTerms]
    """Angles by kind, for their energy."""
    impropers: BondedTerms
    """Harmonic impropers."""
    lengths: BondedTerms
    """Bonds and constraints; the first column is the length of the force field in nm."""
    heavy: Int64[np.ndarray, " h"]
    """Atoms of g(r)."""
    near: Exclusions
    """Pairs left out of g(r)."""
    centres: Int64[np.ndarray, "c 5"]
    """As ``stereo.stereocentres``."""
    prochiral: Int64[np.ndarray, "p 5"]
    """As ``stereo.prochiral_pairs``."""
    rings: tuple[Int64[np.ndarray, "_ _"], ...]
    """One array for each size of ring."""

    @classmethod
    def from_topology(cls, topology: Topology) -> Plan:
        """Finds what there is to look at in a system.

        Args:
            topology: of the reference and of the generated structures alike.
        """
        lengths = [topology.expand_terms(kind) for kind in LENGTH_KINDS]
        ranked = [(m, stereo.canonical_ranks(m)) for m in topology.molecule_types]
        heavy = [np.tile(topology.molecule_types[t].heavy, c) for t, c in topology.blocks]
        return cls(
            topology=topology,
            forcefield=ForceField.from_topology(topology),
            angles=_group(topology, [_distinct(m, ANGLE_KINDS) for m in topology.molecule_types]),
            dihedrals=_group(topology, [_heavy_chains(m) for m in topology.molecule_types]),
            angle_terms={kind: topology.expand_terms(kind) for kind in ANGLE_KINDS},
            impropers=topology.expand_terms("improper"),
            lengths=BondedTerms(
                np.concatenate([listed.atoms for listed in lengths]),
                np.concatenate([listed.parameters[:, :1] for listed in lengths]),
            ),
            heavy=np.flatnonzero(np.concatenate(heavy)),
            near=contacts.exclude_within_bonds(topology, 3),
            centres=_expand(topology, [stereo.stereocentres(m, r) for m, r in ranked]),
            prochiral=_expand(topology, [stereo.prochiral_pairs(m, r) for m, r in ranked]),
            rings=_rings(topology),
        )


def _distinct(molecule: MoleculeType, kinds: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Atoms of the terms of some kinds, each once; a term and its reverse are the same."""
    listed = [molecule.terms[kind].atoms.tolist() for kind in kinds if kind in molecule.terms]
    return sorted({tuple(min(row, row[::-1])) for rows in listed for row in rows})


def _heavy_chains(molecule: MoleculeType) -> list[tuple[int, ...]]:
    """Proper dihedrals of heavy atoms along bonds, which a periodic improper does not follow."""
    bonds = set(map(tuple, molecule.bonds.tolist()))
    return [
        atoms
        for atoms in _distinct(molecule, DIHEDRAL_KINDS)
        if molecule.heavy[list(atoms)].all()
        and all((min(pair), max(pair)) in bonds for pair in pairwise(atoms))
    ]


def _group(topology: Topology, per_type: Sequence[list[tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Terms of every molecule type by the types of their atoms, with the atoms of the system.

    A label starts at the end that sorts first.
    """
    by_label: dict[str, list[list[tuple[int, ...]]]] = {}
    for place, (molecule, listed) in enumerate(zip(topology.molecule_types, per_type, strict=True)):
        for atoms in listed:
            types = [molecule.atom_types[a] for a in atoms]
            label = "-".join(min(types, types[::-1]))
            if label not in by_label:
                by_label[label] = [[] for _ in per_type]
            by_label[label][place].append(atoms)
    return {
        label: _expand(topology, [np.array(rows, dtype=np.int64) for rows in found])
        for label, found in sorted(by_label.items())
    }


def _rings(topology: Topology) -> tuple[np.ndarray, ...]:
    """Rings of the system, one array for each size."""
    found = [rings.find_rings(m) for m in topology.molecule_types]
    sizes = sorted({len(ring) for per_type in found for ring in per_type})
    return tuple(
        _expand(
            topology,
            [
                np.array([r for r in per_type if len(r) == size], dtype=np.int64)
                for per_type in found
            ],
        )
        for size in sizes
    )


def _expand(topology: Topology, per_type: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of atoms of every molecule type, repeated for every molecule of the system."""
    width = max((rows.shape[1] for rows in per_type if rows.ndim == 2), default=0)
    found = [np.zeros((0, width), dtype=np.int64)]
    offsets = topology.molecule_offsets()
    first = 0
    for index, count in topology.blocks:
        rows = per_type[index].reshape(-1, width) if per_type[index].size else found[0]
        starts = offsets[first : first + count]
        found.append((rows[None] + starts[:, None, None]).reshape(-1, width))
        first += count
    return np.concatenate(found)

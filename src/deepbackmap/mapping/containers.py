"""A mapping resolved onto the molecules of a topology, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.system import Topology


@dataclass(frozen=True)
class MoleculeMapping:
    """The beads of one molecule type."""

    bead_names: tuple[str, ...]
    """As in coordinate files, in file order."""
    bead_types: tuple[str, ...]
    """What the model knows them by."""
    bead_residue_names: tuple[str, ...]
    bead_residue_numbers: Int64[np.ndarray, "b"]
    weight_atoms: Int64[np.ndarray, "w"]
    """Atom of every entry of the sparse forward map (0-based, in the molecule)."""
    weight_beads: Int64[np.ndarray, "w"]
    """Bead of every entry."""
    weights: Float64[np.ndarray, "w"]
    """Weight of every entry; they add to one over each bead."""
    owner: Int64[np.ndarray, "n"]
    """The bead that places each atom."""
    bead_bonds: Int64[np.ndarray, "k 2"]
    """Beads i < j that own bonded atoms, sorted, unique."""
    align: Int64[np.ndarray, "b 2"]
    """The local z axis of bead i points from bead align[i, 0] to bead align[i, 1];
    (-1, -1) for a molecule of one bead, whose axis is the laboratory's."""
    order: Int64[np.ndarray, "b"]
    """S: the beads by depth-first traversal of ``bead_bonds`` from the first bead (II B)."""

    @property
    def n_beads(self) -> int:
        """Number of beads."""
        return len(self.bead_names)


@dataclass(frozen=True)
class SystemMapping:
    """One ``MoleculeMapping`` for each molecule type of a topology."""

    topology: Topology
    molecules: tuple[MoleculeMapping, ...]
    """Parallel to ``topology.molecule_types``."""

    @property
    def n_beads(self) -> int:
        """Number of beads of the system."""
        return sum(self.molecules[t].n_beads * c for t, c in self.topology.blocks)

    def atom_owners(self) -> Int64[np.ndarray, "n"]:
        """The bead of the system that places each atom."""
        first, index = self.bead_offsets()[:-1], self.topology.molecule_type_index()
        owners = [self.molecules[t].owner + b for t, b in zip(index, first, strict=True)]
        return np.concatenate(owners) if owners else np.zeros(0, dtype=np.int64)

    def bead_offsets(self) -> Int64[np.ndarray, "m1"]:
        """First bead of every molecule, and the number of beads at the end."""
        sizes = np.array([m.n_beads for m in self.molecules], dtype=np.int64)
        index = self.topology.molecule_type_index()
        return np.concatenate([[0], np.cumsum(sizes[index])]).astype(np.int64)

"""Beads of a frame with their molecules whole."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology
from deepbackmap.system.whole import make_whole


def bead_topology(mapping: SystemMapping) -> Topology:
    """The graph of the beads as a topology of its own, so that beads can be made whole.

    Args:
        mapping: of the system.

    Returns:
        One molecule type for each of the mapping's, bonded as ``MoleculeMapping.bead_bonds``.
    """
    atoms = mapping.topology
    types = tuple(
        _bead_molecule(molecule.name, beads)
        for molecule, beads in zip(atoms.molecule_types, mapping.molecules, strict=True)
    )
    names = tuple(sorted({name for beads in mapping.molecules for name in beads.bead_types}))
    zeros = np.zeros((len(names), len(names)))
    return Topology("beads", types, atoms.blocks, names, zeros, zeros, source=atoms.source)


def whole_beads(
    mapping: SystemMapping,
    beads: Structure,
    *,
    table: Topology | None = None,
    source: str,
    endless: bool = False,
) -> Float64[np.ndarray, "b 3"]:
    """Unwraps the beads of every molecule along the bonds of the bead graph.

    Args:
        mapping: of the system.
        beads: a frame, wrapped or not.
        table: ``bead_topology(mapping)``, if it is at hand.
        source: what to call the frame in an error.
        endless: take molecules that are bonded to their own images.

    Returns:
        Positions in nm.

    Raises:
        InputError: bonded beads are farther apart than half the cell, or, unless ``endless``, a
            molecule is bonded to its own image.
    """
    graph = table or bead_topology(mapping)
    return make_whole(beads.positions, beads.box, graph, source=source, endless=endless)


def _bead_molecule(name: str, beads: MoleculeMapping) -> MoleculeType:
    n = beads.n_beads
    none = BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3)))
    bonds = BondedTerms(beads.bead_bonds, np.zeros((len(beads.bead_bonds), 2)))
    return MoleculeType(
        name=name,
        atom_names=beads.bead_names,
        atom_types=beads.bead_types,
        residue_names=beads.bead_residue_names,
        residue_numbers=beads.bead_residue_numbers,
        charges=np.zeros(n),
        masses=np.ones(n),
        terms={"bond": bonds} if len(beads.bead_bonds) else {},
        nrexcl=0,
        exclusions=np.zeros((0, 2), dtype=np.int64),
        pairs=none,
    )

"""The forward map: atoms to beads."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.system.whole import spanning_molecules


def map_positions(
    system_mapping: SystemMapping,
    whole_positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"] | None = None,
) -> Float64[np.ndarray, "b 3"]:
    """Bead positions as weighted means of atom positions.

    Args:
        system_mapping: weights by molecule type.
        whole_positions: nm, molecules whole (``system.whole.make_whole``).
        box: lattice vectors as rows, nm, where molecules may be bonded to their own images: atoms
            of such a molecule count in the image nearest to the first atom of their bead.

    Returns:
        Bead positions in nm, not wrapped.

    Raises:
        ValueError: the number of positions is not the topology's.
    """
    topology = system_mapping.topology
    if len(whole_positions) != topology.n_atoms:
        raise ValueError(
            f"whole_positions: expected {topology.n_atoms} atoms, got {len(whole_positions)}"
        )
    spans = np.zeros(topology.n_molecules, dtype=bool)
    if box is not None:
        spans = spanning_molecules(whole_positions, box, topology)
    beads = []
    start = first = 0
    for index, count in topology.blocks:
        molecule, mapping = topology.molecule_types[index], system_mapping.molecules[index]
        stop = start + molecule.n_atoms * count
        copies = whole_positions[start:stop].reshape(count, molecule.n_atoms, 3)
        found, endless = _map_copies(mapping, copies), spans[first : first + count]
        if box is not None and endless.any():
            found[endless] = _map_copies(mapping, copies[endless], box)
        beads.append(found.reshape(-1, 3))
        start, first = stop, first + count
    return np.concatenate(beads) if beads else np.zeros((0, 3))


def _map_copies(
    mapping: MoleculeMapping,
    copies: Float64[np.ndarray, "m n 3"],
    box: Float64[np.ndarray, "3 3"] | None = None,
) -> Float64[np.ndarray, "m b 3"]:
    """Beads of some copies; with a box from atoms that need not be beside each other."""
    if not mapping.n_beads:
        return np.zeros((len(copies), 0, 3))
    order = np.argsort(mapping.weight_beads, kind="stable")
    atoms, weights = mapping.weight_atoms[order], mapping.weights[order]
    # Every bead has atoms, so the runs that reduceat adds up are never empty.
    starts = np.searchsorted(mapping.weight_beads[order], np.arange(mapping.n_beads))
    at = copies[:, atoms]
    if box is not None:
        near = at[:, starts][:, mapping.weight_beads[order]]
        at = near + minimum_image(at - near, box)
    return np.add.reduceat(at * weights[:, None], starts, axis=1)

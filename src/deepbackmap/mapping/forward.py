"""The forward map: atoms to beads."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping


def map_positions(
    system_mapping: SystemMapping, whole_positions: Float64[np.ndarray, "n 3"]
) -> Float64[np.ndarray, "b 3"]:
    """Bead positions as weighted means of atom positions.

    Args:
        system_mapping: weights by molecule type.
        whole_positions: nm, molecules whole (``system.whole.make_whole``).

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
    beads = []
    start = 0
    for index, count in topology.blocks:
        molecule = topology.molecule_types[index]
        stop = start + molecule.n_atoms * count
        copies = whole_positions[start:stop].reshape(count, molecule.n_atoms, 3)
        beads.append(_map_copies(system_mapping.molecules[index], copies).reshape(-1, 3))
        start = stop
    return np.concatenate(beads) if beads else np.zeros((0, 3))


def _map_copies(
    mapping: MoleculeMapping, copies: Float64[np.ndarray, "m n 3"]
) -> Float64[np.ndarray, "m b 3"]:
    if not mapping.n_beads:
        return np.zeros((len(copies), 0, 3))
    order = np.argsort(mapping.weight_beads, kind="stable")
    atoms, weights = mapping.weight_atoms[order], mapping.weights[order]
    # Every bead has atoms, so the runs that reduceat adds up are never empty.
    starts = np.searchsorted(mapping.weight_beads[order], np.arange(mapping.n_beads))
    return np.add.reduceat(copies[:, atoms] * weights[:, None], starts, axis=1)

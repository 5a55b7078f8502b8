"""The first step of Wassenaar et al. 2014: atoms on the weighted mean of their beads.

Source: Wassenaar, Pluhackova, Böckmann, Marrink, Tieleman, J. Chem. Theory Comput. 10, 676 (2014).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.geometry.counter_random import hash_counters, normal
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType, Structure


def project(
    mapping: SystemMapping,
    whole: Float64[np.ndarray, "b 3"],
    box: Float64[np.ndarray, "3 3"] | None = None,
) -> Float64[np.ndarray, "n 3"]:
    """Every atom at the weighted mean of the beads that it belongs to.

    An atom belongs to the beads whose position it enters, with its weights in the forward map, and
    to its owner. Where the owner's position leaves the atom out (an end hydrogen, or a bead that
    sits on one atom), the owner counts as much as the others do on average.

    Args:
        mapping: of the system.
        whole: beads in nm, molecules whole (``beads.whole_beads``) as far as they can be.
        box: lattice vectors as rows, nm: of beads that share an atom those images count that are
            beside each other. None: they are where they are.

    Returns:
        Atoms in nm, molecules whole.
    """
    parts, start = [np.zeros((0, 3))], 0
    for index, count in mapping.topology.blocks:
        molecule, beads = mapping.topology.molecule_types[index], mapping.molecules[index]
        if not count:
            continue
        stop = start + beads.n_beads * count
        copies = whole[start:stop].reshape(count, beads.n_beads, 3)
        atoms, held, shares = _shares(molecule, beads)
        # Every atom has an owner, so the runs that reduceat adds up are never empty.
        first = np.searchsorted(atoms, np.arange(molecule.n_atoms))
        anchors = copies[:, held[first]]
        apart = copies[:, held] - anchors[:, atoms]
        apart = apart if box is None else minimum_image(apart, box)
        placed = anchors + np.add.reduceat(apart * shares[:, None], first, axis=1)
        parts.append(placed.reshape(-1, 3))
        start = stop
    return np.concatenate(parts)


def kick(structure: Structure, size: float, *, seed: int, frame: int) -> Structure:
    """Displaces every atom at random.

    Args:
        structure: atoms.
        size: standard deviation of each coordinate's displacement, nm.
        seed: of the random numbers, which depend on it, the frame and the atom only.
        frame: number of the frame in its file.

    Raises:
        InputError: the size is negative or not finite.
    """
    check_kick(size)
    keys = hash_counters(seed, frame, torch.arange(structure.n))
    shift = size * normal(keys, 3).numpy().astype(np.float64)
    return replace(structure, positions=structure.positions + shift)


def check_kick(size: float) -> None:
    """Refuses a displacement that is negative or not finite (``InputError``)."""
    if not (np.isfinite(size) and size >= 0.0):
        raise InputError(f"kick: expected a displacement in nm of at least 0, found {size:g}")


def _shares(
    molecule: MoleculeType, beads: MoleculeMapping
) -> tuple[Int64[np.ndarray, " s"], Int64[np.ndarray, " s"], Float64[np.ndarray, " s"]]:
    """Atom, bead and share of the bead in the atom's position, sorted by atom."""
    n = molecule.n_atoms
    atoms, owners = beads.weight_atoms, beads.owner
    total = np.bincount(atoms, beads.weights, minlength=n)
    count = np.bincount(atoms, minlength=n)
    mean = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    placed = np.zeros(n, dtype=bool)
    placed[atoms[owners[atoms] == beads.weight_beads]] = True
    left_out = np.flatnonzero(~placed)
    atoms = np.concatenate([atoms, left_out])
    held = np.concatenate([beads.weight_beads, owners[left_out]])
    weights = np.concatenate([beads.weights, mean[left_out]])
    order = np.argsort(atoms, kind="stable")
    shares = weights / np.bincount(atoms, weights, minlength=n)[atoms]
    return atoms[order], held[order], shares[order]

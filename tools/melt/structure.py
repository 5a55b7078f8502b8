"""Read the melt's files and map its atoms to beads. Units: nm."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from melt.build import ATOM_TYPES, ATOMS_PER_MONOMER, Array, chain_topology


def read_gro(path: Path) -> tuple[Array, Array]:
    """Read a .gro file of equal chains in a rectangular box.

    Returns:
        Positions, nm, shape (chains, atoms, 3), and the box's edges, nm, shape (3,).

    Raises:
        ValueError: if the box is not rectangular or the chains are not equally long.
    """
    lines = Path(path).read_text().splitlines()
    n_atoms = int(lines[1])
    rows = lines[2 : 2 + n_atoms]
    positions = np.array([[float(row[c : c + 8]) for c in (20, 28, 36)] for row in rows])
    residues = [int(row[:5]) for row in rows]
    n_chains = len(set(residues))
    if n_atoms % n_chains or residues.count(residues[0]) != n_atoms // n_chains:
        raise ValueError(f"{path}: expected equal chains, got {n_atoms} atoms in {n_chains}")
    box = [float(v) for v in lines[2 + n_atoms].split()]
    if any(box[3:]):
        raise ValueError(f"{path}: expected a rectangular box, got {box}")
    return positions.reshape(n_chains, -1, 3), np.array(box[:3])


def whole(chains: Array, box: Array) -> Array:
    """Put chains together that periodic boundaries cut, by walking their bonds.

    Args:
        chains: positions, nm, shape (chains, atoms, 3), atoms wrapped at will.
        box: edges (3,) or box vectors in rows (3, 3), nm.

    Returns:
        Positions, nm, same shape; each chain's first atom stays where it was.
    """
    vectors = np.diag(box) if box.ndim == 1 else box
    inverse = np.linalg.inv(vectors)
    out = np.array(chains, dtype=np.float64)
    for i, j in _bond_tree(chains.shape[1] // ATOMS_PER_MONOMER):
        step = out[:, j] - out[:, i]
        out[:, j] -= np.round(step @ inverse) @ vectors
    return out


def _bond_tree(n_monomers: int) -> list[tuple[int, int]]:
    reached, tree = {0}, []
    waiting = list(chain_topology(n_monomers).bonds)
    while waiting:
        left = []
        for i, j in waiting:
            if i in reached and j in reached:
                continue
            if i in reached or j in reached:
                tree.append((i, j) if i in reached else (j, i))
                reached |= {i, j}
            else:
                left.append((i, j))
        waiting = left
    return tree


def bead_weights(n_monomers: int) -> Array:
    """Weight of each atom in each bead, shape (2 n, 16 n + 2); rows sum to 1.

    Beads come as backbone, phenyl, backbone, phenyl ... A backbone bead is the centre of mass
    of a CH2 group and of half of each CH group beside it; the first one is the first carbon. A
    phenyl bead is the centre of mass of a C6H5 group.
    """
    carbon, hydrogen = ATOM_TYPES["C"][0], ATOM_TYPES["H"][0]
    weights = np.zeros((2 * n_monomers, ATOMS_PER_MONOMER * n_monomers + 2))
    for m in range(n_monomers):
        b = ATOMS_PER_MONOMER * m
        weights[2 * m, b + 1] = carbon
        if m > 0:
            weights[2 * m, [b, b + 2]] = hydrogen
            weights[2 * m, [b - 12, b + 4]] = carbon / 2
            weights[2 * m, [b - 13, b + 3]] = hydrogen / 2
        weights[2 * m + 1, b + 5] = carbon
        weights[2 * m + 1, [b + 6, b + 8, b + 10, b + 12, b + 14]] = carbon
        weights[2 * m + 1, [b + 7, b + 9, b + 11, b + 13, b + 15]] = hydrogen
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def bead_names(n_monomers: int) -> tuple[str, ...]:
    """B1, S1, B2, S2 ...: backbone and phenyl beads."""
    return tuple(f"{kind}{m + 1}" for m in range(n_monomers) for kind in "BS")


def beads(chains: Array) -> Array:
    """Beads of whole chains (chains, 16 n + 2, 3), nm: shape (chains, 2 n, 3)."""
    mapped: Array = bead_weights(chains.shape[1] // ATOMS_PER_MONOMER) @ chains
    return mapped

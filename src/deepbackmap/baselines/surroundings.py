"""Atoms near a bead, and the Lennard-Jones energy of candidates among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.geometry.cell import neighbour_pairs
from deepbackmap.mapping import SystemMapping

RANGE = 0.36
"""nm: atoms farther than this from every atom of a bead are left out. A choice by energy needs the
repulsion and the near attraction only."""
CEILING = 100.0
"""kJ/mol: highest energy of a pair; two fragments through each other must stay comparable."""
MOST = 160
"""Nearest atoms of a bead that are looked at."""


@dataclass(frozen=True)
class Surroundings:
    """Beads near each bead of one frame, padded with -1."""

    beads: Int64[np.ndarray, "b e"]
    vectors: Float64[np.ndarray, "b e 3"]
    """To each of them, nm."""
    same: np.ndarray
    """Whether it is in the same image of the same molecule, (b, e)."""


class Crowd:
    """What two fragments feel of each other, without bonds."""

    def __init__(self, mapping: SystemMapping, reach: float) -> None:
        """Prepare tables.

        Args:
            mapping: of the system.
            reach: largest distance of an atom from its bead, nm.
        """
        topology = mapping.topology
        self._reach = reach
        self._c6 = topology.c6
        self._c12 = topology.c12
        self._type = topology.atom_type_index()
        self._local = np.concatenate(
            [np.tile(np.arange(topology.molecule_types[t].n_atoms), c) for t, c in topology.blocks]
        )
        self._bead_molecule = np.repeat(
            np.arange(topology.n_molecules), np.diff(mapping.bead_offsets())
        )
        self._owned = _owned_table(mapping)
        self._excluded = [
            np.concatenate([m.exclusions, m.exclusions[:, ::-1]]) @ np.array([m.n_atoms, 1])
            for m in topology.molecule_types
        ]
        self._size = [m.n_atoms for m in topology.molecule_types]

    def surroundings(
        self, whole: Float64[np.ndarray, "b 3"], box: Float64[np.ndarray, "3 3"]
    ) -> Surroundings:
        """Neighbours of all beads of a frame.

        Args:
            whole: beads, nm, molecules whole.
            box: lattice vectors as rows, nm.
        """
        pairs = neighbour_pairs(whole, box, 2.0 * self._reach + RANGE)
        n = len(whole)
        count = np.bincount(pairs.i, minlength=n)
        width = int(count.max(initial=0))
        column = np.arange(len(pairs.i)) - np.repeat(np.cumsum(count) - count, count)
        beads = np.full((n, width), -1, dtype=np.int64)
        vectors = np.zeros((n, width, 3))
        same = np.zeros((n, width), dtype=bool)
        beads[pairs.i, column] = pairs.j
        vectors[pairs.i, column] = pairs.vectors
        inside = self._bead_molecule[pairs.i] == self._bead_molecule[pairs.j]
        same[pairs.i, column] = inside & (pairs.shifts == 0).all(axis=1)
        return Surroundings(beads, vectors, same)

    def energies(
        self,
        around: Surroundings,
        kind: int,
        relative: Float64[np.ndarray, "n 3"],
        beads: Int64[np.ndarray, " m"],
        atoms: Int64[np.ndarray, "m a"],
        placed: Float64[np.ndarray, "m k a 3"],
        without: Int64[np.ndarray, " m"] | None = None,
    ) -> Float64[np.ndarray, "m k"]:
        """Lennard-Jones energy of every candidate with the atoms around, kJ/mol.

        Args:
            around: of the frame.
            kind: molecule type.
            relative: atoms of the system relative to their beads, nm.
            beads: one bead in every copy of a molecule.
            atoms: its atoms.
            placed: candidates, relative to the bead, nm.
            without: a bead of the same molecule whose atoms are left out.
        """
        near = around.beads[beads]
        if without is not None:
            near = np.where((near == without[:, None]) & around.same[beads], -1, near)
        others = np.where(near[..., None] >= 0, self._owned[near], -1)
        where = around.vectors[beads][:, :, None] + relative[others]
        square = np.where(others >= 0, (where**2).sum(axis=-1), np.inf)
        others, where, square = (
            x.reshape(len(beads), -1, *x.shape[3:]) for x in (others, where, square)
        )
        keep = min(MOST, others.shape[1])
        if not keep:
            return np.zeros(placed.shape[:2])
        nearest = np.argpartition(square, keep - 1, axis=1)[:, :keep]
        rows = np.arange(len(beads))[:, None]
        inside = np.repeat(around.same[beads], self._owned.shape[1], axis=1)[rows, nearest]
        others, where, square = others[rows, nearest], where[rows, nearest], square[rows, nearest]
        present = (others >= 0) & (square < (self._reach + RANGE) ** 2)
        c6, c12 = self._parameters(kind, atoms, others, present, inside)
        apart = torch.from_numpy(placed.astype(np.float32))
        towards = torch.from_numpy(where.astype(np.float32))
        energy = _lennard_jones(apart, towards, torch.from_numpy(c6), torch.from_numpy(c12))
        return energy.numpy().astype(np.float64)

    def between(
        self,
        kind: int,
        atoms: tuple[Int64[np.ndarray, "m a"], Int64[np.ndarray, "m b"]],
        placed: tuple[Float64[np.ndarray, "m k a 3"], Float64[np.ndarray, "m l b 3"]],
    ) -> Float64[np.ndarray, "m k l"]:
        """Lennard-Jones energy of the candidates of two beads of a molecule, kJ/mol.

        Args:
            kind: molecule type.
            atoms: of one bead and of the other.
            placed: candidates of each, nm, in one frame of reference.
        """
        first, second = placed
        there = np.ones(atoms[1].shape, dtype=bool)
        c6, c12 = self._parameters(kind, atoms[0], atoms[1], there, there)
        m, k, a, _ = first.shape
        _, n, b, _ = second.shape
        x = torch.from_numpy(first.astype(np.float32)).reshape(m, k * a, 3)
        y = torch.from_numpy(second.astype(np.float32)).reshape(m, n * b, 3)
        distance = torch.cdist(x, y).reshape(m, k, a, n, b)
        shape = (m, 1, a, 1, b)
        pair = _pair_energy(
            distance, torch.from_numpy(c6).reshape(shape), torch.from_numpy(c12).reshape(shape)
        )
        return pair.sum(dim=(2, 4)).numpy().astype(np.float64)

    def _parameters(
        self,
        kind: int,
        atoms: np.ndarray,
        others: np.ndarray,
        present: np.ndarray,
        inside: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """C6 and C12 of every pair of an owned atom and one around; 0 where excluded, (m, a, e)."""
        size = self._size[kind]
        key = self._local[atoms][:, :, None] * size + self._local[others][:, None]
        excluded = inside[:, None] & np.isin(key, self._excluded[kind])
        on = (present[:, None] & ~excluded).astype(np.float32)
        a, b = self._type[atoms][:, :, None], self._type[others][:, None]
        return self._c6[a, b].astype(np.float32) * on, self._c12[a, b].astype(np.float32) * on


def _owned_table(mapping: SystemMapping) -> Int64[np.ndarray, "b w"]:
    """Atoms of the system by owner, padded with -1."""
    owner = mapping.atom_owners()
    order = np.argsort(owner, kind="stable")
    count = np.bincount(owner, minlength=mapping.n_beads)
    column = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    table = np.full((mapping.n_beads, int(count.max(initial=0))), -1, dtype=np.int64)
    table[owner[order], column] = order
    return table


def _lennard_jones(
    placed: torch.Tensor, others: torch.Tensor, c6: torch.Tensor, c12: torch.Tensor
) -> torch.Tensor:
    """Energy of each candidate, (m, k)."""
    m, k, a, _ = placed.shape
    distance = torch.cdist(placed.reshape(m, k * a, 3), others).reshape(m, k, a, -1)
    return _pair_energy(distance, c6[:, None], c12[:, None]).sum(dim=(2, 3))


def _pair_energy(distance: torch.Tensor, c6: torch.Tensor, c12: torch.Tensor) -> torch.Tensor:
    """Lennard-Jones of pairs, at most ``CEILING``; overwrites the distances."""
    inverse = distance.clamp_min_(0.05).square_().reciprocal_()
    inverse = inverse * inverse * inverse
    return ((c12 * inverse - c6) * inverse).clamp_max_(CEILING)

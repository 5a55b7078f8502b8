"""Non-bonded energies of pairs at given distances, and the pairs of a whole box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor
from vesin import NeighborList

from deepbackmap.quantities import COULOMB
from deepbackmap.system import Topology

MINIMUM_DISTANCE = 1e-3
"""nm: closer pairs count as this far apart, so that energies and gradients stay finite, also in
single precision. Only atoms on top of each other ever notice."""


@dataclass(frozen=True)
class ReactionField:
    """Constants of f q q (1/r + k r^2 - c) with dielectric constant 1 inside the cut-off."""

    k: float
    """nm^-3."""
    c: float
    """nm^-1."""

    @classmethod
    def from_epsilon(cls, cutoff: float, epsilon: float | None) -> ReactionField:
        """Constants with which the energy is zero at the cut-off.

        Args:
            cutoff: in nm.
            epsilon: dielectric constant outside; ``math.inf`` for a conductor; None for the
                bare 1/r, cut off without a shift (k = c = 0).

        Source: Tironi et al., J. Chem. Phys. 102, 5451 (1995); GROMACS manual.
        """
        if epsilon is None:
            return cls(0.0, 0.0)
        k = (1.0 - 1.0 / epsilon) / ((2.0 + 1.0 / epsilon) * cutoff**3)
        return cls(k, 1.0 / cutoff + k * cutoff**2)


def lennard_jones(
    distance: Float[Tensor, "*batch"],
    c6: Float[Tensor, "*#batch"],
    c12: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch"]:
    """Lennard-Jones c12/r^12 - c6/r^6 in kJ/mol, for c6 in kJ/mol nm^6 and c12 in kJ/mol nm^12."""
    inverse6 = distance.clamp(min=MINIMUM_DISTANCE) ** -6
    # c12 first: r^-12 alone would overflow in single precision
    return (c12 * inverse6 - c6) * inverse6


def coulomb(
    distance: Float[Tensor, "*batch"], charge_product: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    """Plain Coulomb f q q / r in kJ/mol, for the product of the charges in e^2."""
    return COULOMB * charge_product / distance.clamp(min=MINIMUM_DISTANCE)


def reaction_field(
    distance: Float[Tensor, "*batch"],
    charge_product: Float[Tensor, "*#batch"],
    field: ReactionField,
) -> Float[Tensor, "*batch"]:
    """Coulomb with reaction field, f q q (1/r + k r^2 - c), in kJ/mol."""
    screened = reaction_field_excluded(distance, charge_product, field)
    return coulomb(distance, charge_product) + screened


def reaction_field_excluded(
    distance: Float[Tensor, "*batch"],
    charge_product: Float[Tensor, "*#batch"],
    field: ReactionField,
) -> Float[Tensor, "*batch"]:
    """What GROMACS keeps of an excluded pair within the cut-off, f q q (k r^2 - c), in kJ/mol."""
    return COULOMB * charge_product * (field.k * distance**2 - field.c)


def other_pairs(
    distance: Float[Tensor, " m"], columns: Float[Tensor, "6 m"]
) -> Float[Tensor, " m"]:
    """Energies of pairs that are not Lennard-Jones, kJ/mol.

    Args:
        distance: in nm.
        columns: of each pair as ``system.pair_forms.COLUMNS``.
    """
    c6, c9, c12, a, b, shift = columns.unbind(0)
    inverse = 1.0 / (distance - shift).clamp(min=MINIMUM_DISTANCE)
    cube = inverse**3
    return ((c12 * cube + c9) * cube - c6) * cube**2 + a * torch.exp(-b * distance)


def soft_floor(
    distance: Float[Tensor, "*batch"], floor: Float[Tensor, "*#batch"]
) -> Float[Tensor, "*batch"]:
    """Distances with those below ``floor`` compressed smoothly into floor/2 to floor.

    floor/2 (1 + (r/floor)^2) meets r at the floor in value and slope and is flat at r = 0, so
    an energy of the result is bounded and pushes less and less where atoms coincide.

    Args:
        distance: in nm.
        floor: in nm; where it is 0 the distance stays.
    """
    inside = distance < floor
    safe = torch.where(inside, floor, 1.0)
    return torch.where(inside, 0.5 * safe * (1.0 + (distance / safe) ** 2), distance)


@dataclass(frozen=True, eq=False)
class LennardJonesTable:
    """Lennard-Jones parameters by pair of atom types."""

    c6: Float[Tensor, "t t"]
    """kJ/mol nm^6."""
    c12: Float[Tensor, "t t"]
    """kJ/mol nm^12."""
    sigma: Float[Tensor, "t t"]
    """(c12/c6)^(1/6) in nm; 0 where either is 0."""

    @classmethod
    def from_topology(
        cls, topology: Topology, dtype: torch.dtype = torch.float64
    ) -> LennardJonesTable:
        """Table of all types of a topology, rows in the order of ``type_names``."""
        c6, c12 = topology.c6, topology.c12
        has_sigma = (c6 > 0) & (c12 > 0)
        ratio = np.divide(c12, c6, out=np.zeros_like(c6), where=has_sigma)
        tables = (torch.tensor(a, dtype=dtype) for a in (c6, c12, ratio ** (1 / 6)))
        return cls(*tables)

    def energies(
        self,
        distance: Float[Tensor, "*batch"],
        first: Int64[Tensor, "*#batch"],
        second: Int64[Tensor, "*#batch"],
        soft_fraction: float | None = None,
    ) -> Float[Tensor, "*batch"]:
        """Energies of pairs in kJ/mol.

        Args:
            distance: in nm.
            first: row of the type of one atom.
            second: row of the type of the other.
            soft_fraction: distances below this fraction of sigma are compressed with
                ``soft_floor``; None leaves them.
        """
        if soft_fraction is not None:
            distance = soft_floor(distance, soft_fraction * self.sigma[first, second])
        return lennard_jones(distance, self.c6[first, second], self.c12[first, second])


def neighbour_pairs(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"] | None,
    cutoff: float,
    atoms_at_once: int = 1 << 16,
) -> Iterator[Int64[np.ndarray, "m 2"]]:
    """The pairs of ``neighbour_distances`` alone."""
    for pairs, _ in neighbour_distances(positions, box, cutoff, atoms_at_once):
        yield pairs


def neighbour_distances(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"] | None,
    cutoff: float,
    atoms_at_once: int = 1 << 16,
) -> Iterator[tuple[Int64[np.ndarray, "m 2"], Float64[np.ndarray, " m"]]]:
    """All pairs nearer than the cut-off and how far apart they are, in pieces of bounded size.

    Each pair comes once; where the cut-off exceeds half the cell, once for every image within
    reach. A large box is cut into slabs along its last lattice vector; a slab yields the pairs
    inside it and those with the atoms within the cut-off above it.

    Args:
        positions: in nm, wrapped or not.
        box: lattice vectors as rows, in nm, lower triangular if it is to be cut; None for open
            boundaries, which are never cut.
        cutoff: in nm.
        atoms_at_once: about how many atoms a slab has, but it is no thinner than the cut-off.

    Yields:
        Indices of atoms (m, 2), and distances (m,) in nm.
    """
    slabs = 1
    if box is not None and not np.triu(box, 1).any():
        slabs = min(-(-len(positions) // atoms_at_once), int(box[2, 2] / cutoff))
    if box is None or slabs < 4:  # with fewer slabs, above and below could meet
        yield _pairs_within(positions, box, cutoff, (box is not None,) * 3)
        return
    height = box[2, 2]
    wrapped = positions - np.floor(positions[:, 2:] / height) * box[2]
    slab = (wrapped[:, 2] * (slabs / height)).astype(np.int64)
    slab = np.minimum(slab, slabs - 1)  # wrapping a tiny negative number gives the height itself
    for k in range(slabs):
        inside = np.flatnonzero(slab == k)
        top = (k + 1) * height / slabs
        raised = wrapped if k + 1 < slabs else wrapped + box[2]
        # a slab is at least as thick as the cut-off, so only the next one is within reach
        next_slab = np.flatnonzero(slab == (k + 1) % slabs)
        above = next_slab[raised[next_slab, 2] < top + cutoff]
        local = np.concatenate([wrapped[inside], raised[above]])
        pairs, distances = _pairs_within(local, box, cutoff, (True, True, False))
        own = (pairs < len(inside)).any(axis=1)
        yield np.concatenate([inside, above])[pairs[own]], distances[own]


def _pairs_within(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"] | None,
    cutoff: float,
    periodic: tuple[bool, bool, bool],
) -> tuple[Int64[np.ndarray, "m 2"], Float64[np.ndarray, " m"]]:
    """All pairs nearer than the cut-off, each once, periodic along some lattice vectors."""
    finder = NeighborList(cutoff=cutoff, full_list=False)
    lattice = np.zeros((3, 3)) if box is None else np.ascontiguousarray(box)
    points = np.ascontiguousarray(positions)
    pairs, distances = finder.compute(points, lattice, np.array(periodic), "Pd")
    return pairs.view(np.int64), distances


class Exclusions:
    """Excluded pairs, kept molecule type by molecule type however many molecules there are."""

    def __init__(self, topology: Topology) -> None:
        self._sizes = np.array([m.n_atoms for m in topology.molecule_types], dtype=np.int64)
        self._keys = [
            np.sort(m.exclusions.min(axis=1) * m.n_atoms + m.exclusions.max(axis=1))
            if len(m.exclusions)
            else np.zeros(0, dtype=np.int64)
            for m in topology.molecule_types
        ]
        self._kind = topology.molecule_type_index()
        self._offsets = topology.molecule_offsets()
        numbers = np.arange(topology.n_molecules, dtype=np.int32)
        self.molecule = np.repeat(numbers, np.diff(self._offsets))
        """Molecule of every atom, (n,)."""

    def contains(self, pairs: Int64[np.ndarray, "m 2"]) -> Bool[np.ndarray, " m"]:
        """Which pairs of atoms of the system are excluded."""
        found = np.zeros(len(pairs), dtype=bool)
        molecule = self.molecule[pairs[:, 0]]
        inside = np.flatnonzero(molecule == self.molecule[pairs[:, 1]])
        molecule = molecule[inside]
        local = pairs[inside] - self._offsets[molecule, None]
        kind = self._kind[molecule]
        key = local.min(axis=1) * self._sizes[kind] + local.max(axis=1)
        for t in np.unique(kind):
            of_kind = kind == t
            found[inside[of_kind]] = _is_in(key[of_kind], self._keys[t])
        return found


def _is_in(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Which values occur in a sorted table."""
    if not len(table):
        return np.zeros(len(values), dtype=bool)
    place = np.searchsorted(table, values)
    return table[np.minimum(place, len(table) - 1)] == values

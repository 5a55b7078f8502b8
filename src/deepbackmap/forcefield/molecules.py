"""Energies molecule by molecule, in one pass over the neighbour pairs and without gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from deepbackmap.forcefield import nonbonded
from deepbackmap.forcefield.system import PAIRS_AT_ONCE, ForceField, TermTable
from deepbackmap.quantities import COULOMB
from deepbackmap.system import Structure

BONDED = ("bond", "angle", "proper", "improper", "lj14", "coulomb14")
"""Energies of listed terms, which lie inside one molecule."""
NONBONDED = ("lj intra", "lj inter", "coulomb intra", "coulomb inter")
"""Energies of neighbour pairs; half of each pair between two molecules goes to either."""


@dataclass(frozen=True)
class PairBatch:
    """Some of the pairs of a frame that are nearer than the cut-off."""

    pairs: Int64[np.ndarray, "m 2"]
    """Atoms of the system."""
    distances: Float64[np.ndarray, " m"]
    """nm."""
    excluded: Bool[np.ndarray, " m"]
    """Whether the topology excludes them."""


def pair_batches(field: ForceField, structure: Structure) -> Iterator[PairBatch]:
    """Every pair nearer than the cut-off once, in batches of bounded size.

    Args:
        field: of the system.
        structure: a frame of it; molecules need not be whole.

    Raises:
        InputError: as ``ForceField.energies_by_term``.
    """
    _, box = field.checked(structure)
    lattice = None if box is None else structure.box
    for pairs, distances in nonbonded.neighbour_distances(
        structure.positions, lattice, field.cutoff
    ):
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            piece = pairs[start : start + PAIRS_AT_ONCE]
            apart = distances[start : start + PAIRS_AT_ONCE]
            yield PairBatch(piece, apart, field.exclusions.contains(piece))


class NonbondedSums:
    """Adds up the non-bonded energies of molecules, batch by batch."""

    def __init__(self, field: ForceField) -> None:
        self._field = field
        self._rows = field.type_rows.numpy()
        self._c6, self._c12 = field.topology.c6.ravel(), field.topology.c12.ravel()
        self._charges = field.charges.numpy()
        self._charged = bool(self._charges.any())
        self._sums = {name: np.zeros(field.topology.n_molecules) for name in NONBONDED}

    def add(self, batch: PairBatch) -> None:
        """Counts the pairs of a batch."""
        i, j = batch.pairs.T
        molecules = self._field.exclusions.molecule[i], self._field.exclusions.molecule[j]
        apart = np.maximum(batch.distances, nonbonded.MINIMUM_DISTANCE)
        energies = self._lennard_jones(i, j, apart)
        self._share("lj", np.where(batch.excluded, 0.0, energies), molecules)
        if self._charged:
            field = self._field.reaction_field
            inverse = np.where(batch.excluded, 0.0, 1.0 / apart)
            shape = inverse + (field.k * batch.distances**2 - field.c)
            self._share("coulomb", COULOMB * self._charges[i] * self._charges[j] * shape, molecules)

    def result(self) -> dict[str, Float64[np.ndarray, " m"]]:
        """The energies of every molecule in kJ/mol, under the names of ``NONBONDED``.

        The reaction field of excluded pairs and of each charge with itself counts as inside the
        molecule, so that all Coulomb energies add up to GROMACS' "Coulomb (SR)".
        """
        molecule = self._field.exclusions.molecule
        count = self._field.topology.n_molecules
        squares = np.bincount(molecule, self._charges**2, minlength=count)
        own = -0.5 * COULOMB * self._field.reaction_field.c * squares
        return {**self._sums, "coulomb intra": self._sums["coulomb intra"] + own}

    def _lennard_jones(
        self,
        i: Int64[np.ndarray, " m"],
        j: Int64[np.ndarray, " m"],
        apart: Float64[np.ndarray, " m"],
    ) -> Float64[np.ndarray, " m"]:
        forms = self._field.topology.pair_forms
        if forms is not None:
            columns = forms.columns[:, self._rows[i], self._rows[j]]
            return nonbonded.other_pairs(torch.from_numpy(apart), torch.from_numpy(columns)).numpy()
        kinds = self._rows[i] * len(self._field.topology.type_names) + self._rows[j]
        inverse6 = 1.0 / (apart * apart) ** 3
        return (self._c12[kinds] * inverse6 - self._c6[kinds]) * inverse6

    def _share(
        self,
        name: str,
        energies: Float64[np.ndarray, " m"],
        molecules: tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]],
    ) -> None:
        first, second = molecules
        same = first == second
        count = self._field.topology.n_molecules
        self._sums[f"{name} intra"] += np.bincount(first[same], energies[same], minlength=count)
        half = 0.5 * energies[~same]
        for side in (first[~same], second[~same]):
            self._sums[f"{name} inter"] += np.bincount(side, half, minlength=count)


def bonded_per_molecule(
    field: ForceField, structure: Structure
) -> dict[str, Float64[np.ndarray, " m"]]:
    """Energies of the listed terms of every molecule in kJ/mol, under the names of ``BONDED``.

    Raises:
        InputError: as ``ForceField.energies_by_term``.
    """
    positions, box = field.checked(structure)
    found = {name: np.zeros(field.topology.n_molecules) for name in BONDED}
    with torch.no_grad():
        for first, tables, atoms in field.molecules(positions):
            for table in tables:
                energies = table.energies(atoms, box).sum(dim=-1)
                found[table.term][first : first + len(atoms)] += energies.numpy()
        share_between(found, field.between, positions, box, field.exclusions.molecule)
    return found


def share_between(
    found: dict[str, Float64[np.ndarray, " m"]],
    tables: Sequence[TermTable],
    positions: Float64[Tensor, "n 3"],
    box: Float64[Tensor, "3 3"] | None,
    molecule: Int[np.ndarray, " n"],
) -> None:
    """Adds energies of terms between molecules, shared evenly by the atoms of each term.

    Args:
        found: energies of every molecule in kJ/mol by term.
        tables: of the terms, with atoms of the system.
        positions: nm.
        box: lattice vectors as rows, nm; None: open boundaries.
        molecule: of each atom.
    """
    for table in tables:
        share = table.energies(positions, box).numpy() / table.index.shape[1]
        np.add.at(found[table.term], molecule[table.index.numpy()], share[:, None])


def energies_per_molecule(
    field: ForceField, structure: Structure
) -> dict[str, Float64[np.ndarray, " m"]]:
    """Energies of every molecule in kJ/mol, under the names of ``BONDED`` and ``NONBONDED``.

    Summed over molecules they are those of ``ForceField.energies_by_term``, "lj" and "coulomb"
    being the sums of intra and inter.

    Raises:
        InputError: as ``ForceField.energies_by_term``.
    """
    sums = NonbondedSums(field)
    for batch in pair_batches(field, structure):
        sums.add(batch)
    return {**bonded_per_molecule(field, structure), **sums.result()}

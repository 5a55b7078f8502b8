"""Energies of whole boxes, term by term, from the tables of a topology."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from deepbackmap.errors import InputError
from deepbackmap.forcefield import nonbonded, terms
from deepbackmap.forcefield.nonbonded import Exclusions, LennardJonesTable, ReactionField
from deepbackmap.geometry.periodic import minimum_image
from deepbackmap.quantities import COULOMB
from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.topology import require_energies

TERMS = ("bond", "angle", "proper", "improper", "lj", "coulomb", "lj14", "coulomb14")
"""Names of the energies, in the order they are reported. "bond" holds bonds of all kinds, "angle"
angles and their couplings, "proper" all dihedrals but harmonic impropers, and correction maps."""

PAIRS_AT_ONCE = 1 << 19
"""Neighbour pairs worked on together; bounds the memory beside the list itself."""
ATOMS_AT_ONCE = 1 << 17
"""Atoms whose bonded terms are worked on together."""


@dataclass(frozen=True, eq=False)
class TermTable:
    """All terms of one kind in one molecule type, as tensors."""

    term: str
    """Name in ``TERMS`` that the energy is counted under."""
    kind: str
    """Name of the function in ``terms.FUNCTIONS``."""
    index: Int64[Tensor, "m k"]
    """Atoms inside the molecule."""
    parameters: Float[Tensor, "m p"]
    """Columns as in ``system.kinds.KINDS``."""
    grids: Float[Tensor, "t d *points"] | None = None
    """Tables of kinds that have them."""

    def energies(
        self, positions: Float[Tensor, "*c a 3"], box: Float[Tensor, "3 3"] | None
    ) -> Float[Tensor, "*c m"]:
        """Energy of every term in kJ/mol."""
        function = terms.FUNCTIONS[self.kind]
        if self.grids is None:
            return function(positions, self.index, self.parameters, box)
        return function(positions, self.index, self.parameters, box, grids=self.grids)

    def to(self, device: torch.device, dtype: torch.dtype) -> TermTable:
        """The table on a device, its numbers in another precision."""
        grids = None if self.grids is None else self.grids.to(device, dtype)
        parameters = self.parameters.to(device, dtype)
        return TermTable(self.term, self.kind, self.index.to(device), parameters, grids)


@dataclass(frozen=True, eq=False)
class ForceField:
    """Force field of one system: tables by molecule type and by pair of atom types."""

    topology: Topology
    cutoff: float
    """Of Lennard-Jones and Coulomb, plain (no shift, no switch), in nm."""
    reaction_field: ReactionField
    tables: tuple[tuple[TermTable, ...], ...]
    """Parallel to ``topology.molecule_types``."""
    between: tuple[TermTable, ...]
    """Of terms between molecules, with atoms of the system."""
    lennard_jones: LennardJonesTable
    exclusions: Exclusions
    type_rows: Int64[Tensor, " n"]
    """Row of the Lennard-Jones table for every atom of the system."""
    charges: Float64[Tensor, " n"]
    """Charge of every atom of the system in e."""

    @classmethod
    def from_topology(
        cls,
        topology: Topology,
        *,
        cutoff: float = 1.0,
        reaction_field_epsilon: float | None = 2.5,
    ) -> ForceField:
        """Tables of a topology.

        Args:
            topology: molecule types, counts and Lennard-Jones parameters.
            cutoff: of the non-bonded terms in nm.
            reaction_field_epsilon: dielectric constant outside the cut-off, ``math.inf`` for a
                conductor, None for the bare 1/r without reaction field.

        Raises:
            InputError: the topology has terms whose energies are not known.
            ValueError: a cut-off or dielectric constant that is not positive.
        """
        require_energies(topology)
        if not cutoff > 0.0:
            raise ValueError(f"cutoff: expected a length above 0 nm, got {cutoff}")
        if reaction_field_epsilon is not None and not reaction_field_epsilon > 0.0:
            raise ValueError(
                "reaction_field_epsilon: expected a number above 0, math.inf or None, "
                f"got {reaction_field_epsilon}"
            )
        return cls(
            topology=topology,
            cutoff=cutoff,
            reaction_field=ReactionField.from_epsilon(cutoff, reaction_field_epsilon),
            tables=tuple(molecule_tables(m) for m in topology.molecule_types),
            between=term_tables(topology.intermolecular),
            lennard_jones=LennardJonesTable.from_topology(topology),
            exclusions=Exclusions(topology),
            type_rows=torch.from_numpy(topology.atom_type_index()),
            charges=torch.from_numpy(topology.charges()),
        )

    def energies_by_term(
        self, structure: Structure, *, excluded_correction: bool = True
    ) -> dict[str, float]:
        """Energy of a frame in kJ/mol under each name of ``TERMS``.

        Args:
            structure: atoms in the order of the topology; molecules need not be whole. A box
                of zeros means open boundaries.
            excluded_correction: count the reaction field of excluded pairs and of each charge
                with itself, as GROMACS does in "Coulomb (SR)".

        Raises:
            InputError: wrong number of atoms, a coordinate that is not finite, or a box that is
                not lower triangular or too small for the cut-off.
        """
        positions, box = self.checked(structure)
        with torch.no_grad():
            found = self.energies(positions, box, excluded_correction=excluded_correction)
        return {name: float(value) for name, value in found.items()}

    def energies(
        self,
        positions: Float64[Tensor, "n 3"],
        box: Float64[Tensor, "3 3"] | None,
        *,
        excluded_correction: bool = True,
    ) -> dict[str, Float64[Tensor, ""]]:
        """Differentiable energies in kJ/mol; arguments as checked by ``energies_by_term``."""
        total = {name: positions.new_zeros(()) for name in TERMS}
        for _, tables, molecules in self.molecules(positions):
            for table in tables:
                total[table.term] = total[table.term] + table.energies(molecules, box).sum()
        for table in self.between:
            total[table.term] = total[table.term] + table.energies(positions, box).sum()
        if excluded_correction:
            total["coulomb"] = total["coulomb"] - 0.5 * COULOMB * self.reaction_field.c * (
                (self.charges**2).sum()
            )
        for pairs, excluded, distance in self._pairs(positions, box):
            kept = ~excluded
            inner, apart = pairs[kept], distance[kept]
            total["lj"] = total["lj"] + self._pair_lj(inner, apart).sum()
            charge = self.charges[inner[:, 0]] * self.charges[inner[:, 1]]
            plain = nonbonded.reaction_field(apart, charge, self.reaction_field).sum()
            total["coulomb"] = total["coulomb"] + plain
            if excluded_correction:
                i, j = pairs[excluded].unbind(-1)
                charge = self.charges[i] * self.charges[j]
                rest = nonbonded.reaction_field_excluded(
                    distance[excluded], charge, self.reaction_field
                )
                total["coulomb"] = total["coulomb"] + rest.sum()
        return total

    def _pair_lj(
        self, pairs: Int64[Tensor, "m 2"], distance: Float64[Tensor, " m"]
    ) -> Float64[Tensor, " m"]:
        first, second = self.type_rows[pairs].unbind(-1)
        if self.topology.pair_forms is not None:
            columns = torch.from_numpy(self.topology.pair_forms.columns)
            return nonbonded.other_pairs(distance, columns[:, first, second])
        return self.lennard_jones.energies(distance, first, second)

    def checked(
        self, structure: Structure
    ) -> tuple[Float64[Tensor, "n 3"], Float64[Tensor, "3 3"] | None]:
        """Positions and box (None: open boundaries) of a frame, as tensors.

        Raises:
            InputError: as ``energies_by_term``.
        """
        source = self.topology.source
        positions, box = structure.positions, structure.box
        if len(positions) != self.topology.n_atoms:
            raise InputError(
                f"{source}: expected {self.topology.n_atoms} atoms in the frame, "
                f"found {len(positions)}."
            )
        finite = np.isfinite(positions).all(axis=1)
        if not finite.all():
            raise InputError(
                f"{source}: expected finite coordinates, found {positions[~finite][0]} "
                f"for atom {np.flatnonzero(~finite)[0] + 1}."
            )
        if not box.any():
            return torch.tensor(positions), None
        if np.triu(box, 1).any() or box.diagonal().min() < 2.0 * self.cutoff:
            raise InputError(
                f"{source}: expected a lower triangular box with diagonal elements of at least "
                f"{2.0 * self.cutoff:g} nm (twice the cut-off), found {box.tolist()}."
            )
        return torch.tensor(positions), torch.tensor(box)

    def molecules(
        self, positions: Float64[Tensor, "n 3"]
    ) -> Iterator[tuple[int, tuple[TermTable, ...], Float64[Tensor, "c a 3"]]]:
        """First molecule, tables and positions (c, a, 3) of runs of equal molecules, in pieces."""
        start = molecule = 0
        for t, count in self.topology.blocks:
            size = self.topology.molecule_types[t].n_atoms
            end = start + size * count
            step = size * max(1, ATOMS_AT_ONCE // max(1, size))
            for first in range(start, end, step) if self.tables[t] else ():
                piece = positions[first : min(end, first + step)]
                run = molecule + (first - start) // size
                yield run, self.tables[t], piece.reshape(-1, size, 3)
            start, molecule = end, molecule + count

    def _pairs(
        self, positions: Float64[Tensor, "n 3"], box: Float64[Tensor, "3 3"] | None
    ) -> Iterator[tuple[Int64[Tensor, "m 2"], Bool[Tensor, " m"], Float64[Tensor, " m"]]]:
        """Pairs within the cut-off, which of them are excluded, and their distances, in pieces."""
        lattice = None if box is None else box.numpy()
        for found in nonbonded.neighbour_pairs(positions.detach().numpy(), lattice, self.cutoff):
            for start in range(0, len(found), PAIRS_AT_ONCE):
                piece = found[start : start + PAIRS_AT_ONCE]
                excluded = torch.from_numpy(self.exclusions.contains(piece))
                pairs = torch.from_numpy(piece)
                vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]]
                yield pairs, excluded, terms.norm(minimum_image(vectors, box))


def molecule_tables(molecule: MoleculeType) -> tuple[TermTable, ...]:
    """Every bonded and 1-4 table of a molecule type."""
    found = list(term_tables(molecule.terms))
    if len(molecule.pairs.atoms):
        index, parameters = _tensors(molecule.pairs)
        i, j = molecule.pairs.atoms.T
        charge = torch.from_numpy(molecule.charges[i] * molecule.charges[j])
        found.append(TermTable("lj14", "lj14", index, parameters[:, :2]))
        found.append(
            TermTable("coulomb14", "coulomb14", index, (parameters[:, 2] * charge)[:, None])
        )
    return tuple(found)


def term_tables(listed: Mapping[str, BondedTerms]) -> tuple[TermTable, ...]:
    """Tables of all terms that have an energy, by kind."""
    found = []
    for kind, rows in listed.items():
        counted = KINDS[kind].counted
        if counted is not None and len(rows.atoms):
            grids = None if rows.grids is None else torch.tensor(rows.grids)
            found.append(TermTable(counted, kind, *_tensors(rows), grids))
    return tuple(found)


def _tensors(listed: BondedTerms) -> tuple[Tensor, Tensor]:
    """Indices and parameters as tensors of their own."""
    return torch.tensor(listed.atoms), torch.tensor(listed.parameters)

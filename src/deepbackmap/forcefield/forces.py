"""Forces on all atoms of a box in single precision, for a few steps of dynamics inside the sampler.

Engines (``dynamics``) run molecular dynamics; here one force evaluation is a handful of tensor
operations on any device, with molecules whole and pairs listed once, and forces are bounded, so
that atoms on top of each other move apart instead of flying off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from deepbackmap.forcefield import terms
from deepbackmap.forcefield.nonbonded import (
    Exclusions,
    LennardJonesTable,
    ReactionField,
    neighbour_pairs,
)
from deepbackmap.geometry.periodic import minimum_image
from deepbackmap.quantities import COULOMB
from deepbackmap.system import Topology
from deepbackmap.system.topology import TERM_COLUMNS

CUTOFF = 0.75
"""Of Lennard-Jones and Coulomb, nm. The attraction beyond it is smooth and hardly changes which way
an atom is pushed; all pairs within 1.0 nm would cost 2.4 times as much."""
SKIN = 0.03
"""nm: pairs are listed this much beyond the cut-off, for the way that atoms go meanwhile."""
SOFT = 0.75
"""Below this fraction of sigma the repulsion grows no further."""
PAIRS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class PairList:
    """Pairs of atoms within reach, each once, without those that are excluded."""

    first: Int64[Tensor, "p"]
    second: Int64[Tensor, "p"]
    shift: Float[Tensor, "p 3"]
    """Added to second - first, nm."""
    kind: Int64[Tensor, "p"]
    """Row of the pair's parameters."""

    def parts(self) -> Iterator[PairList]:
        """In pieces of bounded size."""
        for k in range(0, len(self.first), PAIRS_AT_ONCE):
            part = slice(k, k + PAIRS_AT_ONCE)
            yield PairList(self.first[part], self.second[part], self.shift[part], self.kind[part])


class BoxForces:
    """Force field of one system: bonded terms but for what is held rigid, and pairs."""

    def __init__(
        self, topology: Topology, device: torch.device, *, rigid: bool, cutoff: float = CUTOFF
    ) -> None:
        """Tables on a device.

        Args:
            rigid: whether all bonds are held at their lengths and so exert no force.
            cutoff: nm.
        """
        self.topology, self.device, self.cutoff = topology, device, cutoff
        held = ("constraint", "bond") if rigid else ("constraint",)
        self._terms: list[tuple[str, Tensor, Tensor]] = []
        for kind in TERM_COLUMNS:
            found = topology.expand_terms(kind)
            if kind not in held and len(found.atoms):
                parameters = torch.as_tensor(found.parameters, dtype=torch.float32, device=device)
                self._terms.append((kind, torch.as_tensor(found.atoms, device=device), parameters))
        self._exclusions = Exclusions(topology)
        table = LennardJonesTable.from_topology(topology, dtype=torch.float32)
        # One row a pair of (type, charge) classes, so that a pair needs one look-up.
        rows = np.stack([topology.atom_type_index(), _charge_rows(topology)[0]], axis=1)
        classes, where = np.unique(rows, axis=0, return_inverse=True)
        charge = torch.as_tensor(_charge_rows(topology)[1][classes[:, 1]], dtype=torch.float32)
        kinds = torch.as_tensor(classes[:, 0])
        self._classes, self._n_classes = where.reshape(-1).astype(np.int64), len(classes)
        field = ReactionField.from_epsilon(cutoff, float("inf"))
        product = COULOMB * charge[:, None] * charge[None]
        pair_table = torch.stack(
            [
                12.0 * table.c12[kinds][:, kinds],
                6.0 * table.c6[kinds][:, kinds],
                product,
                2.0 * field.k * product,
                (SOFT * table.sigma[kinds][:, kinds]).square(),
            ],
            dim=-1,
        )
        self._pair_table = pair_table.reshape(-1, 5).to(device)

    def list_pairs(
        self, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"]
    ) -> PairList:
        """The pairs of a frame.

        Args:
            positions: nm, molecules whole.
            box: lattice vectors as rows, lower triangular, nm.
        """
        found = []
        lattice = torch.as_tensor(box)
        for pairs in neighbour_pairs(positions, box, self.cutoff + SKIN):
            kept = pairs[~self._exclusions.contains(pairs)]
            i, j = kept.T
            step = torch.from_numpy(positions[j] - positions[i])
            shift = (minimum_image(step, lattice) - step).to(torch.float32)
            kind = self._classes[i] * self._n_classes + self._classes[j]
            found.append((torch.from_numpy(i), torch.from_numpy(j), shift, torch.from_numpy(kind)))
        columns = (torch.cat(c).to(self.device) for c in zip(*found, strict=True))
        return PairList(*columns)

    def __call__(self, positions: Float[Tensor, "n 3"], pairs: PairList) -> Float[Tensor, "n 3"]:
        """Forces in kJ/mol/nm.

        Args:
            positions: nm, molecules whole.
            pairs: of the frame.
        """
        forces = self._bonded(positions)
        for part in pairs.parts():
            self._add_pairs(forces, positions, part)
        return forces

    def _bonded(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        with torch.enable_grad():
            x = positions.detach().requires_grad_(True)
            energy = x.new_zeros(())
            for kind, atoms, parameters in self._terms:
                energy = energy + terms.FUNCTIONS[kind](x, atoms, parameters).sum()
            if not energy.requires_grad:
                return torch.zeros_like(positions)
            (gradient,) = torch.autograd.grad(energy, x)
        return -gradient

    def _add_pairs(
        self, forces: Float[Tensor, "n 3"], positions: Float[Tensor, "n 3"], pairs: PairList
    ) -> None:
        vector = positions[pairs.second] - positions[pairs.first] + pairs.shift
        square = vector.square().sum(-1)
        c12, c6, charge, field, soft = self._pair_table[pairs.kind].unbind(-1)
        square = torch.maximum(square, soft)
        inverse2 = square.reciprocal()
        inverse6 = inverse2 * inverse2 * inverse2
        # dU/dr / r of c12/r^12 - c6/r^6 + q (1/r + k r^2), with the factors in the table
        slope = (c6 - c12 * inverse6) * inverse6 * inverse2 + field - charge * inverse2.pow(1.5)
        slope = torch.where(square < self.cutoff**2, slope, 0.0)
        push = slope[:, None] * vector
        forces.index_add_(0, pairs.first, push)
        forces.index_add_(0, pairs.second, push, alpha=-1)


def _charge_rows(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """Row of every atom's charge, and the charges."""
    charges, rows = np.unique(topology.charges(), return_inverse=True)
    return rows.reshape(-1), charges

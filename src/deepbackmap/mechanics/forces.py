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
from jaxtyping import Float, Float64, Int32, UInt8
from torch import Tensor

from deepbackmap.forcefield.nonbonded import (
    Exclusions,
    LennardJonesTable,
    ReactionField,
    neighbour_distances,
)
from deepbackmap.forcefield.system import molecule_tables
from deepbackmap.geometry.periodic import minimum_image
from deepbackmap.quantities import COULOMB
from deepbackmap.system import Topology
from deepbackmap.system.kinds import HELD
from deepbackmap.system.topology import require_energies

CUTOFF = 0.7
"""Of Lennard-Jones and Coulomb, nm. The attraction beyond it is smooth and hardly changes which way
an atom is pushed; all pairs within 1.0 nm would cost 2.9 times as much."""
SKIN = 0.03
"""nm: pairs are listed this much beyond the cut-off, for the way that atoms go meanwhile."""
NEAR = 0.5
"""nm: pairs that are nearer push hard enough for every step to need them."""
SOFT = 0.75
"""Below this fraction of sigma the repulsion grows no further."""
CLOSEST = 0.05
"""nm: pairs without a sigma exert no more force below that."""
ATOMS_AT_ONCE = 1 << 14
"""Of which pairs are listed together; bounds memory."""
PAIRS_AT_ONCE = 1 << 17
"""Few enough that what a pass works on stays in the cache."""


@dataclass(frozen=True)
class PairList:
    """Pairs of atoms within reach, each once, without those that are excluded."""

    first: Int32[Tensor, "p"]
    second: Int32[Tensor, "p"]
    shift: Float[Tensor, "3 p"]
    """Added to second - first, nm."""
    kind: UInt8[Tensor, "p"] | Int32[Tensor, "p"]
    """Row of the pair's parameters."""
    n_near: int
    """The first of the list: pairs that were nearer than ``NEAR`` when they were listed."""

    def part(self, start: int, stop: int) -> PairList:
        """Some of the pairs; no copy is made."""
        some = slice(start, stop)
        return PairList(
            self.first[some], self.second[some], self.shift[:, some], self.kind[some],
            min(max(self.n_near - start, 0), stop - start),
        )  # fmt: skip

    def near(self) -> PairList:
        """Pairs that push hard enough for every step to need them."""
        return self.part(0, self.n_near)

    def far(self) -> PairList:
        """The others, which push little and evenly."""
        return self.part(self.n_near, len(self.first))

    def parts(self) -> Iterator[PairList]:
        """In pieces of bounded size."""
        for k in range(0, len(self.first), PAIRS_AT_ONCE):
            yield self.part(k, min(k + PAIRS_AT_ONCE, len(self.first)))


class BoxForces:
    """Force field of one system: bonded terms but for what is held rigid, and pairs.

    Terms between molecules other than pairs (``Topology.intermolecular``) are left out.
    """

    def __init__(
        self, topology: Topology, device: torch.device, *, rigid: bool, cutoff: float = CUTOFF
    ) -> None:
        """Tables on a device.

        Args:
            rigid: whether all bonds are held at their lengths and so exert no force.
            cutoff: nm.

        Raises:
            InputError: the topology has terms whose energies are not known.
        """
        self.topology, self.device, self.cutoff = topology, device, cutoff
        require_energies(topology)
        held = HELD if rigid else ()
        self._terms = [
            [t.to(device, torch.float32) for t in molecule_tables(molecule) if t.kind not in held]
            for molecule in topology.molecule_types
        ]
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
                (SOFT * table.sigma[kinds][:, kinds]).clamp_min(CLOSEST).square(),
            ],
        )
        self._pair_table = pair_table.reshape(5, -1).to(device)
        self._charged = bool(product.any())

    @property
    def reach(self) -> float:
        """Pairs are listed up to this distance, nm."""
        return self.cutoff + SKIN

    def list_pairs(
        self, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"]
    ) -> PairList:
        """The pairs of a frame.

        Args:
            positions: nm, molecules whole.
            box: lattice vectors as rows, lower triangular, nm.
        """
        near: list[tuple[Tensor, ...]] = []
        far: list[tuple[Tensor, ...]] = []
        lattice = torch.as_tensor(box)
        small = torch.uint8 if self._n_classes**2 < 256 else torch.int32
        for pairs, distance in neighbour_distances(positions, box, self.reach, ATOMS_AT_ONCE):
            counted = ~self._exclusions.contains(pairs)
            for found, chosen in ((near, distance < NEAR), (far, distance >= NEAR)):
                i, j = pairs[counted & chosen].T
                step = torch.from_numpy(positions[j] - positions[i])
                shift = (minimum_image(step, lattice) - step).to(torch.float32)
                kind = torch.from_numpy(self._classes[i] * self._n_classes + self._classes[j])
                found.append((_index(i), _index(j), shift.T, kind.to(small)))
        n_near = sum(len(columns[0]) for columns in near)
        first, second, shift, kind = (
            torch.cat(c, dim=-1).contiguous().to(self.device) for c in zip(*near, *far, strict=True)
        )
        return PairList(first, second, shift, kind, n_near)

    def __call__(self, positions: Float[Tensor, "n 3"], pairs: PairList) -> Float[Tensor, "n 3"]:
        """Forces in kJ/mol/nm.

        Args:
            positions: nm, molecules whole.
            pairs: of the frame.
        """
        return self._bonded(positions) + self.of_pairs(positions, pairs)

    def of_pairs(self, positions: Float[Tensor, "n 3"], pairs: PairList) -> Float[Tensor, "n 3"]:
        """Forces of Lennard-Jones and Coulomb in kJ/mol/nm, of these pairs alone."""
        columns = positions.T.contiguous()
        forces = torch.zeros_like(columns)
        for part in pairs.parts():
            self._add_pairs(forces, columns, part)
        return forces.T.contiguous()

    def _bonded(self, positions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        with torch.enable_grad():
            x = positions.detach().requires_grad_(True)
            energy, start = x.new_zeros(()), 0
            for kind, count in self.topology.blocks:
                size = self.topology.molecule_types[kind].n_atoms
                copies = x[start : start + count * size].view(count, size, 3)
                start += count * size
                for table in self._terms[kind]:
                    energy = energy + table.energies(copies, None).sum()
            if not energy.requires_grad:
                return torch.zeros_like(positions)
            (gradient,) = torch.autograd.grad(energy, x)
        return -gradient

    def _add_pairs(
        self, forces: Float[Tensor, "3 n"], positions: Float[Tensor, "3 n"], pairs: PairList
    ) -> None:
        """Component by component: arrays of single numbers go through memory fastest."""
        vector = [
            x.index_select(0, pairs.second).sub_(x.index_select(0, pairs.first)).add_(s)
            for x, s in zip(positions, pairs.shift, strict=True)
        ]
        square = vector[0] * vector[0]
        square.addcmul_(vector[1], vector[1]).addcmul_(vector[2], vector[2])
        kind = pairs.kind.to(torch.int32)
        c12, c6, charge, field, soft = (t.index_select(0, kind) for t in self._pair_table)
        outside = square > self.cutoff**2
        square = torch.maximum(square, soft, out=soft)
        inverse2 = square.reciprocal_()
        inverse6 = inverse2 * inverse2 * inverse2
        # dU/dr / r of c12/r^12 - c6/r^6 + q (1/r + k r^2), with the factors in the table
        slope = c6.addcmul_(c12, inverse6, value=-1.0).mul_(inverse6).mul_(inverse2)
        if self._charged:
            slope.add_(field).sub_(charge.mul_(inverse2).mul_(inverse2.sqrt()))
        slope.masked_fill_(outside, 0.0)
        for force, component in zip(forces, vector, strict=True):
            component.mul_(slope)
            force.index_add_(0, pairs.first, component)
            force.index_add_(0, pairs.second, component.neg_())


def _index(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int32))


def _charge_rows(topology: Topology) -> tuple[np.ndarray, np.ndarray]:
    """Row of every atom's charge, and the charges."""
    charges, rows = np.unique(topology.charges(), return_inverse=True)
    return rows.reshape(-1), charges

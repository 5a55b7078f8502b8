"""The hand that each stereocentre of a system should have."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from deepbackmap.chemistry.double_bonds import WantedSides, sides
from deepbackmap.chemistry.stereo import seen_from_the_centre, volumes
from deepbackmap.mapping import SystemMapping
from deepbackmap.system import Structure


@dataclass(frozen=True)
class Handedness:
    """The hand that each stereocentre should have."""

    atoms: Int64[Tensor, "c 5"]
    """The centre and its four branches, atoms of the system."""
    sign: Int64[Tensor, "c"]
    """Wanted sign of (b - a) x (c - a) . (d - a) of the branches a, b, c, d; 0: any."""
    sides: WantedSides = field(default_factory=WantedSides.nothing)
    """Of double bonds."""

    def any_wrong(
        self, positions: Float64[np.ndarray, "n 3"], masses: Float64[np.ndarray, "n"]
    ) -> bool:
        """Whether a centre has the other hand by either test (``seen_from_the_centre``), or a
        double bond is cis for trans.

        Args:
            positions: nm, molecules whole.
            masses: u.
        """
        atoms, sign = self.atoms.cpu().numpy(), self.sign.cpu().numpy()
        # molecules are whole: no cell is needed
        cis = sides(Structure(positions, _nowhere(positions)), self.sides.atoms)
        return bool(
            (volumes(positions, atoms) * sign < 0).any()
            or (volumes(positions, seen_from_the_centre(atoms, masses)) * sign < 0).any()
            or (cis * self.sides.side < 0).any()
        )


def _nowhere(positions: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "3 3"]:
    """A cell that no bond of whole molecules reaches across."""
    return 4.0 * (1.0 + float(np.abs(positions).max(initial=0.0))) * np.eye(3)


def split_by_hands(mapping: SystemMapping, handedness: Handedness | None) -> SystemMapping:
    """The same system with a molecule type for every set of hands that its molecules have.

    A topology does not know hands, so that copies of one type may differ in them; what is made once
    for a type and depends on hands needs types that do not. Order and names stay.

    Args:
        mapping: of the system.
        handedness: of its stereocentres; None: not known, and all copies are alike.
    """
    if handedness is None:
        return mapping
    topology = mapping.topology
    centres, sign = handedness.atoms[:, 0].cpu().numpy(), handedness.sign.cpu().numpy()
    index, offsets = topology.molecule_type_index(), topology.molecule_offsets()
    owner = np.searchsorted(offsets, centres, side="right") - 1
    kinds: dict[tuple[int, bytes], int] = {}
    blocks: list[tuple[int, int]] = []
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(index) + 1))
    for molecule, kind in enumerate(index.tolist()):
        own = order[starts[molecule] : starts[molecule + 1]]
        number = kinds.setdefault((kind, sign[own].tobytes()), len(kinds))
        if blocks and blocks[-1][0] == number:
            blocks[-1] = (number, blocks[-1][1] + 1)
        else:
            blocks.append((number, 1))
    if len(kinds) == len(set(index.tolist())):
        return mapping
    chosen = [kind for kind, _ in kinds]
    split = replace(
        topology,
        molecule_types=tuple(topology.molecule_types[k] for k in chosen),
        blocks=tuple(blocks),
    )
    return SystemMapping(split, tuple(mapping.molecules[k] for k in chosen))

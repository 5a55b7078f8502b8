"""What a model is trained on: systems, each with its topology, its mapping and its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.blocks.index import relative_positions
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.system import Structure, kinds
from deepbackmap.system.whole import make_whole

HELD = 0.002
"""nm: bonds whose rms deviation from the topology is below that were held in the data."""


@dataclass(frozen=True)
class TrainingSystem:
    """Frames of one topology with one mapping. Several of them may be trained on together."""

    mapping: SystemMapping
    """Of the topology, which it names."""
    structures: tuple[Structure, ...]
    beads: tuple[np.ndarray, ...]
    """Positions of the beads of every frame, (nb, 3), nm."""
    temperatures: tuple[float, ...]
    """Of every frame, K."""
    handedness: Handedness | None = None
    """Of the stereocentres; None: not known."""
    widths: tuple[float, ...] = ()
    """How far the beads of every frame are off those of its atoms, as the standard deviation of a
    coordinate, nm; empty: they are exact."""

    def __post_init__(self) -> None:
        counts = {len(self.structures), len(self.beads), len(self.temperatures), len(self.off)}
        if len(counts) != 1:
            raise ValueError(
                f"frames: expected as many beads and temperatures as structures "
                f"({len(self.structures)}), got {len(self.beads)} and {len(self.temperatures)}"
            )

    @property
    def off(self) -> tuple[float, ...]:
        """``widths``, one a frame."""
        return self.widths or (0.0,) * len(self.structures)

    @property
    def reach(self) -> float:
        """Largest distance of an atom from the bead that owns it, nm."""
        return max(
            float(np.linalg.norm(relative_positions(s, self.mapping, b), axis=1).max())
            for s, b in zip(self.structures, self.beads, strict=True)
        )

    @property
    def rigid(self) -> bool:
        """Whether the frames' bonds all have the topology's lengths."""
        topology = self.mapping.topology
        held = [topology.expand_terms(k, between=False) for k in kinds.HELD]
        atoms = np.concatenate([t.atoms for t in held])
        lengths = np.concatenate([t.parameters[:, 0] for t in held])
        if not len(atoms):
            return False
        for frame in self.structures:
            arms = frame.positions[atoms[:, 1]] - frame.positions[atoms[:, 0]]
            off = np.linalg.norm(minimum_image(arms, frame.box), axis=1) - lengths
            if np.sqrt(np.mean(off**2)) > HELD:
                return False
        return True


def map_whole(structure: Structure, mapping: SystemMapping) -> Float[np.ndarray, "nb 3"]:
    """Beads of an atomistic frame whose molecules may be wrapped."""
    whole = make_whole(structure.positions, structure.box, mapping.topology)
    return map_positions(mapping, whole)


def only(systems: Sequence[TrainingSystem]) -> TrainingSystem:
    """The one system that is there.

    Raises:
        InputError: there are none or several.
    """
    if len(systems) != 1:
        raise InputError(
            f"training data: expected one system, found {len(systems)}, which this method does "
            "not train on together"
        )
    return systems[0]


def types_of(systems: Sequence[TrainingSystem]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Types of atoms and of beads that occur, sorted."""
    atoms: set[str] = set()
    beads: set[str] = set()
    for mapping in (s.mapping for s in systems):
        for i, _ in mapping.topology.blocks:
            atoms.update(mapping.topology.molecule_types[i].atom_types)
            beads.update(mapping.molecules[i].bead_types)
    return tuple(sorted(atoms)), tuple(sorted(beads))

"""Names of molecules and atoms for messages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from deepbackmap.forcefield.nonbonded import Exclusions, neighbour_distances
from deepbackmap.system import Structure, Topology

CONTACT = 0.14
"""nm: how far the closest contact is looked for; atoms of no force field rest so near each other
unless they are bonded, and then they are excluded."""


@dataclass(frozen=True)
class Atoms:
    """Says which molecule an atom of the system belongs to."""

    topology: Topology

    def describe(self, *atoms: int) -> str:
        """Such as "atoms C1 and H2 of molecule 3 (PS1)", for 0-based atoms of the system."""
        offsets = self.topology.molecule_offsets()
        kinds = self.topology.molecule_type_index()
        molecules = [int(np.searchsorted(offsets, a, side="right")) - 1 for a in atoms]
        names = [
            self.topology.molecule_types[kinds[m]].atom_names[a - offsets[m]]
            for a, m in zip(atoms, molecules, strict=True)
        ]
        homes = [f"molecule {m + 1} ({self.topology.molecule_types[kinds[m]].name})"
                 for m in molecules]  # fmt: skip
        word = "atom" if len(atoms) == 1 else "atoms"
        if len(set(molecules)) == 1:
            return f"{word} {_listed(names)} of {homes[0]}"
        return _listed([f"atom {name} of {home}" for name, home in zip(names, homes, strict=True)])

    def closest_contact(self, structure: Structure) -> str:
        """The closest pair of atoms that is not excluded, in words; empty if none is near."""
        box = structure.box if structure.box.any() else None
        exclusions = Exclusions(self.topology)
        found: tuple[float, int, int] | None = None
        for pairs, distances in neighbour_distances(structure.positions, box, CONTACT):
            kept = ~exclusions.contains(pairs)
            if kept.any():
                k = int(distances[kept].argmin())
                i, j = sorted(pairs[kept][k].tolist())
                found = min(found or (CONTACT, 0, 0), (float(distances[kept][k]), i, j))
        if found is None:
            return ""
        return f"{self.describe(found[1], found[2])} are {found[0]:.4f} nm apart"

    def largest(self, vectors: Float64[np.ndarray, "n 3"]) -> str:
        """The atom with the largest (or first not finite) vector, in words."""
        size = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~np.isfinite(size))
        return self.describe(int(bad[0]) if len(bad) else int(size.argmax()))


def _listed(words: list[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"

"""Whether particles that were taken in a file's order can be in it: bonded ones are near.

A bead is a weighted mean of its atoms, so two beads are never farther apart than the mean over
their pairs of atoms of the bonds between the two, each of them stretched straight.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType, Structure, Topology

BOND = 0.17
"""nm: no bond between carbon, nitrogen, oxygen and hydrogen is longer."""
SLACK = 1.5
"""How far beyond the bound a pair may be: heavier elements have longer bonds, and a coarse-grained
force field need not keep every distance that atoms allow."""
LONGEST_BOND = 0.35
"""nm between bonded atoms, of whatever elements."""


@dataclass(frozen=True)
class OrderCheck:
    """Holds the order of particles against the distances of bonded ones, frame by frame."""

    topology: Topology
    what: str
    """``bead`` or ``atom``, for errors."""
    names: tuple[tuple[str, ...], ...]
    """Of the particles of each molecule type, in order."""
    pairs: tuple[Int64[np.ndarray, "_ 2"], ...]
    """Bonded particles of each molecule type."""
    bounds: tuple[Float64[np.ndarray, "_"], ...]
    """Farthest that each pair may be apart, nm."""

    def check(self, frame: Structure, source: str) -> None:
        """Refuses a frame whose particles are in another order than the topology's.

        Args:
            frame: positions in nm and the cell; as many particles as expected.
            source: file and frame, for errors.

        Raises:
            InputError: two bonded particles are farther apart than they can be.
        """
        start = first = 0
        for index, count in self.topology.blocks:
            stop = start + len(self.names[index]) * count
            self._check_run(index, frame.positions[start:stop], frame.box, (start, first), source)
            start, first = stop, first + count

    def _check_run(
        self,
        index: int,
        positions: Float64[np.ndarray, "_ 3"],
        box: Float64[np.ndarray, "3 3"],
        begin: tuple[int, int],
        source: str,
    ) -> None:
        names, bounds = self.names[index], self.bounds[index]
        if not len(positions) or not len(bounds):
            return
        copies = positions.reshape(-1, len(names), 3)
        i, j = self.pairs[index].T
        vectors = (copies[:, i] - copies[:, j]).reshape(-1, 3)
        apart = np.linalg.norm(minimum_image(vectors, box), axis=1).reshape(len(copies), -1)
        over = apart > bounds
        if not over.any():
            return
        # The farthest one shows best what is wrong.
        m, k = np.unravel_index(int(np.argmax(apart - bounds)), apart.shape)
        at = begin[0] + m * len(names) + 1
        a, b = (f"{names[x]} ({at + x})" for x in (i[k], j[k]))
        molecule = self.topology.molecule_types[index].name
        raise InputError(
            f"{source}: expected the {self.what}s in the order of {self.topology.source}, where "
            f"{a} and {b} of molecule {begin[1] + m + 1} ({molecule}) are "
            f"bonded, found them {apart[m, k]:.3f} nm apart, beyond {bounds[k]:.3f} nm as "
            f"{int(over.sum())} of {over.size} bonded pairs are: is the order another one, or the "
            f"unit of length not nm?"
        )


def bead_order(system_mapping: SystemMapping) -> OrderCheck:
    """The check of beads: how far the atoms between them can stretch.

    Args:
        system_mapping: whose beads they should be.

    Returns:
        The check, for any number of frames.
    """
    topology, molecules = system_mapping.topology, system_mapping.molecules
    return OrderCheck(
        topology,
        "bead",
        tuple(m.bead_names for m in molecules),
        tuple(m.bead_bonds for m in molecules),
        tuple(
            SLACK * BOND * _bonds_between(t, m)
            for t, m in zip(topology.molecule_types, molecules, strict=True)
        ),
    )


def atom_order(topology: Topology) -> OrderCheck:
    """The check of atoms: no bond is longer than ``LONGEST_BOND``.

    Args:
        topology: whose atoms they should be.

    Returns:
        The check, for any number of frames.
    """
    types = topology.molecule_types
    return OrderCheck(
        topology,
        "atom",
        tuple(m.atom_names for m in types),
        tuple(m.bonds for m in types),
        tuple(np.full(len(m.bonds), LONGEST_BOND) for m in types),
    )


def _bonds_between(molecule: MoleculeType, mapping: MoleculeMapping) -> Float64[np.ndarray, " k"]:
    """Bonds between the atoms of bonded beads, their mean by both beads' weights."""
    neighbours: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for i, j in molecule.bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    parts: list[list[tuple[int, float]]] = [[] for _ in range(mapping.n_beads)]
    for atom, bead, weight in zip(
        mapping.weight_atoms.tolist(), mapping.weight_beads.tolist(), mapping.weights, strict=True
    ):
        parts[bead].append((atom, float(weight)))
    found = []
    for low, high in mapping.bead_bonds.tolist():
        total = 0.0
        for atom, weight in parts[low]:
            steps = _steps(neighbours, atom, {a for a, _ in parts[high]})
            total += weight * sum(w * steps[a] for a, w in parts[high])
        found.append(total)
    return np.array(found)


def _steps(neighbours: list[list[int]], start: int, wanted: set[int]) -> dict[int, float]:
    """The number of bonds from one atom to others; infinite where none leads."""
    steps = {start: 0.0}
    missing = wanted - {start}
    queue = deque([start])
    while queue and missing:
        atom = queue.popleft()
        for other in neighbours[atom]:
            if other not in steps:
                steps[other] = steps[atom] + 1
                missing.discard(other)
                queue.append(other)
    return {a: steps.get(a, np.inf) for a in wanted}

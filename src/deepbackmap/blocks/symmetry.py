"""Equivalent labels: which side of a phenyl ring is which is a matter of names.

A relabelling counts as free when it is an automorphism of the block that keeps every atom bonded
to another bead in place and exchanges branches of a *planar* centre (three bonds). Exchanging two
hydrogens or methyl groups of a tetrahedral centre would change a pro-chiral label, so it is not
free.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np
from networkx.algorithms.isomorphism import GraphMatcher

from deepbackmap.mapping import MoleculeMapping
from deepbackmap.system import MoleculeType


@dataclass(frozen=True)
class Flip:
    """One free relabelling of a block: local atoms and what each is exchanged for."""

    bead: int
    atoms: np.ndarray
    images: np.ndarray


def _block_graph(molecule: MoleculeType, mapping: MoleculeMapping, bead: int) -> nx.Graph:
    """The bead's atoms; atoms with bonds to other beads are marked as themselves."""
    graph = nx.Graph()
    mine = np.flatnonzero(mapping.owner == bead)
    for a in mine.tolist():
        graph.add_node(a, mark=molecule.atom_types[a])
    for i, j in molecule.bonds.tolist():
        inside = [mapping.owner[i] == bead, mapping.owner[j] == bead]
        if all(inside):
            graph.add_edge(i, j)
        elif any(inside):
            anchor = i if inside[0] else j
            graph.nodes[anchor]["mark"] = f"anchor {anchor}"
    return graph


def _is_free(moved: dict[int, int], graph: nx.Graph, degree: np.ndarray) -> bool:
    """Whether every branching point that stays and whose branches move is planar."""
    fixed = [a for a in graph if moved[a] == a]
    hinges = [a for a in fixed if sum(moved[b] != b for b in graph[a]) >= 2]
    if not hinges or any(degree[a] != 3 for a in hinges):
        return False
    # Atoms that move and sit on the same tetrahedral centre would swap pro-chiral labels.
    return all(
        moved[a] == a or degree[a] != 1 or moved[next(iter(graph[a]))] != next(iter(graph[a]))
        for a in graph
    )


def block_flips(molecule: MoleculeType, mapping: MoleculeMapping) -> list[Flip]:
    """The free relabellings of a molecule's blocks that are their own inverse."""
    degree = np.bincount(molecule.bonds.ravel(), minlength=molecule.n_atoms)
    flips = []
    for bead in range(mapping.n_beads):
        graph = _block_graph(molecule, mapping, bead)
        matcher = GraphMatcher(graph, graph, node_match=lambda a, b: a["mark"] == b["mark"])
        for moved in matcher.isomorphisms_iter():
            changed = [a for a in sorted(graph) if moved[a] != a]
            involution = all(moved[moved[a]] == a for a in changed)
            if changed and involution and _is_free(moved, graph, degree):
                images = np.array([moved[a] for a in changed])
                flips.append(Flip(bead, np.array(changed), images))
    return flips


def sides(positions: np.ndarray, flip: Flip) -> np.ndarray:
    """Vector from the second half to the first half of the exchanged atoms, (..., 3).

    Args:
        positions: of one molecule's atoms in the bead's frame, (..., n, 3).
    """
    first = flip.atoms < flip.images
    return (positions[..., flip.atoms[first], :] - positions[..., flip.images[first], :]).sum(-2)


def principal_axis(vectors: np.ndarray) -> np.ndarray:
    """The axis along which vectors (n, 3) point most, either way; its largest entry positive."""
    _, axes = np.linalg.eigh(vectors.T @ vectors)
    axis = axes[:, -1]
    return axis * np.sign(axis[np.abs(axis).argmax()])

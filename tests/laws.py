"""What laws are stated with: molecules drawn at random and renumbered, frames that are the same."""

from dataclasses import replace

import networkx as nx
import numpy as np

from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology
from evaluation_systems import SKEWED, rotation, scattered

VALENCES = {"C": 4, "N": 3, "O": 2, "F": 1, "Cl": 1, "H": 1}
"""Bonds that an atom of a random molecule makes at most."""


def random_tree(atoms: int, seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Elements and bonds of a molecule without rings; every valence of the skeleton is filled."""
    rng = np.random.default_rng(seed)
    types, bonds, free = ["C"], [], [4]
    for k in range(1, atoms):
        open_atoms = [a for a in range(k) if free[a] > 0]
        partner = int(rng.choice(open_atoms))
        element = str(rng.choice(["C", "C", "C", "N", "O"]))
        types.append(element)
        free.append(VALENCES[element] - 1)
        free[partner] -= 1
        bonds.append((partner, k))
    for a in range(atoms):
        for _ in range(free[a]):
            bonds.append((a, len(types)))
            types.append(str(rng.choice(["H", "H", "H", "F", "Cl"])))
    return types, bonds


def random_rings(atoms: int, seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """A carbon skeleton that closes a few rings."""
    rng = np.random.default_rng(seed)
    graph = nx.Graph()
    graph.add_node(0)
    for k in range(1, atoms):
        graph.add_edge(k, int(rng.choice([a for a in range(k) if graph.degree(a) < 3])))
    for _ in range(4):
        a, b = rng.choice(atoms, 2, replace=False).tolist()
        if max(graph.degree(a), graph.degree(b)) < 4:
            graph.add_edge(a, b)
    return ["C"] * atoms, [(min(e), max(e)) for e in graph.edges]


def graph_of(kind: MoleculeType) -> nx.Graph:
    """Its bonds, every atom with its element."""
    graph = nx.Graph()
    graph.add_nodes_from((k, {"type": t}) for k, t in enumerate(kind.atom_types))
    graph.add_edges_from(kind.bonds.tolist())
    return graph


def renumbered(kind: MoleculeType, order: np.ndarray) -> MoleculeType:
    """The same molecule, atom k of it being atom ``order[k]`` of the given one."""
    place = np.argsort(order)

    def moved(terms: BondedTerms) -> BondedTerms:
        return replace(terms, atoms=place[terms.atoms].astype(np.int64))

    def chosen(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(values[a] for a in order)

    pairs = np.sort(place[kind.exclusions], axis=1).astype(np.int64).reshape(-1, 2)
    return replace(
        kind,
        atom_names=chosen(kind.atom_names),
        atom_types=chosen(kind.atom_types),
        residue_names=chosen(kind.residue_names),
        residue_numbers=kind.residue_numbers[order],
        charges=kind.charges[order],
        masses=kind.masses[order],
        terms={name: moved(terms) for name, terms in kind.terms.items()},
        sites={name: moved(terms) for name, terms in kind.sites.items()},
        exclusions=np.unique(pairs, axis=0) if len(pairs) else pairs,
        pairs=moved(kind.pairs),
    )


def permutation(n: int, seed: int) -> np.ndarray:
    """An order of n things."""
    return np.random.default_rng(seed).permutation(n)


def moved(frame: Structure, seed: int) -> Structure:
    """Shifted as a whole, and every atom put into some periodic image."""
    shift = np.random.default_rng(seed).uniform(-5, 5, 3)
    return scattered(frame.positions + shift, frame.box, seed)


def turned(frame: Structure, seed: int) -> Structure:
    """Turned as a whole, cell and all. (The cell is then not lower triangular: only for what takes
    any cell.)"""
    turn = rotation(seed)
    return Structure(frame.positions @ turn, frame.box @ turn)


def sheared(frame: Structure) -> Structure:
    """The same crystal described by other lattice vectors."""
    return Structure(frame.positions, np.array([[1, 0, 0], [1, 1, 0], [-1, 2, 1]]) @ frame.box)


def doubled(frame: Structure, axis: int) -> Structure:
    """Two cells beside each other, the molecules of the first, then those of the second."""
    box = frame.box.copy()
    box[axis] *= 2
    return Structure(np.concatenate([frame.positions, frame.positions + frame.box[axis]]), box)


def twice(topology: Topology) -> Topology:
    """The topology of ``doubled``."""
    return replace(topology, blocks=topology.blocks * 2)


def mirrored(frame: Structure) -> Structure:
    """The mirror image, cell and all; the third lattice vector is turned round, so that the cell
    has a positive volume."""
    flip = np.array([1.0, 1.0, -1.0])
    return Structure(frame.positions * flip, frame.box * flip * flip[:, None])


def places(n: int, seed: int, box: np.ndarray = SKEWED) -> np.ndarray:
    """Points all over a cell, nm."""
    return np.random.default_rng(seed).random((n, 3)) @ box

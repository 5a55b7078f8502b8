"""Which atoms stand for a structure: backbone atoms that carry a side group, or a selection."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx
import numpy as np
from jaxtyping import Int64

from deepbackmap.errors import InputError
from deepbackmap.system import MoleculeType, Topology

SIDE_GROUPS = "backbone atoms that carry a side group"
ALL_HEAVY = "all heavy atoms: no backbone atom carries a side group"


@dataclass(frozen=True)
class Centres:
    """The centres of every molecule type."""

    atoms: tuple[Int64[np.ndarray, "_"], ...]
    """By molecule type: atoms inside the molecule, ascending; none where it has no centre."""
    rule: str
    """How they were found, in words."""


def find_centres(topology: Topology, selection: str | None = None) -> Centres:
    """Chooses the atoms whose environments are compared.

    By default these are the backbone atoms that carry a side group of heavy atoms (see
    ``side_group_atoms``). Molecule types without such atoms (solvent, ions) are left out; only
    if no type has any, all heavy atoms are centres, and ``rule`` says so.

    Args:
        topology: whose bonds and names are used.
        selection: MDAnalysis's selection language, applied to each molecule type by itself; the
            heavy atoms among the selected ones are the centres.

    Returns:
        Centres by molecule type, at least one in all.

    Raises:
        InputError: the selection cannot be read or selects no heavy atom, or the topology has
            no heavy atom.
    """
    types = topology.molecule_types
    if selection is not None:
        chosen = Centres(
            tuple(_select(m, selection, topology.source) for m in types), f"selection {selection}"
        )
        wanted = f"the selection '{selection}' to choose heavy atoms"
    else:
        chosen = Centres(tuple(side_group_atoms(m) for m in types), SIDE_GROUPS)
        if not any(len(a) for a in chosen.atoms):
            chosen = Centres(tuple(np.flatnonzero(m.heavy) for m in types), ALL_HEAVY)
        wanted = "heavy atoms to centre environments on"
    if not any(len(a) for a in chosen.atoms):
        raise InputError(f"{topology.source}: expected {wanted}, found none")
    return chosen


def side_group_atoms(molecule: MoleculeType) -> Int64[np.ndarray, " c"]:
    """Heavy atoms on the backbone of a molecule that have a heavy neighbour outside of it.

    Args:
        molecule: whose bonds are walked; fragments without bonds between them count one by one.

    Returns:
        Atoms, ascending.
    """
    graph = _heavy_graph(molecule)
    backbone = {atom for path in backbones(molecule) for atom in path}
    carriers = [a for a in backbone if any(b not in backbone for b in graph[a])]
    return np.array(sorted(carriers), dtype=np.int64)


def backbones(molecule: MoleculeType) -> list[list[int]]:
    """The backbone of every fragment: its longest path, in which a ring system is one step.

    Ring systems (atoms that stay connected when any one bond is cut) are contracted to single
    nodes, which makes the graph of heavy atoms a tree. The backbone is the longest path in it;
    of paths of equal length the one through fewer rings. Ring systems at either end of the path
    are side groups, not backbone (on a path of rings only: those smaller than the largest). So a
    pendant phenyl ring is never part of the backbone, but a ring in the main chain is.

    Args:
        molecule: only its heavy atoms and the bonds between them count.

    Returns:
        For every fragment, by its first atom, the atoms of the path; within a ring system all of
        its atoms in ascending order.
    """
    graph = _heavy_graph(molecule)
    return [_backbone(graph.subgraph(part)) for part in _sorted_parts(graph)]


def _backbone(fragment: nx.Graph) -> list[int]:
    """The backbone of a connected graph of heavy atoms."""
    cut = nx.Graph(fragment)
    cut.remove_edges_from(list(nx.bridges(fragment)))
    systems = _sorted_parts(cut)
    owner = {atom: k for k, system in enumerate(systems) for atom in system}
    tree = nx.Graph()
    tree.add_nodes_from(range(len(systems)))
    tree.add_edges_from((owner[a], owner[b]) for a, b in fragment.edges if owner[a] != owner[b])
    sizes = [len(system) for system in systems]
    path = _longest_path(tree, [size > 1 for size in sizes])
    end = 1 if 1 in (sizes[k] for k in path) else max(sizes[k] for k in path)
    while sizes[path[0]] != end:
        path = path[1:]
    while sizes[path[-1]] != end:
        path = path[:-1]
    return [atom for k in path for atom in systems[k]]


def _longest_path(tree: nx.Graph, ring: list[bool]) -> list[int]:
    """The longest path of a tree, in nodes, then the one through fewest rings.

    The node farthest from anywhere is an end of it, and the node farthest from there the other.
    """
    step = len(tree) + 1  # outweighs any number of rings
    start = _farthest(tree, 0, ring, step)[-1]
    return _farthest(tree, start, ring, step)


def _farthest(tree: nx.Graph, root: int, ring: list[bool], step: int) -> list[int]:
    """The path from a node to the one farthest from it; of several, to the first."""
    parent = {root: root}
    length = {root: step - ring[root]}
    for a, b in nx.bfs_edges(tree, root, sort_neighbors=sorted):
        parent[b] = a
        length[b] = length[a] + step - ring[b]
    path = [min(length, key=lambda k: (-length[k], k))]
    while path[-1] != root:
        path.append(parent[path[-1]])
    return path[::-1]


def _heavy_graph(molecule: MoleculeType) -> nx.Graph:
    graph = nx.Graph()
    graph.add_nodes_from(np.flatnonzero(molecule.heavy).tolist())
    bonds = molecule.bonds
    graph.add_edges_from(bonds[molecule.heavy[bonds].all(axis=1)].tolist())
    return graph


def _sorted_parts(graph: nx.Graph) -> list[list[int]]:
    """Connected components by their first atom, the atoms ascending."""
    parts: Iterable[set[int]] = nx.connected_components(graph)
    return sorted(sorted(part) for part in parts)


def _select(molecule: MoleculeType, selection: str, source: str) -> Int64[np.ndarray, " c"]:
    import MDAnalysis as mda  # slow, and needed for selections only

    universe = mda.Universe.empty(
        molecule.n_atoms,
        n_residues=molecule.n_atoms,
        atom_resindex=np.arange(molecule.n_atoms),
        trajectory=False,
    )
    for name, values in (
        ("names", molecule.atom_names),
        ("types", molecule.atom_types),
        ("resnames", molecule.residue_names),
        ("resids", molecule.residue_numbers),
        ("masses", molecule.masses),
        ("charges", molecule.charges),
    ):
        universe.add_TopologyAttr(name, np.array(values))
    universe.add_TopologyAttr("bonds", [tuple(b) for b in molecule.bonds.tolist()])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty selection is no mistake for one type
            found = universe.select_atoms(selection).indices
    except Exception as error:  # whatever the selection language makes of a word
        raise InputError(
            f"{source}: expected a selection by names, types, residues, masses or bonds, "
            f"found '{selection}' ({' '.join(str(error).split())})"
        ) from error
    found = np.asarray(found, dtype=np.int64)
    return np.sort(found[molecule.heavy[found]])

"""Molecules made whole: every atom beside its bonded neighbours instead of across the box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import cell_heights, minimum_image
from deepbackmap.system.topology import MoleculeType, Topology


@dataclass(frozen=True)
class BondTree:
    """A spanning tree of the bond graph of one molecule type, one root for each fragment."""

    parent: Int64[np.ndarray, "n"]
    """The atom that each atom is walked to from; a root (the lowest index of its fragment, virtual
    sites aside) is its own parent."""
    closures: Int64[np.ndarray, "c 2"]
    """Bonds that are not in the tree: they close rings."""


def bond_tree(molecule: MoleculeType) -> BondTree:
    """Walks the bonds of a molecule breadth first, fragment by fragment.

    Args:
        molecule: the molecule type; an atom without bonds is a fragment of its own.

    Returns:
        Parents and ring closures.
    """
    neighbours: list[list[int]] = [[] for _ in range(molecule.n_atoms)]
    for a, b in molecule.bonds.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    # a virtual site goes with an atom it is made from, and no atom with a site: where a file has
    # sites need not mean anything
    for listed in molecule.sites.values():
        for site, atom in listed.atoms[:, :2].tolist():
            neighbours[atom].append(site)
    parent = np.full(molecule.n_atoms, -1, dtype=np.int64)
    for root in np.argsort(molecule.virtual, kind="stable").tolist():
        if parent[root] >= 0:
            continue
        parent[root] = root
        queue = [root]
        for atom in queue:
            for other in neighbours[atom]:
                if parent[other] < 0:
                    parent[other] = atom
                    queue.append(other)
    a, b = molecule.bonds.T
    closures = molecule.bonds[(parent[a] != b) & (parent[b] != a)]
    return BondTree(parent, closures)


def bond_trees(topology: Topology) -> tuple[BondTree, ...]:
    """The tree of every molecule type, to be made once and used for every frame."""
    return tuple(bond_tree(m) for m in topology.molecule_types)


def make_whole(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    topology: Topology,
    *,
    trees: tuple[BondTree, ...] | None = None,
    source: str = "structure",
    strict: bool = True,
    endless: bool = False,
) -> Float64[np.ndarray, "n 3"]:
    """Moves atoms by lattice vectors so that every bond is its own shortest image.

    The first atom of each fragment stays where it is; fragments of one molecule are not brought
    together, since nothing says where they belong.

    Args:
        positions: nm, in the order of the topology, wrapped or not.
        box: lattice vectors as rows, nm.
        topology: whose bonds are walked.
        trees: ``bond_trees(topology)``, if it is at hand.
        source: what to call the structure in an error.
        strict: refuse what cannot be made whole; else such a bond goes to its nearest image, for
            structures that are judged and may be broken.
        endless: accept molecules that are bonded to their own images (networks, sheets, chains
            through the whole box): then some bonds go to the nearest image (``spanning_molecules``
            finds such molecules).

    Returns:
        Positions in nm.

    Raises:
        InputError: the number of atoms is not the topology's, or, if ``strict``, a bond is longer
            than half the smallest height of the cell (so that nothing says which image is meant),
            or, unless ``endless``, a molecule is bonded to its own periodic image (so that no
            arrangement makes it whole).
    """
    if len(positions) != topology.n_atoms:
        raise InputError(
            f"{source}: expected {topology.n_atoms} atoms as in {topology.source}, "
            f"found {len(positions)}"
        )
    trees = bond_trees(topology) if trees is None else trees
    whole = np.empty_like(positions)
    start = 0
    first_molecule = 0
    for index, count in topology.blocks:
        molecule, tree = topology.molecule_types[index], trees[index]
        stop = start + molecule.n_atoms * count
        copies = positions[start:stop].reshape(count, molecule.n_atoms, 3)
        walked = _walk(copies, box, tree)
        if strict:
            _check_bonds(walked, box, molecule, tree, first_molecule, source)
            if not endless:
                _check_closures(walked, box, molecule, tree, first_molecule, source)
        whole[start:stop] = walked.reshape(-1, 3)
        start, first_molecule = stop, first_molecule + count
    return whole


def spanning_molecules(
    whole: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"], topology: Topology
) -> Bool[np.ndarray, " m"]:
    """Which molecules are bonded to their own periodic images.

    Args:
        whole: nm, molecules whole as far as they can be.
        box: lattice vectors as rows, nm; zeros: none.
        topology: whose bonds are looked at.
    """
    found = np.zeros(topology.n_molecules, dtype=bool)
    if not abs(np.linalg.det(box)) > 0.0:
        return found
    limit = (0.5 * float(cell_heights(box).min())) ** 2
    start = first = 0
    for index, count in topology.blocks:
        molecule = topology.molecule_types[index]
        stop = start + molecule.n_atoms * count
        a, b = molecule.bonds.T
        copies = whole[start:stop].reshape(count, molecule.n_atoms, 3)
        bonds = copies[:, b] - copies[:, a]
        # no shorter bond can have a shorter image
        long = (np.einsum("mbc,mbc->mb", bonds, bonds) > limit).any(axis=1)
        gap = np.abs(bonds[long] - minimum_image(bonds[long], box)).max(axis=-1)
        found[first + np.flatnonzero(long)] = (gap > 1e-6).any(axis=1)
        start, first = stop, first + count
    return found


def _walk(
    copies: Float64[np.ndarray, "m n 3"], box: Float64[np.ndarray, "3 3"], tree: BondTree
) -> Float64[np.ndarray, "m n 3"]:
    """Adds up the lattice vectors between every atom and its root.

    Pointers are doubled (each atom looks two, four, eight steps up), so that a chain of n atoms
    takes log n passes over arrays instead of n steps. Counting whole lattice vectors keeps the
    coordinates free of accumulated rounding.
    """
    bonds = copies - copies[:, tree.parent]
    images = np.rint((minimum_image(bonds, box) - bonds) @ np.linalg.inv(box))
    pointer = tree.parent
    while True:
        above = pointer[pointer]
        if (above == pointer).all():
            return copies + images @ box
        # A root's own image count is zero, so adding it again changes nothing.
        images = images + images[:, pointer]
        pointer = above


def _check_bonds(
    whole: Float64[np.ndarray, "m n 3"],
    box: Float64[np.ndarray, "3 3"],
    molecule: MoleculeType,
    tree: BondTree,
    first_molecule: int,
    source: str,
) -> None:
    """Refuses bonds whose image is ambiguous; atoms in a wrong order are found out here."""
    lengths = np.linalg.norm(whole - whole[:, tree.parent], axis=-1)
    limit = 0.5 * float(cell_heights(box).min())
    bad = np.argwhere(lengths > limit)
    if len(bad):
        copy, atom = bad[0]
        raise InputError(
            f"{source}: expected bonds shorter than half the cell ({limit:.3f} nm), found "
            f"{lengths[copy, atom]:.3f} nm between atoms {molecule.atom_names[tree.parent[atom]]} "
            f"and {molecule.atom_names[atom]} of molecule {first_molecule + copy + 1} "
            f"({molecule.name}): are the atoms in the order of the topology?"
        )


def _check_closures(
    whole: Float64[np.ndarray, "m n 3"],
    box: Float64[np.ndarray, "3 3"],
    molecule: MoleculeType,
    tree: BondTree,
    first_molecule: int,
    source: str,
) -> None:
    """Refuses molecules whose rings do not close in one cell."""
    a, b = tree.closures.T
    bonds = whole[:, b] - whole[:, a]
    gap = np.linalg.norm(bonds - minimum_image(bonds, box), axis=-1)
    bad = np.argwhere(gap > 1e-6)
    if len(bad):
        copy, bond = bad[0]
        i, j = tree.closures[bond]
        raise InputError(
            f"{source}: expected molecule {first_molecule + copy + 1} ({molecule.name}) to close "
            f"its rings within one cell, found atoms {molecule.atom_names[i]} and "
            f"{molecule.atom_names[j]} bonded across the box, so that it is bonded to its own "
            "periodic image (map, backmap --model none, finish, md and baseline --method backward "
            "take that; models and templates are of molecules that end)"
        )

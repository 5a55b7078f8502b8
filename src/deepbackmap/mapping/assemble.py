"""From beads with their atoms to a checked ``MoleculeMapping``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64

from deepbackmap.errors import InputError
from deepbackmap.mapping.containers import MoleculeMapping
from deepbackmap.system import MoleculeType
from deepbackmap.system.lean import site_shares


@dataclass(frozen=True)
class ResolvedBead:
    """One bead of a molecule, with atom indices of that molecule."""

    name: str
    type: str
    residue_name: str
    residue_number: int
    atoms: tuple[int, ...]
    weights: tuple[float, ...]
    """One an atom, positive, not yet normalised."""
    owns: tuple[int, ...]
    align: tuple[int, int] | None = None
    """Beads between which the local z axis points, if the file says so."""


def assemble(molecule: MoleculeType, beads: Sequence[ResolvedBead], source: str) -> MoleculeMapping:
    """Normalises weights, checks that every atom has one owner, and derives the bead graph.

    Virtual sites need no owner: they go with the atom that they are constructed from, and where
    their weight is that of their mass (none), they do not count in a bead's position.

    Args:
        molecule: whose atoms the beads name.
        beads: in file order.
        source: the mapping file, for errors.

    Returns:
        The mapping of that molecule type.

    Raises:
        InputError: an atom has no owner or several, or a bead owns nothing.
    """
    beads = [_without_weightless_sites(molecule, bead, source) for bead in beads]
    owner = _owners(molecule, beads, source)
    bonds = bead_bonds(molecule.bonds, owner)
    order, parent = depth_first(len(beads), bonds)
    counts = [len(b.atoms) for b in beads]
    weights = [np.asarray(b.weights, dtype=np.float64) for b in beads]
    return MoleculeMapping(
        bead_names=tuple(b.name for b in beads),
        bead_types=tuple(b.type for b in beads),
        bead_residue_names=tuple(b.residue_name for b in beads),
        bead_residue_numbers=np.array([b.residue_number for b in beads], dtype=np.int64),
        weight_atoms=np.array([a for b in beads for a in b.atoms], dtype=np.int64),
        weight_beads=np.repeat(np.arange(len(beads), dtype=np.int64), counts),
        weights=np.concatenate([w / w.sum() for w in weights]) if beads else np.zeros(0),
        owner=owner,
        bead_bonds=bonds,
        align=_alignment(beads, bonds, parent),
        order=order,
    )


def bead_bonds(
    atom_bonds: Int64[np.ndarray, "m 2"], owner: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "k 2"]:
    """Pairs of beads i < j that own bonded atoms, sorted, unique."""
    pairs = np.sort(owner[atom_bonds].reshape(-1, 2), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def depth_first(
    n_beads: int, bonds: Int64[np.ndarray, "k 2"]
) -> tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"]]:
    """The order S (paper, section II B): depth-first preorder, neighbours in index order.

    Args:
        n_beads: number of beads.
        bonds: bead pairs.

    Returns:
        The beads in order, component after component, and for each bead the one it was reached
        from (-1 for the first of a component).
    """
    neighbours: list[list[int]] = [[] for _ in range(n_beads)]
    for i, j in bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    parent = np.full(n_beads, -1, dtype=np.int64)
    seen = np.zeros(n_beads, dtype=bool)
    order: list[int] = []
    for start in range(n_beads):
        stack = [(start, -1)]
        while stack:
            bead, source = stack.pop()
            if seen[bead]:
                continue
            seen[bead] = True
            parent[bead] = source
            order.append(bead)
            ahead = sorted(neighbours[bead], reverse=True)
            stack.extend((other, bead) for other in ahead if not seen[other])
    return np.array(order, dtype=np.int64), parent


def _owners(
    molecule: MoleculeType, beads: Sequence[ResolvedBead], source: str
) -> Int64[np.ndarray, "n"]:
    owner = np.full(molecule.n_atoms, -1, dtype=np.int64)
    virtual = molecule.virtual
    for index, bead in enumerate(beads):
        owns = [atom for atom in bead.owns if not virtual[atom]]
        if not owns:
            raise InputError(
                f"{source}: expected bead {bead.name} of molecule {molecule.name} to own atoms, "
                f"found {'virtual sites alone' if bead.owns else 'none'}: leave a site that only "
                "the coarse-grained model has out of the mapping and out of the bead file"
            )
        for atom in owns:
            if owner[atom] >= 0:
                raise InputError(
                    f"{source}: expected one owner for {_atom(molecule, atom)}, found beads "
                    f"{beads[owner[atom]].name} and {bead.name}; say which one places it with "
                    f"'owns'"
                )
            owner[atom] = index
    if (owner[~virtual] < 0).any():
        missing = np.flatnonzero((owner < 0) & ~virtual)
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{source}: expected one bead to own every atom, found none for "
            f"{_atom(molecule, int(missing[0]))}{more}"
        )
    for site, shares in site_shares(molecule).items():
        owner[site] = owner[shares[0][0]]
    return owner


def _without_weightless_sites(
    molecule: MoleculeType, bead: ResolvedBead, source: str
) -> ResolvedBead:
    """The bead without virtual sites that weigh nothing in it."""
    virtual = molecule.virtual
    pairs = zip(bead.atoms, bead.weights, strict=True)
    rows = [(a, w) for a, w in pairs if w > 0 or not virtual[a]]
    if len(rows) == len(bead.atoms):
        return bead
    if not rows:
        raise InputError(
            f"{source}: expected bead {bead.name} of molecule {molecule.name} to stand for atoms, "
            "found virtual sites alone"
        )
    return replace(bead, atoms=tuple(a for a, _ in rows), weights=tuple(w for _, w in rows))


def _atom(molecule: MoleculeType, atom: int) -> str:
    return (
        f"atom {molecule.atom_names[atom]} of residue {molecule.residue_names[atom]} "
        f"{molecule.residue_numbers[atom]} in molecule {molecule.name}"
    )


def _alignment(
    beads: Sequence[ResolvedBead],
    bonds: Int64[np.ndarray, "k 2"],
    parent: Int64[np.ndarray, "b"],
) -> Int64[np.ndarray, "b 2"]:
    """The bond to the bead it was reached from, else to its first bonded bead, low to high."""
    first = np.full(len(beads), -1, dtype=np.int64)
    for i, j in bonds[::-1].tolist():  # backwards, so that the lowest neighbour is written last
        first[i] = j
    align = np.full((len(beads), 2), -1, dtype=np.int64)
    for index, bead in enumerate(beads):
        partner = int(parent[index]) if parent[index] >= 0 else int(first[index])
        if bead.align is not None:
            align[index] = bead.align
        elif partner >= 0:
            align[index] = sorted((index, partner))
    return align

"""What is drawn at once, and the piece of the molecule that tells what it may look like.

A small molecule is drawn whole. Of a larger one the atoms of one bead are drawn at a time; what
they may look like is told by a *window*: the bead with those around it in the graph of beads,
whichever way that branches or closes. Windows that are alike (the same atoms, bonds, energies,
weights and hands, in the same order) are one kind, and one run of dynamics serves all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.mapping import MoleculeMapping
from deepbackmap.system import BondedTerms, MoleculeType

WHOLE_BEADS, WHOLE_ATOMS = 6, 60
"""Molecules of at most so many beads and atoms are drawn whole."""
JOINT_BONDS = 2
"""Atoms that are placed already count in the fit if they are at most so many bonds away."""
AROUND = 3
"""Beads around the one that is drawn: collected one bond further until there are so many."""


@dataclass(frozen=True)
class Window:
    """A piece of a molecule type; indices are those of the molecule unless said otherwise."""

    beads: Int64[np.ndarray, " b"]
    """Those it is fitted to; all atoms that their positions depend on are in the window."""
    atoms: Int64[np.ndarray, " a"]
    """All atoms of the window, ascending."""
    own: Int64[np.ndarray, " o"]
    """Places in ``atoms`` of those that are drawn."""
    joint: Int64[np.ndarray, " j"]
    """Places in ``atoms`` of heavy atoms that other windows draw, to which it is fitted."""
    molecule: MoleculeType
    """The piece as a molecule of its own."""
    weights: Float64[np.ndarray, "b a"]
    """Of the window's atoms in its beads."""


def find_windows(molecule: MoleculeType, mapping: MoleculeMapping) -> tuple[Window, ...]:
    """The windows of a molecule type in the order in which they are drawn."""
    if mapping.n_beads <= WHOLE_BEADS and molecule.n_atoms <= WHOLE_ATOMS:
        everything = np.arange(mapping.n_beads)
        return (_window(molecule, mapping, everything, everything),)
    neighbours: list[list[int]] = [[] for _ in range(mapping.n_beads)]
    for i, j in mapping.bead_bonds.tolist():
        neighbours[i].append(j)
        neighbours[j].append(i)
    return tuple(
        _window(molecule, mapping, np.array([bead]), _around(bead, neighbours))
        for bead in mapping.order.tolist()
    )


def _around(bead: int, neighbours: Sequence[Sequence[int]]) -> Int64[np.ndarray, " b"]:
    """A bead and those around it, ascending."""
    found, frontier = {bead}, [bead]
    while frontier and len(found) <= AROUND:
        frontier = sorted({b for a in frontier for b in neighbours[a]} - found)
        found.update(frontier)
    return np.array(sorted(found), dtype=np.int64)


def _window(
    molecule: MoleculeType,
    mapping: MoleculeMapping,
    drawn: Int64[np.ndarray, " d"],
    beads: Int64[np.ndarray, " b"],
) -> Window:
    entered = np.isin(mapping.weight_beads, beads)
    atoms = np.union1d(
        mapping.weight_atoms[entered], np.flatnonzero(np.isin(mapping.owner, beads))
    ).astype(np.int64)
    own = np.isin(mapping.owner[atoms], drawn)
    weights = np.zeros((len(beads), len(atoms)))
    rows = np.searchsorted(beads, mapping.weight_beads[entered])
    columns = np.searchsorted(atoms, mapping.weight_atoms[entered])
    np.add.at(weights, (rows, columns), mapping.weights[entered])
    return Window(
        beads=beads,
        atoms=atoms,
        own=np.flatnonzero(own),
        joint=_joint(molecule, atoms, own),
        molecule=cut(molecule, atoms),
        weights=weights,
    )


def _joint(
    molecule: MoleculeType, atoms: Int64[np.ndarray, " a"], own: np.ndarray
) -> Int64[np.ndarray, " j"]:
    """Places of the heavy atoms that share an angle with one that is drawn."""
    near = np.zeros(molecule.n_atoms, dtype=bool)
    near[atoms[own]] = True
    for _ in range(JOINT_BONDS):
        reached = near[molecule.bonds].any(axis=1)
        near[molecule.bonds[reached].ravel()] = True
    return np.flatnonzero(~own & near[atoms] & molecule.heavy[atoms])


def cut(molecule: MoleculeType, atoms: Int64[np.ndarray, " a"]) -> MoleculeType:
    """Some atoms of a molecule with what they feel of each other.

    Args:
        molecule: the molecule type.
        atoms: to be kept, ascending.
    """
    place = np.full(molecule.n_atoms, -1, dtype=np.int64)
    place[atoms] = np.arange(len(atoms))

    def kept(terms: BondedTerms) -> BondedTerms:
        inside = (place[terms.atoms] >= 0).all(axis=1)
        return BondedTerms(place[terms.atoms[inside]], terms.parameters[inside], terms.grids)

    terms = {kind: kept(found) for kind, found in molecule.terms.items()}
    exclusions = place[molecule.exclusions]
    return MoleculeType(
        name=molecule.name,
        atom_names=tuple(molecule.atom_names[a] for a in atoms),
        atom_types=tuple(molecule.atom_types[a] for a in atoms),
        residue_names=tuple(molecule.residue_names[a] for a in atoms),
        residue_numbers=molecule.residue_numbers[atoms],
        charges=molecule.charges[atoms],
        masses=molecule.masses[atoms],
        terms={kind: found for kind, found in terms.items() if len(found.atoms)},
        nrexcl=molecule.nrexcl,
        exclusions=exclusions[(exclusions >= 0).all(axis=1)],
        pairs=kept(molecule.pairs),
    )


def rows_inside(window: Window, rows: Int64[np.ndarray, "c n"]) -> Int64[np.ndarray, " k"]:
    """Which stereocentres or double bonds of the molecule have all of their atoms in the window."""
    return np.flatnonzero(np.isin(rows, window.atoms).all(axis=1))


def kind_of(window: Window, centres: Int64[np.ndarray, "c 5"]) -> bytes:
    """A key that windows share whose dynamics are the same, hands aside.

    Args:
        window: the window.
        centres: its stereocentres, as places in the window.
    """
    m = window.molecule
    parts = [repr(m.atom_types).encode(), m.charges.tobytes(), m.masses.tobytes()]
    for kind in sorted(m.terms):
        parts += [kind.encode(), m.terms[kind].atoms.tobytes(), m.terms[kind].parameters.tobytes()]
    parts += [m.exclusions.tobytes(), m.pairs.atoms.tobytes(), m.pairs.parameters.tobytes()]
    parts += [np.round(window.weights, 9).tobytes(), window.own.tobytes(), centres.tobytes()]
    return b"|".join(parts)

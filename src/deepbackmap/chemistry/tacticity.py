"""Handedness of stereocentres along a chain, in words that fit chains of any length.

``stereo.handedness`` orders the branches of a centre by their place in the whole molecule's bond
graph, so that its sign means one thing in a 10-mer and may mean another in a 200-mer. Here the
branches are ordered by what is near: atom type, then the place of the owning bead in the order S,
then the index. With that order the sign follows the chain, and a pattern can be told from some
chains and looked for in others: the same sign in every bead of a kind (isotactic) or signs that
alternate from one bead of that kind to the next (syndiotactic).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from deepbackmap.chemistry import stereo
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType, Structure

Pattern = Mapping[str, Sequence[int]]
"""By kind of centre: the sign in beads of even and of odd place among the beads of that type in
the order S; 0 where it is not known."""


@dataclass(frozen=True)
class Centres:
    """The stereocentres of a system."""

    atoms: Int64[np.ndarray, "c 5"]
    """The centre and its four branches in local order; atoms of the system."""
    kinds: tuple[str, ...]
    """One a centre: type of the owning bead and the centre's place among those of that bead."""
    parity: Int64[np.ndarray, "c"]
    """0 or 1: place of the owning bead among the beads of its type, in the order S."""


@dataclass(frozen=True)
class KnownHands:
    """The hand that each stereocentre should have."""

    centres: Int64[np.ndarray, "c 5"]
    """As ``Centres.atoms``."""
    signs: Int64[np.ndarray, "c"]
    """1 or -1; 0 where nothing is known."""

    @classmethod
    def by_pattern(cls, mapping: SystemMapping, pattern: Pattern) -> KnownHands:
        """Those that a pattern asks of the centres of a system."""
        centres = find_centres(mapping)
        return cls(centres.atoms, expected_signs(centres, pattern))


def find_centres(mapping: SystemMapping, *, of_beads: bool = False) -> Centres:
    """All stereocentres of a system, in the order of its atoms.

    Args:
        mapping: tells which bead owns each atom.
        of_beads: find instead those atoms that are stereocentres only because beads tell two of
            their four branches apart, as the two methyl groups of an isopropyl group. Which one
            belongs to which bead is a hand that molecular dynamics keeps.
    """
    topology = mapping.topology
    per_type = [
        _of_molecule(m, b, of_beads)
        for m, b in zip(topology.molecule_types, mapping.molecules, strict=True)
    ]
    atoms, kinds, parity = [np.zeros((0, 5), dtype=np.int64)], [], [np.zeros(0, dtype=np.int64)]
    start = 0
    for index, count in topology.blocks:
        found = per_type[index]
        size = topology.molecule_types[index].n_atoms
        shift = start + size * np.arange(count, dtype=np.int64)
        atoms.append((found.atoms[None] + shift[:, None, None]).reshape(-1, 5))
        kinds += list(found.kinds) * count
        parity.append(np.tile(found.parity, count))
        start += size * count
    return Centres(np.concatenate(atoms), tuple(kinds), np.concatenate(parity))


def _of_molecule(molecule: MoleculeType, beads: MoleculeMapping, of_beads: bool) -> Centres:
    if not beads.n_beads:
        return Centres(np.zeros((0, 5), dtype=np.int64), (), np.zeros(0, dtype=np.int64))
    rank = np.empty(beads.n_beads, dtype=np.int64)
    rank[beads.order] = np.arange(beads.n_beads)
    place, seen = np.zeros(beads.n_beads, dtype=np.int64), dict[str, int]()
    for bead in beads.order.tolist():
        kind = beads.bead_types[bead]
        place[bead] = seen.get(kind, 0)
        seen[kind] = place[bead] + 1

    def near(branch: int) -> tuple[str, int, int]:
        return molecule.atom_types[branch], int(rank[beads.owner[branch]]), branch

    ranks = stereo.canonical_ranks(molecule)
    found = stereo.stereocentres(molecule, ranks)
    if of_beads:
        told_apart = stereo.stereocentres(molecule, ranks * beads.n_beads + beads.owner)
        found = told_apart[~np.isin(told_apart[:, 0], found[:, 0])]
    rows, kinds, parity, in_bead = [], [], [], dict[int, int]()
    for centre, *branches in found.tolist():
        bead = int(beads.owner[centre])
        number = in_bead.get(bead, 0)
        in_bead[bead] = number + 1
        rows.append([centre, *sorted(branches, key=near)])
        kinds.append(f"{beads.bead_types[bead]}:{number}")
        parity.append(int(place[bead]) % 2)
    return Centres(
        np.array(rows, dtype=np.int64).reshape(-1, 5),
        tuple(kinds),
        np.array(parity, dtype=np.int64),
    )


def joined(first: Centres, second: Centres) -> Centres:
    """Two sets of centres, one after the other."""
    return Centres(
        np.concatenate([first.atoms, second.atoms]),
        first.kinds + second.kinds,
        np.concatenate([first.parity, second.parity]),
    )


def signs(structure: Structure, centres: Centres) -> Int64[np.ndarray, "c"]:
    """Handedness of every centre: 1 or -1, or 0 where its branches lie in a plane.

    This is the order of all four branches; see ``stereo.seen_from_the_centre`` for the test by
    the side of the heavy ones.
    """
    return stereo.handedness(structure, centres.atoms)


def learn_pattern(centres: Centres, frames: Int64[np.ndarray, "f c"]) -> dict[str, list[int]]:
    """The pattern that all frames agree on.

    Args:
        centres: of the system.
        frames: signs of its centres in every frame.

    Returns:
        A pattern; 0 where frames or molecules disagree or have nothing to say.
    """
    pattern: dict[str, list[int]] = {}
    kinds = np.array(centres.kinds)
    for kind in sorted(set(centres.kinds)):
        entry = []
        for parity in (0, 1):
            found = np.unique(frames[:, (kinds == kind) & (centres.parity == parity)])
            entry.append(int(found[0]) if len(found) == 1 else 0)
        pattern[kind] = entry
    return pattern


def expected_signs(centres: Centres, pattern: Pattern) -> Int64[np.ndarray, "c"]:
    """The sign that a pattern asks of every centre; 0 where it says nothing."""
    return np.array(
        [
            int(pattern[kind][parity]) if kind in pattern else 0
            for kind, parity in zip(centres.kinds, centres.parity.tolist(), strict=True)
        ],
        dtype=np.int64,
    )

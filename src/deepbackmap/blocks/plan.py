"""Everything about the blocks of a molecule that does not depend on coordinates.

A *block* is the set of atoms that one bead owns. ``BlockPlan`` lists, for every bead of every
molecule type, the sequences in which its heavy and its light atoms are placed (II B), and for
every atom its type and its role towards every other atom of the molecule.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from deepbackmap.errors import InputError
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType
from deepbackmap.system.kinds import KINDS

BOND, ANGLE, TORSION, EXCLUDED = 1, 2, 4, 8
"""Bits of a role: the two atoms share a bond, an angle, a torsion; or are excluded from LJ."""

ROLES = ("bond", "angle", "torsion", "lj", "other molecule")
"""Roles of an environment atom towards the target, in the order of the channels."""

_ROLE_OF_KIND = {
    name: {2: BOND if kind.chemical else 0, 3: ANGLE}.get(kind.n_atoms, TORSION)
    for name, kind in KINDS.items()
}


@dataclass(frozen=True)
class BlockPlan:
    """Tables by *kind*: the atoms and beads of all molecule types, one type after the other.

    Atom and bead entries of a table are local to their molecule, padded with -1.
    """

    atom_kinds: Int64[np.ndarray, "t1"]
    """First atom kind of each molecule type, and the total."""
    bead_kinds: Int64[np.ndarray, "t1"]
    """First bead kind of each molecule type, and the total."""
    atom_type: Int64[np.ndarray, "ka"]
    """Index into the model's atom types."""
    atom_heavy: np.ndarray
    """Whether the atom is heavy, (ka,)."""
    atom_owner: Int64[np.ndarray, "ka"]
    """Local bead that owns the atom."""
    bead_type: Int64[np.ndarray, "kb"]
    """Index into the model's bead types."""
    owned: Int64[np.ndarray, "kb m"]
    """Local atoms owned by each bead, by index."""
    heavy: Int64[np.ndarray, "kb h"]
    """Heavy atoms of each bead in the order of placement."""
    light: Int64[np.ndarray, "kb l"]
    """Hydrogens of each bead in the order of placement."""
    axis: Int64[np.ndarray, "kb 3"]
    """Local beads (from, to, third): z points from the first to the second; the third gives
    the plane where a method asks for one. -1: none."""
    rank: Int64[np.ndarray, "kb"]
    """Place of each bead in the order S of its molecule."""
    adjacent: Int64[np.ndarray, "kb d"]
    """Local beads that each bead is bonded to, the bead itself first."""
    role_key: Int64[np.ndarray, "r"]
    """Sorted keys (atom kind of the first) * stride + (local index of the second)."""
    role_bits: UInt8[np.ndarray, "r"]
    """Bits of each key's pair."""
    stride: int
    """Largest molecule, in atoms."""

    def sequence(self, light: bool) -> Int64[np.ndarray, "kb s"]:
        """The heavy or the light sequences."""
        return self.light if light else self.heavy


def _pad(rows: list[list[int]]) -> Int64[np.ndarray, "n m"]:
    width = max((len(r) for r in rows), default=0)
    table = np.full((len(rows), max(width, 1)), -1, dtype=np.int64)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def adjacency(n: int, pairs: np.ndarray) -> list[list[int]]:
    """Neighbours of each node in the order in which the pairs are listed."""
    found: list[list[int]] = [[] for _ in range(n)]
    for i, j in pairs.tolist():
        found[i].append(j)
        found[j].append(i)
    return found


def heavy_sequence(
    bead: int, owner: np.ndarray, rank: np.ndarray, heavy: np.ndarray, neighbours: list[list[int]]
) -> list[int]:
    """Order in which a bead's heavy atoms are placed (II B; depth first from the attachment).

    The first atom is one that is bonded to a heavy atom of a bead earlier in S; where there is
    none, the one with the fewest heavy neighbours.
    """
    mine = [int(a) for a in np.flatnonzero((owner == bead) & heavy)]
    left = set(mine)

    def earlier(a: int) -> bool:
        return any(heavy[b] and rank[owner[b]] < rank[bead] for b in neighbours[a])

    def degree(a: int) -> int:
        return sum(bool(heavy[b]) for b in neighbours[a])

    sequence: list[int] = []
    while left:
        start = min(left, key=lambda a: (not earlier(a), 0 if earlier(a) else degree(a), a))
        stack = [start]
        while stack:
            atom = stack.pop()
            if atom not in left:
                continue
            left.remove(atom)
            sequence.append(atom)
            stack.extend(b for b in reversed(neighbours[atom]) if b in left)
    return sequence


def _third_bead(bead: int, axis: tuple[int, int], rank: np.ndarray, bonded: list[list[int]]) -> int:
    """The bead that fixes the plane: bonded to the bead itself, else to the axis' other end,
    the latest in S; else the nearest by bonds; -1 where the molecule has no third bead."""
    for centre in (bead, axis[0] if axis[1] == bead else axis[1]):
        options = [b for b in bonded[centre] if b not in axis and b != bead]
        if options:
            return max(options, key=lambda b: int(rank[b]))
    seen, queue = {bead}, deque([bead])
    while queue:
        current = queue.popleft()
        if current not in axis and current != bead:
            return current
        for b in bonded[current]:
            if b not in seen:
                seen.add(b)
                queue.append(b)
    return -1


def _roles(molecule: MoleculeType) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directed pairs (first, second) that have a role, and its bits."""
    first, second, bits = [], [], []
    for kind, terms in molecule.terms.items():
        k = terms.atoms.shape[1]
        for i in range(k):
            for j in range(k):
                if i != j:
                    first.append(terms.atoms[:, i])
                    second.append(terms.atoms[:, j])
                    bits.append(np.full(len(terms.atoms), _ROLE_OF_KIND[kind]))
    for i, j in ((0, 1), (1, 0)):
        first.append(molecule.exclusions[:, i])
        second.append(molecule.exclusions[:, j])
        bits.append(np.full(len(molecule.exclusions), EXCLUDED))
    return np.concatenate(first), np.concatenate(second), np.concatenate(bits)


def _index(names: tuple[str, ...], known: tuple[str, ...], what: str, molecule: str) -> list[int]:
    missing = sorted(set(names) - set(known))
    if missing:
        raise InputError(
            f"molecule '{molecule}': {what} {', '.join(missing)} is unknown to the model, "
            f"which was trained on {', '.join(known)}"
        )
    return [known.index(n) for n in names]


def _molecule_tables(
    molecule: MoleculeType, mapping: MoleculeMapping
) -> tuple[list[list[int]], list[list[int]], list[list[int]], np.ndarray, np.ndarray]:
    """Owned atoms, heavy and light sequences, axes and ranks of one molecule type."""
    n = mapping.n_beads
    rank = np.empty(n, dtype=np.int64)
    rank[mapping.order] = np.arange(n)
    heavy = molecule.heavy
    neighbours = adjacency(molecule.n_atoms, molecule.bonds)
    bonded = adjacency(n, mapping.bead_bonds)
    owned = [[int(a) for a in np.flatnonzero(mapping.owner == b)] for b in range(n)]
    sequences = [heavy_sequence(b, mapping.owner, rank, heavy, neighbours) for b in range(n)]
    light = [[a for a in atoms if not heavy[a]] for atoms in owned]
    axis = np.full((n, 3), -1, dtype=np.int64)
    for b in range(n):
        start, end = (int(v) for v in mapping.align[b])
        axis[b] = (start, end, _third_bead(b, (start, end), rank, bonded) if start >= 0 else -1)
    return owned, sequences, light, axis, rank


def build_plan(
    mapping: SystemMapping, atom_types: tuple[str, ...], bead_types: tuple[str, ...]
) -> BlockPlan:
    """Tables for every molecule type of a system, in the vocabulary of a model.

    Raises:
        InputError: an atom or bead type that the model does not know.
    """
    types = mapping.topology.molecule_types
    atom_kinds = np.concatenate([[0], np.cumsum([m.n_atoms for m in types])]).astype(np.int64)
    bead_kinds = np.concatenate([[0], np.cumsum([m.n_beads for m in mapping.molecules])])
    stride = max((m.n_atoms for m in types), default=1)
    owned: list[list[int]] = []
    heavy: list[list[int]] = []
    light: list[list[int]] = []
    axes, ranks, keys, bits = [], [], [], []
    adjacent: list[list[int]] = []
    atom_type: list[int] = []
    bead_type: list[int] = []
    for t, (molecule, beads) in enumerate(zip(types, mapping.molecules, strict=True)):
        o, h, li, axis, rank = _molecule_tables(molecule, beads)
        owned, heavy, light = owned + o, heavy + h, light + li
        axes.append(axis)
        bonded = adjacency(beads.n_beads, beads.bead_bonds)
        adjacent += [[bead, *found] for bead, found in enumerate(bonded)]
        ranks.append(rank)
        first, second, b = _roles(molecule)
        keys.append((first + atom_kinds[t]) * stride + second)
        bits.append(b)
        atom_type += _index(molecule.atom_types, atom_types, "atom type", molecule.name)
        bead_type += _index(beads.bead_types, bead_types, "bead type", molecule.name)
    key, where = np.unique(np.concatenate(keys), return_inverse=True)
    merged = np.zeros(len(key), dtype=np.uint8)
    np.bitwise_or.at(merged, where, np.concatenate(bits).astype(np.uint8))
    return BlockPlan(
        atom_kinds=atom_kinds,
        bead_kinds=bead_kinds.astype(np.int64),
        atom_type=np.array(atom_type, dtype=np.int64),
        atom_heavy=np.concatenate([m.heavy for m in types]),
        atom_owner=np.concatenate([m.owner for m in mapping.molecules]),
        bead_type=np.array(bead_type, dtype=np.int64),
        owned=_pad(owned),
        heavy=_pad(heavy),
        light=_pad(light),
        axis=np.concatenate(axes),
        rank=np.concatenate(ranks),
        adjacent=_pad(adjacent),
        role_key=key.astype(np.int64),
        role_bits=merged,
        stride=stride,
    )

"""What a block sees as points: slots of atoms in a frame of three beads, and densities around them.

Beside the voxels, the second way to say what a model sees and makes. All atoms of a block are
placed at once, in the frame that three beads fix, so no rotation is left. Every block of one bead
type has the same *slots*: its own atoms, the atoms within a few bonds of them, and the beads before
and after it along the molecule. Everything else around an atom is summed up in densities: for each
class of neighbour the number of atoms at a distance, and the vector to them.

A bead beside a left-handed stereocentre is looked at in a mirror (its frame is a left-handed one,
and paired hydrogens swap their slots): the network meets one hand only, and learns from both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.blocks.index import BeadFrames, Blocks
from deepbackmap.blocks.plan import BlockPlan, adjacency
from deepbackmap.errors import InputError
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.points.options import PointOptions, Vocabulary


@dataclass(frozen=True)
class KindNames:
    """Names by bead kind, from which slots are made."""

    own: list[dict[str, int]]
    """Slot → local atom, of every bead kind, as seen in its frame."""
    context: list[dict[str, int]]
    chain: list[dict[int, int]]
    """Distance in the order S → local bead."""
    variant: list[str]
    hand: Int64[np.ndarray, "kb"]
    """-1 where the bead is looked at in a mirror."""
    sign: Int64[np.ndarray, "kb"]
    """Hand of the bead's stereocentre, or of the nearest one."""
    bead_type: list[str]


def _atom_names(
    plan: BlockPlan, kind: int, types: list[str], neighbours: list[list[int]]
) -> tuple[dict[int, str], dict[int, str]]:
    """Slot of each atom of a bead kind, and its slot in a mirror."""
    heavy = [a for a in plan.heavy[kind].tolist() if a >= 0]
    light = [a for a in plan.light[kind].tolist() if a >= 0]
    names = {a: f"{k}.-:{types[a]}" for k, a in enumerate(heavy)}
    mirrored = dict(names)
    place = {a: k for k, a in enumerate(heavy)}
    groups: dict[int, list[int]] = {}
    for a in sorted(light):
        carrier = next((place[b] for b in neighbours[a] if b in place), -1)
        groups.setdefault(carrier, []).append(a)
    for carrier, members in groups.items():
        slots = [f"{carrier}.{k}:{types[a]}" for k, a in enumerate(members)]
        names |= dict(zip(members, slots, strict=True))
        # Two hydrogens of one carbon are mirror images of each other, whichever third there is.
        swapped = [1, 0, *range(2, len(members))] if len(members) > 1 else [0]
        mirrored |= {a: slots[k] for a, k in zip(members, swapped, strict=True)}
    return names, mirrored


def bead_signs(mapping: SystemMapping, handedness: Handedness | None) -> tuple[dict[int, int], ...]:
    """For each molecule type the hand of every bead that owns a stereocentre.

    Args:
        mapping: of the system.
        handedness: of its stereocentres, the same for all copies of a molecule type; None: not
            known.
    """
    if handedness is None:
        return tuple({} for _ in mapping.molecules)
    centres, sign = handedness.atoms[:, 0].cpu().numpy(), handedness.sign.cpu().numpy()
    topology = mapping.topology
    index, offsets = topology.molecule_type_index(), topology.molecule_offsets()
    found: list[dict[int, int]] = []
    for t, beads in enumerate(mapping.molecules):
        copies = np.flatnonzero(index == t)
        signs: dict[int, int] = {}
        if len(copies):
            start, stop = offsets[copies[0]], offsets[copies[0] + 1]
            for k in np.flatnonzero((centres >= start) & (centres < stop) & (sign != 0)).tolist():
                signs.setdefault(int(beads.owner[centres[k] - start]), int(sign[k]))
        found.append(signs)
    return tuple(found)


def _bead_hands(n: int, bonded: list[list[int]], own: dict[int, int]) -> np.ndarray:
    """Hand of every bead: of its own stereocentre or that of the nearest bead that has one."""
    hands = np.ones(n, dtype=np.int64)
    for bead in range(n):
        seen, queue = {bead}, deque([bead])
        while queue:
            current = queue.popleft()
            if current in own:
                hands[bead] = own[current]
                break
            for b in sorted(bonded[current]):
                if b not in seen:
                    seen.add(b)
                    queue.append(b)
    return hands


def _within(start: list[int], neighbours: list[list[int]], depth: int) -> list[int]:
    """Atoms outside ``start`` within ``depth`` bonds of it."""
    distance = dict.fromkeys(start, 0)
    queue = deque(start)
    while queue:
        atom = queue.popleft()
        if distance[atom] == depth:
            continue
        for b in neighbours[atom]:
            if b not in distance:
                distance[b] = distance[atom] + 1
                queue.append(b)
    return [a for a, d in distance.items() if d > 0]


def name_kinds(
    mapping: SystemMapping,
    plan: BlockPlan,
    options: PointOptions,
    hands: tuple[dict[int, int], ...],
) -> KindNames:
    """Names of the slots of every bead kind.

    Args:
        hands: for each molecule type, the sign of the stereocentre of each bead that has one.
    """
    own: list[dict[str, int]] = []
    context: list[dict[str, int]] = []
    chain: list[dict[int, int]] = []
    variant: list[str] = []
    hand: list[int] = []
    signs: list[int] = []
    bead_type: list[str] = []
    for t, (molecule, beads) in enumerate(
        zip(mapping.topology.molecule_types, mapping.molecules, strict=True)
    ):
        b0 = int(plan.bead_kinds[t])
        neighbours = adjacency(molecule.n_atoms, molecule.bonds)
        bonded = adjacency(beads.n_beads, beads.bead_bonds)
        sign = _bead_hands(beads.n_beads, bonded, hands[t])
        types = list(molecule.atom_types)
        named = [_atom_names(plan, b0 + b, types, neighbours) for b in range(beads.n_beads)]
        rank = plan.rank[b0 : b0 + beads.n_beads]
        at = {int(r): b for b, r in enumerate(rank)}
        for b in range(beads.n_beads):
            side = int(options.mirror and sign[b] < 0)
            mine = named[b][side]
            own.append({name: a for a, name in mine.items()})
            around = {}
            for a in _within(list(mine), neighbours, options.depth):
                owner = int(beads.owner[a])
                around[f"{rank[owner] - rank[b]:+d}/{named[owner][side][a]}"] = a
            context.append(around)
            steps = [k for k in range(-options.chain, options.chain + 1) if k != 0]
            chain.append({k: at[int(rank[b]) + k] for k in steps if int(rank[b]) + k in at})
            axis = [int(rank[c] - rank[b]) if c >= 0 else 99 for c in plan.axis[b0 + b].tolist()]
            kind = f"{','.join(sorted(mine.values()))}|{','.join(map(str, axis))}"
            variant.append(kind if options.mirror else f"{kind}|{sign[b]:+d}")
            hand.append(-1 if side else 1)
            signs.append(int(sign[b]))
            bead_type.append(beads.bead_types[b])
    return KindNames(
        own, context, chain, variant, np.array(hand, dtype=np.int64),
        np.array(signs, dtype=np.int64), bead_type,
    )  # fmt: skip


def collect_vocabulary(systems: Sequence[KindNames]) -> Vocabulary:
    """Everything that occurs in some systems, sorted."""
    own: dict[str, set[str]] = {}
    context: dict[str, set[str]] = {}
    variants: dict[str, set[str]] = {}
    for names, k, t in ((n, k, t) for n in systems for k, t in enumerate(n.bead_type)):
        own.setdefault(t, set()).update(names.own[k])
        context.setdefault(t, set()).update(names.context[k])
        variants.setdefault(t, set()).add(names.variant[k])

    def ordered(found: dict[str, set[str]]) -> dict[str, tuple[str, ...]]:
        return {t: tuple(sorted(found[t])) for t in sorted(found)}

    return Vocabulary(ordered(own), ordered(context), ordered(variants))


@dataclass(frozen=True)
class TypeTable:
    """All beads of one bead type of a system. An atom or bead that is not there is the last of a
    table (index n), so that it can be gathered like the others."""

    beads: Int64[Tensor, "b"]
    own: Int64[Tensor, "b s"]
    context: Int64[Tensor, "b c"]
    chain: Int64[Tensor, "b r"]
    chain_hand: Float[Tensor, "b r"]
    """Hand of that bead, as seen in this one's frame; 0: no such bead."""
    variant: Int64[Tensor, "b"]


@dataclass(frozen=True)
class PointTables:
    """The blocks of a system as slots."""

    types: dict[str, TypeTable]
    hand: Float[Tensor, "nb"]
    atom_class: Int64[Tensor, "na"]
    """Type of each atom (index into the model's)."""
    atom_owner: Int64[Tensor, "na1"]
    """Bead of each atom; the last row belongs to none."""
    atom_molecule: Int64[Tensor, "na"]
    n_atoms: int
    n_beads: int


def _kind_rows(
    names: KindNames, vocabulary: Vocabulary, bead_type: str, kinds: list[int], chain: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Local own, context and chain slots and the variant of the bead kinds of one type."""
    own_at = {name: k for k, name in enumerate(vocabulary.own[bead_type])}
    context_at = {name: k for k, name in enumerate(vocabulary.context[bead_type])}
    variant_at = {name: k for k, name in enumerate(vocabulary.variants[bead_type])}
    steps = [k for k in range(-chain, chain + 1) if k != 0]
    own = np.full((len(kinds), len(own_at)), -1, dtype=np.int64)
    context = np.full((len(kinds), len(context_at)), -1, dtype=np.int64)
    beads = np.full((len(kinds), len(steps)), -1, dtype=np.int64)
    variant = np.zeros(len(kinds), dtype=np.int64)
    for row, kind in enumerate(kinds):
        if names.variant[kind] not in variant_at:
            raise InputError(
                f"bead of type {bead_type}: expected atoms and neighbours as in one of the "
                f"{len(variant_at)} kinds of block of the model's training, found another: "
                f"{names.variant[kind]}"
            )
        variant[row] = variant_at[names.variant[kind]]
        for name, atom in names.own[kind].items():
            own[row, own_at[name]] = atom
        for name, atom in names.context[kind].items():
            if name in context_at:  # what training never met is not seen
                context[row, context_at[name]] = atom
        for step, bead in names.chain[kind].items():
            beads[row, steps.index(step)] = bead
    return own, context, beads, variant


def build_point_tables(
    mapping: SystemMapping,
    blocks: Blocks,
    names: KindNames,
    vocabulary: Vocabulary,
    options: PointOptions,
) -> PointTables:
    """Slots of every bead of a system, on the device of ``blocks``.

    Raises:
        InputError: a kind of block that the vocabulary does not know.
    """
    device = blocks.device
    n_atoms, n_beads = len(blocks.atom_kind), len(blocks.bead_kind)
    hand, sign = (
        torch.as_tensor(of_kind, device=device)[blocks.bead_kind].to(torch.float32)
        for of_kind in (names.hand, names.sign)
    )
    types = {}
    kind_type = np.array(names.bead_type)
    for bead_type in vocabulary.own:
        kinds = np.flatnonzero(kind_type == bead_type).tolist()
        if not kinds:
            continue
        rows = _kind_rows(names, vocabulary, bead_type, kinds, options.chain)
        own, context, chain, variant = (torch.as_tensor(r, device=device) for r in rows)
        place = torch.full((len(kind_type),), -1, dtype=torch.int64, device=device)
        place[torch.as_tensor(kinds, device=device)] = torch.arange(len(kinds), device=device)
        beads = torch.nonzero(place[blocks.bead_kind] >= 0).squeeze(1)
        row = place[blocks.bead_kind[beads]]
        atom0 = blocks.bead_first_atom[beads][:, None]
        bead0 = blocks.bead_first_bead[beads][:, None]
        chained = torch.where(chain[row] >= 0, chain[row] + bead0, n_beads)
        signs = torch.cat([sign, sign.new_zeros(1)])
        types[bead_type] = TypeTable(
            beads=beads,
            own=torch.where(own[row] >= 0, own[row] + atom0, n_atoms),
            context=torch.where(context[row] >= 0, context[row] + atom0, n_atoms),
            chain=chained,
            chain_hand=signs[chained] * hand[beads][:, None],
            variant=variant[row],
        )
    return PointTables(
        types=types,
        hand=hand,
        atom_class=blocks.atom_type[blocks.atom_kind],
        atom_owner=torch.cat([blocks.atom_owner, blocks.atom_owner.new_full((1,), n_beads)]),
        atom_molecule=blocks.bead_molecule[blocks.atom_owner],
        n_atoms=n_atoms,
        n_beads=n_beads,
    )


def mirrored_frames(frames: BeadFrames, hand: Float[Tensor, "nb"]) -> BeadFrames:
    """The same beads with the y axis of the local frame turned round where the hand is -1."""
    rotation = frames.rotation.clone()
    rotation[:, :, 1] *= hand[None, :, None]
    return BeadFrames(frames.neighbours, frames.vectors, rotation, frames.whole)

"""What a batch of beads sees: neighbouring atoms and beads as padded arrays of points.

Positions of atoms are kept relative to the bead that owns them. Periodic boundaries then enter
once a frame, in the vectors between neighbouring beads, and nowhere after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from deepbackmap.blocks.index import BeadFrames, Blocks
from deepbackmap.blocks.plan import ANGLE, BOND, EXCLUDED, TORSION
from deepbackmap.methods.voxel.options import VoxelOptions


@dataclass(frozen=True)
class Stage:
    """A situation in which atoms of a block are placed: one of the four of ``STAGES`` (II B), or
    ``WHOLE``."""

    light: bool
    """Hydrogens, or else heavy atoms."""
    first: bool
    """First placement, or else Gibbs refinement."""
    whole: bool = False
    """All atoms of the block at once, seeing everything around it: for its relaxation."""
    alone: bool = False
    """Of a sweep's heavy atoms: whether they see no hydrogen of their molecule at all, instead of
    those of the bead and of the beads it is bonded to (``VoxelOptions.hidden_hydrogens``)."""


WHOLE = Stage(light=True, first=False, whole=True)

STAGES = (Stage(False, True), Stage(True, True), Stage(False, False), Stage(True, False))
"""As the paper has them."""

ALONE = Stage(light=False, first=False, alone=True)


def stages_of(options: VoxelOptions) -> tuple[Stage, ...]:
    """The four situations of a model, in the order in which they come."""
    alone = options.hidden_hydrogens == "chain"
    return tuple(ALONE if alone and s == Stage(False, False) else s for s in STAGES)


@dataclass(frozen=True)
class Environment:
    """What a batch of sequences sees, in the beads' local frames. B beads, T targets, N atoms,
    K beads; padding has weight zero everywhere."""

    stage: Stage
    frame: Int64[Tensor, "B"]
    bead: Int64[Tensor, "B"]
    targets: Int64[Tensor, "B T"]
    """Global indices of the atoms to place; -1: none."""
    target_type: Int64[Tensor, "B T"]
    target_bits: Tensor
    """Role bits of target t towards target s, (B, T, T)."""
    own: Float[Tensor, "B T 3"]
    """Positions of the targets before this pass."""
    atoms: Float[Tensor, "B N 3"]
    atom_type: Int64[Tensor, "B N"]
    atom_valid: Bool[Tensor, "B N"]
    atom_same: Bool[Tensor, "B N"]
    """Whether the atom is of the target's molecule."""
    atom_bits: Tensor
    """Role bits of target t towards atom n, (B, T, N)."""
    beads: Float[Tensor, "B K 3"]
    bead_type: Int64[Tensor, "B K"]
    bead_valid: Bool[Tensor, "B K"]
    bead_same: Bool[Tensor, "B K"]

    @property
    def target_valid(self) -> Bool[Tensor, "B T"]:
        """Which target slots hold an atom."""
        return self.targets >= 0

    def turned(self, rotation: Float[Tensor, "B 3 3"]) -> Environment:
        """The same environment with every local frame turned."""
        turn = rotation.transpose(1, 2)
        return replace(self, own=self.own @ turn, atoms=self.atoms @ turn, beads=self.beads @ turn)

    def repeated(self, copies: int) -> Environment:
        """Each bead ``copies`` times in a row."""
        changes = {
            name: getattr(self, name).repeat_interleave(copies, dim=0)
            for name in self.__dataclass_fields__
            if isinstance(getattr(self, name), Tensor)
        }
        return replace(self, **changes)


def role_bits(blocks: Blocks, kind: Int64[Tensor, "..."], local: Int64[Tensor, "..."]) -> Tensor:
    """Role bits of atom kind ``kind`` towards the atom ``local`` of the same molecule."""
    if len(blocks.role_key) == 0:
        return torch.zeros_like(kind, dtype=torch.uint8)
    key = kind * blocks.plan.stride + local
    at = torch.searchsorted(blocks.role_key, key).clamp_max(len(blocks.role_key) - 1)
    return torch.where(blocks.role_key[at] == key, blocks.role_bits[at], 0)


def adjacent_beads(
    blocks: Blocks, bead: Int64[Tensor, "B"], others: Int64[Tensor, "B K"]
) -> Bool[Tensor, "B K"]:
    """Whether beads of the same molecule are the bead itself or bonded to it."""
    local = others - blocks.bead_first_bead[bead][:, None]
    bonded = blocks.adjacent[blocks.bead_kind[bead]]
    return (local[..., None] == bonded[:, None]).any(-1)


def _visible(stage: Stage, heavy: Tensor, hidden: Tensor, earlier: Tensor) -> Tensor:
    """Which atoms a target may see (the passes of II B).

    In a first pass the atoms placed so far. In a sweep heavy targets see no hydrogens of beads
    that are ``hidden``: these follow the heavy atoms, and would hold them where they were.
    """
    if stage.first:
        placed = (heavy | earlier) if stage.light else (heavy & earlier)
    else:
        placed = torch.ones_like(heavy)
    return placed if stage.light else placed & (heavy | ~hidden)


def gather_environment(
    blocks: Blocks,
    frames: BeadFrames,
    relative: Float[Tensor, "f na 3"],
    frame: Int64[Tensor, "B"],
    bead: Int64[Tensor, "B"],
    stage: Stage,
    keys: Float[Tensor, "B K"] | Float[Tensor, "nb"],
    *,
    radius: float,
) -> Environment:
    """Collect what each of a batch of beads sees within ``radius`` nm.

    Args:
        relative: positions of atoms relative to their owners' beads, laboratory axes.
        keys: when each bead is placed in the first pass: one a bead of the system, or one for
            every neighbour of every bead of the batch (column 0: the bead itself).
    """
    neighbours = frames.neighbours[frame, bead]  # B K
    vectors = frames.vectors[frame, bead]
    present = neighbours >= 0
    beads = neighbours.clamp_min(0)
    rotation = frames.rotation[frame, bead]
    if keys.dim() == 1:
        keys = keys[beads]
    same_bead = (blocks.bead_molecule[beads] == blocks.bead_molecule[bead][:, None]) & present
    # An image of the bead's own molecule across the box is another molecule to it.
    away = frames.whole[frame[:, None], beads] - frames.whole[frame, bead][:, None] - vectors
    same_bead &= away.abs().amax(-1) < 1e-2

    kind = blocks.bead_kind[beads]
    local = blocks.owned[kind]  # B K M
    b, k, m = local.shape
    exists = (local >= 0) & present[..., None]
    local = local.clamp_min(0)
    atom = local + blocks.bead_first_atom[beads][..., None]
    heavy = blocks.atom_heavy[blocks.atom_kind[atom]]
    same = same_bead[..., None].expand(b, k, m)
    earlier = (keys < keys[:, :1])[..., None].expand(b, k, m)
    hidden = same_bead if stage.alone else same_bead & adjacent_beads(blocks, bead, beads)
    seen = exists & _visible(stage, heavy, hidden[..., None].expand(b, k, m), earlier)
    # The sequence itself is handled slot by slot.
    seen[:, 0] &= (heavy[:, 0] == stage.light) & (not stage.whole)
    position = vectors[:, :, None] + relative[frame[:, None, None], atom]
    distance2 = position.square().sum(-1)
    seen &= distance2 < radius * radius

    seen, position, atom, same, local = (
        t.reshape(b, k * m, *t.shape[3:]) for t in (seen, position, atom, same, local)
    )
    width = max(int(seen.sum(1).max()), 1)
    # Nearest first: a fixed order, so that sums do not depend on the neighbour list's.
    rank_by = torch.where(seen, distance2.reshape(b, k * m), torch.inf)
    _, pick = rank_by.topk(width, dim=1, largest=False, sorted=True)
    valid = seen.gather(1, pick)
    atom, same, local = (t.gather(1, pick) for t in (atom, same, local))
    position = position.gather(1, pick[..., None].expand(-1, -1, 3))

    own_kind = blocks.bead_kind[bead]
    placed = blocks.owned if stage.whole else blocks.sequence(stage.light)
    sequence = placed[own_kind]  # B T local
    length = max(int((sequence >= 0).sum(1).max()), 1)
    sequence = sequence[:, :length]
    target = torch.where(sequence >= 0, sequence + blocks.bead_first_atom[bead][:, None], -1)
    target_kind = blocks.atom_kind[target.clamp_min(0)]
    n = position.shape[1]
    bits = role_bits(
        blocks,
        target_kind[..., None].expand(b, length, n),
        local[:, None].expand(b, length, n),
    )
    own_bits = role_bits(
        blocks,
        target_kind[..., None].expand(b, length, length),
        sequence.clamp_min(0)[:, None].expand(b, length, length),
    )
    turn = rotation.transpose(1, 2)
    own = relative[frame[:, None], target.clamp_min(0)]
    near = present & (vectors.square().sum(-1) < radius * radius)
    return Environment(
        stage=stage,
        frame=frame,
        bead=bead,
        targets=target,
        target_type=blocks.atom_type[target_kind],
        target_bits=own_bits,
        own=own @ turn,
        atoms=position @ turn,
        atom_type=blocks.atom_type[blocks.atom_kind[atom]],
        atom_valid=valid,
        atom_same=same,
        atom_bits=torch.where(same[:, None], bits, 0),
        beads=vectors @ turn,
        bead_type=blocks.bead_type[kind],
        bead_valid=near,
        bead_same=same_bead,
    )


def role_features(
    bits: Tensor, same: Bool[Tensor, "..."], valid: Bool[Tensor, "..."]
) -> Float[Tensor, "... 5"]:
    """Membership of each pair in the five roles of ``plan.ROLES`` as zeros and ones."""
    inside = same & valid
    return torch.stack(
        [
            inside & ((bits & BOND) > 0),
            inside & ((bits & ANGLE) > 0),
            inside & ((bits & TORSION) > 0),
            inside & ((bits & EXCLUDED) == 0),
            valid & ~same,
        ],
        dim=-1,
    ).to(torch.float32)

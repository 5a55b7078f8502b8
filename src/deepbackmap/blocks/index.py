"""Beads and atoms of a system as index tables, and the beads of its frames.

Positions of atoms are kept relative to the bead that owns them. Periodic boundaries then enter
once a frame, in the vectors between neighbouring beads, and nowhere after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from deepbackmap.blocks.plan import BlockPlan
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.geometry.frames import axis_frame, plane_frame
from deepbackmap.geometry.parts import neighbours_by_parts
from deepbackmap.mapping import SystemMapping
from deepbackmap.system import Structure


@dataclass(frozen=True)
class Blocks:
    """A system's beads and atoms on a device: ``BlockPlan`` tables and the index of every copy."""

    plan: BlockPlan
    bead_kind: Int64[Tensor, "nb"]
    bead_molecule: Int64[Tensor, "nb"]
    bead_first_atom: Int64[Tensor, "nb"]
    """Global index of the first atom of the bead's molecule."""
    bead_first_bead: Int64[Tensor, "nb"]
    atom_kind: Int64[Tensor, "na"]
    atom_owner: Int64[Tensor, "na"]
    """Global index of the bead that owns the atom."""
    owned: Int64[Tensor, "kb m"]
    heavy: Int64[Tensor, "kb h"]
    light: Int64[Tensor, "kb l"]
    axis: Int64[Tensor, "kb 3"]
    rank: Int64[Tensor, "kb"]
    adjacent: Int64[Tensor, "kb d"]
    atom_type: Int64[Tensor, "ka"]
    atom_heavy: Bool[Tensor, "ka"]
    bead_type: Int64[Tensor, "kb"]
    role_key: Int64[Tensor, "r"]
    role_bits: Tensor

    @property
    def device(self) -> torch.device:
        """Where the tables live."""
        return self.bead_kind.device

    def sequence(self, light: bool) -> Int64[Tensor, "kb s"]:
        """Heavy or light sequences by bead kind, padded with -1."""
        return self.light if light else self.heavy


def build_blocks(plan: BlockPlan, mapping: SystemMapping, device: torch.device) -> Blocks:
    """Index every copy of every molecule; a few integers an atom and a bead."""
    topology = mapping.topology
    kinds = topology.molecule_type_index()
    atom0, bead0 = topology.molecule_offsets(), mapping.bead_offsets()
    atoms, beads = np.diff(atom0), np.diff(bead0)
    molecule_of_bead = np.repeat(np.arange(len(kinds)), beads)
    molecule_of_atom = np.repeat(np.arange(len(kinds)), atoms)
    local_atom = np.arange(atom0[-1]) - atom0[:-1][molecule_of_atom]
    local_bead = np.arange(bead0[-1]) - bead0[:-1][molecule_of_bead]
    atom_kind = plan.atom_kinds[kinds[molecule_of_atom]] + local_atom

    def put(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=device)

    return Blocks(
        plan=plan,
        bead_kind=put(plan.bead_kinds[kinds[molecule_of_bead]] + local_bead),
        bead_molecule=put(molecule_of_bead),
        bead_first_atom=put(atom0[:-1][molecule_of_bead]),
        bead_first_bead=put(bead0[:-1][molecule_of_bead]),
        atom_kind=put(atom_kind),
        atom_owner=put(mapping.atom_owners()),
        owned=put(plan.owned),
        heavy=put(plan.heavy),
        light=put(plan.light),
        axis=put(plan.axis),
        rank=put(plan.rank),
        adjacent=put(plan.adjacent),
        atom_type=put(plan.atom_type),
        atom_heavy=put(plan.atom_heavy),
        bead_type=put(plan.bead_type),
        role_key=put(plan.role_key),
        role_bits=put(plan.role_bits),
    )


@dataclass(frozen=True)
class BeadFrames:
    """The beads of one or more frames: neighbours and local axes. Nothing here moves later."""

    neighbours: Int64[Tensor, "f nb k"]
    """Beads in range, the bead itself first; padded with -1."""
    vectors: Float[Tensor, "f nb k 3"]
    """From the bead to the neighbour, in nm (minimum image or further images)."""
    rotation: Float[Tensor, "f nb 3 3"]
    """Rows are the local axes: local = rotation @ laboratory."""
    whole: Float[Tensor, "f nb 3"]
    """Positions with molecules whole, in nm."""

    def to(self, device: torch.device) -> BeadFrames:
        """The same frames on another device."""
        return BeadFrames(*(getattr(self, n).to(device) for n in self.__dataclass_fields__))

    def near(self, frame: int = 0) -> list[NearBeads]:
        """Neighbours of all beads of a frame, in one part."""
        own = torch.arange(self.neighbours.shape[1], device=self.neighbours.device)
        return [NearBeads(own, self.neighbours[frame], self.vectors[frame])]


@dataclass(frozen=True)
class NearBeads:
    """Neighbours of some beads of a frame."""

    beads: Int64[Tensor, "p"]
    neighbours: Int64[Tensor, "p k"]
    """As in ``BeadFrames``, with ``vectors``."""
    vectors: Float[Tensor, "p k 3"]

    def moved(self, first: int) -> NearBeads:
        """The same beads where others come before them."""
        if not first:
            return self
        there = self.neighbours >= 0
        neighbours = torch.where(there, self.neighbours + first, self.neighbours)
        return NearBeads(self.beads + first, neighbours, self.vectors)


def near_beads(
    positions: Float[np.ndarray, "nb 3"], box: Float[np.ndarray, "3 3"], cutoff: float
) -> Iterator[NearBeads]:
    """Neighbours of the beads of a frame within ``cutoff`` nm, a part of the box at a time."""
    for own, pairs in neighbours_by_parts(positions, box, cutoff):
        order = np.lexsort((pairs.j, pairs.distances, pairs.i))
        i = np.searchsorted(own, pairs.i[order])
        counts = np.bincount(i, minlength=len(own))
        width = int(counts.max(initial=0)) + 1
        table = np.full((len(own), width), -1, dtype=np.int64)
        steps = np.zeros((len(own), width, 3), dtype=np.float32)
        column = 1 + np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
        table[:, 0] = own
        table[i, column] = pairs.j[order]
        steps[i, column] = pairs.vectors[order]
        yield NearBeads(*(torch.from_numpy(a) for a in (own, table, steps)))


def _all_near(
    positions: Float[np.ndarray, "nb 3"], box: Float[np.ndarray, "3 3"], cutoff: float
) -> tuple[Int64[Tensor, "nb k"], Float[Tensor, "nb k 3"]]:
    """The same of all beads in one table."""
    parts = list(near_beads(positions, box, cutoff))
    width = max(p.neighbours.shape[1] for p in parts)
    table = torch.full((len(positions), width), -1)
    steps = torch.zeros(len(positions), width, 3)
    for part in parts:
        columns = slice(part.neighbours.shape[1])
        table[part.beads, columns], steps[part.beads, columns] = part.neighbours, part.vectors
    return table, steps


def whole_beads(
    positions: Float[np.ndarray, "nb 3"], box: Float[np.ndarray, "3 3"], mapping: SystemMapping
) -> Float[np.ndarray, "nb 3"]:
    """Bead positions with every molecule whole, by walking bead bonds in the order S."""
    out = positions.astype(np.float64).copy()
    offsets = mapping.bead_offsets()[:-1]
    kinds = mapping.topology.molecule_type_index()
    for t, molecule in enumerate(mapping.molecules):
        first = offsets[kinds == t]
        done = np.zeros(molecule.n_beads, dtype=bool)
        neighbours: list[list[int]] = [[] for _ in range(molecule.n_beads)]
        for i, j in molecule.bead_bonds.tolist():
            neighbours[i].append(j)
            neighbours[j].append(i)
        for bead in molecule.order.tolist():
            done[bead] = True
            for other in neighbours[bead]:
                if not done[other]:
                    step = minimum_image(out[first + other] - out[first + bead], box)
                    out[first + other] = out[first + bead] + step
    return out


def endless_molecules(
    whole: Float[np.ndarray, "nb 3"], box: Float[np.ndarray, "3 3"], mapping: SystemMapping
) -> Bool[np.ndarray, " m"]:
    """Molecules whose beads cannot all be beside those they are bonded to: networks and the like.

    Args:
        whole: beads from ``whole_beads``, nm.
        box: lattice vectors as rows, nm.
        mapping: of the system.
    """
    found = np.zeros(mapping.topology.n_molecules, dtype=bool)
    offsets, kinds = mapping.bead_offsets()[:-1], mapping.topology.molecule_type_index()
    for t, molecule in enumerate(mapping.molecules):
        which = np.flatnonzero(kinds == t)
        i, j = (offsets[which, None] + molecule.bead_bonds[:, k] for k in (0, 1))
        bonds = whole[j] - whole[i]
        found[which] = (np.abs(bonds - minimum_image(bonds, box)) > 1e-6).any(axis=(1, 2))
    return found


def build_bead_frames(
    positions: Float[np.ndarray, "nb 3"],
    box: Float[np.ndarray, "3 3"],
    blocks: Blocks,
    mapping: SystemMapping,
    *,
    cutoff: float | None,
    plane: bool,
) -> BeadFrames:
    """Neighbours within ``cutoff`` nm and local axes of the beads of one frame.

    Args:
        cutoff: None: no neighbours; ``near_beads`` gives them part by part.
        plane: fix the angle about z by the third bead of ``BlockPlan.axis``; otherwise the
            minimal rotation, with the angle left free (II C 1).

    Raises:
        InputError: a molecule is bonded to its own periodic image.
    """
    n = len(positions)
    whole = whole_beads(positions, box, mapping)
    endless = np.flatnonzero(endless_molecules(whole, box, mapping))
    if len(endless):
        raise InputError(
            "expected molecules that end within the box, as all that models are trained on do, "
            f"found molecule {endless[0] + 1} bonded to its own periodic image: --model none "
            "(of backmap) takes it, and so do finish, md and baseline --method backward"
        )
    table, steps = torch.full((n, 0), -1), torch.zeros(n, 0, 3)
    if cutoff is not None:
        table, steps = _all_near(positions, box, cutoff)
    axis = blocks.axis[blocks.bead_kind].cpu().numpy()
    first = blocks.bead_first_bead.cpu().numpy()
    start, end, third = (np.where(axis[:, c] >= 0, axis[:, c] + first, -1) for c in range(3))
    z = np.where(start[:, None] >= 0, whole[end] - whole[start], 0.0)
    x = np.where(third[:, None] >= 0, whole[third] - whole, 0.0)
    z_t, x_t = torch.from_numpy(z), torch.from_numpy(x)
    rotation = plane_frame(z_t, x_t) if plane else axis_frame(z_t)
    return BeadFrames(
        neighbours=table[None],
        vectors=steps[None],
        rotation=rotation.to(torch.float32)[None],
        whole=torch.from_numpy(whole).to(torch.float32)[None],
    ).to(blocks.device)


def stack_frames(frames: list[BeadFrames]) -> BeadFrames:
    """Several frames of the same beads as one, padded to the widest neighbour list."""
    width = max(f.neighbours.shape[2] for f in frames)

    def widen(f: BeadFrames) -> tuple[Tensor, Tensor]:
        extra = width - f.neighbours.shape[2]
        return (
            torch.nn.functional.pad(f.neighbours, (0, extra), value=-1),
            torch.nn.functional.pad(f.vectors, (0, 0, 0, extra)),
        )

    widened = [widen(f) for f in frames]
    return BeadFrames(
        neighbours=torch.cat([w[0] for w in widened]),
        vectors=torch.cat([w[1] for w in widened]),
        rotation=torch.cat([f.rotation for f in frames]),
        whole=torch.cat([f.whole for f in frames]),
    )


def joined_frames(frames: list[BeadFrames]) -> BeadFrames:
    """Several frames as one of more beads; neighbours only where there is a single frame."""
    if len(frames) == 1:
        return frames[0]
    rotation, whole = (
        torch.cat([getattr(f, name) for f in frames], dim=1) for name in ("rotation", "whole")
    )
    n = whole.shape[1]
    none = torch.full((1, n, 0), -1, device=whole.device)
    return BeadFrames(none, whole.new_zeros(1, n, 0, 3), rotation, whole)


def relative_positions(
    structure: Structure, mapping: SystemMapping, beads: np.ndarray
) -> Float[np.ndarray, "na 3"]:
    """Atoms relative to the beads that own them, nm, by the shortest vector."""
    return minimum_image(structure.positions - beads[mapping.atom_owners()], structure.box)

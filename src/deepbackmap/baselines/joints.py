"""Bonded terms that join the atoms of one bead to those of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.forcefield.terms import FUNCTIONS
from deepbackmap.system import MoleculeType
from deepbackmap.system.kinds import KINDS

CONSTRAINT = 5e4
"""kJ mol-1 nm-2 for a bond that the topology constrains: a misfit of 0.01 nm costs 2.5 kJ/mol."""


@dataclass(frozen=True)
class JointTerms:
    """Terms of one kind."""

    kind: str
    """Name in ``forcefield.terms.FUNCTIONS``."""
    atoms: Int64[np.ndarray, "t k"]
    """Places in ``Joints.atoms``."""
    parameters: Float64[np.ndarray, "t p"]

    def energies(self, points: torch.Tensor) -> Float64[np.ndarray, "*batch"]:
        """Sum over the terms, kJ/mol, for positions (..., u, 3)."""
        parameters = torch.from_numpy(self.parameters)
        found = FUNCTIONS[self.kind](points, torch.from_numpy(self.atoms), parameters)
        return found.sum(dim=-1).numpy()


@dataclass(frozen=True)
class Joints:
    """Terms of one bead, on a list of the atoms that they have."""

    atoms: Int64[np.ndarray, " u"]
    """Atoms of the molecule; indices in ``terms`` count in this list."""
    own: Int64[np.ndarray, " o"]
    """Places in the list of atoms that the bead owns."""
    slot: Int64[np.ndarray, " o"]
    """Their places among the bead's owned atoms."""
    terms: tuple[JointTerms, ...]


def find_joints(molecule: MoleculeType, *beads: Sequence[int], inner: bool = False) -> Joints:
    """Terms that join beads to each other or to the rest of a molecule.

    Args:
        molecule: the molecule type.
        beads: atoms of one or more beads.
        inner: the terms inside the beads instead.
    """
    part = np.full(molecule.n_atoms, -1, dtype=np.int64)
    for number, atoms in enumerate(beads):
        part[list(atoms)] = number
    owned = [atom for atoms in beads for atom in atoms]
    terms = []
    for kind, term in molecule.terms.items():
        if kind != "constraint" and (KINDS[kind].grids or not KINDS[kind].counted):
            continue
        parts = part[term.atoms]
        full = (parts == parts[:, :1]).all(axis=1)
        mixed = (parts >= 0).any(axis=1) & (full if inner else ~full)
        parameters = term.parameters[mixed]
        if kind == "constraint":
            kind = "bond"
            parameters = np.column_stack([parameters, np.full(len(parameters), CONSTRAINT)])
        if mixed.any():
            terms.append((kind, term.atoms[mixed], parameters))
    used = np.unique(
        np.concatenate([np.zeros(0, dtype=np.int64), *(t.ravel() for _, t, _ in terms)])
    )
    place = {int(a): k for k, a in enumerate(used)}
    own = [(place[a], slot) for slot, a in enumerate(owned) if a in place]
    local = np.vectorize(place.__getitem__, otypes=[np.int64])
    return Joints(
        used,
        np.array([p for p, _ in own], dtype=np.int64),
        np.array([s for _, s in own], dtype=np.int64),
        tuple(JointTerms(kind, local(t), p) for kind, t, p in terms),
    )


def joint_energies(
    joints: Joints,
    placed: Float64[np.ndarray, "m k a 3"],
    whole: Float64[np.ndarray, "b 3"],
    relative: Float64[np.ndarray, "n 3"],
    beads: Int64[np.ndarray, " m"],
    owner: Int64[np.ndarray, " na"],
    first_atom: int,
    first_bead: int,
) -> Float64[np.ndarray, "m k"]:
    """Energy of every candidate of one bead in every copy of its molecule, kJ/mol.

    Args:
        joints: of the bead.
        placed: candidates, relative to the bead, nm.
        whole: beads of the system, nm, molecules whole.
        relative: atoms of the system relative to their beads, nm.
        beads: the bead in every copy.
        owner: owner of each atom of the molecule.
        first_atom: of the first copy.
        first_bead: of the first copy.
    """
    m, k = placed.shape[:2]
    energy = np.zeros((m, k))
    if not joints.terms:
        return energy
    n_atoms, n_beads = len(owner), int(owner.max()) + 1
    copy = np.arange(m)[:, None]
    held = whole[first_bead + n_beads * copy + owner[joints.atoms]] - whole[beads][:, None]
    held = held + relative[first_atom + n_atoms * copy + joints.atoms]
    points = np.repeat(held[:, None], k, axis=1)
    points[:, :, joints.own] = placed[:, :, joints.slot]
    tensor = torch.from_numpy(points)
    for term in joints.terms:
        energy += term.energies(tensor)
    return energy


def inner_energies(
    molecule: MoleculeType, owned: Sequence[int], fragments: Float64[np.ndarray, "f a 3"]
) -> Float64[np.ndarray, " f"]:
    """Energy of the bonded terms inside each of some fragments, without bonds, kJ/mol.

    Args:
        molecule: the molecule type.
        owned: atoms of the bead.
        fragments: their positions, nm.
    """
    joints = find_joints(molecule, owned, inner=True)
    energy = np.zeros(len(fragments))
    tensor = torch.from_numpy(fragments[:, joints.slot])
    for term in joints.terms:
        if KINDS[term.kind].counted != "bond":  # kept at their lengths, but for rounding
            energy += term.energies(tensor)
    return energy

"""Bonded terms and Lennard-Jones pairs of the atoms of one sequence with what they see.

Used three times: by the physical prior of training, by the choice among candidates, and by the
scores on internal coordinates. Which terms count is fixed by topology and stage alone: those that
touch the sequence and whose other atoms are visible then (II B).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deepbackmap.blocks.index import BeadFrames, Blocks
from deepbackmap.blocks.plan import EXCLUDED
from deepbackmap.forcefield import terms as physics
from deepbackmap.forcefield.nonbonded import LennardJonesTable
from deepbackmap.mapping import SystemMapping
from deepbackmap.methods.voxel.environment import ALONE, STAGES, WHOLE, Environment, Stage
from deepbackmap.system.kinds import KINDS
from deepbackmap.system.topology import require_energies

GROUPS = {
    group: tuple(name for name, kind in KINDS.items() if kind.counted in counted and not kind.grids)
    for group, counted in (
        ("bond", ("bond",)),
        ("angle", ("angle",)),
        ("dihedral", ("proper", "improper")),
    )
}
"""Kinds of term by the groups of the prior (II D). Tabulated terms are left out."""

SOFT_FRACTION = 0.6
"""Below this fraction of sigma the LJ distance is compressed, so that a clash costs a lot but
not infinity."""


@dataclass(frozen=True)
class StageTerms:
    """Terms of every bead kind in one stage. An index >= 0 counts in ``context``; -1 - s is
    slot s of the sequence. Unused rows have parameters zero."""

    context: Int64[Tensor, "kb c"]
    """Local atoms outside the sequence that take part in its terms; -1: none."""
    index: dict[str, Int64[Tensor, "kb m k"]]
    parameters: dict[str, Float[Tensor, "kb m p"]]
    used: dict[str, Tensor]
    """Which rows are terms, (kb, m), by kind."""


@dataclass(frozen=True)
class BlockTerms:
    """Bonded terms by stage and the LJ table in the order of the model's atom types."""

    stages: dict[Stage, StageTerms]
    lennard_jones: LennardJonesTable


def _bead_rows(
    atoms: np.ndarray, sequence: list[int], visible: np.ndarray, context: dict[int, int]
) -> list[tuple[int, list[int]]]:
    """Rows (term, indices) of the terms that touch a sequence and see all their atoms."""
    slot = {a: s for s, a in enumerate(sequence)}
    touching = np.flatnonzero(np.isin(atoms, sequence).any(1) & visible[atoms].all(1))
    rows = []
    for t in touching.tolist():
        row = []
        for a in atoms[t].tolist():
            row.append(-1 - slot[a] if a in slot else context.setdefault(a, len(context)))
        rows.append((t, row))
    return rows


def _stage_visible(
    stage: Stage,
    heavy: np.ndarray,
    rank_of_atom: np.ndarray,
    rank: int,
    hidden: np.ndarray,
    sequence: list[int],
) -> np.ndarray:
    """Atoms of the molecule that a bead's sequence sees; the sequence counts as seen."""
    earlier = rank_of_atom < rank
    if stage.first:
        seen = (heavy | earlier) if stage.light else (heavy & earlier)
    else:
        seen = heavy | stage.light | ~hidden
    seen = seen.copy()
    seen[sequence] = True
    return seen


def _stage_terms(blocks: Blocks, mapping: SystemMapping, stage: Stage) -> StageTerms:
    plan = blocks.plan
    kinds = [kind for group in GROUPS.values() for kind in group]
    found: dict[str, list[list[tuple[list[int], np.ndarray]]]] = {k: [] for k in kinds}
    contexts: list[list[int]] = []
    for t, molecule in enumerate(mapping.topology.molecule_types):
        a0, b0 = int(plan.atom_kinds[t]), int(plan.bead_kinds[t])
        heavy = plan.atom_heavy[a0 : a0 + molecule.n_atoms]
        owner = plan.atom_owner[a0 : a0 + molecule.n_atoms]
        rank_of_atom = plan.rank[b0 + owner]
        for bead in range(mapping.molecules[t].n_beads):
            row = (plan.owned if stage.whole else plan.sequence(stage.light))[b0 + bead]
            sequence = row[row >= 0].tolist()
            hidden = np.isin(owner, plan.adjacent[b0 + bead]) | stage.alone
            visible = _stage_visible(
                stage, heavy, rank_of_atom, int(plan.rank[b0 + bead]), hidden, sequence
            )
            context: dict[int, int] = {}
            for kind in kinds:
                rows: list[tuple[list[int], np.ndarray]] = []
                if kind in molecule.terms and sequence:
                    terms = molecule.terms[kind]
                    picked = _bead_rows(terms.atoms, sequence, visible, context)
                    rows = [(index, terms.parameters[i]) for i, index in picked]
                found[kind].append(rows)
            contexts.append(list(context))
    return _stack(found, contexts, blocks.device)


def _stack(
    found: dict[str, list[list[tuple[list[int], np.ndarray]]]],
    contexts: list[list[int]],
    device: torch.device,
) -> StageTerms:
    """Pad the rows of every bead kind into tables; kinds without terms are left out."""
    n = len(contexts)
    width = max(1, max((len(c) for c in contexts), default=1))
    context = np.full((n, width), -1, dtype=np.int64)
    for i, c in enumerate(contexts):
        context[i, : len(c)] = c
    index, parameters, used = {}, {}, {}
    for kind, rows in found.items():
        most = max((len(r) for r in rows), default=0)
        if most == 0:
            continue
        k, columns = KINDS[kind].n_atoms, KINDS[kind].columns
        ids = np.full((n, most, k), -1, dtype=np.int64)
        values = np.zeros((n, most, len(columns)))
        use = np.zeros((n, most), dtype=bool)
        for i, r in enumerate(rows):
            for j, (atoms, p) in enumerate(r):
                ids[i, j], values[i, j], use[i, j] = atoms, p, True
        index[kind] = torch.as_tensor(ids, device=device)
        parameters[kind] = torch.as_tensor(values, dtype=torch.float32, device=device)
        used[kind] = torch.as_tensor(use, device=device)
    return StageTerms(torch.as_tensor(context, device=device), index, parameters, used)


def build_block_terms(
    blocks: Blocks, mapping: SystemMapping, atom_types: tuple[str, ...]
) -> BlockTerms:
    """Tables of terms for the four stages and the LJ table of the model's atom types.

    Raises:
        InputError: the topology has terms whose energies are not known.
    """
    topology = mapping.topology
    require_energies(topology)
    full = LennardJonesTable.from_topology(topology, dtype=torch.float32)
    # A model may know more types than this topology uses; those rows are never read.
    row = torch.tensor(
        [topology.type_names.index(t) if t in topology.type_names else 0 for t in atom_types]
    )
    tables = (t[row][:, row].to(blocks.device) for t in (full.c6, full.c12, full.sigma))
    return BlockTerms(
        stages={s: _stage_terms(blocks, mapping, s) for s in (*STAGES, ALONE, WHOLE)},
        lennard_jones=LennardJonesTable(*tables),
    )


@dataclass(frozen=True)
class BatchTerms:
    """The terms of one batch: positions around the sequences and indices into both."""

    context: Float[Tensor, "B c 3"]
    """In the beads' local frames."""
    index: dict[str, Int64[Tensor, "B m k"]]
    parameters: dict[str, Float[Tensor, "B m p"]]
    used: dict[str, Tensor]

    def repeated(self, copies: int) -> BatchTerms:
        """Each bead ``copies`` times in a row."""

        def all_of(tables: dict[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.repeat_interleave(copies, dim=0) for k, v in tables.items()}

        return BatchTerms(
            self.context.repeat_interleave(copies, dim=0),
            all_of(self.index),
            all_of(self.parameters),
            all_of(self.used),
        )


def batch_terms(
    terms: BlockTerms,
    blocks: Blocks,
    frames: BeadFrames,
    relative: Float[Tensor, "f na 3"],
    env: Environment,
) -> BatchTerms:
    """Terms and context positions of the sequences of an environment."""
    stage = terms.stages[env.stage]
    kind = blocks.bead_kind[env.bead]
    local = stage.context[kind]
    atom = local.clamp_min(0) + blocks.bead_first_atom[env.bead][:, None]
    frame = env.frame[:, None]
    whole = frames.whole
    away = whole[frame, blocks.atom_owner[atom]] - whole[env.frame, env.bead][:, None]
    position = away + relative[frame, atom]
    position = position @ frames.rotation[env.frame, env.bead].transpose(1, 2)
    t = env.targets.shape[1]
    index = {k: torch.where(v[kind] < 0, -1 - v[kind], v[kind] + t) for k, v in stage.index.items()}
    return BatchTerms(
        context=position,
        index=index,
        parameters={k: v[kind] for k, v in stage.parameters.items()},
        used={k: v[kind] for k, v in stage.used.items()},
    )


def bonded_energies(
    batch: BatchTerms, placed: Float[Tensor, "B T 3"]
) -> dict[str, Float[Tensor, "B"]]:
    """Energy of each group of ``GROUPS`` for each sequence, kJ/mol."""
    positions = torch.cat([placed, batch.context], dim=1)
    out = {}
    for group, kinds in GROUPS.items():
        total = torch.zeros_like(placed[:, 0, 0])
        for kind in kinds:
            if kind in batch.index:
                energy = physics.FUNCTIONS[kind](
                    positions, batch.index[kind], batch.parameters[kind]
                )
                total = total + torch.where(batch.used[kind], energy, 0.0).sum(1)
        out[group] = total
    return out


def internal_coordinates(
    batch: BatchTerms, placed: Float[Tensor, "B T 3"]
) -> list[tuple[Float[Tensor, "B n"], Tensor]]:
    """Values of the internal coordinates of a sequence's terms, and which are used.

    Bond lengths in units of 0.1 nm, angles in rad, dihedrals as sine and cosine: of similar size,
    and without a jump anywhere.
    """
    positions = torch.cat([placed, batch.context], dim=1)
    out: list[tuple[Tensor, Tensor]] = []
    for kind, index in batch.index.items():
        used = batch.used[kind]
        if index.shape[-1] == 2:
            out.append((10.0 * physics.distances(positions, index), used))
        elif index.shape[-1] == 3:
            out.append((physics.angles(positions, index), used))
        else:
            phi = physics.dihedrals(positions, index)
            out.extend([(phi.sin(), used), (phi.cos(), used)])
    return out


def lennard_jones_energy(
    table: LennardJonesTable, env: Environment, placed: Float[Tensor, "B T 3"]
) -> Float[Tensor, "B"]:
    """LJ of the sequence with all visible, non-excluded atoms and within itself, kJ/mol."""
    step = placed[:, :, None] - env.atoms[:, None]
    counted = (env.atom_valid & ~env.atom_same)[:, None] | (
        (env.atom_valid & env.atom_same)[:, None] & ((env.atom_bits & EXCLUDED) == 0)
    )
    counted = counted & env.target_valid[..., None]
    distance = torch.where(counted, physics.norm(step), 1.0)
    energy = table.energies(
        distance, env.target_type[..., None], env.atom_type[:, None], SOFT_FRACTION
    )
    outside = torch.where(counted, energy, 0.0).sum((1, 2))
    t = placed.shape[1]
    upper = torch.ones(t, t, dtype=torch.bool, device=placed.device).triu(1)
    inside = upper & env.target_valid[:, None] & env.target_valid[..., None]
    inside = inside & ((env.target_bits & EXCLUDED) == 0)
    own = torch.where(inside, physics.norm(placed[:, :, None] - placed[:, None]), 1.0)
    energy = table.energies(
        own, env.target_type[..., None], env.target_type[:, None], SOFT_FRACTION
    )
    return outside + torch.where(inside, energy, 0.0).sum((1, 2))


def block_energies(
    terms: BlockTerms, batch: BatchTerms, env: Environment, placed: Float[Tensor, "B T 3"]
) -> dict[str, Float[Tensor, "B"]]:
    """Energies of each sequence by bond, angle, dihedral and LJ in kJ/mol (II D)."""
    energies = bonded_energies(batch, placed)
    energies["lj"] = lennard_jones_energy(terms.lennard_jones, env, placed)
    return energies

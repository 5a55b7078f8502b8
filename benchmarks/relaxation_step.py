"""Energies of relaxed blocks against the step of the relaxation (docs/sampling.md).

    python benchmarks/relaxation_step.py

Takes the phenyl blocks of the packaged melt, relaxes them from their simulated positions with
everything around them held, and prints mean energies a block beside the simulated ones.
"""

from __future__ import annotations

import torch
from sampler import MELT

import deepbackmap.methods.voxel.relaxation as relaxation
from deepbackmap.data.systems import TrainingSystem, map_whole
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.io.topology import read_topology
from deepbackmap.io.trajectory import read_frames
from deepbackmap.mapping import load_mapping
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.methods.voxel.batches import VoxelFrames
from deepbackmap.methods.voxel.block_terms import block_energies
from deepbackmap.methods.voxel.environment import WHOLE
from deepbackmap.methods.voxel.options import VoxelModelOptions

TEMPERATURE = 568.0


def main() -> None:
    topology = read_topology(MELT / "topol.top")
    file = load_mapping("ps-two-bead")
    with read_frames(MELT / "aa.gro") as source:
        structures = list(source)
    types, beads = ("C", "C_AR", "H", "H_AR"), ("A", "B")
    spec = ModelSpec("voxel", VoxelModelOptions(), types, beads, file.to_text(), TEMPERATURE, 0.27)
    mapping = file.resolve(topology)
    mapped = tuple(map_whole(s, mapping) for s in structures)
    system = TrainingSystem(mapping, tuple(structures), mapped, (TEMPERATURE,) * len(mapped))
    frames = VoxelFrames(spec, system, torch.device("cpu"))
    bead = torch.nonzero(frames.blocks.bead_type[frames.blocks.bead_kind] == 1).squeeze(1)
    zero, angle = torch.zeros_like(bead), torch.zeros(len(bead))
    phase = torch.zeros(len(bead), int(frames.blocks.bead_molecule[-1]) + 1)
    batch = frames.batch(WHOLE, zero, bead, phase, angle, jitter=0.0, noise_seed=0)

    def show(label: str, positions: torch.Tensor) -> None:
        energies = block_energies(frames.terms, batch.terms, batch.clean, positions)
        print(f"{label:>10s} " + " ".join(f"{float(e.mean()):9.1f}" for e in energies.values()))

    print(f"{'step':>10s} " + " ".join(f"{k:>9s}" for k in ("bond", "angle", "dihedral", "lj")))
    show("simulated", batch.truth)
    for step, count in ((5e-6, 40), (2.5e-6, 60), (1e-6, 120)):
        relaxation.MOBILITY = step
        placed = relaxation.relax(
            frames.terms,
            batch.terms,
            batch.clean,
            batch.truth,
            temperature=TEMPERATURE,
            steps=count,
            name=hash_counters(0, bead),
        )
        show(f"{step:g}", placed)


if __name__ == "__main__":
    main()

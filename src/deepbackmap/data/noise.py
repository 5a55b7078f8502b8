"""Beads that are off their atoms, with the width of that known: training for beads of simulations.

Beads of a coarse-grained simulation are off those that its atoms would have, and not in all
directions alike: bonds between beads are stretched, and beads are bent out of line. Every noisy
copy of a frame is off by a mixture, drawn for the copy, of an independent move of every bead and of
moves along and across its bonds; the root of the mean square of a coordinate is the width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.blocks.index import whole_beads
from deepbackmap.data.options import NoiseOptions
from deepbackmap.data.systems import TrainingSystem


def with_noise(
    systems: Sequence[TrainingSystem], options: NoiseOptions, seed: int
) -> list[TrainingSystem]:
    """Every frame, and after all of these its noisy copies.

    Args:
        systems: with exact beads.
        options: how many copies, and how wide.
        seed: of the random numbers; those of a frame depend on its place as well.
    """
    return [_noisy(s, options, seed, k) for k, s in enumerate(systems)]


def _noisy(system: TrainingSystem, options: NoiseOptions, seed: int, number: int) -> TrainingSystem:
    found: list[TrainingSystem] = [system]
    low, high = math.log(options.narrowest), math.log(options.widest)
    for copy in range(options.copies):
        widths, beads = [], []
        for k, (frame, exact) in enumerate(zip(system.structures, system.beads, strict=True)):
            random = np.random.default_rng([seed, number, copy, k])
            widths.append(math.exp(random.uniform(low, high)))
            whole = whole_beads(exact, frame.box, system.mapping)
            beads.append(exact + widths[-1] * moves(whole, bonds_of(system), random))
        found.append(replace(system, beads=tuple(beads), widths=tuple(widths)))
    return replace(
        system,
        structures=sum((s.structures for s in found), ()),
        beads=sum((s.beads for s in found), ()),
        temperatures=sum((s.temperatures for s in found), ()),
        widths=sum((s.off for s in found), ()),
    )


def bonds_of(system: TrainingSystem) -> Int64[np.ndarray, "k 2"]:
    """Bonded beads of all molecules."""
    mapping = system.mapping
    index, offsets = mapping.topology.molecule_type_index(), mapping.bead_offsets()
    rows = [mapping.molecules[t].bead_bonds + offsets[m] for m, t in enumerate(index)]
    return np.concatenate([np.zeros((0, 2), dtype=np.int64), *rows])


def moves(
    whole: Float64[np.ndarray, "n 3"], bonds: Int64[np.ndarray, "k 2"], random: np.random.Generator
) -> Float64[np.ndarray, "n 3"]:
    """Moves of beads, the mean square of a coordinate being one.

    Args:
        whole: beads with their molecules whole, nm.
        bonds: pairs of them.
        random: where numbers come from.
    """
    free = random.normal(size=whole.shape)
    if not len(bonds):
        return free
    way = whole[bonds[:, 1]] - whole[bonds[:, 0]]
    way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-9)
    along = random.normal(size=(len(bonds), 1)) * way
    across = random.normal(size=way.shape)
    across -= np.einsum("ij,ij->i", across, way)[:, None] * way
    alone, stretch, bend = np.sqrt(random.dirichlet([1.0, 1.0, 1.0]))
    bonded = np.zeros_like(free)
    for sign, end in ((-1.0, 0), (1.0, 1)):
        np.add.at(bonded, bonds[:, end], sign * (stretch * along + bend * across))
    bonded *= math.sqrt((stretch**2 + bend**2) / max(float(np.mean(bonded**2)), 1e-9))
    made = alone * free + bonded
    scaled: np.ndarray = made / float(np.sqrt(np.mean(made**2)))
    return scaled

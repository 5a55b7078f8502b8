"""Conformations of whole molecules, looked up by where their beads are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.spatial
import torch
from jaxtyping import Float64, Int64

from deepbackmap.baselines.superposition import random_turns, superpose
from deepbackmap.geometry.counter_random import uniform
from deepbackmap.mapping import MoleculeMapping
from deepbackmap.methods.physics.vacuum import Conformations

NEAREST = 512
"""Conformations whose beads are compared by superposition."""
WIDTHS = (0.003, 0.005, 0.008, 0.012, 0.018, 0.025)
"""nm: how far, by root mean square a coordinate, beads of a conformation may be off. The smallest
is taken that leaves enough to draw from."""
ENOUGH = 6.0
"""Conformations to draw from, counted by their weights."""
AT_ONCE = 256
"""Molecules worked on together; bounds memory."""


@dataclass(frozen=True)
class Library:
    """Conformations of one kind of molecule."""

    atoms: Float64[np.ndarray, "f n 3"]
    """nm, relative to the mean of the beads."""
    beads: Float64[np.ndarray, "f b 3"]
    """The same."""
    log_weights: Float64[np.ndarray, " f"]
    tree: scipy.spatial.cKDTree | None
    """By the distances between beads; None for a molecule of one bead."""


@dataclass(frozen=True)
class Candidates:
    """Conformations drawn for molecules, set onto their beads."""

    atoms: Float64[np.ndarray, "m k n 3"]
    """nm."""
    scores: Float64[np.ndarray, "m k"]
    """Logarithms of their weights; the best of each molecule has 0."""
    widths: Float64[np.ndarray, " m"]
    """By how much beads had to be blurred, nm."""


def make_library(found: Conformations, mapping: MoleculeMapping, *, mirror: bool) -> Library:
    """Beads of conformations, and a tree to look them up.

    Args:
        found: conformations.
        mapping: of the molecule.
        mirror: whether mirror images are conformations too.
    """
    beads = np.zeros((len(found.positions), mapping.n_beads, 3))
    for atom, bead, weight in zip(
        mapping.weight_atoms, mapping.weight_beads, mapping.weights, strict=True
    ):
        beads[:, bead] += weight * found.positions[:, atom]
    centre = beads.mean(axis=1, keepdims=True)
    atoms, beads, weights = found.positions - centre, beads - centre, found.log_weights
    if mirror:
        atoms, beads = np.concatenate([atoms, -atoms]), np.concatenate([beads, -beads])
        weights = np.concatenate([weights, weights])
    tree = scipy.spatial.cKDTree(_distances(beads)) if mapping.n_beads > 1 else None
    return Library(atoms, beads, weights, tree)


def draw(
    library: Library,
    targets: Float64[np.ndarray, "m b 3"],
    keys: Int64[torch.Tensor, " m"],
    wanted: int,
) -> Candidates:
    """The conformations of largest weight: their own, and by how near their beads come.

    Args:
        library: of the kind of molecule.
        targets: the beads, nm, molecules whole.
        keys: of the random numbers of each molecule.
        wanted: conformations for each.
    """
    parts = [
        _draw(library, targets[k : k + AT_ONCE], keys[k : k + AT_ONCE], wanted)
        for k in range(0, len(targets), AT_ONCE)
    ]
    return Candidates(
        np.concatenate([p.atoms for p in parts]),
        np.concatenate([p.scores for p in parts]),
        np.concatenate([p.widths for p in parts]),
    )


def _draw(
    library: Library, targets: np.ndarray, keys: torch.Tensor, wanted: int
) -> Candidates:
    m, b, _ = targets.shape
    centre = targets.mean(axis=1, keepdims=True)
    goal = targets - centre
    near = _nearest(library, goal, keys)
    turns, left = superpose(library.beads[near], goal, np.ones(b))
    square = left * b
    score, widths = _scores(square, library.log_weights[near])
    best = np.argsort(-score, axis=1, kind="stable")[:, :wanted]
    rows = np.arange(m)[:, None]
    turns = turns[rows, best]
    if b < 3:  # the beads leave a turn about their axis, or any, free
        axes = goal[:, 1] - goal[:, 0] if b == 2 else np.zeros((m, 3))
        numbers = uniform(keys, 3 * best.shape[1]).numpy().astype(np.float64)
        spins = numbers.reshape(m, -1, 3)
        turns = random_turns(axes, spins) @ turns
    atoms = np.einsum("mkij,mkaj->mkai", turns, library.atoms[near[rows, best]])
    return Candidates(atoms + centre[:, None], score[rows, best], widths)


def _nearest(library: Library, goal: np.ndarray, keys: torch.Tensor) -> np.ndarray:
    """The conformations that are looked at for each molecule."""
    most = min(NEAREST, len(library.atoms))
    if library.tree is None:
        numbers = uniform(keys + 1, most).numpy()
        return (numbers * len(library.atoms)).astype(np.int64)
    _, near = library.tree.query(_distances(goal), k=most)
    return np.asarray(near, dtype=np.int64).reshape(len(goal), most)


def _scores(
    square: np.ndarray, log_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of weights with the smallest width that leaves enough to draw from."""
    score, chosen = np.zeros_like(square), np.zeros(len(square))
    todo = np.ones(len(square), dtype=bool)
    for width in WIDTHS:
        trial = log_weights - square / (2.0 * width**2)
        trial = trial - trial.max(axis=1, keepdims=True)
        weight = np.exp(trial)
        effective = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
        now = todo & ((effective >= min(ENOUGH, 0.25 * square.shape[1])) | (width == WIDTHS[-1]))
        score[now], chosen[now] = trial[now], width
        todo &= ~now
    return score, chosen


def _distances(beads: np.ndarray) -> np.ndarray:
    """Between all beads, nm."""
    i, j = np.triu_indices(beads.shape[1], 1)
    return np.linalg.norm(beads[:, i] - beads[:, j], axis=-1)

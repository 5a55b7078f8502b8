"""Conformations of a window, looked up by where its beads are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.spatial
from jaxtyping import Float64

from deepbackmap.geometry.turns import random_turns
from deepbackmap.methods.physics.fit import fit
from deepbackmap.methods.physics.vacuum import Conformations
from deepbackmap.methods.physics.windows import Window

NEAREST = 512
"""Conformations whose beads are compared by superposition."""
BEAD_WIDTH, JOINT_WIDTH = 0.003, 0.008
"""nm: how far, by root mean square a coordinate, beads of a conformation may be off, and atoms that
are placed already."""
BLURS = (1.0, 1.6, 2.5, 4.0, 6.0, 9.0)
"""Factors of both: the smallest is taken that leaves enough to draw from."""
ENOUGH = 2.0
"""Conformations to draw from, counted by their weights. More would be taken from farther off, where
beads fit badly and setting atoms onto them bends angles: with 6, octane's C-C-C is 2.9 times its
floor after 200 steps, with 2 it is 2.3 times."""


@dataclass(frozen=True)
class Library:
    """Conformations of one kind of window."""

    points: Float64[np.ndarray, "f p 3"]
    """What is fitted, nm: the beads, then the joint atoms."""
    own: Float64[np.ndarray, "f o 3"]
    """Atoms that are drawn, nm."""
    log_weights: Float64[np.ndarray, " f"]
    n_beads: int
    tree: scipy.spatial.cKDTree | None
    """By the distances between beads; None for one bead."""


@dataclass(frozen=True)
class Candidates:
    """Conformations for some molecules, set onto their beads."""

    atoms: Float64[np.ndarray, "m k o 3"]
    """nm."""
    scores: Float64[np.ndarray, "m k"]
    """Logarithms of their weights; the best of each molecule has 0."""
    blurs: Float64[np.ndarray, " m"]
    """By how much widths had to be widened."""


def make_library(found: Conformations, window: Window, *, mirror: bool) -> Library:
    """Beads of conformations, and a tree to look them up.

    Args:
        found: conformations of the window.
        window: which atoms are drawn and which beads are fitted.
        mirror: whether mirror images are conformations too.
    """
    atoms, weights = found.positions, found.log_weights
    if mirror:
        atoms, weights = np.concatenate([atoms, -atoms]), np.concatenate([weights, weights])
    beads = np.einsum("ba,fad->fbd", window.weights, atoms)
    n = len(window.beads)
    return Library(
        points=np.concatenate([beads, atoms[:, window.joint]], axis=1),
        own=np.ascontiguousarray(atoms[:, window.own]),
        log_weights=weights,
        n_beads=n,
        tree=scipy.spatial.cKDTree(_distances(beads)) if n > 1 else None,
    )


def mirrored(library: Library) -> Library:
    """The mirror images of conformations; the tree, of distances, stays."""
    return Library(
        -library.points, -library.own, library.log_weights, library.n_beads, library.tree
    )


def candidates(
    library: Library,
    beads: Float64[np.ndarray, "m b 3"],
    joint: Float64[np.ndarray, "m j 3"],
    placed: np.ndarray,
    uniform: Float64[np.ndarray, "m u"],
    wanted: int,
) -> Candidates:
    """The conformations of largest weight: their own, and by how near their beads come.

    Args:
        library: of the kind of window.
        beads: where they are, nm, molecules whole.
        joint: atoms of other windows, nm.
        placed: which of them are placed already, (j,).
        uniform: numbers between 0 and 1: three for each candidate (turns that the beads leave
            free), and one more for each conformation of a molecule of one bead.
        wanted: conformations for each molecule.
    """
    targets = np.concatenate([beads, joint], axis=1)
    importance = np.concatenate(
        [np.full(library.n_beads, BEAD_WIDTH**-2), np.where(placed, JOINT_WIDTH**-2, 0.0)]
    )
    near = _nearest(library, beads, uniform)
    turns, shifts, square = fit(library.points, near, targets, importance)
    scores, blurs = _scores(square, library.log_weights[near])
    best = np.argsort(-scores, axis=1, kind="stable")[:, :wanted]
    rows = np.arange(len(near))[:, None]
    turns, shifts = turns[rows, best], shifts[rows, best]
    atoms = np.einsum("mkij,mkaj->mkai", turns, library.own[near[rows, best]]) + shifts[:, :, None]
    if library.n_beads < 3 and not placed.any():
        atoms = _turned(atoms, beads, uniform)
    return Candidates(np.ascontiguousarray(atoms), scores[rows, best], blurs)


def _nearest(library: Library, beads: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """The conformations that are looked at for each molecule."""
    most = min(NEAREST, len(library.own))
    if library.tree is None:
        numbers = uniform[:, np.arange(most) % uniform.shape[1]]
        return np.minimum(numbers * len(library.own), len(library.own) - 1).astype(np.int64)
    _, near = library.tree.query(_distances(beads), k=most)
    return np.asarray(near, dtype=np.int64).reshape(len(beads), most)


def _scores(square: np.ndarray, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of weights with the smallest widths that leave enough to draw from."""
    scores, chosen = np.zeros_like(square), np.zeros(len(square))
    todo = np.ones(len(square), dtype=bool)
    enough = min(ENOUGH, 0.25 * square.shape[1])
    for blur in BLURS:
        trial = log_weights - square / (2.0 * blur**2)
        trial = trial - trial.max(axis=1, keepdims=True)
        weight = np.exp(trial)
        effective = weight.sum(axis=1) ** 2 / (weight**2).sum(axis=1)
        now = todo & ((effective >= enough) | (blur == BLURS[-1]))
        scores[now], chosen[now] = trial[now], blur
        todo &= ~now
    return scores, chosen


def _turned(atoms: np.ndarray, beads: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Candidates turned at random about one bead, or about the line through two."""
    m, k = atoms.shape[:2]
    axes = beads[:, 1] - beads[:, 0] if beads.shape[1] == 2 else np.zeros((m, 3))
    turns = random_turns(axes, uniform[:, : 3 * k].reshape(m, k, 3))
    origin = beads[:, 0][:, None, None]
    turned: np.ndarray = np.einsum("mkij,mkaj->mkai", turns, atoms - origin) + origin
    return turned


def _distances(beads: np.ndarray) -> np.ndarray:
    """Between all beads, nm."""
    i, j = np.triu_indices(beads.shape[1], 1)
    found: np.ndarray = np.linalg.norm(beads[:, i] - beads[:, j], axis=-1)
    return found

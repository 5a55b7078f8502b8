"""Molecules as the page's viewer takes them: turned to lie flat, in whole picometres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from deepbackmap.evaluation.result import MoleculeView

LARGEST = 3000
"""Atoms that the viewer still turns smoothly."""


def payload(view: MoleculeView) -> dict[str, list[int] | list[str]]:
    """What the viewer draws.

    Returns:
        ``p``: positions in pm, one atom after the other, centred and turned so that the longest
        extent lies across and the shortest towards the viewer; ``e``: element of each atom
        as an index into ``s``; ``n``: names; ``b``: bonds as pairs; ``m``: marked atoms.
    """
    symbols = sorted(set(view.elements))
    index = {symbol: k for k, symbol in enumerate(symbols)}
    picometres = np.rint(1000.0 * laid_flat(view.positions)).astype(int)
    return {
        "p": picometres.ravel().tolist(),
        "e": [index[e] for e in view.elements],
        "s": symbols,
        "n": list(view.atom_names),
        "b": view.bonds.ravel().tolist(),
        "m": [int(k) for k in view.marked],
    }


def laid_flat(positions: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
    """Positions about their middle along their own principal axes; never a mirror image."""
    if not len(positions):
        return positions
    centred = positions - positions.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=False)[2] if len(positions) > 2 else np.eye(3)
    if np.linalg.det(axes) < 0.0:
        axes[2] *= -1.0
    return centred @ axes.T


def excerpt(view: MoleculeView, largest: int = LARGEST) -> MoleculeView:
    """The molecule itself, or of a very large one the atoms nearest to the first marked atom."""
    n = len(view.positions)
    if n <= largest:
        return view
    middle = view.positions[view.marked[0]] if view.marked else view.positions.mean(axis=0)
    distance = np.linalg.norm(view.positions - middle, axis=1)
    kept = np.sort(np.argsort(distance, kind="stable")[:largest])
    number = np.full(n, -1)
    number[kept] = np.arange(largest)
    bonds = number[view.bonds]
    return replace(
        view,
        atom_names=tuple(view.atom_names[k] for k in kept),
        elements=tuple(view.elements[k] for k in kept),
        positions=view.positions[kept],
        bonds=bonds[(bonds >= 0).all(axis=1)],
        marked=tuple(int(number[k]) for k in view.marked if number[k] >= 0),
    )

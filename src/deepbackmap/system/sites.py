"""Virtual sites put where the atoms that they are constructed from say.

Formulas are those of ``kinds.SITES`` (GROMACS manual, "Virtual interaction sites").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float64

from deepbackmap.geometry.cell import minimum_image
from deepbackmap.system.kinds import SITES
from deepbackmap.system.topology import BondedTerms, Topology

Vectors = Float64[np.ndarray, "m s 3"]
Columns = Float64[np.ndarray, "s p"]


def place_sites(
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    topology: Topology,
) -> Float64[np.ndarray, "n 3"]:
    """Positions with every virtual site in its place, beside the first atom it is made from.

    Args:
        positions: nm; those of virtual sites do not matter.
        box: lattice vectors as rows, nm; zeros for none.
        topology: which atoms are sites, and of what.

    Returns:
        Positions in nm; those of atoms are unchanged.
    """
    placed = positions
    for molecule, first, count in topology.runs():
        if not molecule.sites:
            continue
        if placed is positions:
            placed = positions.copy()
        copies = placed[first : first + count * molecule.n_atoms]
        _place(copies.reshape(count, molecule.n_atoms, 3), box, molecule.sites)
    return placed


def _place(
    copies: Float64[np.ndarray, "m n 3"],
    box: Float64[np.ndarray, "3 3"],
    sites: Mapping[str, BondedTerms],
) -> None:
    """Writes the places into the copies of one molecule, kind after kind in the table's order."""

    def short(vectors: np.ndarray) -> np.ndarray:
        return minimum_image(vectors, box) if box.any() else vectors

    for kind in SITES:
        if kind not in sites:
            continue
        atoms, parameters = sites[kind].atoms, sites[kind].parameters
        origin = copies[:, atoms[:, 1]]
        if kind == "site_mean":
            _means(copies, atoms, parameters[:, 0], short)
            continue
        arms = [short(copies[:, atoms[:, k]] - origin) for k in range(2, atoms.shape[1])]
        copies[:, atoms[:, 0]] = origin + PLACES[kind](arms, parameters)


def _means(
    copies: Float64[np.ndarray, "m n 3"],
    atoms: np.ndarray,
    weights: np.ndarray,
    short: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Weighted means, each taken beside the first of its atoms."""
    sites, first, member = np.unique(atoms[:, 0], return_index=True, return_inverse=True)
    origin = copies[:, atoms[first, 1]]
    away = short(copies[:, atoms[:, 1]] - origin[:, member]) * weights[:, None]
    share = np.zeros((len(sites), len(member)))
    share[member, np.arange(len(member))] = 1.0
    copies[:, sites] = origin + share @ away


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Of length one; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0.0)


def _site1(arms: list[Vectors], p: Columns) -> float:
    return 0.0


def _site2(arms: list[Vectors], p: Columns) -> Vectors:
    return p[:, :1] * arms[0]


def _site2_distance(arms: list[Vectors], p: Columns) -> Vectors:
    return p[:, :1] * _unit(arms[0])


def _site3(arms: list[Vectors], p: Columns) -> Vectors:
    return p[:, :1] * arms[0] + p[:, 1:2] * arms[1]


def _site3_distance(arms: list[Vectors], p: Columns) -> Vectors:
    return p[:, 1:2] * _unit(arms[0] + p[:, :1] * (arms[1] - arms[0]))


def _site3_angle(arms: list[Vectors], p: Columns) -> Vectors:
    along = _unit(arms[0])
    further = arms[1] - arms[0]
    across = _unit(further - (further * along).sum(axis=-1, keepdims=True) * along)
    return p[:, 1:2] * (np.cos(p[:, :1]) * along + np.sin(p[:, :1]) * across)


def _site3_out(arms: list[Vectors], p: Columns) -> Vectors:
    return p[:, :1] * arms[0] + p[:, 1:2] * arms[1] + p[:, 2:3] * np.cross(arms[0], arms[1])


def _site4_normal(arms: list[Vectors], p: Columns) -> Vectors:
    normal = np.cross(p[:, :1] * arms[1] - arms[0], p[:, 1:2] * arms[2] - arms[0])
    return p[:, 2:3] * _unit(normal)


PLACES: dict[str, Callable[[list[Vectors], Columns], Vectors | float]] = {
    "site1": _site1,
    "site2": _site2,
    "site2_distance": _site2_distance,
    "site3": _site3,
    "site3_distance": _site3_distance,
    "site3_angle": _site3_angle,
    "site3_out": _site3_out,
    "site4_normal": _site4_normal,
}
"""Where a site lies from its first atom, given the vectors from that to the others and the
parameters."""

"""Energies of pairs of atom types that are not Lennard-Jones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

COLUMNS = ("c6", "c9", "c12", "a", "b", "shift")
"""c12/(r - shift)^12 + c9/(r - shift)^9 - c6/(r - shift)^6 + a exp(-b r); kJ/mol and nm."""
THERMAL = 2.5
"""kJ/mol, where a pair that only repels counts as in touch."""
OTHER_PAIRS = (
    "{}: pairs that are not Lennard-Jones (Buckingham, 9-6, shifted) are taken as Lennard-Jones "
    "with the same minimum while atoms are placed; their own energies are those of the engine "
    "openmm and of evaluate"
)
"""A notice, of the file that says so."""
_REACH = np.geomspace(0.1, 3.0, 3000)
"""nm, where a minimum is looked for."""


@dataclass(frozen=True)
class PairForms:
    """Energies by pair of atom types, where some are not Lennard-Jones."""

    columns: Float64[np.ndarray, "6 t t"]
    """As ``COLUMNS``."""

    @property
    def c6(self) -> Float64[np.ndarray, "t t"]:
        """Attraction at large distances, kJ/mol nm^6."""
        return self.columns[0]

    def energies(self, r: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n t t"]:
        """Of every pair of types at distances in nm, kJ/mol."""
        c6, c9, c12, a, b, shift = self.columns
        r = r[:, None, None]
        inverse = 1.0 / np.maximum(r - shift, 1e-3)
        return c12 * inverse**12 + c9 * inverse**9 - c6 * inverse**6 + a * np.exp(-b * r)

    def lennard_jones(self) -> tuple[Float64[np.ndarray, "t t"], Float64[np.ndarray, "t t"]]:
        """C6 and C12 that come nearest: the same minimum, or the same size of what only repels.

        For what needs to know how large atoms are, as placing them, and not their energies.
        """
        energy = self.energies(_REACH)
        inside = energy[1:-1]
        dips = (inside < energy[:-2]) & (inside < energy[2:]) & (inside < 0.0)
        last = len(dips) - 1 - np.argmax(dips[::-1], axis=0)
        found = dips.any(axis=0)
        r6 = _REACH[1:-1][last] ** 6
        depth = -np.take_along_axis(inside, last[None], axis=0)[0]
        above = energy > THERMAL
        touch = _REACH[len(_REACH) - 1 - np.argmax(above[::-1], axis=0)]
        hard = np.where(above.any(axis=0), THERMAL * touch**12, 0.0)
        plain = (self.columns[[1, 3, 5]] == 0.0).all(axis=0)
        c6 = np.where(found, 2.0 * depth * r6, 0.0)
        c12 = np.where(found, depth * r6 * r6, hard)
        return np.where(plain, self.columns[0], c6), np.where(plain, self.columns[2], c12)


def pair_forms(columns: Float64[np.ndarray, "6 t t"]) -> PairForms | None:
    """Forms of all pairs; None where Lennard-Jones alone says all."""
    return PairForms(columns) if columns[[1, 3, 5]].any() else None

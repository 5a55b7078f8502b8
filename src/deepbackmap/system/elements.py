"""Chemical symbols from masses: topologies name types, and types are anything."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from jaxtyping import Float64

UNITED = {"H": (2.014,), "C": (13.019, 14.027, 15.035, 16.043)}
"""Masses in u of what stands for an element without being the atom alone: deuterium, and CH to
CH4 of united-atom force fields."""


def element_symbols(masses: Float64[np.ndarray, " n"]) -> tuple[str, ...]:
    """The element whose mass is nearest, for every atom; X where the mass is 0.

    Args:
        masses: in u.
    """
    known = [(float(m), s) for m, s in zip(atomic_masses[1:], chemical_symbols[1:], strict=True)]
    known += [(mass, symbol) for symbol, more in UNITED.items() for mass in more]
    table = np.array([mass for mass, _ in known])
    distinct, place = np.unique(masses, return_inverse=True)
    symbols = [known[int(np.abs(table - m).argmin())][1] if m > 0.0 else "X" for m in distinct]
    return tuple(symbols[k] for k in place.reshape(-1).tolist())

"""What Lennard-Jones attraction beyond the cut-off adds to energy and pressure."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from deepbackmap.system import MoleculeType, Topology


def dispersion_coefficient(topology: Topology, cutoff: float) -> float:
    """Energy of the attraction beyond the cut-off times the volume, in kJ/mol nm^3.

    -2/3 pi n^2 c6 / cutoff^3, with c6 the mean over all pairs that are not excluded: the density
    is taken as uniform beyond the cut-off (GROMACS reference manual, dispersion correction).
    """
    n = topology.n_atoms
    counts = np.bincount(topology.atom_type_index(), minlength=len(topology.type_names))
    pairs = 0.5 * (np.outer(counts, counts) - np.diag(counts))
    total = float((pairs * _attraction(topology)).sum())
    number = 0.5 * n * (n - 1)
    for index, count in topology.blocks:
        molecule = topology.molecule_types[index]
        total -= count * _excluded(topology, molecule)
        number -= count * len(molecule.exclusions)
    if number <= 0.0:
        return 0.0
    return -2.0 / 3.0 * math.pi * n * n * (total / number) / cutoff**3


def _excluded(topology: Topology, molecule: MoleculeType) -> float:
    """Sum of c6 over the excluded pairs of one molecule."""
    row = {name: k for k, name in enumerate(topology.type_names)}
    rows = np.array([row[t] for t in molecule.atom_types], dtype=np.int64)
    i, j = molecule.exclusions.T
    return float(_attraction(topology)[rows[i], rows[j]].sum())


def _attraction(topology: Topology) -> Float64[np.ndarray, "t t"]:
    """C6 by pair of types, what it is far away where pairs are not Lennard-Jones."""
    return topology.c6 if topology.pair_forms is None else topology.pair_forms.c6

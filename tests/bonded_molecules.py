"""Molecule types with bonds and constraints and nothing else."""

import numpy as np

from deepbackmap.system import BondedTerms, MoleculeType


def molecule(name, masses, bonds=(), constraints=()):
    """A molecule type with bonds (i, j, length) and constraints of the same form."""
    n, terms = len(masses), {}
    for kind, listed, columns in (("bond", bonds, 2), ("constraint", constraints, 1)):
        if listed:
            parameters = np.array([[row[2], 1e5][:columns] for row in listed])
            terms[kind] = BondedTerms(np.array([row[:2] for row in listed]), parameters)
    return MoleculeType(
        name=name,
        atom_names=tuple(f"A{k + 1}" for k in range(n)),
        atom_types=("A",) * n,
        residue_names=("RES",) * n,
        residue_numbers=np.ones(n, dtype=np.int64),
        charges=np.zeros(n),
        masses=np.array(masses, dtype=float),
        terms=terms,
        nrexcl=1,
        exclusions=np.zeros((0, 2), dtype=np.int64),
        pairs=BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3))),
    )

"""Small hand-made systems for the tests of the evaluation."""

import os
from pathlib import Path

import numpy as np
import pytest

from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology

SKEWED = np.array([[3.0, 0.0, 0.0], [1.2, 2.6, 0.0], [-0.9, 0.7, 2.4]])
"""A cell in which the nearest image is rarely the one with the nearest fractional coordinates."""

MASS = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999, "F": 18.998, "Cl": 35.45, "Br": 79.904}
NOTHING = BondedTerms(np.zeros((0, 2), dtype=np.int64), np.zeros((0, 3)))


def molecule(types, bonds, *, terms=None, exclusions=(), length=0.15):
    """A molecule type from the elements of its atoms and its bonds."""
    n = len(types)
    rows = np.array(bonds, dtype=np.int64).reshape(-1, 2)
    listed = BondedTerms(rows, np.tile([length, 1000.0], (len(rows), 1)))
    return MoleculeType(
        name="MOL",
        atom_names=tuple(f"{t}{i + 1}" for i, t in enumerate(types)),
        atom_types=tuple(types),
        residue_names=("MOL",) * n,
        residue_numbers=np.ones(n, dtype=np.int64),
        charges=np.zeros(n),
        masses=np.array([MASS[t] for t in types]),
        terms={"bond": listed, **(terms or {})},
        nrexcl=0,
        exclusions=np.array(exclusions, dtype=np.int64).reshape(-1, 2),
        pairs=NOTHING,
    )


def topology(*molecules, counts=None, sigma=0.3, epsilon=0.4):
    """A system of molecules that all have the same Lennard-Jones parameters."""
    names = tuple(sorted({t for m in molecules for t in m.atom_types}))
    table = np.ones((len(names), len(names)))
    return Topology(
        title="test",
        molecule_types=tuple(molecules),
        blocks=tuple(enumerate(counts or [1] * len(molecules))),
        type_names=names,
        c6=4.0 * epsilon * sigma**6 * table,
        c12=4.0 * epsilon * sigma**12 * table,
    )


def structure(positions, box=SKEWED):
    return Structure(np.array(positions, dtype=np.float64), np.array(box, dtype=np.float64))


def rotation(seed=0):
    """A proper rotation drawn at random."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return matrix * np.sign(np.linalg.det(matrix))


def scattered(positions, box=SKEWED, seed=0):
    """The same atoms, each moved by lattice vectors of its own."""
    shifts = np.random.default_rng(seed).integers(-2, 3, size=np.shape(positions))
    return structure(positions + shifts @ box, box)


def reference_folder():
    """The published structures, or a skipped test."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DEEPBACKMAP_DATA", beside)) / "sps"
    if not (folder / "topol.top").exists():
        pytest.skip("the reference data are absent")
    return folder

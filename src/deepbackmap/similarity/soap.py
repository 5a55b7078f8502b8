"""SOAP features of environments, by dscribe, hydrogens left out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from dscribe.descriptors import SOAP
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import wrap
from deepbackmap.similarity.options import MapOptions
from deepbackmap.system import Structure, Topology
from deepbackmap.system.elements import element_symbols

ANGSTROM = 10.0
"""In a nm: dscribe counts in Å."""
LARGEST = 4e9
"""Bytes of features."""


@dataclass(frozen=True)
class Environments:
    """Computes SOAP features of chosen heavy atoms of frames of one topology."""

    heavy: Int64[np.ndarray, " h"]
    """Heavy atoms of the system."""
    rank: Int64[np.ndarray, " n"]
    """Place of each atom of the system among the heavy ones; -1 for hydrogens."""
    numbers: Int64[np.ndarray, " h"]
    """What dscribe takes for atomic numbers; with species by type these are labels only."""
    species: tuple[str, ...]
    """Elements or types that are told apart, by their number."""
    soap: SOAP
    workers: int = 1

    @property
    def n_features(self) -> int:
        """Numbers for each environment."""
        return int(self.soap.get_number_of_features())

    def features(
        self, frames: list[Structure], centres: list[Int64[np.ndarray, "_"]]
    ) -> Float64[np.ndarray, "c f"]:
        """Normalised power spectra around atoms of frames.

        Neighbours are seen through the periodic boundary of any triclinic cell, whatever image
        the coordinates are given in.

        Args:
            frames: in nm.
            centres: for each frame, heavy atoms of the system.

        Returns:
            One row of unit length for every centre, frame after frame, float64.

        Raises:
            InputError: the features would not fit into memory.
        """
        need = 8.0 * sum(len(c) for c in centres) * self.n_features
        if need > LARGEST:
            raise InputError(
                f"structure map: expected features of at most {LARGEST / 1e9:.0f} GB, found "
                f"{need / 1e9:.1f} GB for {len(self.species)} species: take fewer structures, "
                f"elements instead of types, or smaller n_max and l_max"
            )
        used = [(s, c) for s, c in zip(frames, centres, strict=True) if len(c)]
        systems = [self._atoms(s) for s, _ in used]
        places = [a.positions[self.rank[c]] for a, (_, c) in zip(systems, used, strict=True)]
        found = self.soap.create(systems, centers=places, n_jobs=self.workers)
        rows = np.concatenate(found) if isinstance(found, list) else np.asarray(found)
        rows = rows.reshape(-1, self.n_features)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _atoms(self, structure: Structure) -> Atoms:
        # dscribe repeats the cell it is given and expects the atoms inside of it
        positions = wrap(structure.positions[self.heavy], structure.box)
        return Atoms(
            self.numbers, positions=ANGSTROM * positions, cell=ANGSTROM * structure.box, pbc=True
        )


def environments(topology: Topology, options: MapOptions) -> Environments:
    """Prepares SOAP for a topology.

    Args:
        topology: gives elements, types and masses.
        options: of SOAP.

    Returns:
        What computes features.

    Raises:
        InputError: there are more types than dscribe can tell apart, or more radial functions
            than fit into the cutoff.
    """
    heavy = np.flatnonzero(topology.masses() > 3.0)
    rank = np.full(topology.n_atoms, -1, dtype=np.int64)
    rank[heavy] = np.arange(len(heavy))
    by_type = options.species == "types"
    numbers, species = _type_numbers(topology) if by_type else _element_numbers(topology)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the algebra that the error is about
            soap = SOAP(
                species=sorted({int(z) for z in numbers[heavy]}),
                r_cut=ANGSTROM * options.cutoff,
                n_max=options.n_max,
                l_max=options.l_max,
                sigma=ANGSTROM * options.width,
                periodic=True,
            )
    except ValueError as error:
        raise InputError(
            f"structure map: expected options of SOAP that dscribe can use, found n_max "
            f"{options.n_max} and cutoff {options.cutoff:g} nm: {error}"
        ) from error
    return Environments(heavy, rank, numbers[heavy], species, soap, options.workers)


def _element_numbers(topology: Topology) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    """Atomic numbers of all atoms, and the elements of the heavy ones."""
    per_type = []
    found: set[str] = set()
    for molecule in topology.molecule_types:
        symbols = element_symbols(molecule.masses)
        per_type.append(np.array([atomic_numbers[s] for s in symbols], dtype=np.int64))
        found |= {s for s, heavy in zip(symbols, molecule.heavy, strict=True) if heavy}
    return _expand(topology, per_type), tuple(sorted(found))


def _type_numbers(topology: Topology) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    """A number from 1 for every atom type of a heavy atom, 0 for hydrogens."""
    types = sorted(
        {
            t
            for m in topology.molecule_types
            for t, heavy in zip(m.atom_types, m.heavy, strict=True)
            if heavy
        }
    )
    if len(types) > 118:
        raise InputError(
            f"{topology.source}: expected at most 118 heavy atom types to tell apart, found "
            f"{len(types)}: use elements instead"
        )
    label = {t: k + 1 for k, t in enumerate(types)}
    per_type = [
        np.array([label.get(t, 0) for t in m.atom_types], dtype=np.int64)
        for m in topology.molecule_types
    ]
    return _expand(topology, per_type), tuple(types)


def _expand(topology: Topology, per_type: list[np.ndarray]) -> Int64[np.ndarray, " n"]:
    runs = [np.tile(per_type[t], count) for t, count in topology.blocks]
    return np.concatenate([np.zeros(0, dtype=np.int64), *runs])

"""A system that is listed atom by atom as a ``Topology`` of molecule types.

Formats other than GROMACS' list every term of the whole system. Atoms that are bonded belong to one
molecule, and molecules that are equal in everything but their place become one type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from deepbackmap.system import BondedTerms, MoleculeType, Topology
from deepbackmap.system.pair_forms import PairForms
from deepbackmap.system.topology import Unsupported


@dataclass(frozen=True)
class FlatSystem:
    """All atoms and terms of a system; atoms are counted from 0 over the whole of it."""

    atom_names: tuple[str, ...]
    atom_types: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_numbers: Int64[np.ndarray, " n"]
    charges: Float64[np.ndarray, " n"]
    """In e."""
    masses: Float64[np.ndarray, " n"]
    """In u."""
    bonds: Int64[np.ndarray, "b 2"]
    """What makes atoms one molecule."""
    type_names: tuple[str, ...]
    c6: Float64[np.ndarray, "t t"]
    """kJ/mol nm^6."""
    c12: Float64[np.ndarray, "t t"]
    """kJ/mol nm^12."""
    terms: Mapping[str, BondedTerms]
    """By kind."""
    exclusions: Int64[np.ndarray, "m 2"]
    pairs: BondedTerms
    """As ``MoleculeType.pairs``."""
    pair_forms: PairForms | None = None
    sites: Mapping[str, BondedTerms] = field(default_factory=dict)
    unsupported: tuple[Unsupported, ...] = ()
    title: str = ""
    source: str = "topology"


def assemble(flat: FlatSystem) -> Topology:
    """Molecule types and their numbers, in the order of the atoms.

    Terms of atoms of several molecules are kept between them.
    """
    starts = _molecules(flat)
    cutter = _Cutter(flat, starts)
    types: list[MoleculeType] = []
    known: dict[object, int] = {}
    blocks: list[list[int]] = []
    for k in range(len(starts) - 1):
        key = cutter.signature(k)
        if key not in known:
            known[key] = len(types)
            types.append(cutter.molecule(k))
        if blocks and blocks[-1][0] == known[key]:
            blocks[-1][1] += 1
        else:
            blocks.append([known[key], 1])
    return Topology(
        title=flat.title,
        molecule_types=_named(types),
        blocks=tuple((t, n) for t, n in blocks),
        type_names=flat.type_names,
        c6=flat.c6,
        c12=flat.c12,
        pair_forms=flat.pair_forms,
        source=flat.source,
        intermolecular=cutter.between,
        unsupported=flat.unsupported,
    )


def _molecules(flat: FlatSystem) -> Int64[np.ndarray, " m1"]:
    """First atom of every molecule, and the number of atoms; a molecule is a run of atoms."""
    n = len(flat.atom_names)
    made = [flat.bonds, *(listed.atoms[:, :2] for listed in flat.sites.values())]
    i, j = np.concatenate(made).T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(n, n))
    _, label = connected_components(graph, directed=False)
    last = np.zeros(label.max(initial=-1) + 1, dtype=np.int64)
    np.maximum.at(last, label, np.arange(n))
    # a molecule ends where no molecule that has begun goes on
    reach = np.maximum.accumulate(last[label])
    return np.concatenate([[0], np.flatnonzero(reach == np.arange(n)) + 1]).astype(np.int64)


class _Cutter:
    """Cuts what belongs to one molecule out of a flat system."""

    def __init__(self, flat: FlatSystem, starts: Int64[np.ndarray, " m1"]) -> None:
        self.flat, self.starts = flat, starts
        self.molecule_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        self.between: dict[str, BondedTerms] = {}
        self._tables = {
            **{("term", kind): listed for kind, listed in flat.terms.items()},
            **{("site", kind): listed for kind, listed in flat.sites.items()},
            ("pairs", ""): flat.pairs,
            ("exclusions", ""): BondedTerms(flat.exclusions, np.zeros((len(flat.exclusions), 0))),
        }
        self._runs = {key: self._sorted(key, listed) for key, listed in self._tables.items()}

    def _sorted(
        self, key: tuple[str, str], listed: BondedTerms
    ) -> tuple[BondedTerms, Int64[np.ndarray, " m1"]]:
        """Terms in the order of their molecules, and where those of each molecule begin.

        Inside a molecule they go by atoms and numbers: a file may list those of every molecule in
        another order, and equal molecules are to be equal.
        """
        owner = self.molecule_of[listed.atoms]
        inside = (owner == owner[:, :1]).all(axis=1)
        if not inside.all() and key[0] == "term":
            self.between[key[1]] = BondedTerms(
                listed.atoms[~inside], listed.parameters[~inside], listed.grids
            )
        columns = (*listed.parameters[inside].T[::-1], *listed.atoms[inside].T[::-1])
        order = np.flatnonzero(inside)[np.lexsort((*columns, owner[inside, 0]))]
        begins = np.searchsorted(owner[order, 0], np.arange(len(self.starts)))
        chosen = BondedTerms(listed.atoms[order], listed.parameters[order], listed.grids)
        return chosen, begins.astype(np.int64)

    def rows(self, key: tuple[str, str], k: int) -> BondedTerms:
        """The terms of one molecule, with its own atoms."""
        listed, begins = self._runs[key]
        part = slice(begins[k], begins[k + 1])
        atoms = listed.atoms[part] - self.starts[k]
        return BondedTerms(atoms, listed.parameters[part], listed.grids)

    def signature(self, k: int) -> object:
        """Equal for equal molecules."""
        part = slice(self.starts[k], self.starts[k + 1])
        flat = self.flat
        rows = [self.rows(key, k) for key in self._runs]
        numbers = flat.residue_numbers[part]
        return (
            flat.atom_names[part],
            flat.atom_types[part],
            flat.residue_names[part],
            (numbers - numbers[0]).tobytes(),
            flat.charges[part].tobytes(),
            flat.masses[part].tobytes(),
            tuple(r.atoms.tobytes() + r.parameters.tobytes() for r in rows),
        )

    def molecule(self, k: int) -> MoleculeType:
        """One molecule; its residues are counted from 1."""
        part = slice(self.starts[k], self.starts[k + 1])
        flat = self.flat
        numbers = flat.residue_numbers[part]
        found = {key: self.rows(key, k) for key in self._runs}
        excluded = np.unique(np.sort(found["exclusions", ""].atoms, axis=1), axis=0)
        return MoleculeType(
            name=flat.residue_names[part][0],
            atom_names=flat.atom_names[part],
            atom_types=flat.atom_types[part],
            residue_names=flat.residue_names[part],
            residue_numbers=numbers - numbers[0] + 1,
            charges=flat.charges[part],
            masses=flat.masses[part],
            terms={
                kind: listed
                for (what, kind), listed in found.items()
                if what == "term" and len(listed.atoms)
            },
            nrexcl=0,
            exclusions=excluded.reshape(-1, 2),
            pairs=found["pairs", ""],
            sites={
                kind: listed
                for (what, kind), listed in found.items()
                if what == "site" and len(listed.atoms)
            },
        )


def _named(types: list[MoleculeType]) -> tuple[MoleculeType, ...]:
    """Molecule types with names of their own: those that recur are numbered."""
    names = [m.name for m in types]
    found, seen = [], dict.fromkeys(names, 0)
    for molecule in types:
        seen[molecule.name] += 1
        more = names.count(molecule.name) > 1
        name = f"{molecule.name}_{seen[molecule.name]}" if more else molecule.name
        found.append(replace(molecule, name=name))
    return tuple(found)

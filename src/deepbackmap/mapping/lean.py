"""A mapping of a system without its virtual sites."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType
from deepbackmap.system.lean import Lean, site_shares

EXACT = ("site1", "site2", "site3", "site_mean")
"""Kinds of virtual site that are weighted means of atoms."""


def lean_mapping(mapping: SystemMapping, lean: Lean) -> SystemMapping:
    """The same beads, their positions as means of atoms alone.

    Args:
        mapping: of the full system.
        lean: that system, and the same without sites.

    Raises:
        InputError: a bead's position is that of a site which is no weighted mean of atoms.
    """
    if not lean.sites:
        return mapping
    molecules = tuple(
        _lean(molecule, beads) if molecule.sites else beads
        for molecule, beads in zip(lean.full.molecule_types, mapping.molecules, strict=True)
    )
    return SystemMapping(lean.topology, molecules)


def _lean(molecule: MoleculeType, beads: MoleculeMapping) -> MoleculeMapping:
    real = ~molecule.virtual
    numbers = np.cumsum(real) - 1
    shares, inexact = site_shares(molecule), _inexact(molecule)
    weights: dict[tuple[int, int], float] = {}
    rows = zip(
        beads.weight_beads.tolist(), beads.weight_atoms.tolist(), beads.weights.tolist(),
        strict=True,
    )  # fmt: skip
    for bead, atom, weight in rows:
        if atom in inexact:
            raise InputError(
                f"bead {beads.bead_names[bead]} of molecule {molecule.name}: expected a mean of "
                f"atoms, found the virtual site {molecule.atom_names[atom]}, whose place is none; "
                "give the bead the atoms that the site is constructed from"
            )
        for other, share in shares.get(atom, [(atom, 1.0)]):
            weights[bead, other] = weights.get((bead, other), 0.0) + weight * share
    keys = sorted(weights)
    return replace(
        beads,
        weight_beads=np.array([bead for bead, _ in keys], dtype=np.int64),
        weight_atoms=numbers[[atom for _, atom in keys]].astype(np.int64),
        weights=np.array([weights[key] for key in keys]),
        owner=beads.owner[real],
    )


def _inexact(molecule: MoleculeType) -> set[int]:
    """Sites that are no weighted means of atoms, and those made from one of them."""
    found = {
        site
        for kind, listed in molecule.sites.items()
        if kind not in EXACT
        for site in listed.atoms[:, 0].tolist()
    }
    rows = [row for listed in molecule.sites.values() for row in listed.atoms.tolist()]
    while more := {row[0] for row in rows if found & set(row[1:])} - found:
        found |= more
    return found

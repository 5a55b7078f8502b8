"""A topology as one self-contained file that GROMACS reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.system import BondedTerms, MoleculeType, Topology

FUNCTIONS = {
    "bond": ("bonds", 1),
    "constraint": ("constraints", 1),
    "angle": ("angles", 1),
    "angle_g96": ("angles", 2),
    "proper": ("dihedrals", 9),
    "ryckaert_bellemans": ("dihedrals", 3),
    "improper": ("dihedrals", 2),
}
"""Kind of term → section and number of the function."""
DEGREES = {"angle": 1, "angle_g96": 1, "proper": 1, "improper": 1}
"""Kind of term → how many of its first columns are angles, which files state in degrees."""
SITE_TYPE = "HELDSITE"
"""Atom type of the virtual sites that stand for held beads."""
EXCLUSIONS_A_LINE = 20


@dataclass(frozen=True)
class TopologyVariant:
    """What is written differently from the topology."""

    bond_constant: float | None = None
    """Stiffness of all bonds and constraints as springs, kJ mol-1 nm-2; None: the topology's."""
    nonbonded: bool = True
    """False: atoms without charge, Lennard-Jones parameters and 1-4 pairs."""
    mapping: SystemMapping | None = None
    """Given: every bead is a virtual site behind the atoms of its molecule, and held."""
    hold: float = 0.0
    """Stiffness with which beads are held, kJ mol-1 nm-2."""


def topology_text(topology: Topology, variant: TopologyVariant = TopologyVariant()) -> str:
    """The whole of a topology as text.

    Every parameter is written out and every excluded pair is listed, so that nothing depends on
    combination rules, on included files or on how pairs are derived from bonds. Lennard-Jones
    parameters are c6 and c12 by pair of types (combination rule 1).
    """
    lines = [
        "; Written by deepbackmap: complete, with every parameter and every exclusion.",
        "[ defaults ]",
        "; nbfunc  comb-rule (c6, c12)  gen-pairs  fudgeLJ  fudgeQQ",
        f"1 1 no 1.0 {_number(_fudge(topology) or 1.0)}",
        "",
        *_atom_types(topology, variant),
    ]
    used = dict.fromkeys(index for index, count in topology.blocks if count)
    for index in used:
        beads = None if variant.mapping is None else variant.mapping.molecules[index]
        lines += ["", *_molecule(topology, topology.molecule_types[index], beads, variant)]
    lines += ["", "[ system ]", " ".join(topology.title.split()) or "system"]
    lines += ["", "[ molecules ]"]
    lines += [
        f"{topology.molecule_types[index].name} {count}"
        for index, count in topology.blocks
        if count
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:.12g}"


def _fudge(topology: Topology) -> float | None:
    """The factor of all 1-4 charges, if they share one."""
    factors = {
        float(f) for m in topology.molecule_types for f in np.unique(m.pairs.parameters[:, 2])
    }
    return factors.pop() if len(factors) == 1 else None


def _atom_types(topology: Topology, variant: TopologyVariant) -> Iterator[str]:
    """Types, and the pairs of types that their geometric mean does not give."""
    c6, c12 = (
        (topology.c6, topology.c12)
        if variant.nonbonded
        else (np.zeros_like(topology.c6), np.zeros_like(topology.c12))
    )
    yield "[ atomtypes ]"
    yield "; name  mass  charge  ptype  c6  c12"
    for k, name in enumerate(topology.type_names):
        yield f"{name} 0.0 0.0 A {_number(c6[k, k])} {_number(c12[k, k])}"
    if variant.mapping is not None:
        yield f"{SITE_TYPE} 0.0 0.0 V 0.0 0.0"
    listed = [
        f"{first} {second} 1 {_number(c6[i, j])} {_number(c12[i, j])}"
        for i, first in enumerate(topology.type_names)
        for j, second in enumerate(topology.type_names[: i + 1])
        if i != j
    ]
    if listed and variant.nonbonded:
        yield from ("", "[ nonbond_params ]", *listed)


def _molecule(
    topology: Topology,
    molecule: MoleculeType,
    beads: MoleculeMapping | None,
    variant: TopologyVariant,
) -> Iterator[str]:
    # no exclusions from bonds: all of them are listed below
    yield from ("[ moleculetype ]", "; name  nrexcl", f"{molecule.name} 0", "")
    yield from _atoms(molecule, beads, variant)
    terms = dict(molecule.terms)
    if variant.bond_constant is not None:
        terms = _springs(terms, variant.bond_constant)
    for kind, listed in terms.items():
        if len(listed.atoms):
            yield from ("", *_terms(kind, listed))
    if variant.nonbonded:
        yield from _pairs(topology, molecule)
        yield from _exclusions(molecule)
    if beads is not None:
        yield from _sites(molecule, beads, variant.hold)


def _atoms(
    molecule: MoleculeType, beads: MoleculeMapping | None, variant: TopologyVariant
) -> Iterator[str]:
    yield "[ atoms ]"
    yield "; nr  type  resnr  residue  atom  cgnr  charge  mass"
    for k in range(molecule.n_atoms):
        charge = molecule.charges[k] if variant.nonbonded else 0.0
        yield (
            f"{k + 1} {molecule.atom_types[k]} {molecule.residue_numbers[k]} "
            f"{molecule.residue_names[k]} {molecule.atom_names[k]} {k + 1} "
            f"{_number(charge)} {_number(molecule.masses[k])}"
        )
    for b in range(0 if beads is None else beads.n_beads):
        k = molecule.n_atoms + b + 1
        residue = f"{molecule.residue_numbers[-1]} {molecule.residue_names[-1]}"
        yield f"{k} {SITE_TYPE} {residue} V {k} 0 0"


def _springs(terms: dict[str, BondedTerms], constant: float) -> dict[str, BondedTerms]:
    """The terms with all bonds and constraints as springs of one stiffness."""
    listed = [terms.pop(kind) for kind in ("bond", "constraint") if kind in terms]
    if not listed:
        return terms
    lengths = np.concatenate([t.parameters[:, 0] for t in listed])
    parameters = np.stack([lengths, np.full_like(lengths, constant)], axis=1)
    return {"bond": BondedTerms(np.concatenate([t.atoms for t in listed]), parameters), **terms}


def _terms(kind: str, listed: BondedTerms) -> Iterator[str]:
    section, function = FUNCTIONS[kind]
    yield f"[ {section} ]"
    parameters = listed.parameters.copy()
    n = DEGREES.get(kind, 0)
    parameters[:, :n] *= 180.0 / math.pi
    for atoms, row in zip(listed.atoms.tolist(), parameters.tolist(), strict=True):
        columns = [_number(p) for p in row]
        yield " ".join([*(str(a + 1) for a in atoms), str(function), *columns])


def _pairs(topology: Topology, molecule: MoleculeType) -> Iterator[str]:
    """1-4 pairs; with charge factors of their own where the system does not share one."""
    if not len(molecule.pairs.atoms):
        return
    shared = _fudge(topology) is not None
    yield from ("", "[ pairs ]")
    rows = zip(molecule.pairs.atoms.tolist(), molecule.pairs.parameters.tolist(), strict=True)
    for (i, j), (sigma, epsilon, factor) in rows:
        c6 = 4.0 * epsilon * sigma**6
        c12 = c6 * sigma**6
        words = [str(i + 1), str(j + 1), "1" if shared else "2"]
        if not shared:
            words += [_number(v) for v in (factor, molecule.charges[i], molecule.charges[j])]
        yield " ".join([*words, _number(c6), _number(c12)])


def _exclusions(molecule: MoleculeType) -> Iterator[str]:
    if not len(molecule.exclusions):
        return
    yield from ("", "[ exclusions ]")
    first, others = molecule.exclusions.T
    for atom in np.unique(first).tolist():
        partners = others[first == atom] + 1
        for start in range(0, len(partners), EXCLUSIONS_A_LINE):
            piece = partners[start : start + EXCLUSIONS_A_LINE].tolist()
            yield " ".join(map(str, [atom + 1, *piece]))


def _sites(molecule: MoleculeType, beads: MoleculeMapping, constant: float) -> Iterator[str]:
    """Beads as weighted means of their atoms, each held where the reference file has it."""
    if not beads.n_beads:
        return
    yield from ("", "[ virtual_sitesn ]", "; site  funct  atom  weight ...")
    for b in range(beads.n_beads):
        entries = np.flatnonzero(beads.weight_beads == b)
        members = [
            f"{beads.weight_atoms[e] + 1} {_number(beads.weights[e])}"
            for e in entries
            if beads.weights[e]
        ]
        yield f"{molecule.n_atoms + b + 1} 3 {' '.join(members)}"
    yield from ("", "[ position_restraints ]")
    k = _number(constant)
    for b in range(beads.n_beads):
        yield f"{molecule.n_atoms + b + 1} 1 {k} {k} {k}"

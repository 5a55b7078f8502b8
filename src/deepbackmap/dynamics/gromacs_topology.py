"""A topology as one self-contained file that GROMACS reads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from deepbackmap.errors import InputError
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.system import BondedTerms, MoleculeType, Topology
from deepbackmap.system.kinds import KINDS, SITES, SPRINGS
from deepbackmap.system.topology import require_energies, require_lennard_jones

SITE_TYPE = "HELDSITE"
"""Atom type of the virtual sites that stand for held beads."""
EXCLUSIONS_A_LINE = 20
PAIR_KINDS = ("lj14", "lj14_powers", "coulomb14")
"""Kinds of listed pairs, which are not counted without non-bonded interactions."""


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

    Raises:
        InputError: the topology has terms whose energies are not known, or that stand in files of
            their own (tables).
    """
    require_energies(topology)
    require_lennard_jones(topology, "GROMACS")
    lines = [
        "; Written by deepbackmap: complete, with every parameter and every exclusion.",
        "[ defaults ]",
        "; nbfunc  comb-rule (c6, c12)  gen-pairs  fudgeLJ  fudgeQQ",
        f"1 1 no 1.0 {_number(_fudge(topology) or 1.0)}",
        "",
        *_atom_types(topology, variant),
        *_cmap_types(topology),
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
    if topology.intermolecular:
        lines += ["", "[ intermolecular_interactions ]"]
        place = np.flatnonzero(real_particles(topology, variant.mapping))
        for kind, listed in topology.intermolecular.items():
            lines += _terms(kind, replace(listed, atoms=place[listed.atoms]))
    return "\n".join(lines) + "\n"


def real_particles(topology: Topology, mapping: SystemMapping | None) -> Bool[np.ndarray, " p"]:
    """Which particles of GROMACS are atoms, where each molecule's beads follow its atoms."""
    marks = [np.zeros(0, dtype=bool)]
    for index, count in topology.blocks:
        atoms = topology.molecule_types[index].n_atoms
        beads = 0 if mapping is None else mapping.molecules[index].n_beads
        marks.append(np.tile(np.repeat([True, False], [atoms, beads]), count))
    return np.concatenate(marks)


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
    virtual = _virtual_types(topology)
    for k, name in enumerate(topology.type_names):
        particle = "V" if name in virtual else "A"
        yield f"{name} 0.0 0.0 {particle} {_number(c6[k, k])} {_number(c12[k, k])}"
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


def _virtual_types(topology: Topology) -> set[str]:
    """Types of virtual sites."""
    return {
        name
        for molecule in topology.molecule_types
        for name, virtual in zip(molecule.atom_types, molecule.virtual.tolist(), strict=True)
        if virtual
    }


def _cmap_types(topology: Topology) -> Iterator[str]:
    """Correction maps by the types of their atoms, which are their bonded types as well.

    Raises:
        InputError: atoms of the same types have different maps.
    """
    found: dict[tuple[str, ...], np.ndarray] = {}
    for molecule in topology.molecule_types:
        listed = molecule.terms.get("cmap")
        if listed is None or listed.grids is None:
            continue
        for atoms, (row,) in zip(listed.atoms.tolist(), listed.parameters.tolist(), strict=True):
            types = tuple(molecule.atom_types[a] for a in atoms)
            values = listed.grids[int(row), 0]
            if not np.array_equal(found.setdefault(types, values), values):
                raise InputError(
                    f"{topology.source}: expected one correction map for atoms of types "
                    f"{' '.join(types)} in files for GROMACS, found two"
                )
    if found:
        yield from ("", "[ cmaptypes ]")
    for types, values in found.items():
        n = len(values)
        rows = [" ".join(_number(v) for v in row) for row in values.tolist()]
        yield f"{' '.join(types)} 1 {n} {n} \\\n" + " \\\n".join(rows)


def _molecule(
    topology: Topology,
    molecule: MoleculeType,
    beads: MoleculeMapping | None,
    variant: TopologyVariant,
) -> Iterator[str]:
    # no exclusions from bonds: all of them are listed below
    yield from ("[ moleculetype ]", "; name  nrexcl", f"{molecule.name} 0", "")
    yield from _atoms(molecule, beads, variant)
    terms = {
        kind: listed
        for kind, listed in molecule.terms.items()
        if variant.nonbonded or kind not in PAIR_KINDS
    }
    if variant.bond_constant is not None:
        terms = _springs(terms, variant.bond_constant)
    for kind, listed in terms.items():
        if len(listed.atoms):
            yield from ("", *_terms(kind, listed))
    if variant.nonbonded:
        yield from _pairs(topology, molecule)
        yield from _exclusions(molecule)
    for kind, listed in molecule.sites.items():
        yield from ("", *_virtual_sites(kind, listed))
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
    listed = [terms.pop(kind) for kind in ("bond", "constraint", *SPRINGS[1:]) if kind in terms]
    if not listed:
        return terms
    lengths = np.concatenate([t.parameters[:, 0] for t in listed])
    parameters = np.stack([lengths, np.full_like(lengths, constant)], axis=1)
    return {"bond": BondedTerms(np.concatenate([t.atoms for t in listed]), parameters), **terms}


def _terms(kind: str, listed: BondedTerms) -> Iterator[str]:
    if kind in PAIR_KINDS:
        yield from _charged_pairs(kind, listed)
        return
    if KINDS[kind].grids == 1:
        raise InputError(
            f"expected terms that GROMACS reads from a topology alone, found {len(listed.atoms)} "
            f"tabulated ones ({kind}): use the engine openmm"
        )
    if not KINDS[kind].gromacs:
        raise InputError(
            f"expected terms that GROMACS has a function type for, found {len(listed.atoms)} of "
            f"{kind}, {KINDS[kind].energy}: use the engine openmm or internal"
        )
    section, function = KINDS[kind].gromacs[0]
    yield f"[ {section} ]"
    parameters = listed.parameters.copy()
    parameters[:, : KINDS[kind].degrees] *= 180.0 / math.pi
    if kind == "cmap":
        parameters = parameters[:, :0]
    for atoms, row in zip(listed.atoms.tolist(), parameters.tolist(), strict=True):
        columns = [_number(p) for p in row]
        yield " ".join([*(str(a + 1) for a in atoms), str(function), *columns])


def _charged_pairs(kind: str, listed: BondedTerms) -> Iterator[str]:
    """Pairs with numbers of their own: Lennard-Jones alone or Coulomb alone."""
    yield "[ pairs ]"
    for (i, j), row in zip(listed.atoms.tolist(), listed.parameters.tolist(), strict=True):
        if kind == "coulomb14":
            numbers = [1.0, row[0], 1.0, 0.0, 0.0]
        elif kind == "lj14":
            c6 = 4.0 * row[1] * row[0] ** 6
            numbers = [1.0, 0.0, 0.0, c6, c6 * row[0] ** 6]
        else:
            numbers = [1.0, 0.0, 0.0, *row]
        yield f"{i + 1} {j + 1} 2 " + " ".join(map(_number, numbers))


def _virtual_sites(kind: str, listed: BondedTerms) -> Iterator[str]:
    """Virtual sites of the molecule itself."""
    section, function = SITES[kind].gromacs[0]
    yield f"[ {section} ]"
    parameters = listed.parameters.copy()
    parameters[:, : SITES[kind].degrees] *= 180.0 / math.pi
    if kind != "site_mean":
        for atoms, row in zip(listed.atoms.tolist(), parameters.tolist(), strict=True):
            yield " ".join([*(str(a + 1) for a in atoms), str(function), *map(_number, row)])
        return
    for site in dict.fromkeys(listed.atoms[:, 0].tolist()):
        rows = np.flatnonzero(listed.atoms[:, 0] == site)
        members = [f"{listed.atoms[r, 1] + 1} {_number(parameters[r, 0])}" for r in rows]
        yield f"{site + 1} {function} {' '.join(members)}"


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

"""An ``openmm.System`` as ``Topology``, and what OpenMM reads: System XML, Amber, CHARMM.

Energies are kept as OpenMM has them, in kJ/mol, nm and rad. Whatever has no counterpart among our
kinds of term is named in ``Topology.unsupported``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openmm as mm
from openmm import app, unit

from deepbackmap.errors import InputError
from deepbackmap.io.topology.assemble import FlatSystem, assemble
from deepbackmap.io.topology.base import TopologyOptions
from deepbackmap.io.topology.gromacs_types import surface
from deepbackmap.system import BondedTerms, Topology
from deepbackmap.system.elements import element_symbols
from deepbackmap.system.kinds import KINDS, SITES
from deepbackmap.system.topology import Unsupported

PASSED = (
    "CMMotionRemover",
    "AndersenThermostat",
    "MonteCarloBarostat",
    "MonteCarloAnisotropicBarostat",
    "MonteCarloMembraneBarostat",
    "MonteCarloFlexibleBarostat",
)
"""Forces that say how a run is done; they are passed over."""
NAMES = (".pdb", ".cif", ".pdbx")
"""Files of atom names and bonds that stand beside a System."""


@dataclass(frozen=True)
class Particles:
    """Names of the atoms of a System, which it does not hold itself."""

    names: tuple[str, ...]
    residue_names: tuple[str, ...]
    residue_numbers: tuple[int, ...]
    bonds: np.ndarray
    """Chemical bonds (b, 2); none where they are not known."""


@dataclass
class _Found:
    """Terms while they are gathered."""

    rows: dict[str, list[tuple[Sequence[int], Sequence[float | int]]]] = field(default_factory=dict)
    grids: dict[str, np.ndarray] = field(default_factory=dict)
    excluded: list[tuple[int, int]] = field(default_factory=list)
    pairs: list[tuple[Sequence[int], Sequence[float | int]]] = field(default_factory=list)
    charges: np.ndarray = field(default_factory=lambda: np.zeros(0))
    types: list[tuple[float, float]] | None = None
    """Sigma and epsilon of every particle."""
    table: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    """Type of every particle, C6 and C12 by pair of types."""
    unsupported: list[Unsupported] = field(default_factory=list)

    def add(self, kind: str, atoms: Sequence[int], parameters: Sequence[float | int]) -> None:
        self.rows.setdefault(kind, []).append((atoms, parameters))

    def refuse(self, force: object, why: str, source: str, count: int) -> None:
        what = f"the energy of {type(force).__name__} ({why}) is not known"
        self.unsupported.append(Unsupported(what, source, max(1, count)))


def topology_of(system: mm.System, particles: Particles, source: str) -> Topology:
    """Converts a System.

    Args:
        system: forces and masses.
        particles: names in the same order.
        source: what to call it in messages.

    Raises:
        InputError: there are no particles, or not as many names.
    """
    n = system.getNumParticles()
    if not n:
        raise InputError(f"{source}: expected particles, found none")
    if len(particles.names) != n:
        raise InputError(f"{source}: expected names of {n} particles, found {len(particles.names)}")
    masses = np.array([_plain(system.getParticleMass(k)) for k in range(n)])
    found = _Found(charges=np.zeros(n))
    chemical = {(int(a), int(b)) for a, b in np.sort(particles.bonds, axis=1)}
    chemical |= _unnamed_bonds(system, particles, chemical)
    for k in range(system.getNumConstraints()):
        a, b, length = system.getConstraintParameters(k)
        found.add("constraint", (a, b), (_plain(length),))
    for force in system.getForces():
        _convert(force, found, chemical, source)
    held = {
        (min(atoms), max(atoms))
        for kind, rows in found.rows.items()
        if KINDS[kind].chemical
        for atoms, _ in rows
    }
    for bond in sorted(chemical - held):  # a bond stays one without an energy
        found.add("connection", bond, ())
    sites = _sites(system, found, source)
    names, kinds, c6, c12 = _types(found, masses)
    terms = {
        kind: _terms(found.rows[kind], KINDS[kind].n_atoms, len(KINDS[kind].columns),
                     found.grids.get(kind))
        for kind in KINDS
        if kind in found.rows
    }  # fmt: skip
    joined = [terms[k].atoms for k in terms if KINDS[k].chemical]
    bonds = np.concatenate([np.zeros((0, 2), dtype=np.int64), particles.bonds, *joined])
    return assemble(
        FlatSystem(
            atom_names=particles.names,
            atom_types=tuple(names[r] for r in kinds.tolist()),
            residue_names=particles.residue_names,
            residue_numbers=np.array(particles.residue_numbers, dtype=np.int64),
            charges=found.charges,
            masses=masses,
            bonds=bonds.astype(np.int64),
            type_names=names,
            c6=c6,
            c12=c12,
            terms=terms,
            exclusions=np.array(sorted(set(found.excluded)), dtype=np.int64).reshape(-1, 2),
            pairs=_terms(found.pairs, 2, 3, None),
            sites=sites,
            unsupported=tuple(found.unsupported),
            source=source,
        )
    )


def _plain(value: Any) -> Any:
    """A quantity in OpenMM's own units: nm, u, e, kJ/mol, rad."""
    return value.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(value) else value


def _terms(
    rows: list[tuple[Sequence[int], Sequence[float | int]]],
    width: int,
    columns: int,
    grids: np.ndarray | None,
) -> BondedTerms:
    atoms = np.array([list(a) for a, _ in rows], dtype=np.int64).reshape(len(rows), width)
    parameters = np.array([list(p) for _, p in rows], dtype=np.float64).reshape(len(rows), columns)
    return BondedTerms(atoms, parameters, grids)


# --- forces

Chemical = set[tuple[int, int]]


def _convert(force: mm.Force, found: _Found, chemical: Chemical, source: str) -> None:
    name = type(force).__name__
    if name in PASSED:
        return
    if name in CONVERTERS:
        CONVERTERS[name](force, found, chemical, source)
        return
    found.refuse(force, force.getName(), source, 1)


def _harmonic_bonds(
    force: mm.HarmonicBondForce, found: _Found, chemical: Chemical, source: str
) -> None:
    for k in range(force.getNumBonds()):
        a, b, *numbers = (_plain(v) for v in force.getBondParameters(k))
        bonded = (min(a, b), max(a, b)) in chemical
        found.add("bond" if bonded else "harmonic", (a, b), numbers)


def _unnamed_bonds(system: mm.System, particles: Particles, chemical: Chemical) -> Chemical:
    """Springs that are bonds of atoms to which the file of names gives none.

    OpenMM knows the bonds of standard residues; those of others stand in CONECT records, which many
    PDB files lack. A spring to such an atom is a bond unless it lies across an angle between two
    springs that do not (Urey-Bradley). Atoms alone in their residue are ions: among others a spring
    to one is a restraint.
    """
    loose = np.ones(system.getNumParticles(), dtype=bool)
    loose[[a for pair in chemical for a in pair]] = False
    residues = list(zip(particles.residue_names, particles.residue_numbers, strict=True))
    begins = np.array([k == 0 or r != residues[k - 1] for k, r in enumerate(residues)])
    inner = loose & ~(begins & np.roll(begins, -1))
    if not loose.any():
        return set()
    springs = {
        (min(a, b), max(a, b))
        for force in system.getForces() if isinstance(force, mm.HarmonicBondForce)
        for a, b, *_ in map(force.getBondParameters, range(force.getNumBonds()))
        if inner[a] or inner[b] or (loose[a] and loose[b])
    }  # fmt: skip
    across: dict[tuple[int, int], list[Chemical]] = {}
    for force in system.getForces():
        if springs and isinstance(force, mm.HarmonicAngleForce):
            for a, b, c, *_ in map(force.getAngleParameters, range(force.getNumAngles())):
                if (ends := (min(a, c), max(a, c))) in springs:
                    legs = {(min(a, b), max(a, b)), (min(b, c), max(b, c))}
                    across.setdefault(ends, []).append(legs)
    # in a ring of three every bond lies across an angle, and so do that angle's arms
    return springs - {
        ends for ends, arms in across.items() if any(not a & set(across) for a in arms)
    }


def _harmonic_angles(
    force: mm.HarmonicAngleForce, found: _Found, chemical: Chemical, source: str
) -> None:
    for k in range(force.getNumAngles()):
        a, b, c, *numbers = (_plain(v) for v in force.getAngleParameters(k))
        found.add("angle", (a, b, c), numbers)


def _periodic_torsions(
    force: mm.PeriodicTorsionForce, found: _Found, chemical: Chemical, source: str
) -> None:
    for k in range(force.getNumTorsions()):
        *atoms, multiplicity, phase, constant = map(_plain, force.getTorsionParameters(k))
        if constant:
            found.add("proper", atoms, (phase, constant, multiplicity))


def _rb_torsions(force: mm.RBTorsionForce, found: _Found, chemical: Chemical, source: str) -> None:
    for k in range(force.getNumTorsions()):
        values = [_plain(v) for v in force.getTorsionParameters(k)]
        found.add("ryckaert_bellemans", values[:4], values[4:])


def _maps(force: mm.CMAPTorsionForce, found: _Found, chemical: Chemical, source: str) -> None:
    grids = []
    for k in range(force.getNumMaps()):
        n, energy = force.getMapParameters(k)
        values = np.array(_plain(energy), dtype=np.float64).reshape(n, n, order="F")
        if n % 2:
            found.refuse(force, "a map of an odd number of steps", source, force.getNumTorsions())
            return
        grids.append(surface(np.roll(values, (n // 2, n // 2), axis=(0, 1))))
    if len({g.shape for g in grids}) > 1:
        found.refuse(force, "maps of several sizes", source, force.getNumTorsions())
        return
    if grids:
        found.grids["cmap"] = np.stack(grids)
    for k in range(force.getNumTorsions()):
        row, *atoms = force.getTorsionParameters(k)
        if list(atoms[1:4]) != list(atoms[4:7]):
            found.refuse(force, "dihedrals that do not follow each other", source, 1)
            continue
        found.add("cmap", (*atoms[:4], atoms[7]), (float(row),))


def _squeezed(text: str) -> str:
    """An energy expression without spaces, and without the value of pi."""
    parts = "".join(text.split()).rstrip(";").split(";")
    return ";".join(p for p in parts if not p.startswith("pi="))


IMPROPERS = (
    "k*(theta-theta0)^2",
    "k*min(dtheta,2*pi-dtheta)^2;dtheta=abs(theta-theta0)",
)
"""How CHARMM's impropers are written for OpenMM."""
PAIRS = ("4*epsilon*((sigma/r)^12-(sigma/r)^6)",)
TABLES = (
    "acoef(type1,type2)/r^12-bcoef(type1,type2)/r^6",
    "(a/r6)^2-b/r6;r6=r^6;a=acoef(type1,type2);b=bcoef(type1,type2)",
)
"""How Lennard-Jones by pair of types is written; in the second ``a`` is the root of C12."""


def _custom_torsions(
    force: mm.CustomTorsionForce, found: _Found, chemical: Chemical, source: str
) -> None:
    names = [force.getPerTorsionParameterName(k) for k in range(force.getNumPerTorsionParameters())]
    if _squeezed(force.getEnergyFunction()) not in IMPROPERS or set(names) != {"k", "theta0"}:
        found.refuse(force, force.getEnergyFunction(), source, force.getNumTorsions())
        return
    for k in range(force.getNumTorsions()):
        *atoms, numbers = force.getTorsionParameters(k)
        value = dict(zip(names, numbers, strict=True))
        found.add("improper", atoms, (value["theta0"], 2.0 * value["k"]))


def _custom_bonds(
    force: mm.CustomBondForce, found: _Found, chemical: Chemical, source: str
) -> None:
    names = [force.getPerBondParameterName(k) for k in range(force.getNumPerBondParameters())]
    if _squeezed(force.getEnergyFunction()) not in PAIRS or set(names) != {"sigma", "epsilon"}:
        if force.getNumBonds():
            found.refuse(force, force.getEnergyFunction(), source, force.getNumBonds())
        return
    for k in range(force.getNumBonds()):
        a, b, numbers = force.getBondParameters(k)
        value = dict(zip(names, numbers, strict=True))
        found.add("lj14", (a, b), (value["sigma"], value["epsilon"]))


def _custom_nonbonded(
    force: mm.CustomNonbondedForce, found: _Found, chemical: Chemical, source: str
) -> None:
    """Lennard-Jones by pair of types, as CHARMM's NBFIX needs it."""
    text = _squeezed(force.getEnergyFunction())
    tables = {
        force.getTabulatedFunctionName(k): force.getTabulatedFunction(k)
        for k in range(force.getNumTabulatedFunctions())
    }
    if text not in TABLES or set(tables) != {"acoef", "bcoef"}:
        found.refuse(force, force.getEnergyFunction(), source, force.getNumParticles())
        return
    matrices = []
    for name in ("bcoef", "acoef"):
        columns, rows, values = tables[name].getFunctionParameters()
        matrices.append(np.array(values).reshape(columns, rows, order="F"))
    c6, c12 = matrices
    if text == TABLES[1]:
        c12 = c12**2
    kind = np.array([force.getParticleParameters(k)[0] for k in range(force.getNumParticles())])
    found.table = kind.astype(np.int64), c6, c12
    for k in range(force.getNumExclusions()):
        a, b = force.getExclusionParticles(k)
        found.excluded.append((min(a, b), max(a, b)))


def _nonbonded(force: mm.NonbondedForce, found: _Found, chemical: Chemical, source: str) -> None:
    """Charges, Lennard-Jones by particle, and exceptions as exclusions with a pair."""
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        found.refuse(force, "parameters with offsets", source, 1)
    rows = [force.getParticleParameters(k) for k in range(force.getNumParticles())]
    found.charges = np.array([_plain(q) for q, _, _ in rows], dtype=np.float64)
    found.types = [(float(_plain(s)), float(_plain(e))) for _, s, e in rows]
    for k in range(force.getNumExceptions()):
        a, b, product, sigma, epsilon = (_plain(v) for v in force.getExceptionParameters(k))
        found.excluded.append((min(a, b), max(a, b)))
        own = found.charges[a] * found.charges[b]
        factor = product / own if own else 0.0
        if product and not own:
            found.add("coulomb14", (a, b), (product,))
        if epsilon or factor:
            found.pairs.append(((a, b), (sigma if epsilon else 0.0, epsilon, factor)))


CONVERTERS: dict[str, Callable[[Any, _Found, Chemical, str], None]] = {
    "HarmonicBondForce": _harmonic_bonds,
    "HarmonicAngleForce": _harmonic_angles,
    "PeriodicTorsionForce": _periodic_torsions,
    "RBTorsionForce": _rb_torsions,
    "CMAPTorsionForce": _maps,
    "CustomTorsionForce": _custom_torsions,
    "CustomBondForce": _custom_bonds,
    "CustomNonbondedForce": _custom_nonbonded,
    "NonbondedForce": _nonbonded,
}
"""OpenMM's forces that become terms of ours."""


def _sites(system: mm.System, found: _Found, source: str) -> dict[str, BondedTerms]:
    """Virtual sites by kind."""
    rows: dict[str, list[tuple[Sequence[int], Sequence[float | int]]]] = {}
    for k in range(system.getNumParticles()):
        if not system.isVirtualSite(k):
            continue
        site = system.getVirtualSite(k)
        atoms = [k, *(site.getParticle(p) for p in range(site.getNumParticles()))]
        if isinstance(site, mm.TwoParticleAverageSite):
            rows.setdefault("site2", []).append((atoms, (site.getWeight(1),)))
        elif isinstance(site, mm.ThreeParticleAverageSite):
            weights = (site.getWeight(1), site.getWeight(2))
            rows.setdefault("site3", []).append((atoms, weights))
        elif isinstance(site, mm.OutOfPlaneSite):
            out = (site.getWeight12(), site.getWeight13(), site.getWeightCross())
            rows.setdefault("site3_out", []).append((atoms, out))
        else:
            found.refuse(site, "a virtual site", source, 1)
    return {
        kind: _terms(listed, SITES[kind].n_atoms, len(SITES[kind].columns), None)
        for kind, listed in rows.items()
    }


def _types(
    found: _Found, masses: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Names of types, the type of every particle, and C6 and C12 by pair of types.

    A System has no names of types; they are made of the element and a number.
    """
    n = len(masses)
    elements = element_symbols(masses)
    key: list[tuple[str, float, float]]
    if found.table is not None:
        kinds, c6, c12 = found.table
        key = [(e, float(k), 0.0) for e, k in zip(elements, kinds, strict=True)]
    else:
        single = found.types or [(0.0, 0.0)] * n
        key = [(e, s, p) for e, (s, p) in zip(elements, single, strict=True)]
    order = {k: row for row, k in enumerate(dict.fromkeys(key))}
    rows = np.array([order[k] for k in key], dtype=np.int64)
    names = tuple(f"{k[0]}{row + 1}" for k, row in order.items())
    if found.table is not None:
        which = np.array([k[1] for k in order], dtype=np.int64)
        return names, rows, c6[which][:, which], c12[which][:, which]
    sigma, epsilon = np.array([k[1:] for k in order], dtype=np.float64).reshape(-1, 2).T
    depth = 4.0 * np.sqrt(np.outer(epsilon, epsilon))
    size = (0.5 * np.add.outer(sigma, sigma)) ** 6
    return names, rows, depth * size, depth * size**2


# --- files


def particles_of(topology: app.Topology) -> Particles:
    """Names and bonds of a Topology of OpenMM."""
    atoms = list(topology.atoms())
    bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    return Particles(
        tuple(a.name for a in atoms),
        tuple(a.residue.name for a in atoms),
        tuple(_number(a.residue.id, a.residue.index) for a in atoms),
        np.array(bonds, dtype=np.int64).reshape(-1, 2),
    )


def _number(text: str, index: int) -> int:
    try:
        return int(text)
    except ValueError:
        return index + 1


def read_system(path: Path, options: TopologyOptions) -> Topology:
    """A System as OpenMM writes it, with the names of its atoms from a PDB or PDBx file.

    Raises:
        InputError: either cannot be read, or there is no file of names.
    """

    def made() -> object:
        return mm.XmlSerializer.deserialize(path.read_text())

    system = _attempt(path, "an OpenMM System", made)
    if not isinstance(system, mm.System):
        raise InputError(
            f"{path}: expected a serialized System of OpenMM, found {type(system).__name__}"
        )
    beside = [path.with_suffix(suffix) for suffix in NAMES]
    chosen = options.names or next((p for p in beside if p.is_file()), None)
    if chosen is None:
        raise InputError(
            f"{path}: expected a file with the names of its atoms beside it "
            f"({' or '.join(p.name for p in beside)}), found none"
        )
    reader = app.PDBFile if chosen.suffix.lower() == ".pdb" else app.PDBxFile
    names = _attempt(chosen, "a PDB or PDBx file", lambda: reader(str(chosen)).topology)
    return topology_of(system, particles_of(names), str(path))


def read_amber(path: Path, options: TopologyOptions) -> Topology:
    """An Amber topology (prmtop), through OpenMM's reader.

    Raises:
        InputError: OpenMM cannot read it.
    """

    def made() -> tuple[mm.System, app.Topology]:
        file = app.AmberPrmtopFile(str(path))
        system = file.createSystem(
            nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False,
            removeCMMotion=False,
        )  # fmt: skip
        return system, file.topology

    system, topology = _attempt(path, "an Amber topology", made)
    return topology_of(system, particles_of(topology), str(path))


def read_charmm(path: Path, options: TopologyOptions) -> Topology:
    """A psf with CHARMM's parameter files; without these names, masses, charges and bonds only.

    Raises:
        InputError: OpenMM cannot read the files.
    """
    psf = _attempt(path, "a CHARMM or X-PLOR psf", lambda: app.CharmmPsfFile(str(path)))
    if options.parameters:
        files = [str(p) for p in options.parameters]
        names = ", ".join(p.name for p in options.parameters)

        def made() -> mm.System:
            return psf.createSystem(
                app.CharmmParameterSet(*files), nonbondedMethod=app.NoCutoff, rigidWater=False,
                removeCMMotion=False,
            )  # fmt: skip

        system = _attempt(path, f"a psf that fits {names}", made)
        return topology_of(system, particles_of(psf.topology), str(path))
    system = mm.System()
    charges = mm.NonbondedForce()
    for atom in psf.atom_list:
        system.addParticle(atom.mass)
        charges.addParticle(atom.charge, 0.0, 0.0)
    system.addForce(charges)
    found = topology_of(system, particles_of(psf.topology), str(path))
    what = "expected CHARMM's parameter files beside a psf (parameters), found none"
    unsupported = (*found.unsupported, Unsupported(what, str(path), 1))
    return Topology(**{**vars(found), "unsupported": unsupported})


def _attempt(path: Path, what: str, call: Callable[[], Any]) -> Any:
    """What a reader of OpenMM returns; anything it raises is a mistake of the file."""
    try:
        return call()
    except Exception as problem:
        words = " ".join(str(problem).split()) or type(problem).__name__
        if isinstance(problem, KeyError | IndexError):
            words = f"no {words}: has it been cut short?"
        raise InputError(f"{path}: expected {what}, found: {words[:300]}") from None

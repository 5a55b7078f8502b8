"""A topology as a System of OpenMM, one force group for each term of the energy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import openmm as mm
from jaxtyping import Float64, Int64

from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.dynamics.containers import Interactions
from deepbackmap.dynamics.dispersion import dispersion_coefficient
from deepbackmap.forcefield.nonbonded import ReactionField
from deepbackmap.mapping.containers import SystemMapping
from deepbackmap.quantities import COULOMB
from deepbackmap.system import BondedTerms, Topology

GROUPS = {
    "bond": 0,
    "angle": 1,
    "proper": 2,
    "improper": 3,
    "nonbonded": 4,
    "lj": 5,
    "coulomb": 6,
    "excluded": 7,
    "lj14": 8,
    "coulomb14": 9,
    "hold": 10,
    "dispersion": 11,
    "coulomb only": 12,
}
"""Force group of each part. ``nonbonded`` is Lennard-Jones and Coulomb in one force, which costs
half of two; ``coulomb only`` repeats its charges so that the energy can be told apart, and never
acts. ``lj`` and ``coulomb`` are used instead where one force cannot hold the interactions."""

SAME = 1e-5
"""Relative: how well sigma and epsilon must reproduce the table for the fast force to be used;
topologies state five digits or so."""
BAROSTAT_EVERY = 25
"""Steps between two trial volumes."""


@dataclass(frozen=True)
class Recipe:
    """What a System is to hold; one is built for each recipe and used again."""

    constrain: bool
    """All bonds at their lengths, and no energy of bonds."""
    bond_constant: float | None = None
    """Stiffness of all bonds and constraints as springs, kJ mol-1 nm-2; None: the topology's."""
    nonbonded: bool = True
    hold: float | None = None
    """Stiffness of the springs on beads, kJ mol-1 nm-2; None: none."""
    pressure: float | None = None
    """bar; None: constant volume."""


@dataclass(frozen=True, eq=False)
class BuiltSystem:
    """A System and what is needed to read its energies."""

    system: mm.System
    groups: frozenset[str]
    """Names of ``GROUPS`` that occur in it."""
    charge_energy: float
    """Constant part of the Coulomb energy, kJ/mol."""
    dispersion: float
    """Energy of the attraction beyond the cut-off times the volume, kJ/mol nm^3."""
    hold: mm.CustomCentroidBondForce | None
    barostat: mm.MonteCarloBarostat | None

    @property
    def acting(self) -> set[int]:
        """Force groups that act on atoms."""
        return {GROUPS[name] for name in self.groups if name != "coulomb only"}


def build_system(
    topology: Topology,
    interactions: Interactions,
    recipe: Recipe,
    mapping: SystemMapping | None,
    box: Float64[np.ndarray, "3 3"],
) -> BuiltSystem:
    """Puts a System together.

    Molecules are expected whole, so that bonded terms need no periodic images.
    """
    system = mm.System()
    system.setDefaultPeriodicBoxVectors(*box.tolist())
    for mass in topology.masses().tolist():
        system.addParticle(mass)
    parts: list[tuple[str, mm.Force]] = []
    held = Constraints.of(topology, bonds=recipe.constrain)
    if recipe.bond_constant is None:
        for (i, j), length in zip(held.atoms.tolist(), held.lengths.tolist(), strict=True):
            system.addConstraint(i, j, length)
    if not recipe.constrain:
        parts += [("bond", f) for f in _bonds(topology, recipe.bond_constant)]
    parts += _bonded(topology)
    dispersion = 0.0
    if recipe.nonbonded:
        parts += _listed_pairs(topology)
        parts += _nonbonded(topology, interactions)
        if interactions.dispersion_correction:
            dispersion = dispersion_coefficient(topology, interactions.cutoff)
    if dispersion and recipe.pressure is not None:
        tail = mm.CustomVolumeForce("tail/v")
        tail.addGlobalParameter("tail", dispersion)
        parts.append(("dispersion", tail))
    hold = None
    if recipe.hold is not None and mapping is not None:
        hold = _hold(mapping, recipe.hold)
        parts.append(("hold", hold))
    for name, force in parts:
        force.setForceGroup(GROUPS[name])
        system.addForce(force)
    barostat = None
    if recipe.pressure is not None:
        barostat = mm.MonteCarloBarostat(recipe.pressure, 300.0, BAROSTAT_EVERY)
        system.addForce(barostat)
    charge = _charge_energy(topology, interactions) if recipe.nonbonded else 0.0
    groups = frozenset(name for name, _ in parts)
    return BuiltSystem(system, groups, charge, dispersion, hold, barostat)


def _bonds(topology: Topology, constant: float | None) -> list[mm.Force]:
    """Springs; with a constant of their own they stand for constraints as well."""
    force = mm.HarmonicBondForce()
    terms = topology.expand_terms("bond")
    for (i, j), (length, k) in zip(terms.atoms.tolist(), terms.parameters.tolist(), strict=True):
        force.addBond(i, j, length, k if constant is None else constant)
    if constant is not None:
        terms = topology.expand_terms("constraint")
        for (i, j), (length,) in zip(terms.atoms.tolist(), terms.parameters.tolist(), strict=True):
            force.addBond(i, j, length, constant)
    return [force] if force.getNumBonds() else []


def _angle() -> tuple[mm.Force, Callable[..., object]]:
    force = mm.HarmonicAngleForce()
    return force, lambda atoms, p: force.addAngle(*atoms, *p)


def _angle_g96() -> tuple[mm.Force, Callable[..., object]]:
    force = mm.CustomAngleForce("0.5*k*(cos(theta)-cos(theta0))^2")
    force.addPerAngleParameter("theta0")
    force.addPerAngleParameter("k")
    return force, lambda atoms, p: force.addAngle(*atoms, p)


def _proper() -> tuple[mm.Force, Callable[..., object]]:
    force = mm.PeriodicTorsionForce()
    return force, lambda atoms, p: force.addTorsion(*atoms, round(p[2]), p[0], p[1])


def _ryckaert_bellemans() -> tuple[mm.Force, Callable[..., object]]:
    force = mm.RBTorsionForce()
    return force, lambda atoms, p: force.addTorsion(*atoms, *p)


def _improper() -> tuple[mm.Force, Callable[..., object]]:
    force = mm.CustomTorsionForce(f"0.5*k*min(d, 2*pi-d)^2; d=abs(theta-theta0); pi={math.pi!r}")
    force.addPerTorsionParameter("theta0")
    force.addPerTorsionParameter("k")
    # theta lies between -pi and pi; so must theta0 for one turn to be all that can be between
    return force, lambda atoms, p: force.addTorsion(
        *atoms, [math.remainder(p[0], 2.0 * math.pi), p[1]]
    )


BONDED: dict[str, tuple[str, Callable[[], tuple[mm.Force, Callable[..., object]]]]] = {
    "angle": ("angle", _angle),
    "angle_g96": ("angle", _angle_g96),
    "proper": ("proper", _proper),
    "ryckaert_bellemans": ("proper", _ryckaert_bellemans),
    "improper": ("improper", _improper),
}
"""Kind of term → part of ``GROUPS`` it is counted under, and a maker of its force."""


def _bonded(topology: Topology) -> list[tuple[str, mm.Force]]:
    parts = []
    for kind, (name, make) in BONDED.items():
        terms = topology.expand_terms(kind)
        if len(terms.atoms):
            force, add = make()
            for atoms, p in zip(terms.atoms.tolist(), terms.parameters.tolist(), strict=True):
                add(atoms, p)
            parts.append((name, force))
    return parts


def _listed_pairs(topology: Topology) -> list[tuple[str, mm.Force]]:
    """1-4 interactions: no cut-off, no reaction field."""
    terms = expand_pairs(topology)
    if not len(terms.atoms):
        return []
    lj = mm.CustomBondForce("4*epsilon*(s^12-s^6); s=sigma/r")
    lj.addPerBondParameter("sigma")
    lj.addPerBondParameter("epsilon")
    coulomb = mm.CustomBondForce("q/r")
    coulomb.addPerBondParameter("q")
    charges = topology.charges()
    i, j = terms.atoms.T
    products = COULOMB * terms.parameters[:, 2] * charges[i] * charges[j]
    rows = zip(terms.atoms.tolist(), terms.parameters.tolist(), products.tolist(), strict=True)
    for (a, b), (sigma, epsilon, _), product in rows:
        lj.addBond(a, b, [sigma, epsilon])
        if product:
            coulomb.addBond(a, b, [product])
    found: list[tuple[str, mm.Force]] = [("lj14", lj)]
    return [*found, ("coulomb14", coulomb)] if coulomb.getNumBonds() else found


def expand_pairs(topology: Topology) -> BondedTerms:
    """All 1-4 interactions with atoms of the system."""
    atoms, parameters = [np.zeros((0, 2), dtype=np.int64)], [np.zeros((0, 3))]
    for first, index, count in runs(topology):
        molecule = topology.molecule_types[index]
        shift = first + molecule.n_atoms * np.arange(count, dtype=np.int64)
        atoms.append((molecule.pairs.atoms[None] + shift[:, None, None]).reshape(-1, 2))
        parameters.append(np.tile(molecule.pairs.parameters, (count, 1)))
    return BondedTerms(np.concatenate(atoms), np.concatenate(parameters))


def expand_exclusions(topology: Topology) -> Int64[np.ndarray, "m 2"]:
    """All excluded pairs with atoms of the system."""
    atoms = [np.zeros((0, 2), dtype=np.int64)]
    for first, index, count in runs(topology):
        molecule = topology.molecule_types[index]
        shift = first + molecule.n_atoms * np.arange(count, dtype=np.int64)
        atoms.append((molecule.exclusions[None] + shift[:, None, None]).reshape(-1, 2))
    return np.concatenate(atoms)


def runs(topology: Topology) -> list[tuple[int, int, int]]:
    """First atom, molecule type and number of molecules of every block."""
    found, first = [], 0
    for index, count in topology.blocks:
        found.append((first, index, count))
        first += topology.molecule_types[index].n_atoms * count
    return found


def sigma_epsilon(
    topology: Topology,
) -> tuple[Float64[np.ndarray, " t"], Float64[np.ndarray, " t"]] | None:
    """Sigma / nm and epsilon / kJ mol-1 by type, if they give the whole table.

    The rule that OpenMM applies by itself is the mean of sigma and the geometric mean of epsilon.

    Returns:
        None where the table has another rule or exceptions.
    """
    c6, c12 = np.diag(topology.c6), np.diag(topology.c12)
    acting = (c6 > 0) & (c12 > 0)
    if ((c6 != 0) | (c12 != 0))[~acting].any():
        return None
    safe = np.where(acting, c6, 1.0)
    sigma = np.where(acting, (np.where(acting, c12, 1.0) / safe) ** (1 / 6), 0.0)
    epsilon = np.where(acting, safe**2 / (4.0 * np.where(acting, c12, 1.0)), 0.0)
    mixed = 4.0 * np.sqrt(np.outer(epsilon, epsilon)) * (0.5 * np.add.outer(sigma, sigma)) ** 6
    fits = np.allclose(mixed, topology.c6, rtol=SAME, atol=0.0) and np.allclose(
        mixed * (0.5 * np.add.outer(sigma, sigma)) ** 6, topology.c12, rtol=SAME, atol=0.0
    )
    return (sigma, epsilon) if fits else None


def _nonbonded(topology: Topology, interactions: Interactions) -> list[tuple[str, mm.Force]]:
    """Lennard-Jones and Coulomb: one force of OpenMM's own where it can hold both."""
    excluded = expand_exclusions(topology)
    charges = topology.charges()
    charged = bool(charges.any())
    rule = sigma_epsilon(topology)
    bare = charged and interactions.reaction_field_epsilon is None
    parts: list[tuple[str, mm.Force]] = []
    if rule is None:
        parts.append(("lj", _table_force(topology, interactions, excluded)))
    else:
        sigma, epsilon = (a[topology.atom_type_index()] for a in rule)
        shown = np.zeros_like(charges) if bare or not charged else charges
        name = "nonbonded" if shown.any() else "lj"
        parts.append((name, _fast_force(shown, sigma, epsilon, interactions, excluded)))
    if bare:
        parts.append(("coulomb", _bare_coulomb(charges, interactions, excluded)))
    elif charged:
        nothing = np.zeros_like(charges)
        name = "coulomb" if rule is None else "coulomb only"
        parts.append((name, _fast_force(charges, nothing + 1.0, nothing, interactions, excluded)))
        parts += _excluded_charges(charges, interactions, excluded)
    return parts


def _fast_force(
    charges: Float64[np.ndarray, " n"],
    sigma: Float64[np.ndarray, " n"],
    epsilon: Float64[np.ndarray, " n"],
    interactions: Interactions,
    excluded: Int64[np.ndarray, "m 2"],
) -> mm.NonbondedForce:
    """OpenMM's NonbondedForce with a plain cut-off and a reaction field."""
    force = mm.NonbondedForce()
    force.setNonbondedMethod(mm.NonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(interactions.cutoff)
    outside = interactions.reaction_field_epsilon
    # single precision holds 1e9 as a conductor exactly enough: k and c change by 1e-9
    force.setReactionFieldDielectric(1e9 if outside is None else min(outside, 1e9))
    force.setUseDispersionCorrection(False)
    for values in zip(charges.tolist(), sigma.tolist(), epsilon.tolist(), strict=True):
        force.addParticle(*values)
    for i, j in excluded.tolist():
        force.addException(i, j, 0.0, 1.0, 0.0)
    return force


def _table_force(
    topology: Topology, interactions: Interactions, excluded: Int64[np.ndarray, "m 2"]
) -> mm.CustomNonbondedForce:
    """Lennard-Jones from the table of the topology, for any combination of parameters."""
    n = len(topology.type_names)
    force = mm.CustomNonbondedForce("(c12(a1,a2)*s-c6(a1,a2))*s; s=r^-6")
    for name, values in (("c6", topology.c6), ("c12", topology.c12)):
        function = mm.Discrete2DFunction(n, n, values.ravel(order="F").tolist())
        force.addTabulatedFunction(name, function)
    force.addPerParticleParameter("a")
    return _custom(force, topology.atom_type_index().astype(float), interactions, excluded)


def _bare_coulomb(
    charges: Float64[np.ndarray, " n"],
    interactions: Interactions,
    excluded: Int64[np.ndarray, "m 2"],
) -> mm.CustomNonbondedForce:
    """Coulomb cut off without reaction field or shift, which NonbondedForce does not offer."""
    force = mm.CustomNonbondedForce(f"{COULOMB!r}*q1*q2/r")
    force.addPerParticleParameter("q")
    return _custom(force, charges, interactions, excluded)


def _custom(
    force: mm.CustomNonbondedForce,
    values: Float64[np.ndarray, " n"],
    interactions: Interactions,
    excluded: Int64[np.ndarray, "m 2"],
) -> mm.CustomNonbondedForce:
    force.setNonbondedMethod(mm.CustomNonbondedForce.CutoffPeriodic)
    force.setCutoffDistance(interactions.cutoff)
    for value in values.tolist():
        force.addParticle([value])
    for i, j in excluded.tolist():
        force.addExclusion(i, j)
    return force


def _excluded_charges(
    charges: Float64[np.ndarray, " n"],
    interactions: Interactions,
    excluded: Int64[np.ndarray, "m 2"],
) -> list[tuple[str, mm.Force]]:
    """The reaction field that excluded pairs feel, which GROMACS counts and OpenMM leaves out."""
    field = _field(interactions)
    force = mm.CustomBondForce(f"q*({field.k!r}*r^2-{field.c!r})*step({interactions.cutoff!r}-r)")
    force.addPerBondParameter("q")
    i, j = excluded.T
    products = COULOMB * charges[i] * charges[j]
    for (a, b), product in zip(excluded.tolist(), products.tolist(), strict=True):
        if product:
            force.addBond(a, b, [product])
    return [("excluded", force)] if force.getNumBonds() else []


def _charge_energy(topology: Topology, interactions: Interactions) -> float:
    """Reaction field of each charge with itself, as GROMACS counts it, in kJ/mol."""
    return -0.5 * COULOMB * _field(interactions).c * float((topology.charges() ** 2).sum())


def _field(interactions: Interactions) -> ReactionField:
    return ReactionField.from_epsilon(interactions.cutoff, interactions.reaction_field_epsilon)


def _hold(mapping: SystemMapping, constant: float) -> mm.CustomCentroidBondForce:
    """Springs between each bead (the weighted mean of its atoms) and a point."""
    force = mm.CustomCentroidBondForce(1, "0.5*stiffness*((x1-x0)^2+(y1-y0)^2+(z1-z0)^2)")
    force.addGlobalParameter("stiffness", constant)
    for name in ("x0", "y0", "z0"):
        force.addPerBondParameter(name)
    for first, index, count in runs(mapping.topology):
        size = mapping.topology.molecule_types[index].n_atoms
        beads = mapping.molecules[index]
        members = [np.flatnonzero(beads.weight_beads == b) for b in range(beads.n_beads)]
        for copy in range(count):
            for entries in members:
                atoms = beads.weight_atoms[entries] + first + copy * size
                group = force.addGroup(atoms.tolist(), beads.weights[entries].tolist())
                force.addBond([group], [0.0, 0.0, 0.0])
    return force

"""A topology as a System of OpenMM, one force group for each term of the energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import openmm as mm
from jaxtyping import Float64, Int64

from deepbackmap.dynamics.constraints import Constraints
from deepbackmap.dynamics.containers import EngineError, Interactions
from deepbackmap.dynamics.dispersion import dispersion_coefficient
from deepbackmap.forcefield.nonbonded import MINIMUM_DISTANCE, ReactionField
from deepbackmap.forcefield.terms import FENE_LAST, LEAST_SINE
from deepbackmap.mapping.containers import SystemMapping
from deepbackmap.quantities import COULOMB
from deepbackmap.system import BondedTerms, Topology
from deepbackmap.system.kinds import HELD, KINDS, SITES, SPRINGS
from deepbackmap.system.pair_forms import COLUMNS as PAIR_COLUMNS
from deepbackmap.system.topology import require_energies

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

    Raises:
        InputError: the topology has terms whose energies are not known.
        EngineError: OpenMM cannot do what the topology holds.
    """
    require_energies(topology)
    system = mm.System()
    system.setDefaultPeriodicBoxVectors(*box.tolist())
    for mass in topology.masses().tolist():
        system.addParticle(mass)
    _place_sites(system, topology)
    parts: list[tuple[str, mm.Force]] = []
    held = Constraints.of(topology, bonds=recipe.constrain)
    if recipe.bond_constant is None:
        for (i, j), length in zip(held.atoms.tolist(), held.lengths.tolist(), strict=True):
            system.addConstraint(i, j, length)
    springs = [] if recipe.constrain else _bonds(topology, recipe.bond_constant)
    springs += [f for kind in SPRINGS for f in _forces(kind, replace(topology, blocks=()))]
    parts += [("bond", f) for f in springs]
    parts += [
        (name, force)
        for name, force in _bonded(topology)
        if recipe.nonbonded or name not in ("lj14", "coulomb14")
    ]
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
    if constant is None:
        alone = replace(topology, intermolecular={})
        return [f for kind in SPRINGS for f in _forces(kind, alone)]
    force = mm.HarmonicBondForce()
    for kind in HELD:
        terms = topology.expand_terms(kind, between=False)
        rows = zip(terms.atoms.tolist(), terms.parameters[:, 0].tolist(), strict=True)
        for (i, j), length in rows:
            force.addBond(i, j, length, constant)
    return [force] if force.getNumBonds() else []


Adder = Callable[[Sequence[int], Sequence[float]], object]


def _harmonic() -> tuple[mm.Force, Adder]:
    force = mm.HarmonicBondForce()
    return force, lambda atoms, p: force.addBond(*atoms, *p)


def _angle() -> tuple[mm.Force, Adder]:
    force = mm.HarmonicAngleForce()
    return force, lambda atoms, p: force.addAngle(*atoms, *p)


def _proper() -> tuple[mm.Force, Adder]:
    force = mm.PeriodicTorsionForce()
    return force, lambda atoms, p: force.addTorsion(*atoms, round(p[2]), p[0], p[1])


def _ryckaert_bellemans() -> tuple[mm.Force, Adder]:
    force = mm.RBTorsionForce()
    return force, lambda atoms, p: force.addTorsion(*atoms, *p)


OWN: dict[str, Callable[[], tuple[mm.Force, Adder]]] = {
    "bond": _harmonic,
    "harmonic": _harmonic,
    "angle": _angle,
    "proper": _proper,
    "ryckaert_bellemans": _ryckaert_bellemans,
}
"""Kinds of term that OpenMM has a force of its own for."""

_LEAST = repr(LEAST_SINE**2)
_RESTRICTED = f"0.5*c1*(cos(theta)-cos(c0))^2/max(sin(theta)^2, {_LEAST})"
_LINEAR = "+".join(f"(c0*({x}1-{x}2)+(1-c0)*({x}3-{x}2))^2" for x in "xyz")
_CURVE = (
    "c0*((1-t)^2*(1+2*t)*value(c1,i)+t^2*(3-2*t)*value(c1,i+1)"
    "+c3*(t*(1-t)^2*slope(c1,i)+t^2*(t-1)*slope(c1,i+1))+c3*(u-v)*slope(c1,i+step(u-v)));"
    "t=v-i; i=min(floor(v), c4-2); v=min(max(u, 0), c4-1); u=(at-c2)/c3; at="
)

_WAVES = "w3=cos(3*phi); w2=cos(2*phi); w1=cos(phi); phi=dihedral(p1,p2,p3,p4)"


def _triple(centre: int, *ends: int) -> str:
    """Formulas of the arms from an atom to three others, and of their triple product ``t``."""
    cross = "+".join(
        f"a{x}*(b{y}*c{z}-b{z}*c{y})" for x, y, z in ("xyz", "yzx", "zxy")
    )  # fmt: skip
    arms = "; ".join(
        f"{name}{axis}={axis}{end}-{axis}{centre}"
        for name, end in zip("abc", ends, strict=True)
        for axis in "xyz"
    )
    lengths = "; ".join(
        f"r{name}=distance(p{centre},p{end})" for name, end in zip("abc", ends, strict=True)
    )
    return f"t=({cross})/max(ra*rb*rc, 1e-12); {lengths}; {arms}"


def _tilt(centre: int, first: int, second: int) -> str:
    """Sine of the angle between one arm and the plane of two others."""
    return f"max(-1, min(1, t/max(sin(angle(p{first},p{centre},p{second})), 1e-6)))"


FORMULAS = {
    "bond_g96": "0.25*c1*(r^2-c0^2)^2",
    "morse": "c1*(1-exp(-c2*(r-c0)))^2",
    "bond_cubic": "c1*(r-c0)^2*(1+c2*(r-c0))",
    "fene": "0.5*c1*c0^2*((x-y)/(1-last)-log(1-y)); y=min(x, last); x=(r/c0)^2; "
    f"last={FENE_LAST!r}",
    "bond_restraint": "c3*(0.5*max(0, c0-r)^2+select(step(a-w), 0.5*w*(2*a-w), 0.5*a^2)); "
    "a=max(0, r-c1); w=c2-c1",
    "bond_table": _CURVE + "distance(p1,p2)",
    "bond_table_nc": _CURVE + "distance(p1,p2)",
    "lj14": "4*c1*(s^12-s^6); s=c0/r",
    "lj14_powers": "c1/r^12-c0/r^6",
    "coulomb14": f"{COULOMB!r}*c0/r",
    "angle_g96": "0.5*c1*(cos(theta)-cos(c0))^2",
    "angle_quartic": "c1+d*(c2+d*(c3+d*(c4+d*c5))); d=theta-c0",
    "angle_restricted": _RESTRICTED,
    "angle_table": _CURVE + "angle(p1,p2,p3)",
    "bond_bond": "c2*(distance(p1,p2)-c0)*(distance(p2,p3)-c1)",
    "bond_angle": "c3*(distance(p1,p3)-c2)*(distance(p1,p2)-c0+distance(p2,p3)-c1)",
    "urey_bradley": "0.5*c1*(angle(p1,p2,p3)-c0)^2+0.5*c3*(distance(p1,p3)-c2)^2",
    "bond_bend": "(c3*(distance(p1,p2)-c1)+c4*(distance(p2,p3)-c2))*(angle(p1,p2,p3)-c0)",
    "angle_linear": f"0.5*c1*({_LINEAR})",
    # theta lies between -pi and pi; so must xi0 for one turn to be all that can be between
    "improper": "0.5*c1*min(d, 2*pi-d)^2; d=abs(theta-(c0-2*pi*floor(c0/(2*pi)+0.5))); "
    f"pi={math.pi!r}",
    "dihedral_restricted": _RESTRICTED,
    "dihedral_table": _CURVE + "dihedral(p1,p2,p3,p4)",
    "bending_torsion": "c0*(sin(angle(p1,p2,p3))*sin(angle(p2,p3,p4)))^3"
    "*(c1+x*(c2+x*(c3+x*(c4+x*c5)))); x=cos(dihedral(p1,p2,p3,p4))",
    "bond_torsion": "(distance(p1,p2)-c0)*(c3*w1+c4*w2+c5*w3)"
    "+(distance(p2,p3)-c1)*(c6*w1+c7*w2+c8*w3)+(distance(p3,p4)-c2)*(c9*w1+c10*w2+c11*w3); "
    + _WAVES,
    "angle_torsion": "u*(c2*w1+c3*w2+c4*w3)+v*(c5*w1+c6*w2+c7*w3)+c8*u*v*w1; "
    f"u=angle(p1,p2,p3)-c0; v=angle(p2,p3,p4)-c1; {_WAVES}",
    "bond_bond_13": "c2*(distance(p1,p2)-c0)*(distance(p3,p4)-c1)",
    "angle_angle": "c3*u*w+c4*u*v+c5*v*w; u=angle(p1,p2,p3)-c0; v=angle(p1,p2,p4)-c1; "
    "w=angle(p3,p2,p4)-c2",
    "out_of_plane": "0.5*c1*((asin(u)+asin(v)+asin(w))/3-c0)^2; "
    f"u={_tilt(2, 3, 4)}; v={_tilt(2, 1, 4)}; w={_tilt(2, 1, 3)}; {_triple(2, 1, 3, 4)}",
    "umbrella": "select(c0, 0.5*c1*(w-cos(c0))^2/max(sin(c0)^2, 1e-12), c1*(1-w)); "
    "w=select(step(cos(angle(p4,p1,p2))+cos(angle(p4,p1,p3))), -v, v); v=sqrt(max(0, 1-u*u)); "
    f"u={_tilt(1, 2, 3)}; {_triple(1, 4, 2, 3)}",
}
"""Energies as OpenMM reads them; c0, c1, ... are the columns of ``system.kinds.KINDS``."""


def _custom_bonded(kind: str, terms: BondedTerms) -> tuple[mm.Force, Adder]:
    """A force of one of ``FORMULAS``."""
    formula, width = FORMULAS[kind], KINDS[kind].n_atoms
    names = [f"c{k}" for k in range(len(KINDS[kind].columns))]
    if "p1" in formula or "x1" in formula:
        compound = mm.CustomCompoundBondForce(width, formula)
        for name in names:
            compound.addPerBondParameter(name)
        if terms.grids is not None:
            rows, _, points = terms.grids.shape
            for name, values in (("value", terms.grids[:, 0]), ("slope", terms.grids[:, 1])):
                table = mm.Discrete2DFunction(rows, points, values.ravel(order="F").tolist())
                compound.addTabulatedFunction(name, table)
        return compound, lambda atoms, p: compound.addBond(atoms, p)
    force = (mm.CustomBondForce, mm.CustomAngleForce, mm.CustomTorsionForce)[width - 2](formula)
    add = getattr(force, ("addBond", "addAngle", "addTorsion")[width - 2])
    for name in names:
        getattr(force, f"addPer{('Bond', 'Angle', 'Torsion')[width - 2]}Parameter")(name)
    return force, lambda atoms, p: add(*atoms, p)


def _correction_maps(terms: BondedTerms) -> tuple[mm.Force, Adder]:
    """Surfaces, which OpenMM begins at 0 instead of -180 degrees.

    Raises:
        EngineError: a surface has an odd number of steps.
    """
    force = mm.CMAPTorsionForce()
    assert terms.grids is not None
    for values in terms.grids[:, 0]:
        n = len(values)
        if n % 2:
            raise EngineError(
                f"expected correction maps of an even number of steps with OpenMM, found {n}"
            )
        turned = np.roll(values, (n // 2, n // 2), axis=(0, 1))
        force.addMap(n, turned.ravel(order="F").tolist())

    def add(atoms: Sequence[int], p: Sequence[float]) -> object:
        return force.addTorsion(round(p[0]), *atoms[:4], *atoms[1:])

    return force, add


def _forces(kind: str, topology: Topology) -> list[mm.Force]:
    """The force of all terms of one kind; none where there are none."""
    terms = topology.expand_terms(kind)
    if not len(terms.atoms):
        return []
    if kind == "cmap":
        force, add = _correction_maps(terms)
    else:
        force, add = OWN[kind]() if kind in OWN else _custom_bonded(kind, terms)
    for atoms, p in zip(terms.atoms.tolist(), terms.parameters.tolist(), strict=True):
        add(atoms, p)
    # molecules are whole, but a term between two of them may lie across the box
    force.setUsesPeriodicBoundaryConditions(kind in topology.intermolecular)
    return [force]


def _bonded(topology: Topology) -> list[tuple[str, mm.Force]]:
    """Forces of all terms but springs."""
    return [
        (kind.counted, force)
        for name, kind in KINDS.items()
        if kind.counted is not None and name not in SPRINGS
        for force in _forces(name, topology)
    ]


def _place_sites(system: mm.System, topology: Topology) -> None:
    """Tells the system how virtual sites are constructed.

    Raises:
        EngineError: OpenMM has no such site.
    """
    for molecule, first, count in topology.runs():
        found = [site for kind, listed in molecule.sites.items() for site in _sites(kind, listed)]
        for copy in range(count):
            shift = first + copy * molecule.n_atoms
            for site, make, atoms, weights in found:
                system.setVirtualSite(site + shift, make(*(a + shift for a in atoms), *weights))


_Site = tuple[int, Callable[..., mm.VirtualSite], list[int], list[float]]


def _sites(kind: str, listed: BondedTerms) -> list[_Site]:
    """Site, OpenMM's class, atoms and weights of every site of a kind."""
    found: list[_Site] = []
    rows = zip(listed.atoms.tolist(), listed.parameters.tolist(), strict=True)
    two, three = mm.TwoParticleAverageSite, mm.ThreeParticleAverageSite
    if kind == "site2":
        found += [(s, two, a, [1.0 - p[0], p[0]]) for (s, *a), p in rows]
    elif kind == "site3":
        found += [(s, three, a, [1.0 - p[0] - p[1], p[0], p[1]]) for (s, *a), p in rows]
    elif kind == "site3_out":
        found += [(s, mm.OutOfPlaneSite, a, p) for (s, *a), p in rows]
    elif kind == "site_mean":
        for site in dict.fromkeys(listed.atoms[:, 0].tolist()):
            chosen = listed.atoms[:, 0] == site
            atoms = listed.atoms[chosen, 1].tolist()
            weights = listed.parameters[chosen, 0].tolist()
            if len(atoms) not in (2, 3):
                raise EngineError(
                    f"expected virtual sites that are means of 2 or 3 atoms with OpenMM, found one "
                    f"of {len(atoms)}: use the engine gromacs or internal"
                )
            found.append((site, two if len(atoms) == 2 else three, atoms, weights))
    else:
        raise EngineError(
            f"expected virtual sites that OpenMM can construct, found {SITES[kind].gromacs[0]} "
            f"(section and function type of GROMACS): use the engine gromacs or internal"
        )
    return found


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
    for molecule, first, count in topology.runs():
        shift = first + molecule.n_atoms * np.arange(count, dtype=np.int64)
        atoms.append((molecule.pairs.atoms[None] + shift[:, None, None]).reshape(-1, 2))
        parameters.append(np.tile(molecule.pairs.parameters, (count, 1)))
    return BondedTerms(np.concatenate(atoms), np.concatenate(parameters))


def expand_exclusions(topology: Topology) -> Int64[np.ndarray, "m 2"]:
    """All excluded pairs with atoms of the system."""
    atoms = [np.zeros((0, 2), dtype=np.int64)]
    for molecule, first, count in topology.runs():
        shift = first + molecule.n_atoms * np.arange(count, dtype=np.int64)
        atoms.append((molecule.exclusions[None] + shift[:, None, None]).reshape(-1, 2))
    return np.concatenate(atoms)


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
    rule = sigma_epsilon(topology) if topology.pair_forms is None else None
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


_OTHER_PAIRS = (
    "((c12(a1,a2)*s+c9(a1,a2))*s-c6(a1,a2))*s^2+a(a1,a2)*exp(-b(a1,a2)*r); "
    f"s=max(r-shift(a1,a2), {MINIMUM_DISTANCE})^-3"
)
"""``system.pair_forms.COLUMNS``."""


def _table_force(
    topology: Topology, interactions: Interactions, excluded: Int64[np.ndarray, "m 2"]
) -> mm.CustomNonbondedForce:
    """Pairs from the tables of the topology, for any combination of parameters and any form."""
    n = len(topology.type_names)
    if topology.pair_forms is None:
        formula, tables = "(c12(a1,a2)*s-c6(a1,a2))*s; s=r^-6", [topology.c6, topology.c12]
        names: tuple[str, ...] = ("c6", "c12")
    else:
        formula, tables, names = _OTHER_PAIRS, [*topology.pair_forms.columns], PAIR_COLUMNS
    force = mm.CustomNonbondedForce(formula)
    for name, values in zip(names, tables, strict=True):
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
    blocks = mapping.topology.blocks
    for (index, _), (molecule, first, count) in zip(blocks, mapping.topology.runs(), strict=True):
        size = molecule.n_atoms
        beads = mapping.molecules[index]
        members = [np.flatnonzero(beads.weight_beads == b) for b in range(beads.n_beads)]
        for copy in range(count):
            for entries in members:
                atoms = beads.weight_atoms[entries] + first + copy * size
                group = force.addGroup(atoms.tolist(), beads.weights[entries].tolist())
                force.addBond([group], [0.0, 0.0, 0.0])
    return force

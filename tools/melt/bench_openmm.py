"""Time OpenMM's CPU platform on a melt that ``run.py`` made, to set against GROMACS' log.

    PYTHONPATH=tools python -m melt.bench_openmm FOLDER/equil.gro [--steps 1000] [--threads 2]

Same force field, cut-offs, constraints and step; constant temperature and volume.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import openmm
from openmm import unit

from melt.build import (
    ANGLES,
    ATOM_TYPES,
    ATOMS_PER_MONOMER,
    IMPROPER_CONSTANT,
    LENGTHS,
    TORSION_CONSTANT,
    Array,
    ChainTopology,
    chain_topology,
)
from melt.structure import read_gro


def melt_system(chain: ChainTopology, n_chains: int, edges: Array) -> openmm.System:
    """The melt as an OpenMM system with all bonds constrained."""
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*np.diag(edges))
    nonbonded = openmm.NonbondedForce()
    nonbonded.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    nonbonded.setCutoffDistance(1.0)
    nonbonded.setReactionFieldDielectric(2.5)
    angles = openmm.HarmonicAngleForce()
    propers = openmm.PeriodicTorsionForce()
    impropers = openmm.CustomTorsionForce("0.5*k*theta^2")
    impropers.addPerTorsionParameter("k")
    size = len(chain.types)
    for c in range(n_chains):
        shift = c * size
        for kind, charge in zip(chain.types, chain.charges, strict=True):
            mass, _, sigma, epsilon = ATOM_TYPES[kind]
            system.addParticle(mass)
            nonbonded.addParticle(charge, sigma, epsilon)
        for i, j in chain.bonds:
            length = LENGTHS[min((a, b) for a, b in _both(chain, i, j) if (a, b) in LENGTHS)]
            system.addConstraint(shift + i, shift + j, length)
        for i, j, k in chain.angles:
            key = tuple(chain.types[n] for n in (i, j, k))
            theta, constant = ANGLES[key if key in ANGLES else key[::-1]]  # type: ignore[index]
            angles.addAngle(shift + i, shift + j, shift + k, np.radians(theta), constant)
        for term in chain.propers:
            propers.addTorsion(*(shift + n for n in term), 3, 0.0, TORSION_CONSTANT)
        for term in chain.impropers:
            impropers.addTorsion(*(shift + n for n in term), [IMPROPER_CONSTANT])
        pairs = {tuple(sorted(p)) for p in chain.bonds + chain.exclusions}
        pairs |= {(min(i, k), max(i, k)) for i, _, k in chain.angles}
        for i, j in pairs:
            nonbonded.addException(shift + i, shift + j, 0.0, 0.1, 0.0)
    for force in (nonbonded, angles, propers, impropers):
        system.addForce(force)
    return system


def _both(chain: ChainTopology, i: int, j: int) -> list[tuple[str, str]]:
    a, b = chain.types[i], chain.types[j]
    return [(a, b), (b, a)]


def main() -> None:
    """Print potential energy and milliseconds per step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gro", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    o = parser.parse_args()
    chains, edges = read_gro(o.gro)
    chain = chain_topology((chains.shape[1] - 2) // ATOMS_PER_MONOMER)
    system = melt_system(chain, len(chains), edges)
    integrator = openmm.LangevinMiddleIntegrator(568.0, 1.0, 0.002)
    platform = openmm.Platform.getPlatformByName("CPU")
    context = openmm.Context(system, integrator, platform, {"Threads": str(o.threads)})
    context.setPositions(chains.reshape(-1, 3))
    context.applyConstraints(1e-6)
    context.setVelocitiesToTemperature(568.0, 1)
    energy = context.getState(getEnergy=True).getPotentialEnergy()
    print(f"potential {energy.value_in_unit(unit.kilojoule_per_mole) / len(chains):.2f} kJ/mol")
    integrator.step(100)
    start = time.perf_counter()
    integrator.step(o.steps)
    print(f"{1000 * (time.perf_counter() - start) / o.steps:.2f} ms/step")


if __name__ == "__main__":
    main()

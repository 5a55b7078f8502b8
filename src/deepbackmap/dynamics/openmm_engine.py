"""Minimisation and dynamics with OpenMM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import openmm as mm
from jaxtyping import Float64
from openmm import unit

from deepbackmap.dynamics.boxes import check_box, reduced
from deepbackmap.dynamics.constraints import Constraints, thermal_velocities
from deepbackmap.dynamics.containers import (
    Dynamics,
    EngineError,
    Hold,
    Interactions,
    Minimisation,
    Segment,
)
from deepbackmap.dynamics.naming import Atoms
from deepbackmap.dynamics.openmm_system import GROUPS, BuiltSystem, Recipe, build_system
from deepbackmap.dynamics.start import check_dynamics, held_beads, whole_start
from deepbackmap.forcefield import TERMS
from deepbackmap.geometry.cell import cell_volume
from deepbackmap.io.tables import ParticleTable
from deepbackmap.mapping.containers import SystemMapping
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure, Topology
from deepbackmap.system.sites import place_sites
from deepbackmap.system.whole import bond_trees, make_whole, spanning_molecules

CONSTRAINT_TOLERANCE = 1e-5
"""Relative, of OpenMM's own solvers."""
LARGEST_DEVIATION = 1e-3
"""nm: a constraint that is further off has been lost."""
CHECK_EVERY = 500
"""Most steps between two looks at whether the run is still sound."""
GROWTH, SHRINKAGE = 1.2, 0.5
"""Of the step length after an accepted and a refused step (as GROMACS' steepest descent)."""

Energies = dict[str, float]


@dataclass(eq=False)
class Prepared:
    """A context that can be used again, and the state it was in when it was new."""

    built: BuiltSystem
    context: mm.Context
    integrator: mm.Integrator
    seed: int
    fresh: bytes
    """Checkpoint; brings the random numbers back to where the seed starts them."""


def platform_names() -> tuple[str, ...]:
    """Platforms of the installed OpenMM."""
    count = mm.Platform.getNumPlatforms()
    return tuple(mm.Platform.getPlatform(k).getName() for k in range(count))


def best_gpu() -> str | None:
    """The fastest platform of OpenMM that has a GPU which works, if any."""
    for name in ("CUDA", "HIP", "OpenCL"):
        if name in platform_names() and _works(name):
            return name
    return None


def _works(platform: str) -> bool:
    """Whether a context can be made; installed libraries alone do not mean a GPU."""
    system = mm.System()
    system.addParticle(1.0)
    found = mm.Platform.getPlatformByName(platform)
    try:
        mm.Context(system, mm.VerletIntegrator(0.001), found)
    except mm.OpenMMException:
        return False
    return True


def langevin(platform: str) -> mm.Integrator:
    """Langevin dynamics, middle scheme.

    OpenMM's own integrator draws its random forces thread by thread on the CPU platform, so that
    another number of threads gives another run (0.08 nm after 30 steps, 2e-6 nm without random
    forces). Written as a custom integrator the same scheme draws them in one row.

    Source: Zhang et al., J. Phys. Chem. A 123, 6056 (2019).
    """
    if platform != "CPU":
        return mm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    found = mm.CustomIntegrator(0.001)
    for name in ("kept", "drawn", "kT"):
        found.addGlobalVariable(name, 0.0)
    found.addPerDofVariable("before", 0.0)
    found.addUpdateContextState()
    found.addComputePerDof("v", "v + dt*f/m")
    found.addConstrainVelocities()
    found.addComputePerDof("x", "x + 0.5*dt*v")
    found.addComputePerDof("v", "kept*v + drawn*sqrt(kT/m)*gaussian")
    found.addComputePerDof("x", "x + 0.5*dt*v")
    found.addComputePerDof("before", "x")
    found.addConstrainPositions()
    found.addComputePerDof("v", "v + (x - before)/dt")
    return found


class OpenmmEngine:
    """``Engine`` on a platform of OpenMM."""

    def __init__(
        self,
        topology: Topology,
        table: ParticleTable,
        interactions: Interactions,
        threads: int,
        platform: str,
        mapping: SystemMapping | None,
    ) -> None:
        self.name = f"openmm-{platform.lower()}"
        self._topology = topology
        self._table = table
        self._interactions = interactions
        self._threads = threads
        self._platform = platform
        self._mapping = mapping
        self._trees = bond_trees(topology)
        self._atoms = Atoms(topology)
        self._virtual = topology.virtual()
        self._prepared: dict[Recipe, Prepared] = {}

    def minimise(
        self, structure: Structure, options: Minimisation, hold: Hold | None = None
    ) -> Segment:
        """Steepest descent; each step is one evaluation of the forces, taken or refused."""
        recipe = Recipe(
            constrain=False,
            bond_constant=options.bond_constant,
            nonbonded=options.nonbonded,
            hold=None if hold is None else hold.constant,
        )
        positions = self._whole(structure)
        fixed = Constraints.of(self._topology, bonds=False)
        projected = options.bond_constant is None and len(fixed.atoms) > 0
        held = None if hold is None else held_beads(self._mapping, positions, structure.box, hold)
        # Of a context that has seen another structure the lists of neighbours stay, and with them
        # the order in which forces are added up.
        ready = self._ready(recipe, structure, seed=0, anew=True)
        self._place(ready, structure, positions, held)
        if projected:
            positions = fixed.project(positions)
        energy, forces = self._evaluate(ready, positions, structure)
        first = self._energies(ready, structure.box, positions)
        evaluations, length = 1, options.first_step
        for _ in range(options.steps):
            largest = float(np.linalg.norm(forces, axis=1).max())
            if largest <= options.tolerance or largest == 0.0:
                break
            tried = positions + forces * (length / largest)
            if projected:
                tried = fixed.project(tried)
            tried = place_sites(tried, structure.box, self._topology)
            found, pull = self._evaluate(ready, tried, structure, refuse=False)
            evaluations += 1
            if found < energy:
                positions, energy, forces = tried, found, pull
                length *= GROWTH
            else:
                length *= SHRINKAGE
        last = self._energies(ready, structure.box, positions)
        final = replace(structure, positions=positions)
        steps = np.array([0, evaluations - 1], dtype=np.int64)
        return Segment(final, None, steps, _series([first, last]), (final,), evaluations)

    def run(
        self,
        structure: Structure,
        options: Dynamics,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        hold: Hold | None = None,
    ) -> Segment:
        """Langevin dynamics (middle scheme), a Monte Carlo barostat if there is a pressure."""
        check_dynamics(options, ("langevin",), self.name)
        recipe = Recipe(
            constrain=options.constrain,
            hold=None if hold is None else hold.constant,
            pressure=options.pressure,
        )
        fixed = Constraints.of(self._topology, bonds=options.constrain)
        positions = fixed.project(self._whole(structure))
        if velocities is None:
            velocities = thermal_velocities(fixed.masses, options.temperature, options.seed)
        velocities = fixed.project_velocities(positions, velocities)
        held = None if hold is None else held_beads(self._mapping, positions, structure.box, hold)
        ready = self._ready(recipe, structure, options.seed)
        self._tune(ready, options)
        self._place(ready, structure, positions, held)
        ready.context.setVelocities(velocities)
        self._evaluate(ready, None, replace(structure, positions=positions))
        return self._advance(ready, structure, options, fixed)

    def _whole(self, structure: Structure) -> Float64[np.ndarray, "n 3"]:
        """A start with molecules whole.

        Raises:
            EngineError: a molecule is bonded to its own image.
        """
        whole = whole_start(self._topology, self._trees, structure)
        endless = np.flatnonzero(spanning_molecules(whole, structure.box, self._topology))
        if len(endless):
            raise EngineError(
                f"expected molecules that end within the box with the engine {self.name}, which "
                f"holds bonds without looking for images, found molecule {endless[0] + 1} bonded "
                "to its own periodic image: use the engine gromacs or internal"
            )
        return whole

    def _advance(
        self, ready: Prepared, structure: Structure, options: Dynamics, fixed: Constraints
    ) -> Segment:
        """Steps from record to record."""
        steps: list[int] = []
        energies: list[Energies] = []
        frames: list[Structure] = []
        now, done = structure, 0
        for stop in _stops(options):
            with self._blame(now, f"steps {done} to {stop}"):
                ready.integrator.step(stop - done)
            done = stop
            now = self._frame(ready, structure, options, done, fixed)
            if done % options.every == 0 or done == options.steps:
                steps.append(done)
                energies.append(self._energies(ready, now.box, None, len(fixed.atoms)))
            if options.frames_every and done and done % options.frames_every == 0:
                frames.append(now)
        if not options.frames_every:
            frames.append(now)
        state = ready.context.getState(getVelocities=True)
        velocities = _values(state.getVelocities(asNumpy=True))
        return Segment(
            now,
            velocities,
            np.array(steps, dtype=np.int64),
            _series(energies),
            tuple(frames),
            options.steps + 1,
        )

    def _ready(
        self, recipe: Recipe, structure: Structure, seed: int, *, anew: bool = False
    ) -> Prepared:
        """A context for a recipe, its random numbers at the start of the seed; new if ``anew``."""
        box = reduced(structure.box)
        check_box(box, self._interactions.cutoff)
        known = self._prepared.get(recipe)
        if known is None:
            built = build_system(self._topology, self._interactions, recipe, self._mapping, box)
            known = self._prepared[recipe] = self._context(built, recipe, seed)
        elif anew or known.seed != seed:
            # OpenMM takes a seed only when it sets a context up, which is slow for long chains
            known = self._prepared[recipe] = self._context(known.built, recipe, seed)
        known.context.loadCheckpoint(known.fresh)
        return known

    def _context(self, built: BuiltSystem, recipe: Recipe, seed: int) -> Prepared:
        integrator = langevin(self._platform)
        integrator.setConstraintTolerance(CONSTRAINT_TOLERANCE)
        integrator.setIntegrationForceGroups(built.acting)
        # OpenMM understands 0 as "draw one"
        integrator.setRandomNumberSeed(1 + seed % (2**31 - 2))
        if built.barostat is not None:
            built.barostat.setRandomNumberSeed(1 + (seed + 1) % (2**31 - 2))
        platform = mm.Platform.getPlatformByName(self._platform)
        properties = {
            "CPU": {"Threads": str(self._threads), "DeterministicForces": "true"},
            "CUDA": {"Precision": "mixed", "DeterministicForces": "true"},
            "OpenCL": {"Precision": "mixed"},
        }.get(self._platform, {})
        context = mm.Context(built.system, integrator, platform, properties)
        return Prepared(built, context, integrator, seed, context.createCheckpoint())

    def _tune(self, ready: Prepared, options: Dynamics) -> None:
        """Temperature, friction, step and pressure, none of which needs a new context."""
        integrator = ready.integrator
        integrator.setStepSize(options.timestep)
        if isinstance(integrator, mm.CustomIntegrator):
            kept = math.exp(-options.friction * options.timestep)
            integrator.setGlobalVariableByName("kept", kept)
            integrator.setGlobalVariableByName("drawn", math.sqrt(1.0 - kept * kept))
            integrator.setGlobalVariableByName("kT", BOLTZMANN * options.temperature)
        else:
            integrator.setTemperature(options.temperature)
            integrator.setFriction(options.friction)
        if options.pressure is not None:
            ready.context.setParameter(mm.MonteCarloBarostat.Pressure(), options.pressure)
            ready.context.setParameter(mm.MonteCarloBarostat.Temperature(), options.temperature)

    def _place(
        self,
        ready: Prepared,
        structure: Structure,
        positions: Float64[np.ndarray, "n 3"],
        held: Float64[np.ndarray, "b 3"] | None,
    ) -> None:
        """Box, positions and held points of a start."""
        ready.context.setPeriodicBoxVectors(*reduced(structure.box).tolist())
        ready.context.setPositions(positions)
        force = ready.built.hold
        if held is None or force is None:
            return
        for k, place in enumerate(held.tolist()):
            force.setBondParameters(k, [k], place)
        force.updateParametersInContext(ready.context)

    def _evaluate(
        self,
        ready: Prepared,
        positions: Float64[np.ndarray, "n 3"] | None,
        structure: Structure,
        *,
        refuse: bool = True,
    ) -> tuple[float, Float64[np.ndarray, "n 3"]]:
        """Potential energy and forces; with ``refuse`` they must be finite."""
        if positions is not None:
            ready.context.setPositions(positions)
            structure = replace(structure, positions=positions)
        state = ready.context.getState(getEnergy=True, getForces=True, groups=ready.built.acting)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        forces = _values(state.getForces(asNumpy=True))
        forces[self._virtual] = 0.0  # the atoms have them
        if not np.isfinite(forces).all() or not np.isfinite(energy):
            if refuse:
                contact = self._atoms.closest_contact(structure)
                raise EngineError(
                    f"expected finite forces, found none on {self._atoms.largest(forces)}"
                    + (f"; {contact}" if contact else "")
                )
            return float("inf"), forces
        return energy, forces

    def _energies(
        self,
        ready: Prepared,
        box: Float64[np.ndarray, "3 3"],
        positions: Float64[np.ndarray, "n 3"] | None,
        constraints: int | None = None,
    ) -> Energies:
        """Energies by term of where the context is, or of given positions."""
        if positions is not None:
            ready.context.setPositions(positions)
        built = ready.built
        part = {name: self._group(ready, name) if name in built.groups else 0.0 for name in GROUPS}
        volume = cell_volume(box)
        coulomb = part["coulomb"] + part["coulomb only"]
        found = {
            name: part[name]
            for name in ("bond", "angle", "proper", "improper", "lj14", "coulomb14")
        }
        found["lj"] = part["lj"]
        if "nonbonded" in built.groups:
            found["lj"] = part["nonbonded"] - part["coulomb only"]
        found["coulomb"] = coulomb + part["excluded"] + built.charge_energy
        found = {name: found[name] for name in TERMS}
        if built.hold is not None:
            found["hold"] = part["hold"]
        found["potential"] = sum(found.values()) + built.dispersion / volume
        found["volume"] = volume
        if constraints is not None:
            state = ready.context.getState(getEnergy=True, groups=0)
            kinetic = state.getKineticEnergy().value_in_unit(unit.kilojoule_per_mole)
            freedom = 3 * int(np.count_nonzero(~self._virtual)) - constraints
            found["kinetic"] = kinetic
            found["temperature"] = 2.0 * kinetic / (BOLTZMANN * freedom)
        return found

    def _group(self, ready: Prepared, name: str) -> float:
        state = ready.context.getState(getEnergy=True, groups={GROUPS[name]})
        return float(state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))

    def _frame(
        self,
        ready: Prepared,
        start: Structure,
        options: Dynamics,
        done: int,
        fixed: Constraints,
    ) -> Structure:
        """Where the run is; refuses one that has come apart."""
        state = ready.context.getState(getPositions=True)
        positions = _values(state.getPositions(asNumpy=True))
        box = start.box
        if options.pressure is not None:
            volume = state.getPeriodicBoxVolume().value_in_unit(unit.nanometer**3)
            box = box * np.cbrt(volume / cell_volume(box))
        now = Structure(positions, box, start.time + done * options.timestep)
        if not np.isfinite(positions).all():
            raise EngineError(
                f"expected finite positions, found none for {self._atoms.largest(positions)} "
                f"at step {done}"
            )
        off = np.abs(fixed.deviations(positions))
        if len(off) and off.max() > LARGEST_DEVIATION:
            k = int(off.argmax())
            raise EngineError(
                f"expected {self._atoms.describe(*fixed.atoms[k].tolist())} to stay "
                f"{fixed.lengths[k]:.4f} nm apart, found {off[k]:.4f} nm off at step {done}"
            )
        return replace(now, positions=make_whole(positions, box, self._topology, trees=self._trees))

    @contextmanager
    def _blame(self, before: Structure, when: str) -> Iterator[None]:
        """Turns what OpenMM says of a run that failed into one sentence about the structure."""
        try:
            yield
        except mm.OpenMMException as error:
            contact = self._atoms.closest_contact(before)
            reason = str(error).split(".")[0].strip()
            raise EngineError(
                f"the run failed in {when} ({reason})"
                + (f"; before that, {contact}" if contact else "")
            ) from error


def _stops(options: Dynamics) -> list[int]:
    """Steps at which to look: recorded energies, kept frames, the end, and now and then."""
    wanted = {0, options.steps}
    for every in (options.every, options.frames_every, CHECK_EVERY):
        if every:
            wanted.update(range(0, options.steps + 1, every))
    return sorted(wanted)


def _series(energies: list[Energies]) -> dict[str, Float64[np.ndarray, " k"]]:
    return {name: np.array([e[name] for e in energies]) for name in energies[0]}


def _values(quantity: unit.Quantity) -> Float64[np.ndarray, "n 3"]:
    return np.array(quantity.value_in_unit_system(unit.md_unit_system), dtype=np.float64)

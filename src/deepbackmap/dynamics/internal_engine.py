"""The dynamics of this process (``mechanics``) as an engine: it parts what others give up on.

Bonds are met before the first step and stay, no force moves an atom farther than a bound, and what
lowers the energy is cold dynamics with much friction: atoms on top of each other are pushed apart
however large the force between them is. Stereocentres that turn over meanwhile are turned back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.chemistry import stereo
from deepbackmap.dynamics.constraints import Constraints, thermal_velocities
from deepbackmap.dynamics.containers import (
    Dynamics,
    EngineError,
    Hold,
    Interactions,
    Minimisation,
    Segment,
)
from deepbackmap.dynamics.dispersion import dispersion_coefficient
from deepbackmap.dynamics.naming import Atoms
from deepbackmap.dynamics.start import check_dynamics, held_beads, whole_start
from deepbackmap.errors import InputError
from deepbackmap.forcefield import TERMS
from deepbackmap.geometry.cell import cell_heights, cell_volume
from deepbackmap.geometry.counter_random import hash_counters
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.mechanics.engine import (
    LARGEST_MOVE,
    Langevin,
    LostError,
    Mechanics,
    Observation,
)
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure, Topology
from deepbackmap.system.topology import require_lennard_jones
from deepbackmap.system.whole import bond_trees

COLD = 1.0
"""K: of the bath that takes up what minimisation sets free."""
DRAG = 100.0
"""1/ps: friction of minimisation."""
TIMESTEP, SPRINGY_TIMESTEP = 0.002, 0.001
"""ps: of minimisation, bonds rigid or not."""
LIGHT = 3.0
"""u: atoms lighter than that are hydrogens."""
REPAIRS, REPAIR_STEPS = 3, 20
"""How often centres that have turned over are turned back, and steps that follow each time."""
ROUGH, ROUGH_REPAIRS, FALLS = 0.02, 20, 0.5
"""nm: a start with a bond farther from its length is rough. It is given ``REPAIR_STEPS`` again, so
often at most, as long as they lower the energy by so many kJ/mol an atom: what a heap of atoms sets
free would otherwise heat the dynamics that follow, and turn centres over."""
_NOISE = 31
"""Stream of random numbers."""

Energies = dict[str, float]


class InternalEngine:
    """``Engine`` in this process."""

    name = "internal"

    def __init__(
        self,
        topology: Topology,
        interactions: Interactions,
        threads: int,
        mapping: SystemMapping | None,
    ) -> None:
        """Prepares nothing yet.

        Args:
            topology: what is simulated.
            interactions: how non-bonded forces are computed.
            threads: how many.
            mapping: of the beads that may be held; None: there are none.

        Raises:
            InputError: the topology has pairs that are not Lennard-Jones.
        """
        require_lennard_jones(topology, "the engine internal")
        self._topology, self._interactions, self._threads = topology, interactions, threads
        self._mapping = mapping
        beads = _without_beads(topology) if mapping is None else mapping
        self._beads = np.zeros((beads.n_beads, 3))
        self._trees, self._atoms = bond_trees(topology), Atoms(topology)
        self._masses = topology.masses()
        self._tail = (
            dispersion_coefficient(topology, interactions.cutoff)
            if interactions.dispersion_correction
            else 0.0
        )
        self._centres = _centres(topology)

        @cache
        def mechanics(rigid: bool) -> Mechanics:
            return Mechanics(
                beads, rigid=rigid, cutoff=interactions.cutoff, lightest=0.0, threads=threads,
                epsilon=interactions.reaction_field_epsilon,
            )  # fmt: skip

        self._mechanics = mechanics

    def minimise(
        self, structure: Structure, options: Minimisation, hold: Hold | None = None
    ) -> Segment:
        """Cold dynamics with much friction, each step one evaluation of the forces, one before it.

        With a stiffness of bonds they are rigid, else the topology's springs. Where stereocentres
        turn over, and from rough starts, it takes more steps than asked for, and counts them.

        Raises:
            InputError: a tolerance, which dynamics has no use for.
            EngineError: it cannot be carried out.
        """
        if options.tolerance:
            raise InputError(
                f"tolerance: expected 0 with the engine {self.name}, found {options.tolerance:g}"
            )
        rigid = options.bond_constant is not None
        start = self._start(structure, rigid, hold, COLD)
        first = self._energies(start, start.positions, COLD)
        how = Langevin(
            options.steps, COLD, TIMESTEP if rigid else SPRINGY_TIMESTEP, DRAG,
            softness=0.0 if options.nonbonded else 1.0,
            largest_move=min(options.first_step, LARGEST_MOVE),
        )  # fmt: skip
        positions, more = self._repaired(start, self._run(start, start.positions, how), how)
        steps = options.steps + more
        last = self._energies(start, positions, COLD)
        if not options.nonbonded:
            for energies in (first, last):
                energies["potential"] -= energies["lj"] + energies["coulomb"]
                energies["lj"] = energies["coulomb"] = 0.0
        final = replace(structure, positions=positions)
        return Segment(
            final, None, np.array([0, steps], dtype=np.int64), _series([first, last]), (final,),
            steps + 1,
        )  # fmt: skip

    def run(
        self,
        structure: Structure,
        options: Dynamics,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        hold: Hold | None = None,
    ) -> Segment:
        """Langevin dynamics (middle scheme) at constant volume.

        Raises:
            InputError: an option that no run can have, or a pressure.
            EngineError: it cannot be carried out.
        """
        check_dynamics(options, ("langevin",), self.name)
        if options.pressure is not None:
            raise InputError(
                f"pressure: expected none with the engine {self.name}, found {options.pressure:g}"
            )
        start = self._start(structure, options.constrain, hold, options.temperature)
        mechanics = self._mechanics(options.constrain)
        if velocities is None:
            velocities = thermal_velocities(self._masses, options.temperature, options.seed)
        velocities = mechanics.tangent(start.positions, velocities, start.widths, box=start.box)
        record = _Record(self, start, options)
        positions = start.positions
        record.add(0, self._energies(start, positions, options.temperature), positions)
        kinetic = [0.5 * float((self._masses[:, None] * velocities**2).sum())]
        if options.steps:
            names = hash_counters(options.seed, _NOISE, torch.arange(len(positions))).numpy()
            how = Langevin(
                options.steps, options.temperature, options.timestep, options.friction
            )  # fmt: skip
            try:
                made = mechanics.run(
                    positions, start.beads, structure.box, how, names, start.widths,
                    velocities=velocities, every=record.often, observe=record.observe,
                )  # fmt: skip
            except LostError as error:
                raise self._lost(error, start, positions) from error
            positions, velocities = made.positions, made.velocities
            kinetic += [float(made.kinetic[k]) for k in record.steps[1:]]
        return record.segment(positions, velocities, np.array(kinetic))

    def _repaired(
        self, start: _Start, positions: Float64[np.ndarray, "n 3"], how: Langevin
    ) -> tuple[Float64[np.ndarray, "n 3"], int]:
        """More steps while hands turn over, and for a rough start until its energy hardly falls.

        Returns:
            Positions, and the number of steps.
        """
        hands = np.sign(stereo.volumes(start.given, self._centres, start.box)).astype(np.int64)
        how, steps, before = replace(how, steps=REPAIR_STEPS), 0, math.inf
        for _ in range(ROUGH_REPAIRS if start.rough else REPAIRS):
            volumes = stereo.volumes(positions, self._centres, start.box)
            turned = bool((volumes * hands < 0).any())
            stereo.restore(positions, self._centres, hands, self._masses < LIGHT, start.box)
            if not turned:
                now = self._energies(start, positions, COLD)["potential"] if start.rough else before
                if not now < before - FALLS * len(positions):
                    break
                before = now
            positions = self._run(start, positions, how)
            steps += REPAIR_STEPS
        return positions, steps

    def _run(
        self, start: _Start, positions: Float64[np.ndarray, "n 3"], how: Langevin
    ) -> Float64[np.ndarray, "n 3"]:
        if not how.steps:
            return positions
        names = np.arange(len(positions), dtype=np.int64)
        mechanics = self._mechanics(start.rigid)
        try:
            return mechanics.run(
                positions, start.beads, start.box, how, names, start.widths
            ).positions  # fmt: skip
        except LostError as error:
            raise self._lost(error, start, positions) from error

    def _lost(
        self, error: LostError, start: _Start, positions: Float64[np.ndarray, "n 3"]
    ) -> EngineError:
        contact = self._atoms.closest_contact(Structure(positions, start.box))
        return EngineError(str(error) + (f"; before that, {contact}" if contact else ""))

    def _start(
        self, structure: Structure, rigid: bool, hold: Hold | None, temperature: float
    ) -> _Start:
        """Where a run begins: bonds met, beads where they are to be held."""
        mechanics = self._mechanics(rigid)
        given = whole_start(self._topology, self._trees, structure)
        lowest = float(cell_heights(structure.box).min())
        if lowest < 2.0 * mechanics.reach:
            raise EngineError(
                f"expected a box of at least {2.0 * mechanics.reach:g} nm (twice cut-off and list) "
                f"in every direction with the engine {self.name}, found {lowest:g} nm"
            )
        beads, widths = self._beads, math.inf
        if hold is not None:
            beads = held_beads(self._mapping, given, structure.box, hold)
            # k/2 d^2 is kT/2 (d/width)^2
            widths = math.sqrt(BOLTZMANN * temperature / hold.constant)
        found = mechanics.project(given, beads, math.inf, box=structure.box)
        if len(found.broken):
            atom = int(self._topology.molecule_offsets()[found.broken[0]])
            name = self._atoms.describe(atom).split(" of ")[1]
            raise EngineError(f"expected bonds that can be brought to their lengths in {name}")
        constant = 0.0 if hold is None else hold.constant
        bonds = Constraints.of(self._topology, bonds=True, box=structure.box).deviations(given)
        rough = bool(np.abs(bonds).max(initial=0.0) > ROUGH)
        at = found.positions
        return _Start(
            given, rough, at, structure.box, structure.time, rigid, beads, widths, constant
        )  # fmt: skip

    def _energies(
        self, start: _Start, positions: Float64[np.ndarray, "n 3"], temperature: float
    ) -> Energies:
        found = self._mechanics(start.rigid).energies(
            positions, start.beads, start.box, start.widths, temperature=temperature
        )
        return self.by_term(found, start)

    def by_term(
        self, found: dict[str, Float64[np.ndarray, "m"]], start: _Start
    ) -> dict[str, float]:
        """Energies under the names that all engines use; a bond at its length has none."""
        sums = {name: float(values.sum()) for name, values in found.items()}
        for name in ("lj", "coulomb"):
            sums[name] = sums[f"{name} intra"] + sums[f"{name} inter"]
        energies = {name: sums[name] for name in TERMS}
        if start.constant:
            energies["hold"] = sums["bead"]
        volume = cell_volume(start.box)
        energies["potential"] = sum(energies.values()) + self._tail / volume
        energies["volume"] = volume
        return energies

    def freedom(self, rigid: bool) -> int:
        """Degrees of freedom, centre of mass included."""
        held = Constraints.of(self._topology, bonds=rigid)
        return 3 * self._topology.n_atoms - len(held.atoms)


@dataclass(frozen=True)
class _Start:
    """Where a run begins."""

    given: Float64[np.ndarray, "n 3"]
    """Positions as they were given, molecules whole, nm."""
    rough: bool
    """Whether bonds are far from their lengths there."""
    positions: Float64[np.ndarray, "n 3"]
    """The same with bonds met."""
    box: Float64[np.ndarray, "3 3"]
    time: float
    """ps."""
    rigid: bool
    beads: Float64[np.ndarray, "b 3"]
    """Where they are held, nm."""
    widths: float
    """Of beads, nm; infinite: free."""
    constant: float
    """Of springs at beads, kJ mol-1 nm-2; 0: there are none."""


@dataclass
class _Record:
    """What is kept of a run."""

    engine: InternalEngine
    start: _Start
    options: Dynamics
    steps: list[int] = field(default_factory=list)
    energies: list[Energies] = field(default_factory=list)
    frames: list[Structure] = field(default_factory=list)

    @property
    def often(self) -> int:
        """Steps between two looks."""
        return math.gcd(self.options.every, self.options.frames_every)

    def observe(self, seen: Observation) -> bool:
        """Keeps what is wanted of one step; never ends a run."""
        self.add(seen.step, self.engine.by_term(seen.energies, self.start), seen.positions)
        return False

    def add(self, step: int, energies: Energies, positions: Float64[np.ndarray, "n 3"]) -> None:
        """Keeps what is wanted of one step."""
        options = self.options
        if step % options.every == 0 or step == options.steps:
            self.steps.append(step)
            self.energies.append(energies)
        if step and options.frames_every and step % options.frames_every == 0:
            self.frames.append(self.at(step, positions))

    def at(self, step: int, positions: Float64[np.ndarray, "n 3"]) -> Structure:
        """The structure after a step."""
        return Structure(
            positions, self.start.box, self.start.time + step * self.options.timestep
        )  # fmt: skip

    def segment(
        self,
        positions: Float64[np.ndarray, "n 3"],
        velocities: Float64[np.ndarray, "n 3"],
        kinetic: Float64[np.ndarray, "k"],
    ) -> Segment:
        """All of it."""
        last = self.at(self.options.steps, positions)
        freedom = self.engine.freedom(self.start.rigid)
        energies = _series(self.energies) | {
            "kinetic": kinetic,
            "temperature": 2.0 * kinetic / (BOLTZMANN * freedom),
        }
        return Segment(
            last, velocities, np.array(self.steps, dtype=np.int64), energies,
            tuple(self.frames) if self.options.frames_every else (last,), self.options.steps + 1,
        )  # fmt: skip


def _series(energies: list[Energies]) -> dict[str, Float64[np.ndarray, " k"]]:
    return {name: np.array([e[name] for e in energies]) for name in energies[0]}


def _centres(topology: Topology) -> Int64[np.ndarray, "c 5"]:
    """Stereocentres of the system, each with its branches."""
    found, start = [np.zeros((0, 5), dtype=np.int64)], 0
    per_type = [stereo.stereocentres(m) for m in topology.molecule_types]
    for t, count in topology.blocks:
        size = topology.molecule_types[t].n_atoms
        shift = start + size * np.arange(count, dtype=np.int64)
        found.append((per_type[t][None] + shift[:, None, None]).reshape(-1, 5))
        start += size * count
    return np.concatenate(found)


def _without_beads(topology: Topology) -> SystemMapping:
    """A mapping by which nothing is held."""
    none, pairs = np.zeros(0, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
    molecules = tuple(
        MoleculeMapping(
            bead_names=(), bead_types=(), bead_residue_names=(), bead_residue_numbers=none,
            weight_atoms=none, weight_beads=none, weights=np.zeros(0),
            owner=np.zeros(m.n_atoms, dtype=np.int64), bead_bonds=pairs, align=pairs, order=none,
        )
        for m in topology.molecule_types
    )  # fmt: skip
    return SystemMapping(topology, molecules)

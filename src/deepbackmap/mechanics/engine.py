"""Dynamics of a whole periodic box with rigid bonds and beads that are held exactly or softly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from deepbackmap.forcefield.molecules import share_between
from deepbackmap.forcefield.nonbonded import Exclusions, LennardJonesTable, ReactionField
from deepbackmap.forcefield.system import TermTable, term_tables
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics import pairs, steps
from deepbackmap.mechanics.columns import ROOM
from deepbackmap.mechanics.lanes import LANES, WIDTH
from deepbackmap.mechanics.noise import quantiles
from deepbackmap.mechanics.solver import TOLERANCE
from deepbackmap.mechanics.tables import Places, Tables, places_of, tables_of
from deepbackmap.quantities import BOLTZMANN, COULOMB
from deepbackmap.system.whole import spanning_molecules

CUTOFF = 0.7
"""Of Lennard-Jones and Coulomb, nm."""
NEAR = 0.5
"""nm: pairs that are nearer push hard enough for every step to need them."""
SKIN = 0.08
"""nm: pairs are listed that much beyond the cut-off."""
SOFT = 0.75
"""Below this fraction of sigma the repulsion grows no further."""
CLOSEST = 0.05
"""nm: pairs without a sigma exert no more force below that."""
BARE = 0.13
"""nm: nor do charges without a core (hydrogens of water) below that, nearer than any hydrogen bond.
Where atoms start on top of each other they would hold two molecules together for good."""
LIGHTEST = 3.0
"""u: hydrogens count as that heavy."""
FIRM = 2.0
"""A soft bead whose width is below so many thermal moves of a step is held exactly."""
ON_THE_WAY = 1e-6
"""nm: how far bonds and beads may be off between two steps; ten times as much lets the energy of a
box without a bath drift four times as fast."""
LARGEST_MOVE = 0.003
"""nm: no force moves an atom farther in one step, however bad the contact."""
BONDED = ("bond", "angle", "proper", "improper", "lj14", "coulomb14", "bead")
"""Energies of listed terms, and of beads that are held softly."""
PAIRS = ("lj intra", "coulomb intra", "lj inter", "coulomb inter")
"""Energies of pairs; half of each pair between two molecules goes to either."""


@dataclass(frozen=True)
class Langevin:
    """A run."""

    steps: int
    temperature: float | Float64[np.ndarray, "k"]
    """K; for a schedule one for the start and one for each step."""
    timestep: float = 0.002
    """ps."""
    friction: float = 25.0
    """1/ps; without friction there is no bath."""
    largest_move: float = LARGEST_MOVE
    """nm: no force moves an atom farther in one step."""
    softness: float = 0.0
    """Of cores, 0 (hard) to 1 (no interaction): Lennard-Jones and Coulomb are scaled by one less
    that, and r^6 in Lennard-Jones is enlarged by half that times sigma^6 (Beutler et al., Chem.
    Phys. Lett. 222, 529, 1994)."""
    first_step: int = 0
    """Number of the start, which names the noise: a run in two parts is that in one."""

    def temperatures(self) -> Float64[np.ndarray, "k"]:
        """K, of the start and of each step."""
        given = np.asarray(self.temperature, dtype=np.float64)
        if given.ndim and given.shape != (self.steps + 1,):
            raise ValueError(
                f"temperature: expected {self.steps + 1} numbers, one for the start and one for "
                f"each step, got {given.shape}"
            )
        return np.broadcast_to(given, (self.steps + 1,)).copy()


@dataclass(frozen=True)
class Projected:
    """Positions on the constraints, and the molecules that could not be brought there."""

    positions: Float64[np.ndarray, "n 3"]
    """nm, molecules whole as they came in."""
    strained: Int64[np.ndarray, "s"]
    """Molecules of the system with a bead off its given place: about as near as their bonds let
    them come, unless they started many times ``solver.LARGEST_MOVE`` away."""
    broken: Int64[np.ndarray, "k"]
    """Molecules with a bond off its length: lengths that contradict each other, or a start
    too far off."""


@dataclass(frozen=True)
class Observation:
    """Energies on the way."""

    step: int
    energies: dict[str, Float64[np.ndarray, "m"]]
    """By term (``BONDED`` and ``PAIRS``) of each molecule, kJ/mol."""
    look: Callable[[], Float64[np.ndarray, "n 3"]]
    """Positions, nm; only good until the next step where nobody looks before."""

    @property
    def positions(self) -> Float64[np.ndarray, "n 3"]:
        """nm."""
        return self.look()


@dataclass(frozen=True)
class Trajectory:
    """What a run came to."""

    positions: Float64[np.ndarray, "n 3"]
    """nm, molecules whole."""
    velocities: Float64[np.ndarray, "n 3"]
    """nm/ps, of the way to these positions."""
    kinetic: Float64[np.ndarray, "t"]
    """Kinetic energy after each step, kJ/mol, of atoms as heavy as they count here."""
    observed: tuple[Observation, ...]
    strained: Int64[np.ndarray, "s"]
    """As in ``Projected``, of the start."""
    broken: Int64[np.ndarray, "k"]
    lists: int
    """How often pairs were listed."""


class LostError(ArithmeticError):
    """Positions that are not finite."""


@dataclass
class _Work:
    """Arrays of one run."""

    tables: Tables
    state: steps.State
    left: list[list[Any]]
    lists: steps.Lists | None = None
    count: int = 0
    box: Float64[np.ndarray, "3 3"] = field(default_factory=lambda: np.eye(3))


class Mechanics:
    """Force field, rigid bonds and beads of one system."""

    def __init__(
        self,
        mapping: SystemMapping,
        *,
        rigid: bool = True,
        cutoff: float = CUTOFF,
        lightest: float = LIGHTEST,
        epsilon: float | None = math.inf,
        far_every: int = 1,
        skin: float = SKIN,
        threads: int | None = None,
    ) -> None:
        """Tables of a system.

        Args:
            mapping: topology and beads.
            rigid: hold all bonds at their lengths; else only what the topology constrains.
            cutoff: of Lennard-Jones and Coulomb, nm.
            lightest: lighter atoms count as that heavy, u.
            epsilon: dielectric constant beyond the cut-off, ``math.inf`` for a conductor, None for
                the bare 1/r.
            far_every: pairs that are farther than ``NEAR`` push every so many steps, as much more.
            skin: pairs are listed that much beyond the cut-off, nm.
            threads: how many; by default Numba's number. Results do not depend on it.
        """
        self.mapping, self.rigid, self.cutoff, self.lightest = mapping, rigid, cutoff, lightest
        self.skin, self.far_every, self.threads = skin, far_every, threads
        self.field = ReactionField.from_epsilon(cutoff, epsilon)
        topology = mapping.topology
        self.atoms_in_box = topology.n_atoms
        self._places: Places = places_of(mapping)
        self._atom_types = topology.atom_type_index()
        self._charges = math.sqrt(COULOMB) * topology.charges()
        self._lennard_jones = LennardJonesTable.from_topology(topology)
        self._excluded = _exclusions(mapping)
        self._between = term_tables(topology.intermolecular)
        self._tables: dict[bytes, tuple[Tables, list[list[Any]]]] = {}
        self._quantiles, self._bits = quantiles(), pairs.bit_masks()
        self._capacity, self._candidates = [256, 64], 256

    @property
    def reach(self) -> float:
        """Pairs are listed up to this distance, nm; boxes are at least twice as high."""
        return self.cutoff + self.skin

    def firm(self, temperature: float, timestep: float) -> Float64[np.ndarray, "nb"]:
        """The narrowest width of each bead that steps can follow, nm.

        ``FIRM`` times dt sqrt(kT/m), m the mass that a force on the bead moves: a bead that is held
        more narrowly would swing faster than steps resolve, and in the end without bound. Where
        it is held exactly instead, it is off by less than one step moves it.

        Args:
            temperature: K.
            timestep: ps.
        """
        inverse = []
        for beads, atoms in zip(
            self.mapping.molecules, self.mapping.topology.molecule_types, strict=True
        ):
            masses = np.maximum(atoms.masses, self.lightest)[beads.weight_atoms]
            shares = beads.weights**2 / masses
            inverse.append(np.bincount(beads.weight_beads, shares, beads.n_beads))
        index = self.mapping.topology.molecule_type_index()
        per_bead = np.concatenate([np.zeros(0), *(inverse[t] for t in index)])
        found: np.ndarray = FIRM * timestep * np.sqrt(BOLTZMANN * temperature * per_bead)
        return found

    # --- what is asked for ------------------------------------------------------------------------

    def project(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        at: Float64[np.ndarray, "n 3"] | None = None,
        tolerance: float = TOLERANCE,
        box: Float64[np.ndarray, "3 3"] | None = None,
    ) -> Projected:
        """Moves atoms, light ones more than heavy ones, onto the constraints.

        Each molecule is on its own: what comes out does not depend on the others.

        Args:
            positions: nm, molecules whole.
            beads: nm, in the images of their molecules.
            widths: of the beads, nm: 0 for those that are held exactly; others are left alone.
            at: positions (nm) on the constraints, from which ``positions`` have been reached by
                small moves. Atoms are then moved along the directions of the constraints there
                (SHAKE), and one factorisation serves all iterations; molecules for which that
                is not enough are moved as without it. A molecule whose beads are off there keeps
                its beads where it has them there: it stays strained, without wandering.
            tolerance: largest deviation of a bond's length or of a coordinate of a bead that is
                left where it is, nm.
            box: lattice vectors as rows, nm, where molecules may be bonded to their own images.
        """
        with _Threads(self.threads):
            work = self._work(positions, beads, widths, box=box)
            return self._project(work, tolerance, at)

    def tangent(
        self,
        positions: Float64[np.ndarray, "n 3"],
        vectors: Float64[np.ndarray, "n 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        box: Float64[np.ndarray, "3 3"] | None = None,
    ) -> Float64[np.ndarray, "n 3"]:
        """Takes out of velocities or moves what would change a length or move a held bead.

        Args:
            positions: nm, molecules whole and projected.
            vectors: of any unit, one an atom.
            widths: of the beads, nm: 0 for those that are held exactly.
            box: as for ``project``.

        Returns:
            What is left, in the same unit.
        """
        with _Threads(self.threads):
            beads = np.zeros((self.mapping.n_beads, 3))
            work = self._work(positions, beads, widths, box=box)
            work.state.v[:] = self._places.spread(vectors)
            steps.tangent_all(work.tables, self._places.groups, work.state, np.inf)
            return self._places.gather(work.state.v)

    def run(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "3 3"],
        options: Langevin,
        names: Int64[np.ndarray, "n"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        velocities: Float64[np.ndarray, "n 3"] | None = None,
        every: int = 0,
        observe: Callable[[Observation], bool] | None = None,
    ) -> Trajectory:
        """Steps of constrained Langevin dynamics, from the nearest positions on the constraints.

        Args:
            positions: nm, molecules whole.
            beads: where they are held, nm, in the images of their molecules.
            box: lattice vectors as rows, nm.
            options: temperature, number and kind of steps.
            names: keys of the random numbers of each atom.
            widths: of the beads, nm: 0 for those that are held exactly, infinite for those that
                are free; others are held by kT/2 (distance/width)^2, or exactly where that is
                narrower than ``firm``.
            velocities: nm/ps, of atoms as heavy as they count here; drawn if there are none.
            every: observe after that many steps; 0 for not at all.
            observe: called with each observation; the run ends when it returns True. What it has
                seen is not kept.

        Raises:
            LostError: positions that are not finite.
        """
        with _Threads(self.threads):
            warmth = options.temperatures()
            firm = self.firm(float(warmth.max()), options.timestep)
            work = self._work(positions, beads, np.where(firm > widths, 0.0, widths), names, box)
            start = self._project(work, TOLERANCE)
            warmth = BOLTZMANN * warmth
            self._set_velocities(work, velocities, options, float(warmth[0]))
            kinetic, seen = self._steps(work, options, warmth, every, observe)
            return Trajectory(
                positions=self._places.gather(work.state.x),
                velocities=self._places.gather(work.state.v),
                kinetic=kinetic,
                observed=tuple(seen),
                strained=start.strained,
                broken=start.broken,
                lists=work.count,
            )

    def forces(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "3 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        temperature: float = 300.0,
        softness: float = 0.0,
    ) -> Float64[np.ndarray, "n 3"]:
        """Forces on all atoms, kJ/mol/nm, but for those of rigid bonds and held beads.

        Args:
            positions: nm, molecules whole.
            beads: nm, in the images of their molecules.
            box: lattice vectors as rows, nm.
            widths: of the beads, nm.
            temperature: at which the widths are meant, K.
            softness: of cores, as in ``Langevin``.
        """
        with _Threads(self.threads):
            work = self._work(positions, beads, widths, box=box)
            lists, parameters = self._list(work), self._field(softness)
            for far in (False, True):
                steps.forces_of_pairs(lists, parameters, work.state, far, 1.0)
            count = len(BONDED)
            energies = np.zeros(len(self._places.groups.types) * count * LANES)
            steps.bonded_all(
                work.tables, self._places.groups, work.state, BOLTZMANN * temperature, energies,
                count, False,
            )  # fmt: skip
            return self._places.gather(work.state.f + self._extra(work))

    def energies(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        box: Float64[np.ndarray, "3 3"],
        widths: float | Float64[np.ndarray, "nb"] = 0.0,
        *,
        temperature: float = 300.0,
        shifted: bool = False,
    ) -> dict[str, Float64[np.ndarray, "m"]]:
        """Energies of every molecule in kJ/mol, under the names of ``BONDED`` and ``PAIRS``.

        Args:
            positions: nm, molecules whole.
            beads: nm, in the images of their molecules.
            box: lattice vectors as rows, nm.
            widths: of the beads, nm.
            temperature: at which the widths are meant, K.
            shifted: count Lennard-Jones from zero at the cut-off: what dynamics conserves.
        """
        with _Threads(self.threads):
            work = self._work(positions, beads, widths, box=box)
            self._list(work)
            return self._energies(work, BOLTZMANN * temperature, shifted=shifted)

    # --- the state --------------------------------------------------------------------------------

    def _work(
        self,
        positions: Float64[np.ndarray, "n 3"],
        beads: Float64[np.ndarray, "nb 3"],
        widths: float | Float64[np.ndarray, "nb"],
        names: Int64[np.ndarray, "n"] | None = None,
        box: Float64[np.ndarray, "3 3"] | None = None,
    ) -> _Work:
        width = np.broadcast_to(np.asarray(widths, dtype=np.float64), (len(beads),))
        exact = width == 0.0
        tables, left = self._tables_for(exact)
        softness = np.where(exact, 0.0, 1.0 / np.where(exact, 1.0, width) ** 2)
        x = self._places.spread(positions)
        named = np.zeros(len(positions), dtype=np.int64) if names is None else names
        state = steps.State(
            x=x,
            v=np.zeros_like(x),
            f=np.zeros_like(x),
            names=np.ascontiguousarray(named[self._places.from_atoms], dtype=np.int64),
            beads=self._places.spread_beads(beads),
            active=exact[self._places.from_beads].astype(np.float64),
            softness=np.ascontiguousarray(softness[self._places.from_beads]),
            offsets=np.zeros_like(x),
            listed=x.copy(),
            extra=np.zeros(0),
            cell=np.zeros(9) if box is None else np.asarray(box, dtype=np.float64).ravel(),
            across=self._across(positions, box),
            room=np.empty((_available(), int(tables.first[:, ROOM].max(initial=0)))),
        )
        work = _Work(tables, state, left)
        if box is not None:
            work.box = np.ascontiguousarray(box, dtype=np.float64)
        return work

    def _across(
        self, positions: Float64[np.ndarray, "n 3"], box: Float64[np.ndarray, "3 3"] | None
    ) -> Int64[np.ndarray, "t"]:
        """1 for each molecule type of which a copy is bonded to its own image."""
        topology = self.mapping.topology
        found = np.zeros(len(topology.molecule_types), dtype=np.int64)
        if box is not None:
            spanning = spanning_molecules(positions, box, topology)
            np.maximum.at(found, topology.molecule_type_index(), spanning.astype(np.int64))
        return found

    def _cell_of(self, work: _Work, t: int) -> torch.Tensor | None:
        """The box, for terms of a type that is bonded to its own image."""
        return torch.from_numpy(work.box) if work.state.across[t] else None

    def _tables_for(self, exact: Bool[np.ndarray, "nb"]) -> tuple[Tables, list[list[Any]]]:
        """Tables for the beads that are held exactly, made once for each choice."""
        offsets, index = self.mapping.bead_offsets(), self.mapping.topology.molecule_type_index()
        held = [np.zeros(m.n_beads, dtype=bool) for m in self.mapping.molecules]
        for t in np.unique(index):
            which = offsets[np.flatnonzero(index == t)]
            held[t] |= exact[which[:, None] + np.arange(len(held[t]))].any(axis=0)
        key = np.concatenate([np.zeros(0, dtype=bool), *held]).tobytes()
        if key not in self._tables:
            self._tables[key] = tables_of(
                self.mapping, held, BONDED, rigid=self.rigid, lightest=self.lightest
            )
        return self._tables[key]

    def _project(
        self, work: _Work, tolerance: float, at: Float64[np.ndarray, "n 3"] | None = None
    ) -> Projected:
        groups = self._places.groups
        bonds, beads = np.zeros((2, len(groups.types) * LANES))
        start = np.zeros(0) if at is None else self._places.spread(at)
        steps.project_all(work.tables, groups, work.state, tolerance, start, bonds, beads)
        count = self.mapping.topology.n_molecules
        off = np.zeros((2, count), dtype=bool)
        # written so that what is not a number counts as off
        off[0, groups.molecules.ravel()] = ~(beads <= tolerance)
        off[1, groups.molecules.ravel()] = ~(bonds <= tolerance)
        strained, broken = (np.flatnonzero(o) for o in off)
        return Projected(self._places.gather(work.state.x), strained, broken)

    def _set_velocities(
        self,
        work: _Work,
        velocities: Float64[np.ndarray, "n 3"] | None,
        options: Langevin,
        warmth: float,
    ) -> None:
        groups = self._places.groups
        if velocities is None:
            steps.thermal_velocities(
                work.tables, groups, work.state, self._quantiles, options.first_step, warmth
            )
            steps.tangent_all(work.tables, groups, work.state, TOLERANCE)
        else:
            work.state.v[:] = self._places.spread(velocities)

    # --- steps ------------------------------------------------------------------------------------

    def _steps(
        self,
        work: _Work,
        options: Langevin,
        warmth: Float64[np.ndarray, "k"],
        every: int,
        observe: Callable[[Observation], bool] | None,
    ) -> tuple[Float64[np.ndarray, "k"], list[Observation]]:
        """The loop: lists when they are due, observations, and compiled steps between them."""
        kinetic = np.zeros(options.steps + 1)
        seen: list[Observation] = []
        step, due = 0, True
        slow = self._slow(work)
        while step < options.steps:
            if due:
                self._list(work)
            stop = options.steps if not every else min(options.steps, (step // every + 1) * every)
            if slow:
                stop = step + 1
                work.state = work.state._replace(extra=self._extra(work))
            reached = self._advance(work, options, warmth, step, stop, kinetic)
            due, step = reached < stop or self._far(work), reached
            if every and (step % every == 0 or step == options.steps):
                if due:
                    self._list(work)
                    due = False
                energies = self._energies(work, float(warmth[step]))
                there = self._places.gather(work.state.x)
                found = Observation(step, energies, lambda kept=there: kept)  # type: ignore[misc]
                if observe is None:
                    seen.append(found)
                elif observe(found):
                    break
        if not np.isfinite(work.state.x).all():
            raise LostError(self._lost(work))
        return kinetic, seen

    def _advance(
        self,
        work: _Work,
        options: Langevin,
        warmth: Float64[np.ndarray, "k"],
        step: int,
        stop: int,
        kinetic: Float64[np.ndarray, "t"],
    ) -> int:
        keep = math.exp(-options.friction * options.timestep)
        self._moved = np.zeros(len(self._places.groups.types))
        return int(
            steps.advance(
                work.tables, self._places.groups, work.state, work.lists,
                self._field(options.softness), self._quantiles, keep, step, stop, options.steps,
                options.first_step, warmth, options.timestep, options.largest_move,
                (ON_THE_WAY, TOLERANCE), 0.5 * self.skin, self._moved, kinetic,
            )
        )  # fmt: skip

    def _far(self, work: _Work) -> bool:
        """Whether an atom has moved farther than lists allow."""
        return bool(self._moved.max(initial=0.0) > (0.5 * self.skin) ** 2)

    def _field(self, softness: float) -> steps.Field:
        lj = self._lennard_jones
        c6, c12, sigma = (np.asarray(a.numpy()) for a in (lj.c6, lj.c12, lj.sigma))
        table = np.zeros((len(c6), len(c6), pairs.ROWS), dtype=np.float32)
        scale = 1.0 - softness
        table[..., 0], table[..., 1] = 12.0 * scale * c12, 6.0 * scale * c6
        table[..., 2] = np.where(c12 > 0.0, np.maximum(SOFT * sigma, CLOSEST), BARE) ** 2
        table[..., 3] = 0.5 * softness * sigma**6
        return steps.Field(
            table=table,
            bits=self._bits,
            n_types=len(c6),
            cutoff=self.cutoff,
            field=2.0 * self.field.k,
            scale=scale,
            charged=bool(self._charges.any()),
            far_every=self.far_every,
        )

    def _list(self, work: _Work) -> steps.Lists:
        """Lists pairs anew, in the memory of the lists before."""
        heights = 1.0 / np.linalg.norm(np.linalg.inv(work.box), axis=0)
        # clusters of a layer are worked on one after the other: the smaller it is, the less memory
        longest = np.argsort(-heights, kind="stable")
        state, box, heights = work.state, work.box[longest], heights[longest]
        inverse = np.linalg.inv(box)
        reach = self.reach
        if heights.min() < 2.0 * reach:
            raise ValueError(
                f"box: expected heights of at least {2.0 * reach:g} nm, twice cut-off and skin, "
                f"got {heights.min():.4g} nm"
            )
        n = len(self._places.atoms)
        side = (WIDTH * abs(float(np.linalg.det(box))) / max(1, self.atoms_in_box)) ** (1.0 / 3.0)
        columns = tuple(max(1, round(float(h) / side)) for h in heights[:2])
        fractions = np.empty((n, 3))
        atoms, places, slots, own, first, finite = pairs.sort_atoms(
            state.x, self._places.atoms, box, inverse, columns, state.offsets, fractions, LANES
        )
        if not finite:
            raise LostError(self._lost(work))
        points = np.zeros(4 * len(atoms))
        pairs.place(state.x, state.offsets, places, points, LANES)
        real = atoms >= 0
        points[3::4] = np.where(real, self._charges[atoms], 0.0)
        types = np.where(real, self._atom_types[atoms], 0)
        ones = np.array([-1.0, 0.0, 1.0])
        images = np.stack(np.meshgrid(ones, ones, ones, indexing="ij"), axis=-1).reshape(-1, 3)
        shifts = images @ box
        near = NEAR if self.far_every > 1 else 0.0
        rough = points.astype(np.float32), shifts.astype(np.float32)
        while True:
            made = self._made(len(atoms) // WIDTH, work)
            *most, most_near = pairs.list_pairs(
                atoms, own, first, rough[0], columns, inverse, rough[1], reach, near,
                self._excluded, *made, tuple(self._capacity), self._candidates,
            )  # fmt: skip
            if most_near <= self._candidates and all(
                m <= c for m, c in zip(most, self._capacity, strict=True)
            ):
                break
            self._candidates = max(self._candidates, most_near + most_near // 8)
            self._capacity = [
                max(c, m + m // 8 + 8) for m, c in zip(most, self._capacity, strict=True)
            ]
        state.listed[:] = state.x
        plain, masked, masks, starts, counts = made
        work.lists = steps.Lists(
            atoms, places, points, types, shifts, plain, masked, masks, starts, counts, slots
        )
        work.count += 1
        return work.lists

    def _made(self, clusters: int, work: _Work) -> tuple[np.ndarray, ...]:
        """Room for lists: that of the last ones where it is large enough, since a large box would
        be given other pages each time, and these to be cleared."""
        capacity, room = self._capacity
        before = work.lists
        if (
            before is None
            or len(before.plain) < clusters * capacity
            or (len(before.masked) < clusters * room)
        ):
            work.lists = None  # let go before the next ones are made
            clusters_more = clusters + clusters // 64
            flat = (
                np.empty(clusters_more * capacity, dtype=np.int32),
                np.empty(clusters_more * room, dtype=np.int32),
                np.empty(clusters_more * room, dtype=np.uint8),
            )
        else:
            flat = before.plain, before.masked, before.masks
        return *flat, np.empty((clusters, 2), np.int64), np.empty((clusters, 4), np.int32)

    def _lost(self, work: _Work) -> str:
        """Which molecule has positions that are not finite."""
        finite = np.isfinite(self._places.gather(work.state.x)).all(axis=1)
        atom = int(np.flatnonzero(~finite)[0])
        molecule = int(np.searchsorted(self.mapping.topology.molecule_offsets(), atom, "right"))
        return f"expected finite positions, got some that are not in molecule {molecule}"

    # --- energies ---------------------------------------------------------------------------------

    def _energies(
        self, work: _Work, warmth: float, *, shifted: bool = False
    ) -> dict[str, Float64[np.ndarray, "m"]]:
        groups, topology = self._places.groups, self.mapping.topology
        count, molecules = len(BONDED), topology.n_molecules
        bonded = np.zeros(len(groups.types) * count * LANES)
        f = work.state.f.copy()
        steps.bonded_all(work.tables, groups, work.state, warmth, bonded, count, True)
        work.state.f[:] = f
        by_group = bonded.reshape(-1, count, LANES).transpose(1, 0, 2)
        # what stands in for missing copies feels no pairs, and goes its own way
        real = np.arange(LANES) < groups.copies[:, None]
        found = {}
        for k, name in enumerate(BONDED):
            found[name] = np.zeros(molecules)
            found[name][groups.molecules[real]] = by_group[k][real]
        self._add_left(work, found)
        lists = work.lists
        assert lists is not None
        pairs.place(work.state.x, work.state.offsets, lists.places, lists.points, LANES)
        lj = self._lennard_jones
        c6, c12 = lj.c6.numpy(), lj.c12.numpy()
        end = c12 / self.cutoff**12 - c6 / self.cutoff**6
        table = np.stack([c12, c6, end if shifted else 0.0 * end], axis=-1).astype(np.float32)
        per_atom = np.zeros((topology.n_atoms, len(PAIRS)))
        pairs.pair_energies(
            lists.atoms, lists.points, lists.types, lists.shifts, lists.plain, lists.masked,
            lists.masks, lists.starts, lists.counts, self._bits, table, len(table), self.cutoff,
            self.field.k, self.field.c, self._excluded[0], per_atom,
        )  # fmt: skip
        for k, name in enumerate(PAIRS):
            found[name] = np.zeros(molecules)
            found[name] += np.bincount(self._excluded[0], per_atom[:, k], minlength=molecules)
        return found

    def _add_left(self, work: _Work, found: dict[str, Float64[np.ndarray, "m"]]) -> None:
        """Energies of terms without a kernel."""
        if not self._slow(work):
            return
        x = torch.from_numpy(self._places.gather(work.state.x))
        for first, _, cell, molecules, tables in self._molecules(work, x):
            for table in tables:
                values = table.energies(molecules, cell).sum(-1)
                found[table.term][first : first + len(molecules)] += values.numpy()
        share_between(found, self._between, x, torch.from_numpy(work.box), self._excluded[0])

    def _slow(self, work: _Work) -> bool:
        """Whether there are terms without a kernel: those between molecules have none."""
        return any(work.left) or bool(self._between)

    def _extra(self, work: _Work) -> Float64[np.ndarray, "p"]:
        """Forces of terms without a kernel, by automatic differentiation."""
        if not self._slow(work):
            return np.zeros_like(work.state.x)
        x = torch.from_numpy(self._places.gather(work.state.x))
        forces = torch.zeros_like(x)
        for _, start, cell, molecules, tables in self._molecules(work, x):
            found = forces_of(tables, molecules, cell).reshape(-1, 3)
            forces[start : start + len(found)] = found
        if self._between:
            forces += forces_of(self._between, x, torch.from_numpy(work.box))
        return self._places.spread(forces.numpy())

    def _molecules(
        self, work: _Work, x: torch.Tensor
    ) -> list[tuple[int, int, torch.Tensor | None, Any, list[Any]]]:
        """First molecule and atom, cell, copies, tables of each run whose type has such terms."""
        found = []
        start = molecule = 0
        for t, count in self.mapping.topology.blocks:
            size = self.mapping.topology.molecule_types[t].n_atoms
            end = start + size * count
            if work.left[t]:
                copies = x[start:end].reshape(-1, size, 3)
                found.append((molecule, start, self._cell_of(work, t), copies, work.left[t]))
            start, molecule = end, molecule + count
        return found


def forces_of(
    tables: Sequence[TermTable], x: Float64[torch.Tensor, "*c a 3"], cell: torch.Tensor | None
) -> Float64[torch.Tensor, "*c a 3"]:
    """Forces by automatic differentiation, kJ/mol/nm."""
    with torch.enable_grad():
        at = x.detach().requires_grad_(True)
        total = torch.stack([t.energies(at, cell).sum() for t in tables]).sum()
        (gradient,) = torch.autograd.grad(total, at)
    return -gradient


def _available() -> int:
    """Threads that Numba has started or may start."""
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


class _Threads:
    """Numba's number of threads, while something is done."""

    def __init__(self, count: int | None) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._before = numba.get_num_threads()
        if self._count is not None:
            numba.set_num_threads(min(self._count, _available()))

    def __exit__(self, *_: object) -> None:
        numba.set_num_threads(self._before)


def _exclusions(mapping: SystemMapping) -> tuple[np.ndarray, ...]:
    """Molecule and number in it of each atom, and the exclusions of each type's atoms: first of
    its own in a list of rows, first of each row, and with whom."""
    topology = mapping.topology
    molecule = Exclusions(topology).molecule.astype(np.int32)
    local = (np.arange(topology.n_atoms) - topology.molecule_offsets()[molecule]).astype(np.int32)
    starts, withs, rows = [], [], [0]
    total = 0
    for m in topology.molecule_types:
        pairs_of = np.concatenate([m.exclusions, m.exclusions[:, ::-1]]).reshape(-1, 2)
        pairs_of = pairs_of[np.lexsort((pairs_of[:, 1], pairs_of[:, 0]))]
        starts.append(total + np.searchsorted(pairs_of[:, 0], np.arange(m.n_atoms + 1)))
        withs.append(pairs_of[:, 1])
        rows.append(rows[-1] + m.n_atoms + 1)
        total += len(pairs_of)
    kinds = topology.molecule_type_index()
    first_row = np.array(rows[:-1], dtype=np.int64)[kinds[molecule]]
    return (
        molecule,
        local,
        np.ascontiguousarray(first_row),
        np.concatenate(starts).astype(np.int64),
        np.concatenate(withs).astype(np.int32),
    )

"""Atoms for the beads of a frame, from a topology, a mapping and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from deepbackmap.blocks.handedness import Handedness
from deepbackmap.blocks.index import endless_molecules, whole_beads
from deepbackmap.chemistry.double_bonds import WantedSides, sides
from deepbackmap.chemistry.rings import find_rings, pierced_rings
from deepbackmap.chemistry.stereo import restore, volumes
from deepbackmap.errors import InputError
from deepbackmap.geometry.cell import cell_volume, minimum_image
from deepbackmap.geometry.counter_random import hash_counters, uniform
from deepbackmap.geometry.frame_noise import Turn, turn_of
from deepbackmap.mapping import SystemMapping
from deepbackmap.mechanics.settle import Settled
from deepbackmap.methods.options import correlation_time
from deepbackmap.methods.physics.library import (
    Library,
    candidates,
    make_library,
    mirrored,
)
from deepbackmap.methods.physics.options import PhysicsSamplingOptions
from deepbackmap.methods.physics.packing import Crowd, pair_table
from deepbackmap.methods.physics.tables import vacuum_tables
from deepbackmap.methods.physics.vacuum import Conformations, VacuumOptions, conformations
from deepbackmap.methods.physics.windows import Window, find_windows, kind_of, rows_inside
from deepbackmap.methods.settling import ANEW, LastSteps
from deepbackmap.quantities import BOLTZMANN
from deepbackmap.system import Structure, Topology

_DRAW, _CHOOSE = range(32, 34)
"""Streams of random numbers."""
LIGHT = 3.0
"""u: lighter atoms are hydrogens."""


@dataclass(frozen=True)
class _Effort:
    """Of the dynamics in vacuo."""

    temperature: float
    """K."""
    conformations: int
    pieces: int
    seed: int


@dataclass(frozen=True)
class _Group:
    """One window of some molecules of a type."""

    library: Library
    molecules: Int64[np.ndarray, " m"]
    beads: Int64[np.ndarray, "m b"]
    """Of the system."""
    atoms: Int64[np.ndarray, "m a"]
    """Of the system: all of the window."""
    own: Int64[np.ndarray, "m o"]
    joint: Int64[np.ndarray, "m j"]


class PhysicsSampler:
    """Puts the atoms of one topology back, frame by frame, without a model."""

    def __init__(
        self,
        mapping: SystemMapping,
        options: PhysicsSamplingOptions,
        temperature: float,
        handedness: Handedness | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Runs the dynamics of every kind of window.

        Args:
            mapping: of the system.
            options: effort.
            temperature: K.
            handedness: of centres, true stereocentres or any other with four branches; None: any.
            device: that the last steps are taken on; all else is done by processors.

        Raises:
            InputError: a molecule that dynamics cannot bring into shape.
        """
        self.mapping, self.options, self._temperature = mapping, options, temperature
        self._groups = _find_groups(mapping, options, temperature, handedness)
        self._pairs = pair_table(mapping.topology)
        self.last_steps = LastSteps(mapping, options, temperature, device=device)
        self.settled: Settled | None = None
        self._rings, self._bonds = _rings(mapping.topology)
        self._light = mapping.topology.masses() < LIGHT
        self._centres, self._signs = _wanted(handedness)
        self._sides = _wanted_sides(handedness)

    @property
    def placements(self) -> int:
        """Windows placed for a frame, for progress bars."""
        return sum(len(g.own) for g in self._groups) * (1 + self.options.sweeps)

    def sample(
        self,
        beads: Structure,
        *,
        frame: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Structure:
        """Atoms for one frame of beads; molecules are whole.

        Where a bond goes through a ring in the end, a centre has the wrong hand or a double bond is
        on the wrong side, all are placed anew on the beads of what was made.

        Args:
            beads: positions of the beads in the order of the mapping.
            frame: its number, which names the random numbers together with the seed.
            progress: called with the number of windows placed since the last call.

        Raises:
            InputError: wrong number of beads, or a box too small for the dynamics.
        """
        if beads.n != self.mapping.n_beads:
            raise InputError(
                f"frame {frame}: expected {self.mapping.n_beads} beads, found {beads.n}"
            )
        self.last_steps.check_box(beads, frame)
        report = progress or (lambda n: None)
        self.settled = self.last_steps.until_right(
            lambda near, attempt, _: self._start(near, self._turn(beads, frame, attempt), report),
            self._any_stuck(beads), beads, frame,
        )  # fmt: skip
        return Structure(positions=self.settled.positions, box=beads.box, time=beads.time)

    def _start(
        self, beads: Structure, turn: Turn, report: Callable[[int], None]
    ) -> Float64[np.ndarray, "n 3"]:
        """Conformations set onto beads, hands as they are wanted."""
        whole = whole_beads(beads.positions, beads.box, self.mapping)
        placed = self._place(whole, beads.box, turn, report).positions
        restore(placed, self._centres, self._signs, self._light, beads.box)
        return placed

    def _turn(self, beads: Structure, frame: int, attempt: int) -> Turn:
        """The random numbers of an attempt at a frame."""
        tau = correlation_time(self.options.noise)
        return turn_of(frame + attempt * ANEW, beads.time, tau)

    def _any_stuck(self, beads: Structure) -> Callable[[Float64[np.ndarray, "n 3"]], bool]:
        """Whether rings with a bond through them, or what is of the wrong hand or on the wrong
        side, are among atoms."""
        return lambda x: bool(self._stuck(Structure(positions=x, box=beads.box)).any())

    def place(
        self, whole: Float64[np.ndarray, "b 3"], box: Float64[np.ndarray, "3 3"], frame: int
    ) -> Float64[np.ndarray, "n 3"]:
        """Conformations set onto beads, window by window, without the dynamics.

        Args:
            whole: beads, nm, molecules whole.
            box: lattice vectors as rows, nm.
            frame: names the random numbers.

        Returns:
            Atoms in nm; bonds between windows and beads are near, not exact.
        """
        return self._place(whole, box, Turn(frame), lambda n: None).positions

    def _place(
        self, whole: np.ndarray, box: np.ndarray, turn: Turn, progress: Callable[[int], None]
    ) -> Crowd:
        """All molecules: first without company, then in sweeps in which all others count."""
        n = self.mapping.topology.n_atoms
        crowd = Crowd(n, box, self._pairs, n / cell_volume(box))
        placed = np.zeros(n, dtype=bool)
        beta = 1.0 / (BOLTZMANN * self._temperature)
        endless = endless_molecules(whole, box, self.mapping)
        for sweep in range(1 + self.options.sweeps):
            for group in self._groups:
                points = _beside(group, whole, crowd.positions, box, endless[group.molecules])
                self._draw(crowd, group, placed, points, turn, sweep, beta if sweep else 0.0)
                placed[group.own] = True
                progress(len(group.own))
        return crowd

    def _draw(
        self,
        crowd: Crowd,
        group: _Group,
        placed: Bool[np.ndarray, " n"],
        points: tuple[Float64[np.ndarray, "m b 3"], Float64[np.ndarray, "m j 3"]],
        turn: Turn,
        sweep: int,
        beta: float,
    ) -> None:
        """One window of every molecule of a group.

        Args:
            crowd: all that has been placed.
            group: the window.
            placed: which atoms have been.
            points: beads and joint atoms that it is fitted to, nm.
            turn: random numbers of the frame.
            sweep: 0: the first placement.
            beta: 1/kT, mol/kJ; 0 without company.
        """
        wanted, seed = self.options.candidates, self.options.seed
        names = torch.from_numpy(group.own[:, 0])
        draws = turn.renewed(hash_counters(seed, turn.number, sweep, _DRAW, names))
        numbers = uniform(draws, 3 * wanted)
        found = candidates(
            group.library, *points,
            placed[group.joint[0]], numbers.numpy().astype(np.float64), wanted,
        )  # fmt: skip
        choices = turn.renewed(hash_counters(seed, turn.number, sweep, _CHOOSE, names))
        noise = uniform(choices, found.scores.shape[1])
        crowd.choose(
            group.atoms, group.own, found.atoms, found.scores,
            noise.numpy().astype(np.float64), beta,
        )  # fmt: skip

    def _stuck(self, made: Structure) -> Bool[np.ndarray, " n"]:
        """Atoms of rings that a bond goes through, of these bonds, of centres of the wrong hand and
        of double bonds on the wrong side."""
        stuck = np.zeros(made.n, dtype=bool)
        wrong = volumes(made.positions, self._centres, made.box) * self._signs < 0
        stuck[self._centres[wrong].ravel()] = True
        turned = sides(made, self._sides.atoms) != self._sides.side
        stuck[self._sides.atoms[turned].ravel()] = True
        for rings in self._rings:
            found = pierced_rings(made, rings, self._bonds)
            stuck[rings[found[:, 0]].ravel()] = True
            stuck[self._bonds[found[:, 1]].ravel()] = True
        return stuck


def _beside(
    group: _Group,
    whole: Float64[np.ndarray, "nb 3"],
    atoms: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"],
    endless: Bool[np.ndarray, " m"],
) -> tuple[Float64[np.ndarray, "m b 3"], Float64[np.ndarray, "m j 3"]]:
    """Beads and joint atoms of a window, beside each other also in molecules without an end."""
    beads, joint = whole[group.beads], atoms[group.joint]
    first = beads[endless, :1]
    beads[endless] = first + minimum_image(beads[endless] - first, box)
    joint[endless] = first + minimum_image(joint[endless] - first, box)
    return beads, joint


def _wanted(
    handedness: Handedness | None,
) -> tuple[Int64[np.ndarray, "c 5"], Int64[np.ndarray, " c"]]:
    """Centres whose hand is asked for, and the hands."""
    if handedness is None:
        return np.zeros((0, 5), dtype=np.int64), np.zeros(0, dtype=np.int64)
    atoms, sign = handedness.atoms.cpu().numpy(), handedness.sign.cpu().numpy()
    return atoms[sign != 0], sign[sign != 0]


def _wanted_sides(handedness: Handedness | None) -> WantedSides:
    """Double bonds whose side is asked for."""
    found = WantedSides.nothing() if handedness is None else handedness.sides
    known = found.side != 0
    return WantedSides(found.atoms[known], found.side[known])


def _rings(topology: Topology) -> tuple[tuple[np.ndarray, ...], Int64[np.ndarray, "b 2"]]:
    """Rings of the system by size, and its bonds."""
    first, index = topology.molecule_offsets()[:-1], topology.molecule_type_index()
    by_size: dict[int, list[np.ndarray]] = {}
    bonds = [np.zeros((0, 2), dtype=np.int64)]
    for t, molecule in enumerate(topology.molecule_types):
        shifts = first[index == t][:, None, None]
        bonds.append((molecule.bonds + shifts).reshape(-1, 2))
        for ring in find_rings(molecule):
            by_size.setdefault(len(ring), []).append((np.array([ring]) + shifts)[:, 0])
    return tuple(np.concatenate(by_size[size]) for size in sorted(by_size)), np.concatenate(bonds)


def _find_groups(
    mapping: SystemMapping,
    options: PhysicsSamplingOptions,
    temperature: float,
    handedness: Handedness | None,
) -> tuple[_Group, ...]:
    """Windows of all molecules, in the order in which they are drawn."""
    topology = mapping.topology
    first_atom, first_bead = topology.molecule_offsets(), mapping.bead_offsets()
    wanted = _wanted_sides(handedness)
    asked = _wanted(handedness), (wanted.atoms, wanted.side)
    libraries: dict[bytes, Library] = {}
    effort = _Effort(temperature, options.conformations, options.pieces, options.seed)
    groups = []
    index = topology.molecule_type_index()
    for t in sorted(set(index.tolist())):
        molecules = np.flatnonzero(index == t)
        (local, hands), (bonds, turns) = (
            _local(rows, signs, molecules, first_atom) for rows, signs in asked
        )
        for window in find_windows(topology.molecule_types[t], mapping.molecules[t]):
            inside, between = rows_inside(window, local), rows_inside(window, bonds)
            patterns, member = np.unique(
                np.concatenate([hands[:, inside], turns[:, between]], axis=1),
                axis=0, return_inverse=True,
            )  # fmt: skip
            for row, pattern in enumerate(patterns):
                chosen = molecules[member.reshape(-1) == row]
                cis = WantedSides(bonds[between], pattern[len(inside) :])
                library = _library(
                    mapping, effort, window, local[inside], pattern[: len(inside)], cis, libraries
                )
                atoms = first_atom[chosen, None] + window.atoms
                beads = first_bead[chosen, None] + window.beads
                own, joint = atoms[:, window.own], atoms[:, window.joint]
                groups.append(_Group(library, chosen, beads, atoms, own, joint))
    return tuple(groups)


def _local(
    rows: np.ndarray, signs: np.ndarray, molecules: np.ndarray, first_atom: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centres or double bonds of a molecule type, and their signs in each molecule (0: any)."""
    owner = np.searchsorted(first_atom, rows[:, 0], side="right") - 1
    mine = np.isin(owner, molecules)
    if not mine.any():
        return rows[:0], np.zeros((len(molecules), 0), dtype=np.int64)
    relative = rows[mine] - first_atom[owner[mine]][:, None]
    local, which = np.unique(relative, axis=0, return_inverse=True)
    by_molecule = np.zeros((len(molecules), len(local)), dtype=np.int64)
    by_molecule[np.searchsorted(molecules, owner[mine]), which.reshape(-1)] = signs[mine]
    return local, by_molecule


def _library(
    mapping: SystemMapping, options: _Effort, window: Window, centres: np.ndarray,
    pattern: np.ndarray, cis: WantedSides, known: dict[bytes, Library],
) -> Library:  # fmt: skip
    """The conformations of a window with its hands and sides; each kind is run once, mirror images
    never."""
    asked = pattern != 0
    places = np.searchsorted(window.atoms, centres[asked])
    signs = pattern[asked]
    flip = bool(len(signs)) and signs[0] < 0
    signs = -signs if flip else signs
    cis = WantedSides(np.searchsorted(window.atoms, cis.atoms), cis.side)
    kind = b"|".join([
        kind_of(window, places), signs.astype(np.int8).tobytes(), cis.atoms.tobytes(),
        cis.side.astype(np.int8).tobytes(),
    ])  # fmt: skip
    if kind not in known:
        known[kind] = _run(mapping, options, window, places, signs, cis)
        known[kind + b"mirrored"] = mirrored(known[kind])
    return known[kind + b"mirrored"] if flip else known[kind]


def _run(
    mapping: SystemMapping, options: _Effort, window: Window, centres: np.ndarray,
    signs: np.ndarray, cis: WantedSides,
) -> Library:  # fmt: skip
    """Dynamics of one kind of window."""
    molecule = window.molecule
    if molecule.n_atoms == 1:
        found = Conformations(np.zeros((1, 1, 3)), np.zeros(1))
        return make_library(found, window, mirror=False)
    tables = vacuum_tables(
        molecule, mapping.topology, options.temperature, centres, signs.astype(np.float64), cis
    )
    whole = len(window.own) == len(window.atoms)
    how = VacuumOptions(options.temperature, seed=options.seed)
    frames = -(-(options.conformations if whole else options.pieces) // how.copies)
    how = VacuumOptions(options.temperature, seed=options.seed, steps=frames * how.every)
    try:
        found = conformations(tables, how)
    except ValueError as error:
        raise InputError(
            f"{mapping.topology.source}: expected a molecule {molecule.name} that dynamics in "
            f"vacuo brings into shape ({len(window.atoms)} atoms about bead "
            f"{int(window.beads[0]) + 1}), found none"
        ) from error
    return make_library(found, window, mirror=not len(signs))

"""How each frame is measured, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.evaluation import contacts, rings, stereo
from deepbackmap.evaluation.metrics import histogram
from deepbackmap.evaluation.plan import Plan
from deepbackmap.forcefield import energies_per_molecule, terms
from deepbackmap.system import BondedTerms, Structure, Topology

ANGLE_BINS = (80.0, 150.0, 140)
"""Degrees, degrees, number; values outside go into the end bins."""
DIHEDRAL_BINS = (-180.0, 180.0, 90)
IMPROPER_BINS = (-30.0, 30.0, 60)
CLOSE = 0.6
"""In sigma: a pair nearer than that is a clash."""


@runtime_checkable
class Frames(Protocol):
    """Frames that can be counted and gone through more than once: a list, or a file's."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Structure]: ...


@dataclass(frozen=True)
class Measurements:
    """What the frames of one sample show; the first axis of every array counts the frames."""

    angles: Mapping[str, Int64[np.ndarray, "f _"]]
    """Counts in ``ANGLE_BINS`` by types."""
    dihedrals: Mapping[str, Int64[np.ndarray, "f _"]]
    """Counts in ``DIHEDRAL_BINS`` by types."""
    impropers: Int64[np.ndarray, "f b"]
    """Counts in ``IMPROPER_BINS``, deviations from the force field's value."""
    angle_energy: Float64[np.ndarray, " f"]
    """Of the system, kJ/mol."""
    improper_energy: Float64[np.ndarray, " f"]
    """Of the system, kJ/mol."""
    lj: Float64[np.ndarray, "f m"]
    """Lennard-Jones energy of every molecule, kJ/mol: intra and half of inter."""
    rdf: Float64[np.ndarray, "f r"]
    """g(r) of heavy atoms."""
    closest: Float64[np.ndarray, " f"]
    """Smallest distance of a pair that is not excluded, in sigma; infinite where no pair is
    nearer than its sigma."""
    clashes: Int64[np.ndarray, " f"]
    """Pairs nearer than ``CLOSE``."""
    handedness: Int64[np.ndarray, "f c"]
    """1 or -1 for every stereocentre."""
    prochiral: Int64[np.ndarray, "f p"]
    """1 or -1 for every pair of equal hydrogens."""
    pierced: Int64[np.ndarray, " f"]
    """Bonds through rings."""
    bond_squares: Float64[np.ndarray, " f"]
    """Mean square deviation of bond lengths from the force field, nm^2."""
    bond_largest: Float64[np.ndarray, " f"]
    """Largest deviation, nm."""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.lj)

    def select(self, frames: Sequence[int]) -> Measurements:
        """The same of some of the frames."""
        rows = np.asarray(frames, dtype=np.int64)
        return _apply(lambda parts: parts[0][rows], [self])


def _apply(
    function: Callable[[list[np.ndarray]], np.ndarray], parts: Sequence[Measurements]
) -> Measurements:
    """Makes measurements of some others, array by array."""
    made: dict[str, Any] = {}
    for item in fields(Measurements):
        values = [getattr(part, item.name) for part in parts]
        if isinstance(values[0], np.ndarray):
            made[item.name] = function(values)
        else:
            made[item.name] = {k: function([v[k] for v in values]) for k in values[0]}
    return Measurements(**made)


def measure(plan: Plan, frames: Frames, *, source: str = "frames") -> Measurements:
    """Measures a sample frame by frame; only histograms and figures are kept.

    Args:
        plan: of the system.
        frames: at least one; molecules need not be whole.
        source: what to call the sample in an error.

    Raises:
        InputError: there is no frame, or a frame has the wrong number of atoms, a coordinate
            that is not finite, or a box that cannot be used.
    """
    if not len(frames):
        raise InputError(f"{source}: expected at least one frame, found none.")
    with _one_thread():
        found = [
            _measure_frame(plan, _checked(frame, plan.topology, f"{source}, frame {index + 1}"))
            for index, frame in enumerate(frames)
        ]
    return _apply(np.concatenate, found)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch to one thread: the arrays of a frame are so small that threads only wait.

    Measured on a busy machine of two cores: the angles of 5832 atoms take 3 ms on one thread
    and 240 ms on two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _checked(frame: Structure, topology: Topology, source: str) -> Structure:
    """The frame, if it can be measured."""
    if frame.n != topology.n_atoms:
        raise InputError(
            f"{source}: expected {topology.n_atoms} atoms as in {topology.source}, found {frame.n}."
        )
    bad = np.flatnonzero(~np.isfinite(frame.positions).all(axis=1))
    if len(bad):
        raise InputError(
            f"{source}: expected finite coordinates, found {frame.positions[bad[0]].tolist()} "
            f"for atom {bad[0] + 1}."
        )
    if not np.linalg.det(frame.box) > 0.0:
        raise InputError(
            f"{source}: expected a periodic box, found lattice vectors {frame.box.tolist()}."
        )
    return frame


def _measure_frame(plan: Plan, frame: Structure) -> Measurements:
    """Everything about one frame."""
    positions, box = torch.tensor(frame.positions), torch.tensor(frame.box)

    def degrees(function: Callable[..., torch.Tensor], atoms: np.ndarray) -> np.ndarray:
        return np.degrees(function(positions, torch.tensor(atoms), box).numpy())

    def energy(kind: str, listed: BondedTerms) -> float:
        index, parameters = torch.tensor(listed.atoms), torch.tensor(listed.parameters)
        return float(terms.FUNCTIONS[kind](positions, index, parameters, box).sum())

    xi = degrees(terms.dihedrals, plan.impropers.atoms)
    deviation = xi - np.degrees(plan.impropers.parameters[:, 0])
    lengths = terms.distances(positions, torch.tensor(plan.lengths.atoms), box).numpy()
    stretched = lengths - plan.lengths.parameters[:, 0]
    close = contacts.relative_distances(frame, plan.topology, plan.forcefield.exclusions)
    pierced = [rings.pierced_rings(frame, r, plan.lengths.atoms) for r in plan.rings]
    found = energies_per_molecule(plan.forcefield, frame)
    return Measurements(
        angles={
            label: histogram(degrees(terms.angles, atoms), *ANGLE_BINS)[None]
            for label, atoms in plan.angles.items()
        },
        dihedrals={
            label: histogram(degrees(terms.dihedrals, atoms), *DIHEDRAL_BINS)[None]
            for label, atoms in plan.dihedrals.items()
        },
        impropers=histogram((deviation + 180.0) % 360.0 - 180.0, *IMPROPER_BINS)[None],
        angle_energy=np.array([sum(energy(kind, t) for kind, t in plan.angle_terms.items())]),
        improper_energy=np.array([energy("improper", plan.impropers)]),
        lj=(found["lj intra"] + found["lj inter"])[None],
        rdf=contacts.radial_distribution(frame, plan.heavy, plan.near)[None],
        closest=np.array([close.min(initial=math.inf)]),
        clashes=np.array([np.count_nonzero(close < CLOSE)]),
        handedness=stereo.handedness(frame, plan.centres)[None],
        prochiral=stereo.prochiral_labels(frame, plan.prochiral)[None],
        pierced=np.array([sum(len(found) for found in pierced)]),
        bond_squares=np.array([np.mean(stretched**2) if len(stretched) else 0.0]),
        bond_largest=np.array([np.abs(stretched).max(initial=0.0)]),
    )

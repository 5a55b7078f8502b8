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

from deepbackmap.chemistry import rings, stereo
from deepbackmap.errors import InputError
from deepbackmap.evaluation import contacts
from deepbackmap.evaluation.defects import CLOSE
from deepbackmap.evaluation.judge import Judge, Look
from deepbackmap.evaluation.metrics import histogram
from deepbackmap.evaluation.plan import Plan, atom_name
from deepbackmap.forcefield import terms
from deepbackmap.forcefield.molecules import energies_per_molecule
from deepbackmap.geometry.cell import minimum_image
from deepbackmap.mapping import SystemMapping
from deepbackmap.system import Structure

OVERLAP = 0.02
"""nm: a pair nearer than that overlaps, whatever its atoms are."""
COINCIDENT = 0.001
"""nm: atoms that are not excluded and nearer than that have no energy worth the name."""
STRETCHED, STRETCHED_SHARE = 2.0, 0.2
"""Bonds of so many times their length, and the share of them from which on the atoms are surely
not in the order of the topology."""


@runtime_checkable
class Frames(Protocol):
    """Frames that can be counted and gone through more than once: a list, or a file's."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Structure]: ...


@dataclass(frozen=True)
class Measurements:
    """What the frames of one sample show; the first axis of every array counts the frames."""

    counts: Mapping[str, Int64[np.ndarray, "f _"]]
    """Histograms by name of the observable (``Plan.observables``)."""
    energies: Mapping[str, Float64[np.ndarray, "f m"]]
    """Of every molecule, kJ/mol, by name (``forcefield.molecules``)."""
    rdf: Mapping[str, Float64[np.ndarray, "f g"]]
    """g(r) by name (``Plan.rdf_names``)."""
    closest: Float64[np.ndarray, " f"]
    """Smallest distance of a pair that is not excluded, in sigma; infinite where no pair is
    nearer than its sigma."""
    nearest: Float64[np.ndarray, " f"]
    """The same in nm, whether pairs have a sigma or overlap; infinite where there are none."""
    nearest_pair: Int64[np.ndarray, "f 2"]
    """Atoms of it; -1 where there is none."""
    overlaps: Int64[np.ndarray, " f"]
    """Pairs nearer than ``OVERLAP``."""
    clashes: Int64[np.ndarray, " f"]
    """Pairs nearer than ``defects.CLOSE``."""
    clashes_of: Int64[np.ndarray, "f m"]
    """Of them, those that each molecule takes part in."""
    handedness: Int64[np.ndarray, "f c"]
    """1 or -1 for every stereocentre; 0 where its branches lie in a plane."""
    prochiral: Int64[np.ndarray, "f p"]
    """1 or -1 for every pair of equal hydrogens; 0 where both lie in the plane."""
    pierced_of: Int64[np.ndarray, "f m"]
    """Bonds through the rings of every molecule."""
    ring_rms: Float64[np.ndarray, "f r"]
    """Rms distance of every ring's atoms from their mean plane, nm."""
    bond_squares: Float64[np.ndarray, " f"]
    """Mean square deviation of bond lengths from the force field, nm^2."""
    bond_largest: Float64[np.ndarray, " f"]
    """Largest deviation, nm."""
    beads: Mapping[str, Float64[np.ndarray, " f"]]
    """Rms and largest distance of the re-mapped beads from those given, nm; empty without."""
    figures: np.ndarray
    """What every frame shows by itself: objects of ``defects.Figures``."""

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.closest)

    @property
    def lj(self) -> Float64[np.ndarray, "f m"]:
        """Lennard-Jones energy of every molecule, kJ/mol: intra and half of inter."""
        return self.energies["lj intra"] + self.energies["lj inter"]

    @property
    def pierced(self) -> Int64[np.ndarray, " f"]:
        """Bonds through rings."""
        return self.pierced_of.sum(axis=1)

    def select(self, frames: Sequence[int] | Int64[np.ndarray, " k"]) -> Measurements:
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


@dataclass(frozen=True)
class Beads:
    """The coarse-grained input of generated frames."""

    frames: Frames
    """One for every generated frame."""
    mapping: SystemMapping
    """What maps the atoms onto them."""


def measure(
    plan: Plan,
    frames: Frames,
    *,
    source: str = "frames",
    numbers: Sequence[int] | None = None,
    beads: Beads | None = None,
    judge: Judge | None = None,
) -> Measurements:
    """Measures a sample frame by frame; only histograms and figures are kept.

    Args:
        plan: of the system.
        frames: at least one; molecules need not be whole.
        source: what to call the sample in an error.
        numbers: of the frames, for errors; 1, 2, ... by default.
        beads: what the frames were made from, to see how well their atoms map back onto it.
        judge: finds what frames show by themselves; by default one that knows of the system what
            its frames themselves say.

    Raises:
        InputError: there is no frame; a frame has the wrong number of atoms, a coordinate that is
            not finite, a box that cannot be used, atoms on top of each other, or bonds that show
            its atoms to be in another order; or the beads do not belong to the frames.
    """
    if not len(frames):
        raise InputError(f"{source}: expected at least one frame, found none.")
    if beads is not None and len(beads.frames) != len(frames):
        raise InputError(
            f"beads: expected a frame for each of the {len(frames)} generated frames, "
            f"found {len(beads.frames)}."
        )
    labels = numbers if numbers is not None else range(1, len(frames) + 1)
    given = beads.frames if beads is not None else [None] * len(frames)
    if judge is None:
        judge = Judge(plan.topology, None if beads is None else beads.mapping, plan=plan)

    jobs = zip(labels, frames, given, strict=True)
    with one_thread():
        return together([measure_frame(judge, plan, f, b, k, source) for k, f, b in jobs])


def measure_frame(
    judge: Judge,
    plan: Plan,
    frame: Structure,
    beads: Structure | None,
    number: int,
    source: str,
) -> Measurements:
    """Measures one frame.

    Args:
        judge: finds what it shows by itself.
        plan: of the system.
        frame: molecules need not be whole.
        beads: what it was made from, if that is known.
        number: of the frame, for errors.
        source: what to call the sample in an error.

    Raises:
        InputError: as ``measure``.
    """
    where = f"{source}, frame {number}"
    checked = _checked(frame, plan, where)
    if beads is not None:
        judge.check_beads(beads, number)
    return _measure_frame(judge, plan, checked, beads, number, where)


def together(parts: Sequence[Measurements]) -> Measurements:
    """The measurements of many frames, in their order."""
    return _apply(np.concatenate, parts)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread while frames are measured: their arrays are so small that threads
    only wait.

    Measured on a busy machine of two cores: the angles of 5832 atoms take 3 ms on one thread
    and 240 ms on two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _checked(frame: Structure, plan: Plan, source: str) -> Structure:
    """The frame, if it can be measured."""
    topology, least = plan.topology, 2.0 * plan.forcefield.cutoff
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
    if frame.box.diagonal().min() < least:
        raise InputError(
            f"{source}: expected a box of at least {least:g} nm along every axis (twice the "
            f"cut-off), found {frame.box.diagonal().min():.3g} nm."
        )
    return frame


def _measure_frame(
    judge: Judge, plan: Plan, frame: Structure, beads: Structure | None, number: int, where: str
) -> Measurements:
    """Everything about one frame."""
    values = _coordinates(plan, frame)
    _check_order(plan, frame, where)
    look = judge.look(frame)
    close = _close(judge, look, frame, plan, where)
    energies = energies_per_molecule(plan.forcefield, frame)
    figures = judge.figures(look, frame, beads, number, _by_term(energies))
    clashing = plan.molecule[look.near.pairs[look.near.relative < CLOSE]]
    # a clash inside one molecule counts once
    clashing = np.where(clashing[:, :1] == clashing[:, 1:], [[1, 0]], 1) * (clashing + 1)
    pierced = [plan.molecule[ring] for ring, *_ in look.pierced]
    n_molecules = plan.topology.n_molecules
    curves = contacts.radial_distributions(frame, plan.heavy, plan.heavy_groups, plan.near)
    apart = {"rms": figures.beads.rms, "largest": figures.beads.largest}
    own = np.empty(1, dtype=object)
    own[0] = figures
    return Measurements(
        counts={o.name: histogram(values[o.kind][o.rows], *o.bins)[None] for o in plan.observables},
        energies={name: energy[None] for name, energy in energies.items()},
        rdf={name: g[None] for name, g in zip(plan.rdf_names, curves, strict=True)},
        closest=np.array([figures.contacts.closest]),
        nearest=np.array([close.nearest]),
        nearest_pair=np.array([close.pair]),
        overlaps=np.array([close.overlaps]),
        clashes=np.array([figures.contacts.clashes]),
        clashes_of=np.bincount(clashing.ravel(), minlength=n_molecules + 1)[None, 1:],
        handedness=stereo.handedness(frame, plan.centres)[None],
        prochiral=stereo.prochiral_labels(frame, plan.prochiral)[None],
        pierced_of=np.bincount(np.array(pierced, dtype=np.int64), minlength=n_molecules)[None],
        ring_rms=np.concatenate([np.zeros(0), *(rings.out_of_plane(frame, r) for r in plan.rings)])[
            None
        ],
        bond_squares=np.array([figures.bonds.rms**2]),
        bond_largest=np.array([figures.bonds.largest]),
        beads={} if beads is None else {name: np.array([v]) for name, v in apart.items()},
        figures=own,
    )


def _by_term(energies: Mapping[str, Float64[np.ndarray, " m"]]) -> dict[str, float]:
    """Energies of the system by the terms of ``forcefield.system.TERMS``."""
    found: dict[str, float] = {}
    for name, values in energies.items():
        term = name.removesuffix(" intra").removesuffix(" inter")
        found[term] = found.get(term, 0.0) + float(values.sum())
    return found


def _coordinates(plan: Plan, frame: Structure) -> dict[str, Float64[np.ndarray, " _"]]:
    """Values by kind of coordinate: nm, or degrees; of impropers the deviation."""
    positions, box = torch.tensor(frame.positions), torch.tensor(frame.box)

    def of(function: Callable[..., torch.Tensor], kind: str) -> np.ndarray:
        return function(positions, torch.tensor(plan.coordinates[kind]), box).numpy()

    deviation = np.degrees(of(terms.dihedrals, "improper")) - plan.improper_centres
    return {
        "length": of(terms.distances, "length"),
        "angle": np.degrees(of(terms.angles, "angle")),
        "dihedral": np.degrees(of(terms.dihedrals, "dihedral")),
        "improper": (deviation + 180.0) % 360.0 - 180.0,
    }


def _check_order(plan: Plan, frame: Structure, where: str) -> None:
    """Refuses atoms whose bonds show them to be in another order."""
    i, j = plan.lengths.atoms.T
    vectors = minimum_image(frame.positions[j] - frame.positions[i], frame.box)
    lengths, expected = np.linalg.norm(vectors, axis=1), plan.lengths.parameters[:, 0]
    far = float(np.mean(lengths > STRETCHED * expected)) if len(lengths) else 0.0
    if far > STRETCHED_SHARE:
        raise InputError(
            f"{where}: expected bonds near their lengths in {plan.topology.source}, found "
            f"{100.0 * far:.0f} % of them more than {STRETCHED:g} times as long: are the atoms in "
            f"the order of the topology?"
        )


@dataclass(frozen=True)
class _Close:
    """Atoms of a frame that are near each other, whether their pair has a sigma or not."""

    nearest: float
    """nm; infinite where none is near."""
    pair: tuple[int, int]
    overlaps: int


def _close(judge: Judge, look: Look, frame: Structure, plan: Plan, where: str) -> _Close:
    """The nearest pair, in nm, and the pairs that overlap.

    Raises:
        InputError: two atoms that are not excluded are in one place.
    """
    pairs, distances = judge.contacts.within(frame, OVERLAP)
    overlaps = len(pairs)
    if not overlaps:
        pairs, distances = look.near.pairs, look.near.distances
    if not len(pairs):
        return _Close(math.inf, (-1, -1), 0)
    k = int(distances.argmin())
    a, b = pairs[k].tolist()
    if distances[k] < COINCIDENT:
        first, second = atom_name(plan.topology, a), atom_name(plan.topology, b)
        raise InputError(
            f"{where}: expected atoms that are apart, so that they have energies, found {first} "
            f"and {second} {distances[k]:.1g} nm from each other."
        )
    return _Close(float(distances[k]), (a, b), overlaps)

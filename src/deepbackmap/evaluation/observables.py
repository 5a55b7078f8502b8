"""What is looked at in a system (from its topology alone), and how each frame is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.evaluation import contacts, rings, stereo
from deepbackmap.evaluation.metrics import histogram
from deepbackmap.forcefield import ForceField, terms
from deepbackmap.forcefield.nonbonded import Exclusions
from deepbackmap.system import BondedTerms, MoleculeType, Structure, Topology

ANGLE_BINS = (80.0, 150.0, 140)
"""Degrees, degrees, number; values outside go into the end bins."""
DIHEDRAL_BINS = (-180.0, 180.0, 90)
IMPROPER_BINS = (-30.0, 30.0, 60)
CLOSE = 0.6
"""In sigma: a pair nearer than that is a clash."""

ANGLE_KINDS = ("angle", "angle_g96")
DIHEDRAL_KINDS = ("proper", "ryckaert_bellemans")
LENGTH_KINDS = ("bond", "constraint")


@runtime_checkable
class Frames(Protocol):
    """Frames that can be counted and gone through more than once: a list, or a file's."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Structure]: ...


@dataclass(frozen=True)
class Plan:
    """The observables of a system: everything a topology says once for all frames."""

    topology: Topology
    forcefield: ForceField
    angles: Mapping[str, Int64[np.ndarray, "_ 3"]]
    """All angles of the topology by the types of their atoms, such as ``H-C-H``."""
    dihedrals: Mapping[str, Int64[np.ndarray, "_ 4"]]
    """Proper dihedrals of heavy atoms by the types of their atoms."""
    angle_terms: Mapping[str, BondedTerms]
    """Angles by kind, for their energy."""
    impropers: BondedTerms
    """Harmonic impropers."""
    lengths: BondedTerms
    """Bonds and constraints; the first column is the length of the force field in nm."""
    heavy: Int64[np.ndarray, " h"]
    """Atoms of g(r)."""
    near: Exclusions
    """Pairs left out of g(r)."""
    centres: Int64[np.ndarray, "c 5"]
    """As ``stereo.stereocentres``."""
    prochiral: Int64[np.ndarray, "p 5"]
    """As ``stereo.prochiral_pairs``."""
    rings: tuple[Int64[np.ndarray, "_ _"], ...]
    """One array for each size of ring."""

    @classmethod
    def from_topology(cls, topology: Topology) -> Plan:
        """Finds what there is to look at in a system.

        Args:
            topology: of the reference and of the generated structures alike.
        """
        lengths = [topology.expand_terms(kind) for kind in LENGTH_KINDS]
        heavy = [np.tile(topology.molecule_types[t].heavy, c) for t, c in topology.blocks]
        return cls(
            topology=topology,
            forcefield=ForceField.from_topology(topology),
            angles=_group(topology, [_distinct(m, ANGLE_KINDS) for m in topology.molecule_types]),
            dihedrals=_group(topology, [_heavy_chains(m) for m in topology.molecule_types]),
            angle_terms={kind: topology.expand_terms(kind) for kind in ANGLE_KINDS},
            impropers=topology.expand_terms("improper"),
            lengths=BondedTerms(
                np.concatenate([listed.atoms for listed in lengths]),
                np.concatenate([listed.parameters[:, :1] for listed in lengths]),
            ),
            heavy=np.flatnonzero(np.concatenate(heavy)),
            near=contacts.exclude_within_bonds(topology, 3),
            centres=_expand(topology, [stereo.stereocentres(m) for m in topology.molecule_types]),
            prochiral=_expand(
                topology, [stereo.prochiral_pairs(m) for m in topology.molecule_types]
            ),
            rings=_rings(topology),
        )


@dataclass(frozen=True)
class Measurements:
    """What the frames of one sample show."""

    n_frames: int
    angles: Mapping[str, Int64[np.ndarray, " _"]]
    """Counts in ``ANGLE_BINS`` by types."""
    dihedrals: Mapping[str, Int64[np.ndarray, " _"]]
    """Counts in ``DIHEDRAL_BINS`` by types."""
    impropers: Int64[np.ndarray, " b"]
    """Counts in ``IMPROPER_BINS``, deviations from the force field's value."""
    angle_energy: Float64[np.ndarray, " f"]
    """Of the system by frame, kJ/mol."""
    improper_energy: Float64[np.ndarray, " f"]
    """Of the system by frame, kJ/mol."""
    lj: Float64[np.ndarray, "f m"]
    """Lennard-Jones energy by frame and molecule, kJ/mol: intra and half of inter."""
    rdf: Float64[np.ndarray, " bins"]
    """g(r) of heavy atoms, mean over frames."""
    closest: Float64[np.ndarray, " f"]
    """Smallest distance by frame of a pair that is not excluded, in sigma; infinite where no
    pair is nearer than its sigma."""
    clashes: float
    """Pairs nearer than ``CLOSE`` a frame."""
    handedness: Int64[np.ndarray, "f c"]
    """1 or -1 by frame and stereocentre."""
    prochiral: Int64[np.ndarray, "f p"]
    """1 or -1 by frame and pair of equal hydrogens."""
    pierced: float
    """Bonds through rings a frame."""
    bond_rms: float
    """Root mean square deviation of bond lengths from the force field, nm."""
    bond_max: float
    """Largest deviation, nm."""


@dataclass(frozen=True)
class _FrameResult:
    """The same, of one frame."""

    angles: dict[str, np.ndarray]
    dihedrals: dict[str, np.ndarray]
    impropers: np.ndarray
    angle_energy: float
    improper_energy: float
    lj: np.ndarray
    rdf: np.ndarray
    close: np.ndarray
    handedness: np.ndarray
    prochiral: np.ndarray
    pierced: int
    bonds: np.ndarray


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
    squares = [f.bonds**2 for f in found]
    return Measurements(
        n_frames=len(found),
        angles={k: np.sum([f.angles[k] for f in found], axis=0) for k in plan.angles},
        dihedrals={k: np.sum([f.dihedrals[k] for f in found], axis=0) for k in plan.dihedrals},
        impropers=np.sum([f.impropers for f in found], axis=0),
        angle_energy=np.array([f.angle_energy for f in found]),
        improper_energy=np.array([f.improper_energy for f in found]),
        lj=np.stack([f.lj for f in found]),
        rdf=np.mean([f.rdf for f in found], axis=0),
        closest=np.array([f.close.min(initial=math.inf) for f in found]),
        clashes=float(np.mean([np.count_nonzero(f.close < CLOSE) for f in found])),
        handedness=np.stack([f.handedness for f in found]),
        prochiral=np.stack([f.prochiral for f in found]),
        pierced=float(np.mean([f.pierced for f in found])),
        bond_rms=math.sqrt(float(np.mean(squares))) if plan.lengths.atoms.size else 0.0,
        bond_max=max(float(np.abs(f.bonds).max(initial=0.0)) for f in found),
    )


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


def _measure_frame(plan: Plan, frame: Structure) -> _FrameResult:
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
    return _FrameResult(
        angles={
            k: histogram(degrees(terms.angles, a), *ANGLE_BINS) for k, a in plan.angles.items()
        },
        dihedrals={
            k: histogram(degrees(terms.dihedrals, a), *DIHEDRAL_BINS)
            for k, a in plan.dihedrals.items()
        },
        impropers=histogram((deviation + 180.0) % 360.0 - 180.0, *IMPROPER_BINS),
        angle_energy=sum(energy(kind, t) for kind, t in plan.angle_terms.items()),
        improper_energy=energy("improper", plan.impropers),
        lj=plan.forcefield.lj_per_molecule(frame),
        rdf=contacts.radial_distribution(frame, plan.heavy, plan.near),
        close=contacts.relative_distances(frame, plan.topology, plan.forcefield.exclusions),
        handedness=stereo.handedness(frame, plan.centres),
        prochiral=stereo.prochiral_labels(frame, plan.prochiral),
        pierced=sum(len(rings.pierced_rings(frame, r, plan.lengths.atoms)) for r in plan.rings),
        bonds=lengths - plan.lengths.parameters[:, 0],
    )


def _distinct(molecule: MoleculeType, kinds: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Atoms of the terms of some kinds, each once; a term and its reverse are the same."""
    listed = [molecule.terms[kind].atoms.tolist() for kind in kinds if kind in molecule.terms]
    return sorted({tuple(min(row, row[::-1])) for rows in listed for row in rows})


def _heavy_chains(molecule: MoleculeType) -> list[tuple[int, ...]]:
    """Proper dihedrals of heavy atoms along bonds, which a periodic improper does not follow."""
    bonds = set(map(tuple, molecule.bonds.tolist()))
    return [
        atoms
        for atoms in _distinct(molecule, DIHEDRAL_KINDS)
        if molecule.heavy[list(atoms)].all()
        and all((min(pair), max(pair)) in bonds for pair in pairwise(atoms))
    ]


def _group(topology: Topology, per_type: Sequence[list[tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Terms of every molecule type by the types of their atoms, with the atoms of the system.

    A label starts at the end that sorts first.
    """
    by_label: dict[str, list[list[tuple[int, ...]]]] = {}
    for place, (molecule, listed) in enumerate(zip(topology.molecule_types, per_type, strict=True)):
        for atoms in listed:
            types = [molecule.atom_types[a] for a in atoms]
            label = "-".join(min(types, types[::-1]))
            if label not in by_label:
                by_label[label] = [[] for _ in per_type]
            by_label[label][place].append(atoms)
    return {
        label: _expand(topology, [np.array(rows, dtype=np.int64) for rows in found])
        for label, found in sorted(by_label.items())
    }


def _rings(topology: Topology) -> tuple[np.ndarray, ...]:
    """Rings of the system, one array for each size."""
    found = [rings.find_rings(m) for m in topology.molecule_types]
    sizes = sorted({len(ring) for per_type in found for ring in per_type})
    return tuple(
        _expand(
            topology,
            [
                np.array([r for r in per_type if len(r) == size], dtype=np.int64)
                for per_type in found
            ],
        )
        for size in sizes
    )


def _expand(topology: Topology, per_type: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of atoms of every molecule type, repeated for every molecule of the system."""
    width = max((rows.shape[1] for rows in per_type if rows.ndim == 2), default=0)
    found = [np.zeros((0, width), dtype=np.int64)]
    offsets = topology.molecule_offsets()
    first = 0
    for index, count in topology.blocks:
        rows = per_type[index].reshape(-1, width) if per_type[index].size else found[0]
        starts = offsets[first : first + count]
        found.append((rows[None] + starts[:, None, None]).reshape(-1, width))
        first += count
    return np.concatenate(found)

"""What is looked at in a system, found from its topology alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int32, Int64

from deepbackmap.chemistry import rings, stereo
from deepbackmap.evaluation import contacts
from deepbackmap.evaluation.result import Group
from deepbackmap.forcefield import ForceField
from deepbackmap.forcefield.nonbonded import Exclusions
from deepbackmap.system import BondedTerms, MoleculeType, Topology
from deepbackmap.system.elements import element_symbols
from deepbackmap.system.kinds import SPRINGS

LENGTH_KINDS = ("bond", "constraint", *SPRINGS[1:])
ANGLE_KINDS = ("angle", "angle_g96", "urey_bradley", "angle_quartic", "angle_restricted")
DIHEDRAL_KINDS = (
    "proper",
    "ryckaert_bellemans",
    "dihedral_restricted",
    "bending_torsion",
    "dihedral_table",
)

Bins = tuple[float, float, int]
"""Lower edge, upper edge, number; values outside go into the end bins."""
LENGTH_REACH, LENGTH_BINS = 0.03, 120
"""nm on either side of the force field's length, and how many bins."""
ANGLE_BINS: Bins = (80.0, 150.0, 140)
"""Degrees."""
WIDE_ANGLE_BINS: Bins = (0.0, 180.0, 180)
"""For angles whose equilibrium is not at least ``ANGLE_MARGIN`` inside ``ANGLE_BINS``."""
ANGLE_MARGIN = 15.0
DIHEDRAL_BINS: Bins = (-180.0, 180.0, 90)
IMPROPER_BINS: Bins = (-30.0, 30.0, 60)
RING_BINS: Bins = (0.0, 0.06, 60)
"""nm: rms distance of a ring's atoms from their mean plane."""
RDF_TYPES = 4
"""Up to so many types of heavy atoms have their own g(r); beyond, elements do."""


@dataclass(frozen=True)
class Observable:
    """The distribution of some of the coordinates of one kind."""

    name: str
    group: Group
    unit: str
    kind: str
    """Of the coordinates, a key of ``Plan.coordinates``."""
    rows: slice
    """Which of them."""
    bins: Bins
    scored: bool = False


@dataclass(frozen=True)
class Outline:
    """What can be wrong in a system: what a judge looks at, a tenth of a ``Plan``."""

    topology: Topology
    forcefield: ForceField
    lengths: BondedTerms
    """Bonds and constraints; the first column is the length of the force field in nm."""
    centres: Int64[np.ndarray, "c 5"]
    """As ``stereo.stereocentres``."""
    rings: tuple[Int64[np.ndarray, "_ _"], ...]
    """One array for each size of ring."""

    @classmethod
    def from_topology(cls, topology: Topology) -> Outline:
        """Finds what there is to look at in a system.

        Args:
            topology: of its structures.
        """
        return Outline(
            topology=topology,
            forcefield=ForceField.from_topology(topology),
            lengths=_lengths(topology),
            centres=expand(topology, [stereo.stereocentres(m) for m in topology.molecule_types]),
            rings=_rings(topology),
        )

    @property
    def molecule(self) -> Int32[np.ndarray, " n"]:
        """Molecule of every atom, from 0."""
        return self.forcefield.exclusions.molecule


@dataclass(frozen=True)
class Plan(Outline):
    """The observables of a system: everything a topology says once for all frames."""

    coordinates: Mapping[str, Int64[np.ndarray, "_ _"]]
    """Atoms of every coordinate by kind: length, angle, dihedral, improper."""
    observables: tuple[Observable, ...]
    """Distributions of the coordinates by the types of their atoms, such as ``angle H-C-H``."""
    improper_centres: np.ndarray
    """Value of the force field for every improper, degrees."""
    heavy: Int64[np.ndarray, " h"]
    """Atoms of g(r)."""
    heavy_groups: Int64[np.ndarray, " h"]
    """Which group of g(r) each belongs to."""
    heavy_names: tuple[str, ...]
    """Of the groups: atom types, or elements where there are many types."""
    near: Exclusions
    """Pairs left out of g(r)."""
    prochiral: Int64[np.ndarray, "p 5"]
    """As ``stereo.prochiral_pairs``."""
    ring_kinds: Mapping[str, Bool[np.ndarray, " r"]]
    """Which rings, of all arrays one after the other, have the same types, by name."""

    @classmethod
    def from_topology(cls, topology: Topology) -> Plan:
        """Finds what there is to look at in a system.

        Args:
            topology: of the reference and of the generated structures alike.
        """
        coordinates, observables, centres = _coordinates(topology)
        ranked = [(m, stereo.canonical_ranks(m)) for m in topology.molecule_types]
        heavy = np.flatnonzero(_tiled(topology, [m.heavy for m in topology.molecule_types]))
        names, groups = _heavy_groups(topology, heavy)
        by_size = _rings(topology)
        return cls(
            topology=topology,
            forcefield=ForceField.from_topology(topology),
            coordinates=coordinates,
            observables=observables,
            improper_centres=centres,
            lengths=_lengths(topology),
            heavy=heavy,
            heavy_groups=groups,
            heavy_names=names,
            near=contacts.exclude_within_bonds(topology, 3),
            centres=expand(topology, [stereo.stereocentres(m, r) for m, r in ranked]),
            prochiral=expand(topology, [stereo.prochiral_pairs(m, r) for m, r in ranked]),
            rings=by_size,
            ring_kinds=_ring_kinds(topology, by_size),
        )

    @property
    def rdf_names(self) -> tuple[str, ...]:
        """Names of the curves of g(r), in the order of ``contacts.radial_distributions``."""
        pairs = contacts.group_pairs(len(self.heavy_names))
        named = [f"g(r) {self.heavy_names[a]} - {self.heavy_names[b]}" for a, b in pairs]
        return ("g(r), mean absolute error", *(named if len(named) > 1 else []))


def atom_name(topology: Topology, atom: int) -> str:
    """Name, index from 1 and molecule of an atom."""
    return particle_name(topology, tuple(m.atom_names for m in topology.molecule_types), atom)


def particle_name(
    topology: Topology, names: Sequence[Sequence[str]], particle: int, what: str = "atom"
) -> str:
    """Name, index from 1 and molecule of an atom or a bead.

    Args:
        topology: whose molecules they form.
        names: of the particles of each molecule type.
        particle: index in the system.
        what: ``atom`` or ``bead``.
    """
    left, molecules = particle, 0
    for index, count in topology.blocks:
        size = len(names[index])
        if left < size * count:
            molecule, place = divmod(left, size)
            name, kind = names[index][place], topology.molecule_types[index].name
            word = f"{name} (atom {particle + 1})"
            if what == "bead":
                word = f"bead {name} ({particle + 1})"
            return f"{word} of molecule {molecules + molecule + 1} ({kind})"
        left, molecules = left - size * count, molecules + count
    raise IndexError(f"expected one of the {what}s, got {particle}")


Terms = dict[tuple[int, ...], float]
"""Atoms in the direction that sorts first → first parameter."""
Labelled = Mapping[str, tuple[Int64[np.ndarray, "_ _"], tuple[float, ...]]]
"""Types of the atoms → atoms of the system, and the first parameters that occur."""


def _coordinates(
    topology: Topology,
) -> tuple[dict[str, np.ndarray], tuple[Observable, ...], np.ndarray]:
    """Coordinates by kind, what is counted of them, and the impropers' centres in degrees."""
    molecules = topology.molecule_types
    lengths = _group(topology, [_distinct(m, LENGTH_KINDS) for m in molecules])
    angles = _group(topology, [_distinct(m, ANGLE_KINDS) for m in molecules])
    torsions = [_split_torsions(m) for m in molecules]
    chains, others, periodic = (_group(topology, [t[k] for t in torsions]) for k in range(3))
    impropers = _impropers(topology)
    observables = [
        *_observables("length", "bonds", "bond", "nm", lengths, _length_bins),
        *_observables("angle", "angles", "angle", "degree", angles, _angle_bins, scored=True),
        *_observables(
            "dihedral", "dihedrals", "dihedral", "degree", chains, _torsion_bins, scored=True
        ),
    ]
    start = sum(len(atoms) for atoms, _ in chains.values())
    taken = {o.name for o in observables}
    more: tuple[tuple[str, Group, Labelled], ...] = (
        ("dihedral", "dihedrals", others),
        ("periodic improper", "impropers", periodic),
    )
    for word, group, labelled in more:
        # a type that stands for heavy and for light atoms would make the same name twice
        labelled = {
            f"{label} (light)" if f"{word} {label}" in taken else label: rows
            for label, rows in labelled.items()
        }
        observables += _observables(
            "dihedral", group, word, "degree", labelled, _torsion_bins, start=start
        )
        start += sum(len(atoms) for atoms, _ in labelled.values())
    observables += _improper_observables(impropers)
    packed = {
        "length": _pack(2, lengths),
        "angle": _pack(3, angles),
        "dihedral": _pack(4, chains, others, periodic),
        "improper": _pack(4, {k: (v.atoms, ()) for k, v in impropers.items()}),
    }
    centres = [np.zeros(0), *(t.parameters[:, 0] for t in impropers.values())]
    return packed, tuple(observables), np.degrees(np.concatenate(centres))


def _observables(
    kind: str,
    group: Group,
    word: str,
    unit: str,
    labelled: Labelled,
    bins: Callable[[tuple[float, ...]], Bins],
    *,
    scored: bool = False,
    start: int = 0,
) -> Iterator[Observable]:
    """One distribution for every label, of rows that follow one another from ``start``."""
    for label, (atoms, parameters) in labelled.items():
        rows = slice(start, start + len(atoms))
        yield Observable(f"{word} {label}", group, unit, kind, rows, bins(parameters), scored)
        start = rows.stop


def _improper_observables(impropers: Mapping[str, BondedTerms]) -> Iterator[Observable]:
    """All harmonic impropers together, and by types if there is more than one kind."""
    if not impropers:
        return
    yield Observable(
        "impropers", "impropers", "degree", "improper", slice(None), IMPROPER_BINS, scored=True
    )
    if len(impropers) > 1:
        labelled = {label: (t.atoms, ()) for label, t in impropers.items()}
        yield from _observables(
            "improper", "impropers", "improper", "degree", labelled, lambda _: IMPROPER_BINS
        )


def _length_bins(lengths: tuple[float, ...]) -> Bins:
    return (min(lengths) - LENGTH_REACH, max(lengths) + LENGTH_REACH, LENGTH_BINS)


def _angle_bins(equilibria: tuple[float, ...]) -> Bins:
    low, high = ANGLE_BINS[0] + ANGLE_MARGIN, ANGLE_BINS[1] - ANGLE_MARGIN
    inside = all(low <= math.degrees(theta) <= high for theta in equilibria)
    return ANGLE_BINS if inside else WIDE_ANGLE_BINS


def _torsion_bins(_: tuple[float, ...]) -> Bins:
    return DIHEDRAL_BINS


def _distinct(molecule: MoleculeType, kinds: tuple[str, ...]) -> Terms:
    """The terms of some kinds, each once; a term and its reverse are the same."""
    found: Terms = {}
    for kind in kinds:
        if kind in molecule.terms:
            listed = molecule.terms[kind]
            first = listed.parameters[:, 0].tolist()
            for row, parameter in zip(listed.atoms.tolist(), first, strict=True):
                found.setdefault(tuple(min(row, row[::-1])), parameter)
    return dict(sorted(found.items()))


def _split_torsions(molecule: MoleculeType) -> tuple[Terms, Terms, Terms]:
    """Chains of heavy atoms, other chains, and periodic impropers, which follow no chain."""
    bonds = set(map(tuple, molecule.bonds.tolist()))
    found: tuple[Terms, Terms, Terms] = ({}, {}, {})
    for atoms, parameter in _distinct(molecule, DIHEDRAL_KINDS).items():
        along = all((min(pair), max(pair)) in bonds for pair in pairwise(atoms))
        heavy = bool(molecule.heavy[list(atoms)].all())
        found[0 if along and heavy else 1 if along else 2][atoms] = parameter
    return found


def _impropers(topology: Topology) -> dict[str, BondedTerms]:
    """Harmonic impropers by types, every term as the topology lists it."""
    found: dict[str, BondedTerms] = {}
    listed = topology.expand_terms("improper")
    labels = np.array(_labels(topology, listed.atoms), dtype=object)
    for label in sorted(set(labels.tolist())):
        rows = np.flatnonzero(labels == label)
        found[label] = BondedTerms(listed.atoms[rows], listed.parameters[rows])
    return found


def _labels(topology: Topology, atoms: Int64[np.ndarray, "t k"]) -> list[str]:
    """Types of the atoms of every term, from the end that sorts first."""
    names = np.array(topology.type_names, dtype=object)
    kinds = names[topology.atom_type_index()] if topology.n_atoms else names[:0]
    return ["-".join(min(row, row[::-1])) for row in kinds[atoms].tolist()]


def _group(topology: Topology, per_type: Sequence[Terms]) -> Labelled:
    """Terms of every molecule type by the types of their atoms, with the atoms of the system.

    A label starts at the end that sorts first.
    """
    by_label: dict[str, list[list[tuple[int, ...]]]] = {}
    parameters: dict[str, set[float]] = {}
    for place, (molecule, listed) in enumerate(zip(topology.molecule_types, per_type, strict=True)):
        for atoms, parameter in listed.items():
            types = [molecule.atom_types[a] for a in atoms]
            label = "-".join(min(types, types[::-1]))
            by_label.setdefault(label, [[] for _ in per_type])[place].append(atoms)
            parameters.setdefault(label, set()).add(parameter)
    return {
        label: (
            expand(topology, [np.array(rows, dtype=np.int64) for rows in found]),
            tuple(sorted(parameters[label])),
        )
        for label, found in sorted(by_label.items())
    }


def _pack(width: int, *groups: Labelled) -> Int64[np.ndarray, "_ k"]:
    """Rows of atoms of all labels, one after the other."""
    rows = [atoms for labelled in groups for atoms, _ in labelled.values()]
    return np.concatenate([np.zeros((0, width), dtype=np.int64), *rows])


def _lengths(topology: Topology) -> BondedTerms:
    """Bonds and constraints with their lengths."""
    listed = [topology.expand_terms(kind) for kind in LENGTH_KINDS]
    return BondedTerms(
        np.concatenate([terms.atoms for terms in listed]),
        np.concatenate([terms.parameters[:, :1] for terms in listed]),
    )


def _heavy_groups(
    topology: Topology, heavy: Int64[np.ndarray, " h"]
) -> tuple[tuple[str, ...], Int64[np.ndarray, " h"]]:
    """Names of the groups of heavy atoms, and the group of each."""
    labels = np.array(_tiled(topology, [np.array(m.atom_types) for m in topology.molecule_types]))
    if len(np.unique(labels[heavy])) > RDF_TYPES:
        labels = np.array(element_symbols(topology.masses()))
    names, groups = np.unique(labels[heavy], return_inverse=True)
    return tuple(str(n) for n in names), groups.reshape(-1).astype(np.int64)


def _tiled(topology: Topology, per_type: Sequence[np.ndarray]) -> np.ndarray:
    """Values given once a molecule type, for every atom of the system."""
    return np.concatenate([np.tile(per_type[t], c) for t, c in topology.blocks])


def _rings(topology: Topology) -> tuple[np.ndarray, ...]:
    """Rings of the system, one array for each size."""
    found = [rings.find_rings(m) for m in topology.molecule_types]
    sizes = sorted({len(ring) for per_type in found for ring in per_type})
    return tuple(
        expand(
            topology,
            [
                np.array([r for r in per_type if len(r) == size], dtype=np.int64)
                for per_type in found
            ],
        )
        for size in sizes
    )


def _ring_kinds(topology: Topology, by_size: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """Rings with the same types in the same order, by name."""
    names = np.array(topology.type_names, dtype=object)
    rows = topology.atom_type_index()
    labels = np.array([_ring_label(r) for a in by_size for r in names[rows[a]].tolist()])
    return {f"ring {label}": labels == label for label in np.unique(labels).tolist()}


def _ring_label(types: list[str]) -> str:
    """Types round a ring from where they sort first; short where all are the same."""
    if len(set(types)) == 1:
        return f"{len(types)} {types[0]}"
    ways = [t[k:] + t[:k] for t in (types, types[::-1]) for k in range(len(types))]
    return "-".join(min(ways))


def expand(topology: Topology, per_type: Sequence[np.ndarray]) -> np.ndarray:
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

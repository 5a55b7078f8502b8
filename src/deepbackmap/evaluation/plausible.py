"""Whether particles can be what they are said to be, judged by bonds; no model is needed.

Two numbers are known of every pair of bonded beads before any file is read. The path of bonds
between their atoms says how far apart they can be at most, and the same path as a freely rotating
chain says about how far apart they are; of bonded atoms both are the length of the bond. A file in
another unit is off by a factor for all pairs, one in another order for many, and a particle that
jumped for its own.

Source: Flory, Statistical Mechanics of Chain Molecules (1969), ch. I, freely rotating chain.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.evaluation.defects import NAMED
from deepbackmap.evaluation.plan import particle_name
from deepbackmap.evaluation.usable import Finding, ordered
from deepbackmap.forcefield.nonbonded import neighbour_distances
from deepbackmap.geometry.cell import cell_volume, minimum_image
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType, Structure, Topology
from deepbackmap.system.kinds import HELD

Known = Mapping[str, tuple[float, float]]
"""By types of two bonded beads, as "A-B": shortest and longest distance in training, nm."""

ROTATION = 0.4
"""Cosine of the angle between one bond and the next: between that of sp3 and sp2 atoms."""
TOO_WIDE, TOO_NARROW = 2.2, 0.45
"""Times the expected distance that bonded beads may be apart in the median. Polystyrene, mapped or
from a coarse-grained simulation, has 1.10 to 1.12."""
UNIT = 1.8
"""A unit is guessed where it brings the distances within that factor of what is expected."""
SLACK = 1.1
"""By which beads may be farther apart than their bonds allow: simulated bonds of beads stretch."""
LONGEST_BOND = 0.35
"""nm: bonded particles that are no farther apart never count as too far, whatever they are."""
LONG_ATOMS = 2.0
"""Times its length that a bond of atoms may be long."""
LONG_UNKNOWN = 3.0
"""Times the median of the frame that bonds may be long where no length is known."""
MANY = 0.05
"""Share of the bonds of beads that are too long from which on the order of beads is in doubt, and
below which single beads are."""
IN_ONE = 0.25
"""The same share of those of one molecule."""
NEAR = 0.3
"""nm: pairs of beads that are looked at for being in one place."""
ONE_PLACE = 1e-3
"""nm: beads nearer than that are in one place."""
DENSEST = 25.0
"""g/cm^3: no matter is denser at ordinary pressure (osmium: 22.6)."""
GRAM_PER_CM3 = 1.66053907e-3
"""One u/nm^3."""
OUTSIDE, OUTSIDE_LEAST = 0.02, 3
"""Share of neighbour distances outside what a model was trained on, and number of them, that are
worth a word: in small boxes one alone is a large share."""
KNOWN = 0.999
"""Share of the neighbour distances of the training that are within what is called known."""
COLDER, WARMER = 0.75, 1.25
"""Times the lowest and the highest temperature of the training: beyond is far outside."""
USUAL_BOND = 0.15
"""nm, of bonds in molecules of which no length is known."""
HOTTEST = 3000.0
"""K: above it molecules fall apart, and a force field with fixed bonds describes nothing."""


@dataclass(frozen=True)
class Bonds:
    """The bonds between particles of a system, and what is known of them."""

    topology: Topology
    names: tuple[tuple[str, ...], ...]
    """Of the particles of each molecule type."""
    what: Literal["bead", "atom"]
    pairs: Int64[np.ndarray, "k 2"]
    """Particles of the system."""
    most: Float64[np.ndarray, " k"]
    """Distance that the bonds between their atoms allow, nm; infinite where it is not known."""
    expected: Float64[np.ndarray, " k"]
    """Root mean square distance of a freely rotating chain, nm; NaN where it is not known."""
    kinds: np.ndarray
    """Types of two beads, such as "A-B"; names of two atoms."""

    @classmethod
    def of(cls, mapping: SystemMapping) -> Bonds:
        """Those between the beads of a system."""
        molecules = mapping.topology.molecule_types
        return cls._tiled(
            mapping.topology,
            tuple(m.bead_names for m in mapping.molecules),
            "bead",
            [m.bead_bonds for m in mapping.molecules],
            [_of_molecule(m, b) for m, b in zip(molecules, mapping.molecules, strict=True)],
            [m.bead_types for m in mapping.molecules],
        )

    @classmethod
    def of_atoms(cls, topology: Topology) -> Bonds:
        """Those between the atoms of a system."""
        molecules = topology.molecule_types
        names = tuple(m.atom_names for m in molecules)
        return cls._tiled(
            topology, names, "atom", [m.bonds for m in molecules],
            [_of_bonds(m) for m in molecules], names,
        )  # fmt: skip

    @classmethod
    def _tiled(
        cls,
        topology: Topology,
        names: tuple[tuple[str, ...], ...],
        what: Literal["bead", "atom"],
        pairs: Sequence[Int64[np.ndarray, "_ 2"]],
        lengths: Sequence[Float64[np.ndarray, "2 _"]],
        types: Sequence[Sequence[str]],
    ) -> Bonds:
        """The bonds of molecule types for all molecules."""
        kinds = [_kinds(t, p) for t, p in zip(types, pairs, strict=True)]
        every, start = [np.zeros((0, 2), dtype=np.int64)], 0
        for t, count in topology.blocks:
            size = len(names[t])
            firsts = start + size * np.arange(count)[:, None, None]
            every.append((pairs[t] + firsts).reshape(-1, 2))
            start += size * count
        both = [np.tile(lengths[t], count) for t, count in topology.blocks]
        most, expected = np.concatenate([np.zeros((2, 0)), *both], axis=1)
        words = [np.tile(kinds[t], count) for t, count in topology.blocks]
        return cls(
            topology, names, what, np.concatenate(every), most, expected,
            np.concatenate([np.array([], dtype=object), *words]),
        )  # fmt: skip

    def apart(self, frame: Structure) -> Float64[np.ndarray, " k"]:
        """Distance of every bonded pair in a frame, nm."""
        first, second = frame.positions[self.pairs.T]
        return np.linalg.norm(minimum_image(second - first, frame.box), axis=1)

    def limits(self, apart: Float64[np.ndarray, " k"]) -> Float64[np.ndarray, " k"]:
        """Distance beyond which a pair is too far apart, nm.

        Args:
            apart: distances of a frame, which stand for what is not known.
        """
        far = (SLACK if self.what == "bead" else LONG_ATOMS) * self.most
        unknown = np.isinf(far)
        if unknown.any():
            far = np.where(unknown, LONG_UNKNOWN * np.median(apart), far)
        return np.maximum(far, LONGEST_BOND)

    def name(self, particle: int) -> str:
        """Name, index from 1 and molecule of a particle."""
        return particle_name(self.topology, self.names, particle, self.what)


def look_at_beads(
    mapping: SystemMapping,
    beads: Structure,
    known: Known | None = None,
    *,
    bonds: Bonds | None = None,
) -> tuple[Finding, ...]:
    """What is wrong with beads before anything is made of them, gravest first.

    Args:
        mapping: of the system.
        beads: a frame of them; molecules need not be whole.
        known: distances of bonded beads that a model was trained on.
        bonds: between beads of the system, where they are at hand.

    Returns:
        One finding that is fine where nothing is.
    """
    bonds = Bonds.of(mapping) if bonds is None else bonds
    apart = bonds.apart(beads)
    found = [*_one_place(beads, bonds, apart)]
    if not found:
        found += _unit(bonds, apart, beads)
    if not found:
        found += _too_long(bonds, apart)
        found += _unlike_training(bonds, apart, known)
    found += _density(mapping, beads)
    return ordered(found) or (Finding("fine", "nothing found that speaks against these beads"),)


def look_at_atoms(bonds: Bonds, atoms: Structure) -> tuple[Finding, ...]:
    """What is wrong with atoms of a simulation before they are mapped, gravest first.

    Args:
        bonds: between them (``Bonds.of_atoms``).
        atoms: a frame of them; molecules need not be whole.

    Returns:
        One finding that is fine where nothing is.
    """
    apart = bonds.apart(atoms)
    found = [*_unit(bonds, apart, atoms)]
    if not found:
        found += _too_long(bonds, apart)
    return ordered(found) or (Finding("fine", "nothing found that speaks against these atoms"),)


def known_distances(
    frames: Iterable[tuple[SystemMapping, Structure]],
) -> dict[str, tuple[float, float]]:
    """Distances of bonded beads in the frames of a training, by types (``Known``).

    Args:
        frames: systems with their beads; molecules need not be whole.
    """
    seen: dict[str, list[Float64[np.ndarray, " k"]]] = {}
    bonds: dict[int, Bonds] = {}
    for mapping, beads in frames:
        if id(mapping) not in bonds:
            bonds[id(mapping)] = Bonds.of(mapping)
        found = bonds[id(mapping)]
        apart = found.apart(beads)
        for kind in sorted(set(found.kinds.tolist())):
            seen.setdefault(kind, []).append(apart[found.kinds == kind])
    edges = (0.5 - 0.5 * KNOWN, 0.5 + 0.5 * KNOWN)
    found_edges = {k: np.quantile(np.concatenate(v), edges) for k, v in sorted(seen.items())}
    return {k: (round(float(a), 4), round(float(b), 4)) for k, (a, b) in found_edges.items()}


def look_at_temperature(asked: float, known: tuple[float, float]) -> tuple[Finding, ...]:
    """A finding where a temperature is far from those that a model was trained at.

    Args:
        asked: K.
        known: lowest and highest of the training, K.
    """
    low, high = known
    if asked > HOTTEST:
        return (
            Finding(
                "unusable",
                f"expected a temperature at which molecules last (at most {HOTTEST:g} K), found "
                f"{asked:g} K: is it in kelvin?",
            ),
        )
    if COLDER * low <= asked <= WARMER * high:
        return ()
    trained = f"{low:g} K" if low == high else f"{low:g} to {high:g} K"
    return (
        Finding(
            "suspicious",
            f"expected a temperature that the model knows ({trained}), found {asked:g} K; "
            "structures so far from it need finishing (--finish), and should be compared",
        ),
    )


def _one_place(
    beads: Structure, bonds: Bonds, apart: Float64[np.ndarray, " k"]
) -> Iterator[Finding]:
    """Beads that lie on top of their neighbours."""
    together = np.flatnonzero(apart < ONE_PLACE)
    if not len(together):
        yield from _molecules_in_one_place(bonds, beads)
        return
    places = len(np.unique(beads.positions.round(3), axis=0))
    found = f"{len(together)} of {len(apart)} bonded pairs in one place"
    if places == 1:
        found = f"all {beads.n} in one place"
    yield Finding(
        "unusable",
        f"expected beads in places of their own, found {found}; were the coordinates written?",
        tuple(bonds.name(int(bonds.pairs[k, 0])) for k in together[:NAMED]),
    )


def _molecules_in_one_place(bonds: Bonds, beads: Structure) -> Iterator[Finding]:
    """Beads that lie where one of another molecule lies."""
    if not cell_volume(beads.box):
        return
    near = [np.zeros((0, 2), dtype=np.int64)]
    for pairs, distances in neighbour_distances(beads.positions, beads.box, NEAR):
        near.append(pairs[distances < ONE_PLACE])
    together = np.concatenate(near)
    if len(together):
        first, second = (bonds.name(int(k)) for k in together[0])
        yield Finding(
            "unusable",
            f"expected molecules in places of their own, found {len(together)} "
            f"pair{'s' if len(together) > 1 else ''} of beads in one place: is a molecule there "
            "twice?",
            (f"{first} and {second}",),
        )


def _unit(bonds: Bonds, apart: Float64[np.ndarray, " k"], beads: Structure) -> Iterator[Finding]:
    """A unit that is not the file's: half of all pairs are off by one factor."""
    known = ~np.isnan(bonds.expected)
    ratios, most = apart[known] / bonds.expected[known], bonds.most[known]
    if not len(ratios):
        return
    ratio, middle = float(np.median(ratios)), float(np.median(apart[known]))
    if TOO_NARROW <= ratio <= TOO_WIDE or ratio == 0.0:  # no unit makes half of them nothing
        return
    uniform = float(np.quantile(ratios, 0.9) / max(np.quantile(ratios, 0.1), 1e-9))
    usual = middle / ratio
    limit = f"at most {float(np.median(most)):.2g} nm is possible" if ratio > 1.0 else (
        f"about {usual:.2g} nm is usual for these bonds"
    )  # fmt: skip
    hint = _box_hint(bonds, middle, beads) or _hint(ratio, uniform, _order_question(bonds))
    yield Finding(
        "unusable",
        f"expected bonded {bonds.what}s {usual:.2g} nm apart, found {middle:.2g} nm on average, "
        f"and {limit}: {hint}",
    )


def _order_question(bonds: Bonds) -> str:
    """What may help where distances are at random."""
    if bonds.what == "atom":
        return f"are the atoms in the order of {bonds.topology.source}?"
    return "are the beads in the order and of the types of the mapping?"


def _box_hint(bonds: Bonds, middle: float, beads: Structure) -> str:
    """What may help where the box is too small for bonds that are all alike without it.

    Args:
        bonds: between the beads.
        middle: median distance to the nearest image, nm.
        beads: a frame.
    """
    first, second = beads.positions[bonds.pairs.T]
    written = np.linalg.norm(second - first, axis=1)
    low, high = np.nanquantile(written / bonds.expected, (0.1, 0.9)).tolist()
    if high > TOO_WIDE * low or float(np.median(written)) < UNIT * middle:
        return ""
    across = float(np.ptp(beads.positions, axis=0).max())
    edge = float(np.linalg.norm(beads.box, axis=1).max())
    return f"are {bonds.what}s, {across:.3g} nm across, and box, {edge:.3g} nm, in one unit?"


def _hint(ratio: float, uniform: float, order: str) -> str:
    """What may help where all distances are off.

    Args:
        ratio: of distances to what is expected, in the median.
        uniform: between ratios that are large and small.
        order: what to ask where they have no common factor.
    """
    if uniform > TOO_WIDE:
        return order
    for factor, question in (
        (10.0, "is the file in Å? (--length-unit A)"),
        (0.1, "is the file in nm? (--length-unit nm)"),
    ):
        if 1.0 / UNIT <= ratio / factor <= UNIT:
            return question
    return (
        "is the file in reduced units (sigma)? --length-unit with what one unit is in nm would "
        f"have to be about {1.0 / ratio:.2g} times as large as it is now"
    )


def _too_long(bonds: Bonds, apart: Float64[np.ndarray, " k"]) -> Iterator[Finding]:
    """Bonds that are longer than can be: many of them for another order, few for a jump."""
    if not len(apart):
        return
    limits = bonds.limits(apart)
    long = np.flatnonzero(apart > limits)
    if not len(long):
        return
    k = int(long[(apart / limits)[long].argmax()])
    allowed = "as far apart as their atoms' bonds allow"
    possible, many = bonds.most[k], len(long) > max(4.0, MANY * len(apart))
    if bonds.what == "atom":
        allowed, possible = "near the lengths of their bonds", limits[k]
    fact = (
        f"expected bonded {bonds.what}s {allowed}, found {len(long)} of {len(apart)} farther, "
        f"{bonds.kinds[k]} {apart[k]:.2f} nm where at most {possible:.2f} is possible"
    )
    moved, times = np.unique(bonds.pairs[long], return_counts=True)
    named = [bonds.name(int(b)) for b in moved[np.argsort(-times, kind="stable")][:NAMED]]
    if many or _most_of_one(bonds, long):
        hint = _order_question(bonds)
    else:
        hint = f"is {named[0]} where it should be?"
    yield Finding("unusable", f"{fact}: {hint}", tuple(named))


def _most_of_one(bonds: Bonds, long: Int64[np.ndarray, " m"]) -> bool:
    """Whether one molecule has more of those bonds than a particle that jumped would give it."""
    sizes = [len(bonds.names[t]) for t in bonds.topology.molecule_type_index()]
    of = np.searchsorted(np.cumsum(sizes), bonds.pairs[:, 0], side="right")
    worst = int(np.bincount(of[long]).argmax())
    count = int(np.count_nonzero(of[long] == worst))
    return count > max(4.0, IN_ONE * int(np.count_nonzero(of == worst)))


def _unlike_training(
    bonds: Bonds, apart: Float64[np.ndarray, " k"], known: Known | None
) -> Iterator[Finding]:
    """Distances that a model never saw."""
    for kind in sorted(set(bonds.kinds.tolist()) & set(known or {})):
        low, high = (known or {})[kind]
        values = apart[bonds.kinds == kind]
        outside = (values < low) | (values > high)
        share = float(np.mean(outside))
        if share > OUTSIDE and outside.sum() >= OUTSIDE_LEAST:
            yield Finding(
                "suspicious",
                f"expected {kind} beads {low:.3f} to {high:.3f} nm apart as in training, found "
                f"{100.0 * share:.1f} % outside (the middle half {np.quantile(values, 0.25):.3f} "
                f"to {np.quantile(values, 0.75):.3f} nm)",
            )


def _density(mapping: SystemMapping, beads: Structure) -> Iterator[Finding]:
    """A cell that is too small for what is in it."""
    volume = cell_volume(beads.box)
    if not volume:
        return
    density = GRAM_PER_CM3 * float(mapping.topology.masses().sum()) / volume
    if density > DENSEST:
        yield Finding(
            "unusable",
            f"expected a box for the {mapping.topology.n_atoms} atoms of these beads, found one "
            f"of {volume:.3g} nm^3 and so {density:.3g} g/cm^3: is it in the unit of the file?",
        )


def _kinds(types: Sequence[str], pairs: Int64[np.ndarray, "k 2"]) -> np.ndarray:
    names = ["-".join(sorted((types[a], types[b]))) for a, b in pairs.tolist()]
    return np.array(names, dtype=object)


def _of_bonds(molecule: MoleculeType) -> Float64[np.ndarray, "2 k"]:
    """Largest and expected length of every bond of atoms, nm: twice its own, where that is known.

    Bonds without a length (those of a virtual site with the atom it lies on) are not known either.
    """
    known = _known_lengths(molecule)
    own = [known.get((min(a, b), max(a, b)), 0.0) for a, b in molecule.bonds.tolist()]
    lengths = np.array(own, dtype=np.float64)
    there = lengths > ONE_PLACE
    return np.stack([np.where(there, lengths, np.inf), np.where(there, lengths, np.nan)])


def _of_molecule(molecule: MoleculeType, beads: MoleculeMapping) -> Float64[np.ndarray, "2 k"]:
    """Largest and expected distance of every bond between beads, nm."""
    order = np.argsort(beads.weight_beads, kind="stable")
    starts = np.searchsorted(beads.weight_beads[order], np.arange(beads.n_beads + 1))
    members = [order[a:b] for a, b in pairwise(starts.tolist())]
    neighbours, lengths = bonded_neighbours(molecule), _bond_lengths(molecule)
    found = np.zeros((2, len(beads.bead_bonds)))
    for k, (i, j) in enumerate(beads.bead_bonds.tolist()):
        rows = np.concatenate([members[i], members[j]])
        atoms, weights = beads.weight_atoms[rows], beads.weights[rows]
        longest, squares = _ways(neighbours, lengths, atoms.tolist())
        u, v = weights.copy(), weights.copy()
        u[len(members[i]) :], v[: len(members[i])] = 0.0, 0.0
        # what the two beads share is in neither way
        both = [(a, b) for a in range(len(u)) for b in range(a) if atoms[a] == atoms[b]]
        for a, b in both:
            shared = min(u[b], v[a])
            u[b] -= shared
            v[a] -= shared
        moved = float(u.sum())
        found[0, k] = float(u @ longest @ v) / moved if moved else 0.0
        difference = u - v
        found[1, k] = math.sqrt(max(0.0, -0.5 * float(difference @ squares @ difference)))
    return found


def _bond_lengths(molecule: MoleculeType) -> dict[tuple[int, int], float]:
    """Length of every bond by its atoms in ascending order, nm; unknown ones are usual ones."""
    found = _known_lengths(molecule)
    usual = float(np.median(list(found.values()))) if found else USUAL_BOND
    # tables, bonds of finite extension and those without an energy have no length of rest
    return {(a, b): found.get((a, b), usual) for a, b in molecule.bonds.tolist()} | found


def _known_lengths(molecule: MoleculeType) -> dict[tuple[int, int], float]:
    """Lengths of rest by atoms in ascending order, nm."""
    found = {}
    for kind in HELD:
        if kind in molecule.terms:
            listed = molecule.terms[kind]
            for (a, b), length in zip(
                listed.atoms.tolist(), listed.parameters[:, 0].tolist(), strict=True
            ):
                found[min(a, b), max(a, b)] = length
    return found


def _ways(
    neighbours: list[list[int]], lengths: Mapping[tuple[int, int], float], atoms: list[int]
) -> tuple[Float64[np.ndarray, "a a"], Float64[np.ndarray, "a a"]]:
    """Length of the path of bonds between atoms, and mean square distance of its ends, nm, nm^2."""
    far, squares = np.zeros((len(atoms), len(atoms))), np.zeros((len(atoms), len(atoms)))
    wanted = set(atoms)
    for row, start in enumerate(atoms):
        reached, left = {start: (0, 0.0)}, wanted - {start}
        queue = deque([start])
        while queue and left:
            atom = queue.popleft()
            steps, length = reached[atom]
            for other in neighbours[atom]:
                if other not in reached:
                    bond = lengths[min(atom, other), max(atom, other)]
                    reached[other] = (steps + 1, length + bond)
                    left.discard(other)
                    queue.append(other)
        for column, end in enumerate(atoms):
            steps, length = reached.get(end, (0, 0.0))
            far[row, column] = length
            squares[row, column] = _mean_square(steps, length)
    return far, squares


def _mean_square(steps: int, length: float) -> float:
    """Of the ends of a freely rotating chain of so many bonds and that length, nm^2."""
    if not steps:
        return 0.0
    a, bond = ROTATION, length / steps
    return bond**2 * (steps * (1 + a) / (1 - a) - 2 * a * (1 - a**steps) / (1 - a) ** 2)

"""Whether beads can be those of a molecule, judged by what its bonds allow; no model is needed.

Two numbers are known of every pair of bonded beads before any file is read. The path of bonds
between their atoms says how far apart they can be at most, and the same path as a freely rotating
chain says about how far apart they are. A file in another unit is off by a factor for all pairs,
one in another order for many, and a bead that jumped for its own.

Source: Flory, Statistical Mechanics of Chain Molecules (1969), ch. I, freely rotating chain.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.evaluation.defects import NAMED
from deepbackmap.evaluation.judge import bead_name
from deepbackmap.evaluation.usable import Finding, ordered
from deepbackmap.forcefield.nonbonded import neighbour_distances
from deepbackmap.geometry.cell import cell_volume, minimum_image
from deepbackmap.mapping import MoleculeMapping, SystemMapping
from deepbackmap.system import MoleculeType, Structure
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
OUTSIDE = 0.02
"""Share of neighbour distances outside what a model was trained on that is worth a word."""
KNOWN = 0.999
"""Share of the neighbour distances of the training that are within what is called known."""
COLDER, WARMER = 0.75, 1.25
"""Times the lowest and the highest temperature of the training: beyond is far outside."""
USUAL_BOND = 0.15
"""nm, of bonds in molecules of which no length is known."""
HOTTEST = 3000.0
"""K: above it molecules fall apart, and a force field with fixed bonds describes nothing."""


@dataclass(frozen=True)
class BeadBonds:
    """The bonds between beads of a system, and what their atoms say of them."""

    pairs: Int64[np.ndarray, "k 2"]
    """Beads of the system."""
    most: Float64[np.ndarray, " k"]
    """Distance that the bonds between their atoms allow, nm."""
    expected: Float64[np.ndarray, " k"]
    """Root mean square distance of a freely rotating chain, nm."""
    kinds: np.ndarray
    """Types of the two beads, such as "A-B"."""

    @classmethod
    def of(cls, mapping: SystemMapping) -> BeadBonds:
        """Those of a system."""
        topology, offsets = mapping.topology, mapping.bead_offsets()
        per_type = [
            _of_molecule(m, b)
            for m, b in zip(topology.molecule_types, mapping.molecules, strict=True)
        ]
        index = topology.molecule_type_index().tolist()
        pairs = [mapping.molecules[t].bead_bonds + o for t, o in zip(index, offsets, strict=False)]
        lengths = [per_type[t] for t in index]
        kinds = [_kinds(mapping.molecules[t]) for t in index]
        most, expected = np.concatenate([np.zeros((2, 0)), *lengths], axis=1)
        return cls(
            np.concatenate([np.zeros((0, 2), dtype=np.int64), *pairs]),
            most,
            expected,
            np.concatenate([np.array([], dtype=object), *kinds]),
        )


def look_at_beads(
    mapping: SystemMapping,
    beads: Structure,
    known: Known | None = None,
    *,
    bonds: BeadBonds | None = None,
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
    bonds = BeadBonds.of(mapping) if bonds is None else bonds
    apart = _apart(bonds, beads)
    found = [*_one_place(mapping, beads, bonds, apart)]
    if not found:
        found += _unit(bonds, apart, beads)
    if not found:
        found += _too_long(mapping, bonds, apart)
        found += _unlike_training(bonds, apart, known)
    found += _density(mapping, beads)
    return ordered(found) or (Finding("fine", "nothing found that speaks against these beads"),)


def known_distances(
    frames: Iterable[tuple[SystemMapping, Structure]],
) -> dict[str, tuple[float, float]]:
    """Distances of bonded beads in the frames of a training, by types (``Known``).

    Args:
        frames: systems with their beads; molecules need not be whole.
    """
    seen: dict[str, list[Float64[np.ndarray, " k"]]] = {}
    bonds: dict[int, BeadBonds] = {}
    for mapping, beads in frames:
        if id(mapping) not in bonds:
            bonds[id(mapping)] = BeadBonds.of(mapping)
        found = bonds[id(mapping)]
        apart = _apart(found, beads)
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
    mapping: SystemMapping, beads: Structure, bonds: BeadBonds, apart: Float64[np.ndarray, " k"]
) -> Iterator[Finding]:
    """Beads that lie on top of their neighbours."""
    together = np.flatnonzero(apart < ONE_PLACE)
    if not len(together):
        yield from _molecules_in_one_place(mapping, beads)
        return
    places = len(np.unique(beads.positions.round(3), axis=0))
    found = f"{len(together)} of {len(apart)} bonded pairs in one place"
    if places == 1:
        found = f"all {beads.n} in one place"
    yield Finding(
        "unusable",
        f"expected beads in places of their own, found {found}; were the coordinates written?",
        tuple(bead_name(mapping, int(bonds.pairs[k, 0])) for k in together[:NAMED]),
    )


def _molecules_in_one_place(mapping: SystemMapping, beads: Structure) -> Iterator[Finding]:
    """Beads that lie where one of another molecule lies."""
    if not cell_volume(beads.box):
        return
    near = [np.zeros((0, 2), dtype=np.int64)]
    for pairs, distances in neighbour_distances(beads.positions, beads.box, NEAR):
        near.append(pairs[distances < ONE_PLACE])
    together = np.concatenate(near)
    if len(together):
        first, second = (bead_name(mapping, int(k)) for k in together[0])
        yield Finding(
            "unusable",
            f"expected molecules in places of their own, found {len(together)} "
            f"pair{'s' if len(together) > 1 else ''} of beads in one place: is a molecule there "
            "twice?",
            (f"{first} and {second}",),
        )


def _unit(
    bonds: BeadBonds, apart: Float64[np.ndarray, " k"], beads: Structure
) -> Iterator[Finding]:
    """A unit that is not the file's: half of all pairs are off by one factor."""
    if not len(apart):
        return
    ratios = apart / bonds.expected
    ratio, middle = float(np.median(ratios)), float(np.median(apart))
    if TOO_NARROW <= ratio <= TOO_WIDE:
        return
    uniform = float(np.quantile(ratios, 0.9) / np.quantile(ratios, 0.1))
    usual = middle / ratio
    limit = f"at most {float(np.median(bonds.most)):.2g} nm is possible" if ratio > 1.0 else (
        f"about {usual:.2g} nm is usual for these bonds"
    )  # fmt: skip
    yield Finding(
        "unusable",
        f"expected bonded beads {usual:.2g} nm apart, found {middle:.2g} nm on average, and "
        f"{limit}: {_box_hint(bonds, middle, beads) or _hint(ratio, uniform)}",
    )


def _box_hint(bonds: BeadBonds, middle: float, beads: Structure) -> str:
    """What may help where the box is too small for bonds that are all alike without it.

    Args:
        bonds: between the beads.
        middle: median distance to the nearest image, nm.
        beads: a frame.
    """
    first, second = beads.positions[bonds.pairs.T]
    written = np.linalg.norm(second - first, axis=1)
    low, high = np.quantile(written / bonds.expected, (0.1, 0.9)).tolist()
    if high > TOO_WIDE * low or float(np.median(written)) < UNIT * middle:
        return ""
    across = float(np.ptp(beads.positions, axis=0).max())
    edge = float(np.linalg.norm(beads.box, axis=1).max())
    return f"are beads, {across:.3g} nm across, and box, {edge:.3g} nm, in one unit?"


def _hint(ratio: float, uniform: float) -> str:
    """What may help where all distances are off."""
    if uniform > TOO_WIDE:
        return "are the beads in the order and of the types of the mapping?"
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


def _too_long(
    mapping: SystemMapping, bonds: BeadBonds, apart: Float64[np.ndarray, " k"]
) -> Iterator[Finding]:
    """Bonds that their atoms cannot span: many of them for another order, few for a jump."""
    long = np.flatnonzero(apart > SLACK * bonds.most)
    if not len(long):
        return
    k = int(long[(apart / bonds.most)[long].argmax()])
    fact = (
        f"expected bonded beads as far apart as their atoms' bonds allow, found {len(long)} of "
        f"{len(apart)} farther, {bonds.kinds[k]} {apart[k]:.2f} nm where at most "
        f"{bonds.most[k]:.2f} is possible"
    )
    beads, times = np.unique(bonds.pairs[long], return_counts=True)
    named = [bead_name(mapping, int(b)) for b in beads[np.argsort(-times, kind="stable")][:NAMED]]
    if len(long) > max(4.0, MANY * len(apart)) or _most_of_one(mapping, bonds, long):
        hint = "are the beads in the order and of the types of the mapping?"
    else:
        hint = f"is {named[0]} where it should be?"
    yield Finding("unusable", f"{fact}: {hint}", tuple(named))


def _most_of_one(mapping: SystemMapping, bonds: BeadBonds, long: Int64[np.ndarray, " m"]) -> bool:
    """Whether one molecule has more of those bonds than a bead that jumped would give it."""
    if not len(long):
        return False
    of = np.searchsorted(mapping.bead_offsets(), bonds.pairs[:, 0], side="right")
    worst = int(np.bincount(of[long]).argmax())
    count = int(np.count_nonzero(of[long] == worst))
    return count > max(4.0, IN_ONE * int(np.count_nonzero(of == worst)))


def _unlike_training(
    bonds: BeadBonds, apart: Float64[np.ndarray, " k"], known: Known | None
) -> Iterator[Finding]:
    """Distances that a model never saw."""
    for kind in sorted(set(bonds.kinds.tolist()) & set(known or {})):
        low, high = (known or {})[kind]
        values = apart[bonds.kinds == kind]
        share = float(np.mean((values < low) | (values > high)))
        if share > OUTSIDE:
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


def _apart(bonds: BeadBonds, beads: Structure) -> Float64[np.ndarray, " k"]:
    """Distance of every pair of bonded beads, nm."""
    first, second = beads.positions[bonds.pairs.T]
    return np.linalg.norm(minimum_image(second - first, beads.box), axis=1)


def _kinds(beads: MoleculeMapping) -> np.ndarray:
    pairs = [sorted((beads.bead_types[a], beads.bead_types[b])) for a, b in beads.bead_bonds]
    return np.array(["-".join(pair) for pair in pairs], dtype=object)


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
    found = {}
    for kind in HELD:
        if kind in molecule.terms:
            listed = molecule.terms[kind]
            for (a, b), length in zip(
                listed.atoms.tolist(), listed.parameters[:, 0].tolist(), strict=True
            ):
                found[min(a, b), max(a, b)] = length
    usual = float(np.median(list(found.values()))) if found else USUAL_BOND
    # tables, bonds of finite extension and those without an energy have no length of rest
    return {(a, b): found.get((a, b), usual) for a, b in molecule.bonds.tolist()} | found


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

"""Applies the ``stereo`` section of a mapping file to the centres and double bonds of a system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from jaxtyping import Int64

from deepbackmap.chemistry.cip import Priorities, sign_of_order
from deepbackmap.chemistry.double_bonds import WantedSides
from deepbackmap.chemistry.hands import Hands, molecule_of, told
from deepbackmap.chemistry.stereo import bonded_neighbours
from deepbackmap.chemistry.tacticity import Centres
from deepbackmap.errors import InputError
from deepbackmap.mapping import MappingFile, SystemMapping
from deepbackmap.mapping.resolve import name_monomers
from deepbackmap.mapping.stereo_rules import ChainPattern, StereoRule
from deepbackmap.mapping.votca import VotcaMolecule
from deepbackmap.system import MoleculeType


@dataclass(frozen=True)
class _Kind:
    """One molecule type as the section sees it."""

    index: int
    """Among the topology's molecule types."""
    molecule: MoleculeType
    atoms: tuple[dict[str, int], ...]
    """Atoms by name, a monomer."""
    rows: Int64[np.ndarray, "c 5"]
    """Its centres and their branches, atoms of the molecule, along the chain."""
    kinds: tuple[str, ...]
    where: str
    """File and line, for errors."""
    back: Int64[np.ndarray, "c"]
    """Place of each of these centres in the order of ``tacticity.find_centres``."""

    def named(self, name: str) -> list[int]:
        """Atoms that a name of the section means."""
        number, colon, bare = name.rpartition(":")
        monomers = self.atoms
        if colon:
            inside = number.isdigit() and 0 < int(number) <= len(self.atoms)
            monomers = (self.atoms[int(number) - 1],) if inside else ()
        return [m[bare] for m in monomers if bare in m]

    def error(self, expected: str, found: str) -> InputError:
        return InputError(
            f"{self.where}: expected {expected} in molecule {self.molecule.name}, found {found}"
        )


def from_mapping(file: MappingFile, mapping: SystemMapping, centres: Centres) -> Hands:
    """Hands that the section of a mapping file tells; later entries overrule earlier ones.

    Args:
        file: the mapping file.
        mapping: what it gave for the system.
        centres: of the system.

    Raises:
        InputError: an entry fits no molecule, no centre, or not the length of a chain.
    """
    sign = np.zeros(len(centres.atoms), dtype=np.int64)
    first = np.searchsorted(
        molecule_of(mapping.topology, centres), np.arange(mapping.topology.n_molecules + 1)
    )
    for rule in file.stereo:
        drawn = rule.pattern is not None and rule.pattern.word == "atactic"
        ready: dict[int, np.ndarray] = {}
        for number, kind in _molecules(file, rule, mapping, centres):
            mine = slice(first[number], first[number + 1])
            if drawn or kind.index not in ready:
                found = np.zeros(len(kind.rows), dtype=np.int64)
                found[kind.back] = _signs(rule, kind, number)
                ready[kind.index] = found
            found = ready[kind.index]
            sign[mine] = np.where(found != 0, found, sign[mine])
    return told(sign, "mapping")


def double_bonds_from_mapping(file: MappingFile, mapping: SystemMapping) -> WantedSides:
    """Double bonds that the section of a mapping file tells the sides of.

    Args:
        file: the mapping file.
        mapping: what it gave for the system.

    Raises:
        InputError: an entry fits no molecule, or names atoms that are not bonded or have no
            substituents to tell sides by.
    """
    found: dict[tuple[int, int], tuple[list[int], int]] = {}
    offsets = mapping.topology.molecule_offsets()
    nothing = Centres(np.zeros((0, 5), dtype=np.int64), (), np.zeros(0, dtype=np.int64))
    for rule in file.stereo:
        ready: dict[int, list[tuple[list[int], int]]] = {}
        for number, kind in _molecules(file, rule, mapping, nothing):
            if kind.index not in ready:
                ready[kind.index] = list(_sides(rule, kind))
            for atoms, side in ready[kind.index]:
                shifted = [int(offsets[number]) + a for a in atoms]
                found[shifted[1], shifted[2]] = (shifted, side)
    return WantedSides(
        np.array([a for a, _ in found.values()], dtype=np.int64).reshape(-1, 4),
        np.array([s for _, s in found.values()], dtype=np.int64),
    )


def _molecules(
    file: MappingFile, rule: StereoRule, mapping: SystemMapping, centres: Centres
) -> Iterator[tuple[int, _Kind]]:
    """Number in the system, from 0, and type of every molecule that a rule is about."""
    topology, where = mapping.topology, f"{file.source} line {rule.line}"
    ready: dict[int, _Kind] = {}
    counted = met = 0
    for number, t in enumerate(topology.molecule_type_index().tolist()):
        if not fnmatchcase(topology.molecule_types[t].name, rule.molecules):
            continue
        counted += 1
        if not rule.holds_for(counted):
            continue
        if t not in ready:
            ready[t] = _kind(file, mapping, centres, number, t, where)
        met += 1
        yield number, ready[t]
    if not met:
        names = " ".join(sorted({topology.molecule_types[t].name for t, _ in topology.blocks}))
        raise InputError(
            f"{where}: expected molecules {rule.molecules} with these numbers, found {counted} "
            f"of that name among {names}"
        )


def _kind(
    file: MappingFile, mapping: SystemMapping, centres: Centres, number: int, t: int, where: str
) -> _Kind:
    molecule, beads = mapping.topology.molecule_types[t], mapping.molecules[t]
    rules = () if isinstance(file.rules, VotcaMolecule) else file.rules
    mine = np.flatnonzero(molecule_of(mapping.topology, centres) == number)
    rows = centres.atoms[mine] - mapping.topology.molecule_offsets()[number]
    rank = np.empty(beads.n_beads, dtype=np.int64)
    rank[beads.order] = np.arange(beads.n_beads)
    along = np.lexsort((rows[:, 0], rank[beads.owner[rows[:, 0]]]))
    return _Kind(
        index=t,
        molecule=molecule,
        atoms=tuple(atoms for _, atoms in name_monomers(molecule, rules, file.source)[0]),
        rows=rows[along],
        kinds=tuple(centres.kinds[mine[k]] for k in along),
        where=where,
        back=along,
    )


def _signs(rule: StereoRule, kind: _Kind, number: int) -> Int64[np.ndarray, "c"]:
    """Signs of a molecule's centres along the chain; 0 where the rule says nothing."""
    sign = np.zeros(len(kind.rows), dtype=np.int64)
    if rule.pattern is not None:
        chosen = _chosen(rule.pattern, kind)
        sign[chosen] = _pattern(rule.pattern, kind, chosen, number)
    for name, hand in (rule.centres or {}).items():
        atoms = kind.named(name)
        rows = [k for k, row in enumerate(kind.rows.tolist()) if row[0] in atoms]
        if not rows:
            raise kind.error(f"a stereocentre {name}", "an atom that is none" if atoms else "none")
        for k in rows:
            sign[k] = _sign(kind, k, hand)
    return sign


def _sign(kind: _Kind, k: int, hand: str) -> int:
    """The sign that a hand of the section gives a centre."""
    if hand in "+-":
        return int(f"{hand}1")
    centre, *branches = kind.rows[k].tolist()
    order = Priorities(kind.molecule).order(centre, branches)
    if order is None:
        raise kind.error(
            f"a sign, + or -, for the centre {kind.molecule.atom_names[centre]}, whose branches "
            f"have no priorities that the bond graph tells", f"{hand}",
        )  # fmt: skip
    return sign_of_order(order, branches) * (1 if hand == "R" else -1)


def _chosen(pattern: ChainPattern, kind: _Kind) -> Int64[np.ndarray, "d"]:
    """The centres that a pattern runs over."""
    if pattern.centre is not None:
        atoms = kind.named(pattern.centre)
        chosen = np.flatnonzero(np.isin(kind.rows[:, 0], atoms))
        if not len(chosen):
            raise kind.error(f"stereocentres {pattern.centre}", "none")
        return chosen
    if len(set(kind.kinds)) != 1:
        found = ", ".join(sorted({kind.molecule.atom_names[a] for a in kind.rows[:, 0]})[:8])
        raise kind.error(
            "one kind of stereocentre for the pattern (say which with 'centre')",
            f"{len(set(kind.kinds))} kinds{': ' + found if found else ''}",
        )
    return np.arange(len(kind.rows))


def _pattern(
    pattern: ChainPattern, kind: _Kind, chosen: Int64[np.ndarray, "d"], number: int
) -> Int64[np.ndarray, "d"]:
    """Signs of one chain."""
    dyads = len(chosen) - 1
    rng = np.random.default_rng([pattern.seed, number])
    first = 1 if pattern.first is None else _sign(kind, int(chosen[0]), pattern.first)
    if pattern.word == "atactic":
        if pattern.first is None:
            first = int(rng.choice([-1, 1]))
        steps = np.where(rng.random(dyads) < pattern.meso, 1, -1)
    elif pattern.word in ("syndiotactic", "isotactic"):
        steps = np.full(dyads, 1 if pattern.word == "isotactic" else -1)
    else:
        if len(pattern.word) != dyads:
            raise kind.error(
                f"{dyads} letters m and r, one less than the {dyads + 1} stereocentres",
                f"{len(pattern.word)} letters",
            )
        steps = np.array([1 if c == "m" else -1 for c in pattern.word], dtype=np.int64)
    return first * np.cumprod(np.concatenate([[1], steps]).astype(np.int64))


def _sides(rule: StereoRule, kind: _Kind) -> Iterator[tuple[list[int], int]]:
    """Four atoms and the side of every double bond that a rule names."""
    neighbours = bonded_neighbours(kind.molecule)
    for (left, right), word in (rule.double_bonds or {}).items():
        pairs = [(a, b) for a in kind.named(left) for b in kind.named(right) if b in neighbours[a]]
        if not pairs:
            raise kind.error(f"a bond {left}={right}", "none between atoms of these names")
        for a, b in pairs:
            ends = [
                _substituent(kind, centre, [x for x in neighbours[centre] if x != other], word)
                for centre, other in ((a, b), (b, a))
            ]
            yield [ends[0], a, b, ends[1]], 1 if word in ("cis", "Z") else -1


def _substituent(kind: _Kind, centre: int, branches: list[int], word: str) -> int:
    """The substituent by which the side is told: the one heavy one, or by priority for Z and E."""
    name = kind.molecule.atom_names[centre]
    if word in ("cis", "trans"):
        heavy = [b for b in branches if kind.molecule.heavy[b]]
        if len(heavy) != 1:
            raise kind.error(
                f"one heavy atom beside the double bond at {name} for cis or trans (Z and E go by "
                f"priority)", str(len(heavy)),
            )  # fmt: skip
        return heavy[0]
    order = Priorities(kind.molecule).order(centre, branches)
    if not order:
        raise kind.error(f"substituents of different priority at {name}", "none")
    return order[0]

"""Geometric modifiers: atoms put beside, across from or around others, from a file.

The format is described in ``docs/baselines.md``. Every line moves one atom (``chiral`` with five
names two), and lines act one after the other, each on all monomers that have its atoms.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from deepbackmap.errors import InputError
from deepbackmap.mapping import MappingFile, SystemMapping
from deepbackmap.mapping.resolve import name_monomers
from deepbackmap.mapping.rules import ResidueRule
from deepbackmap.system import MoleculeType, Structure
from deepbackmap.system.kinds import SPRINGS

COUNTS = {"out": (3, 9), "cis": (4, 4), "trans": (4, 4), "chiral": (4, 5)}
"""Fewest and most names on a line of each kind."""
PARITIES = ("odd", "even")
"""Of the number of the monomer in its molecule, which counts from 1."""
PLACES = ("first", "last")
"""Monomers that no bond joins to the one before, or to the one after."""
PLANAR_ANGLE = np.deg2rad(120.0)
"""Bond angle of ``cis`` and ``trans`` where the topology has none for the three atoms."""


@dataclass(frozen=True)
class Modifier:
    """One line of a modifiers file."""

    residue: str
    """Pattern of residue names."""
    kind: str
    """out, cis, trans or chiral."""
    where: str | None
    """odd or even: only monomers with such numbers; first or last: only those; None: all."""
    names: tuple[str, ...]
    """Prefix - or +: of the monomer before or after."""
    line: int


@dataclass(frozen=True)
class Placed:
    """A modifier on the atoms of one molecule type."""

    kind: str
    atoms: Int64[np.ndarray, "r k"]
    """One row a monomer: the atom that moves, the one that it is bonded to, the others."""
    lengths: Float64[np.ndarray, " r"]
    """Of the bond between the first two atoms, nm."""
    angles: Float64[np.ndarray, " r"]
    """Between the first three atoms, rad."""


@dataclass(frozen=True)
class Modifiers:
    """Modifiers resolved onto a system."""

    source: str
    molecules: tuple[tuple[Placed, ...], ...]
    """For each molecule type, in the order of the file."""


def packaged_modifiers() -> dict[str, Path]:
    """Modifiers files that come with the package, by name."""
    folder = Path(str(resources.files("deepbackmap"))) / "presets" / "modifiers"
    return {path.stem: path for path in sorted(folder.glob("*.modifiers"))}


def read_modifiers(path: str | Path) -> tuple[Modifier, ...]:
    """Reads a modifiers file.

    Args:
        path: text by residue (``docs/baselines.md``), or the name of a packaged one.

    Returns:
        Its lines in order.

    Raises:
        InputError: the file is missing or a line is not understood.
    """
    try:
        text = packaged_modifiers().get(str(path), Path(path)).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: expected a modifiers file, found {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected modifiers as text, found other bytes") from error
    return parse_modifiers(text, str(path))


def parse_modifiers(text: str, source: str) -> tuple[Modifier, ...]:
    """Reads modifiers that are at hand as text (see ``read_modifiers``)."""
    found: list[Modifier] = []
    residue: str | None = None
    section: tuple[str, str | None] | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        content = raw.split(";")[0].strip()
        if not content:
            continue
        where = f"{source} line {number}"
        if content.startswith("["):
            section = _section(content, where)
        elif section is None:
            raise InputError(f"{where}: expected a section such as [ residue ], found '{content}'")
        elif section[0] == "residue":
            residue = _one_word(content, where)
        elif residue is None:
            raise InputError(
                f"{where}: expected [ residue ] with a name first, found [ {section[0]} ]"
            )
        else:
            names = _names(content, section[0], where)
            found.append(Modifier(residue, *section, names, number))
    if not found:
        raise InputError(f"{source}: expected at least one modifier, found none")
    return tuple(found)


def resolve_modifiers(
    modifiers: Sequence[Modifier], source: str, mapping: SystemMapping, file: MappingFile
) -> Modifiers:
    """Finds the atoms of modifiers in the molecules of a system.

    A line acts on the monomers that have all of its atoms, so that a line of an end does nothing
    inside the chain; a line that acts nowhere is refused.

    Args:
        modifiers: as read.
        source: their file, for errors.
        mapping: of the system.
        file: the mapping's file, whose names of atoms are used: the topology's, or those of
            ``repeat`` where a residue is cut into monomers.

    Raises:
        InputError: an atom that no monomer has, a first pair that is not bonded, or no residue of
            that name.
    """
    rules = file.rules if isinstance(file.rules, tuple) else ()
    used = {index for index, count in mapping.topology.blocks if count}
    types = [m for k, m in enumerate(mapping.topology.molecule_types) if k in used]
    hits = [_resolve_in(m, modifiers, rules, source, file.source) for m in types]
    for place, modifier in enumerate(modifiers):
        if not any(rows[place] for rows in hits):
            raise _acts_nowhere(modifier, types, rules, source, file.source)
    by_type = {id(m): _placed(m, modifiers, h, source) for m, h in zip(types, hits, strict=True)}
    return Modifiers(source, tuple(by_type.get(id(m), ()) for m in mapping.topology.molecule_types))


def apply_modifiers(
    modifiers: Modifiers, mapping: SystemMapping, structure: Structure
) -> Structure:
    """Moves atoms as the modifiers say.

    Where the atoms of a line lie so that its direction is undefined, the atom stays.

    Args:
        modifiers: resolved onto the same system.
        mapping: of the system.
        structure: atoms, molecules whole.
    """
    positions, start = structure.positions.copy(), 0
    for index, count in mapping.topology.blocks:
        stop = start + mapping.topology.molecule_types[index].n_atoms * count
        copies = positions[start:stop].reshape(count, -1, 3)
        for placed in modifiers.molecules[index]:
            _ACTIONS[placed.kind](copies, placed)
        start = stop
    return replace(structure, positions=positions)


def _section(content: str, where: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"\[\s*(\w+)(?:\s+(\w+))?\s*\]", content)
    known = ", ".join(("residue", *COUNTS))
    if match is None or match[1] not in ("residue", *COUNTS):
        raise InputError(f"{where}: expected one of the sections {known}, found '{content}'")
    name, which = match.groups()
    if which is not None and (name == "residue" or which not in (*PARITIES, *PLACES)):
        words = ", ".join((*PARITIES, *PLACES))
        raise InputError(
            f"{where}: expected a section such as [ out ], or one of {words} behind its name, "
            f"found '{content}'"
        )
    return name, which


def _one_word(content: str, where: str) -> str:
    words = content.split()
    if len(words) != 1:
        raise InputError(f"{where}: expected one residue name, found '{content}'")
    return words[0]


def _names(content: str, kind: str, where: str) -> tuple[str, ...]:
    names = tuple(content.split())
    fewest, most = COUNTS[kind]
    if not fewest <= len(names) <= most:
        wanted = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise InputError(f"{where}: expected {wanted} atom names for {kind}, found {len(names)}")
    if len(set(names)) != len(names):
        raise InputError(f"{where}: expected atom names that differ, found '{content}'")
    return names


def _resolve_in(
    molecule: MoleculeType,
    modifiers: Sequence[Modifier],
    rules: tuple[ResidueRule, ...],
    source: str,
    mapping_source: str,
) -> list[list[tuple[int, ...]]]:
    """For each modifier the atoms of every monomer that has them all."""
    monomers, joined = name_monomers(molecule, rules, mapping_source)
    return [
        [
            atoms
            for k, (residue, _) in enumerate(monomers)
            if fnmatchcase(residue, modifier.residue)
            and _acts_on(modifier, k, joined)
            and (atoms := _atoms_of(k, modifier.names, monomers, joined)) is not None
        ]
        for modifier in modifiers
    ]


def _acts_on(modifier: Modifier, k: int, joined: list[bool]) -> bool:
    """Whether monomer ``k``, from 0, is one of those that a modifier is for."""
    if modifier.where == "first":
        return k == 0 or not joined[k - 1]
    if modifier.where == "last":
        return not joined[k]
    return modifier.where in (None, PARITIES[k % 2])


def _atoms_of(
    k: int,
    names: tuple[str, ...],
    monomers: list[tuple[str, dict[str, int]]],
    joined: list[bool],
) -> tuple[int, ...] | None:
    atoms = []
    for name in names:
        at, bare = k, name
        if name[0] in "+-" and len(name) > 1:
            at, bare = (k + 1 if name[0] == "+" else k - 1), name[1:]
            there = joined[k] if name[0] == "+" else k > 0 and joined[k - 1]
            if not there:
                return None
        if bare not in monomers[at][1]:
            return None
        atoms.append(monomers[at][1][bare])
    return tuple(atoms)


def _acts_nowhere(
    modifier: Modifier,
    types: list[MoleculeType],
    rules: tuple[ResidueRule, ...],
    source: str,
    mapping_source: str,
) -> InputError:
    """Says what is wrong with a line that no monomer fits."""
    where = f"{source} line {modifier.line}"
    everything = [m for t in types for m in name_monomers(t, rules, mapping_source)[0]]
    known = {name for _, atoms in everything for name in atoms}
    residues = {residue for residue, _ in everything}
    if not any(fnmatchcase(r, modifier.residue) for r in residues):
        return InputError(
            f"{where}: expected one of the residues {' '.join(sorted(residues))} of the topology, "
            f"found {modifier.residue}"
        )
    for name in modifier.names:
        if name not in known and name.lstrip("+-") not in known:
            shown = " ".join(sorted(known)[:40])
            return InputError(
                f"{where}: expected atoms of residue {modifier.residue} (such as {shown}), "
                f"found '{name}'"
            )
    return InputError(
        f"{where}: expected a monomer that has all of {' '.join(modifier.names)}, found none"
    )


def _placed(
    molecule: MoleculeType,
    modifiers: Sequence[Modifier],
    hits: list[list[tuple[int, ...]]],
    source: str,
) -> tuple[Placed, ...]:
    lengths = _lengths(molecule)
    angles = _angles(molecule)
    found = []
    for modifier, rows in zip(modifiers, hits, strict=True):
        for a, b, *_ in rows:
            if (a, b) not in lengths:
                raise InputError(
                    f"{source} line {modifier.line}: expected {modifier.names[0]} to be bonded to "
                    f"{modifier.names[1]}, found no bond between atoms {molecule.atom_names[a]} "
                    f"and {molecule.atom_names[b]} of molecule {molecule.name}"
                )
        if rows:
            found.append(
                Placed(
                    modifier.kind,
                    np.array(rows, dtype=np.int64),
                    np.array([lengths[a, b] for a, b, *_ in rows]),
                    np.array([angles.get((a, b, c), PLANAR_ANGLE) for a, b, c, *_ in rows]),
                )
            )
    return tuple(found)


def _lengths(molecule: MoleculeType) -> dict[tuple[int, int], float]:
    """Length of every bond, both ways."""
    found: dict[tuple[int, int], float] = {}
    for kind in (*SPRINGS, "constraint"):
        if kind in molecule.terms:
            term = molecule.terms[kind]
            for (a, b), length in zip(term.atoms.tolist(), term.parameters[:, 0], strict=True):
                found[a, b] = found[b, a] = float(length)
    return found


def _angles(molecule: MoleculeType) -> dict[tuple[int, int, int], float]:
    """Reference of every angle in rad, both ways."""
    found: dict[tuple[int, int, int], float] = {}
    for kind in ("angle", "angle_g96", "urey_bradley", "angle_quartic", "angle_restricted"):
        if kind in molecule.terms:
            term = molecule.terms[kind]
            for (a, b, c), theta in zip(term.atoms.tolist(), term.parameters[:, 0], strict=True):
                found[a, b, c] = found[c, b, a] = float(theta)
    return found


def _unit(vectors: Float64[np.ndarray, "*s 3"]) -> Float64[np.ndarray, "*s 3"]:
    """Unit vectors; zero where a vector is shorter than rounding noise."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0.0)


def _move(
    copies: Float64[np.ndarray, "m n 3"],
    placed: Placed,
    direction: Float64[np.ndarray, "m r 3"],
) -> None:
    """The first atom of each row at its bond's length from the second; stays where undefined."""
    a, b = placed.atoms[:, 0], placed.atoms[:, 1]
    target = copies[:, b] + placed.lengths[:, None] * direction
    defined = np.linalg.norm(direction, axis=-1, keepdims=True) > 0.5
    copies[:, a] = np.where(defined, target, copies[:, a])


def _out(copies: Float64[np.ndarray, "m n 3"], placed: Placed) -> None:
    """Away from the other atoms, seen from the second."""
    centre = copies[:, placed.atoms[:, 1]]
    arms = _unit(copies[:, placed.atoms[:, 2:]] - centre[:, :, None])
    _move(copies, placed, _unit(-arms.sum(axis=2)))


def _planar(sign: float) -> Callable[[Float64[np.ndarray, "m n 3"], Placed], None]:
    def act(copies: Float64[np.ndarray, "m n 3"], placed: Placed) -> None:
        b, c, d = (copies[:, placed.atoms[:, k]] for k in (1, 2, 3))
        along = _unit(b - c)
        arm = d - c
        side = _unit(arm - (arm * along).sum(axis=-1, keepdims=True) * along)
        angle = placed.angles[:, None]
        _move(copies, placed, _unit(-np.cos(angle) * along + sign * np.sin(angle) * side))

    return act


def _chiral(copies: Float64[np.ndarray, "m n 3"], placed: Placed) -> None:
    """On the side from which the other atoms follow one another anticlockwise."""
    others = copies[:, placed.atoms[:, 2:]]
    b = placed.atoms[:, 1]
    if others.shape[2] == 2:
        x, y = others[:, :, 0] - copies[:, b], others[:, :, 1] - copies[:, b]
        back = -_unit(_unit(x) + _unit(y))
        # Half the tetrahedral angle between the two atoms on one side of a tetrahedral centre.
        _move(copies, placed, _unit(back / np.sqrt(2.0) + _unit(np.cross(x, y))))
        return
    x, y, z = (others[:, :, k] for k in range(3))
    normal = _unit(np.cross(y - x, z - x))
    height = ((copies[:, b] - x) * normal).sum(axis=-1, keepdims=True)
    # The centre of a tetrahedron is a third of a bond above the plane of three of its corners.
    raised = (placed.lengths[:, None] / 3.0 - height) * normal
    copies[:, b] += np.where(np.linalg.norm(normal, axis=-1, keepdims=True) > 0.5, raised, 0.0)
    _move(copies, placed, normal)


_ACTIONS: dict[str, Callable[[Float64[np.ndarray, "m n 3"], Placed], None]] = {
    "out": _out,
    "cis": _planar(1.0),
    "trans": _planar(-1.0),
    "chiral": _chiral,
}

"""Residues that a mapping leaves out (``drop``) or takes over atom by atom (``keep``)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from deepbackmap.errors import InputError
from deepbackmap.mapping.assemble import ResolvedBead
from deepbackmap.mapping.rules import SELECTIONS
from deepbackmap.mapping.yaml_nodes import YamlReader
from deepbackmap.system import MoleculeType, Topology

SHOWN = 10
"""Names of residues in one message."""


@dataclass(frozen=True)
class Selection:
    """Patterns of residue names; ``*`` and ``?`` stand for any characters and any one."""

    drop: tuple[str, ...] = ()
    """Molecules of these residues get no beads."""
    keep: tuple[str, ...] = ()
    """Every atom of molecules of these residues is a bead of its own."""

    def of(self, molecule: MoleculeType, source: str) -> str | None:
        """``drop`` or ``keep`` for a molecule type, or None where it is to be mapped.

        Raises:
            InputError: only some of its residues are named: molecules are taken as a whole.
        """
        names = dict.fromkeys(molecule.residue_names)
        for word, patterns in (("drop", self.drop), ("keep", self.keep)):
            named = [n for n in names if any(fnmatchcase(n, p) for p in patterns)]
            if named and len(named) < len(names):
                other = next(n for n in names if n not in named)
                raise InputError(
                    f"{source}: expected '{word}' to name whole molecules, found residue "
                    f"{named[0]} of molecule {molecule.name} but not {other}; map "
                    f"{named[0]} with an entry"
                )
            if named:
                return word
        return None

    def __add__(self, other: Selection) -> Selection:
        """Both together."""
        return Selection(self.drop + other.drop, self.keep + other.keep)


def parse_selection(text: str, source: str) -> Selection:
    """The ``drop`` and ``keep`` lists of a YAML mapping.

    Raises:
        InputError: they are not lists of words, or one residue is in both.
    """
    reader = YamlReader(source)
    top = reader.items(reader.parse(text), "the file")
    found: dict[str, tuple[str, ...]] = {}
    for key in SELECTIONS:
        nodes = reader.sequence(top[key], key) if key in top else []
        found[key] = tuple(reader.text(n, "a residue name") for n in nodes)
    both = set(found["drop"]) & set(found["keep"])
    if both:
        raise reader.error(top["keep"], f"{min(both)} to be dropped or kept", "both")
    return Selection(**found)


def selects_only(text: str, source: str) -> bool:
    """Whether a YAML mapping has ``drop`` and ``keep`` and nothing else."""
    reader = YamlReader(source)
    keys = set(reader.items(reader.parse(text), "the file"))
    return bool(keys) and keys <= set(SELECTIONS)


def to_yaml(drop: Collection[str], keep: Collection[str]) -> str:
    """The lists as a mapping of their own."""
    rows = {"drop": drop, "keep": keep}
    return "".join(
        f"{key}: [{', '.join(repr(n) for n in names)}]\n" for key, names in rows.items() if names
    )


def atom_beads(molecule: MoleculeType) -> list[ResolvedBead]:
    """Every atom as a bead of its own name and type."""
    rows = zip(
        molecule.atom_names, molecule.atom_types, molecule.residue_names,
        molecule.residue_numbers.tolist(), strict=True,
    )  # fmt: skip
    return [
        ResolvedBead(name, kind, residue, number, (k,), (1.0,), (k,))
        for k, (name, kind, residue, number) in enumerate(rows)
    ]


def left_out(topology: Topology, selection: Selection, source: str) -> tuple[Topology, list[str]]:
    """A topology without the molecules that are dropped, and what they are, as sentences.

    Raises:
        InputError: a molecule is dropped in part.
    """
    blocks, counts = [], dict.fromkeys(range(len(topology.molecule_types)), 0)
    for index, count in topology.blocks:
        gone = count and selection.of(topology.molecule_types[index], source) == "drop"
        counts[index] += count if gone else 0
        blocks.append((index, 0 if gone else count))
    notes = [
        f"left out: {n} molecules {m.name} ({n * m.n_atoms} atoms)"
        for (k, n), m in zip(counts.items(), topology.molecule_types, strict=True)
        if n
    ]
    return replace(topology, blocks=tuple(blocks)), notes


def refuse_absent(topology: Topology, **asked: Collection[str]) -> None:
    """Refuses residues that a user names and that no molecule has: the option would do nothing.

    Lists in mapping files may name more than a system has, so that one file serves many.

    Args:
        topology: of the system.
        asked: names or patterns of residues, by the option (``drop``, ``keep``).

    Raises:
        InputError: the first that no molecule has.
    """
    used = dict.fromkeys(t for t, count in topology.blocks if count)
    there = dict.fromkeys(n for t in used for n in topology.molecule_types[t].residue_names)
    for option, patterns in asked.items():
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in there):
                names = list(there)
                more = ", ..." if len(names) > SHOWN else ""
                raise InputError(
                    f"{option}: expected a residue of {topology.source}, found '{pattern}', which "
                    f"none is called there; they are {', '.join(names[:SHOWN])}{more}"
                )

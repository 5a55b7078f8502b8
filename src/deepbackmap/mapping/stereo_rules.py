"""The ``stereo:`` section of a mapping file, as rules that do not yet know a molecule.

The section is described in ``docs/hands.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from deepbackmap.mapping.yaml_nodes import YamlReader

HANDS = ("R", "S", "+", "-")
"""By Cahn, Ingold and Prelog, or the sign of a centre (``docs/hands.md``)."""
SIDES = ("cis", "trans", "Z", "E")
PATTERNS = ("syndiotactic", "isotactic", "atactic")
_KEYS = ("molecules", "numbers", "centres", "pattern", "centre", "first", "seed", "meso",
         "double_bonds")  # fmt: skip
_OF_PATTERN = ("centre", "first", "seed", "meso")


@dataclass(frozen=True)
class ChainPattern:
    """How the hands of a chain's centres follow one another."""

    word: str
    """One of ``PATTERNS``, or a letter m or r for every dyad of a chain."""
    centre: str | None = None
    """Atom name of the centres meant, where a molecule has several kinds."""
    first: str | None = None
    """Hand of the first centre (``HANDS``); without, + or, in an atactic chain, drawn."""
    seed: int = 1
    """Of atactic chains; every molecule draws its own hands."""
    meso: float = 0.5
    """Share of meso dyads of atactic chains."""


@dataclass(frozen=True)
class StereoRule:
    """What one entry of the section says of some molecules."""

    line: int
    molecules: str = "*"
    """Name of the molecule type; ``*`` and ``?`` stand for any characters and any one."""
    numbers: tuple[tuple[int, int], ...] | None = None
    """Ranges, from 1, both ends included, among the molecules of those types; None: all."""
    centres: Mapping[str, str] | None = None
    """Hand (``HANDS``) by atom name, which may have the monomer's number before it (``3:CB``)."""
    pattern: ChainPattern | None = None
    double_bonds: Mapping[tuple[str, str], str] | None = None
    """Side (``SIDES``) by the names of the two atoms."""

    def holds_for(self, number: int) -> bool:
        """Whether the rule is about this molecule of its types, counted from 1."""
        return self.numbers is None or any(a <= number <= b for a, b in self.numbers)


def parse_stereo(reader: YamlReader, node: yaml.Node) -> tuple[StereoRule, ...]:
    """Reads the section; where two entries speak of one centre, the later one holds.

    Raises:
        InputError: anything unknown, repeated or of the wrong kind, with its line.
    """
    return tuple(_entry(reader, n) for n in reader.sequence(node, "stereo"))


def _entry(reader: YamlReader, node: yaml.Node) -> StereoRule:
    items = reader.items(node, "an entry of stereo", _KEYS)
    if not {"centres", "pattern", "double_bonds"} & set(items):
        raise reader.error(node, "an entry of stereo to say centres, pattern or double_bonds",
                           "none")  # fmt: skip
    if "pattern" not in items:
        for key in _OF_PATTERN:
            if key in items:
                raise reader.error(items[key], f"'{key}' beside a pattern", "no pattern")
    return StereoRule(
        line=node.start_mark.line + 1,
        molecules=reader.text(items["molecules"], "molecules") if "molecules" in items else "*",
        numbers=_numbers(reader, items["numbers"]) if "numbers" in items else None,
        centres=_centres(reader, items["centres"]) if "centres" in items else None,
        pattern=_pattern(reader, items) if "pattern" in items else None,
        double_bonds=_double_bonds(reader, items["double_bonds"])
        if "double_bonds" in items
        else None,
    )


def _numbers(reader: YamlReader, node: yaml.Node) -> tuple[tuple[int, int], ...]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    found = []
    for entry in nodes:
        word = reader.text(entry, "a molecule number")
        low, dash, high = word.partition("-")
        ends = (low, high if dash else low)
        if not all(e.strip().isdigit() for e in ends) or not 1 <= int(ends[0]) <= int(ends[1]):
            raise reader.error(entry, "molecule numbers such as 3 or 1-6", f"'{word}'")
        found.append((int(ends[0]), int(ends[1])))
    return tuple(found)


def _centres(reader: YamlReader, node: yaml.Node) -> dict[str, str]:
    items = reader.items(node, "centres")
    return {n: reader.choice(v, f"the hand of {n}", HANDS) for n, v in items.items()}


def _pattern(reader: YamlReader, items: dict[str, yaml.Node]) -> ChainPattern:
    word = reader.text(items["pattern"], "pattern")
    if word not in PATTERNS and set(word) - {"m", "r"}:
        raise reader.error(
            items["pattern"], f"pattern to be {', '.join(PATTERNS)} or letters m and r", f"'{word}'"
        )
    for key in ("seed", "meso"):
        if key in items and word != "atactic":
            raise reader.error(items[key], f"'{key}' beside pattern atactic", f"'{word}'")
    meso = reader.number(items["meso"], "meso") if "meso" in items else 0.5
    if not 0.0 <= meso <= 1.0:
        raise reader.error(items["meso"], "meso between 0 and 1", f"{meso:g}")
    return ChainPattern(
        word=word,
        centre=reader.text(items["centre"], "centre") if "centre" in items else None,
        first=reader.choice(items["first"], "first", HANDS) if "first" in items else None,
        seed=reader.count(items["seed"], "seed", 0) if "seed" in items else 1,
        meso=meso,
    )


def _double_bonds(reader: YamlReader, node: yaml.Node) -> dict[tuple[str, str], str]:
    found = {}
    for name, value in reader.items(node, "double_bonds").items():
        first, equals, second = (part.strip() for part in name.partition("="))
        if not first or not equals or not second:
            raise reader.error(value, "a double bond as two atoms, C9=C10", f"'{name}'")
        found[first, second] = reader.choice(value, f"the side of {name}", SIDES)
    return found

"""The YAML mapping format, by residue, as rules that do not yet know a molecule.

The format is described in ``docs/mapping.md``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import yaml

from deepbackmap.mapping.stereo_rules import StereoRule, parse_stereo
from deepbackmap.mapping.yaml_nodes import YamlReader

VARIANTS = ("first", "last", "alone")
SELECTIONS = ("drop", "keep")
"""Lists of residue names beside ``residues`` (``selection``)."""
_BEAD_KEYS = ("name", "type", "atoms", "owns", "weights", "align")


@dataclass(frozen=True)
class BeadForm:
    """How one bead looks in one place of the chain; atoms by name, with a prefix - or + for the
    monomer before or after."""

    name: str
    """May hold ``{n}``, the number of the monomer in its molecule."""
    type: str
    weights: Mapping[str, float]
    mass_weighted: bool
    owns: tuple[str, ...]
    align: tuple[str, str] | None
    """Bead names as templates, with the same prefixes."""
    line: int


@dataclass(frozen=True)
class BeadRule:
    """One bead of a residue: its usual form and the ones it has at the ends of a chain."""

    base: BeadForm
    variants: Mapping[str, BeadForm | None]
    """By ``VARIANTS``; None where the bead does not exist there."""


@dataclass(frozen=True)
class RepeatRule:
    """How a residue that holds a whole chain is cut into monomers."""

    names: tuple[str, ...]
    """Of the atoms of a monomer, by position."""
    before: tuple[tuple[str, str], ...]
    """Atoms ahead of the first monomer: (name, ``first`` or ``last``: the monomer they go to)."""
    after: tuple[tuple[str, str], ...]
    """Atoms behind the last monomer, likewise."""
    bonds: tuple[tuple[str, str], ...] | None
    """Every bond of a monomer and to the next one (prefix +), if the file lists them: the check
    that the atoms are in the order that the names say."""
    line: int


@dataclass(frozen=True)
class ResidueRule:
    """The beads of one residue, or of one monomer of it if it is to be cut."""

    pattern: str
    """Residue name; ``*`` and ``?`` stand for any characters and any one."""
    repeat: RepeatRule | None
    beads: tuple[BeadRule, ...]
    source: str = field(default="", compare=False)
    """The file that it stands in, for errors."""


def parse_rules(text: str, source: str) -> tuple[tuple[ResidueRule, ...], tuple[StereoRule, ...]]:
    """Reads a mapping file.

    Args:
        text: the YAML.
        source: what to call it in errors.

    Returns:
        One rule a residue, and the rules of the hands, in file order. A file may have the hands
        alone, for a mapping that another file holds.

    Raises:
        InputError: anything unknown, repeated, missing or of the wrong kind, with its line.
    """
    reader = YamlReader(source)
    root = reader.parse(text)
    top = reader.items(root, "the file", ("residues", "weights", "stereo", *SELECTIONS))
    weighting = _weighting(reader, top, "mass")
    if "stereo" in top and "residues" not in top:
        return (), parse_stereo(reader, top["stereo"])
    residues = reader.items(reader.need(root, top, "residues", "the file"), "residues")
    if not residues:
        raise reader.error(top["residues"], "at least one residue", "none")
    stereo = parse_stereo(reader, top["stereo"]) if "stereo" in top else ()
    return tuple(_residue(reader, n, node, weighting) for n, node in residues.items()), stereo


def _residue(reader: YamlReader, pattern: str, node: yaml.Node, weighting: str) -> ResidueRule:
    what = f"residue {pattern}"
    items = reader.items(node, what, ("repeat", "beads"))
    repeat = _repeat(reader, items["repeat"]) if "repeat" in items else None
    beads = reader.sequence(reader.need(node, items, "beads", what), f"the beads of {what}")
    if not beads:
        raise reader.error(items["beads"], f"{what} to have beads", "none")
    rules = tuple(_bead(reader, b, what, weighting) for b in beads)
    for name, times in Counter(r.base.name for r in rules).items():
        if times > 1:
            raise reader.error(items["beads"], f"{what} to name its beads apart", f"'{name}' twice")
    return ResidueRule(pattern, repeat, rules, reader.source)


def _repeat(reader: YamlReader, node: yaml.Node) -> RepeatRule:
    items = reader.items(node, "repeat", ("length", "names", "before", "after", "bonds"))
    length = reader.count(reader.need(node, items, "length", "repeat"), "the length of a monomer")
    names_node = reader.need(node, items, "names", "repeat")
    nodes = reader.sequence(names_node, "the names of a monomer's atoms")
    names = tuple(reader.text(n, "an atom name") for n in nodes)
    if len(names) != length:
        raise reader.error(names_node, f"as many names as the length, {length}", str(len(names)))
    before = _extra_atoms(reader, items.get("before"))
    after = _extra_atoms(reader, items.get("after"))
    for name, times in Counter([*names, *(n for n, _ in before), *(n for n, _ in after)]).items():
        if times > 1:
            raise reader.error(node, "atom names that differ", f"'{name}' {times} times")
    bonds = _bonds(reader, items["bonds"], names) if "bonds" in items else None
    return RepeatRule(names, before, after, bonds, node.start_mark.line + 1)


def _bonds(
    reader: YamlReader, node: yaml.Node, names: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    found = []
    for entry in reader.sequence(node, "the bonds of a monomer"):
        ends = [reader.text(n, "an atom name") for n in reader.sequence(entry, "a bond")]
        if len(ends) != 2 or ends[0] not in names or ends[1].removeprefix("+") not in names:
            raise reader.error(
                entry, "a bond between two of the monomer's names", f"[{', '.join(ends)}]"
            )
        found.append((ends[0], ends[1]))
    return tuple(found)


def _extra_atoms(reader: YamlReader, node: yaml.Node | None) -> tuple[tuple[str, str], ...]:
    if node is None:
        return ()
    found = []
    for entry in reader.sequence(node, "the extra atoms"):
        items = reader.items(entry, "an extra atom", ("name", "monomer"))
        name = reader.text(reader.need(entry, items, "name", "an extra atom"), "its name")
        monomer = reader.need(entry, items, "monomer", "an extra atom")
        found.append((name, reader.choice(monomer, "the monomer of an extra atom", VARIANTS[:2])))
    return tuple(found)


def _bead(reader: YamlReader, node: yaml.Node, what: str, weighting: str) -> BeadRule:
    items = reader.items(node, f"a bead of {what}", (*_BEAD_KEYS, *VARIANTS))
    usual = {k: v for k, v in items.items() if k in _BEAD_KEYS}
    variants: dict[str, BeadForm | None] = {}
    for name in VARIANTS:
        if name in items:
            variants[name] = _variant(reader, items[name], usual, f"a bead of {what}", weighting)
    return BeadRule(_form(reader, node, usual, f"a bead of {what}", weighting), variants)


def _variant(
    reader: YamlReader, node: yaml.Node, usual: dict[str, yaml.Node], what: str, weighting: str
) -> BeadForm | None:
    if isinstance(node, yaml.ScalarNode) and node.value == "none":
        return None
    own = reader.items(node, f"a variant of {what}", _BEAD_KEYS)
    return _form(reader, node, {**usual, **own}, what, weighting)


def _form(
    reader: YamlReader, node: yaml.Node, items: dict[str, yaml.Node], what: str, weighting: str
) -> BeadForm:
    name_node = reader.need(node, items, "name", what)
    name = reader.text(name_node, f"the name of {what}")
    if "{" in name.replace("{n}", "") or "}" in name.replace("{n}", ""):
        raise reader.error(name_node, "a bead name with at most {n} in braces", f"'{name}'")
    weights = _weights(reader, reader.need(node, items, "atoms", what), f"bead {name}")
    owns = tuple(weights)
    if "owns" in items:
        nodes = reader.sequence(items["owns"], f"what bead {name} owns")
        owns = tuple(reader.text(n, "an atom name") for n in nodes)
    return BeadForm(
        name=name,
        type=reader.text(reader.need(node, items, "type", what), f"the type of bead {name}"),
        weights=weights,
        mass_weighted=_weighting(reader, items, weighting) == "mass",
        owns=owns,
        align=_align(reader, items["align"], name) if "align" in items else None,
        line=node.start_mark.line + 1,
    )


def _weights(reader: YamlReader, node: yaml.Node, what: str) -> dict[str, float]:
    if isinstance(node, yaml.SequenceNode):
        names = [reader.text(n, "an atom name") for n in node.value]
        weights = dict.fromkeys(names, 1.0)
        if len(weights) != len(names):
            raise reader.error(node, f"{what} to name each atom once", "one twice")
    else:
        items = reader.items(node, f"the atoms of {what}")
        weights = {n: reader.number(v, f"the weight of {n}") for n, v in items.items()}
    if not weights:
        raise reader.error(node, f"{what} to have atoms", "none")
    for name, weight in weights.items():
        if weight <= 0.0:
            raise reader.error(node, f"a weight above zero for {name} in {what}", str(weight))
    return weights


def _align(reader: YamlReader, node: yaml.Node, name: str) -> tuple[str, str]:
    ends = reader.sequence(node, f"align of bead {name}")
    if len(ends) != 2:
        raise reader.error(node, f"align of bead {name} to name two beads", str(len(ends)))
    low, high = (reader.text(n, "a bead name") for n in ends)
    return low, high


def _weighting(reader: YamlReader, items: dict[str, yaml.Node], default: str) -> str:
    if "weights" not in items:
        return default
    return reader.choice(items["weights"], "weights", ("mass", "plain"))

"""Strict reading of YAML: every value keeps its line, every key is known, none comes twice."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import yaml

from deepbackmap.errors import InputError


@dataclass(frozen=True)
class YamlReader:
    """Takes nodes apart and says file and line of whatever is not as expected.

    Scalars stay text until a number is asked for, so that atoms called NO or 1E5 keep their names.
    """

    source: str

    def parse(self, text: str) -> yaml.Node:
        """The root node of one document."""
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" line {mark.line + 1}" if mark else ""
            problem = " ".join((getattr(error, "problem", None) or str(error)).split())
            raise InputError(f"{self.source}{line}: expected YAML, found: {problem}") from error
        if node is None:
            raise InputError(f"{self.source}: expected a mapping, found an empty file")
        return node

    def error(self, node: yaml.Node, expected: str, found: str) -> InputError:
        """The sentence about one place of the file."""
        line = node.start_mark.line + 1
        return InputError(f"{self.source} line {line}: expected {expected}, found {found}")

    def items(
        self, node: yaml.Node, what: str, allowed: Collection[str] | None = None
    ) -> dict[str, yaml.Node]:
        """Key to value of a mapping; keys that are unknown or repeated are errors."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} to be keys with values", _kind(node))
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self.text(key, f"a key of {what}")
            if name in found:
                raise self.error(key, f"{what} to name each key once", f"'{name}' again")
            if allowed is not None and name not in allowed:
                raise self.error(key, f"{what} to have keys {', '.join(allowed)}", f"'{name}'")
            found[name] = value
        return found

    def need(self, node: yaml.Node, items: dict[str, yaml.Node], key: str, what: str) -> yaml.Node:
        """The value of a key that must be there."""
        if key not in items:
            raise self.error(node, f"{what} to have the key '{key}'", "none")
        return items[key]

    def sequence(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        """The items of a list."""
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, f"{what} to be a list", _kind(node))
        return list(node.value)

    def text(self, node: yaml.Node, what: str) -> str:
        """A word or sentence."""
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            raise self.error(node, f"{what} to be a word", _kind(node))
        return str(node.value)

    def number(self, node: yaml.Node, what: str) -> float:
        """A finite number."""
        word = self.text(node, what)
        try:
            value = float(word)
        except ValueError:
            raise self.error(node, f"{what} to be a number", f"'{word}'") from None
        if not math.isfinite(value):
            raise self.error(node, f"{what} to be a finite number", f"'{word}'")
        return value

    def count(self, node: yaml.Node, what: str, least: int = 1) -> int:
        """A whole number from the least that it may be."""
        value = self.number(node, what)
        if value < least or value != int(value):
            raise self.error(node, f"{what} to be a whole number from {least}", f"'{node.value}'")
        return int(value)

    def choice(self, node: yaml.Node, what: str, among: Collection[str]) -> str:
        """One of a few words."""
        word = self.text(node, what)
        if word not in among:
            raise self.error(node, f"{what} to be one of {', '.join(among)}", f"'{word}'")
        return word


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "keys with values"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return f"'{node.value}'"

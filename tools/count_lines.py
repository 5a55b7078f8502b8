"""Counts lines of code of the tests and of the package: ``python tools/count_lines.py``.

Comments, blank lines, docstrings and the strings that describe a field below it do not count.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def code_lines(text: str) -> int:
    """How many lines of a program are code."""
    told: set[int] = set()
    inside: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr | ast.Constant | ast.JoinedStr):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if isinstance(node, ast.Expr) and _is_text(node.value):
                told.update(lines)
            elif len(lines) > 1 and (_is_text(node) or isinstance(node, ast.JoinedStr)):
                inside.update(lines)  # what looks like a comment in a string is none
    rows = enumerate((line.strip() for line in text.splitlines()), 1)
    code = {k for k, row in rows if k in inside or (row and not row.startswith("#"))}
    return len(code - told)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def count(folder: Path) -> dict[str, int]:
    """Code lines of every Python file of a folder, by its path in it."""
    return {
        str(path.relative_to(folder)): code_lines(path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.py"))
    }


def ratio() -> float:
    """Code lines of the tests over those of the package."""
    return sum(count(ROOT / "tests").values()) / sum(count(ROOT / "src").values())


def main() -> int:
    """Prints rooms, totals and their ratio."""
    source, tests = count(ROOT / "src" / "deepbackmap"), count(ROOT / "tests")
    rooms: dict[str, int] = {}
    for name, lines in source.items():
        room = name.partition("/")[0].removesuffix(".py")
        rooms[room] = rooms.get(room, 0) + lines
    for room, lines in sorted(rooms.items(), key=lambda entry: -entry[1]):
        print(f"{room:16} {lines}")
    print(f"{'package':16} {sum(source.values())}\n{'tests':16} {sum(tests.values())}")
    print(f"{'ratio':16} {sum(tests.values()) / sum(source.values()):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

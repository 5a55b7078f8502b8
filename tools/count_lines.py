"""Counts lines of code of the tests and of the package: ``python tools/count_lines.py``.

A line counts if a token of the program stands on it: comments, blank lines, docstrings and the
strings that describe a field below it do not.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SILENT = (
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
)  # fmt: skip


def code_lines(text: str) -> int:
    """How many lines of a program are code."""
    told: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if alone and isinstance(node.value.value, str):
            told.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - told)


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

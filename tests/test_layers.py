"""Rooms import only what docs/architecture.md says they may."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "deepbackmap"
FOR_ALL = {"errors", "quantities"}
OPTIONAL = {"cgsmiles", "gsd", "MDAnalysis", "matplotlib", "dask_jobqueue", "distributed"}
"""Third parties that a function may import for itself: not installed, or slow, for most users."""


def table():
    """Room → rooms it may import, in the order of the document."""
    allowed = {}
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 3:
            continue
        above = set(allowed)
        named = set(re.findall(r"[a-z]+", cells[2]))
        may = above if cells[2] == "all above" else named | (FOR_ALL & above)
        allowed.update(dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), may))
    return allowed


SELDOM = ("scipy", "networkx", "deepbackmap.mechanics.card.", "deepbackmap.io.topology.lammps_")
"""What may be imported in functions as well: few systems need it, and its import takes long
(``tests/test_start.py``)."""

ALLOWED = table()


def room_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def modules():
    return sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.stem != "__init__")


def imported(tree, path):
    """(line, dotted name, whether it stands inside a function) of every import."""
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            # ``from deepbackmap import x`` names a room (or the version) in its names
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            continue
        yield from ((node.lineno, name, node in inside) for name in names)


def test_the_table_reads_downwards():
    rooms = list(ALLOWED)
    assert {"geometry", "blocks", "methods", "cli"} <= set(rooms)
    for k, room in enumerate(rooms):
        later = ALLOWED[room] - set(rooms[:k])
        assert not later, f"{room} may import {later}, which the table does not have above it"


def test_every_room_is_in_the_table():
    assert {room_of(p) for p in modules()} <= set(ALLOWED)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_follow_the_table(path):
    room = room_of(path)
    for line, name, _ in imported(ast.parse(path.read_text()), path):
        first, *rest = name.split(".")
        if first == "deepbackmap" and rest and rest[0] in ALLOWED and rest[0] != room:
            assert rest[0] in ALLOWED[room], f"{path}:{line}: {room} may not import {rest[0]}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_stand_at_the_top(path):
    if room_of(path) in ("api", "cli"):
        return  # so that ``--help`` need not wait for torch
    for line, name, inside in imported(ast.parse(path.read_text()), path):
        late = name.split(".")[0] in OPTIONAL or name.startswith(SELDOM)
        assert late or not inside, f"{path}:{line}: {name} in a function"


@pytest.mark.parametrize(
    ("line", "room", "bad"),
    [
        ("import deepbackmap.methods.base", "blocks", True),
        ("def f():\n    from deepbackmap import methods", "blocks", True),
        ("from deepbackmap.geometry import cell", "blocks", False),
    ],
)
def test_the_check_finds_what_it_should(line, room, bad):
    names = [name.split(".") for _, name, _ in imported(ast.parse(line), "x")]
    assert any(n[1] not in ALLOWED[room] for n in names) == bad

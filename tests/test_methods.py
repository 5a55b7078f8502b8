"""The seam between methods: found by name, nothing outside knows which there are."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from deepbackmap.methods import METHODS, find_method, find_options

SOURCE = Path(__file__).resolve().parents[1] / "src" / "deepbackmap"
INSIDE = ("methods", "model")
"""Rooms that may ask for a method by its name."""


def asked(tree):
    """Line and text of every comparison or case with the name of a method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and part.value in METHODS:
                    yield part.lineno, part.value


def outside():
    return [p for p in SOURCE.rglob("*.py") if p.relative_to(SOURCE).parts[0] not in INSIDE]


@pytest.mark.parametrize("path", outside(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_outside_asks_which_method_it_is(path):
    assert not list(asked(ast.parse(path.read_text())))


def test_the_check_finds_what_it_should():
    assert list(asked(ast.parse("if spec.method == 'points':\n    pass"))) == [(1, "points")]


def test_methods_do_not_import_each_other():
    for name in METHODS:
        others = [f"deepbackmap.methods.{m}" for m in METHODS if m != name]
        for path in (SOURCE / "methods" / name).glob("*.py"):
            assert not any(o in path.read_text() for o in others), path


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_found_by_its_name(name):
    assert find_method(name).options is find_options(name)
    assert find_options(name).name == name


def test_an_unknown_method_is_named_with_those_that_are_there():
    with pytest.raises(ValueError, match="expected one of voxel, points, physics, got 'fields'"):
        find_options("fields")


def test_what_models_are_is_known_without_torch():
    """A list of models, or a refused option, need not wait for it."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from deepbackmap.methods import METHODS, find_options\n"
        "from deepbackmap.model.header import read_spec\n"
        f"for path in Path({str(SOURCE / 'packaged' / 'models')!r}).glob('*.safetensors'):\n"
        "    assert read_spec(path).options.words()\n"
        "assert all(find_options(name) for name in METHODS)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

"""How many lines of tests there are for a line of the package."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import count_lines

LEAST = 0.80
"""Of the tests' lines over the package's; raised as tests are added, to 0.8 in the end."""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", 0),
        ("\n\n# a comment\n", 0),
        ('"""A module.\n\nOf some lines.\n"""\n', 0),
        ("x = 1  # a comment beside it\n", 1),
        ("x = [\n    1,\n\n    2,\n]\n", 4),
        ('x: int = 0\n"""What x is."""\ny = 2\n', 2),
        ('def f():\n    """What it does."""\n    return 1\n', 2),
        ('text = """two\nlines"""\n', 2),
        ("class A:\n    # nothing\n    pass\n", 2),
        ('x = """\n# no comment\n\n"""\n', 4),
    ],
)
def test_code_is_counted_and_words_are_not(text, lines):
    assert count_lines.code_lines(text) == lines


def test_tests_keep_up_with_the_package():
    assert count_lines.ratio() >= LEAST, "tools/count_lines.py prints the rooms"

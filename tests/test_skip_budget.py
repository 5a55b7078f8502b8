"""The budget of skipped tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import allowed_skips, unlisted_skips


def test_list_has_one_phrase_a_line_and_comments() -> None:
    assert allowed_skips("# head\n\nis absent  # why\nroot may\n") == ("is absent", "root may")


def test_reasons_that_hold_no_phrase_are_beyond_the_budget() -> None:
    reasons = ["Skipped: a.xtc is absent", "Skipped: could not import 'gsd'"]
    assert unlisted_skips(reasons, ("is absent",)) == ["Skipped: could not import 'gsd'"]


@pytest.mark.parametrize(("budget", "code"), [("1", 1), ("", 0)])
def test_unlisted_skip_fails_a_run_with_a_budget(tmp_path: Path, budget: str, code: int) -> None:
    here = Path(__file__).parent
    for name in ("conftest.py", "skips.txt"):
        (tmp_path / name).write_text((here / name).read_text())
    (tmp_path / "test_one.py").write_text(
        "import pytest\n\ndef test_a():\n    pytest.skip('the moon is full')\n"
    )
    environment = os.environ | {"DEEPBACKMAP_SKIP_BUDGET": budget}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "."],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == code, run.stdout
    assert ("the moon is full" in run.stdout) == bool(budget)

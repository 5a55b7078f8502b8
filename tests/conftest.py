"""One thread a test process: the tests' systems are too small to share, and workers run side by
side (scripts/test.sh). And the budget of skipped tests: with DEEPBACKMAP_SKIP_BUDGET set, a test
that is skipped for a reason that ``tests/skips.txt`` does not list fails the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported, and for the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

_LIST = Path(__file__).with_name("skips.txt")


def allowed_skips(text: str) -> tuple[str, ...]:
    """The reasons listed in a file, one a line; ``#`` starts a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)


def unlisted_skips(reasons: list[str], allowed: tuple[str, ...]) -> list[str]:
    """Reasons that hold none of the allowed phrases."""
    return sorted({r for r in reasons if not any(phrase in r for phrase in allowed)})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the skips that are not on the list."""
    for reason in _beyond_budget(terminalreporter):
        terminalreporter.write_line(f"skipped, but not on tests/skips.txt: {reason}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run for them."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _beyond_budget(reporter) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _beyond_budget(reporter: pytest.TerminalReporter) -> list[str]:
    if not os.environ.get("DEEPBACKMAP_SKIP_BUDGET"):
        return []
    found = reporter.stats.get("skipped", [])
    reasons = [r.longrepr[2] if isinstance(r.longrepr, tuple) else str(r.longrepr) for r in found]
    return unlisted_skips(reasons, allowed_skips(_LIST.read_text(encoding="utf-8")))

"""One self-contained page that shows an evaluation."""

from deepbackmap.report.page import render_report

__all__ = ["render_report"]

"""How good structures are: distributions, stereochemistry, contacts, against a reference.

Everything is imported when it is asked for: a verb that needs the figures of a frame only does
not wait for what compares samples.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepbackmap.evaluation.comparison import Sample, evaluate_samples
    from deepbackmap.evaluation.observables import Beads, Frames, Measurements, measure
    from deepbackmap.evaluation.plan import Plan
    from deepbackmap.evaluation.result import Evaluation
    from deepbackmap.evaluation.table import QualityTable, Row, compare, tabulate
    from deepbackmap.evaluation.views import worst_molecules

__all__ = [
    "Beads",
    "Evaluation",
    "Frames",
    "Measurements",
    "Plan",
    "QualityTable",
    "Row",
    "Sample",
    "compare",
    "evaluate_samples",
    "measure",
    "tabulate",
    "worst_molecules",
]

_MODULES = {
    "Sample": "comparison",
    "evaluate_samples": "comparison",
    "Beads": "observables",
    "Frames": "observables",
    "Measurements": "observables",
    "measure": "observables",
    "Plan": "plan",
    "Evaluation": "result",
    "QualityTable": "table",
    "Row": "table",
    "compare": "table",
    "tabulate": "table",
    "worst_molecules": "views",
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    """One of the names above, when it is asked for first."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found

"""How good structures are: distributions, stereochemistry, contacts, against a reference."""

from deepbackmap.evaluation.observables import Frames, Measurements, measure
from deepbackmap.evaluation.plan import Plan
from deepbackmap.evaluation.table import QualityTable, Row, compare, compare_beads, tabulate

__all__ = [
    "Frames",
    "Measurements",
    "Plan",
    "QualityTable",
    "Row",
    "compare",
    "compare_beads",
    "measure",
    "tabulate",
]

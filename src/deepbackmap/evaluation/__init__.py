"""How good structures are: distributions, stereochemistry, contacts, against a reference."""

from deepbackmap.evaluation.observables import Frames, Measurements, Plan, measure
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

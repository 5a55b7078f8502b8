"""How good structures are: distributions, stereochemistry, contacts, against a reference."""

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

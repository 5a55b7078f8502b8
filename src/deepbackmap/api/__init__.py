"""The verbs as functions; the command line only parses and calls them."""

from deepbackmap.api.backmap import Summary, backmap
from deepbackmap.api.baseline import BaselineSummary, baseline
from deepbackmap.api.data import fetch
from deepbackmap.api.demo import Demo, demo
from deepbackmap.api.evaluate import evaluate
from deepbackmap.api.finish import FinishSummary, finish
from deepbackmap.api.map import map_trajectory
from deepbackmap.api.md import MdSummary, md
from deepbackmap.api.models import ModelEntry, models
from deepbackmap.api.train import train

__all__ = [
    "BaselineSummary",
    "Demo",
    "FinishSummary",
    "MdSummary",
    "ModelEntry",
    "Summary",
    "backmap",
    "baseline",
    "demo",
    "evaluate",
    "fetch",
    "finish",
    "map_trajectory",
    "md",
    "models",
    "train",
]

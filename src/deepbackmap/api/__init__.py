"""The verbs as functions; the command line only parses and calls them."""

from deepbackmap.api.backmap import Summary, backmap
from deepbackmap.api.data import fetch
from deepbackmap.api.demo import Demo, demo
from deepbackmap.api.map import map_trajectory
from deepbackmap.api.models import ModelEntry, models
from deepbackmap.api.train import train

__all__ = [
    "Demo",
    "ModelEntry",
    "Summary",
    "backmap",
    "demo",
    "fetch",
    "map_trajectory",
    "models",
    "train",
]

"""The verbs as functions; the command line only parses and calls them."""

from deepbackmap.api.backmap import Summary, backmap
from deepbackmap.api.map import map_trajectory
from deepbackmap.api.models import ModelEntry, models
from deepbackmap.api.train import train

__all__ = ["ModelEntry", "Summary", "backmap", "map_trajectory", "models", "train"]

"""The verbs as functions; the command line only parses and calls them."""

from deepbackmap.api.map import map_trajectory

__all__ = ["map_trajectory"]

"""The verbs as functions; the command line only parses and calls them.

A verb's module is imported when the verb is asked for, so that nobody waits for what another one
needs.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "BaselineSummary": "baseline", "Demo": "demo", "FinishSummary": "finish", "MdSummary": "md",
    "ModelEntry": "models", "Summary": "backmap", "backmap": "backmap", "baseline": "baseline",
    "demo": "demo", "evaluate": "evaluate", "fetch": "data", "finish": "finish",
    "map_trajectory": "map", "md": "md", "models": "models", "train": "train",
}  # fmt: skip
"""The module of each name."""


class _Verbs(ModuleType):
    """A package whose verbs have the names of their modules: the name stands for the verb,
    whichever of the two is imported first."""

    def __setattr__(self, name: str, value: Any) -> None:
        """The import of a module does not put it in the place of its verb."""
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    """A verb or a container, when it is asked for first."""
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


sys.modules[__name__].__class__ = _Verbs

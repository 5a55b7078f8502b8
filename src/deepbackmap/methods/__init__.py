"""The methods, by name. A new one is a folder beside these and one line here.

A method's package has two modules: ``options`` with ``OPTIONS`` (``methods.options.MethodOptions``)
needs no torch, so that listing models and refusing a mistake are quick; ``method`` with ``METHOD``
(``methods.base.Method``) does the work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deepbackmap.methods.base import Method
    from deepbackmap.methods.options import MethodOptions

METHODS = {
    "voxel": "deepbackmap.methods.voxel",
    "points": "deepbackmap.methods.points",
    "physics": "deepbackmap.methods.physics",
}
"""Package of each method."""
DEFAULT_METHOD = "voxel"
"""The paper's: what a training configuration that names none has."""


def _package(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got '{name}'")
    return METHODS[name]


def find_options(name: str) -> MethodOptions:
    """The option classes of a method.

    Raises:
        ValueError: there is no method of that name.
    """
    found: MethodOptions = import_module(f"{_package(name)}.options").OPTIONS
    return found


def find_method(name: str) -> Method:
    """A method, ready to train and to sample.

    Raises:
        ValueError: there is no method of that name.
    """
    found: Method = import_module(f"{_package(name)}.method").METHOD
    return found

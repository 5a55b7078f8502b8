"""What readers of topologies have in common: options, and how a file is recognised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deepbackmap.system import Topology


@dataclass(frozen=True)
class TopologyOptions:
    """What a topology needs beside its file; a reader passes over what its format has not."""

    defines: Mapping[str, str] = field(default_factory=dict)
    """Macros that are defined from the start, as ``define = -DNAME=value`` does in run parameters;
    an empty value only answers ``#ifdef``."""
    include_dirs: Sequence[Path] = ()
    """Folders searched for included files after the folder of the including file."""
    tables: Sequence[Path] = ()
    """Files of tabulated interactions (``table_b0.xvg``)."""


@dataclass(frozen=True)
class TopologyFormat:
    """One format of topologies."""

    name: str
    """As messages call it."""
    suffixes: tuple[str, ...]
    """In lower case, with their dots."""
    recognises: Callable[[str], bool]
    """Whether the beginning of a file looks like this format and no other."""
    read: Callable[[Path, TopologyOptions], Topology] | None
    """None: recognised but not read."""
    advice: str = ""
    """What to do about a format that is not read."""

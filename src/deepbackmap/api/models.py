"""The models that come with the package, and finding one by name or file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from deepbackmap.errors import InputError
from deepbackmap.methods.spec import ModelSpec
from deepbackmap.model.header import read_spec

SUFFIX = ".safetensors"
DEFAULT = "default"
ABOUT = "about.yaml"
"""Beside the packaged models: words about each of them."""


@dataclass(frozen=True)
class ModelEntry:
    """One packaged model."""

    name: str
    path: Path
    size: int
    """Bytes."""
    default: bool
    """Whether it is used where no model is named."""
    spec: ModelSpec
    about: Mapping[str, str] = field(default_factory=dict)
    """What taught it, and what follows after it, in words."""

    @property
    def scores(self) -> Mapping[str, Any]:
        """Figures that were measured with it, as its makers noted them."""
        found = self.spec.provenance.get("scores", {})
        return found if isinstance(found, Mapping) else {}

    def to_text(self) -> str:
        """Some lines about it."""
        spec, came = self.spec, self.spec.provenance
        rows = [
            ("types", f"atoms {', '.join(spec.atom_types)}; beads {', '.join(spec.bead_types)}"),
            ("trained on", f"{_frames(came)} at {spec.temperature:g} K"),
            *self.about.items(),
            ("training", _words(came, "trained_by", "iteration", "seed")),
            ("method", f"{spec.method}: {spec.options.words()}"),
            ("defaults", _pairs(spec.defaults)),
            ("scores", _pairs(self.scores)),
        ]
        head = f"{self.name}{' (default)' if self.default else ''}, {self.size / 1e6:.1f} MB"
        return "\n".join([head, *(f"  {name:<10} {text}" for name, text in rows if text)]) + "\n"


def _frames(came: Mapping[str, Any]) -> str:
    """The files of the training, of several systems one after the other, each named once."""
    systems = came.get("systems")
    each = systems if isinstance(systems, list) else [came]
    found = [_words(one, "topology", "trajectory") for one in each if isinstance(one, Mapping)]
    return "; ".join(dict.fromkeys(found))


def models() -> tuple[ModelEntry, ...]:
    """The packaged models, by name.

    Raises:
        InputError: a packaged file is damaged.
    """
    chosen, about = _default_name(), _about()
    return tuple(
        ModelEntry(
            name=path.stem,
            path=path,
            size=path.stat().st_size,
            default=path.stem == chosen,
            spec=read_spec(path),
            about=about.get(path.stem, {}),
        )
        for path in _files()
    )


def find_model(name_or_path: str | Path) -> Path:
    """The file of a model.

    Args:
        name_or_path: a file that ends in .safetensors, or the name of a packaged model;
            ``default`` is the one that is used where none is named.

    Raises:
        InputError: there is no such file or name.
    """
    path = Path(name_or_path)
    if path.suffix == SUFFIX:
        if not path.is_file():
            raise InputError(f"{path}: expected a model file, found none")
        return path
    name = str(name_or_path)
    wanted = _default_name() if name == DEFAULT else name
    known = {p.stem: p for p in _files()}
    if wanted not in known:
        raise InputError(
            f"model '{name}': expected a file ending in {SUFFIX} or one of the packaged models "
            f"({', '.join(known) or 'there are none'})"
        )
    return known[wanted]


def model_hash(path: str | Path) -> str:
    """SHA-256 of a model file."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _folder() -> Path:
    return Path(str(resources.files("deepbackmap"))) / "packaged" / "models"


def _files() -> list[Path]:
    return sorted(_folder().glob(f"*{SUFFIX}"))


def _about() -> Mapping[str, Mapping[str, str]]:
    """Words about the packaged models, by name."""
    note = _folder() / ABOUT
    return yaml.safe_load(note.read_text(encoding="utf-8")) if note.is_file() else {}


def _default_name() -> str:
    """What ``default.txt`` says."""
    note = _folder() / "default.txt"
    return note.read_text(encoding="utf-8").strip() if note.is_file() else ""


def _words(came: Mapping[str, Any], *names: str) -> str:
    plain = {"topology", "trajectory", "trained_by"}
    return ", ".join(
        str(came[name]) if name in plain else f"{name} {came[name]}"
        for name in names
        if name in came
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())

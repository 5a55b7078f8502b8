"""Mapping files: YAML by residue or VOTCA's XML, resolved onto the molecules of a topology."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from deepbackmap.errors import InputError
from deepbackmap.mapping.assemble import ResolvedBead, assemble
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.mapping.resolve import resolve_beads
from deepbackmap.mapping.rules import ResidueRule, parse_rules
from deepbackmap.mapping.stereo_rules import StereoRule
from deepbackmap.mapping.votca import VotcaMolecule, parse_votca
from deepbackmap.system import MoleculeType, Topology

_SUFFIXES = (".yaml", ".yml", ".xml")


@dataclass(frozen=True)
class MappingFile:
    """A mapping as it was written, and as it was understood."""

    source: str
    """File or packaged name, for messages."""
    text: str
    """Verbatim, so that a model can carry it."""
    rules: tuple[ResidueRule, ...] | VotcaMolecule
    """By residue (YAML), or of one molecule (VOTCA)."""
    stereo: tuple[StereoRule, ...] = ()
    """Hands of centres and sides of double bonds; none in VOTCA's format."""

    @classmethod
    def from_text(cls, text: str, source: str = "mapping") -> MappingFile:
        """Reads a mapping that is at hand as text; XML is told from YAML by its first character.

        Args:
            text: contents of a mapping file.
            source: what to call it in errors.

        Returns:
            The mapping.

        Raises:
            InputError: the text is not a mapping.
        """
        if text.lstrip().startswith("<"):
            return cls(source, text, parse_votca(text, source))
        return cls(source, text, *parse_rules(text, source))

    def to_text(self) -> str:
        """The mapping file verbatim: ``from_text(to_text())`` is the same mapping."""
        return self.text

    def resolve(self, topology: Topology) -> SystemMapping:
        """Applies the mapping to every molecule type that the topology uses.

        A type that is defined but occurs no times gets a mapping without beads.

        Args:
            topology: its residues and atom names are looked up in the file.

        Returns:
            One ``MoleculeMapping`` for each molecule type.

        Raises:
            InputError: a residue has no entry, or its atoms do not fit it, or an atom has not
                exactly one owner.
        """
        used = {index for index, count in topology.blocks if count}
        return SystemMapping(
            topology,
            tuple(
                self._molecule(m) if k in used else _without_beads(m)
                for k, m in enumerate(topology.molecule_types)
            ),
        )

    def _molecule(self, molecule: MoleculeType) -> MoleculeMapping:
        beads: list[ResolvedBead]
        if isinstance(self.rules, VotcaMolecule):
            beads = self.rules.resolve(molecule, self.source)
        else:
            beads = resolve_beads(molecule, self.rules, self.source)
        return assemble(molecule, beads, self.source)


def packaged_mappings() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    folder = resources.files("deepbackmap") / "presets" / "mappings"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir()))


def load_mapping(path_or_name: str | Path) -> MappingFile:
    """Reads a mapping file, or one that comes with the package.

    Args:
        path_or_name: a path that ends in .yaml, .yml (this package's format) or .xml (VOTCA);
            anything else is the name of a packaged mapping.

    Returns:
        The mapping.

    Raises:
        InputError: there is no such file or name, or it is not a mapping.
    """
    path = Path(path_or_name)
    if path.suffix.lower() in _SUFFIXES:
        try:
            return MappingFile.from_text(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise InputError(f"{path}: expected a mapping file, found {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: expected a mapping as text, found other bytes") from error
    name = str(path_or_name)
    if name not in packaged_mappings():
        raise InputError(
            f"{name}: expected a mapping file ({', '.join(_SUFFIXES)}) or one of the packaged "
            f"mappings {', '.join(packaged_mappings())}"
        )
    file = resources.files("deepbackmap") / "presets" / "mappings" / f"{name}.yaml"
    return MappingFile.from_text(file.read_text(encoding="utf-8"), name)


def _without_beads(molecule: MoleculeType) -> MoleculeMapping:
    nothing = np.zeros(0, dtype=np.int64)
    pairs = np.zeros((0, 2), dtype=np.int64)
    owner = np.full(molecule.n_atoms, -1, dtype=np.int64)
    return MoleculeMapping(
        (), (), (), nothing, nothing, nothing, np.zeros(0), owner, pairs, pairs, nothing
    )

"""Mapping files: ours by residue and those of other programs, resolved onto a topology."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np

from deepbackmap.errors import InputError, together
from deepbackmap.mapping.assemble import ResolvedBead, assemble
from deepbackmap.mapping.cgsmiles_graphs import CgsmilesMolecule, parse_cgsmiles
from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.mapping.foreign import refuse_foreign
from deepbackmap.mapping.index_groups import IndexGroups, parse_index
from deepbackmap.mapping.resolve import resolve_beads
from deepbackmap.mapping.rules import ResidueRule, parse_rules
from deepbackmap.mapping.sections import kind_of_sections, parse_sections
from deepbackmap.mapping.selection import (
    Selection,
    atom_beads,
    left_out,
    parse_selection,
    selects_only,
    to_yaml,
)
from deepbackmap.mapping.stereo_rules import StereoRule
from deepbackmap.mapping.votca import VotcaMolecule, parse_votca
from deepbackmap.system import MoleculeType, Topology

_SUFFIXES = (".yaml", ".yml", ".xml", ".map", ".mapping", ".ndx", ".cgsmiles")
_SEPARATOR = "--- # mapping "
"""Begins a part of a mapping that is made of several, with the name of its file behind it."""

Whole = VotcaMolecule | CgsmilesMolecule
"""What maps one whole molecule type, the one that it ``claims``."""


@dataclass(frozen=True)
class MappingFile:
    """A mapping as it was written, and as it was understood."""

    source: str
    """File or packaged name, for messages; several are joined by ``;``."""
    text: str
    """Verbatim, so that a model can carry it."""
    rules: tuple[ResidueRule, ...] = ()
    """By residue."""
    wholes: tuple[tuple[Whole, str], ...] = ()
    """What maps molecule types as a whole, and its file."""
    index: tuple[tuple[IndexGroups, str], ...] = ()
    """Groups of atom numbers of the system, and their file."""
    selection: Selection = field(default_factory=Selection)
    """Residues that are left out or taken over atom by atom."""
    stereo: tuple[StereoRule, ...] = ()
    """Hands of centres and sides of double bonds; in YAML alone."""

    @classmethod
    def from_text(cls, text: str, source: str = "mapping") -> MappingFile:
        """Reads a mapping that is at hand as text; its format is told by how it begins.

        Args:
            text: contents of a mapping file, or of several (``to_text``).
            source: what to call it in errors.

        Returns:
            The mapping.

        Raises:
            InputError: the text is not a mapping.
        """
        if text.startswith(_SEPARATOR):
            pieces = re.split(rf"^{re.escape(_SEPARATOR)}(.*)\n", text, flags=re.MULTILINE)[1:]
            pairs = zip(pieces[1::2], pieces[::2], strict=True)
            return join_mappings([cls._single(t.removesuffix("\n"), s) for t, s in pairs])
        return cls._single(text, source)

    @classmethod
    def _single(cls, text: str, source: str) -> MappingFile:
        refuse_foreign(text, source)
        head = text.lstrip()
        if head.startswith("<"):
            return cls(source, text, wholes=((parse_votca(text, source), source),))
        if head.startswith("{["):
            return cls(source, text, wholes=((parse_cgsmiles(text, source), source),))
        kind = kind_of_sections(text)
        if kind == "index":
            return cls(source, text, index=((parse_index(text, source), source),))
        if kind is not None:
            return cls(source, text, parse_sections(text, kind, source))
        rules, stereo = ((), ()) if selects_only(text, source) else parse_rules(text, source)
        selection = parse_selection(text, source)
        return cls(source, text, rules, selection=selection, stereo=stereo)

    def to_text(self) -> str:
        """The mapping file verbatim: ``from_text(to_text())`` is the same mapping."""
        return self.text

    def with_selection(self, drop: Sequence[str] = (), keep: Sequence[str] = ()) -> MappingFile:
        """The same mapping, with more residues to leave out or to take over atom by atom.

        Args:
            drop: names or patterns of residues whose molecules are left out.
            keep: of those of which every atom is a bead.
        """
        if not drop and not keep:
            return self
        both = set(drop) & set(keep)
        if both:
            raise InputError(f"{min(both)}: expected to be dropped or kept, found both")
        return join_mappings([self, MappingFile.from_text(to_yaml(drop, keep), "drop and keep")])

    def without_dropped(self, topology: Topology) -> tuple[Topology, list[str]]:
        """The topology of what the mapping is about: molecules that it drops occur no times.

        Args:
            topology: of the whole system.

        Returns:
            The topology, and what was left out, as sentences.

        Raises:
            InputError: ``drop`` names only some residues of a molecule.
        """
        return left_out(topology, self.selection, self.source)

    def kept(self, topology: Topology) -> tuple[str, ...]:
        """Names of the molecule types that occur and that the mapping takes over atom by atom."""
        used = dict.fromkeys(t for t, count in topology.blocks if count)
        types = [topology.molecule_types[t] for t in used]
        return tuple(m.name for m in types if self.selection.of(m, self.source) == "keep")

    def resolve(self, topology: Topology, *, drop: bool = False) -> SystemMapping:
        """Applies the mapping to every molecule type that the topology uses.

        A type that is defined but occurs no times gets a mapping without beads.

        Args:
            topology: its residues and atom names are looked up in the file.
            drop: whether molecules that the mapping drops may occur; they get no beads, and their
                atoms no owner (-1), so that only the forward map is of use.

        Returns:
            One ``MoleculeMapping`` for each molecule type.

        Raises:
            InputError: a residue has no entry, or its atoms do not fit it, or an atom has not
                exactly one owner, or a molecule is dropped that must not be.
        """
        used = {index for index, count in topology.blocks if count}
        groups = [(g.resolve(topology, source), source) for g, source in self.index]
        molecules, errors = [], []
        for k, molecule in enumerate(topology.molecule_types):
            given = [(beads[k], source) for beads, source in groups if k in beads]
            try:
                what = self.selection.of(molecule, self.source) if k in used else "drop"
                if k in used and what == "drop" and not drop:
                    raise InputError(
                        f"{self.source}: expected every molecule of {topology.source} to be "
                        f"there, found {molecule.name}, which the mapping drops; take a topology "
                        "without it"
                    )
                molecules.append(
                    _without_beads(molecule)
                    if what == "drop"
                    else self._molecule(molecule, given, what == "keep")
                )
            except InputError as error:
                errors.append(error)
        if errors:
            head = f"{self.source}: expected a mapping of {topology.source}, found {{}} mistakes"
            raise together(head, errors)
        return SystemMapping(topology, tuple(molecules))

    def _molecule(
        self, molecule: MoleculeType, groups: list[tuple[list[ResolvedBead], str]], keep: bool
    ) -> MoleculeMapping:
        found = list(groups)
        found += [
            (whole.resolve(molecule, source), source)
            for whole, source in self.wholes
            if whole.claims(molecule)
        ]
        if keep:
            found.append((atom_beads(molecule), self.source))
        if len(found) > 1:
            raise InputError(
                f"{found[1][1]}: expected one mapping of molecule {molecule.name}, found another "
                f"one in {found[0][1]}"
            )
        if found:
            return assemble(molecule, *found[0])
        if not self.rules:
            raise self._nothing(molecule)
        return assemble(molecule, resolve_beads(molecule, self.rules, self.source), self.source)

    def _nothing(self, molecule: MoleculeType) -> InputError:
        covered = [w.covers for w, _ in self.wholes]
        there = f"that of {', '.join(covered)}" if covered else "none"
        return InputError(
            f"{self.source}: expected a mapping of molecule {molecule.name}, found {there}; give "
            f"one more file with --mapping, or leave the molecule out with "
            f"'--drop {molecule.residue_names[0]}'"
        )


def join_mappings(parts: Sequence[MappingFile]) -> MappingFile:
    """Several mappings as one.

    Args:
        parts: at least one.

    Returns:
        The mapping of all their residues and molecules.

    Raises:
        InputError: two of them map the same residue or molecule.
    """
    if len(parts) == 1:
        return parts[0]
    seen: dict[tuple[str, str], str] = {}
    for part in parts:
        keys = [("residue", r.pattern) for r in part.rules]
        keys += [("molecule", w.covers) for w, _ in part.wholes]
        for key in dict.fromkeys(keys):
            if key in seen:
                raise InputError(
                    f"{part.source}: expected {' '.join(key)} to be mapped in one file, found it "
                    f"in {seen[key]} as well"
                )
            seen[key] = part.source
    text = "".join(
        part.text if part.text.startswith(_SEPARATOR)
        else f"{_SEPARATOR}{part.source}\n{part.text}\n"
        for part in parts
    )  # fmt: skip
    selection = Selection()
    for part in parts:
        selection += part.selection
    return MappingFile(
        ";".join(p.source for p in parts),
        text,
        tuple(r for p in parts for r in p.rules),
        tuple(w for p in parts for w in p.wholes),
        tuple(i for p in parts for i in p.index),
        selection,
        tuple(r for p in parts for r in p.stereo),
    )


def packaged_mappings() -> tuple[str, ...]:
    """Names of the mappings that come with the package."""
    folder = resources.files("deepbackmap") / "presets" / "mappings"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir()))


def load_mapping(
    path_or_name: str | Path | Sequence[str | Path],
    *,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> MappingFile:
    """Reads mapping files, or one that comes with the package.

    Args:
        path_or_name: one or several, also joined by ``;``: a path (``docs/mapping.md`` lists the
            formats by how a file ends), a CGSmiles string, or the name of a packaged mapping.
        drop: residues to leave out besides those that the files say.
        keep: residues to take over atom by atom, likewise.

    Returns:
        The mapping.

    Raises:
        InputError: there is no such file or name, it is not a mapping, or two map the same.
    """
    given = [path_or_name] if isinstance(path_or_name, str | Path) else list(path_or_name)
    parts = [_load(word) for words in given for word in _split(words)]
    if not parts:
        raise InputError("mapping: expected a file or a packaged name, found none")
    return join_mappings(parts).with_selection(drop, keep)


def mapping_words(given: str | Path | Sequence[str | Path] | None) -> str | None:
    """Mappings as they were asked for, for a record: as ``load_mapping`` takes them."""
    if given is None or isinstance(given, str | Path):
        return None if given is None else str(given)
    return ";".join(str(g) for g in given)


def _split(words: str | Path) -> list[str | Path]:
    """The parts of ``a.xml;b.xml``; a path that exists as it is stays whole."""
    if isinstance(words, Path) or words.lstrip().startswith("{[") or Path(words).exists():
        return [words]
    return [w.strip() for w in words.split(";") if w.strip()]


def _load(path_or_name: str | Path) -> MappingFile:
    name = str(path_or_name)
    if name.lstrip().startswith("{["):
        return MappingFile.from_text(name, name)
    path = Path(path_or_name)
    if path.suffix.lower() in _SUFFIXES or path.is_file():
        try:
            return MappingFile.from_text(path.read_text(encoding="utf-8"), str(path))
        except OSError as error:
            raise InputError(f"{path}: expected a mapping file, found {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: expected a mapping as text, found other bytes") from error
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

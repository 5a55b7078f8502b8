"""Rigid fragments: the atoms of one bead with the beads around it, learned, kept and read again."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from deepbackmap.baselines.sites import Site, find_sites
from deepbackmap.errors import InputError
from deepbackmap.io.atomic import new_file, refuse_existing
from deepbackmap.mapping import SystemMapping, map_positions
from deepbackmap.system import Structure
from deepbackmap.system.whole import bond_trees, make_whole

FORMAT = "deepbackmap templates 1"
STEP = 1e-4
"""nm: coordinates are kept as multiples of it."""


@dataclass(frozen=True)
class Fragments:
    """All fragments of one kind of bead."""

    bead_type: str
    pattern: str
    parity: int
    labels: tuple[str, ...]
    """Of the surrounding beads, as ``sites.Site``."""
    distances: tuple[int, ...]
    beads: Float64[np.ndarray, "f l 3"]
    """Surrounding beads relative to the bead, nm."""
    atoms: Float64[np.ndarray, "f a 3"]
    """Owned atoms relative to the bead, nm."""

    def __len__(self) -> int:
        return len(self.atoms)


@dataclass(frozen=True)
class TemplateSet:
    """Fragments of all kinds of bead of a mapping."""

    fragments: tuple[Fragments, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What they were learned from."""
    handedness: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Pattern of the stereocentres that they were learned from (``chemistry.tacticity``)."""
    source: str = "templates"
    """File, for messages."""


def learn_templates(
    mapping: SystemMapping,
    frames: Iterable[Structure],
    *,
    most: int = 400,
    source: str = "structure",
    provenance: Mapping[str, Any] | None = None,
    handedness: Mapping[str, Sequence[int]] | None = None,
) -> TemplateSet:
    """Cuts fragments out of atomistic frames.

    Args:
        mapping: of the system of the frames.
        frames: atoms, whole or not.
        most: fragments of one kind that are kept, spread evenly over what was found; 1 keeps the
            medoid, the fragment whose atoms and beads are nearest to all others.
        source: what to call the frames in an error.
        provenance: to be kept with the set.
        handedness: pattern of the frames' stereocentres, to be kept with the set.

    Raises:
        InputError: a frame does not belong to the topology, or there are none.
    """
    if most < 1:
        raise InputError(f"templates: expected to keep at least 1 of a kind, found {most}")
    sites = [
        find_sites(m, b)
        for m, b in zip(mapping.topology.molecule_types, mapping.molecules, strict=True)
    ]
    trees = bond_trees(mapping.topology)
    pools: dict[tuple[Any, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    for frame in frames:
        whole = make_whole(frame.positions, frame.box, mapping.topology, trees=trees, source=source)
        _collect(mapping, whole, sites, pools)
    if not pools:
        raise InputError(f"{source}: expected frames to learn templates from, found none")
    fragments = tuple(_fragments(key, pools[key], most) for key in sorted(pools))
    return TemplateSet(fragments, dict(provenance or {}), dict(handedness or {}), source)


def write_templates(templates: TemplateSet, path: str | Path, *, force: bool = False) -> None:
    """Writes a set as one compressed .npz file, aside first.

    Args:
        templates: the set.
        path: ends in .npz.
        force: whether to replace a file.

    Raises:
        InputError: the file exists or cannot be written, or does not end in .npz.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path}: expected a templates file to end in .npz")
    refuse_existing(path, force)
    kinds = [
        {"bead_type": f.bead_type, "pattern": f.pattern, "parity": f.parity,
         "labels": f.labels, "distances": f.distances}
        for f in templates.fragments
    ]  # fmt: skip
    head = {"format": FORMAT, "kinds": kinds, "provenance": dict(templates.provenance),
            "handedness": {k: list(v) for k, v in templates.handedness.items()}}  # fmt: skip
    arrays = {"head": np.array(json.dumps(head))}
    for k, found in enumerate(templates.fragments):
        arrays[f"beads{k}"] = np.rint(found.beads / STEP).astype(np.int16)
        arrays[f"atoms{k}"] = np.rint(found.atoms / STEP).astype(np.int16)
    with new_file(path) as part:
        np.savez_compressed(part, **arrays)  # type: ignore[arg-type]


def read_templates(path: str | Path) -> TemplateSet:
    """Reads a set that ``write_templates`` wrote.

    Raises:
        InputError: the file is missing, damaged, or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            head = json.loads(str(data["head"]))
            if head["format"] != FORMAT:
                raise ValueError(f"format '{head['format']}'")
            fragments = tuple(
                _from_kind(kind, data[f"beads{k}"], data[f"atoms{k}"])
                for k, kind in enumerate(head["kinds"])
            )
            return TemplateSet(fragments, head["provenance"], head["handedness"], str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a templates file, found none") from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InputError(
            f"{path}: expected a templates file ('{FORMAT}'), found something else ({error})"
        ) from error


def match_site(templates: TemplateSet, site: Site, where: str) -> Fragments:
    """The fragments of a bead.

    They have the same atoms, bonds and bead type. Among those a kind of the same parity, which
    tells the hand, comes first, then the one that shares most of the surrounding beads, then the
    one with fewest others: a bead near both ends of a short chain takes what fits it best.

    Args:
        templates: the set.
        site: the bead.
        where: what to call the bead in an error.

    Raises:
        InputError: no kind has these atoms.
    """
    fitting = [
        f
        for f in templates.fragments
        if f.bead_type == site.bead_type and f.pattern == site.pattern
    ]
    if not fitting:
        known = "; ".join(sorted({f"{f.bead_type} ({f.pattern})" for f in templates.fragments}))
        raise InputError(
            f"{templates.source}: expected templates for {where} of type {site.bead_type} with "
            f"atoms of masses {site.pattern}, found only {known}"
        )

    def quality(f: Fragments) -> tuple[bool, int, int]:
        shared = len(set(f.labels) & set(site.labels))
        return f.parity == site.parity, shared, -len(f.labels)

    return max(fitting, key=quality)


def _collect(
    mapping: SystemMapping,
    whole: np.ndarray,
    sites: list[tuple[Site, ...]],
    pools: dict[tuple[Any, ...], list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    """Adds the fragments of one frame to the pools."""
    beads = map_positions(mapping, whole)
    atom = bead = 0
    for index, count in mapping.topology.blocks:
        n, b = mapping.topology.molecule_types[index].n_atoms, mapping.molecules[index].n_beads
        atoms_of = whole[atom : atom + n * count].reshape(count, n, 3)
        beads_of = beads[bead : bead + b * count].reshape(count, b, 3)
        atom, bead = atom + n * count, bead + b * count
        for k, site in enumerate(sites[index]):
            key = site.bead_type, site.pattern, site.parity, site.labels, site.distances
            centre = beads_of[:, k : k + 1]
            around = beads_of[:, list(site.beads)] - centre
            owned = atoms_of[:, list(site.atoms)] - centre
            pools.setdefault(key, []).append((around, owned))


def _fragments(
    key: tuple[Any, ...], pool: list[tuple[np.ndarray, np.ndarray]], most: int
) -> Fragments:
    beads = np.concatenate([b for b, _ in pool])
    atoms = np.concatenate([a for _, a in pool])
    if most == 1:
        chosen = np.array([_medoid(np.concatenate([beads, atoms], axis=1))])
    else:
        chosen = np.unique(np.linspace(0, len(atoms) - 1, min(most, len(atoms))).astype(np.int64))
    bead_type, pattern, parity, labels, distances = key
    return Fragments(bead_type, pattern, parity, labels, distances, beads[chosen], atoms[chosen])


def _medoid(points: Float64[np.ndarray, "f p 3"]) -> int:
    """The fragment whose distances between points are nearest to all others'."""
    i, j = np.triu_indices(points.shape[1], 1)
    # Distances do not tell mirror images apart, but one kind of bead has one hand.
    features = np.linalg.norm(points[:, i] - points[:, j], axis=-1)
    centred = features - features.mean(axis=0)
    return int((centred**2).sum(axis=1).argmin())


def _from_kind(kind: Mapping[str, Any], beads: np.ndarray, atoms: np.ndarray) -> Fragments:
    labels = tuple(kind["labels"])
    if beads.shape != (len(atoms), len(labels), 3) or atoms.ndim != 3 or not len(atoms):
        raise ValueError(f"arrays of shapes {beads.shape} and {atoms.shape}")
    return Fragments(
        kind["bead_type"],
        kind["pattern"],
        int(kind["parity"]),
        labels,
        tuple(kind["distances"]),
        STEP * beads.astype(np.float64),
        STEP * atoms.astype(np.float64),
    )

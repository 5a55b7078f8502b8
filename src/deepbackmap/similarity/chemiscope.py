"""Structure maps for chemiscope (chemiscope.org), in its documented JSON format.

Written without the chemiscope package, which brings a notebook along; its own ``create_input``
makes the same file, as a test says.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from deepbackmap.errors import InputError
from deepbackmap.io.atomic import new_file, refuse_existing
from deepbackmap.similarity.containers import StructureMap
from deepbackmap.similarity.structure_map import Sample
from deepbackmap.system import Structure, Topology
from deepbackmap.system.elements import element_symbols
from deepbackmap.system.whole import BondTree, bond_trees, make_whole

ANGSTROM = 10.0
"""In a nm: chemiscope counts in Å."""
DIGITS = 3
"""Of coordinates in Å, those of a GROMACS trajectory."""


def export_chemiscope(
    path: str | Path,
    structure_map: StructureMap,
    topology: Topology,
    samples: Mapping[str, Sample],
    *,
    force: bool = False,
) -> None:
    """Writes a map and its structures as a file that chemiscope opens.

    Args:
        path: ``.json`` or ``.json.gz``.
        structure_map: from ``map_structures``.
        topology: of the structures.
        samples: what the map was made from.
        force: whether to replace an existing file.

    Raises:
        InputError: the file has another ending, exists or cannot be written, or a molecule
            cannot be made whole.
    """
    path = Path(path)
    if not path.name.endswith((".json", ".json.gz")):
        raise InputError(
            f"{path}: expected an output ending in .json or .json.gz, found "
            f"'{path.suffix or path.name}'"
        )
    refuse_existing(path, force)
    text = json.dumps(chemiscope_data(structure_map, topology, samples), allow_nan=False)
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # the same map is the same file
    with new_file(path) as part:
        part.write_bytes(content)


def chemiscope_data(
    structure_map: StructureMap, topology: Topology, samples: Mapping[str, Sample]
) -> dict[str, Any]:
    """A map as chemiscope's format has it: heavy atoms of whole molecules, or whole frames.

    Args:
        structure_map: from ``map_structures``.
        topology: of the structures.
        samples: what the map was made from.

    Returns:
        ``meta``, ``structures`` (in Å; a molecule about its centre, a frame with its cell),
        ``properties`` (sample, frame, molecule, the two coordinates of the map) and ``settings``.

    Raises:
        InputError: a molecule cannot be made whole, or a frame of the map is not in the samples.
    """
    names = [structure_map.samples[k] for k in structure_map.sample]
    return {
        "meta": {
            "name": "deepbackmap structure map",
            "description": "; ".join(f"{k}: {v}" for k, v in structure_map.settings.items()),
        },
        "structures": _structures(structure_map, topology, samples),
        "properties": {
            "sample": _property(names),
            "frame": _property(structure_map.frame.tolist()),
            "molecule": _property(structure_map.molecule.tolist()),
            "sketch-map 1": _property(structure_map.points[:, 0].tolist()),
            "sketch-map 2": _property(structure_map.points[:, 1].tolist()),
        },
        "settings": {
            "map": {
                "x": {"property": "sketch-map 1"},
                "y": {"property": "sketch-map 2"},
                "symbol": "sample",
                "color": {"property": "frame"},
            }
        },
    }


def _property(values: list[Any]) -> dict[str, Any]:
    return {"target": "structure", "values": values}


def _structures(
    structure_map: StructureMap, topology: Topology, samples: Mapping[str, Sample]
) -> list[dict[str, Any]]:
    """One entry for every point; each frame is made whole once."""
    frames = {
        (name, number): structure
        for name in structure_map.samples
        for number, structure in samples.get(name, ())
    }
    symbols = np.array(
        [
            symbol
            for index, count in topology.blocks
            for symbol in element_symbols(topology.molecule_types[index].masses) * count
        ]
    )
    heavy = np.flatnonzero(topology.masses() > 3.0)
    offsets = topology.molecule_offsets()
    trees = bond_trees(topology)
    whole: dict[tuple[str, int], np.ndarray] = {}
    found = []
    rows = zip(structure_map.sample, structure_map.frame, structure_map.molecule, strict=True)
    for sample, frame, molecule in rows:
        key = (structure_map.samples[sample], int(frame))
        if key not in frames:
            raise InputError(
                f"chemiscope: expected frame {key[1]} of {key[0]} among the samples, found none"
            )
        if key not in whole:
            whole = {key: _whole(frames[key], topology, trees, key)}  # one at a time is enough
        if molecule:
            atoms = heavy[(heavy >= offsets[molecule - 1]) & (heavy < offsets[molecule])]
            found.append(_entry(symbols[atoms], whole[key][atoms], None))
        else:
            found.append(_entry(symbols[heavy], whole[key][heavy], frames[key].box))
    return found


def _whole(
    structure: Structure, topology: Topology, trees: tuple[BondTree, ...], key: tuple[str, int]
) -> Float64[np.ndarray, "n 3"]:
    return make_whole(
        structure.positions, structure.box, topology, trees=trees, source=f"{key[0]} frame {key[1]}"
    )


def _entry(
    symbols: np.ndarray,
    positions: Float64[np.ndarray, "n 3"],
    box: Float64[np.ndarray, "3 3"] | None,
) -> dict[str, Any]:
    """One structure; a molecule is put about the origin, a frame keeps its place in the cell."""
    shift = positions.mean(axis=0) if box is None else np.zeros(3)
    places = np.round(ANGSTROM * (positions - shift), DIGITS)
    entry: dict[str, Any] = {"size": len(symbols), "names": symbols.tolist()}
    entry |= {axis: places[:, k].tolist() for k, axis in enumerate("xyz")}
    if box is not None:
        entry["cell"] = (ANGSTROM * box).ravel().tolist()
    return entry

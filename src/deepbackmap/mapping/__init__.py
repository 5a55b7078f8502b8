"""Which atoms make a bead, and which bead owns an atom: two different things."""

from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping
from deepbackmap.mapping.file import (
    MappingFile,
    load_mapping,
    mapping_words,
    packaged_mappings,
)
from deepbackmap.mapping.forward import map_positions

__all__ = [
    "MappingFile",
    "MoleculeMapping",
    "SystemMapping",
    "load_mapping",
    "map_positions",
    "mapping_words",
    "packaged_mappings",
]

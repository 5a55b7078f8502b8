"""Which atoms make a bead, and which bead owns an atom: two different things."""

from deepbackmap.mapping.containers import MoleculeMapping, SystemMapping

__all__ = ["MoleculeMapping", "SystemMapping"]

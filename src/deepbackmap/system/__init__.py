"""Atoms, bonded terms, molecules and boxes as immutable arrays."""

from deepbackmap.system.structure import Structure
from deepbackmap.system.topology import BondedTerms, MoleculeType, Topology

__all__ = ["BondedTerms", "MoleculeType", "Structure", "Topology"]

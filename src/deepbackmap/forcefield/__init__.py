"""Force-field energies by term in torch: differentiable, periodic, driven by the topology."""

from deepbackmap.forcefield.molecules import energies_per_molecule
from deepbackmap.forcefield.system import TERMS, ForceField

__all__ = ["TERMS", "ForceField", "energies_per_molecule"]

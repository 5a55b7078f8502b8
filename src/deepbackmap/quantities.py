"""Physical constants in the package's units: nm, ps, u, e, kJ/mol, K, rad."""

BOLTZMANN = 0.00831446261815324
"""Molar gas constant in kJ/(mol K)."""

COULOMB = 138.93545764
"""1/(4 pi eps0) in kJ nm/(mol e^2), the value GROMACS uses."""

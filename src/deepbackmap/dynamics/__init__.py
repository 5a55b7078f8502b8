"""Minimisation and molecular dynamics with OpenMM or GROMACS, one interface for both."""

"""Minimisation and molecular dynamics in this process, with OpenMM or GROMACS: one interface for all."""

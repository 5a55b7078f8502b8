"""Minimisation and dynamics in this process, with OpenMM or GROMACS: one interface for all."""

"""Dynamics of a whole box inside the process: compiled forces, constraints and steps."""

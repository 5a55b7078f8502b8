"""Atoms from a topology, a mapping and beads alone: no model, no atomistic data."""

"""Blocks: the atoms that one bead owns, in tables that do not depend on coordinates, and beads."""

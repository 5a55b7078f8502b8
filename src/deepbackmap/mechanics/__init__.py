"""Mechanics inside this process: forces of a box, bonds and beads made exact, steps of dynamics."""

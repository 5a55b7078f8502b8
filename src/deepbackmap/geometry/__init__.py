"""Cells, neighbours, local frames and counter-based random numbers."""

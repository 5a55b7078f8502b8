"""The point method: all atoms of a block at once, as a flow on points."""

"""One module a file format: reading frames in nm, writing them from nm."""

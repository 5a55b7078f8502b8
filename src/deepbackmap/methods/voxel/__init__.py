"""The voxel method: densities on a grid, atom by atom (Stieffenhofer, Wand, Bereau 2020)."""

"""Files: GROMACS topologies, structures and trajectories."""

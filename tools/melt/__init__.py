"""Our own atomistic polystyrene melt: topology, start structure, protocol, figures, files."""

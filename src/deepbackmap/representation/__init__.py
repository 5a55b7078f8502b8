"""What a bead sees, as points and as densities on a grid."""

"""What the bond graph says of a molecule: stereocentres, double bonds, rings."""

"""Training of generator and critic (Eqs. 9 to 15)."""

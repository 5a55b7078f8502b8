"""Dynamics of ``mechanics`` on a graphics card, in tensors."""

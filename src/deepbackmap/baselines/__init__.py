"""Classical routes from beads to atoms: weighted projection with modifiers, and templates."""

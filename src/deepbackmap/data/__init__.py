"""Training data: frames with their beads, system by system; frames that dynamics makes."""

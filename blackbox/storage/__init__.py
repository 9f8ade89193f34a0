"""Files that survive: the journal's, its lock, checkpoints."""

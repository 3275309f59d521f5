"""Migration scripts, one file per step."""

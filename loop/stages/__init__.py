"""The stages of a cycle."""

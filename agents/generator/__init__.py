"""Generators of candidate crystals."""

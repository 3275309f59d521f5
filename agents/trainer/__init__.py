"""Trainers: who decides when and how the generator learns."""

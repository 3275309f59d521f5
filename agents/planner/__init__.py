"""Planners: who writes recipes."""

"""Selectors: who decides what to make next."""

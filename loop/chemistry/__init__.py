"""Compositions, physical validity, identity of crystals, and the figures made of them."""

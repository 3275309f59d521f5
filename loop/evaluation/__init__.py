"""How good a generator's crystals are: metrics with their definitions, and what computes them."""

"""Crystal diffusion: a composition sampler, then a geometry flow given the composition."""

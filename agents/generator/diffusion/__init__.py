"""Crystal diffusion: a composition sampler, then a geometry flow given the composition.

`generator` is the plugin. What it is made of, in the order of reading: `representation`, `network`,
`path`, `guidance`, `collisions`, `sampler`, `drawing`, `heads`; `conditioning` and `physics` are
shared with training: `dataset`, `losses`, `training`, `team`. `composition` draws compositions,
`pretraining` and `fine_tuning` make `weights`, `augmentation` makes more crystals from known ones.
"""

"""A laboratory simulated from physics.

A furnace makes samples (`furnace`, by the model in `stability_window`); a calorimeter, a
pycnometer, a diffractometer and a press measure them. Each instrument remembers its runs in a
`logbook` of its own, as a real one does, and `instrument` says how runs are computed. The truth of
this laboratory is its potential's energy surface, not nature's.
"""

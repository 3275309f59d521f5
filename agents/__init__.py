"""Those who decide: generator, critic, selector, planner, trainer. No instrument, no SQL."""

"""A laboratory simulated from physics."""

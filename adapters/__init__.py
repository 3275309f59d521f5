"""Those who touch the world: potentials, instruments, policies."""

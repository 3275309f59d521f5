"""Other groups' generators, each in a process of its own, behind our protocol."""

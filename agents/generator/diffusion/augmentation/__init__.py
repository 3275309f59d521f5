"""More crystals from known ones: supercells, strain, substitution, point defects."""

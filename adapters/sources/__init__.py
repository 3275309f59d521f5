"""Where crystals come from: files in the forms that others use, and databases on the net."""

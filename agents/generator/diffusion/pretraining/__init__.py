"""Training from nothing: crystals in, weights with their card out, in resumable phases."""

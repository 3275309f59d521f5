"""Who reviews a batch."""

"""The domain of a discovery campaign and its memory; imports none of the other folders."""

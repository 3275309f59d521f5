"""Writing the report of a campaign."""

"""Prefect only: the flow, its tasks, the server. Nothing imports this folder."""

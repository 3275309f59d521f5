"""Alembic migrations of the ledger; they travel in the wheel."""

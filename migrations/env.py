"""Alembic's entry: runs the migrations on the connection and in the transaction it is handed."""

from __future__ import annotations

from alembic import context

from matterloop.loop.errors import UsageError
from matterloop.loop.ledger import models  # noqa: F401  # fills the metadata
from matterloop.loop.ledger.columns import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise UsageError(
        "The ledger's migrations were started without a connection.",
        remedy="run `matterloop db upgrade`, which takes the lock that migrations need",
    )
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite alters a table by copying it; Alembic's batch mode writes that.
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()

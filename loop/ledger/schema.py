"""Version of the ledger's tables: bringing a database to this version, and refusing to guess.

Alembic does the work; its scripts travel in the package `matterloop.migrations`, so that neither a
checkout nor an ``alembic.ini`` is needed. Everything happens in one transaction under a lock: two
processes that upgrade at once take turns, and one that is killed leaves the database as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, inspect, text

from matterloop.loop.errors import LedgerError
from matterloop.loop.ledger import models  # noqa: F401  # fills the metadata
from matterloop.loop.ledger.columns import Base

_LOCK = 0x6D61_7474_6572  # "matter": key of the advisory lock on PostgreSQL


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to `revision`; does nothing when they are there already.

    Raises
    ------
    LedgerError
        If the database was written by a newer version, or holds foreign tables of our names.
    """
    with _alone(engine) as connection:
        found = _revision(connection)
        _refuse_newer(found)
        clash = set() if found else set(inspect(connection).get_table_names()) & set(_our_tables())
        if clash:
            raise LedgerError(
                f"The database already holds tables named {', '.join(sorted(clash))}"
                " that are not a ledger's.",
                "an empty database",
                "create another database for the ledger",
            )
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the tables back to `revision`; ``base`` removes them with all they hold.

    Raises
    ------
    LedgerError
        If there is no such revision, or the database was written by a newer version.
    """
    with _alone(engine) as connection:
        found = _revision(connection)
        _refuse_newer(found)
        if found is not None:
            try:
                command.downgrade(_config(connection), revision)
            except CommandError as error:
                raise LedgerError(
                    f"Cannot go back to revision {revision!r}: {error}.",
                    f"one of base, {', '.join(_known())}",
                ) from error


def current(engine: Engine) -> str | None:
    """Return the revision that the database is at, None for a database without a ledger."""
    with engine.connect() as connection:
        return _revision(connection)


def head() -> str:
    """Return the revision that this version of the code works with."""
    return _known()[0]


def require_current(engine: Engine) -> None:
    """Make sure that the tables are those that this version of the code works with.

    Raises
    ------
    LedgerError
        If the database holds no ledger, an older one or a newer one.
    """
    found = current(engine)
    if found == head():
        return
    _refuse_newer(found)
    sqlite = engine.dialect.name == "sqlite"
    where = engine.url.database if sqlite else engine.url.render_as_string(hide_password=True)
    state = "holds no ledger yet" if found is None else f"is at the older version {found}"
    raise LedgerError(
        f"The ledger's database {where} {state}.",
        f"version {head()}",
        "run `matterloop db upgrade`",
    )


def _config(connection: Connection | None) -> Config:
    spec = find_spec("matterloop.migrations")
    assert spec is not None
    assert spec.submodule_search_locations
    config = Config()
    # "%" starts an interpolation in Alembic's configuration
    config.set_main_option("script_location", spec.submodule_search_locations[0].replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _known() -> list[str]:
    """Revisions of this version of the code, newest first."""
    scripts = ScriptDirectory.from_config(_config(None))
    return [script.revision for script in scripts.walk_revisions()]


def _our_tables() -> list[str]:
    return [table.name for table in Base.metadata.sorted_tables]


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in _known():
        raise LedgerError(
            f"The ledger is at version {found}, which this Matterloop does not know.",
            f"version {head()} or older",
            "use the newer Matterloop that wrote it",
        )


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Yield a connection in a transaction that no other upgrade shares."""
    with engine.connect() as connection:
        sqlite = engine.dialect.name == "sqlite"
        if sqlite:
            # Tables are altered by copying; with keys enforced the copy would be refused. The
            # pragma does nothing inside a transaction, hence on the driver's connection.
            _driver(connection, "PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():  # SQLite: BEGIN IMMEDIATE, which is the lock
                if not sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                yield connection
                if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise LedgerError("The migration would leave references that point nowhere.")
        finally:
            if sqlite:
                _driver(connection, "PRAGMA foreign_keys=ON")


def _driver(connection: Connection, statement: str) -> None:
    raw = connection.connection.dbapi_connection
    assert raw is not None
    cursor = raw.cursor()
    cursor.execute(statement)
    cursor.close()

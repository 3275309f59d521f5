"""Opening the ledger's database: a SQLite file or a PostgreSQL server, one behaviour.

Durability. SQLite runs in WAL mode with ``synchronous=FULL``. A killed process loses nothing with
``NORMAL`` either, but after a power cut ``NORMAL`` may forget the last commits; if the forgotten
one says "this job is being submitted", the experiment would be sent a second time. ``FULL`` syncs
the log at every commit (a few milliseconds) and closes that gap. On PostgreSQL a session with
``synchronous_commit = off`` is switched on for the same reason.

Transactions. Python's sqlite3 opens transactions late and never around DDL or SELECT; the way that
SQLAlchemy documents is taken instead: the driver's own transactions are switched off and the
``begin`` event says BEGIN. Every transaction says ``BEGIN IMMEDIATE``, so that it waits for the
write lock at its start instead of failing in its middle, except those of `reading`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError
from sqlalchemy.orm import Session

from matterloop.loop.errors import LedgerError

BUSY_TIMEOUT_S = 30.0
"""How long a SQLite transaction waits for another process's write lock."""

CONNECT_TIMEOUT_S = 10
"""How long the first answer of a PostgreSQL server is waited for."""

_READING = "matterloop_reading"


def open_engine(url: str | Path, *, create: bool = True) -> Engine:
    """Open the database of a ledger and prove that it can be written.

    Parameters
    ----------
    url
        Path of a SQLite file, ``sqlite:///path``, ``postgresql://user:password@host/name`` or
        ``postgresql+psycopg://...``.
    create
        Whether a missing SQLite file (and its folder) is created. False for commands that only
        make sense on an existing ledger.

    Returns
    -------
    Engine
        To be used through `writing` and `reading`. It must not be used across ``fork``.

    Raises
    ------
    LedgerError
        Unusable address, missing driver, unreachable server, wrong password, missing or unwritable
        folder, read-only file, file that is no database. No message holds a password.
    """
    address = _address(url)
    engine = _sqlite(address, create) if _is_sqlite(address) else _postgresql(address)
    try:
        with engine.connect() as connection, connection.begin() as transaction:
            if _is_sqlite(address):
                # Of a read-only file SQLite takes no write lock; only a write finds it out.
                connection.exec_driver_sql("PRAGMA user_version=0")
            transaction.rollback()
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """Yield a session in one transaction that may write; commit at the end, roll back on error."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """Yield a session that sees one consistent state and cannot write.

    On SQLite it does not take the write lock, so it never waits for a writer.
    """
    options: dict[str, Any] = {_READING: True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with Session(engine.execution_options(**options), expire_on_commit=False) as session:
        yield session


def is_repetition(error: IntegrityError) -> bool:
    """Whether a row was refused because one with the same key is there already."""
    return (
        getattr(error.orig, "sqlite_errorname", "")
        in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
        or getattr(error.orig, "sqlstate", "") == "23505"  # PostgreSQL: unique_violation
    )


def _is_sqlite(address: URL) -> bool:
    return address.get_backend_name() == "sqlite"


def _address(url: str | Path) -> URL:
    if url == ":memory:":  # what sqlite3 takes for a database that nobody finds again
        return _address("sqlite://")
    if isinstance(url, Path) or "://" not in url:
        return URL.create("sqlite+pysqlite", database=str(Path(url).expanduser().absolute()))
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        scheme = url.partition("://")[0]
        raise LedgerError(
            f"The ledger's address {scheme}://... cannot be read.",
            "a path, sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME",
            "correct the address; write special characters of a password percent-encoded",
        ) from None
    if address.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return address.set(drivername="postgresql+psycopg")
    if address.drivername in ("sqlite", "sqlite+pysqlite"):
        if address.database and address.database != ":memory:":
            return _address(Path(address.database))
        raise LedgerError(
            "The ledger cannot live in memory.", "the path of a file", "name a file, sqlite:///PATH"
        )
    raise LedgerError(
        f"The ledger's address starts with {address.drivername}://, which is not supported.",
        "a path, sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME",
    )


def _sqlite(address: URL, create: bool) -> Engine:
    path = Path(str(address.database))
    if path.is_dir():
        raise LedgerError(f"The ledger {path} is a folder.", "the path of a file")
    if not path.exists():
        if not create:
            raise LedgerError(
                f"There is no ledger at {path}.",
                remedy="correct the path, or create it with `matterloop db upgrade`",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"The folder {path.parent} for the ledger cannot be created: {error.strerror}.",
                remedy="choose a folder in which you may write",
            ) from error
    engine = create_engine(address, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        try:
            for pragma in (
                "journal_mode=WAL",
                "synchronous=FULL",
                "fullfsync=ON",  # macOS: plain fsync does not reach the platter there
                "foreign_keys=ON",
                "recursive_triggers=ON",  # REPLACE then fires the append-only triggers
            ):
                cursor.execute(f"PRAGMA {pragma}")
        finally:
            cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        reads = connection.get_execution_options().get(_READING, False)
        connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reads else 'OFF'}")
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    _explain_errors(engine, address)
    return engine


def _postgresql(address: URL) -> Engine:
    try:
        engine = create_engine(
            address, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_TIMEOUT_S}
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise LedgerError(
            "The driver for PostgreSQL is not installed.",
            remedy='install it with `pip install "matterloop[postgres]"`',
        ) from error

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        connection.commit()

    _explain_errors(engine, address)
    return engine


def _explain_errors(engine: Engine, address: URL) -> None:
    @event.listens_for(engine, "handle_error", retval=True)
    def _translate(context: ExceptionContext) -> LedgerError | None:
        if context.is_pre_ping:
            return None  # the pool replaces the connection by itself
        explain = _why_sqlite if _is_sqlite(address) else _why_postgresql
        return explain(context.original_exception, address)


_SQLITE_REASONS = {
    "SQLITE_BUSY": (
        f"is locked: another process has been writing for more than {BUSY_TIMEOUT_S:g} s",
        "wait for it, or end it; nothing was lost",
    ),
    "SQLITE_READONLY": ("is read-only", "allow writing on the file and its folder"),
    "SQLITE_CANTOPEN": (
        "cannot be opened",
        "check that its folder exists and that you may write there",
    ),
    "SQLITE_NOTADB": ("is a file but not a SQLite database", "name another file"),
    "SQLITE_CORRUPT": ("is damaged", "restore it from a backup"),
    "SQLITE_FULL": ("cannot grow: the disk is full", "free space and run the same command again"),
    "SQLITE_IOERR": ("cannot be read or written: the disk reports an error", "check the disk"),
}


def _why_sqlite(error: BaseException, address: URL) -> LedgerError | None:
    name = getattr(error, "sqlite_errorname", "")
    for prefix, (reason, remedy) in _SQLITE_REASONS.items():
        if name.startswith(prefix):
            return LedgerError(f"The ledger {address.database} {reason}.", remedy=remedy)
    return None


def _why_postgresql(error: BaseException, address: URL) -> LedgerError | None:
    import psycopg

    if not isinstance(error, psycopg.OperationalError):
        return None
    said = " ".join(str(error).split())
    if address.password:
        said = said.replace(str(address.password), "***")
    where = address.render_as_string(hide_password=True)
    if error.sqlstate == "28P01" or "password authentication failed" in said:
        return LedgerError(
            f"The ledger {where} refuses the password of {address.username!r}.",
            remedy="correct user and password in the address",
        )
    if error.sqlstate == "3D000" or ("database" in said and "does not exist" in said):
        return LedgerError(
            f"The server has no database {address.database!r} (ledger {where}).",
            remedy=f"create it with `createdb {address.database}`, then `matterloop db upgrade`",
        )
    return LedgerError(
        f"The ledger {where} cannot be reached: {said}.",
        remedy="check host, port and that the server runs, then run the same command again",
    )

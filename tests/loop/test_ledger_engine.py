"""Opening a ledger: what is accepted, how it is set up, and what each failure says."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text

from matterloop.loop.errors import LedgerError
from matterloop.loop.ledger import Campaign, open_engine, reading, upgrade, writing


def test_a_path_and_a_sqlite_url_open_the_same_file(tmp_path):
    path = tmp_path / "folder" / "ledger.sqlite"
    first, second = open_engine(path), open_engine(f"sqlite:///{path}")
    upgrade(first)
    with writing(second) as session:
        session.add(Campaign(name="c", spec={}, spec_sha256="0" * 64, seed=1,
                             matterloop_version="0"))  # fmt: skip
    with reading(first) as session:
        assert session.scalars(select(Campaign.name)).all() == ["c"]


def test_sqlite_is_set_up_to_survive_power_cuts_and_to_keep_references(tmp_path):
    engine = open_engine(tmp_path / "ledger.sqlite")
    with engine.connect() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30_000,
    }


def test_a_write_transaction_holds_the_lock_from_its_first_statement(tmp_path):
    """With a late lock, of two that read and then write the second would fail in its middle."""
    path = tmp_path / "ledger.sqlite"
    engine = open_engine(path)
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    with writing(engine) as session:
        session.execute(text("SELECT 1"))  # has only read so far
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    with reading(engine) as session:  # and a reader does not wait for the writer
        assert session.execute(text("SELECT 1")).scalar() == 1
    other.close()


@pytest.mark.postgres
def test_plain_postgresql_addresses_use_psycopg_3(postgres_server):
    for url in (
        postgres_server.url(),
        postgres_server.url().replace("postgresql:", "postgresql+psycopg:"),
        postgres_server.url().replace("postgresql:", "postgres:"),
    ):
        engine = open_engine(url)
        assert engine.dialect.driver == "psycopg"
        with engine.connect() as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
        engine.dispose()


@pytest.mark.postgres
def test_durability_cannot_be_switched_off_on_the_server(postgres_server):
    url = postgres_server.create_database()
    name = url.rpartition("/")[2]
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    engine.dispose()
    engine = open_engine(url)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW synchronous_commit")).scalar() == "on"
    engine.dispose()


@pytest.mark.postgres
def test_a_broken_connection_is_replaced(postgres_server):
    engine = open_engine(postgres_server.create_database())
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar()
    killer = open_engine(postgres_server.url())
    with killer.begin() as connection:
        assert connection.execute(text("SELECT pg_terminate_backend(:p, 5000)"), {"p": pid})
    with engine.connect() as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar() != pid
    engine.dispose()
    killer.dispose()


@pytest.mark.postgres
def test_wrong_password_is_named_but_not_shown(postgres_server):
    with pytest.raises(LedgerError, match="refuses the password of 'ledger'") as caught:
        open_engine(postgres_server.url(password="wrong-battery"))
    assert_no_secret(caught.value, "wrong-battery")


@pytest.mark.postgres
def test_missing_database_says_how_to_create_it(postgres_server):
    with pytest.raises(LedgerError, match=r"has no database 'nowhere'.*createdb nowhere"):
        open_engine(postgres_server.url("nowhere"))


@pytest.mark.postgres
def test_a_server_that_goes_away_is_one_clear_message(postgres_server):
    engine = open_engine(postgres_server.create_database())
    killer = open_engine(postgres_server.url())
    with reading(engine) as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar()
        with killer.begin() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:p, 5000)"), {"p": pid})
        with pytest.raises(LedgerError, match="cannot be reached") as caught:
            session.execute(text("SELECT 1"))
    assert_no_secret(caught.value, "right-horse")
    engine.dispose()
    killer.dispose()


def test_unreachable_host_is_named_without_the_password():
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = closed.getsockname()[1]
        with pytest.raises(LedgerError, match="cannot be reached") as caught:
            open_engine(f"postgresql://me:s3cr3t-pass@127.0.0.1:{port}/ledger")
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert_no_secret(caught.value, "s3cr3t-pass")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://me:s3cr3t-pass@host/db", "mysql://, which is not supported"),
        ("postgresql://me:s3cr3t-pass@host:notaport/db", "cannot be read"),
        ("sqlite://", "cannot live in memory"),
        ("sqlite:///:memory:", "cannot live in memory"),
        (":memory:", "cannot live in memory"),
    ],
)
def test_unusable_addresses(url, said):
    with pytest.raises(LedgerError, match=said) as caught:
        open_engine(url)
    assert_no_secret(caught.value, "s3cr3t-pass")


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("nothing but words, and quite a lot of them\n" * 100)
    with pytest.raises(LedgerError, match=r"notes\.txt is a file but not a SQLite database"):
        open_engine(path)


def test_a_folder_is_no_ledger(tmp_path):
    with pytest.raises(LedgerError, match="is a folder"):
        open_engine(tmp_path)


def test_a_missing_file_is_created_only_where_that_makes_sense(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with pytest.raises(LedgerError, match="There is no ledger at"):
        open_engine(path, create=False)
    assert not path.exists()
    open_engine(path)
    open_engine(path, create=False)


def test_unwritable_folder(guarded_folder):
    guarded_folder.chmod(0o555)
    with as_ordinary_user(), pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be opened"):
        open_engine(guarded_folder / "ledger.sqlite")
    with as_ordinary_user(), pytest.raises(LedgerError, match="cannot be created"):
        open_engine(guarded_folder / "deeper" / "ledger.sqlite")


def test_read_only_file(guarded_folder):
    path = guarded_folder / "ledger.sqlite"
    with as_ordinary_user():
        engine = open_engine(path)
        upgrade(engine)
        engine.dispose()
    path.chmod(0o444)
    with as_ordinary_user(), pytest.raises(LedgerError, match=r"ledger\.sqlite is read-only"):
        open_engine(path)


def assert_no_secret(error: BaseException, secret: str) -> None:
    """The whole chain that a traceback would print, not only the message."""
    seen: BaseException | None = error
    while seen is not None:
        assert secret not in str(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


@pytest.fixture
def guarded_folder() -> Iterator[Path]:
    """A folder whose parents anybody may pass, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="mlgf"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o777)
    shutil.rmtree(folder)


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may write anywhere: take an ordinary user's rights for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)

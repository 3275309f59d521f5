"""The memory of one virtual instrument: an SQLite file that survives the death of every process.

The logbook plays the part that the controller of a real instrument plays: it knows every run that
was ever submitted, whoever asked. It does not merge submissions. A key that is submitted twice
gives two runs, as on a real instrument that does what it is told, so that a caller's mistake can be
seen (`Logbook.submissions`).

A run is *accepted*, then *running* while one worker holds its lease, then *finished*, *failed* or
*cancelled*. A lease ends with the process that holds it: at once if that process lived on this
host and is gone, otherwise when it expires. A run whose lease has ended is computed again, with the
same result, because a result depends on nothing but the request.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from matterloop.loop.errors import FailureKind, InstrumentFaultError, JobFailureError

OPEN_STATES = ("accepted", "running")
"""States of a run that still has to be computed."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('accepted', 'running', 'finished', 'failed', 'cancelled')),
    result TEXT,
    failure_kind TEXT,
    failure TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until REAL,
    submitted_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL
);
CREATE INDEX IF NOT EXISTS runs_by_key ON runs (key);
CREATE INDEX IF NOT EXISTS runs_by_state ON runs (state);
"""
# Times are seconds since 1970 UTC. `failure` is a JSON array [came, expected, remedy].

_BUSY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Run:
    """One row: what was asked, how far it is, what came out (JSON text)."""

    run: int
    key: str
    request: str
    state: str
    result: str | None
    failure_kind: FailureKind | None
    failure: tuple[str, str, str] | None
    attempts: int


@dataclass(frozen=True)
class Worker:
    """Who holds a lease: a process on a host, and one instrument object in it."""

    host: str
    pid: int
    born: str
    token: str

    @classmethod
    def me(cls) -> Worker:
        """Return a new identity within this process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _birth(pid), uuid4().hex)

    def is_gone(self) -> bool:
        """Whether this is surely the worker of a process that no longer exists."""
        return (
            self.born != "" and self.host == socket.gethostname() and _birth(self.pid) != self.born
        )

    def to_json(self) -> str:
        """Write the identity as text."""
        return json.dumps([self.host, self.pid, self.born, self.token])

    @classmethod
    def from_json(cls, text: str) -> Worker:
        """Read what `to_json` wrote."""
        host, pid, born, token = json.loads(text)
        return cls(str(host), int(pid), str(born), str(token))


class Logbook:
    """The logbook in the file `path`; safe for several threads and processes.

    Parameters
    ----------
    path
        SQLite file; it and its folder are made on first use.
    lease_s
        Seconds after which a lease that was not renewed has ended.
    """

    def __init__(self, path: Path, lease_s: float = 600.0) -> None:
        self.path, self.lease_s = path, lease_s
        self._ready = False

    def add(self, key: str, request: str) -> int:
        """Enter a new run, even if the key has one already, and return its number."""
        with self._write() as book:
            row = book.execute(
                "INSERT INTO runs (key, request, state, submitted_at)"
                " VALUES (?, ?, 'accepted', ?) RETURNING run",
                (key, request, time.time()),
            ).fetchone()
            return int(row[0])

    def first(self, key: str) -> Run | None:
        """Return the first run of a key, or None if it was never submitted."""
        with self._open() as book:
            row = book.execute(
                "SELECT * FROM runs WHERE key = ? ORDER BY run LIMIT 1",
                (key,),
            ).fetchone()
        return _run(row) if row else None

    def read(self, run: int) -> Run | None:
        """Return a run by its number."""
        with self._open() as book:
            row = book.execute(
                "SELECT * FROM runs WHERE run = ?",
                (run,),
            ).fetchone()
        return _run(row) if row else None

    def submissions(self) -> dict[str, int]:
        """Return how often each key was submitted; a number above one is somebody's mistake."""
        with self._open() as book:
            rows = book.execute("SELECT key, count(*) FROM runs GROUP BY key").fetchall()
        return {str(key): int(count) for key, count in rows}

    def open_runs(self) -> int:
        """Return how many runs still have to be computed."""
        with self._open() as book:
            row = book.execute(
                "SELECT count(*) FROM runs WHERE state IN ('accepted', 'running')"
            ).fetchone()
        return int(row[0])

    def claim(self, worker: Worker) -> Run | None:
        """Lease the oldest run that nobody is computing, or return None."""
        now = time.time()
        with self._write() as book:
            candidates = book.execute(
                "SELECT run, state, worker, lease_until FROM runs"
                " WHERE state IN ('accepted', 'running') ORDER BY run"
            )
            free = next(
                (
                    run
                    for run, state, holder, until in candidates
                    if state == "accepted" or until < now or Worker.from_json(holder).is_gone()
                ),
                None,
            )
            if free is None:
                return None
            row = book.execute(
                "UPDATE runs SET state = 'running', attempts = attempts + 1, worker = ?,"
                " lease_until = ?, started_at = coalesce(started_at, ?) WHERE run = ?"
                " RETURNING *",
                (worker.to_json(), now + self.lease_s, now, free),
            ).fetchone()
            return _run(row)

    def renew(self, worker: Worker) -> None:
        """Prolong the leases of a worker that is still at it."""
        with self._write() as book:
            book.execute(
                "UPDATE runs SET lease_until = ? WHERE state = 'running' AND worker = ?",
                (time.time() + self.lease_s, worker.to_json()),
            )

    def release(self, run: int, worker: Worker) -> None:
        """Give a leased run back uncomputed."""
        with self._write() as book:
            book.execute(
                "UPDATE runs SET state = 'accepted', worker = NULL, lease_until = NULL"
                " WHERE run = ? AND state = 'running' AND worker = ?",
                (run, worker.to_json()),
            )

    def finish(self, run: int, result: str) -> bool:
        """Enter a result; False if the run was over already (cancelled, or computed elsewhere)."""
        return self._close(run, "finished", result=result)

    def fail(self, run: int, error: JobFailureError) -> bool:
        """Enter a typed failure; False if the run was over already."""
        failure = json.dumps([error.came, error.expected, error.remedy])
        return self._close(run, "failed", failure_kind=str(error.kind), failure=failure)

    def cancel(self, run: int) -> bool:
        """Stop a run; False if it was over already."""
        return self._close(run, "cancelled")

    def _close(
        self,
        run: int,
        state: str,
        *,
        result: str | None = None,
        failure_kind: str | None = None,
        failure: str | None = None,
    ) -> bool:
        with self._write() as book:
            cursor = book.execute(
                "UPDATE runs SET state = ?, result = ?, failure_kind = ?, failure = ?,"
                " finished_at = ?, worker = NULL, lease_until = NULL"
                " WHERE run = ? AND state IN ('accepted', 'running')",
                (state, result, failure_kind, failure, time.time(), run),
            )
            return cursor.rowcount == 1

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one transaction; short-lived, so no thread shares one."""
        try:
            if not self._ready:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(
                sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
            ) as book:
                book.row_factory = sqlite3.Row
                if not self._ready:
                    _prepare(book)
                    self._ready = True
                yield book
        except (OSError, sqlite3.Error) as error:
            raise InstrumentFaultError(
                f"The logbook {self.path} cannot be used: {error}.",
                "a folder that can be written to, with space left",
                "make the campaign's folder writable and run the same command again",
            ) from error

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._open() as book:
            book.execute("BEGIN IMMEDIATE")
            try:
                yield book
            except BaseException:
                book.execute("ROLLBACK")
                raise
            book.execute("COMMIT")


def _run(row: sqlite3.Row) -> Run:
    kind, failure = row["failure_kind"], row["failure"]
    return Run(
        run=row["run"],
        key=row["key"],
        request=row["request"],
        state=row["state"],
        result=row["result"],
        failure_kind=FailureKind(kind) if kind else None,
        failure=tuple(json.loads(failure)) if failure else None,
        attempts=row["attempts"],
    )


def _prepare(book: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            # Of two processes that open a new file at once one fails: no busy timeout here.
            book.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    for statement in _SCHEMA.split(";"):
        book.execute(statement)


def _birth(pid: int) -> str:
    """Return what tells this process from a later one with the same number; empty if none lives."""
    try:
        # After the bracketed name: the state, and 19 fields on the start in clock ticks since boot.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if os.name != "posix" or Path("/proc/self/stat").exists():
            return ""
    else:
        return "" if fields[0] in "ZX" else fields[19]  # a zombie does not work any more
    try:  # a system without /proc: existence is all that can be asked
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"

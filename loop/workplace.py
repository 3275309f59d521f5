"""Where things lie on disk: one folder for all campaigns, one subfolder for each."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from matterloop.loop.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

DEFAULT_FOLDER = "campaigns"


def default_ledger(folder: Path) -> str:
    """Return the URL of the ledger that lies in `folder` when none is named."""
    return f"sqlite:///{folder / 'ledger.sqlite'}"


@contextmanager
def open_ledger(url: str, *, create: bool = True) -> Iterator[Engine]:
    """Open a ledger for use: an empty database gets its tables, an older one is refused.

    Raises
    ------
    LedgerError
        See `matterloop.loop.ledger.engine.open_engine`; also if the ledger is of another version.
    """
    from matterloop.loop.ledger.engine import open_engine
    from matterloop.loop.ledger.schema import current, require_current, upgrade

    engine = open_engine(url, create=create)
    try:
        if create and current(engine) is None:
            upgrade(engine)
        require_current(engine)
        yield engine
    finally:
        engine.dispose()


def campaign_folder(folder: Path, name: str) -> Path:
    """Return the folder of one campaign, made if it is missing."""
    return writable_folder(folder / name)


def report_path(folder: Path, name: str) -> Path:
    """Return where a campaign's report is written."""
    return folder / name / "report.html"


def writable_folder(folder: Path) -> Path:
    """Make `folder` if it is missing, and prove that files can be written into it.

    Raises
    ------
    UsageError
        If not; nothing was started yet.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, probe = tempfile.mkstemp(prefix=".matterloop-", dir=folder)
        os.close(descriptor)
        Path(probe).unlink()
    except OSError as error:
        raise UsageError(
            f"Cannot write into the folder {str(folder)!r}: {error.strerror}.",
            "a folder that this user may write",
            "choose another one by `--out` or `--folder`, or change its permissions",
        ) from None
    return folder


@contextmanager
def locked_folder(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder for this process; the folder itself is locked, no lock file lies in it.

    On a file system without locks (some network ones) the user has to take care.

    Parameters
    ----------
    doing
        What another process does there, for the message: ``training in``.

    Raises
    ------
    ConflictError
        If another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Another process is {doing} {str(folder)!r}.",
                remedy="wait for it, or name another folder with `--out`",
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)

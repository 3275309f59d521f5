"""Where things lie on disk: one folder for all campaigns, one subfolder for each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from matterloop.loop.errors import UsageError

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
            "choose another one with `--folder`, or change its permissions",
        ) from None
    return folder

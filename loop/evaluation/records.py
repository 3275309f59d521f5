"""Results on disk as they come: one line of JSON each, keyed, never lost, never computed twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import content_hash
from matterloop.loop.workplace import writable_folder


class Records:
    """Keyed results in a file of JSON lines; of lines with the same key the last counts.

    A line that was cut short by a kill is passed over and its result computed again. Several
    processes may write at once: every line is appended in one call.

    Parameters
    ----------
    path
        The file; it and its folder are made when the first result is put.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        self._cut_short = False
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
        self._cut_short = bool(text) and not text.endswith(b"\n")
        for line in text.split(b"\n"):
            try:
                row = json.loads(line)
                self._rows[str(row["key"])] = row
            except (ValueError, KeyError, TypeError):
                continue

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was put under a key, with the key itself; None if nothing was."""
        return self._rows.get(key)

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a result (JSON-serialisable, no NaN), on disk before this returns.

        Raises
        ------
        UsageError
            If it cannot be written.
        """
        row = {"key": key, **result}
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            if not self.path.exists():
                writable_folder(self.path.parent)
            with self.path.open("ab") as stream:
                stream.write(b"\n" + line if self._cut_short else line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise UsageError(
                f"Cannot write {str(self.path)!r}: {error.strerror}.",
                remedy="make room; the same command then goes on where this one ended",
            ) from error
        self._cut_short = False
        self._rows[key] = row


def record_key(*parts: Any) -> str:
    """Return the key of a result from all that determines it (JSON-serialisable)."""
    return content_hash(list(parts))

"""``request.json``: what the crystals of a folder were asked for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from matterloop.loop.errors import ConflictError
from matterloop.loop.structure_files.formats import FileFormat

REQUEST = "request.json"
_SHOWN = 5


def read_request(folder: Path) -> dict[str, Any] | None:
    """Return what a folder was begun with, or None if it was not begun.

    Raises
    ------
    ConflictError
        If the file is somebody else's.
    """
    try:
        text = (folder / REQUEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        request = json.loads(text)
        FileFormat(request["format"])
        int(request["n"])
    except (ValueError, KeyError, TypeError):
        raise foreign(folder, REQUEST) from None
    return dict(request)


def foreign(folder: Path, name: str) -> ConflictError:
    """Return the error for a folder in which somebody else keeps a file of that name."""
    return ConflictError(
        f"The folder {str(folder)!r} holds a {name} that `matterloop generate` did not write.",
        "an empty folder, or one that it began",
        "name another folder with `--out`",
    )


def differences(
    before: Mapping[str, Any], asked: Mapping[str, Any], ignore: Collection[str]
) -> list[str]:
    """Say in which fields two requests differ, with both values, a few of them at the most."""
    left, right = _flat(before), _flat(asked)
    names = [
        name
        for name in dict.fromkeys([*left, *right])
        if name not in ignore and left.get(name) != right.get(name)
    ]
    shown = [f"{n} is {left.get(n)!r} there, {right.get(n)!r} here" for n in names[:_SHOWN]]
    return [*shown, f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else shown


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    return {
        name: inner
        for key, part in value.items()
        for name, inner in _flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }

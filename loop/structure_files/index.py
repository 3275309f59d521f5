"""``index.jsonl``: one line for each crystal of a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Entry:
    """One crystal of the folder: a line of ``index.jsonl``.

    Attributes
    ----------
    draw
        Number of the draw, from 0; files are numbered from 1.
    file, offset, bytes
        Where the crystal lies: file name, first byte and length.
    formula, n_atoms
        Reduced formula, and atoms in the cell.
    seed
        Seed of the draws.
    targets
        Soft conditions that it was asked to fulfil.
    model, model_version, model_sha256
        Which generator made it.
    time
        When it was written, ISO 8601, UTC.
    origin
        The generator's account of how it came about.
    symmetry, relaxation
        What was done to it afterwards, if anything.
    """

    draw: int
    file: str
    offset: int
    bytes: int
    formula: str
    n_atoms: int
    seed: int
    targets: Mapping[str, float | str]
    model: str
    model_version: str
    model_sha256: str
    time: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    symmetry: Mapping[str, Any] | None = None
    relaxation: Mapping[str, Any] | None = None


def read_index(folder: Path) -> list[Entry]:
    """Return the lines that can be read; a line cut short belongs to a crystal to be made again."""
    try:
        lines = (folder / INDEX).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return entries


def whole(folder: Path, entries: list[Entry]) -> dict[int, Entry]:
    """Keep the entries whose crystal is there, not cut short; the order of writing is kept."""
    sizes = {
        file.name: file.stat().st_size
        for name in {entry.file for entry in entries}
        if (file := folder / name).is_file()
    }
    return {
        entry.draw: entry
        for entry in entries
        if entry.offset + entry.bytes <= sizes.get(entry.file, -1)
    }


def line_of(entry: Entry) -> bytes:
    """Write an entry as it stands in the index, with its line end."""
    return json.dumps(asdict(entry), ensure_ascii=False, allow_nan=False).encode() + b"\n"

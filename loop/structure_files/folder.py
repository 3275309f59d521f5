"""A folder of generated crystals that is never half written and can be filled in several goes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from matterloop.loop.errors import ConflictError, UsageError
from matterloop.loop.identifiers import canonical_json, new_id
from matterloop.loop.structure_files.formats import FileFormat, structure_from, structure_text
from matterloop.loop.structure_files.index import INDEX, Entry, line_of, read_index, whole
from matterloop.loop.structure_files.request import REQUEST, differences, foreign, read_request
from matterloop.loop.workplace import locked_folder, writable_folder

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.candidate import ModelRef

ALL_IN_ONE = "structures.extxyz"


@dataclass(frozen=True)
class Facts:
    """What is known of a crystal besides its structure; see `Entry`."""

    seed: int
    model: ModelRef
    targets: Mapping[str, float | str] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    symmetry: Mapping[str, Any] | None = None
    relaxation: Mapping[str, Any] | None = None


class StructureFolder:
    """A folder that is being filled; use `open`, which locks it.

    Attributes
    ----------
    folder, file_format
        Where, and how crystals are written.
    entries
        Draw to entry, for all crystals that are there.
    """

    def __init__(self, folder: Path, file_format: FileFormat, entries: Mapping[int, Entry]) -> None:
        self.folder, self.file_format = folder, file_format
        self.entries: dict[int, Entry] = dict(entries)

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, request: Mapping[str, Any], *, n: int, extendable: bool = True
    ) -> Iterator[Self]:
        """Begin a folder, or go on with one that was begun with the same request.

        A request that gave no crystal, a mistaken one say, does not keep the folder from others.

        Parameters
        ----------
        request
            JSON-serialisable account of everything that decides what is written; its ``format`` is
            a `FileFormat`.
        n
            How many crystals are wanted.
        extendable
            Whether `n` may differ from what was asked for before.

        Raises
        ------
        UsageError
            If the folder cannot be written.
        ConflictError
            If it was begun with another request, or another process is filling it.
        """
        writable_folder(folder)
        asked = {**json.loads(canonical_json(request)), "n": n}
        with locked_folder(folder, "writing structures into"):
            before = read_request(folder)
            if before is None:
                if (folder / INDEX).exists():
                    raise foreign(folder, INDEX)
            elif found := differences(before, asked, ignore={"n"} if extendable else ()):
                if (folder / INDEX).exists() and (folder / INDEX).stat().st_size:
                    raise ConflictError(
                        f"The folder {str(folder)!r} holds structures of another request:"
                        f" {'; '.join(found)}.",
                        "the request that began it, or another folder",
                        "name another folder with `--out`",
                    )
                cls(folder, FileFormat(before["format"]), {})._clean()
            elif extendable:
                asked["n"] = max(n, int(before["n"]))
            if asked != before:
                text = json.dumps(asked, indent=2, ensure_ascii=False, sort_keys=True)
                _write(folder / REQUEST, f"{text}\n".encode())
            file_format = FileFormat(asked["format"])
            opened = cls(folder, file_format, whole(folder, read_index(folder)))
            if before is not None:
                opened._clean()
            yield opened

    def missing(self, n: int) -> list[int]:
        """Return the draws below `n` that are not there yet, ascending."""
        return [draw for draw in range(n) if draw not in self.entries]

    def add(self, draw: int, structure: Structure, facts: Facts) -> Entry:
        """Write a crystal, then its line; after either is interrupted the other is consistent.

        Raises
        ------
        UsageError
            If the disk is full or the folder cannot be written any more.
        """
        formula = structure.composition.reduced_formula
        notes = {"draw": draw, "formula": formula, "seed": facts.seed, **facts.targets}
        energy = (facts.relaxation or {}).get("energy_eV_per_atom")
        if energy is not None:
            notes["energy"] = energy * len(structure)
        data = structure_text(structure, self.file_format, notes).encode()
        try:
            file, offset = self._put(draw, formula, data)
            entry = Entry(
                draw=draw,
                file=file,
                offset=offset,
                bytes=len(data),
                formula=formula,
                n_atoms=len(structure),
                seed=facts.seed,
                targets=facts.targets,
                model=facts.model.name,
                model_version=facts.model.version,
                model_sha256=facts.model.sha256,
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                origin=facts.origin,
                symmetry=facts.symmetry,
                relaxation=facts.relaxation,
            )
            with (self.folder / INDEX).open("ab") as index:
                index.write(line_of(entry))
        except OSError as error:
            raise UsageError(
                f"Cannot write into the folder {str(self.folder)!r}: {error.strerror}.",
                remedy="make room or repair it; the same command then goes on where this one ended",
            ) from error
        self.entries[draw] = entry
        return entry

    def _put(self, draw: int, formula: str, data: bytes) -> tuple[str, int]:
        if self.file_format is FileFormat.EXTXYZ:
            with (self.folder / ALL_IN_ONE).open("ab") as file:
                offset = file.tell()
                file.write(data)
            return ALL_IN_ONE, offset
        name = f"{draw + 1:04d}-{formula}{self.file_format.suffix}"
        _write(self.folder / name, data)
        return name, 0

    def _clean(self) -> None:
        """Remove what an interrupted run left: part files, and the crystal without a line."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)
        if self.file_format is FileFormat.EXTXYZ:
            file = self.folder / ALL_IN_ONE
            end = max((entry.offset + entry.bytes for entry in self.entries.values()), default=0)
            if file.exists() and file.stat().st_size > end:
                with file.open("r+b") as stream:
                    stream.truncate(end)
        else:
            # Only the crystal that was being written can lack its line.
            draw = next(i for i in range(len(self.entries) + 1) if i not in self.entries)
            name = re.compile(
                rf"{draw + 1:04d}-[A-Za-z0-9.()]+{re.escape(self.file_format.suffix)}"
            )
            for file in self.folder.glob(f"{draw + 1:04d}-*"):
                if name.fullmatch(file.name):
                    file.unlink(missing_ok=True)
        lines = b"".join(line_of(entry) for entry in self.entries.values())
        index = self.folder / INDEX
        if not index.exists() or index.read_bytes() != lines:
            _write(index, lines)


def read_folder(folder: Path) -> Iterator[tuple[Entry, Structure]]:
    """Yield all crystals that `matterloop generate` wrote into a folder, in the order of draws.

    Raises
    ------
    UsageError
        If the folder was not written by it.
    """
    request = read_request(folder)
    if request is None:
        raise UsageError(
            f"The folder {str(folder)!r} has no {REQUEST}.", "one that `matterloop generate` wrote"
        )
    file_format = FileFormat(request["format"])
    for _, entry in sorted(whole(folder, read_index(folder)).items()):
        with (folder / entry.file).open("rb") as stream:
            stream.seek(entry.offset)
            text = stream.read(entry.bytes if file_format is FileFormat.EXTXYZ else -1)
        yield entry, structure_from(text.decode(), file_format)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.{new_id()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

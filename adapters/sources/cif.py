"""A CIF file, or a folder of them (subfolders too). A file may hold several crystals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from matterloop.adapters.sources.crystal import crystals_in_cif
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.errors import UsageError
from matterloop.loop.sources import Unreadable


class CifFilesSettings(BaseModel):
    """Settings of `CifFiles`.

    Attributes
    ----------
    path
        A file, or a folder in which every ``*.cif`` is read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str


class CifFiles:
    """Behind `matterloop.loop.sources.StructureSource`; files in the order of their paths."""

    Settings = CifFilesSettings
    aliases: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = (".cif", "/")

    def __init__(self, settings: CifFilesSettings, workshop: object = None) -> None:
        self._path = Path(settings.path)

    @staticmethod
    def parse_address(rest: str) -> dict[str, Any]:
        """See `StructureSource`: the path."""
        return {"path": rest}

    def read(self) -> Iterator[LabelledStructure | Unreadable]:
        """See `StructureSource`.

        A crystal is named by the path below the folder without its ending, and if there are
        several in the file, ``#`` and the name of the block.
        """
        for name, file in self._files():
            try:
                text = file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                yield Unreadable(name, f"cannot be read: {error}")
                continue
            found = list(crystals_in_cif(text))
            for block, crystal in found:
                identifier = name if len(found) == 1 else f"{name}#{block}"
                if isinstance(crystal, str):
                    yield Unreadable(identifier, crystal)
                else:
                    yield LabelledStructure(
                        crystal, {"density": float(crystal.density)}, self._path.name, identifier
                    )

    def _files(self) -> list[tuple[str, Path]]:
        if self._path.is_file():
            return [(self._path.stem, self._path)]
        files = sorted(
            file
            for file in (self._path.rglob("*") if self._path.is_dir() else ())
            if file.suffix.lower() == ".cif" and file.is_file()
        )
        if not files:
            raise UsageError(
                f"There is no CIF file at {self._path}.", "a file or a folder with *.cif files"
            )
        return [(file.relative_to(self._path).with_suffix("").as_posix(), file) for file in files]

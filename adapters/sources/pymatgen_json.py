"""JSON that holds pymatgen structures: ``Structure.as_dict()``, alone or with labels.

One crystal, a list of crystals, or a mapping from names to crystals. A crystal is the dictionary of
a structure, or a mapping with ``structure`` and further fields: labels beside it or under
``labels``, a name under ``material_id``, ``identifier`` or ``id``. Plain, or gzip (``.gz``).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from matterloop.adapters.sources.crystal import NotACrystalError, as_labels, plain_crystal
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.errors import UsageError
from matterloop.loop.sources import Unreadable

_IDS = ("material_id", "identifier", "id")


class PymatgenJsonSettings(BaseModel):
    """Settings of `PymatgenJson`.

    Attributes
    ----------
    path
        A file that ends in ``.json`` or ``.json.gz``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str


class PymatgenJson:
    """Behind `matterloop.loop.sources.StructureSource`. The file is held in memory as a whole."""

    Settings = PymatgenJsonSettings
    aliases: ClassVar[tuple[str, ...]] = ("json",)
    suffixes: ClassVar[tuple[str, ...]] = (".json", ".json.gz")

    def __init__(self, settings: PymatgenJsonSettings, workshop: object = None) -> None:
        self._path = Path(settings.path)

    @staticmethod
    def parse_address(rest: str) -> dict[str, Any]:
        """See `StructureSource`: the path."""
        return {"path": rest}

    def read(self) -> Iterator[LabelledStructure | Unreadable]:
        """See `StructureSource`: in the order of the file."""
        for name, entry in _entries(self._load(), self._path.name):
            if not isinstance(entry, Mapping):
                yield Unreadable(name, f"{type(entry).__name__} instead of a crystal")
                continue
            wrapped = isinstance(entry.get("structure"), Mapping)
            known = {**entry, **_mapping(entry.get("labels"))} if wrapped else {}
            symmetry = _mapping(known.get("symmetry"))  # as documents of the Materials Project
            known.setdefault("space_group", symmetry.get("number"))
            identifier = next((str(known[key]) for key in _IDS if known.get(key)), name)
            try:
                structure = plain_crystal(_structure(entry["structure"] if wrapped else entry))
                labels = as_labels(known, structure)
            except NotACrystalError as error:
                yield Unreadable(identifier, str(error))
                continue
            yield LabelledStructure(structure, labels, self._path.name, identifier)

    def _load(self) -> Any:
        try:
            content = self._path.read_bytes()
            return json.loads(gzip.decompress(content) if self._path.suffix == ".gz" else content)
        except FileNotFoundError:
            raise UsageError(f"There is no file {self._path}.", "a JSON file") from None
        except (OSError, EOFError, ValueError) as error:
            raise UsageError(
                f"{self._path} cannot be read: {error}.", "JSON, plain or gzip"
            ) from None


def _entries(content: Any, file: str) -> Iterator[tuple[str, Any]]:
    if isinstance(content, list):
        for number, entry in enumerate(content, start=1):
            yield f"{file}:{number}", entry
    elif isinstance(content, Mapping) and not {"structure", "lattice"} & content.keys():
        yield from content.items()
    else:
        yield file, content


def _structure(stored: Mapping[str, Any]) -> Any:
    from pymatgen.core import Structure

    try:
        # Never pymatgen's general decoder: it imports whatever module the file names.
        return Structure.from_dict(dict(stored))
    except Exception as error:  # noqa: BLE001  # whatever a strange dictionary makes it raise
        raise NotACrystalError(
            f"not a pymatgen structure ({type(error).__name__}: {error})"
        ) from None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

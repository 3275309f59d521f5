"""What ASE writes: its database (SQLite, ``.db``) and extended XYZ files.

Labels come from the key-value pairs of a row, or from the ``info`` of a frame, under their own
names or those of MP-20 and C2DB. An energy is no label: its reference is not known.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from matterloop.adapters.sources.crystal import NotACrystalError, as_labels, plain_crystal
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.errors import UsageError
from matterloop.loop.sources import Unreadable

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

_IDS = ("material_id", "identifier", "name", "uid")


class AseFilesSettings(BaseModel):
    """Settings of `AseFiles`.

    Attributes
    ----------
    path
        A file that ends in ``.db``, ``.xyz`` or ``.extxyz``.
    selection
        ASE's query of database rows, for example ``Li,natoms<20``; everything if empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    selection: str = ""


class AseFiles:
    """Behind `matterloop.loop.sources.StructureSource`."""

    Settings = AseFilesSettings
    aliases: ClassVar[tuple[str, ...]] = ("extxyz",)
    suffixes: ClassVar[tuple[str, ...]] = (".db", ".xyz", ".extxyz")

    def __init__(self, settings: AseFilesSettings, workshop: object = None) -> None:
        self._path, self._selection = Path(settings.path), settings.selection
        if self._selection and not self._is_database:
            raise UsageError(
                f"The selection {self._selection!r} was given for {self._path}.",
                "a selection for a .db file only",
            )

    @staticmethod
    def parse_address(rest: str) -> dict[str, Any]:
        """See `StructureSource`: the path; for a database, ``?`` and a selection may follow."""
        path, mark, selection = rest.partition(".db?")
        return {"path": f"{path}.db", "selection": selection} if mark else {"path": rest}

    @property
    def _is_database(self) -> bool:
        return self._path.suffix.lower() == ".db"

    def read(self) -> Iterator[LabelledStructure | Unreadable]:
        """See `StructureSource`: in the order of the file, the ids of a database ascending."""
        if not self._path.is_file():
            raise UsageError(f"There is no file {self._path}.", "an ASE database or extended XYZ")
        return self._rows() if self._is_database else self._frames()

    def _rows(self) -> Iterator[LabelledStructure | Unreadable]:
        from ase.db import connect

        try:
            with connect(self._path, type="db", serial=True) as database:
                for row in database.select(self._selection or None, sort="id"):
                    known = {**row.data, **row.key_value_pairs}
                    yield self._entry(row.toatoms(), known, f"{self._path.name}:{row.id}")
        except (sqlite3.Error, ValueError, KeyError) as error:
            raise UsageError(
                f"{self._path} cannot be read: {type(error).__name__}: {error}.",
                "a database that ASE wrote, and a selection that ASE understands",
            ) from None

    def _frames(self) -> Iterator[LabelledStructure | Unreadable]:
        from ase.io import iread

        frames = iread(self._path, index=":", format="extxyz")
        number = 0
        while True:
            number += 1
            try:
                atoms = next(frames, None)
            except Exception as error:  # noqa: BLE001  # ASE's parser raises anything
                yield Unreadable(
                    f"{self._path.name}:{number}",
                    f"{type(error).__name__}: {error}; the rest of the file is not read",
                )
                return
            if atoms is None:
                return
            yield self._entry(atoms, atoms.info, f"{self._path.name}:{number}")

    def _entry(
        self, atoms: Atoms, known: dict[str, Any], place: str
    ) -> LabelledStructure | Unreadable:
        names = (str(known[name]) for name in _IDS if known.get(name) not in (None, ""))
        identifier = next(names, place)
        try:
            structure = _crystal(atoms)
            labels = as_labels(known, structure)
        except NotACrystalError as error:
            return Unreadable(identifier, str(error))
        return LabelledStructure(structure, labels, self._path.name, identifier)


def _crystal(atoms: Atoms) -> Structure:
    from pymatgen.core import Lattice, Structure

    if not atoms.pbc.all() or atoms.cell.rank < 3:
        raise NotACrystalError("it is not periodic in three directions")
    return plain_crystal(
        Structure(
            Lattice(atoms.cell.array), list(atoms.symbols), atoms.get_scaled_positions(wrap=False)
        )
    )

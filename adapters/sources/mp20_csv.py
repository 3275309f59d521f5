"""Tables as the MP-20 benchmark has them: one crystal per row, as CIF text.

Columns of MP-20 (Xie et al., ICLR 2022, arXiv:2110.06197): ``material_id``, ``cif``, and where
there are any ``formation_energy_per_atom``, ``e_above_hull`` (eV/atom), ``band_gap`` (eV),
``spacegroup.number`` (or ``spacegroup``). An empty field is no label. Plain, or gzip (``.gz``).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from matterloop.adapters.sources.crystal import NotACrystalError, as_labels, crystal_in_cif
from matterloop.loop.chemistry.known import rows_of_csv
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.sources import Unreadable

_CHUNK = 64


class Mp20CsvSettings(BaseModel):
    """Settings of `Mp20Csv`.

    Attributes
    ----------
    path
        The file.
    processes
        Processes that parse CIF text, which takes some 9 ms of a CPU per row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    processes: int = Field(default=1, ge=1, le=256)


class Mp20Csv:
    """Behind `matterloop.loop.sources.StructureSource`."""

    Settings = Mp20CsvSettings
    aliases: ClassVar[tuple[str, ...]] = ("csv",)
    suffixes: ClassVar[tuple[str, ...]] = (".csv", ".csv.gz")

    def __init__(self, settings: Mp20CsvSettings, workshop: object = None) -> None:
        self._path, self._processes = Path(settings.path), settings.processes

    @staticmethod
    def parse_address(rest: str) -> dict[str, Any]:
        """See `StructureSource`: the path."""
        return {"path": rest}

    def read(self) -> Iterator[LabelledStructure | Unreadable]:
        """See `StructureSource`: in the order of the file."""
        rows = (
            (self._path.name, number, row)
            for number, row in enumerate(rows_of_csv(self._path), start=1)
        )
        if self._processes == 1:
            yield from map(_entry, rows)
            return
        # Not forked: the caller may hold threads of torch.
        with multiprocessing.get_context("spawn").Pool(self._processes) as pool:
            yield from pool.imap(_entry, rows, chunksize=_CHUNK)


def _entry(task: tuple[str, int, Mapping[str, str]]) -> LabelledStructure | Unreadable:
    file, number, row = task
    identifier = row.get("material_id") or f"{file}:{number}"
    try:
        structure = crystal_in_cif(row["cif"] or "")
        labels = as_labels(row, structure)
    except NotACrystalError as error:
        return Unreadable(identifier, str(error))
    return LabelledStructure(structure, labels, row.get("source") or file, identifier)

"""The Materials Project, through its own client (mp-api). The key comes from ``MP_API_KEY``.

What comes is DFT (GGA, GGA+U and r2SCAN, mixed as the Materials Project does it), CC BY 4.0. The
crystals of GNoME in it are CC BY-NC 4.0 and are left out unless asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import combinations
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qsl

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from matterloop.adapters.sources.crystal import NotACrystalError, as_labels, plain_crystal
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.errors import UsageError
from matterloop.loop.sources import SourceError, Unreadable

FIELDS = (
    "material_id",
    "structure",
    "formation_energy_per_atom",
    "energy_above_hull",
    "band_gap",
    "symmetry",
)
"""Fields of a summary document that are asked for."""


def _listed(value: object) -> object:
    return tuple(value.split(",")) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class MaterialsProjectSettings(BaseModel):
    """Settings of `MaterialsProject`; what is given must all hold, and something must be given.

    Attributes
    ----------
    chemsys
        Chemical systems, ``Li-P-S-Cl``; several by comma.
    subsystems
        Whether every smaller system inside is asked for too: ``Li-S``, ``Li``, ...
    elements, exclude_elements
        Elements that must, and must not, be there.
    formula
        Formulas, ``Li2S`` or ``ABO3``.
    material_ids
        ``mp-149``; several by comma.
    min_atoms, max_atoms
        Atoms in the primitive cell.
    max_energy_above_hull
        In eV/atom.
    gnome
        Whether crystals that come from GNoME (CC BY-NC 4.0) are wanted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chemsys: Words = ()
    subsystems: bool = False
    elements: Words = ()
    exclude_elements: Words = ()
    formula: Words = ()
    material_ids: Words = ()
    min_atoms: int = Field(default=1, ge=1)
    max_atoms: int | None = Field(default=None, ge=1)
    max_energy_above_hull: float | None = Field(default=None, ge=0)
    gnome: bool = False

    @model_validator(mode="after")
    def _something(self) -> MaterialsProjectSettings:
        if not search_arguments(self).keys() - {"fields", "include_gnome"}:
            raise ValueError("nothing is asked for; the whole database is too much")
        if self.max_atoms is not None and self.max_atoms < self.min_atoms:
            raise ValueError(f"min_atoms {self.min_atoms} exceeds max_atoms {self.max_atoms}")
        return self


class MaterialsProject:
    """Behind `matterloop.loop.sources.StructureSource`."""

    Settings = MaterialsProjectSettings
    aliases: ClassVar[tuple[str, ...]] = ("mp",)
    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: MaterialsProjectSettings, workshop: object = None) -> None:
        self._settings = settings

    @staticmethod
    def parse_address(rest: str) -> dict[str, Any]:
        """See `StructureSource`: ``chemsys=Li-P-S-Cl&max_atoms=20``."""
        if rest and "=" not in rest:
            rest = f"chemsys={rest}"
        return dict(parse_qsl(rest, keep_blank_values=True))

    def read(self) -> Iterator[LabelledStructure | Unreadable]:
        """See `StructureSource`: in the order of the identifiers.

        Raises
        ------
        UsageError
            Without a key or without the client.
        SourceError
            If the Materials Project cannot be reached or refuses.
        """
        documents = self._documents(api_key())
        for document in sorted(documents, key=lambda found: str(_get(found, "material_id"))):
            yield from_summary(document)

    def _documents(self, key: str) -> list[Any]:
        from mp_api.client import MPRester

        try:
            with MPRester(key, mute_progress_bars=True) as client:
                return list(client.materials.summary.search(**search_arguments(self._settings)))
        except Exception as error:  # noqa: BLE001  # the client lets through whatever its parts raise
            reason = " ".join(f"{type(error).__name__}: {error}".replace(key, "***").split())
            raise SourceError(
                f"The Materials Project did not answer: {reason[:500]}.",
                remedy="check the network, the key in MP_API_KEY and the query",
            ) from None


def api_key() -> str:
    """Return the key of the Materials Project, after a look whether its client is there.

    Raises
    ------
    UsageError
        If either is missing.
    """
    key = os.environ.get("MP_API_KEY", "").strip()
    if not key:
        raise UsageError(
            "The Materials Project was asked for, but there is no API key.",
            "a key in the environment variable MP_API_KEY",
            "get one at https://materialsproject.org/api and export MP_API_KEY=...",
        )
    if find_spec("mp_api") is None:
        raise UsageError(
            "The Materials Project was asked for, but its client is not installed.",
            "the package mp-api",
            "pip install mp-api",
        )
    return key


def search_arguments(settings: MaterialsProjectSettings) -> dict[str, Any]:
    """Return the arguments of ``MPRester.materials.summary.search`` for a query."""
    systems = list(settings.chemsys)
    if settings.subsystems:
        systems = sorted({part for system in systems for part in _subsystems(system)})
    arguments: dict[str, Any] = {
        "chemsys": systems,
        "elements": list(settings.elements),
        "exclude_elements": list(settings.exclude_elements),
        "formula": list(settings.formula),
        "material_ids": list(settings.material_ids),
    }
    arguments = {name: value for name, value in arguments.items() if value}
    if settings.min_atoms > 1 or settings.max_atoms is not None:
        arguments["num_sites"] = (settings.min_atoms, settings.max_atoms or 10_000)
    if settings.max_energy_above_hull is not None:
        arguments["energy_above_hull"] = (0.0, settings.max_energy_above_hull)
    return {**arguments, "fields": list(FIELDS), "include_gnome": settings.gnome}


def from_summary(document: Any) -> LabelledStructure | Unreadable:
    """Turn a summary document, or the same as a mapping, into a crystal and its labels."""
    from pymatgen.core import Structure

    identifier = str(_get(document, "material_id"))
    stored = _get(document, "structure")
    if stored is None:
        return Unreadable(identifier, "the document has no structure")
    known = {name: _get(document, name) for name in FIELDS[2:5]}
    known["space_group"] = _get(_get(document, "symmetry"), "number")
    try:
        whole = Structure.from_dict(stored) if isinstance(stored, Mapping) else stored
        structure = plain_crystal(whole)
        labels = as_labels(known, structure)
    except NotACrystalError as error:
        return Unreadable(identifier, str(error))
    return LabelledStructure(structure, labels, "materials-project", identifier)


def _get(document: Any, name: str) -> Any:
    if isinstance(document, Mapping):
        return document.get(name)
    return getattr(document, name, None)


def _subsystems(system: str) -> Iterator[str]:
    elements = sorted(system.split("-"))
    for size in range(1, len(elements) + 1):
        yield from map("-".join, combinations(elements, size))

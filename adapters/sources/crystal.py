"""From what a source gives to an ordered crystal and its labels, or the reason why not."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from matterloop.loop.dataset import WORD_LABELS, Labels, crystal_system_of
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

_NAMES: Mapping[str, tuple[str, ...]] = {
    "formation_energy": ("formation_energy_per_atom", "hform"),
    "energy_above_hull": ("e_above_hull", "ehull"),
    "band_gap": ("bandgap", "gap"),
    "density": (),
    "temperature": (),
    "pressure": (),
    "crystal_system": (),
    "space_group": ("spacegroup.number", "spacegroup", "space_group_number", "sgnum"),
    "method": (),
}
"""Label to the names under which it is met: MP-20, Materials Project, C2DB (``hform``, ``ehull``,
``gap``). Energies are per atom in all of them; a total energy is no label."""

_NOTHING = ("", "nan", "none", "null")


class NotACrystalError(ValueError):
    """An entry gives no crystal that can be used; the message is for people."""


def labels_of(given: Mapping[str, Any]) -> dict[str, float | str]:
    """Take the labels that a row, an ``info`` or a document knows; empty and NaN are no labels.

    The crystal system follows from the space group where it is not given.

    Raises
    ------
    NotACrystalError
        If a value under a known name is not what the label asks for.
    """
    labels: dict[str, float | str] = {}
    for label, others in _NAMES.items():
        for name in (label, *others):
            value = given.get(name)
            if value is None or str(value).strip().lower() in _NOTHING:
                continue
            labels[label] = _word(label, value) if label in WORD_LABELS else _number(name, value)
            break
    if "space_group" in labels and "crystal_system" not in labels:
        labels["crystal_system"] = crystal_system_of(int(labels["space_group"]))
    return labels


def plain_crystal(structure: Structure) -> Structure:
    """Return the crystal alone: elements, cell, places; no charges, moments or occupancies.

    Raises
    ------
    NotACrystalError
        If it is disordered, empty, holds something that is no element, or has no proper cell.
    """
    from pymatgen.core import Element, Structure

    if not len(structure):
        raise NotACrystalError("it has no atoms")
    if not structure.is_ordered:
        raise NotACrystalError("it has partially occupied sites")
    symbols = [getattr(site.specie, "symbol", "?") for site in structure]
    if strange := {symbol for symbol in symbols if not Element.is_valid_symbol(symbol)}:
        raise NotACrystalError(f"{', '.join(sorted(strange))} is no element")
    matrix, places = structure.lattice.matrix, structure.frac_coords
    if not (np.isfinite(matrix).all() and np.isfinite(places).all()):
        raise NotACrystalError("a cell vector or a coordinate is not finite")
    if structure.volume < 1e-3:
        raise NotACrystalError(f"its cell has the volume {structure.volume:.3g} A^3")
    return Structure(structure.lattice, symbols, places)


def crystals_in_cif(text: str) -> Iterator[tuple[str, Structure | str]]:
    """Yield name and crystal, or the reason why there is none, of every block of a CIF."""
    from pymatgen.io.cif import CifFile, CifParser

    with warnings.catch_warnings():
        # The parser comments on every rounded coordinate.
        warnings.simplefilter("ignore")
        try:
            blocks = CifFile.from_str(text).data
        except Exception as error:  # noqa: BLE001  # a spoiled CIF makes the parser raise anything
            yield "", f"not CIF: {_told(error)}"
            return
        if not blocks:
            yield "", "no data block, so no CIF"
        for name, block in blocks.items():
            try:
                parser = CifParser.from_str(str(block))
                found = parser.parse_structures(primitive=False, on_error="raise")[0]
                yield name, plain_crystal(found)
            except Exception as error:  # noqa: BLE001  # as above
                yield name, _told(error)


def crystal_in_cif(text: str) -> Structure:
    """Parse the first block of a CIF.

    Raises
    ------
    NotACrystalError
        If it gives no crystal.
    """
    found = next(iter(crystals_in_cif(text)))[1]
    if isinstance(found, str):
        raise NotACrystalError(found)
    return found


def as_labels(labels: Mapping[str, Any], geometry: Structure) -> Labels:
    """Take labels from a mapping and add the density, which the crystal itself tells."""
    return {**labels_of(labels), "density": float(geometry.density)}


def _told(error: Exception) -> str:
    if isinstance(error, NotACrystalError):
        return str(error)
    return " ".join(f"{type(error).__name__}: {error}".split())


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise NotACrystalError(f"{name} is {value!r}, which is no number") from None
    if not math.isfinite(number):
        raise NotACrystalError(f"{name} is {number}")
    return number


def _word(label: str, value: Any) -> str:
    if label != "space_group":
        return str(value).strip().lower()
    try:
        number = float(value)
        crystal_system_of(int(number))
    except (TypeError, ValueError, OverflowError, UsageError):
        return _space_group_number(str(value).strip())
    return str(int(number))


def _space_group_number(symbol: str) -> str:
    from pymatgen.symmetry.groups import SpaceGroup

    try:
        return str(SpaceGroup(symbol.replace(" ", "")).int_number)
    except ValueError:
        raise NotACrystalError(f"{symbol!r} is no space group") from None

"""Crystals as text in the file formats of the field."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from matterloop.loop.identifiers import canonical_json

if TYPE_CHECKING:
    from pymatgen.core import Structure

SIGNIFICANT_FIGURES = 8
"""Decimals of coordinates and lengths (Angstrom) in text: what the ledger keeps, too."""


class FileFormat(StrEnum):
    """How crystals are written.

    ``cif``: all sites, space group P1. ``json``: pymatgen's dictionary. ``poscar``: VASP 5, sites
    sorted by element. ``extxyz``: extended XYZ, many crystals in one file.
    """

    CIF = "cif"
    JSON = "json"
    POSCAR = "poscar"
    EXTXYZ = "extxyz"

    @property
    def suffix(self) -> str:
        """End of a file's name by which pymatgen, ASE and viewers know the format."""
        return ".vasp" if self is FileFormat.POSCAR else f".{self.value}"


def structure_text(
    structure: Structure, file_format: FileFormat, facts: Mapping[str, object] | None = None
) -> str:
    """Write an ordered crystal.

    Parameters
    ----------
    facts
        JSON-serialisable notes; only extended XYZ has a place for them, on its comment line.
    """
    writers: dict[FileFormat, Callable[[], str]] = {
        FileFormat.CIF: lambda: cif_text(structure),
        FileFormat.JSON: lambda: json.dumps(structure.as_dict(), allow_nan=False) + "\n",
        FileFormat.POSCAR: lambda: _poscar_text(structure),
        FileFormat.EXTXYZ: lambda: _extxyz_text(structure, facts or {}),
    }
    return writers[file_format]()


def structure_from(text: str, file_format: FileFormat) -> Structure:
    """Read the first crystal of a text that `structure_text` wrote."""
    from pymatgen.core import Structure

    if file_format is FileFormat.CIF:
        from pymatgen.io.cif import CifParser

        # Without the tolerance, coordinates near a third would be moved onto it.
        parser = CifParser.from_str(text, frac_tolerance=0)
        return parser.parse_structures(primitive=False)[0]
    if file_format is FileFormat.EXTXYZ:
        from ase.io.extxyz import read_extxyz

        atoms = next(read_extxyz(io.StringIO(text), index=slice(0, 1)))
        return Structure(atoms.cell.array, atoms.numbers, atoms.get_scaled_positions(wrap=False))
    return Structure.from_str(text, fmt=file_format.value)


def cif_text(structure: Structure) -> str:
    """Write a crystal as CIF with all its sites in P1, eight decimals."""
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(structure, significant_figures=SIGNIFICANT_FIGURES))


def _poscar_text(structure: Structure) -> str:
    from pymatgen.io.vasp import Poscar

    # Unsorted sites would give a list of elements with repetitions, which some codes refuse.
    poscar = Poscar(structure.get_sorted_structure())
    return str(poscar.get_str(significant_figures=SIGNIFICANT_FIGURES))


def _extxyz_text(structure: Structure, facts: Mapping[str, object]) -> str:
    from ase import Atoms
    from ase.io.extxyz import write_extxyz

    atoms = Atoms(
        numbers=structure.atomic_numbers,
        cell=structure.lattice.matrix,
        scaled_positions=structure.frac_coords,
        pbc=True,
    )
    atoms.info.update(
        {
            name: value if isinstance(value, (str, int, float)) else canonical_json(value)
            for name, value in facts.items()
            if value is not None
        }
    )
    text = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        write_extxyz(text, [atoms])
    return text.getvalue()

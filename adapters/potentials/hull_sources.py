"""Where the crystals of a reference hull come from. Each is parsed only when its turn comes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterloop.loop.elements import element_counts, parse_formula, reduced_counts
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class SourceCrystal:
    """A crystal to be computed.

    Attributes
    ----------
    provenance
        Unique name: ``mp-1125``, ``element:Li:3``, ``prototype:...``, ``cif:name.cif``.
    load
        Returns the crystal.
    counts
        Reduced composition if known without loading.
    dft_e_above_hull_eV_per_atom, dft_formation_energy_eV_per_atom
        As the source states them.
    """

    provenance: str
    load: Callable[[], Structure]
    counts: dict[str, int] | None = None
    dft_e_above_hull_eV_per_atom: float | None = None
    dft_formation_energy_eV_per_atom: float | None = None


def from_csv(path: Path) -> Iterator[SourceCrystal]:
    """Read a table as MP-20 has it: ``material_id`` and ``cif``, and if there are any,
    ``formation_energy_per_atom`` and ``e_above_hull`` (eV/atom). Plain or gzip.

    Raises
    ------
    UsageError
        If the file cannot be read or lacks the columns.
    """  # noqa: D205
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "a CSV file") from None
    columns = list(rows[0]) if rows else []
    if missing := [name for name in ("material_id", "cif") if name not in columns]:
        raise UsageError(
            f"{path} lacks the column(s) {', '.join(missing)}; it has {', '.join(columns)}.",
            "the columns material_id and cif, as MP-20 has them",
        )
    for row in rows:
        yield SourceCrystal(
            provenance=row["material_id"],
            load=partial(parse_cif, row["cif"]),
            counts=_counts_in_cif(row["cif"]),
            dft_e_above_hull_eV_per_atom=_number(row.get("e_above_hull")),
            dft_formation_energy_eV_per_atom=_number(row.get("formation_energy_per_atom")),
        )


def from_cif_folder(folder: Path) -> Iterator[SourceCrystal]:
    """Read every ``*.cif`` under a folder.

    Raises
    ------
    UsageError
        If there is none.
    """
    files = sorted(folder.rglob("*.cif"))
    if not files:
        raise UsageError(f"There is no CIF file under {folder}.", "a folder with *.cif files")
    for file in files:
        yield SourceCrystal(
            provenance=f"cif:{file.relative_to(folder).as_posix()}",
            load=partial(_read_cif, file),
            counts=_counts_in_cif(file.read_text()),
        )


def from_elements(table: Path | None = None) -> Iterator[SourceCrystal]:
    """Read the polymorphs of 88 elements that come with matcalc (Materials Project, CC BY 4.0).

    The table is read without importing matcalc, whose import tries the network.

    Raises
    ------
    UsageError
        If matcalc is not installed.
    """
    path = table or _matcalc_elements()
    with gzip.open(path, "rt") as file:
        elements: dict[str, dict[str, Any]] = json.load(file)
    for symbol, entry in sorted(elements.items()):
        structures = entry["structure"]
        for number, stored in enumerate(
            structures if isinstance(structures, list) else [structures]
        ):
            yield SourceCrystal(
                provenance=f"element:{symbol}:{number}",
                load=partial(_from_dict, stored),
                counts={symbol: 1},
            )


def from_materials_project(
    systems: Sequence[str], key: str | None = None
) -> Iterator[SourceCrystal]:
    """Ask the Materials Project for everything in some chemical systems and their subsystems.

    Parameters
    ----------
    systems
        Like ``Li-P-S-Cl``.
    key
        API key; the environment variable ``MP_API_KEY`` if left out.

    Raises
    ------
    UsageError
        If there is no key, or the package mp-api is not installed.
    """
    key = key or os.environ.get("MP_API_KEY")
    if not key:
        raise UsageError(
            "The Materials Project was asked for, but there is no API key.",
            "--mp-key, or the environment variable MP_API_KEY",
            "get a key at materialsproject.org/api, or leave out --mp-system",
        )
    if find_spec("mp_api") is None:
        raise UsageError(
            "The Materials Project was asked for, but its client is not installed.",
            "the package mp-api",
            "pip install mp-api",
        )
    from mp_api.client import MPRester

    wanted = sorted({"-".join(part) for system in systems for part in subsystems(system)})
    with MPRester(key) as client:
        documents = client.materials.summary.search(
            chemsys=wanted,
            fields=[
                "material_id",
                "structure",
                "energy_above_hull",
                "formation_energy_per_atom",
            ],
        )
    for document in documents:
        yield SourceCrystal(
            provenance=str(document.material_id),
            load=partial(_as_it_is, document.structure),
            counts=counts_of(document.structure),
            dft_e_above_hull_eV_per_atom=document.energy_above_hull,
            dft_formation_energy_eV_per_atom=document.formation_energy_per_atom,
        )


def subsystems(system: str) -> Iterator[tuple[str, ...]]:
    """Yield the subsets of a chemical system's elements, itself included, sorted."""
    from itertools import combinations

    elements = sorted(system.split("-"))
    for size in range(1, len(elements) + 1):
        yield from combinations(elements, size)


def counts_of(structure: Structure) -> dict[str, int]:
    """Return the reduced composition of an ordered crystal, elements in alphabetic order."""
    return reduced_counts(dict(sorted(element_counts(structure).items())))


def formula_of(counts: dict[str, int]) -> str:
    """Write a composition as a formula, elements in alphabetic order: ``Cl1`` as ``Cl``."""
    return "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in sorted(counts.items()))


def parse_cif(text: str) -> Structure:
    """Parse the first crystal of a CIF, without the parser's remarks on rounding."""
    from pymatgen.core import Structure

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure = Structure.from_str(text, fmt="cif")
    assert isinstance(structure, Structure)
    return structure


def _read_cif(path: Path) -> Structure:
    return parse_cif(path.read_text())


def _from_dict(stored: dict[str, Any]) -> Structure:
    from pymatgen.core import Structure

    structure: Structure = Structure.from_dict(stored)
    return structure.remove_oxidation_states() or structure


def _as_it_is(structure: Structure) -> Structure:
    return structure


def _counts_in_cif(text: str) -> dict[str, int] | None:
    """Read the composition from the CIF's own formula line, which pymatgen writes."""
    for line in text.splitlines():
        if line.startswith("_chemical_formula_sum"):
            formula = line.split(maxsplit=1)[1].strip().strip("'\"").replace(" ", "")
            try:
                return reduced_counts(parse_formula(formula))
            except ValueError:
                return None
    return None


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _matcalc_elements() -> Path:
    spec = find_spec("matcalc")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "elemental_refs" / "MP-PBE-Element-Refs.json.gz"
        if path.exists():
            return path
    raise UsageError(
        "The crystals of the pure elements are not installed.",
        "the package matcalc, whose data hold them",
        "pip install --no-deps matcalc==0.7.0 (needed to build a hull, not to use one)",
    )

"""Known crystals, to tell what is novel. They come from files of the user, and are read lazily.

A database of 25,000 crystals is opened in a second or two: only the formula of each row is read. A
crystal is parsed when a candidate of the same reduced formula asks for it, once.
"""

from __future__ import annotations

import csv
import gzip
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from matterloop.loop.chemistry.matching import (
    Match,
    MatchTolerances,
    StructureIndex,
    require_crystal,
)
from matterloop.loop.elements import parse_formula, reduced_counts
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

_SUM = re.compile(r"^_chemical_formula_sum\s+(.+?)\s*$", re.MULTILINE)
FormulaKey = tuple[tuple[str, int], ...]


class KnownCrystals:
    """Crystals that exist already, indexed by reduced formula.

    Build it with `from_csv`, `from_folder` or `from_path`; add further sources with `extend`.

    Attributes
    ----------
    unreadable
        Ids whose CIF could not be parsed when they were needed, with the reason; they are passed
        over, for a database of thousands always holds some.
    """

    def __init__(self, tolerances: MatchTolerances | None = None) -> None:
        self.tolerances = tolerances or MatchTolerances()
        self.unreadable: dict[str, str] = {}
        self._cifs: dict[FormulaKey, list[tuple[str, str | Path]]] = {}
        self._indices: dict[FormulaKey, StructureIndex] = {}

    @classmethod
    def from_path(cls, path: Path, tolerances: MatchTolerances | None = None) -> KnownCrystals:
        """Read a CSV (plain or .gz) or a folder of CIF files, whichever `path` is."""
        if Path(path).is_dir():
            return cls.from_folder(path, tolerances)
        return cls.from_csv(path, tolerances)

    @classmethod
    def from_csv(cls, path: Path, tolerances: MatchTolerances | None = None) -> KnownCrystals:
        """Read a CSV with a column ``cif`` and, if it has one, ``material_id``.

        Raises
        ------
        UsageError
            If the file is missing or unreadable, or lacks the column.
        """
        known = cls(tolerances)
        known.extend(cifs_in_csv(Path(path)))
        return known

    @classmethod
    def from_folder(cls, path: Path, tolerances: MatchTolerances | None = None) -> KnownCrystals:
        """Read the ``*.cif`` files of a folder; their names become the ids.

        Raises
        ------
        UsageError
            If there is no such folder, or no CIF file in it.
        """
        files = sorted(Path(path).glob("*.cif")) if Path(path).is_dir() else []
        if not files:
            raise UsageError(f"{path} holds no CIF file.", "a folder with files that end in .cif")
        known = cls(tolerances)
        known.extend((file.stem, file) for file in files)
        return known

    def extend(self, rows: Iterable[tuple[str, str | Path]]) -> None:
        """Add crystals as pairs of id and CIF, the latter as text or as a path."""
        for name, cif in rows:
            key = _formula_key(cif)
            if key is None:
                self.unreadable[name] = "no formula that could be read (_chemical_formula_sum)"
                continue
            self._cifs.setdefault(key, []).append((name, cif))
            self._indices.pop(key, None)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._cifs.values())

    def keep(self, wanted: Callable[[Mapping[str, int]], bool]) -> None:
        """Drop all crystals of which the reduced counts of atoms are not wanted."""
        for key in [key for key in self._cifs if not wanted(dict(key))]:
            del self._cifs[key]
            self._indices.pop(key, None)

    def knows_formula(self, counts: Mapping[str, int]) -> bool:
        """Tell whether there is a crystal of this composition."""
        return _key(dict(counts)) in self._cifs

    def find(self, structure: Structure) -> Match | None:
        """Return a known crystal that matches, with its id as label; None if the crystal is novel.

        Raises
        ------
        UsageError
            If the crystal is empty, disordered or has no proper cell.
        """
        require_crystal(structure)
        counts: dict[str, int] = {}
        for site in structure:
            counts[site.specie.symbol] = counts.get(site.specie.symbol, 0) + 1
        return self._index(_key(counts)).find(structure)

    def crystals(self) -> Iterator[tuple[str, Structure]]:
        """Yield all known crystals that can be read as pairs of id and structure."""
        for rows in self._cifs.values():
            for name, cif in rows:
                structure = self._parse(name, cif)
                if structure is not None:
                    yield name, structure

    def structures(self, formula: str) -> Iterator[tuple[str, Structure]]:
        """Yield the known crystals of one formula as pairs of id and structure."""
        for name, cif in self._cifs.get(_key(parse_formula(formula)), ()):
            structure = self._parse(name, cif)
            if structure is not None:
                yield name, structure

    def _index(self, key: FormulaKey) -> StructureIndex:
        if key not in self._indices:
            index = StructureIndex(self.tolerances)
            for name, cif in self._cifs.get(key, ()):
                structure = self._parse(name, cif)
                if structure is not None:
                    try:
                        index.add(structure, name)
                    except UsageError as error:
                        self.unreadable[name] = str(error)
            self._indices[key] = index
        return self._indices[key]

    def _parse(self, name: str, cif: str | Path) -> Structure | None:
        from pymatgen.core import Structure

        try:
            text = cif.read_text() if isinstance(cif, Path) else cif
            with warnings.catch_warnings():
                # pymatgen comments on every rounded coordinate of a CIF
                warnings.simplefilter("ignore")
                structure = Structure.from_str(text, fmt="cif")
        except Exception as error:  # noqa: BLE001  # a spoiled CIF makes the parser raise anything
            self.unreadable[name] = f"{type(error).__name__}: {error}"
            return None
        return structure


def _key(counts: dict[str, int]) -> FormulaKey:
    return tuple(sorted(reduced_counts(counts).items()))


def _formula_key(cif: str | Path) -> FormulaKey | None:
    """Read the reduced formula from a CIF's text without parsing the rest."""
    try:
        text = cif.read_text() if isinstance(cif, Path) else cif
        found = _SUM.search(text)
        if found:
            return _key(parse_formula(found.group(1).strip("'\" ").replace(" ", "")))
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    return None


def cifs_in_csv(path: Path) -> Iterator[tuple[str, str]]:
    """Yield id and CIF of the rows of a CSV with a column ``cif`` and best a ``material_id``.

    Raises
    ------
    UsageError
        As `rows_of_csv`.
    """
    for number, row in enumerate(rows_of_csv(path), start=1):
        yield row.get("material_id") or f"{path.name}:{number}", row["cif"] or ""


def rows_of_csv(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV, plain or compressed with gzip, that has a column ``cif``.

    Raises
    ------
    UsageError
        If the file is missing or unreadable, or lacks the column.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a CIF is longer than csv's default field
    try:
        with _opened(path) as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            if "cif" not in columns:
                raise UsageError(
                    f"{path} has the columns {', '.join(columns) or '(none)'}.",
                    "a column named cif, and best material_id, as MP-20 has them",
                )
            yield from reader
    except FileNotFoundError:
        raise UsageError(
            f"There is no file {path}.", "a CSV file or a folder of CIF files"
        ) from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"{path} cannot be read: {error}.", "CSV text, plain or compressed with gzip"
        ) from None


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")

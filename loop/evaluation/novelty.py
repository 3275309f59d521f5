"""Which of the samples are new: among themselves, and against crystals that are known.

With the known crystals at hand novelty is what the matcher says. Without them a *formula index* of
a few dozen kilobytes still answers one half of the question for certain: it lists which formulas,
with how many formula units in the primitive cell, were known, and a crystal with another one cannot
match. So its answer is a lower bound of novelty; crystals of a known formula may be new polymorphs.
"""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from matterloop.loop.chemistry.known import KnownCrystals
from matterloop.loop.chemistry.matching import (
    MatchTolerances,
    StructureIndex,
    require_crystal,
    shelf_key,
)
from matterloop.loop.elements import element_counts, parse_formula, reduced_counts
from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.dataset import Part

Key = tuple[tuple[str, int], ...]
_MAGIC = "matterloop formula index 1"


@dataclass(frozen=True)
class NoveltyBasis:
    """What novelty was judged by.

    Attributes
    ----------
    kind
        ``structures``: against crystals; ``formulas``: against a formula index, a lower bound.
    source
        Where they come from.
    size
        Crystals, or pairs of formula and formula units.
    """

    kind: Literal["structures", "formulas"]
    source: str
    size: int


class KnownSet(Protocol):
    """Crystals among which a sample may be found."""

    @property
    def basis(self) -> NoveltyBasis:
        """See the class."""
        ...

    def knows_formula(self, counts: Mapping[str, int]) -> bool:
        """Whether a known crystal has this composition."""
        ...

    def holds(self, structure: Structure) -> bool:
        """Whether the crystal may be one of the known ones."""
        ...


class ReferenceStructures:
    """Known crystals, each compared with the matcher where the reduced formula is the same.

    Parameters
    ----------
    address
        A CSV file with a column ``cif`` or a folder of CIF files, which are parsed only where a
        sample asks for their formula; or whatever `matterloop.loop.sources` reads.
    part
        Only this part of the split by composition, see `matterloop.loop.dataset.part_of`.
    """

    def __init__(
        self,
        address: str | Path,
        tolerances: MatchTolerances | None = None,
        part: Part | None = None,
    ) -> None:
        self._tolerances = tolerances or MatchTolerances()
        self._source = f"{Path(address).name}{f', {part} part' if part else ''}"
        self._lazy: KnownCrystals | None = None
        self._waiting: dict[Key, list[Structure]] = defaultdict(list)
        self._indices: dict[Key, StructureIndex] = {}
        if is_parsed_late(address):
            self._lazy = KnownCrystals.from_path(Path(address), self._tolerances)
            if part is not None:
                self._lazy.keep(lambda counts: _part(counts) == part)
            self._size = len(self._lazy)
        else:
            self._read(address, part)
            self._size = sum(len(group) for group in self._waiting.values())

    @property
    def basis(self) -> NoveltyBasis:
        """Crystals, and where they come from."""
        return NoveltyBasis("structures", self._source, self._size)

    def knows_formula(self, counts: Mapping[str, int]) -> bool:
        """Whether a known crystal has this composition."""
        if self._lazy is not None:
            return self._lazy.knows_formula(counts)
        return _formula_key(counts) in self._waiting

    def holds(self, structure: Structure) -> bool:
        """Whether the matcher finds the crystal among the known ones."""
        if self._lazy is not None:
            return self._lazy.find(structure) is not None
        key = _formula_key(element_counts(structure))
        if key not in self._waiting:
            return False
        if key not in self._indices:
            self._indices[key] = StructureIndex(self._tolerances)
            for number, known in enumerate(self._waiting[key]):
                self._indices[key].add(known, number)
        return self._indices[key].find(structure) is not None

    def _read(self, address: str | Path, part: Part | None) -> None:
        from matterloop.loop.sources import read_structures

        for item in read_structures(address):
            counts = reduced_counts(element_counts(item.structure))
            if part is None or _part(counts) == part:
                self._waiting[_formula_key(counts)].append(item.structure)


class FormulaIndex:
    """Formulas that a generator learned from; see the module.

    Parameters
    ----------
    units
        Reduced formula to the numbers of formula units that primitive cells held.
    source
        Name of the data.
    """

    def __init__(self, units: Mapping[str, Iterable[int]], source: str = "") -> None:
        self.units = {formula: frozenset(numbers) for formula, numbers in units.items()}
        self.source = source
        self._keys = {
            _formula_key(parse_formula(formula)): numbers for formula, numbers in self.units.items()
        }

    @property
    def basis(self) -> NoveltyBasis:
        """Pairs of formula and formula units, and where they come from."""
        size = sum(len(numbers) for numbers in self.units.values())
        return NoveltyBasis("formulas", self.source, size)

    def knows_formula(self, counts: Mapping[str, int]) -> bool:
        """Whether a composition is among them, whatever the cell."""
        return _formula_key(counts) in self._keys

    def holds(self, structure: Structure) -> bool:
        """Whether a known crystal had this formula and as many atoms in its primitive cell."""
        require_crystal(structure)
        units = self._keys.get(_formula_key(element_counts(structure)))
        if units is None:
            return False
        reduced = dict(shelf_key(StructureIndex().reduce(structure)))
        return gcd(*reduced.values()) in units


def formula_index(structures: Iterable[Structure], source: str) -> bytes:
    """Write the formula index of crystals: gzip of a line of JSON and ``formula units...`` lines.

    The same crystals give the same bytes, in whatever order they come. About 5 bytes for each
    formula.

    Raises
    ------
    UsageError
        If a crystal is empty, disordered or has no proper cell.
    """
    return formula_index_of((formula_entry(structure) for structure in structures), source)


def formula_entry(structure: Structure) -> tuple[str, int]:
    """Return the formula of a crystal and the formula units in its primitive cell.

    Raises
    ------
    UsageError
        As `formula_index`.
    """
    reduced = dict(shelf_key(StructureIndex().reduce(structure)))
    counts = reduced_counts(reduced)
    formula = "".join(f"{e}{n if n > 1 else ''}" for e, n in sorted(counts.items()))
    return formula, gcd(*reduced.values())


def formula_index_of(entries: Iterable[tuple[str, int]], source: str) -> bytes:
    """Write the formula index of crystals whose `formula_entry` is known."""
    found: dict[str, set[int]] = defaultdict(set)
    for formula, units in entries:
        found[formula].add(units)
    head = json.dumps({"kind": _MAGIC, "source": source, "formulas": len(found)})
    lines = [f"{formula} {' '.join(map(str, sorted(found[formula])))}" for formula in sorted(found)]
    return gzip.compress("\n".join([head, *lines, ""]).encode(), compresslevel=9, mtime=0)


def read_formula_index(data: bytes) -> FormulaIndex:
    """Read what `formula_index` wrote.

    Raises
    ------
    UsageError
        If it is something else.
    """
    try:
        head, *lines = gzip.decompress(data).decode().splitlines()
        card = json.loads(head)
        if card["kind"] != _MAGIC or card["formulas"] != len(lines):
            raise ValueError("kind or number of formulas is wrong")
        split = [line.split() for line in lines]
        units = {formula: [int(n) for n in numbers] for formula, *numbers in split}
        return FormulaIndex(units, str(card["source"]))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"This is no formula index: {type(error).__name__}: {error}.",
            "a file that `matterloop.loop.evaluation.novelty.formula_index` wrote",
        ) from None


def uniqueness(
    structures: Sequence[Structure | None], tolerances: MatchTolerances | None = None
) -> list[bool]:
    """Tell for every crystal whether it matches no earlier one; None is never unique.

    Of several that match the first counts, so the rate is the number of distinct crystals.
    """
    index = StructureIndex(tolerances)
    return [
        structure is not None and _safely_new(index, structure, number)
        for number, structure in enumerate(structures)
    ]


def formula_novelty(structures: Sequence[Structure | None], known: KnownSet) -> list[bool]:
    """Tell for every crystal whether its composition is no known one's; None is never novel."""
    return [
        structure is not None and not known.knows_formula(element_counts(structure))
        for structure in structures
    ]


def novelty(structures: Sequence[Structure | None], known: KnownSet) -> list[bool]:
    """Tell for every crystal whether it is none of the known ones; None is never novel."""
    return [structure is not None and _safely_unknown(known, structure) for structure in structures]


def _safely_new(index: StructureIndex, structure: Structure, label: int) -> bool:
    try:
        return index.find_or_add(structure, label) is None
    except Exception:  # noqa: BLE001  # an absurd cell may break its reduction: counts against
        return False


def _safely_unknown(known: KnownSet, structure: Structure) -> bool:
    try:
        return not known.holds(structure)
    except Exception:  # noqa: BLE001  # as above
        return False


def is_parsed_late(address: str | Path) -> bool:
    """Tell whether `KnownCrystals` can read an address: a CSV file, or a folder of CIF files."""
    path = Path(address)
    if path.is_dir():
        return any(path.glob("*.cif"))
    return path.is_file() and path.name.endswith((".csv", ".csv.gz"))


def reduced_formula(counts: Mapping[str, int]) -> str:
    """Return pymatgen's reduced formula, by which crystals are split into parts."""
    from pymatgen.core import Composition

    with warnings.catch_warnings():
        # pymatgen orders by electronegativity and warns of noble gases, which have none.
        warnings.simplefilter("ignore", UserWarning)
        return str(Composition(dict(counts)).reduced_formula)


def _formula_key(counts: Mapping[str, int]) -> Key:
    return tuple(sorted(reduced_counts(counts).items()))


def _part(counts: Mapping[str, int]) -> Part:
    from matterloop.loop.dataset import part_of

    return part_of(reduced_formula(counts))

"""Crystals with what is known of them: the data that models are trained and judged on.

The split is by composition: all polymorphs of a formula fall into the same part, so that a model is
never tested on a composition that it was trained on. The part follows from a hash of the reduced
formula alone, so that it stays the same when the data grow, on every machine, in every order.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from matterloop.loop.errors import UsageError
from matterloop.loop.identifiers import canonical_json, content_hash

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.chemistry.matching import MatchTolerances

LABEL_UNITS: Mapping[str, str] = {
    "formation_energy": "eV/atom",
    "energy_above_hull": "eV/atom",
    "band_gap": "eV",
    "density": "g/cm^3",
    "temperature": "K",
    "pressure": "GPa",
    "crystal_system": "",
    "space_group": "",
    "method": "",
}
"""What sources know how to name, with the unit; words have none. All are intensive: they do not
depend on how many cells of a crystal are written down."""

WORD_LABELS = ("crystal_system", "space_group", "method")
"""Labels whose value is a word; `space_group` is the number, "1" to "230"."""

Labels = Mapping[str, float | str]
Part = Literal["train", "validation", "test"]

CRYSTAL_SYSTEMS: Mapping[int, str] = {
    2: "triclinic",
    15: "monoclinic",
    74: "orthorhombic",
    142: "tetragonal",
    167: "trigonal",
    194: "hexagonal",
    230: "cubic",
}
"""Last space group of each crystal system, ascending."""


@dataclass(frozen=True)
class LabelledStructure:
    """A crystal and what is known of it.

    Attributes
    ----------
    structure
        Ordered crystal.
    labels
        Label name to value: a finite number in the unit of `LABEL_UNITS`, or a word. What is not
        known is not there.
    source
        Where it comes from: ``mp_le20.csv.gz``, ``materials-project``, ``mp_20/strain``.
    identifier
        Its name there.
    """

    structure: Structure
    labels: Labels = field(default_factory=dict)
    source: str = ""
    identifier: str = ""

    def __post_init__(self) -> None:
        for name, value in self.labels.items():
            wanted = str if name in WORD_LABELS else (int, float)
            if name in LABEL_UNITS and (isinstance(value, bool) or not isinstance(value, wanted)):
                raise UsageError(
                    f"The label {name} of {self.identifier or 'a crystal'} is {value!r}.",
                    "a word" if name in WORD_LABELS else f"a number in {LABEL_UNITS[name]}",
                )
            if not isinstance(value, str) and not math.isfinite(value):
                raise UsageError(
                    f"The label {name} of {self.identifier or 'a crystal'} is {value}.",
                    "a finite number; leave out what is not known",
                )

    @property
    def reduced_formula(self) -> str:
        """As pymatgen writes it; what the split goes by."""
        with warnings.catch_warnings():
            # Elements are ordered by electronegativity; noble gases have none.
            warnings.filterwarnings("ignore", message="No Pauling electronegativity")
            return str(self.structure.composition.reduced_formula)


def crystal_system_of(space_group: int) -> str:
    """Return the crystal system of a space group number.

    Raises
    ------
    UsageError
        If the number is not in 1 to 230.
    """
    if not 1 <= space_group <= 230:
        raise UsageError(f"There is no space group {space_group}.", "a number from 1 to 230")
    return next(name for last, name in CRYSTAL_SYSTEMS.items() if space_group <= last)


def with_geometry_labels(item: LabelledStructure, *, symprec_A: float = 0.1) -> LabelledStructure:
    """Add the labels that follow from the geometry: density, space group, crystal system.

    The density is computed anew; space group and crystal system are found (spglib) only where the
    source gave no space group.

    Parameters
    ----------
    symprec_A
        Distance tolerance of the symmetry search, Angstrom.
    """
    labels: dict[str, float | str] = {**item.labels, "density": float(item.structure.density)}
    if "space_group" not in labels and (found := _space_group(item.structure, symprec_A)):
        labels["space_group"] = str(found)
    if "space_group" in labels:
        labels["crystal_system"] = crystal_system_of(int(labels["space_group"]))
    return LabelledStructure(item.structure, labels, item.source, item.identifier)


@dataclass(frozen=True)
class SplitFractions:
    """Which share of the compositions is held out; the rest is for training.

    Raises
    ------
    UsageError
        If a share is negative or nothing is left for training.
    """

    test: float = 0.05
    validation: float = 0.05

    def __post_init__(self) -> None:
        if not (self.test >= 0 and self.validation >= 0 and self.test + self.validation < 1):
            raise UsageError(
                f"The shares are {self.test} for the test and {self.validation} for validation.",
                "two numbers from 0 on, together below 1",
            )


@dataclass(frozen=True)
class Split:
    """A data set in three parts that share no composition, each in the order of the input."""

    train: tuple[LabelledStructure, ...]
    validation: tuple[LabelledStructure, ...]
    test: tuple[LabelledStructure, ...]


def split_by_composition(
    items: Iterable[LabelledStructure],
    fractions: SplitFractions | None = None,
    seed: int | None = None,
) -> Split:
    """Divide crystals by their reduced formula; see `part_of`."""
    parts: dict[Part, list[LabelledStructure]] = {"train": [], "validation": [], "test": []}
    known: dict[str, Part] = {}
    for item in items:
        formula = item.reduced_formula
        if formula not in known:
            known[formula] = part_of(formula, fractions, seed)
        parts[known[formula]].append(item)
    return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]))


def part_of(
    reduced_formula: str, fractions: SplitFractions | None = None, seed: int | None = None
) -> Part:
    """Return the part that a composition belongs to, and always will.

    Its place u in [0, 1) is the first 32 bits of the SHA-256 of the reduced formula; u below
    ``fractions.test`` is the test, the next ``fractions.validation`` the validation.

    Parameters
    ----------
    seed
        Another number gives another division; None gives the one that shipped models are made by.
    """
    fractions = fractions or SplitFractions()
    text = reduced_formula if seed is None else f"{seed}:{reduced_formula}"
    place = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
    if place < fractions.test:
        return "test"
    return "validation" if place < fractions.test + fractions.validation else "train"


def deduplicate(
    items: Iterable[LabelledStructure], tolerances: MatchTolerances | None = None
) -> Iterator[LabelledStructure]:
    """Yield the first of all crystals that match (pymatgen's ``StructureMatcher``).

    Crystals are compared within one composition only, so the cost grows with the polymorphs.
    """
    from matterloop.loop.chemistry.matching import StructureIndex

    index = StructureIndex(tolerances)
    for item in items:
        if index.find_or_add(item.structure, item.identifier) is None:
            yield item


def dataset_sha256(items: Iterable[LabelledStructure]) -> str:
    """Hash the content of a data set: crystals and labels, in whatever order they come.

    Where a crystal comes from and its name there are no content; a crystal that occurs twice counts
    twice. Crystals are rounded as the ledger does it, labels to 8 decimals.

    Raises
    ------
    LedgerError
        If a crystal is disordered or a coordinate not finite.
    """
    return combined_sha256(item_sha256(item) for item in items)


def item_sha256(item: LabelledStructure) -> str:
    """Hash the content of one crystal and its labels; see `dataset_sha256`."""
    from matterloop.loop.ledger.structures import structure_content

    return content_hash(
        [
            structure_content(item.structure),
            {
                name: value if isinstance(value, str) else round(float(value), 8) + 0.0
                for name, value in item.labels.items()
            },
        ]
    )


def combined_sha256(hashes: Iterable[str]) -> str:
    """Return `dataset_sha256` of the items that have these hashes, in whatever order."""
    return hashlib.sha256(canonical_json(sorted(hashes)).encode()).hexdigest()


@dataclass(frozen=True)
class DatasetSummary:
    """How much there is of what.

    Attributes
    ----------
    n_structures, n_compositions, n_elements
        Crystals, distinct reduced formulas, distinct elements.
    n_atoms
        Smallest and largest number of atoms in a cell; (0, 0) of an empty set.
    labelled
        Label name to the number of crystals that have it, in the order of `LABEL_UNITS`.
    sources
        Source to number of crystals, the largest first.
    elements
        Element to the number of crystals that hold it, the most frequent first.
    """

    n_structures: int
    n_compositions: int
    n_elements: int
    n_atoms: tuple[int, int]
    labelled: Mapping[str, int]
    sources: Mapping[str, int]
    elements: Mapping[str, int]

    def __str__(self) -> str:
        low, high = self.n_atoms
        known = ", ".join(f"{name} {n:,}" for name, n in self.labelled.items()) or "none"
        return (
            f"{self.n_structures:,} structures of {self.n_compositions:,} compositions,"
            f" {self.n_elements} elements, {low}-{high} atoms; labels: {known}"
        )


def summarise(items: Iterable[LabelledStructure]) -> DatasetSummary:
    """Count a data set."""
    total, sizes = 0, []
    formulas: set[str] = set()
    labels: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    for item in items:
        total += 1
        sizes.append(len(item.structure))
        formulas.add(item.reduced_formula)
        labels.update(item.labels.keys())
        sources[item.source] += 1
        elements.update(element.symbol for element in item.structure.composition.elements)
    order = [*LABEL_UNITS, *sorted(labels.keys() - LABEL_UNITS.keys())]
    return DatasetSummary(
        n_structures=total,
        n_compositions=len(formulas),
        n_elements=len(elements),
        n_atoms=(min(sizes, default=0), max(sizes, default=0)),
        labelled={name: labels[name] for name in order if labels[name]},
        sources=_by_frequency(sources),
        elements=_by_frequency(elements),
    )


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _space_group(structure: Structure, symprec_A: float) -> int | None:
    import spglib

    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    with warnings.catch_warnings():
        # spglib announces future error handling at every call
        warnings.simplefilter("ignore", DeprecationWarning)
        dataset = spglib.get_symmetry_dataset(cell, symprec=symprec_A)
    return None if dataset is None else int(dataset.number)

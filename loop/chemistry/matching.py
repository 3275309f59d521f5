"""Are two crystals the same? Uniqueness and novelty with pymatgen's ``StructureMatcher``.

The tolerances are the matcher's own defaults: lengths within 20 % (`ltol`), sites within
0.3 (V/N)^(1/3) (`stol`), angles within 5 degrees, cells scaled to the same volume, primitive cells
compared.

A match costs milliseconds, so a crystal is compared only with those that can match it. The matcher
reduces both crystals to a primitive Niggli cell and then demands the same number of sites of every
element in both. `StructureIndex` does that reduction once per crystal, with the same routines, and
files the crystal under the counts: whatever lies under another key cannot match, and nothing that
would match is left out. Volumes, space groups and fingerprints would drop pairs that the matcher
accepts (it scales volumes, and its site tolerance reaches across symmetry changes), so they are not
used. What remains to be compared grows with the polymorphs of one composition only.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from matterloop.loop.errors import UsageError

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

Key = tuple[tuple[str, int], ...]
"""Element symbols and numbers of sites in the primitive cell, sorted."""

_SMALLEST_CELL_A3 = 1e-3
"""A thousandth of the smallest crystal's; below it the reduction of the cell may not end."""


@dataclass(frozen=True)
class MatchTolerances:
    """How alike two crystals must be to count as one.

    Attributes
    ----------
    ltol
        Fractional tolerance on cell lengths.
    stol
        Tolerance on sites, as a fraction of the mean free length (V / N)^(1/3).
    angle_tol
        Tolerance on cell angles, degrees.
    scale
        Whether volumes are made equal first.
    primitive_cell
        Whether primitive cells are compared.
    """

    ltol: float = 0.2
    stol: float = 0.3
    angle_tol: float = 5.0
    scale: bool = True
    primitive_cell: bool = True

    def matcher(self) -> StructureMatcher:
        """Build pymatgen's matcher with these tolerances."""
        from pymatgen.analysis.structure_matcher import StructureMatcher

        return StructureMatcher(
            ltol=self.ltol,
            stol=self.stol,
            angle_tol=self.angle_tol,
            scale=self.scale,
            primitive_cell=self.primitive_cell,
        )


@dataclass(frozen=True)
class Match:
    """A crystal of the index that matches; `label` is what it was added under."""

    label: Hashable


class StructureIndex:
    """Crystals among which one can look for a given one.

    The matcher is not exactly symmetric, so the crystal of the index is always its first argument.

    Parameters
    ----------
    tolerances
        How alike two crystals must be.
    """

    def __init__(self, tolerances: MatchTolerances | None = None) -> None:
        self.tolerances = tolerances or MatchTolerances()
        self.comparisons = 0
        """How often the matcher itself was called."""
        self._shelves: dict[Key, list[tuple[Hashable, Structure]]] = {}

    def __len__(self) -> int:
        return sum(len(shelf) for shelf in self._shelves.values())

    def add(self, structure: Structure, label: Hashable) -> None:
        """File a crystal under a label, which need not be unique.

        Raises
        ------
        UsageError
            If the crystal is empty, disordered or has no proper cell.
        """
        reduced = self.reduce(structure)
        self._shelves.setdefault(shelf_key(reduced), []).append((label, reduced))

    def find(self, structure: Structure) -> Match | None:
        """Return the first crystal, in the order of `add`, that matches; None if none does.

        Raises
        ------
        UsageError
            As `add`.
        """
        return self._find(self.reduce(structure))

    def find_or_add(self, structure: Structure, label: Hashable) -> Match | None:
        """Look for a crystal and file it if there is none yet (one reduction instead of two)."""
        reduced = self.reduce(structure)
        match = self._find(reduced)
        if match is None:
            self._shelves.setdefault(shelf_key(reduced), []).append((label, reduced))
        return match

    def reduce(self, structure: Structure) -> Structure:
        """Return the cell that the matcher compares: Niggli-reduced, then primitive.

        Oxidation states and site properties are removed: they are annotations, not the crystal.
        """
        from pymatgen.core import Structure as Crystal

        require_crystal(structure)
        bare = Crystal(
            structure.lattice,
            [site.specie.symbol for site in structure],
            structure.frac_coords,
        )
        reduced = bare.get_reduced_structure(reduction_algo="niggli")
        return reduced.get_primitive_structure() if self.tolerances.primitive_cell else reduced

    def _find(self, reduced: Structure) -> Match | None:
        for label, known in self._shelves.get(shelf_key(reduced), ()):
            self.comparisons += 1
            if self._matcher.fit(known, reduced, skip_structure_reduction=True):
                return Match(label)
        return None

    @cached_property
    def _matcher(self) -> StructureMatcher:
        return self.tolerances.matcher()


def require_crystal(structure: Structure) -> None:
    """Raise a UsageError if a structure is empty, disordered or has no proper cell."""
    import numpy as np

    formula = structure.composition.reduced_formula if len(structure) else "without atoms"
    if not len(structure) or not structure.is_ordered:
        raise UsageError(
            f"An empty or disordered crystal ({formula}) cannot be matched.",
            "atoms, and one element on every site",
        )
    volume = float(structure.volume)
    if not (np.isfinite(structure.frac_coords).all() and volume > _SMALLEST_CELL_A3):
        raise UsageError(
            f"The crystal {formula} with a cell of {volume:.3g} A^3 cannot be matched.",
            "finite coordinates and a cell with a volume",
        )


def shelf_key(reduced: Structure) -> Key:
    """Count the sites of every element; two reduced cells that differ in this cannot match."""
    counts: dict[str, int] = {}
    for site in reduced:
        counts[site.specie.symbol] = counts.get(site.specie.symbol, 0) + 1
    return tuple(sorted(counts.items()))

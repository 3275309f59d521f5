"""One phase of a reference hull, and the answer to a query against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Literal, get_args

from matterloop.loop.elements import parse_formula, reduced_counts
from matterloop.loop.errors import UsageError

Kind = Literal["relaxed", "single-point", "anchor"]
"""How an energy came about.

``relaxed``: crystal relaxed with the hull's potential. ``single-point``: energy of a crystal that
another method relaxed. ``anchor``: no crystal at all, but an estimate of the hull's energy at that
composition, E_potential(crystal) - slope * e_above_hull_DFT(crystal), from a crystal that DFT
places above a phase which is missing from the data; the hull's builder fits the slope, the card
states it.
"""


@dataclass(frozen=True)
class ReferenceEntry:
    """A phase that competes on the hull.

    Attributes
    ----------
    formula
        Reduced formula with whole coefficients; ``O2`` is understood as ``O``.
    energy_eV_per_atom
        Total energy per atom in the hull's potential and correction scheme.
    provenance
        Where the crystal comes from: ``mp-1125``, ``element:Li:mp-135``, ``prototype:...:Li-S``.
    kind
        See `Kind`.
    spacegroup
        International number, 1 to 230, or None.
    volume_A3_per_atom
        Or None, where there is no crystal.
    """

    formula: str
    energy_eV_per_atom: float
    provenance: str
    kind: Kind = "relaxed"
    spacegroup: int | None = None
    volume_A3_per_atom: float | None = None

    def __post_init__(self) -> None:
        if not isfinite(self.energy_eV_per_atom):
            raise UsageError(
                f"The reference entry {self.provenance or self.formula!r} has the energy"
                f" {self.energy_eV_per_atom} eV/atom.",
                "a finite number",
            )
        if self.kind not in get_args(Kind):
            raise UsageError(
                f"The reference entry {self.provenance!r} has the kind {self.kind!r}.",
                f"one of {', '.join(get_args(Kind))}",
            )
        if self.spacegroup is not None and not 1 <= self.spacegroup <= 230:
            raise UsageError(
                f"The reference entry {self.provenance!r} has the space group {self.spacegroup}.",
                "a number from 1 to 230, or none",
            )
        try:
            _ = self.counts
        except ValueError as error:
            raise UsageError(f"The reference entry {self.provenance!r}: {error}.") from None

    @cached_property
    def counts(self) -> dict[str, int]:
        """Element symbol to count, divided by the greatest common divisor."""
        return reduced_counts(parse_formula(self.formula))

    @cached_property
    def elements(self) -> frozenset[str]:
        """The symbols in the formula."""
        return frozenset(self.counts)

    @cached_property
    def composition_key(self) -> tuple[tuple[str, int], ...]:
        """The same for every way to write this composition."""
        return tuple(sorted(self.counts.items()))


@dataclass(frozen=True)
class HullDistance:
    """Where a crystal lies relative to the hull of the reference phases (itself not among them).

    Attributes
    ----------
    energy_above_hull_eV_per_atom
        Negative: below the hull of everything known, a new stable phase.
    formation_energy_eV_per_atom
        Relative to the most stable elemental references.
    decomposition
        Competing phases and their fractions by atoms (not by formula units), largest first; the
        fractions sum to one.
    thin
        Whether the reference knows too little around this composition to trust the number.
    thin_reason
        One sentence with figures; empty if not thin.
    """

    energy_above_hull_eV_per_atom: float
    formation_energy_eV_per_atom: float
    decomposition: tuple[tuple[ReferenceEntry, float], ...]
    thin: bool = False
    thin_reason: str = field(default="")

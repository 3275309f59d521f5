"""The reference hull: what a new crystal has to beat.

Energies of different potentials, weights or correction schemes never meet: a hull carries the
identity of its potential, and every query states the identity of the energy that it brings.

When is a hull *thin*? The hull is an upper bound made of the phases that somebody computed; where
few were computed the distance comes out too small. A query is flagged in three cases, the first two
only unless the hull at exactly that composition is a reference phase.

1. *Few phases of that chemical system.* Fewer than n - 1 distinct compositions that hold all n
   elements lie within `NEAR_HULL_EV_PER_ATOM` of the hull. A system of n elements has n - 1 free
   atomic fractions; with fewer known phases in its interior than directions in it, the hull there
   is spanned by its borders, that is, by chemistry without one of the elements.
2. *Nothing similar.* The decomposition's phases all differ from the candidate in more than
   `FAR_COMPOSITION` of its atoms.
3. *Too good.* The candidate lies more than `TOO_GOOD_EV_PER_ATOM` below the hull. Where chemistry
   has been looked at, new phases undercut the old ones by less; a missing phase explains it better.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matterloop.loop.calculation import PotentialIdentity
from matterloop.loop.errors import UsageError
from matterloop.loop.hull.entry import HullDistance, ReferenceEntry
from matterloop.loop.hull.files import csv_text, read_card, read_entries, write_files
from matterloop.loop.identifiers import content_hash

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram

NEAR_HULL_EV_PER_ATOM = 0.07
"""Phases so close to the hull may exist: 90 % of the observed metastable crystals lie within
67 meV/atom of it (Sun et al., Science Advances 2, e1600225 (2016))."""

FAR_COMPOSITION = 0.2
"""Half the sum of the absolute differences of atomic fractions. The simplest ratios A3B, A2B, AB
lie 0.08 and 0.17 apart, so in a wider gap at least one simple compound is missing."""

TOO_GOOD_EV_PER_ATOM = 0.1
"""Twice the error of a universal potential's formation energies (30-60 meV/atom)."""

_SHIPPED = Path(__file__).parent / "data"


class ReferenceHull:
    """Reference phases of one potential, and the convex hull of any chemical system among them.

    Parameters
    ----------
    identity
        Potential, weights and correction scheme in which every entry's energy is given.
    entries
        Any number per composition; the order does not matter. Exact repetitions are dropped.
    card
        Sources, licence and settings, if known.
    """

    def __init__(
        self,
        identity: PotentialIdentity,
        entries: Iterable[ReferenceEntry],
        card: Mapping[str, Any] | None = None,
    ) -> None:
        self.identity = identity
        self.card: dict[str, Any] = dict(card or {})
        self.entries: tuple[ReferenceEntry, ...] = tuple(sorted(set(entries), key=_order))
        self._systems: dict[frozenset[str], _System] = {}

    def __repr__(self) -> str:
        return f"ReferenceHull({self.identity}, {len(self.entries)} entries)"

    @cached_property
    def sha256(self) -> str:
        """Hash of identity and entries (energies to 5 decimals); the hull's id."""
        identity = self.identity
        return content_hash(
            [
                "reference-hull",
                identity.name,
                identity.sha256,
                identity.correction_scheme,
                csv_text(self.entries),
            ]
        )

    @cached_property
    def elements(self) -> frozenset[str]:
        """Elements with an elemental reference, without which no formation energy exists."""
        return frozenset().union(*(e.elements for e in self.entries if len(e.elements) == 1))

    @classmethod
    def load(cls, path: Path) -> ReferenceHull:
        """Read ``NAME.csv.gz`` and the card ``NAME.json`` beside it.

        Raises
        ------
        UsageError
            If one of them is missing, broken, or not what the card describes.
        """
        identity, card = read_card(Path(path))
        return cls(identity, read_entries(Path(path), card["csv_sha256"]), card)

    def save(self, path: Path, card: Mapping[str, Any]) -> None:
        """Write ``NAME.csv.gz`` and its card; `card` states sources, licence and settings."""
        write_files(Path(path), self.identity, self.entries, card)

    @classmethod
    def shipped(cls, identity: PotentialIdentity, folder: Path = _SHIPPED) -> ReferenceHull:
        """Load the hull that comes with Matterloop for this potential.

        Raises
        ------
        UsageError
            If none of the shipped hulls belongs to it; the message names those that exist.
        """
        found = {path: read_card(path)[0] for path in sorted(folder.glob("*.csv.gz"))}
        for path, owner in found.items():
            if owner == identity:
                return cls.load(path)
        raise UsageError(
            f"No reference hull comes with Matterloop for the potential {identity}.",
            "one of " + ("; ".join(str(owner) for owner in found.values()) or "none"),
            "choose such a potential, or build a hull with this one",
        )

    def with_entries(
        self, more: Iterable[ReferenceEntry], *, identity: PotentialIdentity
    ) -> ReferenceHull:
        """Return a hull with additional phases whose energies come from `identity`.

        Raises
        ------
        UsageError
            If `identity` is not this hull's.
        """
        self._check(identity)
        return ReferenceHull(self.identity, (*self.entries, *more), self.card)

    def for_elements(self, symbols: Iterable[str]) -> ReferenceHull:
        """Return the part of the hull that holds nothing but these elements.

        Distances inside these elements are the same as in the whole hull; the id is not.
        """
        return ReferenceHull(self.identity, self._inside(frozenset(symbols)), self.card)

    def distance(
        self, counts: Mapping[str, int], energy_eV_per_atom: float, *, identity: PotentialIdentity
    ) -> HullDistance:
        """Compare a crystal with the hull of the reference phases.

        Parameters
        ----------
        counts
            Element symbol to number of atoms, reduced or not.
        energy_eV_per_atom
            Total energy per atom.
        identity
            Potential that gave this energy (``potential.identity``); must be the hull's.

        Returns
        -------
        HullDistance
            The candidate itself is not part of the hull, so the distance may be negative.

        Raises
        ------
        UsageError
            If the identities differ, an element has no elemental reference, or `counts` is empty.
        """
        self._check(identity)
        amounts = {str(element): int(n) for element, n in counts.items() if n}
        if not amounts or min(amounts.values()) < 0:
            raise UsageError(f"{dict(counts)} is no composition.", "positive whole numbers")
        return self._system(frozenset(amounts)).distance(amounts, energy_eV_per_atom)

    @cached_property
    def _by_elements(self) -> dict[frozenset[str], list[ReferenceEntry]]:
        grouped: dict[frozenset[str], list[ReferenceEntry]] = defaultdict(list)
        for entry in self.entries:
            grouped[entry.elements].append(entry)
        return dict(grouped)

    def _inside(self, elements: frozenset[str]) -> list[ReferenceEntry]:
        """Entries that hold nothing but these elements, in a fixed order."""
        return [
            entry
            for system in self._by_elements  # in the order of the sorted entries
            if system <= elements
            for entry in self._by_elements[system]
        ]

    def _check(self, identity: PotentialIdentity) -> None:
        if identity != self.identity:
            raise UsageError(
                f"An energy of {identity} was brought to a hull of {self.identity}.",
                "energies of one potential, one set of weights and one correction scheme",
                "use the hull that belongs to this potential",
            )

    def _system(self, elements: frozenset[str]) -> _System:
        if elements not in self._systems:
            absent = elements - self.elements
            if absent:
                raise UsageError(
                    f"The reference hull has no elemental reference for"
                    f" {', '.join(sorted(absent))}.",
                    "an entry for every pure element",
                    "add it with `with_entries`, or leave the element out of the search space",
                )
            self._systems[elements] = _System.of(elements, self._inside(elements))
        return self._systems[elements]


def _order(entry: ReferenceEntry) -> tuple[Any, ...]:
    return (
        entry.formula,
        entry.energy_eV_per_atom,
        entry.provenance,
        entry.kind,
        entry.spacegroup or 0,
        entry.volume_A3_per_atom or 0.0,
    )


@dataclass(frozen=True)
class _System:
    """The hull of one chemical system; `interior` counts near-hull compositions of all elements."""

    elements: frozenset[str]
    diagram: PhaseDiagram
    interior: int

    @classmethod
    def of(cls, elements: frozenset[str], entries: Iterable[ReferenceEntry]) -> _System:
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
        from pymatgen.core import Composition

        lowest: dict[tuple[tuple[str, int], ...], ReferenceEntry] = {}
        for entry in entries:
            rival = lowest.setdefault(entry.composition_key, entry)
            if entry.energy_eV_per_atom < rival.energy_eV_per_atom:
                lowest[entry.composition_key] = entry
        points = [
            PDEntry(
                Composition(entry.counts),
                entry.energy_eV_per_atom * sum(entry.counts.values()),
                attribute=entry,
            )
            for entry in lowest.values()
        ]
        diagram = PhaseDiagram(points)
        interior = sum(
            diagram.get_e_above_hull(point) <= NEAR_HULL_EV_PER_ATOM
            for point in points
            if point.attribute.elements == elements
        )
        return cls(elements, diagram, interior)

    def distance(self, amounts: Mapping[str, int], energy_eV_per_atom: float) -> HullDistance:
        from pymatgen.core import Composition

        n_atoms = sum(amounts.values())
        fractions = {element: n / n_atoms for element, n in sorted(amounts.items())}
        parts: dict[ReferenceEntry, float] = defaultdict(float)
        for point, share in self.diagram.get_decomposition(Composition(fractions)).items():
            parts[point.attribute] += float(share)
        decomposition = tuple(sorted(parts.items(), key=lambda part: (-part[1], _order(part[0]))))
        hull = sum(entry.energy_eV_per_atom * share for entry, share in decomposition)
        elemental = sum(
            self.diagram.el_refs[element].energy_per_atom * fractions[element.symbol]
            for element in self.diagram.el_refs
        )
        above = float(energy_eV_per_atom - hull)
        reason = self._thin_reason(fractions, decomposition, above)
        return HullDistance(
            energy_above_hull_eV_per_atom=above,
            formation_energy_eV_per_atom=float(energy_eV_per_atom - elemental),
            decomposition=decomposition,
            thin=bool(reason),
            thin_reason=reason,
        )

    def _thin_reason(
        self,
        fractions: Mapping[str, float],
        decomposition: tuple[tuple[ReferenceEntry, float], ...],
        above: float,
    ) -> str:
        if above < -TOO_GOOD_EV_PER_ATOM:
            return (
                f"{-above:.2f} eV/atom below the hull, more than {TOO_GOOD_EV_PER_ATOM:g}: probably"
                " a reference phase is missing"
            )
        if len(decomposition) == 1:
            return ""
        system = "-".join(sorted(self.elements))
        needed = len(self.elements) - 1
        if self.interior < needed:
            return (
                f"only {self.interior} reference composition(s) with all of {system} within"
                f" {NEAR_HULL_EV_PER_ATOM:g} eV/atom of the hull, fewer than {needed}"
            )
        entry, gap = min(
            ((entry, _composition_gap(fractions, entry)) for entry, _ in decomposition),
            key=lambda pair: pair[1],
        )
        if gap > FAR_COMPOSITION:
            return (
                f"the nearest competing phase, {entry.formula}, differs in {gap:.0%} of the atoms,"
                f" more than {FAR_COMPOSITION:.0%}"
            )
        return ""


def _composition_gap(fractions: Mapping[str, float], entry: ReferenceEntry) -> float:
    """Half the sum of absolute differences of atomic fractions, 0 to 1."""
    total = sum(entry.counts.values())
    return 0.5 * sum(
        abs(fractions.get(element, 0.0) - entry.counts.get(element, 0) / total)
        for element in sorted({*fractions, *entry.counts})  # a set's order changes the last bit
    )

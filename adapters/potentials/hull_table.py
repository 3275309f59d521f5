"""From computed crystals to the smallest sensible table of a reference hull.

*Anchors* stand for phases that the sources lack. A source states how far a crystal lies above the
DFT hull. Where the source's own on-hull crystals do not explain that hull, some phase is missing,
and what the potential would give for it is estimated as

    E(crystal) - slope * E_above_hull,DFT(crystal).

The slope is below one because learned potentials are soft: they see polymorphs closer together
than DFT does (Deng et al., npj Computational Materials 11, 9 (2025)). It is fitted to the formulas
of the build with both a stable and a metastable crystal. With a slope of one the anchors would lie
below what the potential gives for the phase when it is found, and make every find look unstable.
Where the crystals at hand do explain the hull, an anchor would add noise only, and none is made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any

from pymatgen.core import Composition

from matterloop.adapters.potentials.hull_state import BuildState, Record
from matterloop.loop.calculation import PotentialIdentity
from matterloop.loop.chemistry.validity import PhysicalLimits, check_volume
from matterloop.loop.elements import parse_formula
from matterloop.loop.hull import ReferenceEntry, ReferenceHull

ON_HULL_EV_PER_ATOM = 1e-4
MAX_ANCHOR_EV_PER_ATOM = 0.1
"""Crystals higher above the DFT hull make no anchor: the guess would carry too far."""
TYPICAL_SLOPE = 0.46
"""Of CHGNet 0.3.0: 220 pairs of stable and metastable single points; with it the gap between them
comes out right to 21 meV/atom (root mean square), with a slope of one 17 meV/atom too low."""
MIN_PAIRS = 50
"""Fewer pairs in a build do not fix a slope; `TYPICAL_SLOPE` is used."""
EXPLAINED_EV_PER_ATOM = 0.005
"""The DFT hull counts as explained by the crystals at hand if they reproduce it this closely."""
UNREACHABLE_EV_PER_ATOM = 0.3
"""Entries higher above the hull are dropped where their formula has another one."""
DFT = PotentialIdentity("dft-source", "0" * 64, "source")


def hull_entries(state: BuildState) -> list[ReferenceEntry]:
    """Return the entries worth keeping: the lowest of each formula and kind, and the anchors."""
    energies = best_records(state)
    crystals = lowest_per_formula(energies)
    hull = ReferenceHull(state.identity, crystals)
    anchors = [
        anchor
        for anchor in make_anchors(energies, hull.elements, anchor_slope(energies)[0])
        if _above(hull, anchor, state.identity) < 0
    ]
    several: dict[str, int] = defaultdict(int)
    for entry in [*crystals, *anchors]:
        several[entry.formula] += 1
    return [
        *(
            entry
            for entry in crystals
            if several[entry.formula] == 1
            or not entry.elements <= hull.elements
            or _above(hull, entry, state.identity) <= UNREACHABLE_EV_PER_ATOM
        ),
        *anchors,
    ]


def best_records(state: BuildState) -> list[Record]:
    """Return one record per crystal: relaxed if that converged, the single point if not.

    A decorated prototype counts only when relaxed, for its single point is at a guessed volume.
    Molecules in a vacuum (some sources hold a few) are no crystals and are left out: a gas phase
    on the hull makes every solid beside it look unstable.
    """
    relaxed = {record.provenance: record for record in state.of("relax") if record.converged}
    chosen = list(relaxed.values())
    chosen += [
        record
        for record in state.of("single")
        if record.provenance not in relaxed and not record.provenance.startswith("prototype:")
    ]
    return sorted(filter(_is_condensed, chosen), key=lambda record: record.provenance)


def _is_condensed(record: Record) -> bool:
    if record.volume_A3_per_atom is None:
        return True
    composition = Composition(parse_formula(record.formula))
    return check_volume(composition, record.volume_A3_per_atom, PhysicalLimits()).passed


def lowest_per_formula(records: Iterable[Record]) -> list[ReferenceEntry]:
    """Keep the lowest of each formula and kind, single points only below the relaxed one."""
    lowest: dict[tuple[str, str], ReferenceEntry] = {}
    for record in records:
        entry = _entry(record)
        key = entry.formula, entry.kind
        if key not in lowest or entry.energy_eV_per_atom < lowest[key].energy_eV_per_atom:
            lowest[key] = entry
    return [
        entry
        for (formula, kind), entry in sorted(lowest.items())
        if kind == "relaxed"
        or (relaxed := lowest.get((formula, "relaxed"))) is None
        or entry.energy_eV_per_atom < relaxed.energy_eV_per_atom
    ]


def anchor_slope(records: Iterable[Record]) -> tuple[float, int]:
    """Fit the potential's energy of metastable over stable crystals to the DFT one.

    Returns
    -------
    slope
        Least squares through the origin, between 0 and 1.
    pairs
        Number of formulas with both; below `MIN_PAIRS` the slope is `TYPICAL_SLOPE`.
    """
    by_formula: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.dft_e_above_hull_eV_per_atom is not None:
            by_formula[record.formula].append(record)
    pairs = []
    for group in by_formula.values():
        ranked = sorted(group, key=lambda record: (_dft_above(record), record.provenance))
        stable, *others = ranked
        metastable = [r for r in others if _dft_above(r) > ON_HULL_EV_PER_ATOM]
        if _dft_above(stable) > ON_HULL_EV_PER_ATOM or not metastable:
            continue
        first = metastable[0]
        if _dft_above(first) <= MAX_ANCHOR_EV_PER_ATOM and first.stage == stable.stage:
            pairs.append((_dft_above(first), _energy(first) - _energy(stable)))
    if len(pairs) < MIN_PAIRS:
        return TYPICAL_SLOPE, len(pairs)
    slope = sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)
    return min(1.0, max(0.0, slope)), len(pairs)


def make_anchors(
    records: Sequence[Record],
    elements: frozenset[str] | None = None,
    slope: float = TYPICAL_SLOPE,
) -> list[ReferenceEntry]:
    """Return one anchor per formula whose DFT hull the crystals at hand do not explain.

    Of several crystals of a formula the one that DFT places lowest is taken. Where a relaxed
    prototype lies at or below it, the missing phase, or the potential's own idea of it, is found,
    and no anchor is needed. `elements` are those
    for which a hull exists; formulas with others are left out.
    """
    known = [
        record
        for record in records
        if record.dft_e_above_hull_eV_per_atom is not None
        and record.dft_formation_energy_eV_per_atom is not None
    ]
    dft = _dft_hull(known)
    lowest: dict[str, Record] = {}
    for record in known:
        other = lowest.get(record.formula)
        if other is None or _dft_above(record) < _dft_above(other):
            lowest[record.formula] = record
    found: dict[str, float] = {}
    for record in records:
        if record.provenance.startswith("prototype:"):
            energy = _energy(record)
            found[record.formula] = min(energy, found.get(record.formula, energy))
    anchors = []
    for formula, record in sorted(lowest.items()):
        above = _dft_above(record)
        if found.get(formula, float("inf")) <= _energy(record):
            continue
        symbols = frozenset(parse_formula(formula))
        if not ON_HULL_EV_PER_ATOM < above <= MAX_ANCHOR_EV_PER_ATOM:
            continue
        if elements is not None and not symbols <= elements:
            continue
        formation = record.dft_formation_energy_eV_per_atom or 0.0
        at_hand = dft.distance(parse_formula(formula), formation, identity=DFT)
        if above - at_hand.energy_above_hull_eV_per_atom <= EXPLAINED_EV_PER_ATOM:
            continue
        anchors.append(
            ReferenceEntry(
                formula=formula,
                energy_eV_per_atom=_energy(record) - slope * above,
                provenance=record.provenance,
                kind="anchor",
            )
        )
    return anchors


def summary(state: BuildState, entries: Sequence[ReferenceEntry]) -> dict[str, Any]:
    """Count and average for the card."""
    relaxed = {record.provenance: record for record in state.of("relax") if record.converged}
    gains = [
        single.energy_eV_per_atom - after.energy_eV_per_atom
        for single in state.of("single")
        if (after := relaxed.get(single.provenance)) is not None
        and not single.provenance.startswith("prototype:")
        and single.energy_eV_per_atom is not None
        and after.energy_eV_per_atom is not None
    ]
    kinds: dict[str, int] = defaultdict(int)
    for entry in entries:
        kinds[entry.kind] += 1
    tried = [record for (stage, _), record in state.records.items() if stage == "relax"]
    slope, pairs = anchor_slope(best_records(state))
    return {
        "entries_per_kind": dict(kinds),
        "anchor_slope": {"slope": round(slope, 4), "pairs": pairs},
        "single_points": sum(stage == "single" for stage, _ in state.records),
        "relaxations": len(tried),
        "relaxations_failed": sum(record.energy_eV_per_atom is None for record in tried),
        "relaxations_not_converged": sum(not record.converged for record in tried),
        "relaxation_cpu_hours": round(sum(record.cpu_s for record in tried) / 3600, 3),
        "energy_gained_by_relaxing_eV_per_atom": {
            "mean": round(mean(gains), 5) if gains else None,
            "median": round(median(gains), 5) if gains else None,
            "crystals": len(gains),
        },
    }


def _energy(record: Record) -> float:
    assert record.energy_eV_per_atom is not None, "a failed record"
    return record.energy_eV_per_atom


def _entry(record: Record) -> ReferenceEntry:
    return ReferenceEntry(
        formula=record.formula,
        energy_eV_per_atom=_energy(record),
        provenance=record.provenance,
        kind="relaxed" if record.stage == "relax" else "single-point",
        spacegroup=record.spacegroup,
        volume_A3_per_atom=record.volume_A3_per_atom,
    )


def _above(hull: ReferenceHull, entry: ReferenceEntry, identity: PotentialIdentity) -> float:
    """Distance of an entry from a hull in eV/atom; 0 where the hull has no elements for it."""
    if not entry.elements <= hull.elements:
        return 0.0
    distance = hull.distance(entry.counts, entry.energy_eV_per_atom, identity=identity)
    return distance.energy_above_hull_eV_per_atom


def _dft_above(record: Record) -> float:
    return record.dft_e_above_hull_eV_per_atom or 0.0


def _dft_hull(records: Iterable[Record]) -> ReferenceHull:
    """Hull of the source's own on-hull crystals, in formation energies (elements at zero)."""
    stable = [record for record in records if _dft_above(record) <= ON_HULL_EV_PER_ATOM]
    symbols = {symbol for record in records for symbol in parse_formula(record.formula)}
    points = [ReferenceEntry(symbol, 0.0, f"element:{symbol}") for symbol in sorted(symbols)]
    points += [
        ReferenceEntry(
            record.formula, record.dft_formation_energy_eV_per_atom or 0.0, record.provenance
        )
        for record in stable
    ]
    return ReferenceHull(DFT, points)

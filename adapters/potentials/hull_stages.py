"""The stages of a hull build: a single point of every crystal, then relaxing what matters."""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from matterloop.adapters.potentials.hull_sources import SourceCrystal, counts_of, formula_of
from matterloop.adapters.potentials.hull_state import BuildState, Record
from matterloop.loop.calculation import CalculationFailure, Relaxation, RelaxOptions, SinglePoint
from matterloop.loop.elements import parse_formula

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.adapters.potentials.chgnet import ChgnetPotential

CHUNK = 200
"""Crystals in memory at once."""
BEST_POLYMORPHS = 3
"""Polymorphs of an element that are relaxed, best single points first."""
MAX_ATOMS_OF_ELEMENTS = 40
"""Larger cells of elements (fullerenes, phosphorus tubes) are not relaxed: minutes each, and none
is the ground state. Alpha sulphur has 32 atoms, alpha manganese 29."""
BEST_PROTOTYPES = 5
"""Decorations of a composition that are relaxed, best single points first."""
BEST_SALTS = 3
"""Structure types of a binary salt that are relaxed."""
PROTOTYPE_WINDOW_EV_PER_ATOM = 0.3
"""Decorations higher above the best single point of their composition are not relaxed. At guessed
volumes single points are worth little more than this: in Li-P-S-Cl and Ni-Al-Ti-Cr relaxing
lowered them by 0.1 to 2 eV/atom."""
SYMMETRY_TOLERANCE_A = 0.1

Advance = Callable[[int], None]
_Ranked = dict[str, list[tuple[float, SourceCrystal]]]


def single_points(
    state: BuildState,
    potential: ChgnetPotential,
    crystals: Sequence[SourceCrystal],
    advance: Advance,
) -> None:
    """Compute the single points that the state lacks."""
    missing = [crystal for crystal in crystals if not state.has("single", crystal.provenance)]
    advance(len(crystals) - len(missing))
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        loaded = [(crystal, _load(crystal)) for crystal in chunk]
        for crystal, structure in loaded:
            if isinstance(structure, str):
                state.add(_failed("single", crystal, structure))
                advance(1)
        sound = [(crystal, item) for crystal, item in loaded if not isinstance(item, str)]
        for index, result in potential.iter_single_points([item for _, item in sound]):
            crystal, structure = sound[index]
            state.add(_record("single", crystal, structure, result))
            advance(1)


def relaxations(
    state: BuildState,
    potential: ChgnetPotential,
    crystals: Sequence[SourceCrystal],
    options: RelaxOptions,
    advance: Advance,
    deadline: float = float("inf"),
) -> bool:
    """Relax the crystals, in this order, that the state lacks; False if time ran out first."""
    missing = [crystal for crystal in crystals if not state.has("relax", crystal.provenance)]
    advance(len(crystals) - len(missing))
    for start in range(0, len(missing), CHUNK):
        if time.monotonic() > deadline:
            return False
        chunk = missing[start : start + CHUNK]
        loaded = [(crystal, _load(crystal)) for crystal in chunk]
        sound = [(crystal, item) for crystal, item in loaded if not isinstance(item, str)]
        for index, result in potential.relax([item for _, item in sound], options):
            crystal, structure = sound[index]
            state.add(_record("relax", crystal, structure, result))
            advance(1)
    return True


def full_treatment(
    state: BuildState, crystals: Iterable[SourceCrystal], systems: Sequence[str]
) -> list[SourceCrystal]:
    """Choose what is relaxed whatever its energy, the most important first.

    The best polymorphs of every element; then, system by system, its crystals and of its decorated
    prototypes the best few per composition: first the best of each, then the second best.
    """
    wanted = [frozenset(system.split("-")) for system in systems]
    elements: _Ranked = defaultdict(list)
    prototypes: list[_Ranked] = [defaultdict(list) for _ in wanted]
    others: list[list[SourceCrystal]] = [[] for _ in wanted]
    for crystal in crystals:
        record = state.records.get(("single", crystal.provenance))
        if record is None or record.energy_eV_per_atom is None:
            continue
        symbols = frozenset(parse_formula(record.formula))
        ranked = record.energy_eV_per_atom, crystal
        place = next((i for i, system in enumerate(wanted) if symbols <= system), None)
        if len(symbols) == 1 and crystal.provenance.startswith(("element:", "prototype:")):
            if len(crystal.load()) <= MAX_ATOMS_OF_ELEMENTS:
                elements[record.formula].append(ranked)
        elif place is not None and crystal.provenance.startswith("prototype:"):
            prototypes[place][record.formula].append(ranked)
        elif place is not None:
            others[place].append(crystal)
    chosen = list(_best(elements, BEST_POLYMORPHS))
    for rows, decorations in zip(others, prototypes, strict=True):
        chosen += sorted(rows, key=lambda crystal: crystal.provenance)
        chosen += _best(decorations, BEST_PROTOTYPES, PROTOTYPE_WINDOW_EV_PER_ATOM)
    return chosen


def best_salts(state: BuildState, salts: Iterable[SourceCrystal]) -> list[SourceCrystal]:
    """Choose the decorations of each binary salt that are relaxed, the best single points."""
    ranked: _Ranked = defaultdict(list)
    for crystal in salts:
        record = state.records.get(("single", crystal.provenance))
        if record is not None and record.energy_eV_per_atom is not None:
            ranked[record.formula].append((record.energy_eV_per_atom, crystal))
    return list(_best(ranked, BEST_SALTS))


def near_hull(
    state: BuildState,
    crystals: Iterable[SourceCrystal],
    near_eV_per_atom: float,
    preferred: Sequence[str],
) -> list[SourceCrystal]:
    """Choose the crystals near the hull of what is known, and the parents of anchors.

    Order: those inside a system of `preferred`, in its order; then by distance to the hull.
    Prototypes are not among them: full treatment chose those that matter.
    """
    from matterloop.adapters.potentials.hull_table import (
        best_records,
        lowest_per_formula,
        make_anchors,
    )
    from matterloop.loop.hull import ReferenceHull

    records = best_records(state)
    hull = ReferenceHull(state.identity, lowest_per_formula(records))
    parents = {anchor.provenance for anchor in make_anchors(records, hull.elements)}
    by_provenance = {crystal.provenance: crystal for crystal in crystals}
    wanted = [frozenset(system.split("-")) for system in preferred]
    ranked: list[tuple[int, float, str]] = []
    for record in records:
        counts = parse_formula(record.formula)
        symbols = frozenset(counts)
        if record.provenance not in by_provenance or not symbols <= hull.elements:
            continue
        if record.provenance.startswith(("prototype:", "element:")):
            continue
        assert record.energy_eV_per_atom is not None
        answer = hull.distance(counts, record.energy_eV_per_atom, identity=state.identity)
        above = answer.energy_above_hull_eV_per_atom
        if above <= near_eV_per_atom or record.provenance in parents:
            rank = next((i for i, system in enumerate(wanted) if symbols <= system), len(wanted))
            ranked.append((rank, above, record.provenance))
    return [by_provenance[provenance] for _, _, provenance in sorted(ranked)]


def _best(groups: _Ranked, n: int, window: float = float("inf")) -> Iterator[SourceCrystal]:
    """Yield the lowest of every group, then the second lowest of every group, and so on.

    Those more than `window` (eV/atom) above the lowest of their group are left out.
    """
    ordered = []
    for _, group in sorted(groups.items()):
        ranked = sorted(group, key=lambda pair: (pair[0], pair[1].provenance))
        ordered.append([crystal for energy, crystal in ranked if energy <= ranked[0][0] + window])
    for rank in range(n):
        yield from (group[rank] for group in ordered if rank < len(group))


def _load(crystal: SourceCrystal) -> Structure | str:
    """Return the crystal, or why it cannot be read."""
    try:
        return crystal.load()
    except (ValueError, TypeError, KeyError, ArithmeticError, AssertionError) as error:
        return f"The crystal cannot be read: {type(error).__name__}: {error}"


def _failed(stage: Any, crystal: SourceCrystal, reason: str) -> Record:
    formula = formula_of(crystal.counts) if crystal.counts else "?"
    return Record(stage, crystal.provenance, formula, failure=reason)


def _record(
    stage: Any,
    crystal: SourceCrystal,
    structure: Structure,
    result: SinglePoint | Relaxation | CalculationFailure,
) -> Record:
    formula = formula_of(counts_of(structure))
    if isinstance(result, CalculationFailure):
        return Record(stage, crystal.provenance, formula, failure=result.reason)
    relaxed = result if isinstance(result, Relaxation) else None
    final = relaxed.structure if relaxed else structure
    return Record(
        stage,
        crystal.provenance,
        formula,
        energy_eV_per_atom=result.energy_eV_per_atom,
        volume_A3_per_atom=round(float(final.volume) / len(final), 4),
        spacegroup=_spacegroup(final),
        dft_e_above_hull_eV_per_atom=crystal.dft_e_above_hull_eV_per_atom,
        dft_formation_energy_eV_per_atom=crystal.dft_formation_energy_eV_per_atom,
        converged=relaxed.converged if relaxed else True,
        cpu_s=round(relaxed.cpu_s, 3) if relaxed else 0.0,
    )


def _spacegroup(structure: Structure) -> int | None:
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        with warnings.catch_warnings():  # spglib deprecates what pymatgen calls
            warnings.simplefilter("ignore", DeprecationWarning)
            return int(SpacegroupAnalyzer(structure, SYMMETRY_TOLERANCE_A).get_space_group_number())
    except (SymmetryUndeterminedError, TypeError, ValueError):
        return None

"""Energies of the samples as they are and after relaxation, kept on disk as they come.

Keys hold the crystal's content hash, the potential's identity and the options, so that a file of
results serves every evaluation in which the same crystal occurs, and none with another potential.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from matterloop.loop.calculation import (
    CalculationFailure,
    PotentialIdentity,
    Relaxation,
    RelaxOptions,
    SinglePoint,
)
from matterloop.loop.elements import element_counts
from matterloop.loop.errors import LedgerError, UsageError
from matterloop.loop.evaluation.records import Records, record_key
from matterloop.loop.evaluation.samples import structure_key
from matterloop.loop.ledger.structures import structure_content

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from matterloop.loop.hull import ReferenceHull
    from matterloop.loop.protocols import Potential

Watch = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

_AT_ONCE = 64
"""Single points per call: the protocol gives them back only together."""


@dataclass(frozen=True)
class Energy:
    """Energy of one sample, raw or relaxed.

    Attributes
    ----------
    energy_eV_per_atom
        None if the potential refused the crystal.
    above_hull_eV_per_atom
        None also where the hull knows no reference of an element.
    thin
        Whether the hull is thin around this composition.
    structure
        The crystal that the energy belongs to; None if there is no energy.
    converged, steps, displacement_A, volume_change, cpu_s
        Of the relaxation, see `matterloop.loop.calculation.Relaxation`; None for raw crystals.
    reason
        Why there is no energy above hull; empty if there is one.
    """

    energy_eV_per_atom: float | None = None
    above_hull_eV_per_atom: float | None = None
    thin: bool = False
    structure: Structure | None = None
    converged: bool | None = None
    steps: int | None = None
    displacement_A: float | None = None
    volume_change: float | None = None
    cpu_s: float | None = None
    reason: str = ""


NOT_COMPUTED = Energy(reason="no valid crystal, so no energy was computed")


def raw_energies(
    structures: Sequence[Structure | None],
    potential: Potential,
    hull: ReferenceHull,
    records: Records,
    watch: Watch | None = None,
) -> list[Energy]:
    """Return the energy of every crystal as it is; None stands for a sample that gets none."""
    kind = ["single-point", asdict(potential.identity)]
    keys, waiting = _waiting(structures, kind, records)
    done, total = len(set(filter(None, keys))) - len(waiting), len(set(filter(None, keys)))
    items = list(waiting.items())
    for start in range(0, len(items), _AT_ONCE):
        chunk = items[start : start + _AT_ONCE]
        points = potential.single_points([structure for _, structure in chunk])
        for (key, _), point in zip(chunk, points, strict=True):
            records.put(key, _point_row(point))
            done += 1
            if watch:
                watch("energies", done, total)
    return [
        _energy(records.get(key), structure, hull, potential.identity) if key else NOT_COMPUTED
        for key, structure in zip(keys, structures, strict=True)
    ]


def relaxed_energies(
    structures: Sequence[Structure | None],
    potential: Potential,
    hull: ReferenceHull,
    records: Records,
    options: RelaxOptions | None = None,
    watch: Watch | None = None,
) -> list[Energy]:
    """Relax every crystal and return its energy; None stands for a sample that gets none.

    A relaxation that was not converged within its steps counts with the energy it reached, which
    is an upper bound.
    """
    options = options or RelaxOptions()
    kind = ["relaxation", asdict(potential.identity), asdict(options)]
    keys, waiting = _waiting(structures, kind, records)
    total = len(set(filter(None, keys)))
    done = total - len(waiting)
    names, crystals = list(waiting), list(waiting.values())
    for index, result in potential.relax(crystals, options):
        records.put(names[index], _relaxation_row(result))
        done += 1
        if watch:
            watch("relaxations", done, total)
    return [
        _energy(records.get(key), None, hull, potential.identity) if key else NOT_COMPUTED
        for key in keys
    ]


def _waiting(
    structures: Sequence[Structure | None], kind: list[Any], records: Records
) -> tuple[list[str | None], dict[str, Structure]]:
    """Key of every crystal, and those crystals, once each, of which there is no result yet."""
    keys: list[str | None] = []
    waiting: dict[str, Structure] = {}
    for structure in structures:
        try:
            key = record_key(kind, structure_key(structure)) if structure is not None else None
        except LedgerError:
            key = None
        keys.append(key)
        if key is not None and structure is not None and key not in records:
            waiting[key] = structure
    return keys, waiting


def _point_row(point: SinglePoint | CalculationFailure) -> dict[str, Any]:
    if isinstance(point, CalculationFailure):
        return {"failure": point.reason}
    return {"energy_eV_per_atom": float(point.energy_eV_per_atom)}


def _relaxation_row(result: Relaxation | CalculationFailure) -> dict[str, Any]:
    if isinstance(result, CalculationFailure):
        return {"failure": result.reason}
    if not isfinite(result.energy_eV_per_atom):
        return {"failure": f"the energy is {result.energy_eV_per_atom}"}
    return {
        "energy_eV_per_atom": float(result.energy_eV_per_atom),
        "structure": structure_content(result.structure),
        "converged": bool(result.converged),
        "steps": int(result.steps),
        "displacement_A": float(result.rms_displacement_A),
        "volume_change": float(result.volume_change),
        "cpu_s": float(result.cpu_s),
    }


def _energy(
    row: dict[str, Any] | None,
    structure: Structure | None,
    hull: ReferenceHull,
    identity: PotentialIdentity,
) -> Energy:
    from pymatgen.core import Lattice
    from pymatgen.core import Structure as Crystal

    if row is None:
        return NOT_COMPUTED
    if "failure" in row:
        return Energy(reason=str(row["failure"]))
    if "structure" in row:
        content = row["structure"]
        structure = Crystal(Lattice(content["lattice"]), content["species"], content["coords"])
    assert structure is not None
    energy = Energy(
        float(row["energy_eV_per_atom"]),
        structure=structure,
        converged=row.get("converged"),
        steps=row.get("steps"),
        displacement_A=row.get("displacement_A"),
        volume_change=row.get("volume_change"),
        cpu_s=row.get("cpu_s"),
    )
    assert energy.energy_eV_per_atom is not None
    try:
        place = hull.distance(
            element_counts(structure), energy.energy_eV_per_atom, identity=identity
        )
    except UsageError as error:
        return replace(energy, reason=error.came)
    return replace(
        energy, above_hull_eV_per_atom=place.energy_above_hull_eV_per_atom, thin=place.thin
    )

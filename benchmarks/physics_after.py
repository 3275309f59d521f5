"""What follows the network in `generator_physics.py`: energies, choice, symmetry, relaxation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physics_measurements import (
    Task,
    average,
    drawn,
    matching,
    middle,
    share,
    structure_of,
    summary,
)
from pymatgen.core import Structure

from matterloop.agents.generator.diffusion.drawing import DrawingSettings
from matterloop.agents.generator.diffusion.weights import Weights
from matterloop.loop.dataset import LabelledStructure
from matterloop.loop.evaluation.energies import Energy, raw_energies, relaxed_energies
from matterloop.loop.evaluation.prediction import rms_distance
from matterloop.loop.evaluation.records import Records, record_key
from matterloop.loop.hull import ReferenceHull
from matterloop.loop.ledger.structures import structure_content
from matterloop.loop.plugins import build
from matterloop.loop.postprocessing import SHORT_RELAXATION, SYMPREC_A, symmetrised

TIGHT_SYMPREC_A = 0.01


class Energies:
    """CHGNet and the hull; started when first asked."""

    def __init__(self, work: Path, workers: int, limit: int) -> None:
        self._records, self._workers, self._limit = Records(work / "energies.jsonl"), workers, limit
        self._potential: Any = None

    def above_hull(self, rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """Return eV/atom of the first crystals, unrelaxed; None where refused."""
        few = rows[: self._limit]
        return [e.above_hull_eV_per_atom for e in self._raw(_valid(few))] if few else []

    def raw_and_relaxed(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Energy], list[Energy]]:
        """Return energies before and after a short relaxation."""
        raw = self._raw(_valid(rows))
        options = SHORT_RELAXATION
        potential, hull = self._tools()
        return raw, relaxed_energies(_valid(rows), potential, hull, self._records, options)

    def close(self) -> None:
        """Stop the workers."""
        if self._potential is not None:
            self._potential.close()

    def _raw(self, structures: Sequence[Structure | None]) -> list[Energy]:
        return raw_energies(structures, *self._tools(), self._records)

    def _tools(self) -> tuple[Any, ReferenceHull]:
        if self._potential is None:
            self._potential = build("potentials", "chgnet", {"workers": self._workers}, None)
        return self._potential, ReferenceHull.shipped(self._potential.identity)


def _valid(rows: Sequence[Mapping[str, Any]]) -> list[Structure | None]:
    return [structure_of(row) if row["structural"] else None for row in rows]


def energy_facts(values: Sequence[float | None]) -> dict[str, Any]:
    """Sum up energies above hull; the metastable are a share of all that were asked for."""
    known = [value for value in values if value is not None]
    return {
        "asked": len(values),
        "n": len(known),
        "median": middle(known),
        "mean": average(known),
        "metastable": share(value is not None and value <= 0.1 for value in values),
    }


def after_the_network(
    base: Weights,
    start: Mapping[str, list[dict[str, Any]]],
    tasks: Sequence[Task],
    plain: DrawingSettings,
    records: Records,
    judge: Energies,
    relaxations: int,
) -> dict[str, Any]:
    """Measure what is done after the network has spoken."""
    found: dict[str, Any] = {}
    for name, change in (
        ("tries 4", {"tries": 4}),
        ("proposals 4", {"proposals": 4}),
        ("proposals 8", {"proposals": 8}),
    ):
        drawing = plain.model_copy(update=change)
        rows = {
            task.name: drawn(task, base.geometry, base.geometry, base.sha256, drawing, records)
            for task in tasks
        }
        found[name] = {task: summary(of_task) for task, of_task in rows.items()}
        found[name]["de-novo"]["above_hull_chgnet_unrelaxed"] = energy_facts(
            judge.above_hull(rows["de-novo"])
        )
        print(f"{name}: measured", flush=True)
    real = tasks[0].real
    found["symmetrisation"] = _symmetrisation(start["held-out"], real, records)
    if relaxations:
        few = start["held-out"][:relaxations]
        raw, relaxed = judge.raw_and_relaxed(few)
        rms = [
            None if energy.structure is None else rms_distance(energy.structure, item.structure)
            for energy, item in zip(relaxed, real, strict=False)
        ]
        found["short relaxation"] = {
            "n": len(few),
            "before": {**matching([row["rms"] for row in few]), "above_hull": energy_facts(
                [energy.above_hull_eV_per_atom for energy in raw])},
            "after": {**matching(rms), "above_hull": energy_facts(
                [energy.above_hull_eV_per_atom for energy in relaxed])},
            "median_steps": middle(e.steps for e in relaxed if e.steps is not None),
            "median_cpu_s": middle(e.cpu_s for e in relaxed if e.cpu_s is not None),
        }  # fmt: skip
    return found


def _symmetrisation(
    rows: Sequence[Mapping[str, Any]], real: Sequence[LabelledStructure], records: Records
) -> dict[str, Any]:
    judged = []
    for row, item in zip(rows, real, strict=True):
        key = record_key("symmetrised", row["structure"], structure_content(item.structure))
        if key not in records:
            crystal = structure_of(row)
            loose = symmetrised(crystal) if row["structural"] else None
            tight = symmetrised(crystal, TIGHT_SYMPREC_A) if row["structural"] else None
            records.put(key, {
                "group": loose.space_group if loose else 1,
                "tight_group": tight.space_group if tight else 1,
                "rms": rms_distance(loose.structure, item.structure) if loose else None,
            })  # fmt: skip
        judged.append(records.get(key) or {})
    return {
        "n": len(judged),
        "symprec_A": SYMPREC_A,
        "more_than_P1_within_0.01_A": share(row["tight_group"] > 1 for row in judged),
        "more_than_P1": share(row["group"] > 1 for row in judged),
        "higher_than_within_0.01_A": share(row["group"] > row["tight_group"] for row in judged),
        "before": matching([row["rms"] for row in rows]),
        "after": matching([row["rms"] for row in judged]),
    }

"""From the ledger's rows to the values of `record`, one function per table."""

from __future__ import annotations

from collections.abc import Mapping

from matterloop.loop.ledger import models
from matterloop.loop.report.record import (
    FigureRecord,
    JobRecord,
    ModelRecord,
    RecipeRecord,
    SampleRecord,
    VerdictRecord,
)


def model_record(row: models.ModelVersion) -> ModelRecord:
    """Read a row of ``model_version``."""
    return ModelRecord(
        row.id, row.kind, row.name, row.version, row.sha256, row.state, row.parent_id, row.metrics
    )


def verdict_record(row: models.VerdictRow) -> VerdictRecord:
    """Read a row of ``verdict``."""
    return VerdictRecord(row.id, row.check_name, row.passed, row.decisive, row.reason)


def figure_record(row: models.MeasurementRow) -> FigureRecord:
    """Read a row of ``measurement``."""
    return FigureRecord(
        row.id,
        row.property,
        row.value,
        row.unit,
        row.uncertainty,
        row.method,
        row.fidelity,
        tuple(map(str, row.flags)),
        row.provenance,
        row.sample_id,
        row.job_id,
    )


def recipe_record(row: models.RecipeRow, cycles: Mapping[str, int]) -> RecipeRecord:
    """Read a row of ``recipe``; `cycles` maps ids to numbers."""
    precursors = row.content.get("precursors", ())
    return RecipeRecord(
        row.id,
        cycles[row.cycle_id],
        row.planner,
        row.method,
        row.temperature_K,
        row.pressure_GPa,
        row.time_h,
        row.atmosphere,
        tuple((str(part["formula"]), float(part["amount_mol"])) for part in precursors),
    )


def job_record(row: models.JobRow, cycles: Mapping[str, int]) -> JobRecord:
    """Read a row of ``job``; `cycles` maps ids to numbers."""
    return JobRecord(
        row.id,
        row.key,
        row.candidate_id,
        cycles[row.cycle_id],
        row.recipe_id,
        row.sample_id,
        row.instrument,
        row.purpose,
        row.state,
        row.failure_kind,
        row.failure_message,
        row.attempts,
        row.seed,
        row.cost,
        row.duration_h,
    )


def sample_record(row: models.SampleRow) -> SampleRecord:
    """Read a row of ``sample``."""
    return SampleRecord(
        row.id,
        row.recipe_id,
        row.success,
        tuple((str(phase["formula"]), float(phase["fraction"])) for phase in row.phases),
        row.yield_fraction,
        row.explanation,
    )

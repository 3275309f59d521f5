"""What the ledger holds for a selector: the pool, and what each arm has learned so far."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Select, select
from sqlalchemy.orm import Session, joinedload

from matterloop.loop.errors import LedgerError
from matterloop.loop.ledger.models import (
    CandidateRow,
    Cycle,
    DecisionRow,
    JobRow,
    MeasurementRow,
    RecipeRow,
    ReviewRow,
    SampleRow,
)
from matterloop.loop.ledger.structures import get_structure
from matterloop.loop.selection import Observation, PoolItem

if TYPE_CHECKING:
    from pymatgen.core import Structure


def pool(session: Session, campaign_id: str, arm: str) -> list[PoolItem]:
    """Return relaxed candidates of all cycles that this arm did not choose and nobody vetoed."""
    chosen = select(DecisionRow.candidate_id).where(
        DecisionRow.campaign_id == campaign_id,
        DecisionRow.arm == arm,
        DecisionRow.rank.is_not(None),
    )
    vetoed = (
        select(DecisionRow.candidate_id)
        .join(ReviewRow)
        .where(DecisionRow.campaign_id == campaign_id, ReviewRow.verdict == "vetoed")
    )
    return _items(
        session,
        campaign_id,
        _relaxed(campaign_id).where(CandidateRow.id.not_in(chosen), CandidateRow.id.not_in(vetoed)),
    )


def observations(session: Session, campaign_id: str, arm: str) -> list[Observation]:
    """Return what the experiments that this arm chose have shown, in the order of candidates.

    A failed synthesis is an observation without values. Jobs that ended for reasons that say
    nothing about the material (instrument fault, aborted, unknown) are none.
    """
    chosen = select(DecisionRow.candidate_id).where(
        DecisionRow.campaign_id == campaign_id,
        DecisionRow.arm == arm,
        DecisionRow.rank.is_not(None),
    )
    samples = {
        sample.candidate_id: sample
        for sample in session.scalars(
            select(SampleRow).where(SampleRow.candidate_id.in_(chosen)).order_by(SampleRow.id)
        )
    }
    infeasible = {
        job.candidate_id: job.recipe_id
        for job in session.scalars(
            select(JobRow)
            .where(
                JobRow.candidate_id.in_(chosen),
                JobRow.purpose == "synthesize",
                JobRow.failure_kind == "infeasible",
            )
            .order_by(JobRow.id)
        )
    }
    done = set(samples) | set(infeasible)
    recipes = {
        row.id: row
        for row in session.scalars(select(RecipeRow).where(RecipeRow.candidate_id.in_(chosen)))
    }
    measured = measured_figures(session, campaign_id)
    found = []
    for item in _items(
        session, campaign_id, _relaxed(campaign_id).where(CandidateRow.id.in_(done))
    ):
        figures = measured.get(item.candidate_id, {})
        sample = samples.get(item.candidate_id)
        recipe = recipes.get(sample.recipe_id if sample else infeasible[item.candidate_id] or "")
        found.append(
            Observation(
                item,
                values={name: row.value for name, row in figures.items()},
                uncertainties={
                    name: row.uncertainty
                    for name, row in figures.items()
                    if row.uncertainty is not None
                },
                feasible=sample is not None and sample.success,
                conditions={} if recipe is None else _conditions(recipe),
            )
        )
    return found


def measured_figures(session: Session, campaign_id: str) -> dict[str, dict[str, MeasurementRow]]:
    """Return candidate to property to the measurement that counts, from experiments only.

    Of several figures of a property the one with the smallest stated uncertainty counts, whichever
    instrument was done first; of equal ones the method that comes first in the alphabet.
    """
    found: dict[str, dict[str, MeasurementRow]] = defaultdict(dict)
    for row in session.scalars(
        select(MeasurementRow)
        .where(MeasurementRow.campaign_id == campaign_id, MeasurementRow.fidelity == "experiment")
        .order_by(
            MeasurementRow.property,
            MeasurementRow.uncertainty.asc().nulls_last(),
            MeasurementRow.method,
            MeasurementRow.id,
        )
    ):
        found[row.candidate_id].setdefault(row.property, row)
    return dict(found)


def relaxed_crystal(candidate: CandidateRow) -> Structure:
    """Return the relaxed crystal of a candidate that was relaxed."""
    if candidate.relaxed is None:
        raise LedgerError(f"The candidate {candidate.id} was not relaxed.")
    return get_structure(candidate.relaxed)


def _conditions(recipe: RecipeRow) -> dict[str, float | str]:
    return {
        "temperature": recipe.temperature_K,
        "pressure": recipe.pressure_GPa,
        "method": recipe.method,
    }


def _relaxed(campaign_id: str) -> Select[CandidateRow]:
    return (
        select(CandidateRow)
        .join(Cycle, CandidateRow.cycle_id == Cycle.id)
        .where(CandidateRow.campaign_id == campaign_id, CandidateRow.state == "relaxed")
        .order_by(Cycle.number, CandidateRow.ordinal)
    )


def _items(session: Session, campaign_id: str, query: Select[CandidateRow]) -> list[PoolItem]:
    rows = session.scalars(query.options(joinedload(CandidateRow.relaxed))).all()
    wanted = {row.id for row in rows}
    screening: dict[str, dict[str, float]] = defaultdict(dict)
    # Not "IN (...)": SQLite takes 32,766 bound parameters at the most.
    for candidate_id, name, value in session.execute(
        select(MeasurementRow.candidate_id, MeasurementRow.property, MeasurementRow.value).where(
            MeasurementRow.campaign_id == campaign_id, MeasurementRow.fidelity == "screening"
        )
    ):
        if candidate_id in wanted:
            screening[candidate_id][name] = value
    return [
        PoolItem(
            candidate_id=row.id,
            structure=relaxed_crystal(row),
            embedding=None if row.embedding is None else np.asarray(row.embedding, dtype=float),
            screening=dict(sorted(screening[row.id].items())),
        )
        for row in rows
    ]

"""What the ledger holds for a selector: the pool, and what each arm has learned so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from matterloop.loop.errors import LedgerError
from matterloop.loop.ledger.models import (
    CandidateRow,
    Cycle,
    DecisionRow,
    JobRow,
    MeasurementRow,
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
    rows = session.scalars(
        _relaxed(campaign_id).where(CandidateRow.id.not_in(chosen), CandidateRow.id.not_in(vetoed))
    ).all()
    return _items(session, rows)


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
    infeasible = set(
        session.scalars(
            select(JobRow.candidate_id).where(
                JobRow.candidate_id.in_(chosen),
                JobRow.purpose == "synthesize",
                JobRow.failure_kind == "infeasible",
            )
        )
    )
    done = set(samples) | infeasible
    rows = session.scalars(_relaxed(campaign_id).where(CandidateRow.id.in_(done))).all()
    values, uncertainties = _measured(session, [row.id for row in rows])
    return [
        Observation(
            item,
            values=values[item.candidate_id],
            uncertainties=uncertainties[item.candidate_id],
            feasible=item.candidate_id in samples and samples[item.candidate_id].success,
        )
        for item in _items(session, rows)
    ]


def relaxed_crystal(candidate: CandidateRow) -> Structure:
    """Return the relaxed crystal of a candidate that was relaxed."""
    if candidate.relaxed is None:
        raise LedgerError(f"The candidate {candidate.id} was not relaxed.")
    return get_structure(candidate.relaxed)


def _relaxed(campaign_id: str) -> Select[CandidateRow]:
    return (
        select(CandidateRow)
        .join(Cycle, CandidateRow.cycle_id == Cycle.id)
        .where(CandidateRow.campaign_id == campaign_id, CandidateRow.state == "relaxed")
        .order_by(Cycle.number, CandidateRow.ordinal)
    )


def _items(session: Session, rows: Iterable[CandidateRow]) -> list[PoolItem]:
    rows = list(rows)
    screening: dict[str, dict[str, float]] = defaultdict(dict)
    for measurement in session.scalars(
        select(MeasurementRow).where(
            MeasurementRow.candidate_id.in_([row.id for row in rows]),
            MeasurementRow.fidelity == "screening",
        )
    ):
        screening[measurement.candidate_id][measurement.property] = measurement.value
    return [
        PoolItem(
            candidate_id=row.id,
            structure=relaxed_crystal(row),
            embedding=None if row.embedding is None else np.asarray(row.embedding, dtype=float),
            screening=dict(sorted(screening[row.id].items())),
        )
        for row in rows
    ]


def _measured(
    session: Session, candidate_ids: list[str]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    values: dict[str, dict[str, float]] = defaultdict(dict)
    uncertainties: dict[str, dict[str, float]] = defaultdict(dict)
    for row in session.scalars(
        select(MeasurementRow)
        .where(
            MeasurementRow.candidate_id.in_(candidate_ids),
            MeasurementRow.fidelity == "experiment",
        )
        .order_by(MeasurementRow.property, MeasurementRow.id)
    ):
        values[row.candidate_id][row.property] = row.value
        if row.uncertainty is not None:
            uncertainties[row.candidate_id][row.property] = row.uncertainty
    return values, uncertainties

"""The best candidates of a campaign: what keeps the constraints, Pareto front first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from matterloop.loop.ledger.models import CandidateRow, Cycle, DecisionRow, MeasurementRow
from matterloop.loop.pareto import best_first, pareto_fronts
from matterloop.loop.spec import CampaignSpec
from matterloop.loop.stages.evidence import measured_figures


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate that was made and measured.

    Attributes
    ----------
    front
        1 for the Pareto front, 2 for the front that remains without it, and so on.
    values
        Property to measured value, in the property's unit.
    notes
        Targets that were reached, and flags of the measurements, e.g. ``thin-hull``.
    """

    candidate_id: str
    formula: str
    cycle: int
    arms: tuple[str, ...]
    front: int
    values: dict[str, float]
    notes: tuple[str, ...]


def best_candidates(
    session: Session, campaign_id: str, spec: CampaignSpec, most: int
) -> list[RankedCandidate]:
    """Return at most `most` candidates with all wanted properties measured and in bounds."""
    measured = measured_figures(session, campaign_id)
    good = {
        candidate: figures
        for candidate, figures in measured.items()
        if all(name in figures for name in spec.wanted_properties)
        and all(limit.holds(figures[limit.property].value) for limit in spec.constraints)
    }
    utilities = {
        candidate: tuple(o.utility(figures[o.property].value) for o in spec.objectives)
        for candidate, figures in good.items()
    }
    fronts = pareto_fronts(utilities)
    ranked = []
    for candidate_id in best_first(utilities)[:most]:
        row_of_candidate = session.get_one(CandidateRow, candidate_id)
        arms = session.scalars(
            select(DecisionRow.arm)
            .where(DecisionRow.candidate_id == candidate_id, DecisionRow.rank.is_not(None))
            .distinct()
            .order_by(DecisionRow.arm)
        ).all()
        ranked.append(
            RankedCandidate(
                candidate_id=candidate_id,
                formula=row_of_candidate.structure.reduced_formula,
                cycle=session.get_one(Cycle, row_of_candidate.cycle_id).number,
                arms=tuple(arms),
                front=fronts[candidate_id],
                values={name: row.value for name, row in good[candidate_id].items()},
                notes=_notes(spec, good[candidate_id]),
            )
        )
    return ranked


def _notes(spec: CampaignSpec, figures: Mapping[str, MeasurementRow]) -> tuple[str, ...]:
    reached = [
        f"{objective.property} on target"
        for objective in spec.objectives
        if objective.reached(figures[objective.property].value)
    ]
    flags = dict.fromkeys(flag for row in figures.values() for flag in row.flags)
    return (*reached, *flags)

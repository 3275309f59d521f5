"""The best candidates of a campaign: what keeps the constraints, Pareto front first."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from matterloop.loop.ledger.models import CandidateRow, Cycle, DecisionRow, MeasurementRow
from matterloop.loop.spec import CampaignSpec


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
        Flags of the measurements, e.g. ``thin-hull``.
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
    values: dict[str, dict[str, float]] = defaultdict(dict)
    notes: dict[str, list[str]] = defaultdict(list)
    for row in session.scalars(
        select(MeasurementRow)
        .where(MeasurementRow.campaign_id == campaign_id, MeasurementRow.fidelity == "experiment")
        .order_by(MeasurementRow.id)
    ):
        values[row.candidate_id][row.property] = row.value
        notes[row.candidate_id] += row.flags
    good = {
        candidate: figures
        for candidate, figures in values.items()
        if all(name in figures for name in spec.wanted_properties)
        and all(constraint.holds(figures[constraint.property]) for constraint in spec.constraints)
    }
    utilities = {
        candidate: tuple(o.utility(figures[o.property]) for o in spec.objectives)
        for candidate, figures in good.items()
    }
    fronts = _fronts(utilities)
    order = sorted(good, key=lambda c: (fronts[c], tuple(-u for u in utilities[c]), c))
    ranked = []
    for candidate_id in order[:most]:
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
                values=good[candidate_id],
                notes=tuple(dict.fromkeys(notes[candidate_id])),
            )
        )
    return ranked


def _fronts(utilities: dict[str, tuple[float, ...]]) -> dict[str, int]:
    """Peel off Pareto fronts, larger being better in every figure."""
    left, fronts, number = dict(utilities), {}, 0
    while left:
        number += 1
        front = [
            name
            for name, mine in left.items()
            if not any(
                other != mine and all(o >= m for o, m in zip(other, mine, strict=True))
                for other in left.values()
            )
        ]
        for name in front:
            fronts[name] = number
            del left[name]
    return fronts

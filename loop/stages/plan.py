"""Stage plan: a recipe for every approved candidate."""

from __future__ import annotations

from sqlalchemy import case, select
from sqlalchemy.orm import Session, joinedload

from matterloop.loop.crew import MAIN_ARM
from matterloop.loop.errors import MatterloopError, PluginFailedError
from matterloop.loop.ledger.models import CandidateRow, DecisionRow, JobRow, RecipeRow, ReviewRow
from matterloop.loop.open_campaign import OpenCampaign, StageReport
from matterloop.loop.plugins import calling
from matterloop.loop.stages.evidence import relaxed_crystal


def plan(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Write the missing recipes; a candidate that cannot be planned gets an event that says why."""
    campaign.once(lambda session: _write(campaign, session, cycle))
    with campaign.transaction() as session:
        cycle_id = campaign.cycle(session, cycle).id
        count = len(
            session.scalars(select(RecipeRow.id).where(RecipeRow.cycle_id == cycle_id)).all()
        )
        campaign.stage_done(session, cycle, "plan")
    return StageReport("plan", f"{count} recipes", {"recipes": count})


def approved(session: Session, cycle_id: str) -> list[CandidateRow]:
    """Return a cycle's approved candidates, each once: the main arm's first, then by rank."""
    rows = session.scalars(
        select(CandidateRow)
        .join(DecisionRow, DecisionRow.candidate_id == CandidateRow.id)
        .join(ReviewRow, ReviewRow.decision_id == DecisionRow.id)
        .where(
            DecisionRow.cycle_id == cycle_id,
            DecisionRow.rank.is_not(None),
            ReviewRow.verdict == "approved",
        )
        .order_by(
            case((DecisionRow.arm == MAIN_ARM, 0), else_=1), DecisionRow.rank, DecisionRow.arm
        )
        .options(joinedload(CandidateRow.relaxed))
    ).all()
    return list({row.id: row for row in rows}.values())


def _write(campaign: OpenCampaign, session: Session, cycle: int) -> None:
    cycle_id = campaign.cycle(session, cycle).id
    planned = set(
        session.scalars(select(RecipeRow.candidate_id).where(RecipeRow.cycle_id == cycle_id))
    )
    # A candidate that another arm had made in an earlier cycle is not made again; one that the
    # budget left out then is.
    made = set(
        session.scalars(
            select(JobRow.candidate_id).where(
                JobRow.campaign_id == campaign.id, JobRow.purpose == "synthesize"
            )
        )
    )
    for row in approved(session, cycle_id):
        if row.id in planned | made:
            continue
        try:
            with calling("planners", campaign.spec.planner.name):
                recipe = campaign.crew.planner.plan(relaxed_crystal(row), campaign.spec)
                content = recipe.model_dump(mode="json")
        except PluginFailedError:
            raise
        except MatterloopError as error:
            campaign.event(session, "plan.failed", row.id, detail={"reason": str(error)})
            continue
        session.add(
            RecipeRow(
                candidate_id=row.id,
                cycle_id=cycle_id,
                planner=campaign.spec.planner.name,
                method=recipe.method,
                temperature_K=recipe.temperature_K,
                pressure_GPa=recipe.pressure_GPa,
                time_h=recipe.time_h,
                atmosphere=recipe.atmosphere,
                content=content,
            )
        )

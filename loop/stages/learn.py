"""Stage learn: the trainer decides whether the generator learns from what was measured."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from matterloop.loop.candidate import ModelRef
from matterloop.loop.crew import MAIN_ARM
from matterloop.loop.ledger.models import MeasurementRow, ModelVersion
from matterloop.loop.open_campaign import OpenCampaign, StageReport, enter_model
from matterloop.loop.plugins import calling
from matterloop.loop.selection import Observation
from matterloop.loop.stages.evidence import observations


def learn(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Train a challenger where the trainer finds it due, and close the cycle."""
    with campaign.view() as session:
        row = campaign.cycle(session, cycle)
        closed = row.finished_at is not None
        dataset = [] if closed else _evidence_of_all_arms(campaign, session)
        new = _measurements_since_training(campaign, session)
    summary = "the cycle was closed before" if closed else "no fine-tuning due"
    challenger: ModelRef | None = None
    trainer = campaign.crew.trainer
    with calling("trainers", campaign.spec.trainer.name):
        due = not closed and trainer.due(campaign.spec, cycle, new)
        if due:
            challenger = trainer.train(
                campaign.crew.generator,
                dataset,
                seed=campaign.seed("learn", cycle),
                folder=campaign.folder / "models" / f"cycle-{cycle}",
            )
    if due:
        summary = (
            f"challenger {challenger.version} trained on {len(dataset)} experiments"
            if challenger
            else f"the generator {campaign.spec.generator.name!r} has nothing to train"
        )

    def close(session: Session) -> None:
        if challenger is not None:
            parent = session.scalars(
                select(ModelVersion.id)
                .where(
                    ModelVersion.campaign_id == campaign.id,
                    ModelVersion.kind == "generator",
                    ModelVersion.state == "champion",
                )
                .order_by(ModelVersion.created_at.desc())
            ).first()
            model = session.get_one(
                ModelVersion, enter_model(campaign, session, challenger, state="challenger")
            )
            model.parent_id = parent
            model.data_snapshot = {
                "cycle": cycle,
                "candidates": [observation.item.candidate_id for observation in dataset],
            }
        if not closed:
            campaign.event(session, "learn", campaign.id, detail={"summary": summary})
        campaign.stage_done(session, cycle, "learn")

    campaign.once(close)
    return StageReport("learn", summary, {"experiments": len(dataset), "new_measurements": new})


def _evidence_of_all_arms(campaign: OpenCampaign, session: Session) -> list[Observation]:
    """Return everything measured: the generator may learn from all, only selection must not."""
    seen: dict[str, Observation] = {}
    for arm in (MAIN_ARM, *(control.name for control in campaign.spec.control_arms)):
        for observation in observations(session, campaign.id, arm):
            seen.setdefault(observation.item.candidate_id, observation)
    return list(seen.values())


def _measurements_since_training(campaign: OpenCampaign, session: Session) -> int:
    trained_at = session.scalar(
        select(func.max(ModelVersion.created_at)).where(
            ModelVersion.campaign_id == campaign.id, ModelVersion.parent_id.is_not(None)
        )
    )
    query = select(func.count()).where(
        MeasurementRow.campaign_id == campaign.id, MeasurementRow.fidelity == "experiment"
    )
    if trained_at is not None:
        query = query.where(MeasurementRow.created_at > trained_at)
    return int(session.scalar(query) or 0)

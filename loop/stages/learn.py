"""Stage learn: the trainer decides whether the generator learns from what was measured."""

from __future__ import annotations

from sqlalchemy.orm import Session

from matterloop.loop.open_campaign import OpenCampaign, StageReport
from matterloop.loop.plugins import calling
from matterloop.loop.stages.challenger import Learned, learn_from, new_measurements


def learn(campaign: OpenCampaign, cycle: int) -> StageReport:
    """Train a challenger where the trainer finds it due, and close the cycle.

    What the generator refuses to learn from is recorded as an event; the campaign goes on.
    """
    with campaign.view() as session:
        closed = campaign.cycle(session, cycle).finished_at is not None
        new = new_measurements(session, campaign.id)
    summary = "the cycle was closed before" if closed else "no fine-tuning due"
    learned: Learned | None = None
    with calling("trainers", campaign.spec.trainer.name):
        due = not closed and campaign.crew.trainer.due(campaign.spec, cycle, new)
    if due:
        seed = campaign.seed("learn", cycle)
        learned = learn_from(campaign, f"cycle-{cycle}", seed, cycle)
        summary = learned.summary

    def close(session: Session) -> None:
        # Another runner may have closed the cycle while this one was training.
        if campaign.cycle(session, cycle).finished_at is None:
            if learned is not None:
                learned.enter(session)
            campaign.event(session, "learn", campaign.id, detail={"summary": summary})
        campaign.stage_done(session, cycle, "learn")

    campaign.once(close)
    crystals = learned.crystals if learned else 0
    return StageReport("learn", summary, {"experiments": crystals, "new_measurements": new})

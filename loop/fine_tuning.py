"""Fine-tuning generators on a schedule of its own, outside of the cycles of their campaigns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from matterloop.loop.campaign_lock import alone_in
from matterloop.loop.errors import MatterloopError
from matterloop.loop.ledger.engine import reading
from matterloop.loop.ledger.models import Campaign, EventRow
from matterloop.loop.open_campaign import OpenCampaign, find
from matterloop.loop.spec import CampaignSpec
from matterloop.loop.stages.challenger import (
    REFUSED,
    Learned,
    count_measurements,
    learn_from,
    new_measurements,
)
from matterloop.loop.workplace import campaign_folder


@dataclass(frozen=True)
class Outcome:
    """What a scheduled fine-tuning did for one campaign.

    Attributes
    ----------
    done
        Whether a challenger was trained.
    failed
        Whether something went wrong.
    """

    campaign: str
    summary: str
    done: bool = False
    failed: bool = False


def fine_tune_campaigns(
    engine: Engine, folder: Path, *, name: str | None = None, force: bool = False, workers: int = 1
) -> list[Outcome]:
    """Fine-tune the generators of all campaigns that measured something since the last time.

    A campaign that is being run is left alone: it learns in its own cycles.

    Parameters
    ----------
    folder
        Of all campaigns.
    name
        Of one campaign; None for all in the ledger.
    force
        Also without new measurements, and where the campaign does not want it.

    Raises
    ------
    CampaignNotFoundError
        If the ledger does not know `name`. What goes wrong with one campaign stands in its outcome.
    """
    with reading(engine) as session:
        known = [
            (row.id, row.name) for row in session.scalars(select(Campaign).order_by(Campaign.id))
        ]
    if name is not None:
        wanted = find(engine, name)
        known = [(identifier, title) for identifier, title in known if identifier == wanted]
    return [
        _fine_tune(engine, identifier, title, campaign_folder(folder, title), force, workers)
        for identifier, title in known
    ]


def _fine_tune(
    engine: Engine, campaign_id: str, name: str, folder: Path, force: bool, workers: int
) -> Outcome:
    with reading(engine) as session:
        why_not = None if force else _why_not(session, campaign_id)
    if why_not:
        return Outcome(name, why_not)
    try:
        with alone_in(folder) as alone:
            if not alone:
                return Outcome(name, "is being run, and learns in its own cycles")
            with OpenCampaign(engine, campaign_id, folder, workers=workers) as campaign:
                learned = _learn_now(campaign)
    except MatterloopError as error:
        return Outcome(name, str(error), failed=True)
    return Outcome(name, learned.summary, done=learned.challenger is not None)


def _learn_now(campaign: OpenCampaign) -> Learned:
    """Train outside of the cycle; the same measurements give the same challenger."""
    with campaign.view() as session:
        count = count_measurements(session, campaign.id)
    seed = campaign.seed("learn", "measurements", count)
    learned = learn_from(campaign, f"measurements-{count}", seed, None)

    def enter(session: Session) -> None:
        learned.enter(session)
        campaign.event(session, "learn", campaign.id, detail={"summary": learned.summary})

    campaign.once(enter)
    return learned


def _why_not(session: Session, campaign_id: str) -> str | None:
    """Say why a campaign's generator is not to be fine-tuned now."""
    spec = CampaignSpec.model_validate(session.get_one(Campaign, campaign_id).spec)
    if not spec.fine_tuning.enabled:
        return "wants no fine-tuning"
    new, wanted = new_measurements(session, campaign_id), spec.fine_tuning.after_measurements or 1
    if new < wanted:
        return f"has {new} new measurements, and wants {wanted}"
    count = count_measurements(session, campaign_id)
    refusals = session.scalars(
        select(EventRow.detail).where(EventRow.campaign_id == campaign_id, EventRow.kind == REFUSED)
    )
    if any(detail.get("measurements") == count for detail in refusals):
        return "was refused with the same measurements before"
    return None

"""Which instruments are set aside: recorded in the event table, so that it outlives a restart."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from matterloop.loop.ledger.models import EventRow

FAULT, REPAIRED = "instrument.fault", "instrument.repaired"


def set_aside(
    session: Session, campaign_id: str, instrument: str, reason: str, actor: str, now: datetime
) -> None:
    """Enter that nothing more is to be sent to `instrument` in this campaign."""
    _enter(session, campaign_id, FAULT, instrument, reason, actor, now)


def repaired(
    session: Session, campaign_id: str, instrument: str, reason: str, actor: str, now: datetime
) -> None:
    """Enter that a person has put `instrument` back into service."""
    _enter(session, campaign_id, REPAIRED, instrument, reason, actor, now)


def out_of_service(session: Session, campaign_id: str) -> dict[str, str]:
    """Return the instruments that are set aside in a campaign, each with the reason."""
    events = session.scalars(
        select(EventRow)
        .where(EventRow.campaign_id == campaign_id, EventRow.kind.in_([FAULT, REPAIRED]))
        .order_by(EventRow.at, EventRow.id)
    )
    reasons: dict[str, str] = {}
    for event in events:
        if event.kind == FAULT:
            reasons[event.subject_id] = str(event.detail["reason"])
        else:
            reasons.pop(event.subject_id, None)
    return reasons


def _enter(
    session: Session,
    campaign_id: str,
    kind: str,
    instrument: str,
    reason: str,
    actor: str,
    now: datetime,
) -> None:
    session.add(
        EventRow(
            campaign_id=campaign_id,
            at=now,
            kind=kind,
            subject_id=instrument,
            actor=actor,
            detail={"reason": reason},
        )
    )
    session.flush()
